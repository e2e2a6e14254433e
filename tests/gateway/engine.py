# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A stand-in for an engine behind the gateway: writes down every request that reaches it, and streams where it is asked to.

    python3 engine.py PORT LOGFILE

It reads HTTP/1.1 as strictly as possible, so that whatever does not look like one request of the gateway is written down as "strange".
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

EVENTS, PAUSE, LOOK = 40, 0.05, 0.2


def parse(head):
    """(request line, {header: value}) of the head of a request; raises ValueError."""
    line, *fields = head.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    if len(line.split(" ")) != 3:
        raise ValueError(line)
    headers = {}
    for field in fields:
        name, separator, value = field.partition(":")
        if not separator or name != name.strip() or name.lower() in headers:
            raise ValueError(field)
        headers[name.lower()] = value.strip()
    return line, headers


async def stream(writer, body):
    """An answer of server-sent events, as many and as far apart as the request says, or until there is the file that it names."""
    events, pause, end = EVENTS, PAUSE, None
    try:
        asked = json.loads(body)
        events, pause, end = int(asked.get("events", EVENTS)), float(asked.get("pause", PAUSE)), asked.get("until")
    except ValueError:
        pass
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    number = 0
    while not os.path.exists(end) if end else number < events:
        data = b"data: %d\n\n" % number
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await writer.drain()
        number += 1
        over = time.monotonic() + pause
        while (left := over - time.monotonic()) > 0 and not (end and os.path.exists(end)):
            await asyncio.sleep(min(left, LOOK) if end else left)
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def main(port, path):
    """Serve until killed."""
    log = open(path, "a", buffering=1, encoding="utf-8")

    async def serve(reader, writer):
        try:
            while True:
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError as rest:
                    if rest.partial:
                        log.write(json.dumps({"strange": rest.partial.decode("latin-1")}) + "\n")
                    return
                line, headers = parse(head)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if line != "GET /health HTTP/1.1":
                    log.write(json.dumps({"line": line, "headers": headers, "body": body.decode("latin-1")[:200]}) + "\n")
                if b'"unauthorized"' in body:
                    writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}")
                    await writer.drain()
                elif b'"stream"' in body:
                    await stream(writer, body)
                else:
                    answer = b'{"object":"list"}'
                    extra = b"Server: engine\r\nAccess-Control-Allow-Origin: *\r\n"
                    writer.write(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (extra, len(answer), answer))
                    await writer.drain()
        except ValueError as error:
            log.write(json.dumps({"strange": str(error)}) + "\n")
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=1024, limit=1 << 20)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))

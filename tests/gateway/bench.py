# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the gateway costs: throughput and time to the first byte of a stream, through it and past it, in turns in the same run.

    python3 bench.py        BENCH_RUNS=N rounds (default 3), BENCH_SECONDS=S of load each (default 5)

The engine is uvicorn. Past the gateway means plain HTTP to the engine; through it TLS 1.3, a key, limits and a log line a request.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from site_gateway import NAME, SECRETS, Site

CONNECTIONS, STREAMS = 32, 30
BAR_THROUGHPUT, BAR_FIRST_BYTE_MS = 0.8, 1.0


async def app(scope, receive, send):
    """An ASGI engine: a list, or a stream of ten events 20 ms apart."""
    if scope["type"] != "http":
        return
    if scope["method"] == "POST":
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for number in range(10):
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
            await asyncio.sleep(0.02)
        await send({"type": "http.response.body", "body": b""})
        return
    body = b'{"object":"list"}'
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def load(url, seconds):
    """Requests a second that wrk counts."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-H", f"Host: {NAME}", "-H", f"Authorization: Bearer {SECRETS['team-a']}", url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said:
        raise SystemExit(f"{url} refused requests, nothing was measured:\n{said}")
    return float(re.search(r"Requests/sec:\s+([0-9.]+)", said).group(1))


def first_bytes(connect):
    """(milliseconds to the first event, largest number of events that came at once) of streams, one after the other on open connections."""
    times, together = [], 0
    body = json.dumps({"stream": True})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: Bearer {SECRETS['team-a']}\r\nContent-Length: {len(body)}\r\n\r\n"
    with connect() as connection:
        for _stream in range(STREAMS):
            connection.sendall((head + body).encode())
            began, received = time.perf_counter(), b""
            while b"data: 0" not in received:
                received += connection.recv(65536)
            times.append((time.perf_counter() - began) * 1000)
            together = max(together, received.count(b"data: "))
            while not received.endswith(b"0\r\n\r\n"):
                received += connection.recv(65536)
    return times, together


def main():
    """Measure in turns, print the ratios, and return the exit status."""
    rounds, seconds = int(os.environ.get("BENCH_RUNS", "3")), int(os.environ.get("BENCH_SECONDS", "5"))
    with tempfile.TemporaryDirectory() as folder:
        site = Site(folder)
        here = os.path.dirname(os.path.abspath(__file__))
        # uvicorn imports this file for `app`.
        words = ["-m", "uvicorn", "--app-dir", here, "bench:app", "--host", "127.0.0.1", "--port", str(site.backend_port), "--log-level", "warning"]
        site.command = [sys.executable, *words]
        with site:
            direct, through, direct_first, through_first, together = [], [], [], [], 0
            engine, workers = site.processes[0].pid, site.master.processes()[2]
            spent = {"engine": 0.0, "gateway": 0.0}
            for _round in range(rounds):
                direct.append(load(f"http://127.0.0.1:{site.backend_port}/v1/models", seconds))
                before = processor(engine), sum(map(processor, workers))
                through.append(load(f"https://127.0.0.1:{site.port}/v1/models", seconds))
                spent["engine"] += processor(engine) - before[0]
                spent["gateway"] += sum(map(processor, workers)) - before[1]
                direct_first += first_bytes(lambda: socket.create_connection(("127.0.0.1", site.backend_port)))[0]
                times, most = first_bytes(site.connect)
                through_first += times
                together = max(together, most)
            memory = sum(resident(pid) for pid in [site.haproxy.pid, *workers])
    ratio = statistics.median(through) / statistics.median(direct)
    added = statistics.median(through_first) - statistics.median(direct_first)
    middle = statistics.median
    print(f"throughput: {middle(direct):.0f}/s direct, {middle(through):.0f}/s through the gateway, ratio {ratio:.2f} (bar {BAR_THROUGHPUT})")
    firsts = f"{middle(direct_first):.2f} ms direct, {middle(through_first):.2f} ms through"
    print(f"first byte: {firsts}, added {added:.2f} ms (bar {BAR_FIRST_BYTE_MS})")
    requests = sum(through) * seconds
    shown = ", ".join(f"{name} {1e6 * used / requests:.0f} us" for name, used in spent.items())
    print(f"processor time of a request: {shown}; this holds on a busy machine too")
    print(f"stream: at most {together} event(s) at once; memory of the gateway: {memory / 1e6:.0f} MB; load of the machine: {os.getloadavg()[0]:.1f}")
    return 0 if ratio >= BAR_THROUGHPUT and added <= BAR_FIRST_BYTE_MS and together == 1 else 1


def processor(pid):
    """Seconds of processor time that a process has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as handle:
        fields = handle.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid):
    """Resident bytes of a process."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as handle:
        return int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Takes the place of `vllm` where the audit, not the engine, is tested: listens as the planned command line says."""

from __future__ import annotations

import http.server
import os
import socket
import sys
import threading


class Health(http.server.BaseHTTPRequestHandler):
    """Answers every request, so that the unit is found ready."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments):
        return


def value(flag):
    """The value of a flag on the command line, None without it."""
    return sys.argv[sys.argv.index(flag) + 1] if flag in sys.argv else None


def listener(address, port):
    """A listening socket; port 0 lets the kernel choose, as the engines do for their internal ones."""
    engine = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    engine.bind((address, port))
    engine.listen()
    return engine


def main():
    """Listen until told to stop."""
    engines = [listener(os.environ["VLLM_HOST_IP"], 0) for _number in range(3)]
    extra = os.environ.get("STANDIN_LISTEN")
    if extra:
        address, _separator, port = extra.rpartition(":")
        engines.append(listener(address.strip("[]"), int(port)))
    if value("--host"):
        http.server.ThreadingHTTPServer.address_family = socket.AF_INET6 if ":" in value("--host") else socket.AF_INET
        server = http.server.ThreadingHTTPServer((value("--host"), int(value("--port"))), Health)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Event().wait()
    del engines


if __name__ == "__main__":
    main()

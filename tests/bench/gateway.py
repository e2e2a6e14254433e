# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the gateway costs: throughput and time to the first token through it and past it, in turns in the same run, on an engine of uvicorn.

    python3 gateway.py        BENCH_RUNS=N rounds (default 3), BENCH_SECONDS=S of load each (default 5)

Past the gateway means plain HTTP to the engine; through it TLS 1.3, a key, limits and a log line a request. Connections are kept alive on both
sides. A ratio is the median of the rounds, each of which measures both ways one right after the other. Exit status 1 where a bar is missed, so
that a machine with other work on it says so.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests" / "gateway"
CONNECTIONS, STREAMS, TOKENS = 32, 30, 64
BAR_THROUGHPUT, BAR_FIRST_MS, BAR_REVOKED_MS = 0.8, 1.0, 1000
COMPLETION = {"model": "chat", "prompt": "the quick brown fox jumps over the lazy dog. " * 20, "stream": True, "max_tokens": TOKENS}
LOADS = {"streamed completions": ("/v1/completions", json.dumps(COMPLETION)), "short requests": ("/v1/models", None)}


class Way:
    """To the engine, past the gateway or through it."""

    def __init__(self, address, connect, name, secret):
        self.address, self.connect = address, connect
        self.headers = {"Host": name, "Authorization": f"Bearer {secret}"}

    def load(self, path, body, seconds, folder):
        """Requests a second that wrk gets answered."""
        script = folder / "load.lua"
        script.write_text("" if body is None else f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = {json.dumps(body)}\n')
        headers = [word for name, value in self.headers.items() for word in ("-H", f"{name}: {value}")]
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), *headers, self.address + path]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if "Non-2xx" in said or "Socket errors" in said:
            raise SystemExit(f"{self.address} refused requests, nothing was measured:\n{said}")
        return float(re.search(r"Requests/sec:\s+([0-9.]+)", said).group(1))

    def first_tokens(self):
        """(milliseconds to the first token, largest number of tokens that came at once) of streams, one after the other on a connection."""
        times, together = [], 0
        body = json.dumps({**COMPLETION, "max_tokens": 10, "pause": 0.02})
        lines = [f"{name}: {value}" for name, value in {**self.headers, "Content-Length": len(body)}.items()]
        request = "\r\n".join(["POST /v1/completions HTTP/1.1", *lines, "", body]).encode()
        with self.connect() as connection:
            for _stream in range(STREAMS):
                connection.sendall(request)
                began, received = time.perf_counter(), b""
                while b"data: {" not in received:
                    received += connection.recv(65536)
                times.append((time.perf_counter() - began) * 1000 - 20)
                together = max(together, received.count(b"data: {"))
                while not received.endswith(b"0\r\n\r\n"):
                    received += connection.recv(65536)
        return times, together


def revoked(site):
    """Milliseconds from taking a key away to its first refusal, with the module's own means."""
    site.set_keys(**{"team-a": ["team-a", "next-a"]})
    while site.ask("GET /v1/models", key="next-a")[0] != 200:
        pass
    began = time.perf_counter()
    site.set_keys(**{"team-a": ["team-a"]})
    while site.ask("GET /v1/models", key="next-a")[0] != 401:
        pass
    return (time.perf_counter() - began) * 1000


def processor(pid):
    """Seconds of processor time that a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid):
    """Resident bytes of a process."""
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(site, folder, rounds, seconds):
    """Everything, as lines to print and whether each bar is met."""
    from site_gateway import NAME, SECRETS

    past = Way(f"http://127.0.0.1:{site.backend_port}", lambda: socket.create_connection(("127.0.0.1", site.backend_port)), NAME, SECRETS["team-a"])
    through = Way(f"https://127.0.0.1:{site.port}", site.connect, NAME, SECRETS["team-a"])
    engine, workers = site.processes[0].pid, site.master.processes()[2]
    lines, met = [], []
    for what, (path, body) in LOADS.items():
        rates, spent, answered = {past: [], through: []}, {"engine": 0.0, "gateway": 0.0}, 0
        for turn in range(rounds):
            for way in (past, through) if turn % 2 else (through, past):
                before = processor(engine), sum(map(processor, workers))
                rates[way].append(way.load(path, body, seconds, folder))
                if way is through:
                    spent["engine"] += processor(engine) - before[0]
                    spent["gateway"] += sum(map(processor, workers)) - before[1]
                    answered += rates[way][-1] * seconds
        ratios = [one / other for one, other in zip(rates[through], rates[past])]
        middle = statistics.median
        shown = ", ".join(f"{name} {1e6 * used / answered:.0f} us" for name, used in spent.items())
        lines.append(f"{what}: {middle(rates[past]):.0f}/s past the gateway, {middle(rates[through]):.0f}/s through it, ratio {middle(ratios):.2f} "
                     f"({min(ratios):.2f} to {max(ratios):.2f}, bar {BAR_THROUGHPUT}); processor time of a request: {shown}")
        met.append(middle(ratios) >= BAR_THROUGHPUT)
    firsts, together = {past: [], through: []}, 0
    for _turn in range(rounds):
        firsts[past] += past.first_tokens()[0]
        times, most = through.first_tokens()
        firsts[through] += times
        together = max(together, most)
    added = statistics.median(firsts[through]) - statistics.median(firsts[past])
    lines.append(f"first token: {added:.2f} ms later through the gateway (bar {BAR_FIRST_MS}), at most {together} token(s) at once (bar 1)")
    ended = revoked(site)
    memory = sum(resident(pid) for pid in [site.haproxy.pid, *workers])
    lines.append(f"a revoked key: refused after {ended:.0f} ms (bar {BAR_REVOKED_MS})")
    lines.append(f"memory of the gateway: {memory / 1e6:.0f} MB; load of the machine: {os.getloadavg()[0]:.1f}")
    return lines, [*met, added <= BAR_FIRST_MS, together == 1, ended <= BAR_REVOKED_MS]


def main():
    """Measure, print, and return the exit status."""
    rounds, seconds = int(os.environ.get("BENCH_RUNS", "3")), int(os.environ.get("BENCH_SECONDS", "5"))
    subprocess.run([str(ROOT / "tests/tools/packages.sh"), "The benchmark of the gateway", "haproxy=haproxy", "wrk=wrk"], check=True)
    sys.path[:0] = [str(TESTS), str(ROOT / ".build" / "collections")]
    from site_gateway import Site

    with tempfile.TemporaryDirectory() as folder:
        site = Site(folder)
        words = ["-m", "uvicorn", "--app-dir", str(TESTS), "completions:app", "--host", "127.0.0.1", "--port", str(site.backend_port)]
        site.command = [sys.executable, *words, "--log-level", "warning"]
        with site:
            lines, met = measure(site, pathlib.Path(folder), rounds, seconds)
    print("\n".join(lines))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())

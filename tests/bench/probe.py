# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the probes cost: 20 hosts times 1,000 ports, of which 880 are dropped, as a ratio to nmap tuned for speed in the same run.

probe.py [ROUNDS]

In two network namespaces of its own. Of each host 50 ports are open, 25 reset, 45 refused by an ICMP message and 880 dropped. Both send every
unanswered probe a second time (`nmap --max-retries 1`) and wait as long for the last answer. Printed besides: nmap without any retransmission,
which loses what the network loses, and what each of them found. Exit status 1 where a port is told wrong; the ratio's bar is 1.5.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

HOSTS, FIRST = [f"10.200.0.{number}" for number in range(101, 121)], 20000
OPEN, RESET, REFUSED, LAST = (FIRST, FIRST + 49), (FIRST + 50, FIRST + 74), (FIRST + 75, FIRST + 119), FIRST + 999
NEAR, FAR = f"vllm-bench-{os.getpid()}-a", f"vllm-bench-{os.getpid()}-b"
WAIT, BAR = 0.25, 1.5
FILTER = f"""table inet bench {{
 chain input {{
  type filter hook input priority 0; policy drop;
  meta l4proto icmp accept
  tcp dport {REFUSED[0]}-{REFUSED[1]} reject
  tcp dport {OPEN[0]}-{RESET[1]} accept
 }}
}}
"""
LISTEN = f"""
import socket, time
kept = []
for port in range({OPEN[0]}, {OPEN[1] + 1}):
    kept.append(socket.create_server(("0.0.0.0", port)))
print("ready", flush=True)
time.sleep(3600)
"""
PROBE = """
import json, sys
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.probing import plan_paths, probe
hosts, ports, wait = json.loads(sys.argv[1])
paths = plan_paths([{"segment": "s", "address": "10.200.0.1"}],
                   [{"host": host, "addresses": {"s": [host]}, "tcp": [ports]} for host in hosts])
print(json.dumps(probe(paths, "raw", 1000000, 1, wait)))
"""


def run(*command, **more):
    """A command that has to succeed; its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} left with {done.returncode}: {done.stderr}")
    return done.stdout


@contextlib.contextmanager
def network():
    """Two namespaces and a link between them; the far one has all hosts."""
    try:
        for name in (NEAR, FAR):
            run("ip", "netns", "add", name)
        run("ip", "-n", NEAR, "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", FAR)
        for name, link, addresses in ((NEAR, "near", ["10.200.0.1"]), (FAR, "far", HOSTS)):
            for address in addresses:
                run("ip", "-n", name, "address", "add", f"{address}/24", "dev", link)
            run("ip", "-n", name, "link", "set", link, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        # The kernel answers one peer with one ICMP message a second otherwise, and that would be all that is measured.
        run("ip", "netns", "exec", FAR, "sysctl", "-qw", "net.ipv4.icmp_ratelimit=0")
        run("ip", "netns", "exec", FAR, "nft", "-f", "-", input=FILTER)
        listener = subprocess.Popen(["ip", "netns", "exec", FAR, sys.executable, "-c", LISTEN], stdout=subprocess.PIPE, text=True)
        try:
            assert listener.stdout.readline().strip() == "ready"
            yield
        finally:
            listener.kill()
            listener.wait()
    finally:
        for name in (NEAR, FAR):
            subprocess.run(["ip", "netns", "delete", name], check=False)


def ours():
    """(seconds, {host: open ports}, number of ports told as dropped)."""
    arguments = json.dumps([HOSTS, f"{FIRST}-{LAST}", WAIT])
    began = time.perf_counter()
    result = json.loads(run("ip", "netns", "exec", NEAR, sys.executable, "-c", PROBE, arguments))
    spent = time.perf_counter() - began
    return spent, {path["host"]: path["open"] for path in result["paths"]}, result["sent"]


def nmap(retries, folder):
    """The same of nmap."""
    file = Path(folder) / "nmap.xml"
    began = time.perf_counter()
    run("ip", "netns", "exec", NEAR, "nmap", "-n", "-Pn", "-sS", "-T5", "--min-rate", "50000", "--max-retries", str(retries), "--min-hostgroup", "64",
        "--initial-rtt-timeout", f"{WAIT * 1000:.0f}ms", "--max-rtt-timeout", f"{WAIT * 1000:.0f}ms", "-p", f"{FIRST}-{LAST}", "-oX", str(file), *HOSTS)
    spent = time.perf_counter() - began
    root = ElementTree.parse(file).getroot()
    found = {host.find("address").get("addr"): sum(port.find("state").get("state") == "open" for port in host.iter("port")) for host in root.iter("host")}
    return spent, found, None


def main() -> int:
    """Take turns, so that a change of load meets all alike."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    run(str(Path(__file__).parents[1] / "tools" / "packages.sh"), "The benchmark of the probes", "nmap=nmap")
    times: dict[str, list[float]] = {}
    wrong = []
    with network(), tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for name, measure in (("probe, 1 retransmission", ours), ("nmap, 1 retransmission", lambda: nmap(1, folder)),
                                  ("nmap, none", lambda: nmap(0, folder))):
                spent, found, _sent = measure()
                if number:
                    times.setdefault(name, []).append(spent)
                if measure is ours and (set(found) != set(HOSTS) or any(ports != [f"{OPEN[0]}-{OPEN[1]}"] for ports in found.values())):
                    wrong.append(f"{name}: round {number}: told {found}")
    version = re.search(r"version (\S+)", run("nmap", "--version")).group(1)
    print(f"\n20,000 probes, 17,600 of them dropped; nmap {version}; median of {rounds}")
    base = statistics.median(times["nmap, 1 retransmission"])
    for name, spent in times.items():
        print(f"{name:26}{statistics.median(spent):7.2f} s   {statistics.median(spent) / base:5.2f} times")
    ratio = statistics.median(times["probe, 1 retransmission"]) / base
    print(f"ratio to nmap: {ratio:.2f} (bar: {BAR})")
    print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

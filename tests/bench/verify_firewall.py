# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a proof costs: reading and proving rulesets, as a ratio to `nft -j list ruleset` of the same ruleset in the same run.

Runs itself once for each ruleset in a network namespace of its own; needs root. All figures are processor time (user and system),
the best of several rounds: elapsed time on a busy machine measures its neighbours. Against the whole `nft` process stand

* reading and proving: firewall_witness.prove() with everything it does, inside a process that runs already, as the audit calls it;
* the whole process: interpreter start, imports (from cached bytecode), reading and proving;
* a bare interpreter that does nothing at all, the floor of the former.
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve()
COLLECTIONS = HERE.parents[2] / ".build" / "collections"
sys.path.insert(0, str(COLLECTIONS))

BARS = {"50 rules": 1.5, "5000 rules": 3.0}
ROUNDS = {"50 rules": 40, "500 rules": 7}
MEMORY_BAR = 200
POLICY = {
    "allow": [{"name": "one", "sources": ["10.0.0.0/24"], "protocol": "tcp", "ports": ["1"]}], "permit": ["established", {"name": "all"}],
    "forward": None,
}


def flat(count):
    """Rules as an operator writes them: a source network and a port each."""
    lines = ["table inet bench {", "chain input { type filter hook input priority 0; policy drop;", "ct state established,related accept"]
    lines += [f'ip saddr 10.{i % 256}.{i // 256 % 256}.0/24 tcp dport {i % 60000 + 1} counter accept comment "rule {i}"' for i in range(count)]
    return "\n".join([*lines, "}", "}"]) + "\n"


def sets(count):
    """Four kinds of sets with as many elements each: addresses, intervals, a concatenation, a verdict map."""
    addresses = ", ".join(f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}" for i in range(0, 2 * count, 2))
    intervals = ", ".join(f"11.{i >> 8 & 255}.{i & 255}.0-11.{i >> 8 & 255}.{i & 255}.99" for i in range(count))
    pairs = ", ".join(f"12.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255} . {i % 60000 + 1}" for i in range(count))
    verdicts = ", ".join(f"13.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255} : accept" for i in range(0, 2 * count, 2))
    return (
        "table inet bench {\n"
        f"set a {{ type ipv4_addr; elements = {{ {addresses} }} ; }}\n"
        f"set b {{ type ipv4_addr; flags interval; elements = {{ {intervals} }} ; }}\n"
        f"set c {{ type ipv4_addr . inet_service; elements = {{ {pairs} }} ; }}\n"
        f"map d {{ type ipv4_addr : verdict; elements = {{ {verdicts} }} ; }}\n"
        "chain input { type filter hook input priority 0; policy drop;\n"
        "ct state established,related accept\nip saddr 10.0.0.0/24 tcp dport 1 accept\nip saddr @a accept\nip saddr @b tcp dport 22 accept\n"
        "ip saddr . tcp dport @c accept\nip saddr vmap @d\n}\n}\n"
    )


RULESETS = {
    "50 rules": lambda: flat(50), "500 rules": lambda: flat(500), "5000 rules": lambda: flat(5000),
    "sets of 1k": lambda: sets(1000), "sets of 10k": lambda: sets(10000),
}


def spent_by(command, **options):
    """The processor time of a process, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(name):
    """In a namespace of its own: load, list with nft, read and prove, and print it all as JSON."""
    from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_witness import prove

    subprocess.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"], check=True)
    subprocess.run(["ip", "address", "add", "10.0.0.254/24", "dev", "eth0"], check=True)
    subprocess.run(["ip", "link", "set", "eth0", "up"], check=True)
    subprocess.run(["nft", "-f", "-"], input=RULESETS[name](), text=True, check=True)
    spent = {"nft": [], "proof": [], "process": [], "interpreter": []}
    with tempfile.TemporaryDirectory() as cache:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(COLLECTIONS), "PYTHONPYCACHEPREFIX": cache}
        code = (
            "from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_witness import prove\n"
            f"prove({POLICY!r})"
        )
        spent_by([sys.executable, "-S", "-c", code], env=environment)  # fills the cache
        for _round in range(ROUNDS.get(name, 3)):
            spent["nft"].append(spent_by(["nft", "-j", "list", "ruleset"]))
            began = time.process_time()
            result = prove(POLICY)
            spent["proof"].append(time.process_time() - began)
            spent["process"].append(spent_by([sys.executable, "-S", "-c", code], env=environment))
            spent["interpreter"].append(spent_by([sys.executable, "-S", "-c", ""], env=environment))
    json.dump({
        "spent": {what: min(times) for what, times in spent.items()}, "verdict": result["verdict"],
        "flow": result["flows"][0]["status"], "nodes": result["statistics"]["nodes"],
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }, sys.stdout)


def main():
    """All rulesets, one line each; the bars of the ratio and of the memory are shown, not enforced."""
    if os.geteuid() != 0:
        sys.exit("Proofs are measured in network namespaces of their own: run this as root.")
    for name in RULESETS:
        done = subprocess.run(["unshare", "-n", sys.executable, __file__, name], check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout)
        if found["flow"] != "ok":
            sys.exit(f"{name}: the flow that the ruleset admits is {found['flow']}")
        spent, limit = found["spent"], f" (bar {BARS[name]})" if name in BARS else ""
        print(
            f"read and prove {name}: {spent['proof'] / spent['nft']:.2f} x nft -j list ruleset{limit}, "
            f"{spent['proof'] * 1000:.1f} ms to {spent['nft'] * 1000:.1f} ms; whole process {spent['process'] / spent['nft']:.2f} x, "
            f"of which a bare interpreter {spent['interpreter'] / spent['nft']:.2f} x; {found['nodes']} nodes, "
            f"{found['memory']} MB (bar {MEMORY_BAR})", flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        main()

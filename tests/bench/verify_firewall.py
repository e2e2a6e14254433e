# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a proof costs: reading and proving rulesets, as a ratio to `nft -j list ruleset` of the same ruleset in the same run.

Runs itself once for each ruleset in a network namespace of its own; needs root. Prints the ratio and the memory of each.
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

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / ".build" / "collections"))

BARS = {"50 rules": 1.5, "5000 rules": 3.0}
ROUNDS = 3
MEMORY_BAR = 200


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
        "ct state established,related accept\nip saddr @a accept\nip saddr @b tcp dport 22 accept\n"
        "ip saddr . tcp dport @c accept\nip saddr vmap @d\n}\n}\n"
    )


RULESETS = {
    "50 rules": lambda: flat(50), "500 rules": lambda: flat(500), "5000 rules": lambda: flat(5000),
    "sets of 1k": lambda: sets(1000), "sets of 10k": lambda: sets(10000),
}


def measure(name):
    """In a namespace of its own: load, list with nft, read and prove, and print it all as JSON."""
    from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import firewall_proof, nft_ruleset

    with tempfile.NamedTemporaryFile("w", suffix=".nft") as file:
        file.write(RULESETS[name]())
        file.flush()
        subprocess.run(["nft", "-f", file.name], check=True)
    flow = {"name": "one", "sources": ["10.0.0.0/24"], "protocol": "tcp", "ports": ["1"]}
    policy = {"allow": [flow], "permit": ["established", {"name": "all"}], "forward": None}
    listing, proof = [], []
    for _round in range(ROUNDS):
        began = time.monotonic()
        subprocess.run(["nft", "-j", "list", "ruleset"], check=True, stdout=subprocess.DEVNULL)
        listing.append(time.monotonic() - began)
        began = time.monotonic()
        result = firewall_proof.verify(nft_ruleset.read_ruleset(), None, policy)
        proof.append(time.monotonic() - began)
    json.dump({
        "listing": min(listing), "proof": min(proof), "verdict": result["verdict"], "nodes": result["statistics"]["nodes"],
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }, sys.stdout)


def main():
    """All rulesets, one line each; the bars of the ratio and of the memory are shown, not enforced."""
    if os.geteuid() != 0:
        sys.exit("Proofs are measured in network namespaces of their own: run this as root.")
    for name in RULESETS:
        done = subprocess.run(["unshare", "-n", sys.executable, __file__, name], check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout)
        limit = f" (bar {BARS[name]})" if name in BARS else ""
        print(
            f"read and prove {name}: {found['proof'] / found['listing']:.2f} x nft -j list ruleset{limit}, "
            f"{found['proof'] * 1000:.0f} ms to {found['listing'] * 1000:.0f} ms, {found['nodes']} nodes, "
            f"{found['memory']} MB (bar {MEMORY_BAR})"
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        main()

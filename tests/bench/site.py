# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What `site` and `audit` cost on hosts where nothing is to be done: module executions a host, and wall time as a ratio to
`ansible -m ping` over the same hosts in the same run.

site.py [INVENTORY...]   without one: the lab of `make demo`, which is brought up where it is not
BENCH_RUNS=N             measured rounds after the one that warms up (default 5); the medians are printed
Exit status 1 where a run changed something or failed, since then it is no measurement, or exceeds tests/bench/budget.yml. What is promised of a
ratio is printed beside it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
DEMO = [CHECKOUT / ".build/labs/demo/inventory.yml", CHECKOUT / "tests/demo/instances.yml"]
BUDGETS = yaml.safe_load((CHECKOUT / "tests/bench/budget.yml").read_text(encoding="utf-8"))["executions_per_host"]
BARS = {"audit": "  (bar 3)"}
LIMIT = "vllm_nodes:vllm_vantage_points"


def timed(command: list[str], folder: str) -> tuple[float, str]:
    """Run a command; wall time in seconds and its output. SystemExit with that output where it fails."""
    environment = {
        **os.environ,
        "ANSIBLE_CALLBACK_PLUGINS": str(CHECKOUT / "tests/plugins/callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "ledger",
        "LEDGER_FOLDER": folder,
    }
    started = time.perf_counter()
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    elapsed = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{' '.join(command)} ended with {done.returncode}: nothing was measured.")
    return elapsed, done.stdout


def main() -> int:
    """Warm up, measure in turns so that a change of load meets all alike, print."""
    inventories = [Path(name) for name in sys.argv[1:]]
    if not inventories:
        inventories = DEMO
        if not DEMO[0].exists():
            print("The demo's lab is not up: bringing it up with `make demo`.", flush=True)
            subprocess.run(["make", "demo"], cwd=CHECKOUT, check=True)
    where = [word for path in inventories for word in ("--inventory", str(path))]
    commands = {
        "ping": ["ansible", *where, "--module-name", "ansible.builtin.ping", LIMIT],
        "site": ["ansible-playbook", *where, "playbooks/site.yml"],
        "audit": ["ansible-playbook", *where, "playbooks/audit.yml"],
    }
    rounds = int(os.environ.get("BENCH_RUNS", "5"))
    times: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for name, command in commands.items():
                elapsed, _output = timed(command, folder)
                print(f"{'warm-up' if not number else f'round {number} of {rounds}'}: {name} {elapsed:.1f} s", flush=True)
                if number:
                    times[name].append(elapsed)
        ledgers = {name: json.loads((Path(folder) / f"{name}-run.json").read_text(encoding="utf-8")) for name in ("site", "audit")}

    listing = subprocess.run(["ansible-inventory", *where, "--list"], cwd=CHECKOUT, stdout=subprocess.PIPE, check=True, text=True).stdout
    groups = json.loads(listing)
    wrong = []
    base = statistics.median(times["ping"])
    print(f"\n{'run':8}{'median':>9}{'ratio to ping':>16}            module executions a host (commands)")
    print(f"{'ping':8}{base:>7.1f} s{1:>16.1f}            1")
    for name, ledger in ledgers.items():
        median = statistics.median(times[name])
        counts = {host: (sum(ledger["executions"].get(host, {}).values()), ledger["commands"].get(host, 0)) for host in ledger["hosts"]}
        shown = ", ".join(f"{host} {executions} ({commands})" for host, (executions, commands) in sorted(counts.items()))
        print(f"{name:8}{median:>7.1f} s{median / base:>16.1f}{BARS.get(name, ''):9}   {shown}")
        wrong += [f"{name} changed {change['host']}: {change['task']}" for change in ledger["changed"]]
        for host in groups["vllm_nodes"]["hosts"]:
            if counts[host][0] > BUDGETS[name]:
                wrong.append(f"{name} executed {counts[host][0]} modules on {host}; the budget is {BUDGETS[name]}: {ledger['executions'][host]}")
    print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

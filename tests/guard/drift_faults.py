# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Deviations of the audit's fault table, made in a lab two at a time and given to drift correction.

    python3 tests/guard/drift_faults.py [--lab NAME --block 10.NN] [--count N --seed SEED] [--only EXPRESSION] [--keep]

Each has to be detected, explained and corrected by the run, or, where it is of a kind that no role owns (LEFT), reported as left; hosts without one are not
touched, and the exit status is that of what happened. Leaves with 1 where one is not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time

from audit.run_faults import FAULTS, NUMBERS, ROOT, Lab, pairs

# What no role may put right, since it is not the collection's: tables, services, addresses and accounts of others, drop-ins of the site, the owner of a
# model, running processes, files of SSH that no role of this lab manages.
LEFT = re.compile(r"foreign drop|address too many|foreign service|by hand|drop-in|overridden|^sshd|/srv/models|tiny|/opt/vllm|credentials|sudoers|"
                  r"with a password|privileged group|filter not started|newer")


def run_drift(lab, directory):
    """``(exit status, output, findings after)`` of one run."""
    command = ["ansible-playbook", *lab.inventories(), f"{ROOT}/playbooks/drift.yml", "-e", f"vllm_audit_directory={directory}", "-e", "vllm_audit_timeout=0.5",
               "-e", "vllm_runtime_software=existing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False, env={**os.environ, "ANSIBLE_NOCOLOR": "1"})
    try:
        with open(os.path.join(directory, "report.json"), encoding="utf-8") as stream:
            return done.returncode, done.stdout, json.load(stream)["findings"]
    except FileNotFoundError:
        return done.returncode, done.stdout + done.stderr, []


def judge(host, item, output, failing, touched):
    """What is wrong with the outcome on one host: a text, or None."""
    if item is None:
        return None if not touched and not failing else f"nothing was made there, and it was touched ({touched}) or is deviating ({sorted(failing)})"
    if LEFT.search(item.name):
        return None if failing & item.controls or not failing else f"other controls fail: {sorted(failing)}"
    if failing:
        return f"left: {sorted(failing)}"
    if not re.search(rf"^  {host}  vllm_\w+: changed on the node", output, re.MULTILINE):
        return "it was not explained"
    return None


def main():
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lab", default="guard")
    parser.add_argument("--block", default="10.84")
    parser.add_argument("--count", type=int)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--seed", default="1")
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    chosen = [item for item in FAULTS if re.search(options.only, item.name)]
    random.Random(options.seed).shuffle(chosen)
    chosen, begun, wrong, corrected, left = chosen[:options.count], time.monotonic(), 0, 0, 0
    with Lab(options.lab, options.block, False, options.keep) as lab, tempfile.TemporaryDirectory() as directory:
        for couple in pairs(chosen):
            if time.monotonic() > begun + 60 * options.minutes:
                print("the time is over", flush=True)
                break
            placed = {host: item for host, item in zip(NUMBERS, couple) if item}
            for host, item in placed.items():
                lab.run(host, item.make)
            status, output, findings = run_drift(lab, directory)
            remaining = False
            for host in NUMBERS:
                item = placed.get(host)
                failing = {finding["control"] for finding in findings if finding["host"] == host and finding["status"] == "fail"}
                remaining = remaining or bool(failing)
                touched = int(re.search(rf"^{host} .* changed=(\d+) ", output, re.MULTILINE)[1]) if "PLAY RECAP" in output else 1
                problem = judge(host, item, output, failing, touched)
                wrong += problem is not None
                if item:
                    state = "left" if failing else "corrected"
                    corrected, left = corrected + (not failing), left + bool(failing)
                    print(f"{'ok   ' if problem is None else 'WRONG'} {time.monotonic() - begun:6.0f} s  {host}  {state:9} {item.name}"
                          f"{': ' + problem if problem else ''}", flush=True)
                    if failing:
                        lab.run(host, item.unmake)
                elif problem:
                    print(f"WRONG {host}: {problem}", flush=True)
            expected = 2 if remaining else 4
            if status not in (expected, 3):  # 3: an audit could not see the processes of a service that was stopped
                wrong += 1
                print(f"WRONG exit status {status}, expected {expected}: {output[-1500:]}", flush=True)
    print(f"{corrected} corrected, {left} left, {wrong} wrong, {time.monotonic() - begun:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

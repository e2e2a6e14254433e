# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Makes the deviations of the fault table in a lab, two at a time on two hosts, and compares what the audit reports.

    python3 tests/audit/run_faults.py [--lab NAME --block 10.NN] [--gateway | --guard] [--only EXPRESSION] [--count N --seed SEED] [--report FILE] [--keep]

Leaves with 1 when anything is reported otherwise, or a fault could not be made.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from fault_table import FAULTS, GATEWAY_FAULTS, GUARD_FAULTS, OBSTACLES

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LAB = os.path.join(ROOT, "tests/lab/lab")
NUMBERS = {"npu01": "11", "npu02": "12"}


class Lab:
    """The hosts, and an audit of them."""

    prepared_by = "tests/audit/prepare.yml"

    def __init__(self, name, block, gateway, keep):
        self.name, self.block, self.gateway, self.keep = name, block, gateway, keep
        self._secrets = tempfile.TemporaryDirectory()
        self.environment = {**os.environ, "SECRETS": self._secrets.name}

    def __enter__(self):
        subprocess.run([LAB, "up", "--name", self.name, "--block", self.block, *self.options()], stdout=subprocess.DEVNULL, check=True)
        self.play(self.prepared_by)
        return self

    def options(self):
        """What the lab's hosts are besides the usual."""
        return ["--root", "bookworm+haproxy"] if self.gateway else []

    def play(self, playbook):
        """Run a playbook of the checkout that has to end well."""
        command = ["ansible-playbook", *self.inventories(), f"{ROOT}/{playbook}"]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{playbook} failed:\n{done.stdout[-3000:]}")

    def __exit__(self, *_error):
        self._secrets.cleanup()
        if not self.keep:
            subprocess.run([LAB, "down", "--name", self.name], stdout=subprocess.DEVNULL, check=True)

    def inventories(self):
        """The options that name the inventory."""
        return ["-i", f"{ROOT}/.build/labs/{self.name}/inventory.yml", "-i", f"{ROOT}/tests/audit/instances{'-gateway' if self.gateway else ''}.yml"]

    def run(self, host, script):
        """Run a shell script on a host as root, past its network; whether it went well."""
        script = script.replace("@N@", NUMBERS[host]).replace("@B@", self.block)
        command = [LAB, "exec", "--name", self.name, host, "sh", "-c", script]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            print(f"    {host}: {script!r} left with {done.returncode}: {done.stderr.strip()[-300:]}", flush=True)
        return done.returncode == 0

    def audit(self):
        """{host: ({failed controls}, {unknown controls})} and the findings."""
        with tempfile.TemporaryDirectory() as directory:
            command = ["ansible-playbook", *self.inventories(), f"{ROOT}/playbooks/audit.yml", "-e", f"vllm_audit_directory={directory}"]
            done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=3600, check=False)
            try:
                with open(os.path.join(directory, "report.json"), encoding="utf-8") as stream:
                    document = json.load(stream)
            except FileNotFoundError:
                raise SystemExit(f"the audit wrote no report (exit {done.returncode}):\n{done.stdout[-3000:]}") from None
        seen = {host: (set(), set()) for host in NUMBERS}
        for finding in document["findings"]:
            if finding["status"] in ("fail", "unknown"):
                seen[finding["host"]][finding["status"] == "unknown"].add(finding["control"])
        return seen, document


class GuardLab(Lab):
    """The same with the guard on the hosts that serve."""

    def inventories(self):
        return [*super().inventories(), "-i", f"{ROOT}/tests/audit/instances-guard.yml"]


def pairs(faults):
    """Faults two at a time, on npu01 and npu02; None where a host has none."""
    waiting = list(faults)
    while waiting:
        first = next((item for item in waiting if "npu01" in item.hosts), None)
        if first:
            waiting.remove(first)
        second = next((item for item in reversed(waiting) if "npu02" in item.hosts), None)
        if second:
            waiting.remove(second)
        yield first, second


def told(item, findings):
    """Whether every finding says what was observed, one that failed what was expected, and one of them what the table says."""
    lines = [line for finding in findings for line in finding["evidence"] or [finding["observed"]]]
    return all(finding["observed"] and (finding["expected"] or finding["status"] == "unknown") for finding in findings) and (
        item is None or any(re.search(item.observed, line) for line in lines))


def campaign(lab, chosen, begun):
    """Make and unmake the faults; ([outcome], number of those reported otherwise)."""
    clean, _document = lab.audit()
    base = {host: unknown for host, (_failed, unknown) in clean.items()}
    print(f"clean lab: failed {[sorted(failed) for failed, _unknown in clean.values()]}, unknown {[sorted(unknown) for unknown in base.values()]}", flush=True)
    wrong = sum(len(failed) for failed, _unknown in clean.values())
    outcomes = []
    for couple in pairs(chosen):
        placed = {host: item for host, item in zip(NUMBERS, couple) if item}
        made = {host: lab.run(host, item.make) for host, item in placed.items()}
        seen, document = lab.audit()
        unmade = {host: lab.run(host, item.unmake) for host, item in placed.items()}
        for host in NUMBERS:
            item = placed.get(host)
            failed, unknown = seen[host]
            expected = item.controls if item else frozenset()
            allowed = base[host] | (item.unknown if item else frozenset())
            told_by = "fail" if expected or not item else "unknown"
            findings = [finding for finding in document["findings"] if finding["host"] == host and finding["status"] == told_by]
            evidence = {finding["control"]: finding["observed"] for finding in findings}
            as_said = failed == expected and unknown <= allowed and (told_by == "fail" or item.unknown <= unknown)
            good = as_said and told(item, findings) and made.get(host, True) and unmade.get(host, True)
            outcomes.append(
                {
                    "fault": item.name if item else None,
                    "host": host,
                    "expected": sorted(expected),
                    "failed": sorted(failed),
                    "unknown": sorted(unknown),
                    "observed": evidence,
                    "good": good,
                }
            )
            wrong += not good
            if item or not good:
                print(
                    f"{'ok   ' if good else 'WRONG'} {time.monotonic() - begun:6.0f} s  {host}  {item.name if item else 'nothing'}: {sorted(failed)}"
                    + ("" if good else f", expected {sorted(expected)}, unknown {sorted(unknown - allowed)}, observed {json.dumps(evidence)[:400]}"),
                    flush=True,
                )
    return outcomes, wrong


def together(lab):
    """Two audits at once under one deviation, which only the UDP probes of each show; the number of those that report otherwise."""
    item = next(item for item in FAULTS if item.name == "foreign accept of UDP")
    lab.run("npu01", item.make)
    try:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            first = pool.submit(lab.audit)
            time.sleep(1)  # so that the second begins while the first probes
            audits = [first, pool.submit(lab.audit)]
            outcomes = [sorted(audit.result()[0]["npu01"][0]) for audit in audits]
    finally:
        lab.run("npu01", item.unmake)
    wrong = sum(failed != sorted(item.controls) for failed in outcomes)
    print(f"{'WRONG' if wrong else 'ok   '} two audits at once: {outcomes}", flush=True)
    return wrong


def main():
    """Run the table."""
    parser = argparse.ArgumentParser(description="Fault table of the audit")
    parser.add_argument("--lab", default="audit-faults")
    parser.add_argument("--block", default="10.82", help="the lab's block of addresses")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--gateway", action="store_true", help="the deviations of nodes with a gateway and restricted access")
    which.add_argument("--guard", action="store_true", help="the deviations of the guard itself")
    parser.add_argument("--only", default="", help="only faults in whose names this regular expression is found")
    parser.add_argument("--count", type=int, help="only so many, drawn by the seed")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    parser.add_argument("--report", help="write the outcome of every fault as JSON")
    options = parser.parse_args()
    table = GATEWAY_FAULTS if options.gateway else GUARD_FAULTS if options.guard else [*FAULTS, *OBSTACLES]
    chosen = [item for item in table if re.search(options.only, item.name)]
    if options.count is not None:
        chosen = random.Random(options.seed).sample(chosen, min(options.count, len(chosen)))
    begun = time.monotonic()
    lab_class = GuardLab if options.guard else Lab
    with lab_class(options.lab, options.block, options.gateway, options.keep) as lab:
        outcomes, wrong = campaign(lab, chosen, begun)
        at_once = not (options.gateway or options.guard) and re.search(options.only, "two audits at once")
        if at_once:
            wrong += together(lab)
    if options.report:
        with open(options.report, "w", encoding="utf-8") as stream:
            json.dump(outcomes, stream, indent=1)
    made = sum(outcome["fault"] is not None for outcome in outcomes)
    print(f"{made} faults, {wrong} reported otherwise than the table says, {time.monotonic() - begun:.0f} s")
    return 1 if wrong or not (made or at_once) else 0


if __name__ == "__main__":
    sys.exit(main())

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The deviations of the audit's fault table, made on a running cluster, several at a time, and given to drift correction.

    python3 tests/guard/drift_faults.py [--gateway | --guard | --vllm] [--lab NAME --block 10.NN] [--count N --seed SEED] [--only EXPRESSION] [--keep]

Each has to be detected by its controls, explained, and corrected, or, where it is not the collection's to correct (`drift_left.py` says why),
left and reported. What that means is decided by comparing everything of each host (`host_state.py`) before, with and after the deviation: what was
corrected is as it was, what was left is as the deviation made it, and nothing else differs, no process of another service is a new one. All the
while a client asks the serving instance: no answer may be missing where no deviation concerned it. Leaves with 1 where anything is otherwise.

Without `--vllm` a stand-in listens as the engine would, since half of the deviations restart it. With `--vllm` the real vLLM is installed and hardened
by site.yml and gives completions, and those are made which leave it alone.

With `--guard` the hosts have the guard, and the deviations are its own. It may take nothing that a run does for a deviation, and has to guard again
afterwards, not only to be active: what is damaged then comes back without a run.
"""

from __future__ import annotations

import argparse
import base64
import difflib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time

from audit.fault_table import FAULTS, GATEWAY_FAULTS, GUARD_FAULTS, GUARD_NODE, GUARD_PROGRAM, TABLE, UNIT
from audit.run_faults import NUMBERS, ROOT, GuardLab, Lab
from faults.node import Node, wait_for
from guard.answers import Client
from guard.drift_left import LEFT, LEFT_WITH_MANAGED_SOFTWARE
from lab import machine

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import BY_ID

HOST_STATE = os.path.join(ROOT, "tests/guard/host_state.py")
NONE, LEFT_STATUS, INCOMPLETE, CORRECTED = 0, 2, 3, 4
PATIENCE = 60.0  # seconds for a guard to put back what is damaged
SYSCTL_FILE = "/etc/sysctl.d/90-vllm-hardening.conf"
RESTARTED = {"vllm_access": "ssh.service", "vllm_guard": "vllm-guard-"}  # what a role reloads or restarts that corrects something
MAINTENANCE = f"/usr/bin/python3 -I {GUARD_PROGRAM} maintenance"
PATHS = re.compile(r"(?<![\w.])/(?:etc|opt|srv)/[\w./-]+")


def is_edit(item):
    """Whether a deviation is an edit of a unit: these compose."""
    return "sed -i" in item.make and ("systemctl restart" in item.make or "daemon-reload" in item.make)


def order(item):
    """What is made first: a restart that comes after another deviation would undo it."""
    return 0 if is_edit(item) else 1 if "systemctl restart" in item.make else 3 if item.unknown or "touch" in item.make or "disable" in item.make else 2


def compatible(one, other):
    """Whether two deviations on one host can be told apart, and neither undoes the other."""
    if (one.controls | one.unknown) & (other.controls | other.unknown):
        return False
    if order(one) == order(other) == 3:
        return False
    if {order(one), order(other)} in ({0, 3}, {1, 3}) and ("touch" in one.make + other.make or one.unknown | other.unknown):
        return False
    if is_edit(one) and is_edit(other):
        return True
    settings = [item for item in (one, other) if item.name.startswith("setting")]
    if len(settings) == 2 and any("forward" in item.name for item in settings):
        return False  # the kernel resets what forwarding implies
    return not set(PATHS.findall(one.make)) & set(PATHS.findall(other.make)) - {UNIT}


def made_with_vllm(item):
    """Whether a deviation leaves the instance its processes and its connections, and asks for nothing that only the stand-in's hosts have."""
    cuts_it_off = "foreign drop of a planned flow", "service may not open what it needs"
    theirs = re.search("/srv/models|/opt/vllm/standin|/credentials|vllm serve x", item.make)
    return not concerns_serving(item) and item.name not in cuts_it_off and not theirs


def concerns_serving(item):
    """Whether a deviation is one of the instance itself."""
    return any({"vllm_serve", "vllm_gateway"} & set(BY_ID[control].tags) for control in item.controls)


def runs(chosen):
    """``[{host: [deviation]}]``: as few runs as packing one after the other gives, those that do not concern the instance apart from the others."""
    packed = []
    for serving in (False, True):
        part = []
        for item in [one for one in chosen if concerns_serving(one) == serving]:
            places = [(run, host) for run in part for host in item.hosts if all(compatible(item, other) for other in run[host])]
            if not places:
                part.append({host: [] for host in NUMBERS})
                places = [(part[-1], item.hosts[0])]
            run, host = min(places, key=lambda place: len(place[0][place[1]]))
            run[host].append(item)
        packed += part
    return packed


def named(key):
    """What an explanation has to say of a thing that differs: a regular expression."""
    kind, _space, rest = key.partition(" ")
    if kind == "table":
        return "vllm_firewall"
    if rest in ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow"):
        return "user vllm-"
    if kind == "sysctl" and rest.endswith("forwarding"):
        return "ip_forward|forwarding"  # the one implies the others
    if kind == "unit":
        return re.escape(rest.split()[0])
    if ".wants/" in rest:
        return re.escape(os.path.basename(rest))
    return re.escape(rest)


def differing(one, other):
    """Keys whose values differ."""
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def apart(one, other):
    """Keys whose values differ, without those of processes."""
    return sorted(key for key in differing(one, other) if not key.startswith("process "))


def shown(before, after):
    """How a value became another, as text."""
    sides = [[str(line) for one in (value if isinstance(value, list) else [value]) for line in str(one).splitlines()] for value in (before, after)]
    return "\n".join(list(difflib.unified_diff(*sides, n=0, lineterm=""))[2:30])


class VllmLab(Lab):
    """The hosts that `make demo` has: one instance of the real vLLM over both, from wheels."""

    prepared_by = "playbooks/site.yml"

    def options(self):
        """The wheels and the model."""
        serving = machine.cache() / "serving"
        return ["--mount", f"{serving}/wheels:/srv/wheels:ro", "--mount", f"{serving}/models:/srv/models:ro"]

    def inventories(self):
        """The options that name the inventory."""
        return ["-i", f"{ROOT}/.build/labs/{self.name}/inventory.yml", "-i", f"{ROOT}/tests/demo/instances.yml"]


class Cluster:
    """The lab, and what is known of it."""

    undone = "sysctl -qw net.ipv4.conf.eth1.accept_redirects=1"  # made on both hosts, again and again on the first
    around = "true", "true"  # made on each host before that, and when nothing undoes it any more

    def __init__(self, lab, directory):
        self.lab, self.directory, self.wrong = lab, directory, 0
        self.vllm = isinstance(lab, VllmLab)
        self.left = LEFT_WITH_MANAGED_SOFTWARE if self.vllm else LEFT
        self.nodes = {host: Node(lab.name, host) for host in NUMBERS}

    def complain(self, text):
        """Count and print a violation."""
        self.wrong += 1
        print(f"WRONG {text}", flush=True)

    def states(self):
        """``{host: state}`` of both hosts."""
        found = {}

        def look(host):
            with open(HOST_STATE, encoding="utf-8") as stream:
                found[host] = json.loads(base64.b64decode(self.nodes[host].run("python3", "-", data=stream.read())))

        threads = [threading.Thread(target=look, args=(host,)) for host in self.nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def drift(self):
        """``(exit status, output, findings of the first audit, findings of the last)`` of one run."""
        for name in ("report.json", "drift.jsonl"):
            path = os.path.join(self.directory, name)
            if os.path.exists(path):
                os.unlink(path)
        command = ["ansible-playbook", *self.lab.inventories(), f"{ROOT}/playbooks/drift.yml", "-e", f"vllm_audit_directory={self.directory}",
                   *([] if self.vllm else ["-e", "vllm_runtime_software=existing"])]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600, check=False,
                              env={**self.lab.environment, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"})
        try:
            with open(os.path.join(self.directory, "report.json"), encoding="utf-8") as stream:
                after = json.load(stream)["findings"]
            with open(os.path.join(self.directory, "drift.jsonl"), encoding="utf-8") as stream:
                seen = [json.loads(line) for line in stream]
        except FileNotFoundError:
            raise SystemExit(f"drift correction wrote nothing (exit {done.returncode}):\n{done.stdout[-3000:]}{done.stderr[-2000:]}") from None
        before = [{"host": record["host"], **finding} for record in seen for finding in record.get("findings", ())]
        return done.returncode, done.stdout, before, after

    def explained(self, host):
        """What the run said of a host."""
        with open(os.path.join(self.directory, "drift.jsonl"), encoding="utf-8") as stream:
            records = [json.loads(line) for line in stream]
        return "\n".join(f"{one['role']} {one['origin']}\n" + "\n".join(one["lines"]) for record in records if record["host"] == host
                         for one in record.get("explained", ()))

    def one(self, run):
        """Make the deviations of one run, correct, compare; ``(corrected, left)``."""
        clean = self.states()
        with Client(self.lab, engine=self.vllm) as client:
            self.make(run)
            middle = self.states()
            self.make(run, left=True)
            worst = self.states()
            status, output, before, after = self.drift()
        ended = self.states()
        calm = not any(concerns_serving(item) for item in run["npu01"])
        if calm and (client.missing or client.answers < 10):
            self.complain(f"{client.missing} of {client.answers + client.missing} answers of the serving instance are missing: {client.complaint}")
        counts = [0, 0]
        for host in NUMBERS:
            self.judge(host, run[host], (clean[host], middle[host], worst[host], ended[host]), before, after, counts)
        left = any(item.name in self.left for items in run.values() for item in items)
        wanted = {LEFT_STATUS} if left else {CORRECTED}
        if any(item.unknown for items in run.values() for item in items):
            wanted.add(INCOMPLETE)  # the processes of a stopped service could not be looked at
        if status not in wanted:
            self.complain(f"exit status {status}, expected {sorted(wanted)}:\n{output[-3000:]}")
        self.mend(run, clean)
        return counts, client

    def canary(self, afterwards):
        """A correction that does not hold on the first node stops the run before the second is touched; once nothing undoes it any more, it is made."""
        clean = self.states()
        for host in NUMBERS:
            self.lab.run(host, f"{self.around[0]}; {self.undone}")
        self.lab.run("npu01", f"systemd-run --quiet --unit=undoing sh -c 'while :; do {self.undone}; sleep 0.05; done'")
        before = self.states()
        status, output, _before, _after = self.drift()
        if status != LEFT_STATUS or "the correction does not hold on npu01" not in output:
            self.complain(f"a correction that does not hold was not noticed (exit {status}):\n{output[-2000:]}")
        touched = differing(before["npu02"], self.states()["npu02"])
        if touched:
            self.complain(f"the second node was touched although the correction does not hold on the first: {sorted(touched)}")
        self.lab.run("npu01", "systemctl stop undoing.service")
        for host in NUMBERS:
            self.lab.run(host, self.around[1])
        if not afterwards:
            return
        status, output, _before, _after = self.drift()
        rest = {host: apart(clean[host], state) for host, state in self.states().items()}
        if status != CORRECTED or any(rest.values()):
            self.complain(f"what was undone no longer was not corrected (exit {status}): {rest}\n{output[-2000:]}")

    def make(self, run, left=False):
        """Make those that are to be corrected, or those that are to be left."""
        for host, items in run.items():
            for item in sorted(items, key=order):
                if (item.name in self.left) == left and not self.lab.run(host, item.make):
                    self.complain(f"{host}: {item.name} could not be made")

    def judge(self, host, items, states, before, after, counts):
        """What became of the deviations of one host."""
        clean, middle, worst, ended = states
        mine, others = [item for item in items if item.name not in self.left], [item for item in items if item.name in self.left]
        seen = {finding["control"] for finding in before if finding["host"] == host}
        failing = {finding["control"] for finding in after if finding["host"] == host and finding["status"] == "fail"}
        explained = self.explained(host)
        for item in items:
            if not item.controls <= seen:
                self.complain(f"{host}: {item.name} was not detected by {sorted(item.controls - seen)}")
        expected = {control for item in others for control in item.controls}
        if failing != expected:
            said = {finding["control"]: finding["observed"] for finding in after if finding["host"] == host and finding["control"] in failing - expected}
            self.complain(f"{host}: fails afterwards: {sorted(failing)}, expected {sorted(expected)} ({[item.name for item in items]}): {said}")
        restarted = {"vllm-"} if any(concerns_serving(item) for item in items) else set()
        tags = {tag for item in mine for control in item.controls for tag in BY_ID[control].tags}
        restarted |= {unit for tag, unit in RESTARTED.items() if tag in tags}
        to_correct, to_leave = differing(clean, middle), differing(middle, worst)
        for key in sorted(differing(clean, ended) | to_correct | to_leave):
            if key.startswith("process ") and any(name in key for name in restarted):
                continue
            kept = key in to_leave and worst.get(key) != clean.get(key)
            if ended.get(key) != (worst if kept else clean).get(key):
                what = "left" if key in to_correct else "touched" if key not in to_leave else "not left as it is"
                self.complain(f"{host}: {key} {what}, from before to after:\n{shown(clean.get(key), ended.get(key))}")
            if key in to_correct and not kept and not key.startswith("process ") and not re.search(named(key), explained):
                self.complain(f"{host}: the correction of {key} is not explained in:\n{explained}")
        if mine and "foreign" not in explained:
            self.complain(f"{host}: not said to be a change on the node: {explained[:500]}")
        if not items and explained:
            self.complain(f"{host}: nothing was made there, and it was touched: {explained[:500]}")
        counts[0], counts[1] = counts[0] + len(mine), counts[1] + len(others)

    def mend(self, run, clean):
        """Take back what was left; afterwards the hosts are as they were."""
        for host, items in run.items():
            for item in sorted(items, key=order):
                if item.name in self.left:
                    self.lab.run(host, item.unmake)
        for host, state in self.states().items():
            rest = apart(clean[host], state)
            if rest:
                self.complain(f"{host}: not as before: {rest}")


class GuardedCluster(Cluster):
    """The same where the hosts have the guard."""

    undone = f"chmod 0666 {GUARD_PROGRAM}"
    # In maintenance the guard corrects nothing, so that it is the run that does.
    around = f"{MAINTENANCE} 60 a correction that does not hold; systemctl stop {GUARD_NODE}", f"{MAINTENANCE} 0"

    def one(self, run):
        """As without the guard, which takes nothing of the run for a deviation, and guards again afterwards."""
        known = {host: self.corrections(host) for host in NUMBERS}
        outcome = super().one(run)
        for host in NUMBERS:
            drift = self.corrections(host, known[host])
            if drift:
                self.complain(f"{host}: the guard took what a run did for a deviation: {drift}")
            if not self.guards(host):
                self.complain(f"{host}: the guard does not put back what is damaged, or does not say so")
        return outcome

    def corrections(self, host, known=()):
        """The records of a host's guard, as text, of what it corrected, could not correct or refused."""
        paths = [self.nodes[host].path(f"var/lib/vllm-guard-{duty}/history.jsonl") for duty in ("firewall", "node")]
        lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
        return [line for line in lines if line not in known and json.loads(line)["outcome"] in ("corrected", "failed", "refused")]

    def guards(self, host):
        """Whether the filter and a file that are damaged are soon as before, without a run, and the guard says of both that it corrected them."""
        node, known = self.nodes[host], self.corrections(host)

        def state():
            return node.listing(), node.run("stat", "--format=%a", SYSCTL_FILE)

        def said():
            return {json.loads(line)["kind"] for line in self.corrections(host, known)}

        before = state()
        node.run("sh", "-c", f"nft delete table {TABLE}; chmod 0666 {SYSCTL_FILE}")
        return wait_for(lambda: state() == before and said() == {"ruleset", "node"}, PATIENCE, 0.1)


def main():
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lab", default="guard")
    parser.add_argument("--block", default="10.84")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--gateway", action="store_true", help="the deviations of nodes with a gateway and restricted access")
    which.add_argument("--guard", action="store_true", help="the deviations of the guard itself")
    which.add_argument("--vllm", action="store_true", help="with the real vLLM, those that leave it alone")
    parser.add_argument("--count", type=int, help="only so many, drawn by the seed")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--only", default="", help="only deviations in whose names this regular expression is found")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    options = parser.parse_args()
    table = GATEWAY_FAULTS if options.gateway else GUARD_FAULTS if options.guard else FAULTS
    chosen = [item for item in table if re.search(options.only, item.name)]
    if options.vllm:
        chosen = [item for item in chosen if made_with_vllm(item)]
    random.Random(options.seed).shuffle(chosen)
    packed, begun, totals, asked, missed = runs(chosen[:options.count]), time.monotonic(), [0, 0], 0, 0
    lab_class = VllmLab if options.vllm else GuardLab if options.guard else Lab
    with lab_class(options.lab, options.block, options.gateway, options.keep) as lab, tempfile.TemporaryDirectory() as directory:
        if not options.vllm:
            lab.play("tests/guard/prepare_drift.yml")
        cluster = (GuardedCluster if options.guard else Cluster)(lab, directory)
        for number, run in enumerate(packed, 1):
            wrong = cluster.wrong
            counts, client = cluster.one(run)
            totals = [one + other for one, other in zip(totals, counts)]
            if not any(concerns_serving(item) for item in run["npu01"]):
                asked, missed = asked + client.answers + client.missing, missed + client.missing
            print(f"{'ok   ' if wrong == cluster.wrong else 'WRONG'} {time.monotonic() - begun:5.0f} s  run {number} of {len(packed)}: {counts[0]} corrected, "
                  f"{counts[1]} left", flush=True)
            for host, items in run.items():
                print("\n".join(f"        {host}  {'left     ' if item.name in cluster.left else 'corrected'}  {item.name}" for item in items), flush=True)
        if options.count is None or not options.guard:  # a few of the guard's are given beside a few of the others
            wrong = cluster.wrong
            cluster.canary(options.count is None)
            good = "ok   " if wrong == cluster.wrong else "WRONG"
            print(f"{good} {time.monotonic() - begun:5.0f} s  a correction that does not hold stops the run at its canary", flush=True)
    print(f"{totals[0]} corrected, {totals[1]} left and reported, {len(packed)} runs, {cluster.wrong} wrong; {missed} of {asked} answers of the serving "
          f"instance missing while nothing concerned it; {time.monotonic() - begun:.0f} s")
    return 1 if cluster.wrong or not sum(totals) else 0


if __name__ == "__main__":
    sys.exit(main())

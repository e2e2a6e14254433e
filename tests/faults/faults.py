# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Fault campaign: N changes of the packet filter of lab hosts go wrong, and nobody is locked out.

    python3 tests/faults/faults.py --count 200 --seed 1 [--lab NAME --block 10.NN] [--nodes 4] [--only NAME] [--keep] [--bars]

After each injection the node has to answer a new login, its rules have to be the previous ones byte for byte (or, where the fault may
come after the confirmation, the new ones), and equal to those for the next boot; foreign tables are unchanged; the next run works
and says what happened. Exit status 0 where all of that held every time. With --bars a rollback also may not come LATE seconds after the deadline.
"""
from __future__ import annotations

import argparse
import collections
import itertools
import random
import subprocess
import sys
import threading
import time
import traceback

from injections import INJECTIONS, PATIENCE, TIMEOUT, Attempt
from node import CHECKOUT, RULES, Controller, Node, wait_for

LAB = str(CHECKOUT / "tests/lab/lab")
LATE = 2.0
FOREIGN = """table ip foreign { chain input { type filter hook input priority 0; policy accept; tcp dport 9 counter drop; }; }
table inet banning {
  set banned { type ipv4_addr; flags timeout; elements = { 192.0.2.7 } }
  chain input { type filter hook input priority -1; ip saddr @banned reject; }
}
"""


class Campaign:
    """What the threads share."""

    def __init__(self, options):
        self.options = options
        self.lock = threading.Lock()
        self.numbers = itertools.count()
        self.until = time.monotonic() + 60 * options.minutes
        self.violations, self.late, self.kinds = [], [], collections.Counter()
        names = [kind for kind in INJECTIONS if options.only in (None, kind.__name__)]
        self.kinds_for = [names[number % len(names)] for number in range(options.count)]
        random.Random(options.seed).shuffle(self.kinds_for)

    def work(self, node):
        """Inject until the campaign's count is reached."""
        try:
            self.settle(node, None)
            while True:
                with self.lock:
                    number = next(self.numbers)
                if number >= self.options.count or time.monotonic() > self.until:
                    return
                self.inject(node, number)
        except Exception:  # a thread has nobody to raise to
            self.violation(f"{node.name}: the campaign itself failed: {traceback.format_exc()}")

    def attempt(self, node, number):
        return Attempt(node, self.options.block, random.Random(f"{self.options.seed}/{number}"))

    def settle(self, node, attempt):
        """A good change, whose output has to say what happened before."""
        attempt = attempt or self.attempt(node, f"start of {node.name}")
        run = Controller(node, attempt.policy(), 300)
        status, output = run.wait()
        run.close()
        if "table inet banning" not in node.run("nft", "list", "tables"):
            node.run("nft", "-f", "-", data=FOREIGN)
        return status, output

    def violation(self, text):
        with self.lock:
            self.violations.append(text)
            print(f"VIOLATION {text}", flush=True)

    def inject(self, node, number):
        kind = self.kinds_for[number]
        attempt = self.attempt(node, number)
        where = f"injection {number} ({kind.__name__}, {node.name}, seed {self.options.seed})"
        before, foreign, persisted = node.listing(), node.foreign(), node.persisted()
        attempt.before = before
        begun = time.monotonic()
        expected, fine = kind(attempt)
        if not fine:
            self.violation(f"{where}: the run did not behave: {attempt.note}")
        if not wait_for(node.reachable, TIMEOUT + PATIENCE, 0.2):
            self.violation(f"{where}: LOCKED OUT")
            node.run("nft", "delete", "table", "inet", "vllm_hardening", check=False)
        # A module goes on to its end where its controller died, and may begin a change meanwhile.
        wait_for(lambda: not node.run("pgrep", "-x", "python3", check=False), PATIENCE, 0.05)
        wait_for(lambda: node.token()[1] not in ("pending", "rolling-back"), TIMEOUT + PATIENCE, 0.05)
        late = node.rolled_back_late()
        if late is not None and not attempt.held_up:
            with self.lock:
                self.late.append(late)
            if self.options.bars and late > LATE:
                self.violation(f"{where}: rolled back {late:.2f} s after the deadline")
        after = node.listing()
        if expected == "previous" and after != before:
            self.violation(f"{where}: not the previous rules:\n{after}")
        if expected == "new" and after == before:
            self.violation(f"{where}: not the new rules")
        if after == before and node.persisted() != persisted:
            self.violation(f"{where}: previous rules, but other ones for the next boot")
        if kind.__name__ != "rebooted" and node.foreign() != foreign:
            self.violation(f"{where}: foreign tables changed")
        node.run("nft", "-f", f"/{RULES}")
        if node.listing() != after and kind.__name__ != "module_killed":
            self.violation(f"{where}: the rules for the next boot are not the loaded ones")
        status, output = self.settle(node, attempt)
        if status:
            self.violation(f"{where}: the next run failed: {output[-1500:]}")
        elif attempt.says and attempt.says not in output:
            self.violation(f"{where}: the next run does not say '{attempt.says}'")
        leftovers = node.run("find", "/etc", "/var/lib/vllm-hardening", "-name", "*.vllm-hardening-new")
        if leftovers:
            self.violation(f"{where}: left behind: {leftovers.split()}")
        with self.lock:
            self.kinds[kind.__name__] += 1
            print(f"{sum(self.kinds.values()):4}/{self.options.count} {kind.__name__:32} {node.name} {'previous' if after == before else 'new':9}"
                  f"{f'{late:+.2f} s' if late is not None else '':9} {time.monotonic() - begun:5.1f} s  {attempt.note[:60]}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no further injection after this time")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--lab", default="faults")
    parser.add_argument("--block", default="10.80")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--only", choices=[kind.__name__ for kind in INJECTIONS])
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    parser.add_argument("--bars", action="store_true", help="hold the times of rollbacks to what is promised")
    options = parser.parse_args()
    names = [f"npu{number:02}" for number in range(1, options.nodes + 1)]
    subprocess.run([LAB, "up", "--name", options.lab, "--block", options.block, "--hosts", ",".join(names)], check=True)
    begun = time.monotonic()
    try:
        campaign = Campaign(options)
        threads = [threading.Thread(target=campaign.work, args=(Node(options.lab, name),)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        if not options.keep:
            subprocess.run([LAB, "down", "--name", options.lab], check=True)
    done = sum(campaign.kinds.values())
    print(f"\n{done} injections of {len(campaign.kinds)} kinds, seed {options.seed}, in {time.monotonic() - begun:.0f} s")
    for name, number in sorted(campaign.kinds.items()):
        print(f"  {number:4} {name}")
    if campaign.late:
        late = sorted(campaign.late)
        print(f"rollbacks: {len(late)}, after the deadline by median {late[len(late) // 2]:.2f} s, worst {late[-1]:.2f} s")
    locked = sum("LOCKED OUT" in text for text in campaign.violations)
    print(f"permanent lock-outs: {locked}; violations: {len(campaign.violations)}")
    return 1 if campaign.violations or not done or (done < options.count and time.monotonic() < campaign.until) else 0


if __name__ == "__main__":
    sys.exit(main())

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Campaign against the guard of a lab host: its packet filter is damaged, its guard deceived, drowned and killed.

    python3 tests/guard/campaign.py --count 100 --rollouts 50 --flood 60 --bars [--lab NAME --block 10.NN] [--keep]

Exit status 0 where every injection was corrected and explained, no rollout was, and everything else held. With --bars also the times have to
be those that docs/drift.md promises.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import itertools
import json
import os
import random
import re
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import netlink, nft_ruleset
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.guard_firewall import Events
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_snapshot import fingerprint
from faults.node import CHECKOUT, RULES, Node, wait_for
from guard.signed import Signed

LAB = str(CHECKOUT / "tests/lab/lab")
TABLE = "inet vllm_hardening"
UNIT = "vllm-guard-firewall.service"
PROGRAM = "/usr/local/lib/vllm-guard"
MODULES = "ansible_collections/vllm_mindspore/hardening/plugins/module_utils"
MEDIAN, WORST, CPU = 0.3, 2.0, 0.02
PATIENCE = 60.0
SPACING = 1.4  # seconds between damages, below the pace at which the guard alarms
PORT, RATE = 9999, 2000
INJECTIONS = {
    "flushed": "nft flush ruleset",
    "deleted": f"nft delete table {TABLE}",
    "accepting": f"nft insert rule {TABLE} input accept",
    "restarted": "systemctl restart nftables.service",
    "emptied": f"nft flush chain {TABLE} input",
    "opened": f"nft insert rule {TABLE} input udp dport {PORT} accept",
    "widened": f"nft add element {TABLE} clients_v4 '{{ 10.9.9.0/24 }}'",
    "dormant": f"nft add table {TABLE} '{{ flags dormant; }}'",
    "policy": f"nft chain {TABLE} input '{{ policy accept; }}'",
}


CLOCK = """import time
_time, _gmtime = time.time, time.gmtime


def _offset():
    try:
        with open("/run/clock-offset", encoding="ascii") as stream:
            return float(stream.read())
    except (OSError, ValueError):
        return 0.0


time.time = lambda: _time() + _offset()
time.gmtime = lambda seconds=None: _gmtime(_time() + _offset() if seconds is None else seconds)
"""


def in_network(node, function):
    """Call a function while this thread is in a host's network; sockets made there stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net", "rb") as here, open(f"/proc/{node.pid}/ns/net", "rb") as there:
        if libc.setns(there.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            return function()
        finally:
            libc.setns(here.fileno(), 0)


def loaded():
    """The fingerprint of our table in the current network."""
    tables = nft_ruleset.read_ruleset("vllm_hardening", "inet")["tables"]
    return fingerprint(nft_ruleset.canonical(tables[0])) if tables else ""


class Witness:
    """Sees every change of the table with its own eyes, beside the guard."""

    def __init__(self, node):
        self.node, self.events = node, in_network(node, Events)

    def restored(self, wanted, act):
        """Act, and the seconds from the kernel's notice of the change until the wanted rules are seen loaded; None where they are not in time."""
        self.events.drain()
        answer = []
        thread = threading.Thread(target=lambda: answer.append(act()))
        thread.start()
        began, until = None, time.monotonic() + PATIENCE
        poll = select.poll()
        poll.register(self.events.socket, select.POLLIN)
        while time.monotonic() < until:
            if began is None:
                poll.poll(200)
                if self.events.drain().ours:
                    began = time.monotonic()
                continue
            if in_network(self.node, loaded) == wanted and not thread.is_alive():
                thread.join()
                return time.monotonic() - began
            time.sleep(0.002)
        thread.join()
        return None


class Intruder:
    """Sends datagrams that the filter refuses, and counts what gets in."""

    def __init__(self, node, outsider, address):
        self.receiver = in_network(node, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.receiver.bind(("0.0.0.0", PORT))
        self.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.receiver.settimeout(0.2)
        self.sender = in_network(outsider, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.address, self.sent, self.got, self.stop = (address, PORT), 0, 0, False
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.send, self.receive)]
        for thread in self.threads:
            thread.start()

    def send(self):
        while not self.stop:
            try:
                self.sender.sendto(b"forbidden", self.address)
                self.sent += 1
            except OSError:
                pass  # a refusal by the node reaches the next call
            time.sleep(1 / RATE)

    def receive(self):
        while not self.stop:
            try:
                self.receiver.recv(64)
                self.got += 1
            except socket.timeout:
                continue

    def end(self):
        self.stop = True
        for thread in self.threads:
            thread.join()


class Campaign:
    """One host, its guard, and what is wrong with it."""

    def __init__(self, options):
        self.options, self.wrong = options, []
        self.node, self.outsider = Node(options.lab, "npu01"), Node(options.lab, "outsider")

    def complain(self, text):
        self.wrong.append(text)
        print(f"VIOLATION {text}", flush=True)

    def history(self, duty="firewall"):
        path = self.node.path(f"var/lib/vllm-guard-{duty}/history.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def recorded(self, since, seconds=PATIENCE, **fields):
        """The first record after `since` records that has these fields, waited for."""
        def find():
            return next((one for one in self.history()[since:] if all(re.search(str(value), str(one.get(key))) for key, value in fields.items())), None)
        return wait_for(find, seconds, 0.05)

    def wanted(self):
        return json.loads(self.node.path("var/lib/vllm-hardening/firewall/state.json").read_text())["confirmed"]["canonical"]

    def witness(self):
        """Eyes of its own on the table."""
        return Witness(self.node)

    def distrusts(self):
        """Whether the guard complains about what was confirmed."""
        return self.metric("alarm", kind="state") == 1

    def metric(self, name, **labels):
        """A value of the guard's metrics, 0 where it has none."""
        pairs = ",".join(f'{key}="{value}"' for key, value in {"duty": "firewall", **labels}.items())
        text = self.node.path("var/lib/vllm-guard-firewall/vllm_guard_firewall.prom").read_text()
        found = re.search(rf"^vllm_guard_{name}\{{{re.escape(pairs)}\}} (.*)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    @staticmethod
    def day(jump):
        """The date so many seconds from now."""
        return time.strftime("%Y-%m-%d", time.gmtime(time.time() + jump))

    def clock(self):
        """The time of day as the guard's processes see it jumps to and fro: nothing is missed, nothing intended is called drift."""
        offset = self.node.path("run/clock-offset")
        # Debian has a sitecustomize of its own; lines of *.pth files are run too.
        site = {self.node.path(f"usr/lib/python3/dist-packages/jumping_clock.{ending}"): text
                for ending, text in (("py", CLOCK), ("pth", "import jumping_clock\n"))}
        for path, text in site.items():
            path.write_text(text)
        offset.write_text("0")
        self.node.run("systemctl", "restart", UNIT, "vllm-guard-node.service")
        wait_for(self.guard_pid, PATIENCE, 0.1)
        wanted = self.wanted()
        for jump in (86400, -86400, 4 * 3.156e7, -60, 0):
            seen = len(self.history())
            offset.write_text(str(jump))
            day = self.day(jump)
            if self.witness().restored(wanted, lambda: self.node.run("sh", "-c", INJECTIONS["deleted"])) is None:
                self.complain(f"not restored after the clock jumped to {jump:+.0f} s")
            if not self.recorded(seen, kind="^ruleset$", outcome="^corrected$", at=f"{day}|{self.day(jump)}"):  # midnight may have passed
                self.complain(f"no record of {day}, to which the clock jumped: {self.history()[seen:]}")
        self.options.rollouts, rollouts = 2, self.options.rollouts
        offset.write_text("86400")
        self.rollouts()
        offset.write_text("-86400")
        self.rollouts()
        self.options.rollouts = rollouts
        self.node.run("python3", "-I", f"{PROGRAM}/guard.py", "maintenance", "0.05", "three", "seconds")
        self.node.run("nft", "delete", "table", "inet", "vllm_hardening")
        if not wait_for(lambda: in_network(self.node, loaded) == wanted, PATIENCE, 0.05):
            self.complain("maintenance did not end while the clock was wrong")
        for path in [*site, offset]:
            path.unlink()
        self.node.run("systemctl", "restart", UNIT, "vllm-guard-node.service")
        wait_for(self.guard_pid, PATIENCE, 0.1)
        print("a clock that jumps by a day and by years: all restored, nothing intended called drift, maintenance ended in time", flush=True)

    def strays(self):
        """What runs as an account of ours outside its units is ended; what is somebody else's is left, in a container of root's also with the same number."""
        seen = len(self.history("node"))
        for unit, user in (("stray", "vllm-guard"), ("neighbour", "daemon")):
            self.node.run("systemd-run", "--quiet", f"--unit={unit}", f"--uid={user}", "sleep", "600")
        self.node.run("systemd-run", "--quiet", "--unit=contained", "--property=KillSignal=SIGKILL", "unshare", "--pid", "--fork", "setpriv",
                      "--reuid=vllm-guard", "--regid=vllm-guard", "--clear-groups", "sleep", "700")
        active = "systemctl", "show", "--value", "--property=ActiveState"
        ended = wait_for(lambda: self.node.run(*active, "stray").strip() != "active", 2 * PATIENCE, 0.2)
        found = wait_for(lambda: [one for one in self.history("node")[seen:] if one["kind"] == "stray" and one["outcome"] == "corrected"], PATIENCE, 0.2)
        if not ended or not found or "sleep 600" not in found[0]["what"]:
            self.complain(f"a process outside the units was not ended, or not recorded: {self.history('node')[seen:]}")
        if not wait_for(lambda: [one for one in self.history("node")[seen:] if one["outcome"] == "seen" and "sleep 700" in one["what"]], PATIENCE, 0.2):
            self.complain(f"a container in which an account has the same number was not stated: {self.history('node')[seen:]}")
        for unit in ("neighbour", "contained"):
            if self.node.run(*active, unit).strip() != "active" or not self.guard_pid():
                self.complain(f"a process of somebody else ({unit}), or the guard, was ended")
            self.node.run("systemctl", "stop", unit)
        print("a process outside the units ended, those of others left", flush=True)

    def signed(self):
        """The same deceits, and worse ones, against signatures of the controller."""
        Signed(self).run()

    def guard_pid(self):
        return int(self.node.run("systemctl", "show", "--value", "--property=MainPID", UNIT) or 0)

    def running(self):
        """The guard's first process as this machine numbers it."""
        inner = self.guard_pid()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    numbers = re.search(r"^NSpid:\s+(.*)$", (entry / "status").read_text(), re.MULTILINE)[1].split()
                    if int(numbers[-1]) == inner and os.readlink(entry / "ns/pid") == os.readlink(f"/proc/{self.node.pid}/ns/pid"):
                        return int(entry.name)
                except (OSError, TypeError):
                    continue
        return None

    # -- the parts ------------------------------------------------------------------------------------------------------

    def injections(self):
        """Damage the filter in every way; it has to come back by itself, byte for byte, and the record has to say what and who."""
        count, dice = self.options.count, random.Random(self.options.seed)
        names = [name for name, dummy in zip(itertools.cycle(INJECTIONS), range(count))]
        dice.shuffle(names)
        witness, wanted = Witness(self.node), self.wanted()
        before, persisted = self.node.listing(), self.node.persisted()
        foreign = "table ip site { chain input { type filter hook input priority 10; policy accept; tcp dport 9 counter accept; }; }"
        intruder = Intruder(self.node, self.outsider, f"{self.options.block}.1.11")
        times, through = [], {}
        for number, name in enumerate(names):
            where, begun = f"injection {number} ({name})", time.monotonic()
            if name not in ("flushed", "restarted"):
                self.node.run("nft", "-f", "-", data=f"table ip site\ndelete table ip site\n{foreign}\n")
            seen, got = len(self.history()), intruder.got
            took = witness.restored(wanted, lambda name=name: self.node.run("sh", "-c", INJECTIONS[name], check=False))
            if took is None:
                self.complain(f"{where}: not restored within {PATIENCE:.0f} s:\n{self.node.listing()}")
                continue
            times.append(took)
            through[name] = through.get(name, 0) + intruder.got - got
            if name != "restarted":
                record = self.recorded(seen, kind="^ruleset$", outcome="^corrected$")
                if not record:
                    self.complain(f"{where}: no record says that it was corrected")
                elif not record.get("by") or record["by"]["command"] != "nft":
                    self.complain(f"{where}: the record does not say who did it: {record}")
                elif not record["before"] and not record["after"] and name != "dormant":
                    self.complain(f"{where}: the record does not say what changed: {record}")
            if self.node.listing() != before or self.node.persisted() != persisted:
                self.complain(f"{where}: not the rules of before")
            if name not in ("flushed", "restarted") and "table ip site" not in self.node.run("nft", "list", "tables"):
                self.complain(f"{where}: the table of the site is gone")
            wait_for(lambda: in_network(self.node, loaded) != wanted, begun + SPACING - time.monotonic(), 0.05)
        intruder.end()
        self.node.run("nft", "delete", "table", "ip", "site", check=False)
        if not times:
            return
        times.sort()
        print(f"{len(times)} injections restored: median {statistics.median(times):.3f} s, 95 % {times[int(0.95 * (len(times) - 1))]:.3f} s, "
              f"worst {times[-1]:.3f} s (from the kernel's notice to the wanted rules seen loaded)")
        print(f"forbidden datagrams accepted meanwhile: {sum(through.values())} of {intruder.sent} sent at up to {RATE} a second: "
              + ", ".join(f"{name} {number}" for name, number in sorted(through.items())), flush=True)
        if self.options.bars and (statistics.median(times) > MEDIAN or times[-1] > WORST):
            self.complain(f"restored later than promised: median {statistics.median(times):.3f} s, worst {times[-1]:.3f} s")

    def rollouts(self):
        """Intended changes, one in ten of them rolled back: none is drift."""
        contents, seen = [], len(self.history())
        base = self.node.path(RULES).read_text()
        content = base[base.index("delete table"):].partition("\n")[2]
        for number in range(self.options.rollouts):
            refused = number % 10 == 5
            text = content.replace("tcp dport 7443", f"tcp dport {20000 + number}")
            if refused:
                text = re.sub(r"tcp dport 22 ", "tcp dport 2222 ", text)
            contents.append({"name": f"rollout {number}", "content": text, "timeout": 5 if refused else 300, "refused": refused})
        contents.append({"name": "the rules of before", "content": content, "timeout": 300, "refused": False})
        with tempfile.NamedTemporaryFile("w", suffix=".json") as variables:
            json.dump({"contents": contents}, variables)
            variables.flush()
            done = subprocess.run(["ansible-playbook", "-i", str(self.node.files / "inventory.yml"), str(CHECKOUT / "tests/guard/rollouts.yml"),
                                   "-e", f"@{variables.name}"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
        if done.returncode:
            self.complain(f"the rollouts did not behave: {done.stdout[-1500:]}")
        wait_for(lambda: in_network(self.node, loaded) == self.wanted(), PATIENCE)
        records = [one for one in self.history()[seen:] if one["kind"] in ("ruleset", "state")]
        drift = [one for one in records if one["outcome"] not in ("intended", "ended")]
        if drift:
            self.complain(f"intended changes were called drift: {json.dumps(drift)[:1500]}")
        intended = sum(one.get("count", 1) for one in records if one["outcome"] == "intended")
        print(f"{len(contents) - 1} rollouts, {sum(one['refused'] for one in contents)} of them rolled back: {intended} recorded as intended, "
              f"{len(drift)} called drift", flush=True)

    def flood(self):
        """1,000 changes a second in a foreign table, and our table damaged all the while: nothing is lost, memory and processor time stay small."""
        self.node.run("nft", "add table ip banning; add set ip banning banned { type ipv4_addr; }")
        sender = in_network(self.node, lambda: netlink.NetlinkSocket(netlink.NETLINK_NETFILTER))
        witness, wanted, process = Witness(self.node), self.wanted(), self.running()
        tick = os.sysconf("SC_CLK_TCK")
        state = {"sent": 0, "stop": False}

        def send():
            began = time.monotonic()
            while not state["stop"]:
                while state["sent"] < 1000 * (time.monotonic() - began):
                    sender.send_batch(element(state["sent"]))
                    state["sent"] += 1
                time.sleep(0.005)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        begun, quiet = time.monotonic(), []
        (before, _children), memory = self.usage(process)
        while time.monotonic() < begun + self.options.flood / 2:  # first the flood alone
            time.sleep(0.2)
        (after, _children), _memory = self.usage(process)
        quiet = (after - before) / tick / (time.monotonic() - begun)
        injected = lost = 0
        while time.monotonic() < begun + self.options.flood:
            injected += 1
            name = ("deleted", "accepting", "opened")[injected % 3]
            if witness.restored(wanted, lambda name=name: self.node.run("sh", "-c", INJECTIONS[name], check=False)) is None:
                lost += 1
                self.complain(f"correction lost in the flood ({name})")
            time.sleep(0.5)
        _times, grown = self.usage(process)
        state["stop"] = True
        thread.join()
        sender.close()
        seconds = time.monotonic() - begun
        self.node.run("nft", "delete", "table", "ip", "banning")
        print(f"flood: {state['sent']} changes in {seconds:.0f} s ({state['sent'] / seconds:.0f} a second), {injected} injections, {lost} lost; the guard took "
              f"{100 * quiet:.2f} % of a core, its memory went from {memory >> 10} to {grown >> 10} KiB", flush=True)
        if process != self.running():
            self.complain("the guard was restarted in the flood")
        if state["sent"] < 900 * self.options.flood:
            print("(this machine did not manage 1,000 a second)")
        if grown > memory + (4 << 20):
            self.complain(f"the guard's memory grew from {memory} to {grown} bytes")
        if self.options.bars and quiet > CPU:
            self.complain(f"the guard took {100 * quiet:.2f} % of a core in the flood")

    def killed(self):
        """Killed, and the table deleted in the same moment."""
        witness, wanted = Witness(self.node), self.wanted()
        process = self.running()
        os.kill(process, signal.SIGKILL)
        took = witness.restored(wanted, lambda: self.node.run("sh", "-c", INJECTIONS["deleted"]))
        if took is None:
            self.complain("not restored after the guard was killed")
            return
        print(f"killed, and the table deleted: restored after {took:.2f} s", flush=True)

    def contended(self):
        """A program that removes the rules without end: the guard goes on at its pace, says so once, and once that it is over when that program is gone."""
        seen, wanted, process = len(self.history()), self.wanted(), self.running()
        self.node.run("systemd-run", "--quiet", "--unit=contender", "sh", "-c", f"while :; do nft delete table {TABLE}; sleep 0.02; done")
        if not wait_for(lambda: self.metric("alarm", kind="ruleset"), PATIENCE, 0.1):
            self.complain(f"nothing says that the rules are removed again and again: {self.history()[seen:]}")
        begun, before, used = time.monotonic(), self.corrections(), sum(self.usage(process)[0])
        if not wait_for(lambda: self.corrections() >= before + 4, PATIENCE, 0.1):
            self.complain("the guard gave up where the rules are removed again and again")
        made, seconds = self.corrections() - before, time.monotonic() - begun
        share = (sum(self.usage(process)[0]) - used) / os.sysconf("SC_CLK_TCK") / seconds
        if made > seconds + 2:
            self.complain(f"{made:.0f} corrections in {seconds:.1f} s, more than one a second")
        self.node.run("systemctl", "stop", "contender.service")
        if not wait_for(lambda: in_network(self.node, loaded) == wanted, PATIENCE, 0.02):
            self.complain("the rules did not come back when nothing removed them any more")
        back = time.monotonic()
        if not self.recorded(seen, outcome="^ended$", what="nothing keeps changing") or not wait_for(
                lambda: not self.metric("alarm", kind="ruleset"), PATIENCE, 0.1):
            self.complain(f"nothing says that the rules are removed no longer: {self.history()[seen:]}")
        over, records = time.monotonic() - back, self.history()[seen:]
        said = [(one["outcome"], one.get("count", 1)) for one in records if "keeps changing" in one["what"]]
        if said != [("failed", 1), ("ended", 1)]:
            self.complain(f"not said once each that the rules were removed again and again, and that it is over: {said}")
        if self.witness().restored(wanted, lambda: self.node.run("sh", "-c", INJECTIONS["deleted"])) is None:
            self.complain("not restored after the rules had been removed again and again")
        print(f"rules removed without end: {made:.0f} corrections in {seconds:.1f} s with {share:.1%} of a core, {len(records)} records in all; over after "
              f"{over:.0f} s", flush=True)

    def corrections(self):
        """How many corrections of the filter the guard's metrics have."""
        return self.metric("events_total", kind="ruleset", outcome="corrected")

    @staticmethod
    def usage(process):
        """``((processor time of its own, of its children), bytes of memory)`` of a process, in ticks."""
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")

    def tampered(self):
        """A forged, truncated or missing desired state is refused and said; the rules stay, and where nothing can be trusted the node is closed."""
        rules, state = self.node.path(RULES), self.node.path("var/lib/vllm-hardening/firewall/state.json")
        good, good_state, wanted = rules.read_text(), state.read_text(), self.wanted()
        forged = good.replace("chain input {", "chain input {", 1).replace('iif "lo" accept', "accept", 1)
        record = json.loads(good_state)
        record["confirmed"]["content"] = hashlib.sha256(forged[forged.index("delete table"):].partition("\n")[2].encode()).hexdigest()
        for name, text, state_text, says in (
            ("forged rules", forged, good_state, "not those of their record"),
            ("forged rules and record", forged, json.dumps(record), "seal"),
            ("truncated rules", good[:len(good) // 2], good_state, "not those of their record|truncated"),
            ("truncated record", good, good_state[:20], "truncated"),
            ("missing rules", None, good_state, "missing"),
        ):
            seen = len(self.history())
            write(rules, text)
            write(state, state_text)
            if not self.recorded(seen, kind="^state$", outcome="^refused$", what=says):
                self.complain(f"{name}: not refused: {self.history()[seen:]}")
            took = Witness(self.node).restored(wanted, lambda: self.node.run("sh", "-c", INJECTIONS["deleted"]))
            if took is None:
                self.complain(f"{name}: the rules of before were not put back")
            if name == "forged rules":
                self.node.run("systemctl", "restart", UNIT)
                self.node.run("nft", "delete", "table", "inet", "vllm_hardening", check=False)
                closed = wait_for(lambda: "policy drop" in self.node.listing(), PATIENCE, 0.1)
                if not closed or not wait_for(self.node.reachable, PATIENCE, 0.2) or "counter accept" in self.node.listing():
                    self.complain(f"{name}, and the guard restarted: not closed to all but SSH:\n{self.node.listing()}")
            write(rules, good)
            write(state, good_state)
            if not wait_for(lambda: in_network(self.node, loaded) == wanted, PATIENCE, 0.1):
                self.complain(f"{name}: the confirmed rules did not come back after they could be trusted again")
            if name != "forged rules" and not self.recorded(seen, kind="^state$", outcome="^ended$"):
                self.complain(f"{name}: nothing says that the state can be trusted again")
        print("forged, truncated and missing states refused", flush=True)

    def maintained(self):
        """A declared window is respected and ends; a declaration that is not root's, or too long, is not."""
        declare = self.node.path("run/vllm-hardening/maintenance.json")
        self.node.run("python3", "-I", f"{PROGRAM}/guard.py", "maintenance", "60", "tests", "of", "the", "site")
        seen = len(self.history())
        self.recorded(0, kind="^maintenance$", outcome="^seen$", what="tests of the site")
        self.node.run("nft", "delete", "table", "inet", "vllm_hardening")
        if not self.recorded(seen, kind="^ruleset$", outcome="^seen$", what="maintenance") or self.node.listing():
            self.complain("maintenance was not respected, or not recorded")
        self.node.run("python3", "-I", f"{PROGRAM}/guard.py", "maintenance", "0")
        wanted = self.wanted()
        if not wait_for(lambda: in_network(self.node, loaded) == wanted, PATIENCE, 0.05):
            self.complain("the rules did not come back when maintenance was over")
        for name, make in (("of a user", "chown daemon {0}"), ("that everybody may write", "chmod 666 {0}")):
            declare.write_text(json.dumps({"end": time.clock_gettime(time.CLOCK_BOOTTIME) + 600, "reason": "forged"}))
            self.node.run("sh", "-c", make.format("/run/vllm-hardening/maintenance.json"))
            if Witness(self.node).restored(wanted, lambda: self.node.run("sh", "-c", INJECTIONS["deleted"])) is None:
                self.complain(f"a declaration {name} was obeyed")
            declare.unlink()
        declare.write_text(json.dumps({"end": time.clock_gettime(time.CLOCK_BOOTTIME) + 10 * 86400, "reason": "for ever"}))
        if Witness(self.node).restored(wanted, lambda: self.node.run("sh", "-c", INJECTIONS["deleted"])) is None:
            self.complain("a declaration without a reasonable end was obeyed")
        declare.unlink()
        print("maintenance respected, ended, and not obeyed where it is not root's or too long", flush=True)

    def surface(self):
        """The guard listens on nothing, and nobody else can use what is its."""
        process = self.running()
        sockets = set()
        for entry in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed at this moment
                sockets.update(re.findall(r"^socket:\[(\d+)\]$", os.readlink(entry)))
        for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet", "unix"):
            for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
                waits = table != "unix" or int(line.split()[3], 16) & 0x10000  # a connected one leads to the journal
                if waits and sockets & set(line.split()):
                    self.complain(f"the guard has a socket in {table}: {line}")
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines() if ":\t" in line)
        if "0" in status["Uid"].split() or status["NoNewPrivs"] != "1" or status["Seccomp"] != "2" or int(status["CapBnd"], 16) != 1 << 12 | 1 << 2:
            self.complain(f"the guard has more than it needs: {status['Uid']}, {status['CapBnd']}, {status['NoNewPrivs']}, {status['Seccomp']}")
        files = self.node.run("find", PROGRAM, "/etc/vllm-hardening", "/var/lib/vllm-hardening", "/var/lib/vllm-guard-node",
                              "/etc/systemd/system/vllm-guard-firewall.service", "/etc/systemd/system/vllm-guard-node.service").split()
        for user in ("daemon", "vllm-guard"):
            writable = [path for path in files if self.may(user, "-w", path)]
            secret = [path for path in ("/var/lib/vllm-hardening/seal.key", f"/{RULES}", "/var/lib/vllm-hardening/applied/vllm_guard.json",
                                        "/run/vllm-hardening/applied.lock")  # who may read it may keep it
                      if self.may(user, "-r", path)]
            if writable or secret:
                self.complain(f"{user} may write {writable} and read {secret}")
        for path in ("/var/lib/vllm-guard-firewall/history.jsonl", "/var/lib/vllm-guard-firewall"):
            if self.may("daemon", "-w", path):
                self.complain(f"daemon may write {path}")
        scores = [self.node.run("systemd-analyze", "security", "--no-pager", unit).splitlines()[-1].split(":")[1].split()[0]
                  for unit in (UNIT, "vllm-guard-node.service")]
        print(f"listens on nothing, {len(files)} files out of the reach of others; systemd-analyze security: firewall {scores[0]}, "
              f"node {scores[1]}", flush=True)

    def may(self, user, how, path):
        return subprocess.run(["nsenter", f"--target={self.node.pid}", "--all", "--", "runuser", "-u", user, "--", "test", how, path],
                              check=False, capture_output=True).returncode == 0

    def parameters(self):
        """A kernel parameter and a file go back to what was applied."""
        seen, seen_node = len(self.history()), len(self.history("node"))
        self.node.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 2000")
        self.node.run("sh", "-c", "echo net.ipv4.conf.all.accept_redirects=1 > /etc/sysctl.d/90-vllm-hardening.conf")
        if not self.recorded(seen, kind="^parameter$", outcome="^corrected$", what="ip_local_port_range", before="1024"):
            self.complain("a kernel parameter was not corrected")
        found = wait_for(lambda: [one for one in self.history("node")[seen_node:] if one["outcome"] == "corrected" and "90-vllm" in one["what"]], PATIENCE, 0.2)
        text = self.node.path("etc/sysctl.d/90-vllm-hardening.conf").read_text()
        if not found or "28000 28999" not in text:
            self.complain(f"a file was not corrected: {text}")
        program = f"{PROGRAM}/{MODULES}/guard_firewall.py"
        before, good = self.guard_pid(), self.node.path(program.lstrip("/")).read_text()
        self.node.run("systemctl", "stop", "vllm-guard-node.service")
        self.node.path(program.lstrip("/")).write_text(good.replace("def restore(self, table, live):", "def restore(self, table, live):\n        return None"))
        self.node.run("systemctl", "restart", UNIT)
        broken, wanted = self.guard_pid(), self.wanted()
        self.node.run("systemctl", "start", "vllm-guard-node.service")
        self.node.run("nft", "delete", "table", "inet", "vllm_hardening")
        if not wait_for(lambda: self.node.path(program.lstrip("/")).read_text() == good and self.guard_pid() not in (0, before, broken)
                        and in_network(self.node, loaded) == wanted, 2 * PATIENCE, 0.2):
            self.complain("a guard that was changed and restarted was not put right by the other one")
        print("a kernel parameter, a file, and the guard's own program corrected", flush=True)


def write(path, text):
    """Put a text in place as a confirmed change would, or remove it."""
    if text is None:
        path.unlink()
        return
    path.with_name(path.name + ".test").write_text(text)
    os.chmod(path.with_name(path.name + ".test"), 0o600)
    path.with_name(path.name + ".test").rename(path)


def element(number):
    """A transaction that adds an address to the foreign set, or takes it away again."""
    key = netlink.pack_nested(1, netlink.pack_attribute(1, struct.pack(">I", 0x0A000000 + number // 2 % 512)))
    body = struct.pack(">BBH", 2, 0, 0) + netlink.pack_attribute(1, "banning") + netlink.pack_attribute(2, "banned")
    body += netlink.pack_nested(3, netlink.pack_nested(1, key))
    edge = struct.pack(">BBH", 0, 0, 10)
    kind, flags = ((10 << 8) | 12, 0x400) if number % 2 == 0 else ((10 << 8) | 14, 0)
    return [(0x10, 0, edge), (kind, flags, body), (0x11, 0, edge)]


PARTS = ("injections", "rollouts", "parameters", "clock", "strays", "maintained", "tampered", "surface", "killed", "contended", "flood", "signed")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20, help="injections")
    parser.add_argument("--rollouts", type=int, default=2)
    parser.add_argument("--flood", type=float, default=6, help="seconds")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--bars", action="store_true", help="hold the times to what is promised")
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--lab", default="guard")
    parser.add_argument("--block", default="10.84")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    options = parser.parse_args()
    subprocess.run([LAB, "up", "--name", options.lab, "--block", options.block, "--hosts", "npu01,outsider"], check=True)
    try:
        inventory = str(CHECKOUT / ".build/labs" / options.lab / "inventory.yml")
        playbook = str(CHECKOUT / "tests/guard/prepare.yml")
        subprocess.run(["ansible-playbook", "-i", inventory, playbook, "-e", f"guard_block={options.block}"], check=True, cwd=CHECKOUT,
                       stdout=subprocess.DEVNULL)
        campaign = Campaign(options)
        if not wait_for(campaign.guard_pid, PATIENCE, 0.1):
            raise SystemExit("the guard does not run")
        for part in options.only or PARTS:
            begun = time.monotonic()
            getattr(campaign, part)()
            print(f"  ({part}: {time.monotonic() - begun:.0f} s)", flush=True)
    finally:
        if not options.keep:
            subprocess.run([LAB, "down", "--name", options.lab], check=True)
    print(f"{len(campaign.wrong)} violations")
    return 1 if campaign.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

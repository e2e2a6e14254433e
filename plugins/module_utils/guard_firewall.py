# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The guard of the packet filter: hears of every change of the ruleset from the kernel and puts our table back.

Needs CAP_NET_ADMIN (netlink, nft, the kernel parameters of the network) and CAP_DAC_READ_SEARCH (the confirmed rules are root's).
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import select
import socket
import subprocess
import time

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import guard, nft_change, nft_ruleset, sealing, signing
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.confirmed_change import Journal, Staged, now
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_boot import PERMANENT, RULES, VOLATILE
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_users import user_number
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.guard_history import plain
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.guard_records import Records, notify, read_text
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_snapshot import fingerprint

MAINTENANCE = "/run/vllm-hardening/maintenance.json"
NFT = ("/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft")

_GROUP = 1 << 6  # NFNLGRP_NFTABLES is 7
_SO_RCVBUFFORCE = 33
_BUFFER = 4 << 20
_NFT_SECONDS = 10.0
BUSY_SECONDS = 0.1  # how often a node with a change under way is looked at again
GATHER_SECONDS = 0.02  # between two looks at a stream of events
REST_SECONDS = 2.0  # how often what sends no events is looked at
FULL_SECONDS = 10.0
SETTLE_SECONDS = 1.0  # how long a state has to look wrong on disk before it counts: files are renamed one after the other
LOCK_SECONDS = 60.0  # how long a process may keep the lock of changes until it is taken for one that hangs
AT_ONCE = 1 << 14  # notices that are taken before the table is looked at: whoever makes them without end keeps the guard from nothing else


class Events:
    """The kernel's notices of changed rulesets."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, nft_ruleset.NETLINK_NETFILTER)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self.socket.bind((0, _GROUP))

    def drain(self):
        """What waits, as `guard.Notices`. Lost notices count as a change of everything."""
        notices = guard.Notices()
        for _number in range(AT_ONCE):
            try:
                notices.take(self.socket.recv(1 << 16))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                notices.ours = notices.others = True
        return notices


class Window:
    """The declared maintenance."""

    def __init__(self, records, path=MAINTENANCE):
        self.records, self.path, self.open, self.complaint = records, path, None, None

    def look(self):
        """Whether maintenance is declared now."""
        found, complaint = None, None
        try:
            with open(self.path, encoding="utf-8", opener=plain) as stream:
                status = os.fstat(stream.fileno())
                found = guard.window(stream.read(), status.st_uid, status.st_mode, now())
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError, sealing.Untrusted) as error:
            complaint = str(error)
        if complaint != self.complaint:
            self.complaint = complaint
            if complaint:
                self.records.add("maintenance", "refused", complaint)
        if found != self.open:
            if found:
                self.records.add("maintenance", "seen", f"maintenance for {found[0] - now():.0f} s: {found[1]}")
            else:
                self.records.add("maintenance", "ended", "maintenance is over")
        self.open = found
        self.records.set("maintenance", int(bool(found)))
        return bool(found)


class Contention:
    """Somebody keeps undoing what the guard corrects: it goes on, but not at every turn, says so once, and once that it is over."""

    def __init__(self, records, kind, what, pace):
        self.records, self.kind, self.what, self.pace, self.told = records, kind, what, pace, False

    def look(self):
        """Whether it is so now."""
        alarm = self.pace.alarm(now())
        if alarm != self.told:
            self.told = alarm
            if alarm:
                self.records.add(self.kind, "failed", f"something keeps changing {self.what}; corrections are made every {self.pace.interval:.0f} s")
            else:
                self.records.add(self.kind, "ended", f"nothing keeps changing {self.what} any more")
        return alarm

    def wait(self):
        """Seconds until the next correction."""
        return self.pace.wait(now())

    def rest(self):
        """Seconds until it is over where nothing is undone any more, or None where nothing is."""
        return self.pace.rest(now())

    def note(self):
        """A correction was made."""
        self.pace.note(now())


class FirewallGuard:
    """Keeps the table what it was last confirmed to be."""

    def __init__(self, directory, settings):
        self.settings, self.signatures = settings, signing.Trust(settings, directory)
        self.records = Records(directory, "firewall")
        self.journal = Journal(VOLATILE, PERMANENT)
        self.window = Window(self.records)
        self.contention = Contention(self.records, "ruleset", "the table", guard.Pace())
        self.events = Events()
        self.nft = next((path for path in NFT if os.access(path, os.X_OK)), NFT[0])
        self.confirmed = self.text = None  # the last confirmed record that could be trusted, and its rules
        self.stamp = self.distrust = self.distrusted_since = None
        self.good = None  # fingerprint of the table when it was last in order
        self.doubt = self.doubted = None  # a fingerprint that restored rules gave instead of the recorded one
        self.began = self.by = None
        self.unreadable_since = self.locked_since = None
        self.confirmed_since = {}
        self.told = None
        self.foreign, self.foreign_due, self.foreign_known = True, 0.0, None

    # -- what is trusted ------------------------------------------------------------------------------------------------

    def trust(self):
        """Read what was last confirmed, where it changed. What cannot be trusted does not replace what could be."""
        paths = (RULES, self.journal.state_file, sealing.KEY)
        stamp = tuple(_stamp(path) for path in paths)
        if stamp == self.stamp and self.distrust is None:
            return
        try:
            confirmed, text = self.believable()
        except (OSError, sealing.Untrusted) as error:
            if not os.path.lexists(RULES) and guard.removed(self.journal.changes()) and not self.signatures.required:
                self.confirmed = self.text = self.distrust = self.distrusted_since = None
                return
            if self.text is None:
                self.confirmed = self.record()
            if self.distrusted_since is None:
                self.distrusted_since = now()
            if now() - self.distrusted_since >= SETTLE_SECONDS and str(error) != self.distrust:
                self.distrust = str(error)
                kept = "the rules of before are kept" if self.text else "no rules of before are known"
                self.records.add("state", "refused", f"{error}; {kept}")
                self.records.set("alarm", 1, kind="state")
            return
        if self.distrust:
            self.records.add("state", "ended", "the confirmed rules can be trusted again")
        self.distrust = self.distrusted_since = None
        self.records.set("alarm", 0, kind="state")
        self.stamp = stamp
        if self.confirmed and confirmed["canonical"] != self.confirmed["canonical"]:
            self.records.add("ruleset", "intended", f"change {confirmed.get('id')} of {confirmed.get('at')} was confirmed")
        if self.confirmed != confirmed:
            self.doubt = None
        self.confirmed, self.text = confirmed, text

    def believable(self):
        """What was last confirmed, as far as it is sealed and, where that is asked for, signed. Raises Untrusted, OSError."""
        confirmed, text = guard.confirmed_rules(read_text(self.journal.state_file), read_text(RULES), sealing.read_key())
        if not self.signatures.required:
            return confirmed, text
        content = guard.content_of(text)
        guard.signed_rules(confirmed, content, self.signatures, user_number)
        return {**confirmed, "canonical": self.measure(content)}, text

    def measure(self, content):
        """The fingerprint that the kernel gives signed rules: that of the record is the node's own word, which nobody signed.

        They are loaded into a table of another name that is asleep, so that nothing that passes meets them. Raises Untrusted.
        """
        removal = nft_change.removal(f"{guard.FAMILY} {guard.TRIAL}")
        complaint = self.load(guard.trial_rules(content))
        if complaint:
            raise sealing.Untrusted(f"nft does not load the confirmed rules: {complaint[:300]}")
        try:
            tables = nft_ruleset.read_ruleset(guard.TRIAL, guard.FAMILY)["tables"]
        finally:
            self.load(removal)
        if not tables:
            raise sealing.Untrusted("somebody removed the table in which the confirmed rules are tried")
        table = {**tables[0], "name": guard.NAME, "flags": tables[0]["flags"] & ~nft_ruleset.TABLE_DORMANT}
        return fingerprint(nft_ruleset.canonical(table))

    def load(self, text):
        """Give nft a text; its complaint, or an empty one."""
        try:
            done = subprocess.run([self.nft, "-f", "-"], input=text, capture_output=True, text=True, timeout=_NFT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        return (done.stderr.strip() or f"exit status {done.returncode}") if done.returncode else ""

    def record(self):
        """The record of the confirmed rules where that at least can be trusted, or None. Where signatures are asked for it is no more than a claim."""
        try:
            return None if self.signatures.required else guard.sealed_record(read_text(self.journal.state_file), sealing.read_key())
        except (OSError, sealing.Untrusted):
            return None

    def wanted(self):
        """The fingerprint of the confirmed table on this kernel, or None."""
        return self.doubt or (self.confirmed or {}).get("canonical")

    # -- the table ------------------------------------------------------------------------------------------------------

    def check(self):
        """Compare and correct. Returns the seconds after which to look again although nothing happens, or None."""
        self.trust()
        table, live = self.look()
        self.records.set("last_check_timestamp_seconds", int(time.time()))
        if live and live == self.wanted():
            return self.in_order(live)
        reason = self.hold()
        if reason:
            return reason
        lock = self.take_lock()
        if lock is None:
            return BUSY_SECONDS
        with lock:
            return self.hold() or self.check_again()

    def check_again(self):
        """Compare once more and correct, with the lock held and no change under way: only now does what is on disk stay what it is."""
        self.trust()
        if self.distrusted_since is not None and self.distrust is None:
            return BUSY_SECONDS
        table, live = self.look()
        return self.in_order(live) if live and live == self.wanted() else self.restore(table, live)

    def look(self):
        """As table(). A table that cannot be read for SETTLE_SECONDS, as one that somebody keeps changing, counts as another than the confirmed one."""
        try:
            found = self.table()
        except nft_ruleset.RulesetUnreadable as error:
            self.unreadable_since = now() if self.unreadable_since is None else self.unreadable_since
            self.tell("failed", f"the ruleset cannot be read: {error}")
            if now() - self.unreadable_since < SETTLE_SECONDS:
                raise
            self.records.set("alarm", 1, kind="ruleset")
            return None, ""
        self.unreadable_since = None
        return found

    @staticmethod
    def table():
        """Our table as the kernel holds it, and its fingerprint; ``(None, "")`` where there is none."""
        tables = nft_ruleset.read_ruleset(guard.NAME, guard.FAMILY)["tables"]
        return (tables[0], fingerprint(nft_ruleset.canonical(tables[0]))) if tables else (None, "")

    def in_order(self, live):
        self.good = live
        self.began = self.by = self.told = self.locked_since = None
        self.records.set("alarm", int(self.contention.look()), kind="ruleset")
        return self.contention.rest()

    def hold(self):
        """Seconds to wait because somebody is entitled to what is going on, or None."""
        if self.began is None:
            self.began = now()
        changes = self.changes()
        if guard.change_under_way(changes, now(), lambda path: os.path.lexists(path + Staged.SUFFIX)):
            return BUSY_SECONDS
        if guard.removed(changes) and not os.path.lexists(RULES) and not self.signatures.required:
            self.tell("seen", "the filter was taken away by a confirmed change")
            return REST_SECONDS
        if self.window.look():
            self.tell("seen", "the table differs during maintenance")
            return REST_SECONDS
        return self.contention.wait() or None

    def changes(self):
        """What the journal knows, and since when this guard has seen what is confirmed: the times of files are the time of day, which may jump."""
        changes = self.journal.changes()
        known = self.confirmed_since
        self.confirmed_since = {identifier: known.get(identifier, now()) for identifier, (state, _record) in changes.items() if state == "confirmed"}
        for identifier, since in self.confirmed_since.items():
            changes[identifier][1]["since"] = since
        return changes

    def tell(self, outcome, what, before=(), after=()):
        """Record a state of the table once."""
        if self.told != (outcome, what):
            self.told = (outcome, what)
            self.records.add("ruleset", outcome, what, before, after, by=self.by)

    def take_lock(self):
        """The lock of changes of the firewall, or None where another process has it. One that never ends keeps it for LOCK_SECONDS at most."""
        try:
            stream = open(os.path.join(VOLATILE, "lock"), encoding="utf-8")
        except FileNotFoundError:
            return open(os.devnull, encoding="utf-8")  # nobody has changed anything since the node started
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.locked_since = now() if self.locked_since is None else self.locked_since
            if now() - self.locked_since < LOCK_SECONDS:
                stream.close()
                return None
            self.tell("failed", f"a process keeps the lock of changes of the filter for more than {LOCK_SECONDS:.0f} s; it is waited for no longer")
            self.records.set("alarm", 1, kind="ruleset")
            return stream
        self.locked_since = None
        return stream

    def restore(self, table, live):
        """Load the confirmed rules, or close the node where there are none to trust."""
        text, what = self.text, "the confirmed rules"
        if text is None:
            if table is not None and live == self.good:
                return REST_SECONDS
            if table is not None and self.confirmed is None and self.good is None and _refuses(table):
                self.good = live
                self.tell("failed", f"the table cannot be compared: {self.distrust}; it is left as it is")
                return REST_SECONDS
            text, what = nft_change.replacement(guard.TABLE, guard.emergency_rules(*self.emergency())), "emergency rules, closed to all but SSH"
        had = guard.rules_in_words(table)
        self.contention.note()
        generation = nft_ruleset.generation()
        complaint = self.load(text)
        if complaint:
            self.tell("failed", f"nft does not load {what}: {complaint[:300]}", had)
            self.records.set("alarm", 1, kind="ruleset")
            if self.text is not None and self.unreadable_since is None and not (table and _refuses(table)):
                self.close(had)
            return max(self.contention.wait(), BUSY_SECONDS)
        ended = now()
        try:
            found, after = self.table()
        except nft_ruleset.RulesetUnreadable:
            found, after = None, ""
        words = guard.rules_in_words(found)
        before, now_there = guard.changed_lines(had, words)
        if self.unreadable_since is not None:
            state = "the table could not be read"
        elif table is None:
            state = "the table was gone"
        else:
            state = "rules of the table were changed" if before or now_there else "what is beside the rules of the table was changed"
        took = ended - self.began
        self.records.add("ruleset", "corrected", f"{state}; {what} are loaded", before, now_there if table is not None else [f"{len(words)} lines"],
                         often=self.contention.told, by=self.by, began=round(self.began, 3), seconds=round(took, 4))
        self.records.set("last_correction_seconds", round(took, 4))
        if self.contention.look():
            self.records.set("alarm", 1, kind="ruleset")
        if self.text is None:
            self.good = after
        elif after and after != self.wanted() and nft_ruleset.generation() == generation + 1:
            # Nothing but this transaction happened, so the kernel words the same rules otherwise since they were confirmed (an upgrade).
            # Believed when it does so twice.
            self.doubt, self.doubted = (after if after == self.doubted else None), after
        self.began = self.by = None
        return 0.0

    def close(self, had):
        """Load the emergency rules where the confirmed ones cannot be loaded, as on a node that is half through an upgrade, and nothing refuses."""
        if not self.load(nft_change.replacement(guard.TABLE, guard.emergency_rules(*self.emergency()))):
            self.records.add("ruleset", "corrected", "nothing refused; emergency rules, closed to all but SSH, are loaded", guard.changed_lines(had, [])[0],
                             by=self.by)

    def emergency(self):
        users = [user.pw_uid for user in pwd.getpwall() if user.pw_name.startswith("vllm-") and user.pw_uid != os.getuid()]
        return self.settings["ssh_port"], self.settings["administrators"], users

    # -- rules of others ------------------------------------------------------------------------------------------------

    def look_around(self):
        """State rules of others that lead packets around the filter. They are never touched. Costs at most 1 % of a core."""
        begun = time.monotonic()
        try:
            found = guard.threats(nft_ruleset.read_ruleset()["tables"])
        except nft_ruleset.RulesetUnreadable:
            found = None
        self.foreign = found is None
        self.foreign_due = now() + max(1.0, 100 * (time.monotonic() - begun))
        if found is None or found == self.foreign_known:
            return
        before, after = guard.changed_lines(self.foreign_known or [], found)
        if before or after:
            self.records.add("foreign", "seen", "rules of others that act before or beside the filter changed", before, after)
        self.foreign_known = found
        self.records.set("alarm", int(bool(found)), kind="foreign")

    # -- the loop -------------------------------------------------------------------------------------------------------

    def run(self, others=()):
        """For ever. `others` are callables that are made every REST_SECONDS, such as the comparison of kernel parameters."""
        poll = select.poll()
        poll.register(self.events.socket, select.POLLIN)
        again, rest, full = 0.0, 0.0, 0.0
        notify("READY=1")
        while True:
            moment = now()
            if again is not None and moment >= again:
                try:
                    delay = self.check()
                except nft_ruleset.RulesetUnreadable as error:
                    self.tell("failed", f"the ruleset cannot be read: {error}")
                    delay = BUSY_SECONDS
                again = None if delay is None else now() + delay
            if moment >= full:
                full = moment + FULL_SECONDS
                again = again if again is not None else moment
            if moment >= rest:
                rest = moment + REST_SECONDS
                notify("WATCHDOG=1")
                self.trust()
                self.window.look()
                for other in others:
                    try:
                        other()
                    except OSError as error:
                        self.records.add("parameter", "failed", f"the parameters cannot be compared: {error}")
            if self.foreign and moment >= self.foreign_due:
                self.look_around()
            self.records.flush(force=False)
            self.records.export()
            due = [rest, full] + ([again] if again is not None else []) + ([self.foreign_due] if self.foreign else [])
            if poll.poll(max(0.0, min(due) - now()) * 1000 + 1):
                notices = self.events.drain()
                self.foreign = self.foreign or notices.others
                if notices.ours:
                    if self.began is None:
                        self.began = now()
                    self.by = notices.by or self.by
                    again = now() + self.contention.wait()
                if not notices.ours or self.contention.wait():
                    time.sleep(GATHER_SECONDS)


def _stamp(path):
    try:
        found = os.stat(path)
    except OSError as error:
        return error.errno
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _refuses(table):
    """Whether a table has a chain at input that drops what no rule accepts."""
    return any(chain["hook"] == guard.INPUT and chain["policy"] == 0 for chain in table["chains"].values()) and not table["flags"] & nft_ruleset.TABLE_DORMANT

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The guard of what was applied to a node: kernel parameters, accounts, files, units, listeners.

`Parameters` needs CAP_NET_ADMIN only (the kernel parameters of the network); `NodeGuard` needs root, as it writes what root owns and starts units.
Both look every few seconds: most of it sends no events.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import applied, guard, node_edge, node_state, sealing, signing, units
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.confirmed_change import now
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.guard_firewall import REST_SECONDS, Contention, Window, _stamp
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.guard_records import Records, notify
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.udp_responder import read_others

OWN = "vllm_guard"
LOOK_SECONDS = 1.0
FULL_SECONDS = 15.0
UNFINISHED_SECONDS = 900.0
COMMAND_SECONDS = 120.0
CORRECTING = ("file", "ownership", "directory", "remove", "groupadd", "groupmod", "useradd", "usermod", "daemon_reload", "nothing")


class Applied:
    """The sealed states of a node, read again where they change. What cannot be trusted does not replace what could be."""

    def __init__(self, records, trust=None):
        self.records, self.trust, self.states, self.stamps, self.complaints = records, trust, {}, {}, {}
        self.begun, self.late = {}, []

    def look(self):
        """``{concern: params}`` of what is trusted and not being applied at this moment."""
        names, begun = applied.concerns()
        self.unfinished(begun)
        for concern in sorted({*names, *self.states}):
            stamp = _stamp(os.path.join(applied.DIRECTORY, f"{concern}.json")), _stamp(sealing.KEY)
            if stamp == self.stamps.get(concern):
                continue
            try:
                found = applied.read(concern, sealing.read_key(), trust=self.trust)
            except FileNotFoundError:
                self.complain(concern, f"what was applied as {concern} is missing")
            except (OSError, sealing.Untrusted) as error:
                self.complain(concern, str(error))
            else:
                if concern in self.states and self.states[concern]["digest"] != found["digest"]:
                    self.records.add("state", "intended", f"{concern} was applied anew at {found['at']}")
                self.states[concern], self.stamps[concern] = found, stamp
                if self.complaints.pop(concern, None):
                    self.records.add("state", "ended", f"{concern} can be trusted again")
        self.records.set("alarm", int(bool(self.complaints)), kind="state")
        return {concern: state["params"] for concern, state in self.states.items() if concern not in begun}

    def unfinished(self, begun):
        """Say where a run broke off in the middle: the concern is left alone until one ends well."""
        self.begun = {concern: self.begun.get(concern, now()) for concern in begun}
        late = sorted(concern for concern, since in self.begun.items() if now() - since > UNFINISHED_SECONDS)
        if late != self.late:
            self.late = late
            if late:
                self.records.add("state", "seen", f"{', '.join(late)} was begun to be applied and never finished; it is not corrected until a run ends well")
        self.records.set("alarm", int(bool(late)), kind="unfinished")

    def complain(self, concern, text):
        if self.complaints.get(concern) != text:
            self.complaints[concern] = text
            kept = "what was known before is kept" if concern in self.states else "it is not looked after"
            self.records.add("state", "refused", f"{text}; {kept}")


class Parameters:
    """Kernel parameters of the network, live."""

    def __init__(self, records, trust=None):
        self.records, self.applied, self.window, self.told = records, Applied(records, trust), Window(records), set()
        # As often as it looks: whoever undoes one parameter keeps it from none.
        self.contention = Contention(records, "parameter", "kernel parameters", guard.Pace(burst=10, interval=REST_SECONDS))

    def look(self):
        """Compare and correct."""
        self.records.set("alarm", int(self.contention.look()), kind="parameter")
        if not self.differing() or self.window.look():
            return
        try:
            with applied.lock(0.0, make=False):
                self.correct(self.differing())  # what was applied may be new by now, and is not while the lock is held
        except applied.Busy:
            return

    def differing(self):
        """``[(key, value there, value applied)]``."""
        found = []
        for params in self.applied.look().values():
            values = {key: str(value) for key, value in ((params.get("sysctls") or {}).get("values") or {}).items()}
            live = node_edge.observe_sysctls(_Values(values), ())
            for key, value in node_state.sysctl_wanted(values, live).items():
                if live[key] is not None and node_state.normal_sysctl(key, live[key]) != node_state.normal_sysctl(key, value):
                    found.append((key, live[key], value))
        self.told &= {key for key, _have, _value in found}
        return found

    def correct(self, differing):
        """Write what was applied."""
        written = False
        for key, have, value in differing:
            try:
                with open(f"{node_edge.SYSCTL_ROOT}/{node_state.sysctl_path(key)}", "w", encoding="ascii") as handle:
                    handle.write(value + "\n")
            except OSError as error:
                if key not in self.told:
                    self.told.add(key)
                    self.records.add("parameter", "failed", f"{key} cannot be written: {error.strerror}", [have], [value])
                continue
            written = True
            self.records.add("parameter", "corrected", key, [have], [value])
        if written:
            self.contention.note()


class _Values:
    def __init__(self, values):
        self.sysctls = values


class _Runner:
    """What `node_edge.Node` asks of a module."""

    def run_command(self, command):
        """``(status, output, error)``; what does not end in time has failed."""
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return 124, "", f"no answer within {COMMAND_SECONDS:.0f} s"
        return done.returncode, done.stdout, done.stderr

    def set_default_selinux_context(self, path, changed):
        """Leave the label to restorecon, where there is one."""
        for tool in ("/usr/sbin/restorecon", "/sbin/restorecon"):
            if os.access(tool, os.X_OK):
                self.run_command([tool, path])
                return True
        return changed


class NodeGuard:
    """Keeps files, accounts and units what was last applied, and states listeners that the plan does not know."""

    def __init__(self, directory, settings):
        self.settings = settings
        self.records = Records(directory, "node")
        self.applied, self.window = Applied(self.records, signing.Trust(settings, directory)), Window(self.records)
        self.contentions, self.stamps, self.told = {}, {}, {}
        self.listeners, self.put_back = None, set()
        self.strays, self.ended, self.failed = set(), set(), {}

    def run(self):
        """For ever."""
        notify("READY=1")
        full = 0.0
        while True:
            notify("WATCHDOG=1")
            moment = now()
            everything = moment >= full
            if everything:
                full = moment + FULL_SECONDS
            held = self.window.look()
            for concern, params in self.applied.look().items():
                try:
                    if everything or self.moved(concern, params):
                        self.look_after(concern, params, held)
                except (node_state.Refusal, node_edge.Failed, OSError) as error:
                    self.cannot(concern, str(error))
                except (LookupError, TypeError, ValueError) as error:
                    self.cannot(concern, f"it was applied by another version of this collection ({error!r}); run the role again")
            if everything:
                self.records.set("last_check_timestamp_seconds", int(time.time()))
                self.look_at_listeners()
                self.look_at_strays(held)
            self.records.flush(force=False)
            self.records.export()
            time.sleep(LOOK_SECONDS)

    def moved(self, concern, params):
        """Whether a file of a concern is another one than at the last look: two system calls a file, no content."""
        desired = node_state.Desired(params)
        stamps = {path: _stamp(path) for path in [*desired.all_files(), *([desired.sysctl_file] if desired.sysctl_file else [])]}
        same = self.stamps.get(concern) == stamps
        self.stamps[concern] = stamps
        return not same

    def look_after(self, concern, params, held):
        """Compare a concern and correct what deviates."""
        desired = node_state.Desired(params)
        steps, contention = self.steps(desired)[0], self.contention(concern)
        if not node_state.visible(steps):
            self.told.pop(concern, None)
            self.failed.pop(concern, None)
            self.records.set("alarm", int(contention.look()), kind=concern)
            return
        if held:
            self.tell(concern, "seen", steps, "during maintenance")
            return
        if contention.wait():
            return
        try:
            with applied.lock(0.0):
                if concern in applied.concerns()[1]:
                    return
                fresh = self.applied.look().get(concern)
                if fresh is None:
                    return
                desired = node_state.Desired(fresh)
                self.correct(concern, desired, *self.steps(desired))
                self.reload(concern, fresh.get("reloads") or {})
        except applied.Busy:
            return

    def steps(self, desired):
        node = node_edge.Node(_Runner(), desired)
        have = node.observe()
        # Live parameters are the other duty's; here only their file counts.
        have["sysctls"].update(node_state.sysctl_wanted(desired.sysctls, have["sysctls"]))
        return node_state.difference(desired, have), have

    def correct(self, concern, desired, steps, have):
        """Files and accounts are put back. What runs from changed files, or runs though it should not, is stopped or restarted as the inventory says."""
        node = node_edge.Node(_Runner(), desired)
        policy = "restart" if concern == OWN else self.settings["services"]  # a guard that stays stopped guards nothing
        done, failed, left = [], [], []
        outdated = started_from_others(desired, steps, have, {path: _changed_at(path) for path in desired.all_files()})
        wanted = []
        for step in node_state.visible(steps):
            if step.verb == "systemctl":
                wanted.append(step)
            elif step.verb not in CORRECTING:
                left.append(step)
        reload = [step for step in steps if step.verb == "daemon_reload"]
        for step in [one for one in steps if one.verb in CORRECTING and one.verb not in ("daemon_reload", "nothing")] + reload:
            try:
                node.carry_out(step)
                if step.before != step.after:
                    done.append(step)
            except (node_edge.Failed, OSError) as error:
                failed.append((step, str(error)))
        for step in wanted:
            unit, verb = step.data["name"], step.data["verb"]
            if verb == "restart" and unit not in outdated:
                continue  # it runs from what was applied; that something it was started from is newer is a run's business
            chosen = service_verb(verb, policy)
            if chosen is None:
                left.append(step)
                continue
            try:
                node.do_systemctl(chosen, unit)
                done.append(step._replace(after={**step.after, "guard": chosen}))
            except node_edge.Failed as error:
                failed.append((step, str(error)))
        if done:
            self.contention(concern).note()
        self.put_back = {step.data["path"] for step in done if "path" in step.data}
        for step in done:
            self.records.add("node", "corrected", f"{step.resource} ({concern})", [_pairs(step.before)], [_pairs(step.after)])
        told = self.failed.get(concern, set())
        self.failed[concern] = {(step.resource, error) for step, error in failed}  # tried at every look, said once
        for step, error in failed:
            if (step.resource, error) not in told:
                self.records.add("node", "failed", f"{step.resource} ({concern}): {error[:300]}", [_pairs(step.before)], [_pairs(step.after)])
        if left:
            self.tell(concern, "seen", left, "left as it is")
        self.records.set("alarm", int(bool(failed or left or self.contention(concern).look())), kind=concern)

    def contention(self, concern):
        """That over one concern: whoever undoes it keeps the guard from no other."""
        return self.contentions.setdefault(concern, Contention(self.records, "node", f"what was applied as {concern}",
                                                               guard.Pace(burst=10, seconds=160.0, interval=10.0)))

    def reload(self, concern, reloads):
        """Let units read again what was put back: ``{path: [names of the unit, of which one is this node's]}``. A reload stops nothing."""
        for names in sorted({tuple(names) for path, names in reloads.items() if path in self.put_back}):
            for name in names:
                if _Runner().run_command(["systemctl", "reload", name])[0] == 0:
                    self.records.add("node", "corrected", f"unit {name} ({concern})", ["reads a file that was put back"], ["reloaded"])
                    break
            else:
                self.records.add("node", "failed", f"{' or '.join(names)} ({concern}) cannot be reloaded")

    def tell(self, concern, outcome, steps, why):
        """Record deviations that stay, once."""
        lines = sorted(f"{step.resource}: {_pairs(step.before)} instead of {_pairs(step.after)}" for step in node_state.visible(steps))
        if self.told.get(concern) != lines:
            self.told[concern] = lines
            self.records.add("node", outcome, f"{concern} deviates, {why}", lines)

    def cannot(self, concern, error):
        """Record once that a concern cannot be compared."""
        if self.told.get(concern) != error:
            self.told[concern] = error
            self.records.add("node", "failed", f"{concern} cannot be compared or corrected: {error[:300]}")
            self.records.set("alarm", 1, kind=concern)

    def look_at_strays(self, held):
        """End processes of the services' accounts that run outside their units, as `vllm_guard_services` says; state engines of others.

        Nothing but the units runs as these accounts. What belongs to somebody else may be work of theirs, as a container is in which an account has the
        same number; the filter refuses what it would serve.
        """
        users, names = set(), set()
        for state in self.applied.states.values():
            names |= {item["name"] for item in state["params"].get("units") or ()}
            users |= set(_numbers(item["name"] for item in state["params"].get("users") or () if item.get("state", "present") == "present"))
        if not users:
            return
        found = {one["pid"]: one for one in units.read_strays(users, names)}
        told = set()
        for pid, one in found.items():
            what = f"process {pid} of user {one['uid']} outside the units: {one['command']}"
            told.add(what)
            if one["uid"] not in users or self.settings["services"] == "report" or held or applied.concerns()[1] or units.in_a_container(pid):
                if what not in self.strays:
                    self.records.add("stray", "seen", what, [], [one["unit"] or "no unit"])
                continue
            try:
                os.kill(pid, signal.SIGKILL if what in self.ended else signal.SIGTERM)
            except ProcessLookupError:
                continue
            except OSError as error:
                if what not in self.strays:
                    self.records.add("stray", "failed", f"{what}; it cannot be ended: {error.strerror}")
                continue
            if what not in self.ended:
                self.records.add("stray", "corrected", f"{what}; it was ended", [one["unit"] or "no unit"], ["nothing"])
            self.ended.add(what)
        self.ended &= told
        self.strays = told
        self.records.set("alarm", int(bool(told - self.ended)), kind="stray")

    def look_at_listeners(self):
        """State listeners that the plan does not know, once. The filter refuses what reaches them from other hosts."""
        planned = self.settings["listeners"]
        if not planned:
            return
        try:
            listening = read_others()  # without what answers the audit's probes for a while
        except OSError:
            return  # the tables never held still; the next look comes
        found = set()
        for one in listening:
            if one["address"] not in ("127.0.0.1", "::1") and not any(guard.listens_as_planned(one, entry) for entry in planned):
                found.add(f"{one['protocol']} {one['address']} port {one['port']} of user {one['uid']}")
        if found != self.listeners:
            before, after = guard.changed_lines(sorted(self.listeners or ()), sorted(found))
            if before or after:
                self.records.add("listener", "seen", "listeners that the plan does not know", before, after)
            self.listeners = found


def started_from_others(desired, steps, have, changed):
    """Units that were started after somebody changed a file that they were started from, and so run from something else than what was applied.

    changed: when each file was changed last, in seconds since the epoch, or None.
    """
    differing = {step.data["path"] for step in steps if "path" in step.data and "content" in step.after and changed.get(step.data["path"]) is not None}
    outdated = set()
    for unit, item in desired.units.items():
        started = (have["units"].get(unit) or {}).get("started")
        own = {path for path, wanted in desired.unit_files.items() if wanted["unit"] == unit} | set(item.get("restart_on") or [])
        if started is not None and any(started >= changed[path] for path in own & differing):
            outdated.add(unit)
    return outdated


def _numbers(names):
    """The numbers of those accounts that are there."""
    for name in names:
        try:
            yield pwd.getpwnam(name).pw_uid
        except KeyError:
            continue


def _changed_at(path):
    try:
        return os.lstat(path).st_ctime
    except OSError:
        return None


def service_verb(verb, policy):
    """What the guard does where a run would start, stop, restart, enable or disable a unit; None leaves it.

    policy `stop` fails closed: what runs from something else than what was applied is stopped and stays so until a run; `restart` brings the
    applied state back; `report` only tells.
    """
    if policy == "report":
        return None
    if verb == "restart":
        return "restart" if policy == "restart" else "stop"
    if verb == "start":
        return "start" if policy == "restart" else None
    return verb


def _pairs(values):
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "nothing"

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The edge of node_state: reads accounts, paths, sysctls and units of a node, and carries out the steps of a difference."""

from __future__ import annotations

import glob
import grp
import http.client
import os
import pwd
import time
import urllib.error
import urllib.request

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import network_tables, node_files, node_state

SYSCTL_ROOT = "/proc/sys"
SHADOW = "/etc/shadow"
PROPERTIES = "Id,LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,ExecMainStartTimestampMonotonic,ActiveEnterTimestampMonotonic,Result"


class Failed(Exception):
    """A step that did not succeed, with the message for the user."""


def account_name(database, number, attribute):
    """Name of a user or group number, or the number where it has none."""
    try:
        return getattr(database(number), attribute)
    except KeyError:
        return str(number)


def observe_path(path, with_content):
    """What is at a path, as node_state describes it, or None."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    kind = node_files.kind_of(found)
    state = {
        "kind": kind, "owner": account_name(pwd.getpwuid, found.st_uid, "pw_name"), "group": account_name(grp.getgrgid, found.st_gid, "gr_name"),
        # A time in the future is none of a change; that of the inode is never later than now.
        "mode": found.st_mode & 0o7777, "mtime": min(found.st_mtime, found.st_ctime), "content": b"",
    }
    if kind == "file" and with_content:
        with open(path, "rb") as handle:
            state["content"] = handle.read()
    return state


def observe_accounts(desired):
    """Groups and users of the node that the desired state speaks of."""
    owners = [item["owner"] for items in (desired.all_files(), desired.all_directories()) for item in items.values()]
    holders = [item["group"] for items in (desired.all_files(), desired.all_directories()) for item in items.values()]
    members = [group for item in desired.users.values() for group in [item.get("group") or item["name"], *item["groups"]]]
    groups, users = {}, {}
    for name in {*desired.groups, *holders, *members}:
        try:
            groups[name] = {"gid": grp.getgrnam(name).gr_gid}
        except KeyError:
            pass
    everyone = grp.getgrall() if desired.users else []
    for name in {*desired.users, *owners}:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        users[name] = {
            "uid": found.pw_uid, "group": account_name(grp.getgrgid, found.pw_gid, "gr_name"), "home": found.pw_dir, "shell": found.pw_shell,
            "comment": found.pw_gecos, "groups": sorted(group.gr_name for group in everyone if name in group.gr_mem),
            "password": "none" if name not in desired.users or locked(name) else "set",
        }
    return groups, users


def locked(name):
    """Whether no password logs into an account: its field is none that a password could match. Who may not read the field takes it for locked."""
    try:
        with open(SHADOW, encoding="utf-8", errors="replace") as stream:
            fields = next((line.split(":") for line in stream if line.startswith(f"{name}:")), [name, "!"])
    except OSError:
        return True
    return fields[1].startswith(("!", "*"))


def read_sysctl(key):
    """Live value of a key, or None where the kernel has none; what cannot be read counts as empty."""
    try:
        with open(f"{SYSCTL_ROOT}/{node_state.sysctl_path(key)}", encoding="ascii", errors="replace") as handle:
            return handle.read().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        return ""


def observe_sysctls(desired, recorded):
    """Live values of the wanted keys, globs expanded, and of those that the file recorded."""
    keys = set(recorded)
    for key in desired.sysctls:
        path = node_state.sysctl_path(key)
        if "*" in path:
            keys |= {node_state.sysctl_key(found[len(SYSCTL_ROOT) + 1:]) for found in glob.glob(f"{SYSCTL_ROOT}/{path}")}
        else:
            keys.add(key)
    return {key: read_sysctl(key) for key in keys}


class Node:
    """The edge: reads the node and carries out steps."""

    def __init__(self, module, desired):
        self.module, self.desired = module, desired
        self.began = time.time()

    def run(self, *command):
        """Run a tool of the system; raises Failed with its own words."""
        code, out, err = self.module.run_command(list(command))
        if code != 0:
            raise Failed(f"{' '.join(command)}: {(err or out).strip() or f'exit status {code}'}")
        return out

    def observe(self):
        """Everything the desired state speaks of, in one pass."""
        desired = self.desired
        paths = {}
        for path, item in desired.all_files().items():
            paths[path] = observe_path(path, not item.get("ownership_only"))
        for path in [*desired.all_directories(), *desired.watched()]:
            paths.setdefault(path, observe_path(path, False))
        for path in [*desired.all_files(), *desired.all_directories()]:
            parent = os.path.dirname(path)
            paths.setdefault(parent, observe_path(parent, False))
        if desired.sysctl_file:
            paths[desired.sysctl_file] = observe_path(desired.sysctl_file, True)
        recorded = node_state.recorded_before((paths.get(desired.sysctl_file) or {}).get("content"))
        groups, users = observe_accounts(desired)
        return {
            "groups": groups, "users": users, "paths": paths, "sysctls": observe_sysctls(desired, recorded), "units": self.observe_units(),
            "addresses": network_tables.read_addresses() if desired.addresses else [],
        }

    def observe_units(self):
        """State of the units, asked in one call."""
        names = list(self.desired.units)
        if not names:
            return {}
        out = self.run("systemctl", "show", "--no-pager", f"--property={PROPERTIES}", *names)
        units = {}
        now = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
        for name, block in zip(names, out.strip("\n").split("\n\n")):
            found = dict(line.partition("=")[::2] for line in block.splitlines())
            started = int(found.get("ExecMainStartTimestampMonotonic") or 0) or int(found.get("ActiveEnterTimestampMonotonic") or 0)
            units[name] = {
                "load": found["LoadState"], "active": found["ActiveState"], "sub": found["SubState"], "enabled": found.get("UnitFileState", ""),
                "stale": found.get("NeedDaemonReload") == "yes", "started": now + started / 1e6 if started else None,
            }
        return units

    def carry_out(self, step):
        """One step."""
        data = step.data
        getattr(self, f"do_{step.verb}")(**data)

    def do_nothing(self):
        """A step that another brings about."""

    def do_daemon_reload(self):
        """Let systemd read the units again."""
        self.run("systemctl", "daemon-reload")

    def do_groupadd(self, item):
        """Make a group."""
        number = ["--gid", str(item["gid"])] if item.get("gid") is not None else []
        self.run("groupadd", *(["--system"] if item["system"] else []), *number, item["name"])

    def do_groupmod(self, item):
        """Give a group its number."""
        self.run("groupmod", "--gid", str(item["gid"]), item["name"])

    def do_useradd(self, item, want, differing):
        """Make a user; `differing` is of interest to usermod only."""
        command = ["useradd", *(["--system"] if item["system"] else []), "--no-create-home", "--gid", want["group"]]
        self.run(*command, *self.user_options(want, [key for key in differing if key != "group"]), item["name"])

    def do_usermod(self, item, want, differing):
        """Correct a user."""
        self.run("usermod", *self.user_options(want, differing), item["name"])

    @staticmethod
    def user_options(want, keys):
        """Options of useradd and usermod for these properties."""
        options = {"group": "--gid", "groups": "--groups", "home": "--home-dir", "shell": "--shell", "uid": "--uid", "comment": "--comment"}
        found = []
        for key in keys:
            if key == "password":
                found += ["--password", "!"]
                continue
            value = ",".join(want[key]) if key == "groups" else str(want[key])
            if value or key == "groups":
                found += [options[key], value]
        return found

    def do_userdel(self, name):
        """Remove a user."""
        self.run("userdel", name)

    def do_groupdel(self, name):
        """Remove a group; userdel may have removed it with its user."""
        try:
            grp.getgrnam(name)
        except KeyError:
            return
        self.run("groupdel", name)

    @staticmethod
    def numbers(item):
        """uid, gid and mode of an item."""
        try:
            uid = int(item["owner"]) if item["owner"].isdigit() else pwd.getpwnam(item["owner"]).pw_uid
            gid = int(item["group"]) if item["group"].isdigit() else grp.getgrnam(item["group"]).gr_gid
        except KeyError as error:
            raise Failed(f"{item['path']}: {error.args[0]}") from None
        return uid, gid, node_state.parse_mode(item["mode"])

    def do_directory(self, item, create):
        """Make a directory, or correct its owner and mode."""
        uid, gid, mode = self.numbers(item)
        if create:
            node_files.make_directory(item["path"], uid, gid, mode)
            self.module.set_default_selinux_context(item["path"], False)
        else:
            node_files.own(item["path"], uid, gid, mode, True)

    def do_file(self, item, path):
        """Write a file."""
        node_files.write_file(path, item["content"].encode("utf-8"), *self.numbers(item))
        self.module.set_default_selinux_context(path, False)

    def do_ownership(self, item, path):
        """Correct owner and mode of a file whose content is right."""
        node_files.own(path, *self.numbers(item), False)

    def do_remove(self, path, kind):
        """Remove a path; drop-in directories only where nothing of others is left in them."""
        if kind == "directory" and path in self.desired.unit_directories:
            try:
                os.rmdir(path)
            except OSError:
                pass
            return
        node_files.remove(path)

    def do_sysctl(self, key, value):
        """Write a live value."""
        try:
            with open(f"{SYSCTL_ROOT}/{node_state.sysctl_path(key)}", "w", encoding="ascii") as handle:
                handle.write(value + "\n")
        except OSError as error:
            raise Failed(f"sysctl {key}: {value!r} cannot be written: {error.strerror}; correct the value, or leave the key out for this node") from None

    def do_systemctl(self, verb, name):
        """Start, stop, restart, enable or disable a unit; a start that fails tells the first error of its journal."""
        if verb in ("start", "restart"):
            self.module.run_command(["systemctl", "reset-failed", name])
        code, out, err = self.module.run_command(["systemctl", verb, name])
        if code != 0:
            reason = self.first_error([name], self.began) if verb in ("start", "restart") else ""
            raise Failed(f"unit {name}: {verb} failed: {reason or (err or out).strip()}")

    def journal(self, names, since):
        """The lines that units logged since a time."""
        units = [f"--unit={name}" for name in names]
        self.module.run_command(["journalctl", "--sync"])  # what a unit said last may still be on its way to the journal
        _code, out, _err = self.module.run_command(["journalctl", "--no-pager", "--quiet", "--output=cat", f"--since=@{int(since)}", *units])
        return out.splitlines()

    def first_error(self, names, since):
        """The first error that units logged since a time, or an empty string."""
        return node_state.first_error(self.journal(names, since))

    def settle_sysctls(self):
        """Writing one value may reset another (forwarding does): write once more what is not as wanted, and refuse what still is not."""
        recorded = node_state.recorded_before((observe_path(self.desired.sysctl_file, True) or {}).get("content"))
        for attempt in (1, 2):
            live = observe_sysctls(self.desired, recorded)
            wanted = node_state.sysctl_wanted(self.desired.sysctls, live)
            differing = {key: value for key, value in wanted.items() if live[key] is not None
                         and node_state.normal_sysctl(key, live[key]) != node_state.normal_sysctl(key, value)}
            if not differing:
                return
            if attempt == 2:
                key, value = next(iter(differing.items()))
                raise Failed(f"sysctl {key} is {live[key]!r} after {value!r} was written; the kernel refuses the value, or something else keeps writing it")
            for key, value in differing.items():
                self.do_sysctl(key, value)

    def wait_ready(self, name, ready):
        """Wait until a unit answers; fail as soon as it has failed more often than it may, or when its time is over."""
        began = self.observe_units()[name]["started"] or self.began
        attempts = node_state.Attempts(began)
        while True:
            problem = answer_of(ready["url"])
            if problem is None:
                return
            failures = attempts.failures(self.observe_units()[name])
            if failures > ready["restarts"] or time.time() - began > ready["timeout"]:
                reason = self.first_error([name, *ready["journals"]], began)
                what = f"is not ready {ready['timeout']} s after its start ({ready['url']}: {problem})"
                if failures > ready["restarts"]:
                    what = "has failed" if failures == 1 else f"has failed {failures} times"
                raise Failed(f"unit {name} {what}. First error of its journal: {reason or 'none'}")
            time.sleep(1)


def answer_of(url):
    """None where a URL answers 200, else what it does instead."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as response:
            return None if response.status == 200 else f"status {response.status}"
    except urllib.error.HTTPError as error:
        return f"status {error.code}"
    except OSError as error:
        return str(getattr(error, "reason", error))
    except (http.client.HTTPException, ValueError) as error:
        # Something answers that speaks no HTTP, such as TLS.
        return f"{type(error).__name__} {error}".strip()

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The desired state of one concern on a node, and its difference from what is there: pure, no I/O.

`Desired` holds what is wanted, as the module `node_state` documents it. An edge observes the node (`have`) and
carries out the steps that `difference` returns, in their order. The same steps make check mode, --diff and the run.

have = {
    "groups":    {name: {"gid": 990}},
    "users":     {name: {"uid": 990, "group": "vllm-chat", "groups": [...], "home": ..., "shell": ..., "comment": ...,
                         "password": "none|set"}},
    "paths":     {path: None | {"kind": "file|directory|link|other", "owner": "root", "group": "root", "mode": 0o644,
                                "content": bytes (files that are wanted as files), "mtime": seconds, "empty": bool (directories)}},
    "sysctls":   {key: value | None},                  # globs expanded; None: the kernel has no such key
    "units":     {name: {"load", "active", "sub", "enabled", "stale", "started": seconds | None}},
    "addresses": [{"interface", "address", "prefix"}],
}
"""

from __future__ import annotations

import fnmatch
import hashlib
import ipaddress
import posixpath
import re
from collections import namedtuple

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import ports

UNIT_FOLDER = "/etc/systemd/system"
HEADER = "# Managed by vllm_mindspore.hardening; changes are overwritten.\n"
BEFORE = "# before: "

# One thing to do: `resource` and `change` for people, `before` and `after` as small dicts, `text` the two sides for --diff,
# `verb` and `data` for the edge.
Step = namedtuple("Step", "resource change before after text verb data")


class Refusal(Exception):
    """Problems for the user, all of them, in ``problems``."""

    def __init__(self, problems):
        super().__init__("; ".join(problems))
        self.problems = list(problems)


def parse_mode(mode):
    """``"0640"`` -> 0o640; raises ValueError."""
    if not re.match(r"^0?[0-7]{3,4}$", str(mode)):
        raise ValueError(f"{mode!r} is no mode; write a quoted octal number such as \"0640\"")
    return int(str(mode), 8)


def format_mode(mode):
    """0o640 -> ``"0640"``."""
    return f"{mode:04o}"


def normal_sysctl(key, value):
    """One spelling for equal values: blanks as the kernel prints them do not matter, neither does how ranges of reserved ports are cut."""
    text = " ".join(str(value).split())
    if key.replace("/", ".") == "net.ipv4.ip_local_reserved_ports":
        try:
            merged = ports.merge_ports([ports.parse_ports(part) for part in text.replace(" ", "").split(",") if part])
        except ValueError:
            return text
        return ",".join(ports.format_ports(bounds) for bounds in merged)
    return text


def sysctl_path(key):
    """``net.ipv4.conf.eth0.rp_filter`` -> ``net/ipv4/conf/eth0/rp_filter``; where a slash comes first, dots belong to names (sysctl.d(5))."""
    first = re.search(r"[./]", key)
    if first is None or first.group() == "/":
        return key
    return key.translate({ord("."): "/", ord("/"): "."})


def sysctl_key(path):
    """The key of a path below /proc/sys: with dots, or with slashes where a name has a dot in it."""
    return path if "." in path else path.replace("/", ".")


def _digest(content):
    return hashlib.sha256(content).hexdigest()[:12]


def _shown(content, sensitive):
    """A file's content for --diff."""
    if sensitive:
        return "(not shown: sensitive)\n"
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return f"(binary, {len(content)} bytes, sha256 {_digest(content)})\n"


def _as_text(state):
    return "".join(f"{key}: {value}\n" for key, value in state.items())


class Desired:
    """What is wanted, checked: every problem at once, as Refusal, before anything is observed."""

    def __init__(self, params):
        self.groups = {item["name"]: item for item in params.get("groups") or []}
        self.users = {item["name"]: item for item in params.get("users") or []}
        self.directories = {item["path"].rstrip("/"): item for item in params.get("directories") or []}
        self.files = {item["path"]: item for item in params.get("files") or []}
        self.units = {item["name"]: item for item in params.get("units") or []}
        self.addresses = list(params.get("addresses") or [])
        sysctls = params.get("sysctls") or {}
        self.sysctl_file = sysctls.get("path")
        self.sysctls = {key: str(value) for key, value in (sysctls.get("values") or {}).items()}
        self.unit_files, self.unit_directories = {}, {}
        problems = self._problems(params)
        if problems:
            raise Refusal(problems)
        for name, unit in self.units.items():
            self._expand(name, unit)

    def _problems(self, params):
        problems = []
        for kind, key in (("groups", "name"), ("users", "name"), ("directories", "path"), ("files", "path"), ("units", "name")):
            names = [item[key] for item in params.get(kind) or []]
            problems += [f"{kind}: {name} is listed {names.count(name)} times; keep one" for name in sorted(set(names)) if names.count(name) > 1]
        for kind in ("groups", "users"):
            for name in getattr(self, kind):
                if not re.match(r"^[a-z_][a-z0-9_-]{0,31}$", name):
                    problems.append(f"{kind}: {name!r} is no name of an account; write lower-case letters, digits, - and _, at most 32")
        for kind in ("directories", "files"):
            for path, item in getattr(self, kind).items():
                if not path.startswith("/") or posixpath.normpath(path) != path or path == "/":
                    problems.append(f"{kind}: {path!r} is no plain absolute path; write it without '.', '..' and doubled slashes")
                try:
                    parse_mode(item.get("mode"))
                except ValueError as error:
                    problems.append(f"{kind}: {path}: mode: {error}")
        for path in sorted(set(self.files) & set(self.directories)):
            problems.append(f"files: {path} is listed as a directory too; keep one")
        for path, item in self.files.items():
            if item.get("state", "present") == "present" and item.get("content") is None and not item.get("ownership_only"):
                problems.append(f"files: {path} has no content; give it, or say state: absent")
        for key, value in self.sysctls.items():
            if not re.match(r"^[A-Za-z0-9_*][A-Za-z0-9_.*/@:-]*$", key) or ".." in key:
                problems.append(f"sysctls: {key!r} is no key; write it as net.ipv4.conf.all.rp_filter, or with slashes where a name has dots")
            if "\n" in value:
                problems.append(f"sysctls: {key}: the value holds a line break; write one line")
            elif not value.isascii():
                problems.append(f"sysctls: {key}: {value!r} holds characters that no kernel takes; write ASCII")
        if self.sysctls and not self.sysctl_file:
            problems.append("sysctls: path is missing; name the file below /etc/sysctl.d that is yours")
        if self.sysctl_file and not re.match(r"^/etc/sysctl\.d/[A-Za-z0-9._-]+\.conf$", self.sysctl_file):
            problems.append(f"sysctls: path {self.sysctl_file!r} is not read at boot; write /etc/sysctl.d/NAME.conf")
        for name, unit in self.units.items():
            if not re.match(r"^[A-Za-z0-9:_.\\@-]+\.(service|socket|timer|path|target|slice|mount)$", name):
                problems.append(f"units: {name!r} is no unit; write it with its suffix, as vllm-chat.service")
            if unit.get("ready") and unit.get("state") != "started":
                problems.append(f"units: {name}: ready needs state: started; say it, or leave ready out")
            if unit.get("ready") and not re.match(r"https?://[^\s/]+(/\S*)?\Z", unit["ready"]["url"]):
                problems.append(f"units: {name}: ready: url {unit['ready']['url']!r} is none; write such as http://127.0.0.1:7443/health")
        for item in self.addresses:
            try:
                ipaddress.ip_address(item["address"])
            except ValueError:
                problems.append(f"addresses: {item['address']!r} is no numeric address; write it as 10.77.2.11 or fd00:77::11")
        return problems

    def _expand(self, name, unit):
        """The files that a unit's content and drop-ins are."""
        absent = unit.get("state") == "absent"
        if unit.get("content") is not None or absent:
            self._unit_file(name, f"{UNIT_FOLDER}/{name}", unit.get("content"), absent)
        for dropin, content in sorted((unit.get("dropins") or {}).items()):
            folder = f"{UNIT_FOLDER}/{name}.d"
            self.unit_directories.setdefault(
                folder, {"path": folder, "owner": "root", "group": "root", "mode": "0755", "state": "absent" if absent else "present"}
            )
            self._unit_file(name, f"{folder}/{dropin}.conf", content, absent)

    def _unit_file(self, unit, path, content, absent):
        self.unit_files[path] = {
            "path": path, "content": content, "owner": "root", "group": "root", "mode": "0644", "sensitive": False,
            "state": "absent" if absent else "present", "unit": unit,
        }

    def all_files(self):
        """Files and the files of units, by path."""
        return {**self.files, **self.unit_files}

    def all_directories(self):
        """Directories and the drop-in directories of units, by path."""
        return {**self.directories, **self.unit_directories}

    def watched(self):
        """Paths whose change restarts a unit."""
        return {path for unit in self.units.values() for path in unit.get("restart_on") or []}


def address_problems(desired, have):
    """Planned addresses that the node does not have, or has elsewhere, as messages."""
    problems = []
    for item in desired.addresses:
        what = f"{item['name']} address" if item.get("name") else "address"
        wanted = ipaddress.ip_address(item["address"])
        holders = [found["interface"] for found in have["addresses"] if ipaddress.ip_address(found["address"].partition("%")[0]) == wanted]
        interface = item.get("interface")
        if interface and interface not in holders:
            there = [f"{found['address']}/{found['prefix']}" for found in have["addresses"] if found["interface"] == interface]
            elsewhere = f"; {wanted} is on {', '.join(holders)}" if holders else ""
            problems.append(
                f"interface {interface}: expected the {what} {wanted}, found {', '.join(there) or 'no address'}{elsewhere}; correct the node or the inventory"
            )
        elif not holders:
            there = sorted({found["address"] for found in have["addresses"] if found["interface"] != "lo"})
            problems.append(f"expected the {what} {wanted} on this node, found {', '.join(there) or 'none'}; correct the node or the inventory")
    return problems


def difference(desired, have):
    """The steps from ``have`` to ``desired`` in the order they are carried out; raises Refusal for what the node cannot have."""
    problems = address_problems(desired, have) + _account_problems(desired, have) + _path_problems(desired, have)
    problems += [
        f"sysctls: this kernel has no {key}; leave it out for this node"
        for key, value in have["sysctls"].items() if value is None and not sysctl_path(key).startswith("net/ipv6/")
    ]
    if problems:
        raise Refusal(problems)
    steps, changed_files = [], set()
    leaving = {name for name, unit in desired.units.items() if unit.get("state") == "absent"}
    for name in sorted(leaving):
        steps += _unit_leaves(name, have["units"].get(name))
    for name, item in desired.groups.items():
        if item.get("state") != "absent":
            steps += _group(item, have["groups"].get(name))
    for name, item in desired.users.items():
        if item.get("state") != "absent":
            steps += _user(item, have["users"].get(name))
    for path, item in sorted(desired.all_directories().items()):
        if item.get("state") != "absent":
            steps += _directory(item, have["paths"].get(path))
    for path, item in desired.all_files().items():
        if item.get("state") != "absent":
            found = _file(item, have["paths"].get(path))
            changed_files |= {path for step in found if "content" in step.after}
            steps += found
    steps += sysctl_steps(desired, have)
    leaving_files = [
        step for path, item in desired.all_files().items() if item.get("state") == "absent" for step in _path_leaves(path, have["paths"].get(path), "file")
    ]
    removed_units = [step for step in leaving_files if step.data["path"] in desired.unit_files]
    steps += removed_units
    touched = {item["unit"] for path, item in desired.unit_files.items() if path in changed_files} | {
        desired.unit_files[step.data["path"]]["unit"] for step in removed_units
    }
    stale = {name for name, found in have["units"].items() if found.get("stale")}
    if touched or stale:
        for name in sorted(stale - touched):
            steps.append(Step(f"unit {name}", "reload", {"definition": "loaded before its files changed"}, {"definition": "as on disk"}, None, "nothing", {}))
        steps.append(Step("systemd", "reload", {}, {}, None, "daemon_reload", {}))
    for name, item in desired.units.items():
        if name not in leaving:
            steps += _unit(item, have["units"].get(name) or {}, desired, have, changed_files)
    steps += [step for step in leaving_files if step.data["path"] not in desired.unit_files]
    for path, item in sorted(desired.all_directories().items(), reverse=True):
        if item.get("state") == "absent":
            steps += _path_leaves(path, have["paths"].get(path), "directory")
    for name, item in desired.users.items():
        if item.get("state") == "absent" and name in have["users"]:
            found = have["users"][name]
            steps.append(Step(f"user {name}", "remove", {"uid": found["uid"]}, {}, None, "userdel", {"name": name}))
    for name, item in desired.groups.items():
        if item.get("state") == "absent" and name in have["groups"]:
            steps.append(Step(f"group {name}", "remove", {"gid": have["groups"][name]["gid"]}, {}, None, "groupdel", {"name": name}))
    return steps


def visible(steps):
    """The steps that are differences of the node's state; the others (a daemon-reload) only bring it about."""
    return [step for step in steps if step.before != step.after]


def _known(desired_items, have_items, name):
    return name in have_items or (name in desired_items and desired_items[name].get("state") != "absent") or str(name).isdigit()


def _account_problems(desired, have):
    problems = []
    for name, item in desired.users.items():
        if item.get("state") == "absent":
            continue
        for group in [item.get("group") or name, *(item.get("groups") or [])]:
            if not _known(desired.groups, have["groups"], group):
                problems.append(f"users: {name} belongs to the group {group}, which is neither on this node nor listed; list it or install what makes it")
    for kind, items in (("files", desired.all_files()), ("directories", desired.all_directories())):
        for path, item in items.items():
            if item.get("state") == "absent":
                continue
            for role, wanted, there in (("owner", desired.users, have["users"]), ("group", desired.groups, have["groups"])):
                if not _known(wanted, there, item[role]):
                    problems.append(
                        f"{kind}: {path}: {role} {item[role]} is neither on this node nor listed; list it under {'users' if role == 'owner' else 'groups'}"
                    )
    return problems


def _path_problems(desired, have):
    problems = []
    directories = {path for path, item in desired.all_directories().items() if item.get("state") != "absent"}
    for kind, items in (("files", desired.all_files()), ("directories", desired.all_directories())):
        for path, item in items.items():
            if item.get("state") == "absent":
                continue
            parent = posixpath.dirname(path)
            found = have["paths"].get(parent)
            if parent not in directories and parent != "/" and (found is None or found["kind"] not in ("directory", "link")):
                problems.append(f"{kind}: {path}: its directory {parent} is not there; list it under directories")
            there = have["paths"].get(path)
            if there is not None and there["kind"] not in (("file", "link") if kind == "files" else ("directory",)):
                problems.append(f"{kind}: {path} is a {there['kind']} on this node; remove it, or name another path")
    return problems


def _change(before):
    return "update" if before else "create"


def _group(item, found):
    want = {"gid": item["gid"]} if item.get("gid") is not None else {}
    if found is not None and all(found[key] == value for key, value in want.items()):
        return []
    before = {key: found[key] for key in want} if found else {}
    after = want or {"name": item["name"]}
    return [Step(f"group {item['name']}", _change(found), before, after, None, "groupmod" if found else "groupadd", {"item": item})]


def _user(item, found):
    want = {"group": item.get("group") or item["name"], "groups": sorted(item.get("groups") or []), "home": item["home"], "shell": item["shell"]}
    if item.get("uid") is not None:
        want["uid"] = item["uid"]
    if item.get("comment"):
        want["comment"] = item["comment"]
    if found is not None and item.get("system", True) and "password" in found:
        want["password"] = "none"  # which is what useradd gives
    differing = {key: value for key, value in want.items() if found is None or found[key] != value}
    if not differing:
        return []
    before = {key: found[key] for key in differing} if found else {}
    return [
        Step(
            f"user {item['name']}",
            _change(found),
            before,
            differing,
            None,
            "usermod" if found else "useradd",
            {"item": item, "want": want, "differing": sorted(differing)},
        )
    ]


def _ownership(item, found):
    want = {"owner": item["owner"], "group": item["group"], "mode": format_mode(parse_mode(item["mode"]))}
    have = {"owner": found["owner"], "group": found["group"], "mode": format_mode(found["mode"])} if found else {}
    return want, have


def _directory(item, found):
    want, have = _ownership(item, found)
    if want == have:
        return []
    differing = {key: value for key, value in want.items() if have.get(key) != value}
    before = {key: have[key] for key in differing} if found else {}
    return [Step(f"directory {item['path']}", _change(found), before, differing, None, "directory", {"item": item, "create": found is None})]


def _file(item, found):
    content = (item.get("content") or "").encode("utf-8")
    want, have = _ownership(item, found)
    regular = found is not None and found["kind"] == "file"
    if item.get("ownership_only"):
        before = {key: have[key] for key in have if have[key] != want[key]} if regular else {}
        after = {key: want[key] for key in before}
        return [Step(f"file {item['path']}", "update", before, after, None, "ownership", {"item": item, "path": item["path"]})] if before else []
    if not regular:
        have = {"kind": found["kind"]} if found else {}
    same = regular and found["content"] == content
    if same and want == have:
        return []
    before = {key: have[key] for key in have if have.get(key) != want.get(key)}
    after = {key: want[key] for key in want if have.get(key) != want[key]}
    text = None
    if not same:
        sensitive = item.get("sensitive")
        after["content"] = "changed" if sensitive else f"sha256 {_digest(content)}"
        if regular:
            before["content"] = "other" if sensitive else f"sha256 {_digest(found['content'])}"
        old = _shown(found["content"], sensitive) if regular else ""
        new = _shown(content, sensitive)
        if sensitive and regular:
            old, new = "(not shown: sensitive, before)\n", "(not shown: sensitive, after)\n"
        text = (old, new)
    return [Step(f"file {item['path']}", _change(found), before, after, text, "file" if not same else "ownership", {"item": item, "path": item["path"]})]


def _path_leaves(path, found, kind):
    if found is None:
        return []
    return [
        Step(
            f"{kind} {path}", "remove", {"owner": found["owner"], "mode": format_mode(found["mode"])}, {}, None, "remove", {"path": path, "kind": found["kind"]}
        )
    ]


def recorded_before(content):
    """{key: value} that a file of ours recorded as the values before it first changed them."""
    found = {}
    for line in (content or b"").decode("utf-8", "replace").splitlines():
        if line.startswith(BEFORE):
            key, _equals, value = line[len(BEFORE):].partition("=")
            found[key.strip()] = value.strip()
    return found


def sysctl_wanted(values, keys):
    """{expanded key: value} of the wanted values for the keys that the node has; an exact key wins over a glob, a later glob over an earlier."""
    wanted = {}
    for pattern, value in sorted(values.items(), key=lambda pair: "*" not in pair[0]):
        for key in keys:
            if fnmatch.fnmatchcase(sysctl_path(key), sysctl_path(pattern)):
                wanted[key] = value
    # A glob settles before an exact key; forwarding comes first, since writing it resets other values of the interfaces (ip-sysctl).
    ordered = sorted(wanted, key=lambda key: (not re.search(r"forward(ing)?$", key), not re.search(r"/(all|default)/", sysctl_path(key)), key))
    return {key: wanted[key] for key in ordered}


def already_ours(content, keys):
    """Those of the expanded keys that a file of ours sets: what they were before is recorded, or was what we want."""
    patterns = [line.partition("=")[0].strip() for line in (content or b"").decode("utf-8", "replace").splitlines() if "=" in line and line[:1] != "#"]
    return set(sysctl_wanted(dict.fromkeys(patterns, ""), keys))


def sysctl_steps(desired, have):
    """The file below /etc/sysctl.d and the live values; values that we no longer want return to what they were before us.

    What somebody set meanwhile is no value of before.
    """
    if not desired.sysctl_file:
        return []
    found = have["paths"].get(desired.sysctl_file)
    old = found["content"] if found and found["kind"] == "file" else b""
    before = recorded_before(old)
    wanted, ours = sysctl_wanted(desired.sysctls, have["sysctls"]), already_ours(old, have["sysctls"])
    live = []
    for key, value in wanted.items():
        now = have["sysctls"][key]
        if now is None or normal_sysctl(key, now) == normal_sysctl(key, value):
            continue
        if key not in ours:
            before.setdefault(key, " ".join(now.split()))
        live.append(
            Step(f"sysctl {key}", "update", {"value": " ".join(now.split())}, {"value": " ".join(value.split())}, None, "sysctl", {"key": key, "value": value})
        )
    for key in sorted(set(before) - set(wanted)):
        value, now = before.pop(key), have["sysctls"].get(key)
        if now is not None and normal_sysctl(key, now) != normal_sysctl(key, value):
            live.append(Step(f"sysctl {key}", "update", {"value": " ".join(now.split())}, {"value": value}, None, "sysctl", {"key": key, "value": value}))
    if not desired.sysctls:
        return live + _path_leaves(desired.sysctl_file, found, "file")
    lines = [f"{key} = {' '.join(value.split())}\n" for key, value in sorted(desired.sysctls.items(), key=lambda pair: ("*" not in pair[0], pair[0]))]
    if before:
        lines += ["# Values before this file first changed them, for its removal.\n", *(f"{BEFORE}{key} = {value}\n" for key, value in sorted(before.items()))]
    item = {"path": desired.sysctl_file, "content": HEADER + "".join(lines), "owner": "root", "group": "root", "mode": "0644"}
    return _file(item, found) + live


def _unit_leaves(name, found):
    if not found or found.get("load") == "not-found":
        return []
    steps = []
    if found["active"] not in ("inactive", "failed"):
        steps.append(Step(f"unit {name}", "stop", {"active": found["active"]}, {"active": "inactive"}, None, "systemctl", {"verb": "stop", "name": name}))
    if found["active"] == "failed":
        # systemd keeps a failed unit in its list for ever, also one that it no longer finds.
        steps.append(Step(f"unit {name}", "forget", {"active": "failed"}, {}, None, "systemctl", {"verb": "reset-failed", "name": name}))
    if found["enabled"] in ("enabled", "enabled-runtime", "masked"):
        steps.append(
            Step(f"unit {name}", "disable", {"enabled": found["enabled"]}, {"enabled": "disabled"}, None, "systemctl", {"verb": "disable", "name": name})
        )
    return steps


def restart_reasons(item, found, desired, have, changed_files):
    """Why a running unit has to be started again: what it was started from is no longer what is there."""
    own = [path for path, wanted in desired.unit_files.items() if wanted["unit"] == item["name"]]
    reasons = [f"{path} changes" for path in [*own, *(item.get("restart_on") or [])] if path in changed_files]
    if item.get("restart"):
        reasons.append("what it runs changes")
    started = found.get("started")
    for path in [*own, *(item.get("restart_on") or [])]:
        there = have["paths"].get(path)
        if path not in changed_files and there is not None and started is not None and there["mtime"] > started:
            reasons.append(f"{path} is newer than its start")
    return reasons


def _unit(item, found, desired, have, changed_files):
    name, steps = item["name"], []
    wanted, enabled = item.get("state"), item.get("enabled")
    active, state = found.get("active", "inactive"), found.get("enabled", "")
    if enabled is not None and (state in ("enabled", "enabled-runtime", "static", "alias")) != enabled:
        after = "enabled" if enabled else "disabled"
        verb = "enable" if enabled else "disable"
        steps.append(Step(f"unit {name}", verb, {"enabled": state or "not there"}, {"enabled": after}, None, "systemctl", {"verb": verb, "name": name}))
    running = active in ("active", "activating", "reloading") and found.get("sub") != "auto-restart"
    if wanted == "started" and not running:
        before = {"active": active if found.get("sub") != "auto-restart" else "failing, tried again by systemd"}
        steps.append(Step(f"unit {name}", "start", before, {"active": "active"}, None, "systemctl", {"verb": "start", "name": name}))
    elif wanted == "started":
        reasons = restart_reasons(item, found, desired, have, changed_files)
        if reasons:
            before, after = {"started from": "an earlier state"}, {"started from": "the present state", "because": ", ".join(reasons)}
            steps.append(Step(f"unit {name}", "restart", before, after, None, "systemctl", {"verb": "restart", "name": name}))
    elif wanted == "stopped" and (running or active == "activating"):
        steps.append(Step(f"unit {name}", "stop", {"active": active}, {"active": "inactive"}, None, "systemctl", {"verb": "stop", "name": name}))
    return steps


class Attempts:
    """How often a unit that is being started has failed; systemd may have started it again between two looks."""

    def __init__(self, started):
        self.started, self.count, self.down = started, 0, False

    def failures(self, found):
        """The failures so far, after a look at the unit."""
        again = found["started"] is not None and found["started"] > self.started + 1
        down = found["active"] in ("failed", "inactive") or found["sub"] == "auto-restart"
        self.count += (again and not self.down) + (down and (again or not self.down))
        self.down = down
        if again:
            self.started = found["started"]
        return self.count


def resources(steps):
    """The differences as the module returns them."""
    return [{"resource": step.resource, "change": step.change, "before": step.before, "after": step.after} for step in visible(steps)]


def diffs(steps):
    """The differences as Ansible's --diff shows them, one entry a resource, live sysctls together."""
    shown = []
    live = [step for step in visible(steps) if step.verb == "sysctl"]
    if live:
        sides = ("".join(f"{step.data['key']}: {getattr(step, side)['value']}\n" for step in live) for side in ("before", "after"))
        shown.append({"before_header": "live sysctls", "after_header": "live sysctls", **dict(zip(("before", "after"), sides))})
    for step in visible(steps):
        if step.verb == "sysctl":
            continue
        before, after = _as_text(step.before), _as_text(step.after)
        if step.text is not None:
            old, new = step.text
            before = "".join(f"{key}: {value}\n" for key, value in step.before.items() if key != "content") + old
            after = "".join(f"{key}: {value}\n" for key, value in step.after.items() if key != "content") + new
        header = f"{step.resource} ({step.change})"
        shown.append({"before_header": header, "after_header": header, "before": before, "after": after})
    return shown


EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit|Failure|Warning)\b.*")
LOG_PREFIX = re.compile(r"^(?:\([^)]*\)\s*)?(?:ERROR|CRITICAL|FATAL)\s+[\d-]+\s+[\d:.,]+\s+(?:\[[^\]]*\]\s?)?")
QUIET = re.compile(r"\b(?:INFO|DEBUG|WARNING|WARN)\b")
LOUD = re.compile(
    r"\b(?:ERROR|CRITICAL|FATAL)\b|Traceback \(most recent call last\)|\berror:|\bFailed (?:to|at)\b|\bfailed (?:to|at)\b"
    r"|Permission denied|No such file or directory|not permitted|code=exited, status=(?!0/)\d+/"
)


# Out of another root file system systemd cannot say in the journal what it did not find.
NO_PROGRAM = "status=203/EXEC"


def first_error(lines):
    """The first error of a journal, in one or two lines: where it is a traceback, the line that introduces it and the exception.

    A failing engine buries its cause far above the last line, under the tracebacks of the processes that waited for it.
    """
    for index, line in enumerate(lines):
        bare = LOG_PREFIX.sub("", line)
        matched = LOUD.search(line) or EXCEPTION.match(bare)
        if not matched or (QUIET.search(line) and not re.search(r"\b(?:ERROR|CRITICAL|FATAL)\b", line)):
            continue
        if "Traceback (most recent call last)" not in line and not any("Traceback (most recent call last)" in later for later in lines[index + 1:index + 2]):
            return line.strip() + (" (the program of its ExecStart= is not there, or not for this node)" if NO_PROGRAM in line else "")
        head = "" if "Traceback (most recent call last)" in line else line.strip() + "\n"
        for later in lines[index + 1:]:
            text = LOG_PREFIX.sub("", later).strip()
            text = re.sub(r"^\([^)]*\)\s*", "", text)
            if EXCEPTION.match(text) and not later.startswith("  "):
                return head + text
        return head + line.strip()
    return ""

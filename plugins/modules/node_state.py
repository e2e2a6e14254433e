#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Accounts, files, sysctls and units of one concern of a node, in one execution."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: node_state
short_description: Bring accounts, files, sysctls and systemd units of one concern to their desired state
version_added: 0.1.0
author:
  - vllm_mindspore.hardening contributors (!UNKNOWN)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
description:
  - Takes the whole desired state of one concern and brings it about in one execution, in the order in which the parts need each other,
    which is addresses (checked only), groups, users, directories, files, sysctls, units.
  - What is not listed is not touched. What is listed with O(files[].state=absent) and its like is removed, units first and accounts last.
  - Files are replaced atomically and never through a link that somebody other than root could have made.
  - A unit is restarted exactly where its own files, or a path of O(units[].restart_on), change in this execution or are newer than its
    start. A restart that an interrupted run owed is made up for that way.
  - A unit that does not start, or does not become ready, fails the module with the B(first) error of its journal.
attributes:
  check_mode:
    support: full
    description: Predicts exactly what a run changes, also on a node on which nothing is there yet. Does not wait for O(units[].ready).
  diff_mode:
    support: full
    description: One entry for each resource. Content of O(files[].sensitive) files is never shown.
  platform:
    support: full
    platforms: linux
options:
  addresses:
    description: Addresses that the node must have. A node that has not is refused before anything is changed.
    type: list
    elements: dict
    default: []
    suboptions:
      address:
        description: Numeric address of either family.
        type: str
        required: true
      interface:
        description: Interface that must hold the address. Without it any interface may.
        type: str
      name:
        description: What the address is for, for the message.
        type: str
  groups:
    description: Groups.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the group.
        type: str
        required: true
      gid:
        description: Number of the group. Without it the node chooses.
        type: int
      system:
        description: Whether a new group gets a number of the system range.
        type: bool
        default: true
      state:
        description: Whether the group is there.
        type: str
        choices: [present, absent]
        default: present
  users:
    description: Users, by default system accounts that nobody logs in to.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      uid:
        description: Number of the user. Without it the node chooses.
        type: int
      group:
        description: Primary group. Without it the group named as the user.
        type: str
      groups:
        description: Supplementary groups, all of them.
        type: list
        elements: str
        default: []
      home:
        description: Home directory, which is not made.
        type: path
        default: /nonexistent
      shell:
        description: Login shell.
        type: path
        default: /usr/sbin/nologin
      comment:
        description: The field of the full name.
        type: str
      system:
        description: Whether a new user gets a number of the system range.
        type: bool
        default: true
      state:
        description: Whether the user is there.
        type: str
        choices: [present, absent]
        default: present
  directories:
    description: Directories. The parent of each is there or listed.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: str
        required: true
      owner:
        description: Name of the owner.
        type: str
        default: root
      group:
        description: Name of the group.
        type: str
        default: root
      mode:
        description: Mode as a quoted octal number.
        type: str
        default: "0755"
      state:
        description: V(absent) removes the directory with everything in it.
        type: str
        choices: [present, absent]
        default: present
  files:
    description: Regular files. The directory of each is there or listed.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: str
        required: true
      content:
        description: The whole content.
        type: str
      owner:
        description: Name of the owner.
        type: str
        default: root
      group:
        description: Name of the group.
        type: str
        default: root
      mode:
        description: Mode as a quoted octal number.
        type: str
        default: "0644"
      sensitive:
        description: Whether the content stays out of --diff and of the result.
        type: bool
        default: false
      state:
        description: Whether the file is there.
        type: str
        choices: [present, absent]
        default: present
  sysctls:
    description: Kernel parameters, live and for the next boot.
    type: dict
    suboptions:
      path:
        description: The file below C(/etc/sysctl.d) that is ours alone.
        type: str
        required: true
      values:
        description:
          - Value by key, where a key may hold C(*) as in sysctl.d(5), and is written with slashes where a name has dots.
          - A key that is given up returns to the value it had before this module first changed it, and with no key left the file goes.
          - Keys below C(net.ipv6) that the kernel lacks are left alone, any other is refused.
        type: dict
        default: {}
  units:
    description: systemd units.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name with suffix.
        type: str
        required: true
      content:
        description: Content of C(/etc/systemd/system/NAME). Without it the unit is somebody else's.
        type: str
      dropins:
        description: Content of C(/etc/systemd/system/NAME.d/KEY.conf) by key.
        type: dict
        default: {}
      enabled:
        description: Whether the unit is started at boot. Without it nothing is said about that.
        type: bool
      state:
        description: V(absent) stops and disables the unit and removes its files. Without it nothing is started or stopped.
        type: str
        choices: [started, stopped, absent]
      restart_on:
        description: Paths that a running unit was started from, beside its own files.
        type: list
        elements: str
        default: []
      restart:
        description: Whether something that the unit runs is changed by this play, so that it has to be restarted.
        type: bool
        default: false
      ready:
        description: When a started unit is ready. The module waits for it.
        type: dict
        suboptions:
          url:
            description: HTTP URL that answers with status 200.
            type: str
            required: true
          timeout:
            description: Seconds to wait from the start of the unit.
            type: int
            default: 600
"""

EXAMPLES = r"""
- name: Serve metrics of a node
  vllm_mindspore.hardening.node_state:
    groups:
      - name: metrics
    users:
      - name: metrics
        home: /var/lib/metrics
    files:
      - path: /etc/metrics.conf
        content: "listen 127.0.0.1:9100\n"
        group: metrics
        mode: "0640"
    units:
      - name: metrics.service
        content: "{{ lookup('ansible.builtin.template', 'metrics.service.j2') }}"
        enabled: true
        state: started
        restart_on: [/etc/metrics.conf]
        ready:
          url: http://127.0.0.1:9100/health
          timeout: 60

- name: Pin the ephemeral ports
  vllm_mindspore.hardening.node_state:
    sysctls:
      path: /etc/sysctl.d/90-vllm.conf
      values:
        net.ipv4.ip_local_port_range: 28000 28999
"""

RETURN = r"""
resources:
  description: Each resource that differs, what is done about it, and the differing properties before and after.
  type: list
  elements: dict
  returned: always
  sample:
    - resource: sysctl net.ipv4.ip_local_port_range
      change: update
      before: {value: 32768 60999}
      after: {value: 28000 28999}
"""

import glob
import grp
import os
import pwd
import time
import urllib.error
import urllib.request

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import network_tables, node_files, node_state

SYSCTL_ROOT = "/proc/sys"
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
        "mode": found.st_mode & 0o7777, "mtime": found.st_mtime, "content": b"",
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
        }
    return groups, users


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
        for path in desired.all_files():
            paths[path] = observe_path(path, True)
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
            reason = self.first_error(name, self.began) if verb in ("start", "restart") else ""
            raise Failed(f"unit {name}: {verb} failed: {reason or (err or out).strip()}")

    def first_error(self, name, since):
        """The first error that a unit logged since a time, or an empty string."""
        _code, out, _err = self.module.run_command(["journalctl", "--no-pager", "--quiet", "--output=cat", f"--unit={name}", f"--since=@{int(since)}"])
        return node_state.first_error(out.splitlines())

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
        """Wait until a unit answers; fail as soon as it has failed, or when its time is over."""
        found = self.observe_units()[name]
        began = found["started"] or self.began
        while True:
            problem = answer_of(ready["url"])
            if problem is None:
                return
            found = self.observe_units()[name]
            failing = found["active"] in ("failed", "inactive") or found["sub"] == "auto-restart" or (found["started"] or began) > began + 1
            if failing or time.time() - began > ready["timeout"]:
                reason = self.first_error(name, began)
                what = "has failed" if failing else f"is not ready {ready['timeout']} s after its start ({ready['url']}: {problem})"
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


def arguments():
    """The options of the module, as documented."""
    state = {"type": "str", "choices": ["present", "absent"], "default": "present"}
    name = {"type": "str", "required": True}
    owner = {"type": "str", "default": "root"}

    def items(**options):
        return {"type": "list", "elements": "dict", "default": [], "options": options}

    return {
        "addresses": items(address=name, interface={"type": "str"}, name={"type": "str"}),
        "groups": items(name=name, gid={"type": "int"}, system={"type": "bool", "default": True}, state=state),
        "users": items(
            name=name, uid={"type": "int"}, group={"type": "str"}, groups={"type": "list", "elements": "str", "default": []},
            home={"type": "path", "default": "/nonexistent"}, shell={"type": "path", "default": "/usr/sbin/nologin"}, comment={"type": "str"},
            system={"type": "bool", "default": True}, state=state,
        ),
        "directories": items(path=name, owner=owner, group=owner, mode={"type": "str", "default": "0755"}, state=state),
        "files": items(
            path=name, content={"type": "str"}, owner=owner, group=owner, mode={"type": "str", "default": "0644"},
            sensitive={"type": "bool", "default": False}, state=state,
        ),
        "sysctls": {"type": "dict", "options": {"path": name, "values": {"type": "dict", "default": {}}}},
        "units": items(
            name=name, content={"type": "str"}, dropins={"type": "dict", "default": {}}, enabled={"type": "bool"},
            state={"type": "str", "choices": ["started", "stopped", "absent"]}, restart_on={"type": "list", "elements": "str", "default": []},
            restart={"type": "bool", "default": False},
            ready={"type": "dict", "options": {"url": name, "timeout": {"type": "int", "default": 600}}},
        ),
    }


def main():
    """Check what is wanted, observe, compare, carry out."""
    module = AnsibleModule(argument_spec=arguments(), supports_check_mode=True)
    done = []
    try:
        desired = node_state.Desired(module.params)
        node = Node(module, desired)
        steps = node_state.difference(desired, node.observe())
        result = {"changed": bool(node_state.visible(steps)), "resources": node_state.resources(steps)}
        if module._diff:
            result["diff"] = node_state.diffs(steps)
        if not module.check_mode:
            for step in steps:
                node.carry_out(step)
                done.append(step)
            if desired.sysctl_file and desired.sysctls:
                node.settle_sysctls()
            for name, item in desired.units.items():
                if item.get("ready") and item["state"] == "started":
                    node.wait_ready(name, item["ready"])
    except node_state.Refusal as error:
        module.fail_json(msg="\n".join(error.problems), problems=error.problems)
    except (Failed, OSError) as error:
        module.fail_json(msg=str(error), changed=bool(node_state.visible(done)), resources=node_state.resources(done))
    module.exit_json(**result)


if __name__ == "__main__":
    main()

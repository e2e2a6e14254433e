# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a node tells about itself. Each part is observed on its own: a part that fails is unknown, the others stand."""

from __future__ import annotations

import glob
import grp
import hashlib
import os
import platform
import pwd
import stat
import subprocess

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import network_tables
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.listeners import read_listeners

VERSION = 1
UNIT_PROPERTIES = (
    "Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "FragmentPath", "DropInPaths", "NeedDaemonReload", "MainPID", "ControlGroup", "User",
    "Group", "SupplementaryGroups", "DynamicUser", "ExecStart", "Environment", "EnvironmentFiles", "NoNewPrivileges", "CapabilityBoundingSet",
    "AmbientCapabilities", "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectKernelTunables",
    "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectClock", "ProtectHostname", "ProtectProc", "RestrictAddressFamilies",
    "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "MemoryDenyWriteExecute", "RemoveIPC", "UMask", "SystemCallFilter",
    "SystemCallArchitectures", "IPAddressAllow", "IPAddressDeny", "SocketBindAllow", "SocketBindDeny", "ReadWritePaths", "Restart",
)
STATUS_FIELDS = {
    "Uid": "uid", "Gid": "gid", "Groups": "groups", "CapInh": "inheritable", "CapPrm": "permitted", "CapEff": "effective", "CapBnd": "bounding",
    "CapAmb": "ambient", "NoNewPrivs": "no_new_privileges", "Seccomp": "seccomp",
}
SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
FILE_LIMIT = 1 << 22


def observe(request, run=None):
    """Observe everything asked for.

    request: {units: [name], sysctls: [name, `*` and the slash form allowed], files: [path or pattern], digests: bool}.
    run: callable for commands, `run(argv) -> (returncode, stdout, stderr)`.
    Returns {version, host, addresses, listeners, units, sysctls, files, unknown}; a part that could not be observed is None and
    `unknown` has its reason under its name.
    """
    run = run or _run
    parts = {
        "host": lambda: read_host(run),
        "addresses": network_tables.read_addresses,
        "listeners": read_listeners,
        "units": lambda: read_units(request.get("units") or [], run),
        "sysctls": lambda: read_sysctls(request.get("sysctls") or []),
        "files": lambda: read_files(request.get("files") or []),
    }
    result, unknown = {"version": VERSION}, {}
    for name, read in parts.items():
        try:
            result[name] = read()
        except (OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError) as error:
            result[name] = None
            unknown[name] = f"{type(error).__name__}: {error}"[:300]
    result["unknown"] = unknown
    return result


def _run(argv):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    return done.returncode, done.stdout.decode("utf-8", "backslashreplace"), done.stderr.decode("utf-8", "backslashreplace")


def read_host(run):
    """What the findings depend on: names, kernel, systemd with its compiled-in features."""
    host = {"hostname": platform.node(), "kernel": platform.release(), "systemd": None, "systemd_features": None, "cgroup_v2": None}
    try:
        code, output, _error = run(["systemctl", "--version"])
    except OSError:
        code, output = 1, ""
    lines = output.splitlines()
    if code == 0 and lines:
        words = lines[0].split()
        host["systemd"] = int(words[1]) if len(words) > 1 and words[1].isdigit() else None
        host["systemd_features"] = lines[1].split() if len(lines) > 1 else []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="backslashreplace") as mounts:
        host["cgroup_v2"] = any(" - cgroup2 " in line and " /sys/fs/cgroup " in line for line in mounts)
    return host


def parse_show(text):
    """`systemctl show` of several units as {Id: {property: value}}; a property printed more than once is joined by newlines."""
    units = {}
    for block in text.split("\n\n"):
        properties = {}
        for line in block.splitlines():
            name, separator, value = line.partition("=")
            if separator:
                properties[name] = f"{properties[name]}\n{value}" if name in properties else value
        if "Id" in properties:
            units[properties["Id"]] = properties
    return units


def mask_environment(text):
    """The names and values of a unit's Environment=, values of secrets replaced."""
    masked = []
    for word in text.split():
        name, separator, _value = word.partition("=")
        if separator and any(secret in name.upper() for secret in SECRET_WORDS):
            word = f"{name}=(hidden)"
        masked.append(word)
    return " ".join(masked)


def read_units(names, run):
    """{unit: {properties, processes}}; a unit the host does not have has LoadState `not-found`."""
    if not names:
        return {}
    code, output, error = run(["systemctl", "show", "--no-pager", "--property", ",".join(UNIT_PROPERTIES), "--"] + list(names))
    if code != 0:
        raise OSError(code, error.strip() or "systemctl show failed")
    units = {}
    for name, properties in parse_show(output).items():
        properties["Environment"] = mask_environment(properties.get("Environment", ""))
        units[name] = {"properties": properties, "processes": read_processes(properties.get("ControlGroup") or "")}
    return units


def read_processes(control_group):
    """The processes of a control group and the groups below it."""
    if not control_group or control_group == "/":
        return []
    processes, seen = [], set()
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"):
        for folder, _folders, files in os.walk(root + control_group):
            if "cgroup.procs" in files:
                with open(os.path.join(folder, "cgroup.procs"), encoding="ascii") as listing:
                    seen.update(int(line) for line in listing if line.strip())
        if seen:
            break
    for pid in sorted(seen):
        process = read_process(pid)
        if process:
            processes.append(process)
    return processes


def read_process(pid, proc="/proc"):
    """The facts of one process, or None where it is gone.

    `arguments` is None where the process has overwritten its command line with a title: what it was started with is unknown, not unset.
    """
    try:
        with open(f"{proc}/{pid}/status", encoding="utf-8", errors="backslashreplace") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        with open(f"{proc}/{pid}/cmdline", "rb") as file:
            command_line = file.read(1 << 16)
    except (OSError, ValueError):
        return None
    process = {"pid": pid, "command": status.get("Name", "")[:64]}
    for field, name in STATUS_FIELDS.items():
        process[name] = status.get(field, "").strip() or None
    arguments = command_line.rstrip(b"\0").split(b"\0") if command_line.strip(b"\0") else []
    titled = len(arguments) < 2 or command_line.endswith(b"\0\0") or b"::" in arguments[0]
    process["arguments"] = None if titled else [argument.decode("utf-8", "backslashreplace")[:400] for argument in arguments[:400]]
    return process


def sysctl_paths(name, root="/proc/sys"):
    """The files of a sysctl name as sysctl.d(5) reads it: separators `.` or `/`, whichever comes first; `*` for every interface."""
    first = next((character for character in name if character in "./"), ".")
    path = name.replace(".", "/") if first == "." else name
    if first == ".":
        path = "".join({".": "/", "/": "."}.get(character, character) for character in name)
    if "*" in path:
        return sorted(glob.glob(f"{root}/{path}"))
    return [f"{root}/{path}"]


def read_sysctls(names, root="/proc/sys"):
    """{name: {path below /proc/sys: value or None}}; None where this kernel has no such setting."""
    values = {}
    for name in names:
        values[name] = {}
        for path in sysctl_paths(name, root):
            try:
                with open(path, encoding="ascii", errors="backslashreplace") as file:
                    values[name][path[len(root) + 1:]] = " ".join(file.read().split())[:4096]
            except OSError:
                values[name][path[len(root) + 1:]] = None
    return values


def _name(lookup, number):
    try:
        return lookup(number)[0]
    except KeyError:
        return str(number)


def read_files(patterns):
    """{path: {type, mode, owner, group, size, sha256, target}}, None for a path without pattern characters that does not exist."""
    found = {}
    for pattern in patterns:
        for path in sorted(glob.glob(pattern)) if any(character in pattern for character in "*?[") else [pattern]:
            found[path] = read_file(path)
    return found


def read_file(path):
    """The facts of one file; the digest of regular files up to 4 MiB."""
    try:
        facts = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFCHR: "device", stat.S_IFBLK: "device", stat.S_IFSOCK: "socket"}
    kind = kinds.get(stat.S_IFMT(facts.st_mode), "other")
    result = {
        "type": kind, "mode": f"{stat.S_IMODE(facts.st_mode):04o}", "owner": _name(pwd.getpwuid, facts.st_uid),
        "group": _name(grp.getgrgid, facts.st_gid), "size": facts.st_size, "sha256": None, "target": os.readlink(path) if kind == "link" else None,
    }
    if kind == "file" and facts.st_size <= FILE_LIMIT:
        with open(path, "rb") as file:
            result["sha256"] = hashlib.sha256(file.read()).hexdigest()
    return result

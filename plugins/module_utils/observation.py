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
import struct
import subprocess

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import guard_history, network_tables, udp_responder
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.access import read_accounts, read_sshd
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_witness import prove
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.listeners import read_listeners
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_ruleset import RulesetUnreadable, read_ruleset
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.npu import observe_npus
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.units import read_strays, read_units
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.wheels import normalise

VERSION = 1
TABLE = ("vllm_hardening", "inet")
HOOKS = ("prerouting", "input", "forward", "output", "postrouting", "ingress")
FILE_LIMIT = 1 << 22
LINKS = 40  # as many as the kernel follows


def observe(request, run=None):
    """Observe everything asked for.

    request: {units: [name], users: [name], sysctls: [name, `*` and the slash form allowed], files: [path or pattern],
    npus: [number], packages: {directory, names} or None, responder: {nonce, addresses, ports, seconds, started} or None, policy: what
    firewall_policy.read_policy takes, or None}.
    run: callable for commands, `run(argv) -> (returncode, stdout, stderr)`.
    Returns {version, host, addresses, listeners, units, strays, accounts, sshd, sysctls, files, table, guard, npu, packages, packet_filter, responder,
    unknown}; a part that could not be observed is None and `unknown` has its reason under its name.
    """
    run = run or run_command
    units, users = list(request.get("units") or []), list(request.get("users") or [])
    files = list(request.get("files") or [])
    parts = {
        "host": lambda: read_host(run),
        "addresses": network_tables.read_addresses,
        "listeners": read_listeners,
        "units": lambda: read_units(units, run),
        "strays": lambda: read_strays(user_ids(users), set(units)),
        "accounts": lambda: read_accounts(users),
        "sshd": lambda: {"settings": read_sshd(run)},
        "sysctls": lambda: read_sysctls(request.get("sysctls") or []),
        "table": read_table,
        "guard": guard_history.read_latest,
    }
    if request.get("npus"):
        parts["npu"] = lambda: observe_npus(request["npus"], run)
    if request.get("packages"):
        parts["packages"] = lambda: read_packages(**request["packages"])
    if request.get("policy"):
        parts["packet_filter"] = lambda: prove(request["policy"])
    result, unknown = {"version": VERSION}, {}

    def part(name, read):
        try:
            result[name] = read()
        except (AttributeError, LookupError, OSError, TypeError, ValueError, struct.error, subprocess.SubprocessError, RulesetUnreadable) as error:
            result[name] = None
            unknown[name] = f"{type(error).__name__}: {error}"[:300]

    for name, read in parts.items():
        part(name, read)
    for facts in (result["units"] or {}).values():
        files.extend([facts["properties"].get("FragmentPath") or "", *(facts["properties"].get("DropInPaths") or "").split()])
    if request.get("responder"):
        # Last, so that it is not observed itself.
        part("responder", lambda: respond(**request["responder"]))
    part("files", lambda: read_files([path for path in files if path]))
    result["unknown"] = unknown
    return result


def respond(nonce, addresses, ports, seconds, started):
    """Start the responder of UDP probes; what was asked for, with the ports it answers on."""
    return {"ports": udp_responder.start(nonce, addresses, ports, seconds), "nonce": nonce, "seconds": min(seconds, udp_responder.LONGEST), "started": started}


def run_command(argv):
    """Run a command without input; returns (returncode, stdout, stderr) as text."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    return done.returncode, done.stdout.decode("utf-8", "backslashreplace"), done.stderr.decode("utf-8", "backslashreplace")


def user_ids(names):
    """The numeric ids of those of the accounts that exist."""
    found = set()
    for name in names:
        try:
            found.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue
    return found


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


def read_table():
    """The collection's own table in short: {present, dormant, chains: [{name, hook, priority, policy, rules}]}."""
    tables = read_ruleset(*TABLE)["tables"]
    if not tables:
        return {"present": False, "dormant": False, "chains": []}
    chains = [{
        "name": name, "hook": HOOKS[chain["hook"]] if chain.get("hook") is not None and chain["hook"] < len(HOOKS) else None,
        "priority": chain.get("priority"), "policy": {0: "drop", 1: "accept"}.get(chain.get("policy")), "rules": len(chain.get("rules") or []),
    } for name, chain in sorted(tables[0]["chains"].items())]
    return {"present": True, "dormant": bool((tables[0].get("flags") or 0) & 1), "chains": chains}


def sysctl_paths(name, root="/proc/sys"):
    """The files of a sysctl name as sysctl.d(5) reads it: separators `.` or `/`, whichever comes first; `*` for every interface."""
    first = next((character for character in name if character in "./"), ".")
    path = name
    if first == ".":
        path = "".join({".": "/", "/": "."}.get(character, character) for character in name)
    if "*" in path:
        return sorted(glob.glob(f"{root}/{path}"))
    return [f"{root}/{path}"]


def read_sysctls(names, root="/proc/sys"):
    """{name: {path below /proc/sys: value or None}}; None where this kernel has no such setting, left out where it does not tell."""
    values = {}
    for name in names:
        values[name] = {}
        for path in sysctl_paths(name, root):
            try:
                with open(path, encoding="ascii", errors="backslashreplace") as file:
                    values[name][path[len(root) + 1:]] = " ".join(file.read().split())[:4096]
            except FileNotFoundError:
                if "*" not in name:  # an interface that is gone since
                    values[name][path[len(root) + 1:]] = None
            except OSError:
                continue
    return values


def read_packages(directory, names):
    """{name: [version]} of those of the packages that are installed beside a directory of programs, by their `*.dist-info` directories."""
    wanted, found = {normalise(name): name for name in names}, {}
    for path in glob.glob(f"{glob.escape(directory)}/../lib*/python3*/*-packages/*.dist-info"):
        name, _separator, version = os.path.basename(path)[:-len(".dist-info")].rpartition("-")
        if normalise(name) in wanted:
            found.setdefault(wanted[normalise(name)], set()).add(version)
    return {name: sorted(versions) for name, versions in sorted(found.items())}


def _name(lookup, number):
    try:
        return lookup(number)[0]
    except KeyError:
        return str(number)


def read_files(patterns):
    """{path: {type, mode, owner, group, size, modified, sha256, target}}, None for a path without pattern characters that does not exist.

    What a link leads to is described as well, under the link's directory and its target joined.
    """
    found = {}
    for pattern in patterns:
        for path in sorted(glob.glob(pattern)) if any(character in pattern for character in "*?[") else [pattern]:
            # Whoever may change what a link leads to need not change the link.
            for _hop in range(LINKS):
                if path in found:
                    break
                found[path] = facts = read_file(path)
                if not facts or facts["type"] != "link":
                    break
                path = os.path.join(os.path.dirname(path), facts["target"])
    return found


def read_file(path):
    """The facts of one file; the digest of regular files up to 4 MiB. `modified` is in seconds since the epoch, and never in the future."""
    try:
        facts = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFCHR: "device", stat.S_IFBLK: "device", stat.S_IFSOCK: "socket"}
    kind = kinds.get(stat.S_IFMT(facts.st_mode), "other")
    result = {
        "type": kind, "mode": f"{stat.S_IMODE(facts.st_mode):04o}", "owner": _name(pwd.getpwuid, facts.st_uid), "group": _name(grp.getgrgid, facts.st_gid),
        "size": facts.st_size, "modified": min(facts.st_mtime, facts.st_ctime), "sha256": None, "target": os.readlink(path) if kind == "link" else None,
    }
    if kind == "file" and facts.st_size <= FILE_LIMIT:
        with open(path, "rb") as file:
            result["sha256"] = hashlib.sha256(file.read()).hexdigest()
    return result

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Everything of a host that a deviation or its correction could change, as ``{key: value}``; runs on the host.

Keys say what kind of thing it is: ``file PATH``, ``table FAMILY NAME``, ``sysctl KEY``, ``unit NAME``, ``process NAME``, ``address INTERFACE``,
``stray COMMAND``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import stat
import subprocess
import sys

TREES = ("/etc", "/opt/vllm", "/srv", "/usr/local", "/var/lib/vllm-hardening", "/var/lib/vllm-gateway", "/root/.ssh")
# Backups of the tools that edit accounts, their lock, and what a run notes of itself.
PASSING = re.compile(r"^/etc/(passwd|shadow|group|gshadow|subuid|subgid)-$|/\.pwd\.lock$|\.begun$|__pycache__|/etc/\.updated$|/access/")
SYSCTLS = ("net/ipv4", "net/ipv6", "net/core")
COUNTING = re.compile(r"conntrack_count|/route/|/neigh/|tcp_mem|udp_mem|_metrics|stat_refresh|random|fib_notify")
TEXT = re.compile(r"^/etc/(systemd/system|sysctl\.d|vllm-hardening/firewall|ssh/sshd_config\.d)")
NOT_OURS = re.compile(r"vllm-hardening-(change|rollback)|vllm-gateway-expiry.service")
WHOLE = 1 << 20  # bytes; of larger files, such as libraries, size and time stand for the content
UNITS = ("vllm-*", "ssh.service", "nftables.service", "fault.service")
SHOWN = ("Id", "ActiveState", "UnitFileState", "NeedDaemonReload", "MainPID", "DropInPaths")


def output(*command):
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def files():
    """Mode, owner and content of every file; of short configuration also its text."""
    found = {}
    for tree in TREES:
        for folder, names, others in os.walk(tree):
            for path in [folder, *(os.path.join(folder, name) for name in others), *(os.path.join(folder, name) for name in names)]:
                if not PASSING.search(path):
                    found[f"file {path}"] = one_file(path)
    return found


def one_file(path):
    """One file as a list."""
    status = os.lstat(path)
    shape = [stat.filemode(status.st_mode), status.st_uid, status.st_gid]
    if stat.S_ISLNK(status.st_mode):
        return [*shape, os.readlink(path)]
    if not stat.S_ISREG(status.st_mode):
        return shape
    if status.st_size > WHOLE:
        return [*shape, status.st_size, status.st_mtime_ns]
    with open(path, "rb") as stream:
        content = stream.read()
    if path.endswith("/firewall/state.json"):
        state = json.loads(content)
        content = json.dumps({key: value for key, value in state.get("confirmed", {}).items() if key not in ("at", "id")}, sort_keys=True).encode()
    if path.endswith(".json") and "/applied/" in path:
        content = json.dumps({key: value for key, value in json.loads(content).items() if key != "at"}, sort_keys=True).encode()
    if path.startswith("/etc/sysctl.d/"):  # the values of before are lost with a file that somebody removed
        content = b"".join(line for line in content.splitlines(True) if not line.startswith((b"# before: ", b"# Values before")))
    return [*shape, content.decode("utf-8", "replace")] if TEXT.search(path) else [*shape, hashlib.sha256(content).hexdigest()]


def tables():
    """Every table of the packet filter without counters; the elements of sets in one order."""
    found = {}
    for line in output("nft", "list", "tables").splitlines():
        _table, family, name = line.split()
        text = output("nft", "-s", "list", "table", family, name)
        text = re.sub(r"\{ ([^{}]*) \}", lambda match: "{ " + ", ".join(sorted(re.split(r",\s+", match[1]))) + " }", text)
        head, _line, body = text.rstrip("}\n").partition("{\n")
        found[f"table {family} {name}"] = head + "\n".join(sorted(part.strip("}\n\t ") for part in body.split("\n\n")))
    return found


def sysctls():
    """The kernel parameters of the network."""
    found = {}
    for part in SYSCTLS:
        for folder, _names, others in os.walk(f"/proc/sys/{part}"):
            for name in others:
                path = os.path.join(folder, name)
                if not COUNTING.search(path):
                    try:
                        with open(path, encoding="ascii") as stream:
                            found["sysctl " + path[len("/proc/sys/"):].replace("/", ".")] = " ".join(stream.read().split())
                    except OSError:
                        continue
    return found


def units():
    """What systemd says of the units that the collection and its neighbours have, and which process each runs as."""
    found = {}
    for block in output("systemctl", "show", f"--property={','.join(SHOWN)}", *UNITS).split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in values and values["ActiveState"] not in ("activating", "deactivating"):
            found[f"process {values['Id']}"] = values.pop("MainPID", "")
            found.update({f"unit {values['Id']} {name}": value for name, value in values.items()})
    return {key: value for key, value in found.items() if value and not NOT_OURS.search(key)}


def addresses():
    """The addresses of each interface."""
    found = {}
    for link in json.loads(output("ip", "-j", "address")):
        found[f"address {link['ifname']}"] = sorted(f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"])
    return found


def strays():
    """Engines outside units."""
    found = {}
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as stream:
                command = stream.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
            with open(f"/proc/{name}/cgroup", encoding="ascii") as stream:
                group = stream.read()
        except (OSError, UnicodeDecodeError):
            continue
        if "/opt/vllm/" in command and not re.search(r"/vllm-[a-z]+\.service", group) and "runuser" not in command:
            key = f"stray {os.stat(f'/proc/{name}').st_uid} {command}"
            found[key] = found.get(key, 0) + 1
    return found


if __name__ == "__main__":
    everything = {**files(), **tables(), **sysctls(), **units(), **addresses(), **strays()}
    sys.stdout.write(base64.b64encode(json.dumps(everything).encode()).decode())

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Who listens on this host: sockets from the kernel, their owners from one scan of /proc, their units from the control group."""

from __future__ import annotations

import os
import re

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import udp_responder

_UNIT = re.compile(r"([^/]+\.(?:service|scope|socket))(?=/|$)")


def unit_of(cgroup):
    """The systemd unit in the text of a /proc/PID/cgroup, the innermost one; None outside any unit."""
    for line in sorted(cgroup.splitlines(), key=lambda line: not line.startswith(("0::", "1:name=systemd:"))):
        found = _UNIT.findall(line.partition(":")[2].partition(":")[2])
        if found:
            return found[-1]
    return None


def _read(path):
    try:
        with open(path, "rb") as file:
            return file.read(4096).decode("utf-8", "backslashreplace")
    except OSError:
        return ""


def find_owners(inodes, proc="/proc"):
    """{inode: {pid, command, unit}} of the processes that hold the sockets `inodes`, the lowest pid of several.

    Stops as soon as every inode is found. What may not be read is left out.
    """
    wanted, owners = set(inodes), {}
    for pid in sorted((name for name in os.listdir(proc) if name.isdigit()), key=int):
        if not wanted:
            break
        try:
            descriptors = os.scandir(f"{proc}/{pid}/fd")
        except OSError:
            continue
        held = set()
        with descriptors:
            for descriptor in descriptors:
                try:
                    target = os.readlink(descriptor.path)
                except OSError:
                    continue
                if target.startswith("socket:["):
                    inode = int(target[8:-1])
                    if inode in wanted:
                        held.add(inode)
        if held:
            owner = {"pid": int(pid), "command": _read(f"{proc}/{pid}/comm").strip()[:64], "unit": unit_of(_read(f"{proc}/{pid}/cgroup"))}
            owners.update(dict.fromkeys(held, owner))
            wanted -= held
    return owners


def read_listeners():
    """Every listening socket with its owner: `{protocol, address, port, interface, v6only, uid, pid, command, unit}`.

    `pid`, `command` and `unit` are None where the owner is not to be seen (the kernel itself, or no privilege).
    What answers the audit's UDP probes for a while (udp_responder) is no service of the host, and left out. Raises NetlinkError.
    """
    sockets = udp_responder.read_others()
    owners = find_owners({entry["inode"] for entry in sockets if entry["inode"]})
    nobody = {"pid": None, "command": None, "unit": None}
    listeners = []
    for entry in sockets:
        owner = owners.get(entry.pop("inode"), nobody)
        listeners.append({**entry, **owner})
    return sorted(listeners, key=lambda entry: (entry["protocol"], entry["port"], entry["address"], entry["pid"] or 0))

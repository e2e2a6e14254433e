# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The wires of a lab: one network namespace with a bridge for each segment.

The namespace carries no address and forwards nothing, so that no packet gets from one segment to another, whatever the
machine's own forwarding, bridge filter or firewall do. The machine is one station on the management segment.
"""
from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from .machine import run
from .topology import CONTROLLER_NUMBER, INTERFACES, SEGMENTS, Block, Host, Refusal

REMOVAL_DEADLINE = 120
# The switch only switches: no filter looks at what crosses a bridge, and the bridges get no link-local address.
_SWITCH_ONLY = """for file in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e "$file" ] || echo 0 > "$file"; done
for file in all default; do echo 1 > "/proc/sys/net/ipv6/conf/$file/disable_ipv6"; done"""


def namespace(lab: str) -> str:
    """Name of the lab's switch namespace."""
    return f"lab-{lab}"


def port(lab: str) -> str:
    """The machine's interface on the lab's management segment; a name too long for the kernel (15) ends in its hash."""
    name = f"lab-{lab}"
    return name if len(name) <= 15 else f"lab-{lab[:5]}-{hashlib.sha256(lab.encode()).hexdigest()[:5]}"


def namespace_exists(lab: str) -> bool:
    """Whether the lab's switch namespace is there."""
    return Path("/run/netns", namespace(lab)).exists()


def bridges() -> str:
    """ip batch: the segments' bridges."""
    lines = []
    for segment in SEGMENTS:
        lines.append(f"link add {segment} type bridge stp_state 0 mcast_snooping 0")
        lines.append(f"link set {segment} up")
    return "\n".join(lines) + "\n"


def controller(lab: str, block: Block) -> str:
    """ip batch: the machine's own port on the management segment."""
    name = port(lab)
    lines = [f"link add {name} type veth peer name controller netns {namespace(lab)}"]
    for family, prefix in ((4, "24"), (6, "64 nodad")):
        lines.append(f"address add {block.address('management', CONTROLLER_NUMBER, family)}/{prefix} dev {name}")
    return "\n".join([*lines, f"link set {name} up"]) + "\n"


def plumbing(lab: str, block: Block, host: Host) -> dict[str, str]:
    """The files of the ``plumb`` hook: suffix -> content. ``@PID@`` stands for the host's process."""
    remove, switch, inner = [], [], ["link set lo up"]
    for segment in host.segments:
        device = INTERFACES[segment]
        port = f"{host.name}.{device}"
        mac = block.mac(segment, host.number)
        remove.append(f"link delete {port}")
        switch.append(f"link add {port} type veth peer name {device} address {mac} netns @PID@")
        switch.append(f"link set {port} master {segment} up")
        inner.append(f"address add {block.address(segment, host.number, 4)}/24 dev {device}")
        inner.append(f"address add {block.address(segment, host.number, 6)}/64 dev {device} nodad")
        inner.append(f"link set {device} up")
    files = {"remove": remove, "switch": switch, "host": inner, "name": [namespace(lab)]}
    return {suffix: "\n".join(lines) + "\n" for suffix, lines in files.items()}


def up(lab: str, block: Block) -> bool:
    """Make the switch namespace and the machine's port; True if either was missing."""
    name = namespace(lab)
    changed = False
    if not namespace_exists(lab):
        run("ip", "netns", "add", name)
        run("nsenter", f"--net=/run/netns/{name}", "sh", "-c", _SWITCH_ONLY)
        run("nsenter", f"--net=/run/netns/{name}", "ip", "-batch", "-", text_input=bridges())
        changed = True
    if not Path("/sys/class/net", port(lab)).exists():
        run("ip", "-batch", "-", text_input=controller(lab, block))
        run("nsenter", f"--net=/run/netns/{name}", "ip", "link", "set", "controller", "master", "management", "up")
        for family in ("ipv4", "ipv6"):
            Path(f"/proc/sys/net/{family}/conf/{port(lab)}/forwarding").write_text("0", encoding="ascii")
        changed = True
    return changed


def ports(lab: str) -> set[str]:
    """The hosts' ports plugged into the bridges, as ``HOST.INTERFACE``; a host's go when it stops."""
    name = namespace(lab)
    if not namespace_exists(lab):
        return set()
    links = json.loads(run("nsenter", f"--net=/run/netns/{name}", "ip", "-json", "link", "show", "type", "veth"))
    return {link["ifname"] for link in links if "master" in link and "." in link["ifname"]}


def down(lab: str) -> None:
    """Remove namespace, bridges and the machine's port, and wait until they are gone."""
    if namespace_exists(lab):
        run("ip", "netns", "delete", namespace(lab))
    deadline = time.monotonic() + REMOVAL_DEADLINE
    while Path("/sys/class/net", port(lab)).exists():
        if time.monotonic() > deadline:
            raise Refusal(f"interface {port(lab)}: still there {REMOVAL_DEADLINE} s after its namespace went; something holds it open")
        time.sleep(0.05)

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which hosts a lab has and which addresses they carry. Pure."""
from __future__ import annotations

import dataclasses
import ipaddress
import re

SEGMENTS = ("management", "api", "internal")
INTERFACES = {"management": "eth0", "api": "eth1", "internal": "eth2"}
DEFAULT_HOSTS = ("npu01", "npu02", "client", "outsider", "rogue")
CONTROLLER_NUMBER = 1
MONITOR_NUMBER = 9
MAX_NODES = 50

_OTHERS = {
    "client": (130, ("management", "api")),
    "outsider": (66, ("management", "api")),
    "rogue": (67, ("management", "internal")),
    "monitor": (MONITOR_NUMBER, ("management",)),
}


class Refusal(Exception):
    """Something the lab cannot or must not do; the message tells what to do instead."""


@dataclasses.dataclass(frozen=True)
class Host:
    """One host: ``number`` is the last part of all its addresses, ``segments`` where it is attached."""

    name: str
    number: int
    segments: tuple[str, ...]

    @property
    def is_node(self) -> bool:
        """Whether the host serves models (``npuNN``)."""
        return self.name.startswith("npu")


@dataclasses.dataclass(frozen=True)
class Block:
    """The addresses of a lab, made from the two octets ``10.N``.

    The digits are the same in both families, so that a person recognises them: host 11 on the api segment (1) of block
    10.77 is 10.77.1.11 and fd00:77:1::11.
    """

    octet: int

    @classmethod
    def parse(cls, text: str) -> Block:
        """``10.77`` -> Block; anything else is refused."""
        match = re.fullmatch(r"10\.(\d{1,3})", text)
        if not match or int(match[1]) > 255 or str(int(match[1])) != match[1]:
            raise Refusal(f"--block {text}: not an address block; write 10.N with N from 0 to 255, for example 10.77")
        return cls(int(match[1]))

    def __str__(self) -> str:
        return f"10.{self.octet}"

    def network(self, segment: str, family: int) -> str:
        """The network of a segment in CIDR form."""
        index = SEGMENTS.index(segment)
        text = f"10.{self.octet}.{index}.0/24" if family == 4 else f"fd00:{self.octet}:{index}::/64"
        return str(ipaddress.ip_network(text))

    def address(self, segment: str, number: int, family: int) -> str:
        """The address of host ``number`` on a segment."""
        index = SEGMENTS.index(segment)
        text = f"10.{self.octet}.{index}.{number}" if family == 4 else f"fd00:{self.octet}:{index}::{number}"
        return str(ipaddress.ip_address(text))

    def networks(self) -> list[str]:
        """All networks of the block, both families."""
        return [self.network(segment, family) for segment in SEGMENTS for family in (4, 6)]

    def mac(self, segment: str, number: int) -> str:
        """A locally administered hardware address that survives a restart, so neighbours need not learn it anew."""
        return f"02:00:{self.octet:02x}:{SEGMENTS.index(segment):02x}:00:{number:02x}"

    def clients(self, family: int) -> str:
        """The part of the api segment that holds the permitted clients."""
        return f"10.{self.octet}.1.128/25" if family == 4 else f"fd00:{self.octet}:1::100/120"


def lab_name(text: str) -> str:
    """Check a lab's name; it becomes part of the names of files, containers and a network namespace."""
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", text):
        raise Refusal(f"--name {text}: write 1 to 32 lower-case letters, digits, dashes or underscores, a letter first")
    return text


def host(name: str) -> Host:
    """The host a name stands for: ``npu01``..``npu50``, client, outsider, rogue, monitor."""
    match = re.fullmatch(r"npu(\d{2})", name)
    if match and 1 <= int(match[1]) <= MAX_NODES:
        return Host(name, 10 + int(match[1]), SEGMENTS)
    if name in _OTHERS:
        return Host(name, *_OTHERS[name])
    raise Refusal(f"host {name}: not known; write npu01..npu{MAX_NODES}, {', '.join(_OTHERS)}")


def hosts(names: list[str] | None = None, scale: int | None = None) -> list[Host]:
    """The hosts of a lab: the names given (default: two nodes and the three others), with ``scale`` nodes if given."""
    chosen = list(names or DEFAULT_HOSTS)
    if scale is not None:
        if not 1 <= scale <= MAX_NODES:
            raise Refusal(f"--scale {scale}: write a number of nodes from 1 to {MAX_NODES}")
        chosen = [f"npu{index:02d}" for index in range(1, scale + 1)] + [n for n in chosen if not n.startswith("npu")]
    repeated = sorted({name for name in chosen if chosen.count(name) > 1})
    if repeated:
        raise Refusal(f"--hosts: {', '.join(repeated)} named more than once")
    return [host(name) for name in chosen]


def overlaps(block: Block, networks: list[str]) -> list[str]:
    """Those of the machine's own networks (CIDR) that overlap the block."""
    ours = [ipaddress.ip_network(network) for network in block.networks()]
    found = []
    for text in networks:
        network = ipaddress.ip_network(text, strict=False)
        if any(network.version == our.version and network.overlaps(our) for our in ours):
            found.append(text)
    return found

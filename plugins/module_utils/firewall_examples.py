# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Examples of what a packet filter does: a packet of a box, as a person reads it, and its way rule by rule."""

from __future__ import annotations

import ipaddress

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_policy import PROTOCOLS
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_fields import (
    DADDR,
    DPORT,
    ICMP_CODE,
    ICMP_TYPE,
    IIF,
    NEW,
    NO_UID,
    OIF,
    PROTOCOL,
    SADDR,
    SPORT,
    STATE,
    STATES,
    TCP_FLAGS,
    UID,
)


class Examples:
    """Packets of one network protocol's ``packet_filter`` (nft_paths.Filter), interfaces named as ``interface_names`` numbers them."""

    def __init__(self, packet_filter, interface_names):
        self.filter, self.space, self.diagrams = packet_filter, packet_filter.space, packet_filter.diagrams
        self.family, self.host, self.interface_names = packet_filter.family, packet_filter.host, interface_names

    def example(self, box):
        """A packet in a box, one that a person would take for typical where there is a choice."""
        if self.family == "ip":
            likes = {SADDR: (0xCB007107, 0xC6336407, 0x0A000007), DADDR: (0xC000020A, 0x0A00000A)}
        else:
            likes = {SADDR: ((0x20010DB8 << 96) + 7,), DADDR: ((0x20010DB8 << 96) + (1 << 64) + 10,)}
        likes.update({PROTOCOL: (6, 17), STATE: (NEW,), SPORT: (40000,), DPORT: (22, 80, 8000), TCP_FLAGS: (2,), UID: (NO_UID,)})
        own = self.host.addresses(self.family) if self.host else ()
        likes[DADDR] = tuple(own) + likes[DADDR]
        present = tuple(at for at, one in enumerate(self.space.interfaces) if one["present"] and self.interface_names[at] != "lo")
        likes[IIF] = likes[OIF] = present + tuple(range(1, len(self.space.interfaces)))
        values = {}
        for rank in set(likes) | set(box):
            low, high = box.get(rank, (0, self.diagrams.fields[rank].maximum))
            values[rank] = next((value for value in likes.get(rank, ()) if low <= value <= high), low)
        return values

    def illustrate(self, entry, values, box, raw, path, where, want_pass):
        """Packet, box, trace and outcome of an example."""
        free = self.free_values(raw, values, where, want_pass)
        steps, outcome = self.filter.trace({**values, **free}, path, assume_local=where != "forward")
        entry.update(packet=self.packet(values, where), box=self.describe(box), trace=steps, outcome=_words(outcome))

    def free_values(self, raw, values, where, want_pass):
        """Values of the free fields under which the packet passes, or is refused."""
        free = tuple(sorted(
            (rank, value) for rank, value in values.items() if rank in self.diagrams.fields and not self.diagrams.fields[rank].free
        ))
        known = {rank for rank, _value in free}
        missing = tuple((rank, 0) for rank, field in self.diagrams.fields.items() if not field.free and rank not in known)
        narrowed = self.diagrams.assign(raw, tuple(sorted(free + missing)), remember=False)
        for box, _value in self.diagrams.boxes(narrowed, lambda value: (value == ("accept", where)) == want_pass):
            return {rank: low for rank, (low, _high) in box.items()}
        return {}

    def packet(self, values, where):
        """A packet as a person reads it."""
        packet = {"family": self.family, "protocol": _protocol_name(values[PROTOCOL]), "state": STATES[values[STATE]]}
        for key, rank in (("source", SADDR), ("destination", DADDR)):
            packet[key] = _address(values[rank], self.family)
        if values[PROTOCOL] in (6, 17, 132):
            packet.update(source_port=values[SPORT], destination_port=values[DPORT])
        if values[PROTOCOL] == 6:
            packet["tcp_flags"] = f"0x{values[TCP_FLAGS]:02x}"
        if values[PROTOCOL] in (1, 58):
            packet.update(icmp_type=values.get(ICMP_TYPE, 0), icmp_code=values.get(ICMP_CODE, 0))
        if where != "output":
            at = values.get(IIF, 0)
            packet.update(interface=self.interface_names[at], interface_present=self.space.interfaces[at]["present"])
        if where != "input":
            at = values.get(OIF, 0)
            packet["output_interface"] = self.interface_names[at]
        if where == "output" and values.get(UID, NO_UID) != NO_UID:
            packet["uid"] = values[UID]
        return packet

    def describe(self, box):
        """A box as a person reads it: only the fields that matter."""
        result = {}
        for rank, (low, high) in sorted(box.items()):
            field = self.diagrams.fields[rank]
            if (low, high) == (0, field.maximum):
                continue
            if rank in (SADDR, DADDR):
                text = _address_range(low, high, self.family)
            elif rank == STATE:
                text = ",".join(STATES[low : high + 1])
            elif rank in (IIF, OIF):
                text = ",".join(self.interface_names[at] or "none" for at in range(low, high + 1))
            elif rank == PROTOCOL and low == high:
                text = _protocol_name(low)
            else:
                text = str(low) if low == high else f"{low}-{high}"
            result[field.name] = text
        return result


def deciding(trace, where):
    """The step that let the packet pass, without the details."""
    for step in reversed(trace or []):
        if step["hook"] == where and step["outcome"] in ("accept", "policy accept"):
            return {key: step.get(key) for key in ("hook", "family", "table", "chain", "handle", "comment", "rule", "outcome")}
    return {"hook": where, "outcome": f"no chain of the hook {where} refuses it"}


def _words(outcome):
    if outcome[0] == "accept":
        return f"accepted ({outcome[1]})"
    if outcome[0] == "kernel":
        return outcome[1]
    return "rejected" if outcome[0] == "reject" else "dropped"


def _protocol_name(number):
    return next((name for name, one in PROTOCOLS.items() if one == number), str(number))


def _address(value, family):
    return str(ipaddress.IPv4Address(value) if family == "ip" else ipaddress.IPv6Address(value))


def _address_range(low, high, family):
    kind = ipaddress.IPv4Address if family == "ip" else ipaddress.IPv6Address
    networks = []
    for network in ipaddress.summarize_address_range(kind(low), kind(high)):
        networks.append(str(network).replace("/32", "") if family == "ip" else str(network).replace("/128", ""))
        if len(networks) > 2:
            return f"{kind(low)}-{kind(high)}"
    return ",".join(networks)

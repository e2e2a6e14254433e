# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Random rulesets against the kernel: the evaluator, a plain interpreter and real packets must agree.

    python3 tests/fuzz/campaign.py [COUNT] [SEED]

Loads COUNT rulesets, made from SEED upwards, one after the other, sends real packets through each, and stops at the first
disagreement with a ruleset shrunk to what still shows it. Needs root, nft and ip.
"""

from __future__ import annotations

import argparse
import collections
import functools
import itertools
import json
import os
import random
import sys
import time

import interpreter
import laboratory
import rulesets

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import nft_fields as fields
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_proof import verify
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.host_network import Host, read_host
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_paths import Filter
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_ruleset import read_ruleset

PACKETS = 160
# Packets of one flow differ in these: every class of values that the generator's rules tell apart (256: lowered to 255).
_TTLS, _DSCPS = (256, 1, 2, 3, 64, 65, 100, 101, 102, 255), (0, 1, 10, 46)
_PHASES = {"opening": (0x02,), "established": (0x10, 0x11, 0x18, 0x19), "answer": (0x10, 0x11, 0x12, 0x18, 0x19)}
ip_address = functools.lru_cache(1 << 16)(rulesets.ipaddress.ip_address)
_SURE = (0.2, 1.0, 5.0)
_NETWORKS = [
    (rulesets.ipaddress.ip_network(text), name)
    for at, name in enumerate(laboratory.INTERFACES)
    for text in (f"10.79.{at}.0/24", f"fd00:79:{at}::/64" if at else "fd00:79::/64")
]
_KINDS = {
    (0, "ip"): {3: (1, 3, 3)}, (2, 0): ((1, 3, 0), (58, 1, 0)), (2, 1): ((1, 3, 3), (58, 1, 4)), (2, 2): ((1, 3, 1), (58, 1, 3)),
    (2, 3): ((1, 3, 13), (58, 1, 1)),
}
_TEXT_KINDS = {
    "icmpx port-unreachable": ((1, 3, 3), (58, 1, 4)), "icmpx admin-prohibited": ((1, 3, 13), (58, 1, 1)),
    "icmpx host-unreachable": ((1, 3, 1), (58, 1, 3)), "icmpx no-route": ((1, 3, 0), (58, 1, 0)),
    "icmp host-prohibited": ((1, 3, 10), None), "icmp port-unreachable": ((1, 3, 3), None),
    "icmpv6 addr-unreachable": (None, (58, 1, 3)), "icmpv6 admin-prohibited": (None, (58, 1, 1)), "tcp reset": ("tcp reset", "tcp reset"),
}


@functools.lru_cache(1 << 16)
def interface_of(address):
    """The interface behind which an address lies, None where there is no route."""
    found = ip_address(address)
    return next((name for network, name in _NETWORKS if found in network), None)


def state_of(packet):
    """What connection tracking makes of the first packet of a connection (with strict pick-up)."""
    protocol = packet["protocol"]
    if protocol == 6:
        return "new" if packet["flags"] & ~0xC8 in (0x02, 0x22) else "invalid"
    if protocol == 1 and packet["family"] == "ip":
        return "new" if packet["type"] in (8, 13) else "invalid"
    if protocol == 58 and packet["family"] == "ip6":
        return "new" if packet["type"] == 128 else "untracked" if packet["type"] == 133 else "invalid"
    return "new"


class Packets:
    """Makes packets for a ruleset: its own values and their neighbours, the diagram's corners, and a few of anything."""

    def __init__(self, chance, ruleset):
        self.random = chance
        self.ports, self.addresses = set(rulesets.PORTS), {"ip": set(), "ip6": set()}
        for table in ruleset["tables"]:
            for one in table["sets"]:
                for key in one["elements"]:
                    for value in key:
                        self.note(value)
            for chain in table["chains"]:
                for rule in chain["rules"]:
                    for statement in rule:
                        if statement[0] == "match" and not statement[1].startswith("fib"):
                            for value in statement[3]:
                                self.note(value)

    def note(self, value):
        """A constant of the ruleset and its neighbours."""
        parts = value[1:] if isinstance(value, tuple) and value[0] == "range" else [value]
        if isinstance(value, tuple) and value[0] == "prefix":
            network = rulesets.ipaddress.ip_network(f"{value[1]}/{value[2]}")
            parts = [str(network.network_address), str(network.broadcast_address)]
        for part in parts:
            if isinstance(part, int):
                self.ports.update(one for one in (part - 1, part, part + 1) if 0 < one < 65536)
            elif isinstance(part, str) and (":" in part or part[0].isdigit()):
                address = ip_address(part)
                for step in (-1, 0, 1):
                    try:
                        near = address + step
                    except ValueError:
                        continue
                    if near.is_multicast or near.is_loopback or near.is_unspecified or near.is_reserved:
                        continue
                    self.addresses["ip" if near.version == 4 else "ip6"].add(str(near))

    def fits(self, packet):
        """Whether a packet can be sent and would not be refused for reasons other than the filter."""
        for text in (packet["source"], packet["destination"]):
            address = ip_address(text)
            if address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local:
                return False
            if address.version == 4 and (int(address) >> 24 in (0, 255) or int(address) >> 28 == 15 or int(address) & 0xFF in (0, 255)):
                return False
            if address.version == 6 and int(address) & 0xFFFFFFFFFFFFFFFF == 0:
                return False  # the subnet-router anycast address
        own = rulesets.ADDRESSES[packet["family"]]
        return packet["source"] not in own if packet["path"] != "output" else packet["destination"] not in own

    def one(self):
        """A random packet."""
        chance = self.random
        family = chance.choice(("ip", "ip6"))
        peers = rulesets.PEERS[family] + sorted(self.addresses[family])
        own = rulesets.ADDRESSES[family]
        path = chance.choice(("input", "input", "input", "forward", "output"))
        protocol = chance.choice((6, 6, 6, 17, 17, 1 if family == "ip" else 58, 99))
        packet = {
            "family": family, "path": path, "protocol": protocol, "source": chance.choice(peers), "destination": chance.choice(own),
            "sport": chance.choice(sorted(self.ports)), "dport": chance.choice(sorted(self.ports)), "ttl": chance.choice((64, 64, 64, 255, 5)),
            "flags": chance.choice((2, 2, 2, 2, 16, 18, 4, 1, 0x29, 0x42)) if protocol == 6 else 0, "dscp": chance.choice((0, 0, 10, 46)),
            "type": 0, "code": 0, "iif": chance.choice(laboratory.INTERFACES), "oif": None, "seq": 1, "ack": 0,
        }
        if protocol == 1:
            packet["type"] = chance.choice((8, 8, 13, 0, 3))
        elif protocol == 58:
            packet["type"] = chance.choice((128, 128, 129, 1, 133))
        if protocol in (1, 58):
            packet["code"] = chance.choice((0, 0, 1))
            if packet["type"] == 133:
                packet["ttl"] = 255
        return self.complete(packet)

    def complete(self, packet):
        """Interfaces and addresses that suit the path; None where it cannot be."""
        chance, family = self.random, packet["family"]
        if packet["path"] == "forward":
            if interface_of(packet["destination"]) is None or packet["destination"] in rulesets.ADDRESSES[family]:
                packet["destination"] = chance.choice([one for one in rulesets.PEERS[family] if interface_of(one)])
            packet["ttl"] = max(packet["ttl"], 2)
        elif packet["path"] == "output":
            packet["iif"] = None
            if packet["source"] not in rulesets.ADDRESSES[family]:
                packet["source"] = chance.choice(rulesets.ADDRESSES[family])
            if interface_of(packet["destination"]) is None or packet["destination"] in rulesets.ADDRESSES[family]:
                packet["destination"] = chance.choice([one for one in rulesets.PEERS[family] if interface_of(one)])
            packet["oif"] = interface_of(packet["destination"])
        packet["state"] = state_of(packet)
        return packet if self.fits(packet) else None

    def corner(self, filters, boxes):
        """A packet from a corner of one of the diagram's boxes."""
        chance = self.random
        family, path, box = chance.choice(boxes)
        packet = self.one()
        if packet is None:
            return None
        space = filters[family].space
        packet.update(family=family, path=path)
        low_high = {rank: chance.choice(bounds) for rank, bounds in box.items()}
        kind = rulesets.ipaddress.IPv4Address if family == "ip" else rulesets.ipaddress.IPv6Address
        protocol = low_high.get(fields.PROTOCOL)
        first, last = box.get(fields.PROTOCOL, (0, 255))
        choices = [one for one in (6, 17, 1 if family == "ip" else 58, 99) if first <= one <= last]
        if not choices:
            return None
        packet["protocol"] = protocol if protocol in (6, 17, 99, 1 if family == "ip" else 58) else chance.choice(choices)
        packet["flags"] = low_high.get(fields.TCP_FLAGS, 2) if packet["protocol"] == 6 else 0
        if packet["protocol"] in (1, 58):
            packet["type"] = 8 if family == "ip" else 128
        for key, rank in (("sport", fields.SPORT), ("dport", fields.DPORT)):
            packet[key] = max(low_high.get(rank, packet[key]), 1)
        own, peers = rulesets.ADDRESSES[family], rulesets.PEERS[family]
        packet["source"] = str(kind(low_high[fields.SADDR])) if fields.SADDR in box else chance.choice(peers)
        inside = [one for one in own if fields.DADDR in box and box[fields.DADDR][0] <= int(kind(one)) <= box[fields.DADDR][1]]
        packet["destination"] = chance.choice(inside or own) if path == "input" else (
            str(kind(low_high[fields.DADDR])) if fields.DADDR in box else chance.choice(peers)
        )
        packet["iif"] = chance.choice(laboratory.INTERFACES)
        if fields.IIF in box:
            names = [space.interfaces[at]["name"].rstrip(b"\0").decode() for at in range(box[fields.IIF][0], box[fields.IIF][1] + 1)]
            packet["iif"] = next((name for name in names if name in laboratory.INTERFACES), packet["iif"])
        packet["oif"] = None
        return self.complete(packet)


class Evaluator:
    """The proof's diagrams for the ruleset that is loaded, asked for single packets."""

    def __init__(self):
        self.picture = read_host()
        self.host = Host(self.picture)

    def load(self):
        """Read what is loaded."""
        self.snapshot = snapshot = read_ruleset()
        self.filters = {family: Filter(snapshot, family, self.host) for family in ("ip", "ip6")}
        self.paths = {
            (family, way): one.sent() if way == "sent" else one.received() for family, one in self.filters.items() for way in ("sent", "received")
        }

    def values(self, packet):
        """A packet as field values."""
        space = self.filters[packet["family"]].space
        names = {one["name"].rstrip(b"\0").decode(): at for at, one in enumerate(space.interfaces)}
        ipv6 = packet["family"] == "ip6"
        header = {"ip header byte 8": packet["ttl"], "ip header byte 1": packet["dscp"] << 2, "ip6 header byte 7": packet["ttl"],
                  "ip6 header byte 0": 0x60 | packet["dscp"] >> 2, "ip6 header byte 1": (packet["dscp"] & 3) << 6}
        values = {
            fields.PROTOCOL: packet["protocol"], fields.STATE: fields.STATES.index(packet["state"]),
            fields.OLDER: int(packet["state"] == "established"), fields.DIRECTION: int(packet.get("direction") == "reply"),
            fields.IIF: names[packet["iif"]] if packet["iif"] else 0, fields.OIF: names[packet["oif"]] if packet["oif"] else 0,
            fields.ICMP_TYPE: packet["type"], fields.ICMP_CODE: packet["code"], fields.TCP_FLAGS: packet["flags"],
            fields.SADDR: int(ip_address(packet["source"])), fields.DADDR: int(ip_address(packet["destination"])),
            fields.SPORT: packet["sport"], fields.DPORT: packet["dport"], fields.UID: fields.NO_UID, fields.EXTENSIONS: 0,
        }
        del ipv6
        if packet["path"] == "forward":
            values[fields.OIF] = names[interface_of(packet["destination"])]
        for rank, field in space.diagrams.fields.items():
            if field.name in header:
                values[rank] = header[field.name]
        return values

    def judge(self, packet):
        """The terminal for a packet; ("depends", ...) where free fields decide."""
        one = self.filters[packet["family"]]
        diagrams = one.diagrams
        way = "sent" if packet["path"] == "output" else "received"
        values = self.values(packet)
        known = tuple(sorted((rank, values.get(rank, 0)) for rank, field in diagrams.fields.items() if not field.free))
        mark = tuple((rank, 0) for rank, field in diagrams.fields.items() if field.name == "meta mark")
        rest = diagrams.assign(self.paths[packet["family"], way], tuple(sorted(known + mark)), remember=False)
        found = diagrams.value[rest]
        return found if found is not None else ("depends", [field.name for field in diagrams.fields.values() if field.free])


def evaluator_kind(value):
    """A reject terminal as what comes back for IPv4 and IPv6."""
    if value[1] == 1:
        return ("tcp reset", "tcp reset")
    if value[1] == 0:
        return ((1, 3, value[2]), (58, 1, value[2]))
    return _KINDS[2, value[2]]


def agree(expected, kinds, fate, packet, answers_pass):
    """Whether what was seen is what was expected."""
    if expected[0] == "accept":
        return fate == ("accept", expected[1])
    if expected[0] == "drop" or packet["path"] == "output":
        return fate[0] != "accept" if packet["path"] == "output" else fate == ("drop",)
    # No answer is sent to a reset or an ICMP error, and other rules may drop the answer.
    if fate == ("drop",):
        return not answers_pass or (packet["protocol"] == 6 and packet["flags"] & 4 != 0) or (
            packet["protocol"] in (1, 58) and packet["type"] in (3, 1)
        ) or kinds == ("tcp reset", "tcp reset")
    if fate[0] != "reject":
        return False
    kind = kinds[0 if packet["family"] == "ip" else 1]
    return fate[1:] == (kind if isinstance(kind, tuple) else (kind,))


class Campaign:
    """Rulesets one after the other."""

    def __init__(self, lab):
        self.lab, self.evaluator = lab, Evaluator()
        self.addresses = {one for family in rulesets.ADDRESSES.values() for one in family}
        self.count = collections.Counter()

    def oracle_text(self, ruleset):
        return rulesets.text(ruleset)

    def interpret(self, ruleset, packet):
        """The interpreter's answer."""
        own = {name: rulesets.ADDRESSES[packet["family"]][at] for at, name in enumerate(laboratory.INTERFACES)}
        return interpreter.interpret(ruleset, dict(packet, own=own, route_back=interface_of(packet["source"]) or "eth0"), self.addresses, _NETWORKS)

    def one(self, seed, ruleset=None, packets=None):
        """One ruleset: a disagreement as ``(packet, kernel, evaluator, interpreter)``, else None."""
        chance = random.Random(seed)
        ruleset = ruleset or rulesets.Generator(chance).ruleset()
        if not self.lab.load(self.oracle_text(ruleset)):
            self.count["refused by nft"] += 1
            self.last_error = self.lab.error
            return None
        self.evaluator.load()
        self.count["rulesets"] += 1
        if packets is None:
            packets = self.packets(chance, ruleset)
        return self.compare(ruleset, packets)

    def packets(self, chance, ruleset):
        """The packets for a ruleset; no two of one batch belong to the same connection."""
        source = Packets(chance, ruleset)
        boxes = []
        for (family, way), diagram in self.evaluator.paths.items():
            for number, (box, value) in enumerate(self.evaluator.filters[family].diagrams.boxes(diagram, lambda value: True)):
                if number > 400:
                    break
                path = "output" if way == "sent" else value[1] if value[0] == "accept" else chance.choice(("input", "input", "forward"))
                boxes.append((family, path, box))
        packets, seen = [], set()
        attempts = 0
        while len(packets) < PACKETS and attempts < 4 * PACKETS:
            attempts += 1
            packet = source.corner(self.evaluator.filters, boxes) if boxes and chance.random() < 0.5 else source.one()
            if packet is None:
                continue
            ends = frozenset(((packet["source"], packet["sport"]), (packet["destination"], packet["dport"])))
            if packet["protocol"] not in (6, 17):
                ends = (frozenset((packet["source"], packet["destination"])), packet["sport"] if packet["protocol"] != 99 else 0)
            key = (packet["protocol"], ends)
            loose = (packet["protocol"], packet["source"], packet["sport"], packet["dport"])
            if key in seen or loose in seen:
                continue  # after address translation two packets must not be the same connection either
            seen.update((key, loose))
            packets.append(packet)
        return packets + [one for pair in chance.sample(list(zip(*[iter(self.lab.connections)] * 2)), 3) for one in pair]

    def expectations(self, ruleset, packet):
        """``(evaluator's terminal, interpreter's answer)``"""
        return self.evaluator.judge(packet), self.interpret(ruleset, packet)

    def phases(self, ruleset):
        """The established connections as flows of a policy: a disagreement about one of their phases, else None.

        Opening and later packets have the original direction, answers the reply direction. What the proof calls ok has to
        pass whatever the flow's packets differ in, what it calls broken has to be refused for some packet of that phase.
        """
        if any(chain["type"] == "nat" for table in ruleset["tables"] for chain in table["chains"]):
            return None  # these connections were made before the rules, and flows are about those made under them
        policy = {"allow": [], "forward": [], "egress": [], "permit": [{"name": "all"}], "permit_forward": [{"name": "all"}],
                  "permit_egress": [{"name": "all"}]}
        text = rulesets.text(ruleset)
        ttls = _TTLS if "ip ttl" in text or "hoplimit" in text else (64,)
        dscps = _DSCPS if "dscp" in text else (0,)
        ways = {}
        for first, second in zip(*[iter(self.lab.connections)] * 2):
            there, back = (first, second) if first["direction"] == "original" else (second, first)
            part = {"input": "allow", "forward": "forward", "output": "egress"}[there["path"]]
            flow = {
                "name": f"{part} {there['family']} {there['protocol']}", "sources": [there["source"]], "destinations": [there["destination"]],
                "interface": there["iif"] or there["oif"], "protocol": there["protocol"], "ports": [str(there["dport"])],
                "source_ports": [str(there["sport"])],
            }
            if part == "forward":
                flow["output_interface"] = there["oif"]
            policy[part].append(flow)
            ways[flow["name"]] = {"opening": dict(there, state="new"), "established": there, "answer": back}
        for flow in verify(self.evaluator.snapshot, self.evaluator.picture, policy)["flows"]:
            self.count[f"flows {flow['status']}"] += 1
            for phase, packet in ways[flow["name"]].items():
                if flow["status"] == "ok" or (flow["status"] == "broken" and flow["phase"] == phase):
                    flags = _PHASES[phase] if packet["protocol"] == 6 else (0,)
                    fates = [
                        (one, self.interpret(ruleset, one)) for one in (
                            dict(packet, flags=flag, ttl=ttl, dscp=dscp) for flag, ttl, dscp in itertools.product(flags, ttls, dscps)
                        )
                    ]
                    refused = [one for one in fates if one[1][0] != "accept"]
                    if bool(refused) == (flow["status"] == "ok"):
                        packet, told = (refused or fates)[0]
                        return packet, None, ("flow", flow["name"], flow["status"], phase), told
        return None

    def compare(self, ruleset, packets):
        """Hold the proof of flows against the interpreter, then send the packets and compare all three."""
        found = self.phases(ruleset)
        if found is not None:
            return found
        hooks = {chain["hook"] for table in ruleset["tables"] if not table["dormant"] for chain in table["chains"]}
        answers_pass = not hooks & {"output", "postrouting"}
        # Address translation does not mend the checksum of a protocol it does not know, and the kernel answers no such packet.
        translates = any(chain["type"] == "nat" for table in ruleset["tables"] for chain in table["chains"])

        def answered(packet):
            return answers_pass and not (translates and packet["protocol"] == 99)

        wanted = []
        for packet in packets:
            judged, told = self.expectations(ruleset, packet)
            if judged[0] == "depends" or told[0] == "no route" or judged[0] == "kernel":
                self.count["packets not compared"] += 1
                continue
            if judged[0] != told[0] or (judged[0] == "accept" and judged[1] != told[1]) or (
                judged[0] == "reject" and evaluator_kind(judged)[packet["family"] == "ip6"] != _TEXT_KINDS[told[1]][packet["family"] == "ip6"]
            ):
                return packet, None, judged, told
            wanted.append((packet, judged))
        # An established connection ends with a reset: such packets come last, and the connections are made anew.

        def rude(one):
            return one[0]["state"] == "established" and one[1][0] == "reject"

        wanted.sort(key=rude)
        fates = self.lab.try_packets([packet for packet, _judged in wanted])
        doubtful = []
        for (packet, judged), fate in zip(wanted, fates):
            self.count["packets"] += 1
            self.count[fate[0]] += 1
            if packet["state"] == "established":
                self.count["established"] += 1
            kinds = evaluator_kind(judged) if judged[0] == "reject" else None
            if not agree(judged, kinds, fate, packet, answered(packet)):
                doubtful.append((packet, judged, kinds))
        if any(rude(one) for one in wanted):
            self.renew(ruleset)
        for packet, judged, kinds in doubtful:
            # A loaded machine may be late: only what happens each time counts.
            for patience in _SURE:
                if packet["state"] == "established":
                    packet = self.renew(ruleset, packet)
                fate = self.lab.try_packets([packet], patience=patience)[0]
                if agree(judged, kinds, fate, packet, answered(packet)):
                    self.count["agreed when sent again"] += 1
                    break
            else:
                return packet, fate, judged, self.interpret(ruleset, packet)
        return None

    def renew(self, ruleset, packet=None):
        """Make the established connections anew; the one that stands where ``packet``'s did."""
        at = None
        if packet is not None:
            at = [(one["path"], one["family"], one["protocol"], one["source"], one["destination"], one["iif"]) for one in self.lab.connections].index(
                (packet["path"], packet["family"], packet["protocol"], packet["source"], packet["destination"], packet["iif"])
            )
        self.lab.establish()
        if not self.lab.load(self.oracle_text(ruleset)):
            raise RuntimeError(self.lab.error)
        return None if at is None else self.lab.connections[at]

    def still_wrong(self, packet):
        """For shrinking: whether a ruleset still makes a difference for this packet."""
        def check(ruleset):
            try:
                if not self.lab.load(self.oracle_text(ruleset)):
                    return False
                self.evaluator.load()
                again = packet
                if packet["state"] == "established":
                    again = self.renew(ruleset, packet)
                return self.compare(ruleset, [again]) is not None
            except (KeyError, StopIteration, ValueError):
                return False

        return check


def report(seed, ruleset, found):
    """A disagreement for a person."""
    packet, kernel, evaluator, told = found
    print(f"\nDISAGREEMENT, seed {seed}\n\n{rulesets.text(ruleset)}", file=sys.stderr)
    print(f"packet      {json.dumps(packet)}\nkernel      {kernel}\nevaluator   {evaluator}\ninterpreter {told}", file=sys.stderr)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", nargs="?", type=int, default=500)
    parser.add_argument("seed", nargs="?", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="say why nft refused rulesets")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("this loads packet filters into network namespaces of its own: root is needed")
    began, last = time.monotonic(), 0.0
    with laboratory.Laboratory() as lab:
        campaign = Campaign(lab)
        lab.establish()
        for number in range(arguments.count):
            seed = arguments.seed + number
            refused = campaign.count["refused by nft"]
            found = campaign.one(seed)
            if arguments.verbose and campaign.count["refused by nft"] != refused:
                print(f"seed {seed}: {campaign.last_error}", file=sys.stderr)
            if found is not None:
                ruleset = rulesets.Generator(random.Random(seed)).ruleset()
                report(seed, ruleset, found)
                smaller = rulesets.shrink(ruleset, campaign.still_wrong(found[0]))
                lab.load(campaign.oracle_text(smaller))
                campaign.evaluator.load()
                again = found[0] if found[0]["state"] != "established" else campaign.renew(smaller, found[0])
                print("\nshrunk:", file=sys.stderr)
                report(seed, smaller, campaign.compare(smaller, [again]) or found)
                return 1
            if time.monotonic() - last > 5:
                last = time.monotonic()
                print(f"{number + 1}/{arguments.count} rulesets, {campaign.count['packets']} packets, {last - began:.0f} s", flush=True)
        print(
            f"{campaign.count['rulesets']} rulesets (seeds {arguments.seed} to {arguments.seed + arguments.count - 1}, "
            f"{campaign.count['refused by nft']} refused by nft), {campaign.count['packets']} packets "
            f"({campaign.count['accept']} accepted, {campaign.count['drop']} dropped, {campaign.count['reject']} rejected, "
            f"{campaign.count['established']} of established connections), {campaign.count['packets not compared']} not compared, "
            f"{campaign.count['flows ok']} flows ok, {campaign.count['flows broken']} broken, {campaign.count['flows unknown']} unknown, "
            f"{campaign.count['agreed when sent again']} agreed when sent again, 0 disagreements, {time.monotonic() - began:.0f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

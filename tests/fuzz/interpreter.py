# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What nft's manual says happens to a packet: a plain interpreter of the rulesets that rulesets.py makes.

Written from nft(8), and from nothing else of this collection: it walks statement after statement with one packet at a time and shares no
code and no data structure with the evaluator it is held against.

A packet is ``{"family": "ip" | "ip6", "protocol": int, "source": str, "destination": str, "sport", "dport", "flags",
"type", "code", "ttl", "dscp", "iif": str, "oif": str, "state": str, "path": "input" | "forward" | "output"}``.
"""

from __future__ import annotations

import functools
import ipaddress

_ORDER_OF_NAT = {"prerouting": -100, "output": -100, "input": 100, "postrouting": 100}


_address = functools.lru_cache(1 << 16)(ipaddress.ip_address)
_network = functools.lru_cache(1 << 16)(ipaddress.ip_network)


class _Done(Exception):
    """The packet's fate in one base chain."""

    def __init__(self, verdict):
        super().__init__(verdict)
        self.verdict = verdict


def interpret(ruleset, packet, addresses, networks):
    """``("accept", where)``, ``("drop",)`` or ``("reject", kind)``.

    ``addresses`` are the host's own, ``networks`` ``[(network, interface)]`` its routes: where a translated destination goes.
    """
    packet = dict(packet, mark=0, notrack=False)
    seen_state = packet["state"]
    if packet["path"] == "output":
        hooks = ["output", "postrouting"]
    else:
        hooks = ["ingress", "prerouting"]
    for hook in hooks:
        fate = _hook(ruleset, packet, hook, seen_state)
        if fate is not None:
            return fate
    if packet["path"] == "output":
        return ("accept", "output")
    if packet["destination"] in addresses:
        fate = _hook(ruleset, packet, "input", seen_state)
        return fate or ("accept", "input")
    target = _address(packet["destination"])
    packet["oif"] = next((name for network, name in networks if target in network), None)
    if packet["oif"] is None:
        return ("no route",)
    packet["ttl"] -= 1
    for hook in ("forward", "postrouting"):
        fate = _hook(ruleset, packet, hook, seen_state)
        if fate is not None:
            return fate
    return ("accept", "forward")


def _hook(ruleset, packet, hook, seen_state):
    """None where the packet goes on."""
    chains = []
    for table_at, table in enumerate(ruleset["tables"]):
        if table["dormant"] or table["family"] not in ("inet", packet["family"]):
            continue
        for chain_at, chain in enumerate(table["chains"]):
            if chain["hook"] != hook or (chain["device"] and chain["device"] != packet["iif"]):
                continue
            nat = chain["type"] == "nat"
            priority = _ORDER_OF_NAT[hook] if nat else chain["priority"]
            chains.append(((priority, not nat, chain["priority"], -table_at, -chain_at), table, chain))
    translated = False
    for key, table, chain in sorted(chains, key=lambda one: one[0]):
        early = hook == "ingress" or (hook in ("prerouting", "output") and chain["priority"] < -200)
        if chain["type"] == "nat":
            if translated or packet["state"] != "new":
                continue
        if not packet["notrack"]:
            packet["state"] = "invalid" if early else seen_state
        try:
            _chain(table, chain, packet, hook)
            verdict = (chain["policy"],)
        except _Done as done:
            verdict = done.verdict
        if verdict[0] in ("redirect", "dnat", "masquerade"):
            translated = True
            _translate(packet, verdict, hook)
            verdict = ("accept",)
        if not packet["notrack"]:
            packet["state"] = seen_state
        del key
        if verdict[0] != "accept":
            return verdict
    return None


def _translate(packet, verdict, hook):
    if verdict[0] == "masquerade":
        return
    if verdict[0] == "redirect":
        packet["destination"] = packet["own"][packet["iif"]]
        port = verdict[1]
    else:
        packet["destination"], port = verdict[1], verdict[2]
    del hook
    if port is not None and packet["protocol"] in (6, 17):
        packet["dport"] = port


def _chain(table, chain, packet, hook):
    """Returns where the chain comes to its end or returns; raises _Done where the packet's fate is decided."""
    for rule in chain["rules"]:
        verdict = _rule(table, rule, packet)
        if verdict is None or verdict[0] == "continue":
            continue
        if verdict[0] == "return":
            return
        if verdict[0] in ("jump", "goto"):
            _chain(table, next(one for one in table["chains"] if one["name"] == verdict[1]), packet, hook)
            if verdict[0] == "goto":
                return
            continue
        raise _Done(verdict)


def _rule(table, rule, packet):
    """The verdict of a rule, None where it has none or does not match."""
    # What a kind of rejection is possible for is asked before anything else in its rule, whatever that sets.
    for statement in rule:
        if statement[0] == "reject" and (
            (statement[1].startswith("icmp ") and packet["family"] != "ip")
            or (statement[1].startswith("icmpv6") and packet["family"] != "ip6")
            or (statement[1] == "tcp reset" and packet["protocol"] != 6)
        ):
            return None
    for statement in rule:
        kind = statement[0]
        if kind == "match":
            found = _value(packet, statement[1])
            if found is None or _among(found, statement[3], statement[1]) == statement[2]:
                return None
        elif kind == "in":
            one = next(one for one in table["sets"] if one["name"] == statement[3])
            found = [_value(packet, field) for field in statement[1]]
            if None in found or (_key(found, one["elements"]) is not None) == statement[2]:
                return None
        elif kind == "flags":
            if packet["protocol"] != 6 or packet["flags"] & statement[1] != statement[2]:
                return None
        elif kind == "flags any":
            if packet["protocol"] != 6 or not packet["flags"] & statement[1]:
                return None
        elif kind == "vmap":
            found = [_value(packet, field) for field in statement[1]]
            if None in found:
                return None
            if isinstance(statement[2], str):
                one = next(one for one in table["sets"] if one["name"] == statement[2])
                keys, verdicts = one["elements"], one["verdicts"]
            else:
                keys, verdicts = [key for key, _verdict in statement[2]], [verdict for _key, verdict in statement[2]]
            at = _key(found, keys)
            if at is None:
                return None
            if verdicts[at][0] != "continue":
                return verdicts[at]
        elif kind == "mark":
            packet["mark"] = statement[1]
        elif kind == "mark map":
            found = _value(packet, statement[1])
            marks = dict(statement[2])
            if found not in marks:
                return None
            packet["mark"] = marks[found]
        elif kind == "notrack":
            if packet["state"] == "invalid":
                packet["state"], packet["notrack"] = "untracked", True
        elif kind in ("counter", "log"):
            continue
        elif kind == "dnat" and (":" in statement[1]) != (packet["family"] == "ip6"):
            # A translation to an address of the other family is none; the rule just ends.
            continue
        else:
            return statement
    return None


def _value(packet, field):
    """What a field of this packet is; None where the packet has no such field."""
    if field.startswith("ip6 ") and packet["family"] != "ip6" or field.startswith("ip ") and packet["family"] != "ip":
        return None
    if field in ("ip saddr", "ip6 saddr"):
        return int(_address(packet["source"]))
    if field in ("ip daddr", "ip6 daddr"):
        return int(_address(packet["destination"]))
    if field.startswith(("tcp ", "udp ")):
        if packet["protocol"] != {"tcp": 6, "udp": 17}[field[:3]]:
            return None
        return packet[field[4:]]
    if field.startswith("icmp "):
        return packet[field[5:]] if packet["protocol"] == 1 and packet["family"] == "ip" else None
    if field.startswith("icmpv6 "):
        return packet[field[7:]] if packet["protocol"] == 58 and packet["family"] == "ip6" else None
    if field in ("meta l4proto", "ip protocol", "ip6 nexthdr"):
        return packet["protocol"]
    if field == "iifname":
        return packet["iif"] or ""
    if field == "oifname":
        return packet["oif"] or ""
    if field == "ct state":
        return packet["state"]
    if field == "ct direction":
        return packet.get("direction", "original") if packet["state"] in ("new", "established", "related") else None
    if field == "meta mark":
        return packet["mark"]
    if field == "meta nfproto":
        return {"ip": "ipv4", "ip6": "ipv6"}[packet["family"]]
    if field in ("ip ttl", "ip6 hoplimit"):
        return packet["ttl"]
    if field == "ip dscp":
        return packet["dscp"]
    if field == "fib daddr . iif type":
        return "local" if packet["own"].get(packet["iif"]) == packet["destination"] else "unicast"
    if field == "fib saddr . iif oif":
        return "exists" if packet["route_back"] == packet["iif"] else "missing"
    raise ValueError(field)


def _among(found, values, field):
    return any(_matches(found, value, field) for value in values)


def _matches(found, value, field=None):
    if isinstance(value, tuple) and value[0] == "prefix":
        network = _network(f"{value[1]}/{value[2]}")
        return int(network.network_address) <= found <= int(network.broadcast_address)
    if isinstance(value, tuple):
        low, high = (one if isinstance(one, int) else int(_address(one)) for one in value[1:])
        return low <= found <= high
    if isinstance(found, str):
        return found.startswith(value[:-1]) if value.endswith("*") else found == value
    if isinstance(value, str):
        return found == int(_address(value))
    return found == value


def _key(found, keys):
    """The position of the key that a packet's values are, None where there is none."""
    for at, key in enumerate(keys):
        if all(_matches(one, value) for one, value in zip(found, key)):
            return at
    return None

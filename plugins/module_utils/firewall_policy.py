# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The policy that a packet filter is proved against: its form, its checks, and what it means in numbers.

::

    version: 1
    sets: {clients: [10.77.1.128/25, "fd00:77:1::/64"]}
    allow:                      # must be able to connect to this host
      - {name: api, sources: ["@clients"], destinations: [10.77.1.11], interface: eth1, protocol: tcp, ports: ["8443"]}
    permit: [established, loopback, icmp]        # may pass; flows are possible here too
    forward: []                 # must be forwarded; nothing else may be. null: forwarding is not looked at
    permit_forward: [established]
    egress: null                # what this host must be able to open, nothing else; null: not looked at
    egress_users: null          # for which users nothing else is; null: for everything that the host sends
    permit_egress: [established, loopback, icmp]
    refuse_egress: []           # what must not be opened, whatever else may; flows that may name `other_users`: all but these

A flow's `sources` and `destinations` are addresses, networks or "@NAME" of a set, empty for any; `ports` and `protocol` empty for any.
What an allowed flow leaves open has to pass in every case.
The plan's flows have this form. `forward` flows may name `output_interface`, `egress` flows `users` (names or numbers) or one `user`.
"""

from __future__ import annotations

import difflib
import ipaddress

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.ports import merge_ports, parse_ports

SHORTHANDS = ("established", "loopback", "icmp", "dhcp", "igmp")
PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "sctp": 132, "gre": 47, "esp": 50}
_TOP = {
    "version": 1, "sets": {}, "allow": [], "permit": ["established", "loopback", "icmp"], "forward": [],
    "permit_forward": ["established"], "egress": None, "egress_users": None, "permit_egress": ["established", "loopback", "icmp"],
    "refuse_egress": [],
}
_FLOW = ("name", "sources", "destinations", "interface", "segment", "protocol", "ports", "source_ports", "reason")
_EXTRA = {
    "forward": ("output_interface",), "permit_forward": ("output_interface",),
    "egress": ("user", "users", "output_interface"), "permit_egress": ("user", "users", "output_interface"),
    "refuse_egress": ("user", "users", "other_users", "output_interface", "states"),
}
_NO_USER = (1 << 32) - 1  # the number that stands for nobody
_STATES = ("new", "established", "related", "invalid", "untracked")


class PolicyError(ValueError):
    """A policy that cannot be proved; ``problems`` lists everything that is wrong with it."""

    def __init__(self, problems):
        self.problems = problems
        super().__init__("; ".join(problems))


def read_policy(policy):
    """A checked policy with every key present and every flow in numbers. Raises PolicyError with all problems.

    A flow becomes ``{"name", "reason", "protocols": [(low, high)] or None, "ports": [(low, high)] or None,
    "source_ports": ..., "sources": {"ip": [(low, high)], "ip6": [...]} or None, "destinations": ..., "interface": str or
    None, "output_interface": ..., "users": [name or number] or None, "other_users": likewise, "states": [str] or None}``; None stands
    for "any". A shorthand stays a str. `egress_users` becomes a list of names and numbers, or None.
    """
    problems = []
    if not isinstance(policy, dict):
        raise PolicyError([f"policy: {policy!r} is not a mapping; write version, sets, allow, ..."])
    _unknown_keys(policy, _TOP, "policy", problems)
    if policy.get("version", 1) != 1:
        problems.append(f"policy.version: {policy.get('version')!r} is not known; write 1")
    sets = _sets(policy.get("sets") or {}, problems)
    result = {"sets": sets}
    names = {}
    for part, default in _TOP.items():
        if part in ("version", "sets"):
            continue
        entries = policy.get(part, default)
        if part == "egress_users":
            result[part] = None if entries is None else _users(entries, f"policy.{part}", problems)
            continue
        if entries is None and part in ("forward", "egress"):
            result[part] = None
            continue
        if not isinstance(entries, list):
            problems.append(f"policy.{part}: {entries!r} is not a list; write a list of flows")
            continue
        result[part] = [
            _flow(entry, f"policy.{part}[{at}]", part, sets, names, problems) for at, entry in enumerate(entries)
        ]
    if problems:
        raise PolicyError(problems)
    return result


def _unknown_keys(given, known, where, problems):
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
            problems.append(f"{where}.{key}: unknown key{hint}")


def _sets(given, problems):
    if not isinstance(given, dict):
        problems.append(f"policy.sets: {given!r} is not a mapping; write NAME: [addresses]")
        return {}
    result = {}
    for name, members in given.items():
        where = f"policy.sets.{name}"
        if not isinstance(members, list):
            problems.append(f"{where}: {members!r} is not a list; write a list of addresses and networks")
            continue
        result[name] = _addresses(members, where, {}, problems)
    return result


def _addresses(members, where, sets, problems):
    """``{"ip": intervals, "ip6": intervals}`` of addresses, networks and references to sets."""
    found = {"ip": [], "ip6": []}
    for at, member in enumerate(members):
        if isinstance(member, str) and member.startswith("@"):
            if member[1:] not in sets:
                problems.append(f"{where}[{at}]: {member!r} names no set; sets are {', '.join(sets) or 'none'}")
                continue
            for family, intervals in sets[member[1:]].items():
                found[family] += intervals
            continue
        try:
            network = ipaddress.ip_network(member if isinstance(member, str) else repr(member), strict=True)
        except ValueError:
            try:
                loose = ipaddress.ip_network(member if isinstance(member, str) else repr(member), strict=False)
                problems.append(f"{where}[{at}]: {member!r} has host bits set; write {loose}")
            except ValueError:
                problems.append(f"{where}[{at}]: {member!r} is no address or network; write e.g. 10.77.1.0/24 or fd00:77::1")
            continue
        family = "ip" if network.version == 4 else "ip6"
        found[family].append((int(network.network_address), int(network.broadcast_address)))
    return {family: merge_ports(intervals) for family, intervals in found.items()}


def _flow(entry, where, part, sets, names, problems):
    if isinstance(entry, str):
        if not part.startswith("permit"):
            problems.append(f"{where}: {entry!r} is not a flow; write a mapping with name, protocol, ports")
        elif entry not in SHORTHANDS:
            problems.append(f"{where}: {entry!r} is not known; write a flow or one of {', '.join(SHORTHANDS)}")
        return entry
    if not isinstance(entry, dict):
        problems.append(f"{where}: {entry!r} is not a flow; write a mapping with name, protocol, ports")
        return None
    known = _FLOW + _EXTRA.get(part, ()) + (("states",) if part.startswith("permit") else ())
    _unknown_keys(entry, known, where, problems)
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        problems.append(f"{where}.name: {name!r} is not a name; every flow needs one of its own")
    elif names.setdefault((part, name), where) != where:
        problems.append(f"{where}.name: {name!r} is also the name of {names[part, name]}")
    flow = {
        "name": name, "reason": entry.get("reason"),
        "protocols": _protocol(entry.get("protocol"), where, problems),
        "ports": _ports(entry.get("ports"), where + ".ports", problems),
        "source_ports": _ports(entry.get("source_ports"), where + ".source_ports", problems),
        "interface": entry.get("interface"), "output_interface": entry.get("output_interface"),
        "states": entry.get("states"), "users": None, "other_users": None,
    }
    if entry.get("user") is not None:
        flow["users"] = _users([entry["user"]], f"{where}.user", problems)
    for key in ("users", "other_users"):
        if entry.get(key) is not None:
            flow[key] = _users(entry[key], f"{where}.{key}", problems)
    if sum(entry.get(key) is not None for key in ("user", "users", "other_users")) > 1:
        problems.append(f"{where}: only one of user, users and other_users says who")
    for key in ("sources", "destinations"):
        members = entry.get(key) or []
        if not isinstance(members, list):
            problems.append(f"{where}.{key}: {members!r} is not a list; write a list of addresses, networks or @sets")
            members = []
        flow[key] = _addresses(members, f"{where}.{key}", sets, problems) if members else None
    for key in ("interface", "output_interface"):
        if flow[key] is not None and not (isinstance(flow[key], str) and flow[key].isprintable() and 0 < len(flow[key].encode()) < 16):
            problems.append(f"{where}.{key}: {flow[key]!r} is not an interface's name; write e.g. eth0, or leave it out")
    if flow["states"] is not None and (not isinstance(flow["states"], list) or any(state not in _STATES for state in flow["states"])):
        problems.append(f"{where}.states: {flow['states']!r} is not a list of {', '.join(_STATES)}")
    if (flow["ports"] or flow["source_ports"]) and (
        flow["protocols"] is None or any(low not in (6, 17, 132) for low, _high in flow["protocols"])
    ):
        problems.append(f"{where}.ports: only tcp, udp and sctp have ports; write the protocol")
    return flow


def _users(members, where, problems):
    """Names and numbers of users."""
    if not isinstance(members, list):
        problems.append(f"{where}: {members!r} is not a list; write a list of users' names or numbers")
        return []
    wrong = [member for member in members if isinstance(member, bool) or not (isinstance(member, str) or isinstance(member, int) and 0 <= member < _NO_USER)]
    problems += [f"{where}: {member!r} is not a user's name or number" for member in wrong]
    return [member for member in members if member not in wrong]


def _protocol(value, where, problems):
    if value in (None, "any"):
        return None
    if isinstance(value, str) and value in PROTOCOLS:
        return [(PROTOCOLS[value], PROTOCOLS[value])]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255:
        return [(value, value)]
    problems.append(f"{where}.protocol: {value!r} is not known; write {', '.join(PROTOCOLS)}, any, or a number")
    return None


def _ports(values, where, problems):
    if not values:
        return None
    if not isinstance(values, list):
        values = [values]
    result = []
    for value in values:
        try:
            result.append(parse_ports(value))
        except ValueError as error:
            problems.append(f"{where}: {error}")
    return merge_ports(result)

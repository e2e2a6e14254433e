# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Flows, named sets and options -> the nftables text of the one table this collection owns.

Pure functions. The text avoids what old nft compiles to something else: no ``!=`` on ports (nft before spring 2024 merges two of
them into one comparison), protocol numbers instead of names (which need /etc/protocols), no set of mixed families.
"""

from __future__ import annotations

import difflib
import ipaddress
import re

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.ports import format_ports, merge_ports, parse_ports

TABLE = "vllm_hardening"
PRIORITY = "filter - 5"
FAMILIES = {4: "ip", 6: "ip6"}

FLOW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/@+-]{0,99}")
INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,14}")

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,59}")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?")
_RATE = re.compile(r"[1-9][0-9]{0,5}/(second|minute|hour|day)")

_FLOW_KEYS = ("name", "sources", "destinations", "interface", "segment", "protocol", "ports", "reason")
_LOOPBACK_KEYS = ("name", "users", "ports", "reason")
_EGRESS_KEYS = ("name", "user", "destinations", "protocol", "ports", "reason")
FORWARDING = ("refuse", "containers")


class RulesetError(ValueError):
    """Everything that is wrong with the input, as a list of messages in ``problems``."""

    def __init__(self, problems):
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class _Problems(list):
    def add(self, where, value, remedy):
        self.append(f"{where}: {value!r} {remedy}" if value is not None else f"{where}: {remedy}")


def _networks(values, where, problems):
    """Addresses and CIDR networks of both families -> ``{4: [text], 6: [text]}``, sorted; merged where a network is among them."""
    found = {4: [], 6: []}
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        problems.add(where, values, "is not a list of addresses and networks")
        return found
    for position, value in enumerate(values):
        try:
            network = ipaddress.ip_network(str(value), strict=False)
        except ValueError:
            problems.add(f"{where}[{position}]", value, "is not an address or a network; write for example 10.77.0.0/24 or fd00:77::5")
            continue
        address = ipaddress.ip_address(str(value).partition("/")[0])
        if address != network.network_address:
            problems.add(f"{where}[{position}]", value, f"has host bits; write {network} for the network or {address} for the host")
            continue
        found[network.version].append(network)
    return {family: [_text(network) for network in _merged(networks)] for family, networks in found.items()}


def _merged(networks):
    if all(network.prefixlen == network.max_prefixlen for network in networks):
        return sorted(set(networks))
    return ipaddress.collapse_addresses(networks)


def _text(network):
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _within(inner, outer):
    """Whether every network of `inner` lies in the union of `outer`, both lists of text of one family."""
    union = list(ipaddress.collapse_addresses(map(ipaddress.ip_network, outer)))
    return all(any(network.subnet_of(other) for other in union) for network in map(ipaddress.ip_network, inner))


def _keys(entry, known, where, problems):
    """True where `entry` is a mapping; unknown keys become problems with the nearest known one."""
    if not hasattr(entry, "keys"):
        problems.add(where, entry, "is not a mapping")
        return False
    for key in entry:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            problems.add(f"{where}.{key}", None, f"is not known; {'did you mean ' + near[0] if near else 'known are ' + ', '.join(known)}?")
    return True


def _ports(values, where, problems):
    """Ports -> merged ``(first, last)`` pairs."""
    if isinstance(values, (str, int)):
        values = [values]
    pairs = []
    for position, value in enumerate(values or []):
        try:
            pair = parse_ports(value)
        except ValueError as error:
            problems.append(f"{where}[{position}]: {error}")
            continue
        if pair[0] == 0:
            problems.add(f"{where}[{position}]", value, "contains port 0; write the port the service listens on")
        else:
            pairs.append(pair)
    return merge_ports(pairs)


class _Addresses:
    """A flow's sources or destinations: per family the named sets and the literal networks."""

    def __init__(self, values, sets, where, problems):
        self.sets = {4: [], 6: []}
        literals = []
        if isinstance(values, str):
            values = [values]
        for value in values or []:
            if str(value).startswith("@"):
                name = str(value)[1:]
                if name not in sets:
                    near = difflib.get_close_matches(name, list(sets), 1)
                    problems.add(where, value, "names no set" + (f"; did you mean @{near[0]}?" if near else ""))
                    continue
                for family in FAMILIES:
                    if sets[name][family] and name not in self.sets[family]:
                        self.sets[family].append(name)
            else:
                literals.append(value)
        self.literals = _networks(literals, where, problems)
        self.given = bool(values)

    def matches(self, family, side):
        """The nft matches for `family`, one rule each; ``[""]`` where every address matches, ``[]`` where none does."""
        if not self.given:
            return [""]
        keyword = f"{FAMILIES[family]} {side}"
        literals = self.literals[family]
        if any(literal.endswith("/0") for literal in literals):
            return [f"meta nfproto ipv{family}"]
        found = [f"{keyword} @{name}_v{family}" for name in self.sets[family]]
        if literals:
            found.append(f"{keyword} {literals[0]}" if len(literals) == 1 else f"{keyword} {{ {', '.join(literals)} }}")
        return found

    def covers(self, networks, sets):
        """Whether every one of `networks` (per family) lies within."""
        for family, wanted in networks.items():
            mine = list(self.literals[family])
            for name in self.sets[family]:
                mine += sets[name][family]
            if not _within(wanted, mine):
                return False
        return True

    def used(self):
        return {(name, family) for family in FAMILIES for name in self.sets[family]}


class _Flow:
    """One validated flow."""

    def __init__(self, entry, sets, where, problems):
        self.name = str(entry.get("name") or "")
        if not FLOW_NAME.fullmatch(self.name):
            problems.add(f"{where}.name", entry.get("name"), "is no name; write letters, digits and . _ : / @ + - (at most 100)")
        self.reason = " ".join(str(entry.get("reason") or "").split())
        if not self.reason:
            problems.add(f"{where}.reason", None, "is missing; write why this flow is needed")
        self.protocol = entry.get("protocol")
        if self.protocol not in ("tcp", "udp"):
            problems.add(f"{where}.protocol", self.protocol, "is not tcp or udp")
        self.ports = _ports(entry.get("ports"), f"{where}.ports", problems)
        if not entry.get("ports"):
            problems.add(f"{where}.ports", None, "is empty; list the ports of the flow")
        self.interface = entry.get("interface") or None
        if self.interface and not INTERFACE.fullmatch(str(self.interface)):
            problems.add(f"{where}.interface", self.interface, "is not an interface name")
        if not entry.get("sources"):
            problems.add(f"{where}.sources", None, "is empty; list who may connect (0.0.0.0/0 and ::/0 for everybody)")
        self.sources = _Addresses(entry.get("sources"), sets, f"{where}.sources", problems)
        self.destinations = _Addresses(entry.get("destinations"), sets, f"{where}.destinations", problems)

    def rules(self):
        """The rules of this flow, per family and source set."""
        lines = []
        everybody = all(any(literal.endswith("/0") for literal in self.sources.literals[family]) for family in FAMILIES)
        for family in FAMILIES:
            for source in self.sources.matches(family, "saddr"):
                for destination in self.destinations.matches(family, "daddr"):
                    if everybody and not self.destinations.given:
                        source = ""
                    elif source.startswith("meta nfproto") and destination:
                        source = ""
                    line = _join(
                        f'iifname "{self.interface}"' if self.interface else "", source, destination,
                        f"{self.protocol} dport {_port_match(self.ports)}", f'counter accept comment "{self.name}"',
                    )
                    if line not in lines:
                        lines.append(line)
        return lines


def _join(*parts):
    return " ".join(part for part in parts if part)


def _port_match(ports):
    texts = [format_ports(pair) for pair in ports]
    return texts[0] if len(texts) == 1 else f"{{ {', '.join(texts)} }}"


def _flows(entries, sets, where, problems):
    if isinstance(entries, (str, dict)) or not hasattr(entries, "__iter__"):
        problems.add(where, entries, "is not a list of flows")
        return []
    return [
        _Flow(entry, sets, f"{where}[{position}]", problems)
        for position, entry in enumerate(entries)
        if _keys(entry, _FLOW_KEYS, f"{where}[{position}]", problems)
    ]


def _named_sets(values, where, problems):
    sets = {}
    if not hasattr(values, "items"):
        problems.add(where, values, "is not a mapping of set names to addresses")
        return sets
    for name, members in values.items():
        if not _IDENTIFIER.fullmatch(str(name)):
            problems.add(f"{where}.{name}", None, "is not a set name; write a letter, then letters, digits, _ . -")
            continue
        sets[str(name)] = _networks(members, f"{where}.{name}", problems)
    return sets


def _set_text(name, family, elements):
    """A named set. One of addresses alone is a hash table: a lookup takes the same time whatever its size, also while elements change."""
    lines = [f"\tset {name}_v{family} {{", f"\t\ttype ipv{family}_addr"]
    if any("/" in element for element in elements):
        lines.append("\t\tflags interval")
    if elements:
        lines.append(f"\t\telements = {{ {', '.join(elements)} }}")
    return lines + ["\t}", ""]


def _chain_text(name, hook, rules):
    lines = [f"\tchain {name} {{"]
    if hook:
        lines.append(f"\t\t{hook}")
    return lines + [f"\t\t{rule}" for rule in rules] + ["\t}", ""]


def _loopback_rules(entries, problems):
    """Ports on loopback that only root and the users named may connect to."""
    rules = []
    if isinstance(entries, (str, dict)) or not hasattr(entries, "__iter__"):
        problems.add("vllm_firewall_loopback", entries, "is not a list")
        entries = []
    for position, entry in enumerate(entries):
        where = f"vllm_firewall_loopback[{position}]"
        if not _keys(entry, _LOOPBACK_KEYS, where, problems):
            continue
        name = str(entry.get("name") or "")
        if not FLOW_NAME.fullmatch(name):
            problems.add(f"{where}.name", entry.get("name"), "is no name; write letters, digits and . _ : / @ + - (at most 100)")
        if not str(entry.get("reason") or "").strip():
            problems.add(f"{where}.reason", None, "is missing; write why only these users may connect")
        users = [str(user) for user in entry.get("users") or []]
        for user in users:
            if not _USER.fullmatch(user):
                problems.add(f"{where}.users", user, "is not a user name")
        ports = _ports(entry.get("ports"), f"{where}.ports", problems)
        if not ports:
            problems.add(f"{where}.ports", None, "is empty; list the ports on loopback")
            continue
        members = ", ".join(f'"{user}"' for user in ["root", *(user for user in users if user != "root")])
        rules.append(f'oif "lo" tcp dport {_port_match(ports)} meta skuid != {{ {members} }} counter reject with tcp reset comment "{name}"')
    return rules


def _egress_chains(entries, sets, log, first, problems):
    """Chains per service user: what the user's processes may open connections to; the rest is refused at once."""
    chains, jumps, used = {}, list(first), set()
    if isinstance(entries, (str, dict)) or not hasattr(entries, "__iter__"):
        problems.add("vllm_firewall_egress", entries, "is not a list")
        entries = []
    for position, entry in enumerate(entries):
        where = f"vllm_firewall_egress[{position}]"
        if not _keys(entry, _EGRESS_KEYS, where, problems):
            continue
        user = str(entry.get("user") or "")
        if not _USER.fullmatch(user):
            problems.add(f"{where}.user", entry.get("user"), "is not a user name")
            continue
        name = str(entry.get("name") or "")
        if not FLOW_NAME.fullmatch(name):
            problems.add(f"{where}.name", entry.get("name"), "is no name; write letters, digits and . _ : / @ + - (at most 100)")
        if not str(entry.get("reason") or "").strip():
            problems.add(f"{where}.reason", None, "is missing; write why this connection is needed")
        protocol = entry.get("protocol") or None
        if protocol not in (None, "tcp", "udp"):
            problems.add(f"{where}.protocol", protocol, "is not tcp or udp")
        ports = _ports(entry.get("ports"), f"{where}.ports", problems)
        if ports and not protocol:
            problems.add(f"{where}.protocol", None, "is missing beside ports; write tcp or udp")
        destinations = _Addresses(entry.get("destinations"), sets, f"{where}.destinations", problems)
        used |= destinations.used()
        if user not in chains:
            chains[user] = ['oif "lo" accept', 'ct state established ct direction reply accept comment "answers"']
            jumps.append(f'meta skuid "{user}" jump egress_{user} comment "{user}"')
        transport = ""
        if protocol:
            transport = f"{protocol} dport {_port_match(ports)}" if ports else f"meta l4proto {6 if protocol == 'tcp' else 17}"
        for family in FAMILIES if destinations.given else ():
            for match in destinations.matches(family, "daddr"):
                chains[user].append(_join(match, transport, f'counter accept comment "{name}"'))
    lines = []
    for user, rules in chains.items():
        rules = rules + ([f'{log} log prefix "vllm_hardening egress: "'] if log else [])
        lines += _chain_text(f"egress_{user.rstrip('$')}", "", rules + ['counter reject with icmpx type admin-prohibited comment "refused"'])
    if jumps:
        lines += _chain_text("output", f"type filter hook output priority {PRIORITY}; policy accept;", jumps)
    return lines, used


def _forward_chain(forwarding, segments):
    if forwarding == "refuse":
        return _chain_text("forward", f"type filter hook forward priority {PRIORITY}; policy drop;", ['counter drop comment "forwarding refused"'])
    rules = []
    for family, keyword in FAMILIES.items():
        names = [name for name in segments if segments[name][family]]
        for name in names:
            for other in (other for other in names if other != name):
                rules.append(f'{keyword} saddr @segment_{name}_v{family} {keyword} daddr @segment_{other}_v{family} counter drop '
                             f'comment "forwarding {name} to {other}"')
    return _chain_text("forward", f"type filter hook forward priority {PRIORITY}; policy accept;", rules) if rules else []


def render(flows, *, administrators, sets=None, segments=None, ssh_port=22, egress=(), loopback=(), extra_flows=(), forwarding="refuse",
           shared_addresses=(), log_rate="5/second"):
    """The text of ``table inet vllm_hardening``.

    `flows` and `extra_flows` are Flows (docs/architecture.md) of which name, sources, protocol, ports and reason are needed;
    `sets` and `segments` map names to addresses; `administrators` reach SSH on `ssh_port` in any case; `egress` entries limit
    what a service user opens,
    `loopback` entries who connects to ports on loopback; `shared_addresses` are exempt from the strong host model; an empty `log_rate` logs nothing.
    Raises RulesetError with every problem found, worded with the variables of the role vllm_firewall.
    """
    problems = _Problems()
    named = _named_sets(sets or {}, "vllm_firewall_sets", problems)
    areas = _named_sets(segments or {}, "vllm_firewall_segments", problems)
    admins = _networks(administrators, "vllm_firewall_administrators", problems)
    shared = _networks(shared_addresses, "vllm_firewall_shared_addresses", problems)
    if not any(admins.values()) and not problems:
        problems.add("vllm_firewall_administrators", None, "is empty; list the addresses that reach SSH, the controller's among them")
    try:
        ssh = parse_ports(ssh_port)
    except ValueError as error:
        ssh = (22, 22)
        problems.append(f"vllm_firewall_ssh_port: {error}")
    if forwarding not in FORWARDING:
        problems.add("vllm_firewall_forwarding", forwarding, f"is not one of {', '.join(FORWARDING)}")
    if log_rate and not _RATE.fullmatch(str(log_rate)):
        problems.add("vllm_firewall_log_rate", log_rate, "is not a rate; write for example 5/second, or an empty text for no log")
    log = f"limit rate {log_rate} burst 20 packets" if log_rate else ""

    everything = _flows(flows, named, "vllm_firewall_flows", problems) + _flows(extra_flows, named, "vllm_firewall_extra_flows", problems)
    names = [flow.name for flow in everything]
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        problems.add("vllm_firewall_flows", name, "is the name of more than one flow; give each its own")

    def manages(flow):
        return (flow.protocol == "tcp" and any(first <= ssh[0] and ssh[1] <= last for first, last in flow.ports)
                and flow.sources.covers(admins, named))

    management = [flow for flow in everything if manages(flow)]
    if not management and not problems:
        named_by = "administrators" if named.get("administrators") == admins else None
        management = [_Flow({
            "name": "management-ssh", "protocol": "tcp", "ports": [format_ports(ssh)], "reason": "administration over SSH",
            "sources": [f"@{named_by}"] if named_by else admins[4] + admins[6],
        }, named, "vllm_firewall_administrators", problems)]
    ordered = management + [flow for flow in everything if flow not in management]

    egress_lines, used = _egress_chains(egress, named, log, _loopback_rules(loopback, problems), problems)
    if problems:
        raise RulesetError(problems)

    for flow in ordered:
        used |= flow.sources.used() | flow.destinations.used()

    spoofing = ['iif "lo" accept']
    for name, area in areas.items():
        for family, keyword in FAMILIES.items():
            if area[family]:
                spoofing.append(f'{keyword} saddr @segment_{name}_v{family} fib saddr . iif oif missing counter drop comment "spoofed {name}"')
    spoofing.append('fib saddr type local counter drop comment "own address as source"')

    entry = [
        'iif "lo" accept',
        'ct state invalid counter drop comment "invalid"',
        'ct state established ct direction reply accept comment "answers"',
        'ct state related meta l4proto { 1, 58 } accept comment "errors of known connections, path MTU"',
        "icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept",
        "ip6 saddr fe80::/10 icmpv6 type { mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report } accept",
    ]
    for family, keyword in FAMILIES.items():
        if shared[family]:
            entry.append(f'{keyword} daddr {{ {", ".join(shared[family])} }} jump flows comment "shared addresses"')
    entry += [
        'fib daddr . iif type != { local, broadcast, multicast, anycast } counter drop comment "address of another interface"',
        "icmp type echo-request limit rate 50/second burst 100 packets accept",
        "icmpv6 type echo-request limit rate 50/second burst 100 packets accept",
        "jump flows",
        'meta pkttype { broadcast, multicast } counter drop comment "broadcast"',
    ]
    if log:
        entry.append(f'{log} log prefix "vllm_hardening input: "')
    entry.append('counter drop comment "refused"')

    lines = [f"table inet {TABLE} {{"]
    for name in sorted(named):
        for family in FAMILIES:
            if (name, family) in used:
                lines += _set_text(name, family, named[name][family])
    for name in sorted(areas):
        for family in FAMILIES:
            if areas[name][family]:
                lines += _set_text(f"segment_{name}", family, areas[name][family])
    lines += _chain_text("spoofing", "type filter hook prerouting priority raw; policy accept;", spoofing)
    rules = []
    for flow in ordered:
        rules += [f"# {flow.name}: {flow.reason}"] + flow.rules()
    lines += _chain_text("flows", "", rules)
    lines += _chain_text("input", f"type filter hook input priority {PRIORITY}; policy drop;", entry)
    lines += _forward_chain(forwarding, areas)
    lines += egress_lines
    while lines[-1] == "":
        lines.pop()
    return "\n".join(lines + ["}", ""])

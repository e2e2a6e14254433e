# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Random rulesets: made as plain data, written out in nft's language, and shrunk to what still shows a difference.

    ruleset = {"tables": [table]}
    table = {"family", "name", "dormant": bool, "sets": [set], "chains": [chain]}
    set = {"name", "fields": [field], "interval": bool, "elements": [[value, ...]], "verdicts": [verdict] or None}
    chain = {"name", "hook": None or str, "type", "priority": int, "policy", "device": None or str, "rules": [rule]}
    rule = [statement, ...]; a statement is a tuple:
        ("match", field, negated, values)        values: [value, ...]; more than one is an anonymous set
        ("in", fields, negated, set name)        a named set; several fields are a concatenation
        ("flags", mask, value)  ("flags any", mask)
        ("vmap", fields, [(key values, verdict)]) or ("vmap", fields, set name)
        ("mark", number)  ("mark map", field, [(value, number)])  ("notrack",)  ("counter",)  ("log",)
        a verdict: ("accept",) ("drop",) ("return",) ("continue",) ("jump", chain) ("goto", chain) ("reject", kind)
        ("redirect", port or None)  ("dnat", address, port or None)  ("masquerade",)

A value is a number, an address as text, ("range", low, high), or ("prefix", address, length).
"""

from __future__ import annotations

import copy
import ipaddress

INTERFACES = ("eth0", "eth1", "docker0")
ADDRESSES = {
    "ip": ["10.79.0.1", "10.79.1.1", "10.79.2.1"],
    "ip6": ["fd00:79::1", "fd00:79:1::1", "fd00:79:2::1"],
}
PEERS = {
    "ip": ["10.79.0.50", "10.79.0.51", "10.79.1.50", "10.79.1.60", "10.79.2.50", "192.0.2.7", "198.51.100.9"],
    "ip6": ["fd00:79::50", "fd00:79::51", "fd00:79:1::50", "fd00:79:1::60", "fd00:79:2::50", "2001:db8::7", "2001:db8:9::9"],
}
PORTS = (1, 22, 53, 80, 443, 1023, 1024, 8000, 8443, 20550, 28000, 28999, 40000, 65534, 65535)
STATES = ("invalid", "established", "related", "new", "untracked")
REJECTS = (
    "icmpx port-unreachable", "icmpx admin-prohibited", "icmpx host-unreachable", "icmpx no-route",
    "icmp host-prohibited", "icmp port-unreachable", "icmpv6 addr-unreachable", "icmpv6 admin-prohibited", "tcp reset",
)
_NUMERIC = {"tcp sport", "tcp dport", "udp sport", "udp dport", "th dport", "th sport"}


class Generator:
    """Makes one ruleset after the other from a ``random.Random``."""

    def __init__(self, random):
        self.random = random

    def ruleset(self):
        """A ruleset of one to three tables."""
        tables = [self.table(number) for number in range(self.random.choice((1, 1, 1, 2, 2, 3)))]
        return {"tables": tables}

    def table(self, number):
        """A table with its sets and chains."""
        random = self.random
        family = random.choice(("inet", "inet", "inet", "ip", "ip6"))
        table = {
            "family": family, "name": f"t{number}", "dormant": random.random() < 0.04, "sets": [], "chains": [],
        }
        for at in range(random.choice((0, 1, 1, 2))):
            table["sets"].append(self.named_set(family, f"s{at}"))
        users = [f"c{at}" for at in range(random.choice((0, 0, 1, 2, 3)))]
        bases = random.sample(
            ("input", "input", "prerouting", "forward", "output", "raw", "mangle", "nat", "ingress", "postrouting"),
            random.choice((1, 2, 2, 3)),
        )
        chains = []
        for at, name in enumerate(users):
            # A chain may jump to later ones only: the kernel refuses loops.
            chains.append({"name": name, "hook": None, "type": None, "priority": 0, "policy": None, "device": None,
                           "rules": self.rules(family, None, users[at + 1 :], table["sets"])})
        for at, base in enumerate(bases):
            chain = self.base(base, f"b{at}", family)
            if chain:
                chain["rules"] = self.rules(family, chain, users, table["sets"])
                chains.append(chain)
        # nft wants a chain before it is jumped to: user chains from the last to the first.
        table["chains"] = list(reversed(chains[: len(users)])) + chains[len(users) :]
        self.repair(table)
        return table

    def base(self, kind, name, family):
        """A base chain without rules."""
        random = self.random
        chain = {"name": name, "type": "filter", "device": None, "policy": random.choice(("accept", "accept", "drop")), "rules": []}
        priority = random.choice((-10, 0, 0, 0, 10))
        if kind == "ingress":
            if family != "inet":
                return None
            chain.update(hook="ingress", device=random.choice(INTERFACES), priority=priority, policy=random.choice(("accept", "accept", "accept", "drop")))
        elif kind == "raw":
            chain.update(hook=random.choice(("prerouting", "output")), priority=-300, policy="accept")
        elif kind == "mangle":
            chain.update(hook=random.choice(("prerouting", "input", "forward")), priority=-150)
        elif kind == "nat":
            hook = random.choice(("prerouting", "prerouting", "postrouting"))
            chain.update(hook=hook, type="nat", priority=-100 if hook == "prerouting" else 100, policy="accept")
        elif kind == "prerouting":
            chain.update(hook="prerouting", priority=random.choice((-190, -90, 0)))
        else:
            chain.update(hook=kind, priority=priority)
        return chain

    # -- rules ---------------------------------------------------------------------------------------------------------

    def rules(self, family, chain, targets, sets):
        """The rules of a chain, some followed by one of the same shape."""
        result = []
        for _time in range(self.random.choice((0, 1, 2, 3, 3, 4, 5, 6, 8))):
            result.append(self.rule(family, chain, targets, sets))
            if self.random.random() < 0.15:
                result.append(self.sibling(result[-1]))
        return result

    def sibling(self, rule):
        """The same rule with other values in its plain matches."""
        return [
            (*one[:3], self.values(one[1], one[2])[:1]) if one[0] == "match" and len(one[3]) == 1 else copy.deepcopy(one) for one in rule
        ]

    def rule(self, family, chain, targets, sets):
        """One rule: conditions, side effects, and mostly a verdict."""
        random = self.random
        conditions = self.conditions(family, chain, sets)
        protocols = {one[0].split()[0] for one in _fields_of(conditions)} & {"tcp"}
        if chain and chain["type"] == "nat":
            return self.spaced(conditions, chain) + [self.translation(family, chain, conditions)]
        rule = self.spaced(conditions, chain)
        choice = random.random()
        if choice < 0.05:
            rule.append(("mark", random.randint(1, 3)))
        elif choice < 0.08:
            rule.append(("mark map", random.choice(("tcp dport", "udp dport")), [(port, random.randint(1, 3)) for port in random.sample(PORTS, 2)]))
        elif choice < 0.11 and chain and chain["priority"] == -300:
            rule.append(("notrack",))
        elif choice < 0.16:
            rule.append(random.choice((("counter",), ("log",))))
        if random.random() < 0.08:
            rule.append(self.vmap(family, chain, targets, sets))
            return rule
        if random.random() < 0.94:
            rule.append(self.verdict(family, chain, targets, "tcp" in protocols))
        return rule

    def spaced(self, conditions, chain):
        """Conditions, sometimes in another order of fields."""
        del chain
        return list(conditions)

    def verdict(self, family, chain, targets, tcp):
        """A verdict that is allowed at this place."""
        random = self.random
        choices = [("accept",)] * 5 + [("drop",)] * 4 + [("return",)]
        choices += [("jump", name) for name in targets] * 2 + [("goto", name) for name in targets]
        if chain is not None and chain["hook"] in ("input", "forward", "output") or (chain and chain["hook"] == "prerouting" and chain["priority"] > -300):
            for kind in REJECTS:
                if kind == "tcp reset" and not tcp:
                    continue
                if kind.startswith("icmpx") and family != "inet":
                    continue
                if kind.startswith("icmp ") and family == "ip6" or kind.startswith("icmpv6") and family == "ip":
                    continue
                choices.append(("reject", kind))
        return random.choice(choices)

    def translation(self, family, chain, conditions):
        """A NAT statement; it needs to know the protocol where it names a port."""
        random = self.random
        ported = any(one[0].split()[0] in ("tcp", "udp") for one in _fields_of(conditions))
        if chain["hook"] == "postrouting":
            return ("masquerade",)
        port = random.choice(PORTS) if ported and random.random() < 0.7 else None
        if random.random() < 0.5:
            return ("redirect", port)
        network = "ip" if family == "ip" else "ip6" if family == "ip6" else random.choice(("ip", "ip6"))
        address = random.choice(ADDRESSES[network] + PEERS[network][:5])
        return ("dnat", address, port)

    def vmap(self, family, chain, targets, sets):
        """A verdict map, anonymous or named."""
        random = self.random
        named = [one for one in sets if one["verdicts"] is not None]
        if named and random.random() < 0.5:
            one = random.choice(named)
            return ("vmap", one["fields"], one["name"])
        fields = random.choice((["tcp dport"], ["udp dport"], ["ct state"], ["iifname"], ["meta l4proto"], ["meta mark"], ["ct direction"]))
        if fields == ["iifname"] and chain is not None and chain["hook"] == "output":
            fields = ["meta l4proto"]
        keys = self.distinct(fields[0], family)
        verdicts = [("accept",), ("drop",), ("return",), ("continue",)] + [("jump", name) for name in targets]
        return ("vmap", fields, [([key], random.choice(verdicts)) for key in keys])

    def distinct(self, field, family):
        """Different single values of a field, ranges that do not overlap among them."""
        random = self.random
        if field == "ct state":
            return random.sample(STATES, random.randint(1, 4))
        if field == "ct direction":
            return random.sample(("original", "reply"), random.randint(1, 2))
        if field in ("iifname", "oifname"):
            return random.sample(INTERFACES, random.randint(1, 3))
        if field == "meta l4proto":
            return random.sample((6, 17, 1, 58, 99), random.randint(1, 3))
        if field == "meta mark":
            return random.sample((0, 1, 2, 3), random.randint(1, 3))
        ports = sorted(random.sample(PORTS, random.randint(1, 4)))
        values = []
        at = 0
        while at < len(ports):
            if at + 1 < len(ports) and random.random() < 0.4:
                values.append(("range", ports[at], ports[at + 1]))
                at += 2
            else:
                values.append(ports[at])
                at += 1
        return values

    def conditions(self, family, chain, sets):
        """None to four conditions."""
        random = self.random
        result, used = [], set()
        for _time in range(random.choice((0, 1, 1, 1, 2, 2, 2, 3, 4))):
            one = self.condition(family, chain, sets)
            if one is None:
                continue
            fields = {name for name, _negated in _fields_of([one])}
            prefixes = {name.split()[0] for name in fields | used if name.split()[0] in ("tcp", "udp", "icmp", "icmpv6", "th")}
            versions = {name.split()[0] for name in fields | used if name.split()[0] in ("ip", "ip6")}
            if fields & used or len(prefixes) > 1 or len(versions) > 1:
                continue
            if "meta nfproto" in fields | used and (versions or prefixes & {"icmp", "icmpv6"}):
                continue
            if ("icmp" in prefixes and "ip6" in versions) or ("icmpv6" in prefixes and "ip" in versions):
                continue
            if prefixes and fields | used & {"meta l4proto", "ip protocol", "ip6 nexthdr"} and (fields | used) & {"meta l4proto", "ip protocol", "ip6 nexthdr"}:
                continue
            used |= fields
            result.append(one)
        return _without_merges(result)

    def condition(self, family, chain, sets):
        """One condition."""
        random = self.random
        usable = [one for one in sets if one["verdicts"] is None]
        if usable and random.random() < 0.25:
            one = random.choice(usable)
            return ("in", one["fields"], random.random() < 0.2, one["name"])
        choice = random.random()
        if choice < 0.08:
            mask = random.choice((0x02, 0x12, 0x17, 0x3F, 0x01))
            if random.random() < 0.4:
                return ("flags any", mask)
            return ("flags", mask, random.choice((0x02, 0x10, 0x12, 0x01, 0x04)) & mask)
        hook = chain["hook"] if chain else None
        fields = ["tcp dport", "tcp dport", "udp dport", "tcp sport", "udp sport", "meta l4proto", "meta mark"]
        fields += ["ct state", "ct state", "ct direction", "ct direction"]
        if hook != "output":
            fields += ["iifname", "iifname"]
        if hook in ("forward", "output", "postrouting"):
            fields.append("oifname")
        if family in ("inet", "ip"):
            fields += ["ip saddr", "ip saddr", "ip daddr", "icmp type", "ip protocol", "ip ttl", "ip dscp", "icmp code"]
        if family in ("inet", "ip6"):
            fields += ["ip6 saddr", "ip6 saddr", "ip6 daddr", "icmpv6 type", "ip6 nexthdr", "ip6 hoplimit"]
        if family == "inet":
            fields.append("meta nfproto")
        if hook in ("prerouting", "input", "forward"):
            fields += ["fib daddr . iif type", "fib saddr . iif oif"]
        field = random.choice(fields)
        negated = random.random() < 0.2 and field != "fib saddr . iif oif"
        return ("match", field, negated, self.values(field, negated))

    def values(self, field, negated=False):
        """The values of a condition: one, a range, or a set."""
        random = self.random
        if field == "ct state":
            return random.sample(STATES, random.choice((1, 1, 2, 3)))
        if field == "fib daddr . iif type":
            return random.choice((["local"], ["local", "broadcast", "multicast"], ["broadcast"]))
        if field == "fib saddr . iif oif":
            return [random.choice(("missing", "exists"))]
        if field == "meta l4proto":
            return random.sample((6, 17, 1, 58, 99), random.choice((1, 1, 2)))
        if field == "ip protocol":
            return random.sample((6, 17, 1, 99), random.choice((1, 1, 2)))
        if field == "ip6 nexthdr":
            return random.sample((6, 17, 58, 99), random.choice((1, 1, 2)))
        if field in ("iifname", "oifname"):
            return random.choice((["eth0"], ["eth1"], ["docker0"], ["docker*"], ["eth*"], ["eth0", "docker0"], ["nosuch0"]))
        if field == "icmp type":
            return random.sample((0, 3, 8, 13), random.choice((1, 1, 2)))
        if field == "icmpv6 type":
            return random.sample((1, 128, 129, 133), random.choice((1, 1, 2)))
        if field.endswith("code"):
            return [random.choice((0, 0, 1, 5))]
        if field == "ct direction":
            return [random.choice(("original", "reply"))]
        if field == "meta mark":
            return [random.choice((0, 1, 2, 3))]
        if field == "meta nfproto":
            return [random.choice(("ipv4", "ipv6"))]
        if field == "ip dscp":
            return [random.choice((0, 10, 46))]
        if field in ("ip ttl", "ip6 hoplimit"):
            return [random.choice((64, 1, ("range", 2, 100), 255))]
        if field in _NUMERIC:
            values = self.distinct(field, None)
            return values[:1] if random.random() < 0.6 else values
        return self.addresses("ip6" if field.startswith("ip6") else "ip")

    def addresses(self, network):
        """Addresses and networks that do not overlap."""
        random = self.random
        pool = PEERS[network] + ADDRESSES[network]
        taken, result = [], []
        for _time in range(random.choice((1, 1, 1, 2, 3))):
            text = random.choice(pool)
            bits = 32 if network == "ip" else 128
            shape = random.random()
            if shape < 0.5:
                value, low = text, int(ipaddress.ip_address(text))
                high = low
            elif shape < 0.8:
                length = random.choice((8, 16, 24, 25, 30, 31) if network == "ip" else (16, 32, 48, 63, 64, 120, 127))
                one = ipaddress.ip_network(f"{text}/{length}", strict=False)
                value, low, high = ("prefix", str(one.network_address), length), int(one.network_address), int(one.broadcast_address)
            else:
                low = int(ipaddress.ip_address(text)) - random.randint(0, 3)
                high = min(low + random.randint(1, 300), (1 << bits) - 1)
                kind = ipaddress.IPv4Address if network == "ip" else ipaddress.IPv6Address
                value = ("range", str(kind(low)), str(kind(high)))
            if all(high < other_low - 1 or low > other_high + 1 for other_low, other_high in taken):
                taken.append((low, high))
                result.append(value)
        return result

    # -- sets ----------------------------------------------------------------------------------------------------------

    def named_set(self, family, name):
        """A named set or verdict map, plain or of intervals, of one field or a concatenation."""
        random = self.random
        network = "ip" if family == "ip" else "ip6" if family == "ip6" else random.choice(("ip", "ip6"))
        fields = random.choice((
            [f"{network} saddr"], [f"{network} saddr"], ["tcp dport"], ["udp dport"], [f"{network} saddr", "tcp dport"],
            [f"{network} saddr", f"{network} daddr"], [f"{network} saddr", "udp dport"], ["tcp sport", "tcp dport"],
            ["iifname", "tcp dport"], [f"{network} saddr", "meta l4proto"], ["iifname"],
        ))
        interval = random.random() < 0.6 and "iifname" not in fields
        verdicts = random.random() < 0.2
        if len(fields) == 1:
            if fields[0] == "iifname":
                keys = [[one] for one in random.sample(INTERFACES, random.randint(1, 2))]
            elif fields[0] in _NUMERIC:
                keys = [[one] for one in (self.distinct(fields[0], family) if interval else random.sample(PORTS, random.randint(1, 4)))]
            else:
                keys = [[one] for one in (self.addresses(network) if interval else random.sample(PEERS[network], random.randint(1, 4)))]
        else:
            keys, seen = [], []
            for _time in range(random.randint(1, 5)):
                key = [self.part(field, network, interval) for field in fields]
                spans = [_span(value) for value in key]
                # Overlapping keys are refused in maps and by some kernels in sets: keep them apart in some field.
                if all(any(a[1] < b[0] or b[1] < a[0] for a, b in zip(spans, other)) for other in seen):
                    seen.append(spans)
                    keys.append(key)
        return {
            "name": name, "fields": fields, "interval": interval, "elements": keys,
            "verdicts": [random.choice((("accept",), ("drop",), ("return",))) for _time in keys] if verdicts else None,
        }

    def part(self, field, network, interval):
        """One field of a concatenation's key."""
        random = self.random
        if field in _NUMERIC:
            return random.choice(self.distinct(field, None)) if interval else random.choice(PORTS)
        if field == "iifname":
            return random.choice(INTERFACES)
        if field == "meta l4proto":
            return random.choice((6, 17, 1, 58))
        return random.choice(self.addresses(network)) if interval else random.choice(PEERS[network])

    def repair(self, table):
        """Things nft refuses at load time that are easier mended than avoided."""
        names = {chain["name"] for chain in table["chains"]}
        for chain in table["chains"]:
            for rule in chain["rules"]:
                for at, statement in enumerate(rule):
                    if statement[0] in ("jump", "goto") and statement[1] not in names:
                        rule[at] = ("accept",)
                _drop_contradictions(table, rule)


def _drop_contradictions(table, rule):
    """Leave out statements that ask for another protocol than those before them: nft refuses to load such a rule."""
    version, transport, named = None, None, False
    at = 0
    while at < len(rule):
        statement = rule[at]
        words = [field.split()[0] for field, _negated in _fields_of([statement])]
        if statement[0] == "mark map":
            words = [statement[1].split()[0]]
        if statement[0] == "reject":
            words = [{"icmp": "icmp", "icmpv6": "icmpv6", "tcp": "tcp"}.get(statement[1].split()[0], "")]
            if words[0] in ("icmp", "icmpv6"):
                words = ["ip" if words[0] == "icmp" else "ip6"]
        if statement[0] == "dnat":
            words = ["ip6" if ":" in statement[1] else "ip"]
        versions = {{"ip": "ip", "icmp": "ip", "ip6": "ip6", "icmpv6": "ip6"}.get(word) for word in words} - {None}
        transports = {word for word in words if word in ("tcp", "udp", "icmp", "icmpv6")}
        names = statement[0] in ("match", "in", "vmap") and bool(
            {field for field, _negated in _fields_of([statement])} & {"meta l4proto", "ip protocol", "ip6 nexthdr"}
        )
        family = any(field == "meta nfproto" for field, _negated in _fields_of([statement]))
        wrong = bool(versions - {version} and version) or bool(transports - {transport} and transport)
        wrong = wrong or len(versions) > 1 or (names and (transport or named)) or (bool(transports) and named)
        wrong = wrong or (family and version) or (bool(versions) and version == "named")
        if wrong:
            del rule[at]
            continue
        version = next(iter(versions), version)
        if family:
            version = "named"
        transport = next(iter(transports), transport)
        named = named or names
        at += 1


def _span(value):
    """The numbers a value covers, as (low, high); names count as themselves."""
    if isinstance(value, tuple) and value[0] == "range":
        return (_number(value[1]), _number(value[2]))
    if isinstance(value, tuple) and value[0] == "prefix":
        network = ipaddress.ip_network(f"{value[1]}/{value[2]}")
        return (int(network.network_address), int(network.broadcast_address))
    return (_number(value), _number(value))


def _number(value):
    if isinstance(value, int):
        return value
    try:
        return int(ipaddress.ip_address(value))
    except ValueError:
        return int.from_bytes(value.encode(), "big")


def _fields_of(statements):
    """``[(field, negated), ...]`` of conditions."""
    result = []
    for one in statements:
        if one[0] == "match":
            result.append((one[1], one[2]))
        elif one[0] in ("in", "vmap"):
            result += [(field, one[0] == "in" and one[2]) for field in one[1]]
        elif one[0].startswith("flags"):
            result.append(("tcp flags", False))
    return result


def _without_merges(conditions):
    """nft 1.0.6 merges neighbouring `!=` matches of one header into one: excluded here, a finding of its own elsewhere."""
    seen, result = set(), []
    for one in conditions:
        headers = {field.split()[0] for field, negated in _fields_of([one]) if negated}
        if headers & seen:
            continue
        seen |= headers
        result.append(one)
    return result


# -- nft's language ----------------------------------------------------------------------------------------------------


def text(ruleset):
    """A ruleset as a file for ``nft -f``."""
    lines = []
    for table in ruleset["tables"]:
        lines.append(f"table {table['family']} {table['name']} {{")
        if table["dormant"]:
            lines.append("\tflags dormant")
        for one in table["sets"]:
            lines += _set_text(one)
        for chain in table["chains"]:
            lines.append(f"\tchain {chain['name']} {{")
            if chain["hook"]:
                device = f" device {chain['device']}" if chain["device"] else ""
                lines.append(
                    f"\t\ttype {chain['type']} hook {chain['hook']}{device} priority {chain['priority']}; policy {chain['policy']};"
                )
            for rule in chain["rules"]:
                lines.append("\t\t" + (" ".join(_statement_text(one, chain) for one in rule) or "counter"))
            lines.append("\t}")
        lines.append("}")
    return "\n".join(lines) + "\n"


def _set_text(one):
    kind = "map" if one["verdicts"] is not None else "set"
    fields = " . ".join(one["fields"])
    elements = []
    for at, key in enumerate(one["elements"]):
        word = " . ".join(value_text(value, field) for value, field in zip(key, one["fields"]))
        elements.append(word + (f" : {_statement_text(one['verdicts'][at], None)}" if one["verdicts"] is not None else ""))
    result = [f"\t{kind} {one['name']} {{", f"\t\ttypeof {fields}" + (" : verdict" if kind == "map" else "")]
    if one["interval"]:
        result.append("\t\tflags interval")
    if elements:
        result.append("\t\telements = { " + ", ".join(elements) + " }")
    return result + ["\t}"]


def value_text(value, field):
    """One value in nft's language."""
    if isinstance(value, tuple):
        if value[0] == "range":
            return f"{value[1]}-{value[2]}"
        return f"{value[1]}/{value[2]}"
    if field in ("iifname", "oifname"):
        return f'"{value}"'
    return str(value)


def _statement_text(one, chain):
    kind = one[0]
    if kind == "match":
        _kind, field, negated, values = one
        words = [value_text(value, field) for value in values]
        sign = "!= " if negated else ""
        if field == "ct state" and not negated and len(words) > 1 and sum(map(len, words)) % 2:
            return f"ct state {','.join(words)}"
        return f"{field} {sign}" + (words[0] if len(words) == 1 else "{ " + ", ".join(words) + " }")
    if kind == "in":
        return f"{' . '.join(one[1])} {'!= ' if one[2] else ''}@{one[3]}"
    if kind == "flags":
        return f"tcp flags & 0x{one[1]:x} == 0x{one[2]:x}"
    if kind == "flags any":
        return f"tcp flags & 0x{one[1]:x} != 0"
    if kind == "vmap":
        fields = " . ".join(one[1])
        if isinstance(one[2], str):
            return f"{fields} vmap @{one[2]}"
        entries = [
            f"{' . '.join(value_text(value, field) for value, field in zip(key, one[1]))} : {_statement_text(verdict, chain)}"
            for key, verdict in one[2]
        ]
        return f"{fields} vmap {{ {', '.join(entries)} }}"
    if kind == "mark":
        return f"meta mark set {one[1]}"
    if kind == "mark map":
        return f"meta mark set {one[1]} map {{ {', '.join(f'{value} : {number}' for value, number in one[2])} }}"
    if kind in ("jump", "goto"):
        return f"{kind} {one[1]}"
    if kind == "reject":
        return f"reject with {one[1]}" if one[1] == "tcp reset" else f"reject with {one[1].split()[0]} type {one[1].split()[1]}"
    if kind == "log":
        return 'log prefix "fuzz" level debug'
    if kind == "redirect":
        return "redirect" + (f" to :{one[1]}" if one[1] is not None else "")
    if kind == "dnat":
        network = "ip6" if ":" in one[1] else "ip"
        address = f"[{one[1]}]" if network == "ip6" and one[2] is not None else one[1]
        return f"dnat {network} to {address}" + (f":{one[2]}" if one[2] is not None else "")
    return kind


# -- shrinking ---------------------------------------------------------------------------------------------------------


def shrink(ruleset, still_wrong):
    """The smallest ruleset found by leaving parts out for which ``still_wrong(ruleset)`` holds."""
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(ruleset):
            if still_wrong(smaller):
                ruleset, changed = smaller, True
                break
    return ruleset


def _smaller(ruleset):
    """Rulesets with one part less, the largest parts first."""
    for at in range(len(ruleset["tables"])):
        if len(ruleset["tables"]) > 1:
            copied = copy.deepcopy(ruleset)
            del copied["tables"][at]
            yield copied
    for table_at, table in enumerate(ruleset["tables"]):
        for part in ("chains", "sets"):
            for at in range(len(table[part])):
                copied = copy.deepcopy(ruleset)
                del copied["tables"][table_at][part][at]
                yield copied
        if table["dormant"]:
            copied = copy.deepcopy(ruleset)
            copied["tables"][table_at]["dormant"] = False
            yield copied
        for chain_at, chain in enumerate(table["chains"]):
            for at in range(len(chain["rules"])):
                copied = copy.deepcopy(ruleset)
                del copied["tables"][table_at]["chains"][chain_at]["rules"][at]
                yield copied
            for rule_at, rule in enumerate(chain["rules"]):
                for at in range(len(rule)):
                    copied = copy.deepcopy(ruleset)
                    del copied["tables"][table_at]["chains"][chain_at]["rules"][rule_at][at]
                    yield copied
        for set_at, one in enumerate(table["sets"]):
            for at in range(len(one["elements"])):
                copied = copy.deepcopy(ruleset)
                shrunk = copied["tables"][table_at]["sets"][set_at]
                del shrunk["elements"][at]
                if shrunk["verdicts"] is not None:
                    del shrunk["verdicts"][at]
                yield copied

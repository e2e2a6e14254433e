# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Loaded rules as text for people: close to nft's own syntax, but a rendering of what is loaded, expression by expression."""

from __future__ import annotations

import ipaddress
import sys

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_sets import ranges

_OPERATORS = ("", "!= ", "< ", "<= ", "> ", ">= ")
_META = {
    0: "meta length", 1: "meta protocol", 2: "meta priority", 3: "meta mark", 4: "iif", 5: "oif", 6: "iifname",
    7: "oifname", 8: "meta iiftype", 9: "meta oiftype", 10: "meta skuid", 11: "meta skgid", 12: "meta nftrace",
    15: "meta nfproto", 16: "meta l4proto", 19: "meta pkttype", 20: "meta cpu", 21: "meta iifgroup",
    22: "meta oifgroup", 23: "meta cgroup", 24: "meta random", 30: "meta time", 31: "meta day", 32: "meta hour",
}
_CT = {
    0: "ct state", 1: "ct direction", 2: "ct status", 3: "ct mark", 6: "ct helper", 7: "ct l3proto", 8: "ct saddr",
    9: "ct daddr", 10: "ct protocol", 11: "ct proto-src", 12: "ct proto-dst", 17: "ct zone", 19: "ct ip saddr",
    20: "ct ip daddr", 21: "ct ip6 saddr", 22: "ct ip6 daddr",
}
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 50: "esp", 58: "icmpv6", 132: "sctp", 136: "udplite"}
_STATES = {1: "invalid", 2: "established", 4: "related", 8: "new", 64: "untracked"}
_TYPES = {1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_VERDICTS = {1: "accept", 0: "drop", 3: "queue", -1: "continue", -2: "break", -3: "jump", -4: "goto", -5: "return"}
_ICMPX = ("no-route", "port-unreachable", "host-unreachable", "admin-prohibited")
_MOST_ELEMENTS = 8


def reject_kind(kind, code):
    """The `with ...` of a reject statement."""
    if kind == 1:
        return "with tcp reset"
    if kind == 2:
        return f"with icmpx {_ICMPX[code] if code < len(_ICMPX) else code}"
    return f"with icmp code {code}"


def verdict_text(verdict):
    """A verdict as nft writes it."""
    name = _VERDICTS.get(verdict["code"], str(verdict["code"]))
    return f"{name} {verdict['chain']}" if verdict.get("chain") else name


def rule_text(table, rule):
    """One rule as text."""
    registers, words = {}, []
    for expression in rule["expressions"]:
        text = _expression(table, expression, registers)
        if text:
            words.append(text)
    if rule["comment"]:
        words.append(f'comment "{rule["comment"]}"')
    return " ".join(words)


def _load(expression):
    name = expression["expr"]
    if name == "meta":
        return _META.get(expression["key"], f"meta key {expression['key']}")
    if name == "ct":
        way = {0: "original ", 1: "reply "}.get(expression.get("direction"), "")
        text = _CT.get(expression["key"], f"ct key {expression['key']}")
        return text.replace("ct ", "ct " + way, 1)
    if name == "payload":
        return _payload(expression["base"], expression["offset"], expression["len"])
    if name == "fib":
        flags = expression["flags"]
        what = [word for bit, word in ((1, "saddr"), (2, "daddr"), (4, "mark"), (8, "iif"), (16, "oif")) if flags & bit]
        result = {1: "oif", 2: "oifname", 3: "type"}.get(expression["result"], "?")
        return f"fib {' . '.join(what)} {result}" + (" exists" if flags & 32 else "")
    if name == "socket":
        kinds = ("transparent", "mark", "wildcard", "cgroupv2")
        level = f" level {expression['level']}" if expression.get("level") else ""
        return f"socket {kinds[expression['key']] if expression['key'] < 4 else expression['key']}{level}"
    return name


def _payload(base, offset, length):
    known = {
        (1, 12, 4): "ip saddr", (1, 16, 4): "ip daddr", (1, 9, 1): "ip protocol", (1, 8, 16): "ip6 saddr",
        (1, 24, 16): "ip6 daddr", (1, 6, 1): "ip6 nexthdr", (1, 1, 1): "ip dscp/ecn", (1, 8, 1): "ip ttl",
        (1, 7, 1): "ip6 hoplimit", (2, 0, 2): "th sport", (2, 2, 2): "th dport", (2, 0, 4): "th sport . dport",
        (2, 0, 1): "icmp type", (2, 1, 1): "icmp code", (2, 0, 2, "icmp"): "icmp type . code", (2, 13, 1): "tcp flags",
    }
    if (base, offset, length) in known:
        return known[base, offset, length]
    if base == 1 and offset == 12 and length < 4:
        return "ip saddr"
    if base == 1 and offset == 16 and length < 4:
        return "ip daddr"
    if base == 1 and offset == 8 and length < 16:
        return "ip6 saddr"
    if base == 1 and offset == 24 and length < 16:
        return "ip6 daddr"
    return f"@{('ll', 'nh', 'th', 'ih')[base]},{8 * offset},{8 * length}"


def value_text(name, data):
    """Bytes as the value of what was loaded."""
    if name.endswith(("saddr", "daddr")) and name.startswith("ip"):
        width = 16 if name.startswith("ip6") else 4
        text = str(ipaddress.ip_address(bytes(data).ljust(width, b"\0")))
        return text if len(data) == width else f"{text}/{8 * len(data)}"
    if name in ("iifname", "oifname"):
        stripped = bytes(data).rstrip(b"\0").decode("utf-8", "backslashreplace")
        return f'"{stripped}"' if len(data) == 16 or b"\0" in data else f'"{stripped}*"'
    if name in ("th sport . dport",):
        return f"{int.from_bytes(data[:2], 'big')} . {int.from_bytes(data[2:], 'big')}"
    big = int.from_bytes(data, "big")
    if name.startswith(("th ", "icmp", "tcp", "ip ", "ip6 ", "@")):
        return _PROTOCOLS.get(big, str(big)) if name in ("ip protocol", "ip6 nexthdr") else (
            f"0x{bytes(data).hex()}" if name.startswith(("@", "tcp")) else str(big)
        )
    number = int.from_bytes(data, sys.byteorder)
    if name in ("meta l4proto", "ct protocol"):
        return _PROTOCOLS.get(big, str(big))
    if name == "meta nfproto":
        return {2: "ipv4", 10: "ipv6"}.get(big, str(big))
    if name == "meta protocol":
        return {0x800: "ip", 0x86DD: "ip6"}.get(big, hex(big))
    if name == "ct state":
        return ",".join(text for bit, text in _STATES.items() if number & bit) or str(number)
    if name.startswith("fib") and name.endswith("type"):
        return _TYPES.get(number, str(number))
    return str(number)


def _expression(table, expression, registers):
    name = expression["expr"]
    if name == "immediate":
        if isinstance(expression["data"], dict):
            return verdict_text(expression["data"])
        registers[expression["dreg"]] = ("value", expression["data"])
        return ""
    if name == "cmp":
        return _compared(registers, expression["sreg"], _OPERATORS[expression["op"]], expression["data"])
    if name == "range":
        what = registers.get(expression["sreg"], "?")
        sign = "!= " if expression["op"] else ""
        return f"{_name(what)} {sign}{value_text(_name(what), expression['from'])}-{value_text(_name(what), expression['to'])}"
    if name == "bitwise":
        what = registers.get(expression["sreg"], "?")
        if expression.get("op", 0) == 0 and not any(expression.get("xor", b"")):
            registers[expression["dreg"]] = ("masked", _name(what), expression["mask"])
        else:
            registers[expression["dreg"]] = f"{_name(what)} (computed)"
        return ""
    if name == "byteorder":
        registers[expression["dreg"]] = registers.get(expression["sreg"], "?")
        return ""
    if name == "lookup":
        return _lookup(table, expression, registers)
    if name in ("counter", "last", "notrack", "masq"):
        return {"masq": "masquerade"}.get(name, name)
    if name == "log":
        return f'log prefix "{expression["prefix"]}"' if expression.get("prefix") else "log"
    if name == "limit":
        unit = {1: "second", 60: "minute", 3600: "hour", 86400: "day", 604800: "week"}.get(expression["unit"], "?")
        return f"limit rate {'over ' if expression.get('flags', 0) & 1 else ''}{expression['rate']}/{unit}"
    if name == "reject":
        return "reject " + reject_kind(expression["type"], expression.get("code", 0))
    if name in ("match", "target"):
        return f"xt {name} {expression.get('name')}"
    if name in ("nat", "redir", "tproxy"):
        return _translation(name, expression, registers)
    if "sreg" in expression and name in ("meta", "ct", "payload"):
        what = registers.get(expression["sreg"], "?")
        value = value_text(_load(expression), what[1]) if isinstance(what, tuple) and what[0] == "value" else _name(what)
        return f"{_load(expression)} set {value}"
    if name == "objref":
        return f"object {expression.get('name') or 'map ' + expression.get('set', '?')}"
    if name == "dynset":
        return f"{('add', 'update', 'delete')[expression.get('op', 0)]} @{expression['set']}"
    if expression.get("dreg"):
        registers[expression["dreg"]] = _load(expression)
        if name == "payload" and expression["len"] > 4 and expression["dreg"] <= 4:
            pass
        return ""
    return name


def _name(what):
    return what[1] if isinstance(what, tuple) and what[0] == "masked" else what if isinstance(what, str) else "?"


def _compared(registers, register, sign, data):
    what = registers.get(register, "?")
    if isinstance(what, tuple) and what[0] == "masked":
        name, mask = what[1], what[2]
        if name == "ct state" and sign == "!= " and not any(data):
            return f"ct state {value_text(name, mask)}"
        if name.endswith(("saddr", "daddr")):
            bits = bin(int.from_bytes(mask, "big")).count("1")
            prefix = (1 << bits) - 1 << 8 * len(mask) - bits == int.from_bytes(mask, "big")
            if prefix:
                return f"{name} {sign}{value_text(name, data)}/{bits}"
        return f"{name} & 0x{mask.hex()} {sign or '== '}0x{data.hex()}"
    if _name(what).endswith(" exists"):
        return _name(what)[: -len(" exists")] + (" missing" if any(data) == bool(sign) else " exists")
    return f"{_name(what)} {sign}{value_text(_name(what), data)}"


def _translation(name, expression, registers):
    def value(register, kind):
        what = registers.get(register)
        if not isinstance(what, tuple):
            return "?"
        if kind == "port":
            return str(int.from_bytes(what[1][:2], "big"))
        return str(ipaddress.ip_address(bytes(what[1]))) if len(what[1]) in (4, 16) else "?"

    verb = {"redir": "redirect", "tproxy": "tproxy"}.get(name) or ("snat", "dnat")[expression["type"]]
    text = verb + " to "
    address = expression.get("addr_min", expression.get("addr"))
    port = expression.get("port_min", expression.get("port"))
    if address:
        text += value(address, "address")
    if port:
        text += ":" + value(port, "port")
    return text if address or port else verb


def _lookup(table, expression, registers):
    one = table["sets"].get(expression["set"])
    start, names = expression["sreg"], []
    if one is None:
        return f"@{expression['set']}"
    at = 16 * (start - 1) if start <= 4 else 4 * (start - 8)
    end = at + one["key_len"]
    places = sorted((16 * (r - 1) if r <= 4 else 4 * (r - 8), what) for r, what in registers.items() if isinstance(r, int))
    names = [_name(what) for place, what in places if at <= place < end]
    key = " . ".join(names) or "?"
    sign = "!= " if expression.get("flags", 0) & 1 else ""
    how = "vmap" if expression.get("dreg") == 0 else "map" if "dreg" in expression else ""
    if expression.get("dreg"):
        registers[expression["dreg"]] = f"{key} map @{expression['set']}"
        return ""
    if not one["flags"] & 1:
        return " ".join(word for word in (key, sign.strip(), how, "@" + expression["set"]) if word)
    entries = ranges(one)[0]
    texts = []
    for low, high, element in entries[:_MOST_ELEMENTS]:
        if len(names) == 1:
            text = value_text(names[0], low)
            if low != high:
                text += "-" + value_text(names[0], high)
        else:
            text = "0x" + low.hex() + ("" if low == high else "-0x" + high.hex())
        if isinstance(element.get("data"), dict):
            text += " : " + verdict_text(element["data"])
        texts.append(text)
    if len(entries) > _MOST_ELEMENTS:
        texts.append(f"... {len(entries) - _MOST_ELEMENTS} more")
    return " ".join(word for word in (key, sign.strip(), how, "{ " + ", ".join(texts) + " }") if word)

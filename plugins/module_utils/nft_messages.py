# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Messages of NETLINK_NETFILTER's nf_tables subsystem, decoded to the plain data that nft_ruleset describes.

Attribute numbers and widths: linux/netfilter/nf_tables.h. What has no name here is kept as ``attr_N`` with its raw bytes;
an expression then says so in ``unknown``.
"""

from __future__ import annotations

import struct

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.netlink import attributes, pack_attribute, string

FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


def u32(value, _cache=None):
    """A number as nf_tables sends it: big-endian."""
    return int.from_bytes(value, "big")


def _text(value, _cache):
    return string(value)


def _raw(value, _cache):
    return bytes(value)


def _data(value, _cache=None):
    for kind, inner in attributes(value):
        if kind == 1:
            return bytes(inner)
        if kind == 2:
            verdict = {"code": -1, "chain": None}
            for field, content in attributes(inner):
                if field == 1:
                    verdict["code"] = struct.unpack(">i", content)[0]
                elif field == 2:
                    verdict["chain"] = string(content)
            return verdict
    return b""


def _expression(value, cache):
    """One expression; equal bytes give the same object."""
    known = cache.get(value)
    if known is not None:
        return known
    if value[:8] == _CMP and value[12:16] == _CMP_SREG and value[20:24] == _CMP_OP and value[30:32] + value[34:36] == _CMP_DATA:
        # Most expressions that differ from rule to rule are comparisons, and this is how kernels lay them out.
        result = cache[value] = {
            "expr": "cmp", "sreg": int.from_bytes(value[16:20], "big"), "op": int.from_bytes(value[24:28], "big"),
            "data": value[36 : 32 + _LENGTH.unpack_from(value, 32)[0]],
        }
        return result
    name, body = "", b""
    for kind, content in attributes(value):
        if kind == 1:
            name = string(content)
        elif kind == 2:
            body = content
    fields = _EXPRESSIONS.get(name, {})
    result = {"expr": name}
    for kind, content in attributes(body):
        if kind in fields:
            field, decode = fields[kind]
            result[field] = decode(content, cache)
        elif (name, kind) not in _PADDING:
            result[f"attr_{kind}"] = bytes(content)
            result["unknown"] = kind
    cache[value] = result
    return result


_LENGTH = struct.Struct("=H")
_CMP = pack_attribute(1, "cmp")
_CMP_SREG, _CMP_OP, _CMP_DATA = struct.pack("=HH", 8, 1), struct.pack("=HH", 8, 2), struct.pack("=HH", 3, 1)


def _expressions(value, cache):
    """A list of expressions. Most of what a ruleset is made of: attributes() in place, and one question for what is known."""
    result, at, end = [], 0, len(value)
    while at + 4 <= end:
        length = _LENGTH.unpack_from(value, at)[0]
        if length < 4 or at + length > end:
            attributes(value, at)  # which says what is wrong
        content = value[at + 4 : at + length]
        result.append(cache.get(content) or _expression(content, cache))
        at += (length + 3) & ~3
    return result


def _fields(*names, **decoders):
    """``{attribute number: (field, decoder)}`` for fields numbered from 1; u32 unless ``decoders`` says otherwise."""
    return {number: (name, decoders.get(name, u32)) for number, name in enumerate(names, 1) if name}


_EXPRESSIONS = {
    "immediate": _fields("dreg", "data", data=_data),
    "bitwise": _fields(
        "sreg", "dreg", "len", "mask", "xor", "op", "data", "sreg2", mask=_data, xor=_data, data=_data
    ),
    "byteorder": _fields("sreg", "dreg", "op", "len", "size"),
    "cmp": _fields("sreg", "op", "data", data=_data),
    "range": _fields("sreg", "op", "from", "to", **{"from": _data, "to": _data}),
    "lookup": _fields("set", "sreg", "dreg", "set_id", "flags", set=_text),
    "dynset": _fields(
        "set", "set_id", "op", "sreg_key", "sreg_data", "timeout", "expression", None, "flags", "expressions",
        set=_text, expression=_expression, expressions=_expressions,
    ),
    "payload": _fields("dreg", "base", "offset", "len", "sreg", "csum_type", "csum_offset", "csum_flags"),
    "exthdr": _fields("dreg", "type", "offset", "len", "flags", "op", "sreg"),
    "meta": _fields("dreg", "key", "sreg"),
    "rt": _fields("dreg", "key"),
    "socket": _fields("key", "dreg", "level"),
    "hash": _fields("sreg", "dreg", "len", "modulus", "seed", "offset", "type"),
    "ct": _fields("dreg", "key", "direction", "sreg"),
    "flow_offload": _fields("flowtable", flowtable=_text),
    "limit": _fields("rate", "unit", "burst", "type", "flags"),
    "connlimit": _fields("count", "flags"),
    "counter": _fields("bytes", "packets"),
    "last": _fields("set", "msecs"),
    "log": _fields("group", "prefix", "snaplen", "qthreshold", "level", "flags", prefix=_text),
    "queue": _fields("num", "total", "flags", "sreg"),
    "quota": {1: ("bytes", u32), 2: ("flags", u32), 4: ("consumed", u32)},
    "reject": _fields("type", "code"),
    "nat": _fields("type", "family", "addr_min", "addr_max", "port_min", "port_max", "flags"),
    "tproxy": _fields("family", "addr", "port"),
    "masq": _fields("flags", "port_min", "port_max"),
    "redir": _fields("port_min", "port_max", "flags"),
    "dup": _fields("addr", "dev"),
    "fwd": _fields("dev", "addr", "nfproto"),
    "objref": _fields("type", "name", "sreg", "set", "set_id", name=_text, set=_text),
    "fib": _fields("dreg", "result", "flags"),
    "osf": _fields("dreg", "ttl", "flags"),
    "synproxy": _fields("mss", "wscale", "flags"),
    "xfrm": _fields("dreg", "key", "dir", "spnum"),
    "numgen": _fields("dreg", "modulus", "type", "offset"),
    "tunnel": _fields("key", "dreg", "mode"),
    "match": _fields("name", "rev", "info", name=_text, info=_raw),
    "target": _fields("name", "rev", "info", name=_text, info=_raw),
    "inner": _fields("num", "type", "flags", "hdrsize", "expression", expression=_expression),
    "notrack": {},
}
_PADDING = {("counter", 3), ("quota", 3), ("limit", 6), ("last", 3), ("dynset", 8)}

_OBJECT_KINDS = {1: "counter", 2: "quota", 4: "limit", 5: "connlimit", 10: "synproxy"}


def _comment(userdata, kind=0):
    """The comment in a userdata blob (type, length, value triples as libnftnl writes them), else None."""
    offset = 0
    while offset + 2 <= len(userdata):
        found, length = userdata[offset], userdata[offset + 1]
        if found == kind:
            return string(userdata[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return None


def decode_table(family, body):
    """One table; ``family`` is its number."""
    table = {
        "family": FAMILIES.get(family, str(family)), "name": "", "handle": 0, "flags": 0, "comment": None,
        "chains": {}, "sets": {}, "objects": [], "flowtables": [],
    }
    for kind, value in attributes(body, 4):
        if kind == 1:
            table["name"] = string(value)
        elif kind == 2:
            table["flags"] = u32(value)
        elif kind == 4:
            table["handle"] = u32(value)
        elif kind == 6:
            table["comment"] = _comment(value)
    return table


def _device(kind, name):
    """A device that a chain hooks; "eth*" for all whose names begin so: a name without its closing zero, or one of a kind of its own."""
    return string(name) + ("*" if kind == 2 or b"\0" not in name else "")


def decode_chain(body):
    """``(name of the table, chain)``"""
    chain = {
        "name": "", "handle": 0, "type": None, "hook": None, "priority": None, "policy": None, "flags": 0,
        "devices": [], "comment": None, "rules": [],
    }
    table = ""
    for kind, value in attributes(body, 4):
        if kind == 1:
            table = string(value)
        elif kind == 2:
            chain["handle"] = u32(value)
        elif kind == 3:
            chain["name"] = string(value)
        elif kind == 4:
            for field, content in attributes(value):
                if field == 1:
                    chain["hook"] = u32(content)
                elif field == 2:
                    chain["priority"] = struct.unpack(">i", content)[0]
                elif field == 3:
                    chain["devices"] = [_device(1, content)]
                elif field == 4:
                    chain["devices"] = [_device(*one) for one in attributes(content)]
        elif kind == 5:
            chain["policy"] = u32(value)
        elif kind == 7:
            chain["type"] = string(value)
        elif kind == 10:
            chain["flags"] = u32(value)
        elif kind == 12:
            chain["comment"] = _comment(value)
    return table, chain


def decode_rule(body, cache):
    """``(name of the table, name of the chain, rule)``; ``cache`` keeps expressions that rules share."""
    rule = {"handle": 0, "comment": None, "expressions": [], "compat": None}
    table = chain = ""
    for kind, value in attributes(body, 4):
        if kind == 1:
            table = string(value)
        elif kind == 2:
            chain = string(value)
        elif kind == 3:
            rule["handle"] = u32(value)
        elif kind == 4:
            rule["expressions"] = _expressions(value, cache)
        elif kind == 5:
            rule["compat"] = {
                {1: "protocol", 2: "flags"}.get(field, f"attr_{field}"): u32(content)
                for field, content in attributes(value)
            }
        elif kind == 7:
            rule["comment"] = _comment(value)
    return table, chain, rule


_SET_FIELDS = {
    3: ("flags", u32), 4: ("key_type", u32), 5: ("key_len", u32), 6: ("data_type", u32), 7: ("data_len", u32),
    11: ("timeout", u32), 15: ("object_type", u32), 16: ("handle", u32), 18: ("expressions", _expressions),
}


def decode_set(body, cache):
    """``(name of the table, set)``, without its elements."""
    result = {
        "name": "", "handle": 0, "flags": 0, "key_type": 0, "key_len": 0, "data_type": None, "data_len": None,
        "field_lens": [], "timeout": None, "comment": None, "elements": [], "expressions": [], "object_type": None,
        "size": None,
    }
    table = ""
    for kind, value in attributes(body, 4):
        if kind == 1:
            table = string(value)
        elif kind == 2:
            result["name"] = string(value)
        elif kind == 9:
            for field, content in attributes(value):
                if field == 1:
                    result["size"] = u32(content)
                elif field == 2:
                    result["field_lens"] = [
                        u32(length)
                        for _kind, one in attributes(content)
                        for name, length in attributes(one)
                        if name == 1
                    ]
        elif kind == 13:
            result["comment"] = _comment(value, 7)
        elif kind == 17:
            result["expressions"] = [_expression(value, cache)]
        elif kind in _SET_FIELDS:
            field, decode = _SET_FIELDS[kind]
            result[field] = decode(value, cache)
    return table, result


def decode_element(value, cache):
    """One element of a set."""
    element = {"key": None, "flags": 0}
    for kind, content in attributes(value):
        if kind == 1:
            # The overwhelmingly common shape is one nested NFTA_DATA_VALUE.
            element["key"] = bytes(content[4:]) if content[2:4] in _VALUE_TYPES else _data(content)
            element["key"] = element["key"][: struct.unpack_from("=H", content)[0] - 4]
        elif kind == 2:
            element["data"] = _data(content)
        elif kind == 3:
            element["flags"] = u32(content)
        elif kind == 4:
            element["timeout"] = u32(content)
        elif kind == 5:
            element["expiration"] = u32(content)
        elif kind == 6:
            element["comment"] = _comment(content)
        elif kind == 7:
            element["expressions"] = [_expression(content, cache)]
        elif kind == 9:
            element["object"] = string(content)
        elif kind == 10:
            element["key_end"] = _data(content)
        elif kind == 11:
            element["expressions"] = _expressions(content, cache)
    return element


_VALUE_TYPES = {struct.pack("=H", 1), struct.pack("=H", 0x8001)}


def decode_object(body, cache):
    """``(name of the table, object)``: a counter, quota, limit, ..."""
    result = {"name": "", "handle": 0, "type": 0, "kind": None, "data": {}, "comment": None}
    table, raw = "", b""
    for kind, value in attributes(body, 4):
        if kind == 1:
            table = string(value)
        elif kind == 2:
            result["name"] = string(value)
        elif kind == 3:
            result["type"] = u32(value)
        elif kind == 4:
            raw = value
        elif kind == 6:
            result["handle"] = u32(value)
        elif kind == 8:
            result["comment"] = _comment(value)
    result["kind"] = _OBJECT_KINDS.get(result["type"])
    fields = _EXPRESSIONS.get(result["kind"], {})
    for kind, content in attributes(raw):
        if kind in fields:
            field, decode = fields[kind]
            result["data"][field] = decode(content, cache)
        elif (result["kind"], kind) not in _PADDING:
            result["data"][f"attr_{kind}"] = bytes(content)
    return table, result


def decode_flowtable(body):
    """``(name of the table, flow table)``"""
    result = {"name": "", "handle": 0, "flags": 0, "hook": None, "priority": None, "devices": []}
    table = ""
    for kind, value in attributes(body, 4):
        if kind == 1:
            table = string(value)
        elif kind == 2:
            result["name"] = string(value)
        elif kind == 3:
            for field, content in attributes(value):
                if field == 1:
                    result["hook"] = u32(content)
                elif field == 2:
                    result["priority"] = struct.unpack(">i", content)[0]
                elif field == 3:
                    result["devices"] = [string(name) for _kind, name in attributes(content)]
        elif kind == 5:
            result["handle"] = u32(value)
        elif kind == 7:
            result["flags"] = u32(value)
    return table, result

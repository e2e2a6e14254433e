# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the kernel's packet filter holds: tables, chains, rules, sets and objects, read over netlink.

The text that `nft` lists is a translation back from what is loaded, and not always a faithful one; this reads the loaded
expressions themselves and needs no `nft`. Attribute numbers and widths: linux/netfilter/nf_tables.h.

A snapshot is plain data::

    {"generation": 7, "tables": [table, ...]}                       # tables in the order they were made
    table = {"family": "inet", "name": str, "handle": int, "flags": int, "comment": str or None,
             "chains": {name: chain}, "sets": {name: set}, "objects": [object], "flowtables": [flowtable]}
    chain = {"name": str, "handle": int, "type": "filter" or None, "hook": int or None, "priority": int or None,
             "policy": 1 (accept) or 0 (drop) or None, "flags": int, "devices": [str], "comment": ..., "rules": [rule]}
    rule  = {"handle": int, "comment": str or None, "expressions": [expression], "compat": {...} or None}
    expression = {"expr": "payload", "dreg": 1, "base": 1, "offset": 12, "len": 4}
    set   = {"name": str, "handle": int, "flags": int, "key_type": int, "key_len": int, "data_type": int or None,
             "data_len": int or None, "field_lens": [int], "timeout": ms or None, "comment": ..., "elements": [element],
             "expressions": [expression], "object_type": int or None, "size": int or None}
    element = {"key": bytes or None, "key_end": bytes, "data": data, "flags": int, "timeout": ms, "expiration": ms,
               "expressions": [...], "object": str, "comment": str}     # only the keys that the kernel sent

`data` is bytes (network or host order as the kernel keeps them) or a verdict ``{"code": int, "chain": str}``.
Expressions may be shared between rules: read them, do not change them. What this module has no name for is kept as
``attr_N`` with its raw bytes, so that nothing gets lost.
"""

from __future__ import annotations

import errno
import functools
import struct

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.netlink import (
    NETLINK_NETFILTER,
    DumpInterrupted,
    NetlinkError,
    NetlinkSocket,
    attributes,
    pack_attribute,
)
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_messages import (
    FAMILIES,
    decode_chain,
    decode_element,
    decode_flowtable,
    decode_object,
    decode_rule,
    decode_set,
    decode_table,
    u32,
)

FAMILY_NUMBERS = {name: number for number, name in FAMILIES.items()}

TABLE_DORMANT = 0x1
CHAIN_BASE = 0x1
CHAIN_BINDING = 0x4

SET_ANONYMOUS = 0x1
SET_CONSTANT = 0x2
SET_INTERVAL = 0x4
SET_MAP = 0x8
SET_TIMEOUT = 0x10
SET_DYNAMIC = 0x20
SET_OBJECT = 0x40
SET_CONCAT = 0x80

ELEMENT_INTERVAL_END = 0x1
ELEMENT_CATCHALL = 0x2

_SUBSYSTEM = 10 << 8
_GETTABLE, _GETCHAIN, _GETRULE, _GETSET, _GETSETELEM = (_SUBSYSTEM | n for n in (1, 4, 7, 10, 13))
_GETGEN, _GETOBJ, _GETFLOWTABLE = (_SUBSYSTEM | n for n in (16, 19, 23))
_HINTS = {errno.EPERM: " (root is needed)", errno.EACCES: " (root is needed)", errno.EINVAL: " (does this kernel have nf_tables?)"}
_ATTEMPTS = 10
_STEADY_ATTEMPTS = 3


class RulesetUnreadable(Exception):
    """The packet filter cannot be read (not permitted, not there, or it never held still): its content is unknown."""


# -- reading -----------------------------------------------------------------------------------------------------------


def read_ruleset(table=None, family=None):
    """A consistent snapshot of the nftables state of this network namespace (see the module's docstring).

    ``table`` and ``family`` ("inet", "ip", ...) restrict it to one table; a table that is not there gives an empty
    list of tables. A ruleset that changes while it is read is read again, a bounded number of times; where tables of others never hold
    still (fail2ban, Docker), one table counts as read when two readings in a row are the same.
    Raises RulesetUnreadable with the reason.
    """
    one = table is not None and family is not None
    try:
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            for _attempt in range(_STEADY_ATTEMPTS if one else _ATTEMPTS):
                snapshot = _read_once(netlink, table, family)
                if snapshot is not None:
                    return snapshot
            last = None
            for _attempt in range(_ATTEMPTS if one else 0):
                snapshot = _read_once(netlink, table, family, steady=False)
                found = snapshot and [canonical(each) for each in snapshot["tables"]]
                if found is not None and found == last:
                    return snapshot
                last = found
    except NetlinkError as error:
        raise RulesetUnreadable(f"nf_tables over netlink: {error.strerror}{_HINTS.get(error.errno, '')}") from error
    raise RulesetUnreadable(f"the ruleset changed during each of {_ATTEMPTS} readings")


def generation():
    """The number of the ruleset's generation; every transaction makes a new one. Raises RulesetUnreadable."""
    try:
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            return _generation(netlink)
    except NetlinkError as error:
        raise RulesetUnreadable(f"nf_tables over netlink: {error.strerror}") from error


def _header(family=0):
    return struct.pack(">BBH", family, 0, 0)


def _generation(netlink):
    for _kind, body in netlink.request(_GETGEN, _header()):
        for field, value in attributes(body, 4):
            if field == 1:
                return u32(value)
    raise NetlinkError(errno.EBADMSG, "the kernel did not name the ruleset's generation")


def _whole_dump(netlink, message_type, body):
    """A dump that was not interrupted. Raises DumpInterrupted where every one of a number of them was."""
    for _attempt in range(_ATTEMPTS - 1):
        try:
            return list(netlink.dump(message_type, body))
        except DumpInterrupted:
            continue
    return list(netlink.dump(message_type, body))


def _read_once(netlink, wanted_table, wanted_family, steady=True):
    """One reading, or None where the ruleset changed meanwhile; without ``steady``, where what was read does not fit together."""
    before = _generation(netlink)
    dump = netlink.dump if steady else functools.partial(_whole_dump, netlink)
    family = FAMILY_NUMBERS[wanted_family] if wanted_family else 0
    cache, tables, orphans = {}, {}, False
    # The kernel takes a table's name as a filter only together with its family.
    only = pack_attribute(1, wanted_table) if wanted_table and wanted_family else b""
    try:
        for _kind, body in dump(_GETTABLE, _header(family)):
            table = decode_table(body[0], body)
            if wanted_table in (None, table["name"]):
                tables[body[0], table["name"]] = table
        if not tables:
            return {"generation": before, "tables": []} if not steady or _generation(netlink) == before else None
        for _kind, body in dump(_GETCHAIN, _header(family)):
            name, chain = decode_chain(body)
            if (body[0], name) in tables:
                tables[body[0], name]["chains"][chain["name"]] = chain
        for _kind, body in dump(_GETSET, _header(family) + only):
            name, one = decode_set(body, cache)
            if (body[0], name) in tables:
                tables[body[0], name]["sets"][one["name"]] = one
        for _kind, body in dump(_GETRULE, _header(family) + only):
            name, chain, rule = decode_rule(body, cache)
            if (body[0], name) in tables:
                home = tables[body[0], name]["chains"].get(chain)
                if home is None:
                    orphans = True  # a rule of a chain made after the chains were dumped; the dump has to be read to its end
                else:
                    home["rules"].append(rule)
        for _kind, body in dump(_GETOBJ, _header(family) + only):
            name, one = decode_object(body, cache)
            if (body[0], name) in tables:
                tables[body[0], name]["objects"].append(one)
        for name, one in _flowtables(dump, family):
            if name in tables:
                tables[name]["flowtables"].append(one)
        for (number, name), table in tables.items():
            for one in table["sets"].values():
                one["elements"] = _elements(dump, number, name, one["name"], cache)
    except DumpInterrupted:
        return None
    except NetlinkError as error:
        if error.errno == errno.ENOENT and (not steady or _generation(netlink) != before):
            return None
        raise
    if orphans or steady and _generation(netlink) != before:
        return None
    return {"generation": before, "tables": list(tables.values())}


def _flowtables(dump, family):
    try:
        for _kind, body in dump(_GETFLOWTABLE, _header(family)):
            name, one = decode_flowtable(body)
            yield (body[0], name), one
    except NetlinkError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise  # kernels before 4.16 know no flow tables


def _elements(dump, family, table, name, cache):
    request = _header(family) + pack_attribute(1, table) + pack_attribute(2, name)
    elements = []
    for _kind, body in dump(_GETSETELEM, request):
        for field, value in attributes(body, 4):
            if field == 3:
                elements.extend(decode_element(one, cache) for _number, one in attributes(value))
    return elements


# What packets change in an expression or object; everything else of it was written by whoever loaded the ruleset.
_VOLATILE = {"counter": ("bytes", "packets"), "quota": ("consumed",), "last": ("set", "msecs")}


# -- canonical form ----------------------------------------------------------------------------------------------------


def canonical(table):
    """A table of a snapshot as plain data in which two loads of the same ruleset compare equal with ``==``.

    Without handles, counter values, used quota, expiry, the numbering of anonymous sets and chains, and elements that
    packets put into dynamic sets; with everything that decides about packets, the comments, and the order in which base
    chains of the same hook and priority were made (that is the order in which they see a packet).
    """
    names = _anonymous_names(table)
    chains, order = {}, {}
    for chain in table["chains"].values():
        name = names.get(chain["name"], chain["name"])
        chains[name] = {
            **{key: chain[key] for key in ("type", "hook", "priority", "policy", "comment")},
            "flags": chain["flags"] & ~0x1,  # the base flag: older kernels do not send it, the hook says it anyhow
            "devices": sorted(chain["devices"]),
            "rules": [_canonical_rule(rule, names) for rule in chain["rules"]],
        }
        if chain["hook"] is not None:
            order.setdefault(f"{chain['hook']} {chain['priority']}", []).append(name)
    return {
        "family": table["family"], "name": table["name"], "flags": table["flags"], "comment": table["comment"],
        "chains": chains,
        "order": order,
        "sets": {names.get(name, name): _canonical_set(one, names) for name, one in table["sets"].items()},
        "objects": sorted(
            (_canonical_object(one) for one in table["objects"]), key=lambda one: (one["type"], one["name"])
        ),
        "flowtables": sorted(
            ({**one, "handle": 0, "devices": sorted(one["devices"])} for one in table["flowtables"]),
            key=lambda one: one["name"],
        ),
    }


def _anonymous_names(table):
    """Names by first use for what the kernel numbers itself: anonymous sets and the chains of `jump { ... }`."""
    anonymous_sets = {name for name, one in table["sets"].items() if one["flags"] & SET_ANONYMOUS}
    anonymous_chains = {name for name, one in table["chains"].items() if one["flags"] & CHAIN_BINDING}
    names = {}

    def visit_data(data):
        if isinstance(data, dict) and data.get("chain") in anonymous_chains and data["chain"] not in names:
            names[data["chain"]] = f"(chain {len(names)})"
            visit_chain(table["chains"][data["chain"]])

    def visit_chain(chain):
        for rule in chain["rules"]:
            for expression in rule["expressions"]:
                name = expression.get("set")
                if isinstance(name, str) and name in anonymous_sets and name not in names:
                    names[name] = f"(set {len(names)})"
                    for element in sorted(table["sets"][name]["elements"], key=_element_key):
                        visit_data(element.get("data"))
                visit_data(expression.get("data"))

    for name in sorted(set(table["chains"]) - anonymous_chains):
        visit_chain(table["chains"][name])
    return names


def _element_key(element):
    return (element["key"] or b"", element["flags"], element.get("key_end", b""))


def _canonical_rule(rule, names):
    return {
        "comment": rule["comment"],
        "compat": rule["compat"],
        "expressions": [_canonical_expression(one, names) for one in rule["expressions"]],
    }


def _canonical_expression(expression, names):
    volatile = _VOLATILE.get(expression["expr"], ())
    result = {}
    for field, value in expression.items():
        if field in volatile:
            continue
        if field == "set" and value in names:
            value = names[value]
        elif field == "data" and isinstance(value, dict) and value.get("chain") in names:
            value = {**value, "chain": names[value["chain"]]}
        elif field == "expression":
            value = _canonical_expression(value, names)
        elif field == "expressions":
            value = [_canonical_expression(one, names) for one in value]
        elif field == "flags" and expression["expr"] == "quota":
            value &= ~0x2  # "depleted" is what packets made of it
        result[field] = value
    return result


def _canonical_set(one, names):
    elements = []
    if not one["flags"] & SET_DYNAMIC:
        for element in sorted(one["elements"], key=_element_key):
            kept = {key: value for key, value in element.items() if key != "expiration"}
            if isinstance(kept.get("data"), dict) and kept["data"].get("chain") in names:
                kept["data"] = {**kept["data"], "chain": names[kept["data"]["chain"]]}
            if "expressions" in kept:
                kept["expressions"] = [_canonical_expression(each, names) for each in kept["expressions"]]
            elements.append(kept)
    return {
        **{key: value for key, value in one.items() if key not in ("name", "handle", "elements", "expressions")},
        "elements": elements,
        "expressions": [_canonical_expression(each, names) for each in one["expressions"]],
    }


def _canonical_object(one):
    volatile = _VOLATILE.get(one["kind"], ())
    data = {field: value for field, value in one["data"].items() if field not in volatile}
    if one["kind"] == "quota" and "flags" in data:
        data["flags"] &= ~0x2
    return {"name": one["name"], "type": one["type"], "comment": one["comment"], "data": data}


# -- as JSON -----------------------------------------------------------------------------------------------------------


def to_json(value):
    """A snapshot, or any part of one, as data that JSON can carry: bytes become ``{"hex": "0a4d0001"}``."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: to_json(content) for key, content in value.items()}
    if isinstance(value, list):
        return [to_json(content) for content in value]
    return value


def from_json(value):
    """The inverse of to_json()."""
    if isinstance(value, dict):
        if set(value) == {"hex"}:
            return bytes.fromhex(value["hex"])
        return {key: from_json(content) for key, content in value.items()}
    if isinstance(value, list):
        return [from_json(content) for content in value]
    return value

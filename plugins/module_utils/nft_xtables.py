# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""iptables' own matches and targets inside nftables rules, as iptables-nft loads them: an opaque block of memory each.

The blocks are the structures of linux/netfilter/xt_*.h in the host's byte order. What is not read here becomes a free
yes-or-no (matches) or anything (targets).
"""

from __future__ import annotations

import struct
import sys

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import nft_loads, nft_translation
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_fields import (
    EQ,
    EXTENSIONS,
    ICMP_CODE,
    ICMP_TYPE,
    NEQ,
    STATE,
    TCP_FLAGS,
    Comparison,
    complement,
    union,
)
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_sets import Membership

_HARMLESS_TARGETS = frozenset((
    "LOG", "NFLOG", "ULOG", "AUDIT", "TRACE", "CHECKSUM", "TCPMSS", "CLASSIFY", "TCPOPTSTRIP", "SECMARK", "CONNSECMARK", "IDLETIMER", "LED",
    "RATEEST", "TEE", "SET",
))
# Targets that change the network header: the first byte and how many, in IPv4 and in IPv6.
_HEADER_TARGETS = {"TTL": {"ip": (8, 1)}, "HL": {"ip6": (7, 1)}, "DSCP": {"ip": (1, 1), "ip6": (0, 2)}, "TOS": {"ip": (1, 1), "ip6": (0, 2)}}
# Bits of xt_conntrack and xt_state: invalid, established, related, new; untracked; source and destination translated.
_STATE_BITS, _UNTRACKED_BIT, _TRANSLATED_BITS = (1, 2, 4, 8), 1 << 8, 1 << 6 | 1 << 7
_EXTENSION_HEADERS = {"rt", "frag", "hbh", "dst", "ah", "srh"}
_LOCAL, _MULTICAST = 1 << 2, 1 << 5  # bits of xt_addrtype


def target_decides(expression):
    """Whether a target can have an effect on the verdict."""
    return expression.get("name") not in _HARMLESS_TARGETS


def match(rules, expression, state):
    """Put a match's condition on the rule."""
    name, revision, info = expression.get("name"), expression.get("rev", 0), expression.get("info", b"")
    reader = _MATCHES.get(name)
    try:
        if name in _EXTENSION_HEADERS and rules.space.family == "ip6":
            _extension(rules, state, name, info)
        elif reader is None or not reader(rules, state, revision, info):
            state.diagrams.append(rules.atom(f"iptables match {name}"))
    except (struct.error, IndexError):
        state.diagrams.append(rules.atom(f"iptables match {name}"))


# -- matches: each puts its conditions on the rule and answers True, or False where it cannot be read ----------------------


def _comment(_rules, _state, _revision, _info):
    return True


def _states(rules, state, mask, negated):
    if mask & _TRANSLATED_BITS:
        return False
    values = [at for at, bit in enumerate(_STATE_BITS) if mask & bit] + ([4] if mask & _UNTRACKED_BIT else [])
    intervals = union((value, value) for value in values)
    rules.demand(state, {STATE: complement(intervals, 4) if negated else intervals})
    return True


def _conntrack(rules, state, revision, info):
    if revision < 2:
        return False
    flags, inverted, mask = struct.unpack_from("=HHH", info, 146)
    return flags == 1 and _states(rules, state, mask, bool(inverted & 1))


def _state(rules, state, _revision, info):
    return _states(rules, state, struct.unpack_from("=I", info)[0], False)


def _ports(rules, state, offset, intervals, negated):
    """A port of the transport header in one of the intervals."""
    if negated:
        intervals = complement(intervals, 65535)
    entries = [(low.to_bytes(2, "big"), high.to_bytes(2, "big"), 0) for low, high in intervals]
    _member(rules, state, rules.space.transport_cells(offset, 2), entries)


def _member(rules, state, cells, entries):
    chosen = _membership(rules, state, cells, entries)
    rules.demand(state, None, chosen)


def _membership(rules, state, cells, entries):
    """The diagram that goes on where the cells are among the entries."""
    if not entries:
        return rules.break_
    _none, selector = rules.space.condition(cells, Membership(entries, [], 1), state.box, lambda: rules.cont)
    return rules.diagrams.apply(selector, (rules.cont, rules.break_))


def _multiport(rules, state, revision, info):
    if revision != 1:
        return False
    which, count = info[0], info[1]
    ports = struct.unpack_from("=15H", info, 2)
    ranges, inverted = info[32:47], bool(info[47])
    intervals, at = [], 0
    while at < count:
        if ranges[at]:
            intervals.append((ports[at], ports[at + 1]))
            at += 2
        else:
            intervals.append((ports[at], ports[at]))
            at += 1
    intervals = union(intervals)
    if which in (0, 1):
        _ports(rules, state, 2 * which, intervals, inverted)
        return True
    entries = [(low.to_bytes(2, "big"), high.to_bytes(2, "big"), 0) for low, high in intervals]
    either = [_membership(rules, state, rules.space.transport_cells(offset, 2), entries) for offset in (0, 2)]
    swap = {("cont", ()): ("break",), ("break",): ("cont", ())}

    def turned(diagram):
        return rules.diagrams.map_terminals(diagram, "turned", lambda value: rules.diagrams.terminal(swap[value]))

    neither = rules.diagrams.seq(turned(either[0]), turned(either[1]))
    rules.demand(state, None, neither if inverted else turned(neither))
    return True


def _tcp(rules, state, _revision, info):
    source_low, source_high, port_low, port_high, option, mask, value, inverted = struct.unpack_from("=4H4B", info)
    for offset, low, high, bit in ((0, source_low, source_high, 1), (2, port_low, port_high, 2)):
        if (low, high) != (0, 65535) or inverted & bit:
            _ports(rules, state, offset, [(low, high)], bool(inverted & bit))
    if mask:
        flags = union((one, one) for one in range(256) if one & mask == value)
        rules.demand(state, {TCP_FLAGS: complement(flags, 255) if inverted & 4 else flags})
    return option == 0


def _udp(rules, state, _revision, info):
    source_low, source_high, port_low, port_high, inverted = struct.unpack_from("=4HB", info)
    for offset, low, high, bit in ((0, source_low, source_high, 1), (2, port_low, port_high, 2)):
        if (low, high) != (0, 65535) or inverted & bit:
            _ports(rules, state, offset, [(low, high)], bool(inverted & bit))
    return True


def _icmp(rules, state, _revision, info):
    kind, low, high, inverted = struct.unpack_from("=4B", info)
    if kind == 255 and rules.space.family == "ip":
        return not inverted
    constraints = {ICMP_TYPE: [(kind, kind)]}
    if (low, high) != (0, 255):
        constraints[ICMP_CODE] = [(low, high)]
    if inverted:
        rules.demand(state, None, rules.diagrams.box(constraints, rules.break_, rules.cont))
    else:
        rules.demand(state, constraints)
    return True


def _addrtype(rules, state, revision, info):
    if revision != 1:
        return False
    source, destination, flags = struct.unpack_from("=HHI", info)
    for mask, bit, inverted in ((source, 1, flags & 1), (destination, 2, flags & 2)):
        if not mask:
            continue
        if flags & 8:
            return False
        if rules.space.family == "ip6" and mask not in (_LOCAL, _MULTICAST):
            return False  # IPv6's unicast includes the host's own addresses; several types at once mean something of their own
        cells = nft_loads.route_cells(rules, {"result": 3, "flags": bit | (8 if flags & 4 else 0)})
        entries = [(struct.pack("=I", kind), struct.pack("=I", kind), 0) for kind in range(12) if bool(mask >> kind & 1) != bool(inverted)]
        _member(rules, state, cells, entries)
    return True


def _mark(rules, state, revision, info):
    if revision != 1:
        return False
    mark, mask, inverted = struct.unpack_from("=IIB", info)
    view = rules.space.free_view("meta mark", 4)
    masks = mask.to_bytes(4, sys.byteorder)
    cells = [(view, k, masks[k], 0) if masks[k] else 0 for k in range(4)]
    rules.require(state, cells, Comparison(NEQ if inverted else EQ, mark.to_bytes(4, sys.byteorder)), "iptables match mark")
    return True


def _hop_limit(rules, state, _revision, info):
    mode, limit = info[0], info[1]
    intervals = {0: [(limit, limit)], 1: complement([(limit, limit)], 255), 2: [(0, limit - 1)] if limit else [], 3: complement([(0, limit)], 255)}
    if mode not in intervals:
        return False
    entries = [(bytes([low]), bytes([high]), 0) for low, high in intervals[mode]]
    _member(rules, state, rules.hop_cells(), entries)
    return True


def _packet_type(rules, state, _revision, info):
    kind, inverted = struct.unpack_from("=ii", info)
    view = rules.space.free_view("meta pkttype", 1)
    rules.require(state, rules.space.cells(view), Comparison(NEQ if inverted else EQ, bytes([kind & 255])), "iptables match pkttype")
    return True


def _extension(rules, state, name, info):
    """A match of an extension header: never true of a packet that has none."""
    view = rules.space.packet_view(f"iptables match {name} {info[:40].hex()}", 1)
    rules.demand(state, {EXTENSIONS: [(1, 1)], view.rank: [(1, 255)]})


_MATCHES = {
    "comment": _comment, "conntrack": _conntrack, "state": _state, "multiport": _multiport, "tcp": _tcp, "udp": _udp,
    "icmp": _icmp, "icmp6": _icmp, "addrtype": _addrtype, "mark": _mark, "ttl": _hop_limit, "hl": _hop_limit,
    "pkttype": _packet_type,
}


# -- targets ---------------------------------------------------------------------------------------------------------------


def target(rules, expression, state, rest):
    """The outcome of a target: a diagram, or None for *carry on*."""
    name, revision, info = expression.get("name"), expression.get("rev", 0), expression.get("info", b"")
    if name in _HARMLESS_TARGETS:
        return None
    if name == "REJECT":
        return rules.diagrams.terminal(("reject", 0, 3))
    if name == "CT" and struct.unpack_from("=H", info)[0] & 1 or name == "NOTRACK":
        return rules.no_tracking(state, rest)
    if name == "CT":
        return None
    if name == "MARK" and revision == 2:
        mark, mask = struct.unpack_from("=II", info)
        return rules.after_mark("meta mark", mark if mask == 0xFFFFFFFF else None, state, rest)
    if name in ("CONNMARK", "HMARK"):
        return rules.after_mark("meta mark", None, state, rest)
    if name in _HEADER_TARGETS and rules.space.family in _HEADER_TARGETS[name]:
        return rules.after_header(*_HEADER_TARGETS[name][rules.space.family], state, rest)
    if name in ("MASQUERADE", "SNAT", "NETMAP"):
        return nft_translation.translated(rules, True, None, None)
    if name in ("DNAT", "REDIRECT"):
        return _destination(rules, name, revision, info)
    return rules.anything(f"iptables target {name}", state, rest)


def _destination(rules, name, revision, info):
    """DNAT and REDIRECT: struct nf_nat_range2, or the older one of IPv4 with a count in front."""
    if revision == 0 and rules.space.family == "ip":
        _count, flags, low, high, first, last = struct.unpack_from("=I I 4s 4s 2s 2s", info)
    else:
        flags, low, high, first, last = struct.unpack_from("=I 16s 16s 2s 2s", info)
        size = rules.space.bits // 8
        low, high = low[:size], high[:size]
    port = None
    if flags & 2:
        port = int.from_bytes(first, "big") if first == last else nft_translation.SOME
    if name == "REDIRECT":
        return nft_translation.redirected(rules, port)
    address = None
    if flags & 1:
        address = int.from_bytes(low, "big") if low == high else nft_translation.SOME
    return nft_translation.translated(rules, False, address, port)

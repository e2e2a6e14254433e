# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Expressions that read or rewrite the packet and its surroundings: payload, exthdr, meta, ct, fib and the like.

Each takes the Rules being compiled, the expression, the rule's State and what is left of the rule, and answers with the rest of the
rule's diagram, or None where the rule goes on.
"""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_fields import (
    ESTABLISHED,
    EXTENSIONS,
    IIF,
    NEW,
    NO_UID,
    PROTOCOL,
    STATE,
    UID,
    Case,
)
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_machine import (
    FORWARD,
    INGRESS,
    INPUT,
    OUTPUT,
    POSTROUTING,
    PREROUTING,
    Unsupported,
)

_META = {
    0: ("packet length", 4), 2: ("meta priority", 4), 3: ("meta mark", 4), 8: ("meta iiftype", 2), 9: ("meta oiftype", 2),
    11: ("meta skgid", 4), 12: ("meta nftrace", 1), 13: ("meta rtclassid", 4), 14: ("meta secmark", 4),
    17: ("meta ibrname", 16), 18: ("meta obrname", 16), 19: ("meta pkttype", 1), 20: ("meta cpu", 4),
    21: ("meta iifgroup", 4), 22: ("meta oifgroup", 4), 23: ("meta cgroup", 4), 24: ("meta random", 4),
    25: ("meta ipsec", 1), 26: ("meta iifkind", 16), 27: ("meta oifkind", 16), 28: ("meta ibrpvid", 2),
    29: ("meta ibrvproto", 2), 30: ("meta time", 8), 31: ("meta day", 1), 32: ("meta hour", 4), 33: ("meta sdif", 4),
    34: ("meta sdifname", 16),
}
_META_PROTOCOL, META_MARK = 1, 3
_META_INTERFACES = {4: "iif", 5: "oif", 6: "iifname", 7: "oifname"}
_META_SKUID, _META_NFPROTO, _META_L4PROTO, _META_RANDOM = 10, 15, 16, 24
TIMES = (_META_RANDOM, 30, 31, 32)
_CT = {
    3: ("ct mark", 4), 4: ("ct secmark", 4), 5: ("ct expiration", 4),
    6: ("ct helper", 16), 8: ("ct saddr", 16), 9: ("ct daddr", 16), 10: ("ct protocol", 1), 11: ("ct proto-src", 2),
    12: ("ct proto-dst", 2), 13: ("ct label", 16), 14: ("ct packets", 8), 15: ("ct bytes", 8), 16: ("ct avgpkt", 8),
    17: ("ct zone", 2), 19: ("ct saddr", 4), 20: ("ct daddr", 4), 21: ("ct saddr", 16), 22: ("ct daddr", 16),
    23: ("ct id", 4),
}
_CT_STATE, _CT_DIRECTION, _CT_STATUS, CT_MARK, _CT_L3PROTOCOL, _CT_PROTOCOL = 0, 1, 2, 3, 7, 10
_FIB_OIFNAME, _FIB_PRESENT = 2, 32


def payload(rules, expression, state, rest):
    """Bytes of a header into a register, or a register into a header."""
    base, offset, length = expression["base"], expression["offset"], expression["len"]
    if "sreg" in expression:
        return _rewrite(rules, expression, state, rest)
    if base == 1:
        cells = rules.space.network_cells(offset, length, rules.hook in (FORWARD, POSTROUTING))
    elif base == 2:
        cells = rules.space.transport_cells(offset, length)
    elif base == 0:
        state.diagrams.append(known(rules, "the packet has a link-layer header"))
        cells = [
            (rules.space.packet_view(f"link-layer header byte {at}", 1), 0, 0xFF, 0)
            for at in range(offset, offset + length)
        ]
    else:
        state.diagrams.append(known(rules, "the packet has an inner header"))
        cells = [
            (rules.space.packet_view(f"inner header byte {at}", 1), 0, 0xFF, 0) for at in range(offset, offset + length)
        ]
    state.write(expression["dreg"], cells)
    return None


def known(rules, name):
    """The same free yes-or-no for every rule that asks for it."""
    view = rules.space.free_view(name, 1)
    return rules.diagrams.select(view.rank, [(1, 255)], rules.cont, rules.break_)


def _rewrite(rules, expression, state, rest):
    """The packet's own bytes are changed: what follows sees values that nobody knows."""
    base, offset, length = expression["base"], expression["offset"], expression["len"]
    if base not in (1, 2):
        return None
    return rewritten(rules, rules.space.network_cells(offset, length) if base == 1 else rules.space.transport_cells(offset, length), state, rest)


def rewritten(rules, targets, state, rest):
    """The rest of the rule once the header's bytes that these cells stand for have new values."""
    environment = {}
    for target in targets:
        for view in [one[0][0] for one in target[0].cells] if isinstance(target[0], Case) else [target[0]]:
            if view.rank == PROTOCOL:
                raise Unsupported("a rewritten protocol number")
            if view.rank not in environment:
                environment[view.rank] = rules.space.unknown_value(view.rank, f"rewritten header ({rules.place()})")
    return rules.after(environment, state, rest)


def exthdr(rules, expression, state, _rest):
    """An IPv6 extension header, or an option of a header: whether it is there, or bytes of it."""
    if "dreg" not in expression:
        return None
    space, kind = rules.space, expression.get("op", 0)
    kinds = ("ipv6 header", "tcp option", "ipv4 option", "sctp chunk", "dccp option")
    name = f"{kinds[kind] if kind < len(kinds) else 'header'} {expression.get('type', 0)}"
    make = space.packet_view if kind == 0 else space.free_view
    present = make(name + " is there", 1)
    if kind == 0 and not expression.get("flags", 0) & 1:
        rules.demand(state, {EXTENSIONS: [(1, 1)]})
    if expression.get("flags", 0) & 1:
        value = [(present, 0, 1, 0)]
        if kind == 0:
            pick = [rules.diagrams.terminal(("pick", i)) for i in range(2)]
            case = Case(rules.diagrams.select(EXTENSIONS, [(0, 0)], pick[0], pick[1]), [[0], value])
            value = [(case, 0, 0xFF, 0)]
        state.write(expression["dreg"], value)
        return None
    offset, length = expression["offset"], expression["len"]
    rules.demand(state, {present.rank: [(1, 255)]})
    cells = [(make(f"{name} byte {at}", 1), 0, 0xFF, 0) for at in range(offset, offset + length)]
    state.write(expression["dreg"], cells)
    return None


def meta(rules, expression, state, rest):
    """What the kernel knows of a packet beside its bytes."""
    key, space = expression["key"], rules.space
    if "sreg" in expression:
        if key == META_MARK:
            return _assign(rules, state, expression, "meta mark", rest)
        return None
    hook = rules.hook
    if key == _META_NFPROTO:
        netdev = rules.table["family"] == "netdev"
        cells = [5 if netdev else 2 if space.family == "ip" else 10]
    elif key == _META_PROTOCOL:
        cells = [0x08, 0x00] if space.family == "ip" else [0x86, 0xDD]
    elif key == _META_L4PROTO:
        cells = space.cells(space.views["protocol"])
    elif key in _META_INTERFACES:
        view = space.views[_META_INTERFACES[key]]
        absent = (OUTPUT,) if view.rank == IIF else (PREROUTING, INPUT, INGRESS)
        cells = [0] * view.size if hook in absent else space.cells(view)
        if rules.host is not None and rules.host.before(5, 7) and (hook in absent or (hook == POSTROUTING and view.rank == IIF)):
            # Older kernels end the rule where there is no such interface, and know none of what is received in postrouting.
            state.diagrams.append(known(rules, "the kernel compares with an interface that is not there"))
            if hook not in absent:
                cells = space.cells(space.free_view(f"{_META_INTERFACES[key]} in postrouting", view.size))
    elif key == _META_SKUID:
        rules.demand(state, {UID: [(0, NO_UID - 1)]})
        cells = space.cells(space.views["skuid"])
    elif key in TIMES:
        view = space.free_view(f"{_META[key][0]} ({rules.place()})", _META[key][1])
        cells = space.cells(view)
    elif key in _META:
        cells = space.cells(space.free_view(*_META[key]))
        if key in (11, 17, 18, 21, 22, 26, 27, 33, 34):
            state.diagrams.append(known(rules, f"{_META[key][0]} is known"))
    else:
        raise Unsupported(f"meta key {key}")
    state.write(expression["dreg"], cells)
    return None


def ct(rules, expression, state, rest):
    """What connection tracking knows of a packet."""
    key, space = expression["key"], rules.space
    if "sreg" in expression:
        if key == CT_MARK:
            return _assign(rules, state, expression, "ct mark", rest)
        return None
    if key == _CT_STATE:
        state.write(expression["dreg"], space.cells(space.views["state"]))
        return None
    # Everything else of connection tracking exists for tracked packets only; without it the rule breaks.
    rules.demand(state, {STATE: [(ESTABLISHED, NEW)]})
    if key == _CT_L3PROTOCOL:
        cells = [2 if space.family == "ip" else 10]
    elif key == _CT_PROTOCOL:
        cells = space.cells(space.views["protocol"])
    elif key == _CT_DIRECTION:
        cells = space.cells(space.views["direction"])
    elif key == _CT_STATUS:
        cells = space.status_cells()
    elif key in _CT:
        name, size = _CT[key]
        if "direction" in expression:
            name = f"{name} {('original', 'reply')[expression['direction'] & 1]}"
        if size == 16 and key in (8, 9):
            size = space.bits // 8
        cells = space.cells(space.free_view(name, size))
        if key in (6, 13):
            state.diagrams.append(known(rules, f"{name} is known"))
    else:
        raise Unsupported(f"ct key {key}")
    state.write(expression["dreg"], cells)
    return None


def _assign(rules, state, expression, name, rest):
    """A mark gets a new value: a known one, or one that nobody knows."""
    view, cells = rules.space.free_view(name, 4), state.read(expression["sreg"], 4)
    if all(isinstance(cell, int) for cell in cells):
        value = sum(cell << view.shift(at) for at, cell in enumerate(cells))
    else:
        value = rules.space.unknown_value(view.rank, f"{name} ({rules.place()})")
    return rules.after({view.rank: value}, state, rest)


def fib(rules, expression, state, _rest):
    """What a route lookup answers."""
    state.write(expression["dreg"], route_cells(rules, expression))


def route_cells(rules, expression):
    """The cells of what a route lookup answers."""
    cells = rules.host.fib(rules.space, expression, rules.hook) if rules.host else None
    if cells is None:
        size = 16 if expression["result"] == _FIB_OIFNAME else 4
        flags = expression["flags"]
        words = [word for bit, word in ((1, "saddr"), (2, "daddr"), (4, "mark"), (8, "iif"), (16, "oif")) if flags & bit]
        result = {1: "oif", 2: "oifname", 3: "type"}.get(expression["result"], "?")
        if flags & _FIB_PRESENT:
            result, size = result + " exists", 1
        cells = rules.space.cells(rules.space.free_view(f"fib {' . '.join(words)} {result}", size))
    return cells


def free_load(rules, expression, state, _rest):
    """A value that the host's state decides and that may be missing."""
    name = expression["expr"]
    details = " ".join(f"{key} {value}" for key, value in sorted(expression.items()) if key in ("key", "level", "type"))
    if name in ("numgen", "hash"):
        view = rules.space.free_view(f"{name} ({rules.place()})", 4)
    else:
        view = rules.space.free_view(f"{name} {details}".strip(), 16 if name in ("socket", "osf", "xfrm") else 4)
        state.diagrams.append(known(rules, f"{name} {details}".strip() + " is known"))
    state.write(expression["dreg"], rules.space.cells(view))

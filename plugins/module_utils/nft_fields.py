# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What rules can look at: the fields of a packet and its surroundings, and how their bytes lie in nftables' registers.

One Space serves one network protocol ("ip" or "ip6"). A register's bytes are *cells*: a number is a known byte;
``(view, k, and, xor)`` is byte ``k`` of a view, masked and flipped; ``None`` is a byte that nobody wrote.
A View is a field in the byte order in which the kernel loads it; a Case is a load whose meaning depends on the packet,
such as "byte 2 of the transport header", which is a port in TCP and something else in ICMP.
"""

from __future__ import annotations

import sys

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.decision_diagram import Diagrams, Rename

PROTOCOL, STATE, DIRECTION, OLDER, IIF, OIF = 1000, 2000, 2500, 2600, 3000, 4000
ICMP_TYPE, ICMP_CODE, TCP_FLAGS, DPORT = 5000, 6000, 7000, 10500
SADDR, DADDR, SPORT, UID, EXTENSIONS = 9000, 10000, 11000, 12000, 13000
NATTED, REROUTED = 14000, 15000
_PACKET_FIELDS = 1_000_000
_FREE_FIELDS = 1_000_000_000

STATES = ("invalid", "established", "related", "new", "untracked")
STATE_BITS = (1, 2, 4, 8, 64)
INVALID, ESTABLISHED, RELATED, NEW, UNTRACKED = range(5)

NAMES = {
    PROTOCOL: "protocol", STATE: "state", DIRECTION: "direction", OLDER: "older than the rules",
    IIF: "iif", OIF: "oif", ICMP_TYPE: "icmp_type", ICMP_CODE: "icmp_code",
    TCP_FLAGS: "tcp_flags", DPORT: "dport", SADDR: "saddr", DADDR: "daddr", SPORT: "sport", UID: "skuid",
    EXTENSIONS: "extension_headers",
}

NO_UID = 1 << 32  # the packet belongs to no process's socket
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
_PORT_PROTOCOLS = (17, 33, 132, 136)
_LITTLE = sys.byteorder == "little"
_MOST_INTERVALS = 4096
_MOST_TABULATED = 1 << 16


class View:
    """A field as bytes: ``kind`` "big" or "little" (an integer's byte order), or "table" (``table[value]`` are the bytes)."""

    __slots__ = ("rank", "size", "kind", "table")

    def __init__(self, rank, size, kind, table=None):
        self.rank, self.size, self.kind, self.table = rank, size, kind, table

    def shift(self, k):
        """How far the integer must be shifted right for its byte ``k``."""
        return 8 * (self.size - 1 - k) if self.kind == "big" else 8 * k

    def byte(self, value, k):
        """Byte ``k`` of the field's ``value``."""
        if self.table is not None:
            return self.table[value][k]
        return value >> self.shift(k) & 0xFF


class Case:
    """A load that means different things: where ``selector`` ends in ``("pick", i)``, the cells are ``cells[i]``.

    ``rank`` and ``intervals`` tell, where a single field decides, for which of its values alternative ``i`` is meant.
    """

    __slots__ = ("selector", "cells", "rank", "intervals")

    def __init__(self, selector, cells, rank=None, intervals=None):
        self.selector, self.cells, self.rank, self.intervals = selector, cells, rank, intervals


class Load(tuple):
    """The cells that a load expression writes; the same load is the same object as long as its Space lives."""


def intersect(first, second):
    """The intervals common to two sorted lists of disjoint intervals."""
    result, i, j = [], 0, 0
    while i < len(first) and j < len(second):
        low, high = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if low <= high:
            result.append((low, high))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return result


def complement(intervals, maximum):
    """The intervals of 0..maximum that a sorted list of disjoint intervals leaves out."""
    result, at = [], 0
    for low, high in intervals:
        if low > at:
            result.append((at, low - 1))
        at = high + 1
    if at <= maximum:
        result.append((at, maximum))
    return result


def union(intervals):
    """Sorted, disjoint, maximal intervals that cover the same values."""
    merged = []
    for low, high in sorted(intervals):
        if merged and low <= merged[-1][1] + 1:
            if high > merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return merged


def masked_intervals(mask, value, bits):
    """The integers of ``bits`` bits with ``integer & mask == value`` as intervals, or None where they are too many."""
    if value & ~mask:
        return []
    low_free = 0
    while low_free < bits and not mask >> low_free & 1:
        low_free += 1
    block = (1 << low_free) - 1
    high_free = [bit for bit in range(low_free, bits) if not mask >> bit & 1]
    if 1 << len(high_free) > _MOST_INTERVALS:
        return None
    starts = [value]
    for bit in high_free:
        starts += [start | 1 << bit for start in starts]
    return union((start, start | block) for start in starts)


class Space:
    """The fields of one network protocol, their views, and the conditions that rules put on cells.

    ``family`` is "ip" or "ip6"; ``interfaces`` is a list of ``{"name": bytes of 16, "index": int, "present": bool}``
    whose first entry stands for "none".
    """

    def __init__(self, family, interfaces):
        self.family, self.interfaces = family, interfaces
        self.diagrams = diagrams = Diagrams()
        self.cont = diagrams.cont
        self.break_ = diagrams.terminal(("break",))
        self.bits = 32 if family == "ip" else 128
        self._next_packet, self._next_free, self._next_rename = _PACKET_FIELDS, _FREE_FIELDS, {}
        self._keyed = {}
        self._cases, self._loads = {}, {}
        for rank, maximum in (
            (PROTOCOL, 255), (STATE, len(STATES) - 1), (DIRECTION, 1), (OLDER, 1), (IIF, len(interfaces) - 1), (OIF, len(interfaces) - 1),
            (ICMP_TYPE, 255), (ICMP_CODE, 255), (TCP_FLAGS, 255), (DPORT, 65535), (SADDR, (1 << self.bits) - 1),
            (DADDR, (1 << self.bits) - 1), (SPORT, 65535), (UID, NO_UID), (EXTENSIONS, 1),
        ):
            diagrams.add_field(NAMES[rank], rank, maximum)
        diagrams.add_field("address translation done", NATTED, 1, free=True)
        diagrams.add_field("destination translated", REROUTED, 1, free=True)
        host = "little" if _LITTLE else "big"
        address = self.bits // 8
        self.views = {
            "protocol": View(PROTOCOL, 1, "big"),
            "state": View(STATE, 4, "table", [bit.to_bytes(4, sys.byteorder) for bit in STATE_BITS]),
            "direction": View(DIRECTION, 1, "big"),
            "iif": View(IIF, 4, "table", [one["index"].to_bytes(4, sys.byteorder) for one in interfaces]),
            "oif": View(OIF, 4, "table", [one["index"].to_bytes(4, sys.byteorder) for one in interfaces]),
            "iifname": View(IIF, 16, "table", [one["name"] for one in interfaces]),
            "oifname": View(OIF, 16, "table", [one["name"] for one in interfaces]),
            "icmp_type": View(ICMP_TYPE, 1, "big"),
            "icmp_code": View(ICMP_CODE, 1, "big"),
            "tcp_flags": View(TCP_FLAGS, 1, "big"),
            "sport": View(SPORT, 2, "big"),
            "dport": View(DPORT, 2, "big"),
            "saddr": View(SADDR, address, "big"),
            "daddr": View(DADDR, address, "big"),
            "skuid": View(UID, 4, host),
        }

    # -- fields made on demand -----------------------------------------------------------------------------------------

    def packet_view(self, name, size):
        """The view of a part of the packet that has no field of its own; the sender chooses its value."""
        return self._view(("packet", name), name, size, False)

    def free_view(self, name, size):
        """The view of a value that is no part of the packet; the host's state decides it."""
        return self._view(("free", name), name, size, True)

    def _view(self, key, name, size, free):
        view = self._keyed.get(key)
        if view is None:
            rank = self._next_free if free else self._next_packet
            if free:
                self._next_free += 1000
            else:
                self._next_packet += 1000
            self.diagrams.add_field(name, rank, (1 << 8 * size) - 1, free)
            view = self._keyed[key] = View(rank, size, "little" if free and _LITTLE else "big")
        return view

    def small_free_field(self, name, maximum):
        """The rank of a free field with few values; the same name gives the same one."""
        key = ("small", name)
        if key not in self._keyed:
            self._keyed[key] = self._next_free
            self.diagrams.add_field(name, self._next_free, maximum, True)
            self._next_free += 1000
        return self._keyed[key]

    def atom(self, name, occurrence):
        """A free yes-or-no: the diagram that goes on where it is yes and breaks where it is no.

        The same name and occurrence give the same one.
        """
        key = ("atom", name, occurrence)
        rank = self._keyed.get(key)
        if rank is None:
            rank = self._keyed[key] = self._next_free
            self._next_free += 1000
            self.diagrams.add_field(name, rank, 1, True)
        return self.diagrams.select(rank, [(1, 1)], self.cont, self.break_)

    def unknown_value(self, rank, name):
        """A value nobody knows for a field that was rewritten: a free field next to it, to be asked instead of it."""
        key = ("rewritten", rank, name)
        known = self._keyed.get(key)
        if known is None:
            field = self.diagrams.fields[rank]
            self._next_rename[rank] = number = self._next_rename.get(rank, 0) + 1
            self.diagrams.add_field(f"{field.name} {name}", rank + number, field.maximum, True)
            known = self._keyed[key] = Rename(rank + number)
        return known

    # -- cells ---------------------------------------------------------------------------------------------------------

    def cells(self, view, first=0, size=None):
        """The cells of a view, or of ``size`` bytes of it from byte ``first``."""
        known = self._loads.get((view, first, size))
        if known is None:
            known = Load((view, k, 0xFF, 0) for k in range(first, first + (view.size if size is None else size)))
            self._loads[view, first, size] = known
        return known

    def network_cells(self, offset, size, hops=False):
        """The cells of the network header. ``hops`` is true where a forwarded packet's time to live has been lowered."""
        known = self._loads.get((1, offset, size, hops))
        if known is None:
            known = self._loads[1, offset, size, hops] = Load(self._network_cells(offset, size, hops))
        return known

    def _network_cells(self, offset, size, hops):
        address = self.bits // 8
        source, destination = (12, 16) if self.family == "ip" else (8, 24)
        result = []
        for at in range(offset, offset + size):
            if source <= at < source + address:
                result.append((self.views["saddr"], at - source, 0xFF, 0))
            elif destination <= at < destination + address:
                result.append((self.views["daddr"], at - destination, 0xFF, 0))
            elif self.family == "ip" and at == 9:
                result.append((self.views["protocol"], 0, 0xFF, 0))
            elif self.family == "ip6" and at == 6:
                result.append((self._next_header(), 0, 0xFF, 0))
            elif hops and at == (8 if self.family == "ip" else 7):
                result.append((self._lowered_hops(at), 0, 0xFF, 0))
            else:
                result.append((self.packet_view(f"{self.family} header byte {at}", 1), 0, 0xFF, 0))
        return result

    def _lowered_hops(self, at):
        """The time to live behind the routing decision: one less, but for packets that this host sends itself."""
        case = self._cases.get("hops")
        if case is None:
            whole = self.packet_view(f"{self.family} header byte {at}", 1)
            lowered = View(whole.rank, 1, "table", [bytes([(value - 1) % 256]) for value in range(256)])
            pick = [self.diagrams.terminal(("pick", i)) for i in range(2)]
            last = len(self.interfaces) - 1
            selector = self.diagrams.select(IIF, [(0, 0)], pick[0], pick[1])
            intervals = [[(0, 0)], [(1, last)]]
            cells = [[(whole, 0, 0xFF, 0)], [(lowered, 0, 0xFF, 0)]]
            case = self._cases["hops"] = Case(selector, cells, IIF, intervals)
        return case

    def _next_header(self):
        """IPv6's next header is the transport protocol only where no extension header stands between."""
        case = self._cases.get("next header")
        if case is None:
            pick = [self.diagrams.terminal(("pick", i)) for i in range(2)]
            selector = self.diagrams.select(EXTENSIONS, [(0, 0)], pick[0], pick[1])
            plain = [(self.views["protocol"], 0, 0xFF, 0)]
            other = [(self.packet_view("ip6 header byte 6", 1), 0, 0xFF, 0)]
            case = self._cases["next header"] = Case(selector, [plain, other], EXTENSIONS, [[(0, 0)], [(1, 1)]])
        return case

    def status_cells(self):
        """The cells of connection tracking's status bits.

        A connection's first packet has its destination translated where a rule has just done so, and its source not yet;
        of later packets the status is not known.
        """
        case = self._cases.get("status")
        if case is None:
            pick = [self.diagrams.terminal(("pick", i)) for i in range(3)]
            first = self.diagrams.select(REROUTED, [(0, 0)], pick[0], pick[1])
            selector = self.diagrams.select(STATE, [(NEW, NEW)], first, pick[2])
            low = self.free_view("ct status, low byte", 1)
            cells = [[(low, 0, 0xCF, 0)], [(low, 0, 0xCF, 0x20)], [(low, 0, 0xFF, 0)]]
            case = self._cases["status"] = Case(selector, cells)
        rest = [(self.free_view(f"ct status, byte {k}", 1), 0, 0xFF, 0) for k in range(1, 4)]
        cells = [(case, 0, 0xFF, 0), *rest]
        return cells if _LITTLE else cells[::-1]

    def transport_cells(self, offset, size):
        """The cells of the transport header; what they mean depends on the protocol."""
        known = self._loads.get((2, offset, size))
        if known is None:
            known = self._loads[2, offset, size] = Load((self._transport_byte(at), 0, 0xFF, 0) for at in range(offset, offset + size))
        return known

    def _transport_byte(self, at):
        case = self._cases.get(("transport", at))
        if case is not None:
            return case
        views = self.views
        raw = (self.packet_view(f"transport header byte {at}", 1), 0, 0xFF, 0)
        port = (views["sport"], at, 0xFF, 0) if at < 2 else (views["dport"], at - 2, 0xFF, 0) if at < 4 else raw
        tcp = (views["tcp_flags"], 0, 0xFF, 0) if at == 13 else port
        icmp = (views["icmp_type"], 0, 0xFF, 0) if at == 0 else (views["icmp_code"], 0, 0xFF, 0) if at == 1 else raw
        intervals = [
            [(TCP, TCP)],
            [(one, one) for one in _PORT_PROTOCOLS],
            [(ICMP, ICMP), (ICMPV6, ICMPV6)],
        ]
        intervals.append(complement(union(one for group in intervals for one in group), 255))
        pick = [self.diagrams.terminal(("pick", i)) for i in range(4)]
        selector = pick[3]
        for number in range(3):
            selector = self.diagrams.combine(
                self.diagrams.select(PROTOCOL, intervals[number], pick[number], pick[3]), selector,
                "transport classes", lambda a, b: b if a == ("pick", 3) else a,
            )
        case = Case(selector, [[tcp], [port], [icmp], [raw]], PROTOCOL, intervals)
        self._cases["transport", at] = case
        return case

    def case_of(self, selector, values):
        """The cells of a value that ``selector`` picks among known byte strings."""
        case = Case(selector, [list(value) for value in values])
        return [(case, k, 0xFF, 0) for k in range(len(values[0]))]

    # -- conditions ----------------------------------------------------------------------------------------------------

    def leading(self, load, box):
        """``(rank, bits)`` where a load is nothing but the leading bytes of one number, ``bits`` shorter than it; else None.

        ``box`` is what is known of the packet: the same load means different things for different protocols.
        """
        cells = list(load)
        case = cells[0][0]
        if isinstance(case, Case):
            if case.rank not in box:
                return None
            possible = [i for i, intervals in enumerate(case.intervals) if intersect(intervals, box[case.rank])]
            if len(possible) != 1 or any(not isinstance(cell[0], Case) or cell[0].rank != case.rank for cell in cells):
                return None
            cells = _resolve(cells, [cell[0] for cell in cells], possible[0])
        view = cells[0][0] if isinstance(cells[0], tuple) else None
        if not isinstance(view, View) or view.kind != "big" or cells != [(view, k, 0xFF, 0) for k in range(len(cells))]:
            return None
        return view.rank, 8 * (view.size - len(cells))

    def condition(self, cells, test, box, opaque):
        """What ``test`` on cells demands of a packet.

        ``test`` is an object with ``intervals(cells, space)``, see Comparison and Membership. ``box`` is what earlier
        conditions of the same rule demand: ``{rank: intervals}``. Returns ``(constraints, diagram)``, either of them None:
        constraints on single fields, or a diagram that goes on or breaks. ``opaque()`` makes the diagram where the
        condition is beyond this model.
        """
        cases = []
        for cell in cells:
            if isinstance(cell, tuple) and isinstance(cell[0], Case) and cell[0] not in cases:
                cases.append(cell[0])
        if not cases:
            return test.decide(self, cells, opaque)
        case = cases[0]
        # All bytes of the transport header fall into the same classes: resolve them together.
        together = [one for one in cases if one.rank is not None and one.rank == case.rank]
        if case.rank is None:
            together = [case]
        possible = range(len(case.cells))
        if case.rank in box:
            possible = [i for i in possible if intersect(case.intervals[i], box[case.rank])]
        resolved = {i: _resolve(cells, together, i) for i in possible}
        if len(resolved) == 1:
            return self.condition(next(iter(resolved.values())), test, box, opaque)
        choices = []
        for i in range(len(case.cells)):
            if i in resolved:
                constraints, diagram = self.condition(resolved[i], test, box, opaque)
                if diagram is None:
                    diagram = self.diagrams.box(constraints, self.cont, self.break_)
                choices.append(diagram)
            else:
                choices.append(self.break_)
        return None, self.diagrams.apply(case.selector, tuple(choices))


def _resolve(cells, cases, alternative):
    result = []
    for cell in cells:
        if isinstance(cell, tuple) and cell[0] in cases:
            chosen = cell[0].cells[alternative][cell[1]]
            result.append(combine_cell(chosen, cell[2], cell[3]))
        else:
            result.append(cell)
    return result


def combine_cell(cell, mask, flip):
    """A cell after ``(byte & mask) ^ flip``."""
    if cell is None:
        return None
    if isinstance(cell, int):
        return cell & mask ^ flip
    view, k, old_mask, old_flip = cell
    mask_now, flip_now = old_mask & mask, old_flip & mask ^ flip
    return flip_now if mask_now == 0 else (view, k, mask_now, flip_now)


EQ, NEQ, LT, LTE, GT, GTE = range(6)


class Comparison:
    """``cmp``: the cells against ``data``, or (range) between ``data`` and ``upper``, inclusive; ``negated`` turns it around."""

    def __init__(self, op, data, upper=None, negated=False):
        self.op, self.data, self.upper, self.negated = op, data, upper, negated

    def decide(self, space, cells, opaque):
        """See Space.condition()."""
        data, width = self.data, len(self.data)
        cells = cells[:width]
        if None in cells or len(cells) < width:
            return None, opaque()
        if self.upper is not None:
            low, high = self.data, self.upper
        elif self.op in (EQ, NEQ):
            low = high = data
        elif self.op in (LT, LTE):
            low, high = bytes(width), data
            if self.op == LT:
                if not any(data):
                    return None, space.break_
                high = (int.from_bytes(data, "big") - 1).to_bytes(width, "big")
        else:
            low, high = data, b"\xff" * width
            if self.op == GT:
                if data == high:
                    return None, space.break_
                low = (int.from_bytes(data, "big") + 1).to_bytes(width, "big")
        constraints = key_constraints(space, cells, low, high)
        if constraints is None:
            return None, opaque()
        if self.op == NEQ or self.negated:
            return _negated(space, constraints)
        return constraints, None


def _negated(space, constraints):
    if len(constraints) == 1:
        (rank, intervals), = constraints.items()
        return {rank: complement(intervals, space.diagrams.fields[rank].maximum)}, None
    return None, space.diagrams.box(constraints, space.break_, space.cont)


def key_constraints(space, cells, low, high):
    """The constraints ``{rank: intervals}`` under which the cells' bytes lie between ``low`` and ``high``.

    Equal bytes are compared byte by byte, a range as one big-endian number, as the kernel does. None where it is beyond
    the model; ``{rank: []}`` or an unsatisfiable constant gives an empty interval list on some field.
    """
    if low == high:
        constraints = {}
        for run, start in _runs(cells):
            part = _equal(space, run, low[start : start + len(run)])
            if part is None:
                return None
            if not _add(constraints, part):
                return {PROTOCOL: []}
        return constraints
    if len(_runs(cells)) == 1:
        part = _between(space, cells, low, high)
        if part is not None:
            return part if all(part.values()) else {PROTOCOL: []}
    # Leading bytes that are equal decide nothing between the bounds: compare them for themselves.
    same = 0
    while low[same] == high[same]:
        same += 1
    constraints = {}
    if same:
        head = key_constraints(space, cells[:same], low[:same], low[:same])
        if head is None:
            return None
        constraints = dict(head)
    cells, low, high = cells[same:], low[same:], high[same:]
    while len(low) > 1 and isinstance(cells[-1], int) and low[-1] <= cells[-1] <= high[-1]:
        cells, low, high = cells[:-1], low[:-1], high[:-1]
    runs = _runs(cells)
    if len(runs) == 1:
        part = _between(space, cells, low, high)
    else:
        part = None
        rest = runs[1][1]
        if not any(low[rest:]) and set(high[rest:]) == {0xFF}:
            part = _between(space, cells[:rest], low[:rest], high[:rest])
    if part is None:
        return None
    return constraints if _add(constraints, part) else {PROTOCOL: []}


def _add(constraints, part):
    for rank, intervals in part.items():
        if rank in constraints:
            intervals = intersect(constraints[rank], intervals)
        constraints[rank] = intervals
        if not intervals:
            return False
    return True


def _runs(cells):
    """Maximal stretches of cells of one view (or of known bytes): ``[(cells, start), ...]``."""
    runs = []
    for at, cell in enumerate(cells):
        owner = cell[0] if isinstance(cell, tuple) else None
        if runs and runs[-1][2] is owner:
            runs[-1][0].append(cell)
        else:
            runs.append(([cell], at, owner))
    return [(run, start) for run, start, _owner in runs]


def _equal(space, run, data):
    if isinstance(run[0], int):
        return {} if bytes(run) == data else {PROTOCOL: []}
    view = run[0][0]
    maximum = space.diagrams.fields[view.rank].maximum
    if view.kind == "table":
        return {view.rank: _tabulate(view, run, maximum, lambda value: value == data)}
    mask = wanted = 0
    for (_view, k, cell_mask, flip), byte in zip(run, data):
        bits = byte ^ flip
        if bits & ~cell_mask:
            return {view.rank: []}
        shift = view.shift(k)
        if mask & wanted & (cell_mask << shift) != (bits << shift) & mask and mask & cell_mask << shift:
            return {view.rank: []}
        mask |= cell_mask << shift
        wanted |= bits << shift
    intervals = masked_intervals(mask, wanted, 8 * view.size)
    return None if intervals is None else {view.rank: _clip(intervals, view, maximum)}


def _clip(intervals, view, maximum):
    """Fields may have values beyond their bytes ("no owner"), or fewer: keep to what the bytes can say."""
    return intersect(intervals, [(0, min(maximum, (1 << 8 * view.size) - 1))])


def _between(space, run, low, high):
    if isinstance(run[0], int):
        return {} if low <= bytes(run) <= high else {PROTOCOL: []}
    view = run[0][0]
    maximum = space.diagrams.fields[view.rank].maximum
    if view.kind != "table":
        size = 8 * view.size
        shifts = [size - 8 * (at + 1) for at in range(len(run))]
        if all(cell[2] == 0xFF and cell[3] == 0 and view.shift(cell[1]) == shift for cell, shift in zip(run, shifts)):
            rest = shifts[-1]
            first = int.from_bytes(low, "big") << rest
            last = int.from_bytes(high, "big") << rest | (1 << rest) - 1
            return {view.rank: _clip([(first, last)], view, maximum)}
    if maximum > _MOST_TABULATED:
        return None
    return {view.rank: _tabulate(view, run, maximum, lambda value: low <= value <= high)}


def _tabulate(view, run, maximum, wanted):
    result = []
    for value in range(maximum + 1):
        if value >> 8 * view.size and view.table is None:
            break
        if wanted(bytes(view.byte(value, k) & mask ^ flip for _view, k, mask, flip in run)):
            if result and result[-1][1] == value - 1:
                result[-1] = (result[-1][0], value)
            else:
                result.append((value, value))
    return result

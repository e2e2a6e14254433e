# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Interval decision diagrams: functions from packets to outcomes, for all packets at once.

A diagram asks one field after the other, always in the order of the fields' ranks, in which interval its value lies, and
ends in a terminal. Equal diagrams are the same number (hash-consing), so equality is ``==`` and every operation is
memoised on the numbers of its operands. The method: binary decision diagrams with intervals for bits (Christensen and
Fleury, "IDD for firewalls"; Gouda and Liu, "firewall decision diagrams").

Terminals are tuples. ``("cont", environment)`` means *undecided, go on with what follows*; an environment is a sorted
tuple of ``(rank, value)``: fields that were rewritten on the way, so that what follows sees the new value. A value that
is a Rename makes what follows depend on another field instead.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import namedtuple
from operator import eq

_NOTHING = frozenset()
# What ends below a node, as bits of its summary; the bits above say which fields it asks.
OPEN, RETURNS, BREAKS, ACCEPTS, _WRITES, _HOLDS, ANY = (1 << bit for bit in range(7))
_ENDS = {"cont": OPEN, "return": RETURNS, "break": BREAKS, "accept": ACCEPTS}
_FIRST_FIELD = 7
TERMINAL = 1 << 60  # the rank of terminals: behind every field
Rename = namedtuple("Rename", "rank")
_MOST_NODES = 1_000_000  # some hundred MB; a set of 40,000 elements needs a tenth


class TooLarge(Exception):
    """The diagrams have outgrown what a proof may cost."""


def _apart(interval, lows, run):
    """Whether an interval equals one of ``run`` or touches none; ``lows`` are the run's beginnings, sorted."""
    low, high = interval
    at = bisect_right(lows, low)
    if at and run[lows[at - 1]][0] >= low:
        return lows[at - 1] == low and run[low][0] == high
    return at == len(lows) or high < lows[at]


class Field:
    """One dimension: ``name``, ``rank`` (place in the order), ``maximum`` (values are 0..maximum), ``free``.

    A free field is one that a packet does not carry: a rate limit's state, a route, a set that packets fill.
    ``bit`` stands for it in summaries.
    """

    __slots__ = ("name", "rank", "maximum", "free", "bit")

    def __init__(self, name, rank, maximum, free=False, bit=0):
        self.name, self.rank, self.maximum, self.free, self.bit = name, rank, maximum, free, bit

    def __repr__(self):
        return f"Field({self.name!r}, rank={self.rank})"


class Diagrams:
    """A store of diagrams over a set of fields. Diagrams are plain numbers, valid in their store only."""

    def __init__(self):
        self.fields = {}
        self.rank, self.bounds, self.children, self.value = [], [], [], []
        self.summary = []  # how a diagram may end and which fields it asks, so that work that changes nothing is left out
        self._writes = {}  # the fields that undecided ends below a node rewrite, where there are any
        self._free = 0
        self._nodes, self._terminals, self._sequences, self._mapped = {}, {}, {}, {}
        self.cont = self.terminal(("cont", ()))

    # -- fields and nodes ----------------------------------------------------------------------------------------------

    def add_field(self, name, rank, maximum, free=False):
        """Make a field known; its rank must be its own."""
        if rank in self.fields:
            raise ValueError(f"rank {rank} belongs to {self.fields[rank].name}")
        self.fields[rank] = field = Field(name, rank, maximum, free, 1 << _FIRST_FIELD + len(self.fields))
        if free:
            self._free |= field.bit
        return field

    def terminal(self, value):
        """The diagram that answers ``value`` (a tuple) for every packet."""
        number = self._terminals.get(value)
        if number is None:
            summary = ANY | _ENDS.get(value[0], 0)
            if len(value) > 1 and isinstance(value[1], tuple):
                summary |= _HOLDS
                if summary & OPEN and value[1]:
                    summary |= _WRITES
            number = self._terminals[value] = len(self.rank)
            self.rank.append(TERMINAL)
            self.bounds.append(None)
            self.children.append(None)
            self.value.append(value)
            self.summary.append(summary)
            if summary & _WRITES:
                self._writes[number] = frozenset(rank for rank, _value in value[1])
        return number

    def writes(self, diagram):
        """The ranks of the fields that a diagram rewrites where it is undecided."""
        return self._writes.get(diagram, _NOTHING)

    def node(self, rank, bounds, children):
        """A diagram that goes to ``children[i]`` where the field is above ``bounds[i-1]`` and up to ``bounds[i]``.

        The last bound is the field's maximum. Neighbours that are equal are merged.
        """
        if True in map(eq, children, children[1:]):
            previous = children[0]
            if children.count(previous) == len(children):
                return previous
            merged_bounds, merged_children = [bounds[0]], [previous]
            for bound, child in zip(bounds[1:], children[1:]):
                if child == previous:
                    merged_bounds[-1] = bound
                else:
                    merged_bounds.append(bound)
                    merged_children.append(child)
                    previous = child
            bounds, children = merged_bounds, merged_children
        elif len(children) == 1:
            return children[0]
        return self._reduced(rank, tuple(bounds), tuple(children))

    def _reduced(self, rank, bounds, children):
        """As node(), for two tuples without equal neighbours."""
        key = (rank, bounds, children)
        number = self._nodes.get(key)
        if number is None:
            summary, summaries = self.fields[rank].bit, self.summary
            for child in children if len(children) < 9 else set(children):
                summary |= summaries[child]
            number = self._nodes[key] = len(self.rank)
            self.rank.append(rank)
            self.bounds.append(bounds)
            self.children.append(children)
            self.value.append(None)
            self.summary.append(summary)
            if summary & _WRITES:
                self._writes[number] = frozenset().union(*map(self.writes, children))
            if number > _MOST_NODES:
                raise TooLarge(f"more than {_MOST_NODES} nodes")
        return number

    def select(self, rank, intervals, inside, outside):
        """``inside`` where the field lies in one of the sorted, disjoint ``(low, high)`` intervals, else ``outside``."""
        if len(intervals) == 1:
            (low, high), = intervals
            maximum = self.fields[rank].maximum
            if 0 < low and high < maximum:
                return inside if inside == outside else self._reduced(rank, (low - 1, high, maximum), (outside, inside, outside))
        return self.select_each(rank, [(low, high, inside) for low, high in intervals], outside)

    def select_each(self, rank, choices, outside):
        """The diagram of each of the sorted, disjoint ``(low, high, diagram)``, else ``outside``."""
        bounds, children, at = [], [], 0
        for low, high, chosen in choices:
            if low > at:
                bounds.append(low - 1)
                children.append(outside)
            bounds.append(high)
            children.append(chosen)
            at = high + 1
        maximum = self.fields[rank].maximum
        if at <= maximum:
            bounds.append(maximum)
            children.append(outside)
        return self.node(rank, bounds, children)

    def box(self, constraints, inside, outside):
        """``inside`` where every field of ``{rank: intervals}`` lies in its intervals, else ``outside``.

        ``inside`` may depend on fields of higher rank than the constraints' only; seq() serves the general case.
        """
        for rank in sorted(constraints, reverse=True):
            inside = self.select(rank, constraints[rank], inside, outside)
        return inside

    # -- operations ----------------------------------------------------------------------------------------------------

    def seq(self, first, second):
        """``first``, and where it is undecided ``second``, which sees the rewritten fields. Associative."""
        if first == self.cont:
            return second
        if second == self.cont or not self.summary[first] & OPEN:
            return first
        key = (first, second)
        known = self._sequences.get(key)
        if known is not None:
            return known
        rank_a, rank_b = self.rank[first], self.rank[second]
        if rank_a == TERMINAL:
            result = self.assign(second, self.value[first][1])
        elif rank_b <= rank_a and rank_b in self.writes(first):
            result = self._rewritten(first, second)
        elif rank_a < rank_b:
            seq, summary = self.seq, self.summary
            parts = [seq(child, second) if summary[child] & OPEN else child for child in self.children[first]]
            result = self.node(rank_a, self.bounds[first], parts)
        elif rank_a > rank_b:
            seq = self.seq
            result = self.node(rank_b, self.bounds[second], [seq(first, child) for child in self.children[second]])
        else:
            result = self._merge(first, second)
        self._sequences[key] = result
        return result

    def _rewritten(self, first, second):
        """seq() where ``second`` asks a field that ``first`` rewrites before it has asked its own fields."""
        choices, numbers = [], {}

        def pick(value):
            if value not in numbers:
                numbers[value] = len(choices)
                choices.append(self.assign(second, value[1]) if value[0] == "cont" else self.terminal(value))
            return self.terminal(("pick", numbers[value]))

        selector = self.map_terminals(first, ("rewritten", first, second), pick)
        return self.apply(selector, tuple(choices))

    def _merge(self, first, second):
        """seq() of two nodes that ask the same field."""
        bounds_a, children_a = self.bounds[first], self.children[first]
        bounds_b, children_b = self.bounds[second], self.children[second]
        seq, summary, cont = self.seq, self.summary, self.cont
        bounds, children, at = [], [], 0
        for upper, child in zip(bounds_a, children_a):
            if not summary[child] & OPEN:
                bounds.append(upper)
                children.append(child)
                at = bisect_left(bounds_b, upper, at)
                at += at < len(bounds_b) and bounds_b[at] == upper
                continue
            end = bisect_left(bounds_b, upper, at)
            bounds += bounds_b[at:end]
            bounds.append(upper)
            seconds = children_b[at : end + 1]
            children += seconds if child == cont else [seq(child, second) for second in seconds]
            at = end + (bounds_b[end] == upper)
        return self.node(self.rank[first], bounds, children)

    def fold(self, diagrams):
        """seq() over a list, in a balanced way: n rules cost n log n."""
        diagrams = self._joined(diagrams)
        if not diagrams:
            return self.cont
        while len(diagrams) > 1:
            paired = [self.seq(diagrams[i], diagrams[i + 1]) for i in range(0, len(diagrams) - 1, 2)]
            if len(diagrams) % 2:
                paired.append(diagrams[-1])
            diagrams = paired
        return diagrams[0]

    def _joined(self, diagrams):
        """The list with neighbours in one node that are undecided but for an interval of the same field each.

        Where these intervals are apart the order does not matter; where they are equal it is kept within them. So
        a list of addresses with a rule each becomes a node at once.
        """
        joined, run, rank = [], {}, None
        lows = []  # of the run's intervals, sorted
        for one in diagrams:
            interval = self._interval(one)
            if run and not (interval and self.rank[one] == rank and _apart(interval, lows, run)):
                joined.append(self._of_intervals(rank, lows, run))
                run, lows = {}, []
            if interval is None:
                joined.append(one)
                continue
            rank = self.rank[one]
            low, high = interval
            if low in run:
                run[low][1].append(self.children[one][1])
            else:
                insort(lows, low)
                run[low] = (high, [self.children[one][1]])
        if run:
            joined.append(self._of_intervals(rank, lows, run))
        return joined

    def _interval(self, diagram):
        """(low, high) where a diagram is undecided but for one interval in the midst of its field and rewrites nothing."""
        children = self.children[diagram]
        if children is None or len(children) != 3 or self.summary[diagram] & _WRITES:
            return None
        if children[0] != self.cont or children[2] != self.cont:
            return None
        low, high, _maximum = self.bounds[diagram]
        return low + 1, high

    def _of_intervals(self, rank, lows, run):
        """The node of intervals ``{low: (high, diagrams in sequence)}``, undecided elsewhere."""
        choices = []
        for low in lows:
            high, chosen = run[low]
            choices.append((low, high, chosen[0] if len(chosen) == 1 else self.fold(chosen)))
        return self.select_each(rank, choices, self.cont)

    def assign(self, diagram, environment, remember=True):
        """The diagram as seen after ``environment``: rewritten fields are replaced, terminals remember them.

        With ``remember`` false only the question is narrowed; the terminals stay as they are.
        """
        if not environment:
            return diagram
        values = dict(environment)
        concerned = _HOLDS if remember else 0
        for rank in values:
            concerned |= self.fields[rank].bit
        memo, summary = self._mapped.setdefault(("assign", environment, remember), {}), self.summary

        def visit(number):
            if not summary[number] & concerned:
                return number
            known = memo.get(number)
            if known is not None:
                return known
            rank = self.rank[number]
            if rank == TERMINAL:
                value = self.value[number]
                if remember and len(value) > 1 and isinstance(value[1], tuple):
                    merged = tuple(sorted({**values, **dict(value[1])}.items()))
                    result = self.terminal((value[0], merged) + value[2:])
                else:
                    result = number
            elif rank in values:
                value = values[rank]
                if isinstance(value, Rename):
                    result = self.node(value.rank, self.bounds[number], [visit(c) for c in self.children[number]])
                else:
                    result = visit(self.children[number][bisect_left(self.bounds[number], value)])
            else:
                result = self.node(rank, self.bounds[number], [visit(child) for child in self.children[number]])
            memo[number] = result
            return result

        return visit(diagram)

    def map_terminals(self, diagram, name, change, only=ANY):
        """Every terminal replaced by the diagram that ``change(value)`` returns; memoised under ``name``.

        ``only`` (a sum of OPEN, RETURNS, BREAKS, ACCEPTS) says which kinds of terminals ``change`` changes at all.
        Diagrams put in place of terminals may ask any field: they are merged in order.
        """
        memo, summary = self._mapped.setdefault(("map", name), {}), self.summary
        ranks, bounds, children = self.rank, self.bounds, self.children

        def visit(number):
            if not summary[number] & only:
                return number
            changed = memo.get(number)
            if changed is None:
                if ranks[number] == TERMINAL:
                    changed = change(self.value[number])
                else:
                    changed = self.ordered_node(ranks[number], bounds[number], [visit(child) for child in children[number]])
                memo[number] = changed
            return changed

        return visit(diagram)

    def ordered_node(self, rank, bounds, children):
        """As node(), for children that may ask the same field or one of lower rank."""
        if min(map(self.rank.__getitem__, children)) > rank:
            return self.node(rank, bounds, children)
        selector = self.node(rank, bounds, [self.terminal(("pick", i)) for i in range(len(children))])
        return self.apply(selector, tuple(children))

    def apply(self, selector, choices):
        """Where ``selector`` ends in ``("pick", i)``, the answer of ``choices[i]``."""
        memo = self._mapped.setdefault(("apply", choices), {})

        def visit(number, candidates):
            if self.rank[number] == TERMINAL:
                return candidates[self.value[number][1]]
            key = (number, candidates)
            known = memo.get(key)
            if known is not None:
                return known
            rank = min(map(self.rank.__getitem__, candidates))
            if self.rank[number] < rank:
                parts = [visit(child, candidates) for child in self.children[number]]
                known = memo[key] = self.node(self.rank[number], self.bounds[number], parts)
                return known
            rank = min(self.rank[number], rank)
            involved = [number, *candidates]
            edges = sorted({bound for one in involved if self.rank[one] == rank for bound in self.bounds[one]})
            parts = []
            for edge in edges:
                inner = [
                    self.children[one][bisect_left(self.bounds[one], edge)] if self.rank[one] == rank else one
                    for one in involved
                ]
                parts.append(visit(inner[0], tuple(inner[1:])))
            known = memo[key] = self.node(rank, edges, parts)
            return known

        return visit(selector, choices)

    def combine(self, first, second, name, decide, absorb=None):
        """The terminal ``decide(value of first, value of second)`` for every packet; memoised under ``name``.

        Where ``second`` ends in ``absorb``, that is the answer, and ``first`` is not looked at.
        """
        memo = self._mapped.setdefault(("combine", name), {})
        ranks, bounds, children = self.rank, self.bounds, self.children
        absorbing = None if absorb is None else self.terminal(absorb)

        def visit(a, b):
            if b == absorbing:
                return b
            known = memo.get((a, b))
            if known is not None:
                return known
            rank_a, rank_b = ranks[a], ranks[b]
            if rank_a == rank_b == TERMINAL:
                result = self.terminal(decide(self.value[a], self.value[b]))
            elif rank_a < rank_b:
                result = self.node(rank_a, bounds[a], [visit(child, b) for child in children[a]])
            elif rank_a > rank_b:
                result = self.node(rank_b, bounds[b], [visit(a, child) for child in children[b]])
            else:
                edges, parts, at, bounds_a, children_a = [], [], 0, bounds[a], children[a]
                for upper, child in zip(bounds[b], children[b]):
                    if child == absorbing:
                        edges.append(upper)
                        parts.append(child)
                        at = bisect_left(bounds_a, upper, at)
                    else:
                        while bounds_a[at] < upper:
                            edges.append(bounds_a[at])
                            parts.append(visit(children_a[at], child))
                            at += 1
                        edges.append(upper)
                        parts.append(visit(children_a[at], child))
                    if bounds_a[at] == upper:
                        at += 1
                result = self.node(rank_a, edges, parts)
            memo[a, b] = result
            return result

        return visit(first, second)

    def quantify(self, diagram, merge, name, ranks=None):
        """Fields removed: ``merge(set of terminal values, fields)`` answers for all values of the removed fields together.

        Without ``ranks`` the free fields go. ``merge`` gets at least two different values and the names of fields that
        decide between them, and gives the terminal's value; terminals it made itself may come back to it.
        """
        concerned = self._free
        if ranks is not None:
            concerned = 0
            for rank in ranks:
                concerned |= self.fields[rank].bit
        if not self.summary[diagram] & concerned:
            return diagram
        memo = self._mapped.setdefault(("quantify", name, ranks), {})
        known = memo.get(diagram)
        if known is not None:
            return known
        rank = self.rank[diagram]
        if rank == TERMINAL:
            result = diagram
        else:
            parts = [self.quantify(child, merge, name, ranks) for child in self.children[diagram]]
            field = self.fields[rank]
            if field.free if ranks is None else rank in ranks:
                result = parts[0]
                for part in parts[1:]:
                    result = self.combine(
                        result, part, (name, rank),
                        lambda a, b: a if a == b else merge(a, b, field.name),
                    )
            else:
                result = self.node(rank, self.bounds[diagram], parts)
        memo[diagram] = result
        return result

    # -- questions -----------------------------------------------------------------------------------------------------

    def lookup(self, diagram, values):
        """The terminal value for one packet, ``values[rank]`` being its fields (0 where missing)."""
        while self.rank[diagram] != TERMINAL:
            at = bisect_left(self.bounds[diagram], values.get(self.rank[diagram], 0))
            diagram = self.children[diagram][at]
        return self.value[diagram]

    def boxes(self, diagram, wanted):
        """One box ``({rank: (low, high)}, value)`` for each way into a terminal whose value ``wanted(value)`` accepts.

        Every part of the diagram is entered once only: all different outcomes are found, not all boxes.
        """
        seen = set()

        def visit(number, path):
            if self.rank[number] == TERMINAL:
                if wanted(self.value[number]):
                    yield dict(path), self.value[number]
                return
            if number in seen:
                return
            seen.add(number)
            low = 0
            for high, child in zip(self.bounds[number], self.children[number]):
                yield from visit(child, path + [(self.rank[number], (low, high))])
                low = high + 1

        return visit(diagram, [])

    def size(self, diagram):
        """``(nodes, edges)`` reachable from a diagram."""
        seen, stack, edges = set(), [diagram], 0
        while stack:
            number = stack.pop()
            if number in seen or self.rank[number] == TERMINAL:
                continue
            seen.add(number)
            edges += len(self.children[number])
            stack.extend(self.children[number])
        return len(seen), edges

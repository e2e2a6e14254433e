# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Sets and maps: which keys they hold, and the diagram that finds a packet's key in them."""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import nft_ruleset
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_fields import (
    PROTOCOL,
    intersect,
    key_constraints,
    union,
)


def ranges(one):
    """What a set of a snapshot holds: ``([(low, high, element), ...], catch-all element or None)``, keys as bytes.

    Sets of intervals over one field are sent as marks: a start, and an end (exclusive) unless the interval goes up to
    the last value or the next one starts right there. Concatenations carry both ends in one element.
    """
    catchall, plain, marks = None, [], []
    for element in one["elements"]:
        if element["flags"] & nft_ruleset.ELEMENT_CATCHALL:
            catchall = element
        elif element["key"] is None:
            continue
        elif "key_end" in element:
            plain.append((element["key"], element["key_end"], element))
        elif one["flags"] & nft_ruleset.SET_INTERVAL and not one["field_lens"]:
            marks.append(element)
        elif element["flags"] & nft_ruleset.ELEMENT_INTERVAL_END:
            continue
        else:
            plain.append((element["key"], element["key"], element))
    if marks:
        marks.sort(key=lambda element: (element["key"], not element["flags"] & nft_ruleset.ELEMENT_INTERVAL_END))
        size = len(marks[0]["key"])
        top = b"\xff" * size
        for at, element in enumerate(marks):
            if element["flags"] & nft_ruleset.ELEMENT_INTERVAL_END:
                continue
            high = top
            if at + 1 < len(marks):
                high = (int.from_bytes(marks[at + 1]["key"], "big") - 1).to_bytes(size, "big")
            plain.append((element["key"], high, element))
    return plain, catchall


class Membership:
    """A test for Space.condition(): where the cells are a key of the set.

    ``entries`` are ``(low, high, number)``; the diagram ends in ``("pick", number)`` for them and in
    ``("pick", missing)`` elsewhere. ``field_lens`` are the byte lengths of a concatenation's fields (padded to words).
    """

    def __init__(self, entries, field_lens, missing):
        self.entries, self.field_lens, self.missing = entries, field_lens, missing

    def decide(self, space, cells, opaque):
        """See Space.condition(); always answers with a diagram of picks."""
        if self.entries:
            cells = cells[: len(self.entries[0][0])]
        if None in cells:
            return None, opaque()
        simple = self._single_field(space, cells)
        if simple is not None:
            return None, simple
        boxes = []
        for low, high, number in self.entries:
            constraints = self._constraints(space, cells, low, high)
            if constraints is None:
                return None, opaque()
            if all(constraints.values()):
                boxes.append((constraints, number))
        return None, sweep(space, boxes, self.missing)

    def _single_field(self, space, cells):
        """The common case, all bytes of one number: the intervals are the node's edges."""
        view = cells[0][0] if isinstance(cells[0], tuple) else None
        if view is None or view.kind != "big" or self.field_lens:
            return None
        used = [at for at, cell in enumerate(cells) if isinstance(cell, tuple)]
        if len(used) != view.size or used != list(range(view.size)):
            return None
        if any(cell[0] is not view or cell[1:] != (at, 0xFF, 0) for at, cell in enumerate(cells[: view.size])):
            return None
        size = view.size
        if any(cell != 0 for cell in cells[size:]) or any(any(low[size:]) for low, _high, _number in self.entries):
            return None
        diagrams = space.diagrams
        missing = diagrams.terminal(("pick", self.missing))
        bounds, children, at = [], [], 0
        picks = {}
        for low, high, number in sorted(
            (int.from_bytes(low[:size], "big"), int.from_bytes(high[:size], "big"), number)
            for low, high, number in self.entries
        ):
            if low < at:
                return None
            if low > at:
                bounds.append(low - 1)
                children.append(missing)
            pick = picks.get(number)
            if pick is None:
                pick = picks[number] = diagrams.terminal(("pick", number))
            bounds.append(high)
            children.append(pick)
            at = high + 1
        if at <= diagrams.fields[view.rank].maximum:
            bounds.append(diagrams.fields[view.rank].maximum)
            children.append(missing)
        return diagrams.node(view.rank, bounds, children)

    def _constraints(self, space, cells, low, high):
        if low == high or not self.field_lens:
            return key_constraints(space, cells, low, high)
        constraints, at = {}, 0
        for length in self.field_lens:
            part = key_constraints(space, cells[at : at + length], low[at : at + length], high[at : at + length])
            if part is None:
                return None
            for rank, intervals in part.items():
                constraints[rank] = intersect(constraints[rank], intervals) if rank in constraints else intervals
            at += (length + 3) & ~3
        return constraints


def sweep(space, boxes, missing):
    """The diagram that ends in the number of the first of ``[(constraints, number), ...]`` that a packet lies in."""
    diagrams = space.diagrams
    ranks = sorted({rank for constraints, _number in boxes for rank in constraints} or {PROTOCOL})
    maxima = [diagrams.fields[rank].maximum for rank in ranks]
    per_rank = [
        [union(constraints[rank]) if rank in constraints else [(0, maximum)] for constraints, _number in boxes]
        for rank, maximum in zip(ranks, maxima)
    ]
    nothing = diagrams.terminal(("pick", missing))
    memo = {}

    def build(level, active):
        if not active:
            return nothing
        if level == len(ranks):
            first = (active & -active).bit_length() - 1
            return diagrams.terminal(("pick", boxes[first][1]))
        key = (level, active)
        known = memo.get(key)
        if known is not None:
            return known
        events, intervals = {}, per_rank[level]
        rest = active
        while rest:
            bit = rest & -rest
            rest ^= bit
            for low, high in intervals[bit.bit_length() - 1]:
                events[low] = events.get(low, 0) ^ bit
                events[high + 1] = events.get(high + 1, 0) ^ bit
        bounds, children, current, maximum = [], [], 0, maxima[level]
        for edge in sorted(events):
            if edge > 0:
                bounds.append(min(edge - 1, maximum))
                children.append(build(level + 1, current))
            current ^= events[edge]
            if edge > maximum:
                break
        else:
            bounds.append(maximum)
            children.append(build(level + 1, current))
        result = memo[key] = diagrams.node(ranks[level], bounds, children)
        return result

    return build(0, (1 << len(boxes)) - 1)

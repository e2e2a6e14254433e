# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Operations on diagrams agree with looking at every packet one by one."""

from __future__ import annotations

import itertools
import random

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.decision_diagram import (
    ACCEPTS,
    ANY,
    BREAKS,
    OPEN,
    RETURNS,
    Diagrams,
    Rename,
)

MAXIMUM = 5
RANKS = (10, 20, 30)
EVERY = [dict(zip(RANKS, values)) for values in itertools.product(range(MAXIMUM + 1), repeat=len(RANKS))]


@pytest.fixture(name="diagrams")
def _diagrams():
    store = Diagrams()
    for rank in RANKS:
        store.add_field(f"field {rank}", rank, MAXIMUM)
    store.add_field("free", 40, 1, free=True)
    return store


def anything(store, chance, ends, depth=0):
    """A random diagram."""
    if depth == len(RANKS) or chance.random() < 0.2:
        return store.terminal(chance.choice(ends))
    bounds = sorted(chance.sample(range(MAXIMUM), 2)) + [MAXIMUM]
    children = [anything(store, chance, ends, depth + 1) for _number in bounds]
    return store.ordered_node(RANKS[depth], bounds, children)


def follow(store, first, second, packet):
    """seq() by hand for one packet."""
    value = store.lookup(first, packet)
    if value[0] != "cont":
        return value
    changed = {**packet, **dict(value[1])}
    after = store.lookup(second, changed)
    if len(after) > 1 and isinstance(after[1], tuple):
        return (after[0], tuple(sorted({**dict(value[1]), **dict(after[1])}.items())))
    return after


ENDS = [("cont", ()), ("drop",), ("accept", ()), ("cont", ((20, 3),)), ("cont", ((10, 1), (30, 0))), ("accept", ((20, 0),))]


@pytest.mark.parametrize("seed", range(30))
def test_seq_is_one_after_the_other(diagrams, seed):
    chance = random.Random(seed)
    first, second = (anything(diagrams, chance, ENDS) for _number in range(2))
    whole = diagrams.seq(first, second)
    for packet in EVERY:
        assert diagrams.lookup(whole, packet) == follow(diagrams, first, second, packet)


@pytest.mark.parametrize("seed", range(10))
def test_fold_does_not_depend_on_the_grouping(diagrams, seed):
    chance = random.Random(seed)
    several = [anything(diagrams, chance, ENDS) for _number in range(5)]
    grouped = diagrams.seq(several[0], diagrams.seq(several[1], diagrams.seq(several[2], diagrams.seq(several[3], several[4]))))
    folded = diagrams.fold(several)
    for packet in EVERY:
        assert diagrams.lookup(folded, packet) == diagrams.lookup(grouped, packet)


@pytest.mark.parametrize("seed", range(60))
def test_rules_of_one_interval_each_keep_their_order(diagrams, seed):
    chance = random.Random(seed)
    rules = []
    for _number in range(chance.randint(2, 8)):
        low = chance.randint(1, MAXIMUM - 1)
        inside = anything(diagrams, chance, ENDS[: 3 if seed % 2 else None], depth=1)
        rules.append(diagrams.select(10, [(low, chance.randint(low, MAXIMUM - 1))], inside, diagrams.cont))
    folded, one_by_one = diagrams.fold(rules), diagrams.cont
    for rule in rules:
        one_by_one = diagrams.seq(one_by_one, rule)
    assert folded == one_by_one


def test_many_rules_for_an_address_each_are_one_node(diagrams):
    rules = [diagrams.select(10, [(at, at)], diagrams.terminal(("accept", (at,))), diagrams.cont) for at in (3, 1, 2, 4)]
    before = len(diagrams.rank)
    folded = diagrams.fold(rules)
    assert len(diagrams.rank) == before + 1
    assert [diagrams.lookup(folded, {10: at}) for at in range(MAXIMUM + 1)] == [
        ("cont", ()), *(("accept", (at,)) for at in (1, 2, 3, 4)), ("cont", ()),
    ]


@pytest.mark.parametrize("seed", range(10))
def test_apply_picks_among_choices_that_ask_any_field(diagrams, seed):
    chance = random.Random(seed)
    choices = tuple(anything(diagrams, chance, [("a",), ("b",)]) for _number in range(3))
    selector = anything(diagrams, chance, [("pick", 0), ("pick", 1), ("pick", 2)])
    whole = diagrams.apply(selector, choices)
    for packet in EVERY:
        assert diagrams.lookup(whole, packet) == diagrams.lookup(choices[diagrams.lookup(selector, packet)[1]], packet)


def test_a_renamed_field_is_asked_instead(diagrams):
    other = diagrams.add_field("other", 21, MAXIMUM)
    asked = diagrams.select(20, [(2, 3)], diagrams.terminal(("yes",)), diagrams.terminal(("no",)))
    renamed = diagrams.assign(asked, ((20, Rename(other.rank)),))
    assert diagrams.lookup(renamed, {20: 2, 21: 0}) == ("no",)
    assert diagrams.lookup(renamed, {20: 0, 21: 3}) == ("yes",)


def test_quantify_keeps_what_holds_for_every_free_value(diagrams):
    yes, no = diagrams.terminal(("yes",)), diagrams.terminal(("no",))
    depends = diagrams.select(40, [(1, 1)], yes, no)
    whole = diagrams.node(10, [1, 3, MAXIMUM], [yes, depends, no])
    merged = diagrams.quantify(whole, lambda a, b, name: ("mixed", name), "test")
    assert [diagrams.lookup(merged, {10: value}) for value in (0, 2, 5)] == [("yes",), ("mixed", "free"), ("no",)]


def test_equal_functions_are_the_same_number(diagrams):
    yes, no = diagrams.terminal(("yes",)), diagrams.terminal(("no",))
    assert diagrams.select(10, [(0, 1), (2, 3)], yes, no) == diagrams.node(10, [0, 3, MAXIMUM], [yes, yes, no])


def test_boxes_reach_every_kind_of_end(diagrams):
    chance = random.Random(7)
    whole = anything(diagrams, chance, [("a",), ("b",)])
    for wanted in ("a", "b"):
        for box, value in diagrams.boxes(whole, lambda value, wanted=wanted: value[0] == wanted):
            corner = {rank: bounds[1] for rank, bounds in box.items()}
            assert diagrams.lookup(whole, corner) == value == (wanted,)


@pytest.mark.parametrize("seed", range(15))
def test_combine_decides_on_both_and_stops_where_it_is_absorbed(diagrams, seed):
    chance = random.Random(seed)
    first = anything(diagrams, chance, [("a",), ("b",)])
    second = anything(diagrams, chance, [("outside",), ("x",), ("y",)])
    combined = diagrams.combine(first, second, "test", lambda a, b: (a[0] + b[0],), absorb=("outside",))
    for packet in EVERY:
        one, other = diagrams.lookup(first, packet), diagrams.lookup(second, packet)
        assert diagrams.lookup(combined, packet) == (other if other == ("outside",) else (one[0] + other[0],))


@pytest.mark.parametrize("seed", range(15))
def test_assigning_narrows_the_question_and_is_remembered_if_wanted(diagrams, seed):
    chance = random.Random(seed)
    diagram = anything(diagrams, chance, ENDS)
    narrowed = diagrams.assign(diagram, ((20, 2),), remember=False)
    remembered = diagrams.assign(diagram, ((20, 2),))
    for packet in EVERY:
        value = diagrams.lookup(diagram, {**packet, 20: 2})
        assert diagrams.lookup(narrowed, packet) == value
        if len(value) > 1:
            value = (value[0], tuple(sorted({20: 2, **dict(value[1])}.items())))
        assert diagrams.lookup(remembered, packet) == value


@pytest.mark.parametrize("seed", range(15))
def test_only_the_named_kinds_of_ends_are_replaced(diagrams, seed):
    chance = random.Random(seed)
    diagram = anything(diagrams, chance, [("return", ()), ("accept", ()), ("drop",), ("cont", ()), ("break",)])
    for kind, bit in (("return", RETURNS), ("accept", ACCEPTS), ("cont", OPEN), ("break", BREAKS), (None, ANY)):
        replaced = diagrams.map_terminals(diagram, f"test {kind}", lambda value: diagrams.terminal(("new", value[0])), bit)
        for packet in EVERY:
            value = diagrams.lookup(diagram, packet)
            assert diagrams.lookup(replaced, packet) == (("new", value[0]) if kind in (None, value[0]) else value)

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What differs between two states of a table, and the text that leads from one to the other."""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import nft_change

TABLE = "inet vllm_hardening"


def state(rules=("a", "b", "c"), elements=("10.77.2.11", "10.77.2.12"), declaration="type filter hook input priority -5 policy drop", **sets):
    return {
        "chains": {"input": {"declaration": declaration, "rules": [{"key": rule, "text": f"rule {rule}"} for rule in rules]}},
        "sets": {"peers_v4": {"declaration": "ipv4_addr", "elements": list(elements)}, **sets},
    }


def test_equal_states_do_not_differ():
    assert nft_change.difference(state(), state()) == []


def test_rules_are_added_removed_and_moved():
    steps = nft_change.difference(state(), state(rules=("c", "a", "d")))
    assert sorted(steps) == [("added", "chain input", "rule d"), ("moved", "chain input", "rule c"), ("removed", "chain input", "rule b")]


def test_a_rule_written_twice_counts_twice():
    assert nft_change.difference(state(rules=("a",)), state(rules=("a", "a"))) == [("added", "chain input", "rule a")]


def test_elements_are_added_and_removed():
    steps = nft_change.difference(state(), state(elements=("10.77.2.12", "10.77.2.13")))
    assert steps == [("removed", "set peers_v4", "10.77.2.11"), ("added", "set peers_v4", "10.77.2.13")]


def test_policy_and_new_chains_are_differences():
    want = state(declaration="type filter hook input priority -5 policy accept")
    want["chains"]["flows"] = {"declaration": "regular", "rules": []}
    assert [kind for kind, *dummy in nft_change.difference(state(), want)] == ["added", "changed"]


def test_everything_is_added_where_there_is_no_table():
    assert {kind for kind, *dummy in nft_change.difference(None, state())} == {"added"}
    assert {kind for kind, *dummy in nft_change.difference(state(), None)} == {"removed"}


def test_diff_text_marks_each_step_and_ends():
    text = nft_change.diff_text([("added", "chain input", "rule d"), ("moved", "chain input", "rule c"), ("removed", "set s", "1"), ("changed", "file", "x")])
    assert text == "+ chain input: rule d\n> chain input: rule c\n- set s: 1\n~ file: x\n"
    assert nft_change.diff_text([("added", "set s", str(number)) for number in range(7)], limit=5).endswith("  ... and 2 more\n")
    assert nft_change.diff_text([]) == ""


def test_elements_alone_are_told_from_rules():
    assert nft_change.only_elements_differ(state(), state(elements=()))
    assert not nft_change.only_elements_differ(state(), state(rules=("a",)))
    assert not nft_change.only_elements_differ(state(), state(other={"declaration": "ipv4_addr", "elements": []}))
    assert not nft_change.only_elements_differ(None, state())


def test_an_element_update_sends_only_what_differs():
    text = nft_change.element_update(TABLE, state(), state(elements=("10.77.2.12", "10.77.2.14", "10.77.2.13")))
    assert text == (f"delete element {TABLE} peers_v4 {{ 10.77.2.11 }}\n" f"add element {TABLE} peers_v4 {{ 10.77.2.13, 10.77.2.14 }}\n")


def test_a_refill_keeps_base_chains_and_removes_what_is_gone():
    have = state(old={"declaration": "ipv4_addr", "elements": []})
    have["chains"]["gone"] = {"declaration": "regular", "rules": []}
    text = nft_change.refill(TABLE, have, "table inet vllm_hardening {\n}\n", state(elements=("10.77.2.12",)))
    assert text.splitlines() == [
        f"flush table {TABLE}", f"delete chain {TABLE} gone", f"delete set {TABLE} old", f"delete element {TABLE} peers_v4 {{ 10.77.2.11 }}",
        "table inet vllm_hardening {", "}",
    ]


def test_replacement_and_removal_work_whether_or_not_the_table_is_there():
    assert nft_change.replacement(TABLE, "table inet vllm_hardening { }\n").splitlines()[:2] == [f"table {TABLE}", f"delete table {TABLE}"]
    assert nft_change.removal(TABLE).splitlines() == [f"table {TABLE}", f"delete table {TABLE}"]

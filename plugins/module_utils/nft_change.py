# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What differs between two states of an nftables table, and the nft text that leads from one to the other.

Pure functions. A *state* is what `nft_snapshot.TableReader` returns, or None where there is no table::

    {"chains": {NAME: {"declaration": str, "rules": [{"text": str, "key": str}]}},
     "sets":   {NAME: {"declaration": str, "elements": [str]}}}

`text` is for people and free of counters and handles; two rules are the same where their `key` is.
"""

from __future__ import annotations

import difflib

EMPTY = {"chains": {}, "sets": {}}


def difference(have, want):
    """The steps from `have` to `want`, as ``(kind, where, text)`` with kind one of added, removed, moved, changed.

    A rule that stands elsewhere in the same chain is moved, not removed and added.
    """
    have, want = have or EMPTY, want or EMPTY
    steps = []
    for name in sorted(set(have["sets"]) | set(want["sets"])):
        steps += _set_steps(name, have["sets"].get(name), want["sets"].get(name))
    for name in sorted(set(have["chains"]) | set(want["chains"])):
        steps += _chain_steps(name, have["chains"].get(name), want["chains"].get(name))
    return steps


def _declaration_steps(where, have, want):
    if have is None:
        return [("added", where, want["declaration"])]
    if want is None:
        return [("removed", where, have["declaration"])]
    if have["declaration"] != want["declaration"]:
        return [("changed", where, f"{have['declaration']} -> {want['declaration']}")]
    return []


def _set_steps(name, have, want):
    where = f"set {name}"
    steps = _declaration_steps(where, have, want)
    old = (have or {}).get("elements", [])
    new = (want or {}).get("elements", [])
    steps += [("removed", where, element) for element in old if element not in set(new)]
    steps += [("added", where, element) for element in new if element not in set(old)]
    return steps


def _chain_steps(name, have, want):
    where = f"chain {name}"
    steps = _declaration_steps(where, have, want)
    old = (have or {}).get("rules", [])
    new = (want or {}).get("rules", [])
    matcher = difflib.SequenceMatcher(None, [rule["key"] for rule in old], [rule["key"] for rule in new], autojunk=False)
    gone, come = [], []
    for kind, first, last, new_first, new_last in matcher.get_opcodes():
        if kind != "equal":
            gone += old[first:last]
            come += new[new_first:new_last]
    for rule in come:
        twin = next((other for other in gone if other["key"] == rule["key"]), None)
        if twin is None:
            steps.append(("added", where, rule["text"]))
        else:
            gone.remove(twin)
            steps.append(("moved", where, rule["text"]))
    return steps + [("removed", where, rule["text"]) for rule in gone]


def diff_text(steps, limit=200):
    """Steps as the lines of a diff: ``+``, ``-``, ``>`` (moved) and ``~`` (changed)."""
    signs = {"added": "+", "removed": "-", "moved": ">", "changed": "~"}
    lines = [f"{signs[kind]} {where}: {text}" for kind, where, text in steps[:limit]]
    if len(steps) > limit:
        lines.append(f"  ... and {len(steps) - limit} more")
    return "\n".join(lines) + "\n" if lines else ""


def only_elements_differ(have, want):
    """Whether chains and set declarations are the same, so that a transaction of set elements is enough."""
    if have is None or want is None:
        return False
    return not difference(_bare(have), _bare(want))


def _bare(state):
    return {"chains": state["chains"],
            "sets": {name: {"declaration": entry["declaration"], "elements": []} for name, entry in state["sets"].items()}}


def replacement(table, text):
    """Text that makes `table` be `text`, whatever it was: one transaction that deletes it and creates it."""
    return f"table {table}\ndelete table {table}\n{text}"


def removal(table):
    """Text that makes `table` not exist, whether or not it does now."""
    return f"table {table}\ndelete table {table}\n"


def element_update(table, have, want):
    """Text of the transaction that turns the elements of `have` into those of `want`."""
    lines = []
    for name in sorted(want["sets"]):
        old, new = have["sets"][name]["elements"], want["sets"][name]["elements"]
        for verb, elements in (("delete", sorted(set(old) - set(new))), ("add", sorted(set(new) - set(old)))):
            if elements:
                lines.append(f"{verb} element {table} {name} {{ {', '.join(elements)} }}")
    return "\n".join(lines) + "\n"


def refill(table, have, text, want):
    """Text that turns `have` into `want` (whose full text is `text`) while its base chains stay hooked.

    Deleting a base chain and creating it again leaves an instant in which neither filters: the kernel switches the generation,
    unhooks the old chain and only then gives the new one its policy. Rules alone switch in a single step.
    """
    lines = [f"flush table {table}"]
    for name, chain in sorted(have["chains"].items()):
        other = want["chains"].get(name)
        if other is None or other["declaration"] != chain["declaration"]:
            lines.append(f"delete chain {table} {name}")
    for name, entry in sorted(have["sets"].items()):
        other = want["sets"].get(name)
        if other is None or other["declaration"] != entry["declaration"]:
            lines.append(f"delete set {table} {name}")
        else:
            elements = sorted(set(entry["elements"]) - set(other["elements"]))
            if elements:
                lines.append(f"delete element {table} {name} {{ {', '.join(elements)} }}")
    return "\n".join(lines) + "\n" + text

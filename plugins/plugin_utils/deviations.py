# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The history of deviations over audits: when each began, was seen, was corrected, and by whom. Pure.

Two sources: the chain of audits, which sees a deviation between two of them, and the records of the nodes' guards, which know the moment, the program and
the process. A deviation is ``{host, control, what, began_after, began, seen, corrected, by, changed_by, explained}``: `control` is empty for what only
the guard saw; `began` is the moment, where it is known, `began_after` that of the last audit in which it was not there.
Times are ISO 8601 texts in UTC, in which later ones compare greater.
"""

from __future__ import annotations

import datetime

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import guard_history
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judged_node import clip

LIMIT = 2000  # of those that are over, and of what guards saw, of which no audit tells the end
MOST = 2 * guard_history.LATEST  # of one node at a time: it has two guards
RUN, GUARD, OTHERS = "drift correction", "the guard", "somebody else"


def follow(known, findings, guards, when, previous=None, within_run=False, explained=()):
    """The history after one more audit.

    known: the history before it; findings: of the audit, with their status; guards: ``{host: records of its guard}`` as `guard_history` reads them, None
    where they are not known; when: the time of this audit, previous: of the one before it; within_run: whether drift correction ran between the two;
    explained: what it explained, as lines of ``drift.jsonl``.
    """
    history = [dict(one) for one in known]
    status = {(finding["host"], finding["control"]): finding for finding in findings}
    told = {}
    for record in explained:
        told.setdefault(record.get("host"), []).append(record)
    still = {(one["host"], one["control"]) for one in history if one["control"] and not one["corrected"]}
    for one in history:
        finding = status.get((one["host"], one["control"]))
        if one["control"] and not one["corrected"] and finding is not None and finding["status"] not in ("fail", "unknown"):
            if finding["status"] == "waived":
                one["waived"] = True
                continue
            one.update(corrected=when, by=RUN if within_run else OTHERS, explained=[*one["explained"], *lines_of(told.get(one["host"], ()))][:20])
    for (host, control), finding in sorted(status.items()):
        if finding["status"] == "fail" and (host, control) not in still:
            history.append({"host": host, "control": control, "what": clip(finding["observed"]), "began_after": previous, "began": None,
                            "seen": when, "corrected": None, "by": None, "changed_by": None, "explained": []})
    seen, judged = {(one["host"], one["seen"], one["what"]) for one in history if not one["control"]}, {}
    for one in history:
        if one["control"]:
            judged.setdefault(one["host"], []).append(one)
    for host, records in sorted(guards.items()):
        for one in of_guards(host, records):
            if (host, one["seen"], one["what"]) not in seen:
                seen.add((host, one["seen"], one["what"]))
                history.append(one)
                narrow(judged.get(host, ()), one)
    history.sort(key=lambda one: one["seen"])
    over = [one for one in history if one["corrected"] or not one["control"]]
    dropped = {id(one) for one in over[:-LIMIT]}
    return [one for one in history if id(one) not in dropped]


def of_guards(host, records):
    """The records of a node's guards as deviations. A node may answer anything: what is no record is left out, and so is more than a guard tells."""
    for record in records[-MOST:] if isinstance(records, list) else ():
        try:
            yield of_guard(host, record)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue


def of_guard(host, record):
    """A record of a guard as a deviation."""
    seen = normal(record["at"])
    began = moment(seen) - datetime.timedelta(seconds=record["seconds"] or 0)
    times = f" ({record['count']} times)" if record["count"] > 1 else ""
    lines = [*(f"- {clip(line)}" for line in record["before"]), *(f"+ {clip(line)}" for line in record["after"])]
    return {"host": host, "control": "", "what": clip(record["what"]) + times, "began_after": None,
            "began": None if record.get("seconds") is None else began.isoformat(), "seen": seen,
            "corrected": seen if record["outcome"] == "corrected" else None, "by": GUARD if record["outcome"] == "corrected" else None,
            "changed_by": clip(record["by"]) if record["by"] else None, "explained": lines, "outcome": str(record["outcome"]), "kind": str(record["kind"])}


def narrow(judged, one):
    """Where the guard saw and left what an audit saw after it on the same host (`judged`), the audit's deviation began then."""
    if one["corrected"] or one["outcome"] == "refused":
        return
    for other in judged:
        between = (other["began_after"] is None or other["began_after"] <= one["seen"]) and one["seen"] <= other["seen"]
        if other["control"] in KINDS.get(one["kind"], ()) and other["began"] is None and between:
            other.update(began=one["began"] or one["seen"], changed_by=one["changed_by"])


# What the guard sees and leaves to others, and the controls that report it as well.
KINDS = {"foreign": ("NET-01", "NET-02", "NET-03"), "listener": ("SOC-02",), "ruleset": ("FW-01", "NET-01", "NET-02", "NET-03")}


def lines_of(records):
    """The lines of what was explained about a host."""
    return [line for record in records for one in record.get("explained", ()) for line in one["lines"]]


def normal(when):
    """A time of a node, ``...Z``, as the audit writes times."""
    return when[:-1] + "+00:00" if when.endswith("Z") else when


def moment(when):
    """A time as `datetime`."""
    return datetime.datetime.fromisoformat(when)


def open_first(history, limit):
    """What a report shows: what is open, then the newest of the rest."""
    left = [one for one in history if not one["corrected"]]
    over = [one for one in history if one["corrected"]]
    return (list(reversed(left)) + list(reversed(over)))[:limit]

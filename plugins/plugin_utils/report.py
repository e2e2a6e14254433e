# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The results document, and the words that go to the terminal. Every report format is made from the document alone."""

from __future__ import annotations

import collections
import json

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import CONTROLS
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judge import (
    EXIT_STATUS, FAIL, STATUSES, UNKNOWN_STATUS, fix_of, verdict_of, worst)
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import BROKEN, LEAK, OK_BLOCKED, OK_OPEN, UNKNOWN

DOCUMENT_VERSION = 1
GENERATOR = "vllm_mindspore.hardening"
ROW_LIMIT = 60


class DocumentError(Exception):
    """A results document that cannot be read; the message is for the user."""


def build_document(plan, judgement, when):
    """The versioned results document.

    plan: the plan; judgement: what `judge` returned; when: the time of the audit as an ISO 8601 text in UTC.
    """
    return {
        "version": DOCUMENT_VERSION, "generator": GENERATOR, "generated": when, **judgement,
        "controls": [{**control.as_dict(), "remedy": fix_of(control.id)} for control in CONTROLS],
        "plan": {
            "clusters": {name: {"segments": cluster["segments"], "sets": {key: len(value) for key, value in cluster["sets"].items()}, "nodes": cluster["nodes"]}
                         for name, cluster in plan["clusters"].items()},
            "nodes": {host: {"cluster": node["cluster"], "addresses": node["addresses"],
                             "flows": [{key: flow[key] for key in ("name", "sources", "destinations", "segment", "protocol", "ports", "reason")}
                                       for flow in node["flows"]]}
                      for host, node in plan["nodes"].items()},
        },
    }


def check_document(document):
    """Refuse a document this version cannot read. Raises DocumentError."""
    if not isinstance(document, dict) or not isinstance(document.get("version"), int):
        raise DocumentError("this is no results document of the audit")
    if document["version"] > DOCUMENT_VERSION:
        raise DocumentError(f"the results document has version {document['version']}, this release reads up to {DOCUMENT_VERSION}: use a newer release")
    missing = [key for key in ("generated", "verdict", "coverage", "counts", "wire", "findings", "controls", "plan") if key not in document]
    if missing:
        raise DocumentError(f"the results document lacks {', '.join(missing)}: it is truncated or was edited")
    try:
        found = collections.Counter(finding["status"] for finding in document["findings"])
        counts = {status: document["counts"][status] for status in STATUSES}
        verdict = verdict_of(counts, document["coverage"]["not_observed"] or document["coverage"]["not_probed"])
    except (AttributeError, KeyError, TypeError):
        raise DocumentError("the results document holds something else than findings: it was edited") from None
    if counts != {status: found[status] for status in STATUSES} or sum(found.values()) != sum(counts.values()):
        raise DocumentError(f"the results document counts {sum(counts.values())} findings and holds {sum(found.values())}, or of other statuses:"
                            " it is truncated or was edited")
    if (document["verdict"], document.get("exit_status")) != (verdict, EXIT_STATUS[verdict]):
        raise DocumentError(f"the results document says {document['verdict']!s:.20}, and its findings {verdict}: it was edited")


def read_document(path):
    """A results document from its file, `report.json`. Raises DocumentError."""
    try:
        with open(path, encoding="utf-8") as stream:
            document = json.load(stream)
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise DocumentError(f"{path} is no JSON: it is truncated, or no results document of the audit") from None
    try:
        check_document(document)
    except DocumentError as error:
        raise DocumentError(f"{path}: {error}") from None
    return document


def verdict_sentence(document):
    """The verdict in one sentence."""
    counts, coverage, wire = document["counts"], document["coverage"], document["wire"]["counts"]
    gaps = len(coverage["not_observed"]) + len(coverage["not_probed"])
    hosts = f"{coverage['observed']} of {coverage['nodes']} nodes observed, probed from {coverage['probed']} of {coverage['vantage_points']} vantage points"
    if document["verdict"] == "compliant":
        return f"Compliant: {counts['pass']} controls passed, 0 leaks, 0 broken; {hosts}."
    if document["verdict"] == "findings":
        also = f" The audit is incomplete as well: {counts[UNKNOWN_STATUS]} unknown." if counts[UNKNOWN_STATUS] or gaps else ""
        return f"Not compliant: {counts[FAIL]} controls failed, {wire[LEAK]} leaks, {wire[BROKEN]} broken; {hosts}.{also}"
    return f"Incomplete: nothing failed, but {counts[UNKNOWN_STATUS]} controls are unknown; {hosts}."


def wire_totals(row):
    """Numbers of ports of one probed path by result."""
    totals = dict.fromkeys((OK_OPEN, OK_BLOCKED, LEAK, BROKEN, UNKNOWN), 0)
    for cell in row["cells"]:
        totals[cell["result"]] += cell["count"]
    return totals


def row_result(totals):
    """The word for a row: the worst result in it."""
    return next((result for result in (LEAK, BROKEN, UNKNOWN) if totals[result]), "ok")


def wire_table(document, limit=ROW_LIMIT):
    """The table of expected against observed as lines of text, the rows that are not ok first."""
    head = ("from", "source", "to", "address", "planned ports answered", "other ports blocked", "result")
    rows = []
    for row in document["wire"]["rows"]:
        totals = wire_totals(row)
        planned, other = totals[OK_OPEN] + totals[BROKEN], totals[OK_BLOCKED] + totals[LEAK]
        rows.append((row["vantage"], f"{row['source']} ({row['segment']})", row["host"], f"{row['address']} ({row['to_segment']})",
                     f"{totals[OK_OPEN]} of {planned}" if planned else "none planned", f"{totals[OK_BLOCKED]} of {other}", row_result(totals)))
    for entry in document["wire"]["missing"]:
        rows.append((entry["vantage"], entry["source"], entry["host"], entry["address"], "not tried", "not tried", UNKNOWN))
    rows.sort(key=lambda row: row[-1] == "ok")
    shown = rows[:max(limit, sum(row[-1] != "ok" for row in rows[:4 * limit]))]
    widths = [max(len(row[column]) for row in [head, *shown]) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [head, *shown]]
    if len(shown) < len(rows):
        lines.append(f"... and {len(rows) - len(shown)} more rows in the report")
    return lines


def terminal_summary(document, paths=()):
    """What the run prints at its end: the table, the verdict, the counts, the worst findings with their fix."""
    counts, wire = document["counts"], document["wire"]["counts"]
    lines = [
        "",
        *wire_table(document),
        "",
        verdict_sentence(document),
        "controls: " + ", ".join(f"{counts[status]} {status}" for status in STATUSES),
        f"ports tried: {wire[OK_OPEN]} open as planned, {wire[OK_BLOCKED]} blocked as planned, {wire[LEAK]} leaks, "
        f"{wire[BROKEN]} broken, {wire[UNKNOWN]} unknown",
    ]
    titles = {control["id"]: control["title"] for control in document["controls"]}
    for finding in worst(document["findings"]):
        lines += [f"{finding['severity'].upper()} {finding['control']} {finding['host']}: {titles[finding['control']]}",
                  f"    observed: {finding['observed']}", f"    fix: {fix_of(finding['control'])}"]
    for kind, gaps in (("not observed", document["coverage"]["not_observed"]), ("not probed from", document["coverage"]["not_probed"])):
        for host, reason in list(gaps.items())[:5]:
            lines.append(f"{kind}: {host}: {reason}")
    if not any(finding["status"] == FAIL for finding in document["findings"]):
        for finding in [finding for finding in document["findings"] if finding["status"] == UNKNOWN_STATUS][:3]:
            lines.append(f"unknown: {finding['control']} {finding['host']}: {finding['observed']}")
    lines += [f"report: {path}" for path in paths]
    return lines

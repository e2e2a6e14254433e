# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The report as one HTML file: no request, no script, everything escaped, a content policy that forbids the rest.

Filters are check boxes whose state the style sheet reads, so that they need no script.
"""

from __future__ import annotations

from html import escape
from itertools import chain

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import SEVERITIES
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judge import STATUSES, worst
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report import row_result, verdict_sentence, wire_totals
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_files import COUNTED
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import BROKEN, LEAK, OK_BLOCKED, OK_OPEN, RESULTS, UNKNOWN

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
ORDER = {"fail": 0, "unknown": 1, "waived": 2, "pass": 3, "not applicable": 4}
SYMBOLS = {"ok": "= ok", LEAK: "! LEAK", BROKEN: "x BROKEN", UNKNOWN: "? UNKNOWN"}
MARKS = {"pass": "\u00b7", "fail": "\u2715", "waived": "w", "not applicable": "\u00a0", "unknown": "?"}
CELLS = {status: f"<td class={status.replace(' ', '-')}>{mark}</td>" for status, mark in MARKS.items()}
MISSING = CELLS["unknown"]
WEIGHTS = {"fail": 1000, "unknown": 10, "waived": 1, "pass": 0, "not applicable": 0}  # the order of the hosts in the heat map
ARROW = '<marker id="arrow" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto"><path d="M0 0 L8 4 L0 8"/></marker>'
# A page of more rows than these is read by nobody. What is left out is counted where it is left out, and is in the other formats.
SMALL = 2000         # up to so many findings, those that passed are listed as well
CONTROL_LIMIT = 200  # findings listed of each control
HEAT_LIMIT = 1000    # hosts of the heat map
WIRE_LIMIT = 2000
FLOW_LIMIT = 400
STYLE = """
:root { color-scheme: light dark; --line: #8884; --ok: #1d4ed8; --bad: #b91c1c; --gap: #92400e; --waived: #6b21a8; }
@media (prefers-color-scheme: dark) { :root { --ok: #8fb0ff; --bad: #ff8a80; --gap: #ffc46b; --waived: #d8b4fe; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.4rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; background: Canvas; } code { font-family: ui-monospace, monospace; font-size: .95em; overflow-wrap: anywhere; }
.verdict { border-left: .4rem solid var(--gap); padding: .6rem 1rem; font-size: 1.1rem; }
.verdict.compliant { border-color: var(--ok); } .verdict.findings { border-color: var(--bad); }
.fail .s, .fail.s, .LEAK, .BROKEN { color: var(--bad); font-weight: 600; } .unknown .s, .unknown.s, .UNKNOWN { color: var(--gap); font-weight: 600; }
.waived .s, .waived.s { color: var(--waived); } .pass .s, .pass.s, .ok { color: var(--ok); }
.counts { display: flex; flex-wrap: wrap; gap: .6rem 2rem; list-style: none; padding: 0; } .counts b { font-size: 1.3rem; margin-right: .3rem; }
.filter { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .8rem; margin: .8rem 0; }
.filter label { white-space: nowrap; } .scroll { overflow-x: auto; } summary { cursor: pointer; } td ul { margin: .3rem 0; padding-left: 1.1rem; }
.findings td:nth-child(7) { min-width: 18rem; } ol li { margin: .5rem 0; }
.heat { font: .8rem/1 ui-monospace, monospace; width: auto; } .heat th, .heat td { padding: .25rem .3rem; text-align: center; border: 1px solid var(--line); }
.heat th:first-child { text-align: left; white-space: nowrap; } .heat thead th { writing-mode: vertical-rl; }
.heat td.fail { background: var(--bad); color: Canvas; } .heat td.unknown { background: var(--gap); color: Canvas; } .heat td.waived { color: var(--waived); }
svg { max-width: 100%; height: auto; } svg text { font: 13px system-ui, sans-serif; fill: CanvasText; }
svg rect { fill: Canvas; stroke: CanvasText; } svg path { stroke: var(--ok); fill: none; stroke-width: 1.5; }
@page { size: A4 landscape; margin: 10mm; }
@media print {
body { margin: 0; padding: 0; max-width: none; font-size: 9pt; } thead th { position: static; } .filter { display: none; } tr { break-inside: avoid; }
table { font-size: 7.5pt; } th, td { padding: .15rem .3rem; overflow-wrap: anywhere; } .scroll { overflow: visible; }
.heat { font-size: 6pt; } .heat th, .heat td { padding: .1rem; } .heat th:first-child { white-space: normal; }
.findings td:nth-child(7) { min-width: 0; } .findings details::details-content { content-visibility: visible; } }
"""


def text(value):
    """Any value, escaped."""
    return escape(str(value), quote=True)


def slug(value):
    """A status or severity as the name of a class."""
    return text(value).replace(" ", "-")


def table(head, rows):
    """A table in pieces; rows are (class, cells), cells are HTML already."""
    head_cells = "".join(f"<th scope=col>{text(cell)}</th>" for cell in head)
    yield f"<div class=scroll><table><thead><tr>{head_cells}</tr></thead><tbody>\n"
    for name, cells in rows:
        yield f'<tr class="{name}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
    yield "</tbody></table></div>"


def left_out(number, what):
    """A line that counts what is not listed."""
    return f"<p>{number} more {what} are in report.json.</p>" if number > 0 else ""


def render_html(document):
    """The whole page, in pieces."""
    counts, wire, coverage = document["counts"], document["wire"]["counts"], document["coverage"]
    items = "".join(f"<li class='{slug(status)} s'><b>{counts[status]}</b>{text(status)}</li>" for status in STATUSES)
    ports = "".join(f"<li class={slug(result)}><b>{wire[result]}</b>{text(result)}</li>" for result in RESULTS)
    gaps = [(host, "not observed", reason) for host, reason in coverage["not_observed"].items()]
    gaps += [(host, "not probed from", reason) for host, reason in coverage["not_probed"].items()]
    missing = table(("Host", "What is missing", "Reason"), [("unknown", map(text, row)) for row in gaps[:CONTROL_LIMIT]]) if gaps else ()
    rules = "".join(f"body:has(#s-{slug(status)}:not(:checked)) .findings tr.{slug(status)} {{ display: none; }}\n" for status in STATUSES)
    rules += "".join(f"body:has(#v-{name}:not(:checked)) .findings tr.{name} {{ display: none; }}\n" for name in SEVERITIES)
    rules += "body:has(#w-ok:not(:checked)) .wire tr.row-ok { display: none; }\n"
    yield f"""<!DOCTYPE html>
<html lang=en><head><meta charset=utf-8>
<meta http-equiv="Content-Security-Policy" content="{text(POLICY)}">
<meta name=viewport content="width=device-width, initial-scale=1">
<title>Audit: {text(document['verdict'])}</title><style>{STYLE}{rules}</style></head><body>
<h1>Hardening audit</h1>
<p class="verdict {slug(document['verdict'])}">{text(verdict_sentence(document))}</p>
<p>As of {text(document['generated'])}; {text(coverage['probes'])} probes sent.</p>
<ul class=counts aria-label="Controls">{items}</ul>
<ul class=counts aria-label="Ports tried">{ports}</ul>
"""
    yield from missing
    yield left_out(len(gaps) - CONTROL_LIMIT, "gaps") + worst_list(document) + "\n<h2>Controls</h2>\n"
    yield from summary_table(document)
    yield "\n<h2>Hosts by controls</h2>\n"
    yield from heat_map(document)
    yield "\n<h2>Findings</h2>\n" + filters([("s-" + slug(status), status, True) for status in STATUSES] + [("v-" + name, name, True) for name in SEVERITIES])
    yield "<div class=findings>"
    yield from findings_table(document)
    yield "</div>\n<h2>Segments and allowed flows</h2>\n" + picture(document)
    yield "\n<h2>Reachability, expected against observed</h2>\n" + filters([("w-ok", "also what is as expected", True)]) + "<div class=wire>"
    yield from wire_section(document)
    yield "</div>\n<h2>Planned flows</h2>\n"
    yield from flows_section(document)
    yield from deviations_section(document)
    yield from history_section(document)
    yield "</body></html>\n"


def filters(boxes):
    """A row of check boxes: (id, label, whether it is checked)."""
    return "<div class=filter>" + "".join(f"<label><input type=checkbox id={name}{' checked' if checked else ''}> {text(label)}</label>"
                                          for name, label, checked in boxes) + "</div>"


def worst_list(document):
    """What failed and matters most, with its fix; empty where nothing failed."""
    controls = {control["id"]: control for control in document["controls"]}
    items = "".join(
        f"<li class='fail'><span class=s>{text(finding['severity'])} {text(finding['control'])}</span> on {text(finding['host'])}: "
        f"{text(controls[finding['control']]['title'])}<br><code>{text(finding['observed'])}</code><br>{text(controls[finding['control']]['remedy'])}</li>"
        for finding in worst(document["findings"]))
    return f"<h2>What matters most</h2><ol>{items}</ol>" if items else ""


def summary_table(document):
    """One row a control: on how many hosts it has which status."""
    counts = {control["id"]: dict.fromkeys(STATUSES, 0) for control in document["controls"]}
    for finding in document["findings"]:
        counts[finding["control"]][finding["status"]] += 1
    rows = []
    for control in document["controls"]:
        numbers = counts[control["id"]]
        status_of = next((status for status in ORDER if numbers[status]), "not applicable")
        rows.append((f"{slug(status_of)} {slug(control['severity'])}", (
            text(control["id"]), f"<span title='{text(control['rationale'])}'>{text(control['title'])}</span>",
            text(control["severity"]), text(control["witness"]),
            *(f"<span class={'s' if status == status_of else 'n'}>{numbers[status] or ''}</span>" for status in STATUSES), text(control["remedy"]))))
    yield from table(("Control", "Requirement", "Severity", "Witness", *STATUSES, "Fix"), rows)


def heat_map(document):
    """A line a host, a cell a control, the worst hosts first; hosts where nothing is wrong are one line together where there are many."""
    order = [control["id"] for control in document["controls"]]
    place, blank = {name: index for index, name in enumerate(order)}, [MISSING] * len(order)
    hosts, wrong = {}, {}
    for finding in document["findings"]:
        host = finding["host"]
        if host not in hosts:
            hosts[host], wrong[host] = blank[:], 0
        hosts[host][place[finding["control"]]] = CELLS[finding["status"]]
        wrong[host] += WEIGHTS[finding["status"]]
    shown = list(hosts)
    if len(hosts) > 100:
        shown = sorted((host for host in hosts if wrong[host]), key=lambda host: -wrong[host])[:HEAT_LIMIT]
    titles = {control["id"]: control["title"] for control in document["controls"]}
    head = "".join(f"<th scope=col title='{text(titles[name])}'>{text(name)}</th>" for name in order)
    yield f"<div class=scroll><table class=heat><thead><tr><th scope=col>Host</th>{head}</tr></thead><tbody>\n"
    for host in shown:
        yield f"<tr><th scope=row>{text(host)}</th>{''.join(hosts[host])}</tr>\n"
    yield "</tbody></table></div>"
    rest, clean = len(hosts) - len(shown), sum(not number for number in wrong.values())
    if rest:
        yield f"<p>{rest} more hosts, on {min(clean, rest)} of which nothing failed, is waived or is unknown.</p>"
    yield "<p>\u2715 fail, ? unknown, w waived, \u00b7 pass, empty: not applicable</p>"


def findings_table(document):
    """One row a finding, what failed first; of a large fleet the first of each control, and none that passed."""
    controls = {control["id"]: control for control in document["controls"]}
    chosen = document["findings"]
    if len(chosen) > SMALL:
        chosen = [finding for finding in chosen if ORDER[finding["status"]] < ORDER["pass"]]
    passed = len(document["findings"]) - len(chosen)
    severity = {name: index for index, name in enumerate(SEVERITIES)}
    listed, kept = {}, []
    for finding in sorted(chosen, key=lambda item: (ORDER[item["status"]], severity[item["severity"]], item["control"])):
        key = finding["control"], finding["status"]
        listed[key] = listed.get(key, 0) + 1
        if listed[key] <= CONTROL_LIMIT:
            kept.append(finding)
    rows = (_finding_row(finding, controls[finding["control"]]) for finding in kept)
    yield from table(("Status", "Severity", "Control", "Host", "Requirement", "Expected", "Observed", "Fix or waiver"), rows)
    for (control, status), number in listed.items():
        if number > CONTROL_LIMIT:
            yield left_out(number - CONTROL_LIMIT, f"hosts where {text(control)} is {text(status)}")
    yield left_out(passed, "findings that passed or do not apply")


def _finding_row(finding, control):
    waiver, evidence = finding["waiver"], "".join(f"<li><code>{text(line)}</code></li>" for line in finding["evidence"])
    detail = f"<details><summary>{len(finding['evidence'])} observations</summary><ul>{evidence}</ul></details>" if len(finding["evidence"]) > 1 else ""
    fix = text(control["remedy"]) if finding["status"] in ("fail", "unknown") else ""
    if waiver:
        fix = f"waived until {text(waiver['expires'])} by {text(waiver['owner'])}: {text(waiver['reason'])}"
    return f"{slug(finding['status'])} {slug(finding['severity'])}", (
        f"<span class=s>{text(finding['status'])}</span>", text(finding["severity"]), text(finding["control"]), text(finding["host"]),
        f"{text(control['title'])}<br><small>{text(control['witness'])}</small>", text(finding["expected"]),
        f"<code>{text(finding['observed'])}</code>{detail}", fix)


def wire_section(document):
    """The matrix: one row a source and destination address, what is not as expected first."""
    rows = [(row_result(wire_totals(row)), row) for row in document["wire"]["rows"]]
    rows.sort(key=lambda entry: entry[0] == "ok")
    missing = document["wire"]["missing"]
    untried = [("row-UNKNOWN", (*map(text, (entry["vantage"], entry["source"], entry["host"], entry["address"])), "not tried", "not tried",
                                f"<span class=UNKNOWN>{SYMBOLS[UNKNOWN]}</span>")) for entry in missing[:WIRE_LIMIT]]
    yield from table(("From", "Source", "To", "Address", "Planned ports answered", "Other ports blocked", "Result"),
                     chain(untried, (_wire_row(result, row) for result, row in rows[:WIRE_LIMIT])))
    yield left_out(len(rows) - WIRE_LIMIT, "paths") + left_out(len(missing) - WIRE_LIMIT, "paths that were not tried")


def _wire_row(result, row):
    totals = wire_totals(row)
    cells = "".join(f"<li class={slug(cell['result'])}>{text(cell['result'])}: {text(cell['observed'])} <code>{text(', '.join(cell['ports']))}</code>"
                    + (f" ({text(cell['flow'])})" if cell["flow"] else "") + "</li>" for cell in row["cells"])
    planned, other = totals[OK_OPEN] + totals[BROKEN], totals[OK_BLOCKED] + totals[LEAK]
    return f"row-{slug(result)}", (
        text(row["vantage"]), f"{text(row['source'])} ({text(row['segment'])})", text(row["host"]), f"{text(row['address'])} ({text(row['to_segment'])})",
        f"{totals[OK_OPEN]} of {planned}" if planned else "none planned", f"{totals[OK_BLOCKED]} of {other}",
        f"<span class={slug(result)}>{text(SYMBOLS[result])}</span><details><summary>ports</summary><ul>{cells}</ul></details>")


def picture(document):
    """Sources on the left, the segments of each cluster on the right, an arrow for each kind of flow."""
    drawings = []
    for name, cluster in document["plan"]["clusters"].items():
        kinds = {}
        for host in cluster["nodes"]:
            for flow in document["plan"]["nodes"][host]["flows"]:
                key = (", ".join(flow["sources"][:3]) or "anyone", flow["segment"] or "every segment", f"{flow['protocol']} {', '.join(flow['ports'])}")
                kinds[key] = kinds.get(key, 0) + 1
        sources = list(dict.fromkeys(key[0] for key in kinds))
        segments = list(dict.fromkeys([*cluster["segments"], *(key[1] for key in kinds)]))
        height = 70 * max(len(sources), len(segments), 1) + 20
        left = {source: 45 + 70 * index for index, source in enumerate(sources)}
        right = {segment: 45 + 70 * index for index, segment in enumerate(segments)}
        shapes, labels = [], {}
        for (source, segment, ports), number in kinds.items():
            start, end = left[source], right[segment]
            shapes.append(f'<path d="M230 {start} C 400 {start}, 480 {end}, 650 {end}" marker-end="url(#arrow)"/>')
            labels.setdefault((source, segment), []).append(f"{ports} ({number} {'node' if number == 1 else 'nodes'})")
        for (source, segment), lines in labels.items():
            middle = (left[source] + right[segment]) / 2 - 6 * len(lines)
            words = lines if len(lines) <= 3 else [*lines[:3], f"and {len(lines) - 3} more"]
            shapes += [f'<text x="440" y="{middle + 15 * index:.0f}" text-anchor="middle">{text(line[:70])}</text>' for index, line in enumerate(words)]
        for source, y in left.items():
            shapes.append(f'<rect x="10" y="{y - 22}" width="220" height="44" rx="6"/><text x="20" y="{y + 5}">{text(source[:30])}</text>')
        for segment, y in right.items():
            networks = ", ".join(cluster["segments"].get(segment, []))
            shapes.append(f'<rect x="660" y="{y - 22}" width="250" height="44" rx="6"/><text x="670" y="{y - 3}">{text(segment)}</text>'
                          f'<text x="670" y="{y + 14}">{text(networks[:38])}</text>')
        drawings.append(
            f"<figure><figcaption>Cluster {text(name)}, {len(cluster['nodes'])} nodes; whatever has no arrow is refused</figcaption>"
            f'<svg viewBox="0 0 920 {height}" role="img" aria-label="Allowed flows of cluster {text(name)}">'
            f'<defs>{ARROW}</defs>{"".join(shapes)}</svg></figure>')
    return "".join(drawings)


def flows_section(document):
    """Who may open a connection to whom, and why."""
    flows = [(host, flow) for host, node in document["plan"]["nodes"].items() for flow in node["flows"]]
    yield from table(("Node", "Flow", "From", "To", "Segment", "Protocol", "Ports", "Reason"), (("", map(text, (
        host, flow["name"], ", ".join(flow["sources"]) or "anyone", ", ".join(flow["destinations"]) or "every address", flow["segment"] or "",
        flow["protocol"], ", ".join(flow["ports"]), flow["reason"]))) for host, flow in flows[:FLOW_LIMIT]))
    yield left_out(len(flows) - FLOW_LIMIT, "flows")


def deviations_section(document):
    """When each deviation began, was seen, was corrected, and by whom: those that are open first."""
    found = document.get("deviations") or []
    if not found:
        return
    rows = []
    for one in found:
        began = one["began"] or (f"after {one['began_after']}" if one["began_after"] else "")
        cells = (one["host"], one["control"] or "guard", one["what"], began, one["seen"], one["corrected"] or "open", one["by"] or "",
                 one.get("changed_by") or "")
        rows.append(("pass" if one["corrected"] else "fail", [*map(text, cells), "<br>".join(map(text, one["explained"][:8]))]))
    yield "<h2>Deviations, the open ones first</h2>"
    yield from table(("Host", "Control", "What", "Began", "Seen", "Corrected", "Corrected by", "Changed by", "What was put right"), rows)


def history_section(document):
    """Earlier runs whose results lay in the same directory, the newest first."""
    runs = document.get("history") or []
    if not runs:
        return
    rows = [(slug(run["verdict"]), map(text, (run["generated"], run["verdict"], *(run["counts"][name] for name in COUNTED), run["leaks"], run["broken"])))
            for run in reversed(runs)]
    yield "<h2>History</h2>"
    yield from table(("When", "Verdict", "Failed", "Unknown", "Waived", "Passed", "Leaks", "Broken"), rows)

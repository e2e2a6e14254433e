# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The report as one HTML file: no request, no script, everything escaped, a content policy that forbids the rest.

Filters are check boxes whose state the style sheet reads, so that they need no script.
"""

from __future__ import annotations

from html import escape

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import SEVERITIES
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judge import STATUSES
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report import row_result, verdict_sentence, wire_totals
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import BROKEN, LEAK, OK_BLOCKED, OK_OPEN, RESULTS, UNKNOWN

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
ORDER = {"fail": 0, "unknown": 1, "waived": 2, "pass": 3, "not applicable": 4}
SYMBOLS = {"ok": "= ok", LEAK: "! LEAK", BROKEN: "x BROKEN", UNKNOWN: "? UNKNOWN"}
MARKS = {"pass": "\u00b7", "fail": "\u2715", "waived": "w", "not applicable": "\u00a0", "unknown": "?"}
ARROW = '<marker id="arrow" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto"><path d="M0 0 L8 4 L0 8"/></marker>'
# Beyond this many, passes are counted in the table of controls and not listed; the heat map and report.json have them all.
ROW_LIMIT = 5000
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
.heat { font: .8rem/1 ui-monospace, monospace; width: auto; } .heat th, .heat td { padding: .25rem .3rem; text-align: center; border: 1px solid var(--line); }
.heat th:first-child { text-align: left; white-space: nowrap; } .heat thead th { writing-mode: vertical-rl; }
.heat td.fail { background: var(--bad); color: Canvas; } .heat td.unknown { background: var(--gap); color: Canvas; } .heat td.waived { color: var(--waived); }
svg { max-width: 100%; height: auto; } svg text { font: 13px system-ui, sans-serif; fill: CanvasText; }
svg rect { fill: Canvas; stroke: CanvasText; } svg path { stroke: var(--ok); fill: none; stroke-width: 1.5; }
@media print { body { margin: 0; max-width: none; font-size: 9pt; } thead th { position: static; } .filter { display: none; } tr { break-inside: avoid; } }
"""


def text(value):
    """Any value, escaped."""
    return escape(str(value), quote=True)


def slug(value):
    """A status or severity as the name of a class."""
    return text(value).replace(" ", "-")


def table(head, rows):
    """A table; rows are (class, cells), cells are HTML already."""
    head_cells = "".join(f"<th scope=col>{text(cell)}</th>" for cell in head)
    body = "".join(f'<tr class="{name}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n" for name, cells in rows)
    return f"<div class=scroll><table><thead><tr>{head_cells}</tr></thead><tbody>\n{body}</tbody></table></div>"


def render_html(document):
    """The whole page, as text."""
    counts, wire, coverage = document["counts"], document["wire"]["counts"], document["coverage"]
    items = "".join(f"<li class='{slug(status)} s'><b>{counts[status]}</b>{text(status)}</li>" for status in STATUSES)
    ports = "".join(f"<li class={slug(result)}><b>{wire[result]}</b>{text(result)}</li>" for result in RESULTS)
    gaps = [(host, "not observed", reason) for host, reason in coverage["not_observed"].items()]
    gaps += [(host, "not probed from", reason) for host, reason in coverage["not_probed"].items()]
    missing = table(("Host", "What is missing", "Reason"), [("unknown", map(text, row)) for row in gaps]) if gaps else ""
    rules = "".join(f"body:has(#s-{slug(status)}:not(:checked)) .findings tr.{slug(status)} {{ display: none; }}\n" for status in STATUSES)
    rules += "".join(f"body:has(#v-{name}:not(:checked)) .findings tr.{name} {{ display: none; }}\n" for name in SEVERITIES)
    rules += "body:has(#w-ok:not(:checked)) .wire tr.row-ok { display: none; }\n"
    return f"""<!DOCTYPE html>
<html lang=en><head><meta charset=utf-8>
<meta http-equiv="Content-Security-Policy" content="{text(POLICY)}">
<meta name=viewport content="width=device-width, initial-scale=1">
<title>Audit: {text(document['verdict'])}</title><style>{STYLE}{rules}</style></head><body>
<h1>Hardening audit</h1>
<p class="verdict {slug(document['verdict'])}">{text(verdict_sentence(document))}</p>
<p>As of {text(document['generated'])}; {text(coverage['probes'])} probes sent.</p>
<ul class=counts aria-label="Controls">{items}</ul>
<ul class=counts aria-label="Ports tried">{ports}</ul>
{missing}
<h2>Hosts by controls</h2>
{heat_map(document)}
<h2>Controls</h2>
{filters([("s-" + slug(status), status, True) for status in STATUSES] + [("v-" + name, name, True) for name in SEVERITIES])}
<div class=findings>{controls_table(document)}</div>
<h2>Segments and allowed flows</h2>
{picture(document)}
<h2>Reachability, expected against observed</h2>
{filters([("w-ok", "also what is as expected", True)])}
<div class=wire>{wire_section(document)}</div>
<h2>Planned flows</h2>
{flows_section(document)}
{history_section(document)}
</body></html>
"""


def filters(boxes):
    """A row of check boxes: (id, label, whether it is checked)."""
    return "<div class=filter>" + "".join(f"<label><input type=checkbox id={name}{' checked' if checked else ''}> {text(label)}</label>"
                                          for name, label, checked in boxes) + "</div>"


def heat_map(document):
    """A line a host, a cell a control; hosts where nothing is wrong are one line together where there are many."""
    order = [control["id"] for control in document["controls"]]
    hosts = {}
    for finding in document["findings"]:
        hosts.setdefault(finding["host"], {})[finding["control"]] = finding["status"]
    clean = [host for host, cells in hosts.items() if not set(cells.values()) & {"fail", "unknown", "waived"}]
    shown = list(hosts) if len(hosts) <= 100 else [host for host in hosts if host not in set(clean)]
    titles = {control["id"]: control["title"] for control in document["controls"]}
    head = "".join(f"<th scope=col title='{text(titles[name])}'>{text(name)}</th>" for name in order)
    body = "".join(f"<tr><th scope=row>{text(host)}</th>" + "".join(
        f"<td class={slug(hosts[host].get(name, 'unknown'))}>{MARKS[hosts[host].get(name, 'unknown')]}</td>" for name in order) + "</tr>\n" for host in shown)
    rest = "" if len(shown) == len(hosts) else f"<p>{len(hosts) - len(shown)} more hosts, where nothing failed and nothing is unknown.</p>"
    legend = "<p>\u2715 fail, ? unknown, w waived, \u00b7 pass, empty: not applicable</p>"
    return f"<div class=scroll><table class=heat><thead><tr><th scope=col>Host</th>{head}</tr></thead><tbody>\n{body}</tbody></table></div>{rest}{legend}"


def controls_table(document):
    """One row a finding, what failed first."""
    controls = {control["id"]: control for control in document["controls"]}
    severity = {name: index for index, name in enumerate(SEVERITIES)}
    ordered = sorted(document["findings"], key=lambda item: (ORDER[item["status"]], severity[item["severity"]], item["control"]))
    rows, left = [], 0
    for finding in ordered:
        if len(rows) >= ROW_LIMIT and finding["status"] in ("pass", "not applicable"):
            left += 1
            continue
        control, waiver = controls[finding["control"]], finding["waiver"]
        evidence = "".join(f"<li><code>{text(line)}</code></li>" for line in finding["evidence"])
        detail = f"<details><summary>{len(finding['evidence'])} observations</summary><ul>{evidence}</ul></details>" if len(finding["evidence"]) > 1 else ""
        fix = text(control["remedy"]) if finding["status"] in ("fail", "unknown") else ""
        if waiver:
            fix = f"waived until {text(waiver['expires'])} by {text(waiver['owner'])}: {text(waiver['reason'])}"
        rows.append((f"{slug(finding['status'])} {slug(finding['severity'])}", (
            f"<span class=s>{text(finding['status'])}</span>", text(finding["severity"]), text(finding["control"]), text(finding["host"]),
            f"{text(control['title'])}<br><small>{text(control['witness'])}</small>", text(finding["expected"]),
            f"<code>{text(finding['observed'])}</code>{detail}", fix)))
    more = f"<p>{left} more findings that passed or do not apply are in report.json.</p>" if left else ""
    return table(("Status", "Severity", "Control", "Host", "Requirement", "Expected", "Observed", "Fix or waiver"), rows) + more


def wire_section(document):
    """The matrix: one row a source and destination address, what is not as expected first."""
    rows = []
    for row in document["wire"]["rows"]:
        totals = wire_totals(row)
        result = row_result(totals)
        cells = "".join(f"<li class={slug(cell['result'])}>{text(cell['result'])}: {text(cell['observed'])} <code>{text(', '.join(cell['ports']))}</code>"
                        + (f" ({text(cell['flow'])})" if cell["flow"] else "") + "</li>" for cell in row["cells"])
        planned, other = totals[OK_OPEN] + totals[BROKEN], totals[OK_BLOCKED] + totals[LEAK]
        rows.append((f"row-{slug(result)}", (
            text(row["vantage"]), f"{text(row['source'])} ({text(row['segment'])})", text(row["host"]), f"{text(row['address'])} ({text(row['to_segment'])})",
            f"{totals[OK_OPEN]} of {planned}" if planned else "none planned", f"{totals[OK_BLOCKED]} of {other}",
            f"<span class={slug(result)}>{text(SYMBOLS[result])}</span><details><summary>ports</summary><ul>{cells}</ul></details>")))
    rows += [("row-UNKNOWN", (text(entry["vantage"]), text(entry["source"]), text(entry["host"]), text(entry["address"]), "not tried", "not tried",
                              f"<span class=UNKNOWN>{SYMBOLS[UNKNOWN]}</span>")) for entry in document["wire"]["missing"]]
    rows.sort(key=lambda row: row[0] == "row-ok")
    kept = rows[:max(ROW_LIMIT, sum(row[0] != "row-ok" for row in rows[:2 * ROW_LIMIT]))]
    more = f"<p>{len(rows) - len(kept)} more rows are in report.json.</p>" if len(kept) < len(rows) else ""
    return table(("From", "Source", "To", "Address", "Planned ports answered", "Other ports blocked", "Result"), kept) + more


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
    rows = []
    for host, node in document["plan"]["nodes"].items():
        for flow in node["flows"]:
            ends = (", ".join(flow["sources"]) or "anyone", ", ".join(flow["destinations"]) or "every address")
            rows.append(("", map(text, (host, flow["name"], *ends, flow["segment"] or "", flow["protocol"], ", ".join(flow["ports"]), flow["reason"]))))
    more = f"<p>{len(rows) - FLOW_LIMIT} more flows are in report.json.</p>" if len(rows) > FLOW_LIMIT else ""
    return table(("Node", "Flow", "From", "To", "Segment", "Protocol", "Ports", "Reason"), rows[:FLOW_LIMIT]) + more


def history_section(document):
    """Earlier runs whose results lay in the same directory, the newest first."""
    runs = document.get("history") or []
    if not runs:
        return ""
    names = ("fail", "unknown", "waived", "pass")
    rows = [(slug(run["verdict"]), map(text, (run["generated"], run["verdict"], *(run["counts"][name] for name in names), run["leaks"], run["broken"])))
            for run in reversed(runs)]
    return "<h2>History</h2>" + table(("When", "Verdict", "Failed", "Unknown", "Waived", "Passed", "Leaks", "Broken"), rows)

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The report as one HTML file: no request, no script needed, everything escaped, a content policy that forbids the rest."""

from __future__ import annotations

from html import escape

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judge import STATUSES
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report import row_result, verdict_sentence, wire_totals
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import BROKEN, LEAK, OK_BLOCKED, OK_OPEN, RESULTS, UNKNOWN

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root { color-scheme: light dark; --line: #8884; --ok: #2563eb; --bad: #b91c1c; --gap: #92400e; }
@media (prefers-color-scheme: dark) { :root { --ok: #7aa2ff; --bad: #ff8a80; --gap: #ffc46b; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; background: Canvas; } code { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
.verdict { border-left: .4rem solid var(--gap); padding: .6rem 1rem; font-size: 1.1rem; }
.verdict.compliant { border-color: var(--ok); } .verdict.findings { border-color: var(--bad); }
.fail, .LEAK, .BROKEN { color: var(--bad); font-weight: 600; } .unknown, .UNKNOWN { color: var(--gap); font-weight: 600; } .pass, .ok { color: var(--ok); }
.counts { display: flex; flex-wrap: wrap; gap: .6rem 2rem; list-style: none; padding: 0; } .counts b { font-size: 1.3rem; margin-right: .3rem; }
.scroll { overflow-x: auto; } summary { cursor: pointer; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; } thead th { position: static; } details { display: block; } tr { break-inside: avoid; } }
"""
SYMBOLS = {"ok": "= ok", LEAK: "! LEAK", BROKEN: "x BROKEN", UNKNOWN: "? UNKNOWN"}


def text(value):
    """Any value, escaped."""
    return escape(str(value), quote=True)


def table(head, rows):
    """A table of cells that are HTML already."""
    head_cells = "".join(f"<th scope=col>{text(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class=scroll><table><thead><tr>{head_cells}</tr></thead><tbody>\n{body}</tbody></table></div>'


def render_html(document):
    """The whole page, as text."""
    counts, wire, coverage = document["counts"], document["wire"]["counts"], document["coverage"]
    items = "".join(f"<li class='{status.replace(' ', '-')}'><b>{counts[status]}</b>{text(status)}</li>" for status in STATUSES)
    probes = "".join(f"<li class={result}><b>{wire[result]}</b>{text(result)}</li>" for result in RESULTS)
    gaps = [(host, "not observed", reason) for host, reason in coverage["not_observed"].items()]
    gaps += [(host, "not probed from", reason) for host, reason in coverage["not_probed"].items()]
    missing = table(("Host", "What is missing", "Reason"), [tuple(map(text, row)) for row in gaps]) if gaps else ""
    return f"""<!DOCTYPE html>
<html lang=en><head><meta charset=utf-8>
<meta http-equiv="Content-Security-Policy" content="{text(POLICY)}">
<meta name=viewport content="width=device-width, initial-scale=1">
<title>Audit: {text(document['verdict'])}</title><style>{STYLE}</style></head><body>
<h1>Hardening audit</h1>
<p class="verdict {text(document['verdict'])}">{text(verdict_sentence(document))}</p>
<p>As of {text(document['generated'])}; {coverage['probes']} probes sent.</p>
<ul class=counts aria-label="Controls">{items}</ul>
<ul class=counts aria-label="Ports tried">{probes}</ul>
{missing}
<h2>Controls</h2>
{controls_table(document)}
<h2>Reachability, expected against observed</h2>
{wire_section(document)}
<h2>Planned flows</h2>
{flows_section(document)}
</body></html>
"""


def controls_table(document):
    """One row a finding, what failed first."""
    controls = {control["id"]: control for control in document["controls"]}
    order = {"fail": 0, "unknown": 1, "waived": 2, "pass": 3, "not applicable": 4}
    severity = {name: index for index, name in enumerate(("critical", "high", "medium", "low"))}
    rows = []
    for finding in sorted(document["findings"], key=lambda item: (order[item["status"]], severity[item["severity"]], item["control"])):
        control = controls[finding["control"]]
        evidence = "".join(f"<li><code>{text(line)}</code></li>" for line in finding["evidence"])
        detail = f"<details><summary>{len(finding['evidence'])} observations</summary><ul>{evidence}</ul></details>" if len(finding["evidence"]) > 1 else ""
        fix = text(control["remedy"]) if finding["status"] in ("fail", "unknown") else ""
        rows.append(
            (
                f"<span class='{text(finding['status'])}'>{text(finding['status'])}</span>",
                text(finding["severity"]),
                text(finding["control"]),
                text(finding["host"]),
                text(control["title"]),
                text(finding["expected"]),
                f"<code>{text(finding['observed'])}</code>{detail}",
                fix,
            )
        )
    return table(("Status", "Severity", "Control", "Host", "Requirement", "Expected", "Observed", "Fix"), rows)


def wire_section(document):
    """The matrix: one row a source and destination address."""
    rows = []
    for row in document["wire"]["rows"]:
        totals = wire_totals(row)
        result = row_result(totals)
        cells = "".join(f"<li class={text(cell['result'])}>{text(cell['result'])}: {text(cell['observed'])} <code>{text(', '.join(cell['ports']))}</code>"
                        + (f" ({text(cell['flow'])})" if cell["flow"] else "") + "</li>" for cell in row["cells"])
        planned, other = totals[OK_OPEN] + totals[BROKEN], totals[OK_BLOCKED] + totals[LEAK]
        rows.append((result == "ok", (
            text(row["vantage"]), f"{text(row['source'])} ({text(row['segment'])})", text(row["host"]), f"{text(row['address'])} ({text(row['to_segment'])})",
            f"{totals[OK_OPEN]} of {planned}" if planned else "none planned", f"{totals[OK_BLOCKED]} of {other}",
            f"<span class={result}>{text(SYMBOLS[result])}</span><details><summary>ports</summary><ul>{cells}</ul></details>")))
    rows += [(False, (text(entry["vantage"]), text(entry["source"]), text(entry["host"]), text(entry["address"]), "not tried", "not tried",
                      f"<span class=UNKNOWN>{SYMBOLS[UNKNOWN]}</span>")) for entry in document["wire"]["missing"]]
    rows.sort(key=lambda row: row[0])
    return table(("From", "Source", "To", "Address", "Planned ports answered", "Other ports blocked", "Result"), [cells for _ok, cells in rows])


def flows_section(document):
    """Who may open a connection to whom, and why."""
    rows = [
        tuple(
            map(
                text,
                (
                    host,
                    flow["name"],
                    ", ".join(flow["sources"]) or "anyone",
                    ", ".join(flow["destinations"]) or "every address",
                    flow["segment"] or "",
                    flow["protocol"],
                    ", ".join(flow["ports"]),
                    flow["reason"],
                ),
            )
        )
        for host, node in document["plan"]["nodes"].items()
        for flow in node["flows"]
    ]
    return table(("Node", "Flow", "From", "To", "Segment", "Protocol", "Ports", "Reason"), rows)

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The results document in the formats of other tools. Each is a pure function of the document, so that all of them count alike.

JUnit XML as CI servers read it; SARIF 2.1.0 (OASIS); OSCAL assessment results 1.1.2 (NIST); CSV (RFC 4180); Prometheus text format 0.0.4.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
import uuid
from xml.etree import ElementTree

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
OSCAL_VERSION = "1.1.2"
NAMESPACE = uuid.UUID("6f1f0c2e-6f6b-5b0e-9a53-7d2d1c7b3f10")
HOMEPAGE = "https://example.org/vllm_mindspore/hardening"
LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "note"}
KINDS = {"pass": "pass", "fail": "fail", "waived": "fail", "not applicable": "notApplicable", "unknown": "open"}
# XML 1.0 allows no other characters below the space; json and csv escape what they must.
NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _controls(document):
    return {control["id"]: control for control in document["controls"]}


def _xml(value):
    return NOT_XML.sub("?", str(value))


def render_json(document):
    """The document itself."""
    return json.dumps(document, indent=1) + "\n"


def render_junit(document):
    """One test suite a host, one test case a control: failed, in error (unknown), or skipped (waived, not applicable)."""
    controls, counts = _controls(document), document["counts"]
    skipped = counts["waived"] + counts["not applicable"]
    root = ElementTree.Element("testsuites", name="vllm_mindspore.hardening", tests=str(len(document["findings"])), failures=str(counts["fail"]),
                               errors=str(counts["unknown"]), skipped=str(skipped), time="0")
    hosts = {}
    for finding in document["findings"]:
        hosts.setdefault(finding["host"], []).append(finding)
    for host, findings in hosts.items():
        number = {status: sum(finding["status"] == status for finding in findings) for status in counts}
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_xml(host),
            tests=str(len(findings)),
            failures=str(number["fail"]),
            errors=str(number["unknown"]),
            skipped=str(number["waived"] + number["not applicable"]),
            timestamp=document["generated"][:19],
            hostname=_xml(host),
            time="0",
        )
        for finding in findings:
            case = ElementTree.SubElement(
                suite, "testcase", classname=_xml(host), name=_xml(f"{finding['control']} {controls[finding['control']]['title']}"), time="0"
            )
            message = _xml(finding["observed"])
            if finding["status"] in ("fail", "unknown"):
                tag = "failure" if finding["status"] == "fail" else "error"
                detail = ElementTree.SubElement(case, tag, message=message, type=finding["severity"])
                detail.text = _xml("\n".join([f"expected: {finding['expected']}", *finding["evidence"], f"fix: {controls[finding['control']]['remedy']}"]))
            elif finding["status"] == "waived":
                waiver = finding["waiver"]
                ElementTree.SubElement(case, "skipped", message=_xml(f"waived until {waiver['expires']} by {waiver['owner']}: {waiver['reason']}"))
            elif finding["status"] == "not applicable":
                ElementTree.SubElement(case, "skipped", message=message)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def render_sarif(document):
    """SARIF 2.1.0: a rule a control, a result a finding; a waiver is an accepted suppression."""
    rules = [{
        "id": control["id"], "name": re.sub(r"[^A-Za-z0-9]", "", control["title"].title()), "shortDescription": {"text": control["title"]},
        "fullDescription": {"text": control["rationale"]}, "help": {"text": control["remedy"]}, "defaultConfiguration": {"level": LEVELS[control["severity"]]},
        "properties": {"severity": control["severity"], "witness": control["witness"], "sources": control["sources"]},
    } for control in document["controls"]]
    index = {rule["id"]: number for number, rule in enumerate(rules)}
    results = []
    for finding in document["findings"]:
        kind = KINDS[finding["status"]]
        result = {
            "ruleId": finding["control"],
            "ruleIndex": index[finding["control"]],
            "kind": kind,
            "level": LEVELS[finding["severity"]] if kind == "fail" else "none",
            "message": {"text": finding["observed"] or finding["status"]},
            "locations": [
                {"logicalLocations": [{"name": finding["host"], "kind": "resource", "fullyQualifiedName": f"{finding['host']}/{finding['control']}"}]}
            ],
            "partialFingerprints": {"hostControl/v1": str(uuid.uuid5(NAMESPACE, f"{finding['host']}/{finding['control']}"))},
            "properties": {"status": finding["status"], "expected": finding["expected"], "evidence": finding["evidence"]},
        }
        if finding["status"] == "waived":
            waiver = finding["waiver"]
            result["suppressions"] = [
                {"kind": "external", "status": "accepted", "justification": f"{waiver['reason']} ({waiver['owner']}, until {waiver['expires']})"}
            ]
        results.append(result)
    run = {
        "tool": {"driver": {"name": document["generator"], "informationUri": HOMEPAGE, "rules": rules}},
        "invocations": [
            {
                "executionSuccessful": document["verdict"] != "incomplete",
                "endTimeUtc": document["generated"].replace("+00:00", "Z"),
                "exitCode": document["exit_status"],
            }
        ],
        "results": results,
        "columnKind": "unicodeCodePoints",
    }
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def render_csv(document):
    """One row a finding. A cell that a spreadsheet would take for a formula is quoted as text."""
    controls, stream = _controls(document), io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(
        ("host", "control", "status", "severity", "witness", "title", "expected", "observed", "fix", "waived until", "waiver owner", "waiver reason")
    )
    for finding in document["findings"]:
        control, waiver = controls[finding["control"]], finding["waiver"] or {}
        row = (
            finding["host"],
            finding["control"],
            finding["status"],
            finding["severity"],
            control["witness"],
            control["title"],
            finding["expected"],
            "; ".join(finding["evidence"]) or finding["observed"],
            control["remedy"],
            waiver.get("expires", ""),
            waiver.get("owner", ""),
            waiver.get("reason", ""),
        )
        writer.writerow(["'" + cell if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell for cell in map(str, row)])
    return stream.getvalue()


def _label(value):
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def render_prometheus(document):
    """Counts, the time of the run, and a sample a control that failed or is unknown; for the textfile collector of node_exporter."""
    lines = []

    def family(name, text, samples):
        lines.extend([f"# HELP {name} {text}", f"# TYPE {name} gauge"])
        for labels, value in samples:
            inner = ",".join(f'{key}="{_label(item)}"' for key, item in labels.items())
            lines.append(f"{name}{{{inner}}} {value}" if inner else f"{name} {value}")

    when = _timestamp(document["generated"])
    family("vllm_audit_timestamp_seconds", "When the audit ended.", [({}, when)])
    family("vllm_audit_exit_status", "0 compliant, 2 findings, 3 incomplete.", [({}, document["exit_status"])])
    family("vllm_audit_findings", "Controls on hosts by status.", [({"status": status}, count) for status, count in document["counts"].items()])
    family("vllm_audit_ports", "Ports tried by result.", [({"result": result}, count) for result, count in document["wire"]["counts"].items()])
    coverage = document["coverage"]
    family(
        "vllm_audit_hosts", "Nodes of the plan, and those observed.", [({"kind": "planned"}, coverage["nodes"]), ({"kind": "observed"}, coverage["observed"])]
    )
    family("vllm_audit_control", "Controls that failed (1) or are unknown (2).", [
        ({"host": finding["host"], "control": finding["control"], "severity": finding["severity"]}, 1 if finding["status"] == "fail" else 2)
        for finding in document["findings"] if finding["status"] in ("fail", "unknown")])
    return "\n".join(lines) + "\n"


def _timestamp(text):
    """Seconds since the epoch of an ISO 8601 time."""
    return int(datetime.datetime.fromisoformat(text).timestamp())


def _uuid(*parts):
    return str(uuid.uuid5(NAMESPACE, "/".join(parts)))


def _statement(text):
    return " ".join(str(text).split()) or "none"


def render_oscal(document):
    """OSCAL assessment results: an observation and a finding for every control on every host; waivers as deviation risks."""
    controls, when, run = _controls(document), document["generated"], document["generated"]
    subjects = {host: _uuid("host", host) for host in document["plan"]["nodes"]}
    observations, findings, risks = [], [], []
    states = {"pass": "satisfied", "not applicable": "satisfied", "fail": "not-satisfied", "waived": "not-satisfied", "unknown": "not-satisfied"}
    for finding in document["findings"]:
        key = (run, finding["host"], finding["control"])
        observation = {
            "uuid": _uuid("observation", *key), "description": _statement(finding["observed"]), "methods": ["TEST"], "types": ["control-objective"],
            "subjects": [{"subject-uuid": subjects[finding["host"]], "type": "inventory-item"}], "collected": when,
            "props": [{"name": "status", "ns": HOMEPAGE, "value": finding["status"].replace(" ", "-")}],
        }
        if finding["evidence"]:
            observation["relevant-evidence"] = [{"description": _statement(line)} for line in finding["evidence"]]
        observations.append(observation)
        entry = {
            "uuid": _uuid("finding", *key),
            "title": f"{finding['control']} {controls[finding['control']]['title']}",
            "description": _statement(controls[finding["control"]]["rationale"]),
            "target": {
                "type": "objective-id",
                "target-id": finding["control"].lower(),
                "status": {"state": states[finding["status"]], "reason": {"pass": "pass", "fail": "fail"}.get(finding["status"], "other")},
            },
            "related-observations": [{"observation-uuid": observation["uuid"]}],
        }
        if finding["status"] in ("fail", "waived"):
            risk = {"uuid": _uuid("risk", *key), "title": entry["title"], "description": _statement(finding["observed"]),
                    "statement": _statement(controls[finding["control"]]["rationale"]), "status": "open"}
            if finding["waiver"]:
                waiver = finding["waiver"]
                risk.update(status="deviation-approved", deadline=f"{waiver['expires']}T23:59:59+00:00")
                risk["props"] = [{"name": "waiver-owner", "ns": HOMEPAGE, "value": _statement(waiver["owner"])}]
                risk["mitigating-factors"] = [{"uuid": _uuid("waiver", *key), "description": _statement(waiver["reason"])}]
            risks.append(risk)
            entry["related-risks"] = [{"risk-uuid": risk["uuid"]}]
        findings.append(entry)
    result = {
        "uuid": _uuid("result", run), "title": "Hardening audit", "description": _statement(f"Verdict: {document['verdict']}"), "start": when, "end": when,
        "props": [{"name": f"count-{status.replace(' ', '-')}", "ns": HOMEPAGE, "value": str(count)} for status, count in document["counts"].items()],
        "local-definitions": {"inventory-items": [{"uuid": subjects[host], "description": _statement(host)} for host in subjects]},
        "reviewed-controls": {"control-selections": [{"include-controls": [{"control-id": control.lower()} for control in controls]}]},
        "observations": observations, "findings": findings,
    }
    if risks:
        result["risks"] = risks
    whole = {
        "assessment-results": {
            "uuid": _uuid("document", run),
            "metadata": {"title": "Hardening audit", "last-modified": when, "version": str(document["version"]), "oscal-version": OSCAL_VERSION},
            "import-ap": {"href": "#" + _uuid("plan", run)},
            "results": [result],
            "back-matter": {
                "resources": [{"uuid": _uuid("plan", run), "title": "The plan of the cluster", "description": "The plan that the audit compared with."}]
            },
        }
    }
    return json.dumps(whole, indent=1) + "\n"

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The results document in the formats of other tools. Each is a pure function of the document, so that all of them count alike.

JUnit XML as CI servers read it; SARIF 2.1.0 (OASIS); OSCAL assessment results 1.2.1 (NIST); CSV (RFC 4180); Prometheus text format 0.0.4.
Each yields its text in pieces, one a finding or so: of a large fleet no format is ever in memory as a whole. What is the same in every finding
of a control or of a status is encoded once; a million findings are a matter of seconds a format then.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import re
import uuid
from html import escape

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
OSCAL_VERSION = "1.2.1"
NAMESPACE = uuid.UUID("6f1f0c2e-6f6b-5b0e-9a53-7d2d1c7b3f10")
HOMEPAGE = "https://example.org/vllm_mindspore/hardening"
LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "note"}
KINDS = {"pass": "pass", "fail": "fail", "waived": "fail", "not applicable": "notApplicable", "unknown": "open"}
STATES = {"pass": "satisfied", "not applicable": "satisfied", "fail": "not-satisfied", "waived": "not-satisfied", "unknown": "not-satisfied"}
VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
QUOTED_CSV = re.compile('[,"\\r\\n]').search
FORMULA = ("=", "+", "-", "@", "\t", "\r")
# XML 1.0 allows no other characters below the space; the others escape what they must.
NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
encode = json.JSONEncoder(check_circular=False).encode
quoted = json.encoder.encode_basestring_ascii
# Many findings say the same, such as that all is as expected.
quoted_often = functools.lru_cache(4096)(quoted)


def _controls(document):
    return {control["id"]: control for control in document["controls"]}


@functools.lru_cache(4096)
def _xml(value):
    return escape(NOT_XML.sub("?", str(value)), quote=True)


def _elements(values):
    """The members of a JSON array, which are encoded already, one a line."""
    separator = "\n"
    for value in values:
        yield separator + value
        separator = ",\n"


def _json(value, depth):
    """A JSON value in pieces: objects down to `depth` a member a line, arrays an element a line."""
    if depth and isinstance(value, dict) and value:
        separator = "{"
        for key, item in value.items():
            yield f"{separator}\n{encode(str(key))}: "
            yield from _json(item, depth - 1)
            separator = ","
        yield "\n}"
    elif depth and isinstance(value, list) and value:
        yield "["
        yield from _elements(map(encode, value))
        yield "\n]"
    else:
        yield encode(value)


def render_json(document):
    """The document itself."""
    yield from _json(document, 3)
    yield "\n"


def _case(host, finding, control):
    """A finding as a JUnit test case; `host` is escaped already."""
    status = finding["status"]
    head = f'  <testcase classname="{host}" name="{finding["control"]} {_xml(control["title"])}" time="0"'
    if status == "pass":
        return f"{head}/>\n"
    if status in ("fail", "unknown"):
        tag = "failure" if status == "fail" else "error"
        detail = "\n".join([f"expected: {finding['expected']}", *finding["evidence"], f"fix: {control['remedy']}"])
        inner = f'<{tag} message="{_xml(finding["observed"])}" type="{finding["severity"]}">{_xml(detail)}</{tag}>'
    else:
        waiver = finding["waiver"]
        words = f"waived until {waiver['expires']} by {waiver['owner']}: {waiver['reason']}" if status == "waived" else finding["observed"]
        inner = f'<skipped message="{_xml(words)}"/>'
    return f"{head}>{inner}</testcase>\n"


def render_junit(document):
    """One test suite a host, one test case a control: failed, in error (unknown), or skipped (waived, not applicable)."""
    controls, counts = _controls(document), document["counts"]
    hosts = {}
    for finding in document["findings"]:
        hosts.setdefault(finding["host"], []).append(finding)
    yield ('<?xml version="1.0" encoding="UTF-8"?>\n'
           f'<testsuites name="vllm_mindspore.hardening" tests="{len(document["findings"])}" failures="{counts["fail"]}"'
           f' errors="{counts["unknown"]}" time="0">\n')
    for host, findings in hosts.items():
        name, number = _xml(host), dict.fromkeys(counts, 0)
        for finding in findings:
            number[finding["status"]] += 1
        yield (f' <testsuite name="{name}" tests="{len(findings)}" failures="{number["fail"]}" errors="{number["unknown"]}"'
               f' skipped="{number["waived"] + number["not applicable"]}" timestamp="{document["generated"][:19]}" hostname="{name}" time="0">\n')
        yield "".join([_case(name, finding, controls[finding["control"]]) for finding in findings])
        yield " </testsuite>\n"
    yield "</testsuites>\n"


def _sarif_rule(control):
    return {
        "id": control["id"], "name": re.sub(r"[^A-Za-z0-9]", "", control["title"].title()), "shortDescription": {"text": control["title"]},
        "fullDescription": {"text": control["rationale"]}, "help": {"text": control["remedy"]}, "defaultConfiguration": {"level": LEVELS[control["severity"]]},
        "properties": {"severity": control["severity"], "witness": control["witness"], "sources": control["sources"]},
    }


def _sarif_result(finding, rule):
    """`rule` is what all results of the rule have in common."""
    status, host = finding["status"], quoted(finding["host"])
    place = f"{finding['host']}/{finding['control']}"
    level = LEVELS[finding["severity"]] if KINDS[status] == "fail" else "none"
    suppressions = ""
    if status == "waived":
        waiver = finding["waiver"]
        words = f"{waiver['reason']} ({waiver['owner']}, until {waiver['expires']})"
        suppressions = f', "suppressions": [{{"kind": "external", "status": "accepted", "justification": {quoted(words)}}}]'
    return (
        f'{{{rule}, "kind": "{KINDS[status]}", "level": "{level}", "message": {{"text": {quoted_often(finding["observed"] or status)}}}, '
        f'"locations": [{{"logicalLocations": [{{"name": {host}, "kind": "resource", "fullyQualifiedName": {quoted(place)}}}]}}], '
        f'"partialFingerprints": {{"hostControl/v1": "{fingerprint(place)}"}}, "properties": {{"status": "{status}", '
        f'"expected": {quoted(finding["expected"])}, "evidence": {encode(finding["evidence"]) if finding["evidence"] else "[]"}}}{suppressions}}}')


def render_sarif(document):
    """SARIF 2.1.0: a rule a control, a result a finding; a waiver is an accepted suppression."""
    rules = [_sarif_rule(control) for control in document["controls"]]
    common = {rule["id"]: f'"ruleId": {quoted(rule["id"])}, "ruleIndex": {number}' for number, rule in enumerate(rules)}
    driver = {"name": document["generator"], "informationUri": HOMEPAGE, "rules": rules}
    invocation = {
        "executionSuccessful": document["verdict"] != "incomplete", "endTimeUtc": document["generated"].replace("+00:00", "Z"),
        "exitCode": document["exit_status"]}
    yield (f'{{"$schema": {quoted(SARIF_SCHEMA)}, "version": "2.1.0", "runs": [{{"tool": {{"driver": {encode(driver)}}},\n'
           f'"invocations": [{encode(invocation)}], "columnKind": "unicodeCodePoints", "results": [')
    yield from _elements(_sarif_result(finding, common[finding["control"]]) for finding in document["findings"])
    yield "\n]}]}\n"


def _quote(text):
    """A field of CSV (RFC 4180); in quotation marks where it has to be."""
    return '"' + text.replace('"', '""') + '"' if QUOTED_CSV(text) else text


def _cell(value):
    """A field that came from a host or a user; one that a spreadsheet would take for a formula is quoted as text."""
    text = str(value)
    return _quote("'" + text if text.startswith(FORMULA) else text)


def render_csv(document):
    """One row a finding."""
    common = {control["id"]: tuple(",".join(map(_quote, words)) for words in ((control["witness"], control["title"]), (control["remedy"],)))
              for control in document["controls"]}
    yield "host,control,status,severity,witness,title,expected,observed,fix,waived until,waiver owner,waiver reason\r\n"
    for finding in document["findings"]:
        control, waiver, end = finding["control"], finding["waiver"], ",,,"
        (middle, remedy), evidence = common[control], finding["evidence"]
        if waiver:
            end = f",{_quote(waiver['expires'])},{_cell(waiver['owner'])},{_cell(waiver['reason'])}"
        yield (f"{_cell(finding['host'])},{control},{finding['status']},{finding['severity']},{middle},{_cell(finding['expected'])},"
               f"{_cell('; '.join(evidence) or finding['observed'])},{remedy}{end}\r\n")


def _label(value):
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def _family(name, words, samples):
    """A Prometheus metric: its two comments, and a line for each (labels, value)."""
    yield f"# HELP {name} {words}\n# TYPE {name} gauge\n"
    for labels, value in samples:
        inner = ",".join(f'{key}="{_label(item)}"' for key, item in labels.items())
        yield f"{name}{{{inner}}} {value}\n" if inner else f"{name} {value}\n"


def render_prometheus(document):
    """Counts, the time of the run, and a sample a control that failed or is unknown; for the textfile collector of node_exporter."""
    when = int(datetime.datetime.fromisoformat(document["generated"]).timestamp())
    coverage = document["coverage"]
    yield from _family("vllm_audit_timestamp_seconds", "When the audit ended.", [({}, when)])
    yield from _family("vllm_audit_exit_status", "0 compliant, 2 findings, 3 incomplete.", [({}, document["exit_status"])])
    yield from _family("vllm_audit_findings", "Controls on hosts by status.", [({"status": status}, count) for status, count in document["counts"].items()])
    yield from _family("vllm_audit_ports", "Ports tried by result.", [({"result": result}, count) for result, count in document["wire"]["counts"].items()])
    yield from _family("vllm_audit_hosts", "Nodes of the plan, and those observed.",
                       [({"kind": "planned"}, coverage["nodes"]), ({"kind": "observed"}, coverage["observed"])])
    yield from _family("vllm_audit_control", "Controls that failed (1) or are unknown (2).", (
        ({"host": finding["host"], "control": finding["control"], "severity": finding["severity"]}, 1 if finding["status"] == "fail" else 2)
        for finding in document["findings"] if finding["status"] in ("fail", "unknown")))


def _names(*parts):
    """A function that makes the version 5 UUID (RFC 9562, section 5.5) of a name below these parts in this collection's name space.

    What all names begin with is hashed once; uuid.uuid5 takes nearly four times as long.
    """
    start = hashlib.sha1(NAMESPACE.bytes + "".join(f"{part}/" for part in parts).encode(), usedforsecurity=False)

    def name(text):
        sha1 = start.copy()
        sha1.update(text.encode())
        digits = sha1.hexdigest()
        return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{VARIANTS[digits[16]]}{digits[17:20]}-{digits[20:32]}"
    return name


def _uuid(*parts):
    """The UUID of a name of several parts."""
    return _names(*parts[:-1])(parts[-1])


fingerprint = _names()


@functools.lru_cache(4096)
def _statement(text):
    return " ".join(str(text).split()) or "none"


@functools.lru_cache(4096)
def _quoted_statement(text):
    return quoted(_statement(text))


class _Oscal:
    """The parts of OSCAL assessment results that are one a finding, encoded."""

    def __init__(self, document):
        self.when = document["generated"]
        self.subjects = {host: _uuid("host", host) for host in document["plan"]["nodes"]}
        self.uuids = {kind: _names(kind, self.when) for kind in ("observation", "finding", "risk", "waiver")}
        self.titles, self.reasons, self.satisfied, self.common = {}, {}, {}, {}
        for control in document["controls"]:
            name = control["id"]
            self.titles[name], self.reasons[name] = encode(f"{name} {control['title']}"), _quoted_statement(control["rationale"])
            for status, state in STATES.items():
                reason = status if status in ("pass", "fail") else "other"
                target = {"type": "objective-id", "target-id": name.lower(), "status": {"state": state, "reason": reason}}
                self.satisfied[name, status] = (
                    f'"title": {self.titles[name]}, "description": {self.reasons[name]}, "target": {encode(target)}')
        for status in STATES:
            props = [{"name": "status", "ns": HOMEPAGE, "value": status.replace(" ", "-")}]
            self.common[status] = encode({"methods": ["TEST"], "types": ["control-objective"], "collected": self.when, "props": props})[1:-1]

    def uuid(self, kind, finding):
        """The UUID of the part of that kind."""
        return self.uuids[kind](f"{finding['host']}/{finding['control']}")

    def observation(self, finding):
        """What was observed."""
        evidence = ""
        if finding["evidence"]:
            evidence = f', "relevant-evidence": {encode([{"description": _statement(line)} for line in finding["evidence"]])}'
        return (f'{{"uuid": "{self.uuid("observation", finding)}", "description": {_quoted_statement(finding["observed"])}, '
                f'"subjects": [{{"subject-uuid": "{self.subjects[finding["host"]]}", "type": "inventory-item"}}], {self.common[finding["status"]]}{evidence}}}')

    def finding(self, finding):
        """Whether the control is satisfied."""
        status = finding["status"]
        risks = f', "related-risks": [{{"risk-uuid": "{self.uuid("risk", finding)}"}}]' if status in ("fail", "waived") else ""
        return (f'{{"uuid": "{self.uuid("finding", finding)}", {self.satisfied[finding["control"], status]}, '
                f'"related-observations": [{{"observation-uuid": "{self.uuid("observation", finding)}"}}]{risks}}}')

    def risk(self, finding):
        """The risk of a finding that failed; a waiver is a deviation that was approved."""
        made = {"uuid": self.uuid("risk", finding), "description": _statement(finding["observed"]), "status": "open"}
        if finding["waiver"]:
            waiver = finding["waiver"]
            made.update(status="deviation-approved", deadline=f"{waiver['expires']}T23:59:59+00:00")
            made["props"] = [{"name": "waiver-owner", "ns": HOMEPAGE, "value": _statement(waiver["owner"])}]
            made["mitigating-factors"] = [{"uuid": self.uuid("waiver", finding), "description": _statement(waiver["reason"])}]
        name = finding["control"]
        return f'{encode(made)[:-1]}, "title": {self.titles[name]}, "statement": {self.reasons[name]}}}'


def render_oscal(document):
    """OSCAL assessment results: an observation and a finding for every control on every host; waivers as deviation risks."""
    parts, when, findings = _Oscal(document), document["generated"], document["findings"]
    plan = {"uuid": _uuid("plan", when), "title": "The plan of the cluster", "description": "The plan that the audit compared with."}
    metadata = {"title": "Hardening audit", "last-modified": when, "version": str(document["version"]), "oscal-version": OSCAL_VERSION}
    head = {
        "uuid": _uuid("result", when), "title": "Hardening audit", "description": _statement(f"Verdict: {document['verdict']}"), "start": when, "end": when,
        "props": [{"name": f"count-{status.replace(' ', '-')}", "ns": HOMEPAGE, "value": str(count)} for status, count in document["counts"].items()],
        "local-definitions": {"inventory-items": [{"uuid": key, "description": _statement(host)} for host, key in parts.subjects.items()]},
        "reviewed-controls": {"control-selections": [{"include-controls": [{"control-id": control["id"].lower()} for control in document["controls"]]}]},
    }
    yield f'{{"assessment-results": {{"uuid": "{_uuid("document", when)}", "metadata": {encode(metadata)},\n'
    yield f'"import-ap": {{"href": "#{plan["uuid"]}"}}, "back-matter": {{"resources": [{encode(plan)}]}},\n"results": [{encode(head)[:-1]}'
    yield ',\n"observations": ['
    yield from _elements(map(parts.observation, findings))
    yield '\n],\n"findings": ['
    yield from _elements(map(parts.finding, findings))
    yield "\n]"
    risks = _elements(parts.risk(finding) for finding in findings if finding["status"] in ("fail", "waived"))
    first = next(risks, None)
    if first:
        # The schema allows no empty list.
        yield f',\n"risks": [{first}'
        yield from risks
        yield "\n]"
    yield "}]}}\n"

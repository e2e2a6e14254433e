# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Every format says the same, and survives what hosts say."""

from __future__ import annotations

import csv
import io
import json
import re
import uuid
from xml.etree import ElementTree

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import report_formats
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import CONTROLS
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_html import render_html
from ansible_collections.vllm_mindspore.hardening.tests.unit.plugins.plugin_utils.audit_example import every_status


@pytest.fixture(name="document")
def some_document():
    """One of every status."""
    return every_status()


def test_junit_counts_alike(document):
    root = ElementTree.fromstring("".join(report_formats.render_junit(document)).encode())
    counts = document["counts"]
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == (str(len(document["findings"])), str(counts["fail"]), str(counts["unknown"]))
    assert len(root.findall(".//testcase")) == len(document["findings"])
    assert len(root.findall(".//failure")) == counts["fail"]
    assert len(root.findall(".//error")) == counts["unknown"]
    assert len(root.findall(".//skipped")) == counts["waived"] + counts["not applicable"]
    for suite in root:
        assert int(suite.get("tests")) == len(suite.findall("testcase"))


def test_sarif_counts_alike_and_points_to_its_rules(document):
    log = json.loads("".join(report_formats.render_sarif(document)))
    run = log["runs"][0]
    assert log["version"] == "2.1.0"
    assert len(run["results"]) == len(document["findings"])
    kinds = [result["kind"] for result in run["results"]]
    counts = document["counts"]
    assert (kinds.count("fail"), kinds.count("open"), kinds.count("pass")) == (counts["fail"] + counts["waived"], counts["unknown"], counts["pass"])
    assert sum("suppressions" in result for result in run["results"]) == counts["waived"]
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert (result["level"] == "none") == (result["kind"] != "fail")
    assert len({result["partialFingerprints"]["hostControl/v1"] for result in run["results"]}) == len(run["results"])


def test_oscal_counts_alike_and_refers_to_what_is_there(document):
    whole = json.loads("".join(report_formats.render_oscal(document)))["assessment-results"]
    result = whole["results"][0]
    counts = document["counts"]
    assert len(result["findings"]) == len(result["observations"]) == len(document["findings"])
    states = [finding["target"]["status"]["state"] for finding in result["findings"]]
    assert states.count("not-satisfied") == counts["fail"] + counts["waived"] + counts["unknown"]
    assert [risk["status"] for risk in result["risks"]].count("deviation-approved") == counts["waived"]
    observed = {entry["uuid"] for entry in result["observations"]}
    risks = {entry["uuid"] for entry in result["risks"]}
    for finding in result["findings"]:
        assert {entry["observation-uuid"] for entry in finding["related-observations"]} <= observed
        assert {entry["risk-uuid"] for entry in finding.get("related-risks", [])} <= risks
    everything = re.findall(r'"uuid": "([^"]+)"', json.dumps(whole))
    assert len(everything) == len(set(everything))
    assert all(uuid.UUID(entry).version == 5 for entry in everything)


def test_csv_counts_alike_and_holds_no_formula(document):
    rows = list(csv.DictReader(io.StringIO("".join(report_formats.render_csv(document)))))
    for status, count in document["counts"].items():
        assert sum(row["status"] == status for row in rows) == count
    assert not [cell for row in rows for cell in row.values() if cell[:1] in "=+-@" and cell]


def test_prometheus_counts_alike(document):
    text = "".join(report_formats.render_prometheus(document))
    for status, count in document["counts"].items():
        assert f'vllm_audit_findings{{status="{status}"}} {count}\n' in text
    for result, count in document["wire"]["counts"].items():
        assert f'vllm_audit_ports{{result="{result}"}} {count}\n' in text
    assert len(re.findall("^vllm_audit_control{", text, re.MULTILINE)) == document["counts"]["fail"] + document["counts"]["unknown"]
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{([a-z]+="[^"\n]*",?)*\})? -?[0-9.]+', line), line


HOSTILE_NAME = "=npu02\"\\\n\r\x07</td><script>alert(1)</script>',;{}\u202e"


def renamed(value):
    """A document in which npu02 has a name that is markup, a formula and more."""
    if isinstance(value, dict):
        return {renamed(key): renamed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item) for item in value]
    return value.replace("npu02", HOSTILE_NAME) if isinstance(value, str) else value


def test_a_host_whose_name_is_markup_is_a_name_in_every_format(document):
    hostile, number = renamed(document), len(document["findings"])
    assert len(ElementTree.fromstring("".join(report_formats.render_junit(hostile)).encode()).findall(".//testcase")) == number
    for render in (report_formats.render_json, report_formats.render_sarif, report_formats.render_oscal):
        json.loads("".join(render(hostile)))
    rows = list(csv.DictReader(io.StringIO("".join(report_formats.render_csv(hostile)), newline="")))
    assert {row["host"] for row in rows} == {"npu01", f"'{HOSTILE_NAME}"}
    for line in "".join(report_formats.render_prometheus(hostile)).split("\n"):
        assert not line or re.fullmatch(r'# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)*\})? -?[0-9.]+', line), line
    assert "<script" not in "".join(render_html(hostile))


def test_json_is_the_document(document):
    assert json.loads("".join(report_formats.render_json(document))) == document


def test_every_control_is_in_every_catalogue(document):
    sarif = json.loads("".join(report_formats.render_sarif(document)))["runs"][0]["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in sarif] == [control.id for control in CONTROLS]

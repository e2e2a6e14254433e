# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The results document, the terminal and the HTML."""

from __future__ import annotations

import copy
import json
from html.parser import HTMLParser

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judge import judge
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report import (
    DocumentError, build_document, check_document, read_document, terminal_summary, verdict_sentence, wire_table)
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_html import render_html
from ansible_collections.vllm_mindspore.hardening.tests.unit.plugins.plugin_utils.audit_example import (
    PLAN, composed, listener, observations, path_of, probes)

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def document(change=None, probe_change=None):
    seen = observations()
    if change:
        change(seen)
    targets = composed()
    results = probes(targets)
    if probe_change:
        probe_change(results)
    return build_document(PLAN, judge(PLAN, targets, seen, {}, results), "2026-01-02T03:04:05+00:00")


def leak(results):
    path = path_of(results, "rogue", "npu02", "10.77.0.12")
    path["silent"].remove("22")
    path["open"] = ["22"]


def page_of(made):
    return "".join(render_html(made))


class Page(HTMLParser):
    """Collects what could act."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_data(self, data):
        self.words.append(data)


def test_the_document_is_json_and_checks():
    made = document()
    check_document(json.loads(json.dumps(made)))
    assert made["version"] == 1


@pytest.mark.parametrize("change, words", [
    (lambda made: made.update(version=2), "newer"),
    (lambda made: made.pop("findings"), "lacks findings"),
    (lambda made: made["findings"].pop(), "truncated"),
    (lambda made: made.update(verdict="findings", exit_status=2), "says 'findings'|says findings"),
    (lambda made: made["findings"][0].update(status="fail"), "of other statuses"),
    (lambda made: made["findings"][0].update(status="passed"), "truncated or was edited"),
    (lambda made: made["findings"][0].update(status=[]), "something else"),
    (lambda made: made.update(findings={"a": 1}), "something else"),
    (lambda made: made.update(counts=[]), "something else"),
    (lambda made: made["counts"].pop("pass"), "something else"),
    (lambda made: made.update(coverage=None), "something else"),
    (lambda made: made["coverage"]["not_observed"].update(npu01="timed out"), "was edited"),
])
def test_other_documents_are_refused(change, words):
    made = document()
    change(made)
    with pytest.raises(DocumentError, match=words):
        check_document(made)


def test_a_document_is_read_from_its_file(tmp_path):
    made, path = json.dumps(document()), tmp_path / "report.json"
    path.write_text(made)
    assert read_document(str(path)) == document()
    for text in (made[:-9], "", "[" * 100000, "\x00"):
        path.write_text(text)
        with pytest.raises(DocumentError, match="report.json is no JSON"):
            read_document(str(path))
    path.write_bytes(b"\xff")
    with pytest.raises(DocumentError, match="report.json is no JSON"):
        read_document(str(path))
    with pytest.raises(DocumentError, match="No such file"):
        read_document(str(tmp_path / "none"))


@pytest.mark.parametrize("nothing", [None, [], "x", {}, {"version": "1"}])
def test_what_is_no_document_is_refused(nothing):
    with pytest.raises(DocumentError, match="no results document"):
        check_document(nothing)


def test_the_summary_names_verdict_counts_and_the_fix():
    text = "\n".join(terminal_summary(document(probe_change=leak), ["report.html"]))
    assert "Not compliant: 1 controls failed, 1 leaks, 0 broken" in text
    assert "CRITICAL NET-01 npu02" in text
    assert "site.yml --tags vllm_firewall" in text
    assert "report: report.html" in text


def test_a_compliant_run_says_so():
    assert verdict_sentence(document()).startswith("Compliant: ")


def test_the_table_shows_what_is_wrong_first_and_never_hides_it():
    lines = wire_table(document(probe_change=leak), limit=3)
    assert lines[1].startswith("rogue") and lines[1].endswith("LEAK")
    assert "more rows in the report" in lines[-1]


def test_markup_from_a_host_stays_text():
    def hostile(seen):
        seen["npu02"]["listeners"].append({**listener("0.0.0.0", 111, MARKUP), "command": MARKUP})
    page = Page(page_of(document(hostile)))
    assert not {"script", "img", "iframe", "link", "object", "form", "a", "image", "use"} & set(page.tags)
    assert not [name for name, _value in page.attributes if name.startswith("on") or name in ("src", "href", "xlink:href", "action", "style")]
    assert MARKUP in "".join(page.words)


def test_a_host_name_with_markup_stays_text():
    plan = json.loads(json.dumps(PLAN).replace("npu02", "<b>npu02"))
    seen = {"npu01": observations()["npu01"], "<b>npu02": observations()["npu02"]}
    targets = composed(seen, plan)
    page = Page(page_of(build_document(plan, judge(plan, targets, seen, {}, probes(targets, plan)), "now")))
    assert "<b>npu02" in "".join(page.words)
    assert page.tags.count("b") == 10  # the counts


def test_the_policy_forbids_every_request_and_script():
    page = Page(page_of(document()))
    policy = dict(page.attributes)["content"] if "default-src" in str(dict(page.attributes).get("content")) else next(
        value for _name, value in page.attributes if value and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_the_counts_are_those_of_the_document():
    made = document(probe_change=leak)
    page = "".join(Page(page_of(made)).words)
    for status, count in made["counts"].items():
        assert f"{count}{status}" in page


def test_rendering_does_not_change_the_document():
    made = document(probe_change=leak)
    before = copy.deepcopy(made)
    page_of(made)
    terminal_summary(made)
    assert made == before

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""When each deviation began, was seen, was corrected, and by whom."""

from __future__ import annotations

import json
import os

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import guard_history
from ansible_collections.vllm_mindspore.hardening.plugins.action.judge import drift_records
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import deviations, drift, report_files, report_html

T1, T2, T3, T4 = (f"2026-05-0{day}T10:00:00+00:00" for day in (1, 2, 3, 4))


def finding(status, control="FW-01", host="npu01"):
    return {"host": host, "control": control, "status": status, "observed": f"{status} seen"}


def record(**values):
    return {"at": "2026-05-02T09:30:00Z", "seconds": 0.25, "outcome": "corrected", "kind": "ruleset", "what": "the table was gone", "before": [],
            "after": ["40 lines"], "by": "nft (process 7)", "count": 1, **values}


def pick(history, *keys):
    return [tuple(one[key] for key in keys) for one in history]


def test_a_deviation_begins_between_two_audits_and_ends_in_another():
    history = deviations.follow([], [finding("pass")], {}, T1)
    assert history == []
    history = deviations.follow(history, [finding("fail")], {}, T2, T1)
    assert pick(history, "control", "began_after", "began", "seen", "corrected", "by") == [("FW-01", T1, None, T2, None, None)]
    history = deviations.follow(history, [finding("fail")], {}, T3, T2)
    assert pick(history, "seen", "corrected") == [(T2, None)]
    history = deviations.follow(history, [finding("pass")], {}, T4, T3)
    assert pick(history, "began_after", "seen", "corrected", "by") == [(T1, T2, T4, deviations.OTHERS)]
    again = deviations.follow(history, [finding("fail")], {}, T4, T4)
    assert pick(again, "seen", "corrected") == [(T2, T4), (T4, None)]


def test_what_is_unknown_or_waived_is_not_corrected():
    history = deviations.follow([], [finding("fail")], {}, T1)
    for status in ("unknown", "waived"):
        assert pick(deviations.follow(history, [finding(status)], {}, T2, T1), "corrected") == [(None,)]
    assert pick(deviations.follow(history, [], {}, T2, T1), "corrected") == [(None,)]


def test_drift_correction_is_named_with_what_it_explained():
    history = deviations.follow([], [finding("fail")], {}, T1)
    explained = [{"host": "npu01", "explained": [{"role": "vllm_firewall", "lines": ["- chain input: accept"]}]},
                 {"host": "npu02", "explained": [{"role": "vllm_firewall", "lines": ["other"]}]}, {"host": "npu01", "findings": []}]
    history = deviations.follow(history, [finding("pass")], {}, T2, T1, True, explained)
    assert pick(history, "corrected", "by", "explained") == [(T2, deviations.RUN, ["- chain input: accept"])]


def test_the_guard_knows_the_moment_and_the_program():
    history = deviations.follow([], [finding("pass")], {"npu01": [record()], "npu02": None}, T3, T2)
    assert pick(history, "host", "control", "began", "corrected", "by", "changed_by") == [
        ("npu01", "", "2026-05-02T09:29:59.750000+00:00", "2026-05-02T09:30:00+00:00", deviations.GUARD, "nft (process 7)")]
    assert history[0]["explained"] == ["+ 40 lines"]
    assert deviations.follow(history, [finding("pass")], {"npu01": [record()]}, T4, T3) == history


def test_what_the_guard_saw_and_left_dates_the_audits_deviation():
    history = deviations.follow([], [finding("fail", "NET-03"), finding("fail", "SOC-02")],
                                {"npu01": [record(outcome="seen", kind="foreign", seconds=None, what="rules of others")]}, T3, T1)
    dated = {one["control"]: (one["began"], one["changed_by"]) for one in history}
    assert dated["NET-03"] == ("2026-05-02T09:30:00+00:00", "nft (process 7)")
    assert dated["SOC-02"] == (None, None)
    early = deviations.follow([], [finding("fail", "NET-03")], {"npu01": [record(outcome="seen", kind="foreign")]}, T4, T3)
    assert pick([one for one in early if one["control"]], "began") == [(None,)]


def test_the_history_stays_bounded_and_keeps_what_is_open():
    history = deviations.follow([], [finding("fail", "NET-05")], {}, T1)
    records = [record(at=f"2026-05-02T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z") for number in range(deviations.LIMIT + 50)]
    nodes = {f"npu{at}": records[at:at + deviations.MOST] for at in range(0, len(records), deviations.MOST)}
    history = deviations.follow(history, [finding("fail", "NET-05")], {**nodes, "npu01": records}, T3, T1)
    assert len(history) == deviations.LIMIT + 1
    assert len([one for one in history if one["host"] == "npu01"]) == deviations.MOST + 1
    assert deviations.open_first(history, 3)[0]["control"] == "NET-05"


def test_what_guards_saw_and_left_stays_bounded():
    history = []
    for day in range(1, 28):
        nodes = {f"npu{number}": [record(at=f"2026-05-{day:02d}T09:00:{second:02d}Z", outcome="seen") for second in range(deviations.MOST)]
                 for number in range(3)}
        history = deviations.follow(history, [], nodes, f"2026-05-{day:02d}T10:00:00+00:00")
    assert len(history) == deviations.LIMIT
    assert history[-1]["seen"].startswith("2026-05-27")


@pytest.mark.parametrize("line", [
    b"\xff", b"5", b'{"host": "npu01", "explained": 5}', b'{"host": "npu01", "explained": [{"x": 1}]}', b"[" * 100000, b'{"explained": []}',
])
def test_nonsense_in_the_notes_of_drift_correction_stops_no_audit(tmp_path, line):
    good = {"host": "npu01", "seen": T1, "explained": [{"role": "vllm_firewall", "lines": ["- x"]}]}
    (tmp_path / drift.HISTORY).write_bytes(line + b"\n" + json.dumps(good).encode() + b"\n")
    told = []
    found = drift_records(str(tmp_path), T1, told.append)
    assert found == [{"host": "npu01", "seen": T1, "explained": [{"lines": ["- x"]}]}]
    assert deviations.lines_of(found) == ["- x"]
    assert len(told) == 1 and "1 of 2 lines are no notes" in told[0]


@pytest.mark.parametrize("answer", [
    5, "text", {"at": "now"}, [None], [5], ["text"], [[]], [{}], [record(at="now")], [record(at=5)], [record(seconds="long")], [record(seconds=1e30)],
    [record(count="many")], [record(before=5)], [record(kind=["foreign"])], [record(outcome={})], [record(what=[])],
])
def test_a_node_that_answers_nonsense_stops_no_audit(answer):
    history = deviations.follow([], [finding("fail")], {"npu01": answer}, T3, T2)
    assert [one["control"] for one in history if one["control"]] == ["FW-01"]
    json.dumps(history)


def test_the_node_tells_the_latest_records_of_its_guard(tmp_path):
    lines = [{"at": f"2026-05-02T09:30:{number:02d}Z", "boot_seconds": 100.5, "began": 100.25, "kind": "ruleset", "outcome": "corrected", "what": "x" * 999,
              "before": ["a"] * 99, "after": [], "by": {"command": "nft", "pid": number}} for number in range(50)]
    lines.insert(30, {"at": "2026-05-02T09:30:59Z", "boot_seconds": 1, "kind": "ruleset", "outcome": "intended", "what": "rollout", "before": [], "after": []})
    strange = ['{"at": 1}', "nothing", "[" * 20000, json.dumps({**lines[0], "count": float("inf")})]
    (tmp_path / "history.jsonl").write_text("\n".join([*map(json.dumps, lines), *strange]) + "\n")
    found = guard_history.read_latest((str(tmp_path), str(tmp_path / "none")))
    assert len(found) == guard_history.LATEST
    assert found[-1] == {"at": "2026-05-02T09:30:49Z", "seconds": 0.25, "outcome": "corrected", "kind": "ruleset", "what": "x" * guard_history.LENGTH,
                         "before": ["a"] * guard_history.LINES, "after": [], "by": "nft (process 49)", "count": 1}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)])
def test_what_is_no_history_keeps_no_audit_waiting(tmp_path, make):
    make(tmp_path / "history.jsonl")
    with pytest.raises(OSError):
        guard_history.read_latest((str(tmp_path),))


def test_the_history_is_read_back_from_its_file(tmp_path):
    history = deviations.follow([], [finding("fail")], {"npu01": [record()]}, T3, T2)
    (tmp_path / report_files.DEVIATIONS).write_text("".join(report_files.deviations_text(history)))
    assert report_files.read_deviations(str(tmp_path)) == history


@pytest.mark.parametrize("text", ["", "{", "[]", '{"deviations": 5}'])
def test_a_file_that_is_none_is_no_history(tmp_path, text):
    (tmp_path / report_files.DEVIATIONS).write_text(text)
    assert report_files.read_deviations(str(tmp_path)) == []


def test_the_page_shows_them_and_takes_nothing_from_a_host_for_markup():
    history = deviations.follow([], [finding("fail")], {"npu01": [record(what="<script>", by="<b>")]}, T3, T2)
    page = "".join(report_html.deviations_section({"deviations": deviations.open_first(history, 9)}))
    assert "after 2026-05-02" in page and "&lt;script&gt;" in page and "<script>" not in page and "<b>" not in page
    assert page.index("open</td>") < page.index("the guard</td>")

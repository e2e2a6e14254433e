# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What drift correction notes beside the reports: bounded, whole, and as far back as the next audit asks."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource

import pytest
from ansible.errors import AnsibleActionFail

from ansible_collections.vllm_mindspore.hardening.plugins.action import drift as action
from ansible_collections.vllm_mindspore.hardening.plugins.action.judge import drift_records
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import drift, report_files


def when(number):
    return f"2026-06-{1 + number // 24:02d}T{number % 24:02d}:00:00+00:00"


def explained(number, host="npu01", size=10):
    return {"host": host, "event": "corrected", "seen": when(number), "explained": [{"role": "vllm_firewall", "lines": [f"run {number} " + "x" * size]}]}


def notes(directory):
    """Every line of every file, the oldest first, by file."""
    names = [f"{drift.HISTORY}.{number}" for number in range(drift.HISTORY_FILES, 0, -1)] + [drift.HISTORY]
    return {name: [json.loads(line) for line in (directory / name).read_text().splitlines()] for name in names if (directory / name).exists()}


def run(directory, number, hosts=1, size=10):
    """One run of drift correction, hourly: what it saw, and what it explained."""
    action.note(str(directory), [{"host": f"npu{host}", "event": "seen", "seen": when(number), "findings": []} for host in range(hosts)], begin=True)
    for host in range(hosts):
        action.note(str(directory), [explained(number, f"npu{host}", size)])


def test_years_of_runs_stay_bounded_and_the_latest_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(drift, "HISTORY_BYTES", 3000)
    for number in range(200):
        run(tmp_path, number, size=500)
    found = notes(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(found) and len(found) == drift.HISTORY_FILES
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < drift.HISTORY_FILES * (3000 + 1000)
    seen = [record["seen"] for records in found.values() for record in records]
    assert seen == [when(number) for number in range(200 - len(seen) // 2, 200) for _note in range(2)] and len(seen) > 20


def test_a_run_is_in_one_file_however_long_and_the_next_audit_reads_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(drift, "HISTORY_BYTES", 3000)
    run(tmp_path, 0, 700)
    run(tmp_path, 1, 700)
    assert {name: len(records) for name, records in notes(tmp_path).items()} == {f"{drift.HISTORY}.1": 1400, drift.HISTORY: 1400}
    assert [record["host"] for record in drift_records(str(tmp_path), when(1))] == [f"npu{host}" for host in range(700)]


def test_an_audit_reads_back_into_earlier_files_where_another_run_began_one(tmp_path, monkeypatch):
    monkeypatch.setattr(drift, "HISTORY_BYTES", 10)
    for number in range(3):
        run(tmp_path, number)
    assert [record["seen"] for record in drift_records(str(tmp_path), when(1))] == [when(1), when(2)]
    assert [record["seen"] for record in drift_records(str(tmp_path), when(2))] == [when(2)]


def test_a_line_that_a_crash_left_half_written_costs_no_other_and_is_told(tmp_path):
    run(tmp_path, 0)
    with open(tmp_path / drift.HISTORY, "a", encoding="utf-8") as stream:
        stream.write('{"host": "npu01", "explai')
    action.note(str(tmp_path), [explained(1)])
    told = []
    assert [record["seen"] for record in drift_records(str(tmp_path), when(0), told.append)] == [when(0), when(1)]
    assert len(told) == 1 and "1 of 4 lines" in told[0] and str(tmp_path / drift.HISTORY) in told[0]


def test_what_does_not_fit_on_the_disk_is_refused_and_leaves_the_file_as_it_was(tmp_path):
    run(tmp_path, 0)
    before = (tmp_path / drift.HISTORY).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(AnsibleActionFail, match=f"{drift.HISTORY}: File too large; make room or name another vllm_audit_directory"):
            action.note(str(tmp_path), [explained(1, size=1000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / drift.HISTORY).read_bytes() == before


def many(directory, number):
    for _note in range(20):
        action.note(directory, [explained(number, size=20000)])


def test_hosts_that_are_explained_side_by_side_do_not_mix_their_lines(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=many, args=(str(tmp_path), number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(notes(tmp_path)[drift.HISTORY]) == 80


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_with_its_name(tmp_path, make):
    make(tmp_path / drift.HISTORY)
    with pytest.raises(AnsibleActionFail, match=f"{drift.HISTORY}: .*name another vllm_audit_directory"):
        action.note(str(tmp_path), [explained(1)])


def test_the_last_compliant_audit_is_known_however_many_followed(tmp_path):
    for number in range(report_files.HISTORY_LIMIT + 5):
        document = {"generated": when(number), "verdict": "findings" if number else "compliant", "counts": {"pass": 1, "fail": 1, "waived": 0, "unknown": 0},
                    "wire": {"counts": {"LEAK": 0, "BROKEN": 0}}}
        report_files.write_reports(str(tmp_path), {}, document)
    task_vars = {"ansible_play_hosts_all": ["npu01"], "hostvars": {"npu01": {}}}
    findings = [{"host": "npu01", "control": "FW-01", "status": "fail", "observed": "x"}, {"host": "npu01", "control": "FW-02", "status": "unknown"}]
    result = action.ActionModule.decide(None, {"findings": findings, "controls": [], "directory": str(tmp_path)}, task_vars, {})
    assert result["last_good"] == when(0)
    assert notes(tmp_path)[drift.HISTORY] == [{
        "host": "npu01", "event": "seen", "began_after": when(0), "seen": result["seen"], "roles": ["vllm_firewall"],
        "findings": [{"control": "FW-01", "observed": "x"}]}]

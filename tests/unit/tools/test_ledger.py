# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The judgements that Molecule scenarios rest on: what a check run predicted, and how many module executions a run cost."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "tools/ledger.py"
SPEC = importlib.util.spec_from_file_location("ledger", PATH)
ledger = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(ledger)


def change(host="npu01", task="Install", item="", diff=None):
    """One changed result."""
    return {"host": host, "task": task, "where": "main.yml:3", "item": item, "diff": diff or []}


def record(*changes, failed=()):
    """A ledger of two hosts."""
    return {"hosts": ["npu01", "npu02"], "changed": list(changes), "failed": list(failed), "executions": {"npu01": {"stat": 2, "file": 1}}}


def test_an_exact_prediction_holds():
    changes = [change(item="a"), change(item="b"), change("npu02", diff=[{"before": "", "after": "x"}])]
    assert ledger.predicted(record(*changes), record(*reversed(changes))) == []


@pytest.mark.parametrize(
    ("check", "run", "words"),
    [
        (record(change()), record(change(), change("npu02")), "happened, but was not announced: npu02: Install"),
        (record(change(), change("npu02")), record(change()), "announced, but did not happen: npu02: Install"),
        (record(change(), change()), record(change()), "announced, but did not happen"),
        (record(change(item="a")), record(change(item="b")), "not announced: npu01: Install (item=b)"),
        (record(change(diff=[{"after": "x"}])), record(change(diff=[{"after": "y"}])), "announced with another diff"),
        (record(change(), failed=["npu02"]), record(change()), "npu02: failed or was not reached in the check run"),
        (record(), record(), "the run changed nothing"),
        ({**record(), "hosts": []}, {**record(), "hosts": []}, "no host took part"),
    ],
)
def test_everything_else_is_said(check, run, words):
    wrong = ledger.predicted(check, run)
    assert words in "\n".join(wrong)


def test_a_budget_counts_all_modules_of_a_host():
    run = record()
    assert ledger.over_budget(run, 3, ["npu01", "npu02"]) == []
    assert ledger.over_budget(run, 2, ["npu01", "npu02"]) == ["npu01: 3 module executions, 2 granted: {'stat': 2, 'file': 1}"]


def test_a_budget_is_not_kept_by_nobody():
    assert ledger.over_budget(record(), 3, []) == ["no host named: nothing was counted"]
    assert ledger.over_budget(record(), 3, ["npu03"]) == ["npu03 took no part in the run"]


def test_a_run_that_was_not_recorded_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="was not recorded"):
        ledger.load(str(tmp_path), "converge", "check")

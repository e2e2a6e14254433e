# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""With what a playbook that audits leaves, whatever became of its hosts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

PATH = Path(__file__).resolve().parents[3] / "playbooks/callback_plugins/audit_exit_status.py"
SPEC = importlib.util.spec_from_file_location("audit_exit_status", PATH)
audit_exit_status = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit_exit_status)
JUDGE, TARGETS, OBSERVE = (f"vllm_mindspore.hardening.{name}" for name in ("judge", "audit_targets", "audit"))


def left_with(playbook, results=(), failures=False, dark=False):
    """The status the callback plugin leaves with; None where it leaves that to ansible-playbook. results: [(action, whether it failed, result)]."""
    callback = audit_exit_status.CallbackModule()
    callback.v2_playbook_on_start(SimpleNamespace(_file_name=f"/x/{playbook}"))
    for action, failed, result in results:
        told = SimpleNamespace(_task=SimpleNamespace(resolved_action=action, args={}), _result=result)
        (callback.v2_runner_on_failed if failed else callback.v2_runner_on_ok)(told)
    try:
        callback.v2_playbook_on_stats(SimpleNamespace(failures={"npu01": 1} if failures else {}, dark={"npu01": 1} if dark else {}))
    except SystemExit as left:
        return left.code
    return None


def judged(status, enforced=True):
    return JUDGE, bool(status and enforced), {"exit_status": status}


@pytest.mark.parametrize(("playbook", "results", "status"), [
    ("audit.yml", [judged(0)], None),
    ("audit.yml", [judged(2)], None),
    ("audit.yml", [judged(3)], 3),
    ("audit.yml", [(JUDGE, True, {"msg": "the waivers have a problem"})], 1),
    ("audit.yml", [(TARGETS, True, {"msg": "no numeric address"})], 1),
    ("audit.yml", [(OBSERVE, True, {})], 3),
    ("site.yml", [judged(3)], 3),
    ("site.yml", [judged(3, enforced=False)], None),
    ("audit.yml", [judged(3, enforced=False)], None),
    ("drift.yml", [judged(3, enforced=False)], 3),
    ("drift.yml", [judged(2, enforced=False), judged(0, enforced=False)], 4),
])
def test_the_status_of_a_run(playbook, results, status):
    assert left_with(playbook, results, failures=any(failed for _action, failed, _result in results)) == status


@pytest.mark.parametrize("playbook", ["audit.yml", "drift.yml"])
def test_an_audit_of_no_host_is_incomplete(playbook):
    assert left_with(playbook) == 3
    assert left_with("site.yml") is None


def test_an_audit_that_reached_nobody_is_incomplete():
    assert left_with("audit.yml", dark=True) == 3

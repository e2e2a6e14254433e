# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Makes the exit status of a run that audits the audit's own: 0 compliant, 1 usage, 2 findings, 3 incomplete.

ansible-playbook loads callback plugins that lie beside a playbook by itself. It leaves with 2 when a task failed, which is right for findings;
a run that could not be completed, or that was refused for its input, must not look like one that found something.
"""

from __future__ import annotations

import os
import sys

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: audit_exit_status
type: aggregate
short_description: Exit status of an audit
description:
  - Makes ansible-playbook leave with 3 when an audit is incomplete and with 1 when its input was refused.
"""

JUDGE = "vllm_mindspore.hardening.judge"
REFUSING = (JUDGE, "vllm_mindspore.hardening.plan", "vllm_mindspore.hardening.audit_targets", "ansible.builtin.validate_argument_spec")
USAGE, INCOMPLETE = 1, 3


class CallbackModule(CallbackBase):
    """Watches for the judge's result."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "audit_exit_status"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self):
        super().__init__()
        self._status, self._refused, self._audits = None, False, False

    def v2_playbook_on_start(self, playbook):
        self._audits = os.path.basename(str(playbook._file_name)) == "audit.yml"

    def v2_runner_on_ok(self, result):
        self._read(result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        if self._read(result) is None and result._task.resolved_action in REFUSING:
            self._refused = True

    def _read(self, result):
        if result._task.resolved_action != JUDGE:
            return None
        status = result._result.get("exit_status")
        if isinstance(status, int):
            self._status = status
        return status

    def v2_playbook_on_stats(self, stats):
        status = self._status
        if status is None and self._audits and (stats.failures or stats.dark):
            status = USAGE if self._refused else INCOMPLETE
        if status in (USAGE, INCOMPLETE):
            # Nothing is after the statistics but the exit itself; other statuses are what ansible-playbook leaves with anyway.
            sys.stdout.flush()
            raise SystemExit(status)

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Makes the exit status of a run that audits the audit's own: 0 compliant, 1 usage, 2 findings, 3 incomplete; of drift correction also 4, drift corrected.

ansible-playbook loads callback plugins that lie beside a playbook by itself. It leaves with 2 when a task failed, which is right for findings;
a run that could not be completed, or that was refused for its input, must not look like one that found something.
"""

from __future__ import annotations

import os
import sys

from ansible.plugins.callback import CallbackBase

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import drift

DOCUMENTATION = r"""
name: audit_exit_status
type: aggregate
short_description: Exit status of an audit
description:
  - Makes ansible-playbook leave with 3 when an audit is incomplete, or judged nothing at all, and with 1 when its input was refused.
  - Makes drift correction leave with 0 where there was no drift, 2 where some is left, 3 where it is incomplete and 4 where all was corrected.
"""

DRIFT = "vllm_mindspore.hardening.drift"
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
        self._status, self._refused, self._audits, self._enforced = None, False, False, False
        self._drift, self._statuses = False, []

    def v2_playbook_on_start(self, playbook):
        name = os.path.basename(str(playbook._file_name))
        self._drift = name == "drift.yml"
        self._audits = name == "audit.yml" or self._drift

    def v2_runner_on_ok(self, result):
        self._read(result, enforced=False)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        action = result._task.resolved_action
        if self._read(result, enforced=True) is None and (action in REFUSING or (action == DRIFT and result._task.args.get("step") in ("check", "decide"))):
            self._refused = True

    def _read(self, result, enforced):
        if result._task.resolved_action != JUDGE:
            return None
        status = result._result.get("exit_status")
        if isinstance(status, int):
            self._status, self._enforced = status, enforced
            self._statuses.append(status)
        return status

    def v2_playbook_on_stats(self, stats):
        status = self._status
        if status is None and self._audits:
            status, self._enforced = USAGE if self._refused else INCOMPLETE, True
            if not (stats.failures or stats.dark):
                self._display.error("Nothing was audited: no host of vllm_nodes is part of this run. See the inventory, --limit and --tags.")
        if self._drift and self._refused:
            status = USAGE
        elif self._drift and self._statuses:
            status = INCOMPLETE if stats.dark else drift.exit_status(self._statuses)
            status = drift.LEFT if stats.failures and status in (drift.NONE, drift.CORRECTED) else status
        if (status in (USAGE, INCOMPLETE) and self._enforced) or (self._drift and status is not None):
            # Nothing is after the statistics but the exit itself; other statuses are what ansible-playbook leaves with anyway.
            sys.stdout.flush()
            raise SystemExit(status)

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The controller's steps of drift correction: decide which roles, and say what they found."""

from __future__ import annotations

import datetime
import os

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.guard_records import rotate
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import drift
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_run import plain
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_files import ReportError, append, locked, read_history


class ActionModule(ActionBase):
    """See the documentation of the module ``drift``."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _spec, arguments = self.validate_argument_spec({
            "step": {"type": "str", "choices": ["check", "decide", "explain", "hold"], "required": True},
            "findings": {"type": "list", "elements": "dict", "default": []},
            "controls": {"type": "list", "elements": "str", "default": []},
            "mode": {"type": "str", "default": "correct"},
            "roles": {"type": "list", "elements": "str", "default": []},
            "directory": {"type": "path"},
        })
        result.update(changed=False)
        if arguments["mode"] not in drift.MODES:
            raise AnsibleActionFail(f"vllm_drift_mode: {arguments['mode']!r} is no mode; write {' or '.join(drift.MODES)}")
        if self._task.check_mode:
            arguments["mode"] = "report"
        return getattr(self, arguments["step"])(arguments, task_vars, result)

    def check(self, arguments, _task_vars, result):
        """Refuse controls that do not exist, before a node is contacted."""
        unknown = drift.unknown_controls(arguments["controls"])
        if unknown:
            raise AnsibleActionFail(f"vllm_drift_controls: no control is called {', '.join(unknown)}; docs/controls.md lists them")
        return result

    def decide(self, arguments, task_vars, result):
        """Which roles to run on which host."""
        findings = plain(arguments["findings"])
        hosts = [str(host) for host in task_vars["ansible_play_hosts_all"]]
        left_out = {host: drift.left_out(task_vars["hostvars"][host]) for host in hosts}
        roles, left = drift.roles_to_correct(findings, hosts, arguments["controls"], left_out)
        last_good = None
        if arguments["directory"]:
            try:
                good = [run["generated"] for run in read_history(arguments["directory"]) if run["verdict"] == "compliant"]
            except ReportError as error:
                raise AnsibleActionFail(str(error)) from None
            last_good = good[-1] if good else None
        result.update(roles=roles, last_good=last_good, seen=utc())
        failed = {}
        for finding in findings:
            if finding["status"] == "fail":
                failed.setdefault(finding["host"], []).append({key: finding[key] for key in ("control", "observed", "expected") if key in finding})
        note(arguments["directory"], [{"host": host, "event": "seen", "began_after": last_good, "seen": result["seen"], "roles": roles.get(host, []),
                                       "findings": found} for host, found in sorted(failed.items())], begin=True)
        display = Display()
        if any(finding["status"] == "fail" for finding in findings):
            display.display(f"\nDRIFT  seen {result['seen']}, began after the last compliant audit ({last_good or 'none is known'})")
        for finding in left:
            display.display(f"  {finding['host']}  {finding['control']}: not corrected by this run")
        return result

    def explain(self, arguments, task_vars, result):
        """What the roles of this host found."""
        host = task_vars["inventory_hostname"]
        explained = [drift.explanation(role, plain(task_vars.get(name) or {})) for role in arguments["roles"] for name in drift.ROLES[role]]
        explained = [one for one in explained if one]
        for line in drift.sentences(host, explained, arguments["mode"] == "report"):
            Display().display(line)
        result.update(explained=explained)
        if explained:
            decision = plain(task_vars.get("__vllm_drift_decision") or {})
            note(arguments["directory"], [{
                "host": host, "event": "corrected" if arguments["mode"] == "correct" else "reported", "began_after": decision.get("last_good"),
                "seen": decision.get("seen"), "corrected": utc() if arguments["mode"] == "correct" else None, "explained": explained}])
        return result

    def hold(self, arguments, task_vars, result):
        """Fail where a role, asked again, would change something again."""
        again = [drift.explanation(role, plain(task_vars.get(name) or {})) for role in arguments["roles"] for name in drift.ROLES[role]]
        again = [one for one in again if one]
        if again:
            host = task_vars["inventory_hostname"]
            raise AnsibleActionFail(f"the correction does not hold on {host}: {again[0]['role']} would change again: {'; '.join(again[0]['lines'][:3])}. "
                                    "No further host is touched; find what changes it on the node and stop that.")
        return result


def note(directory, records, begin=False):
    """Keep what happened on hosts, beside the reports. begin: whether a run begins with it, and may begin another file. Hosts are explained side by side."""
    if not directory or not records:
        return
    path = os.path.join(directory, drift.HISTORY)
    try:
        with locked(directory):
            if begin:
                rotate(path, drift.HISTORY_BYTES, drift.HISTORY_FILES)
            append(path, records)
    except ReportError as error:
        raise AnsibleActionFail(str(error)) from None
    except OSError as error:
        raise AnsibleActionFail(f"{error.filename or path}: {error.strerror}; make room or name another vllm_audit_directory") from None


def utc():
    """The time for records."""
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0).isoformat()

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The controller's side of a confirmed change: apply, prove by a new connection, confirm."""

from __future__ import annotations

import secrets
import time

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import guard
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import signer
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.new_connection import run_over_new_connection

MODULE = "vllm_mindspore.hardening.nft_table"
ROLLBACK_GRACE = 60
FINAL = {
    "rolled-back": "the previous rules are back and nothing was written for the next boot",
    "refused": "the previous rules stand",
    "unknown": "the node does not know the change any more (it restarted), so the rules of before are loaded",
    "confirmed": "yet the node has it as confirmed, the new rules stand",
}


class ActionModule(ActionBase):
    """See the documentation of the module ``nft_table``."""

    _supports_async = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        identifier = time.strftime("%Y%m%dT%H%M%S-", time.gmtime()) + secrets.token_hex(3)
        transport = self._connection.transport
        arguments = {**self._task.args, "phase": "apply", "change_id": identifier, "transport": transport}
        key = signer.key_of(self._templar, task_vars)
        if key and arguments.get("content") and arguments.get("state", "present") == "present":
            arguments["signed"] = signer.signed(key, str(task_vars["inventory_hostname"]), guard.CONCERN, guard.source_digest(arguments["content"]))
        try:
            applied = self._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars)
        except AnsibleConnectionFailure as error:
            # The rules may have cut the connection before its answer came: what became of the change is asked below.
            applied = {"failed": True, "change": {"id": identifier, "nonce": "", "seconds": int(self._task.args.get("rollback_timeout", 30))},
                       "msg": str(error)}
        change = applied.pop("change", None)
        result.update(applied)
        if change is None:
            return result
        if applied.get("failed"):
            return self._undone(result, change, task_vars, applied["msg"])
        confirmed, complaint = self._confirm(change, transport, task_vars)
        if confirmed is None:
            return self._undone(result, change, task_vars, complaint)
        result["confirmed_by"] = confirmed["confirmed_by"]
        result["warnings"] = result.get("warnings", []) + confirmed.get("warnings", [])
        if confirmed["confirmed_by"].startswith("nothing"):
            result["warnings"].append(f"The change is not proved by a connection: {confirmed['confirmed_by']}.")
        return result

    def _confirm(self, change, transport, task_vars):
        """Confirm over a connection begun after the node said that the new rules are loaded. Returns the node's answer, or None and what went wrong."""
        until = time.monotonic() + change["seconds"]
        complaint = ""
        arguments = {**self._task.args, "phase": "confirm", "change_id": change["id"], "nonce": change["nonce"], "transport": transport}
        while time.monotonic() < until:
            try:
                answer = run_over_new_connection(self, MODULE, arguments, task_vars)
            except (AnsibleConnectionFailure, AnsibleError) as error:
                complaint = str(error).strip()
            else:
                if answer.get("proof"):
                    # The node has loaded the rules by now; this connection may be older than that, the next is not.
                    arguments["proof"] = answer["proof"]
                    continue
                if not answer.get("failed"):
                    return answer, ""
                complaint = complaint or answer.get("msg", "")
                if answer.get("outcome") in ("rolled-back", "rolling-back", "refused", "unknown", "foreign", "pending", "confirmed"):
                    return None, complaint
            time.sleep(1)
        return None, complaint

    def _undone(self, result, change, task_vars, complaint):
        """Wait until the node has put the previous rules back, and say so."""
        until = time.monotonic() + change["seconds"] + ROLLBACK_GRACE
        arguments = {**self._task.args, "phase": "outcome", "change_id": change["id"]}
        outcome = None
        while time.monotonic() < until and outcome not in FINAL:
            try:
                outcome = run_over_new_connection(self, MODULE, arguments, task_vars).get("outcome")
            except (AnsibleConnectionFailure, AnsibleError) as error:
                Display().vvv(f"nft_table: {error}")
            if outcome not in FINAL:
                time.sleep(1)
        said = FINAL.get(outcome, f"the node does not answer; its own timer puts the previous rules back {change['seconds']} s after the change")
        result.update(failed=True, changed=outcome == "confirmed",
                      msg=f"The new rules were not confirmed by a new management connection: {complaint} - {said}.")
        return result

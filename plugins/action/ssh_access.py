# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The controller's half of a change of SSH access: apply, log in anew, confirm, or wait until the node has undone it."""

from __future__ import annotations

import secrets
import time

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import applied
from ansible_collections.vllm_mindspore.hardening.plugins.modules.ssh_access import RECORD, kept
from ansible_collections.vllm_mindspore.hardening.plugins.modules.ssh_access import arguments as documented
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import signer
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.new_connection import run_over_new_connection

MODULE = "vllm_mindspore.hardening.ssh_access"
GRACE = 60


class ActionModule(ActionBase):
    """See the documentation of the module ``ssh_access``."""

    _supports_async = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        identifier = time.strftime("%Y%m%dT%H%M%S-", time.gmtime()) + secrets.token_hex(3)
        become = self._connection.become
        asks = bool(become is not None and become.get_option("become_pass"))
        arguments = {**self._task.args, "change_id": identifier, "asks_password": asks}
        key = signer.key_of(self._templar, task_vars)
        if key:
            wanted = applied.digest(applied.remembered(kept(signer.as_validated(documented(), arguments))))
            arguments["signed"] = signer.signed(key, str(task_vars["inventory_hostname"]), RECORD, wanted)
        result.update(self._execute_module(module_name=MODULE, module_args={**arguments, "phase": "apply"}, task_vars=task_vars))
        change = result.pop("change", None)
        if change is None:
            return result
        began, complaint = time.monotonic(), ""
        while time.monotonic() < began + change["seconds"]:
            answer, complaint = self._asked("confirm", arguments, task_vars)
            if answer and not answer.get("failed"):
                return result
            if answer and answer.get("outcome") != "pending":
                break
            time.sleep(1)
        outcome = None
        while time.monotonic() < began + change["seconds"] + GRACE and outcome != "rolled-back":
            answer, _said = self._asked("outcome", arguments, task_vars)
            outcome = (answer or {}).get("outcome")
            if outcome != "rolled-back":
                time.sleep(1)
        said = "the drop-in of before is back" if outcome == "rolled-back" else "the node's own timer puts the drop-in of before back"
        result.update(failed=True, changed=False, msg=f"A new login did not prove the change: {complaint}. {said[0].upper()}{said[1:]}.")
        return result

    def _asked(self, phase, arguments, task_vars):
        """(answer or None, what went wrong) of the module over a new connection."""
        try:
            answer = run_over_new_connection(self, MODULE, {**arguments, "phase": phase}, task_vars)
        except (AnsibleConnectionFailure, AnsibleError) as error:
            return None, str(error).strip()
        return answer, str(answer.get("msg", ""))

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The controller's half of node_state: signs what is wanted, where the inventory names a key."""

from __future__ import annotations

from ansible.plugins.action import ActionBase

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import applied
from ansible_collections.vllm_mindspore.hardening.plugins.modules.node_state import arguments as documented
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import signer

MODULE = "vllm_mindspore.hardening.node_state"


class ActionModule(ActionBase):
    """See the documentation of the module ``node_state``."""

    _supports_async = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        sent = dict(self._task.args)
        key = signer.key_of(self._templar, task_vars) if sent.get("record") else ""
        if key:
            wanted = applied.digest(applied.remembered(signer.as_validated(documented(), sent)))
            sent["signed"] = signer.signed(key, str(task_vars["inventory_hostname"]), str(sent["record"]), wanted)
        result.update(self._execute_module(module_name=MODULE, module_args=sent, task_vars=task_vars))
        return result

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Composes, once a run, what every vantage point tries."""

from __future__ import annotations

from ansible.plugins.action import ActionBase

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_run import observations, plan_of, vantage_addresses
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import compose


class ActionModule(ActionBase):
    """See the documentation of the module ``audit_targets``."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _spec, arguments = self.validate_argument_spec({
            "plan": {"type": "dict", "required": True},
            "spread": {"type": "int", "default": 64},
            "peers": {"type": "int", "default": 8},
        })
        plan = plan_of(arguments["plan"])
        seen, _reasons = observations(task_vars["hostvars"], plan["nodes"])
        result.update(compose(plan, seen, vantage_addresses(task_vars), arguments["spread"], arguments["peers"]))
        result["changed"] = False
        return result

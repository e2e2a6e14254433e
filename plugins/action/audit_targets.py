# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Composes, once a run, what every vantage point tries."""

from __future__ import annotations

import datetime

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.udp_responder import LONGEST
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_run import observations, plain, plan_of, vantage_addresses
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.waivers import WaiverError, read_waivers
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import compose

LEAST = {"spread": 0, "peers": 0, "rate": 1, "retries": 0, "udp_seconds": 0}


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
            "check": {"type": "dict", "options": {
                "rate": {"type": "int", "default": 1}, "retries": {"type": "int", "default": 0}, "timeout": {"type": "float", "default": 1.0},
                "udp_seconds": {"type": "int", "default": 0}, "waivers": {"type": "list", "elements": "dict", "default": []},
            }},
        })
        plan = plan_of(arguments["plan"])
        refuse(arguments, plan)
        if arguments["check"] is not None:
            vantage_addresses(task_vars)
            return {**result, "changed": False}
        seen, _reasons = observations(task_vars["hostvars"], plan["nodes"])
        result.update(compose(plan, seen, vantage_addresses(task_vars), arguments["spread"], arguments["peers"]))
        result["changed"] = False
        return result


def refuse(arguments, plan):
    """Refuse settings of an audit that no audit can have, all at once."""
    given = {**arguments, **(arguments["check"] or {})}
    problems = [f"vllm_audit_{name} is {given[name]}; write {least} or more" for name, least in LEAST.items() if given.get(name, least) < least]
    if given.get("timeout", 1) <= 0:
        problems.append(f"vllm_audit_timeout is {given['timeout']}; write more than 0, such as 1.0")
    if given.get("udp_seconds", 0) > LONGEST:
        problems.append(f"vllm_audit_udp_seconds is {given['udp_seconds']}; write {LONGEST} or less")
    try:
        read_waivers(plain(given.get("waivers")), list(plan["nodes"]), datetime.datetime.now(datetime.timezone.utc).date())
    except WaiverError as error:
        problems.append(str(error))
    if problems:
        raise AnsibleActionFail("\n".join(problems))

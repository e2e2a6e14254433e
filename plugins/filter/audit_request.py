# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The filter ``audit_request``: from the plan to what a node is asked for."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_request import audit_request


def request_of(plan, host, udp_seconds=0):
    """As audit_request, with a message where the plan has no such node."""
    if host not in (plan.get("nodes") or {}):
        raise AnsibleFilterError(f"audit_request: the plan has no node {host}")
    return audit_request(plan, host, udp_seconds)


class FilterModule:
    """What Ansible loads."""

    def filters(self):
        return {"audit_request": request_of}

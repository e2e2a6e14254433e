# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The filter ``firewall_ruleset``: flows -> nftables text."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import ruleset


def firewall_ruleset(flows, **options):
    """Flows and options -> text; every problem of the input in one AnsibleFilterError."""
    try:
        return ruleset.render(flows, **options)
    except ruleset.RulesetError as error:
        raise AnsibleFilterError("the firewall is not described well enough:\n  " + "\n  ".join(error.problems)) from None


class FilterModule:
    """What Ansible loads."""

    def filters(self):
        return {"firewall_ruleset": firewall_ruleset}

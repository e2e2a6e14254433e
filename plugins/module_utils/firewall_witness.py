# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The packet filter as a witness: read what this host enforces, and prove it against a policy."""

from __future__ import annotations

import pwd

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_policy import read_policy
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_proof import verify
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.host_network import HostUnreadable, read_host
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_listing_check import check_listing
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_ruleset import RulesetUnreadable, read_ruleset
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.packet_programs import program_obstacles
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.xtables_legacy import legacy_obstacles


def prove(policy, listing=True):
    """Read the live packet filter, addresses and routes of this network namespace and judge them by ``policy``.

    The result is verify()'s, with ``listing``: rules whose listing by nft misleads (nft_listing_check), unless that is
    turned off. What cannot be read makes the verdict "unknown" and is named; only a wrong policy raises
    (firewall_policy.PolicyError).
    """
    checked = read_policy(policy)
    try:
        snapshot = read_ruleset()
    except RulesetUnreadable as error:
        return {
            "verdict": "unknown", "flows": [], "leaks": [], "listing": [], "statistics": {},
            "unknown": [{"object": "nftables", "reason": str(error)}],
        }
    host, unread = None, None
    try:
        host = read_host()
    except HostUnreadable as error:
        unread = {"object": "addresses and routes", "reason": str(error)}
    result = verify(snapshot, host, policy, legacy_obstacles() + program_obstacles(host), _users(checked))
    if unread:
        result["unknown"].append(unread)
        result["verdict"] = "unknown" if result["verdict"] == "ok" else result["verdict"]
    result["listing"] = check_listing(snapshot) if listing else []
    return result


def _users(policy):
    """The numbers of the users that the policy names, as far as this host knows them."""
    users, flows = {}, [flow for part in ("egress", "permit_egress", "refuse_egress") for flow in policy[part] or () if isinstance(flow, dict)]
    for name in [*(policy["egress_users"] or ()), *(name for flow in flows for key in ("users", "other_users") for name in flow[key] or ())]:
        if isinstance(name, str):
            try:
                users[name] = pwd.getpwnam(name).pw_uid
            except (KeyError, ValueError):  # the latter for what can be nobody's name
                continue
    return users

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the controller's steps of an audit read of the run: the registered results of the other hosts."""

from __future__ import annotations

import ipaddress

from ansible.errors import AnsibleActionFail

OBSERVED, PROBED = "__vllm_audit_observed", "__vllm_audit_probed"
VANTAGE_GROUP, ADDRESSES = "vllm_vantage_points", "vllm_audit_addresses"


def plain(value):
    """Plain data of what a template or a host gave: no tags, no lazy containers."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def plan_of(argument):
    """The plan, or a refusal that says what is wrong."""
    plan = plain(argument)
    if not isinstance(plan.get("nodes"), dict) or not isinstance(plan.get("clusters"), dict) or not plan["nodes"]:
        raise AnsibleActionFail("vllm_audit_plan is no plan with nodes: run the role vllm_cluster first, or hand over what it publishes as vllm_cluster_plan")
    return plan


def registered(hostvars, hosts, name, key):
    """({host: value under `key` of the registered result or None}, {host: reason})."""
    values, reasons = {}, {}
    for host in hosts:
        values[host] = None
        result = hostvars[host].get(name) if host in hostvars else None
        if result is None:
            reasons[host] = "not part of this run"
        elif result.get("unreachable"):
            reasons[host] = "unreachable: " + str(result.get("msg", ""))
        elif result.get("failed") or result.get("skipped"):
            reasons[host] = str(result.get("msg") or "the module failed")
        else:
            values[host] = plain(result if key is None else result.get(key))
    return values, reasons


def observations(hostvars, nodes):
    """What the module ``audit`` told on every node."""
    values, reasons = registered(hostvars, nodes, OBSERVED, "observation")
    for host, value in values.items():
        if not isinstance(value, dict):
            values[host] = None
            reasons.setdefault(host, "the host told nonsense instead of an observation")
    return values, reasons


def probes(hostvars, vantage_points):
    """What the module ``probe`` told on every vantage point."""
    return registered(hostvars, vantage_points, PROBED, None)


def vantage_addresses(task_vars):
    """{vantage point: {segment: [address]}} of the inventory's group. Refuses what is no address."""
    found, problems = {}, []
    for host in task_vars["groups"].get(VANTAGE_GROUP, []):
        listed = plain(task_vars["hostvars"][host].get(ADDRESSES) or {})
        if not isinstance(listed, dict) or not listed:
            problems.append(f"{ADDRESSES} of {host} is {listed!r}: write its address on every segment, such as {{internal: 10.77.2.67}}")
            continue
        found[str(host)] = {}
        for segment, addresses in listed.items():
            known = found[str(host)][segment] = []
            for address in addresses if isinstance(addresses, list) else [addresses]:
                try:
                    # As the probe writes it: its answers are told apart by it.
                    known.append(str(ipaddress.ip_address(str(address))))
                except ValueError:
                    problems.append(f"{ADDRESSES}.{segment} of {host} is {address!r}, which is no numeric address")
    if problems:
        raise AnsibleActionFail("; ".join(problems))
    return found

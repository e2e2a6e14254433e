# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The checks of the NPU controls: what ``verify_npu`` refuses before an installation, judged again by the audit. Pure."""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.npu_conditions import (
    IDS, UNKNOWN, NotTold, conditions, switches, wanted_npus)
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judged_node import NotApplicable, Unknown, clip


def planned_npus(node):
    """What npu_conditions.conditions() wants of a node. Raises NotApplicable where no NPU is planned on it."""
    planned = node.planned.get("npus")
    if not planned:
        raise NotApplicable("no NPU is planned on this node")
    return wanted_npus(planned["numbers"], "", planned["cann"], planned["spans"], planned["segments"], planned["fabric"])


def _check(identifier):
    def check(node):
        found = {condition["id"]: condition for condition in conditions(planned_npus(node), node.observed("npu"))}
        if identifier not in found:
            raise NotApplicable("no instance of this node uses NPUs of other nodes")
        if found[identifier]["status"] == UNKNOWN:
            raise Unknown(clip(found[identifier]["problems"][0]))
        return found[identifier]["expected"], found[identifier]["problems"]

    return check


def tls_is_equal_over_ranks(node):
    """As the condition, and equal to the head of each instance that spans nodes."""
    expected, problems = _check("NPU-06")(node)
    own = switches(node.observed("npu")["fabric"], planned_npus(node)["numbers"])
    for instance in node.instances:
        members = node.cluster["instances"][instance["name"]]["nodes"]
        if not instance.get("npus") or len(members) < 2 or members[0] == node.host:
            continue
        head = (node.observations or {}).get(members[0])
        try:
            other = switches(head["npu"]["fabric"], instance["npus"])
        except (KeyError, TypeError, NotTold):
            raise Unknown(f"{members[0]}, the head of {instance['name']}, did not tell its TLS switches") from None
        if set(other.values()) != {own[number] for number in instance["npus"]}:
            problems.append(f"TLS of {instance['name']} differs from {members[0]}, its head; set all alike with hccn_tool -tls -s enable")
    return expected + " NPUs of an instance", problems


CHECKS = {**{identifier: _check(identifier) for identifier in IDS}, "NPU-06": tls_is_equal_over_ranks}

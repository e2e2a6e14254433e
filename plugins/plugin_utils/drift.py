# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What drift correction decides and says: findings in, roles and sentences out. Pure."""

from __future__ import annotations

import difflib
import re

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import BY_ID

# In the order in which they are applied, with the variables that hold what the role's modules returned.
ROLES = {
    "vllm_runtime": ("__vllm_runtime_accounts_result", "__vllm_runtime_environment"),
    "vllm_network": ("__vllm_network_result",),
    "vllm_firewall": ("__vllm_firewall_result",),
    "vllm_gateway": ("__vllm_gateway_result",),
    "vllm_serve": ("__vllm_serve_result",),
    "vllm_access": ("__vllm_access_result",),
    "vllm_guard": ("__vllm_guard_result",),
}
# Roles that the inventory may leave out, with the variable that brings them in, and what it says otherwise where it says anything.
OPTIONAL = {"vllm_gateway": "vllm_cluster_gateway", "vllm_access": "vllm_access_groups", "vllm_guard": "vllm_guard_state"}
WITHOUT = ("absent", "unmanaged")
MODES = ("correct", "report")
HISTORY = "drift.jsonl"  # beside the reports
# A run notes all of itself in one file, however long that becomes: the audit that ends it reads what it explained.
HISTORY_BYTES, HISTORY_FILES = 16 << 20, 4
LINES = 40
CHANGED_LINES = 8  # of one file
FILE = re.compile(r"[-+~] (file|directory)\b")


def roles_to_correct(findings, hosts, controls=(), left_out=None):
    """``({host: [role]}, [finding that no role puts right])`` for the findings that failed; waived and unknown ones are nobody's drift.

    controls: the ids to correct; none is all. left_out: ``{host: roles}`` that the inventory does not apply there.
    """
    roles = {host: set() for host in hosts}
    left = []
    for finding in findings:
        if finding["status"] != "fail" or finding["host"] not in roles:
            continue
        tags = set(BY_ID[finding["control"]].tags) - set((left_out or {}).get(finding["host"], ()))
        if (controls and finding["control"] not in controls) or not tags:
            left.append(finding)
            continue
        roles[finding["host"]] |= tags
    return {host: [role for role in ROLES if role in wanted] for host, wanted in roles.items()}, left


def left_out(variables):
    """The roles that the inventory does not apply to a host with these variables."""
    values = {role: variables.get(variable) for role, variable in OPTIONAL.items()}
    return [role for role, value in values.items() if not value or value in WITHOUT]


def unknown_controls(controls):
    """Those of the ids given that no control has."""
    return [control for control in controls if control not in BY_ID]


def explanation(role, result):
    """What a role found on a node: ``{role, origin, lines}``, or None where it changed nothing.

    origin: ``foreign`` (the desired state is the one that was applied last), ``rollout`` (it is another one) or ``unknown``.
    """
    if not isinstance(result, dict) or not result.get("changed"):
        return None
    diff = result.get("diff") or {}
    diffs = [one for one in (diff if isinstance(diff, list) else [diff]) if isinstance(one, dict)]
    texts = {one.get("after_header"): one for one in diffs if "before" in one}
    lines = []
    for item in result.get("resources") or []:
        header = f"{item['resource']} ({item['change']})"
        lines.append(f"{header}: {_pairs(item['before'])} -> {_pairs(item['after'])}")
        if "content" in item["before"]:
            lines += changed_lines(texts.get(header))
    if not lines:
        for one in diffs:
            lines += str(one.get("prepared") or one.get("after_header") or "").splitlines()
            lines += changed_lines(one)
    if len(lines) > LINES:
        lines.sort(key=lambda line: not FILE.match(line))  # a whole table that is gone does not hide what else is
        lines = [*lines[:LINES], f"and {len(lines) - LINES} more"]
    return {"role": role, "origin": result.get("origin", "unknown"), "lines": lines}


def changed_lines(diff):
    """What one entry of a diff removes and adds, as lines, the numbers of lines left out; nothing where it has no text."""
    if not diff or not diff.get("before"):
        return []
    compared = list(difflib.unified_diff(str(diff["before"]).splitlines(), str(diff.get("after") or "").splitlines(), n=0, lineterm=""))[2:]
    lines = [f"    {line[0]} {line[1:]}" for line in compared if line[0] in "+-"]
    return lines if len(lines) <= CHANGED_LINES else [*lines[:CHANGED_LINES], f"    and {len(lines) - CHANGED_LINES} more lines"]


def _pairs(values):
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "nothing"


WORDS = {
    "foreign": "changed on the node; what is wanted is what was applied last",
    "rollout": "an intended change that was not applied yet",
    "unknown": "changed on the node, or an intended change",
}


def sentences(host, explained, report):
    """Lines about one host for the terminal."""
    lines = []
    for one in explained:
        lines.append(f"  {host}  {one['role']}: {WORDS[one['origin']]}; {'would be put right' if report else 'put right'}:")
        lines += [f"      {line}" for line in one["lines"]]
    return lines


NONE, LEFT, INCOMPLETE, CORRECTED = 0, 2, 3, 4


def exit_status(verdicts):
    """The status of a run from the exit statuses of its audits, the first before and the last after the correction."""
    if not verdicts or INCOMPLETE in verdicts:
        return INCOMPLETE
    if verdicts[-1]:
        return LEFT
    return CORRECTED if verdicts[0] else NONE

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The check of the guard that keeps a node what was last applied. Pure.

A check returns `(expected, problems)`, and passes without problems. It raises Unknown where the node did not tell, and NotApplicable where the
plan has no guard on the node.
"""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_request import GUARD_FOLDERS, GUARD_PROGRAM, GUARD_SETTINGS, GUARD_UNITS
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judged_node import NotApplicable, not_as_deployed, not_roots


def guard_runs_as_deployed(node):
    if not node.planned.get("guard"):
        raise NotApplicable("no guard on this node")
    problems = [problem for unit in GUARD_UNITS for problem in not_as_deployed(node, unit)]
    problems += [f"{path} does not exist" for path in (GUARD_PROGRAM, GUARD_SETTINGS) if node.file(path) is None]
    for path in sorted(node.observed("files")):
        if path.startswith(tuple(f"{folder}/" for folder in GUARD_FOLDERS)) or path in GUARD_FOLDERS:
            facts = node.file(path)
            problems += not_roots(path, facts) if facts else []
    return f"{' and '.join(GUARD_UNITS)} active and enabled, from files that only root can change, without drop-ins", problems


CHECKS = {"GRD-01": guard_runs_as_deployed}

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The judge: plan and observations in, findings out. Pure; what could not be observed is unknown, never pass."""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import (
    checks_access, checks_gateway, checks_guard, checks_instance, checks_network, checks_npu)
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import BY_ID, CONTROLS, SEVERITIES
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judged_node import Node, NotApplicable, Unknown, clip
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import judge_wire

PASS, FAIL, WAIVED, NOT_APPLICABLE, UNKNOWN_STATUS = "pass", "fail", "waived", "not applicable", "unknown"
STATUSES = (PASS, FAIL, WAIVED, NOT_APPLICABLE, UNKNOWN_STATUS)
COMPLIANT, FINDINGS, INCOMPLETE = "compliant", "findings", "incomplete"
EXIT_STATUS = {COMPLIANT: 0, FINDINGS: 2, INCOMPLETE: 3}
EVIDENCE_LIMIT = 20
CHECKS = {**checks_network.CHECKS, **checks_instance.CHECKS, **checks_access.CHECKS, **checks_gateway.CHECKS, **checks_npu.CHECKS,
          **checks_guard.CHECKS}


def judge_node(node, waivers=(), expired=()):
    """The findings of one node: [{control, host, severity, status, expected, observed, evidence, waiver}].

    waivers, expired: those of waivers.read_waivers that concern this host.
    """
    findings = []
    granted = {waiver["control"]: waiver for waiver in waivers}
    ended = {waiver["control"]: waiver for waiver in expired}
    for control in CONTROLS:
        finding = {"control": control.id, "host": node.host, "severity": control.severity, "expected": "", "observed": "", "evidence": [], "waiver": None}
        try:
            expected, problems = CHECKS[control.id](node)
        except Unknown as unknown:
            finding.update(status=UNKNOWN_STATUS, observed=clip(unknown))
        except NotApplicable as reason:
            finding.update(status=NOT_APPLICABLE, observed=clip(reason))
        except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError):
            # The plan is ours and checked; only what the host told can be of a wrong shape here.
            finding.update(status=UNKNOWN_STATUS, observed="the host's answer is not of the expected shape")
        else:
            shown = [clip(problem) for problem in problems[:EVIDENCE_LIMIT]]
            if len(problems) > EVIDENCE_LIMIT:
                shown.append(f"and {len(problems) - EVIDENCE_LIMIT} more")
            finding.update(status=FAIL if problems else PASS, expected=clip(expected), observed=shown[0] if shown else "as expected", evidence=shown)
        if finding["status"] == FAIL and control.id in granted:
            finding.update(status=WAIVED, waiver=granted[control.id])
        elif finding["status"] == FAIL and control.id in ended:
            waiver = ended[control.id]
            finding["evidence"].append(clip(f"the waiver of {waiver['owner']} ended on {waiver['expires']}"))
        findings.append(finding)
    return findings


def verdict_of(counts, gaps):
    """The verdict of numbers of findings by status; gaps: whether a host was not reached."""
    if counts[FAIL]:
        return FINDINGS
    return INCOMPLETE if counts[UNKNOWN_STATUS] or gaps else COMPLIANT


def judge(plan, composed, observations, reasons, probes, waivers=None, expired=None):
    """The whole judgement.

    observations: {node: observation or None}; reasons: {host: why there is none}; probes: {vantage point: result or None};
    waivers, expired: {host: [waiver]} of those in force, and of those that ended.
    Returns {verdict, exit_status, coverage, counts, wire, findings}.
    """
    wire = judge_wire(plan, composed, probes)
    rows, missing = {}, {}
    for row in wire["rows"]:
        rows.setdefault(row["host"], []).append(row)
    for entry in wire["missing"]:
        missing.setdefault(entry["host"], []).append(entry)
    findings = []
    for host in plan["nodes"]:
        node = Node(host, plan, observations.get(host), reasons.get(host), rows.get(host, []), missing.get(host, []))
        node.observations = observations
        findings.extend(judge_node(node, (waivers or {}).get(host, ()), (expired or {}).get(host, ())))
    counts = {status: sum(finding["status"] == status for finding in findings) for status in STATUSES}
    unobserved = [host for host in plan["nodes"] if not isinstance(observations.get(host), dict)]
    silent = [name for name in composed["vantage_points"] if not isinstance(probes.get(name), dict)]
    verdict = verdict_of(counts, unobserved or silent)
    return {
        "verdict": verdict, "exit_status": EXIT_STATUS[verdict],
        "coverage": {
            "nodes": len(plan["nodes"]), "observed": len(plan["nodes"]) - len(unobserved),
            "not_observed": {host: clip(reasons.get(host) or "not part of this run") for host in unobserved},
            "vantage_points": len(composed["vantage_points"]), "probed": len(composed["vantage_points"]) - len(silent),
            "not_probed": {name: clip(reasons.get(name) or "not part of this run") for name in silent},
            "probes": sum(probe.get("sent", 0) for probe in probes.values() if isinstance(probe, dict) and isinstance(probe.get("sent"), int)),
        },
        "counts": counts, "wire": wire, "findings": findings,
    }


def worst(findings, count=3):
    """The failed findings that matter most, one a control."""
    failed = sorted((finding for finding in findings if finding["status"] == FAIL), key=lambda finding: SEVERITIES.index(finding["severity"]))
    chosen = {}
    for finding in failed:
        chosen.setdefault(finding["control"], finding)
    return list(chosen.values())[:count]


def fix_of(control_id):
    """What to do about a control, in one line."""
    control = BY_ID[control_id]
    command = f" (site.yml --tags {','.join(control.tags)})" if control.tags else ""
    return control.fix + command

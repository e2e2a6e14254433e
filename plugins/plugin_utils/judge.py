# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The judge: plan and observations in, findings out. Pure; what could not be observed is unknown, never pass."""

from __future__ import annotations

import ipaddress

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.ports import format_ports, merge_ports, parse_ports
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import BY_ID, CONTROLS, SEVERITIES
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import BROKEN, LEAK, PASSED, STOPPED, UNKNOWN, judge_wire

PASS, FAIL, WAIVED, NOT_APPLICABLE, UNKNOWN_STATUS = "pass", "fail", "waived", "not applicable", "unknown"
STATUSES = (PASS, FAIL, WAIVED, NOT_APPLICABLE, UNKNOWN_STATUS)
COMPLIANT, FINDINGS, INCOMPLETE = "compliant", "findings", "incomplete"
EXIT_STATUS = {COMPLIANT: 0, FINDINGS: 2, INCOMPLETE: 3}
PORT_SETTINGS = ("net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports")
EVIDENCE_LIMIT = 20
TEXT_LIMIT = 400


class Unknown(Exception):
    """A control cannot be judged; the message says why."""


class NotApplicable(Exception):
    """A control does not concern this host; the message says why."""


def clip(value):
    """A text of limited length without control characters: what came from a host is data."""
    text = "".join(character if character.isprintable() else " " for character in str(value))
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT - 3] + "..."


class Node:
    """What is planned for a node and what was observed of it."""

    def __init__(self, host, plan, observation, reason, wire_rows, wire_missing):
        self.host, self.planned = host, plan["nodes"][host]
        self.cluster = plan["clusters"][self.planned["cluster"]]
        self._observation, self._reason = observation, reason
        self.wire_rows, self.wire_missing = wire_rows, wire_missing

    def observed(self, part):
        """A part of the observation. Raises Unknown with the reason where there is none."""
        if not isinstance(self._observation, dict):
            raise Unknown(self._reason or "the host was not observed")
        value = self._observation.get(part)
        if value is None:
            unknown = self._observation.get("unknown")
            raise Unknown(clip((unknown.get(part) if isinstance(unknown, dict) else None) or f"the host did not tell its {part}"))
        if not isinstance(value, (dict, list)):
            raise Unknown(f"the host told nonsense for its {part}")
        return value


def _wire_cells(node, result):
    return [(row, cell) for row in node.wire_rows for cell in row["cells"] if cell["result"] == result]


def some(items, limit=8):
    """The first few of a list as text, and how many more there are."""
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")


def _describe(row, cell):
    crossed = f", sent across from segment {row['segment']}" if row["crossed"] else ""
    words = {**PASSED, **STOPPED, "unsent": f"not sent: {row['why'] or 'no reason given'}"}[cell["observed"]]
    flow = f" (flow {cell['flow']})" if cell["flow"] else ""
    return f"{row['vantage']} {row['source']} -> {row['host']} {row['address']} {row['protocol']} {some(cell['ports'])}{flow}: {words}{crossed}"


def _wire_unknown(node):
    reasons = [_describe(row, cell) for row, cell in _wire_cells(node, UNKNOWN)]
    reasons += [f"{entry['vantage']} {entry['source']} -> {entry['address']}: not tried" for entry in node.wire_missing]
    if reasons:
        raise Unknown("; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""))
    if not node.wire_rows:
        raise Unknown("no vantage point tried this host")


def nothing_unplanned_reachable(node):
    leaks = [_describe(row, cell) for row, cell in _wire_cells(node, LEAK)]
    if not leaks:
        _wire_unknown(node)
    return "every unplanned port refused or silent, from every vantage point", leaks


def everything_planned_reachable(node):
    broken = [_describe(row, cell) for row, cell in _wire_cells(node, BROKEN)]
    if not broken:
        _wire_unknown(node)
    return "every planned flow answered", broken


def addresses_are_planned(node):
    problems, seen = [], {}
    for entry in node.observed("addresses"):
        seen[str(entry.get("address"))] = str(entry.get("interface"))
    planned = {}
    for segment, listed in node.planned["addresses"].items():
        interface = node.planned["interfaces"].get(segment)
        for address in listed:
            planned[address] = segment
            if address not in seen:
                problems.append(f"{address} of segment {segment} is on no interface")
            elif interface and seen[address] != interface:
                problems.append(f"{address} of segment {segment} is on {clip(seen[address])}, planned on {interface}")
    networks = [(segment, ipaddress.ip_network(network)) for segment, listed in node.cluster["segments"].items() for network in listed]
    for address, interface in seen.items():
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            raise Unknown(f"the host told an address that is none: {clip(address)}") from None
        segment = next((name for name, network in networks if parsed in network), None)
        if segment and address not in planned:
            problems.append(f"{address} on {clip(interface)} lies in segment {segment} and is not planned")
    return ", ".join(f"{address} ({segment})" for address, segment in planned.items()), problems


def _settings(node, wanted):
    observed, problems, expected = node.observed("sysctls"), [], []
    for name, value in wanted.items():
        expected.append(f"{name} = {value}".replace("\t", " "))
        values = observed.get(name)
        if not isinstance(values, dict):
            raise Unknown(f"the host did not tell {name}")
        for path, found in sorted(values.items()):
            if found is None and path.startswith("net/ipv6/"):
                continue
            if found is None:
                problems.append(f"{clip(path)}: this kernel does not have it")
            elif " ".join(str(found).split()) != " ".join(str(value).split()):
                problems.append(f"{clip(path)} is {clip(found) or 'empty'}, planned {value!s}".replace("\t", " "))
    return "; ".join(expected), problems


def network_settings(node):
    return _settings(node, {name: value for name, value in node.planned["sysctls"].items() if name not in PORT_SETTINGS})


def port_settings(node):
    return _settings(node, {name: value for name, value in node.planned["sysctls"].items() if name in PORT_SETTINGS})


def _units(node):
    return {entry["unit"]: entry for entry in node.planned["instances"]}


def _is_local(address):
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_wildcard(address):
    return address in ("0.0.0.0", "::")


def _listeners(node):
    listeners = []
    for entry in node.observed("listeners"):
        try:
            ipaddress.ip_address(entry["address"])
            listeners.append({**entry, "port": int(entry["port"]), "protocol": str(entry["protocol"])})
        except (TypeError, KeyError, ValueError):
            raise Unknown(f"the host told a listener that is none: {clip(entry)}") from None
    return listeners


def _within(port, ranges):
    return any(first <= port <= last for first, last in map(parse_ports, ranges))


def _name(entry):
    owner = clip(entry.get("unit") or entry.get("command") or f"uid {entry.get('uid')}")
    address = f"[{entry['address']}]" if ":" in entry["address"] else entry["address"]
    return f"{owner} on {address}:{entry['port']}/{entry['protocol']}"


def instance_listens_where_planned(node):
    units = _units(node)
    if not units:
        raise NotApplicable("no instance on this node")
    problems = []
    for entry in _listeners(node):
        instance = units.get(entry.get("unit"))
        if instance is None or _is_local(entry["address"]):
            continue
        planned = [listener for listener in node.planned["listeners"]
                   if listener["instance"] == instance["name"] and listener["protocol"] == entry["protocol"] and _within(entry["port"], listener["ports"])]
        wildcard = _is_wildcard(entry["address"])
        if not any(listener.get("wildcard") if wildcard else listener["address"] in (entry["address"], "*") for listener in planned):
            problems.append(_name(entry) + (" takes every interface" if wildcard else " is not planned"))
    expected = "; ".join(sorted({f"{listener['address']}:{','.join(listener['ports'])}" for listener in node.planned["listeners"]}))
    return expected, problems


def no_unplanned_listener(node):
    units, problems = _units(node), []
    planned = [(flow["protocol"], ports) for flow in node.planned["flows"] for ports in flow["ports"]]
    for entry in _listeners(node):
        if _is_local(entry["address"]) or entry.get("unit") in units or entry.get("pid") is None and entry["protocol"] == "udp":
            continue
        if not any(protocol == entry["protocol"] and _within(entry["port"], [ports]) for protocol, ports in planned):
            problems.append(_name(entry))
    ports = merge_ports(parse_ports(ports) for _protocol, ports in planned)
    return "only ports of the plan: " + ", ".join(format_ports(bounds) for bounds in ports), problems


def api_listens(node):
    heads = [entry for entry in node.planned["instances"] if entry.get("api")]
    if not heads:
        raise NotApplicable("no API on this node")
    found = {(entry["address"], entry["port"]) for entry in _listeners(node) if entry["protocol"] == "tcp"}
    problems = [f"{entry['unit']} does not listen on {entry['api']['address']}:{entry['api']['port']}"
                for entry in heads if (entry["api"]["address"], entry["api"]["port"]) not in found]
    return ", ".join(f"{entry['api']['address']}:{entry['api']['port']}" for entry in heads), problems


def _unit_facts(node):
    units = _units(node)
    if not units:
        raise NotApplicable("no instance on this node")
    observed = node.observed("units")
    for name, instance in units.items():
        facts = observed.get(name)
        if not isinstance(facts, dict) or not isinstance(facts.get("properties"), dict) or not isinstance(facts.get("processes"), list):
            raise Unknown(f"the host did not tell about {name}")
        yield name, instance, facts


def unit_runs_as_deployed(node):
    wanted = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}
    problems, names = [], []
    for name, instance, facts in _unit_facts(node):
        names.append(name)
        wrong = {key: facts["properties"].get(key) for key, value in wanted.items() if facts["properties"].get(key) != value}
        problems.extend(f"{name}: {key} is {clip(found) or 'empty'}, wanted {wanted[key]}" for key, found in wrong.items())
        if facts["properties"].get("User") != instance["user"] and "LoadState" not in wrong:
            problems.append(f"{name}: User is {clip(facts['properties'].get('User')) or 'root'}, planned {instance['user']}")
    return "; ".join(f"{name} loaded, enabled, active and reloaded" for name in names), problems


def processes_without_privilege(node):
    problems = []
    for name, _instance, facts in _unit_facts(node):
        for process in facts["processes"]:
            label = f"{name}: process {process.get('pid')} ({clip(process.get('command'))})"
            if "0" in str(process.get("uid") or "0").split():
                problems.append(f"{label} runs as root")
            for kind in ("permitted", "effective", "ambient"):
                if int(str(process.get(kind) or "f"), 16):
                    problems.append(f"{label} has {kind} capabilities {clip(process.get(kind))}")
            if process.get("no_new_privileges") != "1":
                problems.append(f"{label} may gain privileges")
        if not facts["processes"]:
            raise Unknown(f"{name} has no process")
    return "own user, no capability, no new privileges", problems


CHECKS = {
    "NET-01": nothing_unplanned_reachable,
    "NET-02": everything_planned_reachable,
    "NET-04": addresses_are_planned,
    "NET-05": network_settings,
    "NET-06": port_settings,
    "SOC-01": instance_listens_where_planned,
    "SOC-02": no_unplanned_listener,
    "SOC-03": api_listens,
    "SRV-01": unit_runs_as_deployed,
    "SRV-02": processes_without_privilege,
}


def judge_node(node):
    """The findings of one node: [{control, host, status, expected, observed, evidence}]."""
    findings = []
    for control in CONTROLS:
        finding = {"control": control.id, "host": node.host, "severity": control.severity, "expected": "", "observed": "", "evidence": []}
        try:
            expected, problems = CHECKS[control.id](node)
        except Unknown as unknown:
            finding.update(status=UNKNOWN_STATUS, observed=clip(unknown))
        except NotApplicable as reason:
            finding.update(status=NOT_APPLICABLE, observed=clip(reason))
        except (AttributeError, KeyError, TypeError, ValueError):
            # The plan is ours and checked; only what the host told can be of a wrong shape here.
            finding.update(status=UNKNOWN_STATUS, observed="the host's answer is not of the expected shape")
        else:
            shown = [clip(problem) for problem in problems[:EVIDENCE_LIMIT]]
            if len(problems) > EVIDENCE_LIMIT:
                shown.append(f"and {len(problems) - EVIDENCE_LIMIT} more")
            finding.update(status=FAIL if problems else PASS, expected=clip(expected), observed=shown[0] if shown else "as expected", evidence=shown)
        findings.append(finding)
    return findings


def judge(plan, composed, observations, reasons, probes):
    """The whole judgement.

    observations: {node: observation or None}; reasons: {host: why there is none}; probes: {vantage point: result or None}.
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
        findings.extend(judge_node(Node(host, plan, observations.get(host), reasons.get(host), rows.get(host, []), missing.get(host, []))))
    counts = {status: sum(finding["status"] == status for finding in findings) for status in STATUSES}
    unobserved = [host for host in plan["nodes"] if not isinstance(observations.get(host), dict)]
    silent = [name for name in composed["vantage_points"] if not isinstance(probes.get(name), dict)]
    verdict = COMPLIANT
    if counts[FAIL]:
        verdict = FINDINGS
    elif counts[UNKNOWN_STATUS] or unobserved or silent:
        verdict = INCOMPLETE
    return {
        "verdict": verdict,
        "exit_status": EXIT_STATUS[verdict],
        "coverage": {
            "nodes": len(plan["nodes"]),
            "observed": len(plan["nodes"]) - len(unobserved),
            "not_observed": {host: clip(reasons.get(host) or "not part of this run") for host in unobserved},
            "vantage_points": len(composed["vantage_points"]),
            "probed": len(composed["vantage_points"]) - len(silent),
            "not_probed": {name: clip(reasons.get(name) or "not part of this run") for name in silent},
            "probes": sum(probe.get("sent", 0) for probe in probes.values() if isinstance(probe, dict) and isinstance(probe.get("sent"), int)),
        },
        "counts": counts,
        "wire": wire,
        "findings": findings,
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

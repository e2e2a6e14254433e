# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Checks of what reaches a node: the wire, the packet filter, addresses, kernel settings and sockets. Pure.

A check returns `(expected, problems)`, and passes without problems. It raises Unknown where the node did not tell, and NotApplicable where the
control does not concern the node.
"""

from __future__ import annotations

import ipaddress

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.ports import format_ports, merge_ports, parse_ports
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_request import FIREWALL_FILES, FIREWALL_UNIT, HOST_SYSCTLS, SYSCTL_FILE
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judged_node import NotApplicable, Unknown, clip, not_roots, some
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import BROKEN, LEAK, PASSED, STOPPED, UNKNOWN

PORT_SETTINGS = ("net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports")
FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")


# The wire

def _wire_cells(node, result):
    return [(row, cell) for row in node.wire_rows for cell in row["cells"] if cell["result"] == result]


def _describe(row, cell):
    crossed = f", sent across from segment {row['segment']}" if row["crossed"] else ""
    words = {**PASSED, **STOPPED, "unsent": f"not sent: {row['why'] or 'no reason given'}"}[cell["observed"]]
    flow = f" (flow {cell['flow']})" if cell["flow"] else ""
    return f"{row['vantage']} {row['source']} -> {row['host']} {row['address']} {row['protocol']} {some(cell['ports'])}{flow}: {words}{crossed}"


def _wire_unknown(node):
    reasons = [_describe(row, cell) for row, cell in _wire_cells(node, UNKNOWN)]
    reasons += [f"{entry['vantage']} {entry['source']} -> {entry['address']}: not tried" for entry in node.wire_missing]
    reasons += [f"UDP was not tried: {reason}" for reason in [node.not_told("responder")] if reason]
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


# The packet filter

def _packet(entry):
    packet = entry.get("packet") or {}
    rule = (entry.get("trace") or [{}])[-1]
    where = f", by {rule.get('table')} {rule.get('chain')}: {rule.get('rule')}" if rule.get("chain") else ""
    user = f" of user {packet['uid']}" if "uid" in packet else ""
    return (f"{packet.get('protocol')} {packet.get('source')} -> {packet.get('destination')} port {packet.get('destination_port')}{user}"
            f" on {packet.get('interface') or packet.get('output_interface')} is {entry.get('outcome')}{where}")


def filter_is_the_plan(node):
    proof = node.observed("packet_filter")
    flows, leaks, unknown = ([entry for entry in proof[part] if isinstance(entry, dict)] for part in ("flows", "leaks", "unknown"))
    problems = [f"broken, flow {entry.get('name')}: {_packet(entry)}" for entry in flows if entry.get("status") == "broken"]
    problems += [f"leak: {_packet(entry)}" for entry in leaks if entry.get("status") == "leak"]
    if not problems and proof.get("verdict") != "ok":
        reasons = [f"{entry.get('object')}: {entry.get('reason')}" for entry in unknown]
        reasons += [f"flow {entry.get('name')} depends on {entry.get('depends_on')}" for entry in flows if entry.get("status") == "unknown"]
        reasons += [f"depends on {entry.get('depends_on')}: {_packet(entry)}" for entry in leaks if entry.get("status") == "unknown"]
        raise Unknown(clip("; ".join(reasons[:3]) or "the packet filter could not be evaluated"))
    expected = "no packet passes that the plan does not name, neither in, nor out from service users or to their ports on loopback; every planned one does"
    return expected, [clip(problem) for problem in problems]


def listing_is_honest(node):
    proof = node.observed("packet_filter")
    if not proof.get("statistics"):
        raise Unknown("the packet filter could not be read")
    return "every rule is listed as it is loaded", [
        f"{entry.get('table')} {entry.get('chain')} handle {entry.get('handle')}: {entry.get('why')}" for entry in proof["listing"]]


def table_is_loaded(node):
    table = node.observed("table")
    expected = "table inet vllm_hardening loaded, not dormant, input and forward drop by default"
    if not table["present"]:
        return expected, ["the table inet vllm_hardening is not loaded"]
    problems = ["the table is dormant"] if table["dormant"] else []
    for hook in ("input", "forward"):
        policies = [chain.get("policy") for chain in table["chains"] if chain.get("hook") == hook]
        if hook == "forward" and node.planned["sysctls"].get("net.ipv4.ip_forward") != "0" and not policies:
            continue
        if not policies:
            problems.append(f"no chain of the table is hooked into {hook}")
        problems += [f"a chain of {hook} does not drop by default" for policy in policies if policy != "drop"]
    return expected, problems


def filter_at_boot(node):
    problems = []
    for path in FIREWALL_FILES[1:]:
        if node.file(path) is None:
            problems.append(f"{path} does not exist")
    properties, _processes = node.unit(FIREWALL_UNIT)
    if not problems:
        problems += [f"{FIREWALL_UNIT}: {name} is {clip(properties.get(name)) or 'empty'}, wanted {value}"
                     for name, value in (("LoadState", "loaded"), ("UnitFileState", "enabled"), ("DropInPaths", "")) if properties.get(name, "") != value]
    return f"{FIREWALL_UNIT} enabled, its rules at {FIREWALL_FILES[1]}", problems


def filter_files_are_roots(node):
    problems = []
    for path in FIREWALL_FILES:
        facts = node.file(path)
        if facts and facts["type"] != "link":
            problems += not_roots(path, facts)
        if facts and path == FIREWALL_FILES[1] and int(facts["mode"], 8) & 0o077:
            problems.append(f"{path} has mode {facts['mode']}, wanted 0600")
    return "owned by root, writable by nobody else; the rules readable by root only", problems


# Addresses and settings

def addresses_are_planned(node):
    problems, seen = [], {}
    for entry in node.observed("addresses", list):
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
        parsed = ipaddress.ip_address(address)
        segment = next((name for name, network in networks if parsed in network), None)
        if segment and address not in planned:
            problems.append(f"{address} on {clip(interface)} lies in segment {segment} and is not planned")
    return ", ".join(f"{address} ({segment})" for address, segment in planned.items()), problems


def _settings(node, wanted):
    if not wanted:
        raise NotApplicable("nothing of the kind is planned")
    observed, problems, expected = node.observed("sysctls"), [], []
    for name, value in wanted.items():
        expected.append(f"{name} = {value}".replace("\t", " "))
        values = observed.get(name)
        # Of IPv6 a kernel without it has nothing to tell.
        if not isinstance(values, dict) or not values and not name.startswith(("net.ipv6.", "net/ipv6/")):
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
    return _settings(node, {name: value for name, value in node.planned["sysctls"].items() if name not in PORT_SETTINGS + FORWARDING})


def port_settings(node):
    return _settings(node, {name: value for name, value in node.planned["sysctls"].items() if name in PORT_SETTINGS})


def forwarding_settings(node):
    return _settings(node, {name: value for name, value in node.planned["sysctls"].items() if name in FORWARDING})


def settings_are_kept(node):
    if not node.planned["sysctls"]:
        raise NotApplicable("no setting is planned")
    facts = node.file(SYSCTL_FILE)
    return f"{SYSCTL_FILE}, owned by root", [f"{SYSCTL_FILE} does not exist"] if facts is None else not_roots(SYSCTL_FILE, facts)


def addresses_are_randomised(node):
    return _settings(node, HOST_SYSCTLS)


# Sockets

def _listeners(node):
    """The listeners, with ``ip``. A socket of IPv6 that is bound to a mapped address listens on that address of IPv4."""
    listeners = []
    for entry in node.observed("listeners", list):
        try:
            address = ipaddress.ip_address(entry["address"])
            address = getattr(address, "ipv4_mapped", None) or address
            listeners.append({**entry, "ip": address, "address": str(address), "port": int(entry["port"]), "protocol": str(entry["protocol"])})
        except (TypeError, KeyError, ValueError):
            raise Unknown(f"the host told a listener that is none: {clip(entry)}") from None
    return listeners


def _within(port, ranges):
    return any(first <= port <= last for first, last in map(parse_ports, ranges))


def _name(entry):
    owner = clip(entry.get("unit") or entry.get("command") or f"uid {entry.get('uid')}")
    address = f"[{entry['address']}]" if ":" in entry["address"] else entry["address"]
    return f"{owner} on {address}:{entry['port']}/{entry['protocol']}"


def _planned_units(node):
    """{unit: names of the instances whose planned listeners it may have}."""
    units = {entry["unit"]: entry["name"] for entry in node.planned["instances"]}
    units.update({entry["ray"]["unit"]: entry["name"] for entry in node.planned["instances"] if entry.get("ray")})
    if node.planned.get("gateway"):
        units[node.planned["gateway"]["unit"]] = "gateway"
    return units


def instance_listens_where_planned(node):
    units = _planned_units(node)
    if not units:
        raise NotApplicable("no instance on this node")
    problems = []
    for entry in _listeners(node):
        unit = entry.get("unit")
        if unit not in units or entry["ip"].is_loopback:
            continue
        planned = [listener for listener in node.planned["listeners"]
                   if (listener.get("unit") == unit if listener.get("unit") else listener["instance"] == units[unit])
                   and listener["protocol"] == entry["protocol"] and _within(entry["port"], listener["ports"])]
        wildcard = entry["ip"].is_unspecified
        if not any(listener.get("wildcard") if wildcard else listener["address"] == entry["address"] for listener in planned):
            problems.append(_name(entry) + (" takes every interface" if wildcard else " is not planned"))
    expected = "; ".join(sorted({f"{listener['address']}:{','.join(listener['ports'])}" for listener in node.planned["listeners"]}))
    return expected, problems


def no_unplanned_listener(node):
    units, problems = _planned_units(node), []
    # What is open to an instance's peers and clients is so for the instance alone.
    instances = {f"{entry['name']}-{kind}" for entry in node.planned["instances"] for kind in ("internal", "api")}
    planned = [(flow["protocol"], ports) for flow in node.planned["flows"] if flow["name"] not in instances for ports in flow["ports"]]
    for entry in _listeners(node):
        if entry["ip"].is_loopback or entry.get("unit") in units or entry.get("pid") is None and entry["protocol"] == "udp":
            continue
        if not any(protocol == entry["protocol"] and _within(entry["port"], [ports]) for protocol, ports in planned) or entry.get("unit") is None:
            problems.append(_name(entry))
    ports = merge_ports(parse_ports(ports) for _protocol, ports in planned)
    return "the plan's units, and by other units only ports of the plan's other flows: " + ", ".join(format_ports(bounds) for bounds in ports), problems


def api_listens(node):
    heads = [entry for entry in node.planned["instances"] if entry.get("api")]
    if not heads:
        raise NotApplicable("no API on this node")
    found = {(entry["address"], entry["port"]) for entry in _listeners(node) if entry["protocol"] == "tcp" and entry.get("unit") in _planned_units(node)}
    problems = [f"{entry['unit']} does not listen on {entry['api']['address']}:{entry['api']['port']}"
                for entry in heads if (entry["api"]["address"], entry["api"]["port"]) not in found]
    return ", ".join(f"{entry['api']['address']}:{entry['api']['port']}" for entry in heads), problems


CHECKS = {
    "NET-01": nothing_unplanned_reachable, "NET-02": everything_planned_reachable, "NET-03": filter_is_the_plan, "NET-04": addresses_are_planned,
    "NET-05": network_settings, "NET-06": port_settings, "NET-07": forwarding_settings, "NET-08": settings_are_kept, "FW-01": table_is_loaded,
    "FW-02": filter_at_boot, "FW-03": filter_files_are_roots, "FW-04": listing_is_honest, "SOC-01": instance_listens_where_planned,
    "SOC-02": no_unplanned_listener, "SOC-03": api_listens, "HST-01": addresses_are_randomised,
}

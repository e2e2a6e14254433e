# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The plan as text that a person reviews before anything is touched."""

from __future__ import annotations

import shlex


def plan_text(plan):
    """All clusters, then every node with its addresses, instances, flows both ways and sysctls; a string of lines."""
    lines = []
    for name, cluster in plan["clusters"].items():
        lines += _cluster_lines(name, cluster)
        for host in cluster["nodes"]:
            lines += _node_lines(host, plan["nodes"][host])
    return "\n".join(lines)


def _cluster_lines(name, cluster):
    nodes = len(cluster["nodes"])
    lines = [f"Cluster {name}: {nodes} node{'s' if nodes != 1 else ''}", "  segments"]
    lines += [f"    {segment:<14} {', '.join(networks)}" for segment, networks in cluster["segments"].items()]
    lines.append("  sets")
    for label, members in cluster["sets"].items():
        shown = ", ".join(members[:6]) + (f", ... {len(members)} in all" if len(members) > 6 else "")
        lines.append(f"    @{label:<13} {shown or 'nobody'}")
    for label, instance in cluster["instances"].items():
        shown = ", ".join(instance["nodes"][:6]) + (" ..." if len(instance["nodes"]) > 6 else "")
        lines.append(f"  instance {label}: {instance['engine']}, {instance['topology']}, head first: {shown}")
    return [*lines, ""]


def _node_lines(host, node):
    lines = [f"Node {host}"]
    for segment, addresses in node["addresses"].items():
        interface = node["interfaces"].get(segment)
        lines.append(f"  {segment:<11} {', '.join(addresses)}" + (f" on {interface}" if interface else ""))
    lines.append(f"  ephemeral   {node['ephemeral_ports']}, reserved {', '.join(node['reserved_ports']) or 'nothing'}")
    for instance in node["instances"]:
        lines += _instance_lines(instance)
    lines += _gateway_lines(node["gateway"])
    lines.append("  may be opened from outside")
    for flow in node["flows"]:
        target = " ".join(flow["destinations"])
        where = f" on {flow['interface']}" if flow["interface"] else ""
        lines.append(
            f"    {', '.join(flow['sources'])} -> {target}{where} {flow['protocol']} {', '.join(flow['ports'])}: {flow['reason']}"
        )
    lines += [f"  on loopback {', '.join(entry['ports'])} for root, {', '.join(entry['users'])} alone: {entry['reason']}" for entry in node["loopback"]]
    lines.append("  everything else is refused")
    lines += _egress_lines(node["egress"])
    lines.append("  kernel parameters")
    lines += [f"    {key} = {' '.join(value.split())}" for key, value in node["sysctls"].items()]
    return [*lines, ""]


def _instance_lines(instance):
    """What runs of an instance on one node: the engine, over Ray beside or (away from the head) in place of it a unit of Ray."""
    role = "head" if instance["head"] else f"rank {instance['rank']}, headless"
    lines = []
    for unit in filter(None, (instance, instance["ray"])):
        if unit["arguments"] is not None:
            lines.append(f"  {unit['unit']} ({role}) as {instance['user']}")
            lines += [f"    {line}" for line in _command_lines(unit["arguments"])]
    return lines + [f"    {key}={value}" for key, value in instance["environment"].items()]


def _egress_lines(egress):
    """What the users of the services may open to others; a user without a destination opens nothing."""
    lines = ["  may be opened from inside"] if egress else []
    for entry in egress:
        target = f"{', '.join(entry['destinations'])} {entry['protocol']} {', '.join(entry['ports'])}" if entry["destinations"] else "nobody"
        lines.append(f"    {entry['user']} -> {target}: {entry['reason']}")
    return lines


def _gateway_lines(gateway):
    """What the gateway of a node answers, and under which names."""
    if gateway is None:
        return []
    lines = [f"  {gateway['unit']} as {gateway['user']}"]
    for instance in gateway["instances"]:
        names = ", ".join(instance["server_names"] + instance["addresses"])
        lines.append(f"    {instance['name']} on port {instance['port']} as {names}")
        lines += [f"      {endpoint}" for endpoint in instance["endpoints"]]
    metrics = gateway["metrics"]
    lines.append(f"    metrics and health on {', '.join(metrics['addresses'])} port {metrics['port']}")
    return lines


def _command_lines(arguments):
    """The command line, one flag with its value a line."""
    lines = []
    for argument in arguments:
        if argument.startswith("--") or not lines:
            lines.append(argument)
        else:
            lines[-1] += " " + shlex.quote(argument)
    return lines

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The plan as text that a person reviews before anything is touched."""

from __future__ import annotations

import shlex


def plan_text(plan):
    """All clusters, then every node with its addresses, instances, flows and sysctls; a string of lines."""
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
        role = "head" if instance["head"] else f"rank {instance['rank']}, headless"
        lines.append(f"  {instance['unit']} ({role}) as {instance['user']}")
        lines += [f"    {line}" for line in _command_lines(instance["arguments"])]
        lines += [f"    {key}={value}" for key, value in instance["environment"].items()]
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
    return [*lines, ""]


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

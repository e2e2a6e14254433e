# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a user writes, checked: the ``vllm_cluster_*`` variables of every node become Cluster, Node and Instance records.

Nothing here reads anything but its arguments. Every problem is collected, so that a user sees all of them at once.
"""

from __future__ import annotations

import hashlib
import re

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.ports import format_ports, parse_ports
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import pairings, plan_gateway
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.addresses import is_loopback, parse_network
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_instances import read_instances
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_model import (
    FEWEST_EPHEMERAL_PORTS,
    HCCL_PORTS,
    MASTER_PORTS,
    MINDSPORE_PORTS,
    SEGMENTS,
    Cluster,
    Node,
)
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_reader import PlanError, Reader
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.ruleset import FLOW_NAME, INTERFACE

CLUSTER_VARIABLES = (
    "vllm_cluster_name",
    "vllm_cluster_networks",
    "vllm_cluster_administrators",
    "vllm_cluster_clients",
    "vllm_cluster_monitors",
    "vllm_cluster_instances",
    "vllm_cluster_ephemeral_ports",
    "vllm_cluster_ssh_port",
    "vllm_cluster_forwarding",
    "vllm_cluster_gateway",
    "vllm_cluster_metrics_port",
)
NODE_VARIABLES = ("vllm_cluster_addresses", "vllm_cluster_interfaces", "vllm_cluster_npus", "vllm_cluster_controller")
GUARD_STATES = ("present", "absent", "unmanaged")
RUN_VARIABLES = ("vllm_cluster_group", "vllm_cluster_show", "vllm_cluster_plan_file", "vllm_cluster_plan_query")


def read_clusters(hosts, controller=None):
    """Check the inventory of all nodes and return ``[Cluster]``.

    ``hosts`` maps each node's name, in inventory order, to its ``vllm_cluster_*`` variables. ``controller`` maps a node's
    name to the address this run reaches it from, as far as that is known. Raises PlanError with every problem.
    """
    reader = Reader()
    if not hosts:
        reader.problem("vllm_nodes", None, "has no hosts", "Put the nodes of the cluster into the group vllm_nodes")
    members, seen = {}, set()
    for host, variables in hosts.items():
        names = [key for key in variables if key.startswith("vllm_cluster_") and key not in seen]
        seen.update(names)
        reader.known_keys(
            f"{host}: ", names, CLUSTER_VARIABLES + NODE_VARIABLES + RUN_VARIABLES, "variable of vllm_cluster"
        )
        members.setdefault(str(variables.get("vllm_cluster_name", "vllm")), {})[host] = variables
    clusters = []
    for name, nodes in members.items():
        reader.prefix = f"cluster {name}: " if len(members) > 1 else ""
        clusters.append(_read_cluster(reader, name, nodes, controller or {}))
    reader.prefix = ""
    _addresses_used_twice(reader, clusters)
    _dropins_fit(reader, clusters)
    if reader.problems:
        raise PlanError(reader.problems)
    return clusters


def _shared(reader, cluster, hosts):
    """The cluster's variables, which must say the same on each of its nodes."""
    shared = {}
    first_host = next(iter(hosts))
    for variable in CLUSTER_VARIABLES:
        value = hosts[first_host].get(variable)
        for host, variables in hosts.items():
            if variables.get(variable) != value:
                reader.problem(
                    f"{host}: {variable}",
                    variables.get(variable),
                    f"differs from the value on {first_host}, though both are nodes of cluster {cluster}",
                    "Write it once, as a variable of the group",
                )
                break
        if value is not None:
            shared[variable] = value
    return shared


def _read_cluster(reader, name, hosts, controller):
    shared = _shared(reader, name, hosts)
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,30}", name):
        reader.problem("vllm_cluster_name", name, "is no name", "Write lower-case letters, digits, - and _, a letter first")
    networks = _read_networks(reader, shared.get("vllm_cluster_networks"))
    ephemeral = _read_ephemeral(reader, shared.get("vllm_cluster_ephemeral_ports", "28000-31999"))
    ssh_port = shared.get("vllm_cluster_ssh_port", 22)
    ssh_port = reader.port("vllm_cluster_ssh_port", ssh_port, ephemeral, privileged=True) or 22
    administrators = reader.networks(
        "vllm_cluster_administrators", shared.get("vllm_cluster_administrators"), True, "10.77.0.1/32"
    )
    clients = reader.networks("vllm_cluster_clients", shared.get("vllm_cluster_clients"), True, "10.77.1.128/25")
    monitors = reader.networks("vllm_cluster_monitors", shared.get("vllm_cluster_monitors"), False, "10.77.0.9/32")
    _administrators_contain_controller(reader, administrators, hosts, controller)
    nodes = {host: _read_node(reader, host, variables, networks) for host, variables in hosts.items()}
    _read_locks(reader, nodes, hosts)
    metrics_port = plan_gateway.read_gateway(reader, shared, ephemeral, monitors)
    behind = shared.get("vllm_cluster_gateway") is True
    instances = read_instances(reader, shared.get("vllm_cluster_instances"), nodes, ephemeral, behind)
    forwarding = shared.get("vllm_cluster_forwarding", False)
    if not isinstance(forwarding, bool):
        reader.problem("vllm_cluster_forwarding", forwarding, "is neither true nor false", "Write one of them")
    _addresses_present(reader, nodes, instances, networks)
    _families_meet(reader, nodes, instances, behind, administrators, clients, monitors)
    _extra_flows_fit(reader, nodes, instances)
    _ports_used_twice(reader, instances, ssh_port, metrics_port)
    _npus_used_twice(reader, instances, nodes)
    return Cluster(
        name=name,
        networks=networks,
        administrators=administrators,
        clients=clients,
        monitors=monitors,
        ephemeral_ports=ephemeral,
        ssh_port=ssh_port,
        forwarding=forwarding is True,
        metrics_port=metrics_port,
        nodes=nodes,
        instances=instances,
    )


def _read_networks(reader, value):
    path = "vllm_cluster_networks"
    example = "Write {management: 10.77.0.0/24, api: 10.77.1.0/24, internal: 10.77.2.0/24}"
    if not isinstance(value, dict):
        reader.problem(path, value, "is missing or no mapping of segments to networks", example)
        return {}
    reader.known_keys(f"{path}.", value, SEGMENTS, "segment")
    if "management" not in value:
        reader.problem(f"{path}.management", None, "is missing", "Write the network that SSH comes in by, such as 10.77.0.0/24")
    networks = {
        segment: reader.networks(f"{path}.{segment}", value[segment], True, "10.77.0.0/24")
        for segment in SEGMENTS
        if segment in value
    }
    named = [(segment, network) for segment, found in networks.items() for network in found]
    for index, (segment, network) in enumerate(named):
        for other, earlier in named[:index]:
            if network in earlier or earlier in network:
                reader.problem(
                    f"{path}.{segment}",
                    str(network),
                    f"overlaps {path}.{other} ({earlier})",
                    "Give every segment a network of its own",
                )
    return networks


def _read_ephemeral(reader, value):
    path = "vllm_cluster_ephemeral_ports"
    fallback = (28000, 31999)
    fix = "Write a range such as 28000-31999"
    try:
        first, last = parse_ports(value)
    except ValueError:
        reader.problem(path, value, "is no range of ports", fix)
        return fallback
    if first < 1024 or last - first + 1 < FEWEST_EPHEMERAL_PORTS:
        reader.problem(path, value, f"must lie above 1023 and hold at least {FEWEST_EPHEMERAL_PORTS} ports", fix)
    for (low, high), owner in ((MINDSPORE_PORTS, "MindSpore"), (HCCL_PORTS, "HCCL")):
        if first <= high and low <= last:
            reader.problem(path, value, f"overlaps {low}-{high} of {owner}", fix)
    return first, last


def _read_node(reader, host, variables, networks):
    path = f"{host}: vllm_cluster_addresses"
    raw = variables.get("vllm_cluster_addresses")
    if not isinstance(raw, dict):
        reader.problem(path, raw, "is missing or no mapping of segments to addresses", "Write {management: 10.77.0.11, ...}")
        raw = {}
    host_segments = [segment for segment in SEGMENTS if segment != "fabric"]
    reader.known_keys(f"{path}.", raw, host_segments, "segment of a host")
    addresses = {}
    for segment in host_segments:
        if segment not in raw:
            continue
        if raw[segment] == []:
            continue
        own = networks.get(segment, [])
        example = str(own[0][11]) if own and own[0].size > 12 else "10.77.0.11"
        found = []
        for value in raw[segment] if isinstance(raw[segment], list) else [raw[segment]]:
            address = reader.address(f"{path}.{segment}", value, example)
            if address is None:
                continue
            if is_loopback(address):
                reader.problem(
                    f"{path}.{segment}", value, "is loopback, which no other node reaches", f"Write such as {example}"
                )
            elif own and not any(address in network for network in own):
                inside = ", ".join(map(str, own))
                reader.problem(
                    f"{path}.{segment}", value, f"is outside its segment ({inside})", f"Write an address such as {example}"
                )
            elif networks and segment not in networks:
                reader.problem(
                    f"{path}.{segment}",
                    value,
                    "belongs to a segment without a network",
                    f"Name the network as vllm_cluster_networks.{segment}",
                )
            elif any(address in (network.network, network.broadcast) for network in own if network.size > 2):
                reader.problem(
                    f"{path}.{segment}", value, "is the network's or the broadcast address", f"Write such as {example}"
                )
            elif any(address.version == other.version for other in found):
                reader.problem(
                    f"{path}.{segment}", value, f"is a second IPv{address.version} address", "Write one address a family"
                )
            found.append(address)
        addresses[segment] = found
    interfaces = variables.get("vllm_cluster_interfaces") or {}
    if not isinstance(interfaces, dict):
        reader.problem(f"{host}: vllm_cluster_interfaces", interfaces, "is no mapping", "Write {internal: eth2}")
        interfaces = {}
    reader.known_keys(f"{host}: vllm_cluster_interfaces.", interfaces, host_segments, "segment of a host")
    for segment, interface in interfaces.items():
        if not isinstance(interface, str) or not INTERFACE.fullmatch(interface):
            reader.problem(
                f"{host}: vllm_cluster_interfaces.{segment}", interface, "is no interface name", "Write such as eth2"
            )
    npus = reader.integer(f"{host}: vllm_cluster_npus", variables.get("vllm_cluster_npus", 8), 0, "number of NPUs")
    extra = _read_extra_flows(reader, f"{host}: vllm_firewall_extra_flows", variables.get("vllm_firewall_extra_flows"))
    return Node(
        host, addresses, {segment: str(name) for segment, name in interfaces.items()}, npus or 0, extra, access=_read_access(variables),
        software=_read_software(variables), existing=variables.get("vllm_runtime_software") == "existing",
        guard=_read_guard(reader, f"{host}: vllm_guard_state", variables.get("vllm_guard_state", "unmanaged")),
        dropins=_read_dropins(reader, f"{host}: vllm_serve_dropins", variables.get("vllm_serve_dropins")))


def _read_access(variables):
    """What the role vllm_access is going to restrict logins to, None where it is not going to. The role itself refuses what is wrong."""
    groups = variables.get("vllm_access_groups")
    if not isinstance(groups, list) or not groups or variables.get("vllm_access_state", "present") != "present":
        return None
    return {"groups": [str(group) for group in groups], "sudo": variables.get("vllm_access_limit_sudo", False) in (True, "true", "True", "yes")}


def _read_guard(reader, path, state):
    """Whether the role vllm_guard puts the guard on the node. The audit never runs that role, so what is wrong is refused here."""
    if state not in GUARD_STATES:
        reader.problem(path, state, "is no state of the guard", f"Write {', '.join(GUARD_STATES[:-1])} or {GUARD_STATES[-1]}")
    return state == "present"


def _read_software(variables):
    """The directory of the engine's programs, None for those of a container image."""
    if variables.get("vllm_runtime_software") == "container":
        return None
    prefix = variables.get("vllm_serve_prefix") or variables.get("vllm_runtime_prefix")
    return str(variables.get("vllm_serve_executable_directory") or (f"{prefix}/current/bin" if prefix else Node.software))


DROPIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,99}")
DROPIN_EXAMPLE = r'"[Service]\nMemoryMax=64G\n"'
DROPIN_SECTION = re.compile(r"^\[(Unit|Service|Install)\][ \t]*$", re.MULTILINE)


def _read_dropins(reader, path, value):
    """What the site adds to units: {instance: {name: sha256 of the content}}. No problem shows a content, which may be confidential."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        reader.problem(path, None, "is no mapping of instances to their drop-ins", f"Write {{chat: {{memory: {DROPIN_EXAMPLE}}}}}")
        return {}
    found = {}
    for instance, dropins in value.items():
        where = f"{path}.{instance}"
        if not isinstance(dropins, dict):
            if dropins is not None:
                reader.problem(where, None, "is no mapping of names to contents", f"Write {{memory: {DROPIN_EXAMPLE}}}")
            continue
        for name, content in dropins.items():
            if not DROPIN_NAME.fullmatch(name):
                fix = "Write at most 100 letters, digits and _ . @ : -, such as memory; the role adds .conf"
                reader.problem(f"{where}.{name}", None, "is no name of a drop-in", fix)
            if not isinstance(content, str) or not DROPIN_SECTION.search(content):
                reader.problem(f"{where}.{name}", None, "is no content of a drop-in", f"Write text with a section, such as {DROPIN_EXAMPLE}")
                continue
            found.setdefault(instance, {})[name] = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    return found


def _dropins_fit(reader, clusters):
    """Drop-ins are for instances that the inventory has: one under another name would never reach a unit."""
    names = [instance.name for cluster in clusters for instance in cluster.instances]
    for cluster in clusters:
        for host, node in cluster.nodes.items():
            for name in node.dropins if names else ():
                if name not in names:
                    fix = f"Write one of {', '.join(names)}, or remove it"
                    reader.problem(f"{host}: vllm_serve_dropins.{name}", None, "is for no instance of the inventory", fix)


def _read_locks(reader, nodes, hosts):
    """What each node's lock installs; equal locks are read once and are one object. A lock is content, so a mapping is none."""
    known = {}
    for host, variables in hosts.items():
        text = variables.get("vllm_runtime_requirements")
        if isinstance(text, str) and text.strip() and variables.get("vllm_runtime_software", "managed") == "managed":
            if text not in known:
                known[text] = pairings.read_versions(text)
                if known[text] is None:
                    reader.problem(
                        f"{host}: vllm_runtime_requirements",
                        text,
                        "is not the content of a lock file, lines of NAME==VERSION --hash=sha256:DIGEST",
                        "Write such as \"{{ lookup('ansible.builtin.file', inventory_dir ~ '/serving.lock') }}\"",
                    )
            nodes[host].packages = known[text]


FLOW_KEYS = ("name", "sources", "destinations", "interface", "segment", "protocol", "ports", "reason")


def _read_extra_flows(reader, path, value):
    """What else the site lets in, so that the audit knows it as planned; each with a reason."""
    flows = []
    if value is not None and not isinstance(value, list):
        reader.problem(path, value, "is no list", "Write a list of flows")
        return flows
    for index, raw in enumerate(value or []):
        where = f"{path}[{index}]"
        if not isinstance(raw, dict):
            reader.problem(where, raw, "is no mapping", "Write {name: ..., sources: [...], protocol: tcp, ports: [...], reason: ...}")
            continue
        reader.known_keys(f"{where}.", raw, FLOW_KEYS, "key of a flow")
        if not isinstance(raw.get("name"), str) or not FLOW_NAME.fullmatch(raw["name"]):
            reader.problem(f"{where}.name", raw.get("name"), "is no name", "Write at most 100 letters, digits and . _ : / @ + -")
        if not isinstance(raw.get("reason"), str) or not raw["reason"].strip():
            reader.problem(f"{where}.reason", raw.get("reason"), "is missing", "Write what the flow is for")
        if raw.get("interface") is not None and not INTERFACE.fullmatch(str(raw["interface"])):
            reader.problem(f"{where}.interface", raw["interface"], "is no interface name", "Write such as eth2")
        if raw.get("segment") not in (None, "management", "api", "internal"):
            reader.problem(f"{where}.segment", raw["segment"], "is no segment of a host", "Write management, api or internal")
        if raw.get("protocol") not in ("tcp", "udp"):
            reader.problem(f"{where}.protocol", raw.get("protocol"), "is not known", "Write tcp or udp")
        sources = raw.get("sources") if isinstance(raw.get("sources"), list) else []
        if not sources:
            reader.problem(f"{where}.sources", raw.get("sources"), "names nobody", "Write a list of networks or named sets")
        reader.networks(f"{where}.sources", [source for source in sources if not str(source).startswith("@")], False, "10.77.0.9/32")
        destinations = raw.get("destinations") or []
        if not isinstance(destinations, list):
            reader.problem(f"{where}.destinations", destinations, "is no list", "Write a list of the node's addresses")
            destinations = []
        for destination in destinations:
            reader.address(f"{where}.destinations", destination, "10.77.0.11")
        ports = raw.get("ports") if isinstance(raw.get("ports"), list) else []
        if not ports:
            reader.problem(f"{where}.ports", raw.get("ports"), "names no port", "Write a list of ports or ranges")
        for port in ports:
            try:
                least = parse_ports(port)[0]
            except ValueError:
                least = 0
            if least == 0:
                reader.problem(f"{where}.ports", port, "is no port or range", "Write such as 9100 or 28000-28999")
        flows.append({**raw, "sources": sources, "index": index})
    return flows


def _extra_flows_fit(reader, nodes, instances):
    """What the site lets in has names of its own on the node, and names sets that the plan has."""
    sets = ["administrators", "clients", "monitors", *(instance.peers_set for instance in instances if instance.spans)]
    taken = {"ssh", "metrics", *(f"{instance.name}-{what}" for instance in instances for what in ("api", "internal"))}
    for host, node in nodes.items():
        names = set()
        for flow in node.extra_flows:
            where = f"{host}: vllm_firewall_extra_flows[{flow['index']}]"
            if str(flow.get("name")) in names or str(flow.get("name")) in taken:
                reader.problem(f"{where}.name", flow["name"], "is the name of another flow too", "Give each its own")
            names.add(str(flow.get("name")))
            for source in flow["sources"]:
                if str(source).startswith("@") and str(source)[1:] not in sets:
                    known = ", ".join(f"@{name}" for name in sets)
                    reader.problem(f"{where}.sources", source, "is no set of the plan", f"Write networks, or one of {known}")


def _addresses_present(reader, nodes, instances, networks):
    """Each node has an address on every segment that something of it uses."""
    needed = {host: {"management": "SSH comes in by it"} for host in nodes}
    for instance in instances:
        for host in instance.nodes[:1]:
            needed.get(host, {})["api"] = f"it is the head of {instance.name}"
        for host in instance.nodes if instance.spans else ():
            needed.get(host, {})["internal"] = f"{instance.name} spans nodes"
    for host, segments in needed.items():
        for segment, reason in segments.items():
            if segment not in nodes[host].addresses:
                own = networks.get(segment)
                example = own[0][11] if own and own[0].size > 12 else "10.77.2.11"
                reader.problem(
                    f"{host}: vllm_cluster_addresses.{segment}",
                    None,
                    f"is missing, though {reason}",
                    f"Write the node's address on that segment, such as {example}",
                )
            elif segment == "internal" and segment not in nodes[host].interfaces:
                reader.problem(
                    f"{host}: vllm_cluster_interfaces.internal",
                    None,
                    f"is missing, though {reason}: Gloo and HCCL take an interface by name",
                    "Write the name of the internal interface, such as {internal: eth2}",
                )


def _families_meet(reader, nodes, instances, gateway, administrators, clients, monitors):
    """Whoever is to reach a node has an address of a family that the node has there; the nodes of an instance have one in common."""
    heads = {host: instance.name for instance in instances for host in instance.nodes[:1] if host in nodes}
    for variable, networks, segment, hosts, most in (
        ("vllm_cluster_administrators", administrators, "management", nodes, 2),
        ("vllm_cluster_clients", clients, "api", heads, 2 if gateway else 1),
        ("vllm_cluster_monitors", monitors, "management", heads if gateway else (), 2),
    ):
        families = {network.version for network in networks}
        for host in hosts if families else ():
            own = {address.version for address in nodes[host].addresses.get(segment, [])[:most]}
            if own and not own & families:
                reader.problem(
                    variable,
                    "[" + ", ".join(map(str, networks)) + "]",
                    f"holds no network of IPv{own.pop()}, though {host} is reached by nothing else on its {segment} segment",
                    "Add the networks of that family",
                )
                break
    for instance in instances:
        firsts = [(host, nodes[host].addresses["internal"][0]) for host in instance.nodes if host in nodes and nodes[host].addresses.get("internal")]
        for host, address in firsts if instance.spans else ():
            if address.version != firsts[0][1].version:
                reader.problem(
                    f"{host}: vllm_cluster_addresses.internal",
                    str(address),
                    f"is IPv{address.version}, while {firsts[0][0]} is IPv{firsts[0][1].version}: the nodes of {instance.name} would not meet",
                    "Write addresses of one family first on all of them",
                )


def _addresses_used_twice(reader, clusters):
    owners = {}
    for cluster in clusters:
        for host, node in cluster.nodes.items():
            for segment, addresses in node.addresses.items():
                for address in addresses:
                    owner = owners.setdefault(address, (host, segment))
                    if owner != (host, segment):
                        reader.problem(
                            f"{host}: vllm_cluster_addresses.{segment}",
                            str(address),
                            f"is vllm_cluster_addresses.{owner[1]} of {owner[0]} too",
                            "Give every node an address of its own",
                        )


def _administrators_contain_controller(reader, administrators, hosts, controller):
    if not administrators:
        return
    for host, variables in hosts.items():
        stated = variables.get("vllm_cluster_controller")
        address = reader.address(f"{host}: vllm_cluster_controller", stated, "10.77.0.1") if stated else controller.get(host)
        if address and not any(parse_network(address) in network for network in administrators):
            reader.problem(
                "vllm_cluster_administrators",
                "[" + ", ".join(map(str, administrators)) + "]",
                f"does not contain {address}, the address from which this run reaches {host}: it would lock itself out",
                f"Add {address}, or state as vllm_cluster_controller what the node sees in its place (address translation)",
            )
            return


def _ports_used_twice(reader, instances, ssh_port, metrics_port):
    """Fixed ports are unique on a node, whatever address they are bound to, so that a rule by port is exact."""
    cluster_wide = [("vllm_cluster_ssh_port", ssh_port, ssh_port)]
    if metrics_port is not None:
        cluster_wide.append(("vllm_cluster_metrics_port", metrics_port, metrics_port))
        if metrics_port == ssh_port:
            reader.problem(
                "vllm_cluster_metrics_port", metrics_port, "is vllm_cluster_ssh_port too", "Give every use a port of its own"
            )
    used = {}
    for instance in instances:
        claims = [
            (key, first, first + more, hosts)
            for key, first, more, hosts in (
                ("api_port", instance.api_port, 0, instance.nodes[:1]),
                ("backend_port", instance.backend_port, 0, instance.nodes[:1]),
                ("rpc_port", instance.rpc_port, 0, instance.nodes),
                ("master_port", instance.master_port, MASTER_PORTS - 1, instance.nodes),
            )
            if first is not None
        ]
        if instance.ray is not None:
            claims.append(("ray.ports", *instance.ray["ports"], instance.nodes))
        for key, first, last, hosts in claims:
            path = f"vllm_cluster_instances[{instance.name}].{key}"
            for host in hosts:
                claimed = used.setdefault(host, list(cluster_wide))
                for other, low, high in claimed:
                    if first <= high and low <= last:
                        reader.problem(
                            path,
                            format_ports((first, last)),
                            f"is used on {host} by {other} ({format_ports((low, high))})",
                            "Give every use a port of its own",
                        )
                claimed.append((path, first, last))


def _npus_used_twice(reader, instances, nodes):
    used = {}
    for instance in instances:
        for host in instance.nodes:
            for npu in instance.npus or ():
                other = used.setdefault((host, npu), instance.name)
                if other != instance.name and host in nodes:
                    reader.problem(
                        f"vllm_cluster_instances[{instance.name}].npus",
                        instance.npus,
                        f"uses NPU {npu} of {host}, as {other} does",
                        "Give each instance NPUs of its own",
                    )

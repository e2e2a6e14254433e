# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The plan: everything that is derived from an inventory. A pure function; its shape is in docs/architecture.md.

Sources: the security page and the source of vLLM 0.11.0 and 0.32.0, MindSpore 2.7.1 and HCCL. Where a fact is not obvious from
their documentation, it stands beside the line that uses it.
"""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.ports import format_ports, merge_ports
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import plan_gateway, plan_ray
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.addresses import parse_network
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.pairings import PAIRINGS
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_input import read_clusters
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_model import ASCEND_ENGINES, HCCL_PORTS, MASTER_PORTS, MINDSPORE_PORTS

VERSION = 1


def build_plan(hosts, controller=None):
    """The plan of all clusters in an inventory.

    Arguments as for ``plan_input.read_clusters``; raises its PlanError. Linear in the number of nodes: whatever names many
    nodes is a named set.
    """
    plan = {"version": VERSION, "clusters": {}, "nodes": {}}
    for cluster in read_clusters(hosts, controller):
        plan["clusters"][cluster.name] = {
            "segments": {segment: [str(network) for network in networks] for segment, networks in cluster.networks.items()},
            "sets": _sets(cluster),
            "nodes": list(cluster.nodes),
            "instances": {
                instance.name: {
                    "engine": instance.engine,
                    "topology": instance.topology,
                    "nodes": list(instance.nodes),
                    "model_checksums": instance.model_checksums,
                }
                for instance in cluster.instances
            },
        }
        instances_of = {host: [] for host in cluster.nodes}
        for instance in cluster.instances:
            for rank, host in enumerate(instance.nodes):
                instances_of[host].append((instance, rank))
        for host, node in cluster.nodes.items():
            plan["nodes"][host] = _plan_node(cluster, node, instances_of[host])
    return plan


def _sets(cluster):
    sets = {
        "administrators": [str(network) for network in cluster.administrators],
        "clients": [str(network) for network in cluster.clients],
        "monitors": [str(network) for network in cluster.monitors],
    }
    for instance in cluster.instances:
        if instance.spans:
            sets[instance.peers_set] = [
                str(address) for host in instance.nodes for address in cluster.nodes[host].addresses["internal"]
            ]
    return sets


def _plan_node(cluster, node, members):
    addresses = {segment: [str(address) for address in found] for segment, found in node.addresses.items()}
    fixed = [ports for instance, rank in members for ports in _fixed_ports(instance, rank)]
    reserved = [format_ports(ports) for ports in merge_ports(fixed + plan_gateway.ports(cluster, members))]
    return {
        "cluster": cluster.name,
        "addresses": addresses,
        "interfaces": dict(node.interfaces),
        "ephemeral_ports": format_ports(cluster.ephemeral_ports),
        "reserved_ports": reserved,
        "sysctls": _sysctls(cluster, node, reserved),
        "flows": _flows(cluster, node, addresses, members),
        "egress": [_egress(cluster, instance) for instance, _rank in members] + plan_gateway.egress(cluster, members),
        "loopback": plan_gateway.loopback(cluster, members),
        "listeners": [listener for instance, rank in members for listener in _listeners(cluster, node, instance, rank)]
        + plan_gateway.listeners(cluster, node, members),
        "instances": [_instance(cluster, node, instance, rank) for instance, rank in members],
        "gateway": plan_gateway.gateway(cluster, node, members),
        "npus": _npus(cluster, members),
        "software": node.software if members else None,
        "existing": node.existing and bool(members),
        "access": node.access,
        "guard": node.guard,
    }


def _npus(cluster, members):
    """What the NPUs of a node have to be; None where none is planned. See module_utils/npu_conditions.py."""
    users = [instance for instance, _rank in members if instance.npus]
    if not users:
        return None
    versions = [PAIRINGS[instance.engine][instance.version]["cann"] for instance in users]
    return {
        "numbers": sorted({npu for instance in users for npu in instance.npus}),
        # The longest says most: 8.3 and 8.3.RC2 of two engines are one demand.
        "cann": max(versions, key=len),
        "spans": any(instance.spans for instance in users),
        "segments": [str(network) for segment, networks in cluster.networks.items() if segment != "fabric" for network in networks],
        "fabric": [str(network) for network in cluster.networks.get("fabric", [])],
    }


def _bind_address(cluster, instance, segment):
    """Where the head of an instance listens for the others; loopback where there are no others."""
    if not instance.spans:
        return "127.0.0.1"
    return str(cluster.nodes[instance.nodes[0]].addresses[segment][0])


def _api_addresses(cluster, instance):
    """Where clients reach the API; an engine without a gateway binds a single address."""
    found = cluster.nodes[instance.nodes[0]].addresses["api"]
    return [str(address) for address in (found if cluster.metrics_port is not None else found[:1])]


def _engine_api(cluster, instance):
    """(address, port) that the engine's own API listens on."""
    if cluster.metrics_port is not None:
        return plan_gateway.LOOPBACK, instance.backend_port
    return _api_addresses(cluster, instance)[0], instance.api_port


def _engine_ports(instance):
    """Port ranges that an engine uses on every node beside what vLLM is told; neither can be moved by a flag of vLLM."""
    ranges = []
    if instance.engine == "vllm_mindspore":
        ranges.append((MINDSPORE_PORTS, "MindSpore host collectives"))
    if instance.engine in ASCEND_ENGINES:
        ranges.append((HCCL_PORTS, "HCCL host bootstrap"))
    return ranges


def _fixed_ports(instance, rank):
    """Port ranges on a node that the kernel must never hand out as ephemeral ones."""
    ranges = [ports for ports, _what in _engine_ports(instance)]
    if rank == 0:
        ranges.append((instance.api_port, instance.api_port))
    if instance.rpc_port is not None:
        ranges.append((instance.rpc_port, instance.rpc_port))
        ranges.append((instance.master_port, instance.master_port + MASTER_PORTS - 1))
    if instance.ray is not None:
        ranges.append(instance.ray["ports"])
    return ranges


def _sysctls(cluster, node, reserved):
    first, last = cluster.ephemeral_ports
    sysctls = {
        # No flag of vLLM 0.11 to 0.33 pins the ports of the data-parallel sockets; this does.
        "net.ipv4.ip_local_port_range": f"{first}\t{last}",
        "net.ipv4.ip_local_reserved_ports": ",".join(reserved),
        "net.ipv4.icmp_echo_ignore_broadcasts": "1",
        "net.ipv4.icmp_ignore_bogus_error_responses": "1",
        "net.ipv4.tcp_syncookies": "1",
        "net.ipv4.conf.*.accept_redirects": "0",
        "net.ipv4.conf.*.secure_redirects": "0",
        "net.ipv4.conf.*.send_redirects": "0",
        "net.ipv4.conf.*.accept_source_route": "0",
        "net.ipv6.conf.*.accept_redirects": "0",
        "net.ipv6.conf.*.accept_source_route": "0",
    }
    if not cluster.forwarding:
        sysctls["net.ipv4.ip_forward"] = "0"
        sysctls["net.ipv6.conf.all.forwarding"] = "0"
    # The strong host model on the node's own interfaces only: a container network beside them keeps what it needs. The
    # slash form of a key takes interface names with dots (sysctl.d(5)).
    for interface in sorted(set(node.interfaces.values())):
        prefix = f"net/ipv4/conf/{interface}/" if "." in interface else f"net.ipv4.conf.{interface}."
        sysctls[prefix + "arp_ignore"] = "1"
        sysctls[prefix + "arp_announce"] = "2"
        sysctls[prefix + "rp_filter"] = "1"
    return sysctls


def _flow(node, name, sources, destinations, segment, ports, reason):
    return {
        "name": name,
        "sources": sources,
        "destinations": destinations,
        "interface": node.interfaces.get(segment),
        "segment": segment,
        "protocol": "tcp",
        "ports": ports,
        "reason": reason,
    }


def _internal_ports(cluster, instance, rank):
    """What peers may open on one node. "Open only the listed ports" would hang a cluster without an error: beside the handshake,
    every data-parallel socket is an ephemeral one, on the head and, for collectives, on each node."""
    ranges = [cluster.ephemeral_ports] + [ports for ports, _what in _engine_ports(instance)]
    if instance.ray is not None:
        ranges += plan_ray.flow_ports(instance.ray["ports"], rank == 0)
    elif rank == 0:
        ranges.append((instance.rpc_port, instance.rpc_port))
    return [format_ports(ports) for ports in merge_ports(ranges)]


def _flows(cluster, node, addresses, members):
    flows = [
        _flow(
            node,
            "ssh",
            ["@administrators"],
            addresses["management"],
            "management",
            [format_ports((cluster.ssh_port, cluster.ssh_port))],
            "administration over SSH",
        )
    ]
    for instance, rank in members:
        if rank == 0:
            flows.append(
                _flow(
                    node,
                    f"{instance.name}-api",
                    ["@clients"],
                    _api_addresses(cluster, instance),
                    "api",
                    [str(instance.api_port)],
                    f"API of {instance.name}",
                )
            )
        if instance.spans:
            flows.append(
                _flow(
                    node,
                    f"{instance.name}-internal",
                    ["@" + instance.peers_set],
                    addresses["internal"],
                    "internal",
                    _internal_ports(cluster, instance, rank),
                    f"traffic between the nodes of {instance.name}",
                )
            )
    if plan_gateway.heads(cluster, members):
        flows.append(
            _flow(
                node,
                "metrics",
                ["@monitors"],
                addresses["management"],
                "management",
                [str(cluster.metrics_port)],
                "metrics and health",
            )
        )
    return flows + [_extra_flow(cluster, node, flow) for flow in node.extra_flows]


def _extra_flow(cluster, node, flow):
    """A flow of the site's own (``vllm_firewall_extra_flows``) in the shape of all others.

    Sources within one segment reach the node's addresses on that segment only: the strong host model refuses the others.
    """
    segment = flow.get("segment") or _segment_of(cluster, flow["sources"])
    destinations = flow.get("destinations") or node.addresses.get(segment, [])
    return {
        "name": flow["name"],
        "sources": [str(source) for source in flow["sources"]],
        "destinations": [str(address) for address in destinations],
        "interface": flow.get("interface") or node.interfaces.get(segment),
        "segment": segment,
        "protocol": flow["protocol"],
        "ports": [str(port) for port in flow["ports"]],
        "reason": flow["reason"],
    }


def _segment_of(cluster, sources):
    """The one segment that holds all sources; None where there is none, or where a named set stands among them."""
    if any(str(source).startswith("@") for source in sources):
        return None
    networks = [parse_network(source) for source in sources]
    for segment, own in cluster.networks.items():
        if all(any(network in outer for outer in own) for network in networks):
            return segment
    return None


def _unit(instance):
    return f"vllm-{instance.name}.service"


def _user(instance):
    return f"vllm-{instance.name}"


def _egress(cluster, instance):
    """What the user of an instance may open to others; nothing leaves an instance that stays on one node."""
    ports = []
    if instance.spans:
        ports = _internal_ports(cluster, instance, 0)
    return {
        "name": f"{instance.name}-peers",
        "user": _user(instance),
        "destinations": ["@" + instance.peers_set] if instance.spans else [],
        "protocol": "tcp",
        "ports": ports,
        "reason": f"traffic between the nodes of {instance.name}" if instance.spans else "nothing leaves the node",
    }


def _stores_of_torch(instance):
    """Whether a store of torch may listen on a node: its server takes every address, whatever it is told.

    Ranks on one node meet over a file since vLLM 0.32, but for the store of data parallel; that of MindSpore binds the address that it is given. What
    msadapter makes of torch's, between nodes, is not known.
    """
    if instance.spans:
        return True
    vllm = PAIRINGS[instance.engine][instance.version]["vllm"]
    return instance.engine != "vllm_mindspore" and (instance.data_parallel_size > 1 or tuple(map(int, vllm.split("."))) < (0, 32))


def _listeners(cluster, node, instance, rank):
    """Where an instance may listen on one node. ``wildcard``: the software binds every address and only the packet filter keeps
    others out (torch's TCPStore); ``*`` stands for such an address. ``unit`` is None where several units of the instance may have it: over
    Ray the engine's driver has a unit of its own, and its workers are those of Ray."""

    def listener(address, ports, what, wildcard=False):
        return {
            "instance": instance.name,
            "address": address,
            "protocol": "tcp",
            "ports": [format_ports(ports)],
            "what": what,
            "wildcard": wildcard,
            "unit": _unit(instance) if instance.ray is None else None,
        }

    own = str(node.addresses["internal"][0]) if instance.spans else "127.0.0.1"
    listeners = []
    if rank == 0:
        if cluster.metrics_port is None:
            address, port = _engine_api(cluster, instance)
            listeners.append(listener(address, (port, port), "API"))
        if instance.rpc_port is not None:
            listeners.append(listener(own, (instance.rpc_port, instance.rpc_port), "data-parallel handshake, while starting"))
    listeners.append(listener(own, cluster.ephemeral_ports, "engine sockets"))
    if _stores_of_torch(instance):
        listeners.append(listener("*", cluster.ephemeral_ports, "rendezvous stores of torch", wildcard=True))
    listeners.extend(listener(own, ports, what) for ports, what in _engine_ports(instance))
    if instance.ray is not None:
        for ports in plan_ray.listener_ports(instance.ray["ports"]):
            listeners += [listener(own, ports, "Ray"), listener("*", ports, "Ray", wildcard=True)]
    return listeners


def _instance(cluster, node, instance, rank):
    head = rank == 0
    return {
        "name": instance.name,
        "rank": rank,
        "head": head,
        "unit": _unit(instance),
        "user": _user(instance),
        "engine": instance.engine,
        "version": instance.version,
        "topology": instance.topology,
        "model": instance.model,
        "trust_remote_code": instance.trust_remote_code,
        "npus": instance.npus,
        "arguments": _arguments(cluster, instance, rank) if head or instance.ray is None else None,
        "environment": _environment(cluster, node, instance),
        "api": dict(zip(("address", "port"), _engine_api(cluster, instance))) if head else None,
        "credentials": plan_gateway.credentials(cluster, instance) if head else {},
        "ray": _ray(cluster, node, instance, head) if instance.ray is not None else None,
        "dropins": node.dropins.get(instance.name, {}),
    }


def _ray(cluster, node, instance, head):
    """What runs ``ray`` on one node; beside the engine on the head, in its place elsewhere."""
    resources = {"NPU": instance.npus_per_node} if instance.npus else None
    own = str(node.addresses["internal"][0])
    head_address = _bind_address(cluster, instance, "internal")
    return {
        "unit": f"vllm-{instance.name}-ray.service",
        "version": instance.ray["version"],
        "token": instance.ray["token"],
        "tls": instance.ray["tls"],
        "arguments": plan_ray.arguments(instance.ray["ports"], own, head_address, head, resources),
    }


def _arguments(cluster, instance, rank):
    """The engine's command line without the program. Every address and port is there, also where it equals a default."""
    arguments = ["serve", instance.model, "--served-model-name", instance.served_model_name]
    if rank == 0:
        address, port = _engine_api(cluster, instance)
        arguments += ["--host", address, "--port", str(port)]
        # Each API server adds two listeners; the default is one for every data-parallel rank.
        arguments += ["--api-server-count", str(instance.api_servers)]
    else:
        arguments += ["--headless", "--data-parallel-start-rank", str(rank * instance.engines_per_node)]
    arguments += ["--tensor-parallel-size", str(instance.tensor_parallel_size)]
    if instance.pipeline_parallel_size > 1:
        arguments += ["--pipeline-parallel-size", str(instance.pipeline_parallel_size)]
    if instance.ray is not None:
        arguments += ["--distributed-executor-backend", "ray"]
    if instance.data_parallel_size > 1:
        # Version 0.11.0 builds an address with port "None" on a headless node where the RPC port is left out.
        arguments += [
            "--data-parallel-size",
            str(instance.data_parallel_size),
            "--data-parallel-size-local",
            str(instance.engines_per_node),
            "--data-parallel-address",
            _bind_address(cluster, instance, "internal"),
            "--data-parallel-rpc-port",
            str(instance.rpc_port),
        ]
    if instance.expert_parallel:
        arguments.append("--enable-expert-parallel")
    if instance.trust_remote_code:
        arguments.append("--trust-remote-code")
    for flag, value in sorted(instance.arguments.items()):
        if value is True:
            arguments.append(f"--{flag}")
        elif value is False:
            arguments.append(f"--no-{flag}")
        else:
            arguments += [f"--{flag}", str(value)]
    return arguments


def _environment(cluster, node, instance):
    own = str(node.addresses["internal"][0]) if instance.spans else "127.0.0.1"
    environment = {
        "VLLM_HOST_IP": own,
        "VLLM_LOOPBACK_IP": "127.0.0.1",
        "VLLM_DP_MASTER_IP": _bind_address(cluster, instance, "internal"),
        "VLLM_RPC_BASE_PATH": f"/run/vllm-{instance.name}",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
        # Media that a client names may not lead on to another host, such as the metadata service of a cloud.
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        # Answers that one request may ask for; the default is 16384, and before 0.19 there is no bound but that of the gateway.
        "VLLM_MAX_N_SEQUENCES": "64",
    }
    if instance.master_port is not None:
        environment["VLLM_DP_MASTER_PORT"] = str(instance.master_port)
    interface = node.interfaces["internal"] if instance.spans else "lo"
    environment["GLOO_SOCKET_IFNAME"] = interface
    if instance.engine in ASCEND_ENGINES:
        environment["TP_SOCKET_IFNAME"] = interface
        environment["HCCL_IF_IP"] = own
        # With "=" HCCL takes the name exactly; without, as a prefix of names.
        environment["HCCL_SOCKET_IFNAME"] = f"={interface}"
        environment["HCCL_IF_BASE_PORT"] = str(HCCL_PORTS[0])
        environment["ASCEND_RT_VISIBLE_DEVICES"] = ",".join(map(str, instance.npus))
    if instance.ray is not None:
        head_address = _bind_address(cluster, instance, "internal")
        environment.update(plan_ray.environment(instance.ray["ports"], head_address, instance.ray["token"], instance.ray["tls"]))
    environment.update({key: str(value) for key, value in instance.environment.items()})
    return dict(sorted(environment.items()))

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a user writes, checked: the ``vllm_cluster_*`` variables of every node become Cluster, Node and Instance records.

Nothing here reads anything but its arguments. Every problem is collected, so that a user sees all of them at once.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import dataclass, field

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.ports import format_ports, parse_ports
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.addresses import (
    is_loopback,
    parse_address,
    parse_network,
)

SEGMENTS = ("management", "api", "internal", "fabric")
ENGINES = ("vllm_mindspore", "vllm_ascend", "vllm")
ASCEND_ENGINES = ("vllm_mindspore", "vllm_ascend")
TOPOLOGIES = ("single", "data_parallel")

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
)
NODE_VARIABLES = ("vllm_cluster_addresses", "vllm_cluster_interfaces", "vllm_cluster_npus", "vllm_cluster_controller")
RUN_VARIABLES = ("vllm_cluster_group", "vllm_cluster_show", "vllm_cluster_plan_file", "vllm_cluster_plan_query")

DEFAULT_PORTS = {
    0: "a port that the kernel chooses",
    8000: "the default of serve --port",
    29550: "the default of --data-parallel-rpc-port",
    29500: "the default of data_parallel_master_port",
    6379: "the default of Ray",
}
# Compiled into MindSpore: 16 slots of 256 ports from 8118 for its host collectives; not configurable.
MINDSPORE_PORTS = (8118, 12213)
# HCCL_IF_BASE_PORT and the 31 ports after it, on the host.
HCCL_PORTS = (60000, 60031)
# A data-parallel engine over two nodes was measured to need fewer than 300 listeners and connections.
FEWEST_EPHEMERAL_PORTS = 300
# Offline data parallel takes the master port and counts upwards from it.
MASTER_PORTS = 11

# Flags that the plan decides; an instance's own arguments may not touch them.
PLANNED_FLAGS = frozenset(
    """host port uds headless api-server-count tensor-parallel-size pipeline-parallel-size data-parallel-size
    data-parallel-size-local data-parallel-address data-parallel-rpc-port data-parallel-start-rank data-parallel-rank
    data-parallel-backend data-parallel-hybrid-lb data-parallel-external-lb data-parallel-multi-port-external-lb
    enable-expert-parallel distributed-executor-backend nnodes node-rank master-addr master-port served-model-name
    model api-key ssl-keyfile ssl-certfile ssl-ca-certs root-path""".split()
)
# Flags that run code, reach out or show prompts; each with what it opens.
DANGEROUS_FLAGS = {
    "trust-remote-code": "runs code that comes with the model",
    "tool-server": "runs code that a model writes",
    "middleware": "imports code by name into the API server",
    "tool-parser-plugin": "imports code by path into the API server",
    "logits-processors": "imports code by name into the engine",
    "worker-extension-cls": "imports code by name into the engine",
    "allowed-local-media-path": "lets clients read files of the node",
    "enable-log-requests": "writes prompts to the journal",
    "enable-log-outputs": "writes answers to the journal",
    "enable-prompt-embeds": "deserialises tensors that clients send",
    "profiler-config": "adds endpoints that write traces",
    "kv-events-config": "publishes token ids on every interface",
}
DANGEROUS_ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "adds endpoints that call arbitrary methods of the workers",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "accepts pickles from the network",
    "VLLM_TORCH_PROFILER_DIR": "adds endpoints that write traces",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "lets clients load adapters from paths",
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "writes answers to the journal",
    "VLLM_API_KEY": "puts a secret into an environment that the unit file shows",
    "VLLM_PORT": "hangs vLLM 0.11.0 with data parallel; the plan pins the ephemeral range instead",
    "MS_ROLE": "starts MindSpore's unauthenticated scheduler",
    "MS_SCHED_HOST": "starts MindSpore's unauthenticated scheduler",
    "MS_SCHED_PORT": "starts MindSpore's unauthenticated scheduler",
    "LD_PRELOAD": "loads code into every process",
    "LD_LIBRARY_PATH": "loads code into every process; the runtime role sets the vetted one",
    "PYTHONPATH": "loads code into every process",
}
PLANNED_ENVIRONMENT = frozenset(
    """VLLM_HOST_IP VLLM_LOOPBACK_IP VLLM_DP_MASTER_IP VLLM_DP_MASTER_PORT VLLM_NO_USAGE_STATS DO_NOT_TRACK HF_HUB_OFFLINE
    TRANSFORMERS_OFFLINE GLOO_SOCKET_IFNAME TP_SOCKET_IFNAME HCCL_IF_IP HCCL_SOCKET_IFNAME HCCL_IF_BASE_PORT
    ASCEND_RT_VISIBLE_DEVICES VLLM_RPC_BASE_PATH""".split()
)


@dataclass
class Node:
    """One managed host; ``addresses`` maps a segment to its addresses, the first is the one services bind."""

    name: str
    addresses: dict
    interfaces: dict
    npus: int


@dataclass
class Instance:
    """One vLLM deployment; ``nodes`` are host names in rank order, head first; sizes count engines and ranks."""

    name: str
    engine: str
    model: str
    topology: str
    nodes: list
    api_port: int
    rpc_port: int | None = None
    master_port: int | None = None
    data_parallel_size: int = 1
    tensor_parallel_size: int = 1
    expert_parallel: bool = False
    api_servers: int = 1
    npus: list | None = None
    served_model_name: str | None = None
    arguments: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)

    @property
    def spans(self):
        """Whether the instance needs the internal segment."""
        return len(self.nodes) > 1

    @property
    def engines_per_node(self):
        return self.data_parallel_size // len(self.nodes)

    @property
    def npus_per_node(self):
        return self.engines_per_node * self.tensor_parallel_size


@dataclass
class Cluster:
    """What one ``vllm_cluster_name`` stands for. Networks are ``netaddr.IPNetwork``, addresses ``netaddr.IPAddress``."""

    name: str
    networks: dict
    administrators: list
    clients: list
    monitors: list
    ephemeral_ports: tuple
    ssh_port: int
    forwarding: bool
    nodes: dict
    instances: list


class PlanError(Exception):
    """The inventory cannot be planned; ``problems`` holds (path, value, trouble, fix) of every reason."""

    def __init__(self, problems):
        self.problems = list(problems)
        count = len(self.problems)
        lines = [f"The inventory has {count} problem{'s' if count > 1 else ''}; no node was contacted."]
        for number, (path, value, trouble, fix) in enumerate(self.problems, 1):
            shown = "" if value is None else f" is {_shorten(value)}, which"
            lines.append(f"  {number}. {path}{shown} {trouble}. {fix}.")
        super().__init__("\n".join(lines))


def _shorten(value, limit=80):
    text = repr(str(value)) if isinstance(value, str) else str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


class _Reader:
    """Collects problems while it turns raw values into records."""

    def __init__(self):
        self.problems = []

    def problem(self, path, value, trouble, fix):
        entry = (path, value, trouble, fix)
        if entry not in self.problems:
            self.problems.append(entry)

    def known_keys(self, path, mapping, known, what):
        for key in mapping:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0)
                self.problem(f"{path}{key}", None, f"is no {what}", f"Write {near[0]}, or remove it")

    def address(self, path, value, example):
        try:
            return parse_address(value)
        except ValueError as error:
            self.problem(path, value, str(error), f"Write the number of one address, such as {example}")

    def networks(self, path, value, required, example):
        """A list of networks; a single one may stand without a list."""
        if value is None or value == []:
            if required:
                self.problem(path, None, "is missing or empty", f"Write a list of networks, such as [{example}]")
            return []
        found = []
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            where = f"{path}[{index}]" if isinstance(value, list) else path
            try:
                found.append(parse_network(item))
            except ValueError as error:
                self.problem(where, item, str(error), f"Write a network that you mean to let in, such as {example}")
        return found

    def integer(self, path, value, least, what):
        if isinstance(value, bool) or not re.fullmatch(r"[0-9]+", str(value)) or int(value) < least:
            self.problem(path, value, f"is no {what}", f"Write an integer of at least {least}")
            return None
        return int(value)

    def port(self, path, value, ephemeral, privileged=False):
        """One explicit port that nothing else on an Ascend node claims by default."""
        if value is None:
            self.problem(path, None, "is missing", "Write a port of your choice, such as 7443")
            return None
        try:
            first, last = parse_ports(value)
        except ValueError:
            first = last = -1
        if first != last or first < 0:
            self.problem(path, value, "is no port", "Write one port, such as 7443")
            return None
        fix = "Write a port of your choice outside 8118-12213, 60000-60031 and " + format_ports(ephemeral)
        if first in DEFAULT_PORTS:
            self.problem(path, value, f"is {DEFAULT_PORTS[first]}", fix)
        elif first < 1024 and not privileged:
            self.problem(path, value, "needs a privilege that the service does not get", fix)
        for (low, high), owner in (
            (MINDSPORE_PORTS, "compiled into MindSpore"),
            (HCCL_PORTS, "used by HCCL"),
            (ephemeral, "the pinned ephemeral range (vllm_cluster_ephemeral_ports)"),
        ):
            if low <= first <= high:
                self.problem(path, value, f"lies in {low}-{high}, {owner}", fix)
        return first


def read_clusters(hosts, controller=None):
    """Check the inventory of all nodes and return ``[Cluster]``.

    ``hosts`` maps each node's name, in inventory order, to its ``vllm_cluster_*`` variables. ``controller`` maps a node's
    name to the address this run reaches it from, as far as that is known. Raises PlanError with every problem.
    """
    reader = _Reader()
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
    clusters = [_read_cluster(reader, name, nodes, controller or {}) for name, nodes in members.items()]
    _addresses_used_twice(reader, clusters)
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
    instances = _read_instances(reader, shared.get("vllm_cluster_instances"), nodes, ephemeral)
    _addresses_present(reader, nodes, instances, networks)
    _ports_used_twice(reader, instances, ssh_port)
    _npus_used_twice(reader, instances, nodes)
    return Cluster(
        name=name,
        networks=networks,
        administrators=administrators,
        clients=clients,
        monitors=monitors,
        ephemeral_ports=ephemeral,
        ssh_port=ssh_port,
        forwarding=bool(shared.get("vllm_cluster_forwarding", False)),
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
            elif segment not in networks:
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
        # The kernel's own limit (IFNAMSIZ) and characters.
        if not re.fullmatch(r"[^\s/\"*]{1,15}", str(interface)):
            reader.problem(
                f"{host}: vllm_cluster_interfaces.{segment}", interface, "is no interface name", "Write such as eth2"
            )
    npus = reader.integer(f"{host}: vllm_cluster_npus", variables.get("vllm_cluster_npus", 8), 0, "number of NPUs")
    return Node(host, addresses, {segment: str(name) for segment, name in interfaces.items()}, npus or 0)


INSTANCE_KEYS = tuple(Instance.__dataclass_fields__)


def _read_instances(reader, value, nodes, ephemeral):
    path = "vllm_cluster_instances"
    if not isinstance(value, list):
        reader.problem(path, value, "is missing or no list", "Write the list of instances; [] if there are none yet")
        return []
    instances, names = [], {}
    for index, raw in enumerate(value):
        where = f"{path}[{index}]"
        if not isinstance(raw, dict):
            reader.problem(where, raw, "is no mapping", "Write {name: chat, engine: vllm_mindspore, ...}")
            continue
        name = str(raw.get("name", ""))
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,23}", name):
            reader.problem(
                f"{where}.name",
                raw.get("name"),
                "is no name of an instance",
                "Write at most 24 lower-case letters, digits and -, a letter first",
            )
        elif name in names:
            reader.problem(f"{where}.name", name, f"is the name of {path}[{names[name]}] too", "Give each instance its own name")
        names.setdefault(name, index)
        instance = _read_instance(reader, f"{path}[{name or index}]", raw, nodes, ephemeral)
        if instance is not None:
            instances.append(instance)
    return instances


def _read_instance(reader, path, raw, nodes, ephemeral):
    before = len(reader.problems)
    reader.known_keys(f"{path}.", raw, INSTANCE_KEYS, "key of an instance")
    for key, choices in (("engine", ENGINES), ("topology", TOPOLOGIES)):
        if raw.get(key) not in choices:
            reader.problem(f"{path}.{key}", raw.get(key), "is not known", f"Write one of {', '.join(choices)}")
    model = raw.get("model")
    if not isinstance(model, str) or not model.startswith("/") or "/../" in f"{model}/":
        reader.problem(
            f"{path}.model", model, "is no absolute path", "Write the model's directory on the nodes, such as /srv/models/NAME"
        )
    members = raw.get("nodes")
    if not isinstance(members, list) or not members:
        reader.problem(f"{path}.nodes", members, "names no node", "Write the nodes in rank order, head first")
        members = []
    members = [str(member) for member in members]
    times = Counter(members)
    for member in members:
        if member not in nodes:
            near = difflib.get_close_matches(member, list(nodes), n=1, cutoff=0)
            reader.problem(f"{path}.nodes", member, "is no node of this cluster", f"Write {near[0] if near else 'a node'}")
        elif times[member] > 1:
            reader.problem(f"{path}.nodes", member, "stands there more than once", "Name every node once")
    if raw.get("topology") == "single" and len(members) > 1:
        reader.problem(f"{path}.nodes", members, "is more than one node for topology single", "Write one, or topology data_parallel")
    if raw.get("topology") == "data_parallel" and len(members) == 1:
        reader.problem(f"{path}.nodes", members, "is one node for topology data_parallel", "Write at least two, or topology single")
    sizes = {
        key: reader.integer(f"{path}.{key}", raw.get(key, 1), 1, "size") or 1
        for key in ("data_parallel_size", "tensor_parallel_size", "api_servers")
    }
    if members and sizes["data_parallel_size"] % len(members):
        reader.problem(
            f"{path}.data_parallel_size",
            sizes["data_parallel_size"],
            f"does not fit {len(members)} nodes",
            f"Write a multiple of {len(members)}",
        )
    api_port = reader.port(f"{path}.api_port", raw.get("api_port"), ephemeral)
    rpc_port = master_port = None
    if sizes["data_parallel_size"] > 1:
        rpc_port = reader.port(f"{path}.rpc_port", raw.get("rpc_port"), ephemeral)
        if rpc_port is not None and len(reader.problems) == before:
            master_port = reader.port(f"{path}.master_port", raw.get("master_port", rpc_port + 1), ephemeral)
    else:
        for key in ("rpc_port", "master_port"):
            if raw.get(key) is not None:
                reader.problem(f"{path}.{key}", raw[key], "has no use with data_parallel_size 1", "Remove it")
    served = raw.get("served_model_name", raw.get("name"))
    if not isinstance(served, str) or not re.fullmatch(r"[A-Za-z0-9][\w.:/-]{0,127}", served):
        reader.problem(
            f"{path}.served_model_name", served, "is no model name", "Write letters, digits and . : / - _, such as my-org/chat"
        )
    if not isinstance(raw.get("expert_parallel", False), bool):
        reader.problem(f"{path}.expert_parallel", raw["expert_parallel"], "is neither true nor false", "Write one of them")
    npus = _read_npus(reader, path, raw, sizes, members, nodes)
    arguments = _read_extras(reader, f"{path}.arguments", raw.get("arguments"), PLANNED_FLAGS, DANGEROUS_FLAGS, "flag")
    environment = _read_extras(
        reader, f"{path}.environment", raw.get("environment"), PLANNED_ENVIRONMENT, DANGEROUS_ENVIRONMENT, "variable"
    )
    if len(reader.problems) > before:
        return None
    return Instance(
        name=str(raw["name"]),
        engine=str(raw["engine"]),
        model=str(model).rstrip("/"),
        topology=str(raw["topology"]),
        nodes=members,
        api_port=api_port,
        rpc_port=rpc_port,
        master_port=master_port,
        expert_parallel=raw.get("expert_parallel", False),
        npus=npus,
        served_model_name=str(served),
        arguments=arguments,
        environment=environment,
        **sizes,
    )


def _read_npus(reader, path, raw, sizes, members, nodes):
    """The NPU numbers of an instance on each of its nodes; None for an engine without NPUs."""
    if raw.get("engine") not in ASCEND_ENGINES:
        if raw.get("npus"):
            reader.problem(f"{path}.npus", raw["npus"], "has no use with engine vllm", "Remove it")
        return None
    needed = sizes["data_parallel_size"] // max(len(members), 1) * sizes["tensor_parallel_size"]
    npus = raw.get("npus", list(range(needed)))
    if not isinstance(npus, list) or any(isinstance(npu, bool) or not isinstance(npu, int) or npu < 0 for npu in npus):
        reader.problem(f"{path}.npus", npus, "is no list of NPU numbers", f"Write {list(range(needed))}")
        return None
    if len(set(npus)) != len(npus) or len(npus) != needed:
        reader.problem(
            f"{path}.npus",
            npus,
            f"is not {needed} different NPUs, which data_parallel_size and tensor_parallel_size ask of each node",
            f"Write {needed} numbers, or change the sizes",
        )
    for member in members:
        if member in nodes and npus and max(npus) >= nodes[member].npus:
            reader.problem(
                f"{path}.npus" if "npus" in raw else f"{path}.tensor_parallel_size",
                npus if "npus" in raw else sizes["tensor_parallel_size"],
                f"does not fit {member}, which has {nodes[member].npus} NPUs (vllm_cluster_npus)",
                "Use fewer ranks a node, more nodes, or state what the node has",
            )
    return [int(npu) for npu in npus]


def _read_extras(reader, path, value, planned, dangerous, what):
    """Additional flags or variables of an instance, without those that the plan decides or that open the node."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        reader.problem(path, value, "is no mapping", f"Write {what}s and their values")
        return {}
    extras = {}
    for key, setting in value.items():
        plain = str(key).lstrip("-").replace("_", "-") if what == "flag" else str(key)
        if not re.fullmatch(r"[a-z][a-z0-9.-]*" if what == "flag" else r"[A-Za-z_][A-Za-z0-9_]*", plain):
            reader.problem(f"{path}.{key}", None, f"is no {what}", "Write its name as the engine documents it")
        elif plain in planned:
            reader.problem(f"{path}.{key}", setting, "is decided by the plan", "Remove it")
        elif plain in dangerous or plain.removeprefix("no-") in dangerous and what == "flag" and setting is False:
            reader.problem(f"{path}.{key}", setting, dangerous[plain.removeprefix("no-")], "Remove it")
        elif not isinstance(setting, (str, int, float, bool)) or "\n" in str(setting):
            reader.problem(f"{path}.{key}", setting, "is no plain value", "Write a string, a number, true or false")
        else:
            extras[plain] = setting
    return extras


def _addresses_present(reader, nodes, instances, networks):
    """Each node has an address on every segment that something of it uses."""
    needed = {host: {"management": "SSH comes in by it"} for host in nodes}
    for instance in instances:
        if instance.nodes[0] in needed:
            needed[instance.nodes[0]]["api"] = f"it is the head of {instance.name}"
        for host in instance.nodes if instance.spans else ():
            needed.get(host, {})["internal"] = f"{instance.name} spans nodes"
    for host, segments in needed.items():
        for segment, reason in segments.items():
            if not nodes[host].addresses.get(segment):
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


def _ports_used_twice(reader, instances, ssh_port):
    """Fixed ports are unique on a node, whatever address they are bound to, so that a rule by port is exact."""
    used = {}
    for instance in instances:
        claims = [("api_port", instance.api_port, instance.api_port, instance.nodes[:1])]
        if instance.rpc_port is not None:
            claims.append(("rpc_port", instance.rpc_port, instance.rpc_port, instance.nodes))
            claims.append(("master_port", instance.master_port, instance.master_port + MASTER_PORTS - 1, instance.nodes))
        for key, first, last, hosts in claims:
            path = f"vllm_cluster_instances[{instance.name}].{key}"
            for host in hosts:
                claimed = used.setdefault(host, [("vllm_cluster_ssh_port", ssh_port, ssh_port)])
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

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The records that the plan is made from, and the ports that belong to others."""

from __future__ import annotations

from dataclasses import dataclass, field

SEGMENTS = ("management", "api", "internal", "fabric")
ENGINES = ("vllm_mindspore", "vllm_ascend", "vllm")
ASCEND_ENGINES = ("vllm_mindspore", "vllm_ascend")
TOPOLOGIES = ("single", "data_parallel", "ray")

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


@dataclass
class Node:
    """One managed host; ``addresses`` maps a segment to its addresses, the first is the one services bind; ``packages`` are those of its
    lock with their versions, None where the inventory has none; ``software`` is the directory of the engine's programs on the node, None where
    they are in an image, ``existing`` whether the site installs them; ``access`` says which logins are restricted to, None where they are not;
    ``guard`` whether the guard is to run; ``dropins`` is what the site adds to units, by instance the digest of each drop-in's content by its name."""

    name: str
    addresses: dict
    interfaces: dict
    npus: int
    extra_flows: list = field(default_factory=list)
    packages: dict | None = None
    software: str | None = "/opt/vllm/current/bin"
    existing: bool = False
    access: dict | None = None
    guard: bool = False
    dropins: dict = field(default_factory=dict)


@dataclass
class Instance:
    """One vLLM deployment; ``nodes`` are host names in rank order, head first; sizes count engines and ranks.

    ``ray`` is None, or {ports: (first, last), version, token, tls} for topology ray. ``model_checksums`` maps files below the model's
    directory to their sha256; ``trust_remote_code`` is why code of the model may run, or None. ``backend_port``, ``server_names`` and
    ``endpoints`` belong to the gateway.
    """

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
    pipeline_parallel_size: int = 1
    expert_parallel: bool = False
    api_servers: int = 1
    npus: list | None = None
    served_model_name: str | None = None
    ray: dict | None = None
    version: str | None = None
    model_checksums: dict = field(default_factory=dict)
    trust_remote_code: str | None = None
    backend_port: int | None = None
    server_names: list = field(default_factory=list)
    endpoints: list = field(default_factory=list)
    arguments: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)

    @property
    def spans(self):
        """Whether the instance needs the internal segment."""
        return len(self.nodes) > 1

    @property
    def peers_set(self):
        """The name of the set with the internal addresses of the instance's nodes."""
        return "peers_" + self.name.replace("-", "_")

    @property
    def engines_per_node(self):
        return self.data_parallel_size // len(self.nodes)

    @property
    def npus_per_node(self):
        ranks = self.data_parallel_size * self.tensor_parallel_size * self.pipeline_parallel_size
        return ranks // len(self.nodes)


@dataclass
class Cluster:
    """What one ``vllm_cluster_name`` stands for. Networks are ``netaddr.IPNetwork``, addresses ``netaddr.IPAddress``.

    ``metrics_port`` is None where the gateway is off.
    """

    name: str
    networks: dict
    administrators: list
    clients: list
    monitors: list
    ephemeral_ports: tuple
    ssh_port: int
    forwarding: bool
    metrics_port: int | None
    nodes: dict
    instances: list

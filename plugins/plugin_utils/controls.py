# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The catalogue of controls, as data. Findings, reports and the documentation are made from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

SEVERITIES = ("critical", "high", "medium", "low")
WITNESSES = ("configuration", "process", "sockets", "packet filter", "wire")
GUIDE = "vLLM-MindSpore Plugin, Security"


@dataclass(frozen=True)
class Control:
    """One numbered requirement.

    `tags` are those of `playbooks/site.yml` that put it right; `waivable` is False for what isolates the network.
    """

    id: str
    title: str
    rationale: str
    sources: tuple
    severity: str
    witness: str
    applies: str
    fix: str
    tags: tuple
    waivable: bool = True

    def as_dict(self):
        """Plain data, for the results document."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


CONTROLS = (
    Control(
        "NET-01", "Nothing is reachable that the plan does not name",
        "Inter-node communication of vLLM, MindSpore and HCCL is unauthenticated and unencrypted; whoever reaches a port owns the cluster.",
        (f"{GUIDE}: block all incoming connections except on the API port", f"{GUIDE}: internal ports only for trusted hosts or networks"),
        "critical", "wire", "every node", "Apply the firewall again and look for whoever changed it.", ("vllm_firewall",), waivable=False),
    Control(
        "NET-02", "Everything the plan names is reachable",
        "A cluster with a port too few hangs without an error, and people then switch the firewall off.",
        (f"{GUIDE}: ensure that only the required ports are open",),
        "high", "wire", "every node", "Apply the firewall again; look for foreign drop rules and for filters between the hosts.", ("vllm_firewall",)),
    Control(
        "NET-04", "The node has its planned addresses, and no other on the cluster's segments",
        "Addresses select the segment a service is reachable on; an address too many is a way around the segmentation.",
        (f"{GUIDE}: isolate the nodes in a dedicated network", f"{GUIDE}: use network segmentation"),
        "high", "configuration", "every node", "Correct the inventory or the interface's configuration.", ("vllm_network",), waivable=False),
    Control(
        "NET-05", "The network settings of the plan are in force",
        "The weak host model, redirects and source routing let a neighbour on one segment reach the addresses of another.",
        (f"{GUIDE}: use network segmentation",),
        "high", "configuration", "every node", "Apply the network settings again.", ("vllm_network",)),
    Control(
        "NET-06", "The ports that no flag pins are pinned by the kernel's port range",
        "The engines' internal sockets take ephemeral ports; only a pinned range can be opened for peers and for nobody else.",
        (f"{GUIDE}: data_parallel_master_port", f"{GUIDE}: only the required ports are open"),
        "high", "configuration", "every node", "Apply the network settings again.", ("vllm_network",)),
    Control(
        "SOC-01", "The instance listens only where the plan says",
        "Without --host the API takes every interface, and internal sockets follow names and default routes.",
        (f"{GUIDE}: host", f"{GUIDE}: data-parallel-address", f"{GUIDE}: VLLM_HOST_IP"),
        "critical", "sockets", "every node of an instance", "Apply the service again; remove overrides of its unit.", ("vllm_serve",)),
    Control(
        "SOC-02", "No service outside the plan listens on an address of the network",
        "A service nobody planned is one that nobody patches; the packet filter should not be all that protects it.",
        (f"{GUIDE}: restrict network access to the nodes",),
        "medium", "sockets", "every node", "Stop the service, bind it to loopback, or plan a flow for it with its reason.", ()),
    Control(
        "SOC-03", "The API of the instance listens on its planned address and port",
        "A head that does not listen is broken, and one that listens elsewhere bypasses what was planned for it.",
        (f"{GUIDE}: host", f"{GUIDE}: port"),
        "high", "sockets", "the head of every instance", "Start the unit; its journal tells why it does not listen.", ("vllm_serve",)),
    Control(
        "SRV-01", "The instance's unit runs as deployed",
        "A unit that was edited, masked or not reloaded does not run what was reviewed.",
        (f"{GUIDE}: harden the deployment",),
        "high", "configuration", "every node of an instance", "Apply the service again.", ("vllm_serve",)),
    Control(
        "SRV-02", "The processes of the instance run as its own user without privilege",
        "Remote code in an engine must not own the host.",
        (f"{GUIDE}: follow the principle of least privilege",),
        "high", "process", "every node of an instance", "Apply the service again and restart it.", ("vllm_serve",)),
)

BY_ID = {control.id: control for control in CONTROLS}

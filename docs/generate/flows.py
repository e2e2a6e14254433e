# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Write docs/flows.md, the flow matrix of every topology, from the plan's own code. With --check nothing is written, and the exit status is 1
where it is stale."""

from __future__ import annotations

import re
import sys

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan import build_plan

from _page import write

HEAD = """\
# Flows

Who may open a connection to whom, for each topology: what the plan makes of an inventory, and what the packet filter, the audit and the probes of
the wire are held to. Whatever is not listed is refused. This page is written by `make docs` from the plan's code, for two nodes with the values of
the examples; `playbooks/plan.yml` shows the same for your own inventory.

Ports are the example's. An instance's variables are keys of `vllm_cluster_instances`. Connections on loopback, and what is not IP (shared
memory, unix sockets), are not listed. NPU interfaces bypass the host's kernel: UDP 4791 and TCP 16666 between them are for the switch to keep apart.
"""
# What decides a port or range, by the value that the example gives it.
VARIABLES = {
    "22": "`vllm_cluster_ssh_port`",
    "7443": "`api_port`",
    "7444": "`vllm_cluster_metrics_port`",
    "20550": "`rpc_port`",
    "28000-31999": "`vllm_cluster_ephemeral_ports`",
    "8118-12213": "compiled into MindSpore",
    "60000-60031": "HCCL, from `HCCL_IF_BASE_PORT`",
    "20100-20103": "`ray.ports`, the first four: GCS, node manager, object manager, runtime environments",
    "20101-20103": "`ray.ports`, the second to the fourth",
    "20120-20999": "`ray.ports`, from the twenty-first: workers and drivers",
}
BASE = {"name": "chat", "model": "/srv/models/tiny", "api_port": 7443}
TWO = ["npu01", "npu02"]
TOPOLOGIES = (
    ("single", "One node, tensor parallel over its NPUs", {"topology": "single", "nodes": TWO[:1], "tensor_parallel_size": 8}),
    ("data_parallel", "Engines on several nodes, one API on the head; with or without expert parallel",
     {"topology": "data_parallel", "nodes": TWO, "data_parallel_size": 2, "tensor_parallel_size": 8, "rpc_port": 20550}),
    ("ray", "One engine over several nodes, tensor or pipeline parallel over Ray",
     {"topology": "ray", "nodes": TWO, "tensor_parallel_size": 16, "ray": {"ports": "20100-20999", "version": "2.60.0"}}),
)
ENGINES = ("vllm_mindspore", "vllm_ascend", "vllm")
WHO = {"@administrators": "administrators", "@clients": "clients", "@monitors": "monitors", "@peers_chat": "other nodes of the instance"}


def plan(instance, gateway):
    """The plan of the example's two nodes with one instance."""
    networks = {"management": "10.77.0.0/24", "api": "10.77.1.0/24", "internal": "10.77.2.0/24"}
    behind = {"backend_port": 17443} if gateway else {}
    return build_plan({
        f"npu0{number}": {
            "vllm_cluster_networks": networks, "vllm_cluster_administrators": ["10.77.0.1/32"], "vllm_cluster_clients": ["10.77.1.128/25"],
            "vllm_cluster_monitors": ["10.77.0.9/32"], "vllm_cluster_interfaces": {"internal": "eth2"},
            "vllm_cluster_instances": [{**BASE, **instance, **behind}],
            **({"vllm_cluster_gateway": True, "vllm_cluster_metrics_port": 7444} if gateway else {}),
            "vllm_cluster_addresses": {name: f"10.77.{index}.1{number}" for index, name in enumerate(networks)},
        }
        for number in (1, 2)
    })


def rows(topology):
    """{(flow, from, to, segment, protocol, port, variable): engines} of one topology."""
    found = {}
    for engine in ENGINES:
        made = plan({"engine": engine, **topology}, True)
        roles = {"npu01": "head" if len(topology["nodes"]) > 1 else "the node", "npu02": "other nodes"}
        for host in topology["nodes"]:
            for flow in made["nodes"][host]["flows"]:
                for port in flow["ports"]:
                    name = re.sub(r"^chat-", "", flow["name"])
                    sources = ", ".join(WHO[source] for source in flow["sources"])
                    key = (name, sources, flow["segment"], flow["protocol"], port)
                    found.setdefault(key, {}).setdefault(roles[host], []).append(engine)
    return found


def wildcards(topology):
    """What listens on every address, with only the packet filter before it."""
    found = {}
    for engine in ENGINES:
        made = plan({"engine": engine, **topology}, True)
        for listener in (listener for host in topology["nodes"] for listener in made["nodes"][host]["listeners"] if listener["wildcard"]):
            found.setdefault((listener["what"], ", ".join(listener["ports"])), set()).add(engine)
    return [f"{what} ({ports}{'' if len(engines) == len(ENGINES) else '; ' + ', '.join(sorted(engines))})" for (what, ports), engines in sorted(found.items())]


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for name, meaning, topology in TOPOLOGIES:
        lines += [f"## {name}", "", f"{meaning}.", "", "| flow | from | to | segment | protocol | ports | set by | engines |", "|---" * 8 + "|"]
        order = ("ssh", "api", "metrics", "internal")
        for (flow, sources, segment, protocol, port), targets in sorted(rows(topology).items(), key=lambda row: (order.index(row[0][0]), row[0])):
            places = " and ".join(targets)
            engines = sorted(set().union(*targets.values()), key=ENGINES.index)
            shown = "all" if len(engines) == len(ENGINES) else ", ".join(engines)
            lines.append(f"| {flow} | {sources} | {places} | {segment} | {protocol} | {port} | {VARIABLES[port]} | {shown} |")
        wild = wildcards(topology)
        lines += ["", "Bound to every address by the software, so that only the packet filter keeps others out: " + "; ".join(wild) + "." if wild else
                  "Nothing of it is bound to every address.", ""]
    lines += [
        "## With and without the gateway", "",
        "With `vllm_cluster_gateway: true`, as above, `api` and `metrics` reach the gateway on the head, and the engine listens on loopback at `backend_port`.",
        "Without it `api` reaches the engine itself, and there is no flow `metrics`.", "",
        "What an instance may open to others is the same seen from the other end: its user reaches its peers on these ports, and an instance",
        "on one node reaches nobody.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(write("flows.md", page()))

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Bad input: every refusal of the plan names the variable, the value and the way out. None of them is without a case."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import pairings, plan_gateway, plan_input, plan_instances, plan_reader
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan import build_plan
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_reader import PlanError, Reader

NETWORKS = {"management": "10.77.0.0/24", "api": "10.77.1.0/24", "internal": "10.77.2.0/24"}
CHAT = {
    "name": "chat", "engine": "vllm_mindspore", "model": "/srv/models/tiny", "topology": "data_parallel", "nodes": ["npu01", "npu02"],
    "data_parallel_size": 4, "api_port": 7443, "rpc_port": 20550,
}
RAY = {"topology": "ray", "data_parallel_size": 1, "rpc_port": None, "tensor_parallel_size": 2, "ray": {"ports": "20100-20999", "version": "2.60.0"}}
SINGLE = {"topology": "single", "nodes": ["npu01"], "data_parallel_size": 1, "rpc_port": None}
GATEWAY = {"vllm_cluster_gateway": True, "vllm_cluster_metrics_port": 7444, "vllm_cluster_monitors": ["10.77.0.9/32"]}
EXPORTER = {"name": "exporter", "sources": ["10.77.0.9"], "protocol": "tcp", "ports": [9100], "reason": "monitoring of the site"}


def inventory(*instances, first=None, **cluster):
    """Two nodes; ``instances`` change copies of CHAT, ``cluster`` variables of both nodes, ``first`` those of npu01 alone."""
    hosts = {
        f"npu0{number}": {
            "vllm_cluster_networks": NETWORKS, "vllm_cluster_administrators": ["10.77.0.1/32"], "vllm_cluster_clients": ["10.77.1.128/25"],
            "vllm_cluster_interfaces": {"internal": "eth2"}, "vllm_cluster_instances": [{**CHAT, **change} for change in instances or ({},)],
            "vllm_cluster_addresses": {name: f"10.77.{index}.1{number}" for index, name in enumerate(NETWORKS)}, **cluster,
        }
        for number in (1, 2)
    }
    hosts["npu01"].update(first or {})
    return hosts


def address(**change):
    """npu01 with other addresses."""
    addresses = {**{name: f"10.77.{index}.11" for index, name in enumerate(NETWORKS)}, **change}
    return inventory(first={"vllm_cluster_addresses": {name: value for name, value in addresses.items() if value is not None}})


def ray(**change):
    """An instance over Ray with other settings of Ray."""
    return inventory({**RAY, "ray": {**RAY["ray"], **change}})


def over_ipv6(change):
    """Nodes whose internal addresses are IPv6."""
    made = inventory(change, vllm_cluster_networks={**NETWORKS, "internal": "fd00:77:2::/64"})
    for number, host in enumerate(made.values(), 11):
        host["vllm_cluster_addresses"] = {**host["vllm_cluster_addresses"], "internal": f"fd00:77:2::{number}"}
    return made


NICE = "[Service]\nNice=1\n"


def flow(change):
    """An additional flow with a change, or something in its place."""
    return inventory(vllm_firewall_extra_flows=[{**EXPORTER, **change} if isinstance(change, dict) else change])


LOCK = "vllm-mindspore==0.5.1 --hash=sha256:" + "0" * 64 + "\n"
# what is written, the variable in the message, what is said of it, what to write
CASES = {
    "no node": ({}, "vllm_nodes", "has no hosts", "group vllm_nodes"),
    "an unknown variable": (inventory(vllm_cluster_network={}), "npu01: vllm_cluster_network", "is no variable", "vllm_cluster_networks"),
    "two values for one cluster": (inventory(first={"vllm_cluster_ssh_port": 2222}), "npu02: vllm_cluster_ssh_port", "differs", "Write it once"),
    "a cluster without a name": (inventory(vllm_cluster_name="My Cluster"), "vllm_cluster_name", "is no name", "lower-case"),
    "no networks": (inventory(vllm_cluster_networks=None), "vllm_cluster_networks", "missing", "10.77.0.0/24"),
    "no management network": (inventory(vllm_cluster_networks={"api": "10.77.1.0/24"}), "vllm_cluster_networks.management", "missing", "SSH"),
    "an unknown segment": (inventory(vllm_cluster_networks={**NETWORKS, "dmz": "10.0.0.0/8"}), "vllm_cluster_networks.dmz", "no segment", "Write"),
    "networks that overlap": (inventory(vllm_cluster_networks={**NETWORKS, "api": "10.77.0.0/23"}), "vllm_cluster_networks.api", "overlaps", "own"),
    "nobody administers": (inventory(vllm_cluster_administrators=[]), "vllm_cluster_administrators", "missing or empty", "list of networks"),
    "everybody administers": (inventory(vllm_cluster_administrators=["0.0.0.0/0"]), "vllm_cluster_administrators[0]", "0.0.0.0/0", "mean to let in"),
    "a wildcard administers": (inventory(vllm_cluster_administrators=["0.0.0.0"]), "vllm_cluster_administrators[0]", "wildcard", "mean to let in"),
    "half the Internet": (inventory(vllm_cluster_clients=["0.0.0.0/1"]), "vllm_cluster_clients[0]", "wildcard", "mean to let in"),
    "multicast administers": (inventory(vllm_cluster_administrators=["224.0.0.0/4"]), "vllm_cluster_administrators[0]", "multicast", "mean to let in"),
    "IPv4 in the form of IPv6 administers": (
        inventory(vllm_cluster_administrators=["10.77.0.1", "::ffff:0:0/96"]), "vllm_cluster_administrators[1]", "in the form of IPv6", "mean to let in"),
    "an IPv4 address in the form of IPv6": (
        address(internal="::ffff:10.77.2.11"), "npu01: vllm_cluster_addresses.internal", "IPv4 address 10.77.2.11", "10.77.2.11"),
    "administrators of another family": (
        inventory(vllm_cluster_administrators=["fd00::1/128"]), "vllm_cluster_administrators", "no network of IPv4, though npu01", "Add"),
    "clients of another family": (inventory(vllm_cluster_clients=["fd00::/64"]), "vllm_cluster_clients", "no network of IPv4, though npu01", "Add"),
    "an ephemeral range that is none": (inventory(vllm_cluster_ephemeral_ports="many"), "vllm_cluster_ephemeral_ports", "no range", "28000-31999"),
    "a short ephemeral range": (inventory(vllm_cluster_ephemeral_ports="28000-28100"), "vllm_cluster_ephemeral_ports", "at least 300", "28000"),
    "an ephemeral range over HCCL": (inventory(vllm_cluster_ephemeral_ports="32768-60999"), "vllm_cluster_ephemeral_ports", "HCCL", "28000"),
    "forwarding by a word": (inventory(vllm_cluster_forwarding="no"), "vllm_cluster_forwarding", "neither true nor false", "Write one"),
    "no addresses": (inventory(first={"vllm_cluster_addresses": None}), "npu01: vllm_cluster_addresses", "missing", "management"),
    "a name for an address": (address(api="npu01.example.com"), "npu01: vllm_cluster_addresses.api", "npu01.example.com", "number"),
    "loopback": (address(internal="127.0.0.1"), "npu01: vllm_cluster_addresses.internal", "loopback", "Write"),
    "an address outside its segment": (address(internal="10.77.1.99"), "npu01: vllm_cluster_addresses.internal", "outside its segment", "Write"),
    "the broadcast address": (address(internal="10.77.2.255"), "npu01: vllm_cluster_addresses.internal", "broadcast", "Write"),
    "an address without a network": (
        inventory(vllm_cluster_networks={"management": "10.77.0.0/24", "api": "10.77.1.0/24"}), "npu01: vllm_cluster_addresses.internal",
        "without a network", "vllm_cluster_networks.internal"),
    "two addresses of a family": (address(api=["10.77.1.11", "10.77.1.21"]), "npu01: vllm_cluster_addresses.api", "second IPv4", "one address"),
    "an address of two nodes": (address(internal="10.77.2.12"), "npu02: vllm_cluster_addresses.internal", "of npu01 too", "of its own"),
    "no address on a segment in use": (address(api=None), "npu01: vllm_cluster_addresses.api", "head of chat", "10.77.1.11"),
    "interfaces in a word": (inventory(vllm_cluster_interfaces="eth2"), "npu01: vllm_cluster_interfaces", "no mapping", "internal: eth2"),
    "peers of another family": (
        inventory(first={"vllm_cluster_addresses": {"management": "10.77.0.11", "api": "10.77.1.11", "internal": "fd00:77:2::11"}},
                  vllm_cluster_networks={**NETWORKS, "internal": ["10.77.2.0/24", "fd00:77:2::/64"]}),
        "npu02: vllm_cluster_addresses.internal", "IPv4, while npu01 is IPv6: the nodes of chat", "one family"),
    "no internal interface": (inventory(vllm_cluster_interfaces={}), "npu01: vllm_cluster_interfaces.internal", "missing", "eth2"),
    "an interface with a blank": (
        inventory(vllm_cluster_interfaces={"internal": "eth 2"}), "npu01: vllm_cluster_interfaces.internal", "no interface name", "eth2"),
    "an interface without a name": (
        inventory(vllm_cluster_interfaces={"internal": None}), "npu01: vllm_cluster_interfaces.internal", "no interface name", "eth2"),
    "an interface in a list": (
        inventory(vllm_cluster_interfaces={"internal": ["eth2"]}), "npu01: vllm_cluster_interfaces.internal", "no interface name", "eth2"),
    "an interface with a control character": (
        inventory(vllm_cluster_interfaces={"internal": "eth\x00"}), "npu01: vllm_cluster_interfaces.internal", "no interface name", "eth2"),
    "a number of NPUs that is none": (inventory(vllm_cluster_npus="eight"), "npu01: vllm_cluster_npus", "no number of NPUs", "integer"),
    "a state of the guard that is none": (inventory(first={"vllm_guard_state": "presnt"}), "npu01: vllm_guard_state", "'presnt'", "present, absent or"),
    "the controller is no administrator": (inventory(vllm_cluster_controller="192.0.2.1"), "vllm_cluster_administrators", "lock itself out", "Add"),
    "drop-ins in a list": (inventory(vllm_serve_dropins=["memory"]), "npu01: vllm_serve_dropins", "no mapping of instances", "Write {chat:"),
    "a drop-in without a name": (inventory(vllm_serve_dropins={"chat": NICE}), "npu01: vllm_serve_dropins.chat", "no mapping of names", "Write {memory:"),
    "a drop-in elsewhere": (inventory(vllm_serve_dropins={"chat": {"../x": NICE}}), "npu01: vllm_serve_dropins.chat.../x", "no name of a drop-in", "letters"),
    "a drop-in that is a mapping": (
        inventory(vllm_serve_dropins={"chat": {"memory": {"Service": {"Nice": 1}}}}), "npu01: vllm_serve_dropins.chat.memory", "no content", "[Service]"),
    "a drop-in without a section": (inventory(vllm_serve_dropins={"chat": {"memory": "Nice=1"}}), "npu01: vllm_serve_dropins.chat.memory", "no content", "[S"),
    "an empty drop-in": (inventory(vllm_serve_dropins={"chat": {"memory": ""}}), "npu01: vllm_serve_dropins.chat.memory", "no content", "[Service]"),
    "a drop-in for nobody": (inventory(vllm_serve_dropins={"chta": {"memory": NICE}}), "npu02: vllm_serve_dropins.chta", "no instance", "Write one of chat"),
    "additional flows in a word": (inventory(vllm_firewall_extra_flows="all"), "npu01: vllm_firewall_extra_flows", "no list", "list of flows"),
    "an additional flow in a word": (flow("ssh"), "npu01: vllm_firewall_extra_flows[0]", "no mapping", "reason"),
    "an additional flow without a reason": (flow({"reason": " "}), "npu01: vllm_firewall_extra_flows[0].reason", "missing", "what the flow is for"),
    "an additional flow with a quote": (flow({"name": 'x" accept "'}), "npu01: vllm_firewall_extra_flows[0].name", "no name", "letters"),
    "an additional flow on no interface": (flow({"interface": "eth 0"}), "npu01: vllm_firewall_extra_flows[0].interface", "eth 0", "eth2"),
    "an additional flow with a planned name": (flow({"name": "ssh"}), "npu01: vllm_firewall_extra_flows[0].name", "another flow", "own"),
    "two additional flows of one name": (
        inventory(vllm_firewall_extra_flows=[EXPORTER, EXPORTER]), "npu02: vllm_firewall_extra_flows[1].name", "exporter", "own"),
    "an additional flow from an unknown set": (flow({"sources": ["@admins"]}), "npu01: vllm_firewall_extra_flows[0].sources", "no set", "@administrators"),
    "an additional flow to port 0": (flow({"ports": [0]}), "npu01: vllm_firewall_extra_flows[0].ports", "no port", "9100"),
    "an additional flow on no segment": (flow({"segment": "dmz"}), "npu01: vllm_firewall_extra_flows[0].segment", "no segment", "management"),
    "an additional flow of SCTP": (flow({"protocol": "sctp"}), "npu01: vllm_firewall_extra_flows[0].protocol", "sctp", "tcp or udp"),
    "an additional flow from nobody": (flow({"sources": []}), "npu01: vllm_firewall_extra_flows[0].sources", "nobody", "Write"),
    "an additional flow to a word": (flow({"destinations": "all"}), "npu01: vllm_firewall_extra_flows[0].destinations", "no list", "addresses"),
    "an additional flow to no port": (flow({"ports": []}), "npu01: vllm_firewall_extra_flows[0].ports", "names no port", "list of ports"),
    "an additional flow to a word for a port": (flow({"ports": ["http"]}), "npu01: vllm_firewall_extra_flows[0].ports", "http", "9100"),
    "no instances": (inventory(vllm_cluster_instances=None), "vllm_cluster_instances", "missing", "[]"),
    "an instance in a word": (inventory(vllm_cluster_instances=["chat"]), "vllm_cluster_instances[0]", "no mapping", "name: chat"),
    "an instance without a name": (inventory({"name": "Chat 1"}), "vllm_cluster_instances[0].name", "Chat 1", "lower-case"),
    "two instances of one name": (
        inventory({}, {"api_port": 7453, "rpc_port": 20570, "npus": [4, 5]}), "vllm_cluster_instances[1].name", "[0] too", "its own name"),
    "an unknown key": (inventory({"tensor_parallel": 8}), "vllm_cluster_instances[chat].tensor_parallel", "no key", "tensor_parallel_size"),
    "an unknown engine": (inventory({"engine": "tgi"}), "vllm_cluster_instances[chat].engine", "tgi", "vllm_mindspore"),
    "an unknown topology": (inventory({"topology": "mesh"}), "vllm_cluster_instances[chat].topology", "mesh", "data_parallel"),
    "every file is the model": (inventory({"model": "/"}), "vllm_cluster_instances[chat].model", "no absolute path", "/srv/models"),
    "a model of two lines": (inventory({"model": "/srv/m\nUser=root"}), "vllm_cluster_instances[chat].model", "no absolute path", "/srv/models"),
    "a model by name": (inventory({"model": "Qwen/Qwen3-8B"}), "vllm_cluster_instances[chat].model", "no absolute path", "/srv/models"),
    "no node of the instance": (inventory({"nodes": []}), "vllm_cluster_instances[chat].nodes", "names no node", "head first"),
    "a node that is none": (inventory({"nodes": ["npu01", "npu03"]}), "vllm_cluster_instances[chat].nodes", "npu03", "Write npu0"),
    "a node twice": (inventory({"nodes": ["npu01", "npu01"]}), "vllm_cluster_instances[chat].nodes", "more than once", "once"),
    "single on two nodes": (inventory({"topology": "single"}), "vllm_cluster_instances[chat].nodes", "more than one node", "data_parallel"),
    "data parallel on one node": (inventory({"nodes": ["npu01"]}), "vllm_cluster_instances[chat].nodes", "is one node", "topology single"),
    "ranks that do not fit the nodes": (inventory({"data_parallel_size": 3}), "vllm_cluster_instances[chat].data_parallel_size", "3", "multiple of 2"),
    "a size without end": (inventory({"tensor_parallel_size": "9" * 5000}), "vllm_cluster_instances[chat].tensor_parallel_size", "no size", "at most"),
    "more ranks than memory": (
        inventory({"data_parallel_size": 999998, "tensor_parallel_size": 999999}), "[chat].tensor_parallel_size", "has 8 NPUs", "fewer ranks"),
    "a size of zero": (inventory({"tensor_parallel_size": 0}), "vllm_cluster_instances[chat].tensor_parallel_size", "no size", "at least 1"),
    "the whole node for a model": (inventory({"model": "//"}), "vllm_cluster_instances[chat].model", "no absolute path", "/srv/models"),
    "ranks of Ray that do not fit": (inventory({**RAY, "tensor_parallel_size": 3}), "vllm_cluster_instances[chat].tensor_parallel_size", "2 nodes", "multiple"),
    "data parallel over Ray": (
        inventory({**RAY, "data_parallel_size": 2, "rpc_port": 20550}), "[chat].data_parallel_size", "not planned over Ray", "data_parallel"),
    "no port of the API": (inventory({"api_port": None}), "vllm_cluster_instances[chat].api_port", "missing", "7443"),
    "a default port": (inventory({"api_port": 8000}), "vllm_cluster_instances[chat].api_port", "default of serve --port", "your choice"),
    "a privileged port": (inventory({"api_port": 443}), "vllm_cluster_instances[chat].api_port", "privilege", "your choice"),
    "a port that is none": (inventory({"api_port": "https"}), "vllm_cluster_instances[chat].api_port", "no port", "7443"),
    "a port of MindSpore": (inventory({"api_port": 8443}), "vllm_cluster_instances[chat].api_port", "MindSpore", "outside"),
    "a port in other digits": (inventory({"api_port": "\u0667\u0664\u0664\u0663"}), "vllm_cluster_instances[chat].api_port", "no port", "7443"),
    "a port twice": (inventory({"api_port": 20550}), "vllm_cluster_instances[chat].rpc_port", "api_port", "of its own"),
    "master ports that reach MindSpore": (inventory({"rpc_port": 8110}), "vllm_cluster_instances[chat].master_port", "MindSpore at 8118", "at most 8107"),
    "master ports that reach the ephemeral ones": (
        inventory({"master_port": 27995}), "vllm_cluster_instances[chat].master_port", "ephemeral range at 28000", "at most 27989"),
    "master ports that reach a default": (
        inventory({"rpc_port": 7990}), "vllm_cluster_instances[chat].master_port", "reach the default of serve --port at 8000", "at most 7989"),
    "master ports beyond the last": (inventory({"master_port": 65530}), "vllm_cluster_instances[chat].master_port", "end of all ports", "at most 65525"),
    "an RPC port for one engine": (inventory({**SINGLE, "rpc_port": 20550}), "vllm_cluster_instances[chat].rpc_port", "no use", "Remove"),
    "a name for clients with a blank": (inventory({"served_model_name": "my model"}), "[chat].served_model_name", "no model name", "letters"),
    "expert parallel by a word": (inventory({"expert_parallel": "yes"}), "vllm_cluster_instances[chat].expert_parallel", "neither true", "Write one"),
    "Ray without Ray": (inventory({"ray": RAY["ray"]}), "vllm_cluster_instances[chat].ray", "no use", "Remove"),
    "no settings of Ray": (inventory({**RAY, "ray": None}), "vllm_cluster_instances[chat].ray", "missing", "20100-20999"),
    "ports of Ray that are none": (ray(ports="some"), "vllm_cluster_instances[chat].ray.ports", "no range", "20100-20999"),
    "too few ports of Ray": (ray(ports="20100-20110"), "vllm_cluster_instances[chat].ray.ports", "at least 84", "20100-20999"),
    "ports of Ray over MindSpore": (ray(ports="12000-12999"), "vllm_cluster_instances[chat].ray.ports", "MindSpore", "20100-20999"),
    "the default port of Ray": (ray(ports="6300-6400"), "vllm_cluster_instances[chat].ray.ports", "6379", "20100-20999"),
    "no version of Ray": (ray(version="latest"), "vllm_cluster_instances[chat].ray.version", "no version", "2.60.0"),
    "a token by a word": (ray(token="yes"), "vllm_cluster_instances[chat].ray.token", "neither true", "Write one"),
    "TLS of Ray by a word": (ray(tls=True), "vllm_cluster_instances[chat].ray.tls", "no mapping", "authority"),
    "TLS of Ray without a key": (
        ray(tls={"certificate": "/a", "authority": "/b"}), "vllm_cluster_instances[chat].ray.tls.key", "is missing", "/etc/pki/ray/node.key"),
    "TLS of Ray with a certificate in place": (
        ray(tls={"certificate": "-----BEGIN", "key": "/k", "authority": "/b"}), "[chat].ray.tls.certificate", "no absolute path", "node.pem"),
    "a lock without the Ray of the topology": (
        inventory(RAY, vllm_runtime_requirements=LOCK), "npu01: vllm_runtime_requirements", "lacks ray", "Lock ray==2.60.0"),
    "a Ray without IPv6": (
        over_ipv6({**RAY, "ray": {"ports": "20100-20999", "version": "2.48.0"}}), "vllm_cluster_instances[chat].ray.version", "no IPv6", "2.49"),
    "a Ray without tokens": (ray(version="2.48.0", token=True), "vllm_cluster_instances[chat].ray.token", "2.48.0 does not have", "2.52"),
    "NPUs for an engine without": (inventory({"engine": "vllm", "npus": [0]}), "vllm_cluster_instances[chat].npus", "no use", "Remove"),
    "NPUs in a word": (inventory({"npus": "all"}), "vllm_cluster_instances[chat].npus", "no list", "[0, 1]"),
    "an NPU twice in an instance": (inventory({"npus": [0, 0]}), "vllm_cluster_instances[chat].npus", "2 different NPUs", "2 numbers"),
    "too few NPUs": (inventory({"npus": [0]}), "vllm_cluster_instances[chat].npus", "2 different NPUs", "change the sizes"),
    "an NPU twice on a node": (
        inventory({}, {"name": "code", "npus": [1, 2], "api_port": 7453, "rpc_port": 20570}), "vllm_cluster_instances[code].npus", "NPU 1 of npu01", "own"),
    "tensor parallel beyond a node": (inventory({"tensor_parallel_size": 8}), "vllm_cluster_instances[chat].tensor_parallel_size", "8 NPUs", "topology ray"),
    "arguments in a list": (inventory({"arguments": ["--max-model-len"]}), "vllm_cluster_instances[chat].arguments", "no mapping", "flags"),
    "a flag that is none": (inventory({"arguments": {"Max Len": 1}}), "vllm_cluster_instances[chat].arguments.Max Len", "no flag", "documents"),
    "a value that is none": (inventory({"arguments": {"max-model-len": [1]}}), "vllm_cluster_instances[chat].arguments.max-model-len", "plain value", "number"),
    "a value that is a flag": (inventory({"arguments": {"seed": "--trust-remote-code"}}), "[chat].arguments.seed", "begins like a flag", "dash"),
    "a value with a return": (inventory({"environment": {"X": "a\rb"}}), "vllm_cluster_instances[chat].environment.X", "plain value", "string"),
    "a value of two lines": (inventory({"environment": {"X": "a\nb"}}), "vllm_cluster_instances[chat].environment.X", "plain value", "string"),
    "a value with a bell": (inventory({"arguments": {"tokenizer": "/a\a"}}), "vllm_cluster_instances[chat].arguments.tokenizer", "plain value", "string"),
    "a value that is no number": (
        inventory({"arguments": {"max-model-len": float("nan")}}), "vllm_cluster_instances[chat].arguments.max-model-len", "plain value", "number"),
    "a flag of the plan": (inventory({"arguments": {"host": "::"}}), "vllm_cluster_instances[chat].arguments.host", "decided by the plan", "Remove"),
    "a dangerous variable": (
        inventory({"environment": {"VLLM_SERVER_DEV_MODE": 1}}), "vllm_cluster_instances[chat].environment.VLLM_SERVER_DEV_MODE", "arbitrary", "Remove"),
    "a secret by its name": (
        inventory({"environment": {"AWS_SECRET_ACCESS_KEY": "hush"}}), "vllm_cluster_instances[chat].environment.AWS_SECRET_ACCESS_KEY", "secret", "Remove"),
    "a flag of another version": (inventory({"arguments": {"nnodes-x": 2}}), "vllm_cluster_instances[chat].arguments.nnodes-x", "vllm 0.11.0", "Write"),
    "a switch with a value": (inventory({"arguments": {"enforce-eager": 1}}), "vllm_cluster_instances[chat].arguments.enforce-eager", "takes none", "true"),
    "a value as a switch": (inventory({"arguments": {"max-model-len": True}}), "[chat].arguments.max-model-len", "takes a value", "value"),
    "a part of a switch": (inventory({"arguments": {"enforce-eager.x": True}}), "vllm_cluster_instances[chat].arguments.enforce-eager.x", "part", "Write"),
    "a switch that cannot be off": (
        inventory({"arguments": {"disable-log-stats": False}}), "vllm_cluster_instances[chat].arguments.disable-log-stats", "switched off", "Remove"),
    "checksums in a list": (inventory({"model_checksums": ["x"]}), "vllm_cluster_instances[chat].model_checksums", "no mapping", "sha256sum"),
    "checksums of a file twice": (
        inventory({"model_checksums": f"{'0' * 64}  a\n{'1' * 64}  a\n"}), "vllm_cluster_instances[chat].model_checksums", "twice", "sha256sum"),
    "a checksum outside the model": (inventory({"model_checksums": {"../x": "0" * 64}}), "model_checksums[../x]", "no file below", "sha256sum"),
    "a checksum that is none": (inventory({"model_checksums": {"x": "0"}}), "model_checksums[x]", "no sha256", "64 hexadecimal"),
    "code without a reason": (inventory({"trust_remote_code": True}), "vllm_cluster_instances[chat].trust_remote_code", "no reason", "who vetted"),
    "code that is not pinned": (inventory({"trust_remote_code": "read by us today"}), "[chat].trust_remote_code", "digests", "model_checksums"),
    "a version that is a number": (inventory({"version": 0.5}), "vllm_cluster_instances[chat].version", "no version", "0.5.1"),
    "a version without a pairing": (inventory({"version": "0.4.0"}), "vllm_cluster_instances[chat].version", "0.4.0", "0.5.1 with vllm 0.11.0"),
    "the name of a lock": (
        inventory(vllm_runtime_requirements="files/serving.lock"), "npu01: vllm_runtime_requirements", "not the content of a lock", "lookup("),
    "a lock that lacks a package": (inventory(vllm_runtime_requirements=LOCK), "npu01: vllm_runtime_requirements", "lacks vllm", "vllm==0.11.0"),
    "a lock with another package": (
        inventory(vllm_runtime_requirements=LOCK + LOCK.replace("vllm-mindspore==0.5.1", "vllm==0.9.1")), "npu01: vllm_runtime_requirements", "vllm==0.9.1",
        "Lock vllm==0.11.0"),
    "another Ray than the locked one": (
        inventory(RAY, vllm_runtime_requirements=LOCK + LOCK.replace("vllm-mindspore==0.5.1", "ray==2.48.0")), "vllm_cluster_instances[chat].ray.version",
        "2.60.0", "Write 2.48.0"),
    "a gateway by a word": (inventory(vllm_cluster_gateway="yes"), "vllm_cluster_gateway", "neither true nor false", "Write one"),
    "a port of metrics without gateway": (inventory(vllm_cluster_metrics_port=7444), "vllm_cluster_metrics_port", "no use", "vllm_cluster_gateway: true"),
    "a gateway without monitors": (inventory({"backend_port": 17443}, **{**GATEWAY, "vllm_cluster_monitors": []}), "monitors", "missing", "10.77.0.9"),
    "a gateway without a port of metrics": (
        inventory({"backend_port": 17443}, **{**GATEWAY, "vllm_cluster_metrics_port": None}), "vllm_cluster_metrics_port", "missing", "7444"),
    "the port of SSH for metrics": (inventory({"backend_port": 17443}, **GATEWAY, vllm_cluster_ssh_port=7444), "vllm_cluster_metrics_port", "ssh_port", "own"),
    "an instance called gateway": (inventory({"backend_port": 17443, "name": "gateway"}, **GATEWAY), ".name", "twice", "another name"),
    "a backend without gateway": (inventory({"backend_port": 17443}), "vllm_cluster_instances[chat].backend_port", "no use", "Remove"),
    "a gateway without backend": (inventory({}, **GATEWAY), "vllm_cluster_instances[chat].backend_port", "missing", "17443"),
    "server names in a word": (inventory({"backend_port": 17443, "server_names": "x"}, **GATEWAY), "[chat].server_names", "no list", "chat.example.com"),
    "a server name that is none": (inventory({"backend_port": 17443, "server_names": ["*"]}, **GATEWAY), "[chat].server_names[0]", "no DNS name", "chat"),
    "a server name twice": (
        inventory({"backend_port": 17443, "server_names": ["a.example.com"] * 2}, **GATEWAY), "[chat].server_names[1]", "twice", "once"),
    "endpoints in a word": (inventory({"backend_port": 17443, "endpoints": "all"}, **GATEWAY), "[chat].endpoints", "no list", "GET /v1/models"),
    "an endpoint that is none": (
        inventory({"backend_port": 17443, "endpoints": [{"GET": "/v1/models"}]}, **GATEWAY), "[chat].endpoints[0]", "no method and path", "/v1/models"),
    "a forbidden endpoint": (inventory({"backend_port": 17443, "endpoints": ["POST /invocations"]}, **GATEWAY), "[chat].endpoints[0]", "second way", "Remove"),
    "an unknown endpoint": (inventory({"backend_port": 17443, "endpoints": ["GET /v1/model"]}, **GATEWAY), "[chat].endpoints[0]", "no engine", "/v1/models"),
    "an endpoint in a list": (inventory({"backend_port": 17443, "endpoints": [["GET"]]}, **GATEWAY), "[chat].endpoints[0]", "no method and path", "Write"),
    "an endpoint twice": (inventory({"backend_port": 17443, "endpoints": ["GET /v1/models"] * 2}, **GATEWAY), "[chat].endpoints[1]", "twice", "once"),
}


def refusal(hosts):
    with pytest.raises(PlanError) as refused:
        build_plan(hosts)
    return str(refused.value)


def test_one_problem_of_an_instance_hides_no_other():
    message = refusal(inventory({"model": "x", "master_port": 29500}, {"name": "code", "model": "y", "npus": [4, 5]}))
    assert "vllm_cluster_instances[chat].master_port is 29500, which is the default" in message
    assert "vllm_cluster_instances[code].api_port is '7443', which is used on npu01 by vllm_cluster_instances[chat].api_port" in message
    assert message.startswith("The inventory has 7 problems")


def test_a_bad_value_is_not_missing_as_well():
    assert refusal(address(internal="npu01")).startswith("The inventory has 1 problem;")
    assert "belongs to a segment" not in refusal(inventory(vllm_cluster_networks=None))


def test_the_clusters_of_an_inventory_are_told_apart():
    one = inventory(vllm_cluster_clients=[])
    other = inventory(vllm_cluster_clients=[], vllm_cluster_name="other")
    for number, variables in enumerate(other.values(), 21):
        variables["vllm_cluster_addresses"] = {name: f"10.77.{index}.{number}" for index, name in enumerate(NETWORKS)}
        variables["vllm_cluster_instances"] = [{**CHAT, "nodes": ["npu11", "npu12"]}]
    message = refusal({**one, "npu11": other["npu01"], "npu12": other["npu02"]})
    assert "1. cluster vllm: vllm_cluster_clients is missing" in message and "2. cluster other: vllm_cluster_clients is missing" in message


@pytest.mark.parametrize("written, meant", [("vllm_cluster_admins", "administrators"), ("vllm_cluster_port", "ssh_port"), ("vllm_cluster_node", "name")])
def test_the_nearest_variable_is_the_one_that_was_meant(written, meant):
    assert f"Write vllm_cluster_{meant}, or remove it" in refusal(inventory(**{written: 1}))


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_with_variable_value_and_advice(case):
    hosts, variable, trouble, advice = CASES[case]
    message = refusal(hosts)
    assert any(variable in line and trouble in line and advice in line for line in message.splitlines()), message


def test_every_refusal_in_the_source_has_a_case(monkeypatch):
    reached, real = set(), Reader.problem

    def problem(reader, *arguments):
        frame = sys._getframe(1)
        reached.add((frame.f_globals["__name__"], frame.f_lineno))
        return real(reader, *arguments)

    monkeypatch.setattr(Reader, "problem", problem)
    for hosts, *_rest in CASES.values():
        refusal(hosts)
    forgotten = []
    for module in (pairings, plan_gateway, plan_input, plan_instances, plan_reader):
        for call in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "problem":
                if not any(name == module.__name__ and call.lineno <= line <= call.end_lineno for name, line in reached):
                    forgotten.append(f"{Path(module.__file__).name}:{call.lineno} {ast.unparse(call.args[2])}")
    assert forgotten == []

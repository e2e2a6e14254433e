# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Every kind of command line that the plan makes: each engine and version, topology, gateway, address family, and each flag of a user."""

from __future__ import annotations

import copy

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.engine_flags import flags_of
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.pairings import PAIRINGS, vllm_versions
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan import build_plan
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_ray import FIRST_VERSION_WITH_IPV6, version_numbers
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_refusals import DANGEROUS_FLAGS, PLANNED_FLAGS

TOPOLOGIES = {
    "single": {"topology": "single", "nodes": ["npu01"], "tensor_parallel_size": 2, "pipeline_parallel_size": 2},
    "engines": {"topology": "single", "nodes": ["npu01"], "data_parallel_size": 2, "rpc_port": 20550, "api_servers": 2},
    "data_parallel": {
        "topology": "data_parallel", "nodes": ["npu01", "npu02"], "data_parallel_size": 4, "tensor_parallel_size": 2, "rpc_port": 20550,
        "expert_parallel": True,
    },
    "ray": {"topology": "ray", "nodes": ["npu01", "npu02"], "tensor_parallel_size": 4, "ray": {"ports": "20100-20999", "version": "2.60.0"}},
}
# Values of flags that take one, as users write them; every switch is added below.
VALUED = {"max-model-len": 4096, "dtype": "bfloat16", "gpu-memory-utilization": 0.9, "max-num-seqs": 64, "seed": 0, "load-format": "dummy"}
# What the engine takes only beside another flag, and only without others.
BESIDE = {"tool-call-parser": "hermes"}
ALONE = ("disable-log-stats",)
VETTED = {"model_checksums": {"modelling.py": "0" * 64}, "trust_remote_code": "read by the platform team on 2026-11-02"}


def inventory(instance, family, gateway):
    """Two nodes with one instance."""
    six = family == 6
    networks = {name: f"fd00:77:{index}::/64" if six else f"10.77.{index}.0/24" for index, name in enumerate(("management", "api", "internal"))}
    shared = {
        "vllm_cluster_networks": networks,
        "vllm_cluster_administrators": [networks["management"]],
        "vllm_cluster_clients": [networks["api"]],
        "vllm_cluster_interfaces": {"internal": "eth2"},
        "vllm_cluster_instances": [instance],
        **({"vllm_cluster_gateway": True, "vllm_cluster_metrics_port": 7444, "vllm_cluster_monitors": [networks["management"]]} if gateway else {}),
    }
    return {
        f"npu0{number}": copy.deepcopy({
            **shared,
            "vllm_cluster_addresses": {
                name: f"fd00:77:{index}::1{number}" if six else f"10.77.{index}.1{number}" for index, name in enumerate(networks)},
        })
        for number in (1, 2)
    }


def planned(instance, family=4, gateway=False):
    """The engine's command lines in the plan of one instance, one a node."""
    if gateway:
        instance = {**instance, "backend_port": 17443}
    nodes = build_plan(inventory(instance, family, gateway))["nodes"].values()
    return [entry["arguments"] for node in nodes for entry in node["instances"] if entry["arguments"] is not None]


def ray_command_lines(version):
    """Words of every kind of command line of ``ray`` in the plan, each once: engines with and without NPUs, both address families."""
    made = []
    for engine, versions in PAIRINGS.items():
        basis = {"name": "chat", "engine": engine, "version": next(iter(versions)), "model": "/srv/models/tiny", "api_port": 7443}
        over_ray = {**TOPOLOGIES["ray"], "ray": {**TOPOLOGIES["ray"]["ray"], "version": version}}
        for family in (4, 6) if version_numbers(version) >= FIRST_VERSION_WITH_IPV6 else (4,):
            nodes = build_plan(inventory({**basis, **over_ray}, family, False))["nodes"].values()
            made += [tuple(entry["ray"]["arguments"]) for node in nodes for entry in node["instances"]]
    return [list(words) for words in dict.fromkeys(made)]


def command_lines():
    """{version of vLLM: [words of a command line]}, each once."""
    lines = {version: [] for version in vllm_versions()}
    for engine, versions in PAIRINGS.items():
        for version, pairing in versions.items():
            made = lines[pairing["vllm"]]
            basis = {"name": "chat", "engine": engine, "version": version, "model": "/srv/models/tiny", "api_port": 7443}
            for topology in TOPOLOGIES.values():
                for family in (4, 6):
                    for gateway in (False, True):
                        made += planned({**basis, **topology}, family, gateway)
                made += planned({**basis, **topology, **VETTED, "arguments": VALUED})
            switches = {
                name: kind for name, kind in flags_of(pairing["vllm"]).items() if kind != "value" and name not in PLANNED_FLAGS and name not in DANGEROUS_FLAGS}
            for setting in (True, False):
                chosen = {name: setting for name, kind in switches.items() if (setting or kind == "switch") and name not in ALONE}
                made += planned({**basis, **TOPOLOGIES["single"], "arguments": {**chosen, **BESIDE}})
            for name in ALONE:
                made += planned({**basis, **TOPOLOGIES["single"], "arguments": {name: True}})
    return {version: [list(words) for words in dict.fromkeys(map(tuple, made))] for version, made in lines.items()}

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Units as they are deployed, as systemd shows them, have nothing that the judge would find, whatever the instance."""

from __future__ import annotations

import shlex

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.units import COMMANDS, mask_secrets
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judge import judge_node
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judged_node import OF_SERVICES, Node
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan import build_plan
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.serving import serving_units
from ansible_collections.vllm_mindspore.hardening.tests.unit.plugins.plugin_utils.test_plan import CHAT, RAY, inventory

TOKENS = {"max-num-batched-tokens": 8192, "tokenizer": "/srv/models/tiny", "long-prefill-token-threshold": 64}
GATEWAY = {"vllm_cluster_gateway": True, "vllm_cluster_metrics_port": 7444, "vllm_cluster_monitors": ["10.77.0.9/32"]}
BACKEND = {"backend_port": 17443, "server_names": ["chat.example.com"]}
CLUSTERS = {
    "data parallel": {"vllm_cluster_instances": [{**CHAT, "arguments": TOKENS, "environment": {"TOKENIZERS_PARALLELISM": "false", "NOTE": "a b $c %d"}}]},
    "behind a gateway": {"vllm_cluster_instances": [{**CHAT, **BACKEND, "arguments": TOKENS}], **GATEWAY},
    "Ascend": {"vllm_cluster_instances": [{**CHAT, "engine": "vllm_mindspore", "npus": [0, 1]}]},
    "Ray": {"vllm_cluster_instances": [{**CHAT, **RAY}]},
}


def shown(content):
    """The properties of a unit file as `systemctl show` prints them, secrets replaced as on a node."""
    found = dict.fromkeys(OF_SERVICES, "")
    for line in content.splitlines():
        name, separator, value = line.partition("=")
        if not separator or line.startswith("#"):
            continue
        words = [word.replace("%%", "%") for word in shlex.split(value)] if name in ("ExecStart", "Environment") else []
        if name == "ExecStart":
            found[name] = f"{{ path={words[0]} ; argv[]={' '.join(words)} ; ignore_errors=no ; start_time=[n/a] ; pid=1 }}"
        elif name == "Environment":
            found[name] += "".join(f' "{word}"' if " " in word else f" {word}" for word in words)
        else:
            found[name] = value
    for name in ("Environment", *COMMANDS):
        if name in found:
            found[name] = mask_secrets(found[name].strip())
    return {**found, "LoadState": "loaded"}


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_the_parameters_of_a_deployed_unit_are_the_planned_ones(cluster):
    plan = build_plan(inventory(**CLUSTERS[cluster]))
    for host, node in plan["nodes"].items():
        units = serving_units(node["instances"], sets=plan["clusters"][node["cluster"]]["sets"], listeners=node["listeners"],
                              executable_directory=node["software"])
        assert units
        told = {unit["name"]: {"properties": shown(unit["content"]), "processes": []} for unit in units}
        findings = {finding["control"]: finding for finding in judge_node(Node(host, plan, {"units": told}, None))}
        for control, finding in findings.items():
            if control.startswith("PAR-") or control == "SRV-02":
                assert finding["status"] in ("pass", "not applicable"), finding
        assert findings["PAR-08"]["status"] == findings["PAR-10"]["status"] == "pass"

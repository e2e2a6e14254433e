# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The NPU controls in the audit: applicable where NPUs are planned, alike over the ranks of an instance."""

from __future__ import annotations

import copy

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_request import audit_request
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.checks_npu import CHECKS
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import BY_ID
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judged_node import Node, NotApplicable, Unknown
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan import build_plan

DEVICE = {"mode": "0660", "owner": "root", "group": "HwHiAiUser", "character": True}


def plan(**change):
    """Two nodes with one instance over eight NPUs each."""
    instance = {
        "name": "chat", "engine": "vllm_mindspore", "model": "/srv/models/tiny", "topology": "data_parallel", "nodes": ["npu01", "npu02"],
        "data_parallel_size": 2, "tensor_parallel_size": 2, "api_port": 7443, "rpc_port": 20550, **change,
    }
    return build_plan({
        f"npu0{number}": {
            "vllm_cluster_networks": {"management": "10.77.0.0/24", "api": "10.77.1.0/24", "internal": "10.77.2.0/24", "fabric": "10.77.8.0/22"},
            "vllm_cluster_administrators": ["10.77.0.1/32"], "vllm_cluster_clients": ["10.77.1.128/25"],
            "vllm_cluster_interfaces": {"internal": "eth2"}, "vllm_cluster_instances": [instance],
            "vllm_cluster_addresses": {name: f"10.77.{index}.1{number}" for index, name in enumerate(("management", "api", "internal"))},
        }
        for number in (1, 2)
    })


def observation(number, tls=False):
    """What a sound node tells."""
    return {"npu": {
        "install": {"UserGroup": "HwHiAiUser", "Driver_Install_For_All": "no"}, "driver": "25.2.0", "cann": "8.3.RC1", "devices": {"/dev/davinci0": DEVICE},
        "smi": {"npus": [{"number": index, "npu": index, "chip": 0, "name": "910B", "health": "OK", "bus": ""} for index in range(8)]},
        "fabric": {str(index): {"address": {"address": f"10.77.8.{number}{index}", "prefix": 22}, "tls": tls} for index in range(8)},
        "routes": [], "unknown": {},
    }}


def node(planned, host="npu02", **observed):
    """A node as the judge makes it."""
    observations = {"npu01": observation(1), "npu02": observation(2), **observed}
    made = Node(host, planned, observations[host], None)
    made.observations = observations
    return made


def test_every_check_has_its_control():
    assert set(CHECKS) == {control for control in BY_ID if control.startswith("NPU-")}


@pytest.mark.parametrize("control", sorted(CHECKS))
def test_sound_nodes_pass(control):
    for host in ("npu01", "npu02"):
        expected, problems = CHECKS[control](node(plan(), host))
        assert expected and problems == []


@pytest.mark.parametrize("control", sorted(CHECKS))
def test_without_planned_npus_nothing_is_asked_or_judged(control):
    planned = plan(engine="vllm")
    assert audit_request(planned, "npu02")["npus"] == []
    with pytest.raises(NotApplicable):
        CHECKS[control](node(planned))


def test_the_fabric_concerns_no_instance_on_one_node():
    planned = plan(topology="single", nodes=["npu02"], data_parallel_size=1, rpc_port=None)
    assert audit_request(planned, "npu02")["npus"] == [0, 1]
    with pytest.raises(NotApplicable):
        CHECKS["NPU-05"](node(planned))


def test_a_switch_that_differs_from_the_head_is_found():
    _expected, problems = CHECKS["NPU-06"](node(plan(), npu01=observation(1, tls=True)))
    assert problems == ["TLS of chat differs from npu01, its head; set all alike with hccn_tool -tls -s enable"]


@pytest.mark.parametrize("head", [None, {"npu": None}, {"npu": {"fabric": {}}}])
def test_a_head_that_tells_nothing_is_unknown(head):
    with pytest.raises(Unknown, match="npu01"):
        CHECKS["NPU-06"](node(plan(), npu01=head))


def test_an_absent_tool_is_unknown():
    silent = copy.deepcopy(observation(2))
    silent["npu"].update(smi=None, unknown={"smi": "npu-smi is not installed"})
    with pytest.raises(Unknown, match="npu-smi is not installed"):
        CHECKS["NPU-04"](node(plan(), npu02=silent))

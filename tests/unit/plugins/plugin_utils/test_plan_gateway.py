# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The gateway in the plan: what moves behind it, and which inventories are refused."""

from __future__ import annotations

import copy

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import plan_gateway, ruleset
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan import build_plan
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_reader import PlanError
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_text import plan_text

CHAT = {
    "name": "chat",
    "engine": "vllm",
    "model": "/srv/models/tiny",
    "topology": "data_parallel",
    "nodes": ["npu01", "npu02"],
    "data_parallel_size": 2,
    "api_port": 7443,
    "rpc_port": 20550,
    "backend_port": 17443,
    "server_names": ["chat.example.com"],
}
CLUSTER = {
    "vllm_cluster_networks": {"management": "10.77.0.0/24", "api": ["10.77.1.0/24", "fd00:77:1::/64"], "internal": "10.77.2.0/24"},
    "vllm_cluster_administrators": ["10.77.0.1/32"],
    "vllm_cluster_clients": ["10.77.1.128/25"],
    "vllm_cluster_monitors": ["10.77.0.9/32"],
    "vllm_cluster_interfaces": {"management": "eth0", "internal": "eth2"},
    "vllm_cluster_gateway": True,
    "vllm_cluster_metrics_port": 7444,
    "vllm_cluster_instances": [CHAT],
}


def inventory(*chats, **changes):
    """Two nodes behind a gateway; each of ``chats`` changes a copy of CHAT, ``changes`` replace variables, None removes one."""
    cluster = copy.deepcopy({**CLUSTER, **changes})
    if chats:
        cluster["vllm_cluster_instances"] = [
            {key: value for key, value in {**CHAT, **chat}.items() if value is not None} for chat in chats
        ]
    return {
        f"npu0{number}": {
            **{key: value for key, value in cluster.items() if value is not None},
            "vllm_cluster_addresses": {
                "management": f"10.77.0.1{number}",
                "api": [f"10.77.1.1{number}", f"fd00:77:1::1{number}"],
                "internal": f"10.77.2.1{number}",
            },
        }
        for number in (1, 2)
    }


def refusal(*chats, **changes):
    with pytest.raises(PlanError) as refused:
        build_plan(inventory(*chats, **changes))
    return str(refused.value)


def head(*chats, **changes):
    return build_plan(inventory(*chats, **changes))["nodes"]["npu01"]


def flag(node, name):
    arguments = node["instances"][0]["arguments"]
    return arguments[arguments.index(name) + 1]


def test_the_engine_listens_on_loopback_and_the_gateway_where_clients_come_in():
    node = head()
    assert (flag(node, "--host"), flag(node, "--port")) == ("127.0.0.1", "17443")
    ports = ("7443", "7444", "17443")
    found = {(entry["address"], entry["ports"][0]): entry["unit"] for entry in node["listeners"] if entry["ports"][0] in ports}
    assert found == {
        ("127.0.0.1", "17443"): "vllm-chat.service",
        ("10.77.1.11", "7443"): "vllm-gateway.service",
        ("fd00:77:1::11", "7443"): "vllm-gateway.service",
        ("10.77.0.11", "7444"): "vllm-gateway.service",
    }
    assert node["instances"][0]["api"] == {"address": "127.0.0.1", "port": 17443}


def test_clients_reach_the_api_in_both_families_and_monitors_alone_reach_metrics():
    flows = {flow["name"]: flow for flow in head()["flows"]}
    assert flows["chat-api"]["destinations"] == ["10.77.1.11", "fd00:77:1::11"]
    assert flows["chat-api"]["sources"] == ["@clients"]
    assert flows["metrics"] == {
        "name": "metrics",
        "sources": ["@monitors"],
        "destinations": ["10.77.0.11"],
        "interface": "eth0",
        "segment": "management",
        "protocol": "tcp",
        "ports": ["7444"],
        "reason": "metrics and health",
    }
    assert not any("17443" in flow["ports"] for flow in flows.values())


def test_ports_of_the_gateway_are_never_handed_out_as_ephemeral_ones():
    assert head()["reserved_ports"] == ["7443-7444", "17443", "20550-20561"]


def test_what_the_gateway_serves_is_written_for_its_role():
    assert head()["gateway"] == {
        "unit": "vllm-gateway.service",
        "user": "vllm-gateway",
        "metrics": {"addresses": ["10.77.0.11"], "port": 7444},
        "instances": [
            {
                "name": "chat",
                "addresses": ["10.77.1.11", "fd00:77:1::11"],
                "port": 7443,
                "backends": [{"address": "127.0.0.1", "port": 17443}],
                "server_names": ["chat.example.com"],
                "endpoints": ["GET /v1/models", "POST /v1/chat/completions", "POST /v1/completions"],
            }
        ],
    }


def test_the_key_of_the_engine_is_a_file_on_the_head_and_nowhere_in_the_plan():
    plan = build_plan(inventory())
    assert plan["nodes"]["npu01"]["instances"][0]["credentials"] == {"VLLM_API_KEY": "/etc/vllm-hardening/credentials/chat.api-key"}
    assert plan["nodes"]["npu02"]["instances"][0]["credentials"] == {}
    assert "VLLM_API_KEY" not in plan["nodes"]["npu01"]["instances"][0]["environment"]


def test_the_user_of_the_gateway_opens_nothing_outside_the_node():
    (egress,) = [entry for entry in head()["egress"] if entry["user"] == "vllm-gateway"]
    assert (egress["destinations"], egress["ports"]) == ([], [])


def test_an_engine_on_loopback_is_for_the_gateway_and_the_filter_takes_it_so():
    node = head()
    assert [(entry["users"], entry["ports"]) for entry in node["loopback"]] == [(["vllm-gateway", "vllm-chat"], ["17443"])]
    rules = ruleset.render([], administrators=["10.77.0.1/32"], loopback=node["loopback"])
    assert 'tcp dport 17443 meta skuid != { "root", "vllm-gateway", "vllm-chat" } counter reject' in rules


def test_a_node_without_a_head_has_no_gateway():
    worker = build_plan(inventory())["nodes"]["npu02"]
    assert worker["gateway"] is None
    assert worker["loopback"] == []
    assert [flow["name"] for flow in worker["flows"]] == ["ssh", "chat-internal"]
    assert not any(entry["user"] == "vllm-gateway" for entry in worker["egress"])


def test_without_the_gateway_nothing_of_it_is_planned():
    node = head({"backend_port": None, "server_names": None}, vllm_cluster_gateway=None, vllm_cluster_metrics_port=None)
    assert (node["gateway"], node["loopback"]) == (None, [])
    assert (flag(node, "--host"), flag(node, "--port")) == ("10.77.1.11", "7443")
    assert node["instances"][0]["api"] == {"address": "10.77.1.11", "port": 7443}
    assert node["instances"][0]["credentials"] == {}
    assert "metrics" not in [flow["name"] for flow in node["flows"]]


def test_two_instances_of_a_node_share_the_gateway_and_its_metrics_port():
    alone = {"topology": "single", "nodes": ["npu01"], "data_parallel_size": 1, "rpc_port": None}
    node = head({}, {"name": "code", "api_port": 7543, "backend_port": 17543, **alone})
    assert [served["name"] for served in node["gateway"]["instances"]] == ["chat", "code"]
    assert [flow["name"] for flow in node["flows"]].count("metrics") == 1


def test_a_reviewer_reads_what_the_gateway_answers():
    text = plan_text(build_plan(inventory()))
    assert "chat on port 7443 as chat.example.com, 10.77.1.11, fd00:77:1::11" in text
    assert "POST /v1/chat/completions" in text
    assert "metrics and health on 10.77.0.11 port 7444" in text


@pytest.mark.parametrize(
    ("chat", "changes", "path", "trouble"),
    [
        ({"backend_port": None}, {}, "vllm_cluster_instances[chat].backend_port", "is missing, though vllm_cluster_gateway is true"),
        ({"backend_port": 8000}, {}, "vllm_cluster_instances[chat].backend_port", "the default of serve --port"),
        ({"backend_port": 28100}, {}, "vllm_cluster_instances[chat].backend_port", "the pinned ephemeral range"),
        ({"backend_port": 7443}, {}, "vllm_cluster_instances[chat].backend_port", "is used on npu01 by vllm_cluster_instances[chat].api_port"),
        ({"backend_port": 7444}, {}, "vllm_cluster_instances[chat].backend_port", "is used on npu01 by vllm_cluster_metrics_port"),
        ({"api_port": 7444}, {}, "vllm_cluster_instances[chat].api_port", "is used on npu01 by vllm_cluster_metrics_port"),
        ({"name": "gateway"}, {}, "vllm_cluster_instances[gateway].name", "would make vllm-gateway.service twice"),
        ({"server_names": "chat.example.com"}, {}, "vllm_cluster_instances[chat].server_names", "is no list"),
        ({"server_names": ["*.example.com"]}, {}, "vllm_cluster_instances[chat].server_names[0]", "is no DNS name"),
        ({"server_names": ["10.77.1.11"]}, {}, "vllm_cluster_instances[chat].server_names[0]", "is no DNS name"),
        ({"server_names": ["a.example.com", "a.example.com"]}, {}, "vllm_cluster_instances[chat].server_names[1]", "stands there twice"),
        ({"endpoints": []}, {}, "vllm_cluster_instances[chat].endpoints", "is no list of endpoints"),
        ({"endpoints": ["POST /v1/chat/completion"]}, {}, "vllm_cluster_instances[chat].endpoints[0]", "is served by no engine"),
        ({"endpoints": ["POST /invocations"]}, {}, "vllm_cluster_instances[chat].endpoints[0]", "second way to every inference endpoint"),
        ({"endpoints": ["GET /metrics"]}, {}, "vllm_cluster_instances[chat].endpoints[0]", "belongs to the monitors"),
        (
            {"engine": "vllm_mindspore", "endpoints": ["POST /v1/messages"]},
            {},
            "vllm_cluster_instances[chat].endpoints[0]",
            "is not served by vllm_mindspore",
        ),
        ({}, {"vllm_cluster_gateway": "yes"}, "vllm_cluster_gateway", "is neither true nor false"),
        ({}, {"vllm_cluster_metrics_port": None}, "vllm_cluster_metrics_port", "is missing, though vllm_cluster_gateway is true"),
        ({}, {"vllm_cluster_metrics_port": 22}, "vllm_cluster_metrics_port", "is vllm_cluster_ssh_port too"),
        ({}, {"vllm_cluster_monitors": None}, "vllm_cluster_monitors", "is missing or empty"),
        ({}, {"vllm_cluster_gateway": None}, "vllm_cluster_metrics_port", "has no use without the gateway"),
        (
            {},
            {"vllm_cluster_gateway": False, "vllm_cluster_metrics_port": None},
            "vllm_cluster_instances[chat].backend_port",
            "has no use without the gateway",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_variable_named(chat, changes, path, trouble):
    problems = [line for line in refusal(chat, **changes).splitlines() if path in line]
    assert problems and any(trouble in line for line in problems), problems


def test_the_nearest_known_endpoint_is_offered():
    assert "Write POST /v1/embeddings, or remove it" in refusal({"endpoints": ["POST /v1/embedding"]})


def test_no_endpoint_is_both_offered_and_forbidden():
    assert not {endpoint.split(" ")[1] for endpoint in plan_gateway.ENDPOINTS} & set(plan_gateway.FORBIDDEN_PATHS)
    assert set(plan_gateway.DEFAULT_ENDPOINTS) <= set(plan_gateway.ENDPOINTS)

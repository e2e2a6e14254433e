# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The plan: what it derives, and what it refuses."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import pytest
import yaml

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.node_state import Desired
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan import build_plan
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_model import Instance
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_reader import PlanError
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_text import plan_text
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.serving import serving_units

CHAT = {
    "name": "chat",
    "engine": "vllm",
    "model": "/srv/models/tiny",
    "topology": "data_parallel",
    "nodes": ["npu01", "npu02"],
    "data_parallel_size": 4,
    "api_port": 7443,
    "rpc_port": 20550,
}
CLUSTER = {
    "vllm_cluster_networks": {"management": "10.77.0.0/24", "api": "10.77.1.0/24", "internal": ["10.77.2.0/24", "fd00:77:2::/64"]},
    "vllm_cluster_administrators": ["10.77.0.1/32"],
    "vllm_cluster_clients": ["10.77.1.128/25"],
    "vllm_cluster_interfaces": {"internal": "eth2"},
    "vllm_cluster_instances": [CHAT],
}


def inventory(**changes):
    """Two nodes; ``changes`` replace variables of the cluster."""
    return {
        f"npu0{number}": copy.deepcopy(
            {
                **CLUSTER,
                "vllm_cluster_addresses": {
                    "management": f"10.77.0.1{number}",
                    "api": f"10.77.1.1{number}",
                    "internal": [f"10.77.2.1{number}", f"fd00:77:2::1{number}"],
                },
                **changes,
            }
        )
        for number in (1, 2)
    }


def instances(*changed):
    """The cluster's instances as a change of the inventory; each argument changes a copy of CHAT."""
    return {"vllm_cluster_instances": [{**CHAT, **change} for change in changed]}


def addresses(host, **changes):
    """The inventory with other addresses on one node; None removes a segment."""
    hosts = inventory()
    hosts[host]["vllm_cluster_addresses"].update(changes)
    for segment in [key for key, value in changes.items() if value is None]:
        del hosts[host]["vllm_cluster_addresses"][segment]
    return hosts


def refusal(hosts, controller=None):
    with pytest.raises(PlanError) as refused:
        build_plan(hosts, controller)
    return str(refused.value)


def flag(plan, host, name):
    arguments = plan["nodes"][host]["instances"][0]["arguments"]
    return arguments[arguments.index(name) + 1]


def test_every_address_and_port_of_the_security_page_is_explicit():
    plan = build_plan(inventory())
    for host, own in (("npu01", "10.77.2.11"), ("npu02", "10.77.2.12")):
        assert flag(plan, host, "--data-parallel-address") == "10.77.2.11"
        assert flag(plan, host, "--data-parallel-rpc-port") == "20550"
        environment = plan["nodes"][host]["instances"][0]["environment"]
        assert environment["VLLM_HOST_IP"] == own
        assert environment["VLLM_DP_MASTER_IP"] == "10.77.2.11"
        assert environment["VLLM_DP_MASTER_PORT"] == "20551"
    assert flag(plan, "npu01", "--host") == "10.77.1.11"
    assert flag(plan, "npu01", "--port") == "7443"


def test_a_headless_node_has_no_api_and_starts_at_its_own_rank():
    plan = build_plan(inventory())
    worker = plan["nodes"]["npu02"]["instances"][0]
    assert worker["api"] is None
    assert "--headless" in worker["arguments"] and "--host" not in worker["arguments"]
    # A headless node refuses the flag: vLLM raises a ValueError.
    assert "--api-server-count" not in worker["arguments"]
    assert flag(plan, "npu02", "--data-parallel-start-rank") == "2"
    assert flag(plan, "npu02", "--data-parallel-size-local") == "2"
    assert [flow["name"] for flow in plan["nodes"]["npu02"]["flows"]] == ["ssh", "chat-internal"]


def test_flows_open_what_the_topology_needs_and_nothing_else():
    flows = {flow["name"]: flow for flow in build_plan(inventory())["nodes"]["npu01"]["flows"]}
    assert flows["chat-api"]["sources"] == ["@clients"]
    assert flows["chat-api"]["destinations"] == ["10.77.1.11"]
    assert flows["chat-internal"]["ports"] == ["20550", "28000-31999"]
    assert flows["chat-internal"]["interface"] == "eth2"
    assert flows["chat-internal"]["destinations"] == ["10.77.2.11", "fd00:77:2::11"]
    assert set(flows) == {"ssh", "chat-api", "chat-internal"}


def test_peers_are_written_once_as_a_set_of_both_families():
    plan = build_plan(inventory())
    assert plan["clusters"]["vllm"]["sets"]["peers_chat"] == ["10.77.2.11", "fd00:77:2::11", "10.77.2.12", "fd00:77:2::12"]


def test_an_ascend_engine_opens_mindspore_and_hccl_between_peers_and_reserves_them():
    plan = build_plan(inventory(**instances({"engine": "vllm_mindspore", "tensor_parallel_size": 4})))
    node = plan["nodes"]["npu02"]
    assert node["flows"][-1]["ports"] == ["8118-12213", "28000-31999", "60000-60031"]
    assert node["sysctls"]["net.ipv4.ip_local_reserved_ports"] == "8118-12213,20550-20561,60000-60031"
    environment = node["instances"][0]["environment"]
    assert environment["HCCL_IF_IP"] == "10.77.2.12"
    assert environment["HCCL_SOCKET_IFNAME"] == "=eth2"
    assert environment["ASCEND_RT_VISIBLE_DEVICES"] == "0,1,2,3,4,5,6,7"


RAY = {
    "topology": "ray",
    "data_parallel_size": 1,
    "rpc_port": None,
    "tensor_parallel_size": 2,
    "ray": {"ports": "20100-20999", "version": "2.60.0"},
}


def test_ray_gets_every_port_pinned_and_only_what_nodes_need_opened():
    plan = build_plan(inventory(**instances(RAY)))
    head, worker = plan["nodes"]["npu01"], plan["nodes"]["npu02"]
    assert head["flows"][-1]["ports"] == ["20100-20103", "20120-20999", "28000-31999"]
    assert worker["flows"][-1]["ports"] == ["20101-20103", "20120-20999", "28000-31999"]
    start = " ".join(head["instances"][0]["ray"]["arguments"])
    assert start.startswith("start --block --head --port 20100 --include-dashboard false")
    assert "--node-ip-address 10.77.2.12" in " ".join(worker["instances"][0]["ray"]["arguments"])
    assert "--address 10.77.2.11:20100" in " ".join(worker["instances"][0]["ray"]["arguments"])
    for host in ("npu01", "npu02"):
        assert plan["nodes"][host]["instances"][0]["environment"]["RAY_AUTH_MODE"] == "token"
        assert plan["nodes"][host]["instances"][0]["environment"]["RAY_agent_register_timeout_ms"] == "180000"
        assert "20100-20999" in plan["nodes"][host]["reserved_ports"]
    assert flag(plan, "npu01", "--distributed-executor-backend") == "ray"
    assert worker["instances"][0]["arguments"] is None


def test_a_single_node_instance_stays_on_loopback_behind_its_api():
    change = {"topology": "single", "nodes": ["npu01"], "data_parallel_size": 1, "rpc_port": None}
    plan = build_plan(inventory(**instances(change)))
    node = plan["nodes"]["npu01"]
    assert node["instances"][0]["environment"]["VLLM_HOST_IP"] == "127.0.0.1"
    assert node["instances"][0]["environment"]["GLOO_SOCKET_IFNAME"] == "lo"
    assert [flow["name"] for flow in node["flows"]] == ["ssh", "chat-api"]
    assert node["egress"][0]["destinations"] == []
    assert plan["nodes"]["npu02"]["instances"] == []


def test_an_ipv6_cluster_is_planned_like_an_ipv4_one():
    hosts = inventory(
        vllm_cluster_networks={"management": "fd00:77::/64", "api": "fd00:77:1::/64", "internal": "fd00:77:2::/64"},
        vllm_cluster_administrators=["fd00:77::1/128"],
        vllm_cluster_clients=["fd00:77:1::100/120"],
    )
    for number, variables in enumerate(hosts.values(), 11):
        variables["vllm_cluster_addresses"] = {
            "management": f"fd00:77::{number}",
            "api": f"fd00:77:1::{number}",
            "internal": f"fd00:77:2::{number}",
        }
    plan = build_plan(hosts, {"npu01": "fd00:77::1"})
    assert flag(plan, "npu01", "--host") == "fd00:77:1::11"
    assert plan["nodes"]["npu02"]["instances"][0]["environment"]["VLLM_HOST_IP"] == "fd00:77:2::12"


def test_the_inventory_of_the_readme_is_planned():
    readme = Path(__file__).parents[4].joinpath("README.md").read_text(encoding="utf-8")
    group = yaml.safe_load(readme.partition("```yaml\n")[2].partition("```")[0])["vllm_nodes"]
    lock = group["vars"].pop("vllm_runtime_requirements")
    assert lock.startswith("{{ lookup(")
    plan = build_plan({host: {**group["vars"], **own} for host, own in group["hosts"].items()}, {"npu01": "10.77.0.1"})
    assert plan["nodes"]["npu02"]["instances"][0]["npus"] == [0, 1, 2, 3, 4, 5, 6, 7]


EXPORTER = {"name": "node-exporter", "sources": ["10.77.0.9"], "protocol": "tcp", "ports": [9100], "reason": "monitoring of the site"}


def test_what_the_site_lets_in_beyond_the_plan_is_planned_too():
    flow = build_plan(inventory(vllm_firewall_extra_flows=[EXPORTER]))["nodes"]["npu02"]["flows"][-1]
    assert (flow["name"], flow["ports"], flow["destinations"], flow["interface"]) == ("node-exporter", ["9100"], ["10.77.0.12"], None)
    elsewhere = {**EXPORTER, "sources": ["192.0.2.0/24"]}
    assert build_plan(inventory(vllm_firewall_extra_flows=[elsewhere]))["nodes"]["npu02"]["flows"][-1]["destinations"] == []


@pytest.mark.parametrize(
    "change", [{"reason": ""}, {"ports": ["x"]}, {"sources": []}, {"source": 1}, {"protocol": "sctp"}, {"destinations": "a"}, {"segment": "x"}]
)
def test_a_bad_extra_flow_is_refused(change):
    assert f"vllm_firewall_extra_flows[0].{next(iter(change))}" in refusal(inventory(vllm_firewall_extra_flows=[{**EXPORTER, **change}]))


def test_clusters_live_side_by_side():
    hosts = inventory()
    hosts["npu03"] = {
        **hosts["npu01"],
        "vllm_cluster_name": "other",
        "vllm_cluster_addresses": {"management": "10.77.0.13"},
        "vllm_cluster_instances": [],
    }
    plan = build_plan(hosts)
    assert plan["clusters"]["vllm"]["nodes"] == ["npu01", "npu02"]
    assert plan["clusters"]["other"]["nodes"] == ["npu03"]
    assert [flow["name"] for flow in plan["nodes"]["npu03"]["flows"]] == ["ssh"]


def test_what_a_node_carries_grows_with_its_own_instances_only():
    def planned(count):
        names = [f"n{number}" for number in range(count)]
        hosts = {
            name: {
                **CLUSTER,
                "vllm_cluster_networks": {"management": "10.1.0.0/16", "api": "10.2.0.0/16", "internal": "10.3.0.0/16"},
                "vllm_cluster_addresses": {
                    "management": f"10.1.{number // 200 + 1}.{number % 200 + 1}",
                    "api": f"10.2.{number // 200 + 1}.{number % 200 + 1}",
                    "internal": f"10.3.{number // 200 + 1}.{number % 200 + 1}",
                },
                **instances({"nodes": names, "data_parallel_size": count}),
            }
            for number, name in enumerate(names)
        }
        plan = build_plan(hosts)
        return len(json.dumps(plan["nodes"])) / count

    assert planned(1000) < 1.05 * planned(50)


def test_the_text_for_review_names_addresses_ports_flags_and_flows():
    text = plan_text(build_plan(inventory()))
    for part in ("10.77.2.12", "--data-parallel-rpc-port 20550", "VLLM_HOST_IP=10.77.2.11", "@clients -> 10.77.1.11 tcp 7443"):
        assert part in text
    assert "vllm-chat -> @peers_chat tcp 20550, 28000-31999: traffic between the nodes of chat" in text
    assert "net.ipv4.ip_local_port_range = 28000 31999" in text


def test_the_text_for_review_shows_the_nodes_of_a_ray_cluster_that_run_no_engine_themselves():
    worker = plan_text(build_plan(inventory(**instances(RAY)))).partition("Node npu02")[2]
    assert "vllm-chat-ray.service (rank 1, headless) as vllm-chat" in worker and "--node-manager-port 20101" in worker
    assert "vllm-chat.service" not in worker and "serve /srv/models/tiny" not in worker


SINGLE = {"topology": "single", "nodes": ["npu01"], "data_parallel_size": 1, "rpc_port": None}


@pytest.mark.parametrize("change, wildcard", [
    ({**SINGLE, "version": "0.32.0"}, False),
    ({**SINGLE, "version": "0.32.0", "data_parallel_size": 2, "rpc_port": 20550}, True),
    ({**SINGLE, "version": "0.11.0"}, True),
    ({**SINGLE, "engine": "vllm_ascend"}, True),
    ({**SINGLE, "engine": "vllm_mindspore"}, False),
    ({"version": "0.32.0"}, True),
])
def test_stores_of_torch_take_every_address_where_torch_has_some(change, wildcard):
    listeners = build_plan(inventory(**instances(change)))["nodes"]["npu01"]["listeners"]
    assert any(listener["wildcard"] for listener in listeners) is wildcard
    assert all(listener["ports"] == ["28000-31999"] for listener in listeners if listener["wildcard"])


def test_ray_speaks_tls_with_files_of_the_site():
    tls = {"certificate": "/etc/pki/ray/node.pem", "key": "/etc/pki/ray/node.key", "authority": "/etc/pki/ray/authority.pem"}
    for given, wanted in ((tls, "1"), (None, None)):
        plan = build_plan(inventory(**instances({**RAY, "ray": {**RAY["ray"], "tls": given}})))
        for node in plan["nodes"].values():
            assert node["instances"][0]["environment"].get("RAY_USE_TLS") == wanted and node["instances"][0]["ray"]["tls"] == given
    assert "RAY_USE_TLS is '0', which is decided by the plan" in refusal(inventory(**instances({**RAY, "environment": {"RAY_USE_TLS": "0"}})))


@pytest.mark.parametrize(
    ("hosts", "path", "value", "advice"),
    [
        (addresses("npu02", internal=None), "npu02: vllm_cluster_addresses.internal", "missing", "10.77.2.11"),
        (addresses("npu01", api=None), "npu01: vllm_cluster_addresses.api", "missing", "10.77.1.11"),
        (addresses("npu01", management="npu01.example.com"), "npu01: vllm_cluster_addresses.management", "npu01.example.com", "number"),
        (addresses("npu01", internal="0.0.0.0"), "npu01: vllm_cluster_addresses.internal", "0.0.0.0", "wildcard"),
        (addresses("npu01", internal="::"), "npu01: vllm_cluster_addresses.internal", "'::'", "wildcard"),
        (addresses("npu01", internal="127.0.0.1"), "npu01: vllm_cluster_addresses.internal", "127.0.0.1", "loopback"),
        (addresses("npu01", internal="10.77.1.99"), "npu01: vllm_cluster_addresses.internal", "10.77.1.99", "outside its segment"),
        (addresses("npu01", internal="10.77.2.12"), "npu02: vllm_cluster_addresses.internal", "10.77.2.12", "npu01"),
        (addresses("npu01", internal="10.77.2.255"), "npu01: vllm_cluster_addresses.internal", "10.77.2.255", "broadcast"),
        (addresses("npu01", internal="fe80::1"), "npu01: vllm_cluster_addresses.internal", "fe80::1", "routed"),
        (addresses("npu01", intern="10.77.2.11"), "npu01: vllm_cluster_addresses.intern", "segment", "internal"),
        (
            inventory(vllm_cluster_networks={**CLUSTER["vllm_cluster_networks"], "api": "10.77.0.0/23"}),
            "vllm_cluster_networks.api",
            "overlaps",
            "of its own",
        ),
        (
            inventory(vllm_cluster_networks={**CLUSTER["vllm_cluster_networks"], "api": "10.77.1.7/24"}),
            "vllm_cluster_networks.api",
            "host bits",
            "10.77.1.0/24",
        ),
        (inventory(**instances({"api_port": 8000})), "vllm_cluster_instances[chat].api_port", "8000", "default"),
        (inventory(**instances({"rpc_port": 29550})), "vllm_cluster_instances[chat].rpc_port", "29550", "default"),
        (inventory(**instances({"master_port": 29500})), "vllm_cluster_instances[chat].master_port", "29500", "default"),
        (inventory(**instances({"rpc_port": 6379})), "vllm_cluster_instances[chat].rpc_port", "6379", "Ray"),
        (inventory(**instances({"rpc_port": 0})), "vllm_cluster_instances[chat].rpc_port", "0", "kernel chooses"),
        (inventory(**instances({"rpc_port": None})), "vllm_cluster_instances[chat].rpc_port", "missing", "choice"),
        (inventory(**instances({"api_port": 8443})), "vllm_cluster_instances[chat].api_port", "8443", "MindSpore"),
        (inventory(**instances({"api_port": 60031})), "vllm_cluster_instances[chat].api_port", "60031", "HCCL"),
        (inventory(**instances({"api_port": 28001})), "vllm_cluster_instances[chat].api_port", "28001", "ephemeral"),
        (inventory(**instances({"api_port": "http"})), "vllm_cluster_instances[chat].api_port", "http", "one port"),
        (inventory(**instances({"api_port": 20550})), "vllm_cluster_instances[chat].rpc_port", "20550", "api_port"),
        (inventory(vllm_cluster_ssh_port=7443), "vllm_cluster_instances[chat].api_port", "7443", "vllm_cluster_ssh_port"),
        (
            inventory(**instances({}, {"name": "code", "api_port": 7444, "rpc_port": 20560})),
            "vllm_cluster_instances[code].rpc_port",
            "20560",
            "[chat].master_port (20551-20561)",
        ),
        (inventory(**instances({"nodes": ["npu01", "npu03"]})), "vllm_cluster_instances[chat].nodes", "npu03", "Write npu0"),
        (inventory(**instances({"nodes": []})), "vllm_cluster_instances[chat].nodes", "no node", "head first"),
        (inventory(**instances({"nodes": ["npu01", "npu01"]})), "vllm_cluster_instances[chat].nodes", "npu01", "once"),
        (inventory(**instances({"data_parallel_size": 3})), "vllm_cluster_instances[chat].data_parallel_size", "3", "multiple of 2"),
        (
            inventory(**instances({"engine": "vllm_mindspore", "tensor_parallel_size": 8})),
            "vllm_cluster_instances[chat].tensor_parallel_size",
            "8",
            "has 8 NPUs",
        ),
        (inventory(**instances({**RAY, "ray": None})), "vllm_cluster_instances[chat].ray", "missing", "20100-20999"),
        (
            inventory(**instances({**RAY, "ray": {"ports": "20100-20110", "version": "2.60.0"}})),
            "vllm_cluster_instances[chat].ray.ports",
            "20100-20110",
            "at least 84",
        ),
        (
            inventory(**instances({**RAY, "ray": {"ports": "6300-6400", "version": "2.60.0"}})),
            "vllm_cluster_instances[chat].ray.ports",
            "6379",
            "default of Ray",
        ),
        (
            inventory(**instances({**RAY, "ray": {"ports": "20100-20999", "version": "2.48.0", "token": True}})),
            "vllm_cluster_instances[chat].ray.token",
            "2.48.0",
            "2.52",
        ),
        (inventory(**instances({**RAY, "tensor_parallel_size": 3})), "vllm_cluster_instances[chat].tensor_parallel_size", "3", "multiple of 2"),
        (inventory(**instances({"ray": RAY["ray"]})), "vllm_cluster_instances[chat].ray", "no use", "Remove"),
        (inventory(**instances({"tensor_parallel_size": "two"})), "vllm_cluster_instances[chat].tensor_parallel_size", "two", "integer"),
        (
            inventory(**instances({}, {"api_port": 7444, "rpc_port": 20570})),
            "vllm_cluster_instances[1].name",
            "chat",
            "vllm_cluster_instances[0]",
        ),
        (
            inventory(
                **instances(
                    {"engine": "vllm_mindspore", "npus": [0, 1]},
                    {"name": "code", "engine": "vllm_mindspore", "npus": [1, 2], "api_port": 7444, "rpc_port": 20570},
                )
            ),
            "vllm_cluster_instances[code].npus",
            "NPU 1 of npu01",
            "chat",
        ),
        (inventory(**instances({"api_prot": 7443})), "vllm_cluster_instances[chat].api_prot", "key", "api_port"),
        (inventory(vllm_cluster_client=["10.0.0.0/8"]), "npu01: vllm_cluster_client", "variable", "vllm_cluster_clients"),
        (inventory(vllm_cluster_clients=[]), "vllm_cluster_clients", "empty", "10.77.1.128/25"),
        (inventory(vllm_cluster_administrators=[]), "vllm_cluster_administrators", "empty", "10.77.0.1/32"),
        (inventory(vllm_cluster_clients=["0.0.0.0/0"]), "vllm_cluster_clients[0]", "0.0.0.0/0", "whole Internet"),
        (inventory(vllm_cluster_ephemeral_ports="28000-28100"), "vllm_cluster_ephemeral_ports", "28000-28100", "300"),
        (inventory(vllm_cluster_ephemeral_ports="32768-60999"), "vllm_cluster_ephemeral_ports", "60000-60031", "HCCL"),
        (
            inventory(**instances({"arguments": {"trust-remote-code": True}})),
            "vllm_cluster_instances[chat].arguments.trust-remote-code",
            "runs code",
            "Remove",
        ),
        (inventory(**instances({"arguments": {"host": "::"}})), "vllm_cluster_instances[chat].arguments.host", "plan", "Remove"),
        (
            inventory(**instances({"environment": {"VLLM_SERVER_DEV_MODE": "1"}})),
            "vllm_cluster_instances[chat].environment.VLLM_SERVER_DEV_MODE",
            "arbitrary methods",
            "Remove",
        ),
        (inventory(vllm_cluster_interfaces={}), "npu01: vllm_cluster_interfaces.internal", "missing", "eth2"),
        (inventory(vllm_cluster_controller="10.9.9.9"), "vllm_cluster_administrators", "10.9.9.9", "lock itself out"),
    ],
)
def test_a_bad_inventory_is_refused_with_path_value_and_advice(hosts, path, value, advice):
    message = refusal(hosts)
    entry = [line for line in message.splitlines() if path in line]
    assert entry, message
    assert any(value in line and advice in line for line in entry), message


def test_administrators_without_the_controller_are_refused():
    message = refusal(inventory(), {"npu01": "10.9.9.9"})
    assert "vllm_cluster_administrators" in message and "10.9.9.9" in message
    assert build_plan(inventory(), {"npu01": "10.77.0.1"})


def test_a_cluster_says_the_same_on_all_its_nodes():
    hosts = inventory()
    hosts["npu02"]["vllm_cluster_clients"] = ["10.77.1.0/24"]
    assert "npu02: vllm_cluster_clients" in refusal(hosts)


def test_all_problems_stand_in_one_message():
    hosts = addresses("npu01", internal="npu01", api="0.0.0.0")
    for variables in hosts.values():
        variables.update(vllm_cluster_clients=[], **instances({"api_port": 8000, "engine": "vlm"}))
    message = refusal(hosts)
    for part in ("has 5 problems", "internal", "'0.0.0.0'", "vllm_cluster_clients", "api_port", "engine"):
        assert part in message


@pytest.mark.parametrize("nonsense", [None, "text", 7, [1], {"a": 1}])
@pytest.mark.parametrize(
    "variable",
    [
        "vllm_cluster_networks",
        "vllm_cluster_administrators",
        "vllm_cluster_clients",
        "vllm_cluster_instances",
        "vllm_cluster_addresses",
        "vllm_cluster_ephemeral_ports",
    ],
)
def test_nonsense_of_any_type_is_refused_without_a_traceback(variable, nonsense):
    if (variable, nonsense) == ("vllm_cluster_ephemeral_ports", None):
        assert build_plan(inventory(**{variable: nonsense}))
    else:
        assert variable in refusal(inventory(**{variable: nonsense}))


@pytest.mark.parametrize("nonsense", [None, "text", -7, 1.5, [1], [{"a": 1}], [["npu01"]], {"a": 1}, {"a": [1]}])
@pytest.mark.parametrize("key", list(Instance.__dataclass_fields__))
def test_nonsense_in_an_instance_never_becomes_a_traceback(key, nonsense):
    change = {key: nonsense, **({"engine": "vllm_mindspore"} if key == "npus" else {})}
    try:
        plan = build_plan(inventory(**instances(change)))
    except PlanError as refused:
        assert f".{key}" in str(refused)
    else:
        arguments = " ".join(plan["nodes"]["npu01"]["instances"][0]["arguments"])
        assert "None" not in arguments and "{" not in arguments


def test_drop_ins_are_planned_as_the_role_writes_them():
    given = {"chat": {"memory": "[Service]\nMemoryMax=64G # \u00fc\n"}}
    plan = build_plan(inventory(vllm_serve_dropins=given))
    for node in plan["nodes"].values():
        (unit,) = serving_units(node["instances"], dropins=given)
        desired = Desired({"units": [{**unit, "restart_on": [], "enabled": None, "ready": None}]})
        (written,) = [item["content"].encode() for path, item in desired.all_files().items() if path.endswith("/vllm-chat.service.d/memory.conf")]
        assert node["instances"][0]["dropins"] == {"memory": hashlib.sha256(written).hexdigest()}
    assert "MemoryMax" not in json.dumps(plan)
    assert build_plan(inventory())["nodes"]["npu01"]["instances"][0]["dropins"] == {}
    assert build_plan(inventory(vllm_serve_dropins={"chat": None}))["nodes"]["npu01"]["instances"][0]["dropins"] == {}


def test_the_content_of_a_refused_drop_in_is_not_shown():
    assert "hunter2" not in refusal(inventory(vllm_serve_dropins={"chat": {"memory": "hunter2"}}))
    assert "hunter2" not in refusal(inventory(vllm_serve_dropins={"chat": "hunter2"}))
    assert "hunter2" not in refusal(inventory(vllm_serve_dropins="hunter2"))


@pytest.mark.parametrize("variables, planned", [
    ({}, None),
    ({"vllm_access_groups": []}, None),
    ({"vllm_access_groups": ["operators"]}, {"groups": ["operators"], "sudo": False}),
    ({"vllm_access_groups": ["operators"], "vllm_access_limit_sudo": True}, {"groups": ["operators"], "sudo": True}),
    ({"vllm_access_groups": ["operators"], "vllm_access_state": "absent"}, None),
    ({"vllm_access_groups": "operators"}, None),
])
def test_restricted_logins_are_planned(variables, planned):
    assert build_plan(inventory(**variables))["nodes"]["npu01"]["access"] == planned


@pytest.mark.parametrize("variables, planned", [
    ({}, False),
    ({"vllm_guard_state": "present"}, True),
    ({"vllm_guard_state": "absent"}, False),
    ({"vllm_guard_state": "unmanaged"}, False),
])
def test_the_guard_is_planned(variables, planned):
    assert [node["guard"] for node in build_plan(inventory(**variables))["nodes"].values()] == [planned, planned]


@pytest.mark.parametrize("nonsense", ["presnt", "", None, True, 7, ["present"], {"a": 1}])
def test_a_state_of_the_guard_that_is_none_is_refused(nonsense):
    told = refusal(inventory(vllm_guard_state=nonsense))
    assert "npu01: vllm_guard_state" in told and "Write present, absent or unmanaged" in told


@pytest.mark.parametrize("variables, planned", [
    ({}, "/opt/vllm/current/bin"),
    ({"vllm_runtime_software": "existing", "vllm_serve_executable_directory": "/srv/engine/bin"}, "/srv/engine/bin"),
    ({"vllm_runtime_prefix": "/data/vllm"}, "/data/vllm/current/bin"),
    ({"vllm_runtime_prefix": "/data/vllm", "vllm_serve_prefix": "/srv/vllm"}, "/srv/vllm/current/bin"),
    ({"vllm_runtime_software": "existing"}, "/opt/vllm/current/bin"),
    ({"vllm_runtime_software": "container"}, None),
])
def test_the_directory_of_the_software_is_planned(variables, planned):
    assert build_plan(inventory(**variables))["nodes"]["npu01"]["software"] == planned

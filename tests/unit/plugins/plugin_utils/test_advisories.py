# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Published vulnerabilities of what is deployed, and the part of the deployment that closes each. A test is named after its advisory.

vLLM 0.11.0, which vllm_mindspore 0.5 runs, has no fix for most of them: what the plan, the packet filter, the unit and the gateway say is all
there is. Plan and texts are judged here; the same against the running engine is in molecule/serve, molecule/topologies and tests/gateway.
"""

from __future__ import annotations

import ipaddress

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.ports import parse_ports
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.wheels import WheelError, parse_lock
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import gateway, pairings, ruleset, serving
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan import build_plan
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_reader import PlanError

CHAT = {
    "name": "chat", "engine": "vllm_mindspore", "model": "/srv/models/tiny", "topology": "data_parallel", "nodes": ["npu01", "npu02"],
    "data_parallel_size": 4, "api_port": 7443, "rpc_port": 20550, "backend_port": 17443, "server_names": ["chat.example.com"],
}
RAY = {"topology": "ray", "data_parallel_size": 1, "rpc_port": None, "tensor_parallel_size": 2, "ray": {"ports": "20100-20999", "version": "2.60.0"}}
SINGLE = {"topology": "single", "nodes": ["npu01"], "data_parallel_size": 1, "rpc_port": None}
NETWORKS = {"management": "10.77.0.0/24", "api": "10.77.1.0/24", "internal": "10.77.2.0/24"}
# Who is nobody's peer: a client, a monitor, an administrator, a stranger, and a rogue with an address of the internal segment.
OTHERS = ("10.77.1.200", "10.77.0.9", "10.77.0.1", "192.0.2.7", "10.77.2.66")
PEER = "10.77.2.12"


def plan(**change):
    """Two nodes behind a gateway with one instance."""
    return build_plan({
        f"npu0{number}": {
            "vllm_cluster_networks": NETWORKS, "vllm_cluster_administrators": ["10.77.0.1/32"], "vllm_cluster_clients": ["10.77.1.128/25"],
            "vllm_cluster_monitors": ["10.77.0.9/32"], "vllm_cluster_gateway": True, "vllm_cluster_metrics_port": 7444,
            "vllm_cluster_interfaces": {"internal": "eth2"}, "vllm_cluster_instances": [{**CHAT, **change}],
            "vllm_cluster_addresses": {name: f"10.77.{index}.1{number}" for index, name in enumerate(NETWORKS)},
        }
        for number in (1, 2)
    })


def refused(**change):
    """The message with which the plan refuses."""
    with pytest.raises(PlanError) as refusal:
        plan(**change)
    return str(refusal.value)


def within(port, ranges):
    """Whether a port lies in one of the planned ranges."""
    return any(first <= port <= last for first, last in map(parse_ports, ranges))


def reaches(made, source, host, port):
    """Whether the flows of a node let a source open a port."""
    node = made["nodes"][host]
    sets = made["clusters"][node["cluster"]]["sets"]
    for flow in node["flows"]:
        sources = [member for entry in flow["sources"] for member in (sets[entry[1:]] if entry.startswith("@") else [entry])]
        if within(port, flow["ports"]) and any(ipaddress.ip_address(source) in ipaddress.ip_network(network) for network in sources):
            return True
    return False


def open_to_others(made, port):
    """Everybody but the peers who may open a port of some node."""
    return [(source, host) for host in made["nodes"] for source in OTHERS if reaches(made, source, host, port)]


def unit(made, host="npu01", index=0):
    """The unit of an instance as text."""
    node = made["nodes"][host]
    sets = made["clusters"][node["cluster"]]["sets"]
    return serving.serving_units([node["instances"][index]], sets=sets, listeners=node["listeners"])[-1]["content"]


def gateway_text(made, **settings):
    """The gateway's configuration on the head."""
    return gateway.configuration({**made["nodes"]["npu01"]["gateway"], **settings})


def internal_sockets_are_closed(made, *ports):
    """What listens for peers, in whatever range and on whatever address, is open to peers alone."""
    for host, node in made["nodes"].items():
        for listener in node["listeners"]:
            if listener["unit"] == "vllm-gateway.service" or listener["what"].startswith("API"):
                continue
            for first, last in map(parse_ports, listener["ports"]):
                for port in (first, (first + last) // 2, last):
                    assert open_to_others(made, port) == [], (host, listener)
    for port in ports:
        assert open_to_others(made, port) == []


def loads_nothing_from_elsewhere(made):
    """Offline by every name, and no packet to anybody but planned peers."""
    environment = made["nodes"]["npu01"]["instances"][0]["environment"]
    assert {environment[name] for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")} == {"1"}
    text = unit(made)
    assert "IPAddressDeny=any" in text
    peers = {"10.77.2.11/32", "10.77.2.12/32"}
    allowed = {line.partition("=")[2] for line in text.splitlines() if line.startswith("IPAddressAllow=")} - {"localhost"}
    assert all(any(ipaddress.ip_network(peer).subnet_of(ipaddress.ip_network(network)) for peer in peers) for network in allowed)
    assert all(ipaddress.ip_network(network).num_addresses <= 4 for network in allowed)


@pytest.mark.parametrize("spelling", ["kv-transfer-config", "kv_transfer_config", "--kv-transfer-config", "kv-transfer-config.kv_connector"])
def test_cve_2025_29783_and_cve_2025_32444_mooncake_unpickles_from_every_interface(spelling):
    assert "opens listeners that the plan does not know" in refused(arguments={spelling: "MooncakeConnector"})
    assert "on every interface" in refused(environment={"VLLM_MOONCAKE_BOOTSTRAP_PORT": "8998"})
    internal_sockets_are_closed(plan(), 8998, 14579)


def test_cve_2025_30202_ghsa_9f8f_2vmf_885j_a_publisher_on_every_interface():
    made = plan()
    assert reaches(made, PEER, "npu01", 28500)
    internal_sockets_are_closed(made)
    assert "kv-events-config" in refused(arguments={"kv-events-config": "{}"})


def test_cve_2025_30165_workers_unpickle_what_they_subscribe_to():
    made = plan()
    for host in ("npu01", "npu02"):
        (egress,) = [entry for entry in made["nodes"][host]["egress"] if entry["user"] == "vllm-chat"]
        assert egress["destinations"] == ["@peers_chat"]
        assert not within(443, egress["ports"]) and not within(53, egress["ports"])
        arguments = made["nodes"][host]["instances"][0]["arguments"]
        ipaddress.ip_address(arguments[arguments.index("--data-parallel-address") + 1])
        ipaddress.ip_address(made["nodes"][host]["instances"][0]["environment"]["VLLM_HOST_IP"])
    assert "VLLM_USE_V1" in refused(environment={"VLLM_USE_V1": "0"})
    text = ruleset.render(made["nodes"]["npu02"]["flows"], administrators=["10.77.0.1/32"], sets=made["clusters"]["vllm"]["sets"],
                          egress=made["nodes"]["npu02"]["egress"])
    assert "vllm-chat" in text and "hook output" in text


def test_cve_2025_47277_a_store_that_ignores_its_address():
    made = plan()
    wildcards = [listener for node in made["nodes"].values() for listener in node["listeners"] if listener["wildcard"]]
    assert wildcards and all(listener["address"] == "*" for listener in wildcards)
    internal_sockets_are_closed(made)
    assert "kv-transfer-config" in refused(arguments={"kv-transfer-config": "{}"})


def test_cve_2024_11041_cve_2024_9052_cve_2024_9053_ghsa_x3m8_f7g5_qhm7_pickles_between_processes():
    assert "accepts pickles" in refused(environment={"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"})
    for change in ({}, RAY, SINGLE):
        internal_sockets_are_closed(plan(**change))


@pytest.mark.parametrize("model", ["facebook/opt-125m", "https://models.example.com/x", "s3://models/x", "models/tiny", "/srv/models/../../tmp/x"])
def test_cve_2025_24357_cve_2025_32434_ghsa_hj4w_hm2g_p6w5_weights_that_are_programs(model):
    assert "is no absolute path" in refused(model=model)
    assert plan(model_checksums={"pytorch_model.bin": "a" * 64})["clusters"]["vllm"]["instances"]["chat"]["model_checksums"]
    text = unit(plan())
    assert "ProtectSystem=strict" in text and "NoNewPrivileges=yes" in text and "CapabilityBoundingSet=\n" in text


def test_cve_2025_48956_headers_without_end():
    text = gateway_text(plan())
    assert "tune.http.maxhdr 64" in text and "timeout http-request" in text
    for flag in ("h11-max-header-count", "h11-max-incomplete-event-size"):
        assert flag in refused(arguments={flag: 1 << 30})
    # 0.10.1.1 brought the bound to the engine itself.
    assert all(tuple(map(int, version.split("."))) >= (0, 10, 2) for version in pairings.vllm_versions())


@pytest.mark.parametrize("change", [{}, SINGLE])
def test_cve_2025_6242_and_cve_2026_24779_media_urls_reach_internal_services(change):
    made = plan(**change)
    assert made["nodes"]["npu01"]["instances"][0]["environment"]["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    assert "decided by the plan" in refused(environment={"VLLM_MEDIA_URL_ALLOW_REDIRECTS": "1"})
    assert "allowed-local-media-path" in refused(arguments={"allowed-local-media-path": "/"})
    loads_nothing_from_elsewhere(made)
    (egress,) = [entry for entry in made["nodes"]["npu01"]["egress"] if entry["user"] == "vllm-chat"]
    # To peers alone, and neither web nor Ray there; 8265 lies among the ports compiled into MindSpore.
    assert egress["destinations"] == (["@peers_chat"] if not change else [])
    assert all(not within(port, egress["ports"]) for port in (80, 443, 52365, 6379))


@pytest.mark.parametrize("flag", ["enable-prompt-embeds", "enable_prompt_embeds", "enable-mm-embeds"])
def test_cve_2025_62164_and_cve_2026_56340_tensors_from_clients(flag):
    assert "deserialises tensors" in refused(arguments={flag: True})
    assert not any("embeds" in word for word in plan()["nodes"]["npu01"]["instances"][0]["arguments"])


@pytest.mark.parametrize("spelling", ["trust-remote-code", "trust_remote_code", "--trust-remote-code", "trust-remote-cod", "trust"])
def test_cve_2025_66448_cve_2026_22807_cve_2026_27893_cve_2026_47155_code_that_comes_with_a_model(spelling):
    assert spelling in refused(arguments={spelling: True})
    assert "--trust-remote-code" not in plan()["nodes"]["npu01"]["instances"][0]["arguments"]
    assert "code-revision" in refused(arguments={"code-revision": "main"})
    loads_nothing_from_elsewhere(plan())


def test_cve_2026_22778_pages_of_errors_leak_the_heap():
    text = gateway_text(plan())
    endpoints = plan()["nodes"]["npu01"]["gateway"]["instances"][0]["endpoints"]
    assert not any("audio" in endpoint or "pooling" in endpoint for endpoint in endpoints)
    # The engine's own page never leaves: what it says with 5xx is replaced (tests/gateway/test_running.py asks a dead engine).
    assert "errorfile" in text or "http-error" in text
    loads_nothing_from_elsewhere(plan())


def test_cve_2025_62426_cve_2026_34756_cve_2026_115911_one_request_that_costs_everything():
    assert plan()["nodes"]["npu01"]["instances"][0]["environment"]["VLLM_MAX_N_SEQUENCES"] == "64"
    text = gateway_text(plan(), bounds={"n": 8})
    assert "str(size)" in text and "str(rate)" in text
    assert "n is larger than 8." in text
    assert "trust-request-chat-template" in refused(engine="vllm", arguments={"trust-request-chat-template": True})


def test_cve_2026_48710_ghsa_86qp_5c8j_p5mr_the_host_header_bypasses_the_key():
    made = plan()
    node = made["nodes"]["npu01"]
    assert node["instances"][0]["api"]["address"] == "127.0.0.1"
    assert open_to_others(made, node["instances"][0]["api"]["port"]) == []
    text = gateway_text(made)
    known = [line for line in text.splitlines() if "acl known_host" in line]
    assert "chat.example.com" in known[0] and all("-m str" in line for line in known)
    assert "str(host)" in text and "http-request set-uri" in text


def test_cve_2026_54232_a_package_of_the_same_name_from_another_index():
    with pytest.raises(WheelError, match="no sha256"):
        parse_lock("vllm==0.11.0\n")
    with pytest.raises(WheelError):
        parse_lock("--extra-index-url https://pypi.example.com/simple\nvllm==0.11.0 --hash=sha256:" + "a" * 64)


@pytest.mark.parametrize("version", ["2.48.0", "2.60.0"])
def test_cve_2023_48022_cve_2023_6019_cve_2023_6020_cve_2023_6021_cve_2023_48023_shadowray(version):
    made = plan(**{**RAY, "ray": {**RAY["ray"], "version": version}})
    start = made["nodes"]["npu01"]["instances"][0]["ray"]["arguments"]
    assert start[start.index("--include-dashboard") + 1] == "false"
    assert start[start.index("--dashboard-host") + 1] == "127.0.0.1"
    internal_sockets_are_closed(made, 6379, 8265, 10001, 52365, 44217, 44227)
    # Not even a peer needs the job agent, the client server, the dashboard or the metrics.
    block = 20100
    assert [port for port in range(block + 4, block + 11) if reaches(made, PEER, "npu01", port)] == []
    assert all(reaches(made, PEER, "npu01", block + offset) for offset in (0, 1, 2, 3))


def test_cve_2025_62593_ghsa_q279_jhrf_cc6v_ray_without_a_token():
    assert plan(**RAY)["nodes"]["npu02"]["instances"][0]["environment"]["RAY_AUTH_MODE"] == "token"
    assert "asks for what Ray 2.48.0 does not have" in refused(**{**RAY, "ray": {"ports": "20100-20999", "version": "2.48.0", "token": True}})
    for variable in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        assert "decided by the plan" in refused(**RAY, environment={variable: "x"})


def test_vllm_mindspore_socket_process_group_gives_a_rank_to_whoever_connects_first():
    made = plan()
    assert reaches(made, PEER, "npu01", 31999) and reaches(made, PEER, "npu01", 28000)
    for port in (28000, 30000, 31999, 20550):
        assert open_to_others(made, port) == []


def test_what_serves_only_itself_is_reached_by_nobody():
    made = plan(**SINGLE)
    assert [flow["name"] for flow in made["nodes"]["npu01"]["flows"]] == ["ssh", "chat-api", "metrics"]
    internal_sockets_are_closed(made, 8118, 12213, 60000, 60031)
    assert not any(reaches(made, PEER, "npu01", port) for port in (8118, 60000, 28500))


@pytest.mark.parametrize(
    "variable",
    ["VLLM_SERVER_DEV_MODE", "VLLM_TORCH_PROFILER_DIR", "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_LORA_RESOLVER_CACHE_DIR", "MS_SCHED_HOST", "LD_PRELOAD"],
)
def test_the_vendors_guide_never_switch_on(variable):
    assert variable in refused(environment={variable: "1"})

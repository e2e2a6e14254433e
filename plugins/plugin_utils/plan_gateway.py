# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The gateway in the plan: what the inventory says about it, and what follows for a node.

With the gateway on, an engine listens on loopback only; clients reach the gateway on the API segment, monitors reach metrics
and health on the management segment.
"""

from __future__ import annotations

import difflib
import re

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_model import ENGINES

UNIT = "vllm-gateway.service"
USER = "vllm-gateway"
CREDENTIALS = "/etc/vllm-hardening/credentials"
LOOPBACK = "127.0.0.1"

# What serves inference and may stand behind a client key, with the engines whose API has it. vllm_mindspore 0.5 serves the
# routes of vLLM 0.11.0; the Anthropic and the audio routes came with later versions.
ENDPOINTS = {
    "GET /v1/models": ENGINES,
    "POST /v1/chat/completions": ENGINES,
    "POST /v1/completions": ENGINES,
    "POST /v1/embeddings": ENGINES,
    "POST /v1/responses": ENGINES,
    "POST /v1/score": ENGINES,
    "POST /v1/rerank": ENGINES,
    "POST /v2/rerank": ENGINES,
    "POST /v1/audio/transcriptions": ENGINES,
    "POST /v1/audio/translations": ENGINES,
    "POST /tokenize": ENGINES,
    "POST /detokenize": ENGINES,
    "POST /pooling": ENGINES,
    "POST /classify": ENGINES,
    "POST /score": ENGINES,
    "POST /rerank": ENGINES,
    "POST /v1/messages": ("vllm_ascend", "vllm"),
    "POST /v1/messages/count_tokens": ("vllm_ascend", "vllm"),
}
DEFAULT_ENDPOINTS = ("GET /v1/models", "POST /v1/chat/completions", "POST /v1/completions")
# Routes that engines do have and that no client key may open; each with the reason.
FORBIDDEN_PATHS = {
    "/invocations": "is a second way to every inference endpoint",
    "/inference/v1/generate": "is a second way to every inference endpoint",
    "/metrics": "belongs to the monitors, who get it on the management segment",
    "/health": "belongs to the monitors, who get it on the management segment",
    "/load": "belongs to the monitors, who get it on the management segment",
    "/docs": "describes the API to strangers",
    "/openapi.json": "describes the API to strangers",
    "/v1/load_lora_adapter": "lets clients load adapters from paths",
    "/v1/unload_lora_adapter": "changes the state of the engine",
    "/scale_elastic_ep": "changes the state of the engine",
    "/pause": "changes the state of the engine",
    "/resume": "changes the state of the engine",
    "/sleep": "changes the state of the engine",
    "/wake_up": "changes the state of the engine",
    "/reset_prefix_cache": "changes the state of the engine",
    "/update_weights": "changes the state of the engine",
    "/collective_rpc": "calls arbitrary methods of the workers",
    "/start_profile": "writes traces",
    "/stop_profile": "writes traces",
}
INSTANCE_KEYS = ("backend_port", "server_names", "endpoints")
_NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def read_gateway(reader, shared, ephemeral, monitors):
    """The cluster's settings: the port of metrics and health, or None where the gateway is off."""
    enabled = shared.get("vllm_cluster_gateway", False)
    port = shared.get("vllm_cluster_metrics_port")
    if not isinstance(enabled, bool):
        reader.problem("vllm_cluster_gateway", enabled, "is neither true nor false", "Write one of them")
        return None
    if not enabled:
        if port is not None:
            reader.problem("vllm_cluster_metrics_port", port, "has no use without the gateway", "Remove it, or write vllm_cluster_gateway: true")
        return None
    if not monitors:
        reader.problem(
            "vllm_cluster_monitors",
            None,
            "is missing or empty, though the gateway offers metrics to nobody else",
            "Write a list of networks, such as [10.77.0.9/32]",
        )
    if port is None:
        reader.problem(
            "vllm_cluster_metrics_port",
            None,
            "is missing, though vllm_cluster_gateway is true",
            "Write the port of metrics and health on the management segment, such as 7444",
        )
        return None
    return reader.port("vllm_cluster_metrics_port", port, ephemeral)


def read_instance(reader, path, raw, enabled, ephemeral):
    """The keys of one instance that concern the gateway, as arguments of Instance."""
    if enabled and raw.get("name") == "gateway":
        reader.problem(f"{path}.name", "gateway", f"would make {UNIT} twice", "Give the instance another name")
    if not enabled:
        for key in INSTANCE_KEYS:
            if raw.get(key) is not None:
                reader.problem(f"{path}.{key}", raw[key], "has no use without the gateway", "Remove it, or write vllm_cluster_gateway: true")
        return {}
    backend_port = raw.get("backend_port")
    if backend_port is None:
        reader.problem(
            f"{path}.backend_port",
            None,
            "is missing, though vllm_cluster_gateway is true",
            "Write the port of the engine on loopback, such as 17443",
        )
    else:
        backend_port = reader.port(f"{path}.backend_port", backend_port, ephemeral)
    return {
        "backend_port": backend_port,
        "server_names": read_server_names(reader, f"{path}.server_names", raw.get("server_names", [])),
        "endpoints": read_endpoints(reader, f"{path}.endpoints", raw.get("endpoints"), raw.get("engine")),
    }


def read_server_names(reader, path, value):
    """DNS names by which clients call."""
    example = "Write the names that clients use, such as [chat.example.com]; addresses are known from the inventory"
    if not isinstance(value, list):
        reader.problem(path, value, "is no list", example)
        return []
    for index, name in enumerate(value):
        if not isinstance(name, str) or not _NAME.fullmatch(name) or re.fullmatch(r"[0-9.]+", name):
            reader.problem(f"{path}[{index}]", name, "is no DNS name in lower case", example)
        elif name in value[:index]:
            reader.problem(f"{path}[{index}]", name, "stands there twice", "Write it once")
    return [str(name) for name in value]


def read_endpoints(reader, path, value, engine):
    """Methods and paths that clients may call; those of every engine where ``engine`` is not known."""
    if value is None:
        return list(DEFAULT_ENDPOINTS)
    if not isinstance(value, list) or not value:
        reader.problem(path, value, "is no list of endpoints", f"Write such as {list(DEFAULT_ENDPOINTS)}")
        return []
    known = [endpoint for endpoint, engines in ENDPOINTS.items() if engine not in ENGINES or engine in engines]
    for index, endpoint in enumerate(value):
        where = f"{path}[{index}]"
        if not isinstance(endpoint, str):
            reader.problem(where, endpoint, "is no method and path", f"Write such as {DEFAULT_ENDPOINTS[0]}")
            continue
        method, _blank, target = endpoint.partition(" ")
        if target in FORBIDDEN_PATHS:
            reader.problem(where, endpoint, FORBIDDEN_PATHS[target], "Remove it")
        elif endpoint not in known:
            engines = ENDPOINTS.get(endpoint)
            trouble = f"is not served by {engine}" if engines else "is served by no engine, as method and exact path"
            near = difflib.get_close_matches(endpoint, known, n=1, cutoff=0)
            reader.problem(where, endpoint, trouble, f"Write {near[0]}, or remove it")
        elif endpoint in value[:index]:
            reader.problem(where, endpoint, "stands there twice", "Write it once")
    return [str(endpoint) for endpoint in value]


def credentials(cluster, instance):
    """Environment variables of the head's engine that hold secrets, each with the file on the node that holds its value."""
    if cluster.metrics_port is None:
        return {}
    return {"VLLM_API_KEY": f"{CREDENTIALS}/{instance.name}.api-key"}


def heads(cluster, members):
    """The instances of ``members``, (instance, rank) pairs of one node, whose API this node's gateway serves."""
    return [instance for instance, rank in members if rank == 0] if cluster.metrics_port is not None else []


def gateway(cluster, node, members):
    """What the gateway of one node serves; None where there is nothing to serve. Shape: docs/architecture.md."""
    served = heads(cluster, members)
    if not served:
        return None
    return {
        "unit": UNIT,
        "user": USER,
        "metrics": {"addresses": _addresses(node, "management"), "port": cluster.metrics_port},
        "instances": [
            {
                "name": instance.name,
                "addresses": _addresses(node, "api"),
                "port": instance.api_port,
                "backends": [{"address": LOOPBACK, "port": instance.backend_port}],
                "server_names": list(instance.server_names),
                "endpoints": list(instance.endpoints),
            }
            for instance in served
        ],
    }


def ports(cluster, members):
    """(first, last) of every port that the gateway adds to a node beside the API ports."""
    served = heads(cluster, members)
    found = [(instance.backend_port, instance.backend_port) for instance in served]
    return [*found, (cluster.metrics_port, cluster.metrics_port)] if served else []


def listeners(cluster, node, members):
    """Where the gateway and the engines behind it listen."""

    def listener(instance, address, port, what, unit):
        return {
            "instance": instance,
            "address": address,
            "protocol": "tcp",
            "ports": [str(port)],
            "what": what,
            "wildcard": False,
            "unit": unit,
        }

    served = heads(cluster, members)
    found = []
    for instance in served:
        found.append(listener(instance.name, LOOPBACK, instance.backend_port, "API behind the gateway", f"vllm-{instance.name}.service"))
        found += [listener(instance.name, address, instance.api_port, "API", UNIT) for address in _addresses(node, "api")]
    for address in _addresses(node, "management") if served else ():
        found.append(listener(None, address, cluster.metrics_port, "metrics and health", UNIT))
    return found


def egress(cluster, members):
    """The gateway opens connections to the engines on loopback; nothing of it leaves the node."""
    if not heads(cluster, members):
        return []
    return [{"name": "gateway", "user": USER, "destinations": [], "protocol": "tcp", "ports": [], "reason": "nothing leaves the node"}]


def loopback(cluster, members):
    """Who may connect to the engines on loopback, beside root: their own key does not guard every route of theirs."""
    return [
        {
            "name": f"{instance.name}-backend",
            "users": [USER, f"vllm-{instance.name}"],
            "ports": [str(instance.backend_port)],
            "reason": f"{instance.name} answers to the gateway",
        }
        for instance in heads(cluster, members)
    ]


def _addresses(node, segment):
    return [str(address) for address in node.addresses[segment]]

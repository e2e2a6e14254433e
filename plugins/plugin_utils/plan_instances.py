# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Reading ``vllm_cluster_instances``: every key checked by itself and against the nodes it names."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.ports import parse_ports
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import pairings, plan_gateway, plan_ray
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.engine_flags import flags_of
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_model import (
    ASCEND_ENGINES,
    DEFAULT_PORTS,
    ENGINES,
    HCCL_PORTS,
    MASTER_PORTS,
    MINDSPORE_PORTS,
    TOPOLOGIES,
    Instance,
)
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_refusals import (
    DANGEROUS_ENVIRONMENT,
    DANGEROUS_FLAGS,
    PLANNED_ENVIRONMENT,
    PLANNED_FLAGS,
)

INSTANCE_KEYS = tuple(Instance.__dataclass_fields__)
MOST_HINTS = 10
# What neither a unit nor a command line carries.
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Names that variables with secrets have: AWS_SECRET_ACCESS_KEY, OPENAI_API_KEY.
SECRET = re.compile(r"(?i)(^|_)(key|token|secret|password|passwd|credentials?)$")


def read_instances(reader, value, nodes, ephemeral, gateway=False):
    """The instances of a cluster as records; ``gateway``: whether the cluster has one.

    An instance with a problem is among them as far as it can be read, so that it is held against the others all the same.
    """
    path = "vllm_cluster_instances"
    if not isinstance(value, list):
        reader.problem(path, value, "is missing or no list", "Write the list of instances; [] if there are none yet")
        return []
    instances, names = [], {}
    for index, raw in enumerate(value):
        where = f"{path}[{index}]"
        if not isinstance(raw, dict):
            reader.problem(where, raw, "is no mapping", "Write {name: chat, engine: vllm_mindspore, ...}")
            continue
        name = str(raw.get("name", ""))
        label = str(index)
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,23}", name):
            reader.problem(
                f"{where}.name",
                raw.get("name"),
                "is no name of an instance",
                "Write at most 24 lower-case letters, digits and -, a letter first",
            )
        elif name in names:
            reader.problem(f"{where}.name", name, f"is the name of {path}[{names[name]}] too", "Give each instance its own name")
        else:
            label = name
        names.setdefault(name, index)
        instances.append(_read_instance(reader, path, label, raw, nodes, ephemeral, gateway))
    return instances


def _read_instance(reader, path, label, raw, nodes, ephemeral, gateway):
    path = f"{path}[{label}]"
    reader.known_keys(f"{path}.", raw, INSTANCE_KEYS, "key of an instance")
    for key, choices in (("engine", ENGINES), ("topology", TOPOLOGIES)):
        if raw.get(key) not in choices:
            reader.problem(f"{path}.{key}", raw.get(key), "is not known", f"Write one of {', '.join(choices)}")
    model = raw.get("model")
    if not isinstance(model, str) or not re.fullmatch(r"/+[^/\x00-\x1f\x7f][^\x00-\x1f\x7f]*", model) or "/../" in f"{model}/":
        reader.problem(
            f"{path}.model", model, "is no absolute path", "Write the model's directory on the nodes, such as /srv/models/NAME"
        )
    members = raw.get("nodes")
    if not isinstance(members, list) or not members:
        reader.problem(f"{path}.nodes", members, "names no node", "Write the nodes in rank order, head first")
        members = []
    members = [str(member) for member in members]
    times = Counter(members)
    unknown = 0
    for member in members:
        if member not in nodes:
            unknown += 1
            # Looking for the nearest among all nodes is slow; where many are wrong, the first say what is wrong with all.
            near = difflib.get_close_matches(member, list(nodes), n=1, cutoff=0) if unknown <= MOST_HINTS else []
            reader.problem(f"{path}.nodes", member, "is no node of this cluster", f"Write {near[0] if near else 'a node of it'}")
        elif times[member] > 1:
            reader.problem(f"{path}.nodes", member, "stands there more than once", "Name every node once")
    members = list(times)
    topology = raw.get("topology")
    if topology == "single" and len(members) > 1:
        reader.problem(f"{path}.nodes", members, "is more than one node for topology single", "Write one, or topology data_parallel")
    if topology in ("data_parallel", "ray") and len(members) == 1:
        reader.problem(f"{path}.nodes", members, f"is one node for topology {topology}", "Write at least two, or topology single")
    sizes = {
        key: reader.integer(f"{path}.{key}", raw.get(key, 1), 1, "size") or 1
        for key in ("data_parallel_size", "tensor_parallel_size", "pipeline_parallel_size", "api_servers")
    }
    _sizes_fit_nodes(reader, path, topology, sizes, members)
    api_port = reader.port(f"{path}.api_port", raw.get("api_port"), ephemeral)
    rpc_port = master_port = None
    if sizes["data_parallel_size"] > 1:
        before = len(reader.problems)
        rpc_port = reader.port(f"{path}.rpc_port", raw.get("rpc_port"), ephemeral)
        master_port = raw.get("master_port")
        if master_port is None and len(reader.problems) == before:
            master_port = rpc_port + 1
        if master_port is not None:
            master_port = reader.port(f"{path}.master_port", master_port, ephemeral)
            _master_ports_are_free(reader, f"{path}.master_port", master_port, ephemeral)
    else:
        for key in ("rpc_port", "master_port"):
            if raw.get(key) is not None:
                reader.problem(f"{path}.{key}", raw[key], "has no use with data_parallel_size 1", "Remove it")
    served = raw.get("served_model_name", raw.get("name"))
    if not isinstance(served, str) or not re.fullmatch(r"[A-Za-z0-9][\w.:/-]{0,127}", served):
        reader.problem(
            f"{path}.served_model_name", served, "is no model name", "Write letters, digits and . : / - _, such as my-org/chat"
        )
    if not isinstance(raw.get("expert_parallel", False), bool):
        reader.problem(f"{path}.expert_parallel", raw["expert_parallel"], "is neither true nor false", "Write one of them")
    ray = _read_ray(reader, f"{path}.ray", raw.get("ray"), topology, ephemeral, [nodes[member] for member in times if member in nodes])
    behind = plan_gateway.read_instance(reader, path, raw, gateway, ephemeral)
    npus = _read_npus(reader, path, raw, sizes, members, nodes)
    version = pairings.read_version(reader, path, raw, [nodes[member] for member in times if member in nodes])
    arguments = _read_extras(reader, f"{path}.arguments", raw.get("arguments"), PLANNED_FLAGS, DANGEROUS_FLAGS, "flag")
    _engine_has_flags(reader, path, raw.get("engine"), version, arguments)
    environment = _read_extras(
        reader, f"{path}.environment", raw.get("environment"), PLANNED_ENVIRONMENT, DANGEROUS_ENVIRONMENT, "variable"
    )
    checksums = _read_checksums(reader, f"{path}.model_checksums", raw.get("model_checksums"))
    trusted = _read_trust(reader, f"{path}.trust_remote_code", raw.get("trust_remote_code"), checksums)
    return Instance(
        name=label,
        engine=str(raw.get("engine")),
        model=str(model).rstrip("/"),
        topology=str(topology),
        nodes=members,
        api_port=api_port,
        rpc_port=rpc_port,
        master_port=master_port,
        expert_parallel=raw.get("expert_parallel", False),
        npus=npus,
        served_model_name=str(served),
        ray=ray,
        version=version,
        model_checksums=checksums,
        trust_remote_code=trusted,
        arguments=arguments,
        environment=environment,
        **behind,
        **sizes,
    )


def _master_ports_are_free(reader, path, first, ephemeral):
    """The ports after the master port are taken as well."""
    last = (first or 0) + MASTER_PORTS - 1
    for low, what in (
        (MINDSPORE_PORTS[0], "those of MindSpore"),
        (HCCL_PORTS[0], "those of HCCL"),
        (ephemeral[0], "the ephemeral range"),
        (65536, "the end of all ports"),
        *DEFAULT_PORTS.items(),
    ):
        if first and first < low <= last:
            trouble = f"and the {MASTER_PORTS - 1} ports after it reach {what} at {low}"
            reader.problem(path, first, trouble, f"Write a master_port of at most {low - MASTER_PORTS}")


def _sizes_fit_nodes(reader, path, topology, sizes, members):
    """Every node gets the same number of ranks."""
    if topology == "ray":
        if sizes["data_parallel_size"] > 1:
            reader.problem(
                f"{path}.data_parallel_size",
                sizes["data_parallel_size"],
                "is not planned over Ray",
                "Use topology data_parallel, or 1",
            )
        ranks = sizes["tensor_parallel_size"] * sizes["pipeline_parallel_size"]
        if members and ranks % len(members):
            reader.problem(
                f"{path}.tensor_parallel_size",
                sizes["tensor_parallel_size"],
                f"times pipeline_parallel_size does not fit {len(members)} nodes",
                f"Write sizes whose product is a multiple of {len(members)}",
            )
    elif members and sizes["data_parallel_size"] % len(members):
        reader.problem(
            f"{path}.data_parallel_size",
            sizes["data_parallel_size"],
            f"does not fit {len(members)} nodes",
            f"Write a multiple of {len(members)}",
        )


def _read_ray(reader, path, value, topology, ephemeral, nodes):
    """The Ray settings of an instance: one block of ports, the version that is installed, whether it asks for a token, and the files of TLS."""
    if topology != "ray":
        if value is not None:
            reader.problem(path, value, f"has no use with topology {topology}", "Remove it")
        return None
    example = "Write {ports: 20100-20999, version: 2.60.0}"
    if not isinstance(value, dict):
        reader.problem(path, value, "is missing or no mapping", example)
        return None
    reader.known_keys(f"{path}.", value, ("ports", "version", "token", "tls"), "setting of Ray")
    ports = _read_ray_ports(reader, f"{path}.ports", value.get("ports"), ephemeral, example)
    tls = _read_ray_tls(reader, f"{path}.tls", value.get("tls"))
    version = plan_ray.version_numbers(value.get("version"))
    if version is None:
        reader.problem(f"{path}.version", value.get("version"), "is no version", "Write the version that is installed, such as 2.60.0")
        return None
    capable = version >= plan_ray.FIRST_VERSION_WITH_TOKEN
    token = value.get("token", capable)
    if not isinstance(token, bool):
        reader.problem(f"{path}.token", token, "is neither true nor false", "Write one of them")
    elif token and not capable:
        reader.problem(
            f"{path}.token", True, f"asks for what Ray {value['version']} does not have", "Write Ray 2.52 or newer, or false"
        )
    if version < plan_ray.FIRST_VERSION_WITH_IPV6 and any(node.addresses["internal"][0].version == 6 for node in nodes if node.addresses.get("internal")):
        trouble = "takes no IPv6 address, and the internal addresses of its nodes are IPv6"
        reader.problem(f"{path}.version", value["version"], trouble, "Install Ray 2.49 or newer, or give the nodes internal IPv4 addresses")
    return {"ports": ports, "version": str(value["version"]), "token": bool(token), "tls": tls} if ports else None


def _read_ray_ports(reader, path, value, ephemeral, example):
    """(first, last) of the block that Ray listens in; None where it is none."""
    try:
        first, last = parse_ports(value)
    except ValueError:
        reader.problem(path, value, "is no range of ports", example)
        return None
    if first < 1024 or last - first + 1 < plan_ray.FEWEST_PORTS:
        reader.problem(path, value, f"must lie above 1023 and hold at least {plan_ray.FEWEST_PORTS} ports", example)
    for (low, high), owner in ((MINDSPORE_PORTS, "MindSpore"), (HCCL_PORTS, "HCCL"), (ephemeral, "the ephemeral range")):
        if first <= high and low <= last:
            reader.problem(path, value, f"overlaps {low}-{high} of {owner}", example)
    for port, owner in DEFAULT_PORTS.items():
        if first <= port <= last:
            reader.problem(path, value, f"holds {port}, {owner}", example)
    return first, last


def _read_ray_tls(reader, path, value):
    """{certificate, key, authority}: files of the site's on every node of the instance; None where Ray speaks in the clear."""
    if value is None:
        return None
    example = "Write {certificate: /etc/pki/ray/node.pem, key: /etc/pki/ray/node.key, authority: /etc/pki/ray/authority.pem}"
    if not isinstance(value, dict):
        reader.problem(path, value, "is no mapping", example)
        return None
    reader.known_keys(f"{path}.", value, plan_ray.TLS, "file of TLS")
    for name in plan_ray.TLS:
        file = value.get(name)
        if not isinstance(file, str) or not re.fullmatch(r"/[A-Za-z0-9._/+-]+", file) or "/../" in file:
            reader.problem(f"{path}.{name}", file, "is missing or no absolute path of a file", example)
    return {name: str(value.get(name)) for name in plan_ray.TLS}


def _read_npus(reader, path, raw, sizes, members, nodes):
    """The NPU numbers of an instance on each of its nodes; None for an engine without NPUs."""
    if raw.get("engine") not in ASCEND_ENGINES:
        if raw.get("npus") and raw.get("engine") == "vllm":
            reader.problem(f"{path}.npus", raw["npus"], "has no use with engine vllm", "Remove it")
        return None
    ranks = sizes["data_parallel_size"] * sizes["tensor_parallel_size"] * sizes["pipeline_parallel_size"]
    needed = ranks // max(len(members), 1)
    npus = raw.get("npus")
    if npus is None:
        last = needed - 1
    elif not isinstance(npus, list) or any(isinstance(npu, bool) or not isinstance(npu, int) or npu < 0 for npu in npus):
        reader.problem(f"{path}.npus", npus, "is no list of NPU numbers", f"Write such as {list(range(min(needed, 8)))}")
        return None
    else:
        last = max(npus, default=-1)
    if npus is not None and (len(set(npus)) != len(npus) or len(npus) != needed):
        reader.problem(
            f"{path}.npus",
            npus,
            f"is not {needed} different NPUs, which data_parallel_size and tensor_parallel_size ask of each node",
            f"Write {needed} numbers, or change the sizes",
        )
    fits = True
    for member in members:
        if member in nodes and last >= nodes[member].npus:
            fits = False
            reader.problem(
                f"{path}.npus" if npus is not None else f"{path}.tensor_parallel_size",
                npus if npus is not None else sizes["tensor_parallel_size"],
                f"does not fit {member}, which has {nodes[member].npus} NPUs (vllm_cluster_npus)",
                "Use fewer ranks a node, more nodes (topology ray lets one engine span them), or state what the node has",
            )
    if npus is None:
        # Of known nodes only: the numbers that they have are few.
        return list(range(needed)) if fits and members and all(member in nodes for member in members) else None
    return [int(npu) for npu in npus]


def _engine_has_flags(reader, path, engine, version, arguments):
    """Further flags are those of the engine's own parser, spelled out: it would also take the beginning of a flag's name."""
    if version is None:
        return
    vllm = pairings.PAIRINGS[engine][version]["vllm"]
    known = flags_of(vllm)
    for flag, value in arguments.items():
        name, _dot, part = flag.partition(".")
        kind = known.get(name)
        if kind is None:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            reader.problem(f"{path}.arguments.{flag}", None, f"is no flag of vllm {vllm}, which {engine} {version} runs", f"Write {near[0]}, or remove it")
        elif part and kind != "value":
            reader.problem(f"{path}.arguments.{flag}", None, f"has a part, though {name} takes no value", f"Write {name}")
        elif kind == "value" and isinstance(value, bool):
            reader.problem(f"{path}.arguments.{flag}", value, "is true or false, though the flag takes a value", "Write the value")
        elif kind != "value" and not isinstance(value, bool):
            reader.problem(f"{path}.arguments.{flag}", value, "is a value, though the flag takes none", "Write true or false")
        elif kind == "bare" and value is False:
            reader.problem(f"{path}.arguments.{flag}", value, "cannot be switched off", "Remove it")


def _read_checksums(reader, path, value):
    """{file below the model's directory: sha256} from a mapping, or from what ``sha256sum`` writes."""
    if value is None:
        return {}
    example = "Write {config.json: DIGEST, ...}, or what sha256sum writes of the files in the model's directory"
    if isinstance(value, str):
        lines = [line for line in value.splitlines() if line.strip()]
        pairs = [(line.partition(" ")[2].lstrip(" *"), line.partition(" ")[0]) for line in lines]
        if len(dict(pairs)) != len(pairs):
            reader.problem(path, value, "names a file twice", example)
        value = dict(pairs)
    if not isinstance(value, dict) or not value:
        reader.problem(path, value, "is no mapping of files to digests", example)
        return {}
    found = {}
    for name, digest in value.items():
        plain = str(name).removeprefix("./")
        if plain.startswith("/") or ".." in plain.split("/") or not plain.strip() or CONTROL.search(plain):
            reader.problem(f"{path}[{name}]", None, "is no file below the model's directory", example)
        elif not re.fullmatch(r"[0-9a-f]{64}", str(digest).lower()):
            reader.problem(f"{path}[{name}]", digest, "is no sha256", "Write 64 hexadecimal digits")
        else:
            found[plain] = str(digest).lower()
    return found


def _read_trust(reader, path, value, checksums):
    """Why code that comes with a model may run; None where it may not. Only what is pinned can have been vetted."""
    if value is None or value is False:
        return None
    if not isinstance(value, str) or len(value.split()) < 3:
        reader.problem(path, value, "is no reason, though code that comes with the model would run", "Write who vetted it, when and how, or remove it")
        return None
    if not any(name.endswith(".py") for name in checksums):
        reader.problem(path, value, "trusts code whose digests the inventory does not give", "Give model_checksums with its .py files, or remove it")
    return value


def _read_extras(reader, path, value, planned, dangerous, what):
    """Additional flags or variables of an instance, without those that the plan decides or that open the node."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        reader.problem(path, value, "is no mapping", f"Write {what}s and their values")
        return {}
    extras = {}
    for key, setting in value.items():
        plain = str(key).lstrip("-").replace("_", "-") if what == "flag" else str(key)
        # A flag that takes JSON takes its parts as well, with dots; "no-" switches off what the flag switches on.
        base = plain.partition(".")[0].removeprefix("no-") if what == "flag" else plain
        if not re.fullmatch(r"[a-z][a-z0-9.-]*" if what == "flag" else r"[A-Za-z_][A-Za-z0-9_]*", plain):
            reader.problem(f"{path}.{key}", None, f"is no {what}", "Write its name as the engine documents it")
        elif base in planned:
            reader.problem(f"{path}.{key}", setting, "is decided by the plan", "Remove it")
        elif base in dangerous:
            reader.problem(f"{path}.{key}", setting, dangerous[base], "Remove it")
        elif what == "variable" and SECRET.search(plain):
            reader.problem(f"{path}.{key}", None, "has the name of a secret, which the unit file would show to every account of the node", "Remove it")
        elif what == "flag" and isinstance(setting, str) and re.match(r"-(?![0-9.]+$)", setting):
            # A parser takes it for a flag where the one before needs no value.
            reader.problem(f"{path}.{key}", setting, "is a value that begins like a flag", "Write the value without the dash")
        elif not isinstance(setting, (str, int, float, bool)) or isinstance(setting, float) and not math.isfinite(setting) or CONTROL.search(str(setting)):
            reader.problem(f"{path}.{key}", setting, "is no plain value", "Write a string, a number, true or false")
        else:
            extras[plain] = setting
    return extras

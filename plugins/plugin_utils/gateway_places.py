# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Where the gateway listens and what it forwards to, as the variables of the role ``vllm_gateway`` say it, checked.

Under a plan all of it is right already; a role that is used alone gets it from its user. What is accepted here is safe in a configuration of
HAProxy: no value holds a blank, a quote or a control character.
"""

from __future__ import annotations

import ipaddress
import re

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import plan_gateway

_INSTANCE = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_PATH = re.compile(r"/[A-Za-z0-9._/+-]+")
_EXAMPLE = "{name: chat, addresses: [10.77.1.11], port: 7443, backends: [{address: 127.0.0.1, port: 17443}], server_names: [], endpoints: [GET /v1/models]}"
KEYS = ("name", "addresses", "port", "backends", "server_names", "endpoints")


def check(reader, raw):
    """Report every problem of instances, metrics, management names, networks, threads and program."""
    used = {}
    names = set()
    instances = raw.get("instances")
    if not isinstance(instances, list) or not instances:
        reader.problem("vllm_gateway_instances", instances or None, "is missing or empty", f"Write such as [{_EXAMPLE}]")
        instances = []
    for index, instance in enumerate(instances):
        _instance(reader, f"vllm_gateway_instances[{index}]", instance, names, used)
    _metrics(reader, raw.get("metrics"), used)
    plan_gateway.read_server_names(reader, "vllm_gateway_management_names", raw.get("management_names") or [])
    for key, example in (("client_networks", "10.77.1.128/25"), ("monitor_networks", "10.77.0.9/32")):
        reader.networks(f"vllm_gateway_{key}", raw.get(key), True, example)
    threads = raw.get("threads", 4)
    if (reader.integer("vllm_gateway_threads", threads, 1, "number of threads") or 1) > 64:
        reader.problem("vllm_gateway_threads", threads, "is more than HAProxy takes", "Write at most 64")
    reader.integer("vllm_gateway_warning_days", raw.get("warning_days", 14), 0, "number of days")
    program = raw.get("program")
    if program is not None and not _PATH.fullmatch(str(program)):
        reader.problem("vllm_gateway_program", program, "is no plain path", "Write such as /usr/sbin/haproxy")


def normal(place):
    """An instance or metrics with every address as the kernel and HAProxy write it; what check() accepted."""
    found = {**place, "addresses": [str(ipaddress.ip_address(address)) for address in place["addresses"]]}
    if "backends" in place:
        found["backends"] = [{**backend, "address": str(ipaddress.ip_address(backend["address"]))} for backend in place["backends"]]
    return found


def _instance(reader, where, instance, names, used):
    if not isinstance(instance, dict):
        reader.problem(where, instance, "is no mapping", f"Write such as {_EXAMPLE}")
        return
    reader.known_keys(f"{where}.", instance, KEYS, "setting of an instance")
    name = str(instance.get("name", ""))
    if not _INSTANCE.fullmatch(name) or name == "gateway":
        reader.problem(f"{where}.name", instance.get("name"), "is no name of an instance", "Write at most 31 lower-case letters, digits and -")
    elif name in names:
        reader.problem(f"{where}.name", name, "stands there twice", "Write one entry with all backends of the instance")
    names.add(name)
    _listener(reader, where, instance, used)
    backends = instance.get("backends")
    if not isinstance(backends, list) or not backends:
        reader.problem(f"{where}.backends", backends, "is no list of engines", "Write such as [{address: 127.0.0.1, port: 17443}]")
    for number, backend in enumerate(backends if isinstance(backends, list) else []):
        place = f"{where}.backends[{number}]"
        if not isinstance(backend, dict) or set(backend) != {"address", "port"}:
            reader.problem(place, backend, "is no address with a port", "Write such as {address: 127.0.0.1, port: 17443}")
            continue
        _claim(reader, place, [reader.address(f"{place}.address", backend["address"], "127.0.0.1")], backend["port"], 1, used)
    plan_gateway.read_server_names(reader, f"{where}.server_names", instance.get("server_names"))
    plan_gateway.read_endpoints(reader, f"{where}.endpoints", instance.get("endpoints") or [], None)


def _metrics(reader, metrics, used):
    if not isinstance(metrics, dict) or not metrics:
        reader.problem("vllm_gateway_metrics", None, "is missing", "Write such as {addresses: [10.77.0.11], port: 7444}")
        return
    reader.known_keys("vllm_gateway_metrics.", metrics, ("addresses", "port"), "setting of metrics")
    _listener(reader, "vllm_gateway_metrics", metrics, used)


def _listener(reader, where, place, used):
    addresses = place.get("addresses")
    if not isinstance(addresses, list) or not addresses:
        reader.problem(f"{where}.addresses", addresses, "is no list of addresses of the node", "Write such as [10.77.1.11]")
        addresses = []
    found = [reader.address(f"{where}.addresses[{index}]", address, "10.77.1.11") for index, address in enumerate(addresses)]
    _claim(reader, where, found, place.get("port"), 1024, used)


def _claim(reader, where, addresses, port, least, used):
    """Check a port, and that nothing else here uses it on one of the addresses."""
    number = reader.integer(f"{where}.port", port, 1, "port")
    if number is not None and number > 65535:
        reader.problem(f"{where}.port", port, "is no port", "Write a number of at most 65535")
    elif number is not None and number < least:
        reader.problem(f"{where}.port", port, "needs a privilege that the gateway does not get", f"Write a port of at least {least}")
    for address in addresses:
        owner = used.setdefault((str(address), number), where) if number is not None and address is not None else where
        if owner != where:
            reader.problem(f"{where}.port", port, f"is the port of {owner} on {address} too", "Write another port")

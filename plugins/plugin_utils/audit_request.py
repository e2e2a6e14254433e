# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What to ask a node for, as the plan has it."""

from __future__ import annotations

import ipaddress
import os.path
import secrets
import time

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.ports import parse_ports
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.pairings import belonging
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import KNOWN_UDP_PORTS, sample_range, spread_ports

FIREWALL_UNIT = "vllm-hardening-firewall.service"
FIREWALL_FILES = (
    "/etc/vllm-hardening", "/etc/vllm-hardening/firewall.nft", f"/etc/systemd/system/{FIREWALL_UNIT}",
    f"/etc/systemd/system/sysinit.target.wants/{FIREWALL_UNIT}")
SYSCTL_FILE = "/etc/sysctl.d/90-vllm-hardening.conf"
IMAGES = "/run/vllm-hardening/images/*"
CREDENTIALS = ("/etc/vllm-hardening/credentials", "/etc/vllm-hardening/credentials/*")
GATEWAY_FILES = ("/etc/vllm-hardening/gateway", "/etc/vllm-hardening/gateway/*", "/etc/vllm-hardening/gateway/*/*")
GATEWAY_EXPIRY = "vllm-gateway-expiry"
SSH_DROPIN, SUDO_LIMITS = "/etc/ssh/sshd_config.d/00-vllm-hardening.conf", "/etc/sudoers.d/zz-vllm-hardening"
GUARD_UNITS = ("vllm-guard-firewall.service", "vllm-guard-node.service")
GUARD_PROGRAM, GUARD_SETTINGS = "/usr/local/lib/vllm-guard/guard.py", "/etc/vllm-guard/guard.json"
GUARD_MODULES = "/usr/local/lib/vllm-guard/ansible_collections/vllm_mindspore/hardening/plugins/module_utils"
GUARD_FOLDERS = ("/usr/local/lib/vllm-guard", GUARD_MODULES, "/etc/vllm-guard")
GUARD_FILES = (GUARD_PROGRAM, GUARD_SETTINGS, *GUARD_FOLDERS, *(f"{folder}/*" for folder in GUARD_FOLDERS))
HOST_SYSCTLS = {"kernel.randomize_va_space": "2"}


def units_of(node):
    """The units of a node's instances and of what serves them."""
    units = [entry["unit"] for entry in node["instances"]]
    units += [entry["ray"]["unit"] for entry in node["instances"] if entry.get("ray")]
    if node.get("gateway"):
        units += [node["gateway"]["unit"], f"{GATEWAY_EXPIRY}.timer", f"{GATEWAY_EXPIRY}.service"]
    return list(dict.fromkeys(units))


def model_path(instance):
    """The directory of an instance's model; None where the model is a name and not a path."""
    model = instance.get("model")
    return model if isinstance(model, str) and model.startswith("/") else None


def without(networks, addresses):
    """Networks without single addresses: the fewest networks that cover the rest."""
    rest = [ipaddress.ip_network(network) for network in networks]
    for address in map(ipaddress.ip_network, addresses):
        parts = []
        for network in rest:
            if network.version == address.version and address.subnet_of(network):
                parts.extend(network.address_exclude(address) if network != address else ())
            else:
                parts.append(network)
        rest = parts
    return [str(network) for network in rest]


def without_own(listed, own):
    """A flow's addresses and references to sets, without the node's own addresses."""
    return [part for item in listed for part in ([item] if item.startswith("@") else without([item], own))]


def software_paths(node):
    """The directory of the engine's programs and those around it: whoever may write in one of them replaces the rest."""
    return around(node.get("software") or "/")


def around(path):
    """A path and the directories it lies in, the outermost first, without the root."""
    found = []
    while path.startswith("/") and path.strip("/"):
        found.append(path)
        path = os.path.dirname(path)
    return found[::-1]


def filter_policy(plan, host):
    """What the node's packet filter has to let through, and nothing else (firewall_policy.read_policy).

    A packet with the node's own address as its source never comes over an interface; its addresses are therefore left out of the sources.
    What leaves is looked at for the service users alone, and on loopback for the ports that are not everybody's.
    """
    node = plan["nodes"][host]
    own = [address for listed in node["addresses"].values() for address in listed]
    flows = [{**flow, "sources": without_own(flow["sources"], own)} for flow in node["flows"]]
    egress = [{**entry, "destinations": without_own(entry["destinations"], own)} for entry in node["egress"] if entry["destinations"]]
    local = [{"name": entry["name"], "interface": "lo", "protocol": "tcp", "ports": entry["ports"]} for entry in node["loopback"]]
    users = [["root", *entry["users"]] for entry in node["loopback"]]
    limited = sorted({entry["user"] for entry in node["egress"]})
    return {
        "version": 1, "sets": {name: without(members, own) for name, members in plan["clusters"][node["cluster"]]["sets"].items()},
        "allow": flows, "forward": [] if node["sysctls"].get("net.ipv4.ip_forward") == "0" else None,
        "egress": egress + [{**flow, "users": listed} for flow, listed in zip(local, users)] if limited else None,
        "egress_users": limited, "permit_egress": ["established", "loopback"],
        "refuse_egress": [{**flow, "other_users": listed} for flow, listed in zip(local, users)],
    }


def responder(node, seconds):
    """What the responder of UDP probes on a node has to answer, for a run that begins now; None for 0 seconds."""
    if not seconds:
        return None
    ports = {*KNOWN_UDP_PORTS, *spread_ports(8)}
    for flow in node["flows"]:
        if flow["protocol"] == "udp":
            for bounds in flow["ports"]:
                ports.update(sample_range(*parse_ports(bounds)))
    addresses = [address for listed in node["addresses"].values() for address in listed]
    return {"nonce": secrets.token_hex(16), "addresses": addresses, "ports": sorted(ports), "seconds": seconds, "started": int(time.time())}


def packages_of(node):
    """What to ask about the versions of the site's own serving software; None where the collection brings it."""
    if not node.get("existing"):
        return None
    names = {name for instance in node["instances"] for name in belonging(instance["engine"], instance["version"])}
    return {"directory": node["software"], "names": sorted(names)}


def audit_request(plan, host, udp_seconds=0):
    """The arguments of the module ``audit`` for one node of the plan. udp_seconds: for how long UDP is answered, 0 for not at all."""
    node = plan["nodes"][host]
    files = [*FIREWALL_FILES, SYSCTL_FILE, *software_paths(node), IMAGES, *CREDENTIALS]
    files += [SSH_DROPIN, SUDO_LIMITS, *(GATEWAY_FILES if node.get("gateway") else ()), *(GUARD_FILES if node.get("guard") else ())]
    users = {entry["user"] for entry in node["instances"]} | ({node["gateway"]["user"]} if node.get("gateway") else set())
    for instance in node["instances"]:
        if model_path(instance):
            files += [*around(model_path(instance)), f"{model_path(instance)}/*"]
    return {
        "units": [*units_of(node), FIREWALL_UNIT, *(GUARD_UNITS if node.get("guard") else ())],
        "users": sorted(users),
        "sysctls": [*node["sysctls"], *HOST_SYSCTLS],
        "files": list(dict.fromkeys(files)),
        "npus": (node.get("npus") or {}).get("numbers", []),
        "packages": packages_of(node),
        "responder": responder(node, udp_seconds),
        "policy": filter_policy(plan, host),
    }

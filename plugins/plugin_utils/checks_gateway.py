# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Checks of the gateway in front of a node's instances. Pure.

A check returns `(expected, problems)`, and passes without problems. It raises Unknown where the node did not tell, and NotApplicable where the
plan has no gateway on the node.
"""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_request import GATEWAY_EXPIRY, GATEWAY_FILES
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judged_node import NotApplicable, Unknown, clip, differences, not_as_deployed

SANDBOX = {
    "NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "AmbientCapabilities": "", "ProtectSystem": "strict", "ProtectHome": "yes",
    "ProtectKernelTunables": "yes", "ProtectKernelModules": "yes", "ProtectKernelLogs": "yes", "ProtectControlGroups": "yes", "ProtectClock": "yes",
    "RestrictNamespaces": "yes", "SystemCallArchitectures": "native",
}


def _gateway(node):
    """The planned gateway, and the properties and processes of its unit."""
    gateway = node.planned.get("gateway")
    if not gateway:
        raise NotApplicable("no gateway on this node")
    return gateway, *node.unit(gateway["unit"])


def gateway_runs_as_deployed(node):
    gateway, _properties, _processes = _gateway(node)
    unit = gateway["unit"]
    return f"{unit} active and enabled, from /etc/systemd/system/{unit} alone, owned by root", not_as_deployed(node, unit)


def gateway_is_confined(node):
    gateway, properties, _processes = _gateway(node)
    if properties.get("LoadState") != "loaded":
        raise Unknown(f"{gateway['unit']} is not loaded")
    problems = differences(gateway["unit"], properties, {**SANDBOX, "User": gateway["user"]})
    return f"user {gateway['user']}, no capability, read-only system, native calls only", problems


def gateway_processes_have_no_privilege(node):
    gateway, _properties, processes = _gateway(node)
    if not processes:
        raise Unknown(f"{gateway['unit']} has no process")
    account, problems = node.observed("accounts")[gateway["user"]], []
    for process in processes:
        label = f"process {clip(process.get('pid'))} ({clip(process.get('command'))})"
        if account is None or set(str(process["uid"]).split()) != {str(account["uid"])}:
            problems.append(f"{label} runs as user {clip(process['uid'])}, planned {gateway['user']}")
        if str(process["no_new_privileges"]) != "1" or str(process["seccomp"]) != "2":
            problems.append(f"{label} may gain privileges or has no filter of calls")
        problems += [f"{label} has {kind} capabilities {clip(process[kind])}" for kind in ("permitted", "effective", "bounding") if int(str(process[kind]), 16)]
    return f"every process {gateway['user']}'s, filtered, without capabilities", problems


def gateway_listens(node):
    gateway, _properties, _processes = _gateway(node)
    wanted = [(address, int(entry["port"])) for entry in gateway["instances"] for address in entry["addresses"]]
    metrics = gateway.get("metrics")
    wanted += [(address, int(metrics["port"])) for address in metrics["addresses"]] if metrics else []
    found = {(entry["address"], entry["port"]) for entry in node.observed("listeners", list)
             if entry["protocol"] == "tcp" and entry.get("unit") == gateway["unit"]}
    problems = [f"{gateway['unit']} does not listen on {address}:{port}" for address, port in wanted if (address, port) not in found]
    return ", ".join(f"{address}:{port}" for address, port in wanted), problems


def gateway_secrets_are_kept(node):
    gateway, _properties, _processes = _gateway(node)
    folder, problems, found = GATEWAY_FILES[0], [], 0
    for path, facts in sorted(node.observed("files").items()):
        if path != folder and not path.startswith(f"{folder}/"):
            continue
        facts = node.file(path)
        if facts is None:
            problems.append(f"{path} does not exist")
            continue
        found += 1
        if facts["owner"] != "root" or facts["group"] not in ("root", gateway["user"]) or int(facts["mode"], 8) & 0o027:
            problems.append(f"{clip(path)} is {clip(facts['owner'])}:{clip(facts['group'])}'s with mode {facts['mode']}")
    if not found and not problems:
        raise Unknown(f"the host did not tell about {folder}")
    return f"root's, readable by {gateway['user']} and by nobody else", problems


def gateway_expiry_is_watched(node):
    _gateway(node)
    problems = []
    timer, _processes = node.unit(f"{GATEWAY_EXPIRY}.timer")
    service, _processes = node.unit(f"{GATEWAY_EXPIRY}.service")
    problems += differences(f"{GATEWAY_EXPIRY}.timer", timer, {"ActiveState": "active", "UnitFileState": "enabled"})
    problems += differences(f"{GATEWAY_EXPIRY}.service", service, {"LoadState": "loaded"})
    if service.get("ActiveState") == "failed":
        problems.append(f"{GATEWAY_EXPIRY}.service has failed: a certificate has expired, or cannot be read")
    return f"{GATEWAY_EXPIRY}.timer active, and no certificate has expired", problems


CHECKS = {
    "GW-01": gateway_runs_as_deployed, "GW-02": gateway_is_confined, "GW-03": gateway_processes_have_no_privilege, "GW-04": gateway_listens,
    "GW-05": gateway_secrets_are_kept, "GW-06": gateway_expiry_is_watched,
}

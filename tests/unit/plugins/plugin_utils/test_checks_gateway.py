# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The controls of the gateway: each single deviation is found by its control alone, and what is not known never passes."""

from __future__ import annotations

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.checks_gateway import CHECKS, SANDBOX
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judge import judge_node
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judged_node import Node

UNIT, PATH, FOLDER = "vllm-gateway.service", "/etc/systemd/system/vllm-gateway.service", "/etc/vllm-hardening/gateway"
GATEWAY = {"unit": UNIT, "user": "vllm-gateway", "metrics": {"addresses": ["10.77.0.11"], "port": 7444},
           "instances": [{"name": "chat", "addresses": ["10.77.1.11", "fd00:77:1::11"], "port": 7443}]}


def observation():
    deployed = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no", "FragmentPath": PATH, "DropInPaths": ""}
    told = {"LoadState": "loaded", "FragmentPath": "/etc/systemd/system/x", "DropInPaths": ""}
    none = dict.fromkeys(("permitted", "effective", "bounding"), "0000000000000000")
    secret = {"type": "file", "owner": "root", "group": "vllm-gateway", "mode": "0640"}
    return {
        "units": {
            UNIT: {"properties": {**SANDBOX, **deployed, "User": "vllm-gateway"},
                   "processes": [{"pid": 7, "command": "haproxy", "uid": "997 997 997 997", "no_new_privileges": "1", "seccomp": "2", **none}]},
            "vllm-gateway-expiry.timer": {"properties": {**told, "ActiveState": "active", "UnitFileState": "enabled"}, "processes": []},
            "vllm-gateway-expiry.service": {"properties": {**told, "ActiveState": "inactive"}, "processes": []},
        },
        "accounts": {"vllm-gateway": {"uid": 997}},
        "listeners": [{"protocol": "tcp", "address": address, "port": port, "unit": UNIT}
                      for address, port in (("10.77.1.11", 7443), ("fd00:77:1::11", 7443), ("10.77.0.11", 7444))],
        "files": {PATH: {**secret, "group": "root", "mode": "0644"}, FOLDER: {**secret, "type": "directory", "mode": "0750"},
                  f"{FOLDER}/keys.map": dict(secret), f"{FOLDER}/certificates/npu01.pem": dict(secret)},
    }


def judged(change=lambda seen: None, planned=True):
    seen = observation()
    change(seen)
    node = {"cluster": "vllm", "gateway": GATEWAY if planned else None, "instances": [], "sysctls": {}, "flows": [], "addresses": {}, "listeners": []}
    plan = {"clusters": {"vllm": {"segments": {}, "sets": {}}}, "nodes": {"npu01": node}}
    return {finding["control"]: finding["status"] for finding in judge_node(Node("npu01", plan, seen, None)) if finding["control"] in CHECKS}


def properties(unit=UNIT, **values):
    return lambda seen: seen["units"][unit]["properties"].update(values)


def process(**values):
    return lambda seen: seen["units"][UNIT]["processes"][0].update(values)


def file(path, **values):
    return lambda seen: seen["files"][path].update(values)


DEVIATIONS = {
    "stopped": ("GW-01", properties(ActiveState="inactive")),
    "disabled": ("GW-01", properties(UnitFileState="disabled")),
    "overridden": ("GW-01", properties(DropInPaths="/etc/systemd/system/vllm-gateway.service.d/x.conf")),
    "from elsewhere": ("GW-01", properties(FragmentPath="/usr/lib/systemd/system/vllm-gateway.service")),
    "its unit is writable": ("GW-01", file(PATH, mode="0666")),
    "runs as root": ("GW-02", properties(User="root")),
    "may gain privileges": ("GW-02", properties(NoNewPrivileges="no")),
    "writes the system": ("GW-02", properties(ProtectSystem="full")),
    "a process of root": ("GW-03", process(uid="0 0 0 0")),
    "a process with a capability": ("GW-03", process(effective="0000000000000400")),
    "a process without a filter": ("GW-03", process(seccomp="0")),
    "does not listen for clients": ("GW-04", lambda seen: seen["listeners"].pop(0)),
    "does not listen over IPv6": ("GW-04", lambda seen: seen["listeners"].pop(1)),
    "does not listen for monitors": ("GW-04", lambda seen: seen["listeners"].pop(2)),
    "somebody else listens in its place": ("GW-04", lambda seen: seen["listeners"][0].update(unit="haproxy.service")),
    "keys that others read": ("GW-05", file(f"{FOLDER}/keys.map", mode="0644")),
    "a certificate of another group": ("GW-05", file(f"{FOLDER}/certificates/npu01.pem", group="users")),
    "the gateway may write its directory": ("GW-05", file(FOLDER, mode="0770")),
    "what watches is gone": ("GW-06", properties("vllm-gateway-expiry.service", LoadState="not-found")),
    "nobody watches": ("GW-06", properties("vllm-gateway-expiry.timer", ActiveState="inactive")),
    "a certificate has expired": ("GW-06", properties("vllm-gateway-expiry.service", ActiveState="failed")),
}


@pytest.mark.parametrize("control, change", DEVIATIONS.values(), ids=DEVIATIONS)
def test_one_deviation_is_one_finding(control, change):
    assert judged(change) == {**dict.fromkeys(CHECKS, "pass"), control: "fail"}


def test_every_control_is_held_by_a_deviation():
    assert {control for control, _change in DEVIATIONS.values()} == set(CHECKS)


def test_a_gateway_as_planned_passes():
    assert set(judged().values()) == {"pass"}


def test_a_node_without_gateway_has_none_to_judge():
    assert set(judged(planned=False).values()) == {"not applicable"}


@pytest.mark.parametrize("part", ["units", "accounts", "listeners", "files"])
def test_what_was_not_told_never_passes(part):
    told = judged(lambda seen: seen.update({part: None}))
    assert "unknown" in told.values() and "fail" not in told.values()
    assert set(judged(lambda seen: seen[part].clear()).values()) != {"pass"}


def test_a_gateway_without_processes_is_unknown():
    assert judged(lambda seen: seen["units"][UNIT]["processes"].clear())["GW-03"] == "unknown"

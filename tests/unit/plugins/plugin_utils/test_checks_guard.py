# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The control of the guard: what is asked of a node, each way it can fail, and that what is not known never passes."""

from __future__ import annotations

import fnmatch

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.filter.guard import guard_program
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_request import (
    GUARD_FILES, GUARD_PROGRAM, GUARD_SETTINGS, GUARD_UNITS, audit_request)
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import BY_ID
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judge import judge_node
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judged_node import Node
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan import build_plan

FIREWALL, NODE = GUARD_UNITS
SEGMENTS = ("management", "api", "internal")
SIGNERS = "/etc/vllm-guard/allowed_signers"
FILE, FOLDER = ({"type": kind, "owner": "root", "group": "root", "mode": mode} for kind, mode in (("file", "0644"), ("directory", "0755")))
PATHS = {"/usr/local/lib/vllm-guard": FOLDER, "/etc/vllm-guard": FOLDER, GUARD_PROGRAM: FILE, GUARD_SETTINGS: FILE, SIGNERS: FILE,
         **{f"/etc/systemd/system/{unit}": FILE for unit in GUARD_UNITS}}


def observation():
    return {
        "units": {unit: {"processes": [], "properties": {
            "LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no", "DropInPaths": "",
            "FragmentPath": f"/etc/systemd/system/{unit}"}} for unit in GUARD_UNITS},
        "files": {path: dict(facts) for path, facts in PATHS.items()},
    }


def judged(change=lambda seen: None, guard=True, reason=None):
    """The finding of a node; without `guard` in its plan where that is None."""
    seen = observation()
    if reason:
        seen = None
    else:
        change(seen)
    planned = {"cluster": "vllm", "gateway": None, "instances": [], "sysctls": {}, "flows": [], "addresses": {}, "listeners": []}
    planned.update({} if guard is None else {"guard": guard})
    plan = {"clusters": {"vllm": {"segments": {}, "sets": {}}}, "nodes": {"npu01": planned}}
    return next(finding for finding in judge_node(Node("npu01", plan, seen, reason)) if finding["control"] == "GRD-01")


def properties(unit, **values):
    return lambda seen: seen["units"][unit]["properties"].update(values)


def file(path, **values):
    return lambda seen: seen["files"][path].update(values)


def gone(path):
    return lambda seen: seen["files"].update({path: None})


DEVIATIONS = {
    "stopped": (properties(FIREWALL, ActiveState="inactive"), f"{FIREWALL}: ActiveState is inactive, wanted active"),
    "the other stopped": (properties(NODE, ActiveState="inactive"), f"{NODE}: ActiveState is inactive, wanted active"),
    "failed": (properties(NODE, ActiveState="failed"), f"{NODE}: ActiveState is failed, wanted active"),
    "started again and again": (properties(FIREWALL, ActiveState="activating"), f"{FIREWALL}: ActiveState is activating, wanted active"),
    "disabled": (properties(FIREWALL, UnitFileState="disabled"), f"{FIREWALL}: UnitFileState is disabled, wanted enabled"),
    "masked": (properties(NODE, LoadState="masked", FragmentPath="/dev/null"), f"{NODE}: LoadState is masked, wanted loaded"),
    "missing": (properties(NODE, LoadState="not-found", FragmentPath="", UnitFileState="", ActiveState="inactive"), f"{NODE} does not exist"),
    "not reloaded": (properties(NODE, NeedDaemonReload="yes"), f"{NODE}: NeedDaemonReload is yes, wanted no"),
    "overridden": (properties(FIREWALL, DropInPaths="/run/x.d/y.conf"), f"{FIREWALL}: DropInPaths is /run/x.d/y.conf, wanted empty"),
    "from elsewhere": (properties(FIREWALL, FragmentPath=f"/run/systemd/system/{FIREWALL}"),
                       f"{FIREWALL}: FragmentPath is /run/systemd/system/{FIREWALL}, wanted /etc/systemd/system/{FIREWALL}"),
    "its unit is writable": (file(f"/etc/systemd/system/{NODE}", mode="0666"), f"/etc/systemd/system/{NODE} is writable by others (mode 0666)"),
    "its program is another's": (file(GUARD_PROGRAM, owner="vllm-chat"), f"{GUARD_PROGRAM} belongs to vllm-chat"),
    "its settings are writable": (file(GUARD_SETTINGS, mode="0664"), f"{GUARD_SETTINGS} is writable by others (mode 0664)"),
    "its signers are writable": (file(SIGNERS, mode="0646"), f"{SIGNERS} is writable by others (mode 0646)"),
    "its folder is writable": (file("/etc/vllm-guard", mode="0777"), "/etc/vllm-guard is writable by others (mode 0777)"),
    "its program is gone": (gone(GUARD_PROGRAM), f"{GUARD_PROGRAM} does not exist"),
    "its settings are gone": (gone(GUARD_SETTINGS), f"{GUARD_SETTINGS} does not exist"),
}


@pytest.mark.parametrize("change, observed", DEVIATIONS.values(), ids=DEVIATIONS)
def test_each_deviation_is_found_and_named(change, observed):
    finding = judged(change)
    assert (finding["status"], finding["observed"]) == ("fail", observed)
    assert all(unit in finding["expected"] for unit in GUARD_UNITS)


def test_a_guard_as_deployed_passes():
    assert judged()["status"] == "pass"


@pytest.mark.parametrize("guard", [False, None])
def test_where_none_is_planned_there_is_none_to_judge(guard):
    assert judged(lambda seen: seen.update(units={}, files={}), guard)["status"] == "not applicable"


@pytest.mark.parametrize("change", [
    *(lambda seen, part=part, value=value: seen.update({part: value}) for part in ("units", "files") for value in (None, {}, [7], "nonsense")),
    *(lambda seen, name=name: seen["units"][NODE]["properties"].pop(name)
      for name in ("LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload", "FragmentPath", "DropInPaths")),
    lambda seen: seen["units"].pop(FIREWALL),
    lambda seen: seen["units"][FIREWALL]["properties"].update(ActiveState=["active"]),
    lambda seen: seen["files"].pop(f"/etc/systemd/system/{NODE}"),
    lambda seen: seen["files"].pop(GUARD_PROGRAM),
    lambda seen: seen["files"].update({SIGNERS: {"mode": 7}}),
])
def test_what_the_node_did_not_tell_is_unknown(change):
    assert judged(change)["status"] == "unknown"


def test_a_node_that_was_not_reached_is_unknown():
    finding = judged(reason="unreachable: timed out")
    assert (finding["status"], finding["observed"]) == ("unknown", "unreachable: timed out")


def test_the_guard_is_asked_for_where_it_is_planned_and_nowhere_else():
    plan = build_plan({
        host: {"vllm_cluster_networks": {name: f"10.77.{index}.0/24" for index, name in enumerate(SEGMENTS)},
               "vllm_cluster_addresses": {name: f"10.77.{index}.{number}" for index, name in enumerate(SEGMENTS)},
               "vllm_cluster_administrators": ["10.77.0.1/32"], "vllm_cluster_clients": ["10.77.1.128/25"], "vllm_cluster_instances": [],
               "vllm_guard_state": state}
        for host, number, state in (("npu01", 11, "present"), ("npu02", 12, "absent"))})
    asked, other = (audit_request(plan, host) for host in ("npu01", "npu02"))
    assert set(GUARD_UNITS) <= set(asked["units"]) and set(GUARD_FILES) <= set(asked["files"])
    assert not set(GUARD_UNITS) & set(other["units"]) and not set(GUARD_FILES) & set(other["files"])


def test_every_file_of_the_program_is_asked_for():
    files = guard_program("from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import guard\n")["files"]
    assert len(files) > 2
    assert [entry["path"] for entry in files if not any(fnmatch.fnmatch(entry["path"], pattern) for pattern in GUARD_FILES)] == []


def test_the_role_of_the_guard_puts_it_right():
    assert BY_ID["GRD-01"].tags == ("vllm_guard",)

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A small cluster that is exactly as planned, for the tests of the judge and of the reports."""

from __future__ import annotations

import copy
import datetime
import json
import os

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.probing import expand_ports
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_request import SSH_DROPIN, SUDO_LIMITS
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judge import judge
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report import build_document
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.waivers import read_waivers
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import Planned, compose

# The plan of two nodes with one instance over both, and what the module `audit` told of them in the lab.
with open(os.path.join(os.path.dirname(__file__), "audit_cluster.json"), encoding="utf-8") as _stream:
    _CLUSTER = json.load(_stream)

PLAN = _CLUSTER["plan"]
for _node in PLAN["nodes"].values():
    _node.update(software="/opt/vllm/current/bin", access={"groups": ["operators"], "sudo": True}, existing=True)
    _node["instances"][0]["version"] = "0.32.0"
VANTAGE_POINTS = {"client": {"api": ["10.77.1.130"]}, "outsider": {"api": ["10.77.1.66"]}, "rogue": {"internal": ["10.77.2.67"]}}
UNIT = "vllm-chat.service"
ROOTS = {"type": "file", "owner": "root", "group": "root"}
HOSTILE = "=cmd|' /C calc'!A0<b>&\"\x07\u202e"


def listener(address, port, unit=UNIT, protocol="tcp"):
    return {"protocol": protocol, "address": address, "port": port, "interface": None, "v6only": None, "uid": 990, "pid": 4711, "command": "vllm", "unit": unit}


def observation(host):
    """What a node tells that is exactly as planned."""
    told = copy.deepcopy(_CLUSTER["observations"][host])
    management = PLAN["nodes"][host]["addresses"]["management"]
    told["files"].update({SSH_DROPIN: {**ROOTS, "mode": "0644"}, SUDO_LIMITS: {**ROOTS, "mode": "0440"}})
    for path in ("/opt", "/opt/vllm/standin", "/opt/vllm/current/bin", "/srv", "/srv/models"):
        told["files"][path] = {**ROOTS, "type": "directory", "mode": "0755"}
    told["packages"] = {"vllm": ["0.32.0+cpu"]}
    told["sshd"]["settings"].update(listenaddress=[f"{address}:22" for address in management], allowgroups=["operators"])
    for entry in told["listeners"]:
        if entry["unit"] == "ssh.service":
            entry["address"] = management[0]
    return told


def observations():
    return {host: observation(host) for host in PLAN["nodes"]}


def composed(seen=None, plan=None):
    return compose(plan or PLAN, seen or observations(), VANTAGE_POINTS, spread=8, peers=8)


def probes(targets, plan=None):
    """What every vantage point reports of a network that is exactly as planned."""
    plan = plan or PLAN
    planned, results = Planned(plan), {}
    for name, point in targets["vantage_points"].items():
        paths = []
        for host in point["hosts"]:
            for source in point["sources"]:
                for segment, listed in plan["nodes"][host]["addresses"].items():
                    for address in listed:
                        allowed = planned.ports(host, source["address"], source["segment"], address, "tcp")
                        ports = expand_ports(targets["targets"][host]["tcp"])
                        opened = [str(port) for port in ports if any(first <= port <= last for first, last, _flow in allowed)]
                        paths.append({"host": host, "protocol": "tcp", "segment": source["segment"], "source": source["address"], "address": address,
                                      "crossed": segment != source["segment"], "open": opened, "closed": [], "refused": [], "unsent": [],
                                      "silent": [str(port) for port in ports if str(port) not in opened]})
        results[name] = {"method": "raw", "sent": 100, "seconds": 1.0, "paths": paths}
    return results


def path_of(results, vantage, host, address, source=None):
    """One path of the probes, to change it."""
    return next(path for path in results[vantage]["paths"]
                if path["host"] == host and path["address"] == address and source in (None, path["source"]))


def every_status(name=HOSTILE):
    """A results document with a finding of every status; a host tells `name` of a process and a unit."""
    seen = observations()
    seen["npu02"]["listeners"].append({**listener("0.0.0.0", 111, name), "command": name})
    seen["npu02"]["sysctls"] = None
    seen["npu01"]["files"]["/opt/vllm"]["mode"] = "0777"
    granted = [{"control": "FIL-02", "hosts": "all", "reason": "moving", "owner": "ops", "expires": "2026-07-01"}]
    force, expired = read_waivers(granted, list(PLAN["nodes"]), datetime.date(2026, 6, 1))
    targets = composed()
    made = build_document(PLAN, judge(PLAN, targets, seen, {}, probes(targets), force, expired), "2026-06-01T03:04:05+00:00")
    assert all(made["counts"].values())
    return made

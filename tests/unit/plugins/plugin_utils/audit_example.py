# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A small cluster that is exactly as planned, for the tests of the judge and of the reports."""

from __future__ import annotations

import copy

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.probing import expand_ports
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import Planned, compose


def flow(name, sources, address, segment, ports):
    return {"name": name, "sources": sources, "destinations": [address], "interface": f"eth{('management', 'api', 'internal').index(segment)}",
            "segment": segment, "protocol": "tcp", "ports": ports, "reason": name}


def node(number, head):
    addresses = {"management": [f"10.77.0.{number}"], "api": [f"10.77.1.{number}"], "internal": [f"10.77.2.{number}"]}
    flows = [flow("ssh", ["@administrators"], addresses["management"][0], "management", ["22"]),
             flow("chat-internal", ["@peers_chat"], addresses["internal"][0], "internal", ["20550", "28000-28999"])]
    listeners = [
        {"instance": "chat", "address": addresses["internal"][0], "protocol": "tcp", "ports": ["20550", "28000-28999"], "what": "engine", "wildcard": False}
    ]
    if head:
        flows.append(flow("chat-api", ["@clients"], addresses["api"][0], "api", ["7443"]))
        listeners.append({"instance": "chat", "address": addresses["api"][0], "protocol": "tcp", "ports": ["7443"], "what": "API", "wildcard": False})
    return {
        "cluster": "vllm", "addresses": addresses, "interfaces": {"management": "eth0", "api": "eth1", "internal": "eth2"}, "ephemeral_ports": "28000-28999",
        "reserved_ports": ["7443", "20550"], "sysctls": {"net.ipv4.ip_local_port_range": "28000\t28999", "net.ipv4.conf.*.accept_redirects": "0"},
        "flows": flows, "egress": [], "listeners": listeners,
        "instances": [{"name": "chat", "rank": 0 if head else 1, "head": head, "unit": "vllm-chat.service", "user": "vllm-chat", "engine": "vllm",
                       "arguments": ["serve", "/srv/models/tiny"], "environment": {"VLLM_HOST_IP": addresses["internal"][0]},
                       "api": {"address": addresses["api"][0], "port": 7443} if head else None}],
    }


PLAN = {
    "version": 1,
    "clusters": {"vllm": {
        "segments": {"management": ["10.77.0.0/24"], "api": ["10.77.1.0/24"], "internal": ["10.77.2.0/24"]},
        "sets": {"administrators": ["10.77.0.1/32"], "clients": ["10.77.1.128/25"], "peers_chat": ["10.77.2.11", "10.77.2.12"]},
        "nodes": ["npu01", "npu02"], "instances": {"chat": {"engine": "vllm", "topology": "data_parallel", "nodes": ["npu01", "npu02"]}}}},
    "nodes": {"npu01": node(11, True), "npu02": node(12, False)},
}
VANTAGE_POINTS = {"client": {"api": ["10.77.1.130"]}, "outsider": {"api": ["10.77.1.66"]}, "rogue": {"internal": ["10.77.2.67"]}}


def listener(address, port, unit="vllm-chat.service", protocol="tcp"):
    return {"protocol": protocol, "address": address, "port": port, "interface": None, "v6only": None, "uid": 990, "pid": 4711, "command": "vllm", "unit": unit}


def observation(host, plan=PLAN):
    """What a node tells that is exactly as planned."""
    planned = plan["nodes"][host]
    addresses = [{"interface": planned["interfaces"][segment], "address": address, "prefix": 24, "family": "ip", "scope": "global", "tentative": False}
                 for segment, listed in planned["addresses"].items() for address in listed]
    listeners = [listener("0.0.0.0", 22, "ssh.service"), listener(planned["addresses"]["internal"][0], 28017)]
    if planned["instances"][0]["api"]:
        listeners.append(listener(planned["addresses"]["api"][0], 7443))
    process = {
        "pid": 4711,
        "command": "vllm",
        "uid": "990\t990\t990\t990",
        "gid": "990\t990\t990\t990",
        "groups": "",
        "inheritable": "0" * 16,
        "permitted": "0" * 16,
        "effective": "0" * 16,
        "bounding": "0" * 16,
        "ambient": "0" * 16,
        "no_new_privileges": "1",
        "seccomp": "2",
        "arguments": None,
    }
    properties = {
        "Id": "vllm-chat.service",
        "LoadState": "loaded",
        "ActiveState": "active",
        "UnitFileState": "enabled",
        "NeedDaemonReload": "no",
        "User": "vllm-chat",
    }
    return copy.deepcopy({
        "version": 1, "host": {"hostname": host, "kernel": "6.1", "systemd": 252, "systemd_features": [], "cgroup_v2": True},
        "addresses": addresses, "listeners": listeners,
        "units": {"vllm-chat.service": {"properties": properties, "processes": [process]}},
        "sysctls": {"net.ipv4.ip_local_port_range": {"net/ipv4/ip_local_port_range": "28000 28999"},
                    "net.ipv4.conf.*.accept_redirects": {"net/ipv4/conf/all/accept_redirects": "0"}},
        "files": {}, "packet_filter": {"verdict": "ok", "findings": []}, "unknown": {},
    })


def observations(plan=PLAN):
    return {host: observation(host, plan) for host in plan["nodes"]}


def composed(seen=None, plan=PLAN):
    return compose(plan, seen or observations(plan), VANTAGE_POINTS, spread=8, peers=8)


def probes(targets, plan=PLAN):
    """What every vantage point reports of a network that is exactly as planned."""
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

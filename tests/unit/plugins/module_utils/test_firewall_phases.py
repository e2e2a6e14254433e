# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A flow's opening and later packets go one way, its answers the other; and what large sets cost."""

from __future__ import annotations

import ipaddress

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_proof import verify
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.host_network import Host
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_paths import Filter

ORIGINAL, REPLY = 0, 1
NEW, ESTABLISHED = 8, 2
HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
HOST = {
    "interfaces": [
        {"index": 1, "name": "lo", "loopback": True, "addresses": ["127.0.0.1/8", "::1/128"]},
        {"index": 2, "name": "eth0", "loopback": False, "addresses": ["10.79.0.11/24", "fd00:79::11/64"]},
    ],
    "routes": [
        {"family": "ip", "table": 254, "destination": "10.79.0.0/24", "type": 1, "interfaces": [2], "metric": 0},
        {"family": "ip6", "table": 254, "destination": "fd00:79::/64", "type": 1, "interfaces": [2], "metric": 0},
    ],
    "policy_routing": {"ip": False, "ip6": False},
    "forwarding": {"ip": [], "ip6": []},
}
ACCEPT, DROP = ({"expr": "immediate", "dreg": 0, "data": {"code": code, "chain": None}} for code in (1, 0))


def direction(value):
    """`ct direction`"""
    return [{"expr": "ct", "dreg": 1, "key": 1}, {"expr": "cmp", "sreg": 1, "op": 0, "data": bytes([value])}]


def state(bit):
    """`ct state`"""
    return [
        {"expr": "ct", "dreg": 1, "key": 0},
        {"expr": "bitwise", "sreg": 1, "dreg": 1, "len": 4, "mask": bytes([bit, 0, 0, 0]), "xor": bytes(4)},
        {"expr": "cmp", "sreg": 1, "op": 1, "data": bytes(4)},
    ]


def by(name, key):
    """`iifname` (key 6) or `oifname` (key 7)"""
    return [{"expr": "meta", "dreg": 1, "key": key}, {"expr": "cmp", "sreg": 1, "op": 0, "data": name.encode().ljust(16, b"\0")}]


def ruleset(sets=(), **chains):
    """A snapshot of base chains that drop what their rules do not accept."""
    table = {"family": "inet", "name": "t", "handle": 1, "flags": 0, "comment": None, "objects": [], "flowtables": []}
    table["sets"] = {one["name"]: one for one in sets}
    table["chains"] = {
        name: {
            "name": name, "handle": 1, "type": "filter", "hook": HOOKS[name], "priority": 0, "policy": 0, "flags": 1, "devices": [], "comment": None,
            "rules": [{"handle": at, "comment": None, "compat": None, "expressions": rule} for at, rule in enumerate(rules, 1)],
        }
        for name, rules in chains.items()
    }
    return {"generation": 1, "tables": [table]}


def judged(snapshot, part="allow"):
    """``(status, phase)`` of one flow into the host ("allow"), or out of it ("egress")."""
    ends = {"sources": ["10.79.0.50", "fd00:79::50"]} if part == "allow" else {"destinations": ["10.79.0.50", "fd00:79::50"]}
    flow = {"name": "one", "protocol": "tcp", "ports": ["22"], **ends}
    everything = [{"name": "all"}]
    policy = {"permit": everything, "permit_egress": everything, "egress": [], part: [flow]}
    result = verify(snapshot, HOST, policy)
    assert result["leaks"] == [] and result["unknown"] == []
    found, = result["flows"]
    return found["status"], found["phase"]


@pytest.mark.parametrize("input_rules, output_rules, expected", [
    ([[*direction(ORIGINAL), ACCEPT]], [[*direction(REPLY), ACCEPT]], ("ok", None)),
    ([[*direction(REPLY), ACCEPT]], [[ACCEPT]], ("broken", "opening")),
    ([[*state(NEW), *direction(REPLY), ACCEPT], [*state(ESTABLISHED), ACCEPT]], [[ACCEPT]], ("broken", "opening")),
    ([[*state(NEW), ACCEPT], [*state(ESTABLISHED), *direction(REPLY), ACCEPT]], [[ACCEPT]], ("broken", "established")),
    ([[*state(NEW), ACCEPT], [*state(ESTABLISHED), *direction(ORIGINAL), ACCEPT]], [[ACCEPT]], ("ok", None)),
    ([[ACCEPT]], [[*direction(ORIGINAL), ACCEPT]], ("broken", "answer")),
    ([[ACCEPT]], [[*direction(REPLY), DROP], [ACCEPT]], ("broken", "answer")),
    ([[ACCEPT]], [[*direction(ORIGINAL), DROP], [ACCEPT]], ("ok", None)),
])
def test_an_inward_flow_opens_in_the_original_direction_and_is_answered_in_the_other(input_rules, output_rules, expected):
    assert judged(ruleset(input=input_rules, output=output_rules)) == expected


@pytest.mark.parametrize("output_rules, input_rules, expected", [
    ([[*direction(ORIGINAL), ACCEPT]], [[*state(ESTABLISHED), *direction(REPLY), ACCEPT]], ("ok", None)),
    ([[*direction(REPLY), ACCEPT]], [[ACCEPT]], ("broken", "opening")),
    ([[*state(NEW), ACCEPT], [*direction(REPLY), ACCEPT]], [[ACCEPT]], ("broken", "established")),
    ([[ACCEPT]], [[*direction(ORIGINAL), ACCEPT]], ("broken", "answer")),
])
def test_an_outward_flow_is_answered_in_the_reply_direction(output_rules, input_rules, expected):
    assert judged(ruleset(input=input_rules, output=output_rules), "egress") == expected


@pytest.mark.parametrize("rules, flow, expected", [
    ([[*state(NEW), ACCEPT], [*state(ESTABLISHED), ACCEPT]], {}, ("ok", None)),
    ([[*direction(ORIGINAL), ACCEPT]], {}, ("broken", "answer")),
    ([[*direction(ORIGINAL), ACCEPT], [*direction(REPLY), *by("eth1", 6), *by("eth0", 7), ACCEPT]], {}, ("ok", None)),
    ([[*direction(ORIGINAL), ACCEPT], [*direction(REPLY), *by("eth1", 6), *by("eth0", 7), ACCEPT]], {"interface": "eth0"}, ("ok", None)),
    ([[*direction(ORIGINAL), ACCEPT], [*direction(REPLY), *by("eth0", 6), *by("eth1", 7), ACCEPT]], {"interface": "eth0"}, ("broken", "answer")),
    ([[*direction(ORIGINAL), ACCEPT], [*direction(REPLY), *by("eth1", 6), *by("eth0", 7), ACCEPT]], {"sources": None}, ("ok", None)),
])
def test_what_is_forwarded_is_answered_on_the_way_back(rules, flow, expected):
    router = {**HOST, "forwarding": {"ip": ["eth0", "eth1"], "ip6": ["eth0", "eth1"]}}
    router["interfaces"] = [*HOST["interfaces"], {"index": 3, "name": "eth1", "loopback": False, "addresses": ["10.79.1.11/24", "fd00:79:1::11/64"]}]
    routes = ({"family": "ip", "destination": "10.79.1.0/24"}, {"family": "ip6", "destination": "fd00:79:1::/64"})
    router["routes"] = [*HOST["routes"], *({"table": 254, "type": 1, "interfaces": [3], "metric": 0, **one} for one in routes)]
    ends = {"sources": ["10.79.0.50", "fd00:79::50"], "destinations": ["10.79.1.50", "fd00:79:1::50"]}
    everything = [{"name": "all"}]
    policy = {"permit": everything, "permit_forward": everything, "forward": [{"name": "one", "protocol": "tcp", "ports": ["22"], **ends, **flow}]}
    found, = verify(ruleset(forward=rules), router, policy)["flows"]
    assert (found["status"], found["phase"]) == expected


@pytest.mark.parametrize("protocols, expected", [((6,), "broken"), ((6, 17), "broken"), (None, "ok")])
def test_a_flow_of_any_protocol_has_to_pass_in_every_one(protocols, expected):
    protocol = {"expr": "meta", "dreg": 1, "key": 16}
    rules = [[ACCEPT]] if protocols is None else [[protocol, {"expr": "cmp", "sreg": 1, "op": 0, "data": bytes([one])}, ACCEPT] for one in protocols]
    result = verify(ruleset(input=rules), HOST, {"allow": [{"name": "one", "sources": ["10.79.0.50"]}], "permit": [{"name": "all"}]})
    found, = result["flows"]
    assert found["status"] == expected and (found["packet"] or {}).get("protocol") not in ("tcp", "udp")


def test_a_packet_without_a_connection_has_no_direction():
    early = ruleset(prerouting=[[*direction(ORIGINAL), ACCEPT], [*direction(REPLY), ACCEPT]])
    early["tables"][0]["chains"]["prerouting"]["priority"] = -300
    assert judged(early) == ("broken", "opening")


def test_what_the_host_sends_came_in_by_no_interface():
    stranger = [{"expr": "meta", "dreg": 1, "key": 6}, {"expr": "cmp", "sreg": 1, "op": 0, "data": b"nosuch0".ljust(16, b"\0")}, DROP]
    assert judged(ruleset(postrouting=[stranger, [ACCEPT]])) == ("ok", None)


@pytest.mark.parametrize("names, expected", [(("eth1", "eth0"), "ok"), (("eth0", "eth1"), "ok"), (("eth1", "eth2"), "broken")])
def test_rules_of_one_shape_keep_their_own_names(names, expected):
    load = {"expr": "meta", "dreg": 1, "key": 6}
    rules = [[load, {"expr": "cmp", "sreg": 1, "op": 0, "data": name.encode().ljust(16, b"\0")}, ACCEPT] for name in names]
    assert judged(ruleset(input=rules))[0] == expected


@pytest.mark.parametrize("ports, expected", [((21, 22), "ok"), ((22, 21), "ok"), ((21, 23), "broken")])
def test_rules_of_one_shape_keep_their_own_numbers(ports, expected):
    load = [{"expr": "meta", "dreg": 1, "key": 16}, {"expr": "cmp", "sreg": 1, "op": 0, "data": b"\x06"}]
    load.append({"expr": "payload", "dreg": 1, "base": 2, "offset": 2, "len": 2})
    rules = [[*load, {"expr": "cmp", "sreg": 1, "op": 0, "data": port.to_bytes(2, "big")}, ACCEPT] for port in ports]
    assert judged(ruleset(input=rules))[0] == expected


def test_many_pairs_of_addresses_and_ports_do_not_multiply():
    count = 400
    pairs = [
        {"key": ipaddress.ip_address(f"10.79.{at // 200}.{at % 200}").packed + (at + 1).to_bytes(2, "big") + bytes(2), "flags": 0} for at in range(count)
    ]
    singles = [{"key": ipaddress.ip_address(f"10.80.{at // 200}.{2 * (at % 100)}").packed, "flags": 0} for at in range(count)]
    common = {"handle": 1, "data_type": None, "data_len": None, "timeout": None, "comment": None, "expressions": [], "object_type": None, "size": None}
    sets = [
        {"name": "pairs", "flags": 0x80, "key_type": 0, "key_len": 8, "field_lens": [4, 2], "elements": pairs, **common},
        {"name": "singles", "flags": 0, "key_type": 7, "key_len": 4, "field_lens": [], "elements": singles, **common},
    ]
    ipv4 = [{"expr": "meta", "dreg": 1, "key": 15}, {"expr": "cmp", "sreg": 1, "op": 0, "data": b"\x02"}]
    tcp = [{"expr": "meta", "dreg": 1, "key": 16}, {"expr": "cmp", "sreg": 1, "op": 0, "data": b"\x06"}]
    source, port = ({"expr": "payload", "dreg": 1, "base": 1, "offset": 12, "len": 4}, {"expr": "payload", "dreg": 9, "base": 2, "offset": 2, "len": 2})
    rules = [
        [*ipv4, source, {"expr": "lookup", "set": "singles", "sreg": 1}, ACCEPT],
        [*ipv4, *tcp, source, port, {"expr": "lookup", "set": "pairs", "sreg": 1}, ACCEPT],
    ]
    snapshot = ruleset(sets, input=rules)
    policy = {
        "allow": [
            {"name": "pair", "sources": ["10.79.1.7"], "protocol": "tcp", "ports": ["208"]},
            {"name": "other", "sources": ["10.79.1.7"], "protocol": "tcp", "ports": ["209"]},
            {"name": "single", "sources": ["10.80.0.8"], "protocol": "udp", "ports": ["9"]},
        ],
        "permit": [{"name": "all"}], "forward": None,
    }
    result = verify(snapshot, HOST, policy)
    assert {flow["name"]: flow["status"] for flow in result["flows"]} == {"pair": "ok", "other": "broken", "single": "ok"}
    found = Filter(snapshot, "ip", Host(HOST))
    _nodes, edges = found.diagrams.size(found.received())
    assert edges < 20 * count

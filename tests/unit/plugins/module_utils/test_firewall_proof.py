# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Real packet filters, captured live, get the findings that are known to be true of them."""

from __future__ import annotations

import copy
import json
import pathlib

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import nft_ruleset
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_proof import verify
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.host_network import Host
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_fields import (
    DADDR,
    DPORT,
    IIF,
    NEW,
    PROTOCOL,
    SADDR,
    SPORT,
    STATE,
    TCP_FLAGS,
)
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_listing import rule_text
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_listing_check import MERGED, check_listing
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_paths import Filter

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
PEERS = ["10.79.1.11", "10.79.1.12", "fd00:79:1::12"]
PLAN = {
    "sets": {"administrators": ["10.79.0.1"], "peers": PEERS},
    "allow": [
        {"name": "ssh", "sources": ["@administrators"], "destinations": ["10.79.0.11"], "protocol": "tcp", "ports": ["22"]},
        {"name": "api", "sources": ["10.79.0.0/24", "fd00:79::/64"], "destinations": ["10.79.0.11", "fd00:79::11"], "interface": "eth0",
         "protocol": "tcp", "ports": ["8443"]},
        {"name": "internal", "sources": ["@peers"], "destinations": ["10.79.1.11", "fd00:79:1::11"], "interface": "eth1",
         "protocol": "tcp", "ports": ["20550", "28000-28999"]},
    ],
}
SSH = {"allow": [{"name": "ssh", "protocol": "tcp", "ports": ["22"]}]}


def captured(name):
    """``(ruleset, host)`` of a fixture."""
    data = json.loads((FIXTURES / f"firewall_{name}.json").read_text(encoding="utf-8"))
    return nft_ruleset.from_json(data["ruleset"]), data["host"]


def judged(name, policy, change=None, host=True, **options):
    """The result for a fixture, perhaps changed."""
    ruleset, picture = captured(name)
    if change:
        change(ruleset)
    return verify(ruleset, picture if host else None, policy, **options)


def flows(result):
    return {flow["name"]: flow["status"] for flow in result["flows"]}


def leaks(result):
    return {(leak["part"], leak["status"], leak["rule"].get("chain"), leak["rule"].get("comment")) for leak in result["leaks"]}


def chain(ruleset, table, name):
    return next(one for one in ruleset["tables"] if one["name"] == table)["chains"][name]


# -- the collection's own -----------------------------------------------------------------------------------------------


def test_the_collections_own_ruleset_holds():
    result = judged("collection", PLAN)
    assert result["verdict"] == "ok"
    assert flows(result) == {"ssh": "ok", "api": "ok", "internal": "ok"}
    assert result["leaks"] == [] and result["unknown"] == []


def test_a_missing_flow_is_broken_with_its_way_to_the_last_rule():
    def without_ssh(ruleset):
        rules = chain(ruleset, "vllm_hardening", "flows")["rules"]
        rules[:] = [rule for rule in rules if rule["comment"] != "ssh"]

    result = judged("collection", PLAN, without_ssh)
    assert result["verdict"] == "violated"
    assert flows(result) == {"ssh": "broken", "api": "ok", "internal": "ok"}
    flow = result["flows"][0]
    assert flow["packet"]["source"] == "10.79.0.1" and flow["packet"]["destination_port"] == 22 and flow["phase"] == "opening"
    assert flow["trace"][-1]["comment"] == "refused" and flow["trace"][-1]["outcome"] == "drop"


def test_an_unplanned_rule_is_a_leak_with_packet_box_and_trace():
    policy = copy.deepcopy(PLAN)
    del policy["allow"][1]
    result = judged("collection", policy)
    assert leaks(result) == {("input", "leak", "flows", "chat-api")}
    families = {leak["family"]: leak for leak in result["leaks"]}
    assert set(families) == {"ip", "ip6"}
    leak = families["ip"]
    assert leak["packet"]["destination_port"] == 8443 and leak["packet"]["interface"] == "eth0"
    assert leak["box"]["dport"] == "8443" and leak["box"]["daddr"] == "10.79.0.11"
    assert [step["outcome"] for step in leak["trace"]][-2:] == ["jump flows", "accept"]


def test_a_foreign_accept_cannot_open_and_a_foreign_drop_does_break():
    def foreign(ruleset, policy):
        table = {"family": "inet", "name": "foreign", "handle": 9, "flags": 0, "comment": None, "sets": {}, "objects": [], "flowtables": []}
        table["chains"] = {"in": {
            "name": "in", "handle": 1, "type": "filter", "hook": 1, "priority": 100, "policy": policy, "flags": 1, "devices": [],
            "comment": None, "rules": [],
        }}
        ruleset["tables"].append(table)

    assert judged("collection", PLAN, lambda ruleset: foreign(ruleset, 1))["verdict"] == "ok"
    result = judged("collection", PLAN, lambda ruleset: foreign(ruleset, 0))
    assert set(flows(result).values()) == {"broken"}
    assert result["flows"][0]["trace"][-1]["table"] == "foreign"


def test_a_dormant_table_protects_nothing():
    def sleep(ruleset):
        ruleset["tables"][0]["flags"] = nft_ruleset.TABLE_DORMANT

    result = judged("collection", PLAN, sleep)
    assert result["verdict"] == "violated"
    assert {leak["rule"]["outcome"] for leak in result["leaks"]} == {"no chain of the hook input refuses it"}


def test_without_addresses_the_strong_host_rule_cannot_be_decided():
    result = judged("collection", PLAN, host=False)
    assert result["verdict"] == "unknown"
    assert "fib" in " ".join(next(flow for flow in result["flows"] if flow["name"] == "ssh")["depends_on"])


def test_what_may_refuse_anything_leaves_nothing_certain():
    obstacle = {"object": "legacy iptables table ip filter", "reason": "3 rules", "hooks": ["input"], "rewrites": False}
    result = judged("collection", PLAN, obstacles=[obstacle])
    assert result["verdict"] == "unknown" and set(flows(result).values()) == {"unknown"}
    assert result["flows"][0]["depends_on"] == ["legacy iptables table ip filter"]
    assert result["unknown"] == [{"object": obstacle["object"], "reason": "3 rules"}]


def test_an_unknown_expression_is_named_and_never_passes():
    def strange(ruleset):
        rules = chain(ruleset, "vllm_hardening", "input")["rules"]
        rules.insert(0, {"handle": 99, "comment": None, "compat": None, "expressions": [{"expr": "quantum"}]})

    result = judged("collection", PLAN, strange)
    assert result["verdict"] == "unknown"
    assert {one["object"] for one in result["unknown"]} == {"expression 'quantum' (inet vllm_hardening input handle 99)"}
    assert {leak["status"] for leak in result["leaks"] if leak["part"] == "input"} == {"unknown"}


def test_a_limit_decides_only_where_it_has_a_verdict():
    policy = copy.deepcopy(PLAN)
    policy["allow"].append({"name": "ping", "protocol": "icmp", "sources": ["10.79.0.0/24"]})
    result = judged("collection", policy)
    # ICMP passes in types other than echo nowhere, so the flow is broken, not merely limited.
    assert flows(result)["ping"] == "broken" and flows(result)["api"] == "ok"


# -- others' ------------------------------------------------------------------------------------------------------------


def test_docker_leaves_the_host_open_and_publishes_through_forward():
    result = judged("docker", {**SSH, "permit_forward": ["established", {"name": "containers", "interface": "docker0"}]})
    assert flows(result) == {"ssh": "ok"}
    assert {(leak["part"], leak["rule"]["outcome"]) for leak in result["leaks"] if leak["part"] == "input"} == {
        ("input", "no chain of the hook input refuses it")
    }
    published = [leak for leak in result["leaks"] if leak["part"] == "forward" and leak["family"] == "ip"]
    assert {leak["rule"]["chain"] for leak in published} == {"DOCKER"}
    # Docker published 8080 to everyone and 9090 to 127.0.0.1; a neighbour that routes to the container gets around the latter.
    assert published[0]["rule"]["rule"].split(" th dport ")[1] in ("80 counter accept", "90 counter accept")


def test_a_published_port_is_followed_through_its_translation():
    ruleset, host = captured("docker")
    found = Filter(ruleset, "ip", Host(host))
    at = [one["name"].rstrip(b"\0") for one in found.space.interfaces].index(b"eth0")
    packet = {PROTOCOL: 6, STATE: NEW, IIF: at, SADDR: 0xCB007107, DADDR: 0x0A4F000B, SPORT: 40000, DPORT: 8080, TCP_FLAGS: 2}
    steps, outcome = found.trace(packet)
    assert outcome == ("accept", "forward")
    assert any("xt target DNAT" in step.get("rule", "") for step in steps)
    assert found.diagrams.lookup(found.received(), packet) == outcome
    assert found.diagrams.lookup(found.received(), {**packet, DPORT: 9090}) == ("accept", "input")


def test_docker_translates_what_its_containers_send_and_nothing_of_the_host():
    policy = {"egress": [{"name": "peer", "destinations": ["10.79.1.12"], "protocol": "tcp", "ports": ["20550"]}]}

    def translate_everything(ruleset):
        nat = next(table for table in ruleset["tables"] if (table["family"], table["name"]) == ("ip", "nat"))
        rule = nat["chains"]["POSTROUTING"]["rules"][0]
        rule["expressions"] = [one for one in rule["expressions"] if one["expr"] in ("counter", "target")]

    assert flows(judged("docker", policy)) == {"peer": "ok"}
    widened = judged("docker", policy, translate_everything)
    assert flows(widened) == {"peer": "unknown"}
    assert "the connection's source was translated" in widened["flows"][0]["depends_on"]


def test_ufw_as_its_status_says_and_its_limit_that_refuses_ipv6():
    policy = {
        "allow": [
            {"name": "ssh", "sources": ["10.79.0.0/24"], "protocol": "tcp", "ports": ["22"]},
            {"name": "https", "sources": ["10.79.0.0/24", "fd00:79::/64"], "protocol": "tcp", "ports": ["443"]},
            {"name": "limited", "sources": ["fd00:79::/64"], "protocol": "tcp", "ports": ["2222"]},
            {"name": "limited4", "sources": ["10.79.0.0/24"], "protocol": "tcp", "ports": ["2222"]},
        ],
        "permit": ["established", "loopback", "icmp", "dhcp"],
    }
    result = judged("ufw", policy)
    assert flows(result) == {"ssh": "ok", "https": "ok", "limited": "broken", "limited4": "unknown"}
    limited = {flow["name"]: flow for flow in result["flows"]}
    assert limited["limited"]["trace"][-1]["outcome"] == "policy drop"
    assert "iptables match recent" in " ".join(limited["limited4"]["depends_on"])
    open_to_all = {leak["box"].get("daddr") for leak in result["leaks"] if leak["part"] == "input" and leak["status"] == "leak"}
    assert {"239.255.255.250", "224.0.0.251"} <= open_to_all


def test_firewalld_zones_rich_rules_and_trusted_sources():
    policy = {"allow": [
        {"name": "web", "sources": ["10.79.0.0/24"], "destinations": ["10.79.0.11"], "interface": "eth0", "protocol": "tcp", "ports": ["8443"]},
        {"name": "rich", "sources": ["10.79.1.0/26"], "interface": "eth1", "protocol": "tcp", "ports": ["20550"]},
        {"name": "rejected", "sources": ["10.79.1.66"], "interface": "eth1", "protocol": "tcp", "ports": ["20550"]},
        {"name": "logged", "sources": ["fd00:79:1::/64"], "destinations": ["fd00:79:1::11"], "interface": "eth1", "protocol": "tcp", "ports": ["20550"]},
    ], "forward": None}
    result = judged("firewalld", policy)
    assert flows(result) == {"web": "ok", "rich": "ok", "rejected": "broken", "logged": "ok"}
    trusted = [leak for leak in result["leaks"] if leak["rule"]["chain"] == "filter_IN_trusted"]
    assert trusted and trusted[0]["box"]["saddr"] == "10.79.0.99"


@pytest.mark.parametrize("source, status", [("192.0.2.66", "broken"), ("192.0.2.65", "ok"), ("2001:db8::66", "broken"), ("2001:db8::67", "ok")])
def test_fail2ban_bans_whom_it_banned(source, status):
    policy = {"allow": [{"name": "ssh", "sources": [source], "protocol": "tcp", "ports": ["22"]}], "permit": [{"name": "all"}], "forward": None}
    result = judged("fail2ban", policy)
    assert flows(result) == {"ssh": status}


# -- text and canonical form ----------------------------------------------------------------------------------------------


def test_rules_read_like_nft():
    ruleset, _host = captured("collection")
    table = ruleset["tables"][0]
    texts = [rule_text(table, rule) for name in ("input", "flows", "spoofing") for rule in table["chains"][name]["rules"]]
    for part in (
        "iif 1 accept", "ct state invalid counter drop", "icmp type 8 limit rate 50/second accept", "jump flows",
        'iifname "eth0"', "ip saddr @administrators_v4", "th dport { 20550, 28000-28999 }", "oif missing counter drop",
        "fib daddr . iif type != {",
    ):
        assert any(part in text for text in texts), part


def test_canonical_forms_ignore_what_packets_and_loading_change():
    ruleset, _host = captured("collection")
    first = nft_ruleset.canonical(ruleset["tables"][0])
    other = copy.deepcopy(ruleset["tables"][0])
    other["handle"] = 77
    renamed = {}
    for one in other["chains"].values():
        one["handle"] += 100
        for rule in one["rules"]:
            rule["handle"] += 100
            rule["expressions"] = [dict(expression) for expression in rule["expressions"]]
            for expression in rule["expressions"]:
                if expression["expr"] == "counter":
                    expression["packets"] = 5
                if str(expression.get("set", "")).startswith("__set"):
                    renamed[expression["set"]] = expression["set"] = expression["set"].replace("__set", "__set9")
    other["sets"] = {
        name.replace("__set", "__set9"): {**one, "name": name.replace("__set", "__set9"), "handle": one["handle"] + 100,
                                          "elements": list(reversed(one["elements"]))}
        for name, one in other["sets"].items()
    }
    assert renamed and nft_ruleset.canonical(other) == first


@pytest.mark.parametrize("change", [
    lambda table: table["chains"]["input"].update(policy=1),
    lambda table: table["chains"]["input"]["rules"].pop(),
    lambda table: table["chains"]["input"]["rules"].reverse(),
    lambda table: table["sets"]["administrators_v4"]["elements"].pop(),
    lambda table: table["chains"]["flows"]["rules"][0].update(comment="other"),
    lambda table: table.update(flags=1),
])
def test_canonical_forms_tell_real_differences(change):
    ruleset, _host = captured("collection")
    first = nft_ruleset.canonical(ruleset["tables"][0])
    change(ruleset["tables"][0])
    assert nft_ruleset.canonical(ruleset["tables"][0]) != first


def test_a_snapshot_survives_json():
    ruleset, _host = captured("firewalld")
    assert nft_ruleset.from_json(json.loads(json.dumps(nft_ruleset.to_json(ruleset)))) == ruleset


# -- listings that mislead --------------------------------------------------------------------------------------------------


def loaded(*expressions):
    """A snapshot of one rule."""
    rule = {"handle": 7, "comment": None, "compat": None, "expressions": [
        {"expr": "meta", "key": 16, "dreg": 1}, {"expr": "cmp", "sreg": 1, "op": 0, "data": b"\x06"}, *expressions,
        {"expr": "immediate", "dreg": 0, "data": {"code": 1, "chain": None}},
    ]}
    table = {"family": "inet", "name": "t", "flags": 0, "sets": {}, "chains": {"c": {"name": "c", "rules": [rule]}}}
    return {"tables": [table]}


def test_two_negations_merged_by_nft_are_reported():
    merged = loaded({"expr": "payload", "base": 2, "offset": 0, "len": 4, "dreg": 1}, {"expr": "cmp", "sreg": 1, "op": 1, "data": b"\xff" * 4})
    assert [(one["handle"], one["why"]) for one in check_listing(merged)] == [(7, MERGED)]


def test_one_negation_and_a_merged_equality_are_not():
    assert check_listing(loaded(
        {"expr": "payload", "base": 2, "offset": 2, "len": 2, "dreg": 1}, {"expr": "cmp", "sreg": 1, "op": 1, "data": b"\xff" * 2},
    )) == []
    assert check_listing(loaded(
        {"expr": "payload", "base": 2, "offset": 0, "len": 4, "dreg": 1}, {"expr": "cmp", "sreg": 1, "op": 0, "data": b"\xff" * 4},
    )) == []


# -- users ----------------------------------------------------------------------------------------------------------------

USERS = {"root": 0, "vllm-gateway": 801, "vllm-chat": 802}
LIMITS = {
    "permit": [{"name": "all"}], "forward": None, "sets": {"peers": ["10.79.1.12"]},
    "egress": [
        {"name": "chat-peers", "user": "vllm-chat", "destinations": ["@peers"], "protocol": "tcp", "ports": ["20550"]},
        {"name": "chat-backend", "users": ["root", "vllm-gateway", "vllm-chat"], "interface": "lo", "protocol": "tcp", "ports": ["17443"]},
    ],
    "egress_users": ["vllm-gateway", "vllm-chat"], "permit_egress": ["established", "loopback"],
    "refuse_egress": [{"name": "chat-backend", "other_users": ["root", "vllm-gateway", "vllm-chat"], "interface": "lo", "protocol": "tcp", "ports": ["17443"]}],
}


def limited(change=None, users=None, **policy):
    """The result for nodes whose service users are confined, with other answers to who they are."""
    return judged("users", {**LIMITS, **policy}, change, users=USERS if users is None else users)


def lets(result):
    """(family, user, port, interface, the refusal) of what passes and should not."""
    return {(leak["family"], leak["packet"].get("uid"), leak["packet"].get("destination_port"), leak["packet"]["output_interface"], leak["refused"])
            for leak in result["leaks"]}


def test_users_are_confined_and_others_are_not_looked_at():
    result = limited()
    assert result["verdict"] == "ok" and result["leaks"] == []
    assert flows(result) == {"chat-peers": "ok", "chat-backend": "ok"}


def test_rules_about_routes_leave_open_by_which_interface(monkeypatch):
    monkeypatch.setattr(Host, "routes_to", lambda *_arguments: None)
    result = limited()
    assert result["verdict"] == "ok" and flows(result) == {"chat-peers": "ok", "chat-backend": "ok"}


def test_without_users_everything_that_the_host_sends_is_looked_at():
    assert limited(egress_users=None)["verdict"] == "violated"


@pytest.mark.parametrize("rule", ["chat-backend", "vllm-gateway", "vllm-chat"])
def test_a_rule_about_users_that_is_gone_is_a_leak(rule):
    def without(ruleset):
        rules = chain(ruleset, "vllm_hardening", "output")["rules"]
        before = len(rules)
        rules[:] = [one for one in rules if one["comment"] != rule]
        assert len(rules) == before - 1

    result = limited(without)
    assert result["verdict"] == "violated"
    if rule == "chat-backend":
        assert {leak[2:] for leak in lets(result)} == {(17443, "lo", "chat-backend")}
        assert not {leak[1] for leak in lets(result)} & {None, *USERS.values()}
    else:
        assert {leak[1] for leak in lets(result)} == {USERS[rule]} and {leak[4] for leak in lets(result)} == {None}


def test_a_widened_limit_is_a_leak_and_a_narrowed_one_breaks():
    everybody_but_chat = {name: number for name, number in USERS.items() if name != "vllm-chat"}
    one_less = [{**LIMITS["refuse_egress"][0], "other_users": ["root", "vllm-gateway"]}]
    widened = limited(refuse_egress=one_less)
    assert {leak[1:] for leak in lets(widened)} == {(802, 17443, "lo", "chat-backend")}
    narrowed = limited(users={**USERS, "vllm-gateway": 900}, egress_users=[])
    assert flows(narrowed)["chat-backend"] == "broken"
    assert flows(limited(users=everybody_but_chat)) == {"chat-peers": "unknown", "chat-backend": "unknown"}

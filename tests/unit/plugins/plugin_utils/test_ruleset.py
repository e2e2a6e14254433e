# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Flows and options become the right text, or all their problems at once."""

from __future__ import annotations

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.ruleset import RulesetError, render

ADMINISTRATORS = ["10.77.0.1"]


def flow(**changes):
    entry = {"name": "api", "sources": ["10.77.1.128/25"], "protocol": "tcp", "ports": [7443], "reason": "clients"}
    return {key: value for key, value in {**entry, **changes}.items() if value is not None}


def chain(text, name):
    """The rules of a chain."""
    lines = text.split(f"\tchain {name} {{\n")[1].split("\n\t}")[0].splitlines()
    return [line.strip() for line in lines if not line.strip().startswith(("#", "type "))]


def rendered(*flows, **options):
    return render(list(flows), administrators=options.pop("administrators", ADMINISTRATORS), **options)


def problems(*flows, **options):
    with pytest.raises(RulesetError) as error:
        rendered(*flows, **options)
    return error.value.problems


def test_administrators_reach_ssh_without_a_flow():
    assert chain(rendered(), "flows") == ['ip saddr 10.77.0.1 tcp dport 22 counter accept comment "management-ssh"']


def test_a_flow_that_admits_the_administrators_is_the_management_rule_and_comes_first():
    ssh = flow(name="ssh", sources=["@administrators"], ports=["22"], interface="eth0", destinations=["10.77.0.11"], reason="administration")
    text = rendered(flow(), ssh, sets={"administrators": ADMINISTRATORS})
    assert chain(text, "flows") == [
        'iifname "eth0" ip saddr @administrators_v4 ip daddr 10.77.0.11 tcp dport 22 counter accept comment "ssh"',
        'ip saddr 10.77.1.128/25 tcp dport 7443 counter accept comment "api"',
    ]


@pytest.mark.parametrize("nearly", [
    {"sources": ["10.77.0.2"]},
    {"protocol": "udp", "sources": ADMINISTRATORS},
    {"ports": ["23-80"], "sources": ADMINISTRATORS},
])
def test_a_flow_that_does_not_admit_the_administrators_does_not_replace_the_management_rule(nearly):
    text = rendered(flow(name="nearly", **{"ports": ["22"], **nearly}))
    assert chain(text, "flows")[0] == 'ip saddr 10.77.0.1 tcp dport 22 counter accept comment "management-ssh"'


def test_management_rule_holds_on_another_port_and_for_both_families():
    text = rendered(administrators=["10.77.0.0/24", "fd00:77::1"], ssh_port=2222)
    assert chain(text, "flows") == [
        'ip saddr 10.77.0.0/24 tcp dport 2222 counter accept comment "management-ssh"',
        'ip6 saddr fd00:77::1 tcp dport 2222 counter accept comment "management-ssh"',
    ]


def test_a_thousand_peers_are_one_rule_and_one_set():
    peers = [f"10.{77 + number // 250}.2.{number % 250 + 1}" for number in range(1000)]
    text = rendered(flow(name="internal", sources=["@peers"]), sets={"peers": peers})
    assert [rule for rule in chain(text, "flows") if "internal" in rule] == ['ip saddr @peers_v4 tcp dport 7443 counter accept comment "internal"']
    assert "set peers_v4 {\n\t\ttype ipv4_addr\n\t\telements" in text
    assert len(text.splitlines()) < 60


def test_a_set_of_both_families_becomes_one_set_a_family():
    text = rendered(flow(sources=["@clients"]), sets={"clients": ["10.77.1.0/24", "fd00:77:1::/64"]})
    assert [rule for rule in chain(text, "flows") if "api" in rule] == [
        'ip saddr @clients_v4 tcp dport 7443 counter accept comment "api"',
        'ip6 saddr @clients_v6 tcp dport 7443 counter accept comment "api"',
    ]


def test_a_set_with_networks_is_one_of_intervals():
    assert "set peers_v4 {\n\t\ttype ipv4_addr\n\t\tflags interval\n" in rendered(flow(sources=["@peers"]), sets={"peers": ["10.77.2.0/24", "10.77.3.1"]})


def test_unused_sets_and_empty_sets_are_left_out():
    text = rendered(flow(sources=["@monitors", "10.77.1.5"]), sets={"monitors": [], "unused": ["10.77.1.9"]})
    assert "set " not in text
    assert 'ip saddr 10.77.1.5 tcp dport 7443 counter accept comment "api"' in chain(text, "flows")


def test_everybody_is_no_address_match():
    both = rendered(flow(sources=["0.0.0.0/0", "::/0"]))
    one = rendered(flow(sources=["0.0.0.0/0"]))
    assert 'tcp dport 7443 counter accept comment "api"' in chain(both, "flows")
    assert 'meta nfproto ipv4 tcp dport 7443 counter accept comment "api"' in chain(one, "flows")


def test_destinations_select_the_family():
    text = rendered(flow(sources=["0.0.0.0/0", "::/0"], destinations=["10.77.1.11"]))
    assert [rule for rule in chain(text, "flows") if "api" in rule] == ['ip daddr 10.77.1.11 tcp dport 7443 counter accept comment "api"']


def test_ports_are_merged_and_sorted():
    text = rendered(flow(ports=["28500-28999", 20550, "28000-28499", "20551"]))
    assert 'ip saddr 10.77.1.128/25 tcp dport { 20550-20551, 28000-28999 } counter accept comment "api"' in chain(text, "flows")


def test_the_input_chain_drops_by_policy_and_by_its_last_rule():
    text = rendered()
    assert "type filter hook input priority filter - 5; policy drop;" in text
    assert chain(text, "input")[-1] == 'counter drop comment "refused"'


def test_only_answers_bypass_the_flows():
    assert [rule for rule in chain(rendered(), "input") if "established" in rule] == ['ct state established ct direction reply accept comment "answers"']


def test_neighbour_discovery_is_never_rate_limited_and_echo_is():
    rules = chain(rendered(), "input")
    assert [rule for rule in rules if "nd-neighbor" in rule and "limit rate" not in rule]
    assert all("limit rate" in rule for rule in rules if "echo-request" in rule)


def test_segments_are_accepted_only_from_where_they_are_reached():
    text = rendered(segments={"internal": ["10.77.2.0/24", "fd00:77:2::/64"]})
    assert chain(text, "spoofing")[1:3] == [
        'ip saddr @segment_internal_v4 fib saddr . iif oif missing counter drop comment "spoofed internal"',
        'ip6 saddr @segment_internal_v6 fib saddr . iif oif missing counter drop comment "spoofed internal"',
    ]


def test_forwarding_is_refused_or_between_segments_only():
    segments = {"api": ["10.77.1.0/24"], "internal": ["10.77.2.0/24"]}
    assert chain(rendered(segments=segments), "forward") == ['counter drop comment "forwarding refused"']
    text = rendered(segments=segments, forwarding="containers")
    assert chain(text, "forward") == [
        'ip saddr @segment_api_v4 ip daddr @segment_internal_v4 counter drop comment "forwarding api to internal"',
        'ip saddr @segment_internal_v4 ip daddr @segment_api_v4 counter drop comment "forwarding internal to api"',
    ]


def test_a_service_user_reaches_its_peers_loopback_and_nothing_else():
    egress = [{"name": "peers", "user": "vllm-chat", "destinations": ["@peers"], "protocol": "tcp", "ports": ["1-65535"], "reason": "peers"}]
    text = rendered(egress=egress, sets={"peers": ["10.77.2.12"]}, log_rate="")
    assert chain(text, "output") == ['meta skuid "vllm-chat" jump egress_vllm-chat comment "vllm-chat"']
    assert chain(text, "egress_vllm-chat") == [
        'oif "lo" accept', 'ct state established ct direction reply accept comment "answers"',
        'ip daddr @peers_v4 tcp dport 1-65535 counter accept comment "peers"', 'counter reject with icmpx type admin-prohibited comment "refused"',
    ]


def test_a_service_user_without_destinations_reaches_loopback_only():
    text = rendered(egress=[{"name": "none", "user": "vllm-chat", "destinations": [], "protocol": "tcp", "ports": [], "reason": "none"}], log_rate="")
    assert len(chain(text, "egress_vllm-chat")) == 3


def test_a_port_on_loopback_is_for_root_and_the_users_named():
    text = rendered(loopback=[{"name": "chat-backend", "users": ["vllm-gateway"], "ports": ["17443"], "reason": "behind the gateway"}])
    assert chain(text, "output") == [
        'oif "lo" tcp dport 17443 meta skuid != { "root", "vllm-gateway" } counter reject with tcp reset comment "chat-backend"']


def test_shared_addresses_come_before_the_strong_host_model():
    rules = chain(rendered(shared_addresses=["10.77.9.9"]), "input")
    assert rules.index('ip daddr { 10.77.9.9 } jump flows comment "shared addresses"') < [rule.startswith("fib daddr") for rule in rules].index(True)


def test_no_log_without_a_rate():
    assert "log prefix" not in rendered(log_rate="")
    assert "limit rate 7/minute burst 20 packets log prefix" in rendered(log_rate="7/minute")


def test_extra_flows_are_flows():
    text = rendered(extra_flows=[flow(name="backup", ports=[9102], reason="backup agent")])
    assert 'ip saddr 10.77.1.128/25 tcp dport 9102 counter accept comment "backup"' in chain(text, "flows")


def test_nothing_that_old_nft_miscompiles():
    text = rendered(flow(), segments={"internal": ["10.77.2.0/24"]}, forwarding="containers")
    assert [line for line in text.splitlines() if "!=" in line] == [
        '\t\tfib daddr . iif type != { local, broadcast, multicast, anycast } counter drop comment "address of another interface"']


@pytest.mark.parametrize("entry, where, says", [
    (flow(sources=["10.77.1.129/25"]), "vllm_firewall_flows[0].sources[0]", "write 10.77.1.128/25 for the network or 10.77.1.129 for the host"),
    (flow(sources=["gateway.example.com"]), "vllm_firewall_flows[0].sources[0]", "is not an address"),
    (flow(sources=["@cleints"]), "vllm_firewall_flows[0].sources", "did you mean @clients?"),
    (flow(sources=[]), "vllm_firewall_flows[0].sources", "is empty"),
    (flow(ports=[]), "vllm_firewall_flows[0].ports", "is empty"),
    (flow(ports=["80-"]), "vllm_firewall_flows[0].ports[0]", "80-"),
    (flow(ports=[0]), "vllm_firewall_flows[0].ports[0]", "port 0"),
    (flow(ports=[70000]), "vllm_firewall_flows[0].ports[0]", "65535"),
    (flow(protocol="sctp"), "vllm_firewall_flows[0].protocol", "tcp or udp"),
    (flow(reason=None), "vllm_firewall_flows[0].reason", "is missing"),
    (flow(reason=" "), "vllm_firewall_flows[0].reason", "is missing"),
    (flow(name='x" accept comment "'), "vllm_firewall_flows[0].name", "is no name"),
    (flow(interface='eth0" accept'), "vllm_firewall_flows[0].interface", "is not an interface name"),
    (flow(destinations=["10.77.1.300"]), "vllm_firewall_flows[0].destinations[0]", "is not an address"),
    (flow(port=[1]), "vllm_firewall_flows[0].port", "did you mean ports"),
    ("api", "vllm_firewall_flows[0]", "is not a mapping"),
])
def test_bad_flows_are_refused_with_where_and_what_to_write(entry, where, says):
    found = problems(entry, sets={"clients": ["10.77.1.0/24"]})
    assert any(problem.startswith(f"{where}:") and says in problem for problem in found), found


@pytest.mark.parametrize("options, where", [
    ({"administrators": []}, "vllm_firewall_administrators"),
    ({"administrators": "10.77.0.1"}, "vllm_firewall_administrators"),
    ({"forwarding": "yes"}, "vllm_firewall_forwarding"),
    ({"log_rate": "often"}, "vllm_firewall_log_rate"),
    ({"ssh_port": "ssh"}, "vllm_firewall_ssh_port"),
    ({"sets": {"a b": []}}, "vllm_firewall_sets.a b"),
    ({"segments": {"internal": ["10.77.2.1/24"]}}, "vllm_firewall_segments.internal[0]"),
    ({"egress": [{"name": "x", "user": "no user", "reason": "x"}]}, "vllm_firewall_egress[0].user"),
    ({"egress": [{"name": "x", "user": "vllm", "ports": [1], "reason": "x"}]}, "vllm_firewall_egress[0].protocol"),
    ({"loopback": [{"name": "x", "users": ["a b"], "ports": [1], "reason": "x"}]}, "vllm_firewall_loopback[0].users"),
    ({"loopback": [{"name": "x", "users": [], "ports": [], "reason": "x"}]}, "vllm_firewall_loopback[0].ports"),
    ({"extra_flows": [{"name": "x"}]}, "vllm_firewall_extra_flows[0].reason"),
])
def test_bad_options_are_refused_with_the_variable(options, where):
    assert any(problem.startswith(f"{where}:") for problem in problems(**options))


def test_all_problems_come_in_one_message():
    found = problems(flow(ports=[]), flow(name="b", sources=["x"]), administrators=[], forwarding="no")
    assert {problem.split(":")[0] for problem in found} >= {"vllm_firewall_flows[0].ports", "vllm_firewall_flows[1].sources[0]", "vllm_firewall_forwarding"}


def test_two_flows_of_one_name_are_refused():
    assert any("more than one flow" in problem for problem in problems(flow(), flow(ports=[1])))

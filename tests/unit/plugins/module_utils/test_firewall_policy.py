# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Policies are read, or refused with everything that is wrong with them."""

from __future__ import annotations

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_policy import PolicyError, read_policy


def test_all_problems_at_once():
    with pytest.raises(PolicyError) as error:
        read_policy({
            "version": 2, "alow": [], "sets": {"clients": ["10.77.1.1/24"]},
            "allow": [
                {"name": "api", "sorces": [], "protocol": "tcp", "ports": ["70000", "9-8"]},
                {"name": "api", "protocol": "icmp", "ports": [1]},
                {"sources": ["@nobody", "somewhere"], "protocol": "quic"},
            ],
            "permit": ["everything", {"name": "x", "states": ["old"]}],
            "forward": "no", "egress": [{"name": "dns", "user": True, "interface": ""}],
            "egress_users": "chat", "refuse_egress": ["loopback", {"name": "y", "user": "chat", "other_users": ["root"]}],
        })
    text = "\n".join(error.value.problems)
    for part in (
        "policy.version: 2", "policy.alow: unknown key; did you mean allow?", "'10.77.1.1/24' has host bits set; write 10.77.1.0/24",
        "policy.allow[0].sorces: unknown key; did you mean sources?", "'70000' is not a port", "'9-8' is not a port",
        "policy.allow[1].name: 'api' is also the name of policy.allow[0]", "policy.allow[1].ports: only tcp, udp and sctp have ports",
        "policy.allow[2].name: None", "'@nobody' names no set; sets are clients", "'somewhere' is no address or network",
        "policy.allow[2].protocol: 'quic'", "policy.permit[0]: 'everything' is not known", "policy.permit[1].states",
        "policy.forward: 'no' is not a list", "policy.egress[0].user: True", "policy.egress[0].interface: ''",
        "policy.egress_users: 'chat' is not a list", "policy.refuse_egress[0]: 'loopback' is not a flow",
        "policy.refuse_egress[1]: only one of user, users and other_users says who",
    ):
        assert part in text
    assert len(error.value.problems) == 20


def test_a_flow_in_numbers():
    policy = read_policy({
        "sets": {"clients": ["10.77.1.0/25", "10.77.1.128/25", "fd00:77::1"]},
        "allow": [{"name": "api", "sources": ["@clients"], "protocol": "tcp", "ports": [8443, "8444-8450"], "segment": "api"}],
    })
    flow = policy["allow"][0]
    assert flow["protocols"] == [(6, 6)]
    assert flow["ports"] == [(8443, 8450)]
    assert flow["sources"] == {"ip": [(0x0A4D0100, 0x0A4D01FF)], "ip6": [((0xFD000077 << 96) + 1,) * 2]}
    assert flow["destinations"] is None
    assert policy["forward"] == [] and policy["egress"] is None
    assert policy["permit"] == ["established", "loopback", "icmp"]


@pytest.mark.parametrize("value", [None, [], "allow"])
def test_what_is_no_mapping_is_refused(value):
    with pytest.raises(PolicyError, match="is not a mapping"):
        read_policy(value)


@pytest.mark.parametrize("part, flow, problem", [
    ("permit", {"states": [{"new": True}]}, "states: [{'new': True}] is not a list of new"),
    ("refuse_egress", {"users": [-1]}, "users: -1 is not a user's name or number"),
    ("egress", {"user": 4294967295}, "user: 4294967295 is not a user's name or number"),
    ("allow", {"sources": [0]}, "sources[0]: 0 is no address or network"),
    ("allow", {"sources": [True]}, "sources[0]: True is no address or network"),
    ("allow", {"interface": "\ud800"}, "interface: '\\ud800' is not an interface's name"),
    ("allow", {"interface": "\u00e9" * 9}, "is not an interface's name"),
])
def test_nonsense_is_named_and_raises_nothing_else(part, flow, problem):
    with pytest.raises(PolicyError) as error:
        read_policy({part: [{"name": "one", **flow}]})
    found, = error.value.problems
    assert problem in found

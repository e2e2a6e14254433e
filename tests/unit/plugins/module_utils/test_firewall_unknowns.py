# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What packets, time, routes or the kernel's version decide is never taken for granted."""

from __future__ import annotations

import copy
import errno
import os
import struct

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import (
    decision_diagram,
    firewall_witness,
    host_network,
    netlink,
    nft_messages,
    nft_ruleset,
)
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_proof import verify
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.netlink import NetlinkError, pack_attribute, pack_nested
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_ruleset import SET_DYNAMIC, SET_MAP, SET_TIMEOUT

HOST = {
    "interfaces": [
        {"index": 1, "name": "lo", "loopback": True, "addresses": ["127.0.0.1/8", "::1/128"]},
        {"index": 2, "name": "eth0", "loopback": False, "addresses": ["10.79.0.11/24", "fd00:79::11/64"]},
    ],
    "routes": [
        {"family": "ip", "table": 255, "destination": "127.0.0.0/8", "type": 2, "interfaces": [1], "metric": 0},
        {"family": "ip", "table": 255, "destination": "10.79.0.11/32", "type": 2, "interfaces": [2], "metric": 0},
        {"family": "ip", "table": 254, "destination": "10.79.0.0/24", "type": 1, "interfaces": [2], "metric": 0},
        {"family": "ip6", "table": 255, "destination": "fd00:79::11/128", "type": 2, "interfaces": [2], "metric": 0},
        {"family": "ip6", "table": 254, "destination": "fd00:79::/64", "type": 1, "interfaces": [2], "metric": 0},
    ],
    "policy_routing": {"ip": False, "ip6": False},
    "forwarding": {"ip": [], "ip6": []},
    "route_localnet": [],
}
HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
ACCEPT, DROP = ({"expr": "immediate", "dreg": 0, "data": {"code": code, "chain": None}} for code in (1, 0))
IPV4, IPV6 = ([{"expr": "meta", "dreg": 1, "key": 15}, {"expr": "cmp", "sreg": 1, "op": 0, "data": bytes([number])}] for number in (2, 10))
TCP = [{"expr": "meta", "dreg": 1, "key": 16}, {"expr": "cmp", "sreg": 1, "op": 0, "data": b"\x06"}]
SOURCE = {"expr": "payload", "dreg": 1, "base": 1, "offset": 12, "len": 4}
SSH = {"allow": [{"name": "ssh", "sources": ["10.79.0.50"], "protocol": "tcp", "ports": ["22"]}], "permit": [{"name": "all"}]}
NOTHING = {"permit": ["established", "loopback", "icmp"]}


def a_set(name, flags=0, elements=()):
    """A set of IPv4 addresses, or a map from them to marks."""
    return {
        "name": name, "handle": 1, "flags": flags, "key_type": 7, "key_len": 4, "data_type": None, "data_len": 4, "field_lens": [], "timeout": None,
        "comment": None, "elements": list(elements), "expressions": [], "object_type": None, "size": None,
    }


def table(chains, sets=(), family="inet", policy=0, **changes):
    """A table of base chains named after their hooks."""
    return {
        "family": family, "name": "t", "handle": 1, "flags": 0, "comment": None, "objects": [], "flowtables": [], "sets": {one["name"]: one for one in sets},
        "chains": {
            name: {
                "name": name, "handle": 1, "type": "filter", "hook": HOOKS.get(name), "priority": 0, "policy": policy, "flags": 1, "devices": [],
                "comment": None, "rules": [{"handle": at, "comment": None, "compat": None, "expressions": rule} for at, rule in enumerate(rules, 1)], **changes,
            }
            for name, rules in chains.items()
        },
    }


def judged(policy, *tables, **changes):
    """The result for tables on a host, perhaps a changed one."""
    return verify({"generation": 1, "tables": list(tables)}, {**HOST, **changes}, policy)


def status(result):
    """The status of the only flow."""
    flow, = result["flows"]
    return flow["status"]


def leaks(result, part="input"):
    return {(leak["family"], leak["status"]) for leak in result["leaks"] if leak["part"] == part}


# -- sets ------------------------------------------------------------------------------------------------------------------

LOOKUP = {"expr": "lookup", "set": "s", "sreg": 1, "flags": 0}
ADD = {"expr": "dynset", "set": "s", "op": 0, "sreg_key": 1, "timeout": 0, "flags": 0}


@pytest.mark.parametrize("flags", [0, SET_TIMEOUT, SET_DYNAMIC])
def test_a_set_that_a_rule_fills_may_hold_anything_whatever_its_flags(flags):
    rules = [[*IPV4, *TCP, SOURCE, ADD], [*IPV4, SOURCE, LOOKUP, ACCEPT]]
    result = judged(NOTHING, table({"input": rules}, [a_set("s", flags)]))
    assert result["verdict"] == "unknown" and leaks(result) == {("ip", "unknown")}
    if not flags & SET_DYNAMIC:
        assert judged(NOTHING, table({"input": rules[1:]}, [a_set("s", flags)]))["verdict"] == "ok"


def test_a_map_that_packets_fill_may_give_any_value():
    lookup = {**LOOKUP, "dreg": 1}
    marked = [{"expr": "meta", "dreg": 1, "key": 3}, {"expr": "cmp", "sreg": 1, "op": 0, "data": struct.pack("=I", 1)}]
    unmarked = [*marked, DROP]  # whatever mark a packet came with, it has none of the map's
    rules = [unmarked, [*IPV4, SOURCE, lookup, {"expr": "meta", "key": 3, "sreg": 1}], [*marked, ACCEPT]]
    assert leaks(judged(NOTHING, table({"input": rules}, [a_set("s", SET_MAP)]))) == set()
    assert leaks(judged(NOTHING, table({"input": rules}, [a_set("s", SET_MAP | SET_DYNAMIC)]))) == {("ip", "unknown")}


@pytest.mark.parametrize("extra, expected", [({}, "broken"), ({"timeout": 3600000, "expiration": 5}, "unknown")])
def test_a_catch_all_that_ends_some_time_refuses_nothing_for_good(extra, expected):
    catchall = {"key": None, "flags": 2, **extra}
    chains = {"input": [[*IPV4, SOURCE, LOOKUP, DROP], [ACCEPT]]}
    assert status(judged(SSH, table(chains, [a_set("s", SET_TIMEOUT, [catchall])]))) == expected


# -- statements that take packets away ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("thief", [{"expr": "synproxy", "mss": 1460, "wscale": 0, "flags": 1}, {"expr": "fwd", "dev": 1}])
def test_what_a_statement_takes_away_does_not_arrive(thief):
    assert status(judged(SSH, table({"input": [[*TCP, thief], [ACCEPT]]}))) == "unknown"


# -- iptables' matches and targets in IPv6 -----------------------------------------------------------------------------------


def xt(name, info, revision=0):
    return {"expr": "match", "name": name, "rev": revision, "info": info}


@pytest.mark.parametrize("types, expected", [(1 << 1, {("ip6", "unknown")}), (1 << 2, {("ip6", "leak")}), (1 << 5, {("ip6", "leak")})])
def test_own_addresses_are_unicast_to_the_addrtype_of_ip6tables(types, expected):
    match = xt("addrtype", struct.pack("=HHI", 0, types, 0), 1)
    assert leaks(judged(NOTHING, table({"input": [[match, ACCEPT]]}, family="ip6"))) - {("ip", "leak")} == expected


@pytest.mark.parametrize("match", [
    xt("ipv6header", struct.pack("=BBB", 0x20, 0xFF, 0)), xt("ipv6header", struct.pack("=BBB", 0x01, 0, 1)), xt("icmp6", struct.pack("=4B", 255, 0, 255, 0)),
])
def test_matches_of_packets_without_extension_headers_are_not_taken_for_the_opposite(match):
    policy = {"allow": [{"name": "all", "sources": ["fd00:79::50"], "protocol": "icmpv6"}], "permit": [{"name": "all"}]}
    chains = {"input": [[match, DROP], [ACCEPT]]}
    assert status(judged(policy, table(chains, family="ip6"))) == ("broken" if match["name"] == "icmp6" else "unknown")
    assert status(judged(policy, table({"input": [[match, ACCEPT]]}, family="ip6"))) != "ok"


@pytest.mark.parametrize("target, offset", [("TTL", 8), ("DSCP", 1), ("LOG", None)])
def test_a_target_that_changes_the_header_is_seen_by_later_rules(target, offset):
    one = [{"expr": "payload", "dreg": 1, "base": 1, "offset": offset or 8, "len": 1}, {"expr": "cmp", "sreg": 1, "op": 0, "data": b"\x01"}]
    rules = [[*one, DROP], [{"expr": "target", "name": target, "rev": 0, "info": b"\x00\x01"}], [*one, ACCEPT]]
    assert leaks(judged(NOTHING, table({"input": rules}, family="ip"))) - {("ip6", "leak")} == ({("ip", "unknown")} if offset else set())


# -- routes ------------------------------------------------------------------------------------------------------------------


def redirected(address):
    """A table that translates port 22 to an address."""
    nat = {"expr": "nat", "type": 1, "family": 2, "addr_min": 1, "addr_max": 1, "flags": 1}
    to = {"expr": "immediate", "dreg": 1, "data": bytes(map(int, address.split(".")))}
    return table({"prerouting": [[*TCP, to, nat]]}, family="ip", policy=1, type="nat", priority=-100)


def test_what_is_translated_to_loopback_arrives_where_route_localnet_lets_it():
    result = judged(SSH, redirected("127.0.0.1"))
    assert status(result) == "broken" and "route_localnet" in result["flows"][0]["outcome"]
    assert status(judged(SSH, redirected("127.0.0.1"), route_localnet=["eth0"])) == "ok"
    assert status(judged(SSH, redirected("10.79.0.11"))) == "ok"


@pytest.mark.parametrize("translated, answers, expected", [
    (False, [*TCP, {"expr": "payload", "dreg": 1, "base": 2, "offset": 0, "len": 2}, {"expr": "cmp", "sreg": 1, "op": 0, "data": b"\x00\x16"}], "ok"),
    (True, [*TCP, {"expr": "payload", "dreg": 1, "base": 2, "offset": 0, "len": 2}, {"expr": "cmp", "sreg": 1, "op": 0, "data": b"\x00\x16"}], "unknown"),
    (True, TCP, "ok"),
])
def test_answers_of_a_translated_connection_leave_by_another_port(translated, answers, expected):
    tables = [table({"input": [[ACCEPT]], "output": [[*answers, ACCEPT]]})] + ([redirected("10.79.0.11")] if translated else [])
    result = judged(SSH, *tables)
    assert status(result) == expected and (expected == "ok" or result["flows"][0]["phase"] == "answer")


def test_a_neighbour_reaches_loopback_where_route_localnet_lets_it():
    to_loopback = [*IPV4, {"expr": "payload", "dreg": 1, "base": 1, "offset": 16, "len": 1}, {"expr": "cmp", "sreg": 1, "op": 0, "data": b"\x7f"}, ACCEPT]
    assert judged(NOTHING, table({"input": [to_loopback]}))["verdict"] == "ok"
    assert leaks(judged(NOTHING, table({"input": [to_loopback]}), route_localnet=["eth0"])) == {("ip", "leak")}


def test_rules_about_routes_may_deliver_what_is_for_others():
    proxy = {"family": "ip", "table": 100, "destination": "0.0.0.0/0", "type": 2, "interfaces": [1], "metric": 0}
    to_another = [{"expr": "payload", "dreg": 1, "base": 1, "offset": 16, "len": 4}, {"expr": "cmp", "sreg": 1, "op": 0, "data": bytes((192, 0, 2, 1))}]
    ruleset = table({"input": [[*IPV4, *to_another, ACCEPT]]})
    assert judged(NOTHING, ruleset, routes=[*HOST["routes"], proxy])["verdict"] == "ok"
    result = judged(NOTHING, ruleset, routes=[*HOST["routes"], proxy], policy_routing={"ip": True, "ip6": False})
    assert leaks(result) == {("ip", "unknown")} and result["leaks"][0]["trace"][-1]["outcome"] == "accept"


@pytest.mark.parametrize("where", ["local", "loopback"])
def test_more_than_the_addresses_of_interfaces_may_be_local_in_ipv6(where):
    route = {"family": "ip6", "table": 255, "destination": "fd00:99::/64" if where == "local" else "fd00:99::1/128", "type": 2, "interfaces": [1], "metric": 0}
    interfaces = copy.deepcopy(HOST["interfaces"])
    if where == "loopback":
        interfaces[0]["addresses"].append("fd00:99::1/128")
    kind = [*IPV6, {"expr": "fib", "dreg": 1, "result": 3, "flags": 2}, {"expr": "cmp", "sreg": 1, "op": 0, "data": struct.pack("=I", 2)}]
    there = [{"expr": "payload", "dreg": 1, "base": 1, "offset": 24, "len": 4}, {"expr": "cmp", "sreg": 1, "op": 0, "data": b"\xfd\x00\x00\x99"}]
    result = judged(NOTHING, table({"input": [[*kind, *there, ACCEPT]]}), routes=[*HOST["routes"], route], interfaces=interfaces)
    assert leaks(result) == {("ip6", "unknown" if where == "local" else "leak")}


@pytest.mark.parametrize("switches, expected", [
    ({"ipv6/conf/all/forwarding": "1", "ipv6/conf/eth0/forwarding": "0"}, ["eth0", "eth1"]),
    ({"ipv6/conf/all/forwarding": "0", "ipv6/conf/eth0/forwarding": "1"}, []),
    ({"ipv6/conf/all/forwarding": "0", "ipv6/conf/eth1/force_forwarding": "1"}, ["eth1"]),
])
def test_ipv6_forwards_as_one_switch_says(monkeypatch, switches, expected):
    def is_on(protocol, interface, setting):
        return switches.get(f"{protocol}/conf/{interface}/{setting}") == "1"

    monkeypatch.setattr(host_network, "_is_on", is_on)
    assert host_network._forwarding("ip6", ["eth0", "eth1"]) == expected


# -- order ---------------------------------------------------------------------------------------------------------------------

MARK = [{"expr": "immediate", "dreg": 1, "data": struct.pack("=I", 1)}, {"expr": "meta", "key": 3, "sreg": 1}]
MARKED = [{"expr": "meta", "dreg": 1, "key": 3}, {"expr": "cmp", "sreg": 1, "op": 0, "data": struct.pack("=I", 1)}]
REJECT = {"expr": "reject", "type": 2, "code": 1}


@pytest.mark.parametrize("first, second, priority, expected", [
    ([MARK], [[*MARKED, DROP]], 0, "unknown"),
    ([MARK], [[*MARKED, DROP]], 1, "ok"),
    ([MARK], [MARK], 0, "ok"),
    ([[*TCP, DROP]], [[*TCP, REJECT]], 0, "ok"),
])
def test_an_order_that_nothing_tells_is_named_where_it_decides(first, second, priority, expected):
    other = {**table({"input": second}, policy=1, priority=priority), "name": "other"}
    result = judged({**NOTHING, "permit": [{"name": "all"}]}, table({"input": first}, policy=1), other)
    assert result["verdict"] == expected
    assert [one["object"] for one in result["unknown"]] == (["inet other input and inet t input"] if expected == "unknown" else [])


def test_of_two_translations_the_first_wins():
    one, other = redirected("10.79.0.11"), {**redirected("192.0.2.1"), "name": "other"}
    assert judged({**NOTHING, "permit": [{"name": "all"}]}, one, other)["verdict"] == "unknown"
    assert judged({**NOTHING, "permit": [{"name": "all"}]}, one, {**redirected("10.79.0.11"), "name": "other"})["verdict"] == "ok"


# -- what cannot be read or is not known -------------------------------------------------------------------------------------


def test_without_addresses_and_routes_the_verdict_is_unknown(monkeypatch):
    def unreadable():
        raise host_network.HostUnreadable("routes and addresses over netlink: Operation not permitted")

    monkeypatch.setattr(firewall_witness, "read_ruleset", lambda: {"generation": 1, "tables": [table({"input": []})]})
    monkeypatch.setattr(firewall_witness, "legacy_obstacles", list)
    monkeypatch.setattr(firewall_witness, "program_obstacles", lambda host: [])
    monkeypatch.setattr(firewall_witness, "read_host", lambda: HOST)
    assert firewall_witness.prove({**NOTHING, "forward": None})["verdict"] == "ok"
    monkeypatch.setattr(firewall_witness, "read_host", unreadable)
    result = firewall_witness.prove({**NOTHING, "forward": None})
    assert result["verdict"] == "unknown" and result["unknown"][0]["object"] == "addresses and routes"


@pytest.mark.parametrize("number, words", [
    (errno.EPERM, "root is needed"), (errno.EPROTONOSUPPORT, "Protocol not supported"), (errno.EINVAL, "does this kernel have nf_tables?"),
    (errno.ENOBUFS, "No buffer space available"), (errno.ETIMEDOUT, "timed out"),
])
def test_what_cannot_be_asked_is_unknown_and_named(monkeypatch, number, words):
    class Refusing:
        def __init__(self, _protocol):
            raise NetlinkError(number, os.strerror(number))

    monkeypatch.setattr(nft_ruleset, "NetlinkSocket", Refusing)
    result = firewall_witness.prove(NOTHING)
    assert result["verdict"] == "unknown" and result["flows"] == result["leaks"] == []
    found, = result["unknown"]
    assert found["object"] == "nftables" and words in found["reason"]


def test_a_request_that_cannot_be_sent_is_an_error_of_netlink():
    closed = netlink.NetlinkSocket(netlink.NETLINK_ROUTE)
    closed.close()
    with pytest.raises(NetlinkError, match="Bad file descriptor"):
        closed.request(netlink.NLMSG_DONE)


def test_a_user_who_does_not_exist_makes_nothing_certain():
    policy = {"permit": [{"name": "all"}], "forward": None, "egress": [], "egress_users": [0, "nosuch"]}
    result = judged(policy, table({"output": []}))
    assert result["verdict"] == "unknown" and result["unknown"] == [{"object": "egress_users: nosuch", "reason": "no such user on this host"}]
    assert judged({**policy, "egress_users": [0]}, table({"output": []}))["verdict"] == "ok"


@pytest.mark.parametrize("family, hook", [("42", 1), ("inet", 6), ("ip", 5), ("netdev", 1)])
def test_chains_of_families_and_hooks_to_come_are_named(family, hook):
    result = judged(NOTHING, table({"input": []}), table({"strange": []}, family=family, hook=hook))
    assert result["verdict"] == "unknown" and [one["object"] for one in result["unknown"]] == [f"{family} t strange"]


def test_an_attribute_to_come_makes_its_expression_unknown():
    body = pack_attribute(2, struct.pack(">I", 1)) + pack_attribute(9, b"new!")
    expression = nft_messages._expression(pack_attribute(1, "meta") + pack_nested(2, pack_attribute(1, struct.pack(">I", 1)) + body), {})
    assert expression["unknown"] == 9
    result = judged(NOTHING, table({"input": [[expression, {"expr": "cmp", "sreg": 1, "op": 0, "data": b"\x08\x00"}, ACCEPT]]}))
    assert result["verdict"] == "unknown" and result["unknown"][0]["object"] == "attribute 9 of expression 'meta' (inet t input handle 1)"


@pytest.mark.parametrize("kind, name, devices", [(1, b"eth0\0", ["eth0"]), (1, b"eth", ["eth*"]), (2, b"eth", ["eth*"]), (2, b"eth\0", ["eth*"])])
def test_an_ingress_chain_may_hook_all_devices_of_a_prefix(kind, name, devices):
    hook = pack_nested(4, pack_attribute(1, struct.pack(">I", 5)), pack_nested(4, pack_attribute(kind, name)))
    _table, chain = nft_messages.decode_chain(bytes(4) + pack_attribute(1, "t") + pack_attribute(3, "c") + hook)
    assert chain["devices"] == devices
    assert status(judged(SSH, table({"ingress": []}, hook=5, devices=devices), table({"input": [[ACCEPT]]}))) == "broken"
    assert status(judged(SSH, table({"ingress": []}, hook=5, devices=["wlan*"]), table({"input": [[ACCEPT]]}))) == "ok"


def test_an_ingress_chain_below_an_interface_is_not_walked():
    interfaces = copy.deepcopy(HOST["interfaces"])
    interfaces[0]["carries"], interfaces[1]["carries"] = [], ["vlan5", "br0"]
    chains = table({"ingress": []}, family="netdev", hook=0, devices=["eth0"], policy=1), table({"input": [[ACCEPT]]})
    result = judged(SSH, *chains, interfaces=interfaces)
    assert result["verdict"] == "unknown"
    assert result["unknown"] == [{"object": "netdev t ingress on eth0", "reason": "packets of vlan5, br0 come by it first: it may refuse more"}]
    assert judged(SSH, *chains)["verdict"] == "ok"


@pytest.mark.parametrize("link, pairs", [
    ({10: struct.pack("=I", 7)}, [(2, 7)]),
    ({5: struct.pack("=I", 7), 18: pack_attribute(1, "vlan")}, [(7, 2)]),
    ({5: struct.pack("=I", 7), 18: pack_attribute(1, "veth")}, []),
    ({5: struct.pack("=I", 7), 18: pack_attribute(1, "macvlan"), 37: struct.pack("=I", 0)}, []),
    ({}, []),
])
def test_which_device_lies_below_which(link, pairs):
    assert host_network._stacked(2, link) == pairs


@pytest.mark.parametrize("kernel, expected", [([4, 19], "unknown"), ([5, 10], "broken"), ([], "broken")])
def test_older_kernels_may_not_compare_with_no_interface(kernel, expected):
    outward = [{"expr": "meta", "dreg": 1, "key": 7}, {"expr": "cmp", "sreg": 1, "op": 1, "data": b"eth0".ljust(16, b"\0")}]
    ruleset = table({"input": [[*outward, DROP], [ACCEPT]]})
    assert status(judged(SSH, ruleset, kernel=kernel)) == expected


@pytest.mark.parametrize("kernel, expected", [([4, 19], "unknown"), ([5, 10], "broken")])
def test_older_kernels_do_not_say_in_postrouting_where_a_packet_came_in(kernel, expected):
    inward = [{"expr": "meta", "dreg": 1, "key": 6}, {"expr": "cmp", "sreg": 1, "op": 0, "data": b"eth0".ljust(16, b"\0")}]
    flow = {"name": "on", "sources": ["10.79.0.50"], "destinations": ["10.79.0.60"], "interface": "eth0", "output_interface": "eth0", "protocol": "tcp"}
    policy = {"permit": [{"name": "all"}], "forward": [flow], "permit_forward": [{"name": "all"}]}
    ruleset = table({"postrouting": [[*inward, DROP], [ACCEPT]]})
    assert status(judged(policy, ruleset, kernel=kernel, forwarding={"ip": ["eth0"], "ip6": []})) == expected


LIMIT = {"expr": "limit", "rate": 5, "unit": 1, "burst": 5, "type": 0, "flags": 0}


def test_too_many_nested_conditions_are_unknown():
    result = judged(SSH, table({"input": [[dict(LIMIT), ACCEPT] for _time in range(1200)]}))
    assert result["verdict"] == "unknown" and result["unknown"][0] == {
        "object": "the ruleset for ip", "reason": "its conditions combine in too many ways to be proved",
    }


def test_a_proof_costs_no_more_than_it_may(monkeypatch):
    bytes_of_header = [{"expr": "payload", "dreg": 1, "base": 1, "offset": at, "len": 1} for at in (0, 1, 4, 5, 6, 7, 8, 10, 11)]
    rules = [[*IPV4, load, {"expr": "cmp", "sreg": 1, "op": 1, "data": bytes([at])}, dict(LIMIT), DROP] for load in bytes_of_header for at in range(3)]
    monkeypatch.setattr(decision_diagram, "_MOST_NODES", 20000)
    result = judged(SSH, table({"input": [*rules, [ACCEPT]]}))
    assert result["verdict"] == "unknown" and result["unknown"][0]["object"] == "the ruleset for ip"


class Kernel:
    """Answers as the kernel does that makes a chain and its rule while it is read; it begins no dump before the last one was read."""

    def __init__(self):
        self.dumping = False

    def request(self, _kind, _body):
        return [(0, bytes(4) + pack_attribute(1, struct.pack(">I", 7)))]

    def dump(self, kind, _body):
        assert not self.dumping, "the kernel would answer EBUSY"
        self.dumping = True
        for attributes in {
            nft_ruleset._GETTABLE: [pack_attribute(1, "t")],
            nft_ruleset._GETRULE: 2 * [pack_attribute(1, "t") + pack_attribute(2, "new")],
        }.get(kind, ()):
            yield kind, bytes([1, 0, 0, 0]) + attributes
        self.dumping = False


def test_a_chain_made_during_the_reading_leaves_no_dump_half_read():
    kernel = Kernel()
    assert nft_ruleset._read_once(kernel, None, None) is None and not kernel.dumping

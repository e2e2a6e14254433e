# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the modules that verify a host alone call a deviation."""

from __future__ import annotations

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.compliance import (
    check_allowed,
    compare_accounts,
    compare_listeners,
    compare_network,
    compare_sshd,
    compare_unit,
)


def socket_on(address, port, protocol="tcp", unit="x.service"):
    return {"address": address, "port": port, "protocol": protocol, "unit": unit, "command": "x", "uid": 0}


@pytest.mark.parametrize("permit, fine", [
    ({"ports": ["8000"]}, True),
    ({"ports": ["7000-9000"]}, True),
    ({"address": "10.77.1.11", "ports": ["8000"]}, True),
    ({"address": "*", "ports": ["8000"]}, True),
    ({"address": "10.77.1.12", "ports": ["8000"]}, False),
    ({"ports": ["8001"]}, False),
    ({"protocol": "udp", "ports": ["8000"]}, False),
    ({"unit": "y.service", "ports": ["8000"]}, False),
    ({"unit": "x.service", "ports": ["8000"]}, True),
])
def test_a_socket_is_allowed_by_address_protocol_port_and_unit(permit, fine):
    assert (compare_listeners([socket_on("10.77.1.11", 8000)], [permit]) == []) is fine


def test_every_interface_is_allowed_by_an_asterisk_only():
    for address in ("0.0.0.0", "::", "::ffff:0.0.0.0"):
        assert compare_listeners([socket_on(address, 22)], [{"ports": ["22"]}])
        assert compare_listeners([socket_on(address, 22)], [{"address": "*", "ports": ["22"]}]) == []


def test_a_mapped_address_is_that_of_ipv4():
    assert compare_listeners([socket_on("::ffff:10.77.1.11", 22)], [{"address": "10.77.1.11", "ports": ["22"]}]) == []
    assert compare_listeners([socket_on("::ffff:127.0.0.1", 22)], []) == []


def test_what_is_not_told_is_a_deviation():
    assert [one["subject"] for one in compare_network([], {"net.ipv4.conf.x*.rp_filter": {}}, [], {"net.ipv4.conf.x*.rp_filter": 1})] == [
        "net.ipv4.conf.x*.rp_filter"]
    process = {"pid": 1, "command": "x", "uid": "9", "permitted": "0", "effective": None, "ambient": "0", "no_new_privileges": "1"}
    facts = {"properties": {"LoadState": "loaded", "NeedDaemonReload": "no", "ActiveState": "active"}, "processes": [process]}
    assert [one["observed"] for one in compare_unit("x", facts)] == ["unknown"]


def test_loopback_counts_when_asked_for():
    sockets = [socket_on("127.0.0.1", 25), socket_on("::1", 25)]
    assert compare_listeners(sockets, []) == []
    assert len(compare_listeners(sockets, [], loopback=True)) == 2


@pytest.mark.parametrize("entry", [{"ports": ["x"]}, {"address": "npu01", "ports": ["1"]}, {"ports": ["99999"]}])
def test_wrong_permits_are_refused(entry):
    with pytest.raises(ValueError, match=r"allowed\[0\]"):
        check_allowed([entry])


def unit(properties=None, **process):
    facts = {"pid": 7, "command": "x", "uid": "990 990 990 990", "permitted": "0", "effective": "0", "ambient": "0", "no_new_privileges": "1", **process}
    return {"properties": {"LoadState": "loaded", "NeedDaemonReload": "no", "ActiveState": "active", "User": "x", **(properties or {})}, "processes": [facts]}


def test_a_unit_as_wanted_has_no_finding():
    assert compare_unit("x.service", unit({"ProtectSystem": "strict"}), "x", {"ProtectSystem": ["full", "strict"]}) == []


@pytest.mark.parametrize("facts, subject", [
    (unit({"ActiveState": "failed"}), "ActiveState"), (unit({"NeedDaemonReload": "yes"}), "NeedDaemonReload"), (unit({"User": ""}), "User"),
    (unit({"ProtectSystem": "no"}), "ProtectSystem"), (unit({"ProtectSystem": "strict"}, uid="990 0 990 990"), "process 7"),
    (unit({"ProtectSystem": "strict"}, effective="400"), "process 7"), (unit({"ProtectSystem": "strict"}, no_new_privileges="0"), "process 7"),
])
def test_each_deviation_of_a_unit_is_one_finding(facts, subject):
    facts["properties"].setdefault("ProtectSystem", "strict")
    found = compare_unit("x.service", facts, "x", {"ProtectSystem": "strict"})
    assert len(found) == 1
    assert subject in found[0]["subject"]


def test_a_property_that_systemd_does_not_know_is_no_pass():
    assert compare_unit("x.service", unit(), properties={"Nonsense": "yes"})[0]["observed"] == "unknown to this systemd"


def test_addresses_and_settings():
    addresses = [{"address": "fd00:77::11", "interface": "eth0"}]
    assert compare_network(addresses, {}, [{"address": "fd00:77:0::11", "interface": "eth0"}], {}) == []
    assert compare_network(addresses, {}, [{"address": "fd00:77::11", "interface": "eth1"}], {})[0]["observed"] == "on eth0"
    assert compare_network(addresses, {}, [{"address": "10.77.0.11"}], {})[0]["observed"] == "on no interface"
    sysctls = {"a.*.b": {"a/x/b": "0", "a/y/b": "1", "a/z/b": None}}
    assert [entry["subject"] for entry in compare_network([], sysctls, [], {"a.*.b": 0})] == ["a/y/b", "a/z/b"]
    assert compare_network([], {"r": {"r": "1 2"}}, [], {"r": "1\t2"}) == []


def test_the_ssh_daemon():
    assert compare_sshd({"permitrootlogin": ["no"]}, {"PermitRootLogin": ["no", "x"]}) == []
    assert compare_sshd({"permitrootlogin": ["yes"]}, {"PermitRootLogin": "no"})[0]["observed"] == "yes"
    assert compare_sshd({}, {"PermitRootLogin": "no"})[0]["observed"] == "unknown to this SSH daemon"


@pytest.mark.parametrize("changes, count", [({}, 0), ({"shell": "/bin/sh"}, 1), ({"password": "set"}, 1), ({"password": None}, 1), ({"sudo": ["a", "b"]}, 2)])
def test_accounts_of_services(changes, count):
    account = {"shell": "/usr/sbin/nologin", "password": "locked", "sudo": [], "uid": 990, **changes}
    assert len(compare_accounts({"x": account})) == count
    assert compare_accounts({"x": None})[0]["observed"] == "no such account"

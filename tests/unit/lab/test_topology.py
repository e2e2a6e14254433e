# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Addresses and refusals of the lab."""
from __future__ import annotations

import ipaddress

import pytest

from ansible_collections.vllm_mindspore.hardening.tests.lab import network, topology
from ansible_collections.vllm_mindspore.hardening.tests.lab.topology import Block, Refusal


def test_addresses_have_the_same_digits_in_both_families():
    block = Block.parse("10.77")
    assert block.address("internal", 11, 4) == "10.77.2.11"
    assert block.address("internal", 11, 6) == "fd00:77:2::11"
    assert block.address("management", 130, 6) == "fd00:77::130"


def test_every_host_is_inside_its_networks_and_unique():
    block = Block.parse("10.255")
    hosts = topology.hosts(["client", "outsider", "rogue", "monitor"], scale=topology.MAX_NODES)
    seen = set()
    for host in hosts:
        for segment in host.segments:
            seen.add(block.mac(segment, host.number))
            for family in (4, 6):
                address = block.address(segment, host.number, family)
                assert ipaddress.ip_address(address) in ipaddress.ip_network(block.network(segment, family))
                seen.add(address)
    assert len(seen) == sum(3 * len(host.segments) for host in hosts)


@pytest.mark.parametrize("family", [4, 6])
def test_only_the_client_is_among_the_clients(family):
    block = Block.parse("10.77")
    clients = ipaddress.ip_network(block.clients(family))
    inside = [
        host.name
        for host in topology.hosts(scale=topology.MAX_NODES)
        if "api" in host.segments and ipaddress.ip_address(block.address("api", host.number, family)) in clients
    ]
    assert inside == ["client"]


@pytest.mark.parametrize("text", ["10", "10.256", "10.077", "11.77", "10.77.0", "10.-1", ""])
def test_other_blocks_are_refused(text):
    with pytest.raises(Refusal, match="--block"):
        Block.parse(text)


@pytest.mark.parametrize("text", ["", "Demo", "1st", "a" * 33, "a.b", "../x"])
def test_other_names_are_refused(text):
    with pytest.raises(Refusal, match="--name"):
        topology.lab_name(text)


def test_interface_names_fit_the_kernel():
    names = [network.port("demo"), network.port("a" * 32), network.port("a" * 31 + "b")]
    assert len(set(names)) == 3
    for host in topology.hosts(["client", "outsider", "rogue", "monitor"], scale=topology.MAX_NODES):
        names += [f"{host.name}.{topology.INTERFACES[segment]}" for segment in host.segments]
    assert max(map(len, names)) <= 15


@pytest.mark.parametrize("name", ["npu0", "npu00", "npu51", "npu001", "gateway"])
def test_unknown_hosts_are_refused(name):
    with pytest.raises(Refusal, match=name):
        topology.host(name)


def test_scale_replaces_the_nodes_only():
    assert [host.name for host in topology.hosts(["npu07", "client"], scale=2)] == ["npu01", "npu02", "client"]


@pytest.mark.parametrize("scale", [0, 51, -1])
def test_sizes_that_do_not_fit_are_refused(scale):
    with pytest.raises(Refusal, match="--scale"):
        topology.hosts(scale=scale)


def test_a_host_named_twice_is_refused():
    with pytest.raises(Refusal, match="client named more than once"):
        topology.hosts(["client", "npu01", "client"])


def test_overlaps_finds_wider_and_narrower_networks_of_both_families():
    block = Block.parse("10.77")
    networks = ["10.0.0.0/8", "10.77.2.9", "10.78.0.0/24", "fd00:77::/32", "fd00:78::/64", "192.0.2.0/24"]
    assert topology.overlaps(block, networks) == ["10.0.0.0/8", "10.77.2.9", "fd00:77::/32"]

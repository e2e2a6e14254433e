# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the lab writes for Ansible and ssh."""
from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ansible_collections.vllm_mindspore.hardening.tests.lab import inventory, topology

BLOCK = topology.Block.parse("10.77")
DIRECTORY = Path("/srv/labs/demo")


@pytest.mark.parametrize("families", sorted(inventory.FAMILIES))
def test_yaml_reads_back(families):
    value = inventory.inventory(BLOCK, topology.hosts(), DIRECTORY, families)
    assert yaml.safe_load(inventory.yaml(value)) == value


def test_a_lab_without_vantage_points_reads_back():
    value = inventory.inventory(BLOCK, topology.hosts(["npu01"]), DIRECTORY)
    assert yaml.safe_load(inventory.yaml(value)) == value


def test_nodes_and_vantage_points_in_the_form_of_the_plan():
    value = inventory.inventory(BLOCK, topology.hosts(), DIRECTORY)
    nodes = value["vllm_nodes"]
    assert nodes["hosts"]["npu02"]["vllm_cluster_addresses"] == {
        "management": "10.77.0.12",
        "api": "10.77.1.12",
        "internal": "10.77.2.12",
    }
    assert nodes["vars"]["vllm_cluster_administrators"] == ["10.77.0.1/32"]
    assert nodes["vars"]["vllm_cluster_networks"]["internal"] == "10.77.2.0/24"
    others = value["vllm_vantage_points"]["hosts"]
    assert list(others) == ["client", "outsider", "rogue"]
    assert others["rogue"]["vllm_audit_addresses"] == {"management": "10.77.0.67", "internal": "10.77.2.67"}


def test_dual_gives_lists_of_both_families_and_logs_in_over_ipv4():
    node = inventory.inventory(BLOCK, topology.hosts(), DIRECTORY, "dual")["vllm_nodes"]["hosts"]["npu01"]
    assert node["ansible_host"] == "10.77.0.11"
    assert node["vllm_cluster_addresses"]["api"] == ["10.77.1.11", "fd00:77:1::11"]


def test_ipv6_alone_names_no_ipv4_address():
    assert "10.77" not in inventory.yaml(inventory.inventory(BLOCK, topology.hosts(), DIRECTORY, "ipv6"))


def test_host_keys_are_checked_against_the_labs_own_list_only():
    arguments = inventory.inventory(BLOCK, topology.hosts(), DIRECTORY)["all"]["vars"]["ansible_ssh_common_args"]
    assert "StrictHostKeyChecking=yes" in arguments
    assert "UserKnownHostsFile=/srv/labs/demo/known_hosts" in arguments
    assert "GlobalKnownHostsFile=/dev/null" in arguments


def test_known_hosts_names_both_families_and_drops_the_comment():
    hosts = topology.hosts(["npu01"])
    text = inventory.known_hosts(BLOCK, hosts, {"npu01": "ssh-ed25519 AAAA demo-npu01\n"})
    assert text == "npu01,10.77.0.11,fd00:77::11 ssh-ed25519 AAAA\n"


def test_a_hosts_own_name_is_not_an_address_of_a_segment():
    assert "127.0.1.1\tnpu01\n" in inventory.etc_hosts("npu01")

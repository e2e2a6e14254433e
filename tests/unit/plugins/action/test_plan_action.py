# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The edge of the plan: where the run comes from, and the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from jinja2 import Environment

from ansible_collections.vllm_mindspore.hardening.plugins.action import plan


@pytest.mark.parametrize("target", ["npu01", "npu01.example.com", "", "127.0.0.1", "::1", "a" * 300, "10.0.0.0/8"])
def test_nothing_is_known_of_a_name_and_of_loopback(target):
    assert plan._source_address(target) is None


@pytest.mark.parametrize("groups, hosts", [
    ({"vllm_nodes": ["npu01"]}, "~^vllm_(nodes|vantage_points)$"), ({"vllm_nodes": [], "vllm_node": ["npu01"]}, "localhost:all"), ({}, "localhost:all")])
def test_an_inventory_without_nodes_reaches_the_plan_which_refuses_it(groups, hosts):
    playbook = yaml.safe_load(Path(__file__).parents[4].joinpath("playbooks/plan.yml").read_text(encoding="utf-8"))
    assert Environment().from_string(playbook[0]["hosts"]).render(groups=groups) == hosts


def controllers(monkeypatch, hosts, variables):
    """The addresses that are found for ``hosts``; every number is reached from 192.0.2.1."""
    monkeypatch.setattr(plan, "_source_address", lambda target: "192.0.2.1" if target[0].isdigit() else None)
    return plan._controller_addresses({"hostvars": {host: variables.get(host, {}) for host in hosts}}, hosts)


def test_the_first_node_of_each_cluster_with_a_number_answers_for_it(monkeypatch):
    hosts = {"npu01": {}, "10.77.0.12": {}, "npu03": {}, "npu04": {"vllm_cluster_name": ["no name"]}}
    variables = {"npu01": {"ansible_connection": "local"}, "npu03": {"ansible_host": "10.77.0.13"}, "npu04": {"ansible_host": "10.77.0.14"}}
    found = controllers(monkeypatch, hosts, variables)
    assert found == {"10.77.0.12": "192.0.2.1", "npu04": "192.0.2.1"}


@pytest.mark.parametrize("option", ["-o ProxyJump=bastion", "-J bastion", "-o ProxyCommand='nc %h 22'"])
def test_nothing_is_known_behind_a_jump_host(monkeypatch, option):
    assert controllers(monkeypatch, {"npu01": {}}, {"npu01": {"ansible_host": "10.77.0.11", "ansible_ssh_common_args": option}}) == {}


def test_the_file_is_written_once_and_not_in_check_mode(tmp_path):
    path = tmp_path / "plan.json"
    assert plan._write(str(path), {"version": 1}, True, False) == {"changed": True} and not path.exists()
    assert plan._write(str(path), {"version": 1}, False, False) == {"changed": True}
    assert json.loads(path.read_text(encoding="utf-8")) == {"version": 1}
    assert plan._write(str(path), {"version": 1}, False, False) == {"changed": False}
    path.write_bytes(b"\xff\xfe")
    assert plan._write(str(path), {"version": 1}, False, False) == {"changed": True}
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("place, trouble", [("", "cannot be read"), ("nowhere/plan.json", "cannot be written")])
def test_a_file_that_cannot_be_is_named(tmp_path, place, trouble):
    with pytest.raises(AnsibleActionFail, match=trouble) as refused:
        plan._write(str(tmp_path / place), {"version": 1}, False, False)
    assert "vllm_cluster_plan_file" in str(refused.value)

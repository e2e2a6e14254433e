# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What is written once is rendered once, and whatever may differ between hosts is rendered for each."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleError
from jinja2 import Environment, StrictUndefined, UndefinedError

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_reader import PlanError
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_variables import node_variables


class HostVars:
    """The variables of all hosts; counts what is rendered."""

    def __init__(self, hosts):
        self.hosts, self.rendered = hosts, []

    def raw_get(self, host):
        """A host's variables as they are written."""
        return {**self.hosts[host], "inventory_hostname": host, "group_names": ["vllm_nodes"]}

    def __getitem__(self, host):
        return Rendered(self, host)


class Rendered:
    """The variables of one host, rendered when they are asked for."""

    def __init__(self, all_hosts, host):
        self.all_hosts, self.host = all_hosts, host

    def __getitem__(self, name):
        self.all_hosts.rendered.append((self.host, name))
        return self._render(self.all_hosts.raw_get(self.host)[name])

    def _render(self, value):
        if isinstance(value, list):
            return [self._render(item) for item in value]
        if not isinstance(value, str) or "{" not in value:
            return value
        raw = self.all_hosts.raw_get(self.host)
        known = {name: self._render(raw[name]) for name in raw if not name.startswith("vllm_") and raw[name] is not value}
        try:
            return Environment(undefined=StrictUndefined).from_string(value).render(known)
        except UndefinedError as error:
            raise AnsibleError(str(error)) from None


def read(hosts):
    """The variables of the hosts, and what had to be rendered for them."""
    found = HostVars(hosts)
    return node_variables({"hostvars": found, "groups": {"vllm_nodes": list(hosts)}}, "vllm_nodes"), found.rendered


def shared(count, own=(), **variables):
    """Hosts of one group: they share the objects of ``variables``; ``own`` has variables of each host."""
    return {f"n{number}": {**variables, **(own[number] if own else {})} for number in range(count)}


def test_what_holds_no_template_is_one_object_and_nothing_is_rendered():
    hosts, rendered = read(shared(50, vllm_cluster_clients=["10.0.0.0/24"], other="x"))
    assert rendered == []
    assert len({id(variables["vllm_cluster_clients"]) for variables in hosts.values()}) == 1
    assert hosts["n0"] == {"vllm_cluster_clients": ["10.0.0.0/24"]}


def test_a_template_of_shared_variables_is_rendered_once():
    hosts, rendered = read(shared(50, vllm_cluster_clients=["{{ office }}", "{{ nested }}"], office="10.0.0.0/24", nested="{{ office }}"))
    assert rendered == [("n0", "vllm_cluster_clients")]
    assert hosts["n49"]["vllm_cluster_clients"] == ["10.0.0.0/24", "10.0.0.0/24"]


@pytest.mark.parametrize(
    "template", ["{{ site }}", "{{ indirect }}", "{{ inventory_hostname }}", "{{ 'x' ~ site }}", "{% if site == 'a' %}a{% else %}b{% endif %}"]
)
def test_what_differs_between_hosts_is_rendered_for_each(template):
    sites = [{"site": "a"}, {"site": "b"}, {"site": "c"}]
    hosts, _rendered = read(shared(3, sites, vllm_cluster_name=template, indirect="{{ site }}"))
    expected = {"{{ inventory_hostname }}": ["n0", "n1", "n2"], "{{ 'x' ~ site }}": ["xa", "xb", "xc"]}
    values = [variables["vllm_cluster_name"] for variables in hosts.values()]
    assert values == expected.get(template, ["a", "b", "b"] if template.startswith("{%") else ["a", "b", "c"])


def test_what_reads_more_than_variables_is_rendered_for_each():
    _hosts, rendered = read(shared(3, vllm_cluster_name="{{ range(2) | list | length }}"))
    assert len(rendered) == 3


def test_a_lock_that_cannot_be_read_without_the_node_is_unknown_and_another_variable_is_an_error():
    hosts, _rendered = read(shared(3, vllm_runtime_requirements="{{ ansible_facts.lock }}"))
    assert hosts["n2"] == {"vllm_runtime_requirements": None}
    with pytest.raises(PlanError) as refused:
        read(shared(3, vllm_cluster_name="{{ nowhere }}", vllm_cluster_npus="{{ few }}"))
    first, second = str(refused.value).splitlines()[1:]
    assert first == "  1. n0: vllm_cluster_name is '{{ nowhere }}', which cannot be rendered: 'nowhere' is undefined. " \
        "Define what its template names, or write the value itself."
    assert "n0: vllm_cluster_npus" in second


def test_a_lock_in_a_file_is_read_once_for_all_hosts_that_name_it():
    folders = [{"folder": folder} for folder in ("/a", "/a", "/b")]
    lock = "{{ lookup('file', folder ~ '/serving.lock') }}"
    hosts, rendered = read(shared(3, folders, vllm_runtime_requirements=lock, lookup=lambda kind, path: f"{kind} {path}"))
    assert [variables["vllm_runtime_requirements"] for variables in hosts.values()] == [f"file {item['folder']}/serving.lock" for item in folders]
    assert rendered == [("n0", "vllm_runtime_requirements"), ("n2", "vllm_runtime_requirements")]


def test_software_that_differs_between_hosts_is_read_for_each():
    hosts, _rendered = read(shared(2, vllm_runtime_software="{% if inventory_hostname == 'n0' %}container{% else %}existing{% endif %}"))
    assert [variables["vllm_runtime_software"] for variables in hosts.values()] == ["container", "existing"]


def test_the_plan_that_is_already_registered_is_not_read():
    assert read(shared(1, vllm_cluster_plan={"nodes": {}}))[0] == {"n0": {}}

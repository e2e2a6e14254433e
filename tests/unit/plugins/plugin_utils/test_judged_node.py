# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which units of a node the checks look at."""

from __future__ import annotations

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.checks_access import software_is_roots
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judged_node import OF_SERVICES, Node, Unknown


def node(arguments, ray, units, **parts):
    """A node with one instance, and what it told of its units."""
    instance = {"name": "wide", "unit": "vllm-wide.service", "arguments": arguments, "api": {"address": "10.77.1.11", "port": 7443}, "ray": ray}
    plan = {"clusters": {"vllm": {}}, "nodes": {"npu01": {"cluster": "vllm", "instances": [instance]}}}
    told = {unit: {"properties": {**dict.fromkeys(OF_SERVICES, ""), **properties}, "processes": []} for unit, properties in units.items()}
    return Node("npu01", plan, {"units": told, **parts}, None)


RAY = {"unit": "vllm-wide-ray.service", "arguments": ["start", "--block"]}


@pytest.mark.parametrize("arguments, ray, expected", [
    (["serve"], None, [("vllm-wide.service", ["serve"])]),
    (["serve"], RAY, [("vllm-wide.service", ["serve"]), ("vllm-wide-ray.service", ["start", "--block"])]),
    (None, RAY, [("vllm-wide-ray.service", ["start", "--block"])]),
])
def test_ray_is_judged_beside_the_engine_or_in_its_place(arguments, ray, expected):
    units = {"vllm-wide.service": {}, "vllm-wide-ray.service": {}}
    assert [(unit, instance["arguments"]) for unit, instance, _properties, _processes in node(arguments, ray, units).units()] == expected


def test_a_unit_of_ray_that_the_node_does_not_tell_of_is_unknown():
    with pytest.raises(Unknown, match="vllm-wide-ray.service"):
        list(node(["serve"], RAY, {"vllm-wide.service": {}}).units())


@pytest.mark.parametrize("owner, problems", [("root", []), ("vllm-wide", ["/run/vllm-hardening/images/a belongs to vllm-wide"])])
def test_software_out_of_an_image_is_looked_for_there(owner, problems):
    facts = {"type": "directory", "mode": "0755", "owner": owner}
    found = node(["serve"], None, {"vllm-wide.service": {"RootDirectory": "/run/vllm-hardening/images/a"}}, files={"/run/vllm-hardening/images/a": facts})
    assert software_is_roots(found)[1] == problems


def test_software_of_the_site_is_looked_for_where_it_is():
    files = {path: {"type": "directory", "mode": "0755", "owner": "root"} for path in ("/srv", "/srv/engine", "/srv/engine/bin")}
    found = node(["serve"], None, {"vllm-wide.service": {}}, files=files)
    found.planned["software"] = "/srv/engine/bin"
    assert software_is_roots(found) == ("/srv, /srv/engine, /srv/engine/bin, owned by root, writable by nobody else", [])
    found.planned["software"] = None
    assert software_is_roots(found)[1] == ["the units have no image, where the software is planned to be"]

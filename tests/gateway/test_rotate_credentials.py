# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The playbook of rotation over two clusters, each with keys of its own; the roles that would contact nodes write down that they were called."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Stands for a role: says what it was called with, and what the gateways have counted.
STAND_IN = """---
- name: Write down the call
  ansible.builtin.copy:
    dest: "{{ calls }}/ROLE {{ inventory_hostname }} {{ certificates }} {{ backend_keys }}"
    content: ""
    mode: "0644"
  vars:
    certificates: "{{ __vllm_gateway_renew_certificates | default('-') }}"
    backend_keys: "{{ __vllm_gateway_renew_backend_keys | default('-') }}"

- name: Answer as the role does
  ansible.builtin.set_fact:
    __vllm_gateway_result: {requests: "{{ counted | default({}) }}"}
"""


def cluster(name, number, keys):
    """A cluster of one node as YAML takes it."""
    networks = {segment: f"10.77.{10 * number + index}.0/24" for index, segment in enumerate(("management", "api", "internal"))}
    address = {segment: network.replace("0/24", "11") for segment, network in networks.items()}
    return {
        "hosts": {f"npu-{name}": {"vllm_cluster_addresses": address}},
        "vars": {
            "vllm_cluster_name": name,
            "vllm_cluster_networks": networks,
            "vllm_cluster_administrators": [f"10.77.{10 * number}.1/32"],
            "vllm_cluster_clients": [f"10.77.{10 * number + 1}.128/25"],
            "vllm_cluster_monitors": [f"10.77.{10 * number}.9/32"],
            "vllm_cluster_gateway": True,
            "vllm_cluster_metrics_port": 7444,
            "vllm_cluster_instances": [
                {
                    "name": "chat", "engine": "vllm", "model": "/srv/models/tiny", "topology": "single", "nodes": [f"npu-{name}"],
                    "api_port": 7443, "backend_port": 17443,
                }
            ],
            "vllm_gateway_key_directory": str(keys / name),
            "vllm_gateway_clients": [{"name": "team-a", "instances": ["chat"]}, {"name": f"team-{name}", "instances": ["chat"]}],
        },
    }


class Rotation:
    """A copy of the collection with stand-ins, and what running its playbook leaves."""

    def __init__(self, folder):
        self.folder, self.keys, self.calls = folder, folder / "keys", folder / "calls"
        collection = folder / "collections" / "ansible_collections" / "vllm_mindspore" / "hardening"
        (collection / "roles").mkdir(parents=True)
        for name in ("plugins", "playbooks", "galaxy.yml", "meta"):
            (collection / name).symlink_to(ROOT / name)
        (collection / "roles" / "vllm_cluster").symlink_to(ROOT / "roles" / "vllm_cluster")
        for name in ("vllm_gateway", "vllm_serve"):
            (collection / "roles" / name / "tasks").mkdir(parents=True)
            (collection / "roles" / name / "tasks" / "main.yml").write_text(STAND_IN.replace("ROLE", name))
        groups = {name: cluster(name, number, self.keys) for number, name in enumerate(("one", "two"))}
        common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False, "calls": str(self.calls)}
        (folder / "inventory.json").write_text(json.dumps({"vllm_nodes": {"children": groups, "vars": common}}))

    def run(self, step, **variables):
        """(exit status, what it said, [what the roles were called with])."""
        shutil.rmtree(self.calls, ignore_errors=True)
        self.calls.mkdir()
        environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"), "ANSIBLE_NOCOLOR": "1"}
        extra = json.dumps({"vllm_rotate": step, **variables})
        command = ["ansible-playbook", "--inventory", str(self.folder / "inventory.json"), "--extra-vars", extra, "vllm_mindspore.hardening.rotate_credentials"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=self.folder)
        return done.returncode, done.stdout + done.stderr, sorted(call.name for call in self.calls.iterdir())

    def held(self):
        """{cluster/client: [ids of its keys]}"""
        files = sorted(self.keys.glob("*/*.json"))
        return {f"{path.parent.name}/{path.stem}": [key["id"] for key in json.loads(path.read_text())["keys"]] for path in files}


@pytest.fixture(name="rotation")
def with_first_keys(tmp_path):
    """After a first start, which makes a key where there is none, and the next one."""
    rotation = Rotation(tmp_path)
    code, said, _calls = rotation.run("start")
    assert code == 0, said
    return rotation


CLIENTS = {"one/team-a", "one/team-one", "two/team-a", "two/team-two"}


def test_a_rotation_begins_and_ends_in_every_cluster(rotation):
    before = rotation.held()
    assert set(before) == CLIENTS and {len(keys) for keys in before.values()} == {2}
    code, said, calls = rotation.run("finish")
    assert code == 0 and rotation.held() == before, said
    assert said.count("has not used its new key") == 4 and len(calls) == 2
    used = before["two/team-a"][-1]
    code, said, _calls = rotation.run("finish", counted={f"team-a:{used}": 3})
    assert code == 0, said
    assert rotation.held()["two/team-a"] == [used]


def test_a_key_is_revoked_in_the_clusters_of_its_client(rotation):
    before = rotation.held()
    gone = before["two/team-two"][0]
    code, said, calls = rotation.run("revoke", vllm_rotate_key=f"team-two:{gone}")
    assert code == 0 and calls == ["vllm_gateway npu-one - -", "vllm_gateway npu-two - -"], said
    assert rotation.held() == {**before, "two/team-two": before["two/team-two"][1:]}
    code, said, calls = rotation.run("revoke", vllm_rotate_key="nobody:1")
    assert code != 0 and "vllm_rotate_key is 'nobody:1'" in said and calls == []


@pytest.mark.parametrize(
    ("step", "called"),
    [
        ("certificates", ["vllm_gateway npu-one True -", "vllm_gateway npu-two True -"]),
        ("engines", ["vllm_gateway npu-one - True", "vllm_gateway npu-two - True", "vllm_serve npu-one - -", "vllm_serve npu-two - -"]),
    ],
)
def test_what_is_made_anew_is_made_node_by_node(tmp_path, step, called):
    code, said, calls = Rotation(tmp_path).run(step, vllm_gateway_ca_directory="/srv/authority")
    assert code == 0 and calls == called, said


def test_certificates_that_nobody_issues_are_refused(tmp_path):
    code, said, calls = Rotation(tmp_path).run("certificates")
    assert code != 0 and "vllm_gateway_ca_directory is empty" in said and calls == []


def test_a_step_that_is_none_is_refused(tmp_path):
    code, said, calls = Rotation(tmp_path).run("everything")
    assert code != 0 and "vllm_rotate is missing or unknown" in said and calls == []

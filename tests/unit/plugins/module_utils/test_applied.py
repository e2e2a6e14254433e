# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a node remembers of what was applied."""

from __future__ import annotations

import json
import os

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import applied, guard_node, node_state
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.sealing import Untrusted

KEY = bytes(range(32))
PARAMS = {
    "groups": [], "users": [], "directories": [], "sysctls": {"path": "/etc/sysctl.d/90-x.conf", "values": {"net.ipv4.ip_forward": "0"}},
    "files": [{"path": "/etc/a", "content": "a\n", "sensitive": False, "owner": "root", "group": "root", "mode": "0644", "state": "present"},
              {"path": "/etc/b", "content": "secret", "sensitive": True, "owner": "root", "group": "root", "mode": "0600", "state": "present"}],
    "units": [{"name": "x.service", "state": "started", "restart": True, "ready": {"url": "http://127.0.0.1"}}],
}


def test_what_was_applied_is_read_back_without_secrets(tmp_path):
    applied.begin("vllm_network", str(tmp_path))
    assert applied.concerns(str(tmp_path)) == ([], ["vllm_network"])
    applied.write("vllm_network", PARAMS, KEY, str(tmp_path))
    assert applied.concerns(str(tmp_path)) == (["vllm_network"], [])
    found = applied.read("vllm_network", KEY, str(tmp_path))
    assert found["params"]["files"][1] == {**{key: value for key, value in PARAMS["files"][1].items() if key != "content"}, "ownership_only": True}
    assert "secret" not in (tmp_path / "vllm_network.json").read_text()
    assert "restart" not in found["params"]["units"][0]
    assert (tmp_path / "vllm_network.json").stat().st_mode & 0o777 == 0o600


def test_the_same_is_not_written_again(tmp_path):
    applied.write("vllm_network", PARAMS, KEY, str(tmp_path))
    before = os.stat(tmp_path / "vllm_network.json").st_ino
    applied.write("vllm_network", PARAMS, KEY, str(tmp_path))
    assert os.stat(tmp_path / "vllm_network.json").st_ino == before
    assert applied.last_digest("vllm_network", str(tmp_path)) == applied.digest(applied.remembered(PARAMS))


def test_what_is_gone_is_forgotten(tmp_path):
    folder = tmp_path / "state" / "applied"
    applied.write("vllm_network", PARAMS, KEY, str(folder))
    applied.write("vllm_network", {"files": [{**PARAMS["files"][0], "state": "absent"}]}, KEY, str(folder))
    assert not folder.parent.exists()


@pytest.mark.parametrize(("damage", "says"), [
    (lambda text: text[:-20], "truncated"),
    (lambda text: text.replace('"0"', '"1"'), "changed after"),
    (lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "seal"}), "not sealed"),
])
def test_what_somebody_changed_is_refused(tmp_path, damage, says):
    applied.write("vllm_network", PARAMS, KEY, str(tmp_path))
    path = tmp_path / "vllm_network.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(Untrusted, match=says):
        applied.read("vllm_network", KEY, str(tmp_path))


def test_a_state_is_not_that_of_another_concern_or_node(tmp_path):
    applied.write("vllm_network", PARAMS, KEY, str(tmp_path))
    (tmp_path / "vllm_network.json").rename(tmp_path / "vllm_serve.json")
    with pytest.raises(Untrusted, match="seal"):
        applied.read("vllm_serve", KEY, str(tmp_path))
    applied.write("vllm_network", PARAMS, KEY, str(tmp_path))
    with pytest.raises(Untrusted, match="seal"):
        applied.read("vllm_network", bytes(32), str(tmp_path))


def test_enrolment_seals_what_was_applied_before(tmp_path):
    applied.write("vllm_network", PARAMS, None, str(tmp_path))
    with pytest.raises(Untrusted, match="not sealed"):
        applied.read("vllm_network", KEY, str(tmp_path))
    assert applied.enrol(KEY, str(tmp_path)) == ["vllm_network"]
    assert applied.read("vllm_network", KEY, str(tmp_path))["params"]["sysctls"]["values"]


def test_the_lock_is_exclusive(tmp_path):
    path = str(tmp_path / "run" / "lock")
    with applied.lock(path=path):
        with pytest.raises(applied.Busy), applied.lock(0.0, path):
            raise AssertionError("two held it")
    with applied.lock(0.0, path):
        assert os.path.exists(path)


@pytest.mark.parametrize(("verb", "policy", "does"), [
    ("restart", "stop", "stop"), ("restart", "restart", "restart"), ("restart", "report", None),
    ("start", "stop", None), ("start", "restart", "start"), ("stop", "stop", "stop"), ("enable", "stop", "enable"), ("stop", "report", None),
])
def test_what_is_done_with_services(verb, policy, does):
    assert guard_node.service_verb(verb, policy) == does


def test_only_what_was_started_after_a_change_runs_from_it():
    unit = {"name": "x.service", "content": "[Service]\n", "state": "started"}
    desired = node_state.Desired({"units": [unit]})
    path = "/etc/systemd/system/x.service"
    found = {"kind": "file", "owner": "root", "group": "root", "mode": 0o644, "mtime": 50.0, "content": b"[Service]\nUser=root\n"}
    running = {"load": "loaded", "active": "active", "sub": "running", "enabled": "enabled", "stale": False, "started": 100.0}
    have = {"groups": {"root": {"gid": 0}}, "users": {"root": {"uid": 0}}, "sysctls": {}, "addresses": [], "units": {"x.service": running},
            "paths": {path: found, "/etc/systemd/system": {**found, "kind": "directory"}}}
    steps = node_state.difference(desired, have)
    assert guard_node.started_from_others(desired, steps, have, {path: 50.0}) == {"x.service"}
    assert guard_node.started_from_others(desired, steps, have, {path: 150.0}) == set()
    assert guard_node.started_from_others(desired, steps, have, {path: None}) == set()


def test_a_program_counts_as_what_a_unit_was_started_from():
    program = {"path": "/usr/local/lib/x.py", "content": "good\n", "owner": "root", "group": "root", "mode": "0644"}
    unit = {"name": "x.service", "state": "started", "restart_on": ["/usr/local/lib/x.py"]}
    desired = node_state.Desired({"files": [program], "units": [unit, {"name": "y.service", "state": "started"}]})
    found = {"kind": "file", "owner": "root", "group": "root", "mode": 0o644, "mtime": 50.0, "content": b"bad\n"}
    running = {"load": "loaded", "active": "active", "sub": "running", "enabled": "enabled", "stale": False, "started": 100.0}
    have = {"groups": {"root": {"gid": 0}}, "users": {"root": {"uid": 0}}, "sysctls": {}, "addresses": [],
            "units": {"x.service": running, "y.service": running},
            "paths": {program["path"]: found, "/usr/local/lib": {**found, "kind": "directory"}}}
    steps = node_state.difference(desired, have)
    assert guard_node.started_from_others(desired, steps, have, {program["path"]: 50.0}) == {"x.service"}

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""With what playbooks/audit.yml and playbooks/drift.yml leave where hosts are out of reach, left out, or the input is refused."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from ansible_collections.vllm_mindspore.hardening.plugins.action.judge import FORMATS
from ansible_collections.vllm_mindspore.hardening.tests.unit.plugins.plugin_utils.audit_example import every_status

ROOT = Path(__file__).resolve().parents[2]
CONTROLLER = "10.77.0.1"
WAIVER = {"control": ["SRV-08"], "hosts": "all", "reason": "x", "owner": "x", "expires": "2030-01-01"}


def addresses(number):
    return {segment: f"10.77.{place}.{number}" for place, segment in enumerate(("management", "api", "internal"))}


INVENTORY = {
    "all": {"vars": {"ansible_host": "127.0.0.1", "ansible_port": 1}, "hosts": {"bystander": {}}},
    "vllm_nodes": {
        "vars": {
            "vllm_cluster_networks": {"management": "10.77.0.0/24", "api": "10.77.1.0/24", "internal": "10.77.2.0/24"},
            "vllm_cluster_administrators": [f"{CONTROLLER}/32"], "vllm_cluster_controller": CONTROLLER, "vllm_cluster_clients": ["10.77.1.128/25"],
            "vllm_cluster_monitors": ["10.77.0.9/32"], "vllm_cluster_instances": [],
        },
        "hosts": {"npu01": {"vllm_cluster_addresses": addresses(11)}, "npu02": {"vllm_cluster_addresses": addresses(12)}},
    },
    "vllm_vantage_points": {"hosts": {"client": {"vllm_audit_addresses": {"api": "10.77.1.130"}}}},
}


@pytest.mark.parametrize(("playbook", "words", "status"), [
    ("audit.yml", [], 3),
    ("audit.yml", ["--check"], 3),
    ("audit.yml", ["--limit", "npu01"], 3),
    ("audit.yml", ["--limit", "client"], 3),
    ("audit.yml", ["--limit", "bystander"], 3),
    ("audit.yml", ["--tags", "vllm_serve"], 3),
    ("audit.yml", ["--extra-vars", '{"vllm_audit_enforce": false}'], 0),
    ("audit.yml", ["--extra-vars", json.dumps({"vllm_audit_waivers": [WAIVER]})], 1),
    ("audit.yml", ["--extra-vars", json.dumps({"vllm_audit_waivers": ["nonsense"]})], 1),
    ("audit.yml", ["--extra-vars", '{"vllm_audit_rate": 0}'], 1),
    ("audit.yml", ["--extra-vars", '{"vllm_cluster_administrators": []}'], 1),
    ("audit.yml", ["--extra-vars", '{"vllm_audit_addresses": {"api": "client.example.com"}}'], 1),
    ("drift.yml", [], 3),
    ("drift.yml", ["--limit", "bystander"], 3),
    ("drift.yml", ["--extra-vars", '{"vllm_drift_controls": ["NET-1"]}'], 1),
])
def test_the_status_of_a_run(tmp_path, playbook, words, status):
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump(INVENTORY), encoding="utf-8")
    command = ["ansible-playbook", "-i", str(tmp_path / "inventory.yml"), "-e", f"vllm_audit_directory={tmp_path}/audit", *words, f"playbooks/{playbook}"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_wrong_settings_are_refused_all_at_once_before_a_host_is_contacted(tmp_path):
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump(INVENTORY), encoding="utf-8")
    wrong = {"rate": 0, "retries": -1, "timeout": 0, "spread": -1, "peers": -1, "udp_seconds": 4000, "waivers": [{**WAIVER, "control": "NET-01"}]}
    command = ["ansible-playbook", "-i", str(tmp_path / "inventory.yml"), "playbooks/audit.yml", "-e", json.dumps(
        {f"vllm_audit_{name}": value for name, value in wrong.items()})]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 1
    assert "UNREACHABLE" not in done.stdout
    for name in wrong:
        assert f"vllm_audit_{name}" in done.stdout + done.stderr


def again(path, *words):
    """What `judge` says of a results document."""
    command = ["ansible", "localhost", "-m", "vllm_mindspore.hardening.judge", "-a", " ".join([f"document={path}", f"directory={path.parent}/again", *words])]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1800, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_a_results_document_is_written_again_in_other_formats(tmp_path):
    document = every_status()
    (tmp_path / "report.json").write_text(json.dumps(document), encoding="utf-8")
    (tmp_path / "again").mkdir()
    done = again(tmp_path / "report.json", "formats=csv,html,json,junit,oscal,prometheus,sarif", "enforce=false")
    assert done.returncode == 0, done.stdout + done.stderr
    for file, render in FORMATS.values():
        assert (tmp_path / "again" / file).read_text(encoding="utf-8") == "".join(render(document)).replace("\r\n", "\n")
    assert again(tmp_path / "report.json").returncode == 2


@pytest.mark.parametrize(("change", "words"), [
    ({"version": 2}, "use a newer release"), ({"verdict": "compliant", "exit_status": 0}, "was edited"), ({"wire": 7}, "no whole results document"),
    ({"controls": []}, "no whole results document"), ({"plan": {"nodes": {}}}, "no whole results document"),
])
def test_a_document_that_is_none_is_one_clear_message(tmp_path, change, words):
    (tmp_path / "report.json").write_text(json.dumps({**every_status(), **change}), encoding="utf-8")
    (tmp_path / "again").mkdir()
    done = again(tmp_path / "report.json", "formats=html,oscal", "enforce=false")
    assert done.returncode == 2
    assert words in done.stdout + done.stderr
    assert not list((tmp_path / "again").iterdir())

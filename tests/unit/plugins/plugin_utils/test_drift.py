# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What drift correction decides and says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import drift
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import CONTROLS

PLAYBOOK = Path(drift.__file__).parents[2] / "playbooks/drift.yml"


def finding(control, host="npu01", status="fail"):
    return {"control": control, "host": host, "status": status, "observed": "something"}


def test_only_roles_of_failed_controls_run_and_in_their_order():
    roles, left = drift.roles_to_correct(
        [finding("SRV-01"), finding("FW-01"), finding("NET-05", "npu02"), finding("NET-04", "npu02", "unknown"), finding("FW-02", "npu02", "waived"),
         finding("HST-01")], ["npu01", "npu02", "npu03"])
    assert roles == {"npu01": ["vllm_firewall", "vllm_serve"], "npu02": ["vllm_network"], "npu03": []}
    assert [one["control"] for one in left] == ["HST-01"]


def test_a_role_that_the_inventory_leaves_out_is_not_run():
    roles, left = drift.roles_to_correct([finding("ACC-01"), finding("ACC-01", "npu02")], ["npu01", "npu02"], (), {"npu01": ["vllm_access", "vllm_gateway"]})
    assert roles == {"npu01": [], "npu02": ["vllm_access"]}
    assert [(one["control"], one["host"]) for one in left] == [("ACC-01", "npu01")]


@pytest.mark.parametrize("variables, roles", [
    ({}, ["vllm_gateway", "vllm_access", "vllm_guard"]),
    ({"vllm_cluster_gateway": True, "vllm_access_groups": ["deploy"], "vllm_guard_state": "present"}, []),
    ({"vllm_cluster_gateway": True, "vllm_access_groups": [], "vllm_guard_state": "absent"}, ["vllm_access", "vllm_guard"]),
    ({"vllm_access_groups": ["absent"], "vllm_guard_state": "unmanaged"}, ["vllm_gateway", "vllm_guard"]),
])
def test_what_the_inventory_leaves_out(variables, roles):
    assert drift.left_out(variables) == roles


def test_the_guard_is_brought_back_last_and_only_where_it_is_wanted():
    roles, left = drift.roles_to_correct([finding("GRD-01"), finding("FW-01"), finding("GRD-01", "npu02")], ["npu01", "npu02"], (), {"npu02": ["vllm_guard"]})
    assert roles == {"npu01": ["vllm_firewall", "vllm_guard"], "npu02": []}
    assert [(one["control"], one["host"]) for one in left] == [("GRD-01", "npu02")]


@pytest.mark.parametrize("role", sorted(drift.ROLES))
def test_the_playbook_runs_every_role_where_it_is_to_correct(role):
    play = next(play for play in yaml.safe_load(PLAYBOOK.read_text(encoding="utf-8")) if play.get("roles"))
    assert {"role": f"vllm_mindspore.hardening.{role}", "when": f"'{role}' in __vllm_drift_roles"} in play["roles"]
    assert [entry["role"].rpartition(".")[2] for entry in play["roles"]] == list(drift.ROLES)


def test_chosen_controls_only():
    roles, left = drift.roles_to_correct([finding("SRV-01"), finding("FW-01")], ["npu01"], ["FW-01"])
    assert roles == {"npu01": ["vllm_firewall"]}
    assert [one["control"] for one in left] == ["SRV-01"]
    assert drift.unknown_controls(["FW-01", "FW-99"]) == ["FW-99"]


def test_every_role_that_a_control_names_can_be_run():
    assert {tag for control in CONTROLS for tag in control.tags} <= set(drift.ROLES)


def test_an_explanation_says_what_and_why():
    result = {"changed": True, "origin": "foreign", "resources": [
        {"resource": "sysctl net.ipv4.ip_forward", "change": "update", "before": {"value": "1"}, "after": {"value": "0"}}]}
    explained = drift.explanation("vllm_network", result)
    assert explained == {"role": "vllm_network", "origin": "foreign", "lines": ["sysctl net.ipv4.ip_forward (update): value 1 -> value 0"]}
    said = "\n".join(drift.sentences("npu01", [explained], False))
    assert "npu01  vllm_network: changed on the node" in said
    assert "; put right" in said
    assert "would be put right" in "\n".join(drift.sentences("npu01", [explained], True))


def test_an_explanation_of_the_filter_is_its_difference_cut_to_length():
    lines = "".join(f"+ rule {number}\n" for number in range(100)) + "~ file: /etc/x\n"
    explained = drift.explanation("vllm_firewall", {"changed": True, "origin": "rollout", "diff": {"prepared": lines}})
    assert explained["lines"][:2] == ["~ file: /etc/x", "+ rule 0"]
    assert explained["lines"][-1] == "and 61 more"
    assert "intended" in drift.sentences("npu01", [explained], False)[0]


def test_an_explanation_of_a_file_shows_the_lines_that_differ():
    path = "/etc/systemd/system/vllm-chat.service"
    result = {"changed": True, "origin": "foreign", "resources": [
        {"resource": f"file {path}", "change": "update", "before": {"content": "sha256 a"}, "after": {"content": "sha256 b"}}],
        "diff": [{"before_header": "other", "after_header": "other", "before": "x\n", "after": "y\n"},
                 {"before_header": f"file {path} (update)", "after_header": f"file {path} (update)",
                  "before": "[Service]\nProtectSystem=full\nUser=vllm-chat\n", "after": "[Service]\nProtectSystem=strict\nUser=vllm-chat\n"}]}
    lines = drift.explanation("vllm_serve", result)["lines"]
    assert lines == [f"file {path} (update): content sha256 a -> content sha256 b", "    - ProtectSystem=full", "    + ProtectSystem=strict"]


def test_lines_of_a_long_difference_are_counted_and_a_new_file_shows_none():
    assert drift.changed_lines({"before": "a\n", "after": "".join(f"{number}\n" for number in range(20))})[-1] == "    and 13 more lines"
    assert drift.changed_lines({"before": "", "after": "a\n"}) == []
    assert drift.changed_lines(None) == []


@pytest.mark.parametrize("result", [{}, {"changed": False}, {"skipped": True, "changed": False}, None])
def test_what_changed_nothing_is_not_explained(result):
    assert drift.explanation("vllm_network", result) is None


@pytest.mark.parametrize(("audits", "status"), [
    ([0], 0), ([0, 0], 0), ([2, 0], 4), ([2, 2], 2), ([2], 2), ([3, 0], 3), ([2, 3], 3), ([0, 2], 2), ([], 3),
])
def test_the_exit_status_says_what_became_of_drift(audits, status):
    assert drift.exit_status(audits) == status

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Versions that belong together, and flags that an engine has: what the plan takes, and what it refuses with the right one named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import engine_flags, pairings
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_request import audit_request
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan import build_plan
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_reader import PlanError
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_refusals import DANGEROUS_ENVIRONMENT, DANGEROUS_FLAGS, PLANNED_ENVIRONMENT

DIGEST = "0" * 64
MINDSPORE = {"vllm-mindspore": "0.5.1", "vllm": "0.11.0+empty", "mindspore": "2.7.1.post1", "msadapter": "0.0.5", "transformers": "4.57.1", "ray": "2.48.0"}


def inventory(packages=None, software="managed", **change):
    """One node with one instance, and a lock of these packages."""
    lock = None if packages is None else "".join(f"{name}=={version} --hash=sha256:{DIGEST}\n" for name, version in packages.items())
    instance = {"name": "chat", "engine": "vllm_mindspore", "model": "/srv/models/tiny", "topology": "single", "nodes": ["npu01"], "api_port": 7443, **change}
    return {"npu01": {
        "vllm_cluster_networks": {"management": "10.77.0.0/24", "api": "10.77.1.0/24"},
        "vllm_cluster_administrators": ["10.77.0.1/32"], "vllm_cluster_clients": ["10.77.1.128/25"],
        "vllm_cluster_addresses": {"management": "10.77.0.11", "api": "10.77.1.11"},
        "vllm_cluster_instances": [instance], "vllm_runtime_requirements": lock, "vllm_runtime_software": software,
    }}


def refusal(hosts):
    with pytest.raises(PlanError) as refused:
        build_plan(hosts)
    return str(refused.value)


def planned(hosts):
    return build_plan(hosts)["nodes"]["npu01"]


def installed(**changes):
    """What an installation of MINDSPORE tells, each package in one version; None leaves one out."""
    found = {**{name: [version] for name, version in MINDSPORE.items()}, **{name.replace("_", "-"): versions for name, versions in changes.items()}}
    return {name: versions for name, versions in found.items() if versions is not None}


@pytest.mark.parametrize("changes, ray, wrong, missing", [
    ({}, None, [], []),
    ({"ray": None}, None, [], []),
    ({"ray": None}, "2.48.0", [], ["ray"]),
    ({"msadapter": None}, None, [], ["msadapter"]),
    ({"vllm": ["0.11.0", "0.23.0"]}, None, [], ["vllm"]),
    ({}, "2.60.0", ["ray 2.48.0 does not belong to vllm_mindspore 0.5.1; install ray==2.60.0: vllm_mindspore 0.5.1 with vllm 0.11.0,"], []),
    ({"vllm": ["0.23.0"]}, None, ["vllm 0.23.0 does not belong to vllm_mindspore 0.5.1; install vllm==0.11.0: vllm_mindspore 0.5.1 with vllm 0.11.0,"], []),
    ({"mindspore": ["2.7.0", "2.6.0"], "ray": ["2.9"]}, None, ["mindspore 2.7.0, mindspore 2.6.0 does not", "ray 2.9 does not belong"], []),
    ({"vllm_mindspore": ["0.4.0"]}, None, ["vllm-mindspore 0.4.0 does not belong to vllm_mindspore 0.5.1; install vllm-mindspore==0.5.1"], []),
])
def test_what_the_site_installed_is_judged_by_the_same_pairings(changes, ray, wrong, missing):
    problems, untold = pairings.installed_misfits("vllm_mindspore", "0.5.1", installed(**changes), ray)
    assert untold == missing and len(problems) == len(wrong)
    assert all(problem.startswith(begin) for problem, begin in zip(problems, wrong))


def test_the_versions_of_existing_software_are_asked_for_and_no_others():
    plan = build_plan(inventory(software="existing"))
    assert plan["nodes"]["npu01"]["existing"] is True
    assert audit_request(plan, "npu01")["packages"] == {
        "directory": "/opt/vllm/current/bin", "names": ["mindspore", "msadapter", "ray", "transformers", "vllm", "vllm-mindspore"]}
    assert audit_request(build_plan(inventory(MINDSPORE)), "npu01")["packages"] is None
    assert audit_request(build_plan(inventory(software="container")), "npu01")["packages"] is None


def test_the_role_hands_over_all_that_a_node_is_asked():
    tasks = yaml.safe_load((Path(__file__).parents[4] / "roles/vllm_audit/tasks/observe.yml").read_text())
    assert set(tasks[0]["vllm_mindspore.hardening.audit"]) == set(audit_request(build_plan(inventory()), "npu01"))


def test_the_lock_decides_the_version_and_a_right_one_is_taken():
    assert planned(inventory(MINDSPORE))["instances"][0]["version"] == "0.5.1"
    assert planned(inventory({**MINDSPORE, "vllm-mindspore": "0.5.0"}))["instances"][0]["version"] == "0.5.0"
    assert planned(inventory({"vllm": "0.18.0+cpu"}, engine="vllm"))["instances"][0]["version"] == "0.18.0"


def test_without_a_lock_the_newest_pairing_is_planned():
    assert planned(inventory())["instances"][0]["version"] == "0.5.1"
    assert planned(inventory())["npus"]["cann"] == "8.3"
    assert planned(inventory({"vllm": "0.9.1"}, software="existing"))["instances"][0]["version"] == "0.5.1"


@pytest.mark.parametrize(
    ("packages", "wrong", "right"),
    [
        ({"vllm": "0.9.1"}, "vllm==0.9.1", "Lock vllm==0.11.0"),
        ({"vllm": "0.11.1"}, "vllm==0.11.1", "Lock vllm==0.11.0"),
        ({"mindspore": "2.7.0"}, "mindspore==2.7.0", "Lock mindspore==2.7.1"),
        ({"mindspore": "2.7.10"}, "mindspore==2.7.10", "Lock mindspore==2.7.1"),
        ({"msadapter": "0.1.0"}, "msadapter==0.1.0", "Lock msadapter==0.0.5"),
        ({"ray": "2.43.0"}, "ray==2.43.0", "Lock ray>=2.48"),
        ({"msadapter": None}, "lacks msadapter", "Lock msadapter==0.0.5"),
        ({"vllm-mindspore": None}, "lacks vllm-mindspore", "Lock vllm-mindspore==0.5.1"),
        ({"vllm-mindspore": "0.4.0"}, "0.4.0", "vllm_mindspore 0.5.1 with vllm 0.11.0, mindspore 2.7.1, msadapter 0.0.5"),
    ],
)
def test_a_wrong_pairing_is_refused_with_the_right_one_named(packages, wrong, right):
    lock = {name: version for name, version in {**MINDSPORE, **packages}.items() if version}
    message = refusal(inventory(lock))
    assert any("npu01: vllm_runtime_requirements" in line and wrong in line and right in line for line in message.splitlines()), message


def test_a_stated_version_and_the_lock_have_to_agree():
    assert "vllm-mindspore==0.5.0" in refusal(inventory({**MINDSPORE, "vllm-mindspore": "0.5.0"}, version="0.5.1"))
    assert "Write vllm_mindspore 0.5.1" in refusal(inventory(version="0.6.0"))
    assert "no version" in refusal(inventory(version=0.5))


def test_a_stack_for_another_accelerator_is_refused():
    assert "lacks torch-npu" in refusal(inventory({"vllm-ascend": "0.18.0", "vllm": "0.18.0", "torch": "2.9.0"}, engine="vllm_ascend"))


def test_ray_in_the_lock_is_the_ray_of_the_plan():
    change = {"topology": "ray", "nodes": ["npu01", "npu02"], "tensor_parallel_size": 2, "ray": {"ports": "20100-20999", "version": "2.60.0"}}
    hosts = inventory(MINDSPORE, **change)
    hosts["npu02"] = {**hosts["npu01"], "vllm_cluster_addresses": {"management": "10.77.0.12", "api": "10.77.1.12"}}
    assert any("chat].ray.version" in line and "Write 2.48.0" in line for line in refusal(hosts).splitlines())


def test_equal_locks_are_read_once(monkeypatch):
    calls = []
    monkeypatch.setattr(pairings, "read_versions", lambda text: calls.append(text) or MINDSPORE)
    hosts = {
        f"npu{number:02}": {**inventory(MINDSPORE)["npu01"], "vllm_cluster_addresses": {"management": f"10.77.0.{number}", "api": f"10.77.1.{number}"}}
        for number in range(1, 20)
    }
    build_plan(hosts)
    assert len(calls) == 1


def test_every_version_of_vllm_that_is_planned_has_its_flags():
    for version in pairings.vllm_versions():
        assert {"host", "port", "headless", "data-parallel-address", "api-server-count"} <= set(engine_flags.flags_of(version))
    assert "nnodes" not in engine_flags.flags_of("0.11.0") and "nnodes" in engine_flags.flags_of("0.32.0")
    assert engine_flags.flags_of("0.0.1") == {}


@pytest.mark.parametrize(
    ("arguments", "trouble"),
    [
        ({"max-modle-len": 128}, "Write max-model-len"),
        ({"max-model": 128}, "is no flag of vllm 0.11.0"),
        ({"moe-backend": "auto"}, "is no flag of vllm 0.11.0, which vllm_mindspore 0.5.1 runs"),
        ({"enforce-eager": "yes"}, "Write true or false"),
        ({"max-model-len": True}, "takes a value"),
        ({"disable-log-stats": False}, "cannot be switched off"),
        ({"disable-fastapi-docs": False}, None),
        ({"enforce-eager.x": True}, "takes no value"),
    ],
)
def test_flags_are_those_of_the_engine(arguments, trouble):
    hosts = inventory(arguments=arguments)
    if trouble is None:
        assert f"--no-{next(iter(arguments))}" in planned(hosts)["instances"][0]["arguments"]
    else:
        assert trouble in refusal(hosts)


@pytest.mark.parametrize("value", ["-1", -1, "-0.5", "x-y"])
def test_a_negative_number_is_a_value(value):
    assert str(value) in planned(inventory(arguments={"seed": value}))["instances"][0]["arguments"]


@pytest.mark.parametrize("spelling", ["{0}", "--{0}", "{0}.part", "no-{0}"])
@pytest.mark.parametrize("flag", sorted(DANGEROUS_FLAGS))
def test_a_dangerous_flag_is_refused_however_it_is_spelled(flag, spelling):
    assert f"arguments.{spelling.format(flag)}" in refusal(inventory(arguments={spelling.format(flag): True}))
    assert f"arguments.{flag.replace('-', '_')}" in refusal(inventory(arguments={flag.replace("-", "_"): True}))


@pytest.mark.parametrize("variable", sorted({*DANGEROUS_ENVIRONMENT, *PLANNED_ENVIRONMENT}))
def test_dangerous_and_planned_variables_are_refused(variable):
    assert f"environment.{variable}" in refusal(inventory(environment={variable: "1"}))


def test_nothing_reports_or_fetches():
    environment = planned(inventory())["instances"][0]["environment"]
    wanted = ("VLLM_NO_USAGE_STATS", "VLLM_DO_NOT_TRACK", "DO_NOT_TRACK", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
    assert {environment[name] for name in wanted} == {"1"}


VETTED = "read by the platform team on 2026-11-02"


def test_code_of_a_model_runs_only_pinned_and_with_its_reason():
    checksums = {"modelling.py": DIGEST, "config.json": DIGEST}
    assert "--trust-remote-code" in planned(inventory(model_checksums=checksums, trust_remote_code=VETTED))["instances"][0]["arguments"]
    assert "--trust-remote-code" not in planned(inventory(model_checksums=checksums))["instances"][0]["arguments"]
    assert "digests the inventory does not give" in refusal(inventory(trust_remote_code=VETTED))
    assert "digests the inventory does not give" in refusal(inventory(model_checksums={"config.json": DIGEST}, trust_remote_code=VETTED))
    for reason in (True, "yes", "", ["x"]):
        assert "is no reason" in refusal(inventory(model_checksums=checksums, trust_remote_code=reason))


def test_checksums_are_a_mapping_or_what_sha256sum_writes():
    text = f"{DIGEST}  ./config.json\n{'A' * 64} *sub/model 1.safetensors\n"
    plan = build_plan(inventory(model_checksums=text))
    assert plan["clusters"]["vllm"]["instances"]["chat"]["model_checksums"] == {"config.json": DIGEST, "sub/model 1.safetensors": "a" * 64}


@pytest.mark.parametrize(
    "value", [{}, "", [], {"/etc/passwd": DIGEST}, {"../x": DIGEST}, {"x": "md5"}, f"{DIGEST}  x\n{DIGEST}  x\n", {"x\n": DIGEST}, {"": DIGEST}]
)
def test_a_bad_checksum_is_refused(value):
    assert "vllm_cluster_instances[chat].model_checksums" in refusal(inventory(model_checksums=value))

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the controller's steps read of the run: results of other hosts, and where vantage points are attached."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleActionFail

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_run import (
    ADDRESSES, OBSERVED, VANTAGE_GROUP, observations, vantage_addresses)


@pytest.mark.parametrize(("result", "reason"), [
    (None, "not part of this run"), ({"unreachable": True, "msg": "timed out"}, "unreachable: timed out"), ({"failed": True}, "the module failed"),
    ({"skipped": True, "msg": "why"}, "why"), ({}, "nonsense"), ({"observation": "text"}, "nonsense"), ({"observation": [1]}, "nonsense"),
])
def test_what_is_no_observation_is_none_and_has_a_reason(result, reason):
    values, reasons = observations({"npu01": {OBSERVED: result} if result is not None else {}}, ["npu01"])
    assert values == {"npu01": None}
    assert reason in reasons["npu01"]


def test_an_observation_is_plain_data():
    assert observations({"npu01": {OBSERVED: {"observation": {"version": 1, "listeners": ({"port": 1},)}}}}, ["npu01"]) == (
        {"npu01": {"version": 1, "listeners": [{"port": 1}]}}, {})


def attached(addresses):
    return vantage_addresses({"groups": {VANTAGE_GROUP: ["client"]}, "hostvars": {"client": {ADDRESSES: addresses}}})


def test_addresses_are_written_as_probes_report_them():
    assert attached({"api": "FD00:0:0:1::A", "internal": ["10.77.2.67"]}) == {"client": {"api": ["fd00:0:0:1::a"], "internal": ["10.77.2.67"]}}


@pytest.mark.parametrize("addresses", [{"api": "npu01"}, {"api": 5}, {"api": None}, {"api": ["10.77.1.1/24"]}, {"api": {}}, {}, 7, None])
def test_what_is_no_address_is_refused(addresses):
    with pytest.raises(AnsibleActionFail, match="vllm_audit_addresses"):
        attached(addresses)

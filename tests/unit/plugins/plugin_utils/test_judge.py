# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Each single deviation is found by its control and by no other, and what is not known never passes."""

from __future__ import annotations

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import BY_ID, CONTROLS, SEVERITIES, WITNESSES
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judge import CHECKS, clip, judge, worst
from ansible_collections.vllm_mindspore.hardening.tests.unit.plugins.plugin_utils.audit_example import (
    PLAN, composed, listener, observations, path_of, probes)

CHAT = "vllm-chat.service"


def judged(change=None, reasons=None, probe_change=None):
    seen = observations()
    if change:
        change(seen)
    targets = composed()
    results = probes(targets)
    if probe_change:
        probe_change(results)
    return judge(PLAN, targets, seen, reasons or {}, results)


def deviations(judgement, status="fail"):
    return {(finding["control"], finding["host"]) for finding in judgement["findings"] if finding["status"] == status}


def test_the_catalogue_is_whole():
    assert len(BY_ID) == len(CONTROLS)
    assert set(CHECKS) == set(BY_ID)
    for control in CONTROLS:
        assert control.severity in SEVERITIES
        assert control.witness in WITNESSES
        assert control.title and control.rationale and control.sources and control.fix and control.applies


def test_a_cluster_as_planned_is_compliant():
    judgement = judged()
    assert (judgement["verdict"], judgement["exit_status"]) == ("compliant", 0)
    assert deviations(judgement, "fail") == deviations(judgement, "unknown") == set()
    assert judgement["coverage"]["observed"] == 2
    assert sum(judgement["counts"].values()) == len(judgement["findings"])


def unit(seen, host="npu02"):
    return seen[host]["units"][CHAT]


DEVIATIONS = {
    "a planned address is gone": ("NET-04", lambda seen: seen["npu02"]["addresses"].pop(0)),
    "an address sits on another interface": ("NET-04", lambda seen: seen["npu02"]["addresses"][0].update(interface="eth7")),
    "an address too many on a segment": ("NET-04", lambda seen: seen["npu02"]["addresses"].append({"address": "10.77.2.99", "interface": "eth2"})),
    "a setting of one interface differs": (
        "NET-05", lambda seen: seen["npu02"]["sysctls"]["net.ipv4.conf.*.accept_redirects"].update({"net/ipv4/conf/eth1/accept_redirects": "1"})),
    "the port range is the kernel's": (
        "NET-06", lambda seen: seen["npu02"]["sysctls"]["net.ipv4.ip_local_port_range"].update({"net/ipv4/ip_local_port_range": "32768 60999"})),
    "the engine takes every interface": ("SOC-01", lambda seen: seen["npu02"]["listeners"].append(listener("0.0.0.0", 28018))),
    "the engine takes every interface of IPv6": ("SOC-01", lambda seen: seen["npu02"]["listeners"].append(listener("::", 28018))),
    "the engine listens on another segment": ("SOC-01", lambda seen: seen["npu02"]["listeners"].append(listener("10.77.1.12", 28018))),
    "the engine listens on an unplanned port": ("SOC-01", lambda seen: seen["npu02"]["listeners"].append(listener("10.77.2.12", 29550))),
    "another service listens": ("SOC-02", lambda seen: seen["npu02"]["listeners"].append(listener("0.0.0.0", 111, "rpcbind.socket"))),
    "a process outside any unit listens": ("SOC-02", lambda seen: seen["npu02"]["listeners"].append(listener("10.77.1.12", 8000, None))),
    "the unit is stopped": ("SRV-01", lambda seen: unit(seen)["properties"].update(ActiveState="failed")),
    "the unit was edited and not reloaded": ("SRV-01", lambda seen: unit(seen)["properties"].update(NeedDaemonReload="yes")),
    "the unit is not enabled": ("SRV-01", lambda seen: unit(seen)["properties"].update(UnitFileState="disabled")),
    "the unit runs as another user": ("SRV-01", lambda seen: unit(seen)["properties"].update(User="")),
    "a process is root": ("SRV-02", lambda seen: unit(seen)["processes"][0].update(uid="0\t0\t0\t0")),
    "a process has a capability": ("SRV-02", lambda seen: unit(seen)["processes"][0].update(effective="0000000000000400")),
    "a process may gain privileges": ("SRV-02", lambda seen: unit(seen)["processes"][0].update(no_new_privileges="0")),
}


@pytest.mark.parametrize("deviation", DEVIATIONS)
def test_one_deviation_is_one_finding(deviation):
    control, change = DEVIATIONS[deviation]
    judgement = judged(change)
    assert deviations(judgement) == {(control, "npu02")}
    assert deviations(judgement, "unknown") == set()
    assert judgement["exit_status"] == 2
    finding = next(finding for finding in judgement["findings"] if finding["status"] == "fail")
    assert finding["expected"] and finding["observed"] and finding["evidence"]


def test_an_api_that_does_not_listen_is_found_on_the_head():
    judgement = judged(lambda seen: seen["npu01"]["listeners"].pop())
    assert deviations(judgement) == {("SOC-03", "npu01")}


def test_loopback_and_planned_listeners_are_no_finding():
    def more(seen):
        seen["npu02"]["listeners"] += [listener("127.0.0.1", 28018), listener("::1", 631, "cups.service"), listener("10.77.2.12", 28999)]
    assert deviations(judged(more)) == set()


def test_a_leak_is_found_on_the_node_that_leaks_and_names_the_vantage_point():
    def leak(results):
        path = path_of(results, "rogue", "npu02", "10.77.0.12")
        path["silent"].remove("22")
        path["open"] = ["22"]
    judgement = judged(probe_change=leak)
    assert deviations(judgement) == {("NET-01", "npu02")}
    observed = worst(judgement["findings"])[0]["observed"]
    assert "rogue 10.77.2.67 -> npu02 10.77.0.12 tcp 22" in observed


def test_a_break_names_the_flow():
    def break_it(results):
        path = path_of(results, "client", "npu01", "10.77.1.11")
        path["open"].remove("7443")
        path["silent"].append("7443")
    judgement = judged(probe_change=break_it)
    assert deviations(judgement) == {("NET-02", "npu01")}
    assert "flow chat-api" in worst(judgement["findings"])[0]["observed"]


@pytest.mark.parametrize("part, controls", [
    ("listeners", {"SOC-01", "SOC-02"}), ("addresses", {"NET-04"}), ("sysctls", {"NET-05", "NET-06"}),
    ("units", {"SRV-01", "SRV-02"}),
])
@pytest.mark.parametrize("value", [None, "nonsense", 7, [7], [None], {"a": 1}])
def test_what_a_node_does_not_tell_is_unknown(part, controls, value):
    judgement = judged(lambda seen: seen["npu02"].update({part: value}))
    assert not deviations(judgement) & {(control, "npu02") for control in controls}
    assert deviations(judgement, "unknown") == {(control, "npu02") for control in controls}
    assert judgement["exit_status"] == 3


def test_an_unreached_node_is_unknown_throughout_and_the_run_incomplete():
    def gone(seen):
        seen["npu02"] = None

    def not_probing(results):
        results["npu02"] = None
    judgement = judged(gone, {"npu02": "unreachable: timed out"}, not_probing)
    assert judgement["exit_status"] == 3
    assert judgement["coverage"]["not_observed"] == {"npu02": "unreachable: timed out"}
    assert judgement["coverage"]["not_probed"] == {"npu02": "unreachable: timed out"}
    assert ("NET-04", "npu02") in deviations(judgement, "unknown")
    assert ("NET-01", "npu01") in deviations(judgement, "unknown")


def test_findings_weigh_more_than_gaps():
    def both(seen):
        seen["npu02"] = None
        seen["npu01"]["listeners"].append(listener("0.0.0.0", 28018))
    assert judged(both)["exit_status"] == 2


def test_no_probe_at_all_is_no_pass():
    judgement = judged(probe_change=lambda results: results.update(dict.fromkeys(results)))
    assert {control for control, _host in deviations(judgement, "unknown")} == {"NET-01", "NET-02"}
    assert judgement["exit_status"] == 3


def test_what_hosts_say_is_cut_and_cleaned():
    assert clip("a\x1b[2J\n\x00b") == "a [2J  b"
    assert len(clip("x" * 5000)) == 400


def test_the_worst_come_first_one_a_control():
    def many(seen):
        seen["npu01"]["listeners"].append(listener("0.0.0.0", 28018))
        for host in seen:
            seen[host]["listeners"].append(listener("0.0.0.0", 111, "rpcbind.socket"))
    assert [finding["control"] for finding in worst(judged(many)["findings"])] == ["SOC-01", "SOC-02"]

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What is tried from where, and what the answers mean."""

from __future__ import annotations

import copy

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.probing import expand_ports
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import (
    BROKEN, LEAK, OK_BLOCKED, OK_OPEN, UNKNOWN, Planned, compose, judge_wire, sample_range, spread_ports, without_ended_responders, without_responder)

from ansible_collections.vllm_mindspore.hardening.tests.unit.plugins.plugin_utils.audit_example import (
    PLAN,
    VANTAGE_POINTS,
    composed,
    observation,
    observations,
    path_of,
    probes,
)


def test_the_plan_decides_by_addresses_and_segment():
    planned = Planned(PLAN)
    assert planned.ports("npu01", "10.77.1.130", "api", "10.77.1.11", "tcp") == [(7443, 7443, "chat-api")]
    assert planned.ports("npu01", "10.77.1.66", "api", "10.77.1.11", "tcp") == []
    assert planned.ports("npu01", "10.77.1.130", "internal", "10.77.1.11", "tcp") == []
    assert planned.ports("npu01", "10.77.1.130", "api", "10.77.2.11", "tcp") == []
    assert planned.ports("npu01", "10.77.1.130", "api", "10.77.1.11", "udp") == []
    assert planned.ports("npu01", "10.77.2.12", "internal", "10.77.2.11", "tcp") == [(20550, 20550, "chat-internal"), (28000, 28999, "chat-internal")]


def test_planned_listening_known_and_spread_ports_are_tried():
    seen = observation("npu01")
    seen["listeners"].append({"protocol": "tcp", "address": "::", "port": 33445})
    ports = expand_ports(compose(PLAN, {"npu01": seen}, {}, spread=4)["targets"]["npu01"]["tcp"])
    assert {22, 7443, 20550, 28000, 28999, 28017, 33445, 6379, 29550} <= set(ports)
    assert set(spread_ports(4)) <= set(ports)
    assert 33445 not in expand_ports(compose(PLAN, {}, {})["targets"]["npu01"]["tcp"])


@pytest.mark.parametrize("told", [{"listeners": 7}, {"listeners": "x"}, {"listeners": [7]}, {"responder": 7}, {"responder": {"ports": 7}}, {}])
def test_a_node_that_tells_nonsense_of_its_listeners_is_tried_all_the_same(told):
    assert compose(PLAN, {"npu01": told}, {})["targets"]["npu01"] == compose(PLAN, {}, {})["targets"]["npu01"]


def test_a_node_that_is_a_vantage_point_too_does_not_try_itself():
    point = compose(PLAN, {}, {"npu01": {"internal": ["10.77.2.11"]}})["vantage_points"]["npu01"]
    assert point["hosts"] == ["npu02"]


def test_ranges_are_sampled():
    assert sample_range(28000, 28999) == [28000, 28250, 28500, 28749, 28999]
    assert sample_range(7443, 7443) == [7443]
    assert spread_ports(0) == []


def test_every_node_is_tried_by_peers_and_by_every_other_vantage_point():
    points = composed()["vantage_points"]
    assert points["npu01"]["hosts"] == ["npu02"]
    assert points["npu02"]["hosts"] == ["npu01"]
    assert points["rogue"] == {"sources": [{"segment": "internal", "address": "10.77.2.67"}], "hosts": ["npu01", "npu02"]}


def test_in_a_large_cluster_every_node_is_tried_by_as_many_peers():
    names = [f"npu{number:04}" for number in range(200)]
    plan = {"clusters": {"vllm": {"nodes": names, "sets": {}}}, "nodes": {name: {**PLAN["nodes"]["npu01"], "flows": []} for name in names}}
    tried = [host for point in compose(plan, {}, {}, peers=3)["vantage_points"].values() for host in point["hosts"]]
    assert {name: tried.count(name) for name in names} == dict.fromkeys(names, 3)


def test_a_network_as_planned_is_ok():
    targets = composed()
    wire = judge_wire(PLAN, targets, probes(targets))
    assert wire["missing"] == []
    assert (wire["counts"][LEAK], wire["counts"][BROKEN], wire["counts"][UNKNOWN]) == (0, 0, 0)
    assert wire["counts"][OK_OPEN] > 0
    assert wire["counts"][OK_BLOCKED] > 0


def cells(change, vantage, host, source, address):
    targets = composed()
    results = probes(targets)
    change(path_of(results, vantage, host, address, source))
    wire = judge_wire(PLAN, targets, results)
    row = next(row for row in wire["rows"] if (row["vantage"], row["host"], row["source"], row["address"]) == (vantage, host, source, address))
    return {cell["result"]: cell for cell in row["cells"]}, wire


@pytest.mark.parametrize("answer", ["open", "closed"])
def test_whatever_answers_without_being_planned_is_a_leak(answer):
    def leak(path):
        path["silent"].remove("22")
        path[answer] = ["22"]
    found, wire = cells(leak, "rogue", "npu01", "10.77.2.67", "10.77.0.11")
    assert found[LEAK]["ports"] == ["22"]
    assert (found[LEAK]["expected"], found[LEAK]["observed"]) == ("blocked", answer)
    assert wire["counts"][LEAK] == 1


@pytest.mark.parametrize("answer", ["silent", "refused"])
def test_planned_and_unanswered_is_broken(answer):
    def break_it(path):
        path["open"].remove("7443")
        path[answer].append("7443")
    found, _wire = cells(break_it, "client", "npu01", "10.77.1.130", "10.77.1.11")
    assert (found[BROKEN]["ports"], found[BROKEN]["flow"]) == (["7443"], "chat-api")


def test_planned_and_reset_is_ok_since_the_packet_passed():
    def reset(path):
        path["open"], path["closed"] = [], path["open"]
    found, wire = cells(reset, "npu02", "npu01", "10.77.2.12", "10.77.2.11")
    assert OK_OPEN in found
    assert wire["counts"][BROKEN] == 0


def test_a_range_is_cut_where_the_plan_begins():
    def widen(path):
        path["silent"], path["open"] = [], ["27990-29010"]
    found, _wire = cells(widen, "npu02", "npu01", "10.77.2.12", "10.77.2.11")
    assert found[LEAK]["ports"] == ["27990-27999", "29000-29010"]
    assert found[OK_OPEN]["ports"] == ["28000-28999"]


def test_what_was_not_sent_is_unknown():
    def unsent(path):
        path["silent"], path["unsent"], path["why"] = [], path["silent"], "no route"
    found, wire = cells(unsent, "rogue", "npu01", "10.77.2.67", "10.77.0.11")
    assert set(found) == {UNKNOWN}
    assert wire["counts"][UNKNOWN] == found[UNKNOWN]["count"]


def test_ports_that_a_vantage_point_does_not_mention_are_unknown():
    def cut(path):
        path["silent"] = path["silent"][:3]
    found, wire = cells(cut, "rogue", "npu01", "10.77.2.67", "10.77.0.11")
    asked = expand_ports(composed()["targets"]["npu01"]["tcp"])
    assert (found[OK_BLOCKED]["count"], found[UNKNOWN]["count"]) == (3, len(asked) - 3)
    assert wire["counts"][UNKNOWN] == len(asked) - 3


def test_an_absent_vantage_point_is_unknown_for_every_path():
    targets = composed()
    results = {**probes(targets), "rogue": None}
    wire = judge_wire(PLAN, targets, results)
    assert len(wire["missing"]) == 6
    assert {entry["vantage"] for entry in wire["missing"]} == {"rogue"}


@pytest.mark.parametrize("nonsense", [
    "<script>", 7, None, {"paths": "many"}, {"paths": [None, 1, {}]}, {"paths": [{"host": ["npu01"]}]},
    {"paths": [{"host": "npu01", "address": "10.77.0.11", "protocol": "tcp", "source": "10.77.2.67", "segment": "internal", "silent": "22"}]},
    {"paths": [{"host": "npu01", "address": "10.77.0.11", "protocol": "tcp", "source": "10.77.2.67", "segment": "internal", "silent": ["x"]}]},
    {"paths": [{"host": "npu01", "address": "10.77.0.11", "protocol": "tcp", "source": "192.0.2.1", "segment": "internal", "silent": ["22"]}]},
])
def test_nonsense_from_a_vantage_point_counts_as_not_tried(nonsense):
    targets = composed()
    wire = judge_wire(PLAN, targets, {**probes(targets), "rogue": nonsense})
    assert len(wire["missing"]) == 6


def test_flows_without_interface_are_judged_by_addresses_alone():
    plan = copy.deepcopy(PLAN)
    for flow in plan["nodes"]["npu01"]["flows"]:
        flow["interface"] = None
    assert Planned(plan).ports("npu01", "10.77.1.130", "internal", "10.77.1.11", "tcp") == [(7443, 7443, "chat-api")]


def test_vantage_points_may_have_several_addresses_on_a_segment():
    points = compose(PLAN, {}, {**VANTAGE_POINTS, "dual": {"api": ["10.77.1.140", "fd00:77:1::140"]}})["vantage_points"]
    assert len(points["dual"]["sources"]) == 2


def with_responders(started=1000):
    seen = observations()
    for host, told in seen.items():
        told["responder"] = {"ports": [53, 4791], "nonce": f"nonce of {host}", "seconds": 180, "started": started}
    return seen


def udp_paths(targets, answers=()):
    """What the vantage points report of UDP where only `answers` come back."""
    results = probes(targets)
    for name, point in targets["vantage_points"].items():
        for path in list(results[name]["paths"]):
            ports = targets["targets"][path["host"]]["udp"]
            opened = [port for port in ports if (name, path["host"], port) in answers]
            results[name]["paths"].append({**path, "protocol": "udp", "open": opened, "silent": [port for port in ports if port not in opened], "closed": []})
        assert point["hosts"]
    return results


def test_udp_is_tried_where_a_responder_answers():
    targets = composed(with_responders())
    assert targets["targets"]["npu01"]["udp"] == ["53", "4791"]
    assert targets["targets"]["npu01"]["udp_nonce"] == "nonce of npu01"
    assert composed()["targets"]["npu01"]["udp"] == []


def test_an_answered_datagram_is_a_leak():
    targets = composed(with_responders())
    result = judge_wire(PLAN, targets, udp_paths(targets, {("rogue", "npu02", "4791")}))
    leaks = [(row["vantage"], row["host"], row["protocol"], cell["ports"]) for row in result["rows"] for cell in row["cells"] if cell["result"] == "LEAK"]
    assert set(map(str, leaks)) == {str(("rogue", "npu02", "udp", ["4791"]))}
    assert result["counts"]["UNKNOWN"] == 0


def test_udp_that_a_vantage_point_did_not_try_is_unknown():
    targets = composed(with_responders())
    result = judge_wire(PLAN, targets, probes(targets))
    assert result["missing"] and all(entry["address"].endswith(" udp") for entry in result["missing"])


def test_silence_after_the_responders_end_means_nothing():
    seen = without_ended_responders(with_responders(), 1181)
    targets = composed(seen)
    assert targets["targets"]["npu01"]["udp"] == []
    assert "vllm_audit_udp_seconds" in seen["npu01"]["unknown"]["responder"]
    assert without_ended_responders(with_responders(), 1180) == with_responders()
    result = judge_wire(PLAN, targets, udp_paths(composed(with_responders())))
    assert not [row for row in result["rows"] if row["protocol"] == "udp"]


def test_silence_after_the_responder_was_ended_by_somebody_means_nothing():
    lost = without_responder({"npu01": {"responders": 0}, "npu02": {"responders": 1}, "client": None, "rogue": {}})
    assert lost == {"npu01"}
    seen = without_ended_responders(with_responders(), 1100, lost)
    assert composed(seen)["targets"]["npu01"]["udp"] == []
    assert "ended by somebody else" in seen["npu01"]["unknown"]["responder"]
    assert seen["npu02"] == with_responders()["npu02"]


@pytest.mark.parametrize("nonsense", [
    {"ports": "all"}, {"ports": [53], "seconds": "x", "started": 5}, [], 7, {"ports": [], "seconds": 120, "started": 1060, "nonce": "x"},
    {"ports": ["53"], "seconds": 120, "started": 1060, "nonce": "x"},
])
def test_a_responder_that_is_none_is_not_believed(nonsense):
    seen = with_responders()
    seen["npu01"]["responder"] = nonsense
    assert without_ended_responders(seen, 1100)["npu01"]["unknown"]["responder"]
    assert composed(without_ended_responders(seen, 1100))["targets"]["npu01"]["udp"] == []

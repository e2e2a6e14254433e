# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which paths are tried, and how results are told."""

from __future__ import annotations

import socket

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import probing
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.network_tables import read_sockets
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.probing import (
    Outcome, ProbeError, RawProber, compact, expand_ports, interleave, plan_paths, probe)

SOURCES = [{"segment": "internal", "address": "10.77.2.67"}, {"segment": "internal", "address": "fd00:77:2::67"}]
TARGET = {"host": "npu01", "addresses": {"management": ["10.77.0.11"], "internal": ["10.77.2.11", "fd00:77:2::11"]}, "tcp": ["22", "8000-8001"]}


def test_every_address_is_tried_and_other_segments_through_the_neighbour():
    paths = plan_paths(SOURCES, [TARGET])
    assert [(path["source"], path["address"], path["crossed"], path["via"]) for path in paths] == [
        ("10.77.2.67", "10.77.0.11", True, "10.77.2.11"),
        ("10.77.2.67", "10.77.2.11", False, None),
        ("fd00:77:2::67", "fd00:77:2::11", False, None),
    ]
    assert paths[0]["ports"] == [22, 8000, 8001]


def test_a_node_does_not_try_itself():
    assert plan_paths([{"segment": "internal", "address": "10.77.2.11"}], [{**TARGET, "addresses": {"internal": ["10.77.2.11"]}}]) == []


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "255.255.255.255", "npu01", "10.77.2.0/24"])
def test_only_single_hosts_are_tried(address):
    with pytest.raises(ProbeError, match="npu01"):
        plan_paths(SOURCES, [{**TARGET, "addresses": {"internal": [address]}}])
    with pytest.raises(ProbeError, match="sources"):
        plan_paths([{"segment": "internal", "address": address}], [TARGET])


def test_a_wrong_port_names_the_target():
    with pytest.raises(ProbeError, match="npu01.*99999"):
        plan_paths(SOURCES, [{**TARGET, "tcp": ["99999"]}])


def test_port_zero_is_never_tried():
    assert expand_ports(["0-2"]) == [1, 2]


def test_ports_are_told_as_ranges():
    assert compact([22, 8000, 8001, 8002]) == ["22", "8000-8002"]


def test_every_port_is_in_exactly_one_class():
    outcome = Outcome(plan_paths(SOURCES, [TARGET])[1])
    outcome.answers = {22: "open"}
    outcome.unsent = {8001: "no route"}
    row = outcome.report()
    assert (row["open"], row["closed"], row["refused"], row["silent"], row["unsent"]) == (["22"], [], [], ["8000"], ["8001"])
    assert row["why"] == "no route"


def test_hosts_take_turns():
    first, second = ({"ports": [1, 2]}, {"ports": [1]})
    outcomes = [type("Outcome", (), {"path": path})() for path in (first, second)]
    assert [(outcome.path is first, port) for outcome, port in interleave(outcomes)] == [(True, 1), (False, 1), (True, 2)]


def test_connections_tell_open_from_closed():
    with socket.socket() as listener, socket.socket() as closed:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        closed.bind(("127.0.0.1", 0))
        ports = sorted((listener.getsockname()[1], closed.getsockname()[1]))
        path = {
            "host": "here",
            "protocol": "tcp",
            "segment": "internal",
            "source": "127.0.0.1",
            "address": "127.0.0.1",
            "crossed": False,
            "via": None,
            "ports": ports,
        }
        result = probe([path], "connect", 1000, 0, 60.0)
    assert result["method"] == "connect"
    assert result["sent"] == 2
    assert result["paths"][0]["open"] == [str(listener_port) for listener_port in ports if str(listener_port) in result["paths"][0]["open"]]
    assert len(result["paths"][0]["open"]) == 1
    assert len(result["paths"][0]["closed"]) == 1


@pytest.mark.parametrize("rate, retries, timeout", [(0, 0, 1), (1, -1, 1), (1, 0, 0)])
def test_impossible_settings_are_refused(rate, retries, timeout):
    with pytest.raises(ProbeError, match="rate"):
        probe([], "connect", rate, retries, timeout)


def test_a_reserved_port_is_taken_and_looks_like_no_listener():
    prober = object.__new__(RawProber)  # opening it takes root; reserving does not
    port = prober._reserve(["127.0.0.1"])
    try:
        assert not [entry for entry in read_sockets() if entry["port"] == port]
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
    finally:
        for holder in prober._reserved:
            holder.close()


class Clockwork(RawProber):
    """The raw prober without a network: its time goes by while it waits, and some ports answer."""

    def __init__(self, ports, answering, delay):
        self.now, self.sends, self.arrivals = 0.0, {}, []
        self.outcome = Outcome({"ports": ports})
        self.answering, self.delay = answering, delay

    def _send(self, outcome, port):
        self.sends.setdefault(port, []).append(self.now)
        if port in self.answering:
            self.arrivals.append((self.now + self.delay, port))
        return ""

    def _receive(self, wait):
        self.now = max(self.now, min([self.now + max(0.0, wait)] + [due for due, _port in self.arrivals if due > self.now]))
        for due, port in self.arrivals:
            if due <= self.now:
                self.outcome.answers[port] = "open"


@pytest.mark.parametrize("answering, delay", [(range(0), 0), (range(1, 101), 0.01), (range(1, 1000), 0.13), (range(500, 1001), 0.4)])
def test_every_port_has_its_time_between_attempts_and_none_is_waited_for_longer(monkeypatch, answering, delay):
    prober = Clockwork(range(1, 1001), answering, delay)
    monkeypatch.setattr(probing.time, "monotonic", lambda: prober.now)
    prober._attempt([prober.outcome], probing.Pace(10000), 2, 0.25)
    silent = [port for port in range(1, 1001) if port not in answering]
    assert sorted(prober.outcome.answers) == list(answering)
    assert all(len(prober.sends[port]) == 3 for port in silent)
    assert all(later - earlier > 0.12 for sends in prober.sends.values() for earlier, later in zip(sends, sends[1:]))
    assert all(len(prober.sends[port]) == 1 + (delay > 0.12) + (delay > 0.25) for port in answering)
    assert 0.249 < prober.now - max(sends[-1] for port, sends in prober.sends.items() if port in silent) < 0.36
    assert prober.now < 0.65

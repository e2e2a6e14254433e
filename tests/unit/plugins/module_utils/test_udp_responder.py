# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The responder of UDP probes: answers those who know the nonce, and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import udp_responder
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.guard_node import NodeGuard
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.listeners import read_listeners
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.network_tables import read_sockets
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.udp_responder import answered, bind, living, own, reply_of, request_of, start


def end():
    """End the responders of this test, and wait until they are gone."""
    for one in living():
        os.kill(one["pid"], signal.SIGKILL)
    assert gone()


@pytest.fixture(name="port")
def a_free_port(monkeypatch, tmp_path):
    """A port of which nobody has any; a register of its own, so that no responder of an audit is met."""
    monkeypatch.setattr(udp_responder, "STATE", str(tmp_path / "run" / "responders"))
    yield free_port()
    end()


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as item:
        item.bind(("127.0.0.1", 0))
        return item.getsockname()[1]


def ask(port, data, patience=60.0, address="127.0.0.1"):
    """What comes back, None where nothing does in that time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as item:
        item.connect((address, port))
        item.settimeout(patience)
        item.send(data)
        try:
            return item.recv(64)
        except OSError:  # a timeout is no TimeoutError before Python 3.10
            return None


def gone(patience=60.0):
    until = time.monotonic() + patience
    while living() and time.monotonic() < until:
        time.sleep(0.02)
    return not living()


def test_it_answers_what_the_nonce_makes_of_the_port_and_nothing_else(port):
    assert start("nonce", ["127.0.0.1", "192.0.2.1"], [port], 60) == [port]
    assert ask(port, request_of("nonce", port)) == reply_of("nonce", port)
    assert ask(port, request_of("other", port), 0.3) is None
    assert ask(port, request_of("nonce", port + 1), 0.3) is None
    assert ask(port, request_of("nonce", port) + b"x", 0.3) is None


def test_it_ends_by_itself(port):
    start("nonce", ["127.0.0.1"], [port], 0.2)
    assert gone()
    assert ask(port, request_of("nonce", port), 0.2) is None


def test_two_runs_share_a_responder(port):
    other = free_port()
    start("first", ["127.0.0.1"], [port], 60)
    first = living()
    assert start("second", ["127.0.0.1"], sorted([port, other]), 60) == sorted([port, other])
    assert living()[0] == first[0] and len(living()) == 2
    for nonce in ("first", "second"):
        assert ask(port, request_of(nonce, port)) == reply_of(nonce, port)
    assert ask(other, request_of("second", other)) == reply_of("second", other)
    assert ask(port, request_of("third", port), 0.3) is None


def test_a_responder_lasts_as_long_as_any_run_counts_on_it(port):
    until = time.monotonic() + 4.2
    start("first", ["127.0.0.1"], [port], 4)
    first = living()
    start("second", ["127.0.0.1"], [port], 10)
    while time.monotonic() < until:
        assert ask(port, request_of("second", port), 5) == reply_of("second", port)
    assert living() == first
    assert gone()


def test_a_run_after_the_end_begins_anew(port):
    for nonce in ("first", "second", "third"):
        assert start(nonce, ["127.0.0.1"], [port], 0.05) == [port]
        until = time.monotonic() + 60
        while ask(port, request_of(nonce, port), 0.05) is not None:
            assert time.monotonic() < until
        with open(udp_responder.STATE, encoding="utf-8") as register:
            assert len(register.readlines()) <= 4


def test_addresses_that_a_responder_lacks_are_answered_on_by_another(port):
    start("first", ["127.0.0.1"], [port], 60)
    assert start("second", ["127.0.0.1", "127.0.0.2"], [port], 60) == [port]
    assert [one["sockets"] for one in living()] == [[["127.0.0.1", port]], [["127.0.0.2", port]]]
    for address in ("127.0.0.1", "127.0.0.2"):
        assert ask(port, request_of("second", port), address=address) == reply_of("second", port)


def test_a_port_that_somebody_else_has_on_one_address_is_not_counted_on(port):
    start("first", ["127.0.0.1"], [port], 60)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError, match="none of the ports"):
        other.bind(("127.0.0.2", port))
        start("second", ["127.0.0.1", "127.0.0.2"], [port], 60)


def test_what_answers_probes_is_no_listener(port):
    before = read_listeners()
    start("nonce", ["127.0.0.1"], [port], 60)
    assert not [entry for entry in read_listeners() if entry["port"] == port and entry not in before]
    sockets = {(entry["protocol"], entry["address"], entry["port"]) for entry in read_sockets()}
    assert answered() == {("udp", "127.0.0.1", port)} <= sockets


def test_nor_is_the_socket_that_a_beginning_responder_shares_with_its_module(port):
    with subprocess.Popen(["sleep", "60"]) as beginning, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as shared:
        shared.bind(("127.0.0.1", port))
        assert [entry["pid"] for entry in read_listeners() if entry["port"] == port] == [os.getpid()]
        with udp_responder._register(udp_responder.STATE) as register:
            entry = {"pid": beginning.pid, "begun": udp_responder._begun(beginning.pid), "sockets": [["127.0.0.1", port]]}
            udp_responder._write(register, [entry])
        assert not [entry for entry in read_listeners() if entry["port"] == port]
        beginning.kill()


def test_nor_does_the_guard_take_it_for_one(port, tmp_path):
    watching = NodeGuard(str(tmp_path), {"listeners": [{"protocol": "tcp", "ports": ["1"]}], "services": "report"})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.2", 0))
        start("nonce", ["127.0.0.2"], [port], 60)
        watching.look_at_listeners()
        found = {entry.rpartition(" of user ")[0] for entry in watching.listeners}
        assert f"udp 127.0.0.2 port {other.getsockname()[1]}" in found
        assert f"udp 127.0.0.2 port {port}" not in found


def test_only_root_reads_the_nonces(port):
    start("nonce", ["127.0.0.1"], [port], 60)
    assert os.stat(udp_responder.STATE).st_mode & 0o777 == 0o600


def test_a_port_of_somebody_else_is_left_alone(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", port))
        assert bind(["127.0.0.1"], [port]) == {}
        with pytest.raises(OSError, match="none of the ports"):
            start("nonce", ["127.0.0.1"], [port], 60)
    assert living() == []


def test_only_addresses_of_this_host_are_answered_on():
    assert own(["127.0.0.1", "192.0.2.1", "2001:db8::1"]) == ["127.0.0.1"]


def test_it_holds_nothing_of_the_module(port, tmp_path):
    with open(tmp_path / "kept", "w", encoding="utf-8"):
        start("nonce", ["127.0.0.1"], [port], 60)
        pid = living()[0]["pid"]
        names = [os.readlink(f"/proc/{pid}/fd/{entry}") for entry in os.listdir(f"/proc/{pid}/fd")]
    assert [name for name in names if name.startswith((str(tmp_path), "pipe:", "/dev/pts"))] == [udp_responder.STATE]
    if os.geteuid() == 0:
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            assert "Uid:\t65534\t65534\t65534\t65534" in file.read()


def test_who_may_read_the_register_knows_how_many_run(tmp_path, monkeypatch):
    monkeypatch.setattr(udp_responder, "STATE", str(tmp_path / "responders"))
    assert udp_responder.running() == 0
    (tmp_path / "responders").write_text('{"nonce": "x", "until": 1}\n')
    assert udp_responder.running() == 0
    monkeypatch.setattr(udp_responder.os, "access", lambda _path, _mode: False)
    assert udp_responder.running() is None

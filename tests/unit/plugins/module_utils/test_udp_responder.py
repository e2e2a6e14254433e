# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The responder of UDP probes: answers those who know the nonce, and ends."""

from __future__ import annotations

import os
import socket
import time

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import udp_responder
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.udp_responder import bind, reply_of, request_of, running, start, stop


@pytest.fixture(name="port")
def a_free_port(monkeypatch):
    """A port of which nobody has any; a name of its own, so that no responder of an audit is ended."""
    monkeypatch.setattr(udp_responder, "NAME", f"resp-{os.getpid()}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as item:
        item.bind(("127.0.0.1", 0))
        free = item.getsockname()[1]
    yield free
    stop()


def ask(port, data, patience=5.0):
    """What comes back, None where nothing does in that time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as item:
        item.connect(("127.0.0.1", port))
        item.settimeout(patience)
        item.send(data)
        try:
            return item.recv(64)
        except OSError:  # a timeout is no TimeoutError before Python 3.10
            return None


def gone(patience=10.0):
    until = time.monotonic() + patience
    while running() and time.monotonic() < until:
        time.sleep(0.02)
    return not running()


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


def test_a_new_run_ends_the_one_before(port):
    start("first", ["127.0.0.1"], [port], 60)
    first = running()
    assert start("second", ["127.0.0.1"], [port], 60) == [port]
    assert running() != first and len(running()) == 1
    assert ask(port, request_of("second", port)) == reply_of("second", port)


def test_a_port_of_somebody_else_is_left_alone(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", port))
        assert bind(["127.0.0.1"], [port]) == {}
        with pytest.raises(OSError, match="none of the ports"):
            start("nonce", ["127.0.0.1"], [port], 60)
    assert running() == []


def test_it_holds_nothing_of_the_module(port, tmp_path):
    with open(tmp_path / "kept", "w", encoding="utf-8"):
        start("nonce", ["127.0.0.1"], [port], 60)
        pid = running()[0]
        names = [os.readlink(f"/proc/{pid}/fd/{entry}") for entry in os.listdir(f"/proc/{pid}/fd")]
    assert not [name for name in names if name.startswith((str(tmp_path), "pipe:", "/dev/pts"))]
    if os.geteuid() == 0:
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            assert "Uid:\t65534\t65534\t65534\t65534" in file.read()

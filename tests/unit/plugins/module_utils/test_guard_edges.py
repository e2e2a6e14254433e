# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The guard's edges where the node does not answer as it should: tables that never hold still, locks that are kept, full disks, states of other versions."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import (
    applied,
    confirmed_change,
    guard,
    guard_firewall,
    guard_node,
    guard_records,
    nft_ruleset,
    node_edge,
    node_state,
    sealing,
    units,
)

REFUSING = {"family": "inet", "name": guard.NAME, "flags": 0, "sets": {},
            "chains": {"input": {"name": "input", "hook": guard.INPUT, "priority": 0, "policy": 0, "rules": []}}}


class Socket:
    """Of the kernel's notices, without end."""

    def recv(self, _size):
        return b""


@pytest.fixture(name="clock")
def clock_of_the_boot(monkeypatch):
    """The boot's clock, as a list with one number in it."""
    moment = [1000.0]
    monkeypatch.setattr(guard_firewall, "now", lambda: moment[0])
    return moment


@pytest.fixture(name="firewall")
def firewall_guard(tmp_path, monkeypatch, clock):
    """A guard of the filter with confirmed rules; what it gives to nft is in `loaded`, what nft answers comes from `complaints`."""
    assert clock
    for name, folder in (("VOLATILE", "run"), ("PERMANENT", "disk")):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(guard_firewall, name, str(tmp_path / folder))
    monkeypatch.setattr(guard_firewall, "RULES", str(tmp_path / "rules"))
    monkeypatch.setattr(guard_firewall, "Events", lambda: None)
    monkeypatch.setattr(guard_firewall.Window, "look", lambda self: False)
    monkeypatch.setattr(nft_ruleset, "generation", lambda: 1)
    found = guard_firewall.FirewallGuard(str(tmp_path), {"ssh_port": 22, "administrators": []})
    found.confirmed, found.text, found.loaded, found.complaints = {"canonical": "wanted"}, "the confirmed rules", [], []
    found.trust = lambda: None
    found.load = lambda text: found.loaded.append(text) or (found.complaints.pop(0) if found.complaints else "")
    return found


def history(found):
    found.records.flush()
    with open(found.records.history, encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def unreadable():
    raise nft_ruleset.RulesetUnreadable("it never held still")


def test_a_table_that_never_holds_still_is_replaced(firewall, clock):
    firewall.table = unreadable
    with pytest.raises(nft_ruleset.RulesetUnreadable):
        firewall.check()
    assert not firewall.loaded
    clock[0] += guard_firewall.SETTLE_SECONDS
    assert firewall.check() == 0.0
    assert firewall.loaded == ["the confirmed rules"]
    assert [(one["outcome"], one["what"]) for one in history(firewall)] == [
        ("failed", "the ruleset cannot be read: it never held still"), ("corrected", "the table could not be read; the confirmed rules are loaded")]
    assert firewall.records.values["alarm", (("kind", "ruleset"),)] == 1
    firewall.table = lambda: (REFUSING, "wanted")
    assert firewall.check() is None
    assert firewall.records.values["alarm", (("kind", "ruleset"),)] == 0


def test_that_somebody_keeps_undoing_is_said_once_and_so_is_its_end(firewall, clock):
    tables = {"foreign": (None, ""), "good": (REFUSING, "wanted")}
    for _number in range(300):  # between two corrections the table is in order for a moment
        firewall.table = lambda: tables["foreign"]
        delay = firewall.check()
        clock[0] += delay or 0.05
        firewall.table = lambda: tables["good"]
        firewall.check()
    assert firewall.records.values["alarm", (("kind", "ruleset"),)] == 1
    assert len(firewall.loaded) == 30 + (300 - 30) / 2  # every other look is one at which it waits
    delay = firewall.check()
    assert 8 < delay <= 10
    clock[0] += delay
    assert firewall.check() is None
    assert firewall.records.values["alarm", (("kind", "ruleset"),)] == 0
    records = history(firewall)
    assert [(one["outcome"], one["what"]) for one in records if one["outcome"] != "corrected"] == [
        ("failed", "something keeps changing the table; corrections are made every 1 s"), ("ended", "nothing keeps changing the table any more")]
    assert sum(one.get("count", 1) for one in records if one["outcome"] == "corrected") == len(firewall.loaded)
    firewall.table = lambda: tables["foreign"]
    assert firewall.check() == 0.0


def test_notices_without_end_keep_the_guard_from_nothing():
    events = object.__new__(guard_firewall.Events)
    events.socket = Socket()
    assert events.drain().count == guard_firewall.AT_ONCE


def test_a_lock_that_is_kept_for_ever_is_waited_for_only_so_long(firewall, clock, tmp_path):
    firewall.table = lambda: (None, "")
    with open(tmp_path / "run" / "lock", "w", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert firewall.check() == guard_firewall.BUSY_SECONDS
        clock[0] += guard_firewall.LOCK_SECONDS - 1
        assert firewall.check() == guard_firewall.BUSY_SECONDS
        assert not firewall.loaded
        clock[0] += 1
        assert firewall.check() == 0.0
    assert firewall.loaded == ["the confirmed rules"]
    assert "keeps the lock" in history(firewall)[0]["what"]


def test_the_patience_for_a_lock_begins_anew_when_all_is_in_order(firewall, clock, tmp_path):
    firewall.table = lambda: (None, "")
    with open(tmp_path / "run" / "lock", "w", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        firewall.check()
        firewall.table = lambda: (REFUSING, "wanted")
        firewall.check()
        clock[0] += guard_firewall.LOCK_SECONDS
        firewall.table = lambda: (None, "")
        assert firewall.check() == guard_firewall.BUSY_SECONDS
    assert not firewall.loaded


@pytest.mark.parametrize(("table", "closed"), [(None, True), ({**REFUSING, "flags": nft_ruleset.TABLE_DORMANT}, True), (REFUSING, False)])
def test_confirmed_rules_that_cannot_be_loaded_leave_nothing_open(firewall, table, closed):
    firewall.table, firewall.complaints = lambda: (table, "other"), ["no such file or directory"]
    firewall.check()
    assert [guard.TABLE in text and "tcp dport 22 accept" in text for text in firewall.loaded[1:]] == [True] * closed
    assert history(firewall)[-1]["outcome"] == ("corrected" if closed else "failed")


def test_a_table_that_was_left_for_want_of_trust_is_left_only_as_it_was(firewall):
    firewall.confirmed = firewall.text = None
    firewall.table = lambda: (REFUSING, "first")
    firewall.check()
    firewall.check()
    assert not firewall.loaded
    firewall.table = lambda: (REFUSING, "second")
    firewall.check()
    assert len(firewall.loaded) == 1
    assert "tcp dport 22 accept" in firewall.loaded[0]


def test_a_clock_that_jumps_makes_no_drift_of_a_change_that_is_being_written(firewall, clock, tmp_path, monkeypatch):
    staged = tmp_path / ("rules" + confirmed_change.Staged.SUFFIX)
    staged.write_text("")
    (tmp_path / "run" / "change").mkdir()
    (tmp_path / "run" / "change" / "confirmed").write_text(json.dumps({"staged": [str(tmp_path / "rules")]}))
    firewall.table = lambda: (REFUSING, "new")
    today = time.time()
    for jump in (0, 86400, -86400):
        monkeypatch.setattr(time, "time", lambda jump=jump: today + jump)
        assert firewall.check() == guard_firewall.BUSY_SECONDS
    clock[0] += guard.COMMIT_SECONDS
    assert not firewall.loaded
    assert firewall.check() == 0.0  # whoever confirmed it is gone
    assert firewall.loaded == ["the confirmed rules"]


def test_a_folder_that_is_none_is_no_end_of_the_guard(tmp_path):
    (tmp_path / "file").write_text("")
    assert guard_firewall._stamp(str(tmp_path / "file" / "state.json")) != guard_firewall._stamp(str(tmp_path / "file"))
    assert applied.concerns(str(tmp_path / "file")) == ([], [])


# -- the lock and the key ----------------------------------------------------------------------------------------------


def test_nobody_else_can_keep_the_lock(tmp_path):
    path = tmp_path / "applied.lock"
    path.write_text("")
    path.chmod(0o644)
    with applied.lock(0.0, str(path)):
        assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    with applied.lock(0.0, str(path)):
        assert path.stat().st_mode & 0o777 == 0o600
    with applied.lock(0.0, str(path), make=False), pytest.raises(applied.Busy), applied.lock(0.0, str(path)):
        pass


def test_a_key_is_there_only_when_what_was_there_before_is_sealed(tmp_path):
    path, seen = tmp_path / "seal.key", []

    def full(key):
        seen.append(key)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        sealing.make_key(str(path), full)
    assert not path.exists()
    (tmp_path / "seal.key.new").write_text("half of a ke")
    sealing.make_key(str(path), seen.append)
    assert path.read_bytes() == seen[1] != seen[0]
    assert path.stat().st_mode & 0o777 == 0o600
    sealing.make_key(str(path), full)
    assert path.read_bytes() == seen[1]


def test_a_truncated_state_does_not_keep_the_others_from_being_sealed(tmp_path):
    for name in ("a", "b", "c"):
        applied.write(name, {"sysctls": {"path": "/etc/sysctl.d/90-x.conf", "values": {"net.ipv4.ip_forward": "0"}}}, None, str(tmp_path))
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("[]")
    assert applied.enrol(bytes(32), str(tmp_path)) == ["c"]


# -- the other duty ----------------------------------------------------------------------------------------------------


@pytest.fixture(name="node")
def node_guard(tmp_path):
    """A guard of files and units that knows one account and one unit."""
    found = guard_node.NodeGuard(str(tmp_path), {"services": "stop", "listeners": []})
    found.applied.states = {"vllm_serve": {"params": {"users": [{"name": "root"}], "units": [{"name": "vllm-chat.service"}]}}}
    return found


def test_a_container_whose_account_has_the_same_number_is_left(node, monkeypatch):
    strays = [{"pid": pid, "uid": 0, "command": "sleep 9", "unit": None} for pid in (11, 12)]
    ended = []
    monkeypatch.setattr(units, "read_strays", lambda users, names: strays)
    monkeypatch.setattr(units, "in_a_container", lambda pid: pid == 12)
    monkeypatch.setattr(applied, "concerns", lambda: ([], []))
    monkeypatch.setattr(os, "kill", lambda pid, number: ended.append((pid, number)))
    node.look_at_strays(False)
    assert ended == [(11, signal.SIGTERM)]
    node.records.flush()
    assert [(one["outcome"], one["what"].split()[1]) for one in history(node)] == [("corrected", "11"), ("seen", "12")]


@pytest.mark.parametrize(("numbers", "accounts", "contained"), [
    ("807\t1", "0 0 4294967295", True), ("807", "0 0 4294967295", False), ("807\t1", "0 4999 1", False), (None, None, False),
])
def test_a_container_is_told_by_its_numbers(tmp_path, numbers, accounts, contained):
    for name, status, uid_map in (("7", numbers, accounts), ("self", "1", "         0          0 4294967295")):
        (tmp_path / name).mkdir()
        if status:
            (tmp_path / name / "status").write_text(f"Name:\tsleep\nNSpid:\t{status}\n")
            (tmp_path / name / "uid_map").write_text(uid_map + "\n")
    assert units.in_a_container(7, str(tmp_path)) == contained


def test_what_cannot_be_corrected_is_said_once(node, tmp_path):
    folder = tmp_path / "file" / "x"
    (tmp_path / "file").write_text("")
    desired = node_state.Desired({})
    step = node_state.Step(f"file {folder}", "create", {}, {"mode": "0600"}, None, "file", {
        "item": {"path": str(folder), "content": "a", "owner": "root", "group": "root", "mode": "0600"}, "path": str(folder)})
    for _time in range(3):
        node.correct("vllm_serve", desired, [step], {"units": {}})
    node.records.flush()
    assert [(one["outcome"], one.get("count", 1)) for one in history(node)] == [("failed", 1)]
    assert node.records.values["alarm", (("kind", "vllm_serve"),)] == 1


def test_a_command_that_hangs_has_failed(monkeypatch):
    monkeypatch.setattr(guard_node, "COMMAND_SECONDS", 0.1)
    assert guard_node._Runner().run_command(["sleep", "9"]) == (124, "", "no answer within 0 s")


def test_an_alarm_ends_with_what_it_was_about(node, monkeypatch):
    node.cannot("vllm_serve", "nonsense")
    assert node.records.values["alarm", (("kind", "vllm_serve"),)] == 1
    monkeypatch.setattr(node, "steps", lambda desired: ([], {}))
    node.look_after("vllm_serve", {}, False)
    assert node.records.values["alarm", (("kind", "vllm_serve"),)] == 0


def test_who_keeps_undoing_one_concern_keeps_the_guard_from_no_other(node, clock, monkeypatch):
    corrected, steps = [], [node_state.Step("file /x", "change", {"mode": "0666"}, {"mode": "0644"}, None, "ownership", {"path": "/x"})]
    monkeypatch.setattr(guard_node, "now", lambda: clock[0])
    monkeypatch.setattr(node, "steps", lambda desired: (steps, {"units": {}}))
    monkeypatch.setattr(guard_node.node_edge.Node, "carry_out", lambda self, step: corrected.append(step))
    monkeypatch.setattr(applied, "lock", lambda *_arguments: contextlib.nullcontext())
    monkeypatch.setattr(applied, "concerns", lambda: ([], []))
    monkeypatch.setattr(node.applied, "look", lambda: {"vllm_network": {}, "vllm_serve": {}})
    for _number in range(20):
        node.look_after("vllm_network", {}, False)
        clock[0] += 1.0
    assert len(corrected) == 11  # ten at once, one more after ten seconds
    node.look_after("vllm_serve", {}, False)
    assert len(corrected) == 12
    assert [node.records.values["alarm", (("kind", concern),)] for concern in ("vllm_network", "vllm_serve")] == [1, 0]
    clock[0] += 100.0
    steps.clear()
    node.look_after("vllm_network", {}, False)
    assert node.records.values["alarm", (("kind", "vllm_network"),)] == 0
    node.records.flush()
    assert [(one["outcome"], one["what"]) for one in history(node) if one["outcome"] != "corrected"] == [
        ("failed", "something keeps changing what was applied as vllm_network; corrections are made every 10 s"),
        ("ended", "nothing keeps changing what was applied as vllm_network any more")]


def test_who_keeps_undoing_one_parameter_keeps_the_guard_from_no_other(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(node_edge, "SYSCTL_ROOT", str(tmp_path))
    monkeypatch.setattr(guard_node, "Window", lambda records: mock.Mock(look=lambda: False))
    monkeypatch.setattr(applied, "lock", lambda *_arguments, **_options: contextlib.nullcontext())
    parameters = guard_node.Parameters(guard_records.Records(str(tmp_path), "firewall"))
    monkeypatch.setattr(parameters.applied, "look", lambda: {"vllm_network": {"sysctls": {"values": {"a": "1", "b": "1", "c": "1"}}}})
    for number in range(40):
        for key in "ab" if number < 39 else "abc":
            (tmp_path / key).write_text("0")
        parameters.look()
        assert [(tmp_path / key).read_text() for key in ("ab" if number < 39 else "abc")] == ["1\n"] * (2 if number < 39 else 3)
        clock[0] += guard_firewall.REST_SECONDS
    assert parameters.records.values["alarm", (("kind", "parameter"),)] == 1
    clock[0] += 20.0
    parameters.look()
    assert parameters.records.values["alarm", (("kind", "parameter"),)] == 0
    assert [(one["outcome"], one["what"]) for one in history(parameters) if one["outcome"] != "corrected"] == [
        ("failed", "something keeps changing kernel parameters; corrections are made every 2 s"),
        ("ended", "nothing keeps changing kernel parameters any more")]


# -- records and maintenance -------------------------------------------------------------------------------------------


def test_what_goes_on_and_on_is_one_record_a_minute(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(guard_records, "now", lambda: clock[0])
    records = guard_records.Records(str(tmp_path), "firewall")
    for number in range(120):
        records.add("ruleset", "corrected", "changed", [f"{number} rules"], often=True)
        records.flush(force=False)
        clock[0] += 1.0
    records.add("ruleset", "ended", "over")
    clock[0] += guard_records.SAME_SECONDS
    records.flush(force=False)
    with open(records.history, encoding="utf-8") as stream:
        found = [json.loads(line) for line in stream]
    assert [(one["what"], one["before"], one.get("count", 1)) for one in found] == [
        ("changed", ["0 rules"], 61), ("changed", ["61 rules"], 59), ("over", [], 1)]
    assert records.values["events_total", (("kind", "ruleset"), ("outcome", "corrected"))] == 120


def test_the_history_is_four_files(tmp_path, monkeypatch):
    monkeypatch.setattr(guard_records, "HISTORY_BYTES", 10)
    records = guard_records.Records(str(tmp_path), "node")
    for number in range(9):
        records.add("node", "seen", f"event {number}")
    records.flush()
    found = {path.name: json.loads(path.read_text())["what"] for path in tmp_path.iterdir()}
    assert found == {"history.jsonl": "event 8", "history.jsonl.1": "event 7", "history.jsonl.2": "event 6", "history.jsonl.3": "event 5"}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/hostname", path), lambda path: path.write_bytes(b"\xff{")])
def test_a_declaration_that_is_none_is_refused_and_keeps_nothing_waiting(tmp_path, make):
    records = guard_records.Records(str(tmp_path), "firewall")
    make(tmp_path / "maintenance.json")
    window = guard_firewall.Window(records, str(tmp_path / "maintenance.json"))
    assert not window.look()
    assert not window.look()
    records.flush()
    with open(records.history, encoding="utf-8") as stream:
        assert [json.loads(line)["outcome"] for line in stream] == ["refused"]


@pytest.fixture(name="program")
def _program(monkeypatch):
    """The guard's program as a module, and how long it slept."""
    spec = importlib.util.spec_from_file_location("guard_program", Path(__file__).parents[4] / "roles/vllm_guard/files/guard.py")
    found, slept = importlib.util.module_from_spec(spec), []
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec.loader.exec_module(found)
    monkeypatch.setattr(found.time, "sleep", slept.append)
    return found, slept


@pytest.mark.parametrize("lived, rests", [(0.2, [10.0]), (3600.0, [])])
def test_a_guard_that_cannot_run_takes_no_processor(program, monkeypatch, capsys, lived, rests):
    found, slept = program
    moments = iter([100.0, 100.0 + lived])
    monkeypatch.setattr(found.time, "monotonic", lambda: next(moments))

    def broken():
        raise ImportError("no module of the half that is missing")

    monkeypatch.setitem(found.DUTIES, "firewall", broken)
    assert found.main(["firewall"]) == 1 and slept == rests
    assert "the half that is missing" in capsys.readouterr().err

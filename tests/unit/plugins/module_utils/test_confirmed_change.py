# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Confirmation and rollback: one of them wins, and a full disk is found before the change."""

from __future__ import annotations

import os
import subprocess

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.confirmed_change import ChangeError, Journal, Staged, login

RECORD = {"id": "20260101T000000-aaaaaa", "nonce": "n", "deadline": 0}


@pytest.fixture(name="journal")
def _journal(tmp_path):
    os.makedirs(tmp_path / "disk")
    journal = Journal(str(tmp_path / "run"), str(tmp_path / "disk"))
    journal.open()
    return journal


@pytest.fixture(name="loads")
def _loads(tmp_path):
    """A stand-in for the path of nft that writes down what it was told to load."""
    path = tmp_path / "nft"
    path.write_text(f'#!/bin/sh\n[ ! -e {tmp_path}/broken ] || exit 1\ncat "$2" >> {tmp_path}/loaded\n')
    path.chmod(0o755)
    return path


def begin(journal, nft, staged=()):
    return journal.begin(dict(RECORD), {"change": "new rules\n", "previous": "old rules\n"}, str(nft), list(staged))


def run(path, *arguments):
    return subprocess.run(["/bin/sh", path, *arguments], check=False, stdin=subprocess.DEVNULL).returncode


def loaded(nft):
    path = nft.parent / "loaded"
    return path.read_text() if path.exists() else ""


def test_the_change_is_loaded_while_it_is_pending(journal, loads):
    change, dummy = begin(journal, loads)
    assert not journal.loaded(RECORD["id"])
    assert run(change) == 0
    assert journal.loaded(RECORD["id"])
    assert loaded(loads) == "new rules\n"
    assert journal.token(RECORD["id"])[0] == "pending"


def test_an_unconfirmed_change_is_rolled_back_once(journal, loads):
    change, rollback = begin(journal, loads)
    assert run(rollback) == 0
    assert journal.token(RECORD["id"])[0] == "rolled-back"
    assert run(rollback) == 0
    assert run(change) == 0
    assert loaded(loads) == "old rules\n"
    assert os.path.exists(journal.outcome_file)


def test_a_confirmed_change_is_not_rolled_back(journal, loads):
    dummy, rollback = begin(journal, loads)
    journal.confirm(RECORD["id"])
    assert run(rollback) == 0
    assert loaded(loads) == ""
    assert journal.token(RECORD["id"])[0] == "confirmed"


def test_only_a_login_that_another_one_sent_after_the_change_came_after_it(journal, loads):
    begin(journal, loads)
    proof = journal.ask_again(RECORD["id"], "10.77.0.1 50000 10.77.0.11 22")
    assert journal.came_after(RECORD["id"], proof, "10.77.0.1 50001 10.77.0.11 22")
    assert not journal.came_after(RECORD["id"], proof, "10.77.0.1 50000 10.77.0.11 22")
    assert not journal.came_after(RECORD["id"], "0" * 32, "10.77.0.1 50001 10.77.0.11 22")
    assert not journal.came_after(RECORD["id"], None, "10.77.0.1 50001 10.77.0.11 22")
    assert not journal.came_after(RECORD["id"], "../pending", "10.77.0.1 50001 10.77.0.11 22")


def test_a_change_that_is_rolled_back_cannot_be_confirmed(journal, loads):
    dummy, rollback = begin(journal, loads)
    run(rollback)
    with pytest.raises(ChangeError) as error:
        journal.confirm(RECORD["id"])
    assert error.value.outcome == "rolled-back"


def test_a_rollback_that_fails_is_tried_again(journal, loads):
    dummy, rollback = begin(journal, loads)
    (loads.parent / "broken").touch()
    assert run(rollback, "once") == 1
    assert journal.token(RECORD["id"])[0] == "rolling-back"
    with pytest.raises(ChangeError):
        journal.confirm(RECORD["id"])
    with subprocess.Popen(["/bin/sh", rollback], stdin=subprocess.DEVNULL) as trying:
        (loads.parent / "broken").unlink()
        assert trying.wait(timeout=60) == 0
    assert loaded(loads) == "old rules\n"


def test_a_change_that_nft_loads_after_the_rollback_does_not_stay(journal, loads):
    change, rollback = begin(journal, loads)
    (loads.parent / "slow").write_text(f'#!/bin/sh\nif [ "$2" = change.nft ]; then /bin/sh {rollback}; fi\nexec {loads} "$@"\n')
    (loads.parent / "slow").chmod(0o755)
    text = open(change, encoding="utf-8").read()
    with open(change, "w", encoding="utf-8") as stream:
        stream.write(text.replace(str(loads), str(loads.parent / "slow")))
    assert run(change) == 0
    assert loaded(loads) == "old rules\nnew rules\nold rules\n"
    assert journal.token(RECORD["id"])[0] == "rolled-back"


def test_a_rollback_whose_change_is_forgotten_ends(journal, loads):
    dummy, rollback = begin(journal, loads)
    (loads.parent / "broken").touch()
    with subprocess.Popen(["/bin/sh", rollback], stdin=subprocess.DEVNULL) as trying:
        while journal.token(RECORD["id"])[0] != "rolling-back":
            assert trying.poll() is None
        journal.forget(RECORD["id"])
        assert trying.wait(timeout=60) == 0
    assert not os.path.exists(journal.outcome_file)


def test_a_change_that_nft_refuses_is_over(journal, loads):
    change, rollback = begin(journal, loads)
    (loads.parent / "broken").touch()
    run(change)
    assert journal.token(RECORD["id"])[0] == "refused"
    assert run(rollback) == 0
    assert journal.token(RECORD["id"])[0] == "refused"


def test_the_rollback_removes_what_was_staged_and_survives_a_full_disk(journal, loads, tmp_path):
    staged = Staged()
    staged.file(str(tmp_path / "etc/firewall.nft"), "new")
    dummy, rollback = begin(journal, loads, staged.files)
    os.rmdir(journal.permanent)
    assert run(rollback) == 0
    assert journal.token(RECORD["id"])[0] == "rolled-back"


def test_a_change_cut_short_before_its_token_is_no_change(journal):
    os.makedirs(journal.directory("20260101T000000-bbbbbb"))
    assert journal.changes() == {"20260101T000000-bbbbbb": (None, None)}
    journal.forget("20260101T000000-bbbbbb")
    assert journal.changes() == {}


def test_only_one_process_changes_a_node(journal):
    held = journal.lock()
    with pytest.raises(ChangeError, match="another run"):
        journal.lock()
    held.close()
    journal.lock().close()


def test_identity_lasts_until_run_is_emptied(journal):
    identity = journal.identity()
    assert journal.identity() == identity
    os.unlink(os.path.join(journal.volatile, "boot"))
    assert journal.identity() != identity


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_broken_state_file_is_an_empty_state(journal, text):
    with open(journal.state_file, "w", encoding="utf-8") as stream:
        stream.write(text)
    assert journal.state() == {}


@pytest.mark.parametrize("identifier", ["", "../x", "a/b", "x" * 65])
def test_identifiers_do_not_leave_the_directory(journal, identifier):
    with pytest.raises(ChangeError):
        journal.directory(identifier)


def test_staged_files_come_into_place_together(tmp_path):
    staged = Staged()
    staged.file(str(tmp_path / "a/one"), "1\n", 0o600)
    staged.link(str(tmp_path / "b/two"), "/target")
    assert not (tmp_path / "a/one").exists()
    Staged.commit(staged.files)
    assert (tmp_path / "a/one").read_text() == "1\n"
    assert (tmp_path / "a/one").stat().st_mode & 0o777 == 0o600
    assert os.readlink(tmp_path / "b/two") == "/target"
    Staged.commit(staged.files)


def test_discarded_files_leave_what_was_there(tmp_path):
    path = tmp_path / "one"
    path.write_text("old")
    staged = Staged()
    staged.file(str(path), "new")
    Staged.discard(staged.files)
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]
    assert path.read_text() == "old"


def test_the_login_is_found_above_sudo():
    """sudo empties the environment; the shell above it still has the variable."""
    inner = "import sys; sys.path[:0] = {!r}; from {} import login; print(login())".format(
        [path for path in __import__("sys").path if path], Journal.__module__)
    shell = subprocess.run(
        ["env", "-i", "SSH_CONNECTION=10.77.0.1 51234 10.77.0.11 22", "sh", "-c", 'env -i "$0" -c "$1"; :', __import__("sys").executable, inner],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shell.stdout.strip() == "10.77.0.1 51234 10.77.0.11 22"


def test_no_login_without_ssh():
    assert login(1) is None or isinstance(login(1), str)

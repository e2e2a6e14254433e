# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The chain of manifests that audits leave, with real signatures: what holds, and every way in which it does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.action import verify_reports
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import report_chain, report_files
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_files import HISTORY, MANIFEST, MANIFESTS, ReportError, digest, write_reports

RUNS = 5


def audit(directory, number, key=None, verdict="findings"):
    document = {"generated": f"2026-06-01T{number // 60:02d}:{number % 60:02d}:00+00:00", "verdict": verdict,
                "counts": {"pass": number, "fail": 1, "waived": 0, "unknown": 0}, "wire": {"counts": {"LEAK": 0, "BROKEN": 0}}}
    write_reports(str(directory), {"report.json": [json.dumps(document)], "report.html": ["<p>", str(number)]}, document, key and str(key))


@pytest.fixture(scope="session", name="keys")
def two_keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "foreign"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "signers").write_text("# the controller's\naudit " + (folder / "ours.pub").read_text())
    return folder


@pytest.fixture(scope="session", name="signed")
def signed_runs(keys, tmp_path_factory):
    directory = tmp_path_factory.mktemp("signed") / "audit"
    for number in range(1, RUNS + 1):
        audit(directory, number, keys / "ours")
    return directory


@pytest.fixture(name="directory")
def a_copy(signed, tmp_path):
    return shutil.copytree(signed, tmp_path / "audit")


def verified(directory, signers=None, **more):
    return verify_reports.verified({"directory": str(directory), "allowed_signers": signers and str(signers), "identity": "audit", "expected": [], "copies": [],
                                    **more})


def kept(directory, number):
    return next((directory / MANIFESTS).glob(f"{number:08d}-*.json"))


def sign(path, key):
    path.with_name(f"{path.name}.sig").unlink(missing_ok=True)
    report_files.sign(str(path), str(key))


def test_signed_runs_hold(directory, keys):
    found = verified(directory, keys / "signers")
    assert found["problems"] == []
    assert [(run["run"], run["signature"]) for run in found["runs"]] == [(number, "good") for number in range(1, RUNS + 1)]
    assert [run["files"] for run in found["runs"]] == [report_chain.FILES_LATER] * (RUNS - 1) + [report_chain.FILES_INTACT]
    assert found["newest"] == {"run": RUNS, "generated": "2026-06-01T00:05:00+00:00", "verdict": "findings", "digest": digest(directory / MANIFEST)}
    assert found["not_listed"] == []


def test_without_signers_signatures_are_told_as_unchecked(directory):
    found = verified(directory)
    assert found["problems"] == []
    assert {run["signature"] for run in found["runs"]} == {"unchecked"}
    assert "nothing shows who wrote them" in verify_reports.sentence(found, {"directory": "x", "allowed_signers": None, "identity": "audit"})


def test_unsigned_runs_hold_by_themselves_and_for_no_signer(tmp_path, keys):
    for number in range(1, 4):
        audit(tmp_path / "audit", number)
    found = verified(tmp_path / "audit")
    assert found["problems"] == [] and {run["signature"] for run in found["runs"]} == {"unsigned"}
    found = verified(tmp_path / "audit", keys / "signers")
    assert len(found["problems"]) == 1 and f"{MANIFEST} has no signature" in found["problems"][0]
    audit(tmp_path / "audit", 4, keys / "ours")
    found = verified(tmp_path / "audit", keys / "signers")
    assert found["problems"] == [] and [run["signature"] for run in found["runs"]] == ["unsigned"] * 3 + ["good"]


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def edit(path, old="findings", new="compliant"):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def remove_run(directory, number):
    path = kept(directory, number)
    path.unlink()
    path.with_name(f"{path.name}.sig").unlink()


def rename(directory, number, to):
    path = kept(directory, number)
    path.rename(path.with_name(f"{to:08d}{path.name[8:]}"))


def exchange(directory, first, second):
    one, two = kept(directory, first), kept(directory, second)
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def add_run(directory, number):
    """A manifest more, by itself as good as the one of that number, and unsigned."""
    path = directory / MANIFESTS / "new"
    path.write_text(kept(directory, number).read_text().replace("findings", "compliant", 1))
    path.rename(directory / MANIFESTS / f"{number:08d}-{digest(path)[:16]}.json")


def newest_removed(directory):
    """The latest run is gone, and the one before it stands in its place."""
    path = kept(directory, RUNS - 1)
    os.replace(f"{path}.sig", directory / f"{MANIFEST}.sig")
    os.replace(path, directory / MANIFEST)


def keep_lines(directory, places):
    lines = (directory / HISTORY).read_text().splitlines(keepends=True)
    (directory / HISTORY).write_text("".join(lines[place] for place in places))


TAMPERED = {
    "truncated manifest": (lambda at, keys: cut(kept(at, 2)), "00000002-", "truncated or was edited"),
    "truncated newest manifest": (lambda at, keys: cut(at / MANIFEST), MANIFEST, "truncated or was edited"),
    "empty newest manifest": (lambda at, keys: (at / MANIFEST).write_text(""), MANIFEST, "truncated or was edited"),
    "edited verdict": (lambda at, keys: edit(kept(at, 3)), "00000003-", "its SHA-256 is not the one in its name"),
    "edited newest verdict": (lambda at, keys: edit(at / MANIFEST), f"{MANIFEST}.sig", "is no signature of the allowed signers"),
    "foreign signature": (lambda at, keys: sign(kept(at, 2), keys / "foreign"), "00000002-", "is no signature of the allowed signers"),
    "foreign newest signature": (lambda at, keys: sign(at / MANIFEST, keys / "foreign"), f"{MANIFEST}.sig", "is no signature of the allowed signers"),
    "signature of another run": (
        lambda at, keys: shutil.copy(f"{kept(at, 1)}.sig", f"{kept(at, 2)}.sig"), "00000002-", "is no signature of the allowed signers"),
    "signature that is none": (lambda at, keys: (at / f"{MANIFEST}.sig").write_text("x"), f"{MANIFEST}.sig", "is no signature of the allowed signers"),
    "signature taken away": (lambda at, keys: (at / f"{MANIFEST}.sig").unlink(), MANIFEST, "has no signature"),
    "a file changed": (lambda at, keys: edit(at / "report.html", "<p>", "<b>"), "report.html", "was changed"),
    "a file removed": (lambda at, keys: (at / "report.json").unlink(), "report.json", "is missing"),
    "a run removed in the middle": (lambda at, keys: remove_run(at, 3), "00000002-", "the manifest of run 3 is missing between"),
    "two runs removed in the middle": (
        lambda at, keys: (remove_run(at, 2), remove_run(at, 3)), "00000001-", "the manifests of runs 2 to 3 are missing between"),
    "a run added": (lambda at, keys: add_run(at, 2), "00000002-", "is of run 2 and follows"),
    "the first runs removed": (lambda at, keys: (remove_run(at, 1), remove_run(at, 2)), "00000003-", "runs 1 to 2 are missing"),
    "all earlier runs removed": (lambda at, keys: shutil.rmtree(at / MANIFESTS), MANIFEST, "runs 1 to 4 are missing"),
    "runs exchanged": (lambda at, keys: exchange(at, 2, 3), "00000002-", "is the manifest of run 3"),
    "a run renamed": (lambda at, keys: rename(at, 2, 7), "00000001-", "the manifest of run 2 is missing between"),
    "the newest manifest removed": (lambda at, keys: (at / MANIFEST).unlink(), MANIFEST, "missing after run 4"),
    "the newest run removed": (lambda at, keys: newest_removed(at), HISTORY, "was changed after"),
    "the history cut": (lambda at, keys: keep_lines(at, range(RUNS - 1)), HISTORY, "was changed after"),
    "the history removed": (lambda at, keys: (at / HISTORY).unlink(), HISTORY, "is missing"),
}


@pytest.mark.parametrize("way", TAMPERED)
def test_tampering_is_reported(directory, keys, way):
    tamper, file, words = TAMPERED[way]
    tamper(directory, keys)
    found = verified(directory, keys / "signers")
    assert file in found["problems"][0] and words in found["problems"][0]
    assert "restore" in found["problems"][0] or "audit again" in found["problems"][0]
    message = verify_reports.sentence(found, {"directory": str(directory), "allowed_signers": "x", "identity": "audit"})
    assert found["problems"][0] in message and "is broken" in message


@pytest.mark.parametrize("way", sorted(set(TAMPERED) - {
    "edited newest verdict", "foreign signature", "foreign newest signature", "signature of another run", "signature that is none", "signature taken away"}))
def test_digests_alone_show_what_touches_one_link(directory, way):
    TAMPERED[way][0](directory, None)
    assert verified(directory)["problems"]


def forge(directory, number, key):
    """Replace a run by another verdict, and make everything after it anew, signed with another key; the history as well."""
    previous = None
    for at in range(1, RUNS + 1):
        path = kept(directory, at) if at < RUNS else directory / MANIFEST
        manifest = json.loads(path.read_text())
        if at >= number:
            os.unlink(path)
            os.unlink(f"{path}.sig")
            manifest["previous"] = previous
            if at == number:
                manifest["verdict"] = "compliant"
            if at == RUNS:
                lines = (directory / HISTORY).read_text().splitlines(keepends=True)
                lines[number - 1] = lines[number - 1].replace("findings", "compliant")
                (directory / HISTORY).write_text("".join(lines))
                manifest["files"][HISTORY] = digest(directory / HISTORY)
            data = json.dumps(manifest).encode()
            path.write_bytes(data)
            if at < RUNS:
                path = path.rename(path.with_name(f"{at:08d}-{digest(path)[:16]}.json"))
            sign(path, key)
        previous = digest(path)


def test_a_chain_made_anew_is_told_by_its_signatures_only(directory, keys):
    forge(directory, 3, keys / "foreign")
    assert verified(directory)["problems"] == []
    found = verified(directory, keys / "signers")
    assert len(found["problems"]) == RUNS - 2 and "00000003-" in found["problems"][0]


@pytest.mark.parametrize("lines, words", [
    ([0, 1, 3, 4], "line 2 of history.jsonl is of the run of 2026-06-01T00:02:00+00:00"), ([3, 4], "history.jsonl has 2 runs, and there are manifests of 5")])
def test_a_history_that_disagrees_is_told_however_well_it_is_signed(directory, keys, lines, words):
    wanted = json.loads((directory / MANIFEST).read_text())["files"][HISTORY]
    keep_lines(directory, lines)
    edit(directory / MANIFEST, wanted, digest(directory / HISTORY))
    sign(directory / MANIFEST, keys / "ours")
    problems = verified(directory, keys / "signers")["problems"]
    assert len(problems) == 1 and words in problems[0]


def test_a_directory_brought_back_is_told_by_what_was_noted_elsewhere(tmp_path, keys):
    directory = tmp_path / "audit"
    audit(directory, 1, keys / "ours")
    audit(directory, 2, keys / "ours")
    shutil.copytree(directory, tmp_path / "backup")
    audit(directory, 3, keys / "ours")
    noted = verified(directory, keys / "signers")["newest"]["digest"]
    assert verified(directory, keys / "signers", expected=[noted])["problems"] == []
    assert verified(tmp_path / "backup", keys / "signers")["problems"] == []
    problems = verified(tmp_path / "backup", keys / "signers", expected=[noted])["problems"]
    assert len(problems) == 1 and noted in problems[0]


def test_runs_after_a_state_was_brought_back_or_the_manifest_removed_do_not_hide_it(directory, keys):
    (directory / MANIFEST).unlink()
    audit(directory, 6, keys / "ours")
    audit(directory, 7, keys / "ours")
    problems = verified(directory, keys / "signers")["problems"]
    assert "names no manifest before it" in problems[0]


def test_an_earlier_manifest_brought_back_does_not_pass_after_another_run(directory, keys):
    newest = (directory / MANIFEST).read_bytes()
    audit(directory, 6, keys / "ours")
    audit(directory, 7, keys / "ours")
    (directory / MANIFEST).write_bytes(newest)
    (directory / f"{MANIFEST}.sig").write_bytes((directory / MANIFESTS / f"{kept(directory, RUNS).name}.sig").read_bytes())
    audit(directory, 8, keys / "ours")
    found = verified(directory, keys / "signers")
    assert [run["run"] for run in found["runs"]] == [*range(1, 7), 7]
    assert "one of them was changed or replaced" in found["problems"][0]


def test_a_damaged_manifest_stays_in_the_chain_and_is_told(directory, keys):
    cut(directory / MANIFEST)
    audit(directory, 6, keys / "ours")
    audit(directory, 7, keys / "ours")
    found = verified(directory, keys / "signers")
    assert [run["run"] for run in found["runs"]] == list(range(1, 8))
    assert all(f"{RUNS:08d}-" in problem for problem in found["problems"][:2]) and "truncated" in found["problems"][0]


def test_a_run_that_broke_off_before_its_manifest_is_made_good_by_the_next(directory, keys, monkeypatch):
    def broken(path, pieces):
        raise OSError(28, "No space left on device", path)

    with monkeypatch.context() as patch:
        patch.setattr(report_files, "write", broken)
        with pytest.raises(ReportError, match=r"No space left on device \(.*report.html\)"):
            audit(directory, 6, keys / "ours")
    assert kept(directory, RUNS).exists()
    assert verified(directory, keys / "signers")["problems"] == []
    audit(directory, 6, keys / "ours")
    found = verified(directory, keys / "signers")
    assert found["problems"] == [] and len(found["runs"]) == RUNS + 1


def killed(directory, key, step):
    """Another process audits and ends at its step-th change of a name; whether it came that far."""
    child = os.fork()
    if not child:
        left = [step]

        def counted(change):
            def changed(*names):
                left[0] -= 1
                if not left[0]:
                    os._exit(9)
                return change(*names)
            return changed

        os.replace, os.unlink = counted(os.replace), counted(os.unlink)
        audit(directory, RUNS + 1, key)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_wherever_a_run_is_killed_the_next_one_makes_it_good(signed, keys, tmp_path):
    for step in range(1, 20):
        directory = shutil.copytree(signed, tmp_path / str(step))
        far = killed(directory, keys / "ours", step)
        audit(directory, RUNS + 2, keys / "ours")
        found = verified(directory, keys / "signers")
        assert found["problems"] == [] and all(name.startswith("tmp") for name in found["not_listed"])
        assert {run["signature"] for run in found["runs"][:RUNS] + found["runs"][-1:]} == {"good"}
        if not far:
            break
    assert step == 9 and len(found["runs"]) == RUNS + 2


def test_the_signature_of_an_earlier_run_is_gone_before_the_manifest_changes(directory, keys, monkeypatch):
    def broken(path, key):
        raise ReportError("the key is out of reach")

    with monkeypatch.context() as patch:
        patch.setattr(report_files, "sign", broken)
        with pytest.raises(ReportError, match="out of reach"):
            audit(directory, 6, keys / "ours")
    audit(directory, 7, keys / "ours")
    found = verified(directory, keys / "signers")
    assert found["problems"] == []
    assert [run["signature"] for run in found["runs"]] == ["good"] * RUNS + ["unsigned", "good"]


def test_the_oldest_manifests_are_dropped_beyond_the_bound_and_their_removal_is_told(directory, keys, monkeypatch):
    for module in (report_files, report_chain):
        monkeypatch.setattr(module, "KEPT", 4)
    for number in range(6, 9):
        audit(directory, number, keys / "ours")
    assert len(list((directory / MANIFESTS).iterdir())) == 8
    found = verified(directory, keys / "signers")
    assert found["problems"] == [] and [run["run"] for run in found["runs"]] == [4, 5, 6, 7, 8]
    remove_run(directory, 4)
    assert "runs 1 to 4 are missing" in verified(directory, keys / "signers")["problems"][0]


def test_runs_of_before_they_were_numbered_begin_the_chain(directory):
    shutil.rmtree(directory / MANIFESTS)
    manifest = json.loads((directory / MANIFEST).read_text())
    del manifest["run"]
    (directory / MANIFEST).write_text(json.dumps(manifest))
    (directory / f"{MANIFEST}.sig").unlink()
    audit(directory, 6)
    found = verified(directory)
    assert found["problems"] == [] and [run["run"] for run in found["runs"]] == [0, 1]
    kept(directory, 0).unlink()
    assert "is missing" in verified(directory)["problems"][0]


def test_the_history_may_begin_with_the_last_compliant_run(tmp_path, monkeypatch):
    for module in (report_files, report_chain):
        monkeypatch.setattr(module, "HISTORY_LIMIT", 3)
    for number in range(1, 7):
        audit(tmp_path / "audit", number, verdict="compliant" if number == 2 else "findings")
    lines = [json.loads(line) for line in (tmp_path / "audit" / HISTORY).read_text().splitlines()]
    assert [line["counts"]["pass"] for line in lines] == [2, 5, 6]
    assert verified(tmp_path / "audit")["problems"] == []


def test_a_copy_is_of_the_run_that_lists_it(tmp_path, directory, keys):
    shutil.copy(directory / "report.html", tmp_path / "sent.html")
    audit(directory, 6, keys / "ours")
    assert verified(directory, copies=[str(tmp_path / "sent.html")])["copies"] == {str(tmp_path / "sent.html"): [RUNS]}
    (tmp_path / "sent.html").write_text("<p>all is well")
    problems = verified(directory, copies=[str(tmp_path / "sent.html")])["problems"]
    assert len(problems) == 1 and "sent.html is a file of no run" in problems[0]


def test_what_no_manifest_lists_is_named(directory):
    (directory / "report.sarif").write_text("{}")
    assert verified(directory)["not_listed"] == ["report.sarif"]


WHOLE = {"version": 1, "run": 2, "generated": "x", "verdict": "x", "previous": None, "files": {}}


@pytest.mark.parametrize("text", [
    "[]", "{}", '{"version": 1}', "[" * 100000, "\x00", *(json.dumps({**WHOLE, **wrong}) for wrong in (
        {"files": {"../report.json": "0" * 64}}, {"files": {"report.json": "0"}}, {"files": []}, {"previous": "x"}, {"generated": 5}, {"run": -1}, {"run": "2"},
        {"run": True}, {"version": "1"}))])
@pytest.mark.parametrize("number", [2, None])
def test_nonsense_is_no_manifest(directory, text, number):
    (kept(directory, number) if number else directory / MANIFEST).write_text(text)
    assert "truncated or was edited" in verified(directory)["problems"][0]


@pytest.mark.parametrize("make", [os.mkdir, lambda path: os.symlink("/etc/hostname", path), lambda path: path.write_bytes(b" " * (report_files.SMALL + 1))])
@pytest.mark.parametrize("name", [MANIFEST, f"{MANIFEST}.sig"])
def test_what_cannot_be_read_is_refused_with_its_name(directory, name, make):
    (directory / name).unlink()
    make(directory / name)
    with pytest.raises(ReportError, match=f"{name} cannot be read: .*; read it as the account that audits"):
        verified(directory)


def test_a_pipe_keeps_nobody_waiting(directory):
    (directory / MANIFEST).unlink()
    os.mkfifo(directory / MANIFEST)
    assert "truncated or was edited" in verified(directory)["problems"][0]


def test_a_newer_manifest_is_refused(directory):
    edit(directory / MANIFEST, '"version": 1', '"version": 2')
    with pytest.raises(ReportError, match=f"{MANIFEST} has version 2, this release reads up to 1"):
        verified(directory)


def test_a_directory_without_reports_is_refused(tmp_path):
    with pytest.raises(ReportError, match="no manifest.json"):
        verified(tmp_path)


@pytest.mark.parametrize("text, words", [(None, "cannot be read: No such file"), ("", "names nobody"), ("# nobody\n\n", "names nobody")])
def test_signers_that_are_none_are_refused(tmp_path, text, words):
    if text is not None:
        (tmp_path / "signers").write_text(text)
    with pytest.raises(ReportError, match=f"{words}.*; write a line such as"):
        report_files.check_signers(str(tmp_path / "signers"))


@pytest.mark.parametrize("program, words", [
    (None, "install openssh-client"), ("#!/bin/sh\necho 'unknown option -- Y' >&2\nexit 1\n", "older than OpenSSH 8.1")])
def test_where_signatures_cannot_be_checked_nothing_passes(directory, keys, tmp_path, monkeypatch, program, words):
    (tmp_path / "bin").mkdir()
    if program:
        (tmp_path / "bin" / "ssh-keygen").write_text(program)
        (tmp_path / "bin" / "ssh-keygen").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ReportError, match=words):
        verified(directory, keys / "signers")
    assert verified(directory)["problems"] == []

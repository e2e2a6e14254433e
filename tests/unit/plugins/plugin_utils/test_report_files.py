# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The reports on disk: history, manifest, chain and signature."""

from __future__ import annotations

import json
import subprocess
import threading

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_files import (
    DEVIATIONS, HISTORY, MANIFEST, NAMESPACE, ReportError, digest, locked, read_deviations, read_history, write_reports)

DOCUMENT = {
    "generated": "2026-06-01T00:00:00+00:00", "verdict": "findings", "counts": {"pass": 1, "fail": 1, "waived": 0, "unknown": 0},
    "wire": {"counts": {"LEAK": 2, "BROKEN": 0}}}


def verified(directory, public_key):
    signers = directory.parent / "allowed_signers"
    signers.write_text(f"audit {public_key}")
    with open(directory / MANIFEST, encoding="utf-8") as manifest:
        done = subprocess.run(["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", "audit", "-n", NAMESPACE, "-s", str(directory / f"{MANIFEST}.sig")],
                              stdin=manifest, capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture(name="key")
def a_key(tmp_path):
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def test_runs_are_chained_and_remembered(tmp_path):
    directory = tmp_path / "audit"
    write_reports(str(directory), {"report.json": "{}"}, DOCUMENT)
    first = digest(directory / MANIFEST)
    write_reports(str(directory), {"report.json": "{ }"}, {**DOCUMENT, "verdict": "compliant"})
    manifest = json.loads((directory / MANIFEST).read_text())
    assert manifest["previous"] == first
    assert manifest["files"]["report.json"] == digest(directory / "report.json")
    assert manifest["files"][HISTORY] == digest(directory / HISTORY)
    assert [run["verdict"] for run in read_history(str(directory))] == ["findings", "compliant"]


def test_reports_are_their_owners_and_only_node_exporter_reads_another(tmp_path):
    write_reports(str(tmp_path), {"report.json": "{}", "report.prom": "x 1\n"}, DOCUMENT)
    modes = {entry.name: entry.stat().st_mode & 0o777 for entry in tmp_path.iterdir()}
    assert modes == {"report.json": 0o600, "report.prom": 0o644, HISTORY: 0o600, MANIFEST: 0o600}


def test_a_signature_holds_until_a_byte_changes(tmp_path, key):
    directory = tmp_path / "audit"
    write_reports(str(directory), {"report.json": "{}"}, DOCUMENT, str(key))
    public = key.with_suffix(".pub").read_text()
    assert verified(directory, public)
    (directory / MANIFEST).write_text((directory / MANIFEST).read_text().replace("findings", "compliant"))
    assert not verified(directory, public)


def test_two_runs_do_not_mix_their_files(tmp_path):
    directory, order = str(tmp_path / "audit"), []

    def second():
        with locked(directory):
            order.append("second")

    with locked(directory):
        other = threading.Thread(target=second)
        other.start()
        other.join(0.2)
        order.append("first")
    other.join(60)
    assert order == ["first", "second"]


def test_an_unsigned_run_leaves_no_old_signature(tmp_path, key):
    directory = tmp_path / "audit"
    write_reports(str(directory), {}, DOCUMENT, str(key))
    write_reports(str(directory), {}, DOCUMENT)
    assert not (directory / f"{MANIFEST}.sig").exists()


def test_a_key_that_is_none_is_refused(tmp_path):
    (tmp_path / "nonsense").write_text("x")
    with pytest.raises(ReportError, match="vllm_audit_signing_key"):
        write_reports(str(tmp_path / "audit"), {}, DOCUMENT, str(tmp_path / "nonsense"))


def test_a_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "audit").write_text("x")
    with pytest.raises(ReportError, match="vllm_audit_directory"):
        write_reports(str(tmp_path / "audit"), {}, DOCUMENT)
    with pytest.raises(ReportError, match="vllm_audit_directory"), locked(str(tmp_path / "audit")):
        raise AssertionError


@pytest.mark.parametrize("line", [
    b"", b"nonsense", b"[]", b"{}", b'{"counts": 1}', b'{"counts": {}, "generated": 1}', b"\xff\xfe", b"[" * 100000, b'{"generated": "2026',
    b'{"counts": {}, "generated": "x", "verdict": "compliant", "leaks": 0, "broken": 0}',
])
def test_lines_of_the_history_that_are_none_are_left_out_and_told(tmp_path, line):
    told, good = [], {"generated": "x", "verdict": "compliant", "counts": DOCUMENT["counts"], "leaks": 0, "broken": 0}
    (tmp_path / HISTORY).write_bytes(json.dumps(good).encode() + b"\n" + line + b"\n")
    assert read_history(str(tmp_path), told.append) == [good]
    assert len(told) == 1 and "1 of 2 lines" in told[0]


def test_a_history_that_is_no_file_is_refused(tmp_path):
    (tmp_path / HISTORY).mkdir()
    with pytest.raises(ReportError, match="Move it away"):
        read_history(str(tmp_path))


def test_a_newer_history_of_deviations_is_refused_and_stays(tmp_path):
    (tmp_path / DEVIATIONS).write_text('{"version": 2, "deviations": []}')
    with pytest.raises(ReportError, match="has version 2, this release reads up to 1"):
        read_deviations(str(tmp_path))
    assert (tmp_path / DEVIATIONS).exists()


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"deviations": 5}', b"\xff", b'{"version": 1, "deviations": [{"host": "a"}]}', b"[" * 100000])
def test_a_damaged_history_of_deviations_is_told_and_kept(tmp_path, text):
    told = []
    (tmp_path / DEVIATIONS).write_bytes(text)
    assert read_deviations(str(tmp_path), told.append) == []
    assert len(told) == 1 and "truncated or was edited" in told[0]
    assert (tmp_path / f"{DEVIATIONS}.damaged").read_bytes() == text


@pytest.mark.parametrize("values", [{"seen": None}, {"explained": None}, {"host": []}, {"corrected": 5}, {"by": {}}])
def test_one_nonsensical_deviation_costs_no_other(tmp_path, values):
    good = {"host": "a", "control": "NET-01", "what": "x", "began_after": None, "began": None, "seen": "2026", "corrected": None, "by": None, "explained": []}
    (tmp_path / DEVIATIONS).write_text(json.dumps({"version": 1, "deviations": [{**good, **values}, good]}))
    assert read_deviations(str(tmp_path)) == [good]

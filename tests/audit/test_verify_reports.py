# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The module verify_reports as a user runs it, over the reports of several signed audits."""

from __future__ import annotations

import os
import subprocess

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.action.judge import FORMATS
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_files import write_reports
from ansible_collections.vllm_mindspore.hardening.tests.unit.plugins.plugin_utils.audit_example import every_status


@pytest.fixture(name="audits")
def three_audits(tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    (tmp_path / "signers").write_text("audit " + (tmp_path / "key.pub").read_text())
    for day in (1, 2, 3):
        document = {**every_status(), "generated": f"2026-06-0{day}T00:00:00+00:00"}
        write_reports(str(tmp_path / "audit"), {file: render(document) for file, render in FORMATS.values()}, document, str(tmp_path / "key"))
    return tmp_path


def ask(*words):
    command = ["ansible", "localhost", "-m", "vllm_mindspore.hardening.verify_reports", "-a", " ".join(words)]
    return subprocess.run(command, env=os.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)


def test_it_says_what_holds(audits):
    done = ask(f"directory={audits}/audit", f"allowed_signers={audits}/signers", f"copies={audits}/audit/report.sarif")
    assert done.returncode == 0 and "holds, 1 to 3: 3 signed by audit, 0 unsigned" in done.stdout and '"changed": false' in done.stdout


def test_it_fails_and_names_the_first_broken_link(audits):
    next((audits / "audit" / "manifests").glob("00000002-*.json")).unlink()
    done = ask(f"directory={audits}/audit", f"allowed_signers={audits}/signers")
    assert done.returncode == 2 and "is broken: the manifest of run 2 is missing between" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("words, said", [
    (("directory=/nonexistent",), "directory is '/nonexistent', which cannot be read"),
    (("directory=/", "expected=abc"), "expected has 'abc', which is no SHA-256"),
    (("directory=/", "allowed_signers=/nonexistent"), "allowed_signers is '/nonexistent', which cannot be read"), (("directory=/",), "no manifest.json"),
])
def test_it_refuses_wrong_input_in_words(words, said):
    done = ask(*words)
    assert done.returncode == 2 and said in done.stdout
    assert "Traceback" not in done.stdout + done.stderr

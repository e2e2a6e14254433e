# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The reports on disk: complete or not there, with the history of earlier runs and a manifest that chains each run to the one before.

The manifest lists the SHA-256 of every file of the run and of the manifest before it. Where a key is given it is signed with
`ssh-keygen -Y sign` (OpenSSH 8.1 and newer); whoever holds the public key verifies with::

    ssh-keygen -Y verify -f allowed_signers -I audit -n vllm-audit -s manifest.json.sig < manifest.json
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import subprocess
import tempfile

MANIFEST, HISTORY, DEVIATIONS, NAMESPACE = "manifest.json", "history.jsonl", "deviations.json", "vllm-audit"
HISTORY_LIMIT = 200
BATCH = 512  # pieces of text, a finding or so each


class ReportError(Exception):
    """The reports cannot be written; the message is for the user."""


def summary_of(document):
    """What the history keeps of a run."""
    wire = document["wire"]["counts"]
    return {"generated": document["generated"], "verdict": document["verdict"], "counts": document["counts"], "leaks": wire["LEAK"], "broken": wire["BROKEN"]}


def read_history(directory):
    """The summaries of earlier runs, the oldest first; lines that are none are left out."""
    runs = []
    try:
        with open(os.path.join(directory, HISTORY), encoding="utf-8") as stream:
            lines = stream.readlines()[-HISTORY_LIMIT:]
    except FileNotFoundError:
        return runs
    for line in lines:
        try:
            run = json.loads(line)
            if isinstance(run["counts"], dict) and {"generated", "verdict", "leaks", "broken"} <= set(run):
                runs.append(run)
        except (ValueError, KeyError, TypeError):
            continue
    return runs


def read_deviations(directory):
    """The history of deviations of earlier runs as `deviations.follow` has it; empty where there is none that can be read."""
    try:
        with open(os.path.join(directory, DEVIATIONS), encoding="utf-8") as stream:
            found = json.load(stream)["deviations"]
        return [one for one in found if {"host", "control", "what", "began_after", "began", "seen", "corrected", "by", "explained"} <= set(one)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def deviations_text(found):
    """The history of deviations as a file, in pieces."""
    yield '{"version": 1, "deviations": [\n'
    yield ",\n".join(json.dumps(one, sort_keys=True) for one in found)
    yield "\n]}\n"


def write(path, pieces):
    """Replace a file by pieces of text; the old one stays until the new one is complete. Returns the SHA-256 as hexadecimal text."""
    sha256 = hashlib.sha256()
    with tempfile.NamedTemporaryFile("wb", dir=os.path.dirname(path), delete=False) as stream:
        try:
            pieces = iter(pieces)
            while batch := list(itertools.islice(pieces, BATCH)):
                data = "".join(batch).encode()
                sha256.update(data)
                stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        except BaseException:
            os.unlink(stream.name)
            raise
    os.replace(stream.name, path)
    return sha256.hexdigest()


def digest(path):
    """The SHA-256 of a file as hexadecimal text, None where there is none."""
    try:
        with open(path, "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def locked(directory):
    """Makes the directory, and keeps other audits from it: the reports and the manifest of two runs at the same time would be mixed. Raises ReportError."""
    try:
        os.makedirs(directory, mode=0o750, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ReportError(f"vllm_audit_directory is {directory!r}, where the report cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_reports(directory, rendered, document, key=None):
    """Write the rendered files, the history and the manifest.

    rendered: {file name: its text in pieces}; key: path of a private key for ssh-keygen, or None. Returns the paths written. Raises ReportError.
    To be called under ``locked(directory)`` where other audits may write there.
    """
    try:
        os.makedirs(directory, mode=0o750, exist_ok=True)
        manifest_path = os.path.join(directory, MANIFEST)
        previous = digest(manifest_path)
        runs = [*read_history(directory), summary_of(document)][-HISTORY_LIMIT:]
        files = {**rendered, HISTORY: (json.dumps(run) + "\n" for run in runs)}
        digests = {name: write(os.path.join(directory, name), pieces) for name, pieces in sorted(files.items())}
        manifest = {"version": 1, "generated": document["generated"], "verdict": document["verdict"], "previous": previous, "files": digests}
        write(manifest_path, [json.dumps(manifest, indent=1), "\n"])
    except OSError as error:
        raise ReportError(f"vllm_audit_directory is {directory!r}, where the report cannot be written: {error.strerror}") from None
    paths = [os.path.join(directory, name) for name in rendered] + [manifest_path]
    if key:
        paths.append(sign(manifest_path, key))
    elif os.path.exists(f"{manifest_path}.sig"):
        # A signature of an earlier run would be taken for one of this run.
        os.unlink(f"{manifest_path}.sig")
    return paths


def sign(path, key):
    """Sign a file; returns the path of the signature. Raises ReportError."""
    signature = f"{path}.sig"
    if os.path.exists(signature):
        os.unlink(signature)
    try:
        done = subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", NAMESPACE, path], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReportError(f"vllm_audit_signing_key: ssh-keygen could not be run: {error}") from None
    if done.returncode or not os.path.exists(signature):
        raise ReportError(f"vllm_audit_signing_key is {key!r}, with which nothing can be signed: {done.stderr.strip()[-200:]}")
    return signature

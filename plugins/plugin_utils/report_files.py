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
DEVIATIONS_VERSION = 1
HISTORY_LIMIT = 200
COUNTED = ("fail", "unknown", "waived", "pass")  # what the report shows of earlier runs
BATCH = 512  # pieces of text, a finding or so each


class ReportError(Exception):
    """The reports cannot be written; the message is for the user."""


def summary_of(document):
    """What the history keeps of a run."""
    wire = document["wire"]["counts"]
    return {"generated": document["generated"], "verdict": document["verdict"], "counts": document["counts"], "leaks": wire["LEAK"], "broken": wire["BROKEN"]}


def _parsed(text):
    """What a text of JSON says, None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def lines_of(path):
    """The lines of a file that an earlier run left; none where there is no file. Raises ReportError."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.readlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}. Move it away, or name another vllm_audit_directory") from None


def is_summary(run):
    """Whether something is what `summary_of` makes."""
    return (isinstance(run, dict) and isinstance(run.get("counts"), dict)
            and all(isinstance(run["counts"].get(status), int) for status in COUNTED)
            and all(isinstance(run.get(key), str) for key in ("generated", "verdict")) and all(isinstance(run.get(key), int) for key in ("leaks", "broken")))


def read_history(directory, warn=None):
    """The summaries of earlier runs, the oldest first; lines that are none are left out, and told to `warn`. Raises ReportError."""
    path = os.path.join(directory, HISTORY)
    lines = lines_of(path)[-HISTORY_LIMIT:]
    runs = [run for run in map(_parsed, lines) if is_summary(run)]
    if warn and len(runs) < len(lines):
        warn(f"{path}: {len(lines) - len(runs)} of {len(lines)} lines are no summaries of runs and are left out")
    return runs


def is_deviation(one):
    """Whether something is what `deviations.follow` makes."""
    return (isinstance(one, dict) and all(isinstance(one.get(key), str) for key in ("host", "control", "what", "seen"))
            and all(one.get(key, 0) is None or isinstance(one[key], str) for key in ("began_after", "began", "corrected", "by"))
            and isinstance(one.get("explained"), list))


def read_deviations(directory, warn=None):
    """The history of deviations of earlier runs as `deviations.follow` has it; what is none is left out, and told to `warn`. Raises ReportError."""
    path = os.path.join(directory, DEVIATIONS)
    lines = lines_of(path)
    found = _parsed("".join(lines))
    version, listed = (found.get("version"), found.get("deviations")) if isinstance(found, dict) else (None, None)
    if isinstance(version, int) and version > DEVIATIONS_VERSION:
        raise ReportError(f"{path} has version {version}, this release reads up to {DEVIATIONS_VERSION}: use a newer release, or another vllm_audit_directory")
    kept = [one for one in listed if is_deviation(one)] if isinstance(listed, list) else []
    if lines and (not isinstance(listed, list) or len(kept) < len(listed)):
        damaged = f"{path}.damaged"
        try:
            os.replace(path, damaged)
        except OSError as error:
            raise ReportError(f"{path} cannot be moved away: {error.strerror}. Name another vllm_audit_directory") from None
        if warn:
            warn(f"{path} is truncated or was edited: {len(kept)} deviations could be read, and the file is now {damaged}")
    return kept


def deviations_text(found):
    """The history of deviations as a file, in pieces."""
    yield f'{{"version": {DEVIATIONS_VERSION}, "deviations": [\n'
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
            if path.endswith(".prom"):
                # Read by node_exporter, which is another user; the rest is its owner's.
                os.fchmod(stream.fileno(), 0o644)
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

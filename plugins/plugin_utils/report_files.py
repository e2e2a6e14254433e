# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The reports on disk: complete or not there, with the history of earlier runs and a manifest that chains each run to the one before.

The manifest lists the SHA-256 of every file of the run and of the manifest before it. Where a key is given it is signed with
`ssh-keygen -Y sign` (OpenSSH 8.1 and newer); whoever holds the public key verifies with::

    ssh-keygen -Y verify -f allowed_signers -I audit -n vllm-audit -s manifest.json.sig < manifest.json

The manifests of earlier runs lie in the folder `manifests` with their signatures, each under the number of its run. `report_chain` judges them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import subprocess
import tempfile

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.guard_history import plain

MANIFEST, HISTORY, DEVIATIONS, NAMESPACE = "manifest.json", "history.jsonl", "deviations.json", "vllm-audit"
MANIFESTS = "manifests"  # the folder of those of earlier runs
KEPT = 10000  # manifests of earlier runs: more than a year of one an hour, some 80 MB
KEPT_NAME = re.compile(r"(\d{8})-([0-9a-f]{16})\.json")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LAST_RUN = 10**8 - 1
SMALL = 1 << 20  # bytes of a manifest or a signature; those of an audit have two thousand
MANIFEST_VERSION = DEVIATIONS_VERSION = 1
HISTORY_LIMIT = 200
COUNTED = ("fail", "unknown", "waived", "pass")  # what the report shows of earlier runs
BATCH = 512  # pieces of text, a finding or so each


class ReportError(Exception):
    """The reports cannot be written or read; the message is for the user."""


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
        with open(path, encoding="utf-8", errors="replace", opener=plain) as stream:
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
    pieces = iter(pieces)
    return write_data(path, ("".join(batch).encode() for batch in iter(lambda: list(itertools.islice(pieces, BATCH)), [])))


def write_data(path, blocks):
    """`write` for blocks of bytes."""
    sha256 = hashlib.sha256()
    with tempfile.NamedTemporaryFile("wb", dir=os.path.dirname(path), delete=False) as stream:
        try:
            for data in blocks:
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


def append(path, records):
    """Add records to a file of JSON lines: all of them or none. What an earlier writer left half written stays, as a line of its own. Raises OSError."""
    data = "".join(json.dumps(record, sort_keys=True) + "\n" for record in records).encode()
    with open(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600), "r+b", buffering=0) as stream:
        size = stream.seek(0, os.SEEK_END)
        if size:
            stream.seek(size - 1)
            data = data if stream.read(1) == b"\n" else b"\n" + data
        try:
            while data:
                data = data[stream.write(data):]
            os.fsync(stream.fileno())
        except OSError as error:
            stream.truncate(size)
            error.filename = path
            raise


def digest(path):
    """The SHA-256 of a file as hexadecimal text, None where there is none. Raises OSError."""
    try:
        with open(path, "rb", opener=plain) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
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


def bounded(runs):
    """The latest summaries; the last compliant one stays where all of them are later: it says after what an open deviation began."""
    kept = runs[-HISTORY_LIMIT:]
    good = [run for run in runs[:-HISTORY_LIMIT] if run["verdict"] == "compliant"]
    return [good[-1], *kept[1:]] if good and all(run["verdict"] != "compliant" for run in kept) else kept


def kept_names(directory):
    """The names of the manifests of earlier runs, the oldest first; none where there is no folder. Raises OSError."""
    try:
        return sorted(name for name in os.listdir(os.path.join(directory, MANIFESTS)) if KEPT_NAME.fullmatch(name))
    except FileNotFoundError:
        return []


def run_number(data):
    """The number of the run that a manifest names, 0 where it names none."""
    found = _parsed(data)
    number = found.get("run") if isinstance(found, dict) else None
    return number if isinstance(number, int) and number is not True and 0 < number < LAST_RUN else 0


def parse_manifest(data, path):
    """A manifest from its bytes: ``{run, generated, verdict, previous, files: {name: SHA-256}}``, None where it is none, as after an edit or half a write.

    `run` is 0 in those of before runs were numbered. path: where it lies. Raises ReportError for one that a newer release wrote.
    """
    found = _parsed(data)
    if not isinstance(found, dict):
        return None
    if isinstance(found.get("version"), int) and found["version"] > MANIFEST_VERSION:
        raise ReportError(f"{path} has version {found['version']}, this release reads up to {MANIFEST_VERSION}: use a newer release")
    files, previous = found.get("files"), found.get("previous")
    whole = (found.get("version") == MANIFEST_VERSION and (run_number(data) or "run" not in found) and isinstance(files, dict)
             and all(isinstance(found.get(key), str) for key in ("generated", "verdict")) and (previous is None or is_digest(previous))
             and all(FILE_NAME.fullmatch(name) and is_digest(value) for name, value in files.items()))
    return {"run": run_number(data), **{key: found[key] for key in ("generated", "verdict", "previous", "files")}} if whole else None


def is_digest(value):
    """Whether something is a SHA-256 as hexadecimal text."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def keep_manifest(directory):
    """Keep the last manifest and its signature among those of earlier runs, before another takes its place.

    Returns its SHA-256 as hexadecimal text, None where there is none, and the number of the next run. Raises OSError.
    """
    names = kept_names(directory)
    latest = int(names[-1][:8]) if names else 0
    path = os.path.join(directory, MANIFEST)
    data = read_data(path)
    if data is None:
        return None, latest + 1
    # What is damaged is kept like any other: the run after it names its digest. Without a number are also manifests of before there were any.
    number = run_number(data) or (latest + 1 if names else 0)
    sha256 = hashlib.sha256(data).hexdigest()
    kept = os.path.join(directory, MANIFESTS, f"{number:08d}-{sha256[:16]}.json")
    if not os.path.exists(kept):
        os.makedirs(os.path.dirname(kept), mode=0o750, exist_ok=True)
        signature = read_data(f"{path}.sig")
        # The signature comes first: a run that breaks off between the two is made good by the next.
        if signature is not None:
            write_data(f"{kept}.sig", [signature])
        write_data(kept, [data])
    return sha256, max(number, latest) + 1


def finish(directory):
    """Complete a run that broke off between the history and the manifest; before that, it left nothing. Raises OSError, ReportError."""
    path = os.path.join(directory, MANIFEST)
    data = read_data(f"{path}.new")
    if data is None:
        return
    manifest = parse_manifest(data, f"{path}.new")
    if manifest and manifest["files"].get(HISTORY) == digest(os.path.join(directory, HISTORY)):
        replace_manifest(path)
    else:
        os.unlink(f"{path}.new")


def replace_manifest(path):
    """Put the new manifest in the place of the last one. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{path}.sig")  # it would be taken for one of this run
    os.replace(f"{path}.new", path)


def read_data(path):
    """The bytes of a file of at most SMALL bytes, None where there is none. Raises OSError."""
    try:
        with open(path, "rb", opener=plain) as stream:
            data = stream.read(SMALL + 1)
    except FileNotFoundError:
        return None
    if len(data) > SMALL:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return data


@contextlib.contextmanager
def undisturbed(directory):
    """Lets no audit write to the directory while it is read. Raises ReportError."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ReportError(f"directory is {directory!r}, which cannot be read: {error.strerror}; name the vllm_audit_directory of audits, "
                          "as an account that may read it") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
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
        finish(directory)
        previous, number = keep_manifest(directory)
        digests = {name: write(os.path.join(directory, name), pieces) for name, pieces in sorted(rendered.items())}
        runs = "".join(json.dumps(run) + "\n" for run in bounded([*read_history(directory), summary_of(document)]))
        digests[HISTORY] = hashlib.sha256(runs.encode()).hexdigest()
        manifest = {"version": MANIFEST_VERSION, "run": number, "generated": document["generated"], "verdict": document["verdict"], "previous": previous,
                    "files": digests}
        # The history never names a run without a manifest: what breaks off after it is completed from the new manifest.
        write(f"{manifest_path}.new", [json.dumps(manifest, indent=1), "\n"])
        write(os.path.join(directory, HISTORY), [runs])
        replace_manifest(manifest_path)
        for name in kept_names(directory)[:-KEPT]:
            for path in (name, f"{name}.sig"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(directory, MANIFESTS, path))
    except OSError as error:
        raise ReportError(f"vllm_audit_directory is {directory!r}, where the report cannot be written: {error.strerror} ({error.filename})") from None
    paths = [os.path.join(directory, name) for name in rendered] + [manifest_path]
    if key:
        paths.append(sign(manifest_path, key))
    return paths


def sign(path, key):
    """Sign a file that has no signature; returns the path of the signature. Raises ReportError."""
    signature = f"{path}.sig"
    try:
        done = subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", NAMESPACE, path], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReportError(f"vllm_audit_signing_key: ssh-keygen could not be run: {error}") from None
    if done.returncode or not os.path.exists(signature):
        raise ReportError(f"vllm_audit_signing_key is {key!r}, with which nothing can be signed: {done.stderr.strip()[-200:]}")
    return signature


def check_signers(path):
    """Refuse a file that names no signers. Raises ReportError."""
    example = 'write a line such as: audit namespaces="vllm-audit" ssh-ed25519 AAAA...'
    try:
        with open(path, "rb") as stream:
            lines = stream.read(SMALL).splitlines()
    except OSError as error:
        raise ReportError(f"allowed_signers is {path!r}, which cannot be read: {error.strerror}; {example}") from None
    if not any(line.strip() and not line.startswith(b"#") for line in lines):
        raise ReportError(f"allowed_signers is {path!r}, which names nobody; {example}")


def verify_signature(data, signature, signers, identity):
    """What is wrong with the signature in a file over bytes, None where it is good. Raises ReportError where it cannot be checked."""
    command = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", identity, "-n", NAMESPACE, "-s", signature]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=60, check=False)
    except FileNotFoundError:
        raise ReportError("signatures cannot be checked: there is no ssh-keygen on the controller; install openssh-client or openssh-clients, "
                          "or leave allowed_signers out") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReportError(f"signatures cannot be checked: ssh-keygen could not be run: {error}") from None
    said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
    if re.search("(unknown|illegal|invalid) option", said):
        raise ReportError("signatures cannot be checked: ssh-keygen on the controller is older than OpenSSH 8.1; update it, or leave allowed_signers out")
    return (said.splitlines() or ["ssh-keygen refuses it"])[-1] if done.returncode else None

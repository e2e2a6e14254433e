# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What was last applied to a node, by concern: one sealed file each, written by the module `node_state`, read by it and by the guard.

A file is ``{"at": utc, "digest": sha256 of the desired state, "params": {...}, "seal": str or absent, "signed": as `signing` has it, or absent}``.
Of sensitive files only the owner and the mode are there.
While a concern is being applied, a file beside it says so, so that nobody takes the half for a deviation.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import sealing, signing
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.confirmed_change import utc

DIRECTORY = "/var/lib/vllm-hardening/applied"
LOCK = "/run/vllm-hardening/applied.lock"
BEGUN = ".begun"
LOCK_SECONDS = 10.0


class Busy(Exception):
    """Another process applies something at this moment."""


def remembered(params):
    """What of the parameters of `node_state` is remembered: all but the content of sensitive files and requests that hold for one run."""
    kept = {name: params.get(name) for name in ("groups", "users", "directories", "sysctls")}
    kept["files"] = [without_content(item) if item.get("sensitive") and item.get("state", "present") == "present" else item
                     for item in params.get("files") or []]
    if params.get("reloads"):
        kept["reloads"] = params["reloads"]
    kept["units"] = [{key: value for key, value in item.items() if key not in ("restart", "ready")} for item in params.get("units") or []]
    return kept


def without_content(item):
    """A sensitive file as far as it may be remembered."""
    return {**{key: value for key, value in item.items() if key != "content"}, "ownership_only": True}


def wanted_nothing(params):
    """Whether a concern is taken away altogether."""
    items = [item for name in ("groups", "users", "directories", "files", "units") for item in params.get(name) or []]
    return all(item.get("state") == "absent" for item in items) and not (params.get("sysctls") or {}).get("values")


def text_of(value):
    """One spelling for equal values."""
    return json.dumps(value, sort_keys=True)


def digest(params):
    """What two equal desired states share."""
    return hashlib.sha256(text_of(params).encode()).hexdigest()


@contextlib.contextmanager
def lock(seconds=LOCK_SECONDS, path=LOCK, make=True):
    """Hold the lock of what is applied. Raises Busy where another process has it for longer, OSError where it cannot be opened.

    make: whether to make it where it is not there; whoever may only read takes it so, and where it is missing nobody has applied anything since the start.
    """
    if make:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    elif not os.path.exists(path):
        yield
        return
    until = time.monotonic() + seconds
    with open(path, "a" if make else "r", encoding="utf-8", opener=_for_root) as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise Busy("another run applies something to this node at this moment; run again when it has ended") from None
                time.sleep(0.05)
        yield


def _for_root(path, flags):
    """Open a file that nobody else may open: whoever may only read one may keep its lock, and with it every run and the guard waiting."""
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if flags & os.O_CREAT:
        os.fchmod(handle, 0o600)
    return handle


def admit(concern, params, signed, directory=DIRECTORY, settings=signing.SETTINGS):
    """Look at what a run brought, before it changes anything. Raises sealing.Untrusted where its signature is not right, or is missing and needed."""
    found = digest(remembered(params))
    new = found != last_digest(concern, directory) and signing.demanded(settings)
    if signed:
        signing.accept(signed, concern, found, signing.accepted(concern) if new else 0)
    elif concern != "vllm_guard" and new:
        raise sealing.Untrusted(
            "the guard of this node takes only what the controller signed, and this is something new that is not: run where vllm_guard_signing_key is, "
            "or apply the role vllm_guard without that variable first; nothing was changed")


def write(concern, params, key, directory=DIRECTORY, signed=None):
    """Remember what was applied; nothing is written where it is the same as before, signed by the same key."""
    path = os.path.join(directory, f"{concern}.json")
    kept = remembered(params)
    if wanted_nothing(kept):
        for leftover in (path, path + BEGUN):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(leftover)
        for parent in (directory, os.path.dirname(directory)):
            with contextlib.suppress(OSError):
                os.rmdir(parent)
        return
    found = digest(kept)
    seal = sealing.seal(key, "applied", concern, found) if key else None
    with contextlib.suppress(OSError, ValueError):
        with open(path, encoding="utf-8") as stream:
            have = json.load(stream)
        if have["params"] == kept and not signed:
            signed = have.get("signed")  # what was signed stays so where a run corrects without the key
        if have["params"] == kept and have.get("seal") == seal and (have.get("signed") == signed or still_signed(have.get("signed"), signed)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + BEGUN)
            return
    _replace(path, {"at": utc(), "digest": found, "params": kept, **({"seal": seal} if seal else {}), **({"signed": signed} if signed else {})})
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + BEGUN)


def still_signed(have, signed):
    """Whether what the node has says the same as what a run brought, under the same key: a newer signature over the same is no news."""
    try:
        old, new = signing.parse(have["statement"]), signing.parse(signed["statement"])
        if have["public_key"] != signed["public_key"] or {**old, "serial": 0} != {**new, "serial": 0}:
            return False
        signing.verify_given(have)
    except (sealing.Untrusted, KeyError, TypeError):
        return False
    return True


def begin(concern, directory=DIRECTORY):
    """Say that a concern is being applied."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    with open(os.path.join(directory, f"{concern}.json{BEGUN}"), "w", encoding="utf-8") as stream:
        stream.write(utc() + "\n")


def broken_off(concern, directory=DIRECTORY):
    """Say that a concern is as it was before it was begun to be applied."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, f"{concern}.json{BEGUN}"))


def _replace(path, value):
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    handle = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump(value, stream, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(path + ".new", path)


def read(concern, key, directory=DIRECTORY, trust=None):
    """What was last applied of a concern, its seal checked, and its signature by `signing.Trust`. Raises sealing.Untrusted, OSError."""
    path = os.path.join(directory, f"{concern}.json")
    with open(path, encoding="utf-8") as stream:
        try:
            found = json.load(stream)
            same = found["digest"] == digest(found["params"])
        except (ValueError, KeyError, TypeError):
            raise sealing.Untrusted(f"{path} is truncated or not what the module node_state writes") from None
    if not same:
        raise sealing.Untrusted(f"{path} was changed after it was written")
    try:
        sealing.check(key, found.get("seal"), "applied", concern, found["digest"])
        if trust is not None:
            trust.check(found.get("signed"), concern, found["digest"])
    except sealing.Untrusted as error:
        raise sealing.Untrusted(f"{path}: {error}") from None
    return found


def last_digest(concern, directory=DIRECTORY):
    """The digest of what was last applied, or None; for telling a rollout from a foreign change, where a seal is not needed."""
    try:
        with open(os.path.join(directory, f"{concern}.json"), encoding="utf-8") as stream:
            return json.load(stream).get("digest")
    except (OSError, ValueError, AttributeError):
        return None


def concerns(directory=DIRECTORY):
    """``(names, names that are being applied)`` of what the node remembers."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    return (sorted(name[:-5] for name in names if name.endswith(".json")),
            sorted(name[:-len(".json" + BEGUN)] for name in names if name.endswith(".json" + BEGUN)))


def enrol(key, directory=DIRECTORY):
    """Seal what was applied before the node had its key. Returns the concerns; what is truncated is left out, and refused by the guard."""
    sealed = []
    for concern in concerns(directory)[0]:
        path = os.path.join(directory, f"{concern}.json")
        try:
            with open(path, encoding="utf-8") as stream:
                found = json.load(stream)
            whole = found["digest"] == digest(found["params"])
        except (ValueError, KeyError, TypeError):
            continue
        if whole:
            _replace(path, {**found, "seal": sealing.seal(key, "applied", concern, found["digest"])})
            sealed.append(concern)
    return sealed

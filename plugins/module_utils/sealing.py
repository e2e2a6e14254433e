# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Seals of what was last applied to a node: a keyed digest (HMAC-SHA256) with a key that only root of the node can read.

A seal shows that a state was written by this collection on this node, and in full: a truncated file, a file of another node or of an older
key, and a file that somebody wrote who cannot read the key are refused. It does not protect from root of the node, who can read the key.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import stat

KEY = "/var/lib/vllm-hardening/seal.key"
KEY_BYTES = 32


class Untrusted(Exception):
    """A state is missing, truncated or not sealed by this node; the message says which."""


def read_key(path=KEY):
    """The node's key, or None where there is none. Raises Untrusted for one that others than root could have read or written."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(handle, "rb") as stream:
        found = os.fstat(stream.fileno())
        key = stream.read(KEY_BYTES + 1)
    if found.st_uid != 0 or found.st_mode & 0o077 or not stat.S_ISREG(found.st_mode):
        raise Untrusted(f"{path} could be read or written by others than root; remove it and start the guard again")
    if len(key) != KEY_BYTES:
        raise Untrusted(f"{path} does not hold {KEY_BYTES} bytes; remove it and start the guard again")
    return key


def make_key(path=KEY, enrol=lambda key: None):
    """Make the node's key where there is none. Raises OSError.

    `enrol` seals with it what was there before. The key is put in place last, so that what breaks off in the middle, as on a full disk, is begun anew.
    """
    if os.path.lexists(path):
        return
    key = os.urandom(KEY_BYTES)
    enrol(key)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + ".new")
    handle = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(key)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(path + ".new", path)


def seal(key, *parts):
    """The seal of texts, in this order."""
    digest = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def check(key, claimed, *parts):
    """Raises Untrusted where `claimed` is not the seal of the texts, or there is no key to tell."""
    if key is None:
        raise Untrusted("the key of the seals is missing, which the guard makes when it is started: restart vllm-guard-node.service")
    if not isinstance(claimed, str) or not claimed:
        raise Untrusted("it is not sealed")
    if not hmac.compare_digest(seal(key, *parts), claimed):
        raise Untrusted("its seal is not this node's")


def firewall_parts(confirmed):
    """What the seal of a confirmed packet filter covers, from its record in the state file of `confirmed_change`."""
    return "firewall", str(confirmed.get("content")), str(confirmed.get("canonical"))

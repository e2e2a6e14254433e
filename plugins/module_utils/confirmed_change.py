# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A change that undoes itself unless it is confirmed over a new connection.

A change has a directory below /run (so that a restart of the node forgets it) with a token. The token's *name* is the state of
the change, and a rename is the only way from one state to the next, so that confirmation and rollback can never both win:

    pending -> confirmed                       by confirm()
    pending -> rolling-back -> rolled-back     by the rollback script
    pending -> refused                         by the change script, where nft refuses what it had accepted in the trial

The change itself is a script too, started by systemd just after the login that asked for it has its answer: rules that cut the
connection cannot keep the answer from arriving, and a controller that waits on a dead connection waits for nothing.
The rollback needs neither Python nor the login that armed it: a transient systemd timer runs a POSIX shell script.
What has to survive a restart lies in a state file on disk. Files that a confirmation makes permanent are written beside their
final place before the change, so that a full disk is found then and confirming only renames.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import time

STATES = ("pending", "confirmed", "rolling-back", "rolled-back", "refused")
LOCK_SECONDS = 2.0
_IDENTIFIER = re.compile(r"[A-Za-z0-9-]{1,64}")


class ChangeError(Exception):
    """A change cannot be begun or confirmed; the message is for the user. `outcome` says what became of it."""

    def __init__(self, message, outcome="refused"):
        super().__init__(message)
        self.outcome = outcome


class Staged:
    """Files to be put in place together: written beside their final place first, renamed later."""

    SUFFIX = ".vllm-hardening-new"

    def __init__(self):
        self.files = []

    def file(self, path, text, mode=0o644):
        """Stage a file; raises OSError where it cannot be written."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle = os.open(path + self.SUFFIX, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        self.files.append(path)

    def link(self, path, target):
        """Stage a symbolic link."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _remove(path + self.SUFFIX)
        os.symlink(target, path + self.SUFFIX)
        self.files.append(path)

    @classmethod
    def commit(cls, paths):
        """Rename what was staged for `paths` into place."""
        for path in paths:
            if os.path.lexists(path + cls.SUFFIX):
                os.rename(path + cls.SUFFIX, path)
                directory = os.open(os.path.dirname(path), os.O_RDONLY)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)

    @classmethod
    def discard(cls, paths):
        """Remove what was staged for `paths`."""
        for path in paths:
            _remove(path + cls.SUFFIX)


def _remove(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def change_script(directory, nft):
    """The script that loads the new rules, unless the rollback came first or comes meanwhile."""
    return f"""#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd '{directory}' && [ -e pending ] || exit 0
'{nft}' -f change.nft 2> error || {{ mv pending refused; exit 0; }}
: > loaded
# Where the rollback came while nft was at it, nobody knows which of the two was the last.
until [ -e pending ] || [ -e confirmed ] || '{nft}' -f previous.nft; do
    [ -e previous.nft ] || exit 0
    sleep 1
done
"""


def rollback_script(directory, nft, outcome_file, staged):
    """The rollback: POSIX shell and nft, absolute paths, nothing that was made for a login.

    It tries until nft works; with the argument ``once`` it tries once and fails where that fails.
    """
    leftovers = " ".join(f"'{path}{Staged.SUFFIX}'" for path in staged)
    return f"""#!/bin/sh
# Puts the previous rules back unless the change was confirmed: whoever renames the token first has won.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd '{directory}' || exit 0
mv pending rolling-back 2>/dev/null || [ -e rolling-back ] || exit 0
until '{nft}' -f previous.nft; do
    [ "$1" != once ] || exit 1
    [ -e previous.nft ] || exit 0
    sleep 1
done
{{ date -u +%Y-%m-%dT%H:%M:%SZ; cat /proc/uptime; }} > when 2>/dev/null
mv rolling-back rolled-back
{{ cat rolled-back > '{outcome_file}'; rm -f {leftovers or "''"}; }} 2>/dev/null || :
"""


class Journal:
    """Where changes are kept: `volatile` below /run, `permanent` on disk."""

    def __init__(self, volatile, permanent):
        self.volatile, self.permanent = volatile, permanent
        self.state_file = os.path.join(permanent, "state.json")
        self.outcome_file = os.path.join(permanent, "rolled-back.json")

    def open(self):
        """Create the directories below /run; raises OSError."""
        os.makedirs(self.volatile, mode=0o700, exist_ok=True)

    def lock(self):
        """Hold the lock of this node's changes until the process ends. Raises ChangeError where another process keeps it.

        The guard has it for the moment of a correction.
        """
        self.open()
        stream = open(os.path.join(self.volatile, "lock"), "w", encoding="utf-8")
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise ChangeError("another run is changing the firewall of this node at this moment; run again when it has ended") from None
                time.sleep(0.05)
            else:
                return stream

    def identity(self):
        """A text that differs after every restart, also of a container that shares its kernel."""
        path = os.path.join(self.volatile, "boot")
        if not os.path.exists(path):
            self.open()
            with open(path + ".new", "w", encoding="utf-8") as stream:
                stream.write(secrets.token_hex(16))
            os.rename(path + ".new", path)
        with open(path, encoding="utf-8") as stream:
            return stream.read()

    def state(self):
        """What the disk knows: ``{"confirmed": {...} or absent, "pending": {...} or absent}``."""
        try:
            with open(self.state_file, encoding="utf-8") as stream:
                value = json.load(stream)
        except (FileNotFoundError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def directory(self, identifier):
        if not _IDENTIFIER.fullmatch(identifier):
            raise ChangeError(f"{identifier!r} is not the identifier of a change")
        return os.path.join(self.volatile, identifier)

    def token(self, identifier):
        """``(state, record)`` of a change, ``(None, None)`` where there is none (any more)."""
        for name in STATES:
            try:
                with open(os.path.join(self.directory(identifier), name), encoding="utf-8") as stream:
                    return name, json.load(stream)
            except FileNotFoundError:
                continue
        return None, None

    def changes(self):
        """``{identifier: (state, record)}`` of what /run holds."""
        found = {}
        for name in sorted(os.listdir(self.volatile)) if os.path.isdir(self.volatile) else ():
            if os.path.isdir(os.path.join(self.volatile, name)) and _IDENTIFIER.fullmatch(name):
                found[name] = self.token(name)
        return found

    def begin(self, record, texts, nft, staged):
        """Write the change's directory; the token `pending` comes last. `texts` are `change` and `previous`, as nft reads them.

        Returns the paths of the change script and of the rollback script. Raises OSError.
        """
        directory = self.directory(record["id"])
        os.makedirs(directory, mode=0o700)
        files = {
            "change.nft": texts["change"], "previous.nft": texts["previous"], "change": change_script(directory, nft),
            "rollback": rollback_script(directory, nft, self.outcome_file, staged), "pending": json.dumps(record, sort_keys=True),
        }
        for name, text in files.items():
            with open(os.path.join(directory, name + ".new"), "w", encoding="utf-8") as stream:
                stream.write(text)
            os.rename(os.path.join(directory, name + ".new"), os.path.join(directory, name))
        return os.path.join(directory, "change"), os.path.join(directory, "rollback")

    def loaded(self, identifier):
        """Whether the change script has run to its end."""
        return os.path.exists(os.path.join(self.directory(identifier), "loaded")) or self.token(identifier)[0] != "pending"

    def ask_again(self, identifier, seen):
        """A text for the login `seen` to bring over its next connection. Give it only once the change is loaded: see `came_after`."""
        proof = secrets.token_hex(16)
        with open(os.path.join(self.directory(identifier), f"after-{proof}"), "w", encoding="utf-8") as stream:
            stream.write(seen)
        return proof

    def came_after(self, identifier, proof, seen):
        """Whether the login `seen` was begun after the change was loaded: it brings what another login was told after that.

        A connection that is merely new may have been made in the moment before the change script ran, and rules that refuse every next one
        would let it go on.
        """
        if not proof or not _IDENTIFIER.fullmatch(proof):
            return False
        try:
            with open(os.path.join(self.directory(identifier), f"after-{proof}"), encoding="utf-8") as stream:
                return stream.read() != seen
        except FileNotFoundError:
            return False

    def complaint(self, identifier):
        """What nft said when it refused a change."""
        try:
            with open(os.path.join(self.directory(identifier), "error"), encoding="utf-8", errors="replace") as stream:
                return stream.read().strip()
        except FileNotFoundError:
            return ""

    def confirm(self, identifier):
        """Win or lose against the rollback. Raises ChangeError where the rollback has won."""
        directory = self.directory(identifier)
        try:
            os.rename(os.path.join(directory, "pending"), os.path.join(directory, "confirmed"))
        except FileNotFoundError:
            state = self.token(identifier)[0]
            raise ChangeError(f"the change {identifier} is {state or 'not known to this node'}", state or "unknown") from None

    def forget(self, identifier):
        """Remove a finished change's directory."""
        shutil.rmtree(self.directory(identifier), ignore_errors=True)


def now():
    """Seconds since the node started, suspended time included: no clock setting moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def utc():
    """The time of day for people."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def login(process=None):
    """``SSH_CONNECTION`` of the login this process runs under: what the node sees of its controller. None without SSH.

    sudo removes the variable from the environment, so the ancestors' are read.
    """
    process = process or os.getpid()
    for _step in range(64):
        try:
            with open(f"/proc/{process}/environ", "rb") as stream:
                for item in stream.read().split(b"\0"):
                    if item.startswith(b"SSH_CONNECTION="):
                        return item.split(b"=", 1)[1].decode("ascii", "replace")
            with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as stream:
                process = int(stream.read().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError, IndexError):
            return None
        if process <= 1:
            return None
    return None

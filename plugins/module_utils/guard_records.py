# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Where the guard keeps what it saw: a bounded history of JSON lines, a file of metrics, the journal, and systemd's watchdog."""

from __future__ import annotations

import json
import os
import socket
import sys

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import guard
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.confirmed_change import now, utc

HISTORY_BYTES = 1 << 20
HISTORY_FILES = 4
SAME_SECONDS = 1.0  # records of the same thing within this time become one with a count
OFTEN_SECONDS = 60.0  # and of a thing that goes on and on, so that it does not push out of the history how it began


class Records:
    """The history and the metrics of one duty of the guard, in its state directory."""

    def __init__(self, directory, duty):
        self.directory, self.duty = directory, duty
        self.history = os.path.join(directory, "history.jsonl")
        self.values, self.waiting, self.patience, self.dirty, self.written = {}, None, SAME_SECONDS, True, 0.0

    def add(self, kind, outcome, what, before=(), after=(), often=False, **more):
        """Record an event. `outcome` is one of seen, corrected, failed, intended, refused, ended.

        `often`: whether it goes on and on; of these, one a minute says what was there before and after, and how many there were.
        """
        record = {"at": utc(), "boot_seconds": round(now(), 3), "kind": kind, "outcome": outcome, "what": what, "before": list(before),
                  "after": list(after), **{key: value for key, value in more.items() if value is not None}}
        self.count("events_total", 1, kind=kind, outcome=outcome)
        last, compared = self.waiting, ("kind", "outcome", "what") if often else ("kind", "outcome", "what", "before", "after")
        if last and all(last.get(key) == record.get(key) for key in compared):
            last["count"] = last.get("count", 1) + 1
            last["last_at"] = record["at"]
            return
        self.flush()
        self.waiting, self.patience = record, OFTEN_SECONDS if often else SAME_SECONDS

    def flush(self, force=True):
        """Write the record that waits for more of its kind."""
        record = self.waiting
        if record is None or (not force and now() - record["boot_seconds"] < self.patience):
            return
        self.waiting = None
        say(guard.sentence(record))
        try:
            rotate(self.history, HISTORY_BYTES, HISTORY_FILES)
            with open(self.history, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(record, sort_keys=True) + "\n")
        except OSError as error:
            say(f"the history cannot be written: {error}")

    def count(self, metric, amount, **labels):
        """Add to a metric."""
        key = metric, tuple(sorted(labels.items()))
        self.values[key] = self.values.get(key, 0) + amount
        self.dirty = True

    def set(self, metric, value, **labels):
        """Set a metric."""
        key = metric, tuple(sorted(labels.items()))
        if self.values.get(key) != value:
            self.values[key] = value
            self.dirty = True

    def export(self):
        """Write the metrics where they changed, at most once a second."""
        if not self.dirty or now() - self.written < 1.0:
            return
        self.dirty, self.written = False, now()
        path = os.path.join(self.directory, f"vllm_guard_{self.duty}.prom")
        try:
            with open(path + ".new", "w", encoding="utf-8") as stream:
                stream.write(guard.metrics_text(self.duty, self.values))
            os.chmod(path + ".new", 0o644)
            os.replace(path + ".new", path)
        except OSError as error:
            say(f"the metrics cannot be written: {error}")


def rotate(path, size, files):
    """Begin a new file where the one of `path` has more than `size` bytes. Of `files` files, with it, the earlier ones are PATH.1, PATH.2, ...; what is older
    is dropped. Raises OSError."""
    if not os.path.exists(path) or os.path.getsize(path) <= size:
        return
    for number in range(files - 2, 0, -1):
        older = f"{path}.{number}"
        if os.path.exists(older):
            os.replace(older, f"{path}.{number + 1}")
    os.replace(path, f"{path}.1")


def say(text):
    """One line for the journal."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def notify(text):
    """Tell systemd: READY=1, WATCHDOG=1, STATUS=... Nothing where systemd does not listen."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect("\0" + path[1:] if path.startswith("@") else path)
            channel.sendall(text.encode())
        except OSError:
            return


def read_text(path):
    """A file's text, or None where there is none. Raises OSError."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except FileNotFoundError:
        return None

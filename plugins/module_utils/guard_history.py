# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the guard of a node recorded last, for the audit's report."""

from __future__ import annotations

import json
import os

FOLDERS = ("/var/lib/vllm-guard-firewall", "/var/lib/vllm-guard-node")
KINDS = ("seen", "corrected", "failed", "refused")
TAIL = 1 << 16
LATEST = 20
LINES = 5
LENGTH = 300


def plain(path, flags):
    """Opens a file for root where an account that is less than root may write: no link is followed, and no pipe waited for."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def read_latest(folders=FOLDERS):
    """The latest deviations that the guard recorded, the oldest first: ``[{at, seconds, outcome, kind, what, before, after, by, count}]``.

    `seconds` is how long before `at` the deviation began, where the guard knows; an empty list where there is no guard. Raises OSError.
    """
    found = []
    for folder in folders:
        try:
            with open(os.path.join(folder, "history.jsonl"), "rb", opener=plain) as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - TAIL))
                lines = stream.read().decode("utf-8", "replace").splitlines()[1 if size > TAIL else 0:]
        except FileNotFoundError:
            continue
        records = [record for record in map(_parsed, lines) if record]
        found += records[-LATEST:]
    return sorted(found, key=lambda record: record["at"])


def _parsed(line):
    """One line as a record of bounded size, or None."""
    try:
        record = json.loads(line)
        if record["outcome"] not in KINDS:
            return None
        by = record.get("by")
        return {
            "at": str(record["at"]), "seconds": max(0.0, round(record["boot_seconds"] - record["began"], 3)) if "began" in record else None,
            "outcome": record["outcome"], "kind": str(record["kind"]), "what": str(record["what"])[:LENGTH],
            **{side: [str(line)[:LENGTH] for line in record.get(side, ())[:LINES]] for side in ("before", "after")},
            "by": f"{by['command']} (process {by['pid']})"[:LENGTH] if by else None, "count": int(record.get("count", 1)),
        }
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None

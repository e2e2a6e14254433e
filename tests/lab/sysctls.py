# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Kernel-wide settings that the hosts share with the machine: remember them, put them back.

A booting systemd writes some of them (the distribution's ``/usr/lib/sysctl.d``), a role under test may write more.
Settings below ``net`` belong to a host's own network namespace and need none of this.
"""
from __future__ import annotations

import contextlib
from pathlib import Path

_BASE = Path("/proc/sys")
_TREES = ("fs", "kernel", "vm")
# Orders and counters that look like settings.
_NOT_SETTINGS = {"vm/compact_memory", "vm/drop_caches", "vm/stat_refresh", "kernel/ns_last_pid"}


def read() -> dict[str, str]:
    """All settings that can be written: path below /proc/sys -> value."""
    found = {}
    for tree in _TREES:
        for path in (_BASE / tree).rglob("*"):
            name = str(path.relative_to(_BASE))
            writable = path.is_file() and path.stat().st_mode & 0o200 and path.stat().st_mode & 0o400
            if writable and name not in _NOT_SETTINGS and not name.startswith(("fs/binfmt_misc/", "kernel/random/")):
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    found[name] = path.read_text(encoding="ascii").strip()
    return found


def restore(before: dict[str, str]) -> list[str]:
    """Write back what differs from an earlier ``read``; returns the names of what was put back."""
    now = read()
    restored = []
    for name, value in sorted(before.items()):
        if name in now and now[name] != value:
            with contextlib.suppress(OSError):
                (_BASE / name).write_text(value, encoding="ascii")
                restored.append(name)
    return restored

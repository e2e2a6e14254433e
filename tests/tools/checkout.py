# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The checkout's files, as git sees them, copied elsewhere."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def same(left: Path, right: Path) -> bool:
    """Whether RIGHT is a file with LEFT's content and mode."""
    return right.is_file() and left.stat().st_mode == right.stat().st_mode and filecmp.cmp(left, right, shallow=False)


def mirror(target: Path, kept: Iterable[Path] = ()) -> None:
    """Make TARGET hold the files that are tracked or new but not ignored, and nothing else but the relative paths KEPT.

    Files that have not changed are left alone, with their times. Folders are not left empty: an empty folder in roles/
    would count as a role.
    """
    command = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    wanted = {Path(name) for name in names if name and (CHECKOUT / name).is_file()}
    for name in wanted:
        if not same(CHECKOUT / name, target / name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, target / name)
    for folder, _folders, files in os.walk(target, topdown=False):
        relative = Path(folder).relative_to(target)
        if any(relative.is_relative_to(path) for path in kept):
            continue
        for name in files:
            if relative / name not in wanted:
                (Path(folder) / name).unlink()
        if not os.listdir(folder):
            os.rmdir(folder)

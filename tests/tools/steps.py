# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Make the named targets one after the other, each under a heading with its time; the first that fails is the last.

Usage: steps.py TARGET... The closing line, `N passed, N failed`, counts the targets.
"""

from __future__ import annotations

import subprocess
import sys
import time


def minutes(since: float) -> str:
    """The time gone by as minutes and seconds."""
    seconds = round(time.monotonic() - since)
    return f"{seconds // 60}:{seconds % 60:02d}"


def main(targets: list[str]) -> int:
    """Run the targets; 0 when all were made."""
    started, times, failed = time.monotonic(), [], []
    for number, target in enumerate(targets, 1):
        print(f"\n=== {target} ({number} of {len(targets)}, {minutes(started)} so far) ===", flush=True)
        begun = time.monotonic()
        status = subprocess.run(["make", "--no-print-directory", target], stdin=subprocess.DEVNULL, check=False).returncode
        times.append((target, minutes(begun)))
        if status:
            failed.append(target)
            break
    print("\n=== summary ===")
    for target, taken in times:
        print(f"{taken:>7}  {target}{'  FAILED' if target in failed else ''}")
    for target in failed:
        print(f"\n`make {target}` failed; its output is above, and it can be run alone. Not run: {' '.join(targets[len(times):]) or 'nothing'}")
    print(f"\n{len(times) - len(failed)} passed, {len(failed)} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Make the named targets one after the other, each under a heading with its time, and others beside them.

Usage: steps.py FIRST TARGET... [--beside TARGET...]

FIRST is made alone. What is made beside the others gives way to them, and its output appears when it is done. Once a target has failed no
other is begun. The closing line, `N passed, N failed`, counts the targets.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time

MAKE = ["make", "--no-print-directory"]


def minutes(seconds: float) -> str:
    """Seconds as minutes and seconds."""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


class Steps:
    """Targets that are made, and what became of them: ``times`` as [(target, seconds)], ``failed`` and ``left``, those never begun."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.times: list[tuple[str, float]] = []
        self.failed: list[str] = []
        self.left: list[str] = []
        self.printing = threading.Lock()

    def _say(self, target: str, place: str) -> None:
        print(f"\n=== {target} ({place}, {minutes(time.monotonic() - self.started)} so far) ===", flush=True)

    def _done(self, target: str, begun: float, status: int) -> None:
        self.times.append((target, time.monotonic() - begun))
        if status:
            self.failed.append(target)

    def make(self, targets: list[str]) -> None:
        """One after the other, for everybody to see."""
        for number, target in enumerate(targets, 1):
            if self.failed:
                self.left += targets[number - 1:]
                return
            with self.printing:
                self._say(target, f"{number} of {len(targets)}")
            begun = time.monotonic()
            self._done(target, begun, subprocess.run([*MAKE, target], stdin=subprocess.DEVNULL, check=False).returncode)

    def make_beside(self, targets: list[str]) -> None:
        """One after the other, with less right to the processors, shown when done."""
        for number, target in enumerate(targets, 1):
            if self.failed:
                self.left += targets[number - 1:]
                return
            begun = time.monotonic()
            with tempfile.TemporaryFile() as said:
                command = ["nice", *MAKE, target]
                status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, check=False).returncode
                said.seek(0)
                with self.printing:
                    self._say(target, f"made beside the others, {number} of {len(targets)}, in {minutes(time.monotonic() - begun)}")
                    sys.stdout.buffer.write(said.read())
                    print(f"=== end of {target} ===\n", flush=True)
            self._done(target, begun, status)

    def summary(self) -> None:
        """All times, and how to go on from a failure."""
        print("\n=== summary ===")
        for target, taken in self.times:
            print(f"{minutes(taken):>7}  {target}{'  FAILED' if target in self.failed else ''}")
        print(f"{minutes(time.monotonic() - self.started):>7}  in all")
        for target in self.failed:
            print(f"\n`make {target}` failed; its output is above, and it can be run alone. Not run: {' '.join(self.left) or 'nothing'}")
        print(f"\n{len(self.times) - len(self.failed)} passed, {len(self.failed)} failed", flush=True)


def main() -> int:
    """Make the targets; 0 when all were made."""
    parser = argparse.ArgumentParser()
    parser.add_argument("first")
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--beside", nargs="*", default=[])
    options = parser.parse_args()
    steps = Steps()
    steps.make([options.first])
    beside = threading.Thread(target=steps.make_beside, args=(options.beside,))
    beside.start()
    steps.make(options.targets)
    beside.join()
    steps.summary()
    return 1 if steps.failed else 0


if __name__ == "__main__":
    sys.exit(main())

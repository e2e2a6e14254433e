# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Make the named targets one after the other, each under a heading with its time, and others beside them.

Usage: steps.py FIRST TARGET... [--beside TARGET...]

FIRST is made alone. What is made beside the others gives way to them, and its output appears when it is done. Once a target has failed no
other is begun. The summary repeats of a failed target the lines that tell why: whoever has only the end of a long output has the cause. The
closing line, `N passed, N failed`, counts the targets.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
import tempfile
import threading
import time

MAKE = ["make", "--no-print-directory"]
TELLING = re.compile(r"\b(fatal|FAILED|ERROR|error|[A-Za-z]*Error|assert|wrong|violation)\b|^E  |^\S+\.py:\d+:|Traceback")
TOLD = 20
WIDTH = 500


def telling(said: bytes) -> list[str]:
    """The last lines of an output that tell why it ended, at most TOLD, each at most WIDTH characters; its end where none does."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said.decode(errors="replace")).splitlines()
    found = [line for line in lines if TELLING.search(line)] or lines
    return [line[:WIDTH] for line in found[-TOLD:]]


def minutes(seconds: float) -> str:
    """Seconds as minutes and seconds."""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


class Steps:
    """Targets that are made, and what became of them: ``times`` as [(target, seconds)], ``failed`` with what each said, ``left``, those never begun."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.times: list[tuple[str, float]] = []
        self.failed: dict[str, bytes] = {}
        self.left: list[str] = []
        self.printing = threading.Lock()

    def _say(self, target: str, place: str) -> None:
        print(f"\n=== {target} ({place}, {minutes(time.monotonic() - self.started)} so far) ===", flush=True)

    def _made(self, command: list[str], target: str, show: bool) -> tuple[bytes, float]:
        """What making one said, shown while it is said or not, and the seconds. A file, not a pipe: what a target leaves running may hold it."""
        begun = time.monotonic()
        with tempfile.NamedTemporaryFile() as said, open(said.name, "rb") as follower:
            with subprocess.Popen([*command, target], stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT) as process:
                output = bytearray()
                ended = False
                while not ended:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.2)
                        ended = True
                    output += (new := follower.read())
                    if show:
                        sys.stdout.buffer.write(new)
                        sys.stdout.flush()
        taken = time.monotonic() - begun
        self.times.append((target, taken))
        if process.returncode:
            self.failed[target] = bytes(output)
        return bytes(output), taken

    def make(self, targets: list[str]) -> None:
        """One after the other, for everybody to see."""
        for number, target in enumerate(targets, 1):
            if self.failed:
                self.left += targets[number - 1:]
                return
            with self.printing:
                self._say(target, f"{number} of {len(targets)}")
            self._made(MAKE, target, show=True)

    def make_beside(self, targets: list[str]) -> None:
        """One after the other, with less right to the processors, shown when done."""
        for number, target in enumerate(targets, 1):
            if self.failed:
                self.left += targets[number - 1:]
                return
            said, taken = self._made(["nice", *MAKE], target, show=False)
            with self.printing:
                self._say(target, f"made beside the others, {number} of {len(targets)}, in {minutes(taken)}")
                sys.stdout.buffer.write(said)
                print(f"=== end of {target} ===\n", flush=True)

    def summary(self) -> None:
        """All times, and how to go on from a failure."""
        print("\n=== summary ===")
        for target, taken in self.times:
            print(f"{minutes(taken):>7}  {target}{'  FAILED' if target in self.failed else ''}")
        print(f"{minutes(time.monotonic() - self.started):>7}  in all")
        for target, said in self.failed.items():
            print(f"\n`make {target}` failed; its output is above, and it can be run alone. Not run: {' '.join(self.left) or 'nothing'}. It said:")
            print("\n".join(f"  {line}" for line in telling(said)))
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

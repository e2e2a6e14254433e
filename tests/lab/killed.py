# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Labs whose processes were all killed are repaired, give way to others, and can be taken down: tried on a real one."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import labs, machine, runtime
from .podman import Podman

_LAB = str(Path(__file__).parent / "lab")
_HOSTS = ("npu01", "npu02")
_NAME, _OTHER = "killed", "killed-other"
_UP = ("--block", "10.83", "--hosts", ",".join(_HOSTS))


def _lab(*words: str, cache: str = "") -> str:
    environment = {**os.environ, **({"LAB_CACHE": cache} if cache else {})}
    done = subprocess.run([_LAB, *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"lab {' '.join(words)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _kill(name: str) -> None:
    """Kill a lab's hosts and their monitors, which would boot them again, and wait until the kernel has none of them."""
    shown = Podman().run("inspect", "--format={{.State.ConmonPid}} {{.State.Pid}}", *(f"{name}.{host}" for host in _HOSTS))
    processes = [int(word) for word in shown.split()]
    for process in processes:
        os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(_runs(process) for process in processes):
        if time.monotonic() > deadline:
            raise SystemExit(f"{name}: killed 30 s ago, and still running: {processes}")
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _answers(name: str, cache: str = "") -> None:
    for host in _HOSTS:
        _lab("ssh", "--name", name, host, "true", cache=cache)


def _left(name: str) -> list[dict]:
    """What podman still has of a lab."""
    with machine.lock("use", shared=True):
        runtime.prepare()
        hosts = Podman().hosts(name)
    runtime.release()
    return hosts


def main() -> int:
    """Exit status 0: all of it held."""
    with tempfile.TemporaryDirectory() as elsewhere:
        try:
            _lab("up", "--name", _NAME, *_UP)
            _kill(_NAME)
            _lab("up", "--name", _NAME)
            _answers(_NAME)
            print("a lab that was killed is up again")

            _kill(_NAME)
            _lab("up", "--name", _OTHER, *_UP)
            _answers(_OTHER)
            assert _NAME not in labs.specs() and not _left(_NAME)
            print("a lab that was killed gave way to another one of its block")

            _lab("status", "--all", cache=elsewhere)
            _answers(_OTHER, cache=elsewhere)
            _kill(_OTHER)
            _lab("down", "--name", _OTHER, cache=elsewhere)
            assert _OTHER not in labs.specs() and not _left(_OTHER)
            print("a lab that was killed is taken down, with another cache at hand")
        finally:
            for name in (_NAME, _OTHER):
                if (runtime.LABS / name).exists():
                    _lab("down", "--name", name)
    return 0


if __name__ == "__main__":
    sys.exit(main())

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Say what takes long, and how long it took."""
from __future__ import annotations

import contextlib
import sys
import threading
import time


def say(text: str) -> None:
    """One line for the user, on standard error (standard output carries results)."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(text: str):
    """Announce a step and its duration; while it lasts, tell every ten seconds that it goes on."""
    began = time.monotonic()
    done = threading.Event()

    def remind():
        while not done.wait(10):
            say(f"{text} ... {time.monotonic() - began:.0f} s")

    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield
    finally:
        done.set()
        reminder.join()
    say(f"{text}: {time.monotonic() - began:.1f} s")

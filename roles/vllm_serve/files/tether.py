# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Run one member of an instance that spans nodes, and end it when the others have gone.

    python3 -I tether.py ADDRESS[,ADDRESS...] -- PROGRAM [ARGUMENT...]

A data-parallel engine meets its head once, when it starts. When the head, or on the head an engine, is started again, the rest of
the instance waits for ever on connections that nobody answers. This program is the main process of such a unit: once a member has been
connected, no connection to it for `GRACE` seconds ends the program with status 75, and systemd starts the unit again, so that all
members meet anew. It reads /proc/net/tcp and opens nothing. It is self-contained: the node runs it as a plain file.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import struct
import subprocess
import sys
import time

GRACE = 10.0
INTERVAL = 2.0
STOP = 30.0
TEMPORARY_FAILURE = 75
ESTABLISHED = "01"


def remote_addresses(table, uid):
    """Packed remote addresses of the established connections of a user in the text of /proc/net/tcp or tcp6."""
    found = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[3] == ESTABLISHED and fields[7] == str(uid):
            digits = fields[2].partition(":")[0]
            words = [int(digits[start:start + 8], 16) for start in range(0, len(digits), 8)]
            packed = struct.pack(f"={len(words)}I", *words)
            if len(packed) == 16 and packed[:12] == bytes(10) + b"\xff\xff":
                packed = packed[12:]
            found.add(packed)
    return found


class Watch:
    """Which of the watched members has gone: it was connected once, and has not been for `grace` seconds."""

    def __init__(self, addresses, grace=GRACE):
        self.members = {ipaddress.ip_address(address).packed: address for address in addresses}
        self.grace = grace
        self.last = {}

    def gone(self, connected, now):
        """The address of a member that has gone at the time `now`, or None; `connected` are packed addresses."""
        for packed in self.members:
            if packed in connected:
                self.last[packed] = now
        for packed, last in self.last.items():
            if now - last > self.grace:
                return self.members[packed]
        return None


def connected_now():
    """Packed remote addresses of this user's established connections."""
    found = set()
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(path, encoding="ascii") as handle:
                found |= remote_addresses(handle.read(), os.getuid())
        except OSError:
            continue
    return found


def stop(child):
    """End the program, by force where it does not end by itself."""
    child.terminate()
    try:
        child.wait(STOP)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def main(arguments):
    """Run the program until it ends, or until a member has gone; returns the exit status."""
    if len(arguments) < 3 or arguments[1] != "--":
        sys.stderr.write("usage: tether.py ADDRESS[,ADDRESS...] -- PROGRAM [ARGUMENT...]\n")
        return 2
    watch = Watch(arguments[0].split(","))
    child = subprocess.Popen(arguments[2:])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: child.send_signal(received))
    while True:
        try:
            status = child.wait(INTERVAL)
            return status if status >= 0 else 128 - status
        except subprocess.TimeoutExpired:
            gone = watch.gone(connected_now(), time.monotonic())
        if gone is not None:
            sys.stderr.write(f"ERROR tether: no connection to {gone} for {GRACE:.0f} s; ending, so that all members of the instance meet anew\n")
            stop(child)
            return TEMPORARY_FAILURE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""On a node of the lab: run the units of the cases given on standard input, one line of JSON a case, and tell how each ended."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import time

UNIT = "vllm-probe.service"
FOLDER = "/srv/sandbox-bin"


def run(*command):
    """Run a program; its output."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def prepare():
    """What the attempts aim at: files of others, a foreign device, a set-uid program, and the attempts in the engine's place."""
    if "vllm-probe" not in [entry.pw_name for entry in pwd.getpwall()]:
        run("useradd", "--system", "--user-group", "--no-create-home", "vllm-probe")
    os.makedirs(FOLDER, exist_ok=True)
    for path, mode in (
        ("/srv/sandbox-foreign", 0o600),
        ("/home/sandbox-readable", 0o644),
        ("/tmp/sandbox-foreign", 0o644),
        ("/dev/shm/sandbox-foreign", 0o644),
    ):
        with open(path, "w") as handle:
            handle.write("x")
        os.chmod(path, mode)
    shutil.copy("/usr/bin/cat", "/srv/sandbox-setuid")
    os.chmod("/srv/sandbox-setuid", 0o4755)
    # Two real devices under names of our own: one stands for a foreign NPU, the tunnel for the instance's.
    for path, device in (("/dev/sandbox-foreign", (10, 229)), ("/dev/davinci0", (10, 200))):
        if not os.path.exists(path):
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(*device))
            os.chmod(path, 0o666)
    with open(f"{FOLDER}/vllm", "w") as handle:
        handle.write('#!/bin/sh\nexec /usr/bin/python3 -I /srv/sandbox/attempt.py "$@"\n')
    os.chmod(f"{FOLDER}/vllm", 0o755)


def outcome(unit):
    """How the main process of a unit ended, `succeeded`, `refused`, or what else systemd says, and the end of its journal."""
    with open(f"/run/systemd/system/{UNIT}", "w") as handle:
        handle.write(unit)
    run("systemctl", "daemon-reload")
    subprocess.run(["systemctl", "reset-failed", UNIT], check=False, capture_output=True)
    subprocess.run(["systemctl", "start", UNIT], check=False, capture_output=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        shown = dict(line.split("=", 1) for line in run("systemctl", "show", UNIT, "--property=SubState,ExecMainStatus,ExecMainCode,Result").splitlines())
        if shown["SubState"] in ("exited", "dead", "failed"):
            break
        time.sleep(0.02)
    journal = run("journalctl", "--no-pager", "--output=cat", f"--unit={UNIT}", "--lines=5")
    subprocess.run(["systemctl", "stop", UNIT], check=False, capture_output=True)
    if shown["ExecMainCode"] == "1" and shown["ExecMainStatus"] in ("0", "10"):
        return "succeeded" if shown["ExecMainStatus"] == "0" else "refused", journal
    return f"broken: {shown}", journal


def main():
    """Prepare, run every case, print every outcome."""
    prepare()
    os.makedirs("/run/systemd/system", exist_ok=True)
    for line in sys.stdin:
        case = json.loads(line)
        ended, journal = outcome(case["unit"])
        print(json.dumps({**case, "unit": None, "outcome": ended, "journal": journal}), flush=True)


if __name__ == "__main__":
    main()

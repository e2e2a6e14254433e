# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Begin a change of SSH access and kill its controller as soon as the node waits for the confirmation.

    die.py LAB NODE COMMAND...        exit status 0 once the command is dead and the change pending
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

PENDING = "grep -q AuthorizedKeysFile /etc/ssh/sshd_config.d/00-vllm-hardening.conf && ls /var/lib/vllm-hardening/access/*/pending"
DEADLINE = 300


def pending(lab, node):
    """Whether the node has taken the change and waits for its confirmation."""
    return subprocess.run([lab, "exec", node, "sh", "-c", PENDING], capture_output=True, check=False).returncode == 0


def main(lab, node, *command):
    """Begin, poll, kill, and see that nobody confirmed."""
    controller = subprocess.Popen(command, start_new_session=True)
    until = time.monotonic() + DEADLINE
    try:
        while not pending(lab, node):
            if controller.poll() is not None:
                return f"the run ended with {controller.returncode} and changed nothing"
            if time.monotonic() > until:
                return f"the node took no change within {DEADLINE} s"
            time.sleep(0.2)
    finally:
        if controller.poll() is None:
            os.killpg(controller.pid, signal.SIGKILL)
        controller.wait()
    return None if pending(lab, node) else "the change ended while its controller was killed"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

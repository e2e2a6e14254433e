# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A lab host as the campaigns see it: past its network, from inside its namespaces."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from lab.podman import Podman

CHECKOUT = Path(__file__).resolve().parents[2]
RUN = "run/vllm-hardening/firewall"
RULES = "etc/vllm-hardening/firewall.nft"


class Node:
    """A running host of a lab."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.files = CHECKOUT / ".build" / "labs" / lab
        self.find()

    def find(self):
        """Look up the host's first process, which a reboot changes."""
        self.pid = int(Podman().run("inspect", "--format={{.State.Pid}}", f"{self.lab}.{self.name}"))

    def path(self, name):
        """A path of the host on this machine."""
        return Path(f"/proc/{self.pid}/root/{name}")

    def run(self, *words, data=None, check=True):
        """Run a command as root on the host, whatever its packet filter does."""
        done = subprocess.run(["nsenter", f"--target={self.pid}", "--all", "--", *words], input=data, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def listing(self):
        """Our table without counter values, byte for byte as nft writes it; empty where there is none."""
        return self.run("nft", "-s", "list", "table", "inet", "vllm_hardening", check=False)

    def foreign(self):
        """Every other table."""
        tables = self.run("nft", "list", "tables").splitlines()
        return "".join(self.run("nft", "-s", "list", *line.split()) for line in tables if line and "vllm_hardening" not in line)

    def persisted(self):
        """The rules for the next boot, or None."""
        path = self.path(RULES)
        return path.read_text() if path.exists() else None

    def token(self):
        """``(identifier, state, record)`` of the newest change that /run holds, or three times None."""
        folder = self.path(RUN)
        changes = sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
        for change in reversed(changes):
            for state in ("pending", "confirmed", "rolling-back", "rolled-back"):
                try:
                    return change.name, state, json.loads((change / state).read_text())
                except FileNotFoundError:
                    continue
        return None, None, None

    def rolled_back_late(self):
        """Seconds from the deadline of the newest change to the end of its rollback, or None where it was not rolled back."""
        identifier, state, record = self.token()
        if state != "rolled-back":
            return None
        lines = self.path(f"{RUN}/{identifier}/when").read_text().splitlines()
        return float(lines[1].split()[0]) - record["deadline"]

    def link(self, up):
        """Plug the management cable in or out."""
        subprocess.run(["nsenter", f"--net=/run/netns/lab-{self.lab}", "ip", "link", "set", f"{self.name}.eth0", "up" if up else "down"], check=True)

    def reboot(self):
        """Cut the power and boot again."""
        subprocess.run([str(CHECKOUT / "tests/lab/lab"), "restart", "--name", self.lab, self.name], check=True, capture_output=True)
        self.find()

    def reachable(self, timeout=10):
        """Whether a new login as the deployment account works, sudo included."""
        command = ["ssh", "-F", str(self.files / "ssh_config"), "-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "BatchMode=yes",
                   "-o", f"ConnectTimeout={timeout}", self.name, "sudo", "-n", "true"]
        try:
            return subprocess.run(command, capture_output=True, check=False, timeout=timeout + 20).returncode == 0
        except subprocess.TimeoutExpired:
            return False


class Controller:
    """One ansible-playbook run of change.yml that can be killed like a machine whose power goes."""

    def __init__(self, node, content, rollback_timeout, management=None):
        self.folder = tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True)  # a process that was killed may still have it
        variables = {"node": node.name, "content": content, "rollback_timeout": rollback_timeout}
        if management:
            variables["management"] = management
        path = Path(self.folder.name, "variables.json")
        path.write_text(json.dumps(variables))
        self.output = open(Path(self.folder.name, "output"), "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            ["ansible-playbook", "-i", str(node.files / "inventory.yml"), str(CHECKOUT / "tests/faults/change.yml"), "-e", f"@{path}", "-v"],
            stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT, start_new_session=True, cwd=CHECKOUT,
            env={**os.environ, "ANSIBLE_SSH_CONTROL_PATH_DIR": self.folder.name, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCAL_TEMP": self.folder.name,
                 "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"})

    def wait(self, timeout=600):
        """Exit status and output."""
        self.process.wait(timeout)
        return self.process.returncode, self.text()

    def text(self):
        self.output.flush()
        self.output.seek(0)
        return self.output.read()

    def kill(self):
        """Kill every process of this run at once, the shared SSH connection too."""
        folder = self.folder.name.encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                mine = os.getpgid(int(entry.name)) == self.process.pid or folder in (entry / "cmdline").read_bytes()
                if mine and int(entry.name) != os.getpid():
                    os.kill(int(entry.name), signal.SIGKILL)
            except (OSError, ProcessLookupError):
                continue
        self.process.wait(60)

    def close(self):
        self.kill()
        self.output.close()
        self.folder.cleanup()


def wait_for(condition, seconds, interval=0.02):
    """Poll a condition until it holds; its value, or None at the deadline."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        value = condition()
        if value:
            return value
        time.sleep(interval)
    return None

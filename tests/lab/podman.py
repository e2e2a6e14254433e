# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The only place that calls podman."""
from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

from . import machine, runtime
from .topology import Refusal

_LABEL = "vllm-lab"

# PID 1 in a private tree cannot hand credentials to its units; and a host owns no disk of the machine.
_INIT = "mount --make-rshared / && find /dev -xdev -type b -delete; exec /sbin/init"


class Podman:
    """Containers and images below a cache folder (default: ``machine.cache()``), apart from the user's own.

    What podman keeps of running containers is apart for each cache too: over one runroot, two stores unmount each other's.
    """

    def __init__(self, cache: str = "") -> None:
        cache = cache or str(machine.cache())
        self._store = Path(cache, "podman")
        state = runtime.RUNTIME / "podman" / hashlib.sha256(cache.encode()).hexdigest()[:12]
        self._command = [
            *runtime.inside(),
            "podman",
            f"--root={self._store}",
            f"--runroot={state / 'run'}",
            f"--tmpdir={state / 'tmp'}",
            "--storage-driver=overlay",
        ]
        self._environment = {**os.environ, "CONTAINERS_CONF": str(runtime.CONTAINERS_CONF)}

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """Command and environment of a podman call, for the caller to run or to become."""
        return [*self._command, *arguments], self._environment

    def run(self, *arguments: str, data: bytes | None = None, check: bool = True) -> str:
        """Call podman; a failure is a Refusal with podman's words."""
        command, environment = self.command(*arguments)
        result = subprocess.run(command, input=data, env=environment, capture_output=True, check=False)
        if check and result.returncode:
            raise Refusal(f"podman {' '.join(arguments[:3])}: {result.stderr.decode(errors='replace').strip()}")
        return result.stdout.decode(errors="replace")

    def hosts(self, lab: str | None = None) -> list[dict]:
        """Containers of one lab, or of all: ``{lab, host, state, root}``."""
        if not self._store.exists():
            return []
        wanted = f"{_LABEL}={lab}" if lab else _LABEL
        listed = json.loads(self.run("ps", "--all", "--format=json", f"--filter=label={wanted}") or "[]") or []
        return [
            {
                "lab": entry["Labels"][_LABEL],
                "host": entry["Labels"]["vllm-lab.host"],
                "root": entry["Labels"]["vllm-lab.root"],
                "state": entry["State"],
            }
            for entry in listed
        ]

    def create(self, lab: str, host: str, image: str, root: str, plumbing: Path, volumes: list[str]) -> None:
        """Create a host, stopped."""
        self.run(
            "create",
            f"--name={lab}.{host}",
            f"--hostname={host}",
            f"--label={_LABEL}={lab}",
            f"--label=vllm-lab.host={host}",
            f"--label=vllm-lab.root={root}",
            f"--annotation=vllm-lab.plumbing={plumbing}",
            "--privileged",
            "--systemd=always",
            "--restart=always",
            "--network=none",
            "--no-hosts",
            "--shm-size=2g",
            "--stop-signal=SIGRTMIN+3",
            *(f"--volume={volume}" for volume in volumes),
            image,
            "/bin/sh",
            "-c",
            _INIT,
        )

    def unpack(self, lab: str, host: str, archive: bytes) -> None:
        """Unpack a tar archive into a host's root, with the owners it names (podman's archive mode means the contrary)."""
        self.run("cp", "--archive=false", "-", f"{lab}.{host}:/", data=archive)

    def start(self, lab: str, host: str) -> None:
        """Boot a host."""
        self.run("start", f"{lab}.{host}")

    def stop(self, lab: str, host: str) -> None:
        """Shut a host down."""
        self.run("stop", f"{lab}.{host}")

    def restart(self, lab: str, host: str) -> None:
        """Reboot a host: processes, /run, ruleset and sysctls go, disk and addresses stay."""
        self.run("restart", f"{lab}.{host}")

    def remove(self, lab: str, host: str | None = None) -> None:
        """Remove a host, or all hosts of a lab at once."""
        for last in (False, True):
            names = [f"{lab}.{entry['host']}" for entry in self.hosts(lab) if host in (None, entry["host"])]
            try:
                if names:
                    self.run("rm", "--force", "--time=0", "--volumes", *names)
            except Refusal as refusal:
                # That a host was killed together with its monitor podman learns by failing to kill it: the first removal.
                if last or "No such process" not in str(refusal):
                    raise

    def state(self, lab: str, host: str) -> str:
        """What systemd says of itself: running, degraded, starting ...; empty while it cannot be asked."""
        return self.run("exec", f"{lab}.{host}", "systemctl", "is-system-running", check=False).strip()

    def failed_units(self, lab: str, host: str) -> str:
        """The names of a host's failed units."""
        listed = self.run("exec", f"{lab}.{host}", "systemctl", "--failed", "--plain", "--no-legend", check=False)
        return " ".join(line.split()[0] for line in listed.splitlines() if line.strip())

    def images(self) -> set[str]:
        """The names of all images."""
        listed = json.loads(self.run("images", "--format=json") or "[]") or []
        return {name for entry in listed for name in entry.get("Names") or []}

    def load(self, image: str, archive: Path) -> None:
        """Make an image from the tar archive of a root."""
        self.run("import", "--quiet", str(archive), image)

    def discard(self, image: str) -> None:
        """Remove an image, unless a host still uses it."""
        self.run("rmi", image, check=False)

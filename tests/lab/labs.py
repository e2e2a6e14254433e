# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Bring a lab up, look at it, take it down."""
from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import io
import json
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from . import inventory, machine, network, roots, runtime, topology
from .podman import Podman
from .progress import say, step
from .topology import Refusal

CHECKOUT = Path(__file__).resolve().parents[2]
BOOT_DEADLINE = 300
_WORKERS = 4


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a lab is made of, as the user asked for it."""

    name: str
    block: str = "10.77"
    hosts: tuple[str, ...] = topology.DEFAULT_HOSTS
    root: str = "bookworm"
    roots: tuple[tuple[str, str], ...] = ()
    mounts: tuple[str, ...] = ()
    directory: str = ""
    cache: str = ""

    @classmethod
    def read(cls, path: Path) -> Spec:
        """The specification of a lab that is up."""
        value = json.loads(path.read_text(encoding="utf-8"))
        value["hosts"], value["mounts"] = tuple(value["hosts"]), tuple(value["mounts"])
        value["roots"] = tuple(tuple(pair) for pair in value["roots"])
        return cls(**value)


def dumps(spec: Spec) -> str:
    """What ``Spec.read`` reads."""
    return json.dumps(dataclasses.asdict(spec), indent=1) + "\n"


def specs() -> dict[str, Spec]:
    """All labs of the machine that are up, by name."""
    found = {}
    for path in sorted(runtime.LABS.glob("*/lab.json")):
        with contextlib.suppress(FileNotFoundError):  # taken down at this moment
            found[path.parent.name] = Spec.read(path)
    return found


def own(name: str) -> Spec | None:
    """The specification of a lab that is up; refused where it is another checkout's."""
    spec = specs().get(topology.lab_name(name))
    if spec and spec.directory != str(directory(name)):
        raise Refusal(f"lab {name} is up, and another checkout's: its files are in {spec.directory}; use that one's lab command")
    return spec


def directory(name: str) -> Path:
    """Where this checkout keeps a lab's files."""
    return CHECKOUT / ".build" / "labs" / name


def resolve(name: str, asked: dict, existing: Spec | None) -> Spec:
    """The specification to bring up: what the user asked for (``None``: nothing), or what is up already.

    A lab that is up is never changed into another one.
    """
    name = topology.lab_name(name)
    given = {key: value for key, value in asked.items() if value is not None}
    spec = dataclasses.replace(existing or Spec(name), **given)
    block = topology.Block.parse(spec.block)
    hosts = topology.hosts(list(spec.hosts))
    for host, root in (("", spec.root), *spec.roots):
        roots.parse(root)
        if host and host not in {known.name for known in hosts}:
            raise Refusal(f"--root {host}={root}: the lab has no host {host}")
    for mount in spec.mounts:
        source, _colon, rest = mount.partition(":")
        if not rest.startswith("/") or not Path(source).is_absolute() or not Path(source).exists():
            raise Refusal(f"--mount {mount}: write HOSTPATH:PATH[:ro] with absolute paths, the first one existing")
    if existing and spec != existing:
        differing = [
            f"{field.name} is {getattr(existing, field.name)}, not {getattr(spec, field.name)}"
            for field in dataclasses.fields(Spec)
            if getattr(existing, field.name) != getattr(spec, field.name)
        ]
        raise Refusal(f"lab {name} is up and differs: {'; '.join(differing)}. Take it down first, or choose another name")
    return dataclasses.replace(spec, block=str(block))


class Lab:
    """One lab of this machine."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.name = spec.name
        self.block = topology.Block.parse(spec.block)
        self.hosts = topology.hosts(list(spec.hosts))
        self.directory = Path(spec.directory)
        self._runtime = runtime.LABS / spec.name
        self._podman = Podman(spec.cache)

    def root(self, host: str) -> str:
        """Which root a host has."""
        return dict(self.spec.roots).get(host, self.spec.root)

    def up(self) -> None:
        """Make what is missing; nothing, if the lab is as it should be."""
        began = time.monotonic()
        if not self._runtime.exists():
            self._podman.remove(self.name)  # what an earlier boot of the machine left
        present = {entry["host"]: entry for entry in self._podman.hosts(self.name)}
        if not network.namespace_exists(self.name):
            self._refuse_foreign_networks()
        roots.build([self.root(host.name) for host in self.hosts], self._podman)
        with machine.lock("network"):
            if not network.namespace_exists(self.name):
                self._refuse_foreign_networks()  # again: another lab may have come up meanwhile
            keys = self._write_files()
            network.up(self.name, self.block)
        ports = network.ports(self.name)
        wired = {
            host.name
            for host in self.hosts
            if {f"{host.name}.{topology.INTERFACES[segment]}" for segment in host.segments} <= ports
        }
        waiting = [
            host
            for host in self.hosts
            if host.name not in wired or present.get(host.name, {}).get("state") != "running"
        ]
        if not waiting:
            say(f"lab {self.name} is up")
            return
        with step(f"booting {len(waiting)} hosts"), concurrent.futures.ThreadPoolExecutor(_WORKERS) as pool:
            booted = [pool.submit(self._boot, host, present.get(host.name), keys[host.name]) for host in waiting]
            for future in booted:
                future.result()
            for future in [pool.submit(self._await, host) for host in waiting]:
                future.result()
        say(f"lab {self.name} is up after {time.monotonic() - began:.1f} s")

    def _refuse_foreign_networks(self) -> None:
        for other in specs().values():
            if other.block == self.spec.block and other.name != self.name:
                raise Refusal(f"--block {self.spec.block}: in use by lab {other.name}; choose another one")
        taken = topology.overlaps(self.block, machine.own_networks())
        if taken:
            raise Refusal(f"--block {self.spec.block}: this machine already uses {', '.join(taken)}; choose another one")

    def _write_files(self) -> dict[str, tuple[str, str]]:
        """Keys, inventories and plumbing; returns the hosts' private and public keys."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._runtime.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        self._key("id_ed25519")
        keys = {host.name: self._key(f"{host.name}.key") for host in self.hosts}
        public = {name: pair[1] for name, pair in keys.items()}
        for families in inventory.FAMILIES:
            suffix = "" if families == "ipv4" else f"-{families}"
            text = inventory.yaml(inventory.inventory(self.block, self.hosts, self.directory, families))
            machine.replace(self.directory / f"inventory{suffix}.yml", text)
        machine.replace(self.directory / "known_hosts", inventory.known_hosts(self.block, self.hosts, public))
        machine.replace(self.directory / "ssh_config", inventory.ssh_config(self.block, self.hosts, self.directory))
        for host in self.hosts:
            for suffix, text in network.plumbing(self.name, self.block, host).items():
                machine.replace(self._runtime / f"{host.name}.{suffix}", text)
        machine.replace(self._runtime / "lab.json", dumps(self.spec))
        return keys

    def _key(self, name: str) -> tuple[str, str]:
        path = self.directory / name
        if not path.exists():
            comment = f"{self.name}-{name.partition('.')[0]}"
            machine.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path))
        return path.read_text(encoding="ascii"), path.with_name(f"{name}.pub").read_text(encoding="ascii")

    def _boot(self, host: topology.Host, present: dict | None, key: tuple[str, str]) -> None:
        if present and present["state"] not in ("created", "exited"):
            try:
                self._podman.restart(self.name, host.name)
                return
            except Refusal:
                say(f"host {host.name}: was killed, and is made anew")
                self._podman.remove(self.name, host.name)
                present = None
        if not present:
            root = self.root(host.name)
            plumbing = self._runtime / host.name
            volumes = [*self.spec.mounts, *roots.volumes(root)]
            self._podman.create(self.name, host.name, roots.image(root), root, plumbing, volumes)
        if not present or present["state"] == "created":
            self._podman.unpack(self.name, host.name, self._identity(host.name, key))
        self._podman.start(self.name, host.name)

    def _identity(self, name: str, key: tuple[str, str]) -> bytes:
        """What tells one host from another, as a tar archive."""
        permitted = (self.directory / "id_ed25519.pub").read_text(encoding="ascii")
        home = f"home/{inventory.ACCOUNT}/.ssh"
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, mode, owner, text in (
                ("etc/hosts", 0o644, 0, inventory.etc_hosts(name)),
                ("etc/ssh/ssh_host_ed25519_key", 0o600, 0, key[0]),
                ("etc/ssh/ssh_host_ed25519_key.pub", 0o644, 0, key[1]),
                (home, 0o700, 1000, None),
                (f"{home}/authorized_keys", 0o600, 1000, permitted),
            ):
                entry = tarfile.TarInfo(path)
                entry.mode, entry.uid, entry.gid, entry.mtime = mode, owner, owner, int(time.time())
                if text is None:
                    entry.type = tarfile.DIRTYPE
                    archive.addfile(entry)
                else:
                    data = text.encode()
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))
        return buffer.getvalue()

    def _await(self, host: topology.Host) -> None:
        """Wait until systemd has booted and sshd answers; say so if a unit failed or nobody may log in."""
        deadline = time.monotonic() + BOOT_DEADLINE
        while (state := self._podman.state(self.name, host.name)) not in ("running", "degraded"):
            if time.monotonic() > deadline:
                raise Refusal(f"host {host.name}: systemd is {state or 'silent'} after {BOOT_DEADLINE} s")
            time.sleep(0.2)
        if state == "degraded":
            say(f"host {host.name}: failed units: {self._podman.failed_units(self.name, host.name)}")
        refused = self._log_in(host.name)
        if refused:
            say(f"host {host.name}: ssh: {refused}; reach it with: lab exec --name {self.name} {host.name}")

    def _log_in(self, host: str) -> str:
        """Why ssh does not let the deployment account in; empty if it does."""
        command = ["ssh", "-F", str(self.directory / "ssh_config"), "-o", "BatchMode=yes", "-o", "ConnectTimeout=30"]
        result = subprocess.run([*command, host, "true"], capture_output=True, text=True, check=False)
        return result.stderr.strip() if result.returncode else ""

    def restart(self, names: list[str]) -> None:
        """Reboot hosts and wait until they run again."""
        chosen = self._chosen(names)
        with step(f"restarting {' '.join(names)}"), concurrent.futures.ThreadPoolExecutor(_WORKERS) as pool:
            for future in [pool.submit(self._podman.restart, self.name, host.name) for host in chosen]:
                future.result()
            for future in [pool.submit(self._await, host) for host in chosen]:
                future.result()

    def stop(self, names: list[str]) -> None:
        """Shut hosts down; ``up`` boots them again."""
        for host in self._chosen(names):
            self._podman.stop(self.name, host.name)

    def _chosen(self, names: list[str]) -> list[topology.Host]:
        known = {host.name: host for host in self.hosts}
        for name in names:
            if name not in known:
                raise Refusal(f"lab {self.name} has no host {name}; it has {', '.join(known)}")
        return [known[name] for name in names]

    def status(self) -> str:
        """A table of the hosts."""
        present = {entry["host"]: entry for entry in self._podman.hosts(self.name)}
        lines = []
        for host in self.hosts:
            entry = present.get(host.name)
            running = entry and entry["state"] == "running"
            state = self._podman.state(self.name, host.name) if running else (entry["state"] if entry else "missing")
            addresses = "  ".join(self.block.address(segment, host.number, 4) for segment in host.segments)
            lines.append(f"{host.name:10} {state or 'starting':10} {self.root(host.name):20} {addresses}")
        return "\n".join(lines)

    def exec_command(self, host: str, words: list[str]) -> tuple[list[str], dict[str, str]]:
        """Command and environment that run ``words`` as root on a host, past its network."""
        self._chosen([host])
        terminal = ["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
        return self._podman.command("exec", "--interactive", *terminal, f"{self.name}.{host}", *(words or ["/bin/bash"]))


def in_the_way(spec: Spec, others: dict[str, Spec]) -> list[str]:
    """Names of other checkouts' labs of this name, and of labs with this block."""
    return [
        other.name
        for other in others.values()
        if (other.name == spec.name and other.directory != spec.directory)
        or (other.name != spec.name and other.block == spec.block)
    ]


def discard_orphans(spec: Spec) -> None:
    """Remove what is in the way of a lab and has no host running, as a run that was killed leaves it behind.

    A host's ports exist as long as its network namespace; who is about to boot hosts holds the lock of their lab.
    """
    for name in in_the_way(spec, specs()):
        with machine.lock(f"lab-{name}", wait=False) as unused:
            if unused and name in specs() and not network.ports(name):
                down(name)


def down(name: str) -> None:
    """Remove a lab with everything it made, even where half of it is gone."""
    spec = specs().get(name)
    files = Path(spec.directory) if spec else directory(name)
    with step(f"removing lab {name}"):
        Podman(spec.cache if spec else "").remove(name)
        network.down(name)
        for folder in (files, runtime.LABS / name):
            shutil.rmtree(folder, ignore_errors=True)

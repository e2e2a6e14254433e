# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Small networks of bare network namespaces, for tests that need packets but no booted hosts.

    with Network("proof") as network:
        network.add("node", "peer")
        network.connect("node", ["10.79.0.1/24", "fd00:79::1/64"], "peer", ["10.79.0.2/24", "fd00:79::2/64"])
        network.run("node", "nft", "-f", "-", stdin="...")
        with network.enter("peer"):
            socket.create_connection(("10.79.0.1", 80))
"""
from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess

_CLONE_NEWNET = 0x40000000


class Network:
    """Named namespaces (``PREFIX-NAME`` for ``ip netns``), joined by veth pairs; gone with the ``with`` block."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._names: list[str] = []
        self._interfaces: dict[str, int] = {}

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_unused) -> None:
        _ip([f"netns delete {self.namespace(name)}" for name in self._names])

    def namespace(self, name: str) -> str:
        """The name ``ip netns`` knows."""
        return f"{self._prefix}-{name}"

    def add(self, *names: str) -> None:
        """Make namespaces with the loopback interface up."""
        _ip([f"netns add {self.namespace(name)}" for name in names])
        self._names += names
        for name in names:
            self._interfaces[name] = 0
            _ip(["link set lo up"], self.namespace(name))

    def connect(self, first: str, first_addresses: list[str], second: str, second_addresses: list[str]) -> tuple[str, str]:
        """Join two namespaces; returns the interfaces' names there (eth0, eth1 ... in the order of connecting)."""
        ends = []
        for name, addresses in ((first, first_addresses), (second, second_addresses)):
            ends.append((name, f"eth{self._interfaces[name]}", addresses))
            self._interfaces[name] += 1
        wire = [f"{device} netns {self.namespace(name)}" for name, device, _unused in ends]
        _ip([f"link add {wire[0]} type veth peer name {wire[1]}"])
        for name, device, addresses in ends:
            commands = [f"address add {text} dev {device}{' nodad' if ':' in text else ''}" for text in addresses]
            _ip([*commands, f"link set {device} up"], self.namespace(name))
        return ends[0][1], ends[1][1]

    def run(self, name: str, *command: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess:
        """Run a command in a namespace. (``ip netns exec`` would mount /sys anew and lose the cgroups below it.)"""
        prefix = ["nsenter", f"--net=/run/netns/{self.namespace(name)}"]
        return subprocess.run([*prefix, *command], input=stdin, capture_output=True, text=True, check=check)

    @contextlib.contextmanager
    def enter(self, name: str):
        """Let the calling thread make its sockets in a namespace."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net", "rb") as before, open(f"/run/netns/{self.namespace(name)}", "rb") as inside:
            _set_namespace(libc, inside.fileno())
            try:
                yield
            finally:
                _set_namespace(libc, before.fileno())


def _set_namespace(libc: ctypes.CDLL, descriptor: int) -> None:
    if libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _ip(commands: list[str], namespace: str | None = None) -> None:
    prefix = ["ip", "-netns", namespace] if namespace else ["ip"]
    subprocess.run([*prefix, "-batch", "-"], input="\n".join(commands) + "\n", text=True, check=True)

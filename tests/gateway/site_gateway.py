# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""One gateway on loopback with its engine: started, reloaded and asked as on a node, from the same code as the role."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import gateway_live
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import gateway, gateway_input, gateway_tls

NAME = "chat.example.com"
PROGRAM = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/sbin:/bin")
SECRETS = {name: f"vms_{name}_" + hashlib.sha256(name.encode()).hexdigest() for name in ("team-a", "next-a", "expired-a", "team-b", "team-c")}
BACKEND_KEY = "key-of-the-engine"
DEADLINE = 120
# Below those that the kernel gives to connections of its own choice, each once.
PORTS = iter(range(10000 + os.getpid() % 5000, max(20000, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0]))))


def free_port():
    """A port of loopback that nothing uses."""
    for port in PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port of loopback is free")


def until(condition, what):
    """Poll until a condition holds, and return its value."""
    limit = time.monotonic() + DEADLINE
    while time.monotonic() < limit:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come about in {DEADLINE} s")


class Site:
    """A gateway, its engine, its authority and its clients. ``with Site(folder) as site``."""

    def __init__(self, folder, command=None, **variables):
        self.folder = Path(folder)
        self.port, self.metrics_port, self.backend_port = free_port(), free_port(), free_port()
        self.requests = self.folder / "engine.log"
        self.end = self.folder / "end"
        self.log = self.folder / "gateway.log"
        self.command = command or [sys.executable, str(Path(__file__).with_name("engine.py")), str(self.backend_port), str(self.requests)]
        self.directory, self.runtime = self.folder / "etc", self.folder / "run"
        self.authority = gateway_tls.Authority(str(self.folder / "ca"))
        self.variables = variables
        self.keys = {"team-a": ["team-a", "expired-a"], "team-b": ["team-b"], "team-c": ["team-c"]}
        self.processes = []
        self.now = datetime.datetime.now(datetime.timezone.utc)

    def raw(self):
        """The variables of the role."""
        tomorrow, past = (self.now + datetime.timedelta(days=days) for days in (1, -1))

        def keys(client):
            return [
                {"id": name, "sha256": hashlib.sha256(SECRETS[name].encode()).hexdigest(), "expires": (past if "expired" in name else tomorrow).isoformat()}
                for name in self.keys[client]
            ]

        return {
            "instances": [
                {
                    "name": "chat", "addresses": ["127.0.0.1"], "port": self.port, "backends": [{"address": "127.0.0.1", "port": self.backend_port}],
                    "server_names": [NAME], "endpoints": ["GET /v1/models", "POST /v1/completions"],
                }
            ],
            "metrics": {"addresses": ["127.0.0.1"], "port": self.metrics_port},
            "client_networks": ["127.0.0.0/8"],
            "monitor_networks": ["127.0.0.0/8"],
            "known_instances": ["chat", "code"],
            "clients": [
                {"name": "team-a", "instances": ["chat"], "rate": 1000000, "concurrency": 1000, "keys": keys("team-a")},
                {"name": "team-b", "instances": ["code"], "keys": keys("team-b")},
                {"name": "team-c", "instances": ["chat"], "endpoints": ["GET /v1/models"], "rate": 3, "concurrency": 1, "keys": keys("team-c")},
            ],
            "ca_directory": str(self.folder / "ca"),
            "administrators": ["alice"],
            "management_endpoints": ["POST /pause"],
            "limits": {"header_seconds": 2, "body_seconds": 2, "body_bytes": 262144, "failures_per_minute": 1000000},
            "threads": 2,
            **self.variables,
        }

    def write(self):
        """Render and write the gateway's files."""
        constants = gateway.DIRECTORY, gateway.RUNTIME
        gateway.DIRECTORY, gateway.RUNTIME = str(self.directory), str(self.runtime)
        try:
            _settings, files, _report = gateway_input.read(self.raw(), "npu01", self.now, True)
        finally:
            gateway.DIRECTORY, gateway.RUNTIME = constants
        files["backends.map"] = f"chat {BACKEND_KEY}\n".encode()
        for name, content in files.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return files

    def __enter__(self):
        self.runtime.mkdir()
        self.write()
        (self.folder / "ca.pem").write_bytes(self.authority.certificate(self.now))
        self.start(self.command, self.folder / "engine.out")
        configuration = str(self.directory / "haproxy.cfg")
        self.master = gateway_live.Master(str(self.runtime / "master.sock"))
        self.haproxy = self.start([PROGRAM, "-Ws", "-f", configuration, "-S", f"{self.runtime}/master.sock,mode,600"], self.log)
        # The first answers may come before the engine is known to be healthy.
        try:
            until(self._answers, "an answer of the engine")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _answers(self):
        try:
            return self.ask("GET /v1/models")[0] == 200
        except OSError:
            return False

    def start(self, command, output):
        """Run a program in the background, its output in a file."""
        with open(output, "ab") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def __exit__(self, *_reason):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def reload(self):
        """What ExecReload does, and wait until the new worker runs."""
        before = self.master.processes()[0]
        self.haproxy.send_signal(signal.SIGUSR2)
        until(lambda: self._reloads() > before, "the reload")

    def _reloads(self):
        try:
            reloads, _failed, workers, _leaving = self.master.processes()
            return reloads if workers else -1
        except gateway_live.Unanswered:
            return -1

    def set_keys(self, **keys):
        """Change the keys of clients as the module does: in the file, and in all running processes."""
        self.keys.update(keys)
        wanted = gateway_live.parse_map(self.write()["keys.map"].decode())
        path = str(self.directory / "keys.map")
        _reloads, _failed, workers, leaving = self.master.processes()
        for worker in workers + leaving:
            self.master.change_map(worker, path, gateway_live.map_changes(wanted, self.master.read_map(worker, path)))

    def context(self, certificate=None):
        """TLS as a client uses it that trusts the authority, with its own certificate where it has one."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if certificate:
            path = self.folder / f"{certificate}.cert"
            if not path.exists():
                chain, key, _new = self.authority.issue(f"administrator-{certificate}", [], self.now, "client", certificate)
                path.write_bytes(chain + key)
            context.load_cert_chain(str(path))
        return context

    def connect(self, port=None, certificate=None, timeout=60):
        """A TLS connection to the gateway, whose patience for a request begins with it."""
        context = self.context(certificate)
        plain = socket.create_connection(("127.0.0.1", port or self.port), timeout=timeout)
        return context.wrap_socket(plain, server_hostname=NAME if not port else "127.0.0.1")

    def exchange(self, request, **options):
        """(status or None, everything that came back) for raw bytes on a connection of their own."""
        answer = b""
        with self.connect(**options) as connection:
            try:
                connection.sendall(request)
                while True:
                    part = connection.recv(65536)
                    if not part:
                        break
                    answer += part
            except (TimeoutError, ConnectionError, ssl.SSLError):
                pass
        status = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.") else ""
        return (int(status) if status.isdigit() else None), answer

    def ask(self, target, key="team-a", body=None, headers=(), **options):
        """exchange() for a well-formed request, ``METHOD PATH``; ``key`` names a secret, None sends none."""
        method, _blank, path = target.partition(" ")
        host = NAME if "port" not in options else "127.0.0.1"
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
        if key:
            lines.append(f"Authorization: Bearer {SECRETS.get(key, key)}")
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if body is not None:
            lines.append(f"Content-Length: {len(content)}")
        text = "\r\n".join([*lines, *headers]) + "\r\n\r\n"
        return self.exchange(text.encode("latin-1") + content, **options)

    def reached(self):
        """What reached the engine so far."""
        if not self.requests.exists():
            return []
        return [json.loads(line) for line in self.requests.read_text().splitlines()]

    def logged(self):
        """The lines of the gateway's log about requests."""
        return [line for line in self.log.read_text(errors="replace").splitlines() if " status=" in line]

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""An instance with an API for each of its engines: requests are balanced, and go where an engine is alive."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from site_gateway import Site, free_port, until


class Several(Site):
    """A gateway in front of two engines."""

    def __init__(self, folder):
        super().__init__(folder)
        self.ports = [self.backend_port, free_port()]
        self.logs = [self.requests, Path(folder) / "second.log"]

    def raw(self):
        raw = super().raw()
        raw["instances"][0]["backends"] = [{"address": "127.0.0.1", "port": port} for port in self.ports]
        return raw

    def second(self):
        """Start the second engine."""
        program = str(Path(__file__).with_name("engine.py"))
        return self.start([sys.executable, program, str(self.ports[1]), str(self.logs[1])], self.folder / "second.out")

    def answered(self):
        """Requests of clients that each engine got."""
        return [log.read_text().count('"GET /v1/models ') if log.exists() else 0 for log in self.logs]

    def health(self, number):
        """What a monitor hears about one of the engines."""
        return self.ask(f"GET /chat/{number}/health", key=None, port=self.metrics_port)[0]


@pytest.fixture(name="several", scope="module")
def running(tmp_path_factory):
    with Several(tmp_path_factory.mktemp("several")) as site:
        yield site


def test_requests_are_balanced_and_go_on_where_an_engine_dies(several):
    engine = several.second()
    until(lambda: several.health(1) == 200, "health of the second engine")
    # A monitor asks the engine itself; for clients the gateway has to have looked at it.
    until(lambda: several.ask("GET /v1/models")[0] == 200 and several.answered()[1], "a request to the second engine")
    before = several.answered()
    for _request in range(20):
        assert several.ask("GET /v1/models")[0] == 200
    assert min(after - earlier for earlier, after in zip(before, several.answered())) > 5
    engine.kill()
    engine.wait()
    for _request in range(20):
        assert several.ask("GET /v1/models")[0] == 200
    before = several.answered()
    until(lambda: several.health(1) == 503, "the end of the second engine")
    for _request in range(10):
        assert several.ask("GET /v1/models")[0] == 200
    assert several.answered()[1] == before[1] and several.health(0) == 200
    several.second()
    until(lambda: several.health(1) == 200, "health of the second engine")
    until(lambda: several.ask("GET /v1/models")[0] == 200 and several.answered()[1] > before[1], "a request to the second engine")


@pytest.mark.parametrize(
    ("target", "certificate", "status"),
    [
        ("GET /chat/metrics", None, 404),
        ("GET /chat/0/metrics", None, 200),
        ("GET /chat/2/metrics", None, 404),
        ("POST /chat/pause", "alice", 404),
        ("POST /chat/0/pause", "alice", 200),
        ("POST /chat/0/pause", "mallory", 403),
    ],
)
def test_metrics_and_changes_of_state_name_their_engine(several, target, certificate, status):
    body = b"" if target.startswith("POST") else None
    assert several.ask(target, key=None, port=several.metrics_port, certificate=certificate, body=body)[0] == status
    if status == 200:
        assert f"{target.split('/chat/0')[0]}{target.split('/chat/0')[1]} HTTP/1.1" in several.logs[0].read_text()

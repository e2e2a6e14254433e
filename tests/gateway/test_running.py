# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A gateway at work: who gets what, keys that end at once, streams that nothing interrupts, TLS as Mozilla's modern profile has it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading

import pytest
from site_gateway import DEADLINE, NAME, SECRETS, Site, until

STREAMS = 200


@pytest.mark.parametrize(
    ("target", "key", "status"),
    [
        ("GET /v1/models", None, 401),
        ("GET /v1/models", "not-a-key-of-anybody", 401),
        ("GET /v1/models", "expired-a", 401),
        ("GET /v1/models", "team-b", 403),
        ("GET /v1/models", "team-a", 200),
        ("GET /v1/models", "team-c", 200),
        ("POST /v1/completions", "team-c", 403),
        ("POST /v1/completions", "team-a", 200),
    ],
)
def test_a_key_opens_what_its_scope_says(site, target, key, status):
    assert site.ask(target, key=key, body={} if target.startswith("POST") else None)[0] == status


def test_an_engine_that_refuses_the_key_of_the_gateway_is_not_available(site):
    status, answer = site.ask("POST /v1/completions", body={"unauthorized": True})
    assert status == 503 and b'"gateway_error"' in answer
    until(lambda: "status=503 refused=engine" in site.logged()[-1], "the reason in the log")
    assert site.ask("POST /v1/completions", body={})[0] == 200


def test_a_rate_is_kept_and_says_when_to_come_back(site):
    answers = [site.ask("GET /v1/models", key="team-c") for _request in range(5)]
    assert answers[-1][0] == 429 and b"retry-after:" in answers[-1][1].lower()
    assert site.ask("GET /v1/models")[0] == 200


@pytest.mark.parametrize(
    ("target", "certificate", "status"),
    [
        ("GET /health", None, 200),
        ("GET /chat/metrics", None, 200),
        ("GET /chat/health", None, 200),
        ("GET /metrics", None, 404),
        ("GET /chat/docs", None, 404),
        ("GET /chat/v1/models", "alice", 404),
        ("POST /chat/pause", None, 403),
        ("POST /chat/pause", "mallory", 403),
        ("POST /chat/pause", "alice", 200),
        ("POST /chat/resume", "alice", 404),
    ],
)
def test_what_changes_state_needs_the_certificate_of_an_administrator(site, target, certificate, status):
    body = b"" if target.startswith("POST") else None
    assert site.ask(target, key=None, port=site.metrics_port, certificate=certificate, body=body)[0] == status


def test_a_revoked_key_ends_without_a_reload(site):
    site.set_keys(**{"team-a": ["team-a", "next-a"]})
    until(lambda: site.ask("GET /v1/models", key="next-a")[0] == 200, "the new key")
    reloads = site.master.processes()[0]
    site.set_keys(**{"team-a": ["team-a"]})
    assert site.ask("GET /v1/models", key="next-a")[0] == 401
    assert site.ask("GET /v1/models")[0] == 200
    assert site.master.processes()[0] == reloads


@pytest.fixture(name="strict", scope="module")
def with_low_limits(tmp_path_factory):
    limits = {"header_seconds": 5, "body_seconds": 15, "failures_per_minute": 3, "connections_per_address": 8}
    with Site(tmp_path_factory.mktemp("strict"), limits=limits) as site:
        yield site


def test_failures_from_an_address_are_answered_shorter_and_refuse_no_valid_key(strict):
    answers = [strict.ask("GET /v1/models", key="not-a-key-of-anybody")[0] for _request in range(6)]
    assert answers[:3] == [401] * 3 and answers[-1] == 429
    assert strict.ask("GET /v1/models")[0] == 200


def answers(site):
    """Whether a request is answered."""
    try:
        return site.ask("GET /v1/models")[0] == 200
    except OSError:
        return False


def test_an_address_has_its_share_of_connections_and_no_more(strict):
    silent = []

    def refused():
        # One that comes while a connection of before still counts is refused itself.
        silent.append(socket.create_connection(("127.0.0.1", strict.port), timeout=60))
        return len(silent) >= 8 and not answers(strict)

    until(refused, "an end of connections")
    for connection in silent:
        connection.close()
    until(lambda: answers(strict), "an answer after the connections have ended")


class Stream(threading.Thread):
    """One stream of events that are so far apart, as many as ``events`` says or until ``site.end`` is there. ``begun``, ``events_seen`` and ``whole`` say
    how it went."""

    def __init__(self, site, key, pause, events=None):
        super().__init__(daemon=True)
        self.site, self.key = site, key
        self.asked = {"stream": True, "pause": pause, **({"until": str(site.end)} if events is None else {"events": events})}
        self.begun, self.events_seen, self.whole = threading.Event(), [], False

    def run(self):
        body = json.dumps(self.asked)
        request = f"POST /v1/completions HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: Bearer {SECRETS[self.key]}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        with self.site.connect(timeout=120) as connection:
            connection.sendall(request.encode())
            received = b""
            while b"\r\n0\r\n\r\n" not in received[-64:]:
                part = connection.recv(65536)
                if not part:
                    return
                received += part
                if b"data: 0\n" in received:
                    self.begun.set()
            self.events_seen = [int(number) for number in re.findall(rb"data: (\d+)\n", received)]
            self.whole = self.events_seen == list(range(len(self.events_seen)))


def end(site, streams):
    """End streams that wait for that, and take that back for the next ones."""
    site.end.touch()
    for stream in streams:
        stream.join(DEADLINE)
    site.end.unlink()


def test_streams_live_through_rotation_renewal_and_reload(site):
    """200 streams; meanwhile their key is replaced, the certificate is renewed and the configuration is reloaded, three times over."""
    streams = [Stream(site, "team-a", 0.5) for _stream in range(STREAMS)]
    for stream in streams:  # one after the other: the gateway waits only so long for a request
        stream.start()
        assert stream.begun.wait(DEADLINE), "a stream did not begin"
    serials = set()
    for _turn in range(3):
        (site.folder / "ca" / "npu01.pem").unlink()
        serials.add(site.write()["certificates/npu01.pem"])
        site.set_keys(**{"team-a": ["team-a", "next-a"]})
        assert site.ask("GET /v1/models", key="next-a")[0] == 200
        site.set_keys(**{"team-a": ["next-a"]})
        assert site.ask("GET /v1/models", key="team-a")[0] == 401
        site.reload()
        until(lambda: site.ask("GET /v1/models", key="next-a")[0] == 200, "an answer after the reload")
        site.set_keys(**{"team-a": ["team-a"]})
    assert len(serials) == 3 and all(stream.is_alive() for stream in streams), "a stream ended before the changes did"
    end(site, streams)
    assert [stream for stream in streams if not stream.whole] == []


def test_a_stream_is_not_buffered(site):
    stream = Stream(site, "team-a", 3600)
    stream.start()
    assert stream.begun.wait(DEADLINE), "the first event waits for the next one"
    end(site, [stream])
    assert stream.whole and len(stream.events_seen) == 1


def test_a_stream_pauses_for_longer_than_a_request_may_take_to_arrive(site):
    stream = Stream(site, "team-a", 6, events=2)
    stream.start()
    stream.join(DEADLINE)
    assert stream.whole and len(stream.events_seen) == 2


def test_tls_is_what_mozilla_calls_modern(site):
    sslyze = [sys.executable, "-m", "sslyze", "--mozilla_config", "modern", "--certinfo_ca_file", str(site.folder / "ca.pem")]
    for port in (site.port, site.metrics_port):
        judged = subprocess.run([*sslyze, f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=1800, check=False)
        assert judged.returncode == 0 and "OK - Compliant" in judged.stdout, judged.stdout[-2000:]


def test_the_page_of_a_dead_engine_comes_from_the_gateway(site):
    engine = site.processes[0]
    engine.terminate()
    engine.wait(DEADLINE)
    status, answer = until(lambda: next(iter([pair for pair in [site.ask("GET /v1/models")] if pair[0] in (502, 503)]), None), "an error")
    assert b'"gateway_error"' in answer and status in (502, 503)

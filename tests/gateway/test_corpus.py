# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Malformed requests, attempts at request smuggling, tricks with paths and hosts: none of them reaches the engine.

Every case carries a valid key, so that nothing but its own fault keeps it out.
"""

from __future__ import annotations

import socket

import pytest
from site_gateway import NAME, SECRETS, until

KEY = f"Authorization: Bearer {SECRETS['team-a']}"
SMUGGLED = "GET /v1/models HTTP/1.1\r\nHost: smuggled\r\n\r\n"


def get(path="/v1/models", *headers, line=None, host=f"Host: {NAME}"):
    """A GET with further header lines."""
    return "\r\n".join([line or f"GET {path} HTTP/1.1", *([host] if host else []), KEY, "Connection: close", *headers, "", ""])


def post(*headers, body="{}", path="/v1/completions"):
    """A POST with header lines of its own choice."""
    return "\r\n".join([f"POST {path} HTTP/1.1", f"Host: {NAME}", KEY, "Connection: close", "Content-Type: application/json", *headers, "", body])


LENGTH = f"Content-Length: {len(SMUGGLED)}"
CHUNKED = f"0\r\n\r\n{SMUGGLED}"

SMUGGLING = {
    "length and chunked": post("Content-Length: 4", "Transfer-Encoding: chunked", body=CHUNKED),
    "chunked and length": post("Transfer-Encoding: chunked", "Content-Length: 4", body=CHUNKED),
    "chunked alone": post("Transfer-Encoding: chunked", body=CHUNKED),
    "unknown coding": post(LENGTH, "Transfer-Encoding: xchunked", body=SMUGGLED),
    "identity coding": post(LENGTH, "Transfer-Encoding: identity", body=SMUGGLED),
    "two codings": post("Transfer-Encoding: chunked", "Transfer-Encoding: identity", body=CHUNKED),
    "list of codings": post("Transfer-Encoding: identity, chunked", body=CHUNKED),
    "chunked not last": post("Transfer-Encoding: chunked, identity", body=CHUNKED),
    "blank before the colon": post("Content-Length: 4", "Transfer-Encoding : chunked", body=CHUNKED),
    "tab before the coding": post("Content-Length: 4", "Transfer-Encoding:\tchunked", body=CHUNKED),
    "vertical tab in the coding": post("Content-Length: 4", "Transfer-Encoding: \x0bchunked", body=CHUNKED),
    "quoted coding": post("Content-Length: 4", 'Transfer-Encoding: "chunked"', body=CHUNKED),
    "folded coding": post("Content-Length: 4", "Transfer-Encoding:\r\n chunked", body=CHUNKED),
    "upper case coding": post("Content-Length: 4", "TRANSFER-ENCODING: CHUNKED", body=CHUNKED),
    "underscore": post("Transfer_Encoding: chunked", "Transfer-Encoding: chunked", body=CHUNKED),
    "two lengths": post("Content-Length: 2", LENGTH, body="{}" + SMUGGLED),
    "signed length": post("Content-Length: +2"),
    "negative length": post("Content-Length: -2"),
    "hexadecimal length": post("Content-Length: 0x2"),
    "length with a blank": post("Content-Length: 1 0", body="{}" + SMUGGLED),
    "empty length": post("Content-Length: ", body="{}" + SMUGGLED),
    "length beyond 64 bits": post("Content-Length: 18446744073709551618"),
    "no length": post(),
    "chunk size overflow": post("Transfer-Encoding: chunked", body="10000000000000002\r\n{}\r\n0\r\n\r\n"),
    "chunk extension with a line break": post("Transfer-Encoding: chunked", body="2;a=\n\r\n{}\r\n0\r\n\r\n"),
    "body of a GET": get("/v1/models", LENGTH) + SMUGGLED,
    "length in a trailer": post("Transfer-Encoding: chunked", "Trailer: Content-Length", body="0\r\nContent-Length: 9\r\n\r\n"),
}
MALFORMED = {
    "blank in a header's name": get("/v1/models", "X Y: 1"),
    "no colon": get("/v1/models", "X-Nothing"),
    "zero byte in a header": get("/v1/models", "X-Zero: a\x00b"),
    "zero byte in the path": get("/v1/models\x00"),
    "control character in a name": get("/v1/models", "X\x01Y: 1"),
    "carriage return in a value": get("/v1/models", "X-Return: a\rb"),
    "header begins with a colon": get("/v1/models", ": 1"),
    "version 0.9": f"GET /v1/models\r\n{KEY}\r\n\r\n",
    "version 2.0": get(line="GET /v1/models HTTP/2.0"),
    "version 3.7": get(line="GET /v1/models HTTP/3.7"),
    "version without digits": get(line="GET /v1/models HTTP/x.y"),
    "preface of HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "blank in the path": get(line="GET /v1/mod els HTTP/1.1"),
    "lower-case method": get(line="get /v1/models HTTP/1.1"),
    "unknown method": get(line="BREW /v1/models HTTP/1.1"),
    "method of symbols": get(line="G@T /v1/models HTTP/1.1"),
    "CONNECT": get(line="CONNECT 127.0.0.1:22 HTTP/1.1"),
    "TRACE": get(line="TRACE /v1/models HTTP/1.1"),
    "OPTIONS": get(line="OPTIONS /v1/models HTTP/1.1"),
    "asterisk": get(line="OPTIONS * HTTP/1.1"),
    "HEAD": get(line="HEAD /v1/models HTTP/1.1"),
    "another host in the target": get(line="GET http://other.example.com/v1/models HTTP/1.1"),
    "user in the target": get(line=f"GET http://user@{NAME}/v1/models HTTP/1.1"),
    "another scheme": get(line="GET file:///v1/models HTTP/1.1"),
    "websocket": get("/v1/models", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "HTTP/2 without TLS": get("/v1/models", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
    "path of 70 kB": get("/v1/models?" + "a" * 70000),
    "header of 70 kB": get("/v1/models", "X-Long: " + "a" * 70000),
    "headers of 9 kB": get("/v1/models", "X-Long: " + "a" * 9000),
    "bytes beyond ASCII that are written six times as long": get("/v1/models", "X-Long: " + "\xe9" * 7900),
    "two hundred headers": get("/v1/models", *(f"X-{number}: 1" for number in range(200))),
    "not HTTP at all": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "body of 300 kB": post("Content-Length: 300000", body="x" * 300000),
    "two credentials": get("/v1/models", KEY),
    "credential without scheme": f"GET /v1/models HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: {SECRETS['team-a']}\r\n\r\n",
    "basic credential": f"GET /v1/models HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: Basic dGVhbS1hOng=\r\n\r\n",
    "credential in the query": f"GET /v1/models?api_key={SECRETS['team-a']} HTTP/1.1\r\nHost: {NAME}\r\n\r\n",
    "credential in another header": f"GET /v1/models HTTP/1.1\r\nHost: {NAME}\r\nX-Api-Key: {SECRETS['team-a']}\r\n\r\n",
}
PATHS = {
    path: get(path)
    for path in (
        "//v1/models", "/v1//models", "/./v1/models", "/v1/./models", "/x/../v1/models", "/v1/models/", "/v1/models/.", "/v1/models/..", "/V1/models",
        "/v1/%6dodels", "/%76%31/models", "/v1%2fmodels", "/v1/%2e/models", "/%2e%2e/v1/models", "/v1/models%00", "/v1/models%20", "/v1/models%0d%0aX:1",
        "/v1/models;", "/v1/models;a=b", "/v1;a/models", "/v1/models?", "/v1/models?a", "/v1/models#a", "/v1\\models", "\\v1\\models", "/v1/models%3f",
        "/v1/models/../../invocations", "/invocations", "/metrics", "/health", "/docs", "/openapi.json", "/", "*", "v1/models", "/v1/models%ff",
        "/v1/models\xff", "/v1/mod\u00e9ls", "/chat/metrics", "/v1/completions",
    )
}
HOSTS = {
    f"{host!r}": get(host=f"Host: {host}")
    for host in (
        "", "a/?", "a#", "localhost/x?", f"{NAME}/?", f"{NAME}#", f"{NAME}.", f"user@{NAME}", f"{NAME}:1", f"{NAME}:7443:1", f"{NAME},evil", f"{NAME} evil",
        "127.0.0.1:1", "localhost", "[::1]", "engine", "10.77.1.11", f"x.{NAME}", "chat", "*", "\xe9", f"{NAME}\t",
    )
}
HOSTS["none"] = get(host=None)
HOSTS["two, the second another"] = get("/v1/models", "Host: evil")
HOSTS["blank before the colon"] = get(host=f"Host : {NAME}")
# A trailing tab or blank is no part of a header's value (RFC 9112, 5.1): that request is well-formed.
del HOSTS[f"{NAME + chr(9)!r}"]

# What HTTP lets a gateway mend, and HAProxy does: RFC 9110, 8.6 (equal lengths), RFC 9112, 3 and 5.2 (blanks in the request line, folded lines).
MENDED = {
    "folded length": post("Content-Length:\r\n 4", body="{}  "),
    "two equal lengths": post("Content-Length: 2", "Content-Length: 2"),
    "list of equal lengths": post("Content-Length: 2, 2"),
    "two blanks in the request line": get(line="GET  /v1/models HTTP/1.1"),
    "tab in the request line": get(line="GET\t/v1/models\tHTTP/1.1"),
    "two equal hosts": get("/v1/models", f"Host: {NAME}"),
}
KINDS = {"smuggling": SMUGGLING, "malformed": MALFORMED, "path": PATHS, "host": HOSTS}
CASES = {f"{kind}: {name}": text for kind, cases in KINDS.items() for name, text in cases.items()}


@pytest.mark.parametrize("name", CASES)
def test_nothing_of_it_reaches_the_engine(site, name):
    reached, logged = len(site.reached()), len(site.logged())
    status, answer = site.exchange(CASES[name].encode("latin-1"), timeout=5)
    assert site.reached()[reached:] == []
    assert status is None or 400 <= status < 500, answer[:200]
    assert SECRETS["team-a"].encode() not in answer
    until(lambda: len(site.logged()) > logged, "a line in the log")
    assert site.ask("GET /v1/models")[0] == 200


@pytest.mark.parametrize("name", MENDED)
def test_what_http_lets_a_gateway_mend_arrives_as_one_plain_request(site, name):
    reached = len(site.reached())
    assert site.exchange(MENDED[name].encode("latin-1"))[0] == 200
    (entry,) = site.reached()[reached:]
    assert entry["headers"]["host"] == "engine" and entry["line"] in ("GET /v1/models HTTP/1.1", "POST /v1/completions HTTP/1.1")
    assert int(entry["headers"].get("content-length", 0)) == len(entry["body"])


def test_what_follows_a_request_on_its_connection_is_a_request_of_its_own(site):
    reached = len(site.reached())
    first = get("/v1/models").replace("Connection: close\r\n", "")
    second = get("/v1/models")
    _status, answer = site.exchange((first + "GET /invocations HTTP/1.1\r\nHost: x\r\n\r\n" + second).encode("latin-1"))
    assert answer.count(b"HTTP/1.1 200") <= 2 and b"HTTP/1.1 421" in answer
    assert {entry.get("line") for entry in site.reached()[reached:]} == {"GET /v1/models HTTP/1.1"}


@pytest.mark.parametrize("length", ["2147483650", "4294967298", "9223372036854775807", "0000000002"])
@pytest.mark.parametrize("target", ["POST /v1/completions", "GET /v1/models", "GET /chat/metrics"])
def test_a_length_of_more_than_32_bits_is_no_small_one(site, target, length):
    port = site.metrics_port if "metrics" in target else site.port
    host = "127.0.0.1" if "metrics" in target else NAME
    text = "\r\n".join([f"{target} HTTP/1.1", f"Host: {host}", KEY, f"Content-Length: {length}", "", "{}"])
    assert site.exchange(text.encode(), port=port)[0] == 413


@pytest.mark.parametrize(
    "pieces",
    [[b"GET /v1/models HTTP/1.1\r\n", b"X-Slow: "], [post("Content-Length: 100", body="{").encode("latin-1")]],
    ids=["headers", "body"],
)
def test_a_slow_sender_is_cut_off(site, pieces):
    reached = len(site.reached())
    with site.connect() as connection:
        for piece in pieces:
            connection.sendall(piece)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408")
    assert site.reached()[reached:] == []


def test_a_connection_that_says_nothing_is_cut_off(site):
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as connection:
        assert connection.recv(1) == b""


def test_the_engine_gets_the_request_in_our_words(site):
    reached = len(site.reached())
    headers = ["X-Forwarded-For: 10.0.0.1", "Forwarded: for=1", "Cookie: a=b", "X-Request-Id: mine", "Via: 1.1 x", "Origin: https://evil.example.com"]
    status, answer = site.ask("POST /v1/completions", body={"prompt": "x"}, headers=headers)
    assert status == 200
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"access-control" not in head and b"server:" not in head and b"strict-transport-security" in head
    (entry,) = site.reached()[reached:]
    assert entry["line"] == "POST /v1/completions HTTP/1.1"
    assert entry["headers"]["host"] == "engine" and entry["headers"]["authorization"] == "Bearer key-of-the-engine"
    assert entry["headers"]["x-request-id"] != "mine"
    assert not {"x-forwarded-for", "forwarded", "cookie", "via"} & set(entry["headers"])


def test_the_log_holds_no_secret_and_no_content(site):
    site.ask("POST /v1/completions", body={"prompt": "tell-nobody"})
    site.ask("GET /v1/models?tell=tell-nobody")
    until(lambda: site.logged()[-1:], "the log")
    text = site.log.read_text(errors="replace")
    assert "tell-nobody" not in text and not any(secret in text for secret in SECRETS.values())
    assert "client=team-a key=team-a" in text

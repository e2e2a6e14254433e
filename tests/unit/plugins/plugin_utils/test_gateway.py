# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The gateway's configuration as text: what is bound where, who gets what, and bounds that cannot be spelled around."""

from __future__ import annotations

import json
import random
import re

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import gateway

INSTANCE = {
    "name": "chat",
    "addresses": ["10.77.1.11", "fd00:77:1::11"],
    "port": 7443,
    "backends": [{"address": "127.0.0.1", "port": 17443}, {"address": "::1", "port": 17453}],
    "server_names": ["chat.example.com"],
    "endpoints": ["GET /v1/models", "POST /v1/completions"],
}
METRICS = {"addresses": ["10.77.0.11"], "port": 7444}
SETTINGS = {"instances": [INSTANCE], "metrics": METRICS}


def section(name, **changes):
    """The lines of one section, stripped."""
    text = gateway.configuration({**SETTINGS, **changes})
    found, inside = [], False
    for line in text.splitlines():
        if not line.startswith(" "):
            inside = line == name
        elif inside:
            found.append(line.strip())
    assert found, f"no section {name}"
    return found


def position(lines, part):
    return next(number for number, line in enumerate(lines) if part in line)


def test_every_listener_speaks_tls_at_an_explicit_address():
    text = gateway.configuration(SETTINGS)
    binds = [line.split() for line in text.splitlines() if line.strip().startswith("bind ")]
    assert [words[1] for words in binds] == ["10.77.1.11:7443", "[fd00:77:1::11]:7443", "10.77.0.11:7444"]
    assert all("ssl" in words and words[words.index("alpn") + 1] == "http/1.1" for words in binds)
    assert "ssl-min-ver TLSv1.3" in text and "no-tls-tickets" in text


def test_a_request_is_judged_before_it_is_counted_and_its_body_is_read():
    lines = section("frontend chat")
    order = ["str(host)", "str(endpoint)", "if too_long", "str(key)", "str(scope)", "str(rate)", "wait-for-body", "set-uri", "default_backend"]
    places = [position(lines, part) for part in order]
    assert places == sorted(places)


def test_only_the_names_and_addresses_of_the_instance_are_hosts():
    (line,) = [line for line in section("frontend chat") if line.startswith("acl known_host")]
    assert line.split("-m str ")[1].split() == [
        "chat.example.com", "chat.example.com:7443", "10.77.1.11", "10.77.1.11:7443", "[fd00:77:1::11]", "[fd00:77:1::11]:7443",
    ]


def test_the_engine_sees_our_host_and_key_and_nothing_that_a_client_says_of_itself():
    lines = section("frontend chat")
    for header in ("authorization", "forwarded", "x-real-ip", "cookie"):
        assert position(lines, f"del-header {header}") < position(lines, "set-header Authorization")
    assert any("del-header x-forwarded- -m beg" in line for line in lines)
    assert "http-request set-header Host engine" in lines


def test_no_acl_has_a_comment_in_it():
    assert not any("#" in re.sub(r"([\"']).*?\1", "", line) for line in section("frontend chat"))


@pytest.mark.parametrize("number", [1, 16, 64])
def test_the_unit_may_open_as_many_files_as_the_configuration_takes_connections(number):
    settings = {**SETTINGS, "instances": [{**INSTANCE, "name": f"chat{index}"} for index in range(number)]}
    connections = int(re.search(r"maxconn (\d+)", gateway.configuration(settings)).group(1))
    files = gateway.descriptors(settings)
    assert files >= 2 * connections + 1024
    assert f"LimitNOFILE={files}" in gateway.unit([], open_files=files).splitlines()


def test_backends_are_balanced_and_asked_for_their_health():
    lines = section("backend chat")
    assert "server chat-0 127.0.0.1:17443" in lines and "server chat-1 [::1]:17453" in lines
    assert "balance leastconn" in lines and "option httpchk" in lines


def test_the_log_has_no_header_query_or_body():
    (line,) = [line for line in section("defaults") if line.startswith("log-format")]
    assert not re.search(r"%r|%HU|%HQ|%hr|req\.|capture|body|query|url", line)


def test_without_administrators_nobody_is_asked_for_a_certificate_and_nothing_changes_state():
    lines = section("frontend gateway_management")
    assert not any("verify" in line or "ssl_c" in line or "change_" in line for line in lines)
    assert any('"GET /chat/0/metrics" "GET /chat/0/health"' in line for line in lines)


def test_what_changes_state_needs_a_certificate_by_name():
    lines = section("frontend gateway_management", administrators=["alice"], management_endpoints=["POST /pause"])
    assert any("verify optional" in line for line in lines if line.startswith("bind"))
    assert any(line.startswith("acl change_chat_1") and '"POST /chat/1/pause"' in line for line in lines)
    refusals = [position(lines, f"return status 403 content-type application/json string '{{\"error\":{{\"message\":\"{text}") for text in ("This needs",)]
    assert refusals[0] < position(lines, "use_backend chat_0_management")


def test_a_monitor_names_the_engine_where_an_instance_has_several():
    (lines,) = [section(f"backend chat_{number}_management") for number in (1,)]
    assert "server chat-1 [::1]:17453 track chat/chat-1" in lines and "http-request set-path /%[path,field(4,/,0)]" in lines
    alone = section("backend chat_management", instances=[{**INSTANCE, "backends": INSTANCE["backends"][:1]}])
    assert "server chat-0 127.0.0.1:17443 track chat/chat-0" in alone and "http-request set-path /%[path,field(3,/,0)]" in alone


def test_scopes_and_keys_hold_what_each_client_may():
    clients = [
        {"name": "a", "instances": ["chat"], "rate": 6, "concurrency": 2, "keys": [{"id": "k", "sha256": "ab" * 32, "expires": 7}]},
        {"name": "b", "instances": ["chat"], "endpoints": ["GET /v1/models"], "rate": 6, "concurrency": 2, "keys": []},
        {"name": "c", "instances": ["code"], "rate": 6, "concurrency": 2, "keys": []},
    ]
    assert gateway.scopes(clients, [INSTANCE]).splitlines() == [
        "a chat GET /v1/models", "a chat POST /v1/completions", "b chat GET /v1/models",
    ]
    assert gateway.key_map(clients) == f"{'ab' * 32} a:k:7:6:2\n"


def test_the_unit_drops_packets_of_everybody_else():
    lines = gateway.unit(["10.77.1.128/25", "10.77.0.9/32", "fd00:77:1::/64", "127.0.0.1", "::1"]).splitlines()
    assert "IPAddressDeny=any" in lines
    assert "IPAddressAllow=localhost 10.77.0.9/32 10.77.1.128/25 fd00:77:1::/64" in lines
    assert "CapabilityBoundingSet=" in lines and "User=vllm-gateway" in lines


@pytest.mark.parametrize("bound", [0, 1, 7, 8, 9, 10, 19, 64, 99, 100, 128, 999, 1000, 4096, 10203])
def test_a_bound_is_exact(bound):
    pattern = re.compile(gateway.at_most(bound))
    for number in {*range(130), bound - 1, bound, bound + 1, 10 * bound, 10 * bound + 9, 12345, 99999}:
        assert bool(pattern.fullmatch(str(number))) == (0 <= number <= bound), number


def spelled(rng, text):
    """A JSON string for ``text`` in which some letters are escapes."""
    return '"' + "".join(f"\\u{ord(letter):04x}" if rng.random() < 0.5 else letter for letter in text) + '"'


def test_no_spelling_of_a_key_brings_a_larger_number_to_python():
    rng = random.Random(6)
    pattern = re.compile(gateway.exceeding("n", 8))
    values = ["1", "8", "9", "10", "08", "1e1", "9.0", "8.0", "-1", '"9"', "null", "true", "[]", "{}", "80", "8.5"]
    for _round in range(3000):
        members = [(rng.choice(["n", "n", "m", "nn"]), rng.choice(values)) for _member in range(rng.randint(1, 4))]
        blank = rng.choice(["", " ", "\n\t "])
        body = "{" + ",".join(f"{blank}{spelled(rng, key)}{blank}:{blank}{value}{blank}" for key, value in members) + "}"
        try:
            asked = json.loads(body).get("n")
        except ValueError:
            continue
        if pattern.search(body):
            assert any(key == "n" for key, _value in members), body
        else:
            assert asked is None or isinstance(asked, (list, dict)) or 0 <= asked <= 8, body


@pytest.mark.parametrize(
    "body",
    [
        '{"n": 1}', '{"n":8}', '{"n":8.0 ,"x":1}', '{"n":null}', '{"nn":99}', '{"x":"\\"n\\": 99"}',
        '{"tools":{"n":{"type":"integer"}}}',
    ],
)
def test_what_is_within_bounds_passes(body):
    json.loads(body)
    assert not re.search(gateway.exceeding("n", 8), body)

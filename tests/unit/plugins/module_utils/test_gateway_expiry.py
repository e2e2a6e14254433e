# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""When certificates and keys of the gateway end, and what is said about it."""

from __future__ import annotations

import base64
import calendar

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import gateway_expiry

NOW, DAY = calendar.timegm((2027, 1, 1, 0, 0, 0)), 86400


def der(tag, *parts):
    """One DER element."""
    body = b"".join(parts)
    size = bytes([len(body)]) if len(body) < 128 else bytes([0x82]) + len(body).to_bytes(2, "big")
    return bytes([tag]) + size + body


def certificate(ends, tag=0x17, version=True, padding=0):
    """A certificate of RFC 5280's outer form that ends at an ASN.1 time, as PEM."""
    validity = der(0x30, der(0x17, b"260101000000Z"), der(tag, ends.encode()))
    tbs = [der(0xA0, der(2, b"\x02"))] if version else []
    tbs += [der(2, b"\x01"), der(0x30), der(0x30, b"\x05" * padding), validity, der(0x30)]
    body = der(0x30, der(0x30, *tbs), der(0x30), der(3, b"\0"))
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(body) + b"-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("pem", "ends"),
    [
        (certificate("270101000000Z"), NOW),
        (certificate("270101000000Z", version=False, padding=300), NOW),
        (certificate("20270101000000Z", tag=0x18), NOW),
        (certificate("491231235959Z"), calendar.timegm((2049, 12, 31, 23, 59, 59))),
        (certificate("500101000000Z"), calendar.timegm((1950, 1, 1, 0, 0, 0))),
        (certificate("280101000000Z") + certificate("270101000000Z"), NOW),
        (certificate("270101000000Z") + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", NOW),
    ],
)
def test_the_end_is_that_of_the_first_certificate_of_a_chain_to_expire(pem, ends):
    assert gateway_expiry.first_end(pem) == ends


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", certificate("270101000000Z", tag=0x04)])
def test_what_is_no_certificate_is_an_error_and_no_traceback(pem):
    with pytest.raises(ValueError):
        gateway_expiry.first_end(pem)


def test_keys_are_read_without_their_sums():
    text = f"{'a' * 64} team-a:one:1800000000:600:32\n{'b' * 64} team-a:two:1900000000:600:32\n\n"
    assert gateway_expiry.key_ends(text) == {("team-a", "one"): 1800000000, ("team-a", "two"): 1900000000}


def test_what_ends_soon_is_a_warning_and_what_has_ended_an_error():
    lines, broken = gateway_expiry.judge({"a.pem": NOW + 3 * DAY}, {("team-a", "one"): NOW - 5}, NOW, 14)
    assert lines == [
        (4, "certificate a.pem expires at 2027-01-04T00:00:00Z, in 3 days"),
        (3, "key one, the last one of client team-a, expired at 2026-12-31T23:59:55Z"),
    ]
    assert not broken
    assert gateway_expiry.judge({"a.pem": NOW}, {}, NOW, 14)[1] and gateway_expiry.judge({"a.pem": "it holds no certificate"}, {}, NOW, 14)[1]


def test_a_key_whose_successor_is_there_ends_quietly():
    lines, broken = gateway_expiry.judge({"a.pem": NOW + 90 * DAY}, {("team-a", "one"): NOW + DAY, ("team-a", "two"): NOW + 90 * DAY}, NOW, 14)
    assert (lines, broken) == ([(6, "1 certificates and 2 keys: none ends within 14 days")], False)


def test_the_program_writes_metrics_and_says_what_it_found(tmp_path, capsys):
    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates" / "npu01.pem").write_bytes(certificate("200101000000Z"))
    (tmp_path / "certificates" / "broken.pem").write_bytes(b"nothing")
    (tmp_path / "administrators.pem").write_bytes(certificate("491231235959Z"))
    (tmp_path / "keys.map").write_text(f"{'a' * 64} team-a:one:4102444800:600:32\n")
    output = tmp_path / "expiry.prom"
    assert gateway_expiry.main(str(tmp_path), "14", str(output)) == 1
    text = output.read_text()
    assert 'vllm_gateway_certificate_end_seconds{file="certificates/npu01.pem"} 1577836800\n' in text
    assert 'vllm_gateway_certificate_end_seconds{file="certificates/broken.pem"} 0\n' in text
    assert 'vllm_gateway_certificate_end_seconds{file="administrators.pem"} 2524607999\n' in text
    assert 'vllm_gateway_key_end_seconds{client="team-a",key="one"} 4102444800\n' in text
    assert "a" * 64 not in text
    assert capsys.readouterr().out.splitlines() == [
        "<3>certificate certificates/broken.pem cannot be read: it holds no certificate",
        "<3>certificate certificates/npu01.pem expired at 2020-01-01T00:00:00Z",
    ]

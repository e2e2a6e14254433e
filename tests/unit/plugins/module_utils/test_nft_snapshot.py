# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Canonical sets in words, and fingerprints."""

from __future__ import annotations

import ipaddress

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_snapshot import elements_text, fingerprint

INTERVAL, END = 0x4, 0x1


def interval_set(*bounds, key_type=7):
    """Pairs of an address and whether it is the end of an interval."""
    return {"key_type": key_type, "flags": INTERVAL, "elements": [
        {"key": ipaddress.ip_address(address).packed, "flags": END if end else 0} for address, end in bounds]}


@pytest.mark.parametrize("bounds, texts", [
    ((("0.0.0.0", True), ("10.77.2.11", False), ("10.77.2.12", True)), ["10.77.2.11"]),
    ((("10.77.2.0", False), ("10.77.3.0", True)), ["10.77.2.0/24"]),
    ((("10.77.2.11", False), ("10.77.2.12", True), ("10.77.2.12", False), ("10.77.2.13", True)), ["10.77.2.11", "10.77.2.12"]),
    ((("10.77.2.1", False), ("10.77.2.9", True)), ["10.77.2.1-10.77.2.8"]),
    ((("255.255.255.0", False),), ["255.255.255.0/24"]),
    ((("0.0.0.0", False),), ["0.0.0.0/0"]),
])
def test_intervals_become_addresses_networks_and_ranges(bounds, texts):
    assert elements_text(interval_set(*bounds)) == texts


def test_intervals_of_the_other_family():
    assert elements_text(interval_set(("fd00:77::", False), ("fd00:77:0:1::", True), key_type=8)) == ["fd00:77::/64"]


def test_plain_sets_and_foreign_types():
    assert elements_text({"key_type": 7, "flags": 0, "elements": [{"key": b"\x0aM\x02\x0b", "flags": 0}]}) == ["10.77.2.11"]
    assert elements_text({"key_type": 13, "flags": 0, "elements": [{"key": b"\x00\x16", "flags": 0}]}) == ['{"flags": 0, "key": {"hex": "0016"}}']


def test_fingerprints_tell_tables_apart():
    one, other = {"chains": {"input": {"rules": [b"\x01"]}}}, {"chains": {"input": {"rules": [b"\x02"]}}}
    assert fingerprint(one) == fingerprint(dict(one)) != fingerprint(other)
    assert fingerprint(None) == ""

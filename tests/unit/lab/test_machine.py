# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""On which machines a lab is refused."""
from __future__ import annotations

import collections

import pytest

from ansible_collections.vllm_mindspore.hardening.tests.lab import machine
from ansible_collections.vllm_mindspore.hardening.tests.lab.topology import Refusal


@pytest.mark.parametrize(
    ("release", "carried"),
    [
        ({"ID": "debian", "VERSION_ID": "12"}, True),
        ({"ID": "debian", "VERSION_ID": "11"}, False),
        ({"ID": "debian"}, True),
        ({"ID": "ubuntu", "VERSION_ID": "24.04", "ID_LIKE": "debian"}, True),
        ({"ID": "ubuntu", "VERSION_ID": "22.04", "ID_LIKE": "debian"}, False),
        ({"ID": "linuxmint", "VERSION_ID": "22", "ID_LIKE": "ubuntu debian"}, True),
        ({"ID": "openEuler", "VERSION_ID": "24.03"}, False),
        ({}, False),
    ],
)
def test_a_distribution_that_is_too_old_or_another_one_is_refused(release, carried):
    assert machine.carries(release) is carried


def test_a_user_who_is_not_root_is_refused(monkeypatch):
    monkeypatch.setattr(machine.os, "geteuid", lambda: 1000)
    with pytest.raises(Refusal, match="sudo"):
        machine.demand()


def test_a_full_disk_is_refused_with_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine, "carries", lambda release: True)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: collections.namedtuple("Usage", "free")(3 * 2**30))
    with pytest.raises(Refusal, match="3.0 GiB free, 10 needed; .*LAB_CACHE"):
        machine.demand(free_gib=10)

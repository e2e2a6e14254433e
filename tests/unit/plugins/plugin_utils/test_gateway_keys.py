# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The store of client keys on the controller: what is made, what two keys at once mean, what is taken away."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import gateway_keys
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.gateway_tls import Unusable

NOW = datetime.datetime(2027, 1, 1, tzinfo=datetime.timezone.utc)
LATER = NOW + datetime.timedelta(hours=1)


@pytest.fixture(name="store")
def made(tmp_path):
    return gateway_keys.KeyStore(str(tmp_path / "keys"))


def held(store):
    """The keys in the file of the client."""
    return json.loads((Path(store.directory) / "team-a.json").read_text())["keys"]


def test_a_first_key_is_made_once_and_private(store):
    (key,), new = store.keys("team-a", NOW)
    assert new and not store.keys("team-a", LATER)[1]
    assert Path(store.directory).stat().st_mode & 0o777 == 0o700 and (Path(store.directory) / "team-a.json").stat().st_mode & 0o077 == 0
    assert key["sha256"] == gateway_keys.digest(held(store)[0]["secret"]) and "secret" not in key


def test_two_keys_are_valid_at_once_and_not_three(store):
    store.keys("team-a", NOW)
    second = store.add("team-a", LATER)
    assert [key["id"] for key in store.keys("team-a", LATER)[0]] == ["20270101", second]
    with pytest.raises(Unusable, match="two valid keys"):
        store.add("team-a", LATER)


def test_the_only_key_is_not_retired_but_revoked_with_another_in_its_place(store):
    store.keys("team-a", NOW)
    with pytest.raises(Unusable, match="no other key"):
        store.retire("team-a", "20270101")
    before = held(store)[0]["secret"]
    another = store.revoke("team-a", "20270101", LATER)
    assert [key["id"] for key in held(store)] == [another] and held(store)[0]["secret"] != before


def test_of_two_keys_the_other_one_stays(store):
    store.keys("team-a", NOW)
    second = store.add("team-a", LATER)
    assert store.revoke("team-a", second, LATER) is None
    assert [key["id"] for key in held(store)] == ["20270101"]


def test_an_expired_key_does_not_count_as_one_that_is_left(store):
    store.keys("team-a", NOW)
    second = store.add("team-a", LATER)
    late = NOW + datetime.timedelta(days=gateway_keys.KEY_DAYS)
    assert store.revoke("team-a", second, late) is not None


def test_what_is_not_there_is_not_revoked_and_said(store):
    store.keys("team-a", NOW)
    with pytest.raises(Unusable, match="no key other of team-a, but 20270101"):
        store.revoke("team-a", "other", NOW)


def test_check_mode_writes_nothing(tmp_path):
    store = gateway_keys.KeyStore(str(tmp_path / "none"), write=False)
    assert len(store.keys("team-a", NOW)[0]) == 1 and not (tmp_path / "none").exists()

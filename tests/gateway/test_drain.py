# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""An instance leaves the running gateway without ending a request, and comes back."""

from __future__ import annotations

import threading

import pytest
from site_gateway import DEADLINE, until
from test_running import Stream, end

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import gateway_live
from ansible_collections.vllm_mindspore.hardening.plugins.modules.gateway_drain import change


def test_what_is_under_way_ends_and_nothing_new_begins(site):
    stream = Stream(site, "team-a", 0.5)
    stream.start()
    assert stream.begun.wait(DEADLINE)
    assert change(site.master, "chat", True, 0, True) == (True, 1), "a check run changes nothing and waits for nothing"
    assert change(site.master, "chat", True, 0, False) == (True, 1)
    assert site.ask("GET /v1/models")[0] == 503
    before = len(site.reached())
    ending = threading.Timer(2, end, [site, [stream]])
    ending.start()
    assert change(site.master, "chat", True, DEADLINE, False) == (False, 0)
    ending.join()
    assert stream.whole and not stream.is_alive()
    assert len(site.reached()) == before
    assert change(site.master, "chat", False, 0, False) == (True, 0)
    until(lambda: site.ask("GET /v1/models")[0] == 200, "an answer of the instance that is back")
    assert change(site.master, "chat", False, 0, False) == (False, 0)


def test_an_instance_that_the_gateway_does_not_know_is_named(site):
    with pytest.raises(gateway_live.Unanswered, match="no such backend"):
        change(site.master, "nobody", True, 0, False)

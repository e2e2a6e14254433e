# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Key maps of a running gateway: what differs, and what its master says about its processes."""

from __future__ import annotations

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import gateway_live

PROCESSES = """#<PID>          <type>          <reloads>       <uptime>        <version>
262             master          2 [failed: 1]   0d00h01m00s     2.6.12
# workers
300             worker          0               0d00h00m03s     2.6.12
# old workers
265             worker          2               0d00h01m00s     2.6.12
266             worker          1               0d00h01m00s     2.6.12
# programs
"""


def test_what_ends_goes_first():
    changes = gateway_live.map_changes({"b": "2", "c": "3"}, {"a": "1", "b": "1"})
    assert changes == [("del", "a", ""), ("set", "b", "2"), ("add", "c", "3")]


def test_equal_maps_need_nothing():
    assert gateway_live.map_changes({"a": "1"}, {"a": "1"}) == []


def test_keys_are_named_without_their_sums():
    want, have = {"11": "a:new:9:1:1", "22": "a:old:8:1:1"}, {"22": "a:old:9:1:1", "33": "b:k:9:1:1"}
    assert gateway_live.named(want, have) == {"create": ["a:new"], "update": ["a:old"], "remove": ["b:k"]}


def test_a_map_file_is_read_without_comments_and_blank_lines():
    assert gateway_live.parse_map("# x\n\nab cd:e\n") == {"ab": "cd:e"}


def test_processes_before_a_reload_are_told_from_those_after_it():
    assert gateway_live.parse_processes(PROCESSES) == (2, 1, [300], [265, 266])


def test_another_answer_is_no_list_of_processes():
    with pytest.raises(gateway_live.Unanswered):
        gateway_live.parse_processes("Unknown command\n")

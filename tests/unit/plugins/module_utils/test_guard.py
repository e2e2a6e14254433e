# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the guard decides."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import guard, nft_change, sealing
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.netlink import pack_attribute
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.sealing import Untrusted

KEY = bytes(range(32))
CONTENT = "table inet vllm_hardening {\n\tchain input {\n\t\ttype filter hook input priority 0; policy drop;\n\t}\n}\n"


def confirmed(content=CONTENT, key=KEY, **changes):
    record = {"content": hashlib.sha256(content.encode()).hexdigest(), "canonical": "abc", "id": "1", "at": "then"}
    record["seal"] = sealing.seal(key, *sealing.firewall_parts(record))
    record.update(changes)
    return json.dumps({"confirmed": record}), "# a comment\n# another\n" + nft_change.replacement(guard.TABLE, content)


def test_confirmed_rules_are_trusted():
    state, rules = confirmed()
    record, text = guard.confirmed_rules(state, rules, KEY)
    assert record["canonical"] == "abc"
    assert text == "table inet vllm_hardening\ndelete table inet vllm_hardening\n" + CONTENT


@pytest.mark.parametrize(("state", "rules", "key", "says"), [
    (None, confirmed()[1], KEY, "record of the confirmed rules is missing"),
    (confirmed()[0], None, KEY, "confirmed rules are missing"),
    ("{", confirmed()[1], KEY, "truncated"),
    ("[]", confirmed()[1], KEY, "truncated"),
    ('{"confirmed": {"content": 1, "canonical": null}}', confirmed()[1], KEY, "truncated"),
    (confirmed()[0], confirmed()[1][:-9], KEY, "not those of their record"),
    (confirmed()[0], confirmed()[1][:40], KEY, "truncated"),
    (confirmed()[0], "flush ruleset\n" + confirmed()[1], KEY, "not what the module"),
    (confirmed()[0], confirmed()[1].replace("drop", "accept"), KEY, "not those of their record"),
    (confirmed(CONTENT.replace("drop", "accept"), bytes(32))[0], confirmed(CONTENT.replace("drop", "accept"))[1], KEY, "seal"),
    (confirmed(canonical="other")[0], confirmed()[1], KEY, "seal"),
    (confirmed(seal=None)[0], confirmed()[1], KEY, "not sealed"),
    (confirmed()[0], confirmed()[1], None, "key of the seals is missing"),
])
def test_what_a_confirmed_change_did_not_write_is_refused(state, rules, key, says):
    with pytest.raises(Untrusted, match=says):
        guard.confirmed_rules(state, rules, key)


def test_seals_tell_where_parts_end():
    assert sealing.seal(KEY, "ab", "c") != sealing.seal(KEY, "a", "bc")


@pytest.mark.parametrize(("state", "record", "staged", "waits"), [
    ("pending", {"deadline": 105.0}, False, True),
    ("rolling-back", {"deadline": 95.0}, False, True),
    ("pending", {"deadline": 80.0}, False, False),  # its rollback never came
    ("rolled-back", {"deadline": 105.0}, False, False),
    ("refused", {"deadline": 105.0}, False, False),
    ("confirmed", {"staged": ["/etc/x"], "since": 99.0}, True, True),
    ("confirmed", {"staged": ["/etc/x"], "since": 99.0}, False, False),
    ("confirmed", {"staged": ["/etc/x"], "since": 70.0}, True, False),
    (None, None, False, False),
])
def test_a_change_under_way_is_waited_for(state, record, staged, waits):
    found = guard.change_under_way({"c": (state, record)}, 100.0, lambda path: staged)
    assert (found is not None) == waits


def test_a_removal_is_told_from_a_change():
    removal = {"2": ("confirmed", {"begun": "2", "present": False}), "1": ("confirmed", {"begun": "1", "present": True})}
    assert guard.removed(removal)
    assert not guard.removed({**removal, "3": ("confirmed", {"begun": "3", "present": True})})
    assert not guard.removed({"1": ("rolled-back", {"begun": "1", "present": False})})


def test_a_window_is_roots_short_and_over_at_its_end():
    text = json.dumps({"end": 200.0, "reason": "cables"})
    assert guard.window(text, 0, 0o100644, 100.0) == (200.0, "cables")
    assert guard.window(text, 0, 0o100644, 200.0) is None
    for owner, mode, now in ((1000, 0o100644, 100.0), (0, 0o100666, 100.0), (0, 0o100620, 100.0), (0, 0o100644, -9 * 3600.0)):
        with pytest.raises(Untrusted):
            guard.window(text, owner, mode, now)
    for broken in ("", "[]", "{}", '{"end": "soon", "reason": "x"}', '{"end": 1%s, "reason": "x"}' % ("0" * 400), "[" * 9999):
        with pytest.raises(Untrusted):
            guard.window(broken, 0, 0o100644, 100.0)


def test_the_pace_is_free_then_bounded_then_free_again():
    pace = guard.Pace(burst=3, seconds=10.0, interval=1.0)
    for moment in (0.0, 0.1, 0.2):
        assert pace.wait(moment) == 0.0
        pace.note(moment)
    assert pace.alarm(0.3)
    assert pace.wait(0.3) == pytest.approx(0.9)
    assert pace.wait(1.3) == 0.0
    assert pace.rest(1.3) == pytest.approx(8.9)
    assert pace.alarm(10.1)
    assert not pace.alarm(10.3)
    pace.note(11.0)
    assert not pace.alarm(11.0)
    assert pace.wait(11.0) == 0.0
    assert pace.rest(11.0) is None


def test_the_alarm_lasts_as_long_as_corrections_go_on():
    pace, now = guard.Pace(), 0.0
    for _number in range(200):
        pace.note(now)
        now += 0.1 if not pace.alarm(now) else 1.9  # a slow machine
    assert pace.alarm(now)


def message(kind, body):
    return struct.pack("=IHHII", 16 + len(body), (10 << 8) | kind, 0, 0, 0) + body


def about(table, kind=6):
    return message(kind, struct.pack(">BBH", 1, 0, 0) + pack_attribute(1, table) + pack_attribute(2, "input"))


def made_by(pid, command):
    return message(15, struct.pack(">BBH", 0, 0, 0) + pack_attribute(1, struct.pack(">I", 9)) + pack_attribute(2, struct.pack(">I", pid))
                   + pack_attribute(3, command))


def test_notices_tell_ours_from_others_and_name_who():
    notices = guard.Notices()
    notices.take(about("banning", 12))
    notices.take(made_by(1, "fail2ban"))
    assert (notices.ours, notices.others, notices.by) == (False, False, None)
    notices.take(about("docker"))
    assert notices.others
    assert not notices.ours
    notices.take(about("banning", 12) + about("vllm_hardening", 8))
    notices.take(made_by(7, "nft"))
    notices.take(made_by(8, "iptables-nft"))
    assert notices.ours
    assert notices.by == {"pid": 7, "command": "nft"}
    assert notices.count == 6


@pytest.mark.parametrize("broken", [b"", b"\0" * 40, about("vllm_hardening")[:18], struct.pack("=IHHII", 4, 0, 0, 0, 0) + b"x" * 30])
def test_broken_notices_do_no_harm(broken):
    guard.Notices().take(broken)


def table(*expressions, name="docker", hook=0, flags=0):
    rules = [{"expressions": [expression], "comment": None, "handle": 1, "compat": None} for expression in expressions]
    return {"family": "ip", "name": name, "flags": flags, "sets": {}, "chains": {"c": {"name": "c", "hook": hook, "priority": 0, "policy": 1, "rules": rules}}}


def test_rules_of_others_that_go_around_the_filter_are_named():
    accept = {"expr": "immediate", "dreg": 0, "data": {"code": 1, "chain": None}}
    assert guard.threats([table(accept)]) == []
    found = guard.threats([table({"expr": "nat", "type": 1, "family": 2}, {"expr": "nat", "type": 0, "family": 2}, {"expr": "redir"})])
    assert len(found) == 2
    assert all("ip docker c" in text for text in found)
    assert guard.threats([table({"expr": "redir"}, flags=1)]) == []
    assert guard.threats([{**table({"expr": "redir"}, name="vllm_hardening"), "family": "inet"}]) == []


def test_differences_are_bounded_and_name_both_sides():
    assert guard.changed_lines(["a", "b", "b"], ["b", "c"]) == (["a", "b"], ["c"])
    before, after = guard.changed_lines([], [str(number) for number in range(1000)])
    assert before == []
    assert len(after) == guard.LINES + 1
    assert after[-1] == "and 960 more"
    assert guard.changed_lines(["x" * 9999], []) == (["x" * guard.LENGTH + "..."], [])


def test_listeners_of_the_plan():
    planned = {"protocol": "tcp", "ports": ["7443", "28000-28999"], "address": "10.77.1.11"}
    listening = {"protocol": "tcp", "address": "10.77.1.11", "port": 28500}
    assert guard.listens_as_planned(listening, planned)
    assert not guard.listens_as_planned({**listening, "port": 80}, planned)
    assert not guard.listens_as_planned({**listening, "protocol": "udp"}, planned)
    assert not guard.listens_as_planned({**listening, "address": "0.0.0.0"}, planned)
    assert guard.listens_as_planned({**listening, "address": "0.0.0.0"}, {**planned, "wildcard": True})


def test_emergency_rules_close_everything_but_ssh():
    text = guard.emergency_rules(2222, ["10.77.0.0/28", "fd00:77::/64"], [990])
    assert "policy drop" in text
    assert "ip saddr { 10.77.0.0/28 } tcp dport 2222 accept" in text
    assert "ip6 saddr { fd00:77::/64 } tcp dport 2222 accept" in text
    assert "meta skuid { 990 }" in text
    assert "\t\ttcp dport 22 accept" in guard.emergency_rules(22, [], [])
    assert guard.emergency_rules(22, ["bastion.example.com", "10.77.0.1/28"], []) == guard.emergency_rules(22, ["10.77.0.0/28"], [])
    assert guard.emergency_rules(22, ["bastion.example.com"], []) == guard.emergency_rules(22, [], [])


def test_metrics_are_prometheus_text():
    text = guard.metrics_text("firewall", {("alarm", (("kind", "state"),)): 1, ("last_check_timestamp_seconds", ()): 1795470000})
    assert 'vllm_guard_alarm{duty="firewall",kind="state"} 1\n' in text
    assert 'vllm_guard_last_check_timestamp_seconds{duty="firewall"} 1795470000\n' in text
    assert text.count("# TYPE") == 2


def test_a_record_is_one_line_for_the_journal():
    record = {"outcome": "corrected", "what": "the table was gone", "by": {"pid": 7, "command": "nft"}, "count": 3}
    assert guard.sentence(record) == "corrected: the table was gone; it was nft (process 7) 3 times"
    assert guard.sentence({"outcome": "seen", "what": "x"}) == "seen: x"

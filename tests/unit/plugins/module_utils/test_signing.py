# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Signatures of the controller over what a node is to be, made and checked by the real ssh-keygen."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import applied, guard, signing
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.sealing import Untrusted

KEY = bytes(range(32))
RULES = 'table inet vllm_hardening {\n\tchain output {\n\t\tmeta skuid "vllm-chat" drop\n\t}\n}\n'


@pytest.fixture(name="keys", scope="module")
def make_keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    for name in ("controller", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / name)], check=True)
    return folder


def sign(keys, node="npu01", concern="vllm_network", digest="abc", serial=5, by="controller"):
    text = signing.statement(node, concern, digest, serial)
    done = subprocess.run(["ssh-keygen", "-Y", "sign", "-f", str(keys / by), "-n", signing.NAMESPACE], input=text, capture_output=True, text=True, check=True)
    return {"statement": text, "signature": done.stdout, "public_key": (keys / f"{by}.pub").read_text().strip()}


@pytest.fixture(name="trust")
def make_trust(keys, tmp_path):
    return trust_of(keys, tmp_path)


def trust_of(keys, folder):
    signers = folder / "allowed_signers"
    signers.write_text(signing.allowed([(keys / "controller.pub").read_text()]))
    os.chmod(signers, 0o644)
    return signing.Trust({"signed": True, "node": "npu01"}, str(folder), str(signers), os.geteuid())


def test_a_statement_says_for_whom_and_what():
    text = signing.statement("npu01", "vllm_network", "abc", 5)
    assert signing.parse(text) == {"node": "npu01", "concern": "vllm_network", "digest": "abc", "serial": 5}
    assert signing.agree(text, "npu01", "vllm_network", "abc", 5) == 5


@pytest.mark.parametrize("text", ["", "node npu01\n", signing.statement("a", "b", "c", 1) + "more\n", signing.statement("a", "b", "c", 1)[:-1],
                                  signing.statement("a", "b", "c", 1).replace("serial 1", "serial x"), signing.statement("a\nconcern b", "b", "c", 1)])
def test_any_other_text_is_no_statement(text):
    with pytest.raises(Untrusted, match="not what the controller signs"):
        signing.parse(text)


@pytest.mark.parametrize(("arguments", "says"), [
    (("npu02", "vllm_network", "abc"), "another node"), (("npu01", "vllm_serve", "abc"), "another concern"),
    (("npu01", "vllm_network", "abd"), "another digest"), (("npu01", "vllm_network", "abc", 6), "older than what was accepted"),
])
def test_a_statement_about_something_else_is_refused(arguments, says):
    with pytest.raises(Untrusted, match=says):
        signing.agree(signing.statement("npu01", "vllm_network", "abc", 5), *arguments)


def test_what_a_run_brings_is_checked_before_it_is_applied(keys):
    good = sign(keys)
    signing.accept(good, "vllm_network", "abc")
    for bad, says in (({**good, "signature": good["signature"].replace("A", "B", 5)}, "not one of the controller's"), ({**good, "signature": ""}, "not signed"),
                      ({**good, "public_key": (keys / "stranger.pub").read_text()}, "not one of the controller's"),
                      ({**good, "statement": good["statement"].replace("serial 5", "serial 6")}, "not one of the controller's")):
        with pytest.raises(Untrusted, match=says):
            signing.accept(bad, "vllm_network", "abc")


@pytest.mark.parametrize(("program", "says"), [
    ("#!/bin/sh\necho 'unknown option -- Y' >&2\nexit 1\n", "older than OpenSSH 8.1"), (None, "there is no ssh-keygen"),
])
def test_a_node_that_cannot_check_says_so(keys, tmp_path, monkeypatch, program, says):
    path = tmp_path / "ssh-keygen"
    if program:
        path.write_text(program)
        os.chmod(path, 0o755)
    monkeypatch.setattr(signing, "KEYGEN", (str(path),))
    with pytest.raises(Untrusted, match=says):
        signing.accept(sign(keys), "vllm_network", "abc")


def test_a_guard_takes_only_what_the_controller_signed(keys, trust):
    trust.check(sign(keys), "vllm_network", "abc")
    for signed, says in ((None, "not signed"), ({}, "not signed"), (sign(keys, by="stranger"), "not one of the controller's"),
                         (sign(keys, node="npu02"), "another node"), (sign(keys, digest="abd"), "another digest")):
        with pytest.raises(Untrusted, match=says):
            trust.check(signed, "vllm_network", "abc")


def test_an_earlier_state_does_not_come_back_not_even_over_a_restart(keys, trust, tmp_path):
    trust.check(sign(keys, serial=7), "vllm_network", "abc")
    trust.check(sign(keys, serial=7), "vllm_network", "abc")
    with pytest.raises(Untrusted, match="earlier state"):
        trust.check(sign(keys, serial=6), "vllm_network", "abc")
    again = trust_of(keys, tmp_path)
    with pytest.raises(Untrusted, match="earlier state"):
        again.check(sign(keys, serial=6), "vllm_network", "abc")
    again.check(sign(keys, concern="vllm_serve", serial=6), "vllm_serve", "abc")


def test_signers_that_others_could_have_written_are_not_believed(keys, trust):
    os.chmod(trust.signers, 0o666)
    with pytest.raises(Untrusted, match="others than root"):
        trust.check(sign(keys), "vllm_network", "abc")
    os.chmod(trust.signers, 0o644)
    trust.owner = os.geteuid() + 1
    with pytest.raises(Untrusted, match="others than root"):
        trust.check(sign(keys), "vllm_network", "abc")


def test_without_the_file_of_signers_nothing_is_believed(keys, trust):
    os.unlink(trust.signers)
    with pytest.raises(Untrusted, match="whose signatures hold"):
        trust.check(sign(keys), "vllm_network", "abc")


def test_where_nothing_is_asked_for_nothing_is_checked(tmp_path):
    signing.Trust({"signed": False, "node": "npu01"}, str(tmp_path)).check(None, "vllm_network", "abc")


def test_a_signed_state_stays_signed(keys, tmp_path):
    params = {"files": [{"path": "/etc/a", "content": "a\n", "owner": "root", "group": "root", "mode": "0644", "state": "present"}]}
    wanted = applied.digest(applied.remembered(params))
    path = tmp_path / "vllm_network.json"

    def written(signed):
        applied.write("vllm_network", params, KEY, str(tmp_path), signed)
        return json.loads(path.read_text()).get("signed")

    first = sign(keys, digest=wanted)
    assert written(first) == first
    assert written(sign(keys, digest=wanted, serial=9)) == first  # the same again is no news
    assert written(None) == first  # a run without the key corrects what is signed already
    other = sign(keys, digest=wanted, serial=10, by="stranger")
    assert written(other) == other  # a key that takes the place of another
    path.write_text(path.read_text().replace("BEGIN SSH", "BEGIN"))
    assert written(other) == other


def test_a_run_without_the_key_is_refused_where_signatures_are_asked_for(tmp_path):
    settings = tmp_path / "guard.json"
    params = {"sysctls": {"path": "/etc/sysctl.d/90-x.conf", "values": {"net.ipv4.ip_forward": "0"}}}
    settings.write_text('{"signed": true}')
    with pytest.raises(Untrusted, match="nothing was changed"):
        applied.admit("vllm_network", params, None, str(tmp_path), str(settings))
    applied.admit("vllm_guard", params, None, str(tmp_path), str(settings))
    applied.write("vllm_network", params, KEY, str(tmp_path))
    applied.admit("vllm_network", params, None, str(tmp_path), str(settings))
    settings.write_text('{"signed": false}')
    applied.admit("vllm_network", {}, None, str(tmp_path), str(settings))


def test_what_the_guard_would_put_back_is_not_applied(keys, tmp_path, monkeypatch):
    settings = tmp_path / "guard.json"
    settings.write_text('{"signed": true}')
    (tmp_path / signing.SERIALS).write_text('{"vllm_network": 7}')
    monkeypatch.setattr(signing, "FOLDERS", (str(tmp_path),))
    params = {"sysctls": {"path": "/etc/sysctl.d/90-x.conf", "values": {"net.ipv4.ip_forward": "0"}}}
    wanted = applied.digest(applied.remembered(params))
    with pytest.raises(Untrusted, match="the clock of the controller"):
        applied.admit("vllm_network", params, sign(keys, digest=wanted, serial=6), str(tmp_path), str(settings))
    applied.admit("vllm_network", params, sign(keys, digest=wanted, serial=8), str(tmp_path), str(settings))
    with pytest.raises(Untrusted, match="48 hours from now"):
        applied.admit("vllm_network", params, sign(keys, digest=wanted, serial=int(1e6 * (time.time() + 2 * 86400))), str(tmp_path), str(settings))
    applied.write("vllm_network", params, KEY, str(tmp_path))
    applied.admit("vllm_network", params, sign(keys, digest=wanted, serial=6), str(tmp_path), str(settings))  # nothing new is applied


def test_signed_rules_are_the_controllers_text_with_the_nodes_numbers(keys, trust):
    users = {"vllm-chat": 990}
    resolved = RULES.replace('"vllm-chat"', "990")
    record = {"source": RULES, "signed": sign(keys, concern=guard.CONCERN, digest=guard.source_digest(RULES))}
    guard.signed_rules(record, resolved, trust, users.get)
    for bad, content, says in (
        ({**record, "source": RULES.replace("drop", "accept")}, resolved.replace("drop", "accept"), "another digest"),
        (record, resolved.replace("drop", "accept"), "not those that the controller signed"),
        (record, resolved.replace("990", "0"), "not those that the controller signed"),
        ({}, resolved, "not signed"),
    ):
        with pytest.raises(Untrusted, match=says):
            guard.signed_rules(bad, content, trust, users.get)


def test_signed_rules_are_tried_in_a_table_that_sleeps_and_nothing_else():
    text = guard.trial_rules(RULES)
    assert f"table inet {guard.TRIAL} {{\n\tflags dormant;\n" in text
    assert "table inet vllm_hardening {" not in text
    for more in (RULES + RULES, "flush ruleset\n" + RULES, RULES.replace("vllm_hardening", "other")):
        with pytest.raises(Untrusted, match="the table of this collection"):
            guard.trial_rules(more)

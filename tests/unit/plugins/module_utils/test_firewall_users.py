# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Users in rules become numbers."""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import firewall_users

USERS = {"vllm-chat": 996, "root": 0}
TEXT = """table inet vllm_hardening {
    chain output {
        meta skuid "vllm-chat" jump egress_vllm-chat comment "vllm-chat"
        meta skuid "vllm-code" jump egress_vllm-code comment "vllm-code"
    }
}
""".replace("    ", "\t")


def test_known_users_become_numbers_and_unknown_ones_are_left_out():
    text, missing = firewall_users.resolve_users(TEXT, USERS.get)
    assert 'meta skuid 996 jump egress_vllm-chat comment "vllm-chat"' in text
    assert "vllm-code" not in text
    assert missing == ["vllm-code"]


def test_unknown_users_of_an_exception_are_refused_like_everybody():
    line = 'oif "lo" tcp dport 17443 meta skuid != { "root", "vllm-chat", "vllm-gateway" } counter reject with tcp reset comment "chat"\n'
    text, missing = firewall_users.resolve_users(line, USERS.get)
    assert "meta skuid != { 0, 996 } counter reject" in text
    assert missing == ["vllm-gateway"]


def test_text_without_users_stays():
    assert firewall_users.resolve_users("table inet vllm_hardening {\n}\n", USERS.get) == ("table inet vllm_hardening {\n}\n", [])

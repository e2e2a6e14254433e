# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The pure parts of the module: users become numbers, and the files say what they have to."""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.modules import nft_table

USERS = {"vllm-chat": 996, "root": 0}
TEXT = """table inet vllm_hardening {
    chain output {
        meta skuid "vllm-chat" jump egress_vllm-chat comment "vllm-chat"
        meta skuid "vllm-code" jump egress_vllm-code comment "vllm-code"
    }
}
""".replace("    ", "\t")


def test_known_users_become_numbers_and_unknown_ones_are_left_out():
    text, missing = nft_table.resolve_users(TEXT, USERS.get)
    assert 'meta skuid 996 jump egress_vllm-chat comment "vllm-chat"' in text
    assert "vllm-code" not in text
    assert missing == ["vllm-code"]


def test_unknown_users_of_an_exception_are_refused_like_everybody():
    line = 'oif "lo" tcp dport 17443 meta skuid != { "root", "vllm-chat", "vllm-gateway" } counter reject with tcp reset comment "chat"\n'
    text, missing = nft_table.resolve_users(line, USERS.get)
    assert "meta skuid != { 0, 996 } counter reject" in text
    assert missing == ["vllm-gateway"]


def test_text_without_users_stays():
    assert nft_table.resolve_users("table inet vllm_hardening {\n}\n", USERS.get) == ("table inet vllm_hardening {\n}\n", [])


def test_the_boot_unit_stands_before_the_network_and_loads_only_our_table():
    files = nft_table.files_for("table inet vllm_hardening {\n}\n", "/usr/sbin/nft")
    unit = files[nft_table.UNIT]
    assert "Before=network-pre.target" in unit
    assert "Wants=network-pre.target" in unit
    assert f"ExecStart=/usr/sbin/nft -f {nft_table.RULES}" in unit
    assert files[nft_table.LINK] == (nft_table.UNIT,)
    assert "flush ruleset" not in files[nft_table.RULES]
    assert files[nft_table.RULES].count("delete table inet vllm_hardening") == 1


def test_a_restart_of_nftables_loads_our_table_again():
    drop_in = nft_table.files_for("", "/usr/sbin/nft")[nft_table.DROP_IN]
    assert [line.split("=")[0] for line in drop_in.splitlines() if "=" in line] == ["ExecStartPost", "ExecReload", "ExecStopPost"]


def test_differing_files_are_found(tmp_path):
    right, wrong, link = tmp_path / "right", tmp_path / "wrong", tmp_path / "link"
    right.write_text("1")
    wrong.write_text("2")
    link.symlink_to("/elsewhere")
    files = {str(right): "1", str(wrong): "1", str(tmp_path / "missing"): "1", str(link): ("/target",)}
    assert nft_table.differing(files) == [str(wrong), str(tmp_path / "missing"), str(link)]

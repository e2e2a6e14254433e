# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What lies on disk says what it has to."""

from __future__ import annotations

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import firewall_boot

TABLE = "inet vllm_hardening"


def test_the_boot_unit_stands_before_the_network_and_loads_only_our_table():
    files = firewall_boot.files_for(TABLE, "table inet vllm_hardening {\n}\n", "/usr/sbin/nft", None)
    unit = files[firewall_boot.UNIT]
    assert "Before=network-pre.target" in unit
    assert "Wants=network-pre.target" in unit
    assert f"ExecStart=/usr/sbin/nft -f {firewall_boot.RULES}" in unit
    assert files[firewall_boot.LINK] == (firewall_boot.UNIT,)
    assert "flush ruleset" not in files[firewall_boot.RULES]
    assert files[firewall_boot.RULES].count("delete table inet vllm_hardening") == 1


DEBIAN = """[Service]
Type=oneshot
ExecStart=/usr/sbin/nft -f /etc/nftables.conf
ExecReload=/usr/sbin/nft -f /etc/nftables.conf
ExecStop=/usr/sbin/nft flush ruleset
"""
FEDORA = """[Service]
ExecStart=/sbin/nft -f /etc/sysconfig/nftables.conf
ExecReload=/sbin/nft 'flush ruleset; include "/etc/sysconfig/nftables.conf";'
ExecStop=/sbin/nft flush ruleset
"""


@pytest.mark.parametrize("service, reload", [
    (DEBIAN, 'include \\"/etc/nftables.conf\\"\\n\\n'),
    (FEDORA, 'flush ruleset; include \\"/etc/sysconfig/nftables.conf\\"\\n\\n'),
])
def test_what_flushes_our_table_loads_it_in_the_same_transaction(service, reload):
    lines = firewall_boot.drop_in(service, "/usr/sbin/nft").splitlines()
    assert f'ExecReload=/usr/sbin/nft "{reload}include \\"{firewall_boot.RULES}*\\"\\n"' in lines
    assert f'ExecStop=/usr/sbin/nft "flush ruleset\\n\\ninclude \\"{firewall_boot.RULES}*\\"\\n"' in lines
    assert [line for line in lines if line.endswith("=")] == ["ExecStart=", "ExecReload=", "ExecStop="]


@pytest.mark.parametrize("service", [
    None,
    DEBIAN.replace("/usr/sbin/nft -f /etc/nftables.conf", "/usr/local/sbin/load-rules", 1),
    DEBIAN.replace("nft -f", "nft -o -f", 1),
    DEBIAN + "ExecStartPost=/usr/bin/logger loaded\n",
    DEBIAN.replace("ExecReload=/usr/sbin/nft -f /etc/nftables.conf", "ExecReload=/bin/sh -c 'unclosed"),
])
def test_a_unit_that_does_something_else_gets_our_table_back_afterwards(service):
    lines = firewall_boot.drop_in(service, "/usr/sbin/nft").splitlines()
    assert [line.split("=")[0] for line in lines if "=" in line] == ["ExecStartPost", "ExecReload", "ExecStopPost"]


def test_differing_files_are_found(tmp_path):
    right, wrong, link = tmp_path / "right", tmp_path / "wrong", tmp_path / "link"
    right.write_text("1")
    wrong.write_text("2")
    link.symlink_to("/elsewhere")
    files = {str(right): "1", str(wrong): "1", str(tmp_path / "missing"): "1", str(link): ("/target",)}
    assert firewall_boot.differing(files) == [str(wrong), str(tmp_path / "missing"), str(link)]

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The SSH drop-in: its text, what overrides it, and which login it would refuse."""

from __future__ import annotations

import re
import subprocess

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import ssh_daemon

SERVER = ("10.77.0.11", 22)


def effective(*lines):
    return ssh_daemon.parse("\n".join(lines))


def test_the_drop_in_names_addresses_of_both_families_and_its_groups():
    text = ssh_daemon.dropin(["10.77.0.11", "fd00:77::11"], 2222, ["administrators", "deploy"], {})
    assert "ListenAddress 10.77.0.11:2222\nListenAddress [fd00:77::11]:2222\nAllowGroups administrators deploy\n" in text
    assert "PermitRootLogin no\n" in text and "PasswordAuthentication no\n" in text


def test_a_setting_replaces_however_it_is_spelled_and_a_boolean_is_yes_or_no():
    text = ssh_daemon.dropin([], 22, ["a"], {"permitrootlogin": "prohibit-password", "X11Forwarding": True, "AllowTcpForwarding": False})
    assert ssh_daemon.parse(text)["permitrootlogin"] == ["prohibit-password"]
    assert "X11Forwarding yes\n" in text and "AllowTcpForwarding no\n" in text


def test_an_address_is_written_as_sshd_prints_it():
    assert "ListenAddress [fd00:77::11]:22\n" in ssh_daemon.dropin(["fd00:77:0:0::11"], 22, ["a"], {})
    assert ssh_daemon.no_addresses(["10.77.0.11", "fd00:77::11", "0.0.0.0", "::", "npu01", ""]) == ["0.0.0.0", "::", "npu01", ""]


def test_what_another_file_adds_is_told():
    text = ssh_daemon.dropin(["10.77.0.11"], 22, ["a", "b"], {})
    have = effective("listenaddress 10.77.0.11:22", "listenaddress 0.0.0.0:2022", "allowgroups a", "allowgroups b wheel")
    assert ssh_daemon.added(text, have) == [("listenaddress", ["0.0.0.0:2022"]), ("allowgroups", ["wheel"])]
    assert ssh_daemon.added(text, effective("listenaddress 10.77.0.11:22", "allowgroups a b")) == []
    assert ssh_daemon.added(ssh_daemon.dropin([], 22, ["a"], {}), effective("listenaddress [::]:22", "allowgroups a")) == []


def test_a_setting_replaces_and_a_list_repeats():
    text = ssh_daemon.dropin([], 22, ["a"], {"PermitRootLogin": "prohibit-password", "AcceptEnv": ["LANG", "LC_*"]})
    assert text.count("PermitRootLogin") == 1 and "AcceptEnv LANG\nAcceptEnv LC_*\n" in text


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["allowgroups wheel"], "allowgroups (wheel) does not hold the groups of deploy"),
        (["allowusers root"], "allowusers (root) does not hold the account deploy"),
        (["denyusers dep*"], "denyusers refuses dep*"),
        (["denygroups staff"], "denygroups refuses staff"),
        (["pubkeyauthentication no"], "pubkeyauthentication is no"),
        (["listenaddress 10.77.1.11:22"], "this run comes in at 10.77.0.11:22"),
        (["listenaddress 10.77.0.11:2222"], "this run comes in at 10.77.0.11:22"),
    ],
)
def test_a_login_that_would_be_refused_is_told(lines, said):
    assert said in "; ".join(ssh_daemon.refusals(effective(*lines), "deploy", ["deploy", "staff"], SERVER))


def test_root_is_told_that_root_may_not():
    assert ssh_daemon.refusals(effective("permitrootlogin no"), "root", ["root"], SERVER)


LET_IN = [["allowgroups wheel", "allowgroups staff"], ["allowgroups wheel staff"], ["listenaddress 0.0.0.0:22"], ["allowusers d?ploy@10.*"]]


@pytest.mark.parametrize("lines", LET_IN)
def test_a_login_that_is_let_in_is_not_refused(lines):
    assert ssh_daemon.refusals(effective(*lines), "deploy", ["deploy", "staff"], SERVER) == []


def test_what_another_file_decides_is_told():
    text = ssh_daemon.dropin([], 22, ["a"], {})
    have = effective("passwordauthentication yes", "permitrootlogin no", "maxauthtries 3")
    assert ssh_daemon.overridden(text, have) == [("passwordauthentication", "no", "yes")]


@pytest.mark.parametrize("before", ["old text\n", None])
def test_the_rollback_puts_back_what_was_there_once(tmp_path, before):
    (tmp_path / "change").mkdir()
    dropin = tmp_path / "dropin.conf"
    dropin.write_text("new text\n")
    (tmp_path / "change" / "pending").write_text("{}")
    if before:
        (tmp_path / "change" / "previous.conf").write_text(before)
    rules = tmp_path / "rules"
    rules.write_text("new rules\n")
    (tmp_path / "change" / "previous.sudoers").write_text("old rules\n")
    paths = {"previous.conf": str(dropin), "previous.sudoers": str(rules)}
    script = tmp_path / "change" / "rollback"
    script.write_text(ssh_daemon.rollback_script(str(tmp_path / "change"), paths, "none.service"))
    subprocess.run(["/bin/sh", str(script), "boot"], check=True)
    assert (dropin.read_text() if dropin.exists() else None) == before
    assert rules.read_text() == "old rules\n"
    assert (tmp_path / "change" / "rolled-back").exists()
    dropin.write_text("a later text\n")
    subprocess.run(["/bin/sh", str(script), "boot"], check=True)
    assert dropin.read_text() == "a later text\n"


def test_a_rollback_that_was_cut_short_goes_on_at_boot(tmp_path):
    dropin = tmp_path / "dropin.conf"
    dropin.write_text("new text\n")
    (tmp_path / "rolling-back").write_text("{}")
    script = tmp_path / "rollback"
    script.write_text(ssh_daemon.rollback_script(str(tmp_path), {"previous.conf": str(dropin)}, "none.service"))
    assert {"pending", "rolling-back"} == set(re.findall(r"ConditionPathExistsGlob=\|/var/x/\*/(\S+)", ssh_daemon.guard_unit("/var/x")))
    subprocess.run(["/bin/sh", str(script), "boot"], check=True)
    assert not dropin.exists() and (tmp_path / "rolled-back").exists()


def test_a_daemon_that_listens_on_named_addresses_waits_for_them():
    lines = ssh_daemon.waiting_unit().splitlines()
    assert {"After=network-online.target", "Restart=on-failure", "RestartPreventExitStatus=", "StartLimitIntervalSec=0"} <= set(lines)


def test_a_confirmed_change_is_not_rolled_back(tmp_path):
    dropin = tmp_path / "dropin.conf"
    dropin.write_text("new text\n")
    (tmp_path / "confirmed").write_text("{}")
    script = tmp_path / "rollback"
    script.write_text(ssh_daemon.rollback_script(str(tmp_path), {"previous.conf": str(dropin)}, "none.service"))
    subprocess.run(["/bin/sh", str(script), "timer"], check=True)
    assert dropin.read_text() == "new text\n"


def allowed(command):
    """Whether the rule of sudo's drop-in takes the arguments of /bin/sh; POSIX and Python agree on this expression."""
    rule = ssh_daemon.sudo_rules("deploy", password=False).splitlines()[-1]
    return bool(re.search(rule.partition("/bin/sh ")[2], command))


@pytest.mark.parametrize(
    "command",
    [
        "-c echo BECOME-SUCCESS-abcdef ; /usr/bin/python3",
        "-c echo BECOME-SUCCESS-abcdef ; /usr/bin/python3.11",
        "-c echo BECOME-SUCCESS-abcdef ; /opt/py/bin/python3 /home/deploy/.ansible/tmp/ansible-tmp-1.5-2-3/AnsiballZ_gateway.py",
    ],
)
def test_sudo_takes_what_ansible_runs(command):
    assert allowed(command)


@pytest.mark.parametrize(
    "command",
    [
        "",
        "-c id",
        "-c echo BECOME-SUCCESS-abcdef ; /usr/bin/id",
        "-c echo BECOME-SUCCESS-abcdef ; /usr/bin/python3 ; id",
        "-c echo BECOME-SUCCESS-abcdef ; /usr/bin/python3 -c 'import os'",
        "-c id ; echo BECOME-SUCCESS-abcdef ; /usr/bin/python3",
        "-c echo BECOME-SUCCESS-$(id) ; /usr/bin/python3",
        "-c echo BECOME-SUCCESS-abc ; /usr/bin/python3\nid",
    ],
)
def test_sudo_takes_nothing_else(command):
    assert not allowed(command)


def test_sudo_goes_on_asking_for_a_password_where_it_does():
    first, second = ssh_daemon.sudo_rules("deploy", password=True).splitlines()[1:]
    assert first == "deploy ALL=(ALL:ALL) !ALL" and second.startswith("deploy ALL=(root) PASSWD: /bin/sh ^")


@pytest.mark.parametrize("later", [[], ["(ALL) NOPASSWD: /usr/bin/bash"]])
def test_a_rule_that_wins_over_the_limit_is_told(later):
    rule = ssh_daemon.sudo_rules("deploy", password=False).splitlines()[-1].replace("deploy ALL=", "")
    listed = ["(ALL : ALL) NOPASSWD: ALL", "(ALL : ALL) !ALL", rule, *later]
    listing = "User deploy may run the following commands on npu01:\n" + "".join(f"    {line}\n" for line in listed)
    assert ssh_daemon.later_rules(listing) == later
    assert ssh_daemon.later_rules("") and ssh_daemon.later_rules(listing.replace(rule, ""))


def test_the_version_of_sudo_is_read():
    assert ssh_daemon.sudo_version("Sudo version 1.9.13p3\nSudoers policy plugin version 1.9.13p3\n") == (1, 9, 13)
    assert ssh_daemon.sudo_version("?") < (1, 9, 10)

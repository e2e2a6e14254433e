# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Reading a host: the text of the kernel and of systemd in, plain data out."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import subprocess
import sys

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import access
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.access import password_state, read_accounts, sudo_rules
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.listeners import find_owners, read_listeners, unit_of
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.observation import LINKS, observe, read_files, read_packages, read_sysctls, sysctl_paths
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.units import (
    is_engine, mask_secrets, parse_show, read_process, read_strays, read_units)


@pytest.mark.parametrize("text, unit", [
    ("0::/system.slice/vllm-chat.service\n", "vllm-chat.service"),
    ("0::/user.slice/user-0.slice/session-3.scope\n", "session-3.scope"),
    ("0::/user.slice/user-0.slice/user@0.service/app.slice/x.service\n", "x.service"),
    ("12:pids:/system.slice/ssh.service\n1:name=systemd:/system.slice/x.service/payload\n", "x.service"),
    ("0::/\n", None),
    ("", None),
])
def test_the_unit_of_a_control_group(text, unit):
    assert unit_of(text) == unit


@pytest.mark.parametrize("family, address", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
@pytest.mark.parametrize("kind, protocol", [(socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")])
def test_a_real_socket_is_found_with_its_owner(family, address, kind, protocol):
    with socket.socket(family, kind) as opened:
        opened.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            opened.listen()
        port = opened.getsockname()[1]
        found = [entry for entry in read_listeners() if (entry["protocol"], entry["port"], entry["address"]) == (protocol, port, address)]
    assert [entry["pid"] for entry in found] == [os.getpid()]
    assert found[0]["uid"] == os.getuid()


def test_no_owner_is_looked_for_without_a_socket(tmp_path):
    assert find_owners([], str(tmp_path)) == {}
    assert find_owners([4711], str(tmp_path)) == {}


@pytest.mark.parametrize("name, path", [
    ("net.ipv4.ip_forward", "net/ipv4/ip_forward"), ("net.ipv4.conf.eth0/1.rp_filter", "net/ipv4/conf/eth0.1/rp_filter"),
    ("net/ipv4/conf/eth0.1/rp_filter", "net/ipv4/conf/eth0.1/rp_filter")])
def test_names_of_settings(name, path):
    assert sysctl_paths(name, "/r") == [f"/r/{path}"]


def test_settings_of_every_interface_and_unknown_ones(tmp_path):
    for name in ("eth0", "eth1"):
        (tmp_path / "conf" / name).mkdir(parents=True)
        (tmp_path / "conf" / name / "x").write_text("1\t2\n")
    assert read_sysctls(["conf.*.x", "conf.y"], str(tmp_path)) == {"conf.*.x": {"conf/eth0/x": "1 2", "conf/eth1/x": "1 2"}, "conf.y": {"conf/y": None}}


def test_files_are_described_without_following_links(tmp_path):
    (tmp_path / "a").write_text("abc")
    os.chmod(tmp_path / "a", 0o640)
    (tmp_path / "l").symlink_to("a")
    found = read_files([str(tmp_path / "*"), str(tmp_path / "none")])
    assert found[str(tmp_path / "a")]["mode"] == "0640"
    assert found[str(tmp_path / "a")]["sha256"].startswith("ba7816bf")
    assert (found[str(tmp_path / "l")]["type"], found[str(tmp_path / "l")]["target"]) == ("link", "a")
    assert found[str(tmp_path / "none")] is None


def test_what_links_lead_to_is_described_as_well(tmp_path):
    (tmp_path / "real").mkdir(mode=0o770)
    (tmp_path / "one").symlink_to("real")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "long").symlink_to("./long")
    (tmp_path / "dangling").symlink_to("../nothing")
    found = read_files([str(tmp_path / name) for name in ("two", "loop", "dangling")])
    assert {os.path.relpath(path, tmp_path): facts and facts["type"] for path, facts in found.items()} == {
        "two": "link", "one": "link", "real": "directory", "loop": "link", "dangling": "link", "../nothing": None}
    assert found[f"{tmp_path}/../nothing"] is None
    assert len(read_files([str(tmp_path / "long")])) == LINKS


@pytest.mark.parametrize("text, masked", [
    ("A=1 VLLM_API_KEY=abc", "A=1 VLLM_API_KEY=(hidden)"), ("serve --api-key abc --port 1", "serve --api-key (hidden) --port 1"),
    ("serve --api-key=abc", "serve --api-key=(hidden)"), ("--ssl-keyfile /x", "--ssl-keyfile /x"), ("PASSWORD=x", "PASSWORD=(hidden)"),
    ('sh -c A_KEY="$(cat "$CREDENTIALS_DIRECTORY/A_KEY")"', 'sh -c A_KEY="$(cat "$CREDENTIALS_DIRECTORY/A_KEY")"'),
    ('T_TOKEN_PATH="$$CREDENTIALS_DIRECTORY/T"', 'T_TOKEN_PATH="$$CREDENTIALS_DIRECTORY/T"'),
    ("T_TOKEN=$CREDENTIALS", "T_TOKEN=(hidden)"), ('A=1 "PASSWORD=a b c" B=2', 'A=1 "PASSWORD=(hidden) B=2'),
    ('PASSWORD="a b" B=2', "PASSWORD=(hidden) B=2"), ('PASSWORD="a" B=2', "PASSWORD=(hidden) B=2"), ("--api-key 'a b' --port 1", "--api-key (hidden) --port 1"),
    *((text, text) for text in (
        "serve --max-num-batched-tokens 8192 --tokenizer /x --tokenizer-mode slow --return-tokens-as-token-ids --max-num-scheduled-tokens=64",
        "--long-prefill-token-threshold 4 --ssl-keyfile=/x --api-key-file /x", "TOKENIZERS_PARALLELISM=false VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE=1")),
    ("--hf-token x AUTH_TOKENS=x AWS_ACCESS_KEY_ID=x", "--hf-token (hidden) AUTH_TOKENS=(hidden) AWS_ACCESS_KEY_ID=(hidden)"),
    ("A_TOKEN=$'a b' B=2", "A_TOKEN=(hidden) B=2"), ('"PASSWORD=a b', '"PASSWORD=(hidden)')])
def test_secrets_never_leave_the_host(text, masked):
    assert mask_secrets(text) == masked


SHOW = (
    "Id=a.service\nLoadState=loaded\nControlGroup=\nEnvironment=TOKEN=x A=1\nDeviceAllow=/dev/null rw\nDeviceAllow=/dev/zero rw\n\n"
    "Id=b.service\nLoadState=not-found\n"
)


def test_units_as_systemd_shows_them():
    units = read_units(["a.service", "b.service"], lambda _argv: (0, SHOW, ""))
    assert units["a.service"]["properties"]["DeviceAllow"] == "/dev/null rw\n/dev/zero rw"
    assert units["a.service"]["properties"]["Environment"] == "TOKEN=(hidden) A=1"
    assert units["b.service"] == {"properties": parse_show(SHOW)["b.service"], "processes": []}


@pytest.mark.parametrize("command_line, engine", [
    ("/opt/vllm/current/bin/vllm serve /x", True), ("vllm-mindspore serve /x", True), ("/usr/bin/python3 -I /opt/vllm/current/bin/vllm serve /x", True),
    ("python3.11 -m vllm.entrypoints.openai.api_server --host 0.0.0.0", True), ("python -mvllm.entrypoints.api_server", True),
    ("python3 -X dev -u -m vllm_mindspore.scripts serve", True), ("VLLM::EngineCore_0", True), ("ray::IDLE", True), ("/x/ray/core/raylet --port=1", True),
    ("vim /opt/vllm", False), ("rsync -a /srv/vllm /backup", False), ("tail -f /var/log/vllm", False), ("python3 -c import vllm", False),
    ("python3", False), ("python3 -m http.server 80", False), ("", False), ("/usr/bin/vllm-exporter", False),
])
def test_what_an_engine_is(command_line, engine):
    assert is_engine(command_line) is engine


def test_a_titled_process_hides_its_arguments(tmp_path):
    (tmp_path / "stat").write_text("btime 1000\n")
    for pid, command_line in ((1, b"vllm\0serve\0--api-key\0abc\0"), (2, b"VLLM::EngineCore\0\0\0\0"), (3, b"")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "status").write_text("Name:\tvllm\nUid:\t990\t990\t990\t990\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n")
        (tmp_path / str(pid) / "cmdline").write_bytes(command_line)
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a b) c) S " + " ".join(["0"] * 18) + f" {200 * os.sysconf('SC_CLK_TCK')} 0\n")
    first, second, third = (read_process(pid, str(tmp_path)) for pid in (1, 2, 3))
    assert (first["arguments"], second["arguments"], third["arguments"]) == ("vllm serve --api-key (hidden)", None, None)
    assert (first["started"], first["seccomp"], first["no_new_privileges"]) == (1200, "2", "1")
    assert read_process(9, str(tmp_path)) is None


def test_sudo_rules_name_accounts_groups_and_everybody(tmp_path):
    (tmp_path / "sudoers").write_text(
        "# x\nDefaults env_reset\nroot ALL=(ALL:ALL) ALL\n%admin,bob ALL=(ALL) \\\n  ALL\nUser_Alias X = y\n@includedir /etc/sudoers.d\n"
    )
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "one").write_text("ALL ALL=(root) /bin/true\n")
    (tmp_path / "d" / "two.bak").write_text("eve ALL=(ALL) ALL\n")
    rules = sudo_rules((str(tmp_path / "sudoers"), str(tmp_path / "d" / "*")))
    assert [line.split()[0] for _file, line in rules] == ["root", "%admin,bob", "ALL"]


def test_sudo_rules_by_number_and_by_alias(tmp_path, monkeypatch):
    account = pwd.getpwuid(os.getuid())
    group = grp.getgrgid(account.pw_gid).gr_name
    (tmp_path / "sudoers").write_text(
        f"#include x\n# comment\n#{account.pw_uid} ALL=1\n%#{account.pw_gid} ALL=2\nUser_Alias ONE = nobody-else : TWO = x, THREE\n"
        f"User_Alias THREE = %{group}\nONE ALL=3\nTWO, other ALL=4\nother ALL=5\n")
    monkeypatch.setattr(access, "SUDOERS", (str(tmp_path / "sudoers"),))
    for name in ("sudo_rules", "user_aliases"):
        monkeypatch.setattr(getattr(access, name), "__defaults__", (access.SUDOERS,))
    assert [line[-1] for line in read_accounts([account.pw_name])[account.pw_name]["sudo"]] == ["1", "2", "4"]


@pytest.mark.parametrize("line, state", [("x:!:1", "locked"), ("x:*:1", "locked"), ("x::1", "empty"), ("x:$6$a:1", "set")])
def test_passwords(tmp_path, line, state):
    (tmp_path / "shadow").write_text(f"y:$6$:1\n{line}\n")
    assert password_state("x", str(tmp_path / "shadow")) == state
    assert password_state("x", str(tmp_path / "none")) is None


def test_an_account_that_is_not_there():
    assert read_accounts(["no-such-account"]) == {"no-such-account": None}


def test_installed_versions_are_those_beside_the_programs(tmp_path):
    programs = tmp_path / "x[1]" / "bin"
    programs.mkdir(parents=True)
    for place in ("python3.11/site-packages/vllm_mindspore-0.5.1", "python3.11/site-packages/vllm-0.11.0+empty", "python3/dist-packages/Ray-2.48.0",
                  "python3.9/site-packages/ray-2.9.0", "python3.11/site-packages/other-1.0"):
        (tmp_path / "x[1]" / "lib" / f"{place}.dist-info").mkdir(parents=True)
    (tmp_path / "x[1]" / "lib64").symlink_to("lib")
    (tmp_path / "current").symlink_to("x[1]")
    asked = {"directory": str(tmp_path / "current" / "bin"), "names": ["vllm-mindspore", "vllm", "ray", "torch"]}
    wanted = {"ray": ["2.48.0", "2.9.0"], "vllm": ["0.11.0+empty"], "vllm-mindspore": ["0.5.1"]}
    assert observe({"packages": asked})["packages"] == wanted
    assert "packages" not in observe({})
    assert read_packages(str(tmp_path / "nowhere"), ["vllm"]) == {}


def test_a_part_that_fails_is_unknown_and_the_others_stand():
    def no_systemd(_argv):
        raise OSError(2, "no systemd here")
    seen = observe({"units": ["x.service"], "sysctls": ["kernel.randomize_va_space"]}, no_systemd)
    assert seen["units"] is None
    assert "no systemd here" in seen["unknown"]["units"]
    assert seen["sysctls"]["kernel.randomize_va_space"]["kernel/randomize_va_space"] in ("0", "1", "2")
    assert isinstance(seen["addresses"], list)


def test_what_has_ended_and_waits_for_its_parent_is_no_stray():
    def pids():
        return [entry["pid"] for entry in read_strays({os.getuid()}, set())]

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in pids()
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert child.pid not in pids()


@pytest.mark.parametrize("state, flags, threads, stray", [
    ("S", 0x400100, 1, True),
    ("Z", 0x40010C, 1, False),
    ("R", 0x400104, 1, False),
    # The first thread has ended, the others serve on.
    ("Z", 0x40010C, 2, True),
])
def test_a_stray_is_what_still_runs(tmp_path, state, flags, threads, stray):
    (tmp_path / "800").mkdir()
    (tmp_path / "800/cmdline").write_bytes(b"")
    (tmp_path / "800/cgroup").write_text("0::/system.slice/vllm-gateway.service (deleted)\n")
    (tmp_path / "800/stat").write_text(f"800 (ha) proxy) {state} 1 800 800 0 -1 {flags} 1 2 3 4 5 6 7 8 20 0 {threads} 0 100 0 0\n")
    found = read_strays({tmp_path.stat().st_uid}, {"vllm-gateway.service"}, str(tmp_path))
    assert [entry["pid"] for entry in found] == [800] * stray

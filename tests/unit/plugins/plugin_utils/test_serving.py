# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Accounts and units of instances, and the tether of members that span nodes."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import serving

PROGRAMS = Path(__file__).resolve().parents[4] / "roles" / "vllm_serve" / "files"
TETHER = PROGRAMS / "tether.py"


def program(name):
    """A program of the node, as a module."""
    specification = importlib.util.spec_from_file_location(name, PROGRAMS / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


tether, image_root = program("tether"), program("image_root")


def instance(**values):
    """An instance as in the plan."""
    return {
        "name": "chat", "unit": "vllm-chat.service", "user": "vllm-chat", "engine": "vllm", "rank": 0, "head": True, "npus": None,
        "arguments": ["serve", "/srv/models/tiny", "--data-parallel-address", "10.77.2.11"], "environment": {"VLLM_HOST_IP": "10.77.2.11"},
        "api": {"address": "10.77.1.11", "port": 7443}, **values,
    }


def unit(given=None, **options):
    """The lines of the unit of one instance."""
    return serving.serving_units([given or instance()], **options)[0]["content"].splitlines()


def values(lines, name):
    """Values of a property."""
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


SETS = {"peers_chat": ["10.77.2.11", "10.77.2.12", "10.77.2.13"], "clients": ["10.77.1.128/25"], "peers_other": ["10.9.9.9"]}


@pytest.mark.parametrize("word, written", [
    ("plain", "plain"), ("two words", '"two words"'), ("100%", "100%%"), ('say "x"', '"say \\"x\\""'), ("back\\slash", "back\\\\slash"), ("", '""'),
    ("a;b", '"a;b"'), ("it's", '"it\'s"'),
])
def test_words_mean_nothing_to_systemd(word, written):
    assert serving.quote(word) == written


def test_variables_are_not_replaced_in_arguments_but_kept_in_the_environment():
    lines = unit(instance(arguments=["serve", "$HOME"], environment={"X": "$HOME"}))
    assert values(lines, "ExecStart") == ["/opt/vllm/current/bin/vllm serve $$HOME"]
    assert "X=$HOME" in values(lines, "Environment")


def test_line_breaks_cannot_add_directives():
    with pytest.raises(ValueError, match="control character"):
        unit(instance(environment={"X": "1\nUser=root"}))


def test_only_peers_clients_and_the_node_itself_exchange_packets():
    lines = unit(sets=SETS)
    assert values(lines, "IPAddressDeny") == ["any"]
    assert values(lines, "IPAddressAllow") == ["localhost", "10.77.1.11/32", "10.77.1.128/25", "10.77.2.11/32", "10.77.2.12/31"]
    assert values(unit(instance(api={"address": "127.0.0.1", "port": 17443}), sets={"clients": ["10.77.1.128/25"]}), "IPAddressAllow") == ["localhost"]


def test_ports_outside_the_plan_are_denied_but_the_kernels_choice_is_not():
    listeners = [{"instance": "chat", "protocol": "tcp", "ports": ["28000-28999", "29000"]}, {"instance": "other", "protocol": "tcp", "ports": ["1"]}]
    lines = unit(listeners=listeners)
    assert values(lines, "SocketBindDeny") == ["tcp:1-65535", "udp:1-65535"]
    assert values(lines, "SocketBindAllow") == ["tcp:7443", "tcp:28000-29000"]


def test_devices_are_exactly_the_npus():
    lines = unit(instance(npus=[0, 3]))
    assert values(lines, "DeviceAllow") == [f"/dev/{name} rw" for name in ("davinci0", "davinci3", "davinci_manager", "devmm_svm", "hisi_hdc")]
    assert values(lines, "PrivateUsers") == [] and values(unit(), "PrivateUsers") == ["yes"]
    assert values(unit(), "DeviceAllow") == [] and values(unit(), "DevicePolicy") == ["closed"]


def test_secrets_come_from_credentials_and_changes_of_them_restart():
    given = instance(credentials={"VLLM_API_KEY": "/etc/vllm-hardening/credentials/chat"}, arguments=["serve"])
    lines = unit(given)
    assert values(lines, "LoadCredential") == ["VLLM_API_KEY:/etc/vllm-hardening/credentials/chat"]
    assert values(lines, "ExecStart")[0].endswith('sh /opt/vllm/current/bin/vllm serve')
    assert "/etc/vllm-hardening/credentials/chat" in serving.serving_units([given])[0]["restart_on"]


TOOLKIT = """\
path="${BASH_SOURCE[0]}"
if [[ "$path" =~ set_env.sh ]]; then export ASCEND_HOME_PATH="${path%/*}"; fi
export LD_LIBRARY_PATH=$ASCEND_HOME_PATH/lib64:$LD_LIBRARY_PATH PYTHONPATH=$ASCEND_HOME_PATH/python:$PYTHONPATH SEEN="$*"
false
"""


def test_an_engine_with_npus_has_the_environment_of_the_toolkit(tmp_path):
    script = tmp_path / "set_env.sh"
    script.write_text(TOOLKIT)
    options = {**serving.DEFAULTS, "executable_directory": "/opt/the site/bin", "toolkit_scripts": [str(tmp_path / "none" / "set_env.sh"), str(script)]}
    shell = ["/bin/bash", "-c", serving.toolkit(instance(npus=[0]), options) + 'exec "$@"', "sh", "/usr/bin/env", "WORDS=serve --port 1"]
    told = subprocess.run(shell, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}).stdout.splitlines()
    wanted = {"PATH=/opt/the site/bin:/usr/bin:/bin", f"LD_LIBRARY_PATH={tmp_path}/lib64:{serving.DRIVER_LIBRARIES}", f"PYTHONPATH={tmp_path}/python"}
    assert wanted | {"SEEN=", "WORDS=serve --port 1"} <= set(told)


def test_only_what_has_npus_sources_the_toolkit():
    given = instance(npus=[0], credentials={"VLLM_API_KEY": "/etc/vllm-hardening/credentials/chat"}, arguments=["serve"])
    (line,) = values(unit(given), "ExecStart")
    assert line.startswith("/bin/bash -c ") and line.endswith("sh /opt/vllm/current/bin/vllm serve")
    assert line.index("/usr/local/Ascend/ascend-toolkit/set_env.sh") < line.index("export VLLM_API_KEY")
    assert values(unit(given, toolkit_scripts=[]), "ExecStart")[0].startswith("/bin/sh -c ")
    ray, engine = serving.serving_units([instance(npus=[0], ray={"unit": "vllm-chat-ray.service", "arguments": ["start"]})])
    assert all("set_env.sh" in item["content"] for item in (ray, engine)) and "set_env.sh" not in "".join(unit())
    with pytest.raises(ValueError, match="vllm_serve_toolkit_scripts"):
        unit(instance(npus=[0]), toolkit_scripts=["/srv/a;b"])


def test_ray_has_a_unit_of_its_own_that_the_engine_is_bound_to():
    ray = {"unit": "vllm-chat-ray.service", "version": "2.60.0", "token": True, "arguments": ["start", "--block", "--head"]}
    head = serving.serving_units([instance(ray=ray, arguments=["serve"])])
    assert [item["name"] for item in head] == ["vllm-chat-ray.service", "vllm-chat.service"]
    lines = head[0]["content"].splitlines()
    assert "start --block --head" in values(lines, "ExecStart")[0] and values(lines, "User") == ["vllm-chat"]
    assert values(lines, "LoadCredential") == ["RAY_AUTH_TOKEN_PATH:/etc/vllm-hardening/credentials/chat.ray-token"]
    assert values(lines, "LoadCredential") == values(head[1]["content"].splitlines(), "LoadCredential")
    assert 'RAY_AUTH_TOKEN_PATH=\\"$$CREDENTIALS_DIRECTORY/RAY_AUTH_TOKEN_PATH\\" && export' in values(lines, "ExecStart")[0]
    assert values(head[1]["content"].splitlines(), "BindsTo") == ["vllm-chat-ray.service"] and "ready" not in head[0]
    assert [item["name"] for item in serving.serving_units([instance(ray=ray, arguments=None, api=None, head=False)])] == ["vllm-chat-ray.service"]


def with_ray(**values):
    """An instance over Ray."""
    ray = {"unit": "vllm-chat-ray.service", "version": "2.60.0", "token": True, "arguments": ["start"], **values}
    return instance(ray=ray, arguments=["serve"])


def test_ray_starts_the_engine_that_it_ended():
    ray, _engine = serving.serving_units([with_ray()])
    assert values(ray["content"].splitlines(), "Wants") == ["network-online.target", "vllm-chat.service"]
    alone = serving.serving_units([{**with_ray(), "arguments": None}])[0]
    assert values(alone["content"].splitlines(), "Wants") == ["network-online.target"]


def test_an_engine_over_ray_may_be_started_again_by_a_ray_that_gave_up_once():
    _ray, engine = serving.serving_units([with_ray()])
    assert engine["ready"]["restarts"] == 5 and engine["ready"]["journals"] == ["vllm-chat-ray.service"]
    assert "restarts" not in serving.serving_units([instance()])[0]["ready"]


def test_the_engine_sees_the_processes_of_ray():
    plain, over_ray = unit(), serving.serving_units([with_ray()])
    assert values(plain, "PrivateUsers") == ["yes"]
    assert [values(item["content"].splitlines(), "PrivateUsers") for item in over_ray] == [[], []]


def test_the_token_of_ray_is_a_file_of_root_that_no_diff_shows():
    made = serving.serving_secrets([with_ray(), instance(name="code")], {"chat": "0123456789abcdef"})
    assert made["files"] == [{"path": f"{serving.CREDENTIALS}/chat.ray-token", "content": "0123456789abcdef", "mode": "0600", "sensitive": True}]
    assert {"path": serving.CREDENTIALS, "mode": "0700"} in made["directories"]
    assert serving.serving_secrets([with_ray(token=False)], {}) == {"directories": [], "files": []}
    assert serving.serving_secrets([with_ray()], {}, state="absent")["files"] == [{"path": f"{serving.CREDENTIALS}/chat.ray-token", "state": "absent"}]


def test_the_files_of_tls_are_credentials_that_ray_and_the_engine_read_by_themselves():
    tls = {"certificate": "/etc/pki/ray/node.pem", "key": "/etc/pki/ray/node.key", "authority": "/etc/pki/ray/authority.pem"}
    for made in serving.serving_units([with_ray(tls=tls, token=False)]):
        lines = made["content"].splitlines()
        assert values(lines, "LoadCredential") == [
            "RAY_TLS_CA_CERT:/etc/pki/ray/authority.pem", "RAY_TLS_SERVER_CERT:/etc/pki/ray/node.pem", "RAY_TLS_SERVER_KEY:/etc/pki/ray/node.key"]
        assert 'RAY_TLS_SERVER_KEY=\\"$$CREDENTIALS_DIRECTORY/RAY_TLS_SERVER_KEY\\" && export RAY_TLS_SERVER_KEY' in values(lines, "ExecStart")[0]
        assert set(tls.values()) <= set(made["restart_on"])
    assert serving.serving_secrets([with_ray(tls=tls, token=False)], {}) == {"directories": [], "files": []}


@pytest.mark.parametrize("tokens", [{}, {"chat": None}, {"chat": "short"}, {"chat": "0123456789 abcdef"}, {"code": "0123456789abcdef"}])
def test_a_missing_or_weak_token_is_refused(tokens):
    with pytest.raises(ValueError, match=r"vllm_serve_ray_tokens\.chat"):
        serving.serving_secrets([with_ray()], tokens)


def test_tokens_are_made_once_and_kept_for_nobody_else(tmp_path):
    directory = tmp_path / "secrets"
    first = serving.kept_tokens([with_ray(), instance(name="code")], str(directory))
    assert list(first) == ["chat"] and len(first["chat"]) == 64
    assert serving.kept_tokens([with_ray()], str(directory)) == first
    assert [(path.name, path.stat().st_mode & 0o777) for path in directory.iterdir()] == [("chat.ray-token", 0o600)]
    with pytest.raises(ValueError, match="vllm_serve_secret_directory"):
        serving.kept_tokens([with_ray()], "")
    assert serving.kept_tokens([instance()], "") == {}


IMAGE = "sha256:" + "0123456789ab" + "c" * 52


def test_out_of_an_image_only_the_root_of_a_unit_differs():
    given = instance(model="/srv/models/tiny", npus=[0])
    plain, (maker, made) = unit(given), serving.serving_units([given], image=IMAGE)
    lines = made["content"].splitlines()
    root = f"{serving.IMAGES}/0123456789ab"
    assert [line for line in plain if line not in lines] == []
    added = [line for line in lines if line not in plain]
    assert {line.partition("=")[0] for line in added} == {"BindsTo", "After", "RootDirectory", "MountAPIVFS", "BindReadOnlyPaths"}
    assert values(lines, "RootDirectory") == [root]
    binds = values(lines, "BindReadOnlyPaths")
    assert {"/srv/models/tiny", "/etc/passwd", "-/usr/local/Ascend/driver"} <= set(binds)
    assert maker["name"] == serving.IMAGE_UNIT and f"mount podman {IMAGE} {root}" in maker["content"] and f"unmount {root}\n" in maker["content"]
    start = values(maker["content"].splitlines(), "ExecStart")[0].split()
    assert {bind.lstrip("-") for bind in binds} | {"/var/lib/vllm-chat", "/run/vllm-chat", "/var/cache/vllm-chat"} <= set(start)


def test_the_image_of_docker_waits_for_its_daemon():
    maker = serving.serving_units([instance()], image=IMAGE, image_engine="docker")[0]["content"].splitlines()
    assert values(maker, "After") == values(maker, "Wants") == ["docker.service"] and values(maker, "RequiresMountsFor") == ["/var/lib/docker"]
    assert "image_root.py mount docker" in values(maker, "ExecStart")[0]


def test_an_image_is_named_by_its_digest_only():
    for wrong in ("vllm:latest", "sha256:abc", IMAGE.upper()):
        with pytest.raises(ValueError, match="vllm_runtime_image"):
            unit(image=wrong)


def test_ready_is_asked_of_an_api_only():
    ready = [serving.serving_units([instance(api=api)])[0].get("ready", {}).get("url") for api in ({"address": "fd00:77::11", "port": 7443}, None)]
    assert ready == ["http://[fd00:77::11]:7443/health", None]


def test_members_are_tethered_to_the_head_and_the_head_to_them():
    assert serving.tethered(instance(), {**serving.DEFAULTS, "sets": SETS}) == ["10.77.2.12", "10.77.2.13"]
    assert serving.tethered(instance(head=False, rank=1), {**serving.DEFAULTS, "sets": SETS}) == ["10.77.2.11"]
    assert serving.TETHER in serving.serving_units([instance()], sets=SETS)[0]["restart_on"]
    assert serving.tethered(instance(arguments=["serve"]), {**serving.DEFAULTS, "sets": SETS}) == []
    assert values(unit(sets=SETS), "SuccessExitStatus") == ["143"] and values(unit(instance(arguments=["serve"])), "SuccessExitStatus") == []


def test_accounts_join_the_drivers_group_with_npus_only():
    accounts = serving.serving_accounts([instance(), instance(name="big", user="vllm-big", npus=[1])], "HwHiAiUser")
    assert [(user["name"], user["groups"]) for user in accounts["users"]] == [("vllm-chat", []), ("vllm-big", ["HwHiAiUser"])]


def test_unknown_engine_is_refused_with_the_known():
    with pytest.raises(ValueError, match="vllm_mindspore"):
        unit(instance(engine="vlm"))


TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B024D0A:6D60 0C024D0A:8235 01 00000000:00000000 00:00000000 00000000   990        0 1 1
   1: 0B024D0A:6D61 0D024D0A:8235 02 00000000:00000000 00:00000000 00000000   990        0 1 1
   2: 0B024D0A:6D62 0E024D0A:8235 01 00000000:00000000 00:00000000 00000000   991        0 1 1
   3: 0000000000000000FFFF00000B024D0A:6D62 0000000000000000FFFF00000F024D0A:8235 01 00000000:00000000 00:00000000 00000000   990        0 1 1
"""


def test_only_established_connections_of_the_user_count():
    assert tether.remote_addresses(TABLE, 990) == {socket.inet_aton("10.77.2.12"), socket.inet_aton("10.77.2.15")}


def test_a_member_has_gone_only_after_it_was_there_and_for_long_enough():
    watch, packed = tether.Watch(["10.77.2.12", "fd00:77::12"], grace=10), socket.inet_aton("10.77.2.12")
    assert watch.gone(set(), 0) is None and watch.gone(set(), 100) is None
    assert watch.gone({packed}, 101) is None and watch.gone(set(), 111) is None
    assert watch.gone(set(), 111.5) == "10.77.2.12"


def test_the_tether_passes_the_status_on():
    for code in (0, 3):
        done = subprocess.run([sys.executable, "-I", str(TETHER), "192.0.2.1", "--", sys.executable, "-c", f"raise SystemExit({code})"], check=False)
        assert done.returncode == code


def test_layers_of_docker_are_its_short_links_uppermost_first(tmp_path):
    for layer in ("top", "base"):
        (tmp_path / layer).mkdir()
        (tmp_path / layer / "link").write_text(layer.upper())
    driver = {"Name": "overlay2", "Data": {"UpperDir": f"{tmp_path}/top/diff", "LowerDir": f"{tmp_path}/base/diff"}}
    assert image_root.docker_layers({"GraphDriver": driver}) == (str(tmp_path), ["l/TOP", "l/BASE"])
    assert image_root.docker_layers({"GraphDriver": {"Name": "overlay2", "Data": {"UpperDir": f"{tmp_path}/top/diff"}}})[1] == ["l/TOP"]


@pytest.mark.parametrize("found", [{}, {"GraphDriver": {"Name": "btrfs", "Data": None}}])
def test_images_of_docker_that_nobody_can_mount_are_refused(found):
    with pytest.raises(SystemExit, match="podman's store"):
        image_root.docker_layers(found)

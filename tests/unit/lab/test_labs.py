# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What is brought up, what is refused, and what roots and wires are made of."""
from __future__ import annotations

import dataclasses

import pytest

from ansible_collections.vllm_mindspore.hardening.tests.lab import cli, labs, network, roots, topology
from ansible_collections.vllm_mindspore.hardening.tests.lab.topology import Refusal

BLOCK = topology.Block.parse("10.77")


def test_nothing_asked_leaves_a_lab_as_it_is():
    existing = labs.Spec("demo", block="10.80", root="trixie", hosts=("npu01",))
    assert labs.resolve("demo", {"block": None, "root": None}, existing) == existing


@pytest.mark.parametrize("asked", [{"block": "10.81"}, {"root": "bookworm"}, {"hosts": ("npu01", "client")}, {"cache": "/elsewhere"}])
def test_a_lab_that_is_up_is_not_made_into_another(asked):
    existing = labs.Spec("demo", block="10.80", root="trixie", hosts=("npu01",))
    with pytest.raises(Refusal, match=f"{next(iter(asked))} is"):
        labs.resolve("demo", asked, existing)


@pytest.mark.parametrize(
    ("other", "in_the_way"),
    [
        (labs.Spec("demo", block="10.80", directory="/here/demo"), []),
        (labs.Spec("demo", block="10.81", directory="/there/demo"), ["demo"]),
        (labs.Spec("traffic", block="10.80", directory="/here/traffic"), ["traffic"]),
        (labs.Spec("traffic", block="10.81", directory="/there/traffic"), []),
    ],
)
def test_a_lab_is_in_the_way_by_its_block_or_by_its_name_in_another_checkout(other, in_the_way):
    spec = labs.Spec("demo", block="10.80", directory="/here/demo")
    assert labs.in_the_way(spec, {other.name: other}) == in_the_way


def test_only_a_lab_without_hosts_gives_way(monkeypatch):
    ports = {"dead": set(), "alive": {"npu01.eth0"}, "booting": set()}
    others = {name: labs.Spec(name, block="10.80") for name in ports}
    removed = []
    monkeypatch.setattr(labs, "specs", lambda: others)
    monkeypatch.setattr(labs.network, "ports", ports.get)
    monkeypatch.setattr(labs, "down", removed.append)
    with labs.machine.lock("lab-booting"):
        labs.discard_orphans(labs.Spec("demo", block="10.80"))
    assert removed == ["dead"]


def test_a_lab_is_taken_down_in_the_cache_it_was_brought_up_with(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setenv("LAB_CACHE", "/here")
    monkeypatch.setattr(labs, "specs", lambda: {"demo": labs.Spec("demo", directory=str(tmp_path / "demo"), cache="/there")})
    monkeypatch.setattr(labs.Podman, "remove", lambda self, name: calls.append((self.command()[0], name)))
    labs.down("demo")
    [(command, name)] = calls
    assert "--root=/there/podman" in command and name == "demo"


def test_a_lab_of_another_checkout_is_left_alone(monkeypatch, capsys):
    there, here = labs.Spec("demo", directory="/there/demo"), labs.Spec("mine", directory=str(labs.directory("mine")))
    monkeypatch.setattr(labs, "specs", lambda: {"demo": there, "mine": here})
    assert labs.own("mine") == here and labs.own("none") is None
    for command in (["down"], ["exec", "npu01", "true"], ["restart", "npu01"]):
        assert cli.main([command[0], "--name", "demo", *command[1:]]) == 1
        assert "another checkout's: its files are in /there/demo" in capsys.readouterr().err


def test_podman_keeps_nothing_in_common_for_two_caches():
    options = ("--root=", "--runroot=", "--tmpdir=")
    folders = [{word for word in labs.Podman(cache).command()[0] if word.startswith(options)} for cache in ("/here", "/there")]
    assert [len(names) for names in folders] == [3, 3]
    assert not folders[0] & folders[1]


def test_a_root_for_a_host_that_is_not_there_is_refused():
    with pytest.raises(Refusal, match="no host npu03"):
        labs.resolve("demo", {"roots": (("npu03", "trixie"),)}, None)


@pytest.mark.parametrize("mount", ["/", "relative:/x", "/nowhere-at-all:/x", "/:relative"])
def test_mounts_that_cannot_be_are_refused(mount):
    with pytest.raises(Refusal, match="--mount"):
        labs.resolve("demo", {"mounts": (mount,)}, None)


def test_a_lab_that_is_taken_down_meanwhile_is_none(tmp_path, monkeypatch):
    for name in ("here", "gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lab.json").write_text(labs.dumps(labs.Spec(name)), encoding="utf-8")
    read = labs.Spec.read

    def read_late(path):
        (tmp_path / "gone" / "lab.json").unlink(missing_ok=True)
        return read(path)

    monkeypatch.setattr(labs.runtime, "LABS", tmp_path)
    monkeypatch.setattr(labs.Spec, "read", read_late)
    assert list(labs.specs()) == ["here"]


def test_a_specification_reads_back(tmp_path):
    spec = labs.Spec("demo", roots=(("npu01", "trixie"),), mounts=("/srv:/srv:ro",))
    path = tmp_path / "lab.json"
    path.write_text(labs.dumps(spec), encoding="utf-8")
    assert labs.Spec.read(path) == spec
    assert dataclasses.astuple(labs.Spec.read(path)) == dataclasses.astuple(spec)


@pytest.mark.parametrize("text", ["sid", "", "+podman", "bookworm+", "bookworm+a b", "bookworm+-f"])
def test_other_roots_are_refused(text):
    with pytest.raises(Refusal, match="--root"):
        roots.parse(text)


def test_the_image_depends_on_the_packages_not_on_their_order():
    assert roots.image("trixie+ufw+haproxy") == roots.image("trixie+haproxy+ufw")
    assert len({roots.image(text) for text in ("trixie", "bookworm", "trixie+ufw")}) == 3


def test_only_the_same_root_becomes_outdated():
    name = roots.image("trixie+ufw")
    old = name[:-12] + "0" * 12
    assert roots.outdated(name, {name, old, roots.image("trixie"), roots.image("bookworm")}) == [old]


def test_mirrors_are_the_machines_own():
    indexes = (
        "Debian|http://mirror.example.com/debian\nDebian|http://second.example.com/debian\n"
        "Debian-Security|http://mirror.example.com/security\nOther|http://other.example.com\n"
    )
    assert roots.sources(indexes, "trixie") == [
        "deb http://mirror.example.com/debian trixie main",
        "deb http://mirror.example.com/debian trixie-updates main",
        "deb http://mirror.example.com/security trixie-security main",
    ]
    assert roots.sources("Ubuntu|http://mirror.example.com/ubuntu\n", "trixie") == []


def test_container_engines_get_a_file_system_of_their_own():
    assert roots.volumes("bookworm+podman+ufw") == ["/var/lib/containers"]
    assert roots.volumes("bookworm+ufw") == []


def test_a_host_is_plugged_into_its_segments_only():
    files = network.plumbing("demo", BLOCK, topology.host("rogue"))
    assert "master management" in files["switch"] and "master internal" in files["switch"]
    assert "api" not in files["switch"] and "10.77.1." not in files["host"]
    assert "address add fd00:77:2::67/64 dev eth2 nodad" in files["host"]


def test_bridges_carry_no_address_and_only_management_has_the_machine():
    assert "address add" not in network.bridges()
    assert network.controller("demo", BLOCK).count("address add") == 2
    assert "10.77.0.1/24" in network.controller("demo", BLOCK)

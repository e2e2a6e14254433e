# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Environments are really built here, from wheels made on the spot, and their programs are run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import wheels
from ansible_collections.vllm_mindspore.hardening.plugins.modules import python_environment


class Module:
    """What the environments need of AnsibleModule: options, check mode, and a way to run programs."""

    def __init__(self, check_mode=False, **params):
        self.check_mode = check_mode
        self.params = {"state": "present", "python": sys.executable, "wheel_directory": None, "index_url": None, "extra_index_urls": [], "keep": 1, **params}

    def run_command(self, command, environ_update=None):
        """As AnsibleModule.run_command."""
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(environ_update or {})})
        return done.returncode, done.stdout, done.stderr


def make_wheel(directory, name, version, text="1", **members):
    """A wheel with one module, one console script and further members; returns its line of a lock."""
    path = directory / f"{name}-{version}-py3-none-any.whl"
    information = f"{name}-{version}.dist-info"
    content = {
        f"{name}.py": f"VALUE = {text!r}\ndef main():\n    print(VALUE)\n",
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{information}/entry_points.txt": f"[console_scripts]\nrun-{name} = {name}:main\n",
        f"{information}/RECORD": "",
        **members,
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, value in content.items():
            archive.writestr(member, value)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture(name="site")
def fixture_site(tmp_path):
    """A wheel directory and a prefix, and a function that brings the prefix to a lock."""
    source, prefix = tmp_path / "wheels", tmp_path / "opt"
    source.mkdir()

    def apply(lock, **options):
        module = Module(prefix=str(prefix), requirements=lock, wheel_directory=str(source), **options)
        environments = python_environment.Environments(module)
        result = getattr(environments, module.params["state"])()
        return result, [(item["change"], os.path.relpath(item["resource"].split(" ", 1)[1], prefix)) for item in environments.resources]

    return source, prefix, apply


def output(prefix, program):
    """What a program of the current environment prints."""
    return subprocess.run([str(prefix / "current" / "bin" / program)], capture_output=True, text=True, check=True).stdout.strip()


def test_build_run_and_nothing_to_do(site):
    source, prefix, apply = site
    lock = make_wheel(source, "one", "1.0")
    result, changes = apply(lock)
    assert output(prefix, "run-one") == "1"
    assert changes == [("create", f"environments/{result['digest']}"), ("create", "current")]
    assert apply(lock)[1] == []
    assert sorted(os.listdir(prefix / "environments")) == [result["digest"]]
    shown = subprocess.run(
        [str(prefix / "current/bin/python"), "-c", "import importlib.metadata as m, sys, one; print(m.version('one'), one.__cached__, sys.prefix)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert shown[0] == "1.0" and os.path.exists(shown[1]) and shown[2].startswith(str(prefix))


def test_check_mode_predicts_the_run_and_writes_nothing(site):
    source, prefix, apply = site
    lock = make_wheel(source, "one", "1.0")
    predicted = apply(lock, check_mode=True)
    assert not prefix.exists()
    assert apply(lock) == predicted


def test_the_previous_environment_stays_for_the_way_back(site):
    source, prefix, apply = site
    first, second, third = (make_wheel(source, "one", version, text=version) for version in ("1.0", "2.0", "3.0"))
    apply(first)
    apply(second)
    assert output(prefix, "run-one") == "2.0"
    result, changes = apply(first)
    assert output(prefix, "run-one") == "1.0" and not any(change == "create" for change, _resource in changes)
    assert result["previous"]
    apply(third)
    assert len(os.listdir(prefix / "environments")) == 2


def test_without_a_way_back_no_link_leads_to_what_is_gone(site):
    source, prefix, apply = site
    first, second = (make_wheel(source, "one", version, text=version) for version in ("1.0", "2.0"))
    apply(first)
    result, _changes = apply(second, keep=0)
    assert result["previous"] == "" and not os.path.lexists(prefix / "previous") and len(os.listdir(prefix / "environments")) == 1
    assert apply(second, keep=0)[1] == []


def test_the_way_back_leads_past_a_damaged_environment(site):
    source, prefix, apply = site
    first, second, third = (make_wheel(source, "one", version, text=version) for version in ("1.0", "2.0", "3.0"))
    apply(first)
    damaged = apply(second)[0]["environment"]
    os.unlink(os.path.join(damaged, python_environment.MARKER))
    apply(third)
    apply(None, state="returned")
    assert output(prefix, "run-one") == "1.0"


def test_an_environment_that_does_not_work_is_left_for_the_one_before(site):
    source, prefix, apply = site
    first = make_wheel(source, "alpha", "1.0", "first")
    apply(first)
    with pytest.raises(wheels.WheelError, match="no earlier environment"):
        apply(None, state="returned")
    second = make_wheel(source, "alpha", "2.0", "second")
    made, _steps = apply(second)
    back, steps = apply(None, state="returned")
    assert [change for change, _path in steps] == ["update", "update"] and back["previous"] == made["environment"]
    assert subprocess.run([prefix / "current/bin/run-alpha"], capture_output=True, text=True, check=True).stdout == "first\n"
    _result, steps = apply(second)
    assert sorted(path for _change, path in steps) == ["current", "previous"]


def test_a_change_by_hand_is_seen_and_undone(site):
    source, prefix, apply = site
    lock = make_wheel(source, "one", "1.0")
    digest = apply(lock)[0]["digest"]
    victim = prefix / "environments" / digest / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages" / "one.py"
    victim.write_text("VALUE = 'evil'\n")
    assert apply(lock)[1] == [("rebuild", f"environments/{digest}")]
    assert "evil" not in victim.read_text()
    assert apply(lock)[1] == []


@pytest.mark.parametrize("place", [".", "environments", "environments/{digest}"])
@pytest.mark.parametrize("bits", [0o775, 0o757, 0o1777, 0o700])
def test_a_directory_that_others_may_write_to_is_put_right_and_nothing_built(site, place, bits):
    source, prefix, apply = site
    lock = make_wheel(source, "one", "1.0")
    digest = apply(lock)[0]["digest"]
    place = place.format(digest=digest)
    (prefix / place).chmod(bits)
    predicted = apply(lock, check_mode=True)
    assert stat.S_IMODE((prefix / place).stat().st_mode) == bits
    result, changes = apply(lock)
    assert (result, changes) == predicted and changes == [("update", place)]
    assert result["origin"] == "foreign" and result["replaced"] is False
    assert stat.S_IMODE((prefix / place).stat().st_mode) == 0o755
    result, changes = apply(lock)
    assert changes == [] and "origin" not in result


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_directory_of_another_account_is_taken_back_and_shown(site, monkeypatch, check_mode):
    _source, prefix, _apply = site
    prefix.mkdir(exist_ok=True)
    prefix.chmod(0o755)
    environments, given = python_environment.Environments(Module(check_mode=check_mode, prefix=str(prefix))), []
    # Only root gives a directory away, so here it is the one who runs that is another.
    mine, other = os.getuid(), 54321
    monkeypatch.setattr(python_environment.os, "geteuid", lambda: other)
    monkeypatch.setattr(python_environment.os, "fchown", lambda _descriptor, *owner: given.append(owner))
    environments.own(str(prefix))
    owner = python_environment.owner_name(mine)
    assert environments.resources == [{
        "resource": f"directory {prefix}", "change": "update",
        "before": {"owner": owner, "mode": "0755"}, "after": {"owner": "54321", "mode": "0755"}}]
    assert python_environment.as_text(environments.resources, "before") == f"directory {prefix}: mode=0755 owner={owner}\n"
    assert given == ([] if check_mode else [(other, -1)])


def test_what_a_link_in_the_place_of_the_environments_leads_to_is_left_alone(site, tmp_path):
    source, prefix, apply = site
    lock = make_wheel(source, "one", "1.0")
    apply(lock)
    elsewhere = tmp_path / "elsewhere"
    (prefix / "environments").rename(elsewhere)
    (prefix / "environments").symlink_to(elsewhere)
    elsewhere.chmod(0o700)
    assert apply(lock)[1] == []
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o700


def test_a_file_that_others_may_write_to_is_never_sound_whatever_the_record_says(site):
    source, prefix, apply = site
    lock = make_wheel(source, "one", "1.0")
    result, _changes = apply(lock)
    home = prefix / "environments" / result["digest"]
    victim = next(home.glob("lib/*/site-packages/one.py"))
    victim.chmod(0o666)
    assert python_environment.seal(home) == ""
    record = json.loads((home / python_environment.MARKER).read_text())
    (home / python_environment.MARKER).write_text(json.dumps({**record, "seal": ""}))
    victim.chmod(0o644)
    (home / python_environment.MARKER).chmod(0o666)
    result, changes = apply(lock)
    assert changes == [("rebuild", f"environments/{result['digest']}")] and result["replaced"] is True


def test_a_file_system_that_gives_files_to_others_is_refused(site, monkeypatch):
    source, prefix, apply = site
    monkeypatch.setattr(python_environment.os, "geteuid", lambda: 54321)
    monkeypatch.setattr(python_environment.Environments, "own", lambda *_arguments, **_options: None)
    with pytest.raises(wheels.WheelError, match="belongs to others"):
        apply(make_wheel(source, "one", "1.0"))
    assert os.listdir(prefix / "environments") == []


def test_an_environment_under_the_name_of_another_is_built_anew(site):
    source, prefix, apply = site
    first, second = (make_wheel(source, "one", version, text=version) for version in ("1.0", "2.0"))
    one, two = (apply(lock)[0]["environment"] for lock in (first, second))
    shutil.rmtree(two)
    os.rename(one, two)
    assert ("rebuild", os.path.relpath(two, prefix)) in apply(second)[1]
    assert output(prefix, "run-one") == "2.0"


def test_what_runs_is_restarted_only_where_its_files_are_others(site):
    source, prefix, apply = site
    first, second = (make_wheel(source, "one", version, text=version) for version in ("1.0", "2.0"))
    assert apply(first)[0]["replaced"] is True
    assert apply(first)[0]["replaced"] is False
    result, _changes = apply(second)
    assert (result["replaced"], result["origin"]) == (True, "unknown")
    assert apply(second, keep=0)[0]["replaced"] is False
    assert prefix.exists()


@pytest.mark.parametrize("nonsense", ["", "[]", "7", "{}", "\0"])
def test_a_record_that_holds_nonsense_counts_as_none(site, nonsense):
    source, prefix, apply = site
    lock = make_wheel(source, "one", "1.0")
    result, _changes = apply(lock)
    (prefix / "environments" / result["digest"] / python_environment.MARKER).write_text(nonsense, encoding="utf-8")
    assert [change for change, _resource in apply(lock)[1]] == ["rebuild"]
    assert apply(lock)[1] == []


def test_a_file_with_another_digest_is_refused_and_nothing_left(site):
    source, prefix, apply = site
    lock = make_wheel(source, "one", "1.0")
    make_wheel(source, "one", "1.0", text="tampered")
    with pytest.raises(wheels.WheelError) as caught:
        apply(lock)
    assert "no file has a digest of the lock" in str(caught.value)
    assert not (prefix / "current").exists() and os.listdir(prefix / "environments") == []


def test_a_missing_wheel_is_named_before_anything_is_built(site):
    source, prefix, apply = site
    lock = make_wheel(source, "one", "1.0") + f"two==1.0 --hash=sha256:{'0' * 64}\n"
    for check_mode in (True, False):
        with pytest.raises(wheels.WheelError) as caught:
            apply(lock, check_mode=check_mode)
        assert "lacks a wheel of two==1.0" in str(caught.value)
    assert not (prefix / "current").exists()


def test_a_wheel_that_climbs_out_is_refused(site):
    source, prefix, apply = site
    with pytest.raises(wheels.WheelError) as caught:
        apply(make_wheel(source, "one", "1.0", **{"../../../evil": "x"}))
    assert "unsafe path" in str(caught.value)
    assert not (prefix.parent / "evil").exists()


@pytest.mark.parametrize("text", ["run-one = one:main", b"[console_scripts]\n\xff = one:main\n"])
def test_a_wheel_with_nonsense_for_its_programs_is_named(site, text):
    source, prefix, apply = site
    with pytest.raises(wheels.WheelError, match=r"one-1\.0-py3-none-any\.whl cannot be unpacked"):
        apply(make_wheel(source, "one", "1.0", **{"one-1.0.dist-info/entry_points.txt": text}))
    assert os.listdir(prefix / "environments") == []


def test_absent_leaves_nothing(site):
    source, prefix, apply = site
    apply(make_wheel(source, "one", "1.0"))
    apply("", state="absent")
    assert not prefix.exists()
    assert apply("", state="absent")[1] == []

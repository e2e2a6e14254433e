# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Models against their checksums: what differs is named, what is the same is read once."""

from __future__ import annotations

import hashlib
import os

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import model_files

CONTENT = {"config.json": b"{}", "model-1.safetensors": b"weights", "sub/modelling.py": b"pass"}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


CHECKSUMS = {name: sha256(content) for name, content in CONTENT.items()}


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model of root's; whoever runs the tests is its root."""
    folder = tmp_path / "model"
    for name, content in CONTENT.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)
        path.parent.chmod(0o755)
    own, real = os.geteuid(), model_files._only_roots

    def as_root(path, facts):
        values = list(facts)
        values[4] = 0 if facts.st_uid == own else facts.st_uid
        return real(path, os.stat_result(values))

    monkeypatch.setattr(model_files, "_only_roots", as_root)
    return folder


def problems(folder, checksums=None, known=None, read=model_files.digest):
    return model_files.verify(str(folder), checksums or CHECKSUMS, known or {}, read)[0]


def test_the_pinned_model_passes(model):
    assert problems(model) == []


def write(name, content=b"x", mode=0o644):
    def change(folder):
        (folder / name).write_bytes(content)
        (folder / name).chmod(mode)

    return change


DEVIATIONS = {
    "a file with another content": (write("config.json", b"[]"), "config.json has the sha256 " + sha256(b"[]")),
    "a file of the same size with another content": (write("model-1.safetensors", b"wEights"), "model-1.safetensors has the sha256"),
    "a file that is missing": (lambda folder: (folder / "config.json").unlink(), "config.json: No such file or directory"),
    "code that nobody pinned": (write("sub/extra.py"), "sub/extra.py can hold code and is not among model_checksums"),
    "a pickle that nobody pinned": (write("pytorch_model.bin"), "pytorch_model.bin can hold code"),
    "a file that its group may write": (lambda folder: (folder / "config.json").chmod(0o664), "config.json has mode 0664"),
    "a directory that everybody may write": (lambda folder: (folder / "sub").chmod(0o777), "sub has mode 0777"),
    "a directory above that everybody may write": (lambda folder: folder.parent.chmod(0o777), " has mode 0777"),
    "a directory of links": (lambda folder: (folder / "more").symlink_to("sub"), "more is a link to a directory"),
    "a file that is a link to nothing": (
        lambda folder: ((folder / "config.json").unlink(), (folder / "config.json").symlink_to("/nonexistent/x")), "config.json: No such file"),
    "a directory in place of a file": (lambda folder: ((folder / "config.json").unlink(), (folder / "config.json").mkdir(mode=0o755)), "is no file"),
}


@pytest.mark.parametrize("deviation", DEVIATIONS)
def test_one_deviation_is_one_problem(model, deviation):
    change, words = DEVIATIONS[deviation]
    change(model)
    found = problems(model)
    assert len(found) == 1 and words in found[0], found


def test_a_file_that_is_a_link_lies_where_only_root_changes_it(model, tmp_path):
    blobs = tmp_path / "blobs"
    (model / "config.json").unlink()
    (model / "config.json").symlink_to(blobs / "1")
    blobs.mkdir(mode=0o755)
    (blobs / "1").write_bytes(b"{}")
    assert problems(model) == []
    blobs.chmod(0o777)
    assert problems(model) == [f"{blobs} has mode 0777; chmod go-w {blobs}"]
    blobs.chmod(0o1777)
    assert problems(model) == []


def test_what_belongs_to_another_user_is_refused(tmp_path):
    (tmp_path / "config.json").write_bytes(b"{}")
    facts = list(os.stat(tmp_path / "config.json"))
    facts[4] = 1234
    assert model_files._only_roots("config.json", os.stat_result(facts)) == ["config.json belongs to user 1234; chown root config.json"]


def test_a_model_that_is_not_there(tmp_path):
    assert "is no directory of this node" in problems(tmp_path / "nothing")[0]


def test_what_nobody_pinned_and_runs_nothing_is_left_alone(model):
    (model / "README.md").write_bytes(b"x")
    assert problems(model) == []


def test_a_file_is_read_again_only_where_it_changed(model):
    asked = []

    def read(path):
        asked.append(os.path.basename(path))
        return model_files.digest(path)

    _wrong, known = model_files.verify(str(model), CHECKSUMS, {}, read)
    assert sorted(asked) == ["config.json", "model-1.safetensors", "modelling.py"]
    asked.clear()
    assert problems(model, known=known, read=read) == [] and asked == []
    times = os.stat(model / "config.json")
    (model / "config.json").write_bytes(b"[]")
    # Set back by hand: the change time tells.
    os.utime(model / "config.json", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(problems(model, known=known, read=read)) == 1 and asked == ["config.json"]


def test_digests_are_remembered_and_nonsense_is_read_anew(model, tmp_path):
    record = tmp_path / "state" / "models.json"
    models = [{"path": str(model), "checksums": CHECKSUMS}]
    assert model_files.verify_all(models, False, str(record)) == [] and not record.exists()
    assert model_files.verify_all(models, True, str(record)) == []
    assert record.stat().st_mode & 0o777 == 0o600
    written = record.read_text()
    assert model_files.verify_all(models, True, str(record)) == [] and record.read_text() == written
    for nonsense in ("", "[]", "{", '{"x": 1}', '{"%s/config.json": 1}' % model, '{"%s/config.json": [1]}' % model):
        record.write_text(nonsense)
        assert model_files.verify_all(models, True, str(record)) == [] and record.read_text() == written


def test_a_long_list_is_cut(model):
    models = [{"path": str(model), "checksums": {f"{number}.json": "0" * 64 for number in range(30)}}]
    found = model_files.verify_all(models, False, "/nonexistent/models.json")
    assert len(found) == model_files.SHOWN + 1 and found[-1].startswith("and ")

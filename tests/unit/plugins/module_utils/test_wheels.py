# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Locks, tags, choice and layout of wheels."""

from __future__ import annotations

import json

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import wheels

A, B = "a" * 64, "b" * 64
TARGET = wheels.Target((3, 11, 2), "x86_64", "glibc", (2, 36))


def problems(function, *arguments):
    """The problems that a call is refused with."""
    with pytest.raises(wheels.WheelError) as caught:
        function(*arguments)
    return caught.value.problems


def test_lock_with_continuations_comments_extras_and_several_hashes():
    text = f"# made by a tool\nTorch==2.13.0+cpu \\\n  --hash=sha256:{A} \\\n  --hash=sha256:{B}  # why\nfastapi[standard]==0.136.3 --hash=sha256:{A}\n"
    assert wheels.parse_lock(text) == [
        wheels.Requirement("fastapi", "0.136.3", frozenset([A])), wheels.Requirement("torch", "2.13.0+cpu", frozenset([A, B])),
    ]


def test_lock_names_every_problem_at_once():
    text = "requests>=2\n--index-url https://x\nnumpy==2.3.5\n"
    text += f"six==1.17 ; python_version < '3.12' --hash=sha256:{A}\nuv==1 --hash=sha256:{A}\nUV==1 --hash=sha256:{A}\n"
    found = problems(wheels.parse_lock, text)
    assert len(found) == 5
    for index, word in enumerate(["not pinned", "option of pip", "no sha256", "environment marker", "listed twice"]):
        assert word in found[index]


def test_empty_lock_is_refused():
    assert "nothing is listed" in problems(wheels.parse_lock, "# nothing\n")[0]


@pytest.mark.parametrize(("filename", "fits"), [
    ("torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl", True),
    ("tokenizers-0.23.3-cp310-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
    ("tokenizers-0.23.3-cp312-abi3-manylinux_2_17_x86_64.whl", False),
    ("ninja-1.13.2-py3-none-manylinux2014_x86_64.whl", True),
    ("six-1.17-py2.py3-none-any.whl", True),
    ("six-1.17-py2-none-any.whl", False),
    ("torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl", False),
    ("torch-2.13.0+cpu-cp311-cp311-manylinux_2_39_x86_64.whl", False),
    ("torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_aarch64.whl", False),
    ("torch-2.13.0+cpu-cp311-cp311-musllinux_1_2_x86_64.whl", False),
    ("mindspore-2.7.1-cp311-cp311-linux_x86_64.whl", True),
])
def test_tags(filename, fits):
    assert (wheels.wheel_rank(wheels.parse_wheel_name(filename), TARGET) is not None) is fits


def test_the_best_wheel_comes_first():
    names = [
        "x-1-py3-none-any.whl",
        "x-1-cp311-cp311-manylinux_2_17_x86_64.whl",
        "x-1-cp311-cp311-manylinux_2_28_x86_64.whl",
        "x-1-cp38-abi3-manylinux_2_28_x86_64.whl",
    ]
    chosen = wheels.choose_wheels([wheels.Requirement("x", "1", frozenset([A]))], names, TARGET, "/srv/wheels")
    assert chosen == {"x": [names[2], names[1], names[3], names[0]]}


def test_missing_wheels_are_named_with_what_there_is():
    wanted = [wheels.Requirement("torch", "2.13.0+cpu", frozenset([A])), wheels.Requirement("numpy", "2.3.5", frozenset([A]))]
    found = problems(wheels.choose_wheels, wanted, ["torch-2.12.0-cp311-cp311-manylinux_2_28_x86_64.whl", "README"], TARGET, "/srv/wheels")
    assert "torch==2.13.0+cpu" in found[0] and "torch-2.12.0-cp311" in found[0]
    assert "/srv/wheels lacks a wheel of numpy==2.3.5" in found[1]


def test_layout_spreads_schemes():
    names = ["x/a.py", "x-1.data/scripts/run", "x-1.data/data/share/x", "x-1.data/purelib/y.py", "x-1.dist-info/RECORD", "x/"]
    assert wheels.layout("x-1.whl", names, "python3.11") == [
        ("x/a.py", "lib/python3.11/site-packages/x/a.py", False),
        ("x-1.data/scripts/run", "bin/run", True),
        ("x-1.data/data/share/x", "share/x", False),
        ("x-1.data/purelib/y.py", "lib/python3.11/site-packages/y.py", False),
        ("x-1.dist-info/RECORD", "lib/python3.11/site-packages/x-1.dist-info/RECORD", False),
    ]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "x/../../y", "x\\y", "x//y", "x-1.data/data/../../../etc/x"])
def test_unsafe_paths_are_refused(name):
    assert "unsafe path" in problems(wheels.layout, "x-1.whl", [name], "python3.11")[0]


def test_entry_points_and_launchers():
    scripts = wheels.entry_points("[console_scripts]\nvllm = vllm.cli:main.run [extra]\nbad name = x:y\n[other]\nz = a:b\n")
    assert scripts == {"vllm": ("vllm.cli", "main.run")}
    script = wheels.console_script("/opt/vllm/environments/x/bin/python", *scripts["vllm"])
    assert script.startswith("#!/opt/vllm/environments/x/bin/python\n") and "from vllm.cli import main\n" in script and "sys.exit(main.run())" in script
    compile(script, "vllm", "exec")


def test_shebang_of_shipped_scripts():
    assert wheels.rewrite_shebang(b"#!python -u\nprint()\n", "/e/bin/python") == b"#!/e/bin/python -u\nprint()\n"
    assert wheels.rewrite_shebang(b"#!/bin/sh\n", "/e/bin/python") == b"#!/bin/sh\n"


def test_digest_follows_content_not_order():
    first, second = wheels.Requirement("a", "1", frozenset([A])), wheels.Requirement("b", "1", frozenset([A, B]))
    digest = wheels.environment_digest(sorted([second, first]), TARGET, "/usr/bin/python3")
    assert digest == wheels.environment_digest([first, second], TARGET, "/usr/bin/python3")
    assert digest != wheels.environment_digest([first], TARGET, "/usr/bin/python3")
    assert digest != wheels.environment_digest([first, second], TARGET._replace(version=(3, 12, 1)), "/usr/bin/python3")
    assert digest == wheels.environment_digest([first, second], TARGET._replace(version=(3, 11, 9)), "/usr/bin/python3")


def probe(**changes):
    """What an interpreter prints about itself."""
    facts = {
        "version": [3, 11, 2],
        "implementation": "cpython",
        "machine": "x86_64",
        "base": "/usr/bin/python3.11",
        "free_threaded": False,
        "libc": ["glibc", "2.36"],
    }
    return json.dumps({**facts, **changes})


def test_interpreters():
    assert wheels.target_of(probe(), "/usr/bin/python3")[0] == TARGET
    found = problems(wheels.target_of, probe(version=[3, 8, 1], implementation="pypy"), "/usr/bin/pypy")
    assert "usual build of CPython" in found[0] and "3.9 or newer" in found[1]

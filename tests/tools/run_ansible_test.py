# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Run ansible-test on a copy of the checkout: run_ansible_test.py BUILD_FOLDER COMMAND [OPTION...].

ansible-test wants a real folder `ansible_collections/NAMESPACE/NAME` that is a repository of its own, interpreters that start,
and a script that installs pip. This provides the three and runs `ansible-test COMMAND --venv`, so that nothing but the package
index is contacted. Its virtual environments live in the copy's tests/output and are used again by the next run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from checkout import CHECKOUT, mirror

COLLECTION = Path("ansible_collections/vllm_mindspore/hardening")
# Oldest Python of a managed node, and the one of Debian 13; the controller's own comes with the virtual environment.
NODE_PYTHONS = ("3.9", "3.13")


def provide_pip() -> None:
    """Put pip's wheel and a script that runs it where ansible-test looks before it downloads one from its own server."""
    package = Path(find_spec("ansible_test").submodule_search_locations[0])
    requirements = (package / "_internal/python_requirements.py").read_text(encoding="utf-8")
    versions = re.findall(r"\bpip='([\d.]+)'", requirements)
    if not versions:
        raise SystemExit("tests/tools/run_ansible_test.py: this ansible-test names its pip in another place; adapt provide_pip().")
    cache = Path.home() / ".ansible/test/cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in versions:
        script = cache / f"get_pip_{version.replace('.', '_')}.py"
        if script.exists():
            continue
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), f"pip=={version}"]
        subprocess.run(command, check=True)
        shutil.copy(CHECKOUT / "tests/tools/get_pip.py", script)


def starts(interpreter: Path) -> bool:
    """Whether an interpreter runs; a version manager's placeholder for a version it was not told to use does not."""
    try:
        return subprocess.run([str(interpreter), "-c", "import venv"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def link_pythons(folder: Path) -> list[str]:
    """Link the interpreters of NODE_PYTHONS that this machine has into FOLDER; returns the versions that it lacks."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    missing = []
    for version in NODE_PYTHONS:
        name = f"python{version}"
        places = [Path(place) / name for place in os.get_exec_path()]
        places += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/{name}"), reverse=True)
        found = next((place for place in places if place.is_file() and starts(place)), None)
        if found:
            (folder / name).symlink_to(found)
        else:
            missing.append(version)
    return missing


def main() -> int:
    """Prepare and run; the exit status is ansible-test's."""
    build, command, options = Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3:]
    copy = build / "ansible-test" / COLLECTION
    mirror(copy, kept=[Path(".git"), Path("tests/output")])
    if not (copy / ".git").is_dir():
        subprocess.run(["git", "init", "--quiet", str(copy)], check=True)
    provide_pip()
    missing = link_pythons(build / "pythons")
    for version in missing:
        print(f"NOTE: no Python {version} on this machine: the modules are not run with it.", flush=True)
    path = [str(Path(sys.executable).parent), str(build / "pythons")]
    path += [place for place in os.get_exec_path() if Path(place).name != "shims"]
    environment = {**os.environ, "PATH": os.pathsep.join(path)}
    environment.pop("PYTHONPATH", None)
    arguments = ["ansible-test", command, "--venv", "--color", "no", *options]
    return subprocess.run(arguments, cwd=copy, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Build the collection's tarball, install it, and look at what a user would get: build.py FOLDER.

Every module, filter and role of the checkout must be listed by ansible-doc from the installed copy, and nothing may be
packed that only development needs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from checkout import CHECKOUT, mirror

NAME = "vllm_mindspore.hardening"
PACKED = {
    *("CHANGELOG.rst", "FILES.json", "LICENSE", "MANIFEST.json", "README.md", "changelogs", "docs", "meta", "playbooks", "plugins"),
    *("requirements.txt", "roles"),
}
KINDS = {"module": "plugins/modules/*.py", "filter": "plugins/filter/*.yml", "role": "roles/*"}


def run(collections: Path, *command: str) -> str:
    """The standard output of a command that must succeed, and that sees no other copy of the collection."""
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections)}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def main() -> int:
    """Build and compare; the exit status is 1 where something is missing or too much."""
    folder = Path(sys.argv[1]).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    mirror(folder / "source")
    installed = folder / "installed"
    print(run(installed, "ansible-galaxy", "collection", "build", "--output-path", str(folder), str(folder / "source")).strip())
    tarball = next(folder.glob("*.tar.gz"))
    run(installed, "ansible-galaxy", "collection", "install", "--offline", "--no-deps", "--collections-path", str(installed), str(tarball))
    collection = installed / "ansible_collections" / NAME.replace(".", "/")

    wrong = []
    for kind, pattern in KINDS.items():
        known = run(installed, "ansible-doc", "--type", kind, "--list", "--json", NAME)
        listed = {name.split(".")[-1] for name in json.loads(known)}
        present = {path.name.split(".")[0] for path in CHECKOUT.glob(pattern) if path.name[0] not in "_."}
        wrong += [f"{kind} {name}: ansible-doc does not list it from the installed collection" for name in sorted(present - listed)]
        print(f"{len(listed)} {kind}s")
    wrong += [f"{path.name} is packed; see build_ignore in galaxy.yml" for path in sorted(collection.iterdir()) if path.name not in PACKED]
    print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

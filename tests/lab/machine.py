# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The machine below the labs: its tools, its limits, its locks."""
from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from .progress import step
from .topology import Refusal

# What must be there -> the package that brings it.
TOOLS = {
    "podman": "podman",
    "crun": "crun",
    "conmon": "conmon",
    "/usr/lib/podman/netavark": "netavark",
    "mmdebstrap": "mmdebstrap",
    "gpg": "gpg",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
}


def cache() -> Path:
    """Where roots are kept: ``LAB_CACHE``, or ``vllm-hardening`` below the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LAB_CACHE") or Path(base) / "vllm-hardening")


def run(*command: str, text_input: str | None = None, check: bool = True) -> str:
    """Run a command and return its output; a failure is a Refusal with what it wrote."""
    result = subprocess.run(command, input=text_input, capture_output=True, text=True, check=False)
    if check and result.returncode:
        raise Refusal(f"{' '.join(command)}: exit {result.returncode}: {(result.stderr or result.stdout).strip()}")
    return result.stdout


def carries(release: dict[str, str]) -> bool:
    """Whether the packages of a distribution (what ``/etc/os-release`` says) are new enough; a derivative numbers itself otherwise."""
    oldest = {"debian": 12.0, "ubuntu": 24.04}
    name = release.get("ID", "")
    if name in oldest:
        version = release.get("VERSION_ID", "")
        return not re.fullmatch(r"[0-9]+(\.[0-9]+)?", version) or float(version) >= oldest[name]
    return bool(oldest.keys() & set(release.get("ID_LIKE", "").split()))


def demand(free_gib: float = 0) -> None:
    """Refuse a machine that cannot carry a lab, and install the tools that are missing."""
    if os.geteuid() != 0:
        raise Refusal("root is needed (namespaces, mounts, packages): run it with sudo")
    release = {}
    with contextlib.suppress(OSError):
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
        release = {key: value.strip('"') for key, _sign, value in (line.partition("=") for line in lines)}
    if not carries(release):
        raise Refusal(f"{release.get('PRETTY_NAME', 'this system')}: the lab needs Debian 12, Ubuntu 24.04 or newer")
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 2**30
    if free < free_gib:
        raise Refusal(
            f"{folder}: {free:.1f} GiB free, {free_gib:.0f} needed; make room or set LAB_CACHE to a folder elsewhere"
        )
    present = {tool for tool in TOOLS if (Path(tool).exists() if tool.startswith("/") else shutil.which(tool))}
    missing = sorted(package for tool, package in TOOLS.items() if tool not in present)
    if not missing:
        return
    with lock("packages"), step(f"installing {' '.join(missing)}"):
        run("apt-get", "update", "-q")
        install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
        run("env", "DEBIAN_FRONTEND=noninteractive", *install, *missing)


@contextlib.contextmanager
def lock(name: str, shared: bool = False, wait: bool = True):
    """Hold a lock among all labs of the machine; yields False where it is taken and ``wait`` is false."""
    folder = Path("/run/lock")
    folder.mkdir(exist_ok=True)
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with open(folder / f"vllm-lab-{name}", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            with step(f"waiting for another lab ({name})"):
                fcntl.flock(file, mode)
        yield True


def replace(path: Path, text: str) -> None:
    """Write a file whole, or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def own_networks() -> list[str]:
    """Networks this machine has an address in or a route to, without the default routes."""
    found = set()
    for family in ("-4", "-6"):
        for route in json.loads(run("ip", "-json", family, "route", "show", "table", "all") or "[]"):
            if route["dst"] != "default" and route.get("type") not in ("multicast", "broadcast"):
                found.add(route["dst"])
    return sorted(found)

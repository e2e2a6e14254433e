# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Root file systems: recipes, and images made from them by mmdebstrap, kept in the cache."""
from __future__ import annotations

import hashlib
import re

from . import machine
from .inventory import ACCOUNT
from .podman import Podman
from .progress import step
from .topology import Refusal

PACKAGES = (
    # netbase: without /etc/protocols nft 1.0.6 knows no protocol by name.
    "systemd-sysv dbus openssh-server sudo python3 python3-venv python3-apt nftables iproute2 iputils-ping netbase"
    " procps libnuma1 libgomp1 conntrack kmod ca-certificates"
).split()
# Debian 13 permits an ordinary account's ping by a sysctl of this package instead of a capability.
SUITE_PACKAGES = {"bookworm": [], "trixie": ["linux-sysctl-defaults"]}
SUITES = tuple(SUITE_PACKAGES)
GIB_FOR_A_ROOT = 3
_STORAGE = {"podman": "/var/lib/containers", "docker.io": "/var/lib/docker"}
_REPOSITORY = "localhost/vllm-lab"

# Run on the machine with the root's path as $1. Every lab brings its own host keys and its own permitted key.
_CUSTOMIZE = f"""set -eu
chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash {ACCOUNT}
printf '{ACCOUNT} ALL=(ALL:ALL) NOPASSWD: ALL\\n' > "$1/etc/sudoers.d/{ACCOUNT}"
chmod 0440 "$1/etc/sudoers.d/{ACCOUNT}"
printf 'PermitRootLogin no\\nPasswordAuthentication no\\n' > "$1/etc/ssh/sshd_config.d/site.conf"
rm -f "$1"/etc/ssh/ssh_host_*
chroot "$1" systemctl disable apt-daily.timer apt-daily-upgrade.timer
rm -f "$1/etc/resolv.conf" "$1/var/lib/dbus/machine-id"
: > "$1/etc/resolv.conf"
: > "$1/etc/machine-id"
"""


def parse(text: str) -> tuple[str, list[str]]:
    """``SUITE[+PACKAGE...]`` -> suite and additional packages."""
    suite, *packages = text.split("+")
    if suite not in SUITES:
        raise Refusal(f"--root {text}: suite {suite!r} is not known; write {' or '.join(SUITES)}[+PACKAGE...]")
    for package in packages:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]+", package):
            raise Refusal(f"--root {text}: {package!r} is not the name of a package")
    return suite, sorted(set(packages))


def _packages(suite: str, additional: list[str]) -> list[str]:
    return [*PACKAGES, *SUITE_PACKAGES[suite], *additional]


def image(text: str) -> str:
    """The image of a root: its tag is a readable part and a hash of the recipe, so that an outdated one is never used."""
    suite, packages = parse(text)
    recipe = hashlib.sha256(repr((suite, _packages(suite, packages), _CUSTOMIZE)).encode()).hexdigest()[:12]
    return f"{_REPOSITORY}:{'_'.join([suite, *packages])[:100]}-{recipe}"


def volumes(text: str) -> list[str]:
    """Where a host with this root needs a file system of its own: a container engine's overlays cannot lie on an overlay."""
    return [_STORAGE[package] for package in parse(text)[1] if package in _STORAGE]


def sources(indexes: str, suite: str) -> list[str]:
    """apt source lines for a suite, from the mirrors this machine itself uses (``apt-get indextargets``: LABEL|SITE).

    Empty where the machine uses no Debian mirror (Ubuntu): mmdebstrap then takes its default.
    """
    mirrors = dict(reversed([line.split("|") for line in indexes.split()]))
    if "Debian" not in mirrors:
        return []
    lines = [f"deb {mirrors['Debian']} {suite} main", f"deb {mirrors['Debian']} {suite}-updates main"]
    if "Debian-Security" in mirrors:
        lines.append(f"deb {mirrors['Debian-Security']} {suite}-security main")
    return lines


def _apt_options() -> list[str]:
    """Proxies and the like: mmdebstrap leaves the machine's own apt configuration aside."""
    dumped = machine.run("apt-config", "dump", "--no-empty").splitlines()
    return [f"--aptopt={line}" for line in dumped if re.match(r"Acquire::(https?::|Check-|Retries)", line)]


def build(texts: list[str], podman: Podman, again: bool = False) -> None:
    """Make the images that are missing (all, if ``again``), one after the other."""
    for text in dict.fromkeys(texts):
        name = image(text)
        with machine.lock(f"root-{name.rpartition(':')[2]}"):
            if again or name not in podman.images():
                with step(f"building root {text}"):
                    _build(text, name, podman)
                for old in outdated(name, podman.images()):
                    podman.discard(old)


def _build(text: str, name: str, podman: Podman) -> None:
    suite, packages = parse(text)
    machine.demand(free_gib=GIB_FOR_A_ROOT)
    archive = machine.cache() / f"{name.rpartition(':')[2]}.tar"
    indexes = machine.run("apt-get", "indextargets", "--format", "$(LABEL)|$(SITE)", "Created-By: Packages")
    customize = archive.with_suffix(".sh")
    customize.write_text(_CUSTOMIZE, encoding="utf-8")
    try:
        machine.run(
            "mmdebstrap",
            "--mode=root",
            "--variant=minbase",
            "--format=tar",
            f"--include={','.join(_packages(suite, packages))}",
            *_apt_options(),
            f"--customize-hook=sh {customize} \"$1\"",
            suite,
            str(archive),
            *sources(indexes, suite),
        )
        podman.load(name, archive)
    finally:
        for path in (archive, customize):
            path.unlink(missing_ok=True)


def discard(podman: Podman) -> list[str]:
    """Remove all cached images; returns their names."""
    names = sorted(name for name in podman.images() if name.startswith(f"{_REPOSITORY}:"))
    for name in names:
        podman.discard(name)
    return names


def outdated(name: str, images: set[str]) -> list[str]:
    """Images of the same root as ``name`` made from another recipe."""
    readable = name.rpartition("-")[0]
    return sorted(other for other in images if other != name and other.rpartition("-")[0] == readable)

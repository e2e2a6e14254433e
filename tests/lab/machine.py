# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The machine below the labs: its tools, its limits, and the mount namespace podman runs in.

Everything that is not cached lies below ``/run/vllm-lab`` and goes with the last lab.
"""
from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

from . import sysctls
from .progress import say, step
from .topology import Refusal

RUNTIME = Path("/run/vllm-lab")
LABS = RUNTIME / "labs"
HOOKS = RUNTIME / "hooks"
CONTAINERS_CONF = RUNTIME / "containers.conf"
_MOUNTS = RUNTIME / "namespaces"
_MOUNT_NAMESPACE = _MOUNTS / "mnt"
_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
_SYSCTLS_BEFORE = RUNTIME / "sysctls.json"
_CAP_SYS_RESOURCE = 24

TOOLS = {
    "podman": "podman",
    "crun": "crun",
    "conmon": "conmon",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "ssh-keygen": "openssh-client",
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


def demand(free_gib: float = 0) -> None:
    """Refuse a machine that cannot carry a lab, and install the tools that are missing."""
    if os.geteuid() != 0:
        raise Refusal("root is needed (namespaces, mounts, packages): run it with sudo")
    release = {}
    with contextlib.suppress(OSError):
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
        release = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    if not {"debian", "ubuntu"} & {release.get("ID"), *release.get("ID_LIKE", "").split()}:
        raise Refusal(f"{release.get('PRETTY_NAME', 'this system')}: the lab needs Debian 12, Ubuntu 24.04 or newer")
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 2**30
    if free < free_gib:
        raise Refusal(
            f"{folder}: {free:.1f} GiB free, {free_gib:.0f} needed; make room or set LAB_CACHE to a folder elsewhere"
        )
    missing = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
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


def limits() -> list[str]:
    """podman's default resource limits: root without CAP_SYS_RESOURCE must not ask for more than it has."""
    capabilities = next(
        line.split()[1]
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        if line.startswith("CapEff")
    )
    if int(capabilities, 16) >> _CAP_SYS_RESOURCE & 1:
        return []
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes = min(30000, resource.getrlimit(resource.RLIMIT_NPROC)[1])
    return [f"nofile={files}:{files}", f"nproc={processes}:{processes}"]


def prepare() -> None:
    """Make what all labs share: podman's configuration, the plumbing hook, the mount namespace, kernel limits."""
    with lock("prepare"):
        _prepare()


def _prepare() -> None:
    LABS.mkdir(parents=True, exist_ok=True)
    HOOKS.mkdir(exist_ok=True)
    plumb = RUNTIME / "plumb"
    replace(plumb, (Path(__file__).parent / "plumb").read_text(encoding="utf-8"))
    hook = {
        "version": "1.0.0",
        "hook": {"path": "/bin/sh", "args": ["sh", str(plumb)]},
        "when": {"annotations": {r"^vllm-lab\.plumbing$": ".*"}},
        "stages": ["createRuntime"],
    }
    replace(HOOKS / "vllm-lab.json", json.dumps(hook))
    replace(
        CONTAINERS_CONF,
        "[containers]\n"
        f"default_ulimits = {json.dumps(limits())}\n"
        "pids_limit = 0\n"
        'log_driver = "k8s-file"\n'
        "[engine]\n"
        f'cgroup_manager = "{"systemd" if Path("/run/systemd/system").exists() else "cgroupfs"}"\n'
        'events_logger = "none"\n'
        f"hooks_dir = {json.dumps([str(HOOKS)])}\n"
        'lock_type = "file"\n'
        'runtime = "crun"\n',
    )
    if not _SYSCTLS_BEFORE.exists():
        replace(_SYSCTLS_BEFORE, json.dumps(sysctls.read(), indent=1))
    # Each systemd takes six to ten instances; when they run out it exits without a word.
    if int(_INSTANCES.read_text(encoding="ascii")) < 1024:
        _INSTANCES.write_text("1024", encoding="ascii")
    # iproute2 makes /run/netns a shared mount at its first use: before the namespace below, so that it is seen there.
    if not mounted(Path("/run/netns")):
        run("ip", "netns", "add", "vllm-lab-first")
        run("ip", "netns", "delete", "vllm-lab-first")
    if needs_namespace() and not mounted(_MOUNT_NAMESPACE):
        _make_namespace()


def mounted(path: Path) -> bool:
    """Whether something is mounted on a path; unlike ``os.path.ismount`` this knows a bind mount of the same file system."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return any(line.split()[4] == str(path) for line in lines)


def needs_namespace() -> bool:
    """Whether cgroups are mounted the old or the hybrid way; crun and systemd want cgroup2 alone."""
    return run("stat", "--file-system", "--format=%T", "/sys/fs/cgroup").strip() != "cgroup2fs"


def _make_namespace() -> None:
    _MOUNTS.mkdir(exist_ok=True)
    if not mounted(_MOUNTS):
        # A mount namespace can only be pinned on a private mount.
        run("mount", "--bind", str(_MOUNTS), str(_MOUNTS))
        run("mount", "--make-private", str(_MOUNTS))
    _MOUNT_NAMESPACE.touch()
    # slave: what the machine mounts later (network namespaces among it) is seen inside, nothing goes the other way.
    script = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    run("unshare", f"--mount={_MOUNT_NAMESPACE}", "--propagation=slave", "sh", "-c", script)


def inside() -> list[str]:
    """Prefix of a command that must run where podman runs."""
    return ["nsenter", f"--mount={_MOUNT_NAMESPACE}"] if mounted(_MOUNT_NAMESPACE) else []


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


def release() -> None:
    """Undo ``prepare``, unless there is a lab or somebody is about to make one."""
    with lock("prepare"), lock("use", wait=False) as alone:
        if not alone or not RUNTIME.exists() or (LABS.exists() and any(LABS.iterdir())):
            return
        if _SYSCTLS_BEFORE.exists():
            sysctls.restore(json.loads(_SYSCTLS_BEFORE.read_text(encoding="utf-8")))
        for mount in (_MOUNT_NAMESPACE, _MOUNTS):
            while mounted(mount):
                run("umount", str(mount))
        shutil.rmtree(RUNTIME)
        say("nothing is left of the labs but the cached roots")

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What all labs of the machine share while there are any: podman's configuration, its mount namespace, kernel limits.

Everything lies below ``/run/vllm-lab`` and goes with the last lab.
"""
from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

from . import sysctls
from .machine import lock, replace, run
from .progress import say

RUNTIME = Path("/run/vllm-lab")
LABS = RUNTIME / "labs"
NAMESPACES = Path("/run/netns")
HOOKS = RUNTIME / "hooks"
CONTAINERS_CONF = RUNTIME / "containers.conf"
_MOUNTS = RUNTIME / "namespaces"
_MOUNT_NAMESPACE = _MOUNTS / "mnt"
_SYSCTLS_BEFORE = RUNTIME / "sysctls.json"
_BOOT = RUNTIME / "boot_id"
_BOOT_NOW = Path("/proc/sys/kernel/random/boot_id")
_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
_CAP_SYS_RESOURCE = 24


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
    _forget_earlier_boot()
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
    if not mounted(NAMESPACES):
        run("ip", "netns", "add", "vllm-lab-first")
        run("ip", "netns", "delete", "vllm-lab-first")
    if needs_namespace() and not mounted(_MOUNT_NAMESPACE):
        _make_namespace()


def _forget_earlier_boot() -> None:
    """Remove what labs left that ended with the machine, where its ``/run`` outlives a boot."""
    now = _BOOT_NOW.read_text(encoding="ascii")
    if RUNTIME.exists() and _BOOT.exists() and _BOOT.read_text(encoding="ascii") != now:
        for lab in LABS.iterdir():
            (NAMESPACES / f"lab-{lab.name}").unlink(missing_ok=True)
        shutil.rmtree(RUNTIME)
    RUNTIME.mkdir(parents=True, exist_ok=True)
    replace(_BOOT, now)


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

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a node consists of: files, units, accounts, packet filter, kernel parameters.

    listing.py keep FILE       writes it as JSON
    listing.py compare FILE    prints in what the node differs from such a file, and fails where it does
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

ROOTS = ("/etc", "/home", "/opt", "/root", "/srv", "/usr", "/var/cache", "/var/lib", "/run/vllm-hardening", "/run/systemd/system", "/run/credentials")
# What Ansible's own login leaves, what the node writes by itself, and the copies that useradd keeps.
OURSELVES = ("/home/deploy/.ansible", "/root/.ansible", "/var/lib/systemd", "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock")
# What the kernel or systemd change by themselves, and what is the machine's, which all hosts of its labs share.
MOVING = (
    "nf_conntrack_count", "netdev_rss_key", "fs.dentry-state", "fs.file-nr", "fs.inode-", "fs.aio-nr", "fs.binfmt_misc.", "fs.epoll", "fs.quota", "random.",
    "ns_last_pid", "pty.nr", "sched_domain",
    # What another host of a lab writes when it boots.
    "fs.file-max", "fs.inotify.", "fs.nr_open", "fs.protected_", "kernel.core_", "kernel.pid_max", "kernel.sysrq", "vm.max_map_count",
)


def files():
    """{path: kind, mode, owner, digest}; the times of directories and files are theirs."""
    found = {}
    for root in ROOTS:
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if os.path.join(folder, name) not in OURSELVES and name != "__pycache__"]
            for name in [*folders, *names]:
                path = os.path.join(folder, name)
                if path in OURSELVES:
                    continue
                status = os.lstat(path)
                content = ""
                if os.path.islink(path):
                    content = os.readlink(path)
                elif os.path.isfile(path) and not path.startswith("/usr/"):
                    with open(path, "rb") as handle:
                        content = hashlib.sha256(handle.read()).hexdigest()
                size = status.st_size if os.path.isfile(path) else 0
                found[path] = f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {size} {content}"
    return found


def lines(*command):
    """What a command prints, line by line."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout.splitlines()


def entries(part):
    """The lines of a part of a listing."""
    return {f"{key} = {value}" for key, value in part.items()} if isinstance(part, dict) else set(part)


def listing():
    """Everything."""
    sysctls = dict(line.partition(" = ")[::2] for line in subprocess.run(
        ["sysctl", "--all"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout.splitlines())
    return {
        "files": files(),
        "units": sorted(line.split()[0] + " " + line.split()[1] for line in lines("systemctl", "list-unit-files", "--no-legend", "--no-pager")),
        "loaded": sorted(line.split()[0] for line in lines("systemctl", "list-units", "--all", "--plain", "--no-legend", "--no-pager", "vllm*")),
        "accounts": sorted(lines("getent", "passwd") + lines("getent", "group")),
        "rules": lines("nft", "list", "ruleset"),
        "sysctls": {key: value for key, value in sorted(sysctls.items()) if not any(part in key for part in MOVING)},
    }


def main():
    """Keep or compare."""
    verb, path = sys.argv[1:]
    now = listing()
    if verb == "keep":
        with open(path, "w", encoding="utf-8") as handle:
            json.dump(now, handle)
        return
    with open(path, encoding="utf-8") as handle:
        then = json.load(handle)
    differing = []
    for name in then:
        differing += [f"{name}: left: {line}" for line in sorted(entries(now[name]) - entries(then[name]))]
        differing += [f"{name}: gone: {line}" for line in sorted(entries(then[name]) - entries(now[name]))]
    sys.exit("\n".join(differing) if differing else 0)


if __name__ == "__main__":
    main()

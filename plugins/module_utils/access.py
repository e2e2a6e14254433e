# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Who may become whom on this host: accounts, sudo rules, the SSH daemon's effective settings."""

from __future__ import annotations

import glob
import grp
import os
import pwd
import re

SUDOERS = ("/etc/sudoers", "/etc/sudoers.d/*")


def password_state(name, shadow="/etc/shadow"):
    """`locked`, `set`, `empty`, or None where the host does not tell."""
    try:
        with open(shadow, encoding="utf-8", errors="backslashreplace") as file:
            for line in file:
                fields = line.split(":")
                if fields[0] == name:
                    return "locked" if fields[1][:1] in ("!", "*") else "set" if fields[1] else "empty"
    except (OSError, IndexError):
        return None
    return "locked"


def sudo_rules(paths=SUDOERS):
    """[(file name, line)] of every rule, comments and defaults left out."""
    rules = []
    for pattern in paths:
        for path in sorted(glob.glob(pattern)):
            name = os.path.basename(path)
            if path != pattern and ("." in name or name.endswith("~")):
                continue
            with open(path, encoding="utf-8", errors="backslashreplace") as file:
                text = re.sub(r"\\\n", " ", file.read())
            rules.extend((name, line.strip()) for line in text.splitlines()
                         if line.strip() and not line.lstrip().startswith(("#", "@", "Defaults")) and "_Alias" not in line.split()[0])
    return rules


def read_accounts(names):
    """{name: {uid, group, groups, shell, home, password, sudo}}, None for an account the host does not have.

    `sudo` lists the rules that name the account, one of its groups, or everybody.
    """
    rules = sudo_rules() if names else []
    accounts = {}
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            accounts[name] = None
            continue
        groups = sorted(group.gr_name for group in grp.getgrall() if name in group.gr_mem or group.gr_gid == entry.pw_gid)
        subjects = {name, f"#{entry.pw_uid}", "ALL", *(f"%{group}" for group in groups)}
        accounts[name] = {
            "uid": entry.pw_uid, "groups": groups, "shell": entry.pw_shell, "home": entry.pw_dir, "password": password_state(name),
            "sudo": [f"{file}: {line}" for file, line in rules if subjects & set(re.sub(r"\s*,\s*", ",", line).split()[0].split(","))],
        }
    return accounts


def read_sshd(run):
    """The SSH daemon's effective settings as {name in lower case: [values]}, None where there is no SSH daemon.

    They are asked of the daemon itself for a login of root; blocks of `Match` that concern others do not show. Raises OSError where it refuses.
    """
    binary = next((path for path in ("/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd") if os.access(path, os.X_OK)), None)
    if binary is None:
        return None
    code, output, error = run([binary, "-T", "-C", "user=root,host=localhost,addr=127.0.0.1"])
    if code != 0:
        raise OSError(code, error.strip() or "sshd -T failed")
    settings = {}
    for line in output.splitlines():
        name, _separator, value = line.partition(" ")
        settings.setdefault(name.lower(), []).append(value)
    return settings

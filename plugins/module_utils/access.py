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


def _sudo_lines(paths):
    """(file name, line) of what sudo reads, comments left out; `#1000` at the start of a line is a user."""
    for pattern in paths:
        for path in sorted(glob.glob(pattern)):
            name = os.path.basename(path)
            if path != pattern and ("." in name or name.endswith("~")):
                continue
            with open(path, encoding="utf-8", errors="backslashreplace") as file:
                text = re.sub(r"\\\n", " ", file.read())
            yield from ((name, line.strip()) for line in text.splitlines() if line.strip() and not re.match(r"\s*#(?!\d)", line))


def sudo_rules(paths=SUDOERS):
    """[(file name, line)] of every rule, comments, aliases and defaults left out."""
    return [(name, line) for name, line in _sudo_lines(paths) if not line.startswith(("@", "Defaults")) and "_Alias" not in line.split()[0]]


def user_aliases(paths=SUDOERS):
    """{alias: {members}} of the users that rules name together."""
    aliases = {}
    for _name, line in _sudo_lines(paths):
        if line.split()[0] == "User_Alias":
            for definition in line.partition("User_Alias")[2].split(":"):
                alias, _separator, members = definition.partition("=")
                aliases.setdefault(alias.strip(), set()).update(member.strip() for member in members.split(","))
    return aliases


def read_accounts(names):
    """{name: {uid, group, groups, shell, home, password, sudo}}, None for an account the host does not have.

    `sudo` lists the rules that name the account, one of its groups, or everybody.
    """
    rules, aliases = (sudo_rules(), user_aliases()) if names else ([], {})
    accounts = {}
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            accounts[name] = None
            continue
        groups = sorted(group.gr_name for group in grp.getgrall() if name in group.gr_mem or group.gr_gid == entry.pw_gid)
        subjects = {name, f"#{entry.pw_uid}", "ALL", *(f"%{group}" for group in groups), *(f"%#{grp.getgrnam(group).gr_gid}" for group in groups)}
        for _level in aliases:  # an alias may name another
            subjects |= {alias for alias, members in aliases.items() if members & subjects}
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

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The drop-ins of the SSH daemon and of sudo: their text, what of it takes effect for a login, and why a login would be refused. Pure, no I/O."""

from __future__ import annotations

import fnmatch
import ipaddress
import re

HEADER = "# Managed by vllm_mindspore.hardening; changes are overwritten.\n"
# sshd takes the first value that it reads of an option, and reads drop-ins in the order of their names.
BASE = {
    "PermitRootLogin": "no",
    "PubkeyAuthentication": "yes",
    "PasswordAuthentication": "no",
    "KbdInteractiveAuthentication": "no",
    "PermitEmptyPasswords": "no",
    "AuthenticationMethods": "publickey",
    "HostbasedAuthentication": "no",
    "PermitUserEnvironment": "no",
    "X11Forwarding": "no",
    "AllowAgentForwarding": "no",
    "AllowTcpForwarding": "no",
    "GatewayPorts": "no",
    "PermitTunnel": "no",
    "MaxAuthTries": "3",
    "LoginGraceTime": "30",
}
# What other files write is added to these.
_ADDED_UP = ("listenaddress", "allowgroups")
# sshd prints these in another form than they are written in; whether a login works is seen by trying.
_NOT_COMPARED = (*_ADDED_UP, "port", "logingracetime")


def no_addresses(addresses):
    """Those of the addresses that no single interface can have."""
    found = []
    for address in addresses:
        try:
            if ipaddress.ip_address(address).is_unspecified:
                found.append(address)
        except ValueError:
            found.append(address)
    return found


def dropin(addresses, port, groups, settings):
    """The text of the drop-in. ``settings`` replace or follow BASE; a list gives a line for each of its values, a boolean yes or no."""
    lines = []
    for address in addresses:
        shown = address if no_addresses([address]) else str(ipaddress.ip_address(address))
        lines.append(f"ListenAddress {'[' + shown + ']' if ':' in shown else shown}:{port}")
    lines.append(f"AllowGroups {' '.join(groups)}")
    options = {name.lower(): (name, value) for name, value in [*BASE.items(), *settings.items()]}
    for name, value in options.values():
        for item in value if isinstance(value, list) else [value]:
            lines.append(f"{name} {('no', 'yes')[item] if isinstance(item, bool) else item}")
    return HEADER + "".join(line + "\n" for line in lines)


def parse(text):
    """``{option in lower case: [values]}`` of what ``sshd -T`` prints, or of a drop-in."""
    found = {}
    for line in text.splitlines():
        name, _blank, value = line.strip().partition(" ")
        if name and not name.startswith("#"):
            found.setdefault(name.lower(), []).append(value.strip())
    return found


def overridden(wanted, effective):
    """Options of a drop-in that something else decides for this login, as ``(option, wanted, effective)``."""
    differing = []
    for name, values in parse(wanted).items():
        if name in _NOT_COMPARED:
            continue
        have = effective.get(name, [])
        if [value.lower() for value in values] != [value.lower() for value in have]:
            # "no" and "prohibit-password" have older names; an option that this sshd does not print is not compared.
            if have and not (name == "permitrootlogin" and have == ["without-password"] and values == ["prohibit-password"]):
                differing.append((name, " ".join(values), " ".join(have)))
    return differing


def added(wanted, effective):
    """Addresses and groups that another file adds to those of a drop-in, as ``(option, [values])``."""
    ours = parse(wanted)
    found = []
    for name in _ADDED_UP:
        more = [value for value in " ".join(effective.get(name, [])).split() if value not in " ".join(ours.get(name, [])).split()]
        if name in ours and more:
            found.append((name, more))
    return found


def refusals(effective, user, groups, server):
    """Why this login would be refused under the effective configuration, as texts; ``server`` is (address, port) that it came to."""
    problems = []

    def listed(option, names):
        patterns = " ".join(effective.get(option, [])).split()
        return [pattern for pattern in patterns for name in names if fnmatch.fnmatchcase(name, pattern.partition("@")[0])], patterns

    for option, names, what in (("allowusers", [user], f"the account {user}"), ("allowgroups", groups, f"the groups of {user} ({', '.join(groups)})")):
        matching, patterns = listed(option, names)
        if patterns and not matching:
            problems.append(f"{option} ({' '.join(patterns)}) does not hold {what}")
    for option, names in (("denyusers", [user]), ("denygroups", groups)):
        matching, _patterns = listed(option, names)
        if matching:
            problems.append(f"{option} refuses {matching[0]}")
    if user == "root" and effective.get("permitrootlogin") == ["no"]:
        problems.append("this run logs in as root, whom permitrootlogin refuses")
    if effective.get("pubkeyauthentication") == ["no"]:
        problems.append("pubkeyauthentication is no")
    if server:
        address, port = server
        shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        listening = effective.get("listenaddress", [])
        if listening and not {shown, f"0.0.0.0:{port}", f"[::]:{port}"} & set(listening):
            problems.append(f"this run comes in at {shown}, and sshd would listen on {', '.join(listening)} only")
    return problems


def sudo_rules(account, password):
    """The text of a drop-in of sudo that leaves an account what Ansible runs, as root, and nothing else.

    The last rule that matches counts (sudoers(5)), so that this file, the last by its name, needs nothing of others changed. With ``password``
    the account goes on being asked for its password. It does not confine who holds the account, since what Ansible runs is Python of its
    own choice; it leaves that one door, which sudo logs. Regular expressions need sudo 1.9.10.
    """
    command = r"/bin/sh ^-c echo BECOME-SUCCESS-[a-z]+ ; /[A-Za-z0-9/._-]*python[0-9.]*( [A-Za-z0-9/._~-]+)*$"
    return f"{HEADER}{account} ALL=(ALL:ALL) !ALL\n{account} ALL=(root) {'PASSWD' if password else 'NOPASSWD'}: {command}\n"


def later_rules(listing):
    """What ``sudo -l`` lists for an account after the rules of sudo_rules(); all of it where they are not there."""
    lines = [line.strip() for line in listing.splitlines() if line.strip()] or ["sudo lists no rule"]
    ours = [number for number, line in enumerate(lines) if "/bin/sh ^-c echo BECOME-SUCCESS-" in line]
    return lines[ours[-1] + 1:] if ours else lines


def sudo_version(text):
    """(1, 9, 13) of what ``sudo -V`` prints; () where it does not say."""
    found = re.search(r"[Vv]ersion (\d+)\.(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else ()


def rollback_script(directory, paths, unit):
    """Puts the files of before, by the name of their copy, back unless the change was confirmed; POSIX shell, nothing that was made for a login.

    Whoever renames the token first has won. It runs from a timer, and at boot before sshd.
    """
    back = "".join(
        f"if [ -e {copy} ]; then cp -p {copy} '{path}.new' && mv '{path}.new' '{path}' || exit 1; else rm -f '{path}' || exit 1; fi\n"
        for copy, path in sorted(paths.items())
    )
    return f"""#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd '{directory}' || exit 0
mv pending rolling-back 2>/dev/null || [ -e rolling-back ] || exit 0
{back}sync
[ "$1" = boot ] || {{ systemctl daemon-reload; systemctl reload-or-restart {unit}; }}
mv rolling-back rolled-back
"""


def guard_unit(directory):
    """The unit that undoes a change which nobody had confirmed when the node went down."""
    return f"""{HEADER}[Unit]
Description=Undo a change of SSH access that was not confirmed
DefaultDependencies=no
After=local-fs.target
Before=ssh.service sshd.service ssh.socket
ConditionPathExistsGlob=|{directory}/*/pending
ConditionPathExistsGlob=|{directory}/*/rolling-back

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'for change in {directory}/*/rollback; do sh "$change" boot; done'

[Install]
WantedBy=sysinit.target
"""


def waiting_unit():
    """A drop-in of sshd's unit: a daemon that listens on named addresses alone begins again until they are there.

    Without it a boot on which the network is late ends every login: sshd gives up with the status 255, after which Debian's unit stays down.
    """
    return f"""{HEADER}[Unit]
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=
"""

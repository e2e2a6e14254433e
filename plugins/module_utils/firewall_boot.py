# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Where the packet filter lies on a node: what loads it before the network is up and whenever nftables.service flushes, and the state of its changes."""
from __future__ import annotations

import os
import re
import shlex
import stat

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import nft_change
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.confirmed_change import Staged

RULES = "/etc/vllm-hardening/firewall.nft"
UNIT = "/etc/systemd/system/vllm-hardening-firewall.service"
LINK = "/etc/systemd/system/sysinit.target.wants/vllm-hardening-firewall.service"
DROP_IN = "/etc/systemd/system/nftables.service.d/vllm-hardening.conf"
VOLATILE = "/run/vllm-hardening/firewall"
PERMANENT = "/var/lib/vllm-hardening/firewall"

FOLDERS = (os.path.dirname(RULES), PERMANENT)

HEADER = """# The packet filter of vllm_mindspore.hardening, as it was last confirmed.
# Loaded at boot by vllm-hardening-firewall.service. Changed by the next run of the role vllm_firewall, not by hand.
"""
UNIT_TEXT = """# Managed by vllm_mindspore.hardening
[Unit]
Description=Packet filter of vllm_mindspore.hardening
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target shutdown.target
After=nftables.service
Conflicts=shutdown.target
RequiresMountsFor={rules}
ConditionPathExists={rules}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={nft} -f {rules}
ExecReload={nft} -f {rules}

[Install]
WantedBy=sysinit.target
"""
MANAGED = "# Managed by vllm_mindspore.hardening: starting, reloading and stopping nftables.service flushes every table, this one too."
SERVICE = tuple(f"{folder}/systemd/system/nftables.service" for folder in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"))
_EXEC = re.compile(r"^(Exec\w+)=(.*)$", re.MULTILINE)


def service_text():
    """The unit of the distribution that loads /etc/nftables.conf or the like, or None where there is none."""
    for path in SERVICE:
        try:
            with open(path, encoding="utf-8") as stream:
                return stream.read()
        except OSError:
            continue
    return None


def drop_in(service, nft):
    """What nftables.service has to do besides, given the text of its unit or None.

    What the unit runs is known from Debian, Ubuntu (``nft -f FILE``) and Fedora's family (``nft 'flush ruleset; include "FILE";'``): there our
    table is loaded in the transaction that flushes it, so that no packet ever meets a kernel without it. A unit that runs anything else
    gets our table back by a second command.
    """
    scripts = {}
    for name, command in _EXEC.findall(service or ""):
        script = _script(command)
        if name in scripts or name not in ("ExecStart", "ExecReload", "ExecStop") or script is None:
            scripts = {}
            break
        scripts[name] = script
    if scripts:
        # A pattern: where the file is missing, the rules of the site load all the same.
        lines = [f'{name}=\n{name}={nft} "{_quoted(script)}include \\"{RULES}*\\"\\n"' for name, script in scripts.items()]
    else:
        lines = [f"{name}=-{nft} -f {RULES}" for name in ("ExecStartPost", "ExecReload", "ExecStopPost")]
    return "\n".join([MANAGED, "[Service]", *lines, ""])


def _script(command):
    """What nft executes, as lines of its language; None where it is not nft, or not alone."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if not words or not words[0].startswith("/") or os.path.basename(words[0]) != "nft":
        return None
    if len(words) == 3 and words[1] == "-f" and words[2].startswith("/"):
        return f'include "{words[2]}"\n\n'
    if any(word.startswith("-") for word in words[1:]):
        return None
    # The end of a file that lacks a newline runs into what follows, unless an empty line does.
    return " ".join(words[1:]).strip("; ") + "\n\n"


def _quoted(script):
    """A script as a word in a unit."""
    return script.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$").replace("\n", "\\n")


def files_for(table, content, nft, service):
    """What has to lie on disk so that the rules are there before the network is: path -> text, or (target,) for a link."""
    return {
        RULES: HEADER + nft_change.replacement(table, content),
        UNIT: UNIT_TEXT.format(nft=nft, rules=RULES),
        DROP_IN: drop_in(service, nft),
        LINK: (UNIT,),
    }


def mode_of(path):
    """The mode of a file of ours: what says which rules are confirmed is root's to read."""
    return 0o600 if path.startswith((PERMANENT, RULES)) else 0o644


def differing(files):
    """The paths whose content, owner or mode on disk is not the wanted one."""
    paths = []
    for path, wanted in files.items():
        try:
            if isinstance(wanted, tuple):
                same = os.readlink(path) == wanted[0]
            else:
                found = os.lstat(path)
                same = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == mode_of(path)
                with open(path, encoding="utf-8") as stream:
                    same = same and stream.read() == wanted
        except (OSError, ValueError):
            same = False
        if not same:
            paths.append(path)
    return paths


def loose(directories=FOLDERS):
    """Those of the directories of ours in which others than root could put files."""
    found = []
    for path in directories:
        try:
            status = os.lstat(path)
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode) and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
            found.append(path)
    return found


def tighten(path):
    """Give a directory back to root, and take from others the right to put files there."""
    os.chown(path, os.geteuid(), os.getegid())
    os.chmod(path, stat.S_IMODE(os.lstat(path).st_mode) & ~0o022)


def stage(files, paths):
    """Write beside their final place what has to be renamed there later."""
    staged = Staged()
    for path in paths:
        wanted = files[path]
        if isinstance(wanted, tuple):
            staged.link(path, wanted[0])
        else:
            staged.file(path, wanted, mode_of(path))

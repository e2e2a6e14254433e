# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Systemd units of this host and the processes in and beside them."""

from __future__ import annotations

import contextlib
import os
import re

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.listeners import unit_of

COMMANDS = ("ExecStart", "ExecCondition", "ExecStartPre", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost")
UNIT_PROPERTIES = (
    "Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "FragmentPath", "DropInPaths", "NeedDaemonReload", "MainPID", "ControlGroup", "User",
    "Group", "SupplementaryGroups", "DynamicUser", *COMMANDS, "Environment", "EnvironmentFiles", "NoNewPrivileges",
    "CapabilityBoundingSet", "AmbientCapabilities", "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateMounts", "PrivateDevices", "PrivateUsers",
    "DevicePolicy", "DeviceAllow", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectClock",
    "ProtectHostname", "ProtectProc", "RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality",
    "MemoryDenyWriteExecute", "RemoveIPC", "KeyringMode", "UMask", "SystemCallFilter", "SystemCallArchitectures", "IPAddressAllow", "IPAddressDeny",
    "SocketBindAllow", "SocketBindDeny", "ReadWritePaths", "BindPaths", "Restart", "RootDirectory",
)
STATUS_FIELDS = {
    "Uid": "uid", "Gid": "gid", "Groups": "groups", "CapInh": "inheritable", "CapPrm": "permitted", "CapEff": "effective", "CapBnd": "bounding",
    "CapAmb": "ambient", "NoNewPrivs": "no_new_privileges", "Seccomp": "seccomp",
}
HIDDEN = "(hidden)"
SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
# Names of variables that hold such a word and no secret: language models count in tokens.
HARMLESS_WORDS = re.compile("TOKENIZERS?|(?<!API_)(?<!AUTH_)(?<!ACCESS_)TOKENS|KEYFILE")
SECRET_FLAG = re.compile("(KEYS?|TOKEN|SECRETS?|PASSWORDS?)$")
# A shell that reads a credential of systemd when it runs: the command line holds its place and not the secret.
CREDENTIAL_READS = ("$CREDENTIALS_DIRECTORY/", "$(cat")
# Under which vLLM, vLLM-MindSpore and Ray run: titles (setproctitle in vLLM and Ray), console scripts and Ray's daemons, modules of `python -m`.
ENGINE_TITLE = re.compile("VLLM::|ray::")
ENGINE_PROGRAMS = ("vllm", "vllm-mindspore", "raylet", "gcs_server")
ENGINE_MODULE = re.compile(r"(vllm|vllm_mindspore|vllm_ascend|ray)(\.|$)")
PF_EXITING = 0x4
WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")


def parse_show(text):
    """`systemctl show` of several units as {Id: {property: value}}; a property printed more than once is joined by newlines."""
    units = {}
    for block in text.split("\n\n"):
        properties = {}
        for line in block.splitlines():
            name, separator, value = line.partition("=")
            if separator:
                properties[name] = f"{properties[name]}\n{value}" if name in properties else value
        if "Id" in properties:
            units[properties["Id"]] = properties
    return units


def _is_secret(name):
    """Whether the name of a variable or of a flag tells of a secret."""
    words = name.upper().replace("-", "_")
    return bool(SECRET_FLAG.search(words)) if name.startswith("--") else any(part in HARMLESS_WORDS.sub("", words) for part in SECRET_WORDS)


def _open_quote(word):
    """The quotation mark that a word opens and does not close: the value goes on in the words after it."""
    start = word.lstrip("$")[:1]
    return start if start in ("'", '"') and (len(word.lstrip("$")) == 1 or not word.endswith(start)) else ""


def mask_secrets(text):
    """Words of an Environment= or command line, the values of secrets replaced."""
    masked, hide, quote = [], False, ""
    for word in text.split(" "):
        name, separator, value = word.partition("=")
        secret = not value.lstrip('"').replace("$$", "$").startswith(CREDENTIAL_READS) and _is_secret(name.lstrip("\"'"))
        if quote:
            quote = "" if word.endswith(quote) else quote
            continue
        if hide:
            word, hide, quote = HIDDEN, False, _open_quote(word)
        elif secret and separator:
            word, quote = f"{name}={HIDDEN}", _open_quote(word) or _open_quote(value)
        elif secret and name.startswith("--"):
            hide = True
        masked.append(word)
    return " ".join(masked)


def read_units(names, run, properties=UNIT_PROPERTIES):
    """{unit: {properties, processes}}; a unit the host does not have has LoadState `not-found`. Raises OSError where systemd does not answer."""
    if not names:
        return {}
    code, output, error = run(["systemctl", "show", "--no-pager", "--property", ",".join(properties), "--"] + list(names))
    if code != 0:
        raise OSError(code, error.strip() or "systemctl show failed")
    units = {}
    for name, values in parse_show(output).items():
        for key in ("Environment", *COMMANDS):
            if key in values:
                values[key] = mask_secrets(values[key])
        units[name] = {"properties": values, "processes": read_processes(values.get("ControlGroup") or "")}
    return units


def read_processes(control_group):
    """The processes of a control group and of the groups below it."""
    if not control_group or control_group == "/":
        return []
    seen = set()
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"):
        for folder, _folders, files in os.walk(root + control_group):
            if "cgroup.procs" in files:
                # A group that is gone meanwhile has no process.
                with contextlib.suppress(FileNotFoundError), open(os.path.join(folder, "cgroup.procs"), encoding="ascii") as listing:
                    seen.update(int(line) for line in listing if line.strip())
        if seen:
            break
    return [process for process in map(read_process, sorted(seen)) if process]


def boot_time(proc="/proc"):
    """The time of boot in seconds since the epoch, from which processes count their start."""
    with open(f"{proc}/stat", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("btime "))


def read_process(pid, proc="/proc"):
    """The facts of one process, or None where it is gone.

    `arguments` is None where the process has overwritten its command line with a title: what it was started with is unknown, not unset.
    `started` is in seconds since the epoch.
    """
    try:
        with open(f"{proc}/{pid}/status", encoding="utf-8", errors="backslashreplace") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        with open(f"{proc}/{pid}/cmdline", "rb") as file:
            command_line = file.read(1 << 16)
        with open(f"{proc}/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    process = {"pid": pid, "command": status.get("Name", "")[:64], "started": boot_time(proc) + ticks / os.sysconf("SC_CLK_TCK")}
    for field, name in STATUS_FIELDS.items():
        process[name] = status.get(field, "").strip() or None
    arguments = command_line.rstrip(b"\0").split(b"\0") if command_line.strip(b"\0") else []
    titled = len(arguments) < 2 or command_line.endswith(b"\0\0") or b"::" in arguments[0]
    process["arguments"] = None if titled else mask_secrets(" ".join(part.decode("utf-8", "backslashreplace")[:400] for part in arguments[:400]))
    return process


def is_engine(command_line):
    """Whether a command line is that of an engine or of Ray, or of an interpreter that runs one."""
    words = command_line.split()
    if not words or ENGINE_TITLE.match(command_line):
        return bool(words)
    program = os.path.basename(words.pop(0))
    if program.startswith("python"):
        while words and words[0].startswith("-") and not words[0].startswith("-m"):
            del words[:2 if words[0] in WITH_VALUE else 1]
        if words and words[0].startswith("-m"):
            return bool(ENGINE_MODULE.match(words[0][2:] or "".join(words[1:2])))
        program = os.path.basename(words[0]) if words else program
    return program in ENGINE_PROGRAMS


def read_strays(users, units, proc="/proc"):
    """Processes of the users given, and engines of whatever user, that run outside the units given: [{pid, command, user id, unit}].

    users: numeric ids. What has ended and only waits for its parent runs nowhere: its control group may be gone before it.
    """
    strays = []
    for pid in sorted((int(name) for name in os.listdir(proc) if name.isdigit())):
        try:
            owner = os.stat(f"{proc}/{pid}").st_uid
            with open(f"{proc}/{pid}/cmdline", "rb") as file:
                command_line = file.read(400).replace(b"\0", b" ").decode("utf-8", "backslashreplace").strip()
            with open(f"{proc}/{pid}/cgroup", encoding="utf-8", errors="backslashreplace") as file:
                unit = unit_of(file.read())
        except OSError:
            continue
        if unit not in units and (owner in users or is_engine(command_line)) and not has_ended(pid, proc):
            strays.append({"pid": pid, "command": mask_secrets(command_line)[:120], "uid": owner, "unit": unit})
    return strays


def has_ended(pid, proc="/proc"):
    """Whether a process is gone, ending, or a zombie. One whose first thread has ended goes on as long as it has another.

    Fields 3, 9 and 20 of /proc/PID/stat: the state, the flags (PF_EXITING of linux/sched.h) and the number of threads.
    """
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[17]) < 2 and (fields[0] in (b"Z", b"X") or bool(int(fields[6]) & PF_EXITING))
    except (OSError, ValueError, IndexError):
        return True


def in_a_container(pid, proc="/proc"):
    """Whether a process is in a container that root made: among processes numbered anew, but with the accounts of this host.

    An image's account may have the number of one of this host's. Who is not root gets processes numbered anew only together with accounts of their own.
    """
    try:
        with open(f"{proc}/{pid}/status", encoding="utf-8", errors="backslashreplace") as file:
            numbers = next((line.split()[1:] for line in file if line.startswith("NSpid:")), [])
        accounts = []
        for who in (pid, "self"):
            with open(f"{proc}/{who}/uid_map", encoding="ascii") as file:
                accounts.append(file.read().split())
    except OSError:
        return False
    return len(numbers) > 1 and accounts[0] == accounts[1]

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Checks of the serving instances: their parameters, units and processes. Pure.

A check returns `(expected, problems)`, and passes without problems. It raises Unknown where the node did not tell, and NotApplicable where the
control does not concern the node.
"""

from __future__ import annotations

import ipaddress
import math
import re
import shlex

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.units import COMMANDS, HIDDEN, mask_secrets
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import pairings
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judged_node import NotApplicable, Unknown, clip, not_roots, some
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_refusals import DANGEROUS_ENVIRONMENT

SETTINGS = {  # of flags and variables that have a control of their own
    "PAR-01": "--host", "PAR-02": "--port", "PAR-03": "--data-parallel-address", "PAR-04": "--data-parallel-rpc-port",
    "PAR-05": "VLLM_HOST_IP", "PAR-06": "VLLM_DP_MASTER_IP", "PAR-07": "VLLM_DP_MASTER_PORT",
}
# What the plan refuses; what tells of a secret in its name has a control of its own (PAR-11).
DANGEROUS = tuple(name for name in DANGEROUS_ENVIRONMENT if not re.search("KEY|TOKEN", name))
PRIVILEGED_CALLS = ("mount", "init_module", "finit_module", "delete_module", "reboot", "swapon", "pivot_root", "kexec_load", "bpf", "open_by_handle_at")
PROGRAMS = {"vllm": "vllm", "vllm_ascend": "vllm", "vllm_mindspore": "vllm-mindspore"}
ASCEND_DEVICES = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
PSEUDO_DEVICES = (
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "char-pts",
    "char-rtc",
    "/run/systemd/inaccessible/chr",
    "/run/systemd/inaccessible/blk",
)


# Parameters

def _command_line(properties):
    """The words of ExecStart as systemd shows them."""
    found = re.findall(r"argv\[\]=(.*?) ; ignore_errors=", str(properties.get("ExecStart", "")))
    if len(found) != 1:
        raise Unknown("the unit has no single command")
    return found[0].split()


def _environment(properties):
    try:
        words = shlex.split(str(properties.get("Environment", "")))
    except ValueError:
        raise Unknown("the unit's environment cannot be read") from None
    return dict(word.partition("=")[::2] for word in words)


def _values(words, flag):
    """All values a flag has in a command line, as `--flag value` or `--flag=value`."""
    values = [words[index + 1] if index + 1 < len(words) else "" for index, word in enumerate(words) if word == flag]
    return values + [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]


def _setting(control):
    name = SETTINGS[control]

    def check(node):
        problems, expected = [], []
        for unit, instance, properties, _processes in node.loaded_units():
            flag = name.startswith("--")
            arguments = instance.get("arguments")
            planned = _values(arguments or [], name) if flag else [instance["environment"][name]] if name in instance["environment"] else []
            if not planned:
                continue
            expected.append(f"{unit}: {name} {planned[0]}")
            found = _values(_command_line(properties), name) if flag else [value for key, value in _environment(properties).items() if key == name]
            if found != [str(planned[0])]:
                problems.append(f"{unit}: {name} is {clip(', '.join(found)) if found else 'not set'}, planned {planned[0]}")
        if not expected:
            raise NotApplicable(f"the plan sets no {name} here")
        return "; ".join(expected), problems
    return check


def other_arguments(node):
    problems = []
    own = {flag for flag in SETTINGS.values() if flag.startswith("--")}

    def reduced(words):
        rest, skip = [], False
        for word in words:
            if skip:
                skip = False
            elif word in own:
                skip = True
            elif word.partition("=")[0] not in own:
                rest.append(word)
        return rest

    for unit, instance, properties, _processes in node.loaded_units():
        if instance.get("arguments") is None:
            continue
        planned = reduced(mask_secrets(" ".join(map(str, instance["arguments"]))).split())
        words = _command_line(properties)
        start = next((index for index, word in enumerate(words) if word == str(instance["arguments"][0])), len(words))
        problems += [f"{unit}: the program is {problem}" for problem in _other_program(node, unit, instance, words[:start])]
        problems += [f"{unit}: another command in {name}: {clip(properties[name])}" for name in COMMANDS[1:] if properties.get(name)]
        found = reduced(words[start:])
        if found != planned:
            more = [word for word in found if word not in planned]
            less = [word for word in planned if word not in found]
            problems.append(f"{unit}: " + "; ".join(filter(None, (
                f"added {clip(some(more))}" if more else "", f"missing {clip(some(less))}" if less else "", "" if more or less else "another order"))))
    return "the program and the arguments of the plan, and no other command", problems


def _other_program(node, unit, instance, words):
    """The word before the arguments of a unit's command, where it is not the planned program; what stands before that hands it secrets and peers."""
    program = "ray" if unit == (instance.get("ray") or {}).get("unit") else PROGRAMS[instance["engine"]]
    folder = node.planned.get("software")
    planned = re.sub("/+", "/", f"{folder}/{program}") if folder else program
    found = re.sub("/+", "/", words[-1]) if words else "missing"
    if (found if folder else found.rpartition("/")[2]) != planned:
        yield f"{clip(found)}, planned {planned}"


def other_variables(node):
    problems = []
    for unit, instance, properties, _processes in node.loaded_units():
        found = _environment(properties)
        for name, value in instance["environment"].items():
            if name not in SETTINGS.values() and name not in DANGEROUS and found.get(name) not in (str(value), HIDDEN):
                problems.append(f"{unit}: {name} is {clip(found[name]) if name in found else 'not set'}, planned {value}")
    return "the variables of the plan", problems


def nothing_dangerous(node):
    problems = []
    for unit, instance, properties, _processes in node.loaded_units():
        found = _environment(properties)
        problems += [f"{unit}: {name}={clip(found[name])}" for name in DANGEROUS
                     if found.get(name, "0") not in ("", "0") and str(instance["environment"].get(name)) != found[name]]
        if properties.get("EnvironmentFiles"):
            problems.append(f"{unit}: variables are read from {clip(properties['EnvironmentFiles'])}")
    return f"none of the {len(DANGEROUS)} variables that the plan refuses, such as {', '.join(DANGEROUS[:2])}, and none out of files", problems


def no_secret_in_unit(node):
    problems = []
    for unit, _instance, properties, _processes in node.loaded_units():
        for name in ("Environment", *COMMANDS):
            if HIDDEN in str(properties.get(name, "")):
                problems.append(f"{unit}: a secret in {name}")
    return "secrets as credentials only", problems


# Units and processes

def _wanted(node, wanted, expected):
    """Compare properties with sets of accepted values."""
    problems = []
    for unit, _instance, properties, _processes in node.loaded_units():
        problems += [f"{unit}: {name} is {clip(properties.get(name, '')) or 'empty'}, wanted {' or '.join(value or 'empty' for value in values)}"
                     for name, values in wanted.items() if properties.get(name, "") not in values]
    return expected, problems


def unit_runs_as_deployed(node):
    wanted = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}
    problems, names = [], []
    for name, _instance, properties, _processes in node.units():
        names.append(name)
        if properties.get("LoadState") == "not-found":
            problems.append(f"{name} does not exist")
            continue
        problems += [
            f"{name}: {key} is {clip(properties.get(key)) or 'empty'}, wanted {value}" for key, value in wanted.items() if properties.get(key) != value
        ]
    return "; ".join(f"{name} loaded, enabled, active and reloaded" for name in names), problems


def unit_has_its_own_user(node):
    problems, expected = [], []
    for name, instance, properties, _processes in node.loaded_units():
        expected.append(f"{name}: {instance['user']}")
        if properties.get("User") != instance["user"]:
            problems.append(f"{name}: User is {clip(properties.get('User')) or 'root'}, planned {instance['user']}")
        if properties.get("Group") != instance["user"]:
            problems.append(f"{name}: Group is {clip(properties.get('Group')) or 'empty'}, planned {instance['user']}")
        if properties.get("SupplementaryGroups"):
            problems.append(f"{name}: SupplementaryGroups is {clip(properties['SupplementaryGroups'])}, planned are those of the account")
    return "; ".join(expected), problems


def _processes(node):
    for name, instance, _properties, processes in node.units():
        if not processes:
            raise Unknown(f"{name} has no process")
        for process in processes:
            yield f"{name}: process {clip(process.get('pid'))} ({clip(process.get('command'))})", instance, process


def processes_run_as_own_user(node):
    problems, accounts = [], node.observed("accounts")
    for label, instance, process in _processes(node):
        account = accounts[instance["user"]]
        ids = set(str(process["uid"]).split())
        if account is None:
            problems.append(f"{label} runs as {clip(', '.join(ids))}; the account {instance['user']} does not exist")
        elif ids != {str(account["uid"])}:
            problems.append(f"{label} runs as user {clip(', '.join(sorted(ids)))}, planned {instance['user']} ({clip(account['uid'])})")
        if str(process["no_new_privileges"]) != "1":
            problems.append(f"{label} may gain privileges")
    return "every process the instance's own user, NoNewPrivs 1", problems


def processes_have_no_capability(node):
    problems = []
    for label, _instance, process in _processes(node):
        problems += [f"{label} has {kind} capabilities {clip(process[kind])}" for kind in ("permitted", "effective", "ambient", "bounding")
                     if int(str(process[kind]), 16)]
    return "permitted, effective, ambient and bounding all 0", problems


def processes_are_filtered(node):
    problems = [
        f"{label} has seccomp mode {clip(process['seccomp'])}, wanted 2" for label, _instance, process in _processes(node) if str(process["seccomp"]) != "2"
    ]
    return "seccomp mode 2", problems


def _moment(told):
    """A time that a host told. Raises ValueError for what is none."""
    seconds = float(told)
    if not math.isfinite(seconds):
        raise ValueError(f"{told!r} is no time")
    return seconds


def processes_are_deployed(node):
    problems = []
    for name, instance, properties, processes in node.loaded_units():
        if not processes:
            raise Unknown(f"{name} has no process")
        paths = [properties.get("FragmentPath"), *str(properties.get("DropInPaths", "")).split()]
        changed = {path: node.file(path)["modified"] for path in paths if path and node.file(path)}
        main = next((process for process in processes if str(process["pid"]) == str(properties.get("MainPID"))), processes[0])
        for path, when in changed.items():
            # Process starts are counted in ticks from a boot time in whole seconds.
            if _moment(when) > _moment(main["started"]) + 2:
                problems.append(f"{name} was started before {clip(path)} was changed")
        words, told = _command_line(properties), main.get("arguments")
        if told is not None and instance.get("arguments") and str(instance["arguments"][0]) in words and not problems:
            # The program before the arguments may differ: an interpreter or a shell stands there in one and not in the other.
            count = len(words) - words.index(str(instance["arguments"][0]))
            if str(told).split()[-count:] != words[-count:]:
                problems.append(f"{name} was started as {clip(told)}")
    return "started from the unit as it is now", problems


def nothing_runs_outside(node):
    return "every engine inside its unit", [
        f"process {clip(entry.get('pid'))} ({clip(entry.get('command'))}) of user {clip(entry.get('uid'))} in {clip(entry.get('unit') or 'no unit')}"
        for entry in node.observed("strays", list)]


def read_only_system(node):
    return _wanted(
        node,
        {
            "ProtectSystem": ("strict",),
            "ProtectHome": ("yes", "tmpfs"),
            "PrivateTmp": ("yes",),
            "PrivateMounts": ("yes",),
            "UMask": ("0077", "0027"),
            "ReadWritePaths": ("",),
            "BindPaths": ("",),
        },
        "ProtectSystem=strict, ProtectHome, PrivateTmp, PrivateMounts, UMask=0077, nothing else writable",
    )


def own_devices(node):
    problems = []
    for unit, instance, properties, _processes in node.loaded_units():
        if properties.get("DevicePolicy") not in ("closed", "strict"):
            problems.append(f"{unit}: DevicePolicy is {clip(properties.get('DevicePolicy'))}, wanted closed")
        planned = set(instance.get("devices") or []) | {f"/dev/davinci{number}" for number in instance.get("npus") or []}
        planned |= set(ASCEND_DEVICES) if instance.get("npus") else set()
        found = {line.split()[0] for line in str(properties.get("DeviceAllow", "")).splitlines() if line.split()} - set(PSEUDO_DEVICES)
        problems += [f"{unit}: {clip(device)} is allowed and not planned" for device in sorted(found - planned)]
        problems += [f"{unit}: {device} is planned and not allowed" for device in sorted(planned - found)]
    return "DevicePolicy=closed and the instance's own NPUs", problems


def kernel_is_protected(node):
    names = ("ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectClock", "ProtectHostname")
    return _wanted(node, {**dict.fromkeys(names, ("yes",)), "ProtectProc": ("invisible", "noaccess", "ptraceable")}, ", ".join(names) + ", ProtectProc")


def without_privileges(node):
    expected, problems = _wanted(node, {
        "NoNewPrivileges": ("yes",), "CapabilityBoundingSet": ("",), "AmbientCapabilities": ("",), "RestrictNamespaces": ("yes",), "RestrictRealtime": ("yes",),
        "RestrictSUIDSGID": ("yes",), "LockPersonality": ("yes",), "KeyringMode": ("private",)},
        "NoNewPrivileges, no capability, no namespaces, real time or set-user-id files, AF_UNIX AF_INET AF_INET6 AF_NETLINK")
    for unit, _instance, properties, _processes in node.loaded_units():
        families = str(properties.get("RestrictAddressFamilies", "")).split()
        if not families or set(families) - {"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"}:
            problems.append(f"{unit}: RestrictAddressFamilies is {clip(' '.join(families)) or 'empty'}")
    return expected, problems


def call_filter_declared(node):
    problems = []
    for unit, _instance, properties, _processes in node.loaded_units():
        calls = str(properties.get("SystemCallFilter", ""))
        named = {call.partition(":")[0] for call in calls.lstrip("~").split()}
        if calls.startswith("~"):
            problems += [f"{unit}: {call} is let through" for call in PRIVILEGED_CALLS if call not in named]
        else:
            problems += [f"{unit}: {call} is let through" for call in PRIVILEGED_CALLS if call in named]
            problems += [] if named else [f"{unit}: no filter"]
        if properties.get("SystemCallArchitectures") != "native":
            problems.append(f"{unit}: SystemCallArchitectures is {clip(properties.get('SystemCallArchitectures')) or 'empty'}, wanted native")
    return "a list of calls without privileged ones, native only", problems


def packets_are_limited(node):
    problems = []
    for unit, instance, properties, _processes in node.loaded_units():
        denied = str(properties.get("IPAddressDeny", "")).split()
        if not {"0.0.0.0/0", "::/0"} <= set(denied):
            problems.append(f"{unit}: IPAddressDeny is {clip(' '.join(denied)) or 'empty'}, wanted any")
        sets = node.cluster["sets"]
        planned = ["127.0.0.0/8", "::1/128", *sets.get(f"peers_{instance['name']}", [])]
        api = instance.get("api")
        if api and not ipaddress.ip_address(api["address"]).is_loopback:
            planned += sets.get("clients", [])
        planned += [address for listed in node.planned["addresses"].values() for address in listed]
        allowed = [ipaddress.ip_network(network) for network in planned]
        for text in str(properties.get("IPAddressAllow", "")).split():
            network = ipaddress.ip_network(text)
            if not _covered(network, allowed):
                problems.append(f"{unit}: IPAddressAllow has {clip(text)}, which is not planned")
    return "IPAddressDeny=any, and peers, clients and loopback allowed", problems


def _covered(network, allowed):
    """Whether a network lies within the union of others."""
    same = [item for item in allowed if item.version == network.version]
    return any(network.subnet_of(item) for item in ipaddress.collapse_addresses(same))


def _planned_dropins(node, path, instance, found):
    """What is wrong with the drop-ins that the inventory names for a unit; ``found`` are those that are in force."""
    for name, digest in (instance.get("dropins") or {}).items():
        dropin = f"{path}.d/{name}.conf"
        if dropin not in found:
            yield f"{dropin} is planned and not in force"
            continue
        facts = node.file(dropin)
        if facts is None or facts.get("type") != "file":
            yield f"{dropin} is {'gone' if facts is None else 'no regular file'}"
            continue
        if not isinstance(facts.get("sha256"), str):
            raise Unknown(f"the host did not tell the content of {dropin}")
        if facts["sha256"] != digest:
            yield f"{dropin} has another content than the planned one"
        yield from not_roots(dropin, facts)


def unit_files_are_deployed(node):
    problems, expected = [], []
    for unit, instance, properties, _processes in node.loaded_units():
        path, found = f"/etc/systemd/system/{unit}", str(properties.get("DropInPaths", "")).split()
        planned = [f"{path}.d/{name}.conf" for name in instance.get("dropins") or {}]
        expected += [path, *planned]
        if properties.get("FragmentPath") != path:
            problems.append(f"{unit} comes from {clip(properties.get('FragmentPath')) or 'nowhere'}, deployed at {path}")
        problems += [f"{unit} is overridden by {clip(dropin)}" for dropin in found if dropin not in planned]
        problems += _planned_dropins(node, path, instance, found)
        facts = node.file(path) if properties.get("FragmentPath") == path else None
        problems += not_roots(path, facts) if facts else []
    return ", ".join(expected) + ", owned by root, without other drop-ins", problems


def declared_is_enforced(node):
    host, missing = node.observed("host"), []
    features = host.get("systemd_features")
    if not isinstance(features, list):
        raise Unknown("the host did not tell what its systemd can do")
    for unit, _instance, properties, _processes in node.loaded_units():
        if (properties.get("SocketBindDeny") or properties.get("SocketBindAllow")) and "+BPF_FRAMEWORK" not in features:
            missing.append(f"{unit}: SocketBindDeny is declared, and this systemd is built without BPF_FRAMEWORK")
        if properties.get("IPAddressDeny") and not host.get("cgroup_v2"):
            missing.append(f"{unit}: IPAddressDeny is declared, and this host has no unified control groups")
    if missing:
        raise NotApplicable("declared and not enforced here, the packet filter holds instead: " + "; ".join(clip(entry) for entry in missing))
    return "every option that is declared", []


def software_belongs_together(node):
    if not node.planned.get("existing"):
        raise NotApplicable("the site does not bring the serving software of this node")
    told, expected, problems, unknown = node.observed("packages"), [], [], []
    if not all(isinstance(versions, list) and all(isinstance(version, str) for version in versions) for versions in told.values()):
        raise Unknown("the host told nonsense for its packages")
    for instance in node.instances:
        engine, version = instance["engine"], instance["version"]
        expected.append(pairings.spelled(engine, version))
        wrong, missing = pairings.installed_misfits(engine, version, told, (instance.get("ray") or {}).get("version"))
        problems += [clip(problem) for problem in wrong]
        unknown += missing
    if unknown and not problems:
        raise Unknown(f"no single version of {', '.join(dict.fromkeys(unknown))} was found beside {node.planned['software']}")
    return "; ".join(dict.fromkeys(expected)), problems


CHECKS = {
    **{control: _setting(control) for control in SETTINGS},
    "PAR-08": other_arguments, "PAR-09": other_variables, "PAR-10": nothing_dangerous, "PAR-11": no_secret_in_unit, "SRV-01": unit_runs_as_deployed,
    "SRV-02": unit_has_its_own_user, "SRV-03": processes_run_as_own_user, "SRV-04": processes_have_no_capability, "SRV-05": processes_are_filtered,
    "SRV-06": processes_are_deployed, "SRV-07": nothing_runs_outside, "SRV-08": read_only_system, "SRV-09": own_devices, "SRV-10": kernel_is_protected,
    "SRV-11": without_privileges, "SRV-12": call_filter_declared, "SRV-13": packets_are_limited, "SRV-14": unit_files_are_deployed,
    "SRV-15": declared_is_enforced, "SRV-16": software_belongs_together,
}

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The checks of the controls: each takes what is planned for a node and what was observed of it. Pure.

A check returns `(expected, problems)`, and passes without problems. It raises Unknown where the node did not tell, and NotApplicable where the
control does not concern the node. What came from a host is data: it is only compared, and cut and cleaned before it is shown.
"""

from __future__ import annotations

import ipaddress
import re
import shlex

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.ports import format_ports, merge_ports, parse_ports
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_request import (
    FIREWALL_FILES, FIREWALL_UNIT, HOST_SYSCTLS, SOFTWARE, SYSCTL_FILE, model_path)
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import BROKEN, LEAK, PASSED, STOPPED, UNKNOWN

PORT_SETTINGS = ("net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports")
FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
SETTINGS = {  # of flags and variables that have a control of their own
    "PAR-01": "--host", "PAR-02": "--port", "PAR-03": "--data-parallel-address", "PAR-04": "--data-parallel-rpc-port",
    "PAR-05": "VLLM_HOST_IP", "PAR-06": "VLLM_DP_MASTER_IP", "PAR-07": "VLLM_DP_MASTER_PORT",
}
DANGEROUS = (  # network-surface: vLLM envs.py; each opens an interface or turns data into code
    "VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_TORCH_PROFILER_DIR", "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP")
SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)[A-Z_]*=|--api-key(\s|=)", re.IGNORECASE)
PRIVILEGED_CALLS = ("mount", "init_module", "finit_module", "delete_module", "reboot", "swapon", "pivot_root", "kexec_load", "bpf", "open_by_handle_at")
PRIVILEGED_GROUPS = ("root", "sudo", "wheel", "adm", "docker", "podman", "lxd", "libvirt", "disk", "shadow", "kmem", "admin")
NO_SHELLS = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false")
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
TEXT_LIMIT = 400


class Unknown(Exception):
    """A control cannot be judged; the message says why."""


class NotApplicable(Exception):
    """A control does not concern this node; the message says why."""


def clip(value):
    """A text of limited length without control characters: what came from a host is data."""
    text = "".join(character if character.isprintable() else " " for character in str(value))
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT - 3] + "..."


def some(items, limit=8):
    """The first few of a list as text, and how many more there are."""
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")


class Node:
    """What is planned for a node and what was observed of it."""

    def __init__(self, host, plan, observation, reason, wire_rows=(), wire_missing=()):
        self.host, self.planned = host, plan["nodes"][host]
        self.cluster = plan["clusters"][self.planned["cluster"]]
        self._observation, self._reason = observation, reason
        self.wire_rows, self.wire_missing = wire_rows, wire_missing

    def observed(self, part, kind=dict):
        """A part of the observation. Raises Unknown with the reason where there is none, or none of that kind."""
        if not isinstance(self._observation, dict):
            raise Unknown(self._reason or "the host was not observed")
        value = self._observation.get(part)
        if value is None:
            unknown = self._observation.get("unknown")
            raise Unknown(clip((unknown.get(part) if isinstance(unknown, dict) else None) or f"the host did not tell its {part}"))
        if not isinstance(value, kind):
            raise Unknown(f"the host told nonsense for its {part}")
        return value

    @property
    def instances(self):
        """The planned instances. Raises NotApplicable where there is none."""
        if not self.planned["instances"]:
            raise NotApplicable("no instance on this node")
        return self.planned["instances"]

    def units(self):
        """(unit, instance, properties, processes) of every planned unit. Raises Unknown for one the node did not describe.

        Ray has a unit of its own, on the head beside the engine and elsewhere in its place.
        """
        members, observed = [], self.observed("units") if self.instances else {}
        for instance in self.instances:
            ray = instance.get("ray")
            members += [instance] if instance.get("arguments") is not None or not ray else []
            members += [{**instance, "unit": ray["unit"], "arguments": ray["arguments"], "api": None}] if ray else []
        for instance in members:
            facts = observed.get(instance["unit"])
            if not isinstance(facts, dict) or not isinstance(facts.get("properties"), dict) or not isinstance(facts.get("processes"), list):
                raise Unknown(f"the host did not tell about {instance['unit']}")
            yield instance["unit"], instance, facts["properties"], facts["processes"]

    def loaded_units(self):
        """As units(); raises Unknown for one that is not loaded, whose properties mean nothing."""
        for name, instance, properties, processes in self.units():
            if properties.get("LoadState") != "loaded":
                raise Unknown(f"{name} is not loaded ({clip(properties.get('LoadState'))})")
            yield name, instance, properties, processes

    def file(self, path):
        """The facts of a file that was asked for, None where it does not exist. Raises Unknown."""
        files = self.observed("files")
        if path not in files:
            raise Unknown(f"the host did not tell about {path}")
        facts = files[path]
        if facts is not None and not (isinstance(facts, dict) and isinstance(facts.get("mode"), str) and isinstance(facts.get("owner"), str)):
            raise Unknown(f"the host told nonsense about {path}")
        return facts


# The wire

def _wire_cells(node, result):
    return [(row, cell) for row in node.wire_rows for cell in row["cells"] if cell["result"] == result]


def _describe(row, cell):
    crossed = f", sent across from segment {row['segment']}" if row["crossed"] else ""
    words = {**PASSED, **STOPPED, "unsent": f"not sent: {row['why'] or 'no reason given'}"}[cell["observed"]]
    flow = f" (flow {cell['flow']})" if cell["flow"] else ""
    return f"{row['vantage']} {row['source']} -> {row['host']} {row['address']} {row['protocol']} {some(cell['ports'])}{flow}: {words}{crossed}"


def _wire_unknown(node):
    reasons = [_describe(row, cell) for row, cell in _wire_cells(node, UNKNOWN)]
    reasons += [f"{entry['vantage']} {entry['source']} -> {entry['address']}: not tried" for entry in node.wire_missing]
    if reasons:
        raise Unknown("; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""))
    if not node.wire_rows:
        raise Unknown("no vantage point tried this host")


def nothing_unplanned_reachable(node):
    leaks = [_describe(row, cell) for row, cell in _wire_cells(node, LEAK)]
    if not leaks:
        _wire_unknown(node)
    return "every unplanned port refused or silent, from every vantage point", leaks


def everything_planned_reachable(node):
    broken = [_describe(row, cell) for row, cell in _wire_cells(node, BROKEN)]
    if not broken:
        _wire_unknown(node)
    return "every planned flow answered", broken


# The packet filter

def _packet(entry):
    packet = entry.get("packet") or {}
    rule = (entry.get("trace") or [{}])[-1]
    where = f", by {rule.get('table')} {rule.get('chain')}: {rule.get('rule')}" if rule.get("chain") else ""
    return (f"{packet.get('protocol')} {packet.get('source')} -> {packet.get('destination')} port {packet.get('destination_port')}"
            f" on {packet.get('interface')} is {entry.get('outcome')}{where}")


def filter_is_the_plan(node):
    proof = node.observed("packet_filter")
    flows, leaks, unknown = ([entry for entry in proof[part] if isinstance(entry, dict)] for part in ("flows", "leaks", "unknown"))
    problems = [f"broken, flow {entry.get('name')}: {_packet(entry)}" for entry in flows if entry.get("status") == "broken"]
    problems += [f"leak: {_packet(entry)}" for entry in leaks if entry.get("status") == "leak"]
    if not problems and proof.get("verdict") != "ok":
        reasons = [f"{entry.get('object')}: {entry.get('reason')}" for entry in unknown]
        reasons += [f"flow {entry.get('name')} depends on {entry.get('depends_on')}" for entry in flows if entry.get("status") == "unknown"]
        reasons += [f"depends on {entry.get('depends_on')}: {_packet(entry)}" for entry in leaks if entry.get("status") == "unknown"]
        raise Unknown(clip("; ".join(reasons[:3]) or "the packet filter could not be evaluated"))
    return "no packet passes that the plan does not name, and every planned one does", [clip(problem) for problem in problems]


def listing_is_honest(node):
    proof = node.observed("packet_filter")
    if not proof.get("statistics"):
        raise Unknown("the packet filter could not be read")
    return "every rule is listed as it is loaded", [
        f"{entry.get('table')} {entry.get('chain')} handle {entry.get('handle')}: {entry.get('why')}" for entry in proof["listing"]]


def table_is_loaded(node):
    table = node.observed("table")
    expected = "table inet vllm_hardening loaded, not dormant, input and forward drop by default"
    if not table["present"]:
        return expected, ["the table inet vllm_hardening is not loaded"]
    problems = ["the table is dormant"] if table["dormant"] else []
    for hook in ("input", "forward"):
        policies = [chain.get("policy") for chain in table["chains"] if chain.get("hook") == hook]
        if hook == "forward" and node.planned["sysctls"].get("net.ipv4.ip_forward") != "0" and not policies:
            continue
        if not policies:
            problems.append(f"no chain of the table is hooked into {hook}")
        problems += [f"a chain of {hook} does not drop by default" for policy in policies if policy != "drop"]
    return expected, problems


def filter_at_boot(node):
    problems = []
    for path in FIREWALL_FILES[1:]:
        if node.file(path) is None:
            problems.append(f"{path} does not exist")
    unit = node.observed("units").get(FIREWALL_UNIT)
    if not isinstance(unit, dict):
        raise Unknown(f"the host did not tell about {FIREWALL_UNIT}")
    if not problems:
        properties = unit["properties"]
        problems += [f"{FIREWALL_UNIT}: {name} is {clip(properties.get(name)) or 'empty'}, wanted {value}"
                     for name, value in (("LoadState", "loaded"), ("UnitFileState", "enabled"), ("DropInPaths", "")) if properties.get(name, "") != value]
    return f"{FIREWALL_UNIT} enabled, its rules at {FIREWALL_FILES[1]}", problems


def filter_files_are_roots(node):
    problems = []
    for path in FIREWALL_FILES:
        facts = node.file(path)
        if facts and facts["type"] != "link":
            problems += _not_roots(path, facts)
        if facts and path == FIREWALL_FILES[1] and int(facts["mode"], 8) & 0o077:
            problems.append(f"{path} has mode {facts['mode']}, wanted 0600")
    return "owned by root, writable by nobody else; the rules readable by root only", problems


def _not_roots(path, facts):
    problems = [] if facts["owner"] == "root" else [f"{clip(path)} belongs to {clip(facts['owner'])}"]
    if facts["type"] != "link" and int(facts["mode"], 8) & 0o022 and not int(facts["mode"], 8) & 0o1000:
        problems.append(f"{clip(path)} is writable by others (mode {facts['mode']})")
    return problems


# Addresses and settings

def addresses_are_planned(node):
    problems, seen = [], {}
    for entry in node.observed("addresses", list):
        seen[str(entry.get("address"))] = str(entry.get("interface"))
    planned = {}
    for segment, listed in node.planned["addresses"].items():
        interface = node.planned["interfaces"].get(segment)
        for address in listed:
            planned[address] = segment
            if address not in seen:
                problems.append(f"{address} of segment {segment} is on no interface")
            elif interface and seen[address] != interface:
                problems.append(f"{address} of segment {segment} is on {clip(seen[address])}, planned on {interface}")
    networks = [(segment, ipaddress.ip_network(network)) for segment, listed in node.cluster["segments"].items() for network in listed]
    for address, interface in seen.items():
        parsed = ipaddress.ip_address(address)
        segment = next((name for name, network in networks if parsed in network), None)
        if segment and address not in planned:
            problems.append(f"{address} on {clip(interface)} lies in segment {segment} and is not planned")
    return ", ".join(f"{address} ({segment})" for address, segment in planned.items()), problems


def _settings(node, wanted):
    if not wanted:
        raise NotApplicable("nothing of the kind is planned")
    observed, problems, expected = node.observed("sysctls"), [], []
    for name, value in wanted.items():
        expected.append(f"{name} = {value}".replace("\t", " "))
        values = observed.get(name)
        if not isinstance(values, dict):
            raise Unknown(f"the host did not tell {name}")
        for path, found in sorted(values.items()):
            if found is None and path.startswith("net/ipv6/"):
                continue
            if found is None:
                problems.append(f"{clip(path)}: this kernel does not have it")
            elif " ".join(str(found).split()) != " ".join(str(value).split()):
                problems.append(f"{clip(path)} is {clip(found) or 'empty'}, planned {value!s}".replace("\t", " "))
    return "; ".join(expected), problems


def network_settings(node):
    return _settings(node, {name: value for name, value in node.planned["sysctls"].items() if name not in PORT_SETTINGS + FORWARDING})


def port_settings(node):
    return _settings(node, {name: value for name, value in node.planned["sysctls"].items() if name in PORT_SETTINGS})


def forwarding_settings(node):
    return _settings(node, {name: value for name, value in node.planned["sysctls"].items() if name in FORWARDING})


def settings_are_kept(node):
    if not node.planned["sysctls"]:
        raise NotApplicable("no setting is planned")
    facts = node.file(SYSCTL_FILE)
    return f"{SYSCTL_FILE}, owned by root", [f"{SYSCTL_FILE} does not exist"] if facts is None else _not_roots(SYSCTL_FILE, facts)


def addresses_are_randomised(node):
    return _settings(node, HOST_SYSCTLS)


# Sockets

def _listeners(node):
    listeners = []
    for entry in node.observed("listeners", list):
        try:
            listeners.append({**entry, "ip": ipaddress.ip_address(entry["address"]), "port": int(entry["port"]), "protocol": str(entry["protocol"])})
        except (TypeError, KeyError, ValueError):
            raise Unknown(f"the host told a listener that is none: {clip(entry)}") from None
    return listeners


def _within(port, ranges):
    return any(first <= port <= last for first, last in map(parse_ports, ranges))


def _name(entry):
    owner = clip(entry.get("unit") or entry.get("command") or f"uid {entry.get('uid')}")
    address = f"[{entry['address']}]" if ":" in entry["address"] else entry["address"]
    return f"{owner} on {address}:{entry['port']}/{entry['protocol']}"


def _planned_units(node):
    """{unit: names of the instances whose planned listeners it may have}."""
    units = {entry["unit"]: entry["name"] for entry in node.planned["instances"]}
    units.update({entry["ray"]["unit"]: entry["name"] for entry in node.planned["instances"] if entry.get("ray")})
    if node.planned.get("gateway"):
        units[node.planned["gateway"]["unit"]] = "gateway"
    return units


def instance_listens_where_planned(node):
    units = _planned_units(node)
    if not units:
        raise NotApplicable("no instance on this node")
    problems = []
    for entry in _listeners(node):
        unit = entry.get("unit")
        if unit not in units or entry["ip"].is_loopback:
            continue
        planned = [listener for listener in node.planned["listeners"]
                   if (listener.get("unit") == unit if listener.get("unit") else listener["instance"] == units[unit])
                   and listener["protocol"] == entry["protocol"] and _within(entry["port"], listener["ports"])]
        wildcard = entry["ip"].is_unspecified
        if not any(listener.get("wildcard") if wildcard else listener["address"] == entry["address"] for listener in planned):
            problems.append(_name(entry) + (" takes every interface" if wildcard else " is not planned"))
    expected = "; ".join(sorted({f"{listener['address']}:{','.join(listener['ports'])}" for listener in node.planned["listeners"]}))
    return expected, problems


def no_unplanned_listener(node):
    units, problems = _planned_units(node), []
    planned = [(flow["protocol"], ports) for flow in node.planned["flows"] for ports in flow["ports"]]
    for entry in _listeners(node):
        if entry["ip"].is_loopback or entry.get("unit") in units or entry.get("pid") is None and entry["protocol"] == "udp":
            continue
        if not any(protocol == entry["protocol"] and _within(entry["port"], [ports]) for protocol, ports in planned) or entry.get("unit") is None:
            problems.append(_name(entry))
    ports = merge_ports(parse_ports(ports) for _protocol, ports in planned)
    return "only ports of the plan, by units: " + ", ".join(format_ports(bounds) for bounds in ports), problems


def api_listens(node):
    heads = [entry for entry in node.planned["instances"] if entry.get("api")]
    if not heads:
        raise NotApplicable("no API on this node")
    found = {(entry["address"], entry["port"]) for entry in _listeners(node) if entry["protocol"] == "tcp" and entry.get("unit") in _planned_units(node)}
    problems = [f"{entry['unit']} does not listen on {entry['api']['address']}:{entry['api']['port']}"
                for entry in heads if (entry["api"]["address"], entry["api"]["port"]) not in found]
    return ", ".join(f"{entry['api']['address']}:{entry['api']['port']}" for entry in heads), problems


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
        planned = reduced(" ".join(map(str, instance["arguments"])).split())
        words = _command_line(properties)
        start = next((index for index, word in enumerate(words) if word == str(instance["arguments"][0])), len(words))
        found = reduced(words[start:])
        if found != planned:
            more = [word for word in found if word not in planned]
            less = [word for word in planned if word not in found]
            problems.append(f"{unit}: " + "; ".join(filter(None, (
                f"added {clip(some(more))}" if more else "", f"missing {clip(some(less))}" if less else "", "" if more or less else "another order"))))
    return "the arguments of the plan", problems


def other_variables(node):
    problems = []
    for unit, instance, properties, _processes in node.loaded_units():
        found = _environment(properties)
        for name, value in instance["environment"].items():
            if name not in SETTINGS.values() and name not in DANGEROUS and found.get(name) not in (str(value), "(hidden)"):
                problems.append(f"{unit}: {name} is {clip(found[name]) if name in found else 'not set'}, planned {value}")
    return "the variables of the plan", problems


def nothing_dangerous(node):
    problems = []
    for unit, instance, properties, _processes in node.loaded_units():
        found = _environment(properties)
        problems += [f"{unit}: {name}={clip(found[name])}" for name in DANGEROUS
                     if found.get(name, "0") not in ("", "0") and str(instance["environment"].get(name)) != found[name]]
    return "none of " + ", ".join(DANGEROUS), problems


def no_secret_in_unit(node):
    problems = []
    for unit, _instance, properties, _processes in node.loaded_units():
        for name in ("Environment", "ExecStart", "ExecStartPre", "ExecStartPost"):
            words = str(properties.get(name, ""))
            problems += [f"{unit}: a secret in {name}" for _found in SECRET.findall(words) if "(hidden)" in words][:1]
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
            if float(when) > float(main["started"]) + 2:
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


def unit_files_are_deployed(node):
    problems, expected = [], []
    for unit, _instance, properties, _processes in node.loaded_units():
        path = f"/etc/systemd/system/{unit}"
        expected.append(path)
        if properties.get("FragmentPath") != path:
            problems.append(f"{unit} comes from {clip(properties.get('FragmentPath')) or 'nowhere'}, deployed at {path}")
        problems += [f"{unit} is overridden by {clip(dropin)}" for dropin in str(properties.get("DropInPaths", "")).split()]
        facts = node.file(path) if properties.get("FragmentPath") == path else None
        problems += _not_roots(path, facts) if facts else []
    return ", ".join(expected) + ", owned by root, without drop-ins", problems


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


# Files and accounts

def model_is_roots(node):
    paths = [model_path(instance) for instance in node.instances if model_path(instance)]
    if not paths:
        raise NotApplicable("no model is a directory of this node")
    files, problems = node.observed("files"), []
    for path in paths:
        if node.file(path) is None:
            problems.append(f"{path} does not exist")
        for name in sorted(files):
            if (name == path or name.startswith(f"{path}/")) and files[name]:
                problems += _not_roots(name, node.file(name))
    return ", ".join(paths) + " owned by root, writable by nobody else", problems


def software_is_roots(node):
    if not node.instances:
        raise NotApplicable("no instance on this node")
    problems, images = [], {properties.get("RootDirectory") for _unit, _instance, properties, _processes in node.units()} - {"", None}
    for path in sorted(images) or (SOFTWARE, f"{SOFTWARE}/current"):
        facts = node.file(path)
        problems += [f"{path} does not exist"] if facts is None else _not_roots(path, facts)
    return f"{SOFTWARE}, or the image in its place, owned by root, writable by nobody else", problems


def credentials_are_roots(node):
    files, problems = node.observed("files"), []
    found = [path for path in files if path.startswith("/etc/vllm-hardening/credentials") and files[path]]
    for path in sorted(found):
        facts = node.file(path)
        if facts["owner"] != "root" or int(facts["mode"], 8) & 0o077:
            problems.append(f"{clip(path)} is {clip(facts['owner'])}'s with mode {facts['mode']}")
    if not found:
        raise NotApplicable("no credential on this node")
    return "owned by root, no access for others", problems


def _sshd(node, wanted):
    settings = node.observed("sshd")["settings"]
    if settings is None:
        raise NotApplicable("no SSH daemon on this node")
    problems, expected = [], []
    for name, values in wanted.items():
        found = settings.get(name.lower())
        expected.append(f"{name} {' or '.join(values)}")
        if not isinstance(found, list):
            raise Unknown(f"the SSH daemon did not tell {name}")
        if found[0] not in values:
            problems.append(f"{name} is {clip(found[0])}, wanted {' or '.join(values)}")
    return "; ".join(expected), problems


def no_root_password(node):
    return _sshd(node, {"PermitRootLogin": ("no", "without-password", "prohibit-password", "forced-commands-only")})


def keys_only(node):
    return _sshd(node, {"PasswordAuthentication": ("no",), "KbdInteractiveAuthentication": ("no",)})


def no_login_without_secret(node):
    return _sshd(node, {"PermitEmptyPasswords": ("no",), "HostbasedAuthentication": ("no",)})


def _accounts(node):
    accounts = node.observed("accounts")
    for name in sorted({instance["user"] for instance in node.instances}):
        if accounts[name] is None:
            raise Unknown(f"the account {name} does not exist")
        yield name, accounts[name]


def account_cannot_log_in(node):
    problems = []
    for name, account in _accounts(node):
        if account["shell"] not in NO_SHELLS:
            problems.append(f"{name} has the shell {clip(account['shell'])}")
        if account["password"] != "locked":
            problems.append(f"{name}: the password is {clip(account['password'] or 'unknown')}, wanted locked")
    return "no shell, password locked", problems


def account_has_no_privilege(node):
    problems = []
    for name, account in _accounts(node):
        problems += [f"{name} is in the group {clip(group)}" for group in account["groups"] if group in PRIVILEGED_GROUPS]
        problems += [f"{name} may use sudo: {clip(rule)}" for rule in account["sudo"]]
        problems += [f"{name} has the user id 0"] if account["uid"] == 0 else []
    return "no privileged group, no sudo rule", problems


CHECKS = {
    "NET-01": nothing_unplanned_reachable, "NET-02": everything_planned_reachable, "NET-03": filter_is_the_plan, "NET-04": addresses_are_planned,
    "NET-05": network_settings, "NET-06": port_settings, "NET-07": forwarding_settings, "NET-08": settings_are_kept,
    "FW-01": table_is_loaded, "FW-02": filter_at_boot, "FW-03": filter_files_are_roots, "FW-04": listing_is_honest,
    "SOC-01": instance_listens_where_planned, "SOC-02": no_unplanned_listener, "SOC-03": api_listens,
    **{control: _setting(control) for control in SETTINGS},
    "PAR-08": other_arguments, "PAR-09": other_variables, "PAR-10": nothing_dangerous, "PAR-11": no_secret_in_unit,
    "SRV-01": unit_runs_as_deployed, "SRV-02": unit_has_its_own_user, "SRV-03": processes_run_as_own_user, "SRV-04": processes_have_no_capability,
    "SRV-05": processes_are_filtered, "SRV-06": processes_are_deployed, "SRV-07": nothing_runs_outside, "SRV-08": read_only_system, "SRV-09": own_devices,
    "SRV-10": kernel_is_protected, "SRV-11": without_privileges, "SRV-12": call_filter_declared, "SRV-13": packets_are_limited,
    "SRV-14": unit_files_are_deployed, "SRV-15": declared_is_enforced,
    "FIL-01": model_is_roots, "FIL-02": software_is_roots, "FIL-03": credentials_are_roots,
    "ACC-01": no_root_password, "ACC-02": keys_only, "ACC-03": no_login_without_secret, "ACC-04": account_cannot_log_in, "ACC-05": account_has_no_privilege,
    "HST-01": addresses_are_randomised,
}

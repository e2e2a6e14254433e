# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What an Ascend node has to be before an engine may use its NPUs. Pure: wanted and observed in, verdicts out.

The module ``verify_npu`` refuses by it before anything is installed, and the audit judges by it afterwards.
"""

from __future__ import annotations

import ipaddress

PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"
IDS = ("NPU-01", "NPU-02", "NPU-03", "NPU-04", "NPU-05", "NPU-06")


class NotTold(Exception):
    """The node did not tell what a condition depends on; the message says why."""


def wanted_npus(numbers, group="", cann=None, spans=False, segments=(), fabric=(), for_all=False):
    """What conditions() takes as wanted.

    numbers: of /dev/davinciN; group: of the driver, empty for the one it was installed with; cann: first parts of the toolkit's version or None;
    spans: whether an instance uses the NPUs together with those of other nodes; segments, fabric: networks of the host, and of the NPUs;
    for_all: whether every account of the node may use the NPUs.
    """
    return {"numbers": sorted(numbers), "group": group, "cann": cann, "spans": spans, "segments": list(segments), "fabric": list(fabric), "for_all": for_all}


def _told(observed, part):
    value = observed.get(part)
    if value is None:
        raise NotTold((observed.get("unknown") or {}).get(part) or f"the node did not tell its {part}")
    return value


def driver(wanted, observed):
    """NPU-01"""
    install = _told(observed, "install")
    problems = []
    if install.get("Driver_Install_For_All", "no").lower() != "no" and not wanted["for_all"]:
        problems.append("the driver was installed with --install-for-all: every account may use every NPU; install it again without, "
                        "or say why in vllm_runtime_npus_for_all_reason")
    group = install.get("UserGroup")
    if not group or group == "root":
        problems.append(f"the driver's group is {group or 'not stated'}; install it again with a group of its own, such as HwHiAiUser")
    elif wanted["group"] and group != wanted["group"]:
        problems.append(f"the driver's group is {group}; write vllm_runtime_device_group: {group}, which says {wanted['group']}")
    # Nothing that is missing hides what is wrong.
    if not problems and not _told(observed, "driver"):
        problems.append("the driver has no version")
    return "installed for its own group only", problems


def toolkit(wanted, observed):
    """NPU-02"""
    expected = f"CANN {wanted['cann']}" if wanted["cann"] else "a CANN toolkit"
    problems = [
        f"{path} belongs to {facts['owner']} and has mode {facts['mode']}, and every engine runs it; chown root {path} and chmod go-w {path}"
        for path, facts in sorted((observed.get("scripts") or {}).items()) if facts["owner"] != "root" or int(facts["mode"], 8) & 0o022
    ]
    version = observed.get("cann") if problems else _told(observed, "cann")
    if wanted["cann"] and version and not f"{version}.".lower().startswith(f"{wanted['cann']}.".lower()):
        problems.append(f"CANN {version} is installed, the engine is paired with {wanted['cann']}; install that, or the engine that belongs to {version}")
    return f"{expected}, whose scripts only root can change", problems


def device_nodes(wanted, observed):
    """NPU-03"""
    devices, problems = _told(observed, "devices"), []
    group = wanted["group"] or (observed.get("install") or {}).get("UserGroup")
    for path, facts in sorted(devices.items()):
        if facts is None:
            problems.append(f"{path} does not exist; install or load the driver, or plan other NPUs")
        elif not facts["character"]:
            problems.append(f"{path} is no device")
        elif int(facts["mode"], 8) & 0o007 and not wanted["for_all"]:
            problems.append(f"{path} has mode {facts['mode']}: every account may use it; install the driver without --install-for-all, "
                            "or say why in vllm_runtime_npus_for_all_reason")
        elif group and facts["group"] != group:
            problems.append(f"{path} belongs to group {facts['group']}, not to {group}, which the instances' users join")
    return f"device nodes of group {group or 'of the driver'}, closed to others", problems


def healthy(wanted, observed):
    """NPU-04"""
    known = {npu["number"]: npu for npu in _told(observed, "smi")["npus"]}
    problems = []
    for number in wanted["numbers"]:
        npu = known.get(number)
        if npu is None:
            problems.append(f"npu-smi does not list NPU {number}; it lists {', '.join(map(str, sorted(known)))}")
        elif npu["health"] != "OK":
            problems.append(f"NPU {number} ({npu['name']}, {npu['bus']}) is {npu['health']}; see npu-smi info -t health -i {npu['npu']} -c {npu['chip']}")
    return f"NPUs {', '.join(map(str, wanted['numbers']))} present and OK", problems


def fabric_is_apart(wanted, observed):
    """NPU-05"""
    networks = [ipaddress.ip_network(network) for network in wanted["segments"]]
    own = [ipaddress.ip_network(network) for network in wanted["fabric"]]
    found, problems, addresses, silent = _told(observed, "fabric"), [], {}, []
    routes = [(ipaddress.ip_network(network), interface) for network, interface in _told(observed, "routes")]
    for number in wanted["numbers"]:
        told = found.get(str(number)) or {}
        if told.get("silent"):
            silent.append(f"nothing is told of NPU {number}: {told['silent']}")
            continue
        if not told.get("address"):
            problems.append(f"NPU {number} has no address; give it one with hccn_tool -i {number} -ip -s")
            continue
        address = ipaddress.ip_address(told["address"]["address"])
        if address in addresses:
            problems.append(f"NPU {number} has the address {address} of NPU {addresses[address]}")
        addresses[address] = number
        problems += [f"NPU {number} has the address {address}, which lies in the host's segment {network}" for network in networks if address in network]
        if own and not any(address in network for network in own):
            problems.append(f"NPU {number} has the address {address}, outside the fabric ({', '.join(map(str, own))})")
        for network, interface in routes:
            if address in network:
                problems.append(f"the host has a route to NPU {number}'s address {address}: {network} on {interface}")
    if silent and not problems:
        raise NotTold("; ".join(silent))
    return "addresses outside every segment of the host, no route to them", problems


def switches(found, numbers):
    """{number: whether TLS is on} of a node's NPUs. Raises NotTold where the tool told it of none or not of all."""
    told = {number: (found.get(str(number)) or {}).get("tls") for number in numbers}
    silent = [str(number) for number, tls in told.items() if tls is None]
    if silent:
        raise NotTold(f"hccn_tool told no TLS switch of NPU {', '.join(silent)}")
    return told


def tls_is_equal(wanted, observed):
    """NPU-06, within a node; the audit compares the nodes of an instance too."""
    told = switches(_told(observed, "fabric"), wanted["numbers"])
    on = [str(number) for number, tls in told.items() if tls]
    problems = []
    if on and len(on) < len(told):
        problems.append(f"TLS is on for NPU {', '.join(on)} alone, and links to the others fail; set all alike with hccn_tool -tls -s enable")
    return "one TLS switch for all", problems


_CHECKS = dict(zip(IDS, (driver, toolkit, device_nodes, healthy, fabric_is_apart, tls_is_equal)))
_BETWEEN_NODES = ("NPU-05", "NPU-06")


def conditions(wanted, observed):
    """[{id, status, expected, problems}] of every condition that concerns the node; of the fabric only where an instance spans nodes.

    A condition that cannot be judged is ``unknown``, with the reason as its problem.
    """
    found = []
    for identifier, check in _CHECKS.items():
        if identifier in _BETWEEN_NODES and not wanted["spans"]:
            continue
        try:
            expected, problems = check(wanted, observed)
            status = FAIL if problems else PASS
        except NotTold as reason:
            expected, problems, status = "", [str(reason)], UNKNOWN
        except (AttributeError, KeyError, TypeError, ValueError):
            expected, problems, status = "", ["the node's answer is not of the expected shape"], UNKNOWN
        found.append({"id": identifier, "status": status, "expected": expected, "problems": problems})
    return found

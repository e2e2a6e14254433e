# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What an Ascend node tells of its NPUs: driver, toolkit, device nodes, health and fabric. Reads only.

The parsers take what the vendor's files and tools print; recorded output with its source is in tests/unit/plugins/module_utils/npu_output.
Nothing is guessed: what a tool does not tell is None, and its reason is under ``unknown``.
"""

from __future__ import annotations

import glob
import grp
import ipaddress
import os
import pwd
import re
import socket
import stat
import struct
import subprocess

INSTALL_INFO = "/etc/ascend_install.info"
DRIVER_PATH = "/usr/local/Ascend"
SMI_PATHS = ("/usr/local/bin/npu-smi", "/usr/local/sbin/npu-smi", "/usr/bin/npu-smi")
# CANN 8 and CANN 9 lay the toolkit out differently.
TOOLKITS = ("/usr/local/Ascend/ascend-toolkit/latest/*-linux/ascend_toolkit_install.info", "/usr/local/Ascend/cann/*-linux/ascend_toolkit_install.info",
            "/usr/local/Ascend/cann/ascend_toolkit_install.info")
# What the vendor has each process source before an engine: CANN since 8.5, CANN before, and the transformer library beside them.
TOOLKIT_SCRIPTS = ("/usr/local/Ascend/cann/set_env.sh", "/usr/local/Ascend/ascend-toolkit/set_env.sh", "/usr/local/Ascend/nnal/atb/set_env.sh")
SHARED_DEVICES = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")


def parse_settings(text):
    """``KEY=value`` lines, as of /etc/ascend_install.info, version.info and ascend_toolkit_install.info -> {key: value}."""
    return {key.strip(): value.strip() for key, sign, value in (line.partition("=") for line in text.splitlines()) if sign and key.strip()}


def _usage(cell):
    """The last ``used / total`` of a cell, as integers; None where there is none."""
    found = re.findall(r"(\d+)\s*/\s*(\d+)", cell)
    return [int(number) for number in found[-1]] if found else None


def parse_npu_smi(text):
    """``npu-smi info`` -> {version, npus: [{number, npu, chip, name, health, bus, hugepages, memory}]}.

    ``number`` is the one in /dev/davinciN: the physical id where the tool prints it (two chips a card), else the card's, counted where the
    tool numbers cards otherwise (310P). ``hugepages`` and ``memory`` (MB of HBM, else DDR) are [used, total]. Raises ValueError where it is no such table.
    """
    version = re.search(r"npu-smi\s+(\S+)\s+Version:", text)
    npus, first = [], None
    for line in text.splitlines():
        if "Process id" in line:
            break
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.strip().startswith("|") or len(cells) != 3:
            continue
        words = cells[0].split()
        if not words or not words[0].isdigit():
            continue
        if first is None:
            first = (words, cells)
            continue
        (card, cells_of_card), first = first, None
        npus.append({
            "npu": int(card[0]), "chip": int(words[0]), "number": int(words[1]) if len(words) > 1 and words[1].isdigit() else None,
            "name": " ".join(card[1:]), "health": cells_of_card[1], "bus": cells[1], "hugepages": _usage(cells_of_card[2]), "memory": _usage(cells[2])})
    if not npus or first is not None:
        raise ValueError("npu-smi info prints no table of NPUs")
    for index, npu in enumerate(npus):
        if npu["number"] is None:
            npu["number"] = npu["npu"] if len({item["npu"] for item in npus}) == len(npus) and npu["npu"] < 64 else index
    return {"version": version.group(1) if version else None, "npus": npus}


def parse_hccn_address(text):
    """``hccn_tool -i N -ip -g`` -> {address, prefix}, or None where the NPU has no address."""
    address, mask = re.search(r"^\s*ipaddr:\s*(\S+)", text, re.MULTILINE), re.search(r"^\s*netmask:\s*(\S+)", text, re.MULTILINE)
    if not address:
        return None
    network = ipaddress.ip_interface(address.group(1) + (f"/{mask.group(1)}" if mask else ""))
    return {"address": str(network.ip), "prefix": network.network.prefixlen}


def parse_hccn_tls(text):
    """``hccn_tool -i N -tls -g`` -> True or False for the switch, None where the tool tells none."""
    found = set(re.findall(r"tls switch\[([01])\]", text))
    return found.pop() == "1" if len(found) == 1 else None


def parse_routes(text):
    """/proc/net/route -> [(network, interface)] without default routes."""
    routes = []
    for fields in (line.split() for line in text.splitlines()[1:]):
        if len(fields) > 7 and int(fields[3], 16) & 1 and fields[7] != "00000000":
            destination, mask = (socket.inet_ntoa(struct.pack("=I", int(fields[index], 16))) for index in (1, 7))
            routes.append((str(ipaddress.ip_network(f"{destination}/{mask}", strict=False)), fields[0]))
    return routes


def parse_routes6(text):
    """/proc/net/ipv6_route -> [(network, interface)] without default, local and link-local routes."""
    routes = []
    for fields in (line.split() for line in text.splitlines()):
        if len(fields) == 10 and int(fields[1], 16) and fields[9] != "lo" and not fields[0].startswith(("fe80", "ff")):
            routes.append((str(ipaddress.ip_network((bytes.fromhex(fields[0]), int(fields[1], 16)))), fields[9]))
    return routes


def parse_memory(text):
    """/proc/meminfo -> {total, available, hugepages, hugepages_free, hugepage_size}: kB and counts."""
    values = {name: int(number) for name, number in re.findall(r"^([A-Za-z_()]+):\s+(\d+)", text, re.MULTILINE)}
    return {key: values.get(name) for key, name in (
        ("total", "MemTotal"), ("available", "MemAvailable"), ("hugepages", "HugePages_Total"), ("hugepages_free", "HugePages_Free"),
        ("hugepage_size", "Hugepagesize"))}


def _read(path):
    with open(path, encoding="utf-8", errors="backslashreplace") as file:
        return file.read(1 << 20)


def _name(lookup, number):
    try:
        return lookup(number)[0]
    except KeyError:
        return str(number)


def read_device(path):
    """{mode, owner, group, character} of a device node or a file; None where it does not exist."""
    try:
        facts = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return {"mode": f"{stat.S_IMODE(facts.st_mode):04o}", "owner": _name(pwd.getpwuid, facts.st_uid), "group": _name(grp.getgrgid, facts.st_gid),
            "character": stat.S_ISCHR(facts.st_mode)}


def _told(run, argv, tool):
    """What a tool prints. Raises OSError with a reason for the user where it is absent or fails."""
    if not os.access(argv[0], os.X_OK):
        raise OSError(f"{tool} is not installed")
    code, output, error = run(argv)
    if code != 0:
        raise OSError(f"{tool} failed: {(error or output).strip()[:200]}")
    return output


def observe_npus(numbers, run):
    """Everything about the NPUs with these numbers, those of /dev/davinciN.

    run: callable for commands, ``run(argv) -> (returncode, stdout, stderr)``.
    Returns {install, driver, firmware, cann, scripts, devices, smi, fabric: {number: {address, tls}}, routes, memory, unknown: {part: reason}}; a part that
    could not be observed is None, and an NPU of which hccn_tool fails to tell has its reason as ``silent``.
    """
    result, unknown = {}, {}

    def part(name, read):
        try:
            result[name] = read()
        except FileNotFoundError as error:
            result[name], unknown[name] = None, f"{error.filename} does not exist"
        except (OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError) as error:
            result[name], unknown[name] = None, str(error)[:300]

    def version(package):
        base = (result["install"] or {}).get(f"{package.capitalize()}_Install_Path_Param", DRIVER_PATH)
        return parse_settings(_read(f"{base}/{package}/version.info"))["Version"]

    def toolkit():
        found = [path for pattern in TOOLKITS for path in sorted(glob.glob(pattern))]
        if not found:
            raise OSError("no CANN toolkit is installed")
        return parse_settings(_read(found[0]))["version"]

    def smi():
        path = next((path for path in SMI_PATHS if os.access(path, os.X_OK)), SMI_PATHS[0])
        return parse_npu_smi(_told(run, [path, "info"], "npu-smi"))

    def fabric():
        base = (result["install"] or {}).get("Driver_Install_Path_Param", DRIVER_PATH)
        tool, found = f"{base}/driver/tools/hccn_tool", {}
        for number in numbers:
            try:
                address = parse_hccn_address(_told(run, [tool, "-i", str(number), "-ip", "-g"], "hccn_tool"))
                found[str(number)] = {"address": address, "tls": parse_hccn_tls(_told(run, [tool, "-i", str(number), "-tls", "-g"], "hccn_tool"))}
            except (OSError, ValueError) as error:
                found[str(number)] = {"address": None, "tls": None, "silent": str(error)[:300]}
        silent = [facts["silent"] for facts in found.values() if "silent" in facts]
        if silent and len(silent) == len(found):
            raise OSError(silent[0])
        return found

    def routes():
        found = parse_routes(_read("/proc/net/route"))
        return found + (parse_routes6(_read("/proc/net/ipv6_route")) if os.path.exists("/proc/net/ipv6_route") else [])

    part("install", lambda: parse_settings(_read(INSTALL_INFO)))
    part("driver", lambda: version("driver"))
    part("firmware", lambda: version("firmware"))
    part("cann", toolkit)
    part("scripts", lambda: {path: facts for path in TOOLKIT_SCRIPTS for facts in [read_device(path)] if facts})
    part("devices", lambda: {path: read_device(path) for path in [f"/dev/davinci{number}" for number in numbers] + list(SHARED_DEVICES)})
    part("smi", smi)
    part("fabric", fabric)
    part("routes", routes)
    part("memory", lambda: parse_memory(_read("/proc/meminfo")))
    result["unknown"] = unknown
    return result

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Try to climb out of the unit that the collection renders, on hosts of the lab that boot systemd.

Each attempt is made three times: in the unit as it is (must be refused); in the unit without what else stands in its way, such as the
unprivileged user (must be refused, by the protection alone); and without the protection too (must succeed, else the attempt shows
nothing). What inference needs is tried in the unit as it is and must succeed.

    run.py ROOT [ROOT...]        trixie, bookworm
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import serving

HERE = Path(__file__).resolve().parent
LAB = HERE.parent / "lab" / "lab"
BLOCK = "10.98"
PEER, STRANGER = f"{BLOCK}.2.12", f"{BLOCK}.1.12"

# attempt: what holds it back (protection), and what is taken away in the second and third try so that the protection stands alone (others).
Case = namedtuple("Case", "protection others")
ROOT = ("User", "Group", "PrivateUsers", "CapabilityBoundingSet", "NoNewPrivileges")
# For an unprivileged user systemd makes each of these imply NoNewPrivileges (systemd.exec).
IMPLIED = ("SystemCallFilter", "SystemCallErrorNumber", "SystemCallArchitectures", "RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime",
           "RestrictSUIDSGID", "LockPersonality", "ProtectClock", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables",
           "PrivateUsers", "CapabilityBoundingSet")
CASES = {
    "write_usr": Case(("ProtectSystem",), ROOT),
    "read_foreign_file": Case(("User", "Group"), ("PrivateUsers", "CapabilityBoundingSet", "NoNewPrivileges")),
    "read_home": Case(("ProtectHome",), ()),
    "read_foreign_tmp": Case(("PrivateTmp",), ()),
    "read_foreign_shm": Case(("TemporaryFileSystem",), ()),
    "ptrace": Case(("SystemCallFilter",), ()),
    "mount": Case(("SystemCallFilter",), ROOT),
    "open_device": Case(("DevicePolicy", "DeviceAllow", "ProtectClock"), ()),
    "bind_unplanned": Case(("SocketBindDeny", "SocketBindAllow"), ()),
    "connect_outside": Case(("IPAddressDeny", "IPAddressAllow"), ()),
    "make_setuid": Case(("RestrictSUIDSGID",), ()),
    "gain_privileges": Case(("NoNewPrivileges",), IMPLIED),
    "make_namespace": Case(("RestrictNamespaces",), ()),
    "open_packet_socket": Case(("RestrictAddressFamilies",), ROOT),
    "write_tunable": Case(("ProtectKernelTunables",), ROOT),
    "write_cgroup": Case(("ProtectControlGroups",), ROOT),
    "set_host_name": Case(("ProtectHostname",), (*ROOT, "SystemCallFilter")),
    "see_processes": Case(("ProtectProc",), ()),
    "give_away": Case(("CapabilityBoundingSet",), ("User", "Group", "PrivateUsers", "SystemCallFilter", "NoNewPrivileges")),
}
KEPT = ("keeps_compiling", "keeps_shared_memory", "keeps_numa", "keeps_interfaces", "keeps_planned_ports", "keeps_folders", "keeps_peers", "keeps_own_device")
# Enforced only where systemd is built with its BPF framework; elsewhere declared in vain, which the audit reports.
NEEDS_BPF = {"bind_unplanned"}


def unit_of(attempt, target):
    """The unit of an instance whose engine makes the attempt."""
    instance = {
        "name": "probe", "unit": "vllm-probe.service", "user": "vllm-probe", "engine": "vllm", "arguments": [attempt, target], "rank": 0, "head": True,
        "environment": {"VLLM_RPC_BASE_PATH": "/run/vllm-probe"}, "api": {"address": "127.0.0.1", "port": 7443},
        "devices": ["/dev/davinci0"] if attempt == "keeps_own_device" else [],
    }
    unit = serving.serving_units([instance], executable_directory="/srv/sandbox-bin", sets={"peers_probe": [f"{BLOCK}.2.11", PEER]})[0]["content"]
    # A unit that has ended well keeps its status only while it counts as active.
    return re.sub(r"(?m)^Restart=.*$", "RemainAfterExit=yes", unit)


def without(unit, names):
    """The unit without every line of these properties."""
    return "".join(line for line in unit.splitlines(keepends=True) if line.partition("=")[0] not in names)


def cases():
    """Every try: attempt, which of the three, the unit, and what must come out."""
    for attempt, case in CASES.items():
        unit = unit_of(attempt, STRANGER)
        yield {"attempt": attempt, "try": "as it is", "unit": unit, "expected": "refused"}
        if case.others:
            yield {"attempt": attempt, "try": f"with {case.protection[0]} alone", "unit": without(unit, case.others), "expected": "refused"}
        yield {"attempt": attempt, "try": f"without {case.protection[0]}", "unit": without(unit, case.others + case.protection), "expected": "succeeded"}
    for attempt in KEPT:
        yield {"attempt": attempt, "try": "as it is", "unit": unit_of(attempt, PEER), "expected": "succeeded"}


def lab(*words, **options):
    """Run the lab's program."""
    return subprocess.run([str(LAB), *words], check=True, **options)


def try_root(root):
    """All cases on one root; the number of those that came out otherwise."""
    name = f"sandbox-{root}"
    lab("up", "--name", name, "--block", BLOCK, "--root", root, "--hosts", "npu01,npu02", "--mount", f"{HERE}:/srv/sandbox:ro")
    try:
        version = lab("exec", "--name", name, "npu01", "systemctl", "--version", capture_output=True, text=True).stdout
        bpf = "+BPF_FRAMEWORK" in version
        given = "".join(json.dumps(case) + "\n" for case in cases())
        out = lab("exec", "--name", name, "npu01", "python3", "/srv/sandbox/node.py", input=given, capture_output=True, text=True).stdout
    finally:
        lab("down", "--name", name)
    wrong = 0
    results = [json.loads(line) for line in out.splitlines()]
    for result in results:
        vain = not bpf and result["attempt"] in NEEDS_BPF and result["expected"] == "refused"
        expected = "succeeded" if vain else result["expected"]
        wrong += result["outcome"] != expected
        mark = "ok   " if result["outcome"] == expected else "WRONG"
        note = " (declared, but this systemd cannot enforce it)" if vain else ""
        if mark == "WRONG":
            print(result["journal"])
        print(f"{mark} {root} {result['attempt']:20} {result['try']:30} {result['outcome']}{note}")
    if len(results) != len(list(cases())):
        wrong += 1
        print(f"WRONG {root}: {len(results)} outcomes of {len(list(cases()))} cases")
    print(f"{root}: {version.split()[1]}, {len(results)} tries, {wrong} wrong", flush=True)
    return wrong


def main():
    """Every root named on the command line."""
    roots = sys.argv[1:] or ["trixie", "bookworm"]
    return 1 if sum(try_root(root) for root in roots) else 0


if __name__ == "__main__":
    sys.exit(main())

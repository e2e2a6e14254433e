# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the reports of a large fleet cost: findings of 10,000 hosts times 100 controls in all formats.

reports.py [HOSTS [CONTROLS]]

Of every 100 findings 5 failed with three observations each, 1 is waived, 2 are unknown, 2 do not apply; every host has five planned flows
and two probed paths. Printed are wall and processor time of each format, the size of the file, and the most memory the process ever had.
The bar is 60 s and 2 GiB for all formats together; exit status 1 where the memory exceeds it.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

from ansible_collections.vllm_mindspore.hardening.plugins.action.judge import FORMATS
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import CONTROLS
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judge import STATUSES, fix_of
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report import check_document
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_files import write_reports
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import RESULTS

SECONDS, MEBIBYTES = 60, 2048
WAIVER = {"control": "C", "reason": "replaced in the next quarter", "owner": "operations", "expires": "2026-12-31"}


def finding(host, number, control, index):
    """One finding, as the judge makes them: no text is shared with the findings of another host."""
    kind = (number * 7 + index) % 100
    made = {"control": control["id"], "host": host, "severity": control["severity"], "status": "pass", "expected": "", "observed": "", "evidence": [],
            "waiver": None}
    if kind in (8, 9):
        made.update(status="not applicable", observed=f"no instance on {host} wants it")
        return made
    if kind in (6, 7):
        made.update(status="unknown", observed=f"{host} did not tell about vllm-chat.service")
        return made
    made.update(expected=f"vllm-chat.service on {host}: {control['title']}", observed="as expected")
    if kind <= 5:
        shown = [f"vllm-chat.service on {host}: observation {place} of what deviates is \"this\", wanted <that>" for place in range(3)]
        made.update(status="fail", observed=shown[0], evidence=shown)
    if kind == 5:
        made.update(status="waived", waiver=WAIVER)
    return made


def row(host, number, vantage):
    """One probed path with its cells."""
    return {
        "vantage": vantage, "segment": "api", "source": "10.0.0.1", "host": host, "address": f"10.{number // 65536}.{number // 256 % 256}.{number % 256}",
        "to_segment": "internal", "crossed": True, "protocol": "tcp", "why": None,
        "cells": [{"result": "ok-blocked", "expected": "blocked", "observed": "silent", "flow": None, "ports": ["22", "80", "111", "443", "8000"], "count": 5}]}


def build(hosts, controls):
    """A results document of that size."""
    catalogue = []
    for index in range(controls):
        control = CONTROLS[index % len(CONTROLS)]
        catalogue.append({**control.as_dict(), "remedy": fix_of(control.id), "id": f"{control.id}-{index // len(CONTROLS)}"})
    names = [f"npu{number:05}.cluster.example.com" for number in range(hosts)]
    findings = [finding(name, number, control, index) for number, name in enumerate(names) for index, control in enumerate(catalogue)]
    counts = dict.fromkeys(STATUSES, 0)
    for entry in findings:
        counts[entry["status"]] += 1
    flows = [{"name": f"flow-{index}", "sources": ["@peers_chat"], "destinations": ["10.77.2.11"], "segment": "internal", "protocol": "tcp",
              "ports": ["20550", "28000-28999"], "reason": "data-parallel traffic between the nodes of chat"} for index in range(5)]
    return {
        "version": 1, "generator": "vllm_mindspore.hardening", "generated": "2026-06-01T03:04:05+00:00", "verdict": "findings", "exit_status": 2,
        "coverage": {"nodes": hosts, "observed": hosts, "not_observed": {}, "vantage_points": hosts, "probed": hosts, "not_probed": {}, "probes": 20 * hosts},
        "counts": counts,
        "wire": {"counts": {**dict.fromkeys(RESULTS, 0), "ok-blocked": 10 * hosts}, "missing": [],
                 "rows": [row(name, number, vantage) for number, name in enumerate(names) for vantage in ("client", "rogue")]},
        "findings": findings, "controls": catalogue,
        "plan": {"clusters": {"vllm": {"segments": {"internal": ["10.77.2.0/24"]}, "sets": {"peers_chat": hosts}, "nodes": names}},
                 "nodes": {name: {"cluster": "vllm", "addresses": {"internal": ["10.77.2.11"]}, "flows": flows} for name in names}},
    }


def main() -> int:
    """Build, write one format after the other, print."""
    hosts, controls = (int(word) for word in (sys.argv[1:] + ["10000", "100"][len(sys.argv) - 1:])[:2])
    document = build(hosts, controls)
    check_document(document)
    print(f"{len(document['findings'])} findings of {hosts} hosts, {document['counts']}", flush=True)
    print(f"{'format':12}{'wall':>9}{'processor':>12}{'size':>10}")
    total = [0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        for name, (file, render) in FORMATS.items():
            wall, busy = time.perf_counter(), time.process_time()
            write_reports(folder, {file: render(document)}, document)
            spent = time.perf_counter() - wall, time.process_time() - busy
            total = [before + now for before, now in zip(total, spent)]
            size = (Path(folder) / file).stat().st_size
            print(f"{name:12}{spent[0]:>7.1f} s{spent[1]:>10.1f} s{size / 1e6:>7.1f} MB", flush=True)
            (Path(folder) / file).unlink()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'all':12}{total[0]:>7.1f} s{total[1]:>10.1f} s; at most {memory:.0f} MiB of memory, the document included (bar: {SECONDS} s, {MEBIBYTES} MiB)")
    return 1 if memory > MEBIBYTES else 0


if __name__ == "__main__":
    sys.exit(main())

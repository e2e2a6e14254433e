# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Judges the run's observations against the plan, writes the reports, says what was found."""

from __future__ import annotations

import datetime
import json
import os
import time

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import deviations, drift
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_run import observations, plain, plan_of, probes, vantage_addresses
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judge import judge, worst
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report import (
    DocumentError, build_document, read_document, terminal_summary, verdict_sentence)
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_files import (
    DEVIATIONS, ReportError, deviations_text, lines_of, locked, read_deviations, read_history, summary_of, write_reports)
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_files import write as write_file
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_formats import (
    render_csv, render_json, render_junit, render_oscal, render_prometheus, render_sarif)
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_html import render_html
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.waivers import WaiverError, read_waivers
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.wire import compose, without_ended_responders, without_responder

DEVIATIONS_SHOWN = 500
FORMATS = {
    "csv": ("report.csv", render_csv),
    "html": ("report.html", render_html),
    "json": ("report.json", render_json),
    "junit": ("report.junit.xml", render_junit),
    "oscal": ("report.oscal.json", render_oscal),
    "prometheus": ("report.prom", render_prometheus),
    "sarif": ("report.sarif", render_sarif),
}


class ActionModule(ActionBase):
    """See the documentation of the module ``judge``."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _spec, arguments = self.validate_argument_spec({
            "plan": {"type": "dict"},
            "document": {"type": "path"},
            "spread": {"type": "int", "default": 64},
            "peers": {"type": "int", "default": 8},
            "directory": {"type": "path"},
            "formats": {"type": "list", "elements": "str", "choices": sorted(FORMATS), "default": ["html", "json"]},
            "signing_key": {"type": "path"},
            "waivers": {"type": "list", "elements": "dict", "default": []},
            "enforce": {"type": "bool", "default": True},
            "before": {"type": "list", "elements": "dict"},
        }, required_one_of=[("plan", "document")], mutually_exclusive=[("plan", "document")])
        if arguments["document"]:
            return {**result, **self.again(arguments)}
        plan = plan_of(arguments["plan"])
        now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        try:
            waivers, expired = read_waivers(plain(arguments["waivers"]), list(plan["nodes"]), now.date())
        except WaiverError as error:
            raise AnsibleActionFail(str(error)) from None
        seen, reasons = observations(task_vars["hostvars"], plan["nodes"])
        lost = without_responder(probes(task_vars["hostvars"], plan["nodes"])[0])
        seen = without_ended_responders(seen, time.time(), lost)
        composed = compose(plan, seen, vantage_addresses(task_vars), arguments["spread"], arguments["peers"])
        tried, probe_reasons = probes(task_vars["hostvars"], composed["vantage_points"])
        judgement = judge(plan, composed, seen, {**probe_reasons, **reasons}, tried, waivers, expired)
        document = build_document(plan, judgement, now.isoformat())
        paths = []
        if arguments["directory"]:
            try:
                with locked(arguments["directory"]):
                    paths = self.write(arguments, document, seen)
            except ReportError as error:
                raise AnsibleActionFail(str(error)) from None
        display = Display()
        for line in terminal_summary(document, paths) + changes(arguments["before"], document["findings"]):
            display.display(line)
        result.update(changed=False, verdict=document["verdict"], exit_status=document["exit_status"], counts=document["counts"],
                      wire=document["wire"]["counts"], coverage=document["coverage"], reports=paths, directory=arguments["directory"],
                      msg=verdict_sentence(document),
                      findings=[finding for finding in document["findings"] if finding["status"] in ("fail", "unknown")])
        if document["exit_status"] and arguments["enforce"]:
            result["failed"] = True
            result["msg"] += "".join(f" {finding['control']} {finding['host']}: {finding['observed']}." for finding in worst(document["findings"]))
        return result

    @staticmethod
    def again(arguments):
        """Write the reports of an earlier run in other formats; the results."""
        try:
            document = read_document(arguments["document"])
            paths = []
            for name in arguments["formats"] if arguments["directory"] else ():
                file, render = FORMATS[name]
                paths.append(os.path.join(arguments["directory"], file))
                if os.path.realpath(paths[-1]) != os.path.realpath(arguments["document"]):
                    write_file(paths[-1], render(document))
        except DocumentError as error:
            raise AnsibleActionFail(f"document: {error}") from None
        except OSError as error:
            raise AnsibleActionFail(f"directory is {arguments['directory']!r}, where the report cannot be written: {error.strerror}") from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            raise AnsibleActionFail(f"document: {arguments['document']} is no whole results document: it is truncated or was edited") from None
        return {"changed": False, "verdict": document["verdict"], "exit_status": document["exit_status"], "counts": document["counts"],
                "wire": document["wire"]["counts"], "coverage": document["coverage"], "reports": paths, "msg": verdict_sentence(document),
                "findings": [finding for finding in document["findings"] if finding["status"] in ("fail", "unknown")],
                "failed": bool(document["exit_status"] and arguments["enforce"])}

    def write(self, arguments, document, seen):
        """Complete the document with what earlier runs left, and write the reports; their paths. Raises ReportError."""
        earlier = read_history(arguments["directory"], Display().warning)
        document["history"] = [*earlier, summary_of(document)]
        followed = self.followed(arguments, document, seen, earlier[-1]["generated"] if earlier else None)
        document["deviations"] = deviations.open_first(followed, DEVIATIONS_SHOWN)
        rendered = {DEVIATIONS: deviations_text(followed), **{FORMATS[name][0]: FORMATS[name][1](document) for name in arguments["formats"]}}
        return write_reports(arguments["directory"], rendered, document, arguments["signing_key"])

    @staticmethod
    def followed(arguments, document, seen, previous):
        """The history of deviations after this audit."""
        explained = drift_records(arguments["directory"], previous, Display().warning) if previous else []
        guards = {host: (observation or {}).get("guard") for host, observation in seen.items()}
        return deviations.follow(read_deviations(arguments["directory"], Display().warning), document["findings"], guards, document["generated"], previous,
                                 arguments["before"] is not None, explained)


def drift_records(directory, since, warn=None):
    """What drift correction explained in this directory since a time: [{host, seen, explained: [{lines}]}], the oldest first.

    What is no note is left out, and told to `warn`. Raises ReportError.
    """
    found, path = [], os.path.join(directory, drift.HISTORY)
    for older in ["", *(f".{number}" for number in range(1, drift.HISTORY_FILES))]:
        lines = lines_of(f"{path}{older}")
        records = [record for record in map(drift_record, lines) if record]
        if warn and len(records) < len(lines):
            warn(f"{path}{older}: {len(lines) - len(records)} of {len(lines)} lines are no notes of drift correction and are left out")
        found = [record for record in records if record["explained"] and record["seen"] >= since] + found
        if not lines or (records and records[0]["seen"] < since):
            break
    return found


def drift_record(line):
    """One note of drift correction, None where it is none."""
    try:
        record = json.loads(line)
        return {"host": str(record["host"]), "seen": str(record.get("seen") or ""),
                "explained": [{"lines": [str(line) for line in one["lines"]]} for one in record.get("explained") or ()]}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def changes(before, after):
    """Lines that say what became of the findings of an earlier judgement of the same run; none without one."""
    if before is None:
        return []
    open_now = {(finding["control"], finding["host"]) for finding in after if finding["status"] in ("fail", "unknown")}
    lines = ["", f"DRIFT  {len(before)} deviations were found before"]
    for finding in before:
        state = "left" if (finding["control"], finding["host"]) in open_now else "corrected"
        lines.append(f"  {state:<9} {finding['host']}  {finding['control']}  was: {finding['observed']}")
    return lines

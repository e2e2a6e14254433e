# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a run changed and what it executed on the nodes, as JSON: the witness of the tests that compare runs and count.

Writes LEDGER_FOLDER/NAME-check.json or NAME-run.json (NAME: the playbook's file name without its ending; a later run
overwrites an earlier one):

    hosts:      [host]                                        # every host that a task gave a result for
    changed:    [{host, task, where, item, diff}]             # results that said `changed`, in order
    failed:     [host]                                        # hosts with a failed task, or not reached
    executions: {host: {module: count}}                       # module executions that went to the host
    commands:   {host: count}                                 # commands run on the host for them and beside them

An execution is a call of ActionBase._execute_module, the one door for modules: a task without an action plugin passes it
once, one with an action plugin as often as that plugin asks, one that works on the controller never. It is passed in
forked workers, so the counter is installed here, in the parent and before the first fork, and the workers append to one
journal. A delegated execution counts for the host that it runs on.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path

from ansible import context
from ansible.executor.process import worker
from ansible.plugins.action import ActionBase
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: ledger
type: aggregate
short_description: Record the changes and the module executions of a run
description:
  - For this project's tests.
requirements:
  - LEDGER_FOLDER in the environment; without it nothing is recorded
"""


def count_calls(journal: str) -> None:
    """Make the two doors to a node append [kind, host, module] to JOURNAL when they are passed."""

    def counted(door, kind):
        def pass_door(action, *arguments, **options):
            host = action._task.delegate_to or worker.current_worker._host.name
            module = (options.get("module_name") or (arguments[0] if arguments else None) or action._task.action) if kind == "execution" else ""
            with open(journal, "a", encoding="utf-8") as file:
                file.write(json.dumps([kind, host, module]) + "\n")
            return door(action, *arguments, **options)

        return pass_door

    ActionBase._execute_module = counted(ActionBase._execute_module, "execution")
    ActionBase._low_level_execute_command = counted(ActionBase._low_level_execute_command, "command")


def comparable(diff) -> list:
    """The parts of a result's diff that say what changes, without headers, which may name temporary files."""
    parts = diff if isinstance(diff, list) else [diff] if diff else []
    return [{key: part[key] for key in ("before", "after", "prepared") if key in part} for part in parts]


class CallbackModule(CallbackBase):
    """Collects results in the parent and writes everything at the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "ledger"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        """Install the counters, once a process."""
        super().__init__()
        self.folder = os.environ.get("LEDGER_FOLDER")
        if not self.folder:
            self.disabled = True
            return
        self.name, self.hosts, self.changed, self.failed = "adhoc", set(), [], set()
        handle, self.journal = tempfile.mkstemp(prefix="ledger-")
        os.close(handle)
        count_calls(self.journal)

    def v2_playbook_on_start(self, playbook):
        """Take the name."""
        self.name = Path(playbook._file_name).stem

    def v2_runner_on_ok(self, result):
        """Note what changed, item by item where there is a loop."""
        self.hosts.add(result.host.name)
        outcome = result.result
        items = outcome["results"] if result.task.loop is not None and "results" in outcome else [outcome]
        for item in items:
            if item.get("changed"):
                secret = item.get("_ansible_no_log") or outcome.get("_ansible_no_log")
                self.changed.append(
                    {
                        "host": result.host.name,
                        "task": result.task.get_name(),
                        "where": os.path.relpath(result.task.get_path() or ""),
                        "item": str(item.get("_ansible_item_label", "")),
                        "diff": [] if secret else comparable(item.get("diff")),
                    }
                )

    def v2_runner_on_skipped(self, result):
        """Note that the host took part."""
        self.hosts.add(result.host.name)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        """Note the failure."""
        self.hosts.add(result.host.name)
        self.failed.add(result.host.name)

    def v2_runner_on_unreachable(self, result):
        """Note that the host was not reached."""
        self.failed.add(result.host.name)

    def v2_playbook_on_stats(self, stats):
        """Write the ledger."""
        executions, commands = {}, Counter()
        with open(self.journal, encoding="utf-8") as file:
            for kind, host, module in map(json.loads, file):
                if kind == "execution":
                    executions.setdefault(host, Counter())[module] += 1
                else:
                    commands[host] += 1
        os.unlink(self.journal)
        kind = "check" if context.CLIARGS.get("check") else "run"
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        ledger = {
            "hosts": sorted(self.hosts),
            "changed": self.changed,
            "failed": sorted(self.failed),
            "executions": executions,
            "commands": commands,
        }
        (folder / f"{self.name}-{kind}.json").write_text(json.dumps(ledger, indent=1, default=str) + "\n", encoding="utf-8")

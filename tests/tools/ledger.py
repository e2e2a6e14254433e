# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Judge what the callback `ledger` recorded.

ledger.py predicted FOLDER NAME           the check run announced exactly the changes of the run after it
ledger.py budget FOLDER NAME BUDGET HOST  no host in the comma-separated list HOST needed more module executions than
                                          tests/bench/budget.yml grants to BUDGET
Exit status 1, with what is wrong on standard error, where that does not hold.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import yaml

BUDGETS = Path(__file__).resolve().parents[1] / "bench/budget.yml"


def load(folder: str, name: str, kind: str) -> dict:
    """A ledger; SystemExit where the run that should have written it did not."""
    path = Path(folder) / f"{name}-{kind}.json"
    if not path.exists():
        raise SystemExit(f"{path} is missing: the {kind} run of {name} was not recorded.")
    return json.loads(path.read_text(encoding="utf-8"))


def predicted(check: dict, run: dict) -> list[str]:
    """How RUN differs from its prediction: changes that were announced and did not happen, or the other way round, or
    that happened with another diff. A prediction of nothing, or for nobody, proves nothing and counts as wrong."""
    wrong = []
    if not run["hosts"]:
        wrong.append("no host took part in the run: its hosts pattern matches nothing")
    elif not run["changed"]:
        wrong.append("the run changed nothing: start from hosts that it has something to do on")
    for ledger, what in ((check, "check run"), (run, "run")):
        wrong += [f"{host}: failed or was not reached in the {what}" for host in ledger["failed"]]

    def counted(ledger: dict) -> dict[str, list]:
        changes: dict[str, list] = {}
        for change in ledger["changed"]:
            item = f" (item={change['item']})" if change["item"] else ""
            changes.setdefault(f"{change['host']}: {change['task']}{item} [{change['where']}]", []).append(change["diff"])
        return changes

    announced, happened = counted(check), counted(run)
    for change in sorted({**announced, **happened}):
        before, after = announced.get(change, []), happened.get(change, [])
        if len(before) > len(after):
            wrong.append(f"announced, but did not happen: {change}")
        elif len(before) < len(after):
            wrong.append(f"happened, but was not announced: {change}")
        elif before != after:
            wrong.append(f"announced with another diff: {change}\n    announced: {json.dumps(before)}\n    happened:  {json.dumps(after)}")
    return wrong


def over_budget(run: dict, granted: int, hosts: list[str]) -> list[str]:
    """The hosts that needed more than GRANTED module executions, and those that were not in the run at all."""
    wrong = []
    for host in hosts:
        executions = Counter(run["executions"].get(host, {}))
        if host not in run["hosts"]:
            wrong.append(f"{host} took no part in the run")
        elif executions.total() > granted:
            wrong.append(f"{host}: {executions.total()} module executions, {granted} granted: {dict(executions.most_common())}")
    return wrong if hosts else ["no host named: nothing was counted"]


def main(arguments: list[str]) -> int:
    """Dispatch."""
    if arguments[0] == "predicted":
        folder, name = arguments[1:]
        wrong = predicted(load(folder, name, "check"), load(folder, name, "run"))
    else:
        folder, name, budget, hosts = arguments[1:]
        granted = yaml.safe_load(BUDGETS.read_text(encoding="utf-8"))["executions_per_host"][budget]
        wrong = over_budget(load(folder, name, "run"), granted, [host for host in hosts.split(",") if host])
    print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

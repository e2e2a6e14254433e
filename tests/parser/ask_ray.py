# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Runs inside one version of Ray: gives command lines to the real ``ray start`` and tells what it makes of them.

Reads {lines: [[word, ...], ...]} from standard input, without the leading ``ray``; writes {refused: [[line, error], ...]} to the file named on
the command line. Everything runs that ``ray start`` does before it starts a process: its parser, its own checks, and the check of one port for
two parts.
"""

from __future__ import annotations

import json
import sys

import click
from ray._private import node
from ray.scripts import scripts


class AcceptedError(Exception):
    """The command line was accepted, and the processes would start now."""


def instead_of_processes(parameters, **_values):
    """Stands where the processes start."""
    parameters.update_pre_selected_port()
    raise AcceptedError


def main():
    """Ask and answer."""
    node.Node = instead_of_processes
    refused = []
    for line in json.load(sys.stdin)["lines"]:
        try:
            scripts.cli.main(line, prog_name="ray", standalone_mode=False)
            refused.append([line, "nothing was to be started"])
        except AcceptedError:
            continue
        except (Exception, SystemExit) as error:
            refused.append([line, error.format_message() if isinstance(error, click.ClickException) else repr(error)])
    with open(sys.argv[1], "w", encoding="utf-8") as answer:
        json.dump({"refused": refused}, answer)


if __name__ == "__main__":
    main()

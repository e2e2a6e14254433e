# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Runs inside one version of vLLM: builds the real parser of ``vllm serve`` and tells what it has and what it makes of command lines.

Reads {lines: [[word, ...], ...]} from standard input; writes {flags: {flag: kind}, variables: [name], refused: [[line, error], ...]} to
the file named on the command line, since the engine writes to standard output as it likes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys

from vllm import envs
from vllm.entrypoints.cli.serve import ServeSubcommand

try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
except ModuleNotFoundError:
    # Its place before 0.12.
    from vllm.utils import FlexibleArgumentParser


def kind(action):
    """How a flag is written: with a value, as a switch that also has a ``--no-`` form, or bare."""
    if any(option.startswith("--no-") for option in action.option_strings) and isinstance(action, argparse.BooleanOptionalAction):
        return "switch"
    return "bare" if action.nargs == 0 else "value"


def main():
    """Ask and answer."""
    parser = FlexibleArgumentParser(prog="vllm")
    command = ServeSubcommand()
    serve = command.subparser_init(parser.add_subparsers(dest="subparser"))
    flags = {}
    for action in serve._actions:
        for option in action.option_strings:
            if option.startswith("--") and not (isinstance(action, argparse.BooleanOptionalAction) and option.startswith("--no-")):
                flags[option[2:]] = kind(action)
    refused = []
    for line in json.load(sys.stdin)["lines"]:
        errors = io.StringIO()
        try:
            with contextlib.redirect_stderr(errors):
                command.validate(parser.parse_args(line))
        except (SystemExit, ValueError, TypeError) as error:
            refused.append([line, f"{error}: {errors.getvalue().strip().splitlines()[-1:]}"])
    flags.pop("help", None)
    with open(sys.argv[1], "w", encoding="utf-8") as answer:
        json.dump({"flags": flags, "variables": sorted(envs.environment_variables), "refused": refused}, answer)


if __name__ == "__main__":
    main()

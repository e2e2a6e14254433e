# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Reading what a user writes: single values, and the problems of all of them in one message."""

from __future__ import annotations

import difflib
import re
from os.path import commonprefix

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.ports import format_ports, parse_ports
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.addresses import parse_address, parse_network
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_model import DEFAULT_PORTS, HCCL_PORTS, MINDSPORE_PORTS


class PlanError(Exception):
    """The inventory cannot be planned; ``problems`` holds (path, value, trouble, fix) of every reason."""

    subject, consequence = "The inventory", "no node was contacted"

    def __init__(self, problems):
        self.problems = list(problems)
        count = len(self.problems)
        lines = [f"{self.subject} has {count} problem{'s' if count > 1 else ''}; {self.consequence}."]
        for number, (path, value, trouble, fix) in enumerate(self.problems, 1):
            shown = "" if value is None else f" is {_shorten(value)}, which"
            lines.append(f"  {number}. {path}{shown} {trouble}. {fix}.")
        super().__init__("\n".join(lines))


def _shorten(value, limit=80):
    text = repr(str(value)) if isinstance(value, str) else str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _nearest(key, known):
    """The known key most like ``key``, beside the beginning that all known ones share."""
    begin = commonprefix(list(known))
    (near,) = difflib.get_close_matches(key.removeprefix(begin), [name.removeprefix(begin) for name in known], n=1, cutoff=0)
    return begin + near


class Reader:
    """Collects problems while it turns raw values into checked ones."""

    def __init__(self):
        self.problems = []
        self.prefix = ""
        self._known = set()

    def problem(self, path, value, trouble, fix):
        """Note a problem once; ``prefix`` tells apart clusters whose variables have the same names."""
        path = self.prefix + path
        key = (path, str(value), trouble, fix)
        if key not in self._known:
            self._known.add(key)
            self.problems.append((path, value, trouble, fix))

    def known_keys(self, path, mapping, known, what):
        for key in mapping:
            if key not in known:
                self.problem(f"{path}{key}", None, f"is no {what}", f"Write {_nearest(str(key), known)}, or remove it")

    def address(self, path, value, example):
        try:
            return parse_address(value)
        except ValueError as error:
            self.problem(path, value, str(error), f"Write the number of one address, such as {example}")

    def networks(self, path, value, required, example):
        """A list of networks; a single one may stand without a list."""
        if value is None or value == []:
            if required:
                self.problem(path, None, "is missing or empty", f"Write a list of networks, such as [{example}]")
            return []
        found = []
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            where = f"{path}[{index}]" if isinstance(value, list) else path
            try:
                found.append(parse_network(item))
            except ValueError as error:
                self.problem(where, item, str(error), f"Write a network that you mean to let in, such as {example}")
        return found

    def integer(self, path, value, least, what, most=10**9):
        """One whole number; None where it is none, or out of its bounds."""
        if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,18}", str(value)) or not least <= int(value) <= most:
            self.problem(path, value, f"is no {what}", f"Write an integer of at least {least} and at most {most}")
            return None
        return int(value)

    def port(self, path, value, ephemeral, privileged=False):
        """One explicit port that nothing else on an Ascend node claims by default."""
        if value is None:
            self.problem(path, None, "is missing", "Write a port of your choice, such as 7443")
            return None
        try:
            first, last = parse_ports(value)
        except ValueError:
            first = last = -1
        if first != last or first < 0:
            self.problem(path, value, "is no port", "Write one port, such as 7443")
            return None
        fix = "Write a port of your choice outside 8118-12213, 60000-60031 and " + format_ports(ephemeral)
        if first in DEFAULT_PORTS:
            self.problem(path, value, f"is {DEFAULT_PORTS[first]}", fix)
        elif first < 1024 and not privileged:
            self.problem(path, value, "needs a privilege that the service does not get", fix)
        for (low, high), owner in (
            (MINDSPORE_PORTS, "compiled into MindSpore"),
            (HCCL_PORTS, "used by HCCL"),
            (ephemeral, "the pinned ephemeral range (vllm_cluster_ephemeral_ports)"),
        ):
            if low <= first <= high:
                self.problem(path, value, f"lies in {low}-{high}, {owner}", fix)
        return first

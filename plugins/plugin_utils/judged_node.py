# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A node as the judge sees it: what is planned for it, and what was observed of it. Pure.

What came from a host is data: it is only compared, and cut and cleaned before it is shown.
"""

from __future__ import annotations

import os.path

TEXT_LIMIT = 400
LINKS = 40  # as many as a node follows (module_utils/observation.py)
# Systemd tells these of every unit, and those of every service, empty or not: where one is missing, nothing follows from its absence.
OF_UNITS = ("LoadState", "FragmentPath", "DropInPaths")
OF_SERVICES = (*OF_UNITS, "Environment", "CapabilityBoundingSet", "AmbientCapabilities", "ReadWritePaths", "SupplementaryGroups")


class Unknown(Exception):
    """A control cannot be judged; the message says why."""


class NotApplicable(Exception):
    """A control does not concern this node; the message says why."""


def clip(value):
    """A text of limited length without control characters: what came from a host is data."""
    text = "".join(character if character.isprintable() else " " for character in str(value))
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT - 3] + "..."


def some(items, limit=8):
    """The first few of a list as text, and how many more there are."""
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")


class Node:
    """What is planned for a node and what was observed of it."""

    def __init__(self, host, plan, observation, reason, wire_rows=(), wire_missing=()):
        self.host, self.planned = host, plan["nodes"][host]
        self.observations = {}  # of all nodes, for what has to be alike
        self.cluster = plan["clusters"][self.planned["cluster"]]
        self._observation, self._reason = observation, reason
        self.wire_rows, self.wire_missing = wire_rows, wire_missing

    def observed(self, part, kind=dict):
        """A part of the observation. Raises Unknown with the reason where there is none, or none of that kind."""
        if not isinstance(self._observation, dict):
            raise Unknown(self._reason or "the host was not observed")
        value = self._observation.get(part)
        if value is None:
            unknown = self._observation.get("unknown")
            raise Unknown(clip((unknown.get(part) if isinstance(unknown, dict) else None) or f"the host did not tell its {part}"))
        if not isinstance(value, kind):
            raise Unknown(f"the host told nonsense for its {part}")
        return value

    def not_told(self, part):
        """Why a part that was asked for is missing from the observation; None where it is there, or was not asked for."""
        unknown = self._observation.get("unknown") if isinstance(self._observation, dict) else None
        return clip(unknown[part]) if isinstance(unknown, dict) and unknown.get(part) else None

    @property
    def instances(self):
        """The planned instances. Raises NotApplicable where there is none."""
        if not self.planned["instances"]:
            raise NotApplicable("no instance on this node")
        return self.planned["instances"]

    def unit(self, name, wanted=OF_UNITS):
        """(properties, processes) of a unit. Raises Unknown where the node did not describe it."""
        facts = self.observed("units").get(name)
        if not isinstance(facts, dict) or not isinstance(facts.get("properties"), dict) or not isinstance(facts.get("processes"), list):
            raise Unknown(f"the host did not tell about {name}")
        missing = [key for key in wanted if not isinstance(facts["properties"].get(key), str)]
        if missing:
            raise Unknown(f"the host did not tell {', '.join(missing)} of {name}")
        return facts["properties"], facts["processes"]

    def units(self):
        """(unit, instance, properties, processes) of every planned unit. Raises Unknown for one the node did not describe.

        Ray has a unit of its own, on the head beside the engine and elsewhere in its place.
        """
        members = []
        for instance in self.instances:
            ray = instance.get("ray")
            members += [instance] if instance.get("arguments") is not None or not ray else []
            members += [{**instance, "unit": ray["unit"], "arguments": ray["arguments"], "api": None}] if ray else []
        for instance in members:
            yield instance["unit"], instance, *self.unit(instance["unit"], OF_SERVICES)

    def loaded_units(self):
        """As units(); raises Unknown for one that is not loaded, whose properties mean nothing."""
        for name, instance, properties, processes in self.units():
            if properties.get("LoadState") != "loaded":
                raise Unknown(f"{name} is not loaded ({clip(properties.get('LoadState'))})")
            yield name, instance, properties, processes

    def file(self, path):
        """The facts of a file that was asked for, None where it does not exist. Raises Unknown."""
        files = self.observed("files")
        if path not in files:
            raise Unknown(f"the host did not tell about {path}")
        facts = files[path]
        if facts is not None and not (isinstance(facts, dict) and isinstance(facts.get("mode"), str) and isinstance(facts.get("owner"), str)):
            raise Unknown(f"the host told nonsense about {path}")
        return facts

    def followed(self, path):
        """(path, facts) of a file that was asked for, and of what it leads to where it is a link. Raises Unknown."""
        for _hop in range(LINKS):
            facts = self.file(path)
            yield path, facts
            if not facts or facts["type"] != "link":
                return
            path = os.path.join(os.path.dirname(path), facts["target"])
        raise Unknown(f"{path} leads to itself")


DEPLOYED = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no", "DropInPaths": ""}


def differences(unit, properties, wanted):
    """Which properties of a unit are not as wanted."""
    return [f"{unit}: {name} is {clip(properties.get(name, '')) or 'empty'}, wanted {value or 'empty'}"
            for name, value in wanted.items() if properties.get(name, "") != value]


def not_as_deployed(node, unit):
    """What is wrong with a unit that is to run from the file that root deployed, and from nothing else. Raises Unknown."""
    path = f"/etc/systemd/system/{unit}"
    properties, _processes = node.unit(unit, (*DEPLOYED, "FragmentPath"))
    if properties["LoadState"] == "not-found":
        return [f"{unit} does not exist"]
    facts = node.file(path) if properties["FragmentPath"] == path else None
    return differences(unit, properties, {**DEPLOYED, "FragmentPath": path}) + (not_roots(path, facts) if facts else [])


def not_roots(path, facts):
    """What is wrong with a file that only root may change."""
    problems = [] if facts["owner"] == "root" else [f"{clip(path)} belongs to {clip(facts['owner'])}"]
    if facts["type"] != "link" and int(facts["mode"], 8) & 0o022 and not int(facts["mode"], 8) & 0o1000:
        problems.append(f"{clip(path)} is writable by others (mode {facts['mode']})")
    return problems

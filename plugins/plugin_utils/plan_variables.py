# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The inventory's variables as the plan reads them: each node's own, templated, as plain data."""

from __future__ import annotations

from ansible.errors import AnsibleError
from jinja2 import Environment, TemplateError, nodes

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_reader import PlanError

PREFIX = "vllm_cluster_"
# Variables of other roles that the plan takes into account.
OTHERS = (
    "vllm_firewall_extra_flows", "vllm_access_groups", "vllm_access_limit_sudo", "vllm_access_state", "vllm_guard_state", "vllm_serve_dropins")
LOOKUPS = ("lookup", "query", "q")
SOFTWARE = ("vllm_runtime_prefix", "vllm_runtime_requirements", "vllm_runtime_software", "vllm_serve_executable_directory", "vllm_serve_prefix")


def node_variables(task_vars, group):
    """{host of a group: its ``vllm_cluster_*`` variables, those of OTHERS, and its software}.

    What a group says is one object for all its hosts; it is converted, and where it holds templates rendered, once for all hosts
    for which these name the same objects. So the time grows with what is written and not with hosts times instances. Raises PlanError
    with every variable that cannot be rendered.
    """
    hostvars = task_vars["hostvars"]
    values, hosts, problems = _Values(), {}, {}
    for host in task_vars["groups"].get(group, []):
        raw = hostvars.raw_get(host)
        variables = hosts[str(host)] = {}
        for name in raw:
            if not (name.startswith(PREFIX) or name in OTHERS or name in SOFTWARE) or name == "vllm_cluster_plan":
                continue
            try:
                variables[str(name)] = values.read(raw, name, hostvars, host)
            except AnsibleError as error:
                trouble = " ".join(str(error).split())
                fix = "Define what its template names, or write the value itself"
                problems.setdefault((name, trouble), (f"{host}: {name}", raw[name], f"cannot be rendered: {trouble}", fix))
    if problems:
        raise PlanError(problems.values())
    return hosts


class _Values:
    """Values that were read before, by the identity of all that they are made of."""

    def __init__(self):
        self._read = {}
        # Holds what it knows, so that no identity is given to another object meanwhile.
        self._templates = {}

    def read(self, raw, name, hostvars, host):
        """The value of a variable of one host; ``raw`` are the host's variables as they are written."""
        key = self._made_of(raw, name)
        if key is None:
            return self._value(raw, name, hostvars, host)
        if key not in self._read:
            self._read[key] = self._value(raw, name, hostvars, host)
        return self._read[key]

    def _value(self, raw, name, hostvars, host):
        if self._names(raw[name]) == ():
            return _plain(raw[name])
        try:
            return _plain(hostvars[host][name])
        except AnsibleError:
            if name in SOFTWARE:
                # Only its own role insists on it: without contact with the node it may be unknown.
                return None
            raise

    def _made_of(self, raw, name):
        """The identities of a value and of every variable that it is rendered from; None where it may be made of something else."""
        pending, parts = [name], {}
        while pending:
            part = pending.pop()
            if part in LOOKUPS and name in SOFTWARE:
                # The lock is a file as a rule; it is read once for all hosts that name the same one.
                continue
            if part not in raw:
                return None
            if part not in parts:
                parts[part] = raw[part] if isinstance(raw[part], str) else id(raw[part])
                names = self._names(raw[part])
                if names is None:
                    return None
                pending += names
        return (name, *((part, parts[part]) for part in sorted(parts)))

    def _names(self, value):
        """The variables that the templates of a value name, () without a template, None where that cannot be told."""
        if id(value) not in self._templates:
            found = list(_templates(value))
            names = set()
            for template in found:
                named = _named(template)
                if named is None:
                    names = None
                    break
                names |= named
            self._templates[id(value)] = (value, () if not found else names or None)
        return self._templates[id(value)][1]


def _templates(value):
    """Every part of a value that is to be rendered."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _templates(key)
            yield from _templates(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _templates(item)
    elif isinstance(value, str):
        if "{{" in value or "{%" in value:
            yield value
    elif not isinstance(value, (bool, int, float, type(None))):
        # Such as a value of the vault.
        yield value


def _named(template):
    """The names that a template reads from outside of it; None where it is no text or cannot be parsed."""
    if not isinstance(template, str):
        return None
    try:
        found = list(Environment().parse(template).find_all(nodes.Name))
    except TemplateError:
        return None
    return {name.name for name in found if name.ctx == "load"}


def _plain(value):
    """Template results as plain Python data, so that they compare and serialise as what was written."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return str(value)
    return value

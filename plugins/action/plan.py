# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Edge of the plan: reads the inventory's variables, publishes, prints and writes the plan. Contacts no node."""

from __future__ import annotations

import json
import os
import socket
import tempfile

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan import build_plan
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_reader import PlanError
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_text import plan_text

try:
    import jmespath
except ImportError:
    jmespath = None

PREFIX = "vllm_cluster_"
# Variables of other roles that the plan takes into account.
OTHERS = ("vllm_firewall_extra_flows", "vllm_access_groups", "vllm_access_limit_sudo", "vllm_access_state")
SOFTWARE = ("vllm_runtime_requirements", "vllm_runtime_software", "vllm_serve_executable_directory")


class ActionModule(ActionBase):
    """See the documentation of the module ``plan``."""

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _spec, arguments = self.validate_argument_spec(
            {
                "group": {"type": "str", "default": "vllm_nodes"},
                "file": {"type": "path"},
                "show": {"type": "bool", "default": False},
                "query": {"type": "str"},
            }
        )
        hosts = _variables(task_vars, arguments["group"])
        try:
            plan = build_plan(hosts, _controller_addresses(task_vars, hosts))
        except PlanError as error:
            raise AnsibleActionFail(str(error)) from None
        if arguments["show"]:
            Display().display(_shown(plan, arguments["query"]))
        result.update(plan, changed=False)
        if arguments["file"]:
            result.update(_write(arguments["file"], plan, self._task.check_mode, self._task.diff))
        return result


def _variables(task_vars, group):
    """Each node's own ``vllm_cluster_*`` variables, those of OTHERS, and its software, templated, as plain data.

    What a group says is one object for all its hosts; it is converted once, so that the time grows with what is written and not
    with hosts times instances. Only a value with a template is rendered for every host, except SOFTWARE: the lock is a file as a rule.
    """
    hostvars = task_vars["hostvars"]
    hosts, shared = {}, {}
    for host in task_vars["groups"].get(group, []):
        raw = hostvars.raw_get(host)
        variables = hosts[str(host)] = {}
        rendered = None
        for name in raw:
            if not (name.startswith(PREFIX) or name in OTHERS or name in SOFTWARE) or name == "vllm_cluster_plan":
                continue
            known = shared.get(name)
            if known is None or known[0] is not raw[name]:
                if name in SOFTWARE:
                    known = shared[name] = (raw[name], _rendered(hostvars[host], name))
                elif _has_template(raw[name]):
                    rendered = rendered or hostvars[host]
                    variables[str(name)] = _plain(rendered[name])
                    continue
                known = shared[name] = (raw[name], _plain(raw[name]))
            variables[str(name)] = known[1]
    return hosts


def _rendered(variables, name):
    """A variable that only its own role insists on: None where it cannot be rendered without contact with the node."""
    try:
        return _plain(variables[name])
    except AnsibleError:
        return None


def _has_template(value):
    if isinstance(value, dict):
        return any(_has_template(key) or _has_template(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return any(map(_has_template, value))
    return not isinstance(value, (bool, int, float, type(None))) and (
        not isinstance(value, str) or "{{" in value or "{%" in value
    )


def _plain(value):
    """Template results as plain Python data, so that they compare and serialise as what was written."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return str(value)
    return value


def _controller_addresses(task_vars, hosts):
    """Where this run comes from as each node sees it, as far as that is known without contact.

    The kernel tells the source address of a route when a UDP socket is connected; no packet is sent. A connection through a
    jump host, or one that is not SSH, comes from elsewhere: nothing is known then. One node a cluster is enough.
    """
    known, asked = {}, set()
    for host in hosts:
        variables = task_vars["hostvars"][host]
        cluster = hosts[host].get("vllm_cluster_name", "vllm")
        if cluster in asked:
            continue
        asked.add(cluster)
        options = " ".join(
            str(variables.get(name) or "")
            for name in ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
        )
        if str(variables.get("ansible_connection", "ssh")) not in ("ssh", "smart", "ansible.builtin.ssh"):
            continue
        if "proxy" in options.lower() or " -J" in f" {options}":
            continue
        target = str(variables.get("ansible_host") or "")
        try:
            family, kind, protocol, _name, address = socket.getaddrinfo(
                target, 22, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
            )[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(address)
                known[host] = probe.getsockname()[0]
        except OSError:
            continue
    return known


def _shown(plan, query):
    if not query:
        return plan_text(plan)
    if jmespath is None:
        raise AnsibleActionFail("vllm_cluster_plan_query needs the Python package jmespath on the controller, which is missing.")
    try:
        return json.dumps(jmespath.search(query, plan), indent=2)
    except jmespath.exceptions.JMESPathError as error:
        raise AnsibleActionFail(f"vllm_cluster_plan_query is {query!r}, which is no JMESPath expression: {error}") from None


def _write(path, plan, check_mode, diff):
    """Write the plan unless the file holds it already; the old file stays until the new one is complete."""
    text = json.dumps(plan, indent=2) + "\n"
    try:
        with open(path, encoding="utf-8") as stream:
            before = stream.read()
    except FileNotFoundError:
        before = ""
    result = {"changed": before != text}
    if diff:
        result["diff"] = {"before_header": path, "after_header": path, "before": before, "after": text}
    if result["changed"] and not check_mode:
        try:
            with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path) or ".", delete=False) as stream:
                stream.write(text)
            os.replace(stream.name, path)
        except OSError as error:
            raise AnsibleActionFail(f"vllm_cluster_plan_file is {path!r}, which cannot be written: {error.strerror}") from None
    return result

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Edge of the plan: reads the inventory's variables, publishes, prints and writes the plan. Contacts no node."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import tempfile

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan import build_plan
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_reader import PlanError
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_text import plan_text
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_variables import node_variables

try:
    import jmespath
except ImportError:
    jmespath = None


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
        try:
            hosts = node_variables(task_vars, arguments["group"])
            plan = build_plan(hosts, _controller_addresses(task_vars, hosts))
        except PlanError as error:
            raise AnsibleActionFail(str(error)) from None
        if arguments["show"]:
            Display().display(_shown(plan, arguments["query"]))
        result.update(plan, changed=False)
        if arguments["file"]:
            result.update(_write(arguments["file"], plan, self._task.check_mode, self._task.diff))
        return result


def _controller_addresses(task_vars, hosts):
    """Where this run comes from as each node sees it, as far as that is known without contact.

    The kernel tells the source address of a route when a UDP socket is connected; no packet is sent. A connection through a
    jump host or a forwarded port, or one that is not SSH, comes from elsewhere: nothing is known then. One node a cluster is enough.
    """
    known, answered = {}, set()
    for host in hosts:
        cluster = str(hosts[host].get("vllm_cluster_name", "vllm"))
        if cluster in answered:
            continue
        variables = task_vars["hostvars"][host]
        options = " ".join(
            str(variables.get(name) or "")
            for name in ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
        )
        if str(variables.get("ansible_connection", "ssh")) not in ("ssh", "smart", "ansible.builtin.ssh"):
            continue
        if "proxy" in options.lower() or " -J" in f" {options}":
            continue
        source = _source_address(str(variables.get("ansible_host") or host))
        if source is not None:
            answered.add(cluster)
            known[host] = source
    return known


def _source_address(target):
    """Where packets to a numeric address come from; None for a name, for loopback and without a route."""
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(target, 22, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            source = probe.getsockname()[0].partition("%")[0]
    except (OSError, UnicodeError):
        return None
    return None if ipaddress.ip_address(source).is_loopback else source


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
        with open(path, encoding="utf-8", errors="replace") as stream:
            before = stream.read()
    except FileNotFoundError:
        before = ""
    except OSError as error:
        raise AnsibleActionFail(f"vllm_cluster_plan_file is {path!r}, which cannot be read: {error.strerror}. Name a file.") from None
    result = {"changed": before != text}
    if diff:
        result["diff"] = {"before_header": path, "after_header": path, "before": before, "after": text}
    if result["changed"] and not check_mode:
        try:
            with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path) or ".", delete=False) as stream:
                stream.write(text)
            os.replace(stream.name, path)
        except OSError as error:
            raise AnsibleActionFail(
                f"vllm_cluster_plan_file is {path!r}, which cannot be written: {error.strerror}. Name a file in a directory that is there."
            ) from None
    return result

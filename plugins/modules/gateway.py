#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The gateway of a node: its files, its unit and its live keys, in one execution."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: gateway
short_description: Run an authenticating TLS gateway in front of the vLLM instances of a node
version_added: 0.1.0
author:
  - vllm_mindspore.hardening contributors (!UNKNOWN)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
description:
  - Brings HAProxy as the unit C(vllm-gateway.service) to the state that the options describe, without dropping a stream.
  - The controller checks all options at once, reads certificates and keys there, or makes them, and renders the configuration. The node gets SHA-256
    sums of the clients' secrets, never a secret.
  - The key that the gateway shows to an engine is made at random on the node and does not leave it. It is the file
    C(/etc/vllm-hardening/credentials/INSTANCE.api-key), which the unit of the engine loads as a credential.
  - A configuration that the node's HAProxy refuses changes nothing. Keys of clients change in the running processes at once; what else changes is taken
    over by a reload, in which open streams run to their end.
  - C(vllm-gateway-expiry.timer) looks at certificates and keys every hour. What ends within O(warning_days) is in the journal of
    C(vllm-gateway-expiry.service), which fails once a certificate has expired, and everything in C(/run/vllm-gateway-expiry/expiry.prom) for Prometheus.
attributes:
  check_mode:
    support: full
    description: Predicts exactly what a run changes, also on a node on which nothing is there yet.
  diff_mode:
    support: full
    description: One entry for each resource. Private keys and sums of secrets are never shown.
  platform:
    support: full
    platforms: linux
  action:
    support: full
  async:
    support: none
  bypass_host_loop:
    support: none
options:
  instances:
    description: What is served. Each has C(name), C(addresses), C(port), C(backends) (C(address) and C(port)), C(server_names) and C(endpoints).
    type: list
    elements: dict
    default: []
  metrics:
    description: Where metrics and health are served, C(addresses) and C(port).
    type: dict
    default: {}
  management_names:
    description: DNS names by which monitors call, beside the addresses.
    type: list
    elements: str
    default: []
  client_networks:
    description: Networks that may open connections to the instances.
    type: list
    elements: str
    default: []
  monitor_networks:
    description: Networks that may open connections to metrics and health.
    type: list
    elements: str
    default: []
  clients:
    description: Clients with C(name), C(instances), C(endpoints), C(rate), C(concurrency) and C(keys), as the role C(vllm_gateway) documents them.
    type: list
    elements: dict
    default: []
  key_directory:
    description: Directory of the controller in which keys are made for clients without C(keys).
    type: path
  certificates:
    description: Pairs of C(certificate) and C(private_key), files on the controller.
    type: list
    elements: dict
    default: []
  ca_directory:
    description: Directory of the controller with an internal authority, made where it is missing, that issues certificates and renews them.
    type: path
  ca_passphrase:
    description: Passphrase of the authority's private key.
    type: str
  administrators:
    description: Common names of the client certificates that may call O(management_endpoints).
    type: list
    elements: str
    default: []
  administrators_ca:
    description: File on the controller with the authority of these certificates. Without it the internal one.
    type: path
  management_endpoints:
    description: What administrators may call on the engines, as method and exact path.
    type: list
    elements: str
    default: []
  limits:
    description: Limits of requests and connections, as the role C(vllm_gateway) documents them.
    type: dict
    default: {}
  bounds:
    description: Largest numbers in a request by key, such as C(n).
    type: dict
    default: {}
  threads:
    description: Threads of the gateway.
    type: int
    default: 4
  warning_days:
    description: A certificate or key that expires sooner than this many days is warned of.
    type: int
    default: 14
  known_instances:
    description: Names of all instances of the cluster, on this node or another.
    type: list
    elements: str
    default: []
  program:
    description: Where HAProxy is on the node.
    type: path
    default: /usr/sbin/haproxy
  package:
    description: Package that is installed where O(program) is missing. Empty to install nothing and fail.
    type: str
    default: haproxy
  renew_certificates:
    description: Whether the internal authority issues its certificates anew, whatever their age.
    type: bool
    default: false
  renew_backend_keys:
    description: Whether the keys that the gateway shows to the engines are made anew. The engines ask for them once they are restarted.
    type: bool
    default: false
  state:
    description: V(absent) stops the gateway and removes its files, unit, user and credentials.
    type: str
    choices: [present, absent]
    default: present
  rendered:
    description: Set by the controller's half of this module, what is no secret.
    type: dict
  secret_files:
    description: Set by the controller's half of this module, private keys and sums of secrets.
    type: dict
  signed:
    description: Set by the controller's half of this module, where C(vllm_guard_signing_key) names a key.
    type: dict
"""

EXAMPLES = r"""
- name: Put a gateway in front of one instance
  vllm_mindspore.hardening.gateway:
    instances:
      - name: chat
        addresses: [10.77.1.11]
        port: 7443
        backends: [{address: 127.0.0.1, port: 17443}]
        server_names: [chat.example.com]
        endpoints: [GET /v1/models, POST /v1/chat/completions]
    metrics:
      addresses: [10.77.0.11]
      port: 7444
    client_networks: [10.77.1.128/25]
    monitor_networks: [10.77.0.9/32]
    clients:
      - name: team-a
        instances: [chat]
    key_directory: ~/gateway-keys
    ca_directory: ~/gateway-ca
"""

RETURN = r"""
origin:
  description: Whether the differences come from another desired state than was last applied (V(rollout)), or from a change on the node (V(foreign)).
  type: str
  returned: when changed, with O(state=present)
  sample: foreign
resources:
  description: Each resource that differs, what is done about it, and the differing properties before and after.
  type: list
  elements: dict
  returned: always
  sample:
    - resource: unit vllm-gateway.service
      change: reload
      before: {runs: an earlier configuration}
      after: {runs: the present configuration}
keys:
  description: Keys that become valid, change or end, as CLIENT:ID.
  type: dict
  returned: always
  sample: {create: ["team-a:20270131"], update: [], remove: []}
requests:
  description: Requests by key, as CLIENT:ID, since the gateway was started or reloaded.
  type: dict
  returned: when O(state=present)
  sample: {"team-a:20270131": 4711}
certificates:
  description: Names and expiry of the certificates that are served.
  type: list
  elements: dict
  returned: when O(state=present)
  sample:
    - file: certificates/npu01.pem
      names: [chat.example.com]
      not_after: "2027-02-21T18:23:00Z"
      days_left: 89
      serial: 36E5A75235270D24FF063731455E60366D4664E9
"""

import hashlib
import inspect
import os
import secrets
import shutil
import sys
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import applied, gateway_expiry, gateway_live, listeners, node_files, node_state, sealing
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.node_edge import Failed, Node

BASE = "/etc/vllm-hardening"
DIRECTORY = f"{BASE}/gateway"
CREDENTIALS = f"{BASE}/credentials"
RUNTIME = "/run/vllm-hardening"
APPLIED = f"{RUNTIME}/gateway.applied"
MASTER = "/run/vllm-gateway/master.sock"
USER = "vllm-gateway"
UNIT = "vllm-gateway.service"
EXPIRY = "vllm-gateway-expiry"
EXPIRY_FOLDER = "/usr/local/lib/vllm-gateway"
KEYS = f"{DIRECTORY}/keys.map"
READY_SECONDS = 30
RECORD = "vllm_gateway"


def read(path):
    """Content of a file, or None."""
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def backend_keys(instances, renew):
    """{instance: key that its engine asks for}: those of the node, and new ones where there are none or ``renew`` says so."""
    keys = {}
    for name in instances:
        held = (read(f"{CREDENTIALS}/{name}.api-key") or b"").decode("ascii", "replace").strip()
        keys[name] = held if held and not renew else secrets.token_urlsafe(32)
    return keys


def present(rendered, secret_files, instances, renew):
    """What a node with a gateway has, for node_state. The unit is started, reloaded and restarted here, not there."""
    keys = backend_keys(instances, renew)
    files = [
        {"path": f"{DIRECTORY}/{name}", "content": content, "group": USER, "mode": "0640", "sensitive": name in secret_files}
        for name, content in sorted({**rendered["files"], **secret_files}.items())
    ]
    backends = "".join(f"{name} {key}\n" for name, key in sorted(keys.items()))
    files.append({"path": f"{DIRECTORY}/backends.map", "content": backends, "group": USER, "mode": "0640", "sensitive": True})
    files += [{"path": f"{CREDENTIALS}/{name}.api-key", "content": key, "mode": "0600", "sensitive": True} for name, key in sorted(keys.items())]
    wanted = {item["path"] for item in files}
    files += [{"path": path, "mode": "0640", "state": "absent"} for path in strays() if path not in wanted]
    files.append({"path": f"{EXPIRY_FOLDER}/expiry.py", "content": inspect.getsource(gateway_expiry), "mode": "0644"})
    watch = {name: text.replace("@PYTHON@", sys.executable) for name, text in rendered["expiry_units"].items()}
    return {
        "groups": [{"name": USER, "system": True}],
        "users": [{"name": USER, "system": True, "home": "/nonexistent", "shell": "/usr/sbin/nologin", "comment": "vLLM gateway"}],
        "directories": [
            {"path": BASE, "mode": "0755"},
            {"path": DIRECTORY, "mode": "0750", "group": USER},
            {"path": f"{DIRECTORY}/certificates", "mode": "0750", "group": USER},
            {"path": CREDENTIALS, "mode": "0700"},
            {"path": EXPIRY_FOLDER, "mode": "0755"},
        ],
        "files": files,
        "units": [
            {"name": UNIT, "content": rendered["unit"], "enabled": True},
            {"name": f"{EXPIRY}.service", "content": watch[f"{EXPIRY}.service"]},
            {"name": f"{EXPIRY}.timer", "content": watch[f"{EXPIRY}.timer"], "enabled": True, "state": "started"},
        ],
    }


def kept(rendered, secret_names):
    """What of the gateway the guard keeps, as node_state has it: what the controller rendered, and who may read the secrets. Pure."""
    files = [{"path": f"{DIRECTORY}/{name}", "content": content, "group": USER, "mode": "0640"} for name, content in sorted(rendered["files"].items())]
    files += [{"path": f"{DIRECTORY}/{name}", "group": USER, "mode": "0640", "sensitive": True} for name in sorted({*secret_names, "backends.map"})]
    return with_defaults({
        "groups": [{"name": USER, "system": True}],
        "users": [{"name": USER, "system": True, "home": "/nonexistent", "shell": "/usr/sbin/nologin"}],
        "directories": [{"path": DIRECTORY, "mode": "0750", "group": USER}, {"path": f"{DIRECTORY}/certificates", "mode": "0750", "group": USER}],
        "reloads": {f"{DIRECTORY}/{name}": [UNIT] for name in sorted(rendered["files"])},
        "files": files, "units": [{"name": UNIT, "content": rendered["unit"], "enabled": True, "state": "started"}],
    })


def strays():
    """Files below the gateway's directory: it is ours alone, and HAProxy takes every certificate that it finds there."""
    found = []
    for folder in (DIRECTORY, f"{DIRECTORY}/certificates"):
        try:
            found += [entry.path for entry in os.scandir(folder) if not entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            pass
    return sorted(found)


def absent():
    """What a node without a gateway lacks. The directory of credentials goes with the last of them, since roles share it."""
    entries = []
    try:
        entries = [entry.path for entry in os.scandir(CREDENTIALS)]
    except FileNotFoundError:
        pass
    credentials = [path for path in entries if path.endswith(".api-key")]
    folders = [DIRECTORY, EXPIRY_FOLDER, f"/run/{EXPIRY}"] + ([CREDENTIALS] if credentials == entries else [])
    return {
        "groups": [{"name": USER, "state": "absent", "system": True}],
        "users": [{"name": USER, "state": "absent", "system": True, "home": "/nonexistent", "shell": "/usr/sbin/nologin"}],
        "directories": [{"path": path, "mode": "0750", "state": "absent"} for path in folders],
        "files": [{"path": path, "mode": "0600", "state": "absent"} for path in credentials],
        "units": [{"name": name, "state": "absent"} for name in (UNIT, f"{EXPIRY}.timer", f"{EXPIRY}.service")],
    }


def with_defaults(wanted):
    """The options that node_state gives its own users as defaults."""
    for kind in ("groups", "users", "directories", "files"):
        for item in wanted[kind]:
            item.setdefault("state", "present")
            if kind in ("directories", "files"):
                item.setdefault("owner", "root")
                item.setdefault("group", "root")
            if kind == "files":
                item.setdefault("sensitive", False)
            if kind == "users":
                item.setdefault("groups", [])
    return wanted


def digest(desired):
    """One sum over everything that a running gateway was started from, its keys excepted: these change while it runs."""
    summed = hashlib.sha256()
    for path, item in sorted(desired.all_files().items()):
        if item.get("state") != "absent" and path != KEYS and not path.startswith((CREDENTIALS, EXPIRY_FOLDER)) and EXPIRY not in path:
            summed.update(f"{path}\0{item['content']}\0".encode("utf-8"))
    return summed.hexdigest()


def alerts(lines):
    """The complaints of HAProxy in its output: the first is the cause, those after it mostly say that it gives up."""
    found = [line.partition(" : ")[2] or line for line in lines if "[ALERT]" in line]
    return "; ".join(dict.fromkeys(found[:3]))


class Gateway:
    """The edge: one run over one node."""

    def __init__(self, module, desired, keys):
        self.module, self.desired, self.keys = module, desired, keys
        self.node = Node(module, desired)
        self.master = gateway_live.Master(MASTER)
        self.program = module.params["program"]

    def unit_step(self, have, steps):
        """start, restart or reload of the unit, where one is due, as a step of node_state; None otherwise."""
        found = have["units"].get(UNIT) or {}
        running = found.get("active") in ("active", "reloading", "activating") and found.get("sub") != "auto-restart"
        if not running:
            before = {"active": found.get("active", "inactive")}
            return node_state.Step(f"unit {UNIT}", "start", before, {"active": "active"}, None, "systemctl", {"verb": "start", "name": UNIT})
        changed = {step.data.get("path") for step in steps if step.verb in ("file", "remove")}
        if f"{node_state.UNIT_FOLDER}/{UNIT}" in changed:
            return self._again("restart")
        if any(path and path.startswith(DIRECTORY) and path != KEYS for path in changed) or not self.applied(found):
            return self._again("reload")
        return None

    @staticmethod
    def _again(verb):
        before, after = {"runs": "an earlier configuration"}, {"runs": "the present configuration"}
        return node_state.Step(f"unit {UNIT}", verb, before, after, None, "systemctl", {"verb": verb, "name": UNIT})

    def applied(self, found):
        """Whether the running gateway has taken over what is on disk, also where an earlier run was interrupted."""
        stamp = read(APPLIED)
        if stamp is not None:
            return stamp.decode("ascii", "replace") == digest(self.desired)
        times = [os.stat(path).st_mtime for path in strays() if path != KEYS]
        return found.get("started") is not None and all(moment <= found["started"] for moment in times)

    def live_changes(self):
        """{worker: map_changes} of the running processes whose keys are not the wanted ones."""
        try:
            _reloads, _failed, present_workers, leaving = self.master.processes()
        except gateway_live.Unanswered:
            return {}
        workers = present_workers + leaving
        found = {worker: gateway_live.map_changes(self.keys, self.master.read_map(worker, KEYS)) for worker in workers}
        return {worker: changes for worker, changes in found.items() if changes}

    def requests(self):
        """Requests by key; of a gateway that does not run, none."""
        try:
            return self.master.key_requests()
        except gateway_live.Unanswered:
            return {}

    def check(self):
        """Let the node's HAProxy judge the configuration in memory, before anything of it is in place."""
        os.makedirs(RUNTIME, mode=0o755, exist_ok=True)
        folder = tempfile.mkdtemp(prefix="gateway-check-", dir=RUNTIME)
        try:
            os.mkdir(f"{folder}/certificates")
            for path, item in self.desired.files.items():
                if item.get("state") == "absent" or not path.startswith(DIRECTORY + "/"):
                    continue
                content = item["content"].replace(DIRECTORY, folder) if path.endswith("haproxy.cfg") else item["content"]
                with open(folder + path[len(DIRECTORY):], "w", encoding="utf-8") as handle:
                    handle.write(content)
            code, out, err = self.module.run_command([self.program, "-c", "-f", f"{folder}/haproxy.cfg"])
            if code != 0:
                said = alerts((err + out).replace(folder, DIRECTORY).splitlines())
                raise Failed(f"{self.program} refuses the configuration, nothing was changed: {said}")
        finally:
            shutil.rmtree(folder)

    def control(self, verb):
        """Start, restart or reload the unit, and see that the new processes run what is on disk."""
        before = self.master.processes() if verb == "reload" else None
        try:
            self.node.do_systemctl(verb, UNIT)
        except Failed as error:
            raise Failed(f"{error} {self.journal()}") from None
        until = time.monotonic() + READY_SECONDS
        while True:
            problem = self._not_ready(before)
            if problem is None:
                break
            if time.monotonic() > until:
                raise Failed(f"unit {UNIT} is not ready {READY_SECONDS} s after its {verb}: {problem}. {self.journal()}")
            time.sleep(0.1)
        node_files.write_file(APPLIED, digest(self.desired).encode("ascii"), 0, 0, 0o600)

    def journal(self):
        """What HAProxy complained about in this run."""
        return f"HAProxy says: {alerts(self.node.journal([UNIT], self.node.began)) or 'nothing'}"

    def _not_ready(self, before):
        try:
            reloads, failed, workers, _leaving = self.master.processes()
            if before is not None and failed is not None and before[1] is not None and failed > before[1]:
                return "the reload failed and the configuration of before serves on"
            if before is not None and reloads <= before[0] or not workers:
                return "the new processes do not run yet"
            return self.not_serving(workers[0])
        except gateway_live.Unanswered as error:
            return str(error)

    def not_serving(self, worker):
        """Why the worker does not listen everywhere, or serves other certificates; None where it does."""
        rendered = self.module.params["rendered"]
        listening = {(found["address"], found["port"]) for found in listeners.read_listeners() if found["unit"] == UNIT}
        for place in rendered["listeners"]:
            if (place["address"], place["port"]) not in listening:
                return f"it does not listen on {place['address']} port {place['port']}"
        for name, serial in rendered["serials"].items():
            if self.master.serial(worker, f"{DIRECTORY}/{name}") != int(serial, 16):
                return f"it serves another certificate than {name}"
        return None

    def apply_keys(self):
        """Bring the keys of all processes, also of those that end their last streams, to the wanted ones."""
        for worker, changes in self.live_changes().items():
            self.master.change_map(worker, KEYS, changes)
        left = self.live_changes()
        if left:
            raise Failed(f"the running gateway did not take over {sum(map(len, left.values()))} changes of keys; restart {UNIT}")


def run_present(module, result):
    """Bring the gateway about."""
    rendered = module.params["rendered"]
    secret_files = module.params["secret_files"]
    if rendered is None or secret_files is None:
        module.fail_json(msg="this module runs through its action plugin; call it as a task, not as a script")
    instances = [instance["name"] for instance in module.params["instances"]]
    missing = not os.access(module.params["program"], os.X_OK)
    if missing and not module.check_mode:
        module.exit_json(changed=False, program_missing=True)
    keys = gateway_live.parse_map(secret_files["keys.map"])
    desired = node_state.Desired(with_defaults(present(rendered, secret_files, instances, module.params["renew_backend_keys"])))
    gateway = Gateway(module, desired, keys)
    have = gateway.node.observe()
    steps = node_state.difference(desired, have)
    unit_step = gateway.unit_step(have, steps)
    on_disk = gateway_live.parse_map((read(KEYS) or b"").decode("utf-8", "replace"))
    live = gateway.live_changes() if unit_step is None or unit_step.change == "reload" else {}
    everything = steps + ([unit_step] if unit_step else [])
    result["keys"] = gateway_live.named(keys, on_disk)
    result["requests"] = gateway.requests()
    result["changed"] = bool(node_state.visible(everything)) or bool(live) or missing
    result["resources"] = node_state.resources(everything)
    result["program_missing"] = missing
    if missing:
        result["resources"].insert(
            0, {"resource": f"package {module.params['package']}", "change": "install", "before": {}, "after": {"program": module.params["program"]}}
        )
    if live:
        number = sum(len(changes) for changes in live.values())
        result["resources"].append({"resource": f"keys of {UNIT}", "change": "update", "before": {"differing": number}, "after": {"differing": 0}})
    if module._diff:
        result["diff"] = node_state.diffs(everything) + key_diff(result["keys"])
    remembered = kept(rendered, secret_files)
    if result["changed"]:
        same = applied.last_digest(RECORD) == applied.digest(applied.remembered(remembered))
        result["origin"] = "foreign" if same else "rollout"
    if module.check_mode:
        return
    applied.admit(RECORD, remembered, module.params["signed"])
    if any(step.data.get("path", "").startswith(DIRECTORY) for step in steps):
        gateway.check()
    with applied.lock():
        if result["changed"]:
            applied.begin(RECORD)
        bring_about(gateway, steps, unit_step)
        applied.write(RECORD, remembered, sealing.read_key(), signed=module.params["signed"])
    if result["changed"]:
        # What it states is about the certificates and keys of before.
        gateway.node.run("systemctl", "start", "--no-block", f"{EXPIRY}.service")


def bring_about(gateway, steps, unit_step):
    """Carry the steps out, the unit last."""
    for step in steps:
        gateway.node.carry_out(step)
    # Old processes keep the keys of before a reload unless they are told; a key that ends ends everywhere first.
    if unit_step is None or unit_step.change == "reload":
        gateway.apply_keys()
    if unit_step is not None:
        gateway.control(unit_step.data["verb"])


def key_diff(names):
    """One entry for --diff: keys by name, without their sums."""
    if not any(names.values()):
        return []
    before = "".join(f"{name}\n" for name in sorted(names["remove"] + names["update"]))
    after = "".join(f"{name}\n" for name in sorted(names["create"] + names["update"]))
    return [{"before_header": "keys of clients", "after_header": "keys of clients", "before": before, "after": after}]


def run_absent(module, result):
    """Remove the gateway."""
    desired = node_state.Desired(with_defaults(absent()))
    node = Node(module, desired)
    steps = node_state.difference(desired, node.observe())
    result["keys"] = {"create": [], "update": [], "remove": []}
    result["changed"] = bool(node_state.visible(steps))
    result["resources"] = node_state.resources(steps)
    if module._diff:
        result["diff"] = node_state.diffs(steps)
    if not module.check_mode:
        with applied.lock():
            applied.begin(RECORD)
            for step in steps:
                node.carry_out(step)
            node_files.remove(APPLIED)
            applied.write(RECORD, with_defaults(absent()), sealing.read_key())


def arguments():
    """The options of the module, as documented."""

    def items(elements):
        return {"type": "list", "elements": elements, "default": []}

    return {
        "instances": items("dict"), "metrics": {"type": "dict", "default": {}}, "management_names": items("str"),
        "client_networks": items("str"), "monitor_networks": items("str"), "clients": items("dict"), "key_directory": {"type": "path", "no_log": False},
        "certificates": items("dict"), "ca_directory": {"type": "path"}, "ca_passphrase": {"type": "str", "no_log": True},
        "administrators": items("str"), "administrators_ca": {"type": "path"}, "management_endpoints": items("str"),
        "limits": {"type": "dict", "default": {}}, "bounds": {"type": "dict", "default": {}}, "threads": {"type": "int", "default": 4},
        "warning_days": {"type": "int", "default": 14}, "known_instances": items("str"),
        "program": {"type": "path", "default": "/usr/sbin/haproxy"}, "package": {"type": "str", "default": "haproxy"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "renew_certificates": {"type": "bool", "default": False}, "renew_backend_keys": {"type": "bool", "default": False},
        "rendered": {"type": "dict"}, "secret_files": {"type": "dict", "no_log": True}, "signed": {"type": "dict"},
    }


def main():
    """Observe, compare, carry out."""
    module = AnsibleModule(argument_spec=arguments(), supports_check_mode=True)
    result = {}
    try:
        (run_present if module.params["state"] == "present" else run_absent)(module, result)
    except node_state.Refusal as error:
        module.fail_json(msg="\n".join(error.problems), problems=error.problems)
    except (Failed, OSError, applied.Busy, sealing.Untrusted) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()

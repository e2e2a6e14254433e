# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The controller's half of the gateway: judge the variables, make keys and certificates, render, hand the node its files."""

from __future__ import annotations

import datetime

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import applied
from ansible_collections.vllm_mindspore.hardening.plugins.modules.gateway import RECORD, kept
from ansible_collections.vllm_mindspore.hardening.plugins.modules.gateway import arguments as documented
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import gateway, gateway_input, signer

MODULE = "vllm_mindspore.hardening.gateway"
# The distribution's own unit, which its package starts, has nothing to do with ours.
STOCK_UNIT = "haproxy.service"


class ActionModule(ActionBase):
    """See the documentation of the module ``gateway``."""

    _supports_async = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _spec, options = self.validate_argument_spec(documented())
        sent = {key: options[key] for key in ("program", "package", "state", "renew_backend_keys")}
        report = {}
        if options["state"] == "present":
            now = datetime.datetime.now(datetime.timezone.utc)
            node = str(task_vars["inventory_hostname"])
            try:
                settings, files, report = gateway_input.read(_plain(options), node, now, not self._task.check_mode)
            except gateway_input.GatewayError as error:
                raise AnsibleActionFail(str(error)) from None
            sent.update(_rendered(options, settings, files, report))
            key = signer.key_of(self._templar, task_vars)
            if key:
                wanted = applied.digest(applied.remembered(kept(sent["rendered"], sent["secret_files"])))
                sent["signed"] = signer.signed(key, node, RECORD, wanted)
        answer = self._execute_module(module_name=MODULE, module_args=sent, task_vars=task_vars)
        if answer.pop("program_missing", False) and not self._task.check_mode and not answer.get("failed"):
            installed = self._install(options["package"], options["program"], task_vars)
            answer = self._execute_module(module_name=MODULE, module_args=sent, task_vars=task_vars)
            if answer.pop("program_missing", False):
                raise AnsibleActionFail(f"The package {options['package']} has no {options['program']}: set vllm_gateway_program")
            answer["changed"] = True
            answer.setdefault("resources", []).insert(0, installed)
        result.update(answer)
        result["warnings"] = result.get("warnings", []) + [f"{node}: {text}" for text in report.get("warnings", [])]
        if report:
            result["certificates"] = report["certificates"]
        return result

    def _install(self, package, program, task_vars):
        """Install HAProxy with the node's package manager, and stop what the package started."""
        if not package:
            raise AnsibleActionFail(f"There is no {program} on this node: install HAProxy, or set vllm_gateway_package")
        self._other("ansible.builtin.package", {"name": package, "state": "present"}, task_vars)
        self._other("ansible.builtin.systemd_service", {"name": STOCK_UNIT, "state": "stopped", "enabled": False}, task_vars)
        return {"resource": f"package {package}", "change": "install", "before": {}, "after": {"program": program}}

    def _other(self, name, arguments, task_vars):
        task = self._task.copy()
        task.args = arguments
        if self._shared_loader_obj.action_loader.has_plugin(name):
            action = self._shared_loader_obj.action_loader.get(
                name,
                task=task,
                connection=self._connection,
                play_context=self._play_context,
                loader=self._loader,
                templar=self._templar,
                shared_loader_obj=self._shared_loader_obj,
            )
            outcome = action.run(task_vars=task_vars)
        else:
            outcome = self._execute_module(module_name=name, module_args=arguments, task_vars=task_vars)
        if outcome.get("failed"):
            raise AnsibleActionFail(f"{name}: {outcome.get('msg', outcome)}")


def _rendered(options, settings, files, report):
    """What the module gets: texts, where the gateway listens, and which certificates it serves there."""
    text = {name: content.decode("utf-8") for name, content in files.items()}
    # The authority's certificate is no secret; check mode makes one of its own, which no prediction should show.
    secret = {name: text.pop(name) for name in list(text) if name in ("keys.map", "administrators.pem") or name.startswith("certificates/")}
    # The unit's filter holds for both directions, so that an engine on another node is in it too.
    engines = [backend["address"] for instance in settings["instances"] for backend in instance["backends"]]
    networks = [*options["client_networks"], *options["monitor_networks"], *engines]
    places = [*settings["instances"], settings["metrics"]]
    return {
        "instances": [{"name": instance["name"]} for instance in settings["instances"]],
        "rendered": {
            "files": text,
            "unit": gateway.unit(networks, options["program"], bool(settings["bounds"]), gateway.descriptors(settings)),
            "expiry_units": gateway.expiry_units(int(options["warning_days"])),
            "listeners": [{"address": address, "port": int(place["port"])} for place in places for address in place["addresses"]],
            "serials": {entry["file"]: entry["serial"] for entry in report["certificates"]},
        },
        "secret_files": secret,
    }


def _plain(value):
    """Template results as plain Python data."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value

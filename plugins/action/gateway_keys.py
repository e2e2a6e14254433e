# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Rotation of client keys on the controller; contacts no node."""

from __future__ import annotations

import datetime
import os

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.gateway_keys import KeyStore
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.gateway_tls import Unusable


class ActionModule(ActionBase):
    """See the documentation of the module ``gateway_keys``."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _spec, options = self.validate_argument_spec(
            {
                "directory": {"type": "path", "required": True},
                "clients": {"type": "list", "elements": "dict", "required": True},
                "step": {"type": "str", "choices": ["start", "finish", "revoke"], "required": True},
                "key": {"type": "str", "default": "", "no_log": False},
                "requests": {"type": "dict", "default": {}},
            }
        )
        store = KeyStore(os.path.expanduser(options["directory"]), not self._task.check_mode)
        now = datetime.datetime.now(datetime.timezone.utc)
        done = {"added": {}, "retired": {}, "waiting": {}}
        try:
            if options["step"] == "revoke":
                self._revoke(store, options, now, done)
            for client in options["clients"] if options["step"] != "revoke" else ():
                if client.get("keys") is None:
                    self._rotate(store, str(client["name"]), now, options, done)
        except Unusable as error:
            raise AnsibleActionFail(f"vllm_gateway_key_directory is {options['directory']!r}, which {error}.") from None
        except OSError as error:
            raise AnsibleActionFail(f"vllm_gateway_key_directory is {options['directory']!r}, which cannot be used: {error}.") from None
        result.update(done, changed=bool(done["added"] or done["retired"]))
        return result

    @staticmethod
    def _revoke(store, options, now, done):
        client, _colon, identifier = options["key"].partition(":")
        kept = [str(entry["name"]) for entry in options["clients"] if entry.get("keys") is None]
        if client not in kept or not identifier:
            shown = ", ".join(kept) or "none"
            raise AnsibleActionFail(
                f"vllm_rotate_key is {options['key']!r}, which is no CLIENT:ID of a client whose keys are in {options['directory']} ({shown}). "
                "The log shows both as client= and key=. A key of vllm_gateway_clients[].keys is revoked by taking it out there."
            )
        made = store.revoke(client, identifier, now)
        done["retired"][client] = identifier
        if made:
            done["added"][client] = made

    @staticmethod
    def _rotate(store, client, now, options, done):
        valid = [key["id"] for key in store.keys(client, now)[0]]
        if options["step"] == "start":
            if len(valid) < 2:
                done["added"][client] = store.add(client, now)
        elif len(valid) > 1:
            new = valid[-1]
            if int(options["requests"].get(f"{client}:{new}", 0)) > 0:
                for old in valid[:-1]:
                    store.retire(client, old)
                    done["retired"][client] = old
            else:
                done["waiting"][client] = new

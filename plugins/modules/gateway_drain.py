#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take an engine out of its gateway before it is restarted, and put it back."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: gateway_drain
short_description: Take an instance out of the running gateway, or put it back
version_added: 0.1.0
author:
  - vllm_mindspore.hardening contributors (!UNKNOWN)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
description:
  - A drained instance gets no new request; its clients get status 503 from the gateway. Requests that are under way go on, and the module waits
    for them.
  - The change is made in the running processes, without a reload, and does not outlive a restart of the gateway.
attributes:
  check_mode:
    support: full
    description: Says whether the state would change, and waits for nothing.
  diff_mode:
    support: none
  platform:
    support: full
    platforms: linux
options:
  instance:
    description: Name of the instance.
    type: str
    required: true
  state:
    description: Whether the instance gets new requests.
    type: str
    choices: [drained, ready]
    required: true
  timeout:
    description: Seconds to wait for requests that are under way.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Let the requests of an instance end
  vllm_mindspore.hardening.gateway_drain:
    instance: chat
    state: drained
    timeout: 120
"""

RETURN = r"""
streams:
  description: Requests that are still under way.
  type: int
  returned: when the gateway runs
gateway:
  description: Whether a gateway runs on the node.
  type: bool
  returned: always
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import gateway_live

MASTER = "/run/vllm-gateway/master.sock"


def change(master, instance, drained, timeout, check_mode):
    """Drain or put back; returns whether that changed something, and the requests that are still under way."""
    changed = any(now != drained for now in master.servers(instance).values())
    if changed and not check_mode:
        master.set_drained(instance, drained)
    limit = time.monotonic() + (timeout if drained and not check_mode else 0)
    streams = master.streams(instance)
    while streams and time.monotonic() < limit:
        time.sleep(0.2)
        streams = master.streams(instance)
    return changed, streams


def main():
    """Ask the gateway, if there is one."""
    module = AnsibleModule(
        argument_spec={
            "instance": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["drained", "ready"], "required": True},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    if not os.path.exists(MASTER):
        module.exit_json(changed=False, gateway=False)
    options = module.params
    try:
        changed, streams = change(gateway_live.Master(MASTER), options["instance"], options["state"] == "drained", options["timeout"], module.check_mode)
    except gateway_live.Unanswered as error:
        module.fail_json(msg=f"instance {options['instance']}: {error}")
    module.exit_json(changed=changed, gateway=True, streams=streams)


if __name__ == "__main__":
    main()

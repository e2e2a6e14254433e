#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compare a systemd unit and its processes with what is wanted."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: verify_service
short_description: Verify a systemd unit and its processes
version_added: 0.1.0
description:
  - Compares the properties that are in force, which drop-ins and defaults are part of, and what the running processes may do.
  - Changes nothing.
options:
  name:
    description: The unit, such as V(vllm-chat.service).
    type: str
    required: true
  user:
    description: The account that the unit has to run as.
    type: str
  properties:
    description: Properties as C(systemctl show) names and prints them, each with the value, or a list of the values, that is accepted.
    type: dict
    default: {}
  active:
    description: Whether the unit has to be active.
    type: bool
    default: true
  unprivileged:
    description: Whether its processes must be without root, capabilities and ways to new privileges.
    type: bool
    default: true
extends_documentation_fragment:
  - vllm_mindspore.hardening.observing
"""

EXAMPLES = r"""
- name: The service has to run sandboxed
  vllm_mindspore.hardening.verify_service:
    name: vllm-chat.service
    user: vllm-chat
    properties: {ProtectSystem: strict, NoNewPrivileges: "yes", DevicePolicy: [closed, strict]}
  register: service
  failed_when: not service.compliant
"""

RETURN = r"""
compliant:
  description: Whether everything is as wanted.
  returned: success
  type: bool
findings:
  description: What is not, each with C(subject), C(expected) and C(observed).
  returned: success
  type: list
  elements: dict
  sample: [{subject: vllm-chat.service ProtectSystem, expected: strict, observed: full}]
properties:
  description: The properties that were read; values of secrets are hidden.
  returned: success
  type: dict
processes:
  description: Users, capabilities, call filter and start of each process.
  returned: success
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.compliance import compare_unit
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.observation import run_command
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.units import UNIT_PROPERTIES, read_units


def main():
    """Observe, compare and report."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "user": {"type": "str"},
            "properties": {"type": "dict", "default": {}},
            "active": {"type": "bool", "default": True},
            "unprivileged": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    settings = module.params
    try:
        units = read_units([settings["name"]], run_command, tuple(UNIT_PROPERTIES) + tuple(settings["properties"]))
    except OSError as error:
        module.fail_json(msg=f"systemd did not tell about {settings['name']}: {error}")
    if len(units) != 1:
        module.fail_json(msg=f"name is {settings['name']!r}, which is not one unit; write a name such as vllm-chat.service")
    facts = next(iter(units.values()))
    findings = compare_unit(settings["name"], facts, settings["user"], settings["properties"], settings["active"], settings["unprivileged"])
    module.exit_json(changed=False, compliant=not findings, findings=findings, **facts)


if __name__ == "__main__":
    main()

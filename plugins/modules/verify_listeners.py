#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compare the listening sockets of a host with the ones that are allowed."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: verify_listeners
short_description: Verify who listens on a host
version_added: 0.1.0
description:
  - Reads every listening TCP and bound UDP socket from the kernel, with its process and systemd unit, and tells those that nothing allows.
  - Changes nothing. Without O(allowed) it tells every socket that is reachable from outside.
options:
  allowed:
    description: The sockets that may be there.
    type: list
    elements: dict
    default: []
    suboptions:
      address:
        description:
          - The numeric address it is bound to. Left out it stands for any single address of the host; V(*) also allows a socket on every interface.
        type: str
      protocol:
        description: The transport protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
      ports:
        description: Ports and ranges.
        type: list
        elements: str
        required: true
      unit:
        description: The systemd unit that has to own it.
        type: str
  loopback:
    description: Whether sockets on loopback addresses are looked at as well.
    type: bool
    default: false
extends_documentation_fragment:
  - vllm_mindspore.hardening.observing
"""

EXAMPLES = r"""
- name: Nothing but SSH and the API may listen
  vllm_mindspore.hardening.verify_listeners:
    allowed:
      - {address: "*", ports: ["22"], unit: ssh.service}
      - {address: 10.77.1.11, ports: ["7443"], unit: vllm-chat.service}
  register: listeners
  failed_when: not listeners.compliant
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
  sample: [{subject: 0.0.0.0 port 111/tcp, expected: 'not listening, or allowed', observed: 'listening, rpcbind.socket'}]
listeners:
  description: Every listening socket with address, port, user id, process and unit.
  returned: success
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.compliance import check_allowed, compare_listeners
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.listeners import read_listeners


def main():
    """Observe, compare and report."""
    module = AnsibleModule(
        argument_spec={
            "allowed": {"type": "list", "elements": "dict", "default": [], "options": {
                "address": {"type": "str"},
                "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
                "ports": {"type": "list", "elements": "str", "required": True},
                "unit": {"type": "str"},
            }},
            "loopback": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    settings = module.params
    try:
        check_allowed(settings["allowed"])
        listeners = read_listeners()
    except ValueError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"the kernel did not tell its sockets: {error}")
    findings = compare_listeners(listeners, settings["allowed"], settings["loopback"])
    module.exit_json(changed=False, compliant=not findings, findings=findings, listeners=listeners)


if __name__ == "__main__":
    main()

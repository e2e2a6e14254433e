#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compare addresses and kernel settings of a host with the ones wanted."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: verify_network
short_description: Verify addresses and network settings of a host
version_added: 0.1.0
description:
  - Compares the addresses on the interfaces and the values that are in force in C(/proc/sys).
  - Changes nothing.
options:
  addresses:
    description: The addresses the host has to have.
    type: list
    elements: dict
    default: []
    suboptions:
      address:
        description: A numeric address.
        type: str
        required: true
      interface:
        description: The interface it has to be on.
        type: str
  sysctls:
    description: Settings and values, named as in sysctl.d(5); C(*) stands for every interface.
    type: dict
    default: {}
extends_documentation_fragment:
  - vllm_mindspore.hardening.observing
"""

EXAMPLES = r"""
- name: The node has to keep its segments apart
  vllm_mindspore.hardening.verify_network:
    addresses:
      - {address: 10.77.2.11, interface: eth2}
    sysctls:
      net.ipv4.ip_forward: "0"
      net.ipv4.conf.*.accept_redirects: "0"
  register: network
  failed_when: not network.compliant
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
  sample: [{subject: net/ipv4/ip_forward, expected: '0', observed: '1'}]
addresses:
  description: Every address of the host.
  returned: success
  type: list
  elements: dict
sysctls:
  description: Values by setting and file below C(/proc/sys).
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.compliance import compare_network
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.network_tables import read_addresses
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.observation import read_sysctls


def main():
    """Observe, compare and report."""
    module = AnsibleModule(
        argument_spec={
            "addresses": {"type": "list", "elements": "dict", "default": [], "options": {
                "address": {"type": "str", "required": True},
                "interface": {"type": "str"},
            }},
            "sysctls": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    settings = module.params
    try:
        addresses = read_addresses()
        sysctls = read_sysctls(settings["sysctls"])
        findings = compare_network(addresses, sysctls, settings["addresses"], settings["sysctls"])
    except ValueError as error:
        module.fail_json(msg=f"addresses: {error}")
    except OSError as error:
        module.fail_json(msg=f"the kernel did not tell its addresses: {error}")
    module.exit_json(changed=False, compliant=not findings, findings=findings, addresses=addresses, sysctls=sysctls)


if __name__ == "__main__":
    main()

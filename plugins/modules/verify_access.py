#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compare the SSH daemon and service accounts of a host with what is wanted."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: verify_access
short_description: Verify who can log in to a host
version_added: 0.1.0
description:
  - Compares the effective settings of the SSH daemon, as it tells them itself, and whether accounts of services could log in or become somebody else.
  - Changes nothing.
options:
  sshd:
    description: Settings of the SSH daemon, each with the value, or a list of the values, that is accepted.
    type: dict
    default:
      PermitRootLogin: ["no", without-password, prohibit-password, forced-commands-only]
      PasswordAuthentication: "no"
      KbdInteractiveAuthentication: "no"
      PermitEmptyPasswords: "no"
      HostbasedAuthentication: "no"
  service_accounts:
    description: Accounts of services. They must have no shell, no password and no sudo rule.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - vllm_mindspore.hardening.observing
"""

EXAMPLES = r"""
- name: Only keys may log in, and the service may not
  vllm_mindspore.hardening.verify_access:
    service_accounts: [vllm-chat]
  register: access
  failed_when: not access.compliant
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
  sample: [{subject: PasswordAuthentication, expected: 'no', observed: 'yes'}]
sshd:
  description: The effective settings of the SSH daemon; null where there is none.
  returned: success
  type: dict
accounts:
  description: Groups, shell, state of the password and sudo rules by account.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.access import read_accounts, read_sshd
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.compliance import compare_accounts, compare_sshd
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.observation import run_command

SSHD = {
    "PermitRootLogin": ["no", "without-password", "prohibit-password", "forced-commands-only"], "PasswordAuthentication": "no",
    "KbdInteractiveAuthentication": "no", "PermitEmptyPasswords": "no", "HostbasedAuthentication": "no",
}


def main():
    """Observe, compare and report."""
    module = AnsibleModule(
        argument_spec={
            "sshd": {"type": "dict", "default": SSHD},
            "service_accounts": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    settings = module.params
    try:
        sshd = read_sshd(run_command)
        accounts = read_accounts(settings["service_accounts"])
    except OSError as error:
        module.fail_json(msg=f"the host did not tell who can log in: {error}")
    findings = compare_accounts(accounts) + (compare_sshd(sshd, settings["sshd"]) if sshd is not None else [])
    module.exit_json(changed=False, compliant=not findings, findings=findings, sshd=sshd, accounts=accounts)


if __name__ == "__main__":
    main()

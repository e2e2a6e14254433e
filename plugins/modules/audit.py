#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Observe everything the audit wants to know of a host, in one execution."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: audit
short_description: Observe a host for the audit
version_added: 0.1.0
description:
  - Reads addresses, listening sockets with their owners and units, units with their effective properties and processes, kernel
    settings, files and the loaded packet filter of a host.
  - It judges nothing. A part that cannot be observed is empty and its reason is in RV(observation.unknown).
  - Values of environment variables whose names tell of a secret are not returned.
options:
  units:
    description: The systemd units to describe.
    type: list
    elements: str
    default: []
  users:
    description: The accounts to describe, and whose processes outside O(units) to look for.
    type: list
    elements: str
    default: []
  sysctls:
    description: The kernel settings to read, named as in sysctl.d(5); C(*) stands for every interface.
    type: list
    elements: str
    default: []
  files:
    description: The files to describe, as paths and shell patterns.
    type: list
    elements: str
    default: []
  npus:
    description: Numbers of the NPUs to describe, those of C(/dev/davinciN).
    type: list
    elements: int
    default: []
  packages:
    description: Python packages whose installed versions to tell.
    type: dict
    suboptions:
      directory:
        description: The directory of the programs; packages are looked for in the C(site-packages) beside it.
        type: str
        required: true
      names:
        description: Names of the packages.
        type: list
        elements: str
        required: true
  responder:
    description:
      - Start, after everything was observed, a process that answers the UDP probes of M(vllm_mindspore.hardening.probe) and ends by itself.
      - It runs as C(nobody), answers only datagrams that hold what the nonce makes of the port, and with no more bytes than came in.
        A responder of another run goes on, and answers for both.
    type: dict
    suboptions:
      nonce:
        description: What only this run knows.
        type: str
        required: true
      addresses:
        description: The addresses of this host to answer on.
        type: list
        elements: str
        required: true
      ports:
        description: The UDP ports to answer on. Ports of other processes are left to them.
        type: list
        elements: int
        required: true
      seconds:
        description: For how long, at most 3600.
        type: int
        required: true
      started:
        description: When the run asked for it, in seconds since the epoch on the controller; returned as it came.
        type: int
        required: true
  policy:
    description: What the packet filter has to let through, as for M(vllm_mindspore.hardening.verify_firewall). Without it the filter is not evaluated.
    type: dict
extends_documentation_fragment:
  - vllm_mindspore.hardening.observing
"""

EXAMPLES = r"""
- name: See who listens on a host and whether its SSH daemon is the distribution's
  vllm_mindspore.hardening.audit:
    units: [ssh.service]
    files: [/etc/ssh/sshd_config]
    sysctls: [net.ipv4.ip_local_port_range, net.ipv4.conf.*.accept_redirects]
  register: host
"""

RETURN = r"""
observation:
  description: What the host told.
  returned: success
  type: dict
  contains:
    version:
      description: The version of this structure.
      type: int
      sample: 1
    host:
      description: Names and versions the findings depend on.
      type: dict
    addresses:
      description: Every address of the host with its interface, prefix length and scope.
      type: list
      elements: dict
    listeners:
      description: Every listening TCP and bound UDP socket with address, port, user id, process and unit.
      type: list
      elements: dict
    units:
      description: Properties and processes by unit.
      type: dict
    sysctls:
      description: Values by setting and file below C(/proc/sys).
      type: dict
    files:
      description: Type, mode, owner, group and SHA-256 by path.
      type: dict
    strays:
      description: Processes of O(users), and engines of whatever user, outside O(units).
      type: list
      elements: dict
    accounts:
      description: Groups, shell, state of the password and sudo rules by account.
      type: dict
    sshd:
      description: The effective settings of the SSH daemon.
      type: dict
    table:
      description: The collection's own table in the packet filter, in short.
      type: dict
    npu:
      description: Driver, toolkit, device nodes, health and fabric of the NPUs, where O(npus) names some.
      type: dict
    packages:
      description: Installed versions by package, where O(packages) was given. A package that is not found is left out.
      type: dict
    responder:
      description: Ports, nonce, seconds and start of the UDP responder, where O(responder) was given.
      type: dict
    packet_filter:
      description: What M(vllm_mindspore.hardening.verify_firewall) returns, where O(policy) was given.
      type: dict
    unknown:
      description: The reasons for parts that could not be observed, by part.
      type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.observation import observe


def main():
    """Observe and report."""
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "str", "default": []},
            "sysctls": {"type": "list", "elements": "str", "default": []},
            "files": {"type": "list", "elements": "str", "default": []},
            "users": {"type": "list", "elements": "str", "default": []},
            "npus": {"type": "list", "elements": "int", "default": []},
            "packages": {"type": "dict", "options": {
                "directory": {"type": "str", "required": True}, "names": {"type": "list", "elements": "str", "required": True}}},
            "responder": {"type": "dict", "options": {
                "nonce": {"type": "str", "required": True},
                "addresses": {"type": "list", "elements": "str", "required": True},
                "ports": {"type": "list", "elements": "int", "required": True},
                "seconds": {"type": "int", "required": True},
                "started": {"type": "int", "required": True},
            }},
            "policy": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, observation=observe(module.params))


if __name__ == "__main__":
    main()

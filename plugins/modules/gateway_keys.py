#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rotation of the keys that the controller keeps for clients of the gateway."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: gateway_keys
short_description: Begin or end the rotation of client keys of the gateway
version_added: 0.1.0
author:
  - vllm_mindspore.hardening contributors (!UNKNOWN)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
description:
  - Works on the key directory of the controller only; the module M(vllm_mindspore.hardening.gateway) then brings the keys to the nodes.
  - A rotation begins with a second valid key. It ends once the new key has been used, with the old one taken away; until then both are valid.
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
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
  directory:
    description: The key directory of the controller.
    type: path
    required: true
  clients:
    description: The clients as the role C(vllm_gateway) takes them. Those with C(keys) of their own are left alone.
    type: list
    elements: dict
    required: true
  step:
    description:
      - V(start) makes the next key of each client that has one, V(finish) takes the old key of each client that has used its new one.
      - V(revoke) takes O(key) away, used or not, and makes another where the client is left without a valid one.
    type: str
    choices: [start, finish, revoke]
    required: true
  key:
    description: The key to revoke, as CLIENT:ID.
    type: str
    default: ""
  requests:
    description: Requests by key, as CLIENT:ID, over all nodes; what proves that a key is in use.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Make the next key of a client
  vllm_mindspore.hardening.gateway_keys:
    directory: ~/gateway/keys
    clients: "{{ vllm_gateway_clients }}"
    step: start
"""

RETURN = r"""
added:
  description: The new key's id by client.
  type: dict
  returned: always
retired:
  description: The id of the key taken away by client.
  type: dict
  returned: always
waiting:
  description: The id of the new key that nobody has used yet, by client.
  type: dict
  returned: always
"""

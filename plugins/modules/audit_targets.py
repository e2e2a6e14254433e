#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin that composes what every vantage point tries."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: audit_targets
short_description: Compose what every vantage point of an audit tries
version_added: 0.1.0
description:
  - Runs on the controller, once a run, and contacts no host.
  - For every node of the plan it lists the ports to try, namely those of its flows (ranges by their ends and some ports inside), those its
    listening sockets were observed on, those that defaults of this kind of installation open, and a spread of others.
  - Every node is tried by some other nodes of its cluster and by every host of the group C(vllm_vantage_points), whose
    addresses are in the variable C(vllm_audit_addresses).
  - The observations are the registered results of M(vllm_mindspore.hardening.audit), as the role C(vllm_audit) leaves them.
options:
  plan:
    description: The plan, as the role C(vllm_cluster) publishes it.
    type: dict
    required: true
  spread:
    description: How many ports to try beside the planned, observed and known ones, spread evenly over all.
    type: int
    default: 64
  peers:
    description: By how many other nodes of its cluster each node is tried.
    type: int
    default: 8
  check:
    description: Only refuse what no audit can have, before a host is contacted; nothing is composed.
    type: dict
    suboptions:
      rate:
        description: The most packets a second, as for M(vllm_mindspore.hardening.probe).
        type: int
        default: 1
      retries:
        description: How often an unanswered probe is sent again, as for M(vllm_mindspore.hardening.probe).
        type: int
        default: 0
      timeout:
        description: The seconds to wait for answers, as for M(vllm_mindspore.hardening.probe).
        type: float
        default: 1.0
      udp_seconds:
        description: For how long UDP probes are answered.
        type: int
        default: 0
      waivers:
        description: Failures that are accepted, as for M(vllm_mindspore.hardening.judge).
        type: list
        elements: dict
        default: []
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
  platform: {support: full, platforms: all}
  action: {support: full}
  async: {support: none}
  bypass_host_loop: {support: none}
author:
  - vllm_mindspore.hardening contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Compose the targets
  vllm_mindspore.hardening.audit_targets:
    plan: "{{ vllm_cluster_plan }}"
  run_once: true
  register: composed
"""

RETURN = r"""
targets:
  description: What to try of every node, as M(vllm_mindspore.hardening.probe) takes it.
  returned: success, without O(check)
  type: dict
  sample: {npu01: {host: npu01, addresses: {internal: [10.77.2.11]}, tcp: ["22", "28000-28010"]}}
vantage_points:
  description: The source addresses of every vantage point and the nodes it tries.
  returned: success, without O(check)
  type: dict
  sample: {rogue: {sources: [{segment: internal, address: 10.77.2.67}], hosts: [npu01]}}
"""

#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name, which does all the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: plan
short_description: Turn the inventory into the plan of all clusters
version_added: 0.1.0
description:
  - Computes addresses, ports, flags, environment, listeners, flows and sysctls of every node from the C(vllm_cluster_*) variables
    of all nodes. C(docs/architecture.md) describes the shape of the result; the role C(vllm_cluster) registers it
    as C(vllm_cluster_plan).
  - Refuses an inventory with defaults, wildcards or contradictions, with all problems in one message.
  - Runs on the controller only and contacts no node. It reads every node of the inventory, also those outside C(--limit).
options:
  group:
    description: The inventory group that holds the nodes of all clusters.
    type: str
    default: vllm_nodes
  file:
    description: Where the plan is written as JSON, on the controller. Nothing is written when this is not set.
    type: path
  show:
    description: Whether the plan is printed for review.
    type: bool
    default: false
  query:
    description: A JMESPath expression; with O(show=true) only what it selects is printed, as JSON.
    type: str
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    support: full
    platforms: posix
  action:
    support: full
  async:
    support: none
  bypass_host_loop:
    support: none
author:
  - vllm_mindspore.hardening contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Review the plan before any node is contacted
  hosts: vllm_nodes
  gather_facts: false
  tasks:
    - name: Compute, print and write the plan
      vllm_mindspore.hardening.plan:
        show: true
        file: plan.json
      run_once: true
      register: vllm_cluster_plan

    - name: Print what may reach one node
      vllm_mindspore.hardening.plan:
        show: true
        query: nodes.npu01.flows[].[name, sources, ports]
      run_once: true
"""

RETURN = r"""
version:
  description: The version of the plan's shape.
  returned: success
  type: int
clusters:
  description: Segments, named sets, nodes and instances of every cluster.
  returned: success
  type: dict
nodes:
  description: Addresses, flows, listeners, sysctls, and the instances with flags and environment of every node.
  returned: success
  type: dict
"""

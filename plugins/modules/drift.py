#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin that decides and explains drift correction."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: drift
short_description: Decide what drift correction runs, and explain what it found
version_added: 0.1.0
description:
  - Runs on the controller and contacts no host. The playbook C(drift) is made of it and of the roles.
options:
  step:
    description:
      - V(check), once a run and before anything else, refuses controls and modes that do not exist.
      - V(decide), once a run, turns findings into the roles that put them right, by host.
      - V(explain), on each host after its roles, says what differed, from what to what, and whether it was an intended change.
      - V(hold), on each host after its roles were asked again in check mode, fails where they would change something again.
    type: str
    choices: [check, decide, explain, hold]
    required: true
  findings:
    description: What M(vllm_mindspore.hardening.judge) returned as C(findings).
    type: list
    elements: dict
    default: []
  controls:
    description: Ids of the controls to correct. None is all.
    type: list
    elements: str
    default: []
  mode:
    description: Whether the roles correct, or run in check mode. In check mode it is V(report).
    type: str
    choices: [correct, report]
    default: correct
  roles:
    description: The roles that ran on this host.
    type: list
    elements: str
    default: []
  directory:
    description:
      - The directory of the reports, in which C(drift.jsonl) keeps when each deviation began, was seen and was corrected.
      - With O(step=decide) another file is begun where it has more than 16 MiB; three earlier ones are kept as C(drift.jsonl.1) to C(drift.jsonl.3).
    type: path
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    support: full
    platforms: all
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
- name: Decide what to correct
  vllm_mindspore.hardening.drift:
    step: decide
    findings: "{{ vllm_audit_result.findings }}"
    controls: [FW-01, NET-05]
  run_once: true
  register: decision
"""

RETURN = r"""
roles:
  description: The roles to run, by host, with O(step=decide).
  type: dict
  returned: with O(step=decide)
  sample: {"npu02": ["vllm_firewall"]}
last_good:
  description: Time of the last compliant audit.
  type: str
  returned: with O(step=decide)
seen:
  description: Time at which the deviations were seen.
  type: str
  returned: with O(step=decide)
explained:
  description: What each role found, with O(step=explain).
  type: list
  elements: dict
  returned: with O(step=explain)
  sample: [{"role": "vllm_firewall", "origin": "foreign", "lines": ["+ chain input: iif lo accept"]}]
"""

#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin that judges an audit."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: judge
short_description: Judge observations against the plan and report
version_added: 0.1.0
description:
  - Runs on the controller, once a run, and contacts no host.
  - Compares what M(vllm_mindspore.hardening.audit) observed on the nodes and what M(vllm_mindspore.hardening.probe) observed
    from the vantage points with the plan. What could not be observed is unknown and never passes.
  - Prints the table of expected against observed and a summary, writes the reports, and fails unless the run is compliant.
options:
  plan:
    description: The plan, as the role C(vllm_cluster) publishes it. Either this or O(document) is required.
    type: dict
  document:
    description:
      - The results document of an earlier run, C(report.json). Nothing is judged again; its reports are written to O(directory) in O(formats).
      - It is refused where it is truncated, was edited, or is of a newer version.
    type: path
  spread:
    description: The same as was given to M(vllm_mindspore.hardening.audit_targets).
    type: int
    default: 64
  peers:
    description: The same as was given to M(vllm_mindspore.hardening.audit_targets).
    type: int
    default: 8
  directory:
    description: The directory on the controller to write the reports to. Nothing is written without it.
    type: path
  formats:
    description: The reports to write.
    type: list
    elements: str
    choices: [csv, html, json, junit, oscal, prometheus, sarif]
    default: [html, json]
  signing_key:
    description: The private key on the controller that C(ssh-keygen -Y sign) signs the manifest of the reports with. Without it the manifest is not signed.
    type: path
  waivers:
    description:
      - Failures that are accepted. Each has C(control), C(hosts) (a list, or V(all)), C(reason), C(owner) and C(expires), a date at most 180 days ahead.
      - An expired waiver counts for nothing. Controls that isolate the network cannot be waived.
    type: list
    elements: dict
    default: []
  enforce:
    description: Whether the task fails unless the run is compliant.
    type: bool
    default: true
  before:
    description: RV(findings) of an earlier judgement in the same run; what became of each is printed.
    type: list
    elements: dict
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
attributes:
  check_mode:
    support: full
    details: The reports are written in check mode as well, since they are the purpose of the run and change no host.
  diff_mode: {support: none}
  platform: {support: full, platforms: all}
  action: {support: full}
  async: {support: none}
  bypass_host_loop: {support: none}
author:
  - vllm_mindspore.hardening contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Hand an earlier run over to a code scanning service
  vllm_mindspore.hardening.judge:
    document: /srv/audit/report.json
    directory: /srv/exchange
    formats: [sarif]
    enforce: false
  delegate_to: localhost

- name: Judge and report
  vllm_mindspore.hardening.judge:
    plan: "{{ vllm_cluster_plan }}"
    directory: /srv/audit
  run_once: true
"""

RETURN = r"""
verdict:
  description: V(compliant), V(findings) or V(incomplete).
  returned: always
  type: str
  sample: compliant
exit_status:
  description: 0 for a compliant run, 2 for findings, 3 for an incomplete one.
  returned: always
  type: int
  sample: 0
findings:
  description: The findings that failed or are unknown.
  returned: always
  type: list
  elements: dict
counts:
  description: Numbers of controls on hosts by status.
  returned: always
  type: dict
wire:
  description: Numbers of ports tried by result.
  returned: always
  type: dict
coverage:
  description: Which nodes were observed and which vantage points probed, and why others were not.
  returned: always
  type: dict
directory:
  description: The O(directory) that they were written to; null where nothing was.
  returned: always
  type: str
  sample: /srv/audit
reports:
  description: The files written.
  returned: always
  type: list
  elements: str
"""

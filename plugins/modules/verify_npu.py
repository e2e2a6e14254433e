#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a node's NPUs are ready for an engine, before anything is installed."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: verify_npu
short_description: Verify that the NPUs of an Ascend node are ready
version_added: 0.1.0
extends_documentation_fragment:
  - vllm_mindspore.hardening.observing
description:
  - Reads the installation of driver and toolkit, the device nodes, C(npu-smi info), and with C(hccn_tool) the address and the TLS switch of each NPU.
  - Fails with everything that would keep an engine from working or leave the NPUs open. It changes nothing.
  - What cannot be read, since a tool is absent or fails, is unknown and does not fail; it is returned and warned of, and the audit
    counts it as unknown too.
  - NPU interfaces bypass the kernel of the host. That nobody else reaches them is for the switch to enforce; this sees the host's side.
options:
  npus:
    description: Numbers of the NPUs, those of C(/dev/davinciN).
    type: list
    elements: int
    required: true
  group:
    description: Group that the users of the instances join for the devices. By default the one that the driver was installed with.
    type: str
    default: ""
  cann:
    description: First parts of the toolkit's version that the engine is paired with, such as V(8.3). Any when empty.
    type: str
    default: ""
  for_all_reason:
    description:
      - Why every account of the node may use its NPUs, as it may where the driver was installed with C(--install-for-all), which is what ascend-deployer
        does. Without a reason that is refused. With one it is a warning here, and the audit tells it on.
    type: str
    default: ""
  spans:
    description: Whether an instance uses the NPUs together with those of other nodes, which the fabric then has to be fit for.
    type: bool
    default: false
  segments:
    description: Networks of the host's segments; no address of an NPU lies in them.
    type: list
    elements: str
    default: []
  fabric:
    description: Networks of the NPU interfaces. Anywhere outside O(segments) when empty.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: See whether eight NPUs are ready for an engine over several nodes
  vllm_mindspore.hardening.verify_npu:
    npus: [0, 1, 2, 3, 4, 5, 6, 7]
    group: HwHiAiUser
    cann: "8.3"
    spans: true
    segments: [10.77.0.0/24, 10.77.1.0/24, 10.77.2.0/24]
    fabric: [10.77.8.0/22]
"""

RETURN = r"""
conditions:
  description: Every condition with its status (pass, fail, unknown), what was expected, and the problems.
  returned: always
  type: list
  elements: dict
  sample: [{"id": "NPU-04", "status": "pass", "expected": "NPUs 0, 1 present and OK", "problems": []}]
npu:
  description: What the node told, with the reasons for what it did not tell under C(unknown).
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.npu import observe_npus
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.npu_conditions import FAIL, UNKNOWN, conditions, wanted_npus


def main():
    """Observe, compare, report."""
    module = AnsibleModule(
        argument_spec={
            "npus": {"type": "list", "elements": "int", "required": True},
            "group": {"type": "str", "default": ""},
            "cann": {"type": "str", "default": ""},
            "for_all_reason": {"type": "str", "default": ""},
            "spans": {"type": "bool", "default": False},
            "segments": {"type": "list", "elements": "str", "default": []},
            "fabric": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    given = module.params
    observed = observe_npus(given["npus"], module.run_command)
    for_all = given["for_all_reason"].strip()
    wanted = wanted_npus(given["npus"], given["group"], given["cann"] or None, given["spans"], given["segments"], given["fabric"], bool(for_all))
    found = conditions(wanted, observed)
    if found != conditions({**wanted, "for_all": False}, observed):
        module.warn(f"every account of this node may use its NPUs: {for_all}")
    for condition in found:
        if condition["status"] == UNKNOWN:
            module.warn(f"{condition['id']} is unknown: {condition['problems'][0]}")
    failed = [f"{condition['id']}: {problem}" for condition in found if condition["status"] == FAIL for problem in condition["problems"]]
    if failed:
        module.fail_json(msg="The NPUs of this node are not ready:\n" + "\n".join(failed), conditions=found, npu=observed)
    module.exit_json(changed=False, conditions=found, npu=observed)


if __name__ == "__main__":
    main()

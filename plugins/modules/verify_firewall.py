#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prove what a host's packet filter lets pass, for every packet at once."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: verify_firewall
short_description: Prove what a host's packet filter lets pass
version_added: 0.1.0
description:
  - Reads the packet filter that the kernel enforces (nftables, over netlink, without the C(nft) program), the addresses and the routes,
    and decides for every possible packet whether a policy holds. All tables and all hooks count together, whoever made them.
  - What the policy allows must pass, for its opening packet, its later packets and the answers. What it does not name must be refused.
  - Each leak and each broken flow comes with a concrete packet, the range of packets it stands for, and its way through tables,
    chains and rules.
  - What the model does not decide (rate limits, sets that packets fill, legacy iptables, programs of XDP and traffic control, unknown expressions) is
    never guessed.
    A verdict that depends on it is V(unknown), with the object named.
  - It only reads. It can be used on any Linux host, without anything else of this collection.
options:
  policy:
    description:
      - What may pass, as a dictionary. See the examples, and C(docs/verification.md) for every key.
      - A policy that lies in a YAML or JSON file on the controller is given here with a lookup, as in the examples.
      - Exactly one of O(policy) and O(policy_file) must be given.
    type: dict
  policy_file:
    description:
      - Path of a JSON file on the managed node that holds the policy, with the same keys as O(policy).
      - It is read on the node, as JSON only, each time the module runs; nothing is copied there.
    type: path
  fail_on:
    description:
      - Which verdicts make the task fail. V(violated) means leaks and broken flows, V(unknown) means these and everything undecided, V(never) only reports.
    type: str
    choices: [never, violated, unknown]
    default: unknown
  check_listing:
    description:
      - Also report rules whose listing by C(nft) means something else than what is loaded.
    type: bool
    default: true
extends_documentation_fragment:
  - vllm_mindspore.hardening.observing
requirements:
  - Root, or the capability CAP_NET_ADMIN.
  - Linux 4.18 or later.
notes:
  - Source addresses and ports are the sender's choice; the policy's C(sources) are believed as far as the filter and the routes check them.
"""

EXAMPLES = r"""
- name: Nothing but SSH from the administrators and HTTPS from everyone reaches this host
  vllm_mindspore.hardening.verify_firewall:
    policy:
      version: 1
      sets:
        administrators: [192.0.2.0/28, "2001:db8:1::/64"]
      allow:
        - {name: ssh, sources: ["@administrators"], protocol: tcp, ports: ["22"]}
        - {name: https, protocol: tcp, ports: ["443"]}
      permit: [established, loopback, icmp, dhcp]

- name: A service account opens nothing but connections to its database, and nobody else reaches the socket of an administration server
  vllm_mindspore.hardening.verify_firewall:
    policy:
      permit: [{name: everything}]
      forward: null
      egress:
        - {name: database, user: service, destinations: [192.0.2.20], protocol: tcp, ports: ["5432"]}
      egress_users: [service]
      permit_egress: [established, loopback]
      refuse_egress:
        - {name: administration, other_users: [root], interface: lo, protocol: tcp, ports: ["9000"]}

- name: Look at a router, without failing
  vllm_mindspore.hardening.verify_firewall:
    policy: "{{ lookup('ansible.builtin.file', 'router-policy.yml') | from_yaml }}"
    fail_on: never
  register: proof

- name: Hold every host to the policy that lies beside its own configuration
  vllm_mindspore.hardening.verify_firewall:
    policy_file: /etc/example/firewall-policy.json

# From the command line, against any host:
#   ansible all -i host.example.com, -b -m vllm_mindspore.hardening.verify_firewall -a '{"policy": {"allow": [
#     {"name": "ssh", "protocol": "tcp", "ports": ["22"]}]}}'
"""

RETURN = r"""
verdict:
  description: V(ok), V(violated) or V(unknown).
  type: str
  returned: always
  sample: violated
flows:
  description: One entry for each flow that must pass.
  type: list
  elements: dict
  returned: always
  contains:
    name: {description: "The flow's name.", type: str}
    part: {description: "The part of the policy it is from.", type: str}
    status: {description: "V(ok), V(broken) or V(unknown).", type: str}
    reason: {description: "Why it is not V(ok).", type: str}
    phase: {description: "Which packet fails; V(opening), V(established) or V(answer).", type: str}
    packet: {description: "An example packet.", type: dict}
    box: {description: "The packets that fare alike; fields that do not matter are left out.", type: dict}
    trace: {description: "The way of the packet through the rules.", type: list, elements: dict}
    outcome: {description: "What becomes of it.", type: str}
    depends_on: {description: "What decides where the status is V(unknown).", type: list, elements: str}
    family: {description: "V(ip) or V(ip6).", type: str}
leaks:
  description: One entry for each rule or policy that lets pass what should not.
  type: list
  elements: dict
  returned: always
  contains:
    part: {description: "V(input), V(forward) or V(output).", type: str}
    status: {description: "V(leak) or V(unknown).", type: str}
    rule: {description: "The rule or policy that lets it pass.", type: dict}
    packet: {description: "An example packet.", type: dict}
    box: {description: "The packets that fare alike.", type: dict}
    trace: {description: "The way of the packet through the rules.", type: list, elements: dict}
    depends_on: {description: "What decides where the status is V(unknown).", type: list, elements: str}
    boxes: {description: "How many such ranges of packets were found.", type: int}
    refused: {description: "The flow of the policy's C(refuse_egress) that passes.", type: str}
    family: {description: "V(ip) or V(ip6).", type: str}
unknown:
  description: What could not be read or is not modelled.
  type: list
  elements: dict
  returned: always
listing:
  description: Rules that C(nft) lists with another meaning than what is loaded.
  type: list
  elements: dict
  returned: always
statistics:
  description: How many tables, rules and set elements were read, and how many nodes the proof needed.
  type: dict
  returned: always
"""

import json

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_policy import PolicyError
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_witness import prove


def summary(result):
    """What is wrong, in one paragraph."""
    lines = []
    for flow in result["flows"]:
        if flow["status"] != "ok":
            lines.append(f"flow {flow['name']} is {flow['status']}: {flow['reason']}")
    for leak in result["leaks"]:
        packet, rule = leak["packet"], leak["rule"]
        user = f" of user {packet['uid']}" if "uid" in packet else ""
        port = f" port {packet['destination_port']}" if "destination_port" in packet else ""
        place = rule.get("chain") and f"{rule['family']} {rule['table']} {rule['chain']}" + (
            f" handle {rule['handle']}" if rule.get("handle") else " policy"
        )
        word = "passes" if leak["status"] == "leak" else "may pass, depending on " + ", ".join(leak["depends_on"])
        lines.append(
            f"{leak['part']}: {packet['protocol']} from {packet['source']} to {packet['destination']}{port}{user} {word}"
            f" ({place or rule['outcome']})"
        )
    for one in result["unknown"]:
        lines.append(f"unknown: {one['object']}: {one['reason']}")
    for one in result["listing"]:
        lines.append(f"listing: {one['table']} {one['chain']} handle {one['handle']}: {one['why']}")
    return "; ".join(lines)


def main():
    """The edge: parameters in, result out."""
    module = AnsibleModule(
        argument_spec={
            "policy": {"type": "dict"},
            "policy_file": {"type": "path"},
            "fail_on": {"type": "str", "choices": ["never", "violated", "unknown"], "default": "unknown"},
            "check_listing": {"type": "bool", "default": True},
        },
        mutually_exclusive=[("policy", "policy_file")],
        required_one_of=[("policy", "policy_file")],
        supports_check_mode=True,
    )
    policy = module.params["policy"]
    if module.params["policy_file"]:
        try:
            with open(module.params["policy_file"], encoding="utf-8") as file:
                policy = json.load(file)
        except (OSError, ValueError) as error:
            module.fail_json(msg=f"policy_file: {module.params['policy_file']} cannot be read as JSON: {error}")
    try:
        result = prove(policy, listing=module.params["check_listing"])
    except PolicyError as error:
        module.fail_json(msg="the policy cannot be proved: " + "; ".join(error.problems), problems=error.problems)
    failing = {"never": (), "violated": ("violated",), "unknown": ("violated", "unknown")}[module.params["fail_on"]]
    if result["verdict"] in failing:
        module.fail_json(msg=f"{result['verdict']}: {summary(result)}", **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()

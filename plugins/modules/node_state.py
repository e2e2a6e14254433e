#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Accounts, files, sysctls and units of one concern of a node, in one execution."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: node_state
short_description: Bring accounts, files, sysctls and systemd units of one concern to their desired state
version_added: 0.1.0
author:
  - vllm_mindspore.hardening contributors (!UNKNOWN)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
description:
  - Takes the whole desired state of one concern and brings it about in one execution, in the order in which the parts need each other,
    which is addresses (checked only), groups, users, directories, files, sysctls, units.
  - What is not listed is not touched. What is listed with O(files[].state=absent) and its like is removed, units first and accounts last.
  - Files are replaced atomically and never through a link that somebody other than root could have made.
  - A unit is restarted exactly where its own files, or a path of O(units[].restart_on), change in this execution or are newer than its
    start. A restart that an interrupted run owed is made up for that way.
  - A unit that does not start, or does not become ready, fails the module with the B(first) error of its journal.
attributes:
  check_mode:
    support: full
    description: Predicts exactly what a run changes, also on a node on which nothing is there yet. Does not wait for O(units[].ready).
  diff_mode:
    support: full
    description: One entry for each resource. Content of O(files[].sensitive) files is never shown.
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
  record:
    description:
      - Name under which the node remembers what was applied, below C(/var/lib/vllm-hardening/applied), without sensitive files. A later run can so tell
        a rollout from a foreign change, and the role C(vllm_guard) corrects by it.
      - Where everything listed is absent, the node forgets it.
    type: str
  signed:
    description:
      - The controller's signature over what is wanted. Set by the action plugin where C(vllm_guard_signing_key) names a key.
    type: dict
  addresses:
    description: Addresses that the node must have. A node that has not is refused before anything is changed.
    type: list
    elements: dict
    default: []
    suboptions:
      address:
        description: Numeric address of either family.
        type: str
        required: true
      interface:
        description: Interface that must hold the address. Without it any interface may.
        type: str
      name:
        description: What the address is for, for the message.
        type: str
  models:
    description:
      - Models of which the node has to hold exactly the pinned files, owned by root and writable by nobody else. A node whose model differs is
        refused before anything is changed. Nothing of a model is ever changed.
      - A file is read once, and again where its size, times or inode changed.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Directory of the model.
        type: str
        required: true
      checksums:
        description:
          - The sha256 of files by their path below the directory. Files that can hold code and are not among them are refused.
          - The model is not verified when empty.
        type: dict
        default: {}
  groups:
    description: Groups.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the group.
        type: str
        required: true
      gid:
        description: Number of the group. Without it the node chooses.
        type: int
      system:
        description: Whether a new group gets a number of the system range.
        type: bool
        default: true
      state:
        description: Whether the group is there.
        type: str
        choices: [present, absent]
        default: present
  users:
    description: Users, by default system accounts that nobody logs in to.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      uid:
        description: Number of the user. Without it the node chooses.
        type: int
      group:
        description: Primary group. Without it the group named as the user.
        type: str
      groups:
        description: Supplementary groups, all of them.
        type: list
        elements: str
        default: []
      home:
        description: Home directory, which is not made.
        type: path
        default: /nonexistent
      shell:
        description: Login shell.
        type: path
        default: /usr/sbin/nologin
      comment:
        description: The field of the full name.
        type: str
      system:
        description: Whether a new user gets a number of the system range.
        type: bool
        default: true
      state:
        description: Whether the user is there.
        type: str
        choices: [present, absent]
        default: present
  directories:
    description: Directories. The parent of each is there or listed.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: str
        required: true
      owner:
        description: Name of the owner.
        type: str
        default: root
      group:
        description: Name of the group.
        type: str
        default: root
      mode:
        description: Mode as a quoted octal number.
        type: str
        default: "0755"
      state:
        description: V(absent) removes the directory with everything in it.
        type: str
        choices: [present, absent]
        default: present
  files:
    description: Regular files. The directory of each is there or listed.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: str
        required: true
      content:
        description: The whole content.
        type: str
      owner:
        description: Name of the owner.
        type: str
        default: root
      group:
        description: Name of the group.
        type: str
        default: root
      mode:
        description: Mode as a quoted octal number.
        type: str
        default: "0644"
      sensitive:
        description: Whether the content stays out of --diff and of the result.
        type: bool
        default: false
      state:
        description: Whether the file is there.
        type: str
        choices: [present, absent]
        default: present
  sysctls:
    description: Kernel parameters, live and for the next boot.
    type: dict
    suboptions:
      path:
        description: The file below C(/etc/sysctl.d) that is ours alone.
        type: str
        required: true
      values:
        description:
          - Value by key, where a key may hold C(*) as in sysctl.d(5), and is written with slashes where a name has dots.
          - A key that is given up returns to the value it had before this module first changed it, and with no key left the file goes.
          - Keys below C(net.ipv6) that the kernel lacks are left alone, any other is refused.
        type: dict
        default: {}
  units:
    description: systemd units.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name with suffix.
        type: str
        required: true
      content:
        description: Content of C(/etc/systemd/system/NAME). Without it the unit is somebody else's.
        type: str
      dropins:
        description: Content of C(/etc/systemd/system/NAME.d/KEY.conf) by key.
        type: dict
        default: {}
      enabled:
        description: Whether the unit is started at boot. Without it nothing is said about that.
        type: bool
      state:
        description: V(absent) stops and disables the unit and removes its files. Without it nothing is started or stopped.
        type: str
        choices: [started, stopped, absent]
      restart_on:
        description: Paths that a running unit was started from, beside its own files.
        type: list
        elements: str
        default: []
      restart:
        description: Whether something that the unit runs is changed by this play, so that it has to be restarted.
        type: bool
        default: false
      ready:
        description: When a started unit is ready. The module waits for it.
        type: dict
        suboptions:
          url:
            description: HTTP URL that answers with status 200.
            type: str
            required: true
          timeout:
            description: Seconds to wait from the start of the unit.
            type: int
            default: 600
          restarts:
            description: How often systemd may start the unit again before it counts as failed.
            type: int
            default: 0
          journals:
            description: Further units whose journal may hold the reason why this one is not ready.
            type: list
            elements: str
            default: []
"""

EXAMPLES = r"""
- name: Serve metrics of a node
  vllm_mindspore.hardening.node_state:
    groups:
      - name: metrics
    users:
      - name: metrics
        home: /var/lib/metrics
    files:
      - path: /etc/metrics.conf
        content: "listen 127.0.0.1:9100\n"
        group: metrics
        mode: "0640"
    units:
      - name: metrics.service
        content: "{{ lookup('ansible.builtin.template', 'metrics.service.j2') }}"
        enabled: true
        state: started
        restart_on: [/etc/metrics.conf]
        ready:
          url: http://127.0.0.1:9100/health
          timeout: 60

- name: Pin the ephemeral ports
  vllm_mindspore.hardening.node_state:
    sysctls:
      path: /etc/sysctl.d/90-vllm.conf
      values:
        net.ipv4.ip_local_port_range: 28000 28999
"""

RETURN = r"""
origin:
  description: Whether the differences come from a desired state that differs from the last one applied (V(rollout)), or from a change on the node (V(foreign)).
  returned: when changed, with O(record)
  type: str
  sample: foreign
resources:
  description: Each resource that differs, what is done about it, and the differing properties before and after.
  type: list
  elements: dict
  returned: always
  sample:
    - resource: sysctl net.ipv4.ip_local_port_range
      change: update
      before: {value: 32768 60999}
      after: {value: 28000 28999}
"""

import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import applied, model_files, node_state, sealing
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.node_edge import Failed, Node


def arguments():
    """The options of the module, as documented."""
    state = {"type": "str", "choices": ["present", "absent"], "default": "present"}
    name = {"type": "str", "required": True}
    owner = {"type": "str", "default": "root"}

    def items(**options):
        return {"type": "list", "elements": "dict", "default": [], "options": options}

    return {
        "record": {"type": "str"},
        "signed": {"type": "dict"},
        "addresses": items(address=name, interface={"type": "str"}, name={"type": "str"}),
        "models": items(path=name, checksums={"type": "dict", "default": {}}),
        "groups": items(name=name, gid={"type": "int"}, system={"type": "bool", "default": True}, state=state),
        "users": items(
            name=name, uid={"type": "int"}, group={"type": "str"}, groups={"type": "list", "elements": "str", "default": []},
            home={"type": "path", "default": "/nonexistent"}, shell={"type": "path", "default": "/usr/sbin/nologin"}, comment={"type": "str"},
            system={"type": "bool", "default": True}, state=state,
        ),
        "directories": items(path=name, owner=owner, group=owner, mode={"type": "str", "default": "0755"}, state=state),
        "files": items(
            path=name, content={"type": "str"}, owner=owner, group=owner, mode={"type": "str", "default": "0644"},
            sensitive={"type": "bool", "default": False}, state=state,
        ),
        "sysctls": {"type": "dict", "options": {"path": name, "values": {"type": "dict", "default": {}}}},
        "units": items(
            name=name, content={"type": "str"}, dropins={"type": "dict", "default": {}}, enabled={"type": "bool"},
            state={"type": "str", "choices": ["started", "stopped", "absent"]}, restart_on={"type": "list", "elements": "str", "default": []},
            restart={"type": "bool", "default": False},
            ready={"type": "dict", "options": {
                "url": name, "timeout": {"type": "int", "default": 600}, "restarts": {"type": "int", "default": 0},
                "journals": {"type": "list", "elements": "str", "default": []},
            }},
        ),
    }


def carry_out(module, desired, node, steps, done):
    """Carry the steps out, and wait for what has to be ready."""
    for step in steps:
        node.carry_out(step)
        done.append(step)
    if desired.sysctl_file and desired.sysctls:
        node.settle_sysctls()
    for name, item in desired.units.items():
        if item.get("ready") and item["state"] == "started":
            node.wait_ready(name, item["ready"])


def remembering(module, desired, node, steps, done):
    """As carry_out, while the node knows that the concern is being applied, and what was applied afterwards."""
    record = module.params["record"]
    with applied.lock():
        if steps:
            applied.begin(record)
        carry_out(module, desired, node, steps, done)
        applied.write(record, module.params, sealing.read_key(), signed=module.params["signed"])


def main():
    """Check what is wanted, observe, compare, carry out."""
    module = AnsibleModule(argument_spec=arguments(), supports_check_mode=True)
    record, done = module.params["record"], []
    if record is not None and not re.fullmatch("[a-z][a-z0-9_]{0,39}", record):
        module.fail_json(msg=f"record: {record!r} is no name; write lower-case letters, digits and _, at most 40")
    try:
        if record:
            applied.admit(record, module.params, module.params["signed"])
        desired = node_state.Desired(module.params)
        wrong = model_files.verify_all(module.params["models"], not module.check_mode) if module.params["models"] else []
        if wrong:
            raise node_state.Refusal(wrong)
        node = Node(module, desired)
        steps = node_state.difference(desired, node.observe())
        result = {"changed": bool(node_state.visible(steps)), "resources": node_state.resources(steps)}
        if record and result["changed"]:
            same = applied.last_digest(record) == applied.digest(applied.remembered(module.params))
            result["origin"] = "foreign" if same else "rollout"
        if module._diff:
            result["diff"] = node_state.diffs(steps)
        if not module.check_mode:
            (remembering if record else carry_out)(module, desired, node, steps, done)
    except node_state.Refusal as error:
        module.fail_json(msg="\n".join(error.problems), problems=error.problems)
    except (Failed, OSError, applied.Busy, sealing.Untrusted) as error:
        module.fail_json(msg=str(error), changed=bool(node_state.visible(done)), resources=node_state.resources(done))
    module.exit_json(**result)


if __name__ == "__main__":
    main()

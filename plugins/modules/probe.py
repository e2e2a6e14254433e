#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Try TCP and UDP ports of other hosts from this one, and tell open, closed, refused and silent apart."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: probe
short_description: Try ports of other hosts from this one
version_added: 0.1.0
description:
  - Sends TCP connection requests and UDP datagrams to the addresses given, from the source addresses given, and tells what came back.
  - With the privilege to open raw sockets it sends single SYN segments and never completes a connection, so that no
    service notices. This matters for engines that hang when a stranger merely connects.
    Without it, ordinary non-blocking connections are made and reset.
  - An address of a target that lies on another segment than the source is tried through the target's neighbour address
    on the source's segment. This is how a host of one segment reaches the other addresses of its neighbours when they follow
    the weak host model. It needs raw sockets.
  - UDP needs raw sockets, and on the target the responder that M(vllm_mindspore.hardening.audit) starts. Without an answer, a datagram that a filter
    let through cannot be told from one that it dropped.
  - Nothing is sent to any address that is not listed.
options:
  sources:
    description: The addresses of this host to probe from.
    type: list
    elements: dict
    required: true
    suboptions:
      segment:
        description: The network segment the address is attached to.
        type: str
        required: true
      address:
        description: A numeric IPv4 or IPv6 address of this host.
        type: str
        required: true
  targets:
    description: The hosts to probe.
    type: list
    elements: dict
    required: true
    suboptions:
      host:
        description: The name under which the results are reported.
        type: str
        required: true
      addresses:
        description: The host's numeric addresses by segment, each a list.
        type: dict
        required: true
      tcp:
        description: The TCP ports to try on every address, as ports and ranges.
        type: list
        elements: str
        default: []
      udp:
        description: The UDP ports to try on every address.
        type: list
        elements: str
        default: []
      udp_nonce:
        description: What the responder on the target was started with.
        type: str
        default: ""
  method:
    description:
      - How to probe. V(raw) sends single segments, V(connect) makes connections, V(auto) takes V(raw) where the privilege is there.
    type: str
    choices: [auto, raw, connect]
    default: auto
  rate:
    description: The most packets to send in a second.
    type: int
    default: 20000
  retries:
    description: How often a probe that nobody answered is sent again.
    type: int
    default: 2
  timeout:
    description: The seconds to wait for answers after the last attempt, and twice as long as between two attempts at the same port.
    type: float
    default: 0.25
extends_documentation_fragment:
  - vllm_mindspore.hardening.observing
"""

EXAMPLES = r"""
- name: Try SSH and the API of a node from an address of the internal segment
  vllm_mindspore.hardening.probe:
    sources:
      - segment: internal
        address: 10.77.2.200
    targets:
      - host: npu01
        addresses:
          management: [10.77.0.11]
          internal: [10.77.2.11]
        tcp: ["22", "8443", "28000-28010"]
  register: probes
"""

RETURN = r"""
method:
  description: How it was probed, V(raw) or V(connect).
  returned: success
  type: str
  sample: raw
sent:
  description: How many probes were sent, retransmissions included.
  returned: success
  type: int
  sample: 320
responders:
  description: >-
    How many responders of UDP probes (M(vllm_mindspore.hardening.audit)) ran on this host when it had probed; null where
    the module may not know.
  returned: success
  type: int
  sample: 1
paths:
  description:
    - One entry for every pair of source and destination address and protocol.
    - Every port tried is in exactly one of C(open) (connection accepted, or datagram answered), C(closed) (reset), C(refused) (an ICMP
      message), C(silent) (no answer) and C(unsent) (it could not be sent, and C(why) tells the reason).
  returned: success
  type: list
  elements: dict
  sample:
    - host: npu01
      protocol: tcp
      segment: internal
      source: 10.77.2.200
      address: 10.77.0.11
      crossed: true
      open: []
      closed: []
      refused: []
      silent: ["22", "8443", "28000-28010"]
      unsent: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import udp_responder
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.probing import ProbeError, plan_paths, probe


def main():
    """Probe and report."""
    module = AnsibleModule(
        argument_spec={
            "sources": {"type": "list", "elements": "dict", "required": True, "options": {
                "segment": {"type": "str", "required": True},
                "address": {"type": "str", "required": True},
            }},
            "targets": {"type": "list", "elements": "dict", "required": True, "options": {
                "host": {"type": "str", "required": True},
                "addresses": {"type": "dict", "required": True},
                "tcp": {"type": "list", "elements": "str", "default": []},
                "udp": {"type": "list", "elements": "str", "default": []},
                "udp_nonce": {"type": "str", "default": ""},
            }},
            "method": {"type": "str", "choices": ["auto", "raw", "connect"], "default": "auto"},
            "rate": {"type": "int", "default": 20000},
            "retries": {"type": "int", "default": 2},
            "timeout": {"type": "float", "default": 0.25},
        },
        supports_check_mode=True,
    )
    settings = module.params
    try:
        paths = plan_paths(settings["sources"], settings["targets"])
        result = probe(paths, settings["method"], settings["rate"], settings["retries"], settings["timeout"])
    except ProbeError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"the kernel refuses to probe: {error}")
    module.exit_json(changed=False, responders=udp_responder.running(), **result)


if __name__ == "__main__":
    main()

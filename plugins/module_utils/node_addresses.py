# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The addresses of this node's interfaces, over rtnetlink (linux/rtnetlink.h, linux/if_addr.h)."""

from __future__ import annotations

import socket
import struct

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import netlink

NETLINK_ROUTE = 0
RTM_GETADDR = 22
IFA_ADDRESS, IFA_LOCAL = 1, 2
ATTEMPTS = 5


def read_addresses():
    """[{interface, address, prefix}] of both families; raises netlink.NetlinkError where the kernel does not tell."""
    for attempt in range(ATTEMPTS):
        try:
            with netlink.NetlinkSocket(NETLINK_ROUTE) as kernel:
                messages = [body for _type, body in kernel.dump(RTM_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0))]
            break
        except netlink.DumpInterrupted:
            if attempt == ATTEMPTS - 1:
                raise
    names = dict(socket.if_nameindex())
    found = []
    for body in messages:
        family, prefix, _flags, _scope, index = struct.unpack_from("=BBBBI", body)
        values = netlink.attribute_map(body, 8)
        packed = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)
        if family in (socket.AF_INET, socket.AF_INET6) and packed:
            found.append({"interface": names.get(index, str(index)), "address": socket.inet_ntop(family, packed), "prefix": prefix})
    return found

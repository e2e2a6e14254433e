# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the kernel says about this host's network: addresses, neighbours and listening sockets, over netlink.

Message layouts: linux/rtnetlink.h, linux/if_addr.h, linux/neighbour.h, linux/sock_diag.h, linux/inet_diag.h.
"""

from __future__ import annotations

import socket
import struct

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.netlink import (
    NETLINK_ROUTE, NETLINK_SOCK_DIAG, DumpInterrupted, NetlinkSocket, attribute_map)

RTM_GETADDR, RTM_GETNEIGH, SOCK_DIAG_BY_FAMILY = 22, 30, 20
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
NDA_DST, NDA_LLADDR = 1, 2
NUD_FAILED, NUD_INCOMPLETE = 0x20, 0x01
INET_DIAG_SKV6ONLY = 11
TCP_LISTEN, TCP_CLOSE = 10, 7
SCOPES = {0: "global", 200: "site", 253: "link", 254: "host"}


def dump(protocol, message_type, payload, attempts=5):
    """The bodies of a consistent dump. Raises NetlinkError, DumpInterrupted where the kernel's tables never held still."""
    for attempt in range(attempts):
        with NetlinkSocket(protocol) as netlink:
            try:
                return [body for _kind, body in netlink.dump(message_type, payload)]
            except DumpInterrupted:
                if attempt + 1 == attempts:
                    raise
    return []


def read_addresses():
    """Every address of this host: `{interface, address, prefix, family, scope, tentative}`, in kernel order."""
    names = dict(socket.if_nameindex())
    found = []
    for message in dump(NETLINK_ROUTE, RTM_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        family, prefix, flags, scope, index = struct.unpack_from("=BBBBI", message)
        values = attribute_map(message, 8)
        packed = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)
        if family not in (socket.AF_INET, socket.AF_INET6) or not packed:
            continue
        if IFA_FLAGS in values:
            flags = struct.unpack("=I", values[IFA_FLAGS])[0]
        found.append({
            "interface": names.get(index, str(index)), "address": socket.inet_ntop(family, packed), "prefix": prefix,
            "family": "ip" if family == socket.AF_INET else "ip6", "scope": SCOPES.get(scope, str(scope)), "tentative": bool(flags & 0x40),
        })
    return found


def read_neighbours():
    """{(interface index, packed address): link-layer address} of the neighbours the kernel has resolved."""
    found = {}
    for message in dump(NETLINK_ROUTE, RTM_GETNEIGH, struct.pack("=BxxxiHBB", 0, 0, 0, 0, 0)):
        _family, index, state = struct.unpack_from("=BxxxiH", message)
        values = attribute_map(message, 12)
        if NDA_LLADDR in values and NDA_DST in values and not state & (NUD_FAILED | NUD_INCOMPLETE):
            found[index, values[NDA_DST]] = values[NDA_LLADDR]
    return found


def read_sockets():
    """Every listening TCP and every bound, unconnected UDP socket.

    Yields `{protocol, address, port, interface, uid, inode, v6only}`; a wildcard is `0.0.0.0` or `::`.
    """
    names = dict(socket.if_nameindex())
    for protocol, states in ((socket.IPPROTO_TCP, 1 << TCP_LISTEN), (socket.IPPROTO_UDP, 1 << TCP_CLOSE)):
        for family in (socket.AF_INET, socket.AF_INET6):
            request = struct.pack("=BBBxI48x", family, protocol, 0, states)
            for message in dump(NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, request):
                own_family = message[0]
                port = struct.unpack_from("!H", message, 4)[0]
                size = 4 if own_family == socket.AF_INET else 16
                address = socket.inet_ntop(own_family, message[8:8 + size])
                index = struct.unpack_from("=I", message, 40)[0]
                uid, inode = struct.unpack_from("=II", message, 64)
                v6only = attribute_map(message, 72).get(INET_DIAG_SKV6ONLY, b"\0")[:1] != b"\0"
                yield {
                    "protocol": "tcp" if protocol == socket.IPPROTO_TCP else "udp", "address": address, "port": port,
                    "interface": names.get(index, str(index)) if index else None, "uid": uid, "inode": inode,
                    "v6only": v6only if own_family == socket.AF_INET6 else None,
                }

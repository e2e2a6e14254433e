# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What handles packets beside the rules of the packet filter: XDP, traffic control, BPF programs at netfilter's hooks, IPVS.

XDP and traffic control's ingress see a packet before the first chain and its egress after the last one; what they do is not
evaluated, so each is an obstacle for firewall_proof.verify(). Layouts and numbers: linux/rtnetlink.h, linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.netlink import (
    NETLINK_ROUTE,
    NetlinkError,
    NetlinkSocket,
    attribute_map,
    string,
)

_GETQDISC, _GETTFILTER, _KIND = 38, 46, 1
_REQUEST = struct.Struct("=BxxxiIII")
_PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_QDISCS = {"ingress": ("ingress",), "clsact": ("ingress", "egress")}
_PARTS = {"ingress": ["input", "forward"], "egress": ["forward", "output"]}

_PROG_QUERY, _OBJ_GET_INFO, _LINK_FD_BY_ID, _LINK_NEXT_ID = 16, 15, 30, 31  # commands of bpf(2)
_TCX = {"ingress": 46, "egress": 47}
_NETFILTER_LINK = 10
_HOOKS = (("prerouting", ["input", "forward"]), ("input", ["input"]), ("forward", ["forward"]), ("output", ["output"]),
          ("postrouting", ["output", "forward"]))
_SYSTEM_CALLS = {"x86_64": 321, "ppc64le": 361, "s390x": 351}
_SYSTEM_CALL = 280  # of the architectures that share one table, aarch64 among them
_ATTRIBUTE_BYTES = 128
_LIBRARY = ctypes.CDLL(None, use_errno=True)
# What kernels say that do not know what is asked for, and of interfaces without programs or gone meanwhile.
_NOTHING_THERE = (errno.EINVAL, errno.ENOENT, errno.ENODEV, errno.ENOSYS, errno.EOPNOTSUPP)

_BEFORE = "what it does with packets is not evaluated: it may rewrite them, or lead them past the packet filter"


def program_obstacles(host):
    """The programs and filters that handle packets of this network namespace, as obstacles for verify().

    host: what read_host() gave, or None: then those at its interfaces cannot be told, and addresses and routes are unknown anyway.
    BPF programs at netfilter's hooks are told of all network namespaces, because the kernel does not tell which is theirs.
    What cannot be listed is an obstacle as well.
    """
    found = []
    interfaces = host["interfaces"] if host else []
    for kind, read in (
        ("programs of traffic control", lambda: _devices(interfaces)), ("BPF programs at netfilter's hooks", _netfilter), ("IPVS", _virtual_servers),
    ):
        try:
            found += read()
        except OSError as error:
            found.append(_obstacle(kind, f"cannot be listed: {error.strerror}", ["input", "forward", "output"]))
    return found


def _obstacle(name, reason, hooks, rewrites=True):
    return {"object": name, "reason": reason, "hooks": hooks, "rewrites": rewrites}


def _devices(interfaces):
    names = {one["index"]: one["name"] for one in interfaces}
    found = [_obstacle(f"XDP program on {one['name']}", _BEFORE, _PARTS["ingress"]) for one in interfaces if one.get("xdp")]
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        for index, way in _filtered(netlink):
            found.append(_obstacle(f"traffic control filter on {names.get(index, index)} ({way})", _BEFORE, _PARTS[way]))
    for index, name in names.items():
        for way, attach_type in _TCX.items():
            if _attached(index, attach_type):
                found.append(_obstacle(f"BPF program of traffic control on {name} ({way})", _BEFORE, _PARTS[way]))
    return found


def _filtered(netlink):
    """``[(interface index, "ingress" or "egress"), ...]`` where traffic control has filters before or after the packet filter."""
    places = []
    for _kind, body in netlink.dump(_GETQDISC, _REQUEST.pack(0, 0, 0, 0, 0)):
        kind = string(attribute_map(body, _REQUEST.size).get(_KIND, b""))
        places += [(struct.unpack_from("=i", body, 4)[0], way) for way in _QDISCS.get(kind, ())]
    found = []
    for index, way in places:
        try:
            if list(netlink.dump(_GETTFILTER, _REQUEST.pack(0, index, 0, _PARENTS[way], 0))):
                found.append((index, way))
        except NetlinkError as error:
            if error.errno not in _NOTHING_THERE:
                raise
    return found


def _netfilter():
    found = []
    for number in _link_numbers():
        info = _link_info(number)
        if info and struct.unpack_from("=I", info)[0] == _NETFILTER_LINK:
            family, hook, priority = struct.unpack_from("=IIi", info, 16)
            name, parts = _HOOKS[hook] if hook < len(_HOOKS) else (str(hook), ["input", "forward", "output"])
            found.append(_obstacle(
                f"BPF program at netfilter's hook {name}, IPv{6 if family == 10 else 4}, priority {priority}",
                "what it decides is not evaluated: it may refuse any packet", parts, rewrites=False,
            ))
    return found


def _virtual_servers(path="/proc/net/ip_vs"):
    try:
        with open(path, encoding="ascii", errors="replace") as table:
            services = [line.split()[:2] for line in table if line.startswith(("TCP", "UDP", "SCTP", "FWM"))]
    except FileNotFoundError:
        return []
    return [_obstacle(f"IPVS: {len(services)} virtual services", _BEFORE, ["input", "forward", "output"])] if services else []


def bpf(command, layout, *values):
    """bpf(2) -> (its result, the attributes as the kernel left them). Raises OSError."""
    buffer = ctypes.create_string_buffer(struct.pack(layout, *values), _ATTRIBUTE_BYTES)
    result = _LIBRARY.syscall(_SYSTEM_CALLS.get(os.uname().machine, _SYSTEM_CALL), command, buffer, _ATTRIBUTE_BYTES)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result, buffer.raw


def _attached(index, attach_type):
    """Whether an interface has programs of this kind."""
    try:
        _result, answer = bpf(_PROG_QUERY, "=IIII", index, attach_type, 0, 0)
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            return False
        raise
    return struct.unpack_from("=I", answer, 24)[0] > 0


def _link_numbers():
    number = 0
    while True:
        try:
            _result, answer = bpf(_LINK_NEXT_ID, "=I", number)
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                return
            raise
        number = struct.unpack_from("=I", answer, 4)[0]
        yield number


def _link_info(number):
    """A link's bpf_link_info, or None where it is gone meanwhile."""
    try:
        descriptor, _answer = bpf(_LINK_FD_BY_ID, "=I", number)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    try:
        info = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
        bpf(_OBJ_GET_INFO, "=IIQ", descriptor, _ATTRIBUTE_BYTES, ctypes.addressof(info))
        return info.raw
    finally:
        os.close(descriptor)

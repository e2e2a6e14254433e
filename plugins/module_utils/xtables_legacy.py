# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Legacy iptables, which filters beside nftables and which `nft` does not show.

Tables exist in a network namespace once iptables-legacy was used there (/proc/net/ip_tables_names). What they hold is asked
for with the socket options that iptables-legacy itself uses (linux/netfilter_ipv4/ip_tables.h); Python's own getsockopt()
cannot send the table's name along, so the C library is called.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

_GET_INFO, _GET_ENTRIES = 64, 65
_FAMILIES = (
    ("ip", socket.AF_INET, 0, "/proc/net/ip_tables_names", 112),
    ("ip6", socket.AF_INET6, 41, "/proc/net/ip6_tables_names", 168),
)
_HOOKS = (("input", "forward"), ("input",), ("forward",), ("output",), ("output", "forward"))
_ACCEPT, _DROP = -2, -1


def legacy_obstacles():
    """What legacy iptables may do to packets here, as obstacles for verify(): one for each table that is not empty."""
    found = []
    for family, address_family, level, names, entry_size in _FAMILIES:
        try:
            with open(names, encoding="ascii") as file:
                tables = file.read().split()
        except FileNotFoundError:
            continue  # the kernel has no legacy iptables, or nobody ever used it
        except OSError as error:
            found.append(_obstacle(family, "?", f"cannot be listed: {os.strerror(error.errno)}", 31, True))
            continue
        for table in tables:
            try:
                found += _judge(family, table, *_read(address_family, level, table), entry_size)
            except OSError as error:
                found.append(_obstacle(family, table, f"cannot be read: {os.strerror(error.errno)}", 31, True))
    return found


def _obstacle(family, table, reason, hooks, rewrites):
    names = sorted({name for number in range(5) if hooks >> number & 1 for name in _HOOKS[number]})
    return {
        "object": f"legacy iptables table {family} {table}", "reason": reason, "hooks": names, "rewrites": rewrites,
    }


def _judge(family, table, hooks, starts, count, entries, entry_size):
    """The obstacle that a table is, or none where it lets everything pass."""
    policies = []
    for number in range(5):
        if hooks >> number & 1:
            # The policy is the last rule of a built-in chain; a table without rules has nothing else.
            at = starts[number]
            policies.append(struct.unpack_from("=i", entries, at + entry_size + 32)[0] if at + entry_size + 36 <= len(entries) else 0)
    rules = count - bin(hooks).count("1") - 1
    if rules <= 0 and all(policy == _ACCEPT for policy in policies):
        return []
    if rules <= 0 and all(policy in (_ACCEPT, _DROP) for policy in policies):
        return [_obstacle(family, table, "no rules, but a policy of drop", hooks, False)]
    return [_obstacle(family, table, f"{rules} rules that are not evaluated", hooks, table != "filter" and table != "security")]


def _read(address_family, level, table):
    """``(hooks, start of each chain, number of entries, the entries)`` of a table. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    with socket.socket(address_family, socket.SOCK_RAW, socket.IPPROTO_RAW) as endpoint:
        def ask(option, size):
            buffer = ctypes.create_string_buffer(size)
            buffer[: len(table)] = table.encode()
            if option == _GET_ENTRIES:
                struct.pack_into("=I", buffer, 32, size - 40)
            length = ctypes.c_uint(size)
            if library.getsockopt(endpoint.fileno(), level, option, buffer, ctypes.byref(length)):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            return buffer.raw

        info = ask(_GET_INFO, 84)
        hooks = struct.unpack_from("=I", info, 32)[0]
        starts = struct.unpack_from("=5I", info, 36)
        count, size = struct.unpack_from("=II", info, 76)
        return hooks, starts, count, ask(_GET_ENTRIES, 40 + size)[40:]

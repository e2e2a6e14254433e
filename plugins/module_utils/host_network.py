# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A host's interfaces, addresses and routes, and what the packet filter's `fib` lookups answer with them.

read_host() is the edge (rtnetlink and /proc/sys). Its answer is plain data that JSON can carry::

    {"interfaces": [{"index": 2, "name": "eth0", "loopback": False, "addresses": ["10.77.1.11/24", "fd00:77:1::11/64"],
                     "carries": ["vlan5"],               # interfaces whose packets come by this one first
                     "xdp": False}],                     # whether an XDP program sees its packets first
     "routes": [{"family": "ip", "table": 254, "destination": "10.77.1.0/24", "type": 1, "interfaces": [2], "metric": 0}],
     "policy_routing": {"ip": False, "ip6": False},
     "forwarding": {"ip": ["eth0"], "ip6": []},           # interfaces whose packets are forwarded
     "route_localnet": [],                                # interfaces that may bring packets to and from 127.0.0.0/8
     "kernel": [6, 6]}

Host is the pure part. The lookups follow net/ipv4/netfilter/nft_fib_ipv4.c and its IPv6 sister.
"""

from __future__ import annotations

import ipaddress
import os
import re
import struct

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.netlink import (
    NETLINK_ROUTE,
    DumpInterrupted,
    NetlinkError,
    NetlinkSocket,
    attribute_map,
    attributes,
    string,
)
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_fields import (
    DADDR,
    IIF,
    PROTOCOL,
    SADDR,
    View,
    complement,
    intersect,
    union,
)

_GETLINK, _GETADDR, _GETROUTE, _GETRULE = 18, 22, 26, 34
_AF_INET, _AF_INET6 = 2, 10
_FAMILIES = {_AF_INET: "ip", _AF_INET6: "ip6"}
_NAME, _LINK, _MASTER, _LINK_INFO, _LINK_ELSEWHERE, _XDP = 3, 5, 10, 18, 37, 43  # attributes of a link
_XDP_ATTACHED = 2
_LOOPBACK_FLAG = 0x8
_ATTEMPTS = 10
_LOCAL_TABLE, _MAIN_TABLE, _DEFAULT_TABLE = _TABLES = 255, 254, 253
UNICAST, LOCAL, BROADCAST, ANYCAST, MULTICAST, BLACKHOLE, UNREACHABLE, PROHIBIT, THROW = 1, 2, 3, 4, 5, 6, 7, 8, 9
_PREROUTING = 0
_CLONED = 0x200


class HostUnreadable(Exception):
    """The interfaces or routes cannot be read."""


def read_host():
    """The interfaces, addresses, routes and forwarding settings of this network namespace. Raises HostUnreadable."""
    try:
        with NetlinkSocket(NETLINK_ROUTE) as netlink:
            for _attempt in range(_ATTEMPTS):
                try:
                    return _read(netlink)
                except DumpInterrupted:
                    continue
    except NetlinkError as error:
        raise HostUnreadable(f"routes and addresses over netlink: {error.strerror}") from error
    raise HostUnreadable(f"addresses or routes changed during each of {_ATTEMPTS} readings")


def _read(netlink):
    interfaces, by_index, above = [], {}, []
    for _kind, body in netlink.dump(_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
        index, flags = struct.unpack_from("=iI", body, 4)
        one = {"index": index, "name": "", "loopback": bool(flags & _LOOPBACK_FLAG), "addresses": [], "carries": []}
        found = dict(attributes(body, 16))
        one["name"] = string(found.get(_NAME, b""))
        one["xdp"] = any(attribute_map(found.get(_XDP, b"")).get(_XDP_ATTACHED, b""))
        above += _stacked(index, found)
        interfaces.append(one)
        by_index[index] = one
    for lower, upper in above:
        if lower in by_index and upper in by_index:
            by_index[lower]["carries"].append(by_index[upper]["name"])
    for _kind, body in netlink.dump(_GETADDR, struct.pack("=BBBBi", 0, 0, 0, 0, 0)):
        length, index = body[1], struct.unpack_from("=i", body, 4)[0]
        found = {kind: value for kind, value in attributes(body, 8) if kind in (1, 2)}
        address = found.get(2, found.get(1))  # the local end where the link has two
        if address is not None and index in by_index:
            by_index[index]["addresses"].append(f"{ipaddress.ip_address(bytes(address))}/{length}")
    routes = [_route(body) for _kind, body in netlink.dump(_GETROUTE, struct.pack("=12x"))]
    policy = {"ip": False, "ip6": False}
    for _kind, body in netlink.dump(_GETRULE, struct.pack("=12x")):
        family = _FAMILIES.get(body[0])
        if family and not _is_default_rule(body):
            policy[family] = True
    return {
        "interfaces": interfaces,
        "routes": [route for route in routes if route],
        "policy_routing": policy,
        "forwarding": {family: _forwarding(family, [one["name"] for one in interfaces]) for family in ("ip", "ip6")},
        "route_localnet": _taking_loopback([one["name"] for one in interfaces if not one["loopback"]]),
        "kernel": [int(number) for number in re.findall(r"\d+", os.uname().release)[:2]],
    }


def _stacked(index, link):
    """``(lower, upper)`` indexes: below an interface's master it is itself, and below a VLAN, a tunnel and the like the device they lie on."""
    pairs = []
    if _MASTER in link:
        pairs.append((index, struct.unpack("=I", link[_MASTER])[0]))
    if _LINK in link and _LINK_ELSEWHERE not in link:
        kinds = [string(value) for number, value in attributes(link.get(_LINK_INFO, b"")) if number == 1]
        if kinds != ["veth"]:  # the other end of a pair is no device below
            pairs.append((struct.unpack("=I", link[_LINK])[0], index))
    return pairs


def _route(body):
    family, length, table, kind = body[0], body[1], body[4], body[7]
    flags = struct.unpack_from("=I", body, 8)[0]
    if family not in _FAMILIES or flags & _CLONED:
        return None
    destination, interfaces, metric = b"", [], 0
    for number, value in attributes(body, 12):
        if number == 1:
            destination = bytes(value)
        elif number == 4:
            interfaces.append(struct.unpack("=i", value)[0])
        elif number == 6:
            metric = struct.unpack("=I", value)[0]
        elif number == 15:
            table = struct.unpack("=I", value)[0]
        elif number == 9:
            at = 0
            while at + 8 <= len(value):
                size = struct.unpack_from("=H", value, at)[0]
                interfaces.append(struct.unpack_from("=i", value, at + 4)[0])
                if size < 8:
                    break
                at += (size + 3) & ~3
    width = 4 if family == _AF_INET else 16
    address = ipaddress.ip_address(destination or bytes(width))
    return {
        "family": _FAMILIES[family], "table": table, "destination": f"{address}/{length}", "type": kind,
        "interfaces": interfaces, "metric": metric,
    }


def _is_default_rule(body):
    """Whether a rule is one of "from all lookup local / main / default"."""
    table, action = body[4], body[7]
    if body[1] or body[2] or action != 1 or table not in _TABLES:
        return False
    # 15 table, 6 priority, 14 suppress prefix length, 19 padding, 21 protocol: nothing that selects packets
    return all(kind in (6, 14, 15, 19, 21) for kind, _value in attributes(body, 12))


def _forwarding(family, names):
    """The interfaces whose packets are forwarded. IPv6 has one switch for all, and since Linux 6.17 one for each that overrules it."""
    if family == "ip":
        return [name for name in names if _is_on("ipv4", name, "forwarding")]
    everywhere = _is_on("ipv6", "all", "forwarding")
    return [name for name in names if everywhere or _is_on("ipv6", name, "force_forwarding")]


def _taking_loopback(names):
    everywhere = _is_on("ipv4", "all", "route_localnet")
    return [name for name in names if everywhere or _is_on("ipv4", name, "route_localnet")]


def _is_on(protocol, interface, setting):
    """A setting of an interface; off where the kernel does not have it, on where nothing can be read."""
    try:
        file = os.open(f"/proc/sys/net/{protocol}/conf/{interface}/{setting}", os.O_RDONLY)
        try:
            return bool(int(os.read(file, 16)))
        finally:
            os.close(file)
    except (OSError, ValueError):
        return not os.path.isdir("/proc/sys/net")


class Host:
    """Answers questions about the addresses and routes of a read_host() picture."""

    def __init__(self, data):
        self.data = data
        self._indexes = {one["name"]: one["index"] for one in data["interfaces"]}
        self._loopback = {one["index"] for one in data["interfaces"] if one["loopback"]}
        self._lookups, self._addresses = {}, {}

    def is_loopback(self, index):
        """Whether the interface with this index is a loopback."""
        return index in self._loopback

    def addresses(self, family, index=None):
        """The host's own addresses of a family as integers, of one interface or (without loopback's) of all."""
        known = self._addresses.get((family, index))
        if known is None:
            interfaces = [one for one in self.data["interfaces"] if one["index"] == index or (index is None and not one["loopback"])]
            found = [ipaddress.ip_interface(text).ip for one in interfaces for text in one["addresses"]]
            known = tuple(int(address) for address in found if address.version == (4 if family == "ip" else 6))
            self._addresses[family, index] = known
        return list(known)

    def first_address(self, family, interface):
        """The address that `redirect` writes for packets from a Space's interface, or None where it has none."""
        found = self.addresses(family, interface["index"]) if interface["present"] else []
        if family == "ip6":
            found = [one for one in found if one >> 118 != 0x3FA] or found
        return found[0] if found else None

    def forwards(self, family, name):
        """Whether packets that come in by this interface are forwarded at all."""
        return name in self.data["forwarding"][family]

    def local_intervals(self, family):
        """The destinations that are delivered to this host, as intervals; multicast and broadcast count as such."""
        bits = 32 if family == "ip" else 128
        intervals = [(0xE0000000, 0xEFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF)] if family == "ip" else [(0xFF << 120, (1 << 128) - 1)]
        for low, high, kind, _interfaces in self._table(family, _TABLES, None):
            if kind in (LOCAL, BROADCAST, ANYCAST):
                intervals.append((low, high))
        for address in self.addresses(family):
            intervals.append((address, address))
        return [(low, min(high, (1 << bits) - 1)) for low, high in union(intervals)]

    def perhaps_local_intervals(self, family):
        """The destinations that rules about routes may lead to this host, as intervals (transparent proxies do so)."""
        if not self.data["policy_routing"][family]:
            return []
        routes = (one for one in self.data["routes"] if one["family"] == family and one["table"] not in _TABLES and one["type"] == LOCAL)
        networks = [ipaddress.ip_network(one["destination"], strict=False) for one in routes]
        found = union((int(network.network_address), int(network.broadcast_address)) for network in networks)
        certain = self.local_intervals(family)
        return intersect(found, complement(certain, (1 << (32 if family == "ip" else 128)) - 1))

    def before(self, *version):
        """Whether the kernel is older than a version, as far as that is known."""
        return tuple(self.data.get("kernel") or version) < version

    def takes_loopback_from(self, name):
        """Whether packets to and from 127.0.0.0/8 may come in by this interface."""
        return name in self.data.get("route_localnet", ())

    def sources_by(self, family, index):
        """The sources whose answers leave by this interface, as intervals; None where rules decide about routes."""
        if self.data["policy_routing"][family]:
            return None
        lookup = self._routes_from(family, index)
        return union((low, high) for low, high, kind, interfaces in lookup if index in interfaces and kind == UNICAST)

    # -- routes --------------------------------------------------------------------------------------------------------

    def _table(self, family, tables, only):
        """Longest-prefix lookup as ``[(low, high, type, {interfaces}), ...]`` over all addresses a route covers.

        ``tables`` are asked one after the other; ``only`` keeps the routes over one interface.
        """
        key = (family, tables, only)
        if key not in self._lookups:
            result = []
            for table in reversed(tables):
                for low, high, kind, interfaces in self._one_table(family, table, only):
                    if kind != THROW:
                        result = _overlay(result, (low, high, kind, interfaces))
            self._lookups[key] = result
        return self._lookups[key]

    def routes_to(self, family):
        """Where packets go that this host sends on: ``[(low, high, interface index or None), ...]``.

        None stands for several interfaces. The answer is None where rules decide about routes.
        """
        if self.data["policy_routing"][family]:
            return None
        lookup = self._table(family, _TABLES, None)
        return [
            (low, high, next(iter(interfaces)) if len(interfaces) == 1 else None)
            for low, high, kind, interfaces in lookup if kind == UNICAST
        ]

    def _routes_from(self, family, index):
        """Longest-prefix lookup over all tables, as asked for a packet that came in by an interface.

        IPv6 looks for link-local addresses among the routes over that interface only.
        """
        tables = _TABLES
        lookup = self._table(family, tables, None)
        if family == "ip6":
            first, last = 0xFE80 << 112, (0xFEC0 << 112) - 1
            lookup = _cut(lookup, 0, first - 1) + _cut(self._table(family, tables, index), first, last)
            lookup += _cut(self._table(family, tables, None), last + 1, (1 << 128) - 1)
        return lookup

    def _one_table(self, family, table, only):
        best = {}
        for route in self.data["routes"]:
            if route["family"] != family or route["table"] != table:
                continue
            if only is not None and route["interfaces"] and only not in route["interfaces"]:
                continue
            network = ipaddress.ip_network(route["destination"], strict=False)
            key = (network.prefixlen, int(network.network_address), int(network.broadcast_address))
            if key not in best or route["metric"] < best[key]["metric"]:
                best[key] = route
        result = []
        for (_length, low, high), route in sorted(best.items(), key=lambda item: item[0]):
            result = _overlay(result, (low, high, route["type"], frozenset(route["interfaces"])))
        return result

    # -- fib expressions -----------------------------------------------------------------------------------------------

    def fib(self, space, expression, hook):
        """The cells of a `fib` expression's answer, or None where it is beyond what this picture tells."""
        family, flags, result = space.family, expression["flags"], expression["result"]
        if flags & 4 and self.data["policy_routing"][family]:
            return None  # marks choose routes only where rules say so
        if flags & 16 or any(one["index"] == 0 for one in space.interfaces[1:]):
            return None
        rank = DADDR if flags & 2 else SADDR
        by_interface = bool(flags & 8)
        if result == 3:
            if family == "ip":
                return self._type4(space, rank, by_interface)
            return self._type6(space, rank, by_interface)
        if result == 1 and by_interface and not self.data["policy_routing"][family]:
            return self._reverse(space, rank, hook, bool(flags & 32))
        return None

    def _by_interface(self, space, pieces_of, alternatives):
        """Cells by interface and address: ``pieces_of(interface)`` gives ``(rank, [(low, high, alternative)], default)``."""
        diagrams = space.diagrams
        picks = [diagrams.terminal(("pick", i)) for i in range(len(alternatives))]
        parts = []
        for interface in space.interfaces:
            rank, pieces, default = pieces_of(interface)
            bounds, children, at = [], [], 0
            for low, high, chosen in pieces:
                if low > at:
                    bounds.append(low - 1)
                    children.append(picks[default])
                bounds.append(high)
                children.append(picks[chosen])
                at = high + 1
            maximum = diagrams.fields[rank].maximum
            if at <= maximum:
                bounds.append(maximum)
                children.append(picks[default])
            parts.append(diagrams.node(rank, bounds, children))
        return space.case_of(diagrams.node(IIF, list(range(len(parts))), parts), alternatives)

    @staticmethod
    def _number(value):
        return list(struct.pack("=I", value))

    def _type4(self, space, rank, by_interface):
        kinds = [UNICAST, LOCAL, BROADCAST, MULTICAST, ANYCAST, BLACKHOLE, UNREACHABLE, PROHIBIT]
        table = self._table("ip", (_LOCAL_TABLE,), None)

        def pieces_of(interface):
            pieces = []
            for low, high, kind, interfaces in table:
                if kind in kinds and (not by_interface or interface["index"] in interfaces or interface["index"] == 0):
                    pieces = _overlay(pieces, (low, high, kinds.index(kind), None))
            for low, high, kind in (
                (0, 0xFFFFFF, BROADCAST), (0xE0000000, 0xEFFFFFFF, MULTICAST), (0xFFFFFFFF, 0xFFFFFFFF, BROADCAST),
            ):
                pieces = _overlay(pieces, (low, high, kinds.index(kind), None))
            return rank, [(low, high, kind) for low, high, kind, _none in pieces], 0

        return self._by_interface(space, pieces_of, [self._number(kind) for kind in kinds])

    def _type6(self, space, rank, by_interface):
        """Own addresses and multicast are certain; what a foreign address is, the whole routing table decides."""
        everywhere = {1, *self.addresses("ip6"), *(address for index in self._loopback for address in self.addresses("ip6", index))}
        routes = [(low, high) for low, high, kind, _interfaces in self._table("ip6", _TABLES, None) if kind == LOCAL]
        more = self.perhaps_local_intervals("ip6") or any(low != high or low not in everywhere for low, high in routes)
        kinds = (1, 4, 7, 8, 6, 0) + ((LOCAL,) if more else ())
        rank_free = space.small_free_field("fib type of a foreign address", len(kinds) - 1)
        view = View(rank_free, 4, "table", [bytes(self._number(kind)) for kind in kinds])
        foreign = [(view, k, 0xFF, 0) for k in range(4)]

        def pieces_of(interface):
            own = self.addresses("ip6", interface["index"]) if by_interface and interface["index"] else sorted(everywhere)
            pieces = _overlay([], (0xFF << 120, (1 << 128) - 1, 2, None))
            for address in own:
                pieces = _overlay(pieces, (address, address, 1, None))
            return rank, [(low, high, kind) for low, high, kind, _none in pieces], 0

        return self._by_interface(space, pieces_of, [foreign, self._number(LOCAL), self._number(MULTICAST)])

    def _reverse(self, space, rank, hook, present_only):
        """Whether the route to the address leaves by the interface that the packet came in by."""
        family = space.family
        everything = (1 << space.bits) - 1
        found = [1] if present_only else space.cells(space.views["iif"])

        def pieces_of(interface):
            index = interface["index"]
            if hook == _PREROUTING and index in self._loopback:
                return rank, [(0, everything, 1)], 1
            pieces = []
            lookup = self._routes_from(family, index)
            for low, high, kind, interfaces in sorted(lookup, key=lambda one: one[0]):
                good = index in interfaces and kind in (UNICAST, BROADCAST, MULTICAST)
                if family == "ip6":
                    good = index in interfaces and kind in (UNICAST, MULTICAST)
                if good:
                    pieces.append((low, high, 1))
            return rank, pieces, 0

        cells = self._by_interface(space, pieces_of, [[0] * len(found), found])
        if family == "ip6" and hook == _PREROUTING and rank == SADDR:
            return self._unless(space, cells, self._unspecified_source(space), found)
        if family == "ip" and rank == SADDR:
            return self._unless(space, cells, self._zero_source(space), found)
        return cells

    @staticmethod
    def _unless(space, cells, exception, found):
        """The cells, but ``found`` where the diagram ``exception`` picks 1."""
        case = cells[0][0]
        last = len(case.cells)
        selector = space.diagrams.combine(
            exception, case.selector, ("exception", last), lambda a, b: ("pick", last) if a == ("pick", 1) else b
        )
        return space.case_of(selector, [*case.cells, found])

    @staticmethod
    def _zero_source(space):
        """0.0.0.0/8 to the broadcast address or local multicast: a host that asks for its address."""
        diagrams = space.diagrams
        no, yes = diagrams.terminal(("pick", 0)), diagrams.terminal(("pick", 1))
        box = {SADDR: [(0, 0xFFFFFF)], DADDR: [(0xE0000000, 0xE00000FF), (0xFFFFFFFF, 0xFFFFFFFF)]}
        return diagrams.box(box, yes, no)

    @staticmethod
    def _unspecified_source(space):
        """Neighbour discovery from the unspecified address to a link-local one (multicast of that scope included)."""
        diagrams = space.diagrams
        no, yes = diagrams.terminal(("pick", 0)), diagrams.terminal(("pick", 1))
        scoped = [(0xFE80 << 112, (0xFEC0 << 112) - 1)]
        scoped += [(0xFF02 + (flags << 4) << 112, (0xFF03 + (flags << 4) << 112) - 1) for flags in range(16)]
        return diagrams.box({PROTOCOL: [(58, 58)], SADDR: [(0, 0)], DADDR: scoped}, yes, no)


def _cut(pieces, low, high):
    """The parts of pieces that lie within an interval."""
    return [
        (max(one[0], low), min(one[1], high)) + one[2:] for one in pieces if one[0] <= high and one[1] >= low
    ]


def _overlay(pieces, piece):
    """Disjoint pieces sorted by their low end, with one more laid over them."""
    low, high = piece[0], piece[1]
    result = []
    for one in pieces:
        if one[1] < low or one[0] > high:
            result.append(one)
            continue
        if one[0] < low:
            result.append((one[0], low - 1) + one[2:])
        if one[1] > high:
            result.append((high + 1, one[1]) + one[2:])
    result.append(piece)
    result.sort(key=lambda one: one[0])
    return result

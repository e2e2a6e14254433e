# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The kernel as a witness: a host in a network namespace of its own, with three wires to the outside, and real packets.

The process lives in the outside's namespace and holds sockets in both. Packets go in as frames on the wires, or as raw IP
packets sent by the host itself; each carries its number as payload. It was *accepted* where a raw socket of the host received it, or
where it came out of a wire; *rejected* where an answer to it came back; else it was dropped.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import ipaddress
import os
import socket
import struct
import subprocess
import time

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.netlink import (
    NETLINK_NETFILTER,
    NetlinkSocket,
    pack_attribute,
)

INTERFACES = ("eth0", "eth1", "docker0")
NETWORKS = {"ip": "10.79.{}.0/24", "ip6": "fd00:79:{}::/64"}
_CLONE_NEWNET = 0x40000000
_ETHERTYPES = {"ip": 0x0800, "ip6": 0x86DD}
_MAGIC = b"fuZz"
_RAW_PROTOCOLS = (1, 6, 17, 58, 99)
_KEEPER = "table inet keeper {\n\tchain keeper {\n\t\tct state new\n\t}\n}\n"
_TRACKER = (
    "table inet keeper {\n\tchain in {\n\t\ttype filter hook prerouting priority -150; policy accept;\n\t\tct mark set 1\n\t}\n"
    "\tchain out {\n\t\ttype filter hook output priority -150; policy accept;\n\t\tct mark set 1\n\t}\n}\n"
)
_SETTINGS = {
    "net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1, "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0, "net/ipv4/icmp_ratemask": 0, "net/ipv4/icmp_ratelimit": 0, "net/ipv6/icmp/ratelimit": 0,
    "net/ipv4/icmp_echo_ignore_all": 1, "net/ipv6/icmp/echo_ignore_all": 1, "net/ipv4/conf/all/send_redirects": 0,
    "net/ipv4/conf/default/send_redirects": 0, "net/ipv6/conf/all/accept_dad": 0, "net/ipv6/conf/default/accept_dad": 0,
    "net/ipv6/conf/default/addr_gen_mode": 1, "net/ipv4/conf/all/accept_local": 1, "net/ipv4/icmp_msgs_per_sec": 1000000,
    "net/ipv4/icmp_msgs_burst": 1000000, "net/ipv6/icmp/ratemask": "\n",
}
_TRACKING = {
    "nf_conntrack_tcp_be_liberal": 1, "nf_conntrack_tcp_loose": 0, "nf_conntrack_udp_timeout": 86400,
    "nf_conntrack_udp_timeout_stream": 86400,
}
_libc = ctypes.CDLL(None, use_errno=True)


def _namespace(call, *arguments):
    if getattr(_libc, call)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


class Laboratory:
    """A host and its surroundings; a context manager. Needs root."""

    def __init__(self):
        _namespace("unshare", _CLONE_NEWNET)
        self.outside = os.open("/proc/self/ns/net", os.O_RDONLY)
        _namespace("unshare", _CLONE_NEWNET)
        self.inside = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._wire_up()
        self.run = 0
        self.sent = 0
        self.refused_at_once = set()

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self._enter(self.outside)

    def _enter(self, namespace):
        _namespace("setns", namespace, 0)

    def _wire_up(self):
        for name, value in _SETTINGS.items():
            _write(name, value)
        for at, name in enumerate(INTERFACES):
            there = f"/proc/{os.getpid()}/fd/{self.outside}"
            _ip("link", "add", name, "address", f"02:00:00:00:01:0{at}", "type", "veth", "peer", "name", f"w{at}", "netns", there)
            _write(f"net/ipv6/conf/{name}/addr_gen_mode", 1)
            _write(f"net/ipv4/conf/{name}/rp_filter", 0)
            _ip("link", "set", name, "arp", "off", "up")
            _ip("address", "add", f"10.79.{at}.1/24", "dev", name)
            _ip("address", "add", f"fd00:79:{at}::1/64" if at else "fd00:79::1/64", "dev", name, "nodad")
        _ip("link", "set", "lo", "up")
        for family in ("-4", "-6"):
            _ip(family, "route", "add", "default", "dev", "eth0")  # for the answers to strangers
        self.load("")
        for name, value in _TRACKING.items():
            _write("net/netfilter/" + name, value)
        self.raw = {}
        for protocol in _RAW_PROTOCOLS:
            for family, number in (("ip", socket.AF_INET), ("ip6", socket.AF_INET6)):
                self.raw[family, protocol] = one = socket.socket(number, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
                one.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        self.sender = {
            "ip": socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
            "ip6": socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW),
        }
        self.sender["ip6"].setsockopt(socket.IPPROTO_IPV6, 36, 1)  # IPV6_HDRINCL
        self.listeners = []
        self.macs = {name: bytes((2, 0, 0, 0, 1, at)) for at, name in enumerate(INTERFACES)}
        self._enter(self.outside)
        _write("net/ipv6/conf/all/disable_ipv6", 1)
        self.wires = {}
        for at, name in enumerate(INTERFACES):
            _ip("link", "set", f"w{at}", "arp", "off", "up")
            self.wires[name] = wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(3))
            wire.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
            wire.bind((f"w{at}", 3))
        self._enter(self.inside)
        self.connections = {}

    # -- rulesets ------------------------------------------------------------------------------------------------------

    def load(self, text, keeper=_KEEPER):
        """Load a ruleset in place of the one before; False where nft or the kernel refuses it."""
        self._enter(self.inside)
        done = subprocess.run(
            ["nft", "-f", "-"], input="flush ruleset\n" + keeper + text, text=True, capture_output=True, check=False
        )
        self.error = done.stderr
        return done.returncode == 0

    # -- connections ---------------------------------------------------------------------------------------------------

    def establish(self):
        """Open connections by real handshakes: TCP and UDP, into the host, out of it, and through it, for both protocols.

        ``connections`` then lists packets of both directions of each that are part of an established connection.
        """
        self.load("", _TRACKER)
        self.forget(everything=True)
        for one in self.listeners:
            one.close()
        self.listeners, self.connections = [], []
        self.port = getattr(self, "port", 5000) + 4
        if self.port > 9000:
            self.port = 5004
        for family in ("ip", "ip6"):
            number = socket.AF_INET if family == "ip" else socket.AF_INET6
            host, peer = ("10.79.0.1", "10.79.0.50") if family == "ip" else ("fd00:79::1", "fd00:79::50")
            beyond = "10.79.1.60" if family == "ip" else "fd00:79:1::60"
            # Into the host, to a listening socket.
            listener = socket.socket(number, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, self.port))
            listener.listen()
            self.listeners.append(listener)
            inward = self.tcp(family, peer, self.port + 1, host, self.port)
            self.inject("eth0", dict(inward, flags=2, seq=1000, ack=0), b"")
            answer = self.expect("eth0", 6, (self.port, self.port + 1))
            self.inject("eth0", dict(inward, flags=16, seq=1001, ack=(answer["seq"] + 1) & 0xFFFFFFFF), b"")
            self._both(inward, "input", "output", 900, answer["seq"])
            # Out of the host, from a connecting socket.
            client = socket.socket(number, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind((host, self.port + 2))
            self.listeners.append(client)
            if client.connect_ex((peer, 7002)) != errno.EINPROGRESS:
                raise OSError("the host cannot connect")
            opening = self.expect("eth0", 6, (self.port + 2, 7002))
            back = self.tcp(family, peer, 7002, host, self.port + 2)
            self.inject("eth0", dict(back, flags=18, seq=5000, ack=(opening["seq"] + 1) & 0xFFFFFFFF), b"")
            self.expect("eth0", 6, (self.port + 2, 7002))
            self._both(back, "input", "output", 4900, opening["seq"], outward=True)
            # Through the host, both ends outside.
            through = dict(self.tcp(family, peer, self.port + 3, beyond, 7003), oif="eth1", path="forward")
            self.inject("eth0", dict(through, flags=2, seq=1, ack=0), b"")
            self.expect("eth1", 6, (self.port + 3, 7003))
            other = dict(self.tcp(family, beyond, 7003, peer, self.port + 3), iif="eth1", oif="eth0", path="forward")
            self.inject("eth1", dict(other, flags=18, seq=1, ack=2), b"")
            self.expect("eth0", 6, (7003, self.port + 3))
            self.inject("eth0", dict(through, flags=16, seq=2, ack=2), b"")
            self.expect("eth1", 6, (self.port + 3, 7003))
            for one in (through, other):
                way = "original" if one is through else "reply"
                self.connections.append(dict(one, flags=16, seq=2, ack=2, state="established", direction=way))
            # UDP: a question and an answer, both ways.
            endpoint = socket.socket(number, socket.SOCK_DGRAM)
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            endpoint.bind((host, self.port))
            self.listeners.append(endpoint)
            question = self.tcp(family, peer, self.port + 1, host, self.port, protocol=17)
            self.inject("eth0", question, b"?")
            endpoint.recv(100)
            endpoint.sendto(b"!", (peer, self.port + 1))
            self.expect("eth0", 17, (self.port, self.port + 1))
            self._both(question, "input", "output")
            endpoint.sendto(b"?", (peer, 7004))
            self.expect("eth0", 17, (self.port, 7004))
            reply = self.tcp(family, peer, 7004, host, self.port, protocol=17)
            self.inject("eth0", reply, b"!")
            endpoint.recv(100)
            self._both(reply, "input", "output", outward=True)

    def tcp(self, family, source, sport, destination, dport, protocol=6):
        """A packet to eth0 in the form that ``build`` takes."""
        return {
            "family": family, "protocol": protocol, "source": source, "destination": destination, "sport": sport, "dport": dport,
            "flags": 16, "seq": 0, "ack": 0, "iif": "eth0", "oif": None, "path": "input", "ttl": 64, "dscp": 0, "type": 0, "code": 0,
        }

    def _both(self, packet, path_there, path_back, seq=0, ack=0, outward=False):
        ways = ("reply", "original") if outward else ("original", "reply")
        there = dict(packet, path=path_there, seq=seq, ack=ack, state="established", direction=ways[0])
        back = dict(
            packet, path=path_back, source=packet["destination"], destination=packet["source"], sport=packet["dport"],
            dport=packet["sport"], iif=None, oif="eth0", seq=ack, ack=seq, state="established", direction=ways[1],
        )
        self.connections += [there, back]

    def expect(self, name, protocol, ports, timeout=60.0):
        """The next matching packet that comes out of a wire."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for packet in self.from_wire(name):
                if packet["protocol"] == protocol and (packet["sport"], packet["dport"]) == ports:
                    return packet
            time.sleep(0.0005)
        raise TimeoutError(f"no packet of protocol {protocol} with ports {ports} on {name}")

    def forget(self, everything=False):
        """Forget all tracked connections but the established ones, which carry a mark."""
        body = struct.pack(">BBH", 0, 0, 0)
        if not everything:
            body += pack_attribute(8, struct.pack(">I", 0)) + pack_attribute(21, struct.pack(">I", 0xFFFFFFFF))
        self._enter(self.inside)
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            netlink.request(1 << 8 | 2, body)

    # -- packets -------------------------------------------------------------------------------------------------------

    def inject(self, wire, packet, payload):
        """A packet onto a wire."""
        frame = self.macs[wire] + b"\x02\0\0\0\0\x09" + struct.pack(">H", _ETHERTYPES[packet["family"]]) + build(packet, payload)
        self.wires[wire].send(frame)

    def try_packets(self, packets, patience=0.004):
        """What becomes of packets: ``[("accept", where) or ("reject", kind) or ("drop",), ...]``."""
        self.run += 1
        self.trying = packets
        self._drain()
        self.forget()
        self._enter(self.inside)
        for number, packet in enumerate(packets):
            payload = _MAGIC + struct.pack(">II", self.run, number)
            if packet["path"] == "output":
                try:
                    self.sender[packet["family"]].sendto(build(packet, payload), (packet["destination"], 0))
                except OSError as error:
                    if error.errno not in (errno.EPERM, errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES):
                        raise
            else:
                self.inject(packet["iif"], packet, payload)
            if number % 32 == 31:
                self._enter(self.inside)
        self.sent += len(packets)
        fates = [("drop",)] * len(packets)
        by_tuple = {}
        for number, packet in enumerate(packets):
            if packet["protocol"] == 6:
                by_tuple[packet["destination"], packet["dport"], packet["source"], packet["sport"]] = number
        quiet_until = time.monotonic() + patience
        while True:
            # Looked at before the answers are: what came while this process did not run counts.
            now = time.monotonic()
            if self._collect(fates, by_tuple):
                quiet_until = now + patience
            elif now >= quiet_until:
                return fates
            else:
                time.sleep(0.001)

    def _collect(self, fates, by_tuple):
        progress = False
        for (family, protocol), endpoint in self.raw.items():
            while True:
                try:
                    data = endpoint.recv(2048)
                except BlockingIOError:
                    break
                number = self._number(data)
                # An answer to one of the packets may quote it: only the packet itself counts.
                if number is not None and not _quotes(data, family, protocol):
                    fates[number] = ("accept", "input")
                    progress = True
        for name in INTERFACES:
            for packet in self.from_wire(name):
                number = self._number(packet["payload"])
                if packet["protocol"] in (1, 58) and packet["error"]:
                    if number is not None and fates[number][0] != "accept":
                        fates[number] = ("reject", packet["protocol"], packet["type"], packet["code"])
                        progress = True
                elif number is not None:
                    fates[number] = ("accept", "output" if self.trying[number]["path"] == "output" else "forward")
                    progress = True
                elif packet["protocol"] == 6 and packet["flags"] & 4:
                    key = (packet["source"], packet["sport"], packet["destination"], packet["dport"])
                    at = by_tuple.get(key)
                    if at is not None and fates[at][0] == "drop":
                        fates[at] = ("reject", "tcp reset")
                        progress = True
        return progress

    def _number(self, data):
        at = data.rfind(_MAGIC)
        if at < 0 or len(data) < at + 12:
            return None
        run, number = struct.unpack_from(">II", data, at + 4)
        return number if run == self.run else None

    def _drain(self):
        for endpoint in [*self.raw.values(), *self.wires.values()]:
            while True:
                try:
                    endpoint.recv(2048)
                except BlockingIOError:
                    break

    def from_wire(self, name):
        """The packets that the host sent out of a wire since last time."""
        wire, result = self.wires[name], []
        while True:
            try:
                data, address = wire.recvfrom(2048)
            except BlockingIOError:
                return result
            if address[2] == 4:  # PACKET_OUTGOING: our own
                continue
            packet = parse(data)
            if packet:
                result.append(packet)


def _quotes(data, family, protocol):
    """Whether a received ICMP packet is an error message."""
    if protocol not in (1, 58):
        return False
    kind = data[(data[0] & 15) * 4] if family == "ip" else data[0]
    at = data.rfind(_MAGIC)
    start = (data[0] & 15) * 4 if family == "ip" else 0
    return (kind in (3, 11, 5) if family == "ip" else kind < 5) and at - start > 8


@functools.lru_cache(1 << 16)
def _written(address):
    return str(ipaddress.ip_address(address))


@functools.lru_cache(1 << 16)
def _packed(address):
    return ipaddress.ip_address(address).packed


def build(packet, payload):
    """The bytes of a packet from its IP header on."""
    family, protocol = packet["family"], packet["protocol"]
    source = _packed(packet["source"])
    destination = _packed(packet["destination"])
    if protocol == 6:
        body = struct.pack(">HHIIBBHHH", packet["sport"], packet["dport"], packet.get("seq", 1), packet.get("ack", 0),
                           0x50, packet["flags"], 8192, 0, 0) + payload
        at = 16
    elif protocol == 17:
        body = struct.pack(">HHHH", packet["sport"], packet["dport"], 8 + len(payload), 0) + payload
        at = 6
    elif protocol in (1, 58):
        body = struct.pack(">BBHI", packet["type"], packet["code"], 0, packet["sport"] << 16 | 1) + payload
        at = 2
    else:
        # The kernel answers a packet of an unknown protocol only where all of it sums up as a checksum does.
        body, at = struct.pack(">I", 0) + payload, 0
    pseudo = b"" if protocol == 1 or (family == "ip" and protocol == 99) else source + destination + (
        struct.pack(">BBH", 0, protocol, len(body)) if family == "ip" else struct.pack(">II", len(body), protocol)
    )
    checksum = _checksum(pseudo + body)
    if protocol == 17 and checksum == 0:
        checksum = 0xFFFF
    body = body[:at] + struct.pack(">H", checksum) + body[at + 2 :]
    if family == "ip6":
        first = 6 << 28 | packet["dscp"] << 22
        return struct.pack(">IHBB", first, len(body), protocol, packet["ttl"]) + source + destination + body
    header = struct.pack(">BBHHHBBH", 0x45, packet["dscp"] << 2, 20 + len(body), 0x4242, 0x4000, packet["ttl"], protocol, 0) + source + destination
    return header[:10] + struct.pack(">H", _checksum(header)) + header[12:] + body


def _checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse(frame):
    """What matters of a frame, or None where it is no IP."""
    kind = struct.unpack_from(">H", frame, 12)[0]
    if kind == 0x0800:
        family, start, protocol = "ip", 14 + (frame[14] & 15) * 4, frame[23]
        source, destination, ttl = frame[26:30], frame[30:34], frame[22]
    elif kind == 0x86DD:
        family, start, protocol = "ip6", 54, frame[20]
        source, destination, ttl = frame[22:38], frame[38:54], frame[21]
    else:
        return None
    body = frame[start:]
    packet = {
        "family": family, "protocol": protocol, "source": _written(bytes(source)),
        "destination": _written(bytes(destination)), "payload": body, "ttl": ttl, "sport": 0, "dport": 0, "flags": 0,
        "seq": 0, "type": 0, "code": 0, "error": False,
    }
    if protocol in (6, 17) and len(body) >= 8:
        packet["sport"], packet["dport"] = struct.unpack_from(">HH", body)
    if protocol == 6 and len(body) >= 20:
        packet["seq"], packet["flags"] = struct.unpack_from(">I", body, 4)[0], body[13]
    if protocol in (1, 58) and len(body) >= 8:
        packet["type"], packet["code"] = body[0], body[1]
        inner = body.rfind(_MAGIC)
        packet["error"] = (body[0] in (3, 11) if family == "ip" else body[0] < 5) and inner != 8
    return packet


def _ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _write(name, value):
    path = "/proc/sys/" + name
    if os.path.exists(path):
        with open(path, "w", encoding="ascii") as file:
            file.write(str(value))

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""TCP SYN and UDP probes as bytes: built, and their answers read. Pure: no socket, no clock.

Layouts: RFC 9293 (TCP), RFC 768 (UDP), RFC 791 (IPv4), RFC 8200 (IPv6), RFC 792 and RFC 4443 (unreachable messages).
"""

from __future__ import annotations

import hashlib
import socket
import struct

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.udp_responder import reply_of, request_of

OPEN, CLOSED, REFUSED = "open", "closed", "refused"
SYN, RST, SYN_ACK = 0x02, 0x04, 0x12
IPPROTO_ICMPV6 = 58
TCP_HEADER = struct.Struct("!HHIIBBHHH")
MSS_OPTION = struct.pack("!BBH", 2, 4, 1220)


def checksum_sum(data):
    """The folded one's complement sum of 16-bit words (RFC 1071), not yet inverted."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def ip_packet(source, destination, protocol, payload):
    """`payload` with its IP header, for frames that go round the kernel's routing."""
    if len(source) == 16:
        return struct.pack("!IHBB", 0x60000000, len(payload), protocol, 64) + source + destination + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, protocol, 0)
    total = checksum_sum(header + source + destination)
    return header[:10] + struct.pack("!H", ~total & 0xFFFF) + source + destination + payload


class UdpPath:
    """The UDP probes from one source address to one destination address, for a responder that knows `nonce` (udp_responder)."""

    protocol = socket.IPPROTO_UDP

    def __init__(self, source, destination, source_port, nonce):
        self.source, self.destination, self.source_port, self.nonce = source, destination, source_port, nonce

    def probe(self, port):
        """The datagram that probes `port`, checksummed."""
        data = request_of(self.nonce, port)
        length = 8 + len(data)
        header = struct.pack("!HHHH", self.source_port, port, length, 0)
        total = ~checksum_sum(self.source + self.destination + struct.pack("!HH", self.protocol, length) + header + data) & 0xFFFF
        # A sum of zero would say that there is none.
        return header[:6] + struct.pack("!H", total or 0xFFFF) + data

    def answered(self, port, data):
        """Whether `data` is the responder's reply."""
        return data[:16] == reply_of(self.nonce, port)


class Path:
    """The TCP probes from one source address to one destination address, both packed (4 or 16 bytes).

    A probe's sequence number is keyed by a secret, so that an answer is only believed when it acknowledges one.
    """

    protocol = socket.IPPROTO_TCP

    def __init__(self, source, destination, source_port, secret):
        self.source, self.destination, self.source_port = source, destination, source_port
        self._base = struct.unpack("!I", hashlib.sha256(secret + source + destination).digest()[:4])[0]
        pseudo = source + destination + struct.pack("!HBBHH", 0, 0, socket.IPPROTO_TCP, 0, 24)
        fixed = struct.pack("!HBBH", source_port, (24 // 4) << 4, SYN, 64240) + MSS_OPTION
        self._sum = checksum_sum(pseudo) + checksum_sum(fixed)

    def sequence(self, port):
        """The initial sequence number of the probe of `port`."""
        return (self._base + port * 0x9E3779B1) & 0xFFFFFFFF

    def probe(self, port):
        """The TCP segment that probes `port`, checksummed."""
        sequence = self.sequence(port)
        total = self._sum + port + (sequence >> 16) + (sequence & 0xFFFF)
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        return TCP_HEADER.pack(self.source_port, port, sequence, 0, 0x60, SYN, 64240, ~total & 0xFFFF, 0) + MSS_OPTION

    def reset(self, port):
        """The segment that takes a half-open connection to `port` down again."""
        header = TCP_HEADER.pack(self.source_port, port, (self.sequence(port) + 1) & 0xFFFFFFFF, 0, 0x50, RST, 0, 0, 0)
        pseudo = self.source + self.destination + struct.pack("!HBBHH", 0, 0, socket.IPPROTO_TCP, 0, len(header))
        total = checksum_sum(pseudo) + checksum_sum(header)
        total = (total & 0xFFFF) + (total >> 16)
        return header[:16] + struct.pack("!H", ~total & 0xFFFF) + header[18:]


def _transport(packet):
    """`(protocol, source, destination, payload)` of an IP packet, or None where it is none or a later fragment."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        if struct.unpack_from("!H", packet, 6)[0] & 0x1FFF:
            return None
        return packet[9], packet[12:16], packet[16:20], packet[(packet[0] & 0xF) * 4:]
    if version == 6 and len(packet) >= 40:
        return packet[6], packet[8:24], packet[24:40], packet[40:]
    return None


def read_answer(packet, paths):
    """What an arriving IP packet says about a probe: `(path, port, class)`, or None where it says nothing.

    paths: {(source, destination, protocol): Path or UdpPath}, addresses packed. A wrong acknowledgement is ignored: it answers nobody's probe of this run.
    """
    outer = _transport(packet)
    if outer is None:
        return None
    protocol, sender, receiver, payload = outer
    if protocol == socket.IPPROTO_TCP:
        path = paths.get((receiver, sender, protocol))
        if path is None or len(payload) < 20:
            return None
        port, to, _sequence, acknowledged, _offset, flags = struct.unpack_from("!HHIIBB", payload)
        if to != path.source_port or acknowledged != (path.sequence(port) + 1) & 0xFFFFFFFF:
            return None
        if flags & RST:
            return path, port, CLOSED
        return (path, port, OPEN) if flags & SYN_ACK == SYN_ACK else None
    if protocol == socket.IPPROTO_UDP:
        path = paths.get((receiver, sender, protocol))
        if path is None or len(payload) < 8:
            return None
        port, to = struct.unpack_from("!HH", payload)
        return (path, port, OPEN) if to == path.source_port and path.answered(port, payload[8:]) else None
    if protocol == socket.IPPROTO_ICMP and payload[:1] == b"\x03" or protocol == IPPROTO_ICMPV6 and payload[:1] == b"\x01":
        inner = _transport(payload[8:])
        if inner is None or len(inner[3]) < 8:
            return None
        path = paths.get((inner[1], inner[2], inner[0]))
        source_port, port, sequence = struct.unpack_from("!HHI", inner[3])
        if path is None or source_port != path.source_port or path.protocol == socket.IPPROTO_TCP and sequence != path.sequence(port):
            return None
        return path, port, REFUSED
    return None


def receive_filter(source_port, family):
    """A classic BPF program for a cooked packet socket: TCP and UDP to `source_port`, and unreachable messages.

    Returns the packed `struct sock_filter` array. It keeps a busy node's other traffic out of the interpreter.
    """
    def instruction(code, true, false, operand):
        return struct.pack("=HBBI", code, true, false, operand)

    load_byte, load_half, load_half_x, load_byte_x, load_x = 0x30, 0x28, 0x48, 0x50, 0xB1
    equal, any_bit, give = 0x15, 0x45, 0x06
    if family == socket.AF_INET6:
        program = [
            instruction(load_byte, 0, 0, 6),
            instruction(equal, 1, 0, socket.IPPROTO_TCP),
            instruction(equal, 0, 2, socket.IPPROTO_UDP),
            instruction(load_half, 0, 0, 42),
            instruction(equal, 3, 4, source_port),
            instruction(equal, 0, 3, IPPROTO_ICMPV6),
            instruction(load_byte, 0, 0, 40),
            instruction(equal, 0, 1, 1),
        ]
    else:
        program = [
            instruction(load_half, 0, 0, 6),
            instruction(any_bit, 10, 0, 0x1FFF),
            instruction(load_x, 0, 0, 0),
            instruction(load_byte, 0, 0, 9),
            instruction(equal, 1, 0, socket.IPPROTO_TCP),
            instruction(equal, 0, 2, socket.IPPROTO_UDP),
            instruction(load_half_x, 0, 0, 2),
            instruction(equal, 3, 4, source_port),
            instruction(equal, 0, 3, socket.IPPROTO_ICMP),
            instruction(load_byte_x, 0, 0, 0),
            instruction(equal, 0, 1, 3),
        ]
    # The last two: accept up to 256 bytes, or nothing. The jumps above count to them.
    return b"".join(program + [instruction(give, 0, 0, 256), instruction(give, 0, 0, 0)])

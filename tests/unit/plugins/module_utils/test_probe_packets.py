# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Probes: the bytes that leave, and which answers are believed."""

from __future__ import annotations

import socket
import struct

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import probe_packets
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.probe_packets import (
    Path, UdpPath, checksum_sum, read_answer, receive_filter)
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.udp_responder import reply_of, request_of

PAIRS = [("10.77.2.67", "10.77.2.11"), ("fd00:77:2::67", "fd00:77:2::11")]


def packed(address):
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def a_path(pair=PAIRS[0], source_port=28123):
    return Path(packed(pair[0]), packed(pair[1]), source_port, b"secret")


def sum_with_pseudo_header(path, segment):
    return checksum_sum(path.source + path.destination + struct.pack("!HBBHH", 0, 0, 6, 0, len(segment)) + segment)


def ip_packet(source, destination, protocol, payload):
    if len(source) == 16:
        return struct.pack("!IHBB", 0x60000000, len(payload), protocol, 64) + source + destination + payload
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + source + destination + payload


def answer(path, port, flags, acknowledged=None, to=None):
    acknowledged = path.sequence(port) + 1 if acknowledged is None else acknowledged
    segment = struct.pack("!HHIIBBHHH", port, to or path.source_port, 5, acknowledged & 0xFFFFFFFF, 0x50, flags, 0, 0, 0)
    return ip_packet(path.destination, path.source, 6, segment)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("port", [1, 22, 28999, 65535])
def test_segments_carry_right_checksums(pair, port):
    path = a_path(pair)
    for segment in (path.probe(port), path.reset(port)):
        assert sum_with_pseudo_header(path, segment) == 0xFFFF
    assert struct.unpack_from("!HH", path.probe(port)) == (28123, port)
    assert path.probe(port)[13] == probe_packets.SYN


def test_frames_have_a_whole_ip_header():
    path = a_path()
    packet = probe_packets.ip_packet(path.source, path.destination, 6, path.probe(22))
    assert checksum_sum(packet[:20]) == 0xFFFF
    assert struct.unpack_from("!H", packet, 2)[0] == len(packet)
    six = a_path(PAIRS[1])
    assert struct.unpack_from("!H", probe_packets.ip_packet(six.source, six.destination, 6, six.probe(22)), 4)[0] == len(six.probe(22))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("flags, found", [(0x12, "open"), (0x14, "closed"), (0x04, "closed")])
def test_answers_are_told_apart(pair, flags, found):
    path = a_path(pair)
    assert read_answer(answer(path, 22, flags), {(path.source, path.destination, 6): path}) == (path, 22, found)


def test_strangers_and_forgeries_are_ignored():
    path = a_path()
    paths = {(path.source, path.destination, 6): path}
    assert read_answer(answer(path, 22, 0x12, acknowledged=7), paths) is None
    assert read_answer(answer(path, 22, 0x12, to=9), paths) is None
    assert read_answer(answer(path, 22, 0x10), paths) is None
    assert read_answer(answer(a_path(("10.77.2.67", "10.77.2.12")), 22, 0x12), paths) is None


@pytest.mark.parametrize("data", [b"", b"\x45", b"\x60" + bytes(30), b"\x45" + bytes(19), b"\x00" * 60, b"\xff" * 80])
def test_nonsense_is_no_answer(data):
    path = a_path()
    assert read_answer(data, {(path.source, path.destination, 6): path}) is None


@pytest.mark.parametrize("pair, protocol, kind", [(PAIRS[0], 1, 3), (PAIRS[1], 58, 1)])
def test_unreachable_messages_are_refusals(pair, protocol, kind):
    path = a_path(pair)
    quoted = ip_packet(path.source, path.destination, 6, path.probe(9000)[:8])
    message = ip_packet(path.destination, path.source, protocol, bytes([kind, 3]) + bytes(6) + quoted)
    assert read_answer(message, {(path.source, path.destination, 6): path}) == (path, 9000, "refused")


def datagram(source, destination, port, to, data):
    return ip_packet(source, destination, 17, struct.pack("!HHHH", port, to, 8 + len(data), 0) + data)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("port", [53, 4791, 65535])
def test_datagrams_carry_right_checksums_and_what_the_responder_wants(pair, port):
    path = UdpPath(packed(pair[0]), packed(pair[1]), 28123, "nonce")
    sent = path.probe(port)
    assert checksum_sum(path.source + path.destination + struct.pack("!HH", 17, len(sent)) + sent) == 0xFFFF
    assert struct.unpack_from("!HHH", sent) == (28123, port, len(sent))
    assert sent[8:] == request_of("nonce", port)


@pytest.mark.parametrize("pair", PAIRS)
def test_only_the_responders_reply_is_believed(pair):
    path = UdpPath(packed(pair[0]), packed(pair[1]), 28123, "nonce")
    paths = {(path.source, path.destination, 17): path}
    assert read_answer(datagram(path.destination, path.source, 53, 28123, reply_of("nonce", 53)), paths) == (path, 53, "open")
    for port, to, data in ((54, 28123, reply_of("nonce", 53)), (53, 28124, reply_of("nonce", 53)), (53, 28123, request_of("nonce", 53)), (53, 28123, b"")):
        assert read_answer(datagram(path.destination, path.source, port, to, data), paths) is None
    protocol, kind = (58, 1) if ":" in pair[0] else (1, 3)
    message = ip_packet(path.destination, path.source, protocol, bytes([kind, 3]) + bytes(6) + ip_packet(path.source, path.destination, 17, path.probe(53)[:8]))
    assert read_answer(message, paths) == (path, 53, "refused")


def run_filter(program, packet):
    """A classic BPF machine, as far as the filters need one (linux/filter.h)."""
    code = [struct.unpack_from("=HBBI", program, offset) for offset in range(0, len(program), 8)]
    a = x = position = 0
    while True:
        operation, true, false, operand = code[position]
        position += 1
        if operation == 0x06:
            return operand
        if operation in (0x15, 0x45):
            position += true if (a == operand if operation == 0x15 else a & operand) else false
            continue
        at = operand + (x if operation in (0x48, 0x50) else 0)
        size = 2 if operation in (0x28, 0x48) else 1
        if at + size > len(packet):
            return 0
        value = int.from_bytes(packet[at:at + size], "big")
        if operation == 0xB1:
            x = 4 * (value & 0xF)
        else:
            a = value


@pytest.mark.parametrize("pair, family", [(PAIRS[0], socket.AF_INET), (PAIRS[1], socket.AF_INET6)])
def test_the_kernel_hands_over_answers_and_nothing_else(pair, family):
    path = a_path(pair)
    program = receive_filter(path.source_port, family)
    icmp, kind = (58, 1) if family == socket.AF_INET6 else (1, 3)
    assert run_filter(program, answer(path, 22, 0x12))
    assert run_filter(program, ip_packet(path.destination, path.source, icmp, bytes([kind, 3]) + bytes(40)))
    assert not run_filter(program, answer(path, 22, 0x12, to=28124))
    assert not run_filter(program, ip_packet(path.destination, path.source, icmp, bytes([8, 0]) + bytes(40)))
    assert run_filter(program, datagram(path.destination, path.source, 53, path.source_port, b""))
    assert not run_filter(program, datagram(path.destination, path.source, 53, 28124, b""))
    assert not run_filter(program, ip_packet(path.destination, path.source, 132, bytes(40)))


def test_later_fragments_are_not_handed_over():
    path = a_path()
    packet = bytearray(answer(path, 22, 0x12))
    packet[6:8] = b"\x00\x10"
    assert not run_filter(receive_filter(path.source_port, socket.AF_INET), bytes(packet))
    assert read_answer(bytes(packet), {(path.source, path.destination, 6): path}) is None

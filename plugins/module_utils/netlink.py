# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The netlink edge: a socket that sends one request at a time, and the attribute format.

Serves NETLINK_NETFILTER, NETLINK_ROUTE and NETLINK_SOCK_DIAG alike; the meaning of the payload is the caller's.
Message layout and flags: linux/netlink.h.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
import struct

NETLINK_ROUTE = 0
NETLINK_SOCK_DIAG = 4
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_MULTI = 0x2
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300

NLMSG_ERROR = 0x2
NLMSG_DONE = 0x3

NLA_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

_SOL_NETLINK = 270
_NETLINK_EXT_ACK = 11
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_RECEIVE_BYTES = 1 << 20
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


class NetlinkError(OSError):
    """The kernel refused a request (``errno`` says why), or did not answer in time (``ETIMEDOUT``)."""


class DumpInterrupted(NetlinkError):
    """What was being dumped changed meanwhile: the answer is no consistent picture and must be asked for again."""


class NetlinkSocket:
    """One netlink socket; a context manager.

    ``protocol`` is one of the ``NETLINK_*`` numbers, ``timeout`` the seconds to wait for a single answer.
    Raises NetlinkError where the kernel has no such protocol or the caller may not use it.
    """

    def __init__(self, protocol, timeout=10.0):
        self._sequence = 0
        self._buffer = memoryview(mmap.mmap(-1, _RECEIVE_BYTES))  # large enough for any answer; untouched pages cost nothing
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise NetlinkError(error.errno, f"netlink protocol {protocol}: {error.strerror}") from None
        self._socket.settimeout(timeout)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * _RECEIVE_BYTES)
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        except OSError:
            pass  # before Linux 4.12 errors carry no text
        self._socket.bind((0, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.close()

    def close(self):
        """Give the socket back."""
        self._socket.close()

    def request(self, message_type, body=b"", flags=0):
        """Send one request and return its replies ``[(message_type, body), ...]`` up to the acknowledgement."""
        self._send(message_type, NLM_F_REQUEST | NLM_F_ACK | flags, body)
        return list(self._replies())

    def dump(self, message_type, body=b""):
        """Ask for all objects of a kind; yields ``(message_type, body)``.

        Raises DumpInterrupted, at the latest at the end, where the objects changed during the dump.
        """
        self._send(message_type, NLM_F_REQUEST | NLM_F_DUMP, body)
        return self._replies()

    def send_batch(self, messages):
        """Send ``[(message_type, flags, body), ...]`` in one datagram, unanswered unless a message asks for it."""
        datagram = []
        for message_type, flags, body in messages:
            self._sequence += 1
            datagram.append(self._message(message_type, NLM_F_REQUEST | flags, body))
        self._transmit(b"".join(datagram))

    def _message(self, message_type, flags, body):
        length = _HEADER.size + len(body)
        return _HEADER.pack(length, message_type, flags, self._sequence, 0) + body + bytes(-length % 4)

    def _send(self, message_type, flags, body):
        self._sequence += 1
        self._transmit(self._message(message_type, flags, body))

    def _transmit(self, datagram):
        try:
            self._socket.send(datagram)
        except OSError as error:
            raise NetlinkError(error.errno, error.strerror or str(error)) from None

    def _replies(self):
        sequence, interrupted = self._sequence, False
        while True:
            try:
                size = self._socket.recv_into(self._buffer)
            except socket.timeout:
                raise NetlinkError(errno.ETIMEDOUT, "no answer from the kernel") from None
            except OSError as error:
                raise NetlinkError(error.errno, error.strerror) from None
            data, offset = bytes(self._buffer[:size]), 0
            while offset + _HEADER.size <= size:
                length, message_type, flags, reply_to, _port = _HEADER.unpack_from(data, offset)
                if length < _HEADER.size:
                    raise NetlinkError(errno.EBADMSG, "malformed netlink message")
                body = data[offset + _HEADER.size : offset + length]
                offset += (length + 3) & ~3
                if reply_to != sequence:
                    continue  # the rest of an earlier answer whose reader gave up
                if message_type in (NLMSG_ERROR, NLMSG_DONE):
                    code = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if code > 0:
                        raise NetlinkError(code, _error_text(code, message_type, flags, body))
                    if interrupted or flags & NLM_F_DUMP_INTR:
                        raise DumpInterrupted(errno.EINTR, "the objects changed during the dump")
                    return
                interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                yield message_type, body


def _error_text(code, message_type, flags, body):
    """The kernel's own words (extended acknowledgement) where it gives some, else the errno's."""
    text = os.strerror(code)
    if flags & _NLM_F_ACK_TLVS:
        start = 4
        if message_type == NLMSG_ERROR:
            start += _HEADER.size
            if not flags & _NLM_F_CAPPED:
                start = 4 + ((struct.unpack_from("=I", body, 4)[0] + 3) & ~3)
        for kind, value in attributes(body, start):
            if kind == 1:
                text += ": " + string(value)
    return text


def attributes(data, offset=0):
    """The attributes of a message body or of a nested attribute: ``[(type, value bytes), ...]``."""
    result, end = [], len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            raise NetlinkError(errno.EBADMSG, "malformed netlink attribute")
        result.append((kind & NLA_TYPE_MASK, data[offset + 4 : offset + length]))
        offset += (length + 3) & ~3
    return result


def attribute_map(data, offset=0):
    """As attributes(), as ``{type: value}``; the last of a type wins."""
    return dict(attributes(data, offset))


def pack_attribute(kind, value):
    """One attribute. ``value`` is bytes, or a str (sent with its closing zero)."""
    if isinstance(value, str):
        value = value.encode() + b"\0"
    length = 4 + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def pack_nested(kind, *packed):
    """An attribute that holds other, already packed attributes."""
    return pack_attribute(kind | NLA_NESTED, b"".join(packed))


def string(value):
    """An attribute's text, without its closing zero; bytes that are no UTF-8 are escaped."""
    return value.partition(b"\0")[0].decode("utf-8", "backslashreplace")

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The wire witness: which paths to try, and the two ways of trying them (raw segments, connections)."""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import selectors
import socket
import struct
import time

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import network_tables
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.ports import format_ports, merge_ports, parse_ports
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.probe_packets import (
    CLOSED, OPEN, REFUSED, Path, UdpPath, ip_packet, read_answer, receive_filter)

ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
SO_ATTACH_FILTER, SO_RCVBUFFORCE, IP_BIND_ADDRESS_NO_PORT = 26, 33, 24
CLASSES = (OPEN, CLOSED, REFUSED, "silent", "unsent")


class ProbeError(Exception):
    """The probes cannot be made; the message is for the user."""


def _address(text, what):
    try:
        address = ipaddress.ip_address(str(text))
    except ValueError:
        raise ProbeError(f"{what}: {text!r} is not a numeric IPv4 or IPv6 address") from None
    if address.is_unspecified or address.is_multicast or address.is_loopback or str(address) == "255.255.255.255":
        raise ProbeError(f"{what}: {text} is not the address of one host on a network")
    return address


def plan_paths(sources, targets):
    """The paths to try: every source with every address of every target, of one family, and once a protocol that has ports.

    sources: [{segment, address}], targets: [{host, addresses: {segment: [address]}, tcp: [ports], udp: [ports], udp_nonce}].
    Returns [{host, protocol, segment, source, address, crossed, via, ports, nonce}] where `segment` is the source's, `crossed` tells that the
    address lies on another segment, and `via` is the target's address on the source's segment (None where it has none).
    Raises ProbeError for what is no address or no port.
    """
    own = [(source["segment"], _address(source["address"], "sources")) for source in sources]
    paths = []
    for target in targets:
        try:
            ports = {protocol: expand_ports(target.get(protocol) or []) for protocol in ("tcp", "udp")}
        except ValueError as error:
            raise ProbeError(f"targets, {target['host']}: {error}") from None
        addresses = [(segment, _address(address, f"targets, {target['host']}, {segment}"))
                     for segment, listed in target["addresses"].items() for address in ([listed] if isinstance(listed, str) else listed or [])]
        for source_segment, source in own:
            neighbour = next((address for segment, address in addresses
                              if segment == source_segment and address.version == source.version), None)
            for segment, address in addresses:
                if address.version == source.version and address != source:
                    crossed = segment != source_segment
                    paths += [{
                        "host": target["host"], "protocol": protocol, "segment": source_segment, "source": str(source), "address": str(address),
                        "crossed": crossed, "via": str(neighbour) if crossed and neighbour else None, "ports": listed, "nonce": target.get("udp_nonce") or "",
                    } for protocol, listed in ports.items() if listed or protocol == "tcp"]
    return paths


def expand_ports(ranges):
    """Sorted single ports of a list of ports and ranges, without port 0."""
    return sorted({port for first, last in map(parse_ports, ranges) for port in range(max(first, 1), last + 1)})


def compact(ports):
    """Ports as a list of `"22"` and `"28000-28999"`."""
    return [format_ports(bounds) for bounds in merge_ports((port, port) for port in ports)]


class Outcome:
    """What became of the ports of one path."""

    def __init__(self, path):
        self.path = path
        self.answers = {}
        self.unsent = {}
        self.link = None

    def report(self):
        """The path's entry in the module's result."""
        classes = {name: [] for name in CLASSES}
        for port in self.path["ports"]:
            classes["unsent" if port in self.unsent else self.answers.get(port, "silent")].append(port)
        row = {key: self.path[key] for key in ("host", "protocol", "segment", "source", "address", "crossed")}
        row.update({name: compact(ports) for name, ports in classes.items()})
        if self.unsent:
            row["why"] = ", ".join(sorted(set(self.unsent.values())))
        return row


def probe(paths, method, rate, retries, timeout):
    """Try all paths. Returns `{method, sent, seconds, paths}`; raises ProbeError where nothing can be tried at all."""
    if rate < 1 or retries < 0 or timeout <= 0:
        raise ProbeError("rate must be at least 1, retries at least 0 and timeout more than 0")
    outcomes = [Outcome(path) for path in paths]
    started = time.monotonic()
    prober = None
    if method in ("auto", "raw"):
        try:
            prober = RawProber(outcomes)
        except PermissionError as error:
            if method == "raw":
                raise ProbeError(f"method raw needs the privilege to open raw sockets (CAP_NET_RAW): {error.strerror}") from None
    if prober is None:
        prober = ConnectProber(outcomes)
    try:
        sent = prober.run(rate, retries, timeout)
    finally:
        prober.close()
    return {"method": prober.name, "sent": sent, "seconds": round(time.monotonic() - started, 3), "paths": [outcome.report() for outcome in outcomes]}


class Pace:
    """Spreads sends so that no more than `rate` a second leave."""

    def __init__(self, rate):
        self.rate = rate
        self.start = time.monotonic()
        self.sent = 0

    def wait(self):
        """How long to wait before the next send, in seconds; 0 where it is due."""
        due = self.start + self.sent / self.rate
        now = time.monotonic()
        if now - due > 0.1:
            # Time lost elsewhere is not made up for by a burst.
            self.start += now - due - 0.1
        return max(0.0, due - now)

    def resume(self):
        """Go on after an intended pause, none of which is made up for."""
        self.start = max(self.start, time.monotonic() - self.sent / self.rate)


class RawProber:
    """Single SYN segments over raw sockets; answers are read below the packet filter of this host."""

    name = "raw"

    def __init__(self, outcomes):
        self.outcomes = outcomes
        self._reserved = []
        self._receivers = []
        self._senders = {}
        self._frames = None
        self._selector = selectors.DefaultSelector()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self):
        owners = {entry["address"]: entry["interface"] for entry in network_tables.read_addresses()}
        secret = os.urandom(16)
        families = {}
        sources = {}
        for outcome in self.outcomes:
            sources.setdefault(outcome.path["source"], None)
        usable = [source for source in sources if source in owners]
        source_port = self._reserve(usable)
        self._by_pair = {}
        self._interfaces = owners
        for outcome in self.outcomes:
            source = outcome.path["source"]
            if source not in owners:
                outcome.unsent = dict.fromkeys(outcome.path["ports"], "this host does not have the source address")
                continue
            packed = [ipaddress.ip_address(outcome.path[key]).packed for key in ("source", "address")]
            family = socket.AF_INET if len(packed[0]) == 4 else socket.AF_INET6
            families[family] = None
            udp = outcome.path["protocol"] == "udp"
            path = UdpPath(*packed, source_port, outcome.path["nonce"]) if udp else Path(*packed, source_port, secret)
            path.outcome = outcome
            outcome.probes = path
            self._by_pair[packed[0], packed[1], path.protocol] = path
            if (source, path.protocol) not in self._senders:
                sender = socket.socket(family, socket.SOCK_RAW, path.protocol)
                self._senders[source, path.protocol] = sender
                sender.bind((source, 0))
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            outcome.sender, outcome.where = self._senders[source, path.protocol], (outcome.path["address"], 0)
        for family in families:
            kind = ETH_P_IP if family == socket.AF_INET else ETH_P_IPV6
            receiver = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(kind))
            self._receivers.append(receiver)
            program = receive_filter(source_port, family)
            buffer = ctypes.create_string_buffer(program)
            receiver.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(program) // 8, ctypes.addressof(buffer)))
            try:
                receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
            except OSError:
                receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
            receiver.setblocking(False)
            self._selector.register(receiver, selectors.EVENT_READ)
        self._frames = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)

    def _reserve(self, sources):
        """A port no one else on this host uses on any of the sources, for TCP and UDP: bound, so that the kernel answers strays with a reset."""
        for _attempt in range(20):
            port, bound = 0, []
            try:
                for source in sources:
                    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                        holder = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, kind)
                        bound.append(holder)
                        holder.bind((source, port))
                        port = holder.getsockname()[1]
                        if kind == socket.SOCK_DGRAM:
                            holder.connect((source, port))  # to itself: who looks for listeners meanwhile finds none
            except OSError as error:
                for holder in bound:
                    holder.close()
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            self._reserved = bound
            return port or 1
        raise ProbeError("no free port common to the source addresses was found")

    def close(self):
        """Give every socket back."""
        self._selector.close()
        for item in self._reserved + self._receivers + list(self._senders.values()) + ([self._frames] if self._frames else []):
            item.close()

    def run(self, rate, retries, timeout):
        """Probe everything; returns the number of probes sent."""
        crossed = [outcome for outcome in self.outcomes if not outcome.unsent and outcome.path["crossed"]]
        if crossed:
            self._route(crossed, timeout)
        pace = Pace(rate)
        self._attempt([outcome for outcome in self.outcomes if not outcome.unsent], pace, retries, timeout)
        return pace.sent

    def _route(self, crossed, timeout):
        """Find how each crossed path leaves this host: as a frame to the neighbour, where there is one."""
        indices = {name: index for index, name in socket.if_nameindex()}
        # The kernel asks three times, a second apart.
        deadline = time.monotonic() + max(timeout, 3.0)
        waiting = [outcome for outcome in crossed if outcome.path["via"]]
        for outcome in {(outcome.path["source"], outcome.path["via"]): outcome for outcome in waiting}.values():
            self._resolve(outcome)
        while waiting:
            neighbours = network_tables.read_neighbours()
            for outcome in waiting:
                interface = self._interfaces[outcome.path["source"]]
                via = ipaddress.ip_address(outcome.path["via"])
                link = neighbours.get((indices.get(interface), via.packed))
                if link:
                    outcome.link = (interface, ETH_P_IP if via.version == 4 else ETH_P_IPV6, 0, 0, link)
            waiting = [outcome for outcome in waiting if outcome.link is None]
            if not waiting or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        for outcome in waiting:
            outcome.unsent = dict.fromkeys(outcome.path["ports"], "its neighbour address does not answer on this segment")

    def _resolve(self, outcome):
        """Make the kernel look for the neighbour: one probe to it, as on a direct path."""
        via = ipaddress.ip_address(outcome.path["via"]).packed
        source = ipaddress.ip_address(outcome.path["source"]).packed
        direct = self._by_pair.get((source, via, socket.IPPROTO_TCP)) or self._by_pair.get((source, via, socket.IPPROTO_UDP))
        if direct is not None:
            self._send(direct.outcome, direct.outcome.path["ports"][0] if direct.outcome.path["ports"] else 1)

    def _send(self, outcome, port):
        """Send one probe; returns the reason where it could not leave, "" where it did, None where the queue is full."""
        try:
            self._emit(outcome, outcome.probes.probe(port))
        except OSError as error:
            if error.errno in (errno.ENOBUFS, errno.EAGAIN):
                return None
            if error.errno in (errno.EHOSTUNREACH, errno.EHOSTDOWN):
                # Reported for an earlier packet of this socket: it is that host's silence, not this probe's failure.
                return ""
            if error.errno == errno.EPERM:
                return "the packet filter of this host refused to send it"
            return os.strerror(error.errno)
        return ""

    def _emit(self, outcome, segment):
        if outcome.link is None:
            outcome.sender.sendto(segment, outcome.where)
        else:
            path = outcome.probes
            self._frames.sendto(ip_packet(path.source, path.destination, path.protocol, segment), outcome.link)

    def _attempt(self, outcomes, pace, retries, timeout):
        """Send every probe, and those that nobody answered again half the timeout after the last time.

        An answer counts whenever it comes, so that only the last wait is a whole one.
        """
        # Five milliseconds' worth at a time: asking for the time and for answers before every single probe costs more than sending it.
        batch = max(1, min(64, pace.rate // 200))
        for attempt in range(retries + 1):
            pace.resume()
            started, left = time.monotonic(), 0
            for outcome, port in interleave(outcomes):
                if port in outcome.answers or port in outcome.unsent:
                    continue
                if left % batch == 0:
                    self._receive(pace.wait())
                    while pace.wait() > 0:
                        self._receive(pace.wait())
                left += 1
                reason = self._send(outcome, port)
                while reason is None:
                    self._receive(0.005)
                    reason = self._send(outcome, port)
                pace.sent += 1
                if reason:
                    outcome.unsent[port] = reason
            if not left:
                return
            if attempt == retries:
                self._listen(outcomes, timeout)
            else:
                # What is left of a port's wait when the next attempt comes to it is what sending those before it takes.
                self._listen(outcomes, timeout / 2, (time.monotonic() - started) / left)

    def _listen(self, outcomes, seconds, less=0.0):
        """Take answers for some seconds from now, `less` for every port without an answer, or until every port has one."""
        begun = time.monotonic()
        while True:
            # Looked at before the answers are: what came while this process did not run counts.
            now = time.monotonic()
            self._receive(0)
            missing = sum(len(outcome.path["ports"]) - len(outcome.answers) - len(outcome.unsent) for outcome in outcomes)
            remaining = begun + seconds - less * missing - now
            if not missing or remaining <= 0:
                return
            self._receive(remaining)

    def _receive(self, wait):
        for key, _events in self._selector.select(max(0.0, wait)):
            for _packet in range(4096):
                try:
                    packet = key.fileobj.recv(256)
                except BlockingIOError:
                    break
                answer = read_answer(packet, self._by_pair)
                if answer is None:
                    continue
                path, port, found = answer
                known = path.outcome.answers.get(port)
                if known is None or found == OPEN:
                    path.outcome.answers[port] = found
                if found == OPEN and path.protocol == socket.IPPROTO_TCP:
                    self._reset(path, port)

    def _reset(self, path, port):
        try:
            self._emit(path.outcome, path.reset(port))
        except OSError:
            # The kernel resets the half-open connection as well; it expires in any case.
            return


def interleave(outcomes):
    """(outcome, port) of all outcomes, hosts taking turns, so that no single host sees a burst."""
    longest = max((len(outcome.path["ports"]) for outcome in outcomes), default=0)
    for index in range(longest):
        for outcome in outcomes:
            if index < len(outcome.path["ports"]):
                yield outcome, outcome.path["ports"][index]


class ConnectProber:
    """Non-blocking connections, reset at once: for hosts where no raw socket may be opened."""

    name = "connect"

    def __init__(self, outcomes):
        self.outcomes = outcomes
        self._selector = selectors.DefaultSelector()

    def close(self):
        """Give every socket back."""
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()

    def run(self, rate, retries, timeout):
        """Probe everything; returns the number of connections tried."""
        import resource

        limit = max(16, min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 64))
        pace = Pace(rate)
        for outcome in self.outcomes:
            if outcome.path["crossed"] or outcome.path["protocol"] == "udp":
                what = "another segment's address" if outcome.path["crossed"] else "UDP"
                outcome.unsent = dict.fromkeys(outcome.path["ports"], f"{what} needs raw sockets")
        for _attempt in range(retries + 1):
            for outcome, port in interleave(self.outcomes):
                if port in outcome.answers or port in outcome.unsent:
                    continue
                while True:
                    wait = pace.wait()
                    if wait <= 0 and len(self._selector.get_map()) < limit:
                        break
                    self._collect(max(wait, 0.005))
                pace.sent += 1
                self._start(outcome, port, timeout)
            while len(self._selector.get_map()) > 0:
                self._collect(0.05)
        return pace.sent

    def _start(self, outcome, port, timeout):
        path = outcome.path
        family = socket.AF_INET6 if ":" in path["address"] else socket.AF_INET
        attempt = socket.socket(family, socket.SOCK_STREAM)
        attempt.setblocking(False)
        try:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            attempt.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            attempt.bind((path["source"], 0))
            attempt.connect((path["address"], port))
        except BlockingIOError:
            self._selector.register(attempt, selectors.EVENT_WRITE, (outcome, port, time.monotonic() + timeout))
            return
        except OSError as error:
            if error.errno == errno.ENETUNREACH:
                outcome.unsent[port] = os.strerror(error.errno)
            else:
                self._settle(outcome, port, error.errno)
            attempt.close()
            return
        self._settle(outcome, port, 0)
        attempt.close()

    @staticmethod
    def _settle(outcome, port, code):
        if code == 0:
            outcome.answers[port] = OPEN
        elif code == errno.ECONNREFUSED:
            outcome.answers[port] = CLOSED
        elif code in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES):
            outcome.answers[port] = REFUSED
        elif code == errno.EADDRNOTAVAIL:
            outcome.unsent[port] = "this host does not have the source address"
        elif code != errno.ETIMEDOUT:
            outcome.unsent[port] = "the packet filter of this host refused to send it" if code == errno.EPERM else os.strerror(code)

    def _collect(self, wait):
        finished = self._selector.select(wait)
        now = time.monotonic()
        for key, _events in finished:
            outcome, port, _deadline = key.data
            self._settle(outcome, port, key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            self._selector.unregister(key.fileobj)
            key.fileobj.close()
        if not finished or len(self._selector.get_map()) > 512:
            for key in list(self._selector.get_map().values()):
                if key.data[2] <= now:
                    self._selector.unregister(key.fileobj)
                    key.fileobj.close()

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Answers UDP probes on a host for a short time, so that a packet filter that lets a datagram through can be told from one that drops it.

UDP has no handshake: where nobody listens, silence says nothing, and the kernel's unreachable messages are rate limited to a few a second. The
responder binds the ports on the host's planned addresses, gives up its privileges, answers a datagram only where it holds what the run's nonce
makes of that port, with as many bytes as came in, and ends by itself.
"""

from __future__ import annotations

import errno
import hashlib
import os
import selectors
import signal
import socket
import time

NAME = "vllm-responder"  # what the kernel knows the process by (/proc/PID/comm), at most 15 characters
NOBODY = 65534
LONGEST = 3600


def request_of(nonce, port):
    """The datagram that asks."""
    return hashlib.sha256(f"{nonce}/{port}/request".encode()).digest()[:16]


def reply_of(nonce, port):
    """The datagram that answers."""
    return hashlib.sha256(f"{nonce}/{port}/reply".encode()).digest()[:16]


def bind(addresses, ports):
    """Sockets by port: one an address this host has, and no port of which another process has any. {port: [socket]}."""
    bound = {}
    for port in ports:
        sockets = []
        try:
            for address in addresses:
                item = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
                sockets.append(item)
                item.setblocking(False)
                try:
                    item.bind((address, port))
                except OSError as error:
                    if error.errno != errno.EADDRNOTAVAIL:
                        raise
                    sockets.pop().close()
        except OSError:
            for item in sockets:
                item.close()
            continue
        if sockets:
            bound[port] = sockets
    return bound


def running():
    """The process ids of responders on this host."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/comm", encoding="utf-8", errors="replace") as file:
                    if file.read().strip() == NAME:
                        found.append(int(entry))
            except OSError:
                continue
    return found


def stop(patience=5.0):
    """End responders of earlier runs, and wait until they are gone."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        left = running()
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        time.sleep(0.01)


def start(nonce, addresses, ports, seconds):
    """Start a responder that ends after `seconds`. Returns the ports that it answers on, sorted. Ends the one of an earlier run."""
    stop()
    bound = bind(addresses, ports)
    if not bound:
        raise OSError(errno.EADDRINUSE, "none of the ports could be bound on any of the addresses")
    ready, report = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # The session of the login ends with the module; the responder may not.
            os.setsid()
            if os.fork() == 0:
                os.close(ready)
                _serve(bound, nonce, min(seconds, LONGEST), report)
        finally:
            os._exit(0)
    os.close(report)
    os.waitpid(child, 0)
    for sockets in bound.values():
        for item in sockets:
            item.close()
    alive = os.read(ready, 1)
    if alive:
        os.read(ready, 1)  # the end: by now it has let go of the pipe too
    os.close(ready)
    if not alive:
        raise OSError(errno.ESRCH, "the responder ended at once")
    return sorted(bound)


def _serve(bound, nonce, seconds, report):
    """The responder's life; never returns."""
    try:
        until = time.monotonic() + seconds
        _detach({item.fileno() for sockets in bound.values() for item in sockets} | {report})
        answers = {port: (request_of(nonce, port), reply_of(nonce, port)) for port in bound}
        selector = selectors.DefaultSelector()
        for port, sockets in bound.items():
            for item in sockets:
                selector.register(item, selectors.EVENT_READ, answers[port])
        os.write(report, b"+")
        os.close(report)
        while time.monotonic() < until:
            for key, _events in selector.select(max(0.0, until - time.monotonic())):
                _answer(key.fileobj, *key.data)
    finally:
        os._exit(0)


def _detach(kept):
    """Let go of everything of the module but the sockets, and of root."""
    with open("/proc/self/comm", "w", encoding="utf-8") as file:
        file.write(NAME)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) > 2 and int(entry) not in kept:
            try:
                os.close(int(entry))
            except OSError:
                continue
    os.chdir("/")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def _answer(item, request, reply):
    """Answer one datagram, where it asks rightly."""
    try:
        data, sender = item.recvfrom(64)
        if data == request:
            item.sendto(reply, sender)
    except OSError:
        # An unreachable message for an earlier answer, or a full queue: the probe is sent again.
        return

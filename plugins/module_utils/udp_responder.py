# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Answers UDP probes on a host for a short time, so that a packet filter that lets a datagram through can be told from one that drops it.

UDP has no handshake: where nobody listens, silence says nothing, and the kernel's unreachable messages are rate limited to a few a second. The
responder binds the ports on the host's planned addresses, gives up its privileges, answers a datagram only where it holds what the run's nonce
makes of that port, with as many bytes as came in, and ends by itself. Several runs at a time share responders: each answers for all nonces
of the register, which only root can read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import selectors
import socket
import time

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import network_tables

NAME = "vllm-responder"  # what the kernel knows the process by (/proc/PID/comm), at most 15 characters
NOBODY = 65534
LONGEST = 3600
TICK = 100_000_000  # nanoseconds; the times of files are coarser than the clock
STATE = "/run/vllm-hardening/responders"  # root's: the nonces that are answered, and who answers where


def request_of(nonce, port):
    """The datagram that asks."""
    return hashlib.sha256(f"{nonce}/{port}/request".encode()).digest()[:16]


def reply_of(nonce, port):
    """The datagram that answers."""
    return hashlib.sha256(f"{nonce}/{port}/reply".encode()).digest()[:16]


def own(addresses):
    """Those of the addresses that this host has."""
    found = []
    for address in addresses:
        # Of TCP, which nobody takes for a listener as long as it does not listen.
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as item:
            try:
                item.bind((address, 0))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                continue
        found.append(address)
    return found


def bind(addresses, ports, held=frozenset()):
    """Sockets by port, of those ports that no other process has on any of the addresses. {port: {address: socket}}.

    held: (address, port) that responders have; a port may be theirs on some of the addresses or on all of them.
    """
    bound = {}
    for port in ports:
        sockets = {}
        for address in addresses:
            item = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            item.setblocking(False)
            try:
                item.bind((address, port))
            except OSError:
                item.close()
                if (address, port) in held:
                    continue
                for other in sockets.values():
                    other.close()
                break
            sockets[address] = item
        else:
            if addresses:
                bound[port] = sockets
    return bound


def start(nonce, addresses, ports, seconds):
    """Answer on the ports for `seconds`, whoever else asks for it meanwhile. Returns the ports that are answered on, sorted. Raises OSError.

    Responders of other runs go on, and answer for all of them. A new one takes what is left.
    """
    here = own(addresses)
    with _register(STATE) as register:
        now = time.monotonic()
        nonces = [one for one in _lines(register, "nonce") if one["until"] > now] + [{"nonce": nonce, "until": now + min(seconds, LONGEST)}]
        others = _living(register)
        bound = bind(here, ports, _sockets(others))
        if not bound:
            raise OSError(errno.EADDRINUSE, "none of the ports could be bound on any of the addresses")
        _write(register, [*nonces, *others])
        if any(bound.values()):
            pid = _fork(bound)
            taken = [(address, port) for port, sockets in bound.items() for address in sockets]
            _write(register, [*nonces, *others, {"pid": pid, "begun": _begun(pid), "sockets": taken}])
    return sorted(bound)


def living():
    """The responders that run on this host: [{pid, begun, sockets: [[address, port]]}]; empty for whoever may not read the register. What they listen on is no
    service of the host."""
    try:
        with open(STATE, encoding="utf-8") as register:
            fcntl.flock(register, fcntl.LOCK_SH)
            return _living(register)
    except OSError:
        return []


def running():
    """How many responders run on this host; None for whoever may not read the register."""
    return None if os.path.exists(STATE) and not os.access(STATE, os.R_OK) else len(living())


def answered():
    """(protocol, address, port) of what the responders of this host listen on."""
    return {("udp", address, port) for address, port in _sockets(living())}


def read_others():
    """Every listening socket of this host (network_tables.read_sockets) that is no responder's; no responder begins or ends meanwhile. Raises NetlinkError."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            fcntl.flock(stack.enter_context(open(STATE, encoding="utf-8")), fcntl.LOCK_SH)
        found, ours = list(network_tables.read_sockets()), answered()
    ours |= answered()  # the first responder of all, for which there was nothing to lock
    return [entry for entry in found if (entry["protocol"], entry["address"], entry["port"]) not in ours]


def _sockets(responders):
    return {(address, port) for one in responders for address, port in one["sockets"]}


@contextlib.contextmanager
def _register(path):
    """The register of responders, locked: a line a nonce, a line a responder. It is never replaced, since responders hold it open."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(handle, "r+", encoding="utf-8") as register:
        fcntl.flock(register, fcntl.LOCK_EX)
        yield register


def _lines(register, key):
    """The entries that have a key; lines that are none are left out."""
    found = []
    register.seek(0)
    for line in register:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and key in entry:
            found.append(entry)
    return found


def _write(register, entries):
    register.seek(0)
    register.truncate()
    register.writelines(json.dumps(entry) + "\n" for entry in entries)
    register.flush()


def _living(register):
    return [one for one in _lines(register, "sockets") if _begun(one["pid"]) == one["begun"]]


def _begun(pid):
    """When a process began, in ticks since the system started (field 22 of proc(5) stat), which tells it from a later one of its number; None without."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _fork(bound):
    """Start a process that answers on the sockets; its process id. Raises OSError."""
    ready, report = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # The session of the login ends with the module; the responder may not.
            os.setsid()
            if os.fork() == 0:
                os.close(ready)
                _serve(bound, report)
        finally:
            os._exit(0)
    os.close(report)
    os.waitpid(child, 0)
    for sockets in bound.values():
        for item in sockets.values():
            item.close()
    told = b""
    with open(ready, "rb", buffering=0) as pipe:
        while part := pipe.read(16):  # until the responder has let go of the pipe too
            told += part
    if not told:
        raise OSError(errno.ESRCH, "the responder ended at once")
    return int(told)


def _serve(bound, report):
    """The responder's life; never returns."""
    try:
        register = open(os.open(STATE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), encoding="utf-8")
        sockets = {item: port for port, found in bound.items() for item in found.values()}
        _detach({item.fileno() for item in sockets} | {report, register.fileno()})
        answers = Answers(register, bound)
        selector = selectors.DefaultSelector()
        for item, port in sockets.items():
            selector.register(item, selectors.EVENT_READ, port)
        os.write(report, str(os.getpid()).encode())
        os.close(report)
        while answers.wanted():
            for key, _events in selector.select(answers.left()):
                _answer(key.fileobj, key.data, answers)
        # Before the register is let go of, so that whoever has it next finds the ports free.
        for item in sockets:
            item.close()
    finally:
        os._exit(0)


class Answers:
    """What a responder answers: for every nonce of the register, as long as any of them holds."""

    def __init__(self, register, ports):
        self._register, self._ports = register, list(ports)
        self._seen, self._until, self._known = None, 0.0, {}

    def left(self):
        """For how long, in seconds, there is something to answer."""
        return max(0.0, self._until - time.monotonic())

    def wanted(self):
        """Whether there is. Where there is not, the register stays locked, so that no run counts on this responder any more."""
        if not self.left():
            self._read(fcntl.LOCK_EX)
            if not self.left():
                return False
            fcntl.flock(self._register, fcntl.LOCK_UN)
        return True

    def reply(self, port, request):
        """The answer to a datagram; None for one that does not ask rightly."""
        if (port, request) not in self._known and self._state() != self._seen:
            self._read(fcntl.LOCK_SH)
            fcntl.flock(self._register, fcntl.LOCK_UN)
        return self._known.get((port, request))

    def _state(self):
        """What tells a changed register; None for one that was changed so lately that its times need not tell the next change."""
        facts = os.fstat(self._register.fileno())
        return (facts.st_mtime_ns, facts.st_size) if abs(time.time_ns() - facts.st_mtime_ns) > TICK else None

    def _read(self, lock):
        fcntl.flock(self._register, lock)
        self._seen = self._state() or ()
        nonces = _lines(self._register, "nonce")
        self._until = max((one["until"] for one in nonces), default=0.0)
        self._known = {(port, request_of(one["nonce"], port)): reply_of(one["nonce"], port) for one in nonces for port in self._ports}


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


def _answer(item, port, answers):
    """Answer one datagram, where it asks rightly."""
    try:
        request, sender = item.recvfrom(64)
        reply = answers.reply(port, request)
        if reply is not None:
            item.sendto(reply, sender)
    except OSError:
        # An unreachable message for an earlier answer, or a full queue: the probe is sent again.
        return

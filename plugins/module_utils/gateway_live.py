# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The running gateway: HAProxy's workers asked and changed over the master socket, without a reload.

The pure half compares key maps; the edge speaks the line protocol of HAProxy's management guide (2.6, section 9).
"""

from __future__ import annotations

import re
import socket

TIMEOUT = 5


class Unanswered(OSError):
    """The gateway does not answer on its socket, or not as HAProxy does."""


def parse_map(text):
    """``{key: value}`` of a map file."""
    found = {}
    for line in text.splitlines():
        key, _blank, value = line.strip().partition(" ")
        if key and not key.startswith("#"):
            found[key] = value.strip()
    return found


def map_changes(want, have):
    """Commands without their map that turn ``have`` into ``want``: ``(verb, key, value)``, what goes first first."""
    changes = [("del", key, "") for key in sorted(set(have) - set(want))]
    changes += [("set", key, want[key]) for key in sorted(set(want) & set(have)) if want[key] != have[key]]
    return changes + [("add", key, want[key]) for key in sorted(set(want) - set(have))]


def named(want, have):
    """``{create, update, remove}``: lists of CLIENT:ID of the keys that differ; the sums stay out of results."""

    def names(keys, side):
        return sorted(":".join(side[key].split(":")[:2]) for key in keys)

    # A key that lives on with another expiry or limit keeps its sum.
    return {
        "create": names(set(want) - set(have), want),
        "update": names([key for key in set(want) & set(have) if want[key] != have[key]], want),
        "remove": names(set(have) - set(want), have),
    }


def parse_processes(text):
    """``show proc`` -> (reloads, failed reloads or None, [process ids of workers], [those of before a reload that end their streams])."""
    master = re.search(r"^\d+\s+master\s+(\d+)(?:\s+\[failed:\s*(\d+)\])?", text, re.MULTILINE)
    if not master:
        raise Unanswered("the gateway's master socket gave no list of processes")
    present, _heading, old = text.partition("# old workers")
    workers, leaving = (
        [int(pid) for pid in re.findall(r"^(\d+)\s+worker\b", part, re.MULTILINE)] for part in (present, old)
    )
    return int(master.group(1)), int(master.group(2)) if master.group(2) else None, workers, leaving


FORCED_DRAIN = 0x08  # of srv_admin_state (management guide, "show servers state")


def parse_servers(text):
    """``show servers state BACKEND`` -> {server: whether it is drained}; raises Unanswered where there is no such backend."""
    rows = [line.split() for line in text.splitlines()]
    found = {row[3]: bool(int(row[6]) & FORCED_DRAIN) for row in rows if len(row) > 6 and row[0].isdigit() and row[6].isdigit()}
    if not found:
        raise Unanswered(f"the gateway has no such backend: {text.strip()[:100]}")
    return found


def parse_streams(text, backend):
    """``show stat`` -> requests that are under way with the servers of a backend."""
    rows = [line.split(",") for line in text.splitlines() if line and not line.startswith("#")]
    return sum(int(row[4] or 0) for row in rows if row[0] == backend and row[1] not in ("BACKEND", "FRONTEND"))


class Master:
    """The master socket of a running gateway."""

    def __init__(self, path):
        self.path = path

    def ask(self, command):
        """The answer to one command; raises Unanswered."""
        answer = b""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(TIMEOUT)
                client.connect(self.path)
                client.sendall(command.encode("ascii") + b"\n")
                client.shutdown(socket.SHUT_WR)
                while True:
                    part = client.recv(65536)
                    if not part:
                        break
                    answer += part
        except OSError as error:
            raise Unanswered(f"{self.path}: {error}") from None
        return answer.decode("utf-8", "replace")

    def processes(self):
        """As parse_processes."""
        return parse_processes(self.ask("show proc"))

    def read_map(self, worker, path):
        """``{key: value}`` of a map in a worker. A worker that has just ended, and one that has no such map, has an empty one."""
        lines = []
        for line in self.ask(f"@!{worker} show map {path}").splitlines():
            reference, _blank, rest = line.partition(" ")
            if reference.startswith("0x"):
                lines.append(rest)
        return parse_map("\n".join(lines))

    def change_map(self, worker, path, changes):
        """Carry out map_changes in a worker."""
        for verb, key, value in changes:
            self.ask(f"@!{worker} {verb} map {path} {key} {value}".rstrip())

    def serial(self, worker, path):
        """The serial number of a certificate as a worker serves it, None where it does not."""
        found = re.search(r"^Serial: ([0-9A-F]+)$", self.ask(f"@!{worker} show ssl cert {path}"), re.MULTILINE)
        return int(found.group(1), 16) if found else None

    def key_requests(self):
        """``{CLIENT:ID: requests}`` of all workers, since they started."""
        counts = {}
        _reloads, _failed, workers, leaving = self.processes()
        for worker in workers + leaving:
            for name, number in re.findall(r"key=(\S+) .*?http_req_cnt=(\d+)", self.ask(f"@!{worker} show table gateway_keys")):
                counts[name] = counts.get(name, 0) + int(number)
        return counts

    def servers(self, backend):
        """{(worker, server): whether it is drained} of the workers that take new requests."""
        _reloads, _failed, workers, _leaving = self.processes()
        return {(worker, name): drained for worker in workers
                for name, drained in parse_servers(self.ask(f"@!{worker} show servers state {backend}")).items()}

    def set_drained(self, backend, drained):
        """Give the servers of a backend no new requests, or give them some again."""
        for worker, name in self.servers(backend):
            self.ask(f"@!{worker} set server {backend}/{name} state {'drain' if drained else 'ready'}")

    def streams(self, backend):
        """Requests that are under way with a backend, in all workers."""
        _reloads, _failed, workers, leaving = self.processes()
        return sum(parse_streams(self.ask(f"@!{worker} show stat"), backend) for worker in workers + leaving)

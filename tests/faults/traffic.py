# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Traffic campaign: N changes of the packet filter under steady permitted and forbidden traffic.

    python3 tests/faults/traffic.py --count 100 [--lab NAME --block 10.NN] [--keep]

Every tenth change locks the controller out and is rolled back. Throughout, no forbidden connection or datagram may arrive, no permitted
connection may be refused, and no established permitted connection may break. Exit status 0 where that held.
"""
from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.ruleset import render

from node import CHECKOUT, Controller, Node, wait_for

LAB = str(CHECKOUT / "tests/lab/lab")
OPEN_TCP, OPEN_UDP, SHUT_TCP, SHUT_UDP = 7443, 7444, 9999, 9998
SYN_SECONDS = 0.9  # below the first retransmission: a single lost SYN is noticed
ANSWER_SECONDS = 30  # what takes a process its turn on a busy machine is no loss
PATIENCE = 120


class Agent:
    """One end of the traffic, in the network namespace of a host. Prints what it counted when it is told to end."""

    def __init__(self):
        self.counts = collections.Counter()
        self.ending = threading.Event()

    def run(self, *works, ends=True):
        # Blocked before the first thread starts, so that only the wait below takes it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in threads:
            thread.start()
        print("ready", flush=True)
        signal.sigwait({signal.SIGTERM})
        self.ending.set()
        for thread in threads if ends else ():
            thread.join(2 * ANSWER_SECONDS)  # until what is under way has its answer or counts as lost
        time.sleep(0.3)
        print(json.dumps(self.counts.copy()), flush=True)
        os._exit(0)

    # -- the node ---------------------------------------------------------------------------------------------------

    def serve(self, permitted):
        """Echo on the open ports; whatever arrives at a shut one, or from somebody else, is a leak."""
        def tcp(listener, port):
            while True:
                connection, (source, dummy) = listener.accept()
                if source != permitted or port != OPEN_TCP:
                    self.counts[f"leak tcp {source}:{port}"] += 1
                threading.Thread(target=self.echo, args=(connection,), daemon=True).start()

        def udp(sock, port):
            while True:
                data, source = sock.recvfrom(100)
                if source[0] != permitted or port != OPEN_UDP:
                    self.counts[f"leak udp {source[0]}:{port}"] += 1
                sock.sendto(data, source)
        works = [functools.partial(tcp, socket.create_server(("", port), backlog=4096), port) for port in (OPEN_TCP, SHUT_TCP)]
        for port in (OPEN_UDP, SHUT_UDP):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("", port))
            works.append(functools.partial(udp, sock, port))
        self.run(*works, ends=False)

    @staticmethod
    def echo(connection):
        with connection:
            while True:
                data = connection.recv(100)
                if not data:
                    return
                connection.sendall(data)

    # -- somebody permitted -----------------------------------------------------------------------------------------

    def use(self, node):
        """New connections all the time, one that stays, and datagrams."""
        def new():
            while not self.ending.is_set():
                try:
                    with socket.create_connection((node, OPEN_TCP), timeout=SYN_SECONDS) as connection:
                        connection.settimeout(ANSWER_SECONDS)
                        connection.sendall(b"x")
                        self.counts["permitted connections" if connection.recv(1) else "permitted connections broken"] += 1
                except OSError as error:
                    self.counts[f"permitted connections refused ({type(error).__name__})"] += 1
                time.sleep(0.002)

        def stay():
            with socket.create_connection((node, OPEN_TCP), timeout=ANSWER_SECONDS) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while not self.ending.is_set():
                    begun = time.monotonic()
                    try:
                        connection.sendall(b"y")
                        if not connection.recv(1):
                            raise ConnectionError("closed")
                    except OSError as error:
                        self.counts[f"established connections dropped ({error})"] += 1
                        return
                    self.counts["round trips on the established connection"] += 1
                    pause = time.monotonic() - begun
                    self.counts["longest pause ms"] = max(self.counts["longest pause ms"], int(pause * 1000))
                    time.sleep(0.001)

        def datagrams():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.connect((node, OPEN_UDP))
            sock.settimeout(ANSWER_SECONDS)
            while not self.ending.is_set():
                try:
                    sock.send(b"z")
                    sock.recv(10)
                    self.counts["permitted datagrams answered"] += 1
                except OSError:
                    self.counts["permitted datagrams lost"] += 1
                time.sleep(0.001)
        self.run(new, stay, datagrams, lambda: self.attack([(node, SHUT_TCP)], [(node, SHUT_UDP)]))

    # -- somebody who is not ----------------------------------------------------------------------------------------

    def attack(self, tcp, udp):
        """Connection attempts and datagrams as fast as one thread makes them."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        waiting = collections.deque()
        while not self.ending.is_set():
            for target in tcp:
                attempt = socket.socket()
                attempt.setblocking(False)
                attempt.connect_ex(target)
                waiting.append(attempt)
                self.counts["forbidden connection attempts"] += 1
            for target in udp:
                for _each in range(20):
                    try:
                        sock.sendto(b"w", target)
                        self.counts["forbidden datagrams"] += 1
                    except OSError:
                        self.counts["forbidden datagrams refused locally"] += 1
            while len(waiting) > 200:
                old = waiting.popleft()
                if select.select([], [old], [], 0)[1] and old.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    self.counts["forbidden connections accepted"] += 1
                old.close()
            time.sleep(0.001)

    # -- somebody who loses the permission --------------------------------------------------------------------------

    def hold(self, node):
        """A connection that stays until nothing comes back any more."""
        def stay():
            with socket.create_connection((node, OPEN_TCP), timeout=ANSWER_SECONDS) as connection:
                connection.settimeout(5)
                while True:
                    try:
                        connection.sendall(b"v")
                        if not connection.recv(1):
                            raise ConnectionError("closed")
                    except OSError:
                        self.counts["cut"] = 1
                        os.kill(os.getpid(), signal.SIGTERM)
                        return
                    self.counts["held"] += 1
                    if self.counts["held"] == 1:
                        print("holding", flush=True)
                    time.sleep(0.01)
        self.run(stay, ends=False)

    def intrude(self, node):
        self.run(lambda: self.attack([(node, OPEN_TCP), (node, SHUT_TCP)], [(node, OPEN_UDP), (node, SHUT_UDP)]))


def start(host, role, address):
    """An agent in a host's network namespace."""
    command = ["nsenter", f"--target={host.pid}", "--net", sys.executable, __file__, "--agent", role, address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if process.stdout.readline().strip() != "ready":
        raise RuntimeError(f"the agent {role} did not start")
    return process


def policy(block, dice, number, also=()):
    """Policies that differ in elements always and in rules and chains every third time, and agree on what the traffic needs."""
    clients = [f"{block}.1.130"] + [f"{block}.1.{dice.randrange(140, 250)}" for _each in range(dice.randrange(1, 20))] + list(also)
    shape = random.Random(number // 3)
    flows = [
        {"name": "api", "sources": ["@clients"], "protocol": "tcp", "ports": [OPEN_TCP], "reason": "campaign"},
        {"name": "datagrams", "sources": ["@clients"], "protocol": "udp", "ports": [OPEN_UDP], "reason": "campaign"},
    ]
    shape.shuffle(flows)
    flows += [{"name": f"other-{port}", "sources": [f"{block}.2.0/24"], "protocol": "tcp", "ports": [port], "reason": "campaign"}
              for port in sorted(shape.sample(range(20000, 21000), shape.randrange(5)))]
    return render(flows, administrators=[f"{block}.0.1"], sets={"clients": clients}, forwarding=shape.choice(["containers", "refuse"]),
                  segments={"internal": [f"{block}.2.0/24"]})


def change(node, options, agents):
    """The campaign's changes; returns how many of each transaction were made."""
    dice = random.Random(options.seed)
    kinds = collections.Counter()
    number = 0
    while number < options.count:
        contents = [policy(options.block, dice, number + each) for each in range(min(9, options.count - number))]
        with tempfile.TemporaryDirectory() as folder:
            variables = Path(folder, "variables.json")
            variables.write_text(json.dumps({"node": node.name, "contents": contents}))
            command = ["ansible-playbook", "-i", str(node.files / "inventory.yml"), str(CHECKOUT / "tests/faults/changes.yml"), "-e", f"@{variables}", "-v"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT)
        if done.returncode:
            raise RuntimeError(done.stdout[-3000:] + done.stderr)
        for kind in ("elements", "refill", "replacement"):
            kinds[kind] += done.stdout.count(f'"transaction": "{kind}"')
        number += len(contents)
        if number < options.count:
            run = Controller(node, policy(options.block, dice, number).replace("tcp dport 22 ", "tcp dport 2222 "), 5)
            status, output = run.wait()
            run.close()
            if not status or "previous rules are back" not in output:
                raise RuntimeError(f"the locking change was not rolled back: {output[-2000:]}")
            kinds["rolled back"] += 1
            number += 1
        if any(agent.poll() is not None for agent in agents):
            raise RuntimeError("an agent ended")
        print(f"{number:4}/{options.count} {dict(kinds)}", flush=True)
    return kinds


def cut(node, holder, options):
    """Whether a connection that a new policy forbids is cut, established as it is. The policy is one that permits it at first."""
    address, source, dice = f"{options.block}.1.11", f"{options.block}.1.66", random.Random(options.seed)
    server = start(node, "serve", source)
    for also in ([source], []):
        run = Controller(node, policy(options.block, dice, 1, also), 300)
        status, output = run.wait()
        run.close()
        if status:
            raise RuntimeError(output)
        if also:
            agent = start(holder, "hold", address)
            if agent.stdout.readline().strip() != "holding":
                raise RuntimeError("the connection to be cut was not made")
    with contextlib.suppress(subprocess.TimeoutExpired):
        agent.wait(PATIENCE)
    for each in (agent, server):
        each.send_signal(signal.SIGTERM)
    server.communicate(timeout=PATIENCE)
    return json.loads(agent.communicate(timeout=PATIENCE)[0])


def gather(agents):
    """End agents, the one that serves last, and add up what they counted."""
    counts = collections.Counter()
    for agent in reversed(agents):
        agent.send_signal(signal.SIGTERM)
        found = json.loads(agent.communicate(timeout=PATIENCE)[0])
        counts["longest pause ms"] = max(counts["longest pause ms"], found.pop("longest pause ms", 0))
        counts.update(found)
    return counts


def leaks(counts):
    """How many forbidden connections and datagrams arrived."""
    return sum(number for name, number in counts.items() if "leak" in name or "accepted" in name)


def flush(node, outsider, options):
    """The service that flushes every table, restarted and reloaded under forbidden traffic; how often, and what was counted."""
    node.run("systemctl", "start", "nftables.service")
    agents = [start(node, "serve", f"{options.block}.1.130"), start(outsider, "intrude", f"{options.block}.1.11")]
    times = max(2, options.count // 5)
    try:
        for each in range(times):
            node.run("systemctl", "reset-failed", "nftables.service")
            node.run("systemctl", ("restart", "reload")[each % 2], "nftables.service")
    finally:
        counts = gather(agents)
    return times, counts


def campaign(options):
    """Run it; returns the exit status."""
    node, client, outsider = (Node(options.lab, name) for name in ("npu01", "client", "outsider"))
    address, permitted = f"{options.block}.1.11", f"{options.block}.1.130"
    run = Controller(node, policy(options.block, random.Random(0), 1), 300)
    status, output = run.wait()
    run.close()
    if status:
        raise RuntimeError(output)
    agents = [start(node, "serve", permitted)]
    agents += [start(client, "use", address), start(outsider, "intrude", address)]
    begun = time.monotonic()
    try:
        kinds = change(node, options, agents)
    finally:
        counts = gather(agents)
    times, flushed = flush(node, outsider, options)
    held = cut(node, outsider, options)
    print(f"\n{sum(kinds.values())} changes in {time.monotonic() - begun:.0f} s: {dict(kinds)}")
    for name, number in sorted(counts.items()):
        print(f"  {number:10} {name}")
    wrong = ("leak", "accepted", "connections refused", "dropped", "broken", "lost")
    bad = {name: number for name, number in counts.items() if any(word in name for word in wrong)}
    used = all(counts[name] for name in ("permitted connections", "permitted datagrams answered", "forbidden connection attempts", "forbidden datagrams"))
    print("forbidden accepted: {}, permitted refused: {}, established dropped: {}".format(
        leaks(counts),
        sum(number for name, number in bad.items() if "refused" in name or "lost" in name or "broken" in name),
        sum(number for name, number in bad.items() if "dropped" in name)))
    print(f"nftables.service restarted or reloaded {times} times: {flushed['forbidden datagrams']} forbidden datagrams and "
          f"{flushed['forbidden connection attempts']} attempts, {leaks(flushed)} accepted")
    print(f"a connection that lost its permission: {held.get('held', 0)} round trips, then {'cut' if held.get('cut') else 'NOT cut'}")
    return 1 if bad or not used or leaks(flushed) or not flushed["forbidden datagrams"] or not held.get("held") or not held.get("cut") else 0


def main():
    if sys.argv[1:2] == ["--agent"]:
        getattr(Agent(), sys.argv[2])(sys.argv[3])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--lab", default="traffic")
    parser.add_argument("--block", default="10.80")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    options = parser.parse_args()
    subprocess.run([LAB, "up", "--name", options.lab, "--block", options.block, "--hosts", "npu01,client,outsider"], check=True)
    try:
        wait_for(Node(options.lab, "npu01").reachable, PATIENCE, 0.2)
        return campaign(options)
    finally:
        if not options.keep:
            subprocess.run([LAB, "down", "--name", options.lab], check=True)


if __name__ == "__main__":
    sys.exit(main())

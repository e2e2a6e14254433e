# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The faults, one function each: what goes wrong while a change of the packet filter is under way.

Each gets an `Attempt` and returns what the rules have to be afterwards: ``"previous"``, ``"new"`` or ``"either"``
(where the fault may come before or after the confirmation, and both are right as long as the node is consistent).
"""
from __future__ import annotations

import random
import re
from dataclasses import dataclass

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.ruleset import render

from node import Controller, Node, wait_for

TIMEOUT = 6
PATIENCE = 60  # where the confirmation has to come in time on a busy machine, too, and where what is waited for comes in any case


@dataclass
class Attempt:
    """One injection on one node."""

    node: Node
    block: str
    dice: random.Random
    before: str = ""
    note: str = ""
    says: str = ""
    held_up: bool = False

    def policy(self):
        """A valid policy, another one every time."""
        dice = self.dice
        peers = [f"{self.block}.2.{dice.randrange(20, 250)}" for dummy in range(dice.randrange(1, 40))]
        clients = [f"{self.block}.1.{16 * dice.randrange(1, 15)}/28", f"fd00:{self.block[3:]}:1::{dice.randrange(1, 99):x}"]
        flows = [
            {"name": f"api-{port}", "sources": ["@clients"], "protocol": dice.choice(["tcp", "udp"]), "ports": [port, f"{port + 10}-{port + 20}"],
             "reason": "fault campaign"} for port in dice.sample(range(20000, 28000, 40), dice.randrange(1, 6))
        ] + [{"name": "internal", "sources": ["@peers"], "interface": "eth2", "protocol": "tcp", "ports": ["20550"], "reason": "fault campaign"}]
        return render(flows, administrators=[f"{self.block}.0.1"], sets={"peers": peers, "clients": clients},
                      segments={"internal": [f"{self.block}.2.0/24"]}, forwarding=dice.choice(["refuse", "containers"]))

    def start(self, content, timeout=TIMEOUT, **options):
        return Controller(self.node, content, timeout, **options)

    def pending(self):
        return wait_for(lambda: self.node.token()[1] == "pending", 5 * PATIENCE, 0.002)

    def applied(self):
        return self.pending() and wait_for(lambda: self.node.listing() not in ("", self.before), PATIENCE, 0.01)


def _locking(attempt, edit):
    """A policy that is valid nftables and locks the controller out."""
    text = edit(attempt.policy())
    run = attempt.start(text)
    status, output = run.wait()
    run.close()
    attempt.note = f"status {status}"
    if status == 0 or "previous rules are back" not in output:
        attempt.note += " UNEXPECTED " + output[-600:]
        return "previous", False
    attempt.says = "rolled back"
    return "previous", True


def locked_out_of_new_connections(attempt):
    """Established connections live on, new ones are refused: the shared connection of the run still works."""
    return _locking(attempt, lambda text: re.sub(r"ip saddr \S+ tcp dport 22 counter accept.*", "", text)
                    .replace('iif "lo" accept\n\t\tct', 'iif "lo" accept\n\t\tct state established accept\n\t\tct', 1)
                    .replace("chain input {", "chain input {", 1))


def loaded_late(attempt):
    """The same rules, loaded only when the login that is to confirm them has been made: it lives on, every later one is refused."""
    node = attempt.node
    node.run("mv", "/usr/sbin/nft", "/usr/sbin/nft.real")
    try:
        node.run("sh", "-c", "cat > /usr/sbin/nft && chmod 755 /usr/sbin/nft",
                 data='#!/bin/sh\n[ "$2" != change.nft ] || sleep 3\nexec /usr/sbin/nft.real "$@"\n')
        return locked_out_of_new_connections(attempt)
    finally:
        node.run("mv", "/usr/sbin/nft.real", "/usr/sbin/nft")


def locked_out_wholly(attempt):
    """Nothing from the controller gets in, not even the running connection."""
    return _locking(attempt, lambda text: re.sub(r"ip saddr \S+ tcp dport 22 counter accept.*", "", text))


def locked_out_by_address(attempt):
    """Administration is allowed from somewhere else only."""
    return _locking(attempt, lambda text: re.sub(r"ip saddr \S+ tcp dport 22", f"ip saddr {attempt.block}.0.77 tcp dport 22", text))


def locked_out_by_interface(attempt):
    """Administration is allowed on the wrong interface."""
    return _locking(attempt, lambda text: re.sub(r"(ip saddr \S+ tcp dport 22)", r'iifname "eth2" \1', text))


def locked_out_by_port(attempt):
    """Another SSH port than the one in use."""
    return _locking(attempt, lambda text: text.replace("tcp dport 22 ", "tcp dport 2222 "))


def answers_refused(attempt):
    """Requests get in, answers do not get out."""
    return _locking(attempt, lambda text: text.rstrip().rstrip("}") + "\tchain answers {\n\t\ttype filter hook output priority filter - 5; policy accept;\n"
                    "\t\ttcp sport 22 counter drop\n\t}\n}\n")


def early_drop(attempt):
    """A chain before the input chain drops the controller."""
    return _locking(attempt, lambda text: text.rstrip().rstrip("}") + "\tchain early {\n\t\ttype filter hook prerouting priority -200; policy accept;\n"
                    f"\t\tip saddr {attempt.block}.0.1 counter drop\n\t}}\n}}\n")


def preflight_refuses(attempt):
    """The management sources do not contain the controller: refused before anything changes."""
    run = attempt.start(attempt.policy(), management={"sources": [f"{attempt.block}.0.99"]})
    status, output = run.wait()
    run.close()
    return "previous", status != 0 and "does not contain it" in output and attempt.node.token()[1] is None


def proof_refuses(attempt):
    """A policy that names the controller and locks it out all the same: the proof finds it before anything changes."""
    dice, block = attempt.dice, attempt.block
    text = attempt.policy()
    text = dice.choice([
        lambda: re.sub(r"ip saddr \S+ tcp dport 22", f"ip saddr {block}.0.77 tcp dport 22", text),
        lambda: re.sub(r"(ip saddr \S+ tcp dport 22)", r'iifname "eth2" \1', text),
        lambda: text.replace("\tchain input {", f"\tchain first {{\n\t\ttype filter hook input priority -50;\n\t\tip saddr {block}.0.0/24 drop\n\t}}\n"
                             "\tchain input {"),
    ])()
    run = attempt.start(text, management={"sources": [f"{block}.0.1"]})
    status, output = run.wait()
    run.close()
    attempt.note = f"status {status}"
    return "previous", status != 0 and "would refuse the next login" in output and attempt.node.token()[1] is None


def does_not_load(attempt):
    """A candidate that the kernel or nft refuses."""
    text = attempt.policy().replace("chain flows {", attempt.dice.choice(["chain flows {\n\t\tip saddr @nobody accept", "chain flows {\n\t\ttcp dport accept",
                                                                          "chain flows {\n\t\tjump input"]), 1)
    run = attempt.start(text)
    status, output = run.wait()
    run.close()
    attempt.note = f"status {status}"
    return "previous", status != 0 and "nft said" in output


def _killed(attempt, moment):
    run = attempt.start(attempt.policy())
    moment()
    run.kill()
    run.close()
    return "either", True


def killed_while_connecting(attempt):
    """The controller dies before the node was asked."""
    delay = attempt.dice.uniform(0.3, 1.2)
    return _killed(attempt, lambda: wait_for(lambda: False, delay))


def killed_when_armed(attempt):
    """The controller dies as soon as the change is pending."""
    return _killed(attempt, attempt.pending)


def killed_when_applied(attempt):
    """The controller dies as soon as the new rules are loaded."""
    return _killed(attempt, attempt.applied)


def killed_while_confirming(attempt):
    """The controller dies somewhere between the change and its confirmation."""
    delay = attempt.dice.uniform(0, 0.8)

    def moment():
        attempt.applied()
        wait_for(lambda: False, delay)
    return _killed(attempt, moment)


def killed_when_confirmed(attempt):
    """The controller dies as soon as the node has taken the confirmation."""
    def moment():
        attempt.pending()
        wait_for(lambda: attempt.node.token()[1] != "pending", PATIENCE, 0.002)
    return _killed(attempt, moment)


def killed_anywhere(attempt):
    """The controller dies at any moment."""
    delay = attempt.dice.uniform(0, 3)
    return _killed(attempt, lambda: wait_for(lambda: False, delay))


def module_killed(attempt):
    """The module dies on the node, at any moment after the change was begun."""
    delay = attempt.dice.choice([0, 0, attempt.dice.uniform(0, 0.3), attempt.dice.uniform(0, 1)])
    run = attempt.start(attempt.policy())
    attempt.pending()
    wait_for(lambda: False, delay)
    attempt.node.run("pkill", "-9", "-x", "python3", check=False)
    status, dummy = run.wait()
    run.close()
    attempt.note = f"status {status}"
    return "either", True


def rebooted(attempt):
    """The node restarts inside the window."""
    run = attempt.start(attempt.policy().replace("tcp dport 22 ", "tcp dport 2222 "), PATIENCE)
    attempt.applied()
    attempt.node.reboot()
    status, dummy = run.wait()
    run.close()
    attempt.says = "restart"
    return "previous", status != 0


def _undone(attempt, run, mend):
    """The node has just been cut off, and is again within reach once the change is undone. A confirmation that was on the node before may win."""
    cut_off = not attempt.node.reachable(3)
    wait_for(lambda: attempt.node.token()[1] in ("rolled-back", "confirmed"), TIMEOUT + PATIENCE, 0.1)
    confirmed = attempt.node.token()[1] == "confirmed"
    mend()
    status, dummy = run.wait()
    run.close()
    attempt.note = f"status {status}, {'cut off' if cut_off else 'NOT cut off'}"
    if confirmed:
        return "new", cut_off
    attempt.says = "rolled back"
    return "previous", cut_off and status != 0


def partitioned(attempt):
    """The management network parts after the change and comes back later."""
    run = attempt.start(attempt.policy())
    attempt.applied()
    attempt.node.link(False)
    return _undone(attempt, run, lambda: attempt.node.link(True))


def sshd_stopped(attempt):
    """The SSH server stops after the change; it is started again when the change is undone."""
    run = attempt.start(attempt.policy())
    attempt.applied()
    attempt.node.run("systemctl", "stop", "ssh.service")
    return _undone(attempt, run, lambda: attempt.node.run("systemctl", "start", "ssh.service"))


def disk_full(attempt):
    """No room is left where the rules, or what is known of them, are kept."""
    node, folder = attempt.node, attempt.dice.choice(["/etc/vllm-hardening", "/var/lib/vllm-hardening", "/run/vllm-hardening"])
    node.run("sh", "-c", f"cp -a {folder} /tmp/kept && mount -t tmpfs -o size=32k,mode=755 tmpfs {folder} && cp -a /tmp/kept/. {folder}/ && rm -r /tmp/kept; "
             f"rm -rf {folder}/firewall/2*; dd if=/dev/zero of={folder}/full bs=1k 2>/dev/null; [ -e {folder}/full ]")
    run = attempt.start(attempt.policy())
    status, output = run.wait()
    run.close()
    node.run("umount", folder)
    attempt.note = f"{folder}: status {status}"
    return "previous", status != 0 and "No space left" in output


def disk_full_inside_the_window(attempt):
    """The disk fills up after the change was made: what a confirmation needs is there already."""
    node = attempt.node
    folder = "/etc/vllm-hardening"
    node.run("sh", "-c", f"cp -a {folder} /tmp/kept && mount -t tmpfs -o size=64k,mode=755 tmpfs {folder} && cp -a /tmp/kept/. {folder}/ && rm -r /tmp/kept")
    run = attempt.start(attempt.policy(), PATIENCE)
    attempt.pending()
    node.run("sh", "-c", f"dd if=/dev/zero of={folder}/full bs=1k 2>/dev/null; [ -e {folder}/full ]")
    status, dummy = run.wait()
    run.close()
    node.run("sh", "-c", f"rm {folder}/full; cp -a {folder} /tmp/kept; umount {folder}; cp -a /tmp/kept/. {folder}/; rm -r /tmp/kept")
    attempt.note = f"status {status}"
    return "new", status == 0


def concurrent(attempt):
    """Two runs change the same node at once."""
    runs = [attempt.start(attempt.policy(), PATIENCE) for dummy in range(2)]
    results = [run.wait() for run in runs]
    for run in runs:
        run.close()
    refused = [output for status, output in results if status]
    attempt.note = f"statuses {[status for status, dummy in results]}"
    return "either", len(refused) <= 1 and all("another" in output for output in refused)


def without_nft(attempt):
    """nft is not installed."""
    node = attempt.node
    node.run("mv", "/usr/sbin/nft", "/usr/sbin/nft.away")
    run = attempt.start(attempt.policy())
    status, output = run.wait()
    run.close()
    node.run("mv", "/usr/sbin/nft.away", "/usr/sbin/nft")
    return "previous", status != 0 and "nft is not installed" in output


def nft_gone_inside_the_window(attempt):
    """The controller is locked out and nft is not there when the rollback wants it; it comes back later."""
    node = attempt.node
    run = attempt.start(attempt.policy().replace("tcp dport 22 ", "tcp dport 2222 "))
    attempt.applied()
    node.run("mv", "/usr/sbin/nft", "/usr/sbin/nft.away")
    wait_for(lambda: node.token()[1] == "rolling-back", TIMEOUT + PATIENCE, 0.1)
    wait_for(lambda: False, 3)
    node.run("mv", "/usr/sbin/nft.away", "/usr/sbin/nft")
    status, dummy = run.wait()
    run.close()
    attempt.says, attempt.held_up = "rolled back", True
    return "previous", status != 0


def changed_by_another(attempt):
    """Another program writes into the table before the confirmation."""
    run = attempt.start(attempt.policy(), PATIENCE)
    attempt.applied()
    attempt.node.run("nft", "insert", "rule", "inet", "vllm_hardening", "input", "tcp", "dport", "1", "accept")
    status, output = run.wait()
    run.close()
    attempt.note = f"status {status}"
    if status == 0:  # the confirmation came first
        attempt.node.run("nft", "-f", "/etc/vllm-hardening/firewall.nft")
        return "new", True
    return "previous", "another program changed the table" in output


INJECTIONS = [
    locked_out_of_new_connections, loaded_late, locked_out_wholly, locked_out_by_address, locked_out_by_interface, locked_out_by_port,
    answers_refused, early_drop,
    preflight_refuses, proof_refuses, does_not_load, killed_while_connecting, killed_when_armed, killed_when_applied, killed_while_confirming,
    killed_when_confirmed, killed_anywhere, module_killed, rebooted, partitioned, sshd_stopped, disk_full, disk_full_inside_the_window, concurrent,
    without_nft, nft_gone_inside_the_window, changed_by_another,
]

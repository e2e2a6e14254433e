# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A guard that takes only what the controller signed, deceived by somebody who is root on the node for a moment and knows the key of its seals."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import applied, guard, sealing
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import signer
from faults.node import CHECKOUT, RULES, wait_for

STATE = "var/lib/vllm-hardening/firewall/state.json"
NETWORK = "var/lib/vllm-hardening/applied/vllm_network.json"
PATIENCE = 60.0
SERVICES = ("vllm-guard-firewall.service", "vllm-guard-node.service")


class Signed:
    """The deceits, each with what it has to come to."""

    def __init__(self, campaign):
        self.campaign, self.node = campaign, campaign.node
        self.folder = tempfile.TemporaryDirectory(prefix="signed-")
        for name in ("controller", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{self.folder.name}/{name}"], check=True)

    def prepare(self, port=7443, key="controller", only="all", **variables):
        """Roll out, or one role only; ``(status, output)``."""
        options = self.campaign.options
        inventory = str(CHECKOUT / ".build/labs" / options.lab / "inventory.yml")
        values = {"guard_block": options.block, "guard_port": port, "vllm_guard_signing_key": f"{self.folder.name}/{key}" if key else "", **variables}
        command = ["ansible-playbook", "-i", inventory, str(CHECKOUT / "tests/guard/prepare.yml"), "-e", json.dumps(values), "--tags", only]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def read(self, path):
        return self.node.path(path).read_text()

    def put(self, path, text):
        """Put a text in place as the modules do: written beside, then renamed."""
        beside = self.node.path(path).with_name("beside")
        beside.write_text(text)
        os.chmod(beside, 0o600)
        beside.rename(self.node.path(path))

    def refused(self, name, says, duty="firewall"):
        """The guard has to refuse what lies there, and say why."""
        seen = self.seen[duty]
        found = wait_for(lambda: [one for one in self.campaign.history(duty)[seen:] if one["outcome"] == "refused" and says in one["what"]], PATIENCE, 0.1)
        if not found:
            self.campaign.complain(f"signed: {name} was not refused: {json.dumps(self.campaign.history(duty)[seen:])[:800]}")

    def mark(self):
        self.seen = {duty: len(self.campaign.history(duty)) for duty in ("firewall", "node")}

    def sealed(self, record):
        """A record with the node's own seal, which its root can make."""
        key = self.node.path(sealing.KEY.lstrip("/")).read_bytes()
        return json.dumps({"confirmed": {**record, "seal": sealing.seal(key, *sealing.firewall_parts(record))}})

    def stands(self, name, wanted):
        """The table that was deleted has to come back as `wanted`."""
        if self.campaign.witness().restored(wanted, lambda: self.node.run("nft", "delete", "table", "inet", "vllm_hardening")) is None:
            self.campaign.complain(f"signed: {name}: the rules of before were not put back:\n{self.node.listing()}")

    def run(self):
        """All of it; afterwards the guard asks for no signatures any more."""
        status, output = self.prepare()
        if status:
            self.campaign.complain(f"signed: the roll-out failed: {output[-2000:]}")
            return
        record, rules = json.loads(self.read(STATE))["confirmed"], self.read(RULES)
        self.mark()
        if record.get("signed", {}).get("public_key") is None or "signed" not in json.loads(self.read(NETWORK)):
            self.campaign.complain("signed: the node has no signatures")
        self.stands("at first", record["canonical"])
        # The trial lasts a moment, and the state may just have been read anew.
        if not wait_for(lambda: guard.TRIAL not in self.node.run("nft", "list", "tables").split(), PATIENCE):
            self.campaign.complain(f"signed: the table of the trial is left: {self.node.run('nft', 'list', 'tables')}")
        self.deceive(record, rules)
        self.replay(record, rules)
        self.network()
        self.unsigned()
        self.secret()
        status, output = self.prepare(key=None, only="vllm_guard")
        if status or self.node.path("etc/vllm-guard/allowed_signers").exists():
            self.campaign.complain(f"signed: signatures cannot be given up: {output[-2000:]}")
        print("signed: forged, unsigned, foreign and earlier states refused with the node's own seal on them, a run without the key refused", flush=True)

    def deceive(self, record, rules):
        """Rules that accept everything, with the node's own seal and whatever signature can be had."""
        wanted = record["canonical"]
        forged = rules.replace('iif "lo" accept', "accept", 1)
        source = record["source"].replace('iif "lo" accept', "accept", 1)
        content = hashlib.sha256(guard.content_of(forged).encode()).hexdigest()
        bare = {key: value for key, value in record.items() if key not in ("signed", "source")}
        stranger = signer.signed(f"{self.folder.name}/stranger", self.node.name, guard.CONCERN, guard.source_digest(source))
        other = signer.signed(f"{self.folder.name}/controller", "npu02", guard.CONCERN, guard.source_digest(source))
        for name, text, changes, says in (
            ("unsigned rules", forged, {**bare, "content": content}, "not signed"),
            ("rules with the signature of the good ones", forged, {**record, "content": content, "source": source}, "another digest"),
            ("rules beside the signed text", forged, {**record, "content": content}, "not those that the controller signed"),
            ("rules that a stranger signed", forged, {**record, "content": content, "source": source, "signed": stranger}, "not one of the controller's"),
            ("rules of another node", forged, {**record, "content": content, "source": source, "signed": other}, "another node"),
        ):
            self.mark()
            self.put(RULES, text)
            self.put(STATE, self.sealed(changes))
            self.refused(name, says)
            self.stands(name, wanted)
        self.mark()
        # The good rules, but the fingerprint of a table that lets everything in: the node's own word, which the guard does not take.
        self.put(RULES, rules)
        self.node.run("nft", "insert", "rule", "inet", "vllm_hardening", "input", "accept", check=False)
        self.put(STATE, self.sealed({**record, "canonical": "0" * 64}))
        self.stands("a forged fingerprint", wanted)
        self.put(STATE, self.sealed(record))
        wait_for(lambda: not self.campaign.distrusts(), PATIENCE, 0.1)

    def replay(self, record, rules):
        """The rules of before a roll-out, rightly signed at their time."""
        status, output = self.prepare(port=7444)
        newer, newer_rules = json.loads(self.read(STATE))["confirmed"], self.read(RULES)
        if status or newer["canonical"] == record["canonical"]:
            self.campaign.complain(f"signed: the second roll-out failed: {output[-2000:]}")
        wait_for(lambda: json.loads(self.read("var/lib/vllm-guard-firewall/serials.json")).get(guard.CONCERN, 0) > serial_of(record), PATIENCE, 0.1)
        self.mark()
        self.put(RULES, rules)
        self.put(STATE, self.sealed(record))
        self.refused("an earlier state", "older than what was accepted")
        self.stands("an earlier state", newer["canonical"])
        self.mark()
        self.node.run("systemctl", "restart", SERVICES[0])
        self.refused("an earlier state, and the guard restarted", "older than what was accepted")
        self.node.run("nft", "delete", "table", "inet", "vllm_hardening")
        if not wait_for(lambda: "policy drop" in self.node.listing(), PATIENCE, 0.1) or "7443" in self.node.listing():
            self.campaign.complain(f"signed: an earlier state came back over a restart:\n{self.node.listing()}")
        self.put(RULES, newer_rules)
        self.put(STATE, self.sealed(newer))
        if not wait_for(lambda: "7444" in self.node.listing(), PATIENCE, 0.1):
            self.campaign.complain("signed: the signed rules did not come back after the deceit")

    def network(self):
        """A state of another concern, changed and sealed again."""
        good = self.read(NETWORK)
        state = json.loads(good)
        state["params"]["files"] = [{"path": "/etc/forged", "content": "x\n", "owner": "root", "group": "root", "mode": "0644", "state": "present",
                                     "sensitive": False}]
        state["digest"] = applied.digest(state["params"])
        key = self.node.path(sealing.KEY.lstrip("/")).read_bytes()
        state["seal"] = sealing.seal(key, "applied", "vllm_network", state["digest"])
        self.mark()
        self.put(NETWORK, json.dumps(state))
        self.refused("a state of the network", "another digest", "node")
        self.node.run("systemctl", "restart", SERVICES[1])
        self.refused("a state of the network, and the guard restarted", "another digest", "node")
        if self.node.path("etc/forged").exists():
            self.campaign.complain("signed: a forged state was brought about")
        self.put(NETWORK, good)

    def unsigned(self):
        """A run of somebody who has not the key."""
        before = self.node.listing(), self.read(STATE), self.read(NETWORK)
        for name, arguments in (("new rules", {"port": 7445}), ("a filter taken away", {"vllm_firewall_state": "absent"})):
            status, output = self.prepare(key=None, **{"port": 7444, **arguments})
            if not status or "takes only what the controller signed" not in output:
                self.campaign.complain(f"signed: a run without the key was not refused ({name}): {output[-1500:]}")
            if before != (self.node.listing(), self.read(STATE), self.read(NETWORK)):
                self.campaign.complain(f"signed: a run that was refused changed something ({name})")

    def secret(self):
        """The private key never left the controller."""
        secret = Path(self.folder.name, "controller").read_text().splitlines()[4]  # those before it are public, or the same in every key
        found = self.node.run("grep", "-rlF", secret, "/etc", "/var", "/run", "/root", "/home", "/tmp", check=False)
        if found:
            self.campaign.complain(f"signed: the private key is on the node: {found}")


def serial_of(record):
    """The serial number in a signed record."""
    return int(record["signed"]["statement"].rsplit(" ", 1)[1])

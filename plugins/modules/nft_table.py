#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The node's side of a confirmed change of the table inet vllm_hardening."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nft_table
short_description: Change the packet filter of this collection in one confirmed, atomic transaction
version_added: 0.1.0
description:
  - Makes the nftables table C(inet vllm_hardening) what O(content) says. No other table is read for change or touched.
  - The candidate is first loaded in a private network namespace on the node, which proves that this kernel and this C(nft) accept it,
    and is compared there with the loaded rules as the kernel holds them. C(changed) is true only where they differ, or where the files
    that load them at boot do.
  - A change is one transaction; where only set elements differ, only they are sent. Before it is made, a transient systemd timer is armed
    that puts the previous rules back. The action plugin then opens a new connection to the node and confirms the change over it.
    Only a confirmed change is written for the next boot. Without a confirmation - the rules lock the controller out, the controller dies, the
    network parts, the node restarts - the previous rules return by themselves, and the next run reports it.
  - A node without the table is changed in just the same way; its rollback removes the table.
options:
  content:
    description:
      - The text of C(table inet vllm_hardening { ... }), as the filter P(vllm_mindspore.hardening.firewall_ruleset#filter) renders it.
      - Users in C(meta skuid "NAME") are resolved on the node. A line that names a user who does not exist yet is left out and listed in
        RV(missing_users); a check run shows it all the same, under its name.
      - Required with O(state=present).
    type: str
  state:
    description: Whether the table and the files that load it exist.
    type: str
    choices: [present, absent]
    default: present
  management:
    description:
      - Who has to keep access. A run whose own login is not covered, or would be refused by the candidate together with the rules of other programs,
        is refused before anything changes.
      - Without it, nothing is refused beforehand and the confirmation alone decides.
    type: dict
    suboptions:
      sources:
        description: Addresses and networks that may reach SSH.
        type: list
        elements: str
        required: true
      port:
        description: The port of the SSH server of the node.
        type: int
        default: 22
  rollback_timeout:
    description: Seconds until an unconfirmed change is undone, between 5 and 600.
    type: int
    default: 30
  phase:
    description: What the action plugin asks of the node. Leave it out.
    type: str
    choices: [apply, confirm, outcome]
    default: apply
  change_id:
    description: Names a change between the phases. Set by the action plugin.
    type: str
  nonce:
    description: Proves in the phase V(confirm) that this is the node on which the change was made. Set by the action plugin.
    type: str
  proof:
    description:
      - What the node answered to the phase V(confirm) over another connection, after it had loaded the change. Who brings it over a new one has
        connected under the new rules. Set by the action plugin.
    type: str
  transport:
    description: The type of connection that the controller uses. Set by the action plugin.
    type: str
    default: ssh
  signed:
    description: The controller's signature over O(content). Set by the action plugin where C(vllm_guard_signing_key) names a key.
    type: dict
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
attributes:
  check_mode:
    support: full
    details: On a node without C(nft) the prediction is made from the text alone, and says so.
  diff_mode:
    support: full
    details: Shows rules and set elements that are added, removed, moved or changed.
  platform:
    support: full
    platforms: linux
  action:
    support: full
  async:
    support: none
  bypass_host_loop:
    support: none
notes:
  - Needs root, systemd 244 or newer and C(nft) on the node; Linux 4.18 or newer.
  - Over a connection that does not cross the packet filter (local, podman, docker) a confirmation proves nothing about it; RV(confirmed_by) says so.
author:
  - vllm_mindspore.hardening contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Filter what reaches this node
  vllm_mindspore.hardening.nft_table:
    content: "{{ flows | vllm_mindspore.hardening.firewall_ruleset(administrators=['10.77.0.1']) }}"
    management:
      sources: [10.77.0.1]
    rollback_timeout: 30
  become: true

- name: Take the filter of this collection away
  vllm_mindspore.hardening.nft_table:
    state: absent
  become: true
"""

RETURN = r"""
origin:
  description: Whether the difference comes from other content than was last confirmed (V(rollout)), or from a change on the node (V(foreign)).
  returned: when changed
  type: str
  sample: foreign
steps:
  description: How many rules and set elements are added, removed, moved or changed.
  returned: success
  type: int
  sample: 3
transaction:
  description: How the change was sent, V(elements) (set elements only), V(refill) (all rules, base chains stay) or V(replacement) (the whole table).
  returned: when the loaded rules change
  type: str
  sample: elements
confirmed_by:
  description: What proved that the node stays reachable.
  returned: when the loaded rules changed
  type: str
  sample: new ssh connection from 10.77.0.1
files:
  description: Files that were or would be written, so that the rules are loaded at boot.
  returned: success
  type: list
  elements: str
company:
  description: Other programs that keep packet filter rules on the node. Their tables are left alone.
  returned: success
  type: list
  elements: dict
  sample: [{"name": "docker", "evidence": "chain DOCKER in table ip nat", "forwards": true}]
missing_users:
  description: Users of O(content) that do not exist on the node yet.
  returned: success
  type: list
  elements: str
previous_change:
  description: What became of the last change where it was not confirmed, and why.
  returned: when the last change was not confirmed
  type: dict
  sample: {"id": "20260101T000000-0a1b2c", "outcome": "rolled back", "begun": "2026-01-01T00:00:00Z", "login": "10.77.0.1 51234 10.77.0.11 22",
           "reason": "no new connection confirmed it within 30 s"}
"""

import hashlib
import ipaddress
import json
import os
import secrets
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import applied, firewall_company, guard, nft_change, nft_ruleset, sealing, signing
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.confirmed_change import ChangeError, Journal, Staged, login, now, utc
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_boot import (
    DROP_IN,
    LINK,
    PERMANENT,
    RULES,
    UNIT,
    VOLATILE,
    differing,
    files_for,
    loose,
    service_text,
    stage,
    tighten,
)
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_users import Users, named_users, resolve_users
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_ruleset import RulesetUnreadable
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_snapshot import NftError, Table, fingerprint, in_private_network

FAMILY = "inet"
NAME = "vllm_hardening"
TABLE = f"{FAMILY} {NAME}"

DELAY = "200ms"  # from arming to loading: time for the answer to leave the node
NETWORKED = ("ssh", "paramiko", "libssh")  # transports whose connections cross the packet filter
NO_NFT = "nft is not installed on this node: install the package nftables"


def endpoints(connection):
    """``SSH_CONNECTION`` -> the controller's address and port, the node's address and port, as this node sees them."""
    source, source_port, destination, port = connection.split()
    addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in (source, destination)]
    addresses = [getattr(address, "ipv4_mapped", None) or address for address in addresses]
    return addresses[0], int(source_port), addresses[1], int(port)


class Refusal(Exception):
    """A clear message for the user; the node is as it was."""


class Firewall:
    """One run of the module."""

    def __init__(self, module):
        self.module = module
        self.parameters = module.params
        self.nft = module.get_bin_path("nft", opt_dirs=["/usr/sbin", "/sbin"])
        self.table = Table(module.run_command, self.nft, FAMILY, NAME)
        self.journal = Journal(VOLATILE, PERMANENT)
        self.result = {"changed": False}

    # -- apply --------------------------------------------------------------------------------------------------------

    def apply(self):
        check = self.module.check_mode
        present = self.parameters["state"] == "present"
        content, missing, users = "", [], Users(pretend=check)
        if present:
            content, missing = resolve_users(self.parameters["content"], users)
        self.result["missing_users"] = sorted(set(missing + users.missing))
        if os.geteuid():
            raise Refusal("root is needed to read and change the packet filter; add become: true")
        self.admit()
        if not check:
            self.lock = self.journal.lock()
        state = self.recover()
        self.result["company"] = company = firewall_company.detect()
        self.covered()
        live = self.table.read()
        digest = hashlib.sha256(content.encode()).hexdigest()
        confirmed = state.get("confirmed", {})
        trial = None
        if present and not (confirmed.get("content") == digest and live and confirmed.get("canonical") == fingerprint(live)):
            trial = self.trial(content, live)
        elif not present and live:
            if not self.nft and not check:
                raise Refusal(f"{NO_NFT}, so the table {TABLE} cannot be removed")
            trial = {"canonical": "", "want": None, "have": self.table.describe() if self.nft else None,
                     "kind": "replacement", "text": nft_change.removal(TABLE), "previous": self.previous(), "same": False}
        filters = trial is not None and not trial["same"]
        files = files_for(TABLE, content, self.nft or "/usr/sbin/nft", service_text()) if present else {}
        stale = differing(files) if present else [path for path in (RULES, UNIT, LINK, DROP_IN) if os.path.lexists(path)]

        opened = loose() if present else []
        self.warn(company, present)
        steps = nft_change.difference(trial["have"], trial["want"]) if filters else []
        if filters and not steps:
            steps = [("changed", f"table {TABLE}", "flags, comments, or the order of its chains")]
        self.result.update(changed=bool(filters or stale or opened), files=stale, steps=len(steps))
        files_changed = [("changed" if present else "removed", "file", path) for path in stale] + [("changed", "directory", path) for path in opened]
        self.result["diff"] = {"prepared": named_users(nft_change.diff_text(steps + files_changed), users.names)}
        if filters:
            self.result["transaction"] = trial["kind"]
        if self.result["changed"]:
            self.result["origin"] = "foreign" if present and confirmed.get("content") == digest else "rollout"
        if check or not (self.result["changed"] or self.owes_signature(confirmed)):
            return
        for path in opened:
            tighten(path)
        if not (filters or stale or self.owes_signature(confirmed)):
            return
        record = {"content": digest, "canonical": trial["canonical"] if filters else fingerprint(live)}
        signed = self.parameters["signed"] or (confirmed.get("signed") if confirmed.get("source") == self.parameters["content"] else None)
        if signed and present:
            record.update(signed=signed, source=self.parameters["content"])
        try:
            key = sealing.read_key()
        except sealing.Untrusted as error:
            raise Refusal(f"{error}; nothing was changed") from None
        if key:
            record["seal"] = sealing.seal(key, *sealing.firewall_parts(record))
        if filters:
            self.change(trial, record, files, stale)
        else:
            self.settle(files, stale, record)

    def admit(self):
        """Refuse what is not signed as it should be, before anything is looked at."""
        content, signed = self.parameters["content"], self.parameters["signed"]
        demanded = signing.demanded()
        if demanded and self.parameters["state"] == "absent":
            raise Refusal("the guard of this node takes only what the controller signed, and would put the filter back: apply the role vllm_guard with "
                          "vllm_guard_state: absent first; nothing was changed")
        try:
            new = demanded and self.journal.state().get("confirmed", {}).get("source") != content
            if signed and self.parameters["state"] == "present":
                signing.accept(signed, guard.CONCERN, guard.source_digest(content), signing.accepted(guard.CONCERN) if new else 0)
            elif new:
                raise sealing.Untrusted("the guard of this node takes only what the controller signed, and these are new rules that are not: run where "
                                        "vllm_guard_signing_key is, or apply the role vllm_guard without that variable first")
        except sealing.Untrusted as error:
            raise Refusal(f"{error}; nothing was changed") from None

    def owes_signature(self, confirmed):
        """Whether the loaded rules are right, and only their record has to be signed, or by another key."""
        signed = self.parameters["signed"]
        if not signed or self.parameters["state"] == "absent":
            return False
        return confirmed.get("source") != self.parameters["content"] or not applied.still_signed(confirmed.get("signed"), signed)

    def covered(self):
        """Refuse management sources that do not contain this very run, before anything is tried."""
        self.login = login() if self.parameters["transport"] in NETWORKED else None
        management = self.parameters["management"]
        if not management or not self.login:
            return
        address, dummy, destination, port = endpoints(self.login)
        try:
            networks = [ipaddress.ip_network(text) for text in management["sources"]]
        except ValueError as error:
            raise Refusal(f"management: {error}") from None
        if not any(address in network for network in networks if network.version == address.version):
            raise Refusal(
                f"this run reaches the node from {address} (what the node sees, behind any NAT or bastion), and vllm_firewall_administrators = "
                f"{', '.join(management['sources'])} does not contain it: the next login would be refused. Add {address} or its network.")
        if port != management["port"]:
            raise Refusal(
                f"this run reaches SSH of the node at {destination} port {port}, and vllm_firewall_ssh_port = {management['port']} opens another: "
                f"the next login would be refused. Write vllm_firewall_ssh_port: {port}.")

    def proved(self, candidate):
        """Refuse a candidate that is proved, together with the rules of everybody else, to refuse the next login."""
        if not self.parameters["management"] or not self.login:
            return
        # Only a run that changes rules needs the evaluator, and compiling it is most of such a run's time.
        from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_proof import verify
        from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.host_network import HostUnreadable, read_host

        address, dummy, destination, port = endpoints(self.login)
        try:
            host = read_host()
        except HostUnreadable:
            host = None  # the proof then treats addresses and routes as unknown, which never refuses
        tables = [table for table in nft_ruleset.read_ruleset()["tables"] if (table["family"], table["name"]) != (FAMILY, NAME)]
        policy = {
            "allow": [{"name": "management", "sources": [str(address)], "destinations": [str(destination)], "protocol": "tcp", "ports": [str(port)],
                       "reason": "the login of this run"}],
            "permit": [{"name": "anything"}], "forward": None,
        }
        result = verify({"tables": tables + [nft_ruleset.from_json(candidate)]}, host, policy, families=("ip" if address.version == 4 else "ip6",))
        for flow in result["flows"]:
            if flow["status"] == "broken":
                step = (flow["trace"] or [{}])[-1]
                where = " ".join(str(step[key]) for key in ("family", "table", "chain") if step.get(key))
                raise Refusal(f"the new rules would refuse the next login from {address} to {destination} port {port}: its {flow['phase']} packet is "
                              f"{flow['outcome']}{' in ' + where if where else ''}{' by: ' + step['rule'] if step.get('rule') else ''}. Nothing was changed.")

    def previous(self):
        text = self.table.text() if self.nft else ""
        return nft_change.replacement(TABLE, text) if text else nft_change.removal(TABLE)

    def trial(self, content, live):
        """Load the candidate where it can do no harm, and find a transaction and a rollback that are proved to work."""
        if not self.nft:
            if not self.module.check_mode:
                raise Refusal(f"{NO_NFT}, then run again; nothing was changed")
            self.module.warn(f"{NO_NFT}. The prediction is made from the text alone.")
            lines = [line.strip() for line in content.splitlines() if line.startswith("\t\t") and not line.strip().startswith("#")]
            want = {"chains": {"table": {"declaration": TABLE, "rules": [{"key": line, "text": line} for line in lines]}}, "sets": {}}
            return {"canonical": "", "have": None, "want": want, "kind": "replacement", "same": False}
        now_loaded = fingerprint(live)
        have = self.table.describe() if live else None
        previous = self.previous()
        table = self.table

        def rehearse():
            table.load(nft_change.replacement(TABLE, content))
            canonical, want = fingerprint(table.read()), table.describe()
            if canonical == now_loaded:
                return {"canonical": canonical, "same": True}
            found = {"canonical": canonical, "same": False, "want": want, "kind": None, "exact": True, "table": nft_ruleset.to_json(table.raw())}
            candidates = [("replacement", nft_change.replacement(TABLE, content))]
            if have:
                candidates.insert(0, ("refill", nft_change.refill(TABLE, have, content, want)))
            if nft_change.only_elements_differ(have, want):
                candidates.insert(0, ("elements", nft_change.element_update(TABLE, have, want)))
            for kind, text in candidates:
                table.load(previous)
                if fingerprint(table.read()) != now_loaded:
                    found["exact"] = False
                try:
                    table.load(text)
                except NftError:
                    continue
                if fingerprint(table.read()) == canonical:
                    found.update(kind=kind, text=text)
                    break
            table.load(previous)
            return found

        try:
            found = in_private_network(rehearse)
        except NftError as error:
            raise Refusal(f"the new rules do not load on this node, which is unchanged. nft said: {error}") from None
        except OSError as error:
            raise Refusal(f"the new rules cannot be tried in a private network namespace ({error.strerror}); run on the host itself, as root") from None
        if not found["same"] and not found["kind"]:
            raise Refusal("no transaction leads from the loaded rules to the new ones on this kernel; the node is unchanged")
        if not found["same"]:
            self.proved(found["table"])
        found.update(have=have, previous=previous)
        if not found["same"] and not found["exact"]:
            found["previous"] = self.confirmed_rules()
        return found

    def confirmed_rules(self):
        """The rollback of a table that nft cannot list in a loadable way (somebody else wrote into it): the last confirmed rules."""
        try:
            with open(RULES, encoding="utf-8") as stream:
                text = stream.read()
        except OSError:
            raise Refusal(f"the loaded table {TABLE} cannot be put back from its listing, and there are no confirmed rules in {RULES} to return to; "
                          f"remove it by hand (nft delete table {TABLE}) and run again") from None
        self.module.warn(f"The loaded table {TABLE} was written by somebody else in a way that its listing does not load again; "
                         "a rollback would return to the last confirmed rules instead.")
        return text

    def warn(self, company, present):
        content = self.parameters["content"] or ""
        if present and "forwarding refused" in content:
            for one in company:
                if one["forwards"]:
                    self.module.warn(f"{one['name']} is present ({one['evidence']}) and this filter refuses all forwarding, also for containers; "
                                     "write vllm_firewall_forwarding: containers where they need the network.")
        if self.result["missing_users"]:
            self.module.warn(f"Users that do not exist yet: {', '.join(self.result['missing_users'])}. Their egress is limited from the next run on.")

    def change(self, trial, record, files, stale):
        """Arm the rollback, change the rules. The confirmation is the next phase's."""
        if not os.path.isdir("/run/systemd/system"):
            raise Refusal("this node does not run systemd, which has to put the previous rules back if the new ones lock you out")
        systemd_run = self.module.get_bin_path("systemd-run", required=True)
        seconds = self.parameters["rollback_timeout"]
        identifier = self.parameters["change_id"] or time.strftime("%Y%m%dT%H%M%S-") + secrets.token_hex(3)
        present = self.parameters["state"] == "present"
        record.update(at=utc(), id=identifier)
        change = {
            "id": identifier, "nonce": secrets.token_hex(16), "boot": self.journal.identity(), "begun": utc(), "deadline": now() + seconds,
            "seconds": seconds, "login": self.login, "canonical": trial["canonical"], "staged": stale, "present": present,
        }
        state_files = {self.journal.state_file: _json({"confirmed": record} if present else {})}
        staged = stale + list(state_files) if present else list(state_files)
        try:
            begun = dict(self.journal.state(), pending={key: value for key, value in change.items() if key != "nonce"})
            stage({self.journal.state_file: _json(begun)}, [self.journal.state_file])
            Staged.commit([self.journal.state_file])
            stage({**files, **state_files}, staged)
            change["staged"] = staged
            change_path, rollback_path = self.journal.begin(change, {"change": trial["text"], "previous": trial["previous"]}, self.nft, staged)
        except OSError as error:
            self.disarm(identifier, staged)
            raise Refusal(f"{error.filename or PERMANENT}: {error.strerror}; nothing was changed") from None
        for purpose, delay, path in (("rollback", f"{seconds}s", rollback_path), ("change", DELAY, change_path)):
            retry = ["--property=Restart=on-failure", "--property=RestartSec=1"] if purpose == "rollback" else []
            code, dummy, error = self.module.run_command([
                systemd_run, "--quiet", "--collect", f"--unit=vllm-hardening-{purpose}-{identifier}", f"--on-active={delay}",
                "--timer-property=AccuracySec=10ms", "--property=Type=oneshot", *retry, "/bin/sh", path])
            if code:
                self.disarm(identifier, staged)
                raise Refusal(f"systemd does not arm the {purpose}: {error.strip()}; nothing was changed")
        self.result["change"] = {"id": identifier, "nonce": change["nonce"], "seconds": seconds, "login": self.login}

    def disarm(self, identifier, staged):
        """Take a change back that did not begin."""
        self.module.run_command(["systemctl", "stop", f"vllm-hardening-change-{identifier}.timer", f"vllm-hardening-rollback-{identifier}.timer"])
        self.journal.forget(identifier)
        Staged.discard(staged)
        state = self.journal.state()
        if state.pop("pending", None):
            try:
                stage({self.journal.state_file: _json(state)}, [self.journal.state_file])
            except OSError:
                return  # a full disk: the next run finds a change that /run does not know and tells it
            Staged.commit([self.journal.state_file])

    def settle(self, files, stale, record):
        """The loaded rules are right already; only files are not."""
        record.update(at=utc(), id="files")
        if files:
            files = {**files, self.journal.state_file: _json({"confirmed": record})}
            try:
                stage(files, stale + [self.journal.state_file])
            except OSError as error:
                Staged.discard(files)
                raise Refusal(f"{error.filename}: {error.strerror}; nothing was changed") from None
            Staged.commit(stale + [self.journal.state_file])
        else:
            self.remove_files()
        self.reload(stale)

    def remove_files(self):
        for path in (LINK, DROP_IN, UNIT, RULES, self.journal.state_file, self.journal.outcome_file):
            if os.path.lexists(path):
                os.unlink(path)
        for path in (os.path.dirname(DROP_IN), os.path.dirname(RULES), PERMANENT, os.path.dirname(PERMANENT)):
            try:
                os.rmdir(path)
            except OSError:
                continue

    def reload(self, paths):
        if any(path in (UNIT, LINK, DROP_IN) for path in paths):
            code, dummy, error = self.module.run_command(["systemctl", "daemon-reload"])
            if code:
                self.module.warn(f"systemctl daemon-reload: {error.strip()}")

    def recover(self):
        """Finish what earlier runs left, tell what became of it, and refuse while another change is open. Returns the state."""
        check = self.module.check_mode
        for identifier, (state, record) in self.journal.changes().items():
            if state == "pending" and now() < record["deadline"] + 2:
                raise ChangeError(f"another change of the firewall of this node waits for its confirmation: {identifier}, begun {record['begun']} "
                                  f"from {record['login'] or 'the node itself'}; without one it is undone in {max(0, record['deadline'] - now()):.0f} s. "
                                  "Run again after that")
            if state in ("pending", "rolling-back") and not check:
                code, dummy, error = self.module.run_command(["/bin/sh", os.path.join(self.journal.directory(identifier), "rollback"), "once"])
                if code:
                    raise ChangeError(f"the change {identifier} was not confirmed, and nft does not load the rules of before: {error.strip()}", state)
            if state == "refused":
                self.tell(record, "refused", f"nft refused the change: {self.journal.complaint(identifier)}")
            elif state != "confirmed" and record:
                self.tell(record, "rolled back", f"no new connection confirmed it within {record['seconds']} s")
            if not check:
                self.journal.forget(identifier)
        state = self.journal.state()
        pending = state.get("pending")
        if pending and "previous_change" not in self.result:
            if os.path.exists(self.journal.outcome_file):
                self.tell(pending, "rolled back", f"no new connection confirmed it within {pending['seconds']} s")
            else:
                self.tell(pending, "gone with a restart", "the node restarted before the change was confirmed and loaded the rules of before")
        if pending and not check:
            state.pop("pending")
            stage({self.journal.state_file: _json(state)}, [self.journal.state_file])
            Staged.commit([self.journal.state_file])
            Staged.discard([RULES, UNIT, LINK, DROP_IN])
            if os.path.exists(self.journal.outcome_file):
                os.unlink(self.journal.outcome_file)
        return state

    def tell(self, record, outcome, reason):
        self.result["previous_change"] = {"id": record["id"], "outcome": outcome, "begun": record["begun"], "login": record["login"], "reason": reason}
        self.module.warn(f"The change of {record['begun']} (from {record['login'] or 'the node itself'}) was {outcome}: {reason}.")

    # -- the phases after -----------------------------------------------------------------------------------------------

    def confirm(self):
        identifier = self.parameters["change_id"] or ""
        token, change = self.journal.token(identifier)
        if change and (self.parameters["nonce"] != change["nonce"] or self.journal.identity() != change["boot"]):
            raise ChangeError("another node, or another boot of it, answers at this address", "foreign")
        seen = login()
        over_network = self.parameters["transport"] in NETWORKED
        if token == "pending":
            if over_network and seen == change["login"]:
                raise ChangeError(f"the confirmation came over the connection on which the change was made ({seen or 'unknown'}), which proves nothing",
                                  "pending")
            self.await_load(identifier, change)
            if over_network and self.journal.token(identifier)[0] == "pending" and not self.journal.came_after(identifier, self.parameters["proof"], seen):
                self.result["proof"] = self.journal.ask_again(identifier, seen or "")
                return
            self.take(identifier, change)
        elif token != "confirmed":  # confirmed: the answer to an earlier confirmation got lost, and what follows may be done twice
            self.lost(identifier, token)
        self.module.run_command(["systemctl", "stop", f"vllm-hardening-rollback-{identifier}.timer"])
        try:
            if change["present"]:
                Staged.commit(change["staged"])
            else:
                Staged.discard(change["staged"])
                self.remove_files()
        except OSError as error:
            raise ChangeError(f"the new rules are loaded and confirmed, but not written for the next boot: {error.filename}: {error.strerror}; "
                              "mend that and run again", "confirmed") from None
        self.reload(change["staged"] if change["present"] else [UNIT])
        transport = self.parameters["transport"]
        self.result["confirmed_by"] = (f"new {transport} connection from {seen.split()[0]}" if over_network and seen
                                       else f"nothing: the connection {transport} does not cross the packet filter")

    def await_load(self, identifier, change):
        """Wait until the change script has run, until the deadline at most."""
        while not self.journal.loaded(identifier) and now() < change["deadline"]:
            time.sleep(0.05)

    def take(self, identifier, change):
        """Confirm a pending change whose rules, and no others, are loaded."""
        if self.journal.token(identifier)[0] == "pending" and fingerprint(self.table.read()) != change["canonical"]:
            raise ChangeError("another program changed the table since; the previous rules will be put back", "pending")
        try:
            self.journal.confirm(identifier)
        except ChangeError:
            self.lost(identifier, self.journal.token(identifier)[0])

    def lost(self, identifier, token):
        """Say why a change cannot be confirmed any more."""
        if token == "refused":
            raise ChangeError(f"nft refused the change, the rules are as they were: {self.journal.complaint(identifier)}", token)
        raise ChangeError(f"the change {identifier} is {token or 'not known to this node (it restarted, or another node answers at this address)'}",
                          token or "unknown")

    def outcome(self):
        token, dummy = self.journal.token(self.parameters["change_id"] or "")
        self.result["outcome"] = token or "unknown"


def _json(value):
    return json.dumps(value, sort_keys=True, indent=1) + "\n"


def main():
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "content": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "management": {"type": "dict", "options": {
                "sources": {"type": "list", "elements": "str", "required": True},
                "port": {"type": "int", "default": 22},
            }},
            "rollback_timeout": {"type": "int", "default": 30},
            "phase": {"type": "str", "choices": ["apply", "confirm", "outcome"], "default": "apply"},
            "change_id": {"type": "str"},
            "nonce": {"type": "str", "no_log": False},
            "proof": {"type": "str"},
            "transport": {"type": "str", "default": "ssh"},
            "signed": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    if module.params["phase"] == "apply" and module.params["state"] == "present" and not (module.params["content"] or "").strip():
        module.fail_json(msg="content: is missing; write the text of the table, or state: absent")
    if not 5 <= module.params["rollback_timeout"] <= 600:
        module.fail_json(msg=f"rollback_timeout: {module.params['rollback_timeout']} is not between 5 and 600 seconds")
    firewall = Firewall(module)
    try:
        getattr(firewall, module.params["phase"])()
    except ChangeError as error:
        module.fail_json(msg=str(error), outcome=error.outcome, **firewall.result)
    except (Refusal, NftError) as error:
        module.fail_json(msg=str(error), **firewall.result)
    except RulesetUnreadable as error:
        module.fail_json(msg=f"the loaded rules cannot be read: {error}", **firewall.result)
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'the node'}: {error.strerror}", **firewall.result)
    module.exit_json(**firewall.result)


if __name__ == "__main__":
    main()

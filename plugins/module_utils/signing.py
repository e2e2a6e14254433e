# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Signatures of the controller over what a node is to be, checked on the node with OpenSSH.

What is signed is a short statement: for which node and concern, the digest of what is wanted, and a serial number that grows. The private key stays on
the controller; the node has public keys in a file that root owns. ``ssh-keygen -Y verify`` is in OpenSSH since 8.1
(PROTOCOL.sshsig first appears there); what is older is refused with these words.

A signed thing is ``{"statement": text, "signature": armoured text, "public_key": line}``.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import tempfile
import time

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.guard_history import FOLDERS, plain
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.sealing import Untrusted

NAMESPACE = "state@vllm-mindspore-hardening"
IDENTITY = "controller"
FOLDER = "/etc/vllm-guard"
SIGNERS = f"{FOLDER}/allowed_signers"
SETTINGS = f"{FOLDER}/guard.json"
SERIALS = "serials.json"  # in the guard's own directories: what it accepted
KEYGEN = ("/usr/bin/ssh-keygen", "/usr/local/bin/ssh-keygen", "/bin/ssh-keygen")
SECONDS = 20.0
AHEAD_SECONDS = 86400.0
_FIELDS = ("node", "concern", "digest", "serial")
_HEAD = "vllm_mindspore.hardening desired state 1"
_OLD = re.compile(r"(unknown|illegal|invalid) option")


def statement(node, concern, digest, serial):
    """The text that is signed."""
    return "\n".join([_HEAD, f"node {node}", f"concern {concern}", f"digest {digest}", f"serial {int(serial)}"]) + "\n"


def parse(text):
    """``{node, concern, digest, serial}`` of a statement. Raises Untrusted for any other text."""
    lines = str(text).split("\n")
    found = [line.partition(" ") for line in lines[1:-1]]
    if lines[0] != _HEAD or lines[-1] or tuple(name for name, _space, _value in found) != _FIELDS or not found[-1][2].isdigit():
        raise Untrusted("its statement is not what the controller signs")
    values = {name: value for name, _space, value in found}
    return {**values, "serial": int(values["serial"])}


def agree(text, node, concern, digest, oldest=0):
    """The serial number of a statement about just this. Raises Untrusted where it is about something else, or older than one that was accepted."""
    said = parse(text)
    for name, value in (("node", node), ("concern", concern), ("digest", digest)):
        if said[name] != value:
            raise Untrusted(f"what was signed is another {name} ({said[name][:64]})")
    if said["serial"] < oldest:
        raise Untrusted("it is older than what was accepted before: somebody brought back an earlier state, or the clock of the controller is behind")
    return said["serial"]


def allowed(public_keys):
    """The lines of a file of allowed signers for public keys as they lie in ``*.pub``."""
    return "".join(f'{IDENTITY} namespaces="{NAMESPACE}" {" ".join(key.split()[:2])}\n' for key in public_keys)


def verify(signed, signers):
    """Check a signature against a file of allowed signers. Raises Untrusted, with what to do where this node cannot check."""
    program = next((path for path in KEYGEN if os.access(path, os.X_OK)), None)
    if program is None:
        raise Untrusted("signatures cannot be checked: there is no ssh-keygen on this node (package openssh-client or openssh-clients)")
    if not isinstance(signed, dict) or not signed.get("statement") or not signed.get("signature"):
        raise Untrusted("it is not signed by the controller")
    with tempfile.NamedTemporaryFile("w", encoding="ascii", errors="replace", suffix=".sig") as signature:
        signature.write(str(signed["signature"]))
        signature.flush()
        command = [program, "-Y", "verify", "-f", signers, "-I", IDENTITY, "-n", NAMESPACE, "-s", signature.name]
        try:
            done = subprocess.run(command, input=str(signed["statement"]).encode(), capture_output=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Untrusted(f"signatures cannot be checked: {error}") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        if _OLD.search(said):
            raise Untrusted("signatures cannot be checked: ssh-keygen on this node is older than OpenSSH 8.1; update it, or leave vllm_guard_signing_key out")
        raise Untrusted(f"its signature is not one of the controller's ({said.splitlines()[-1] if said else 'ssh-keygen refuses it'})")


def verify_given(signed):
    """Check that this node can check what it is given, with the public key that came along. Raises Untrusted."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as signers:
        signers.write(allowed([signed["public_key"]]))
        signers.flush()
        verify(signed, signers.name)


def node_of(signed):
    """The node that a statement names."""
    return parse(signed["statement"])["node"]


def accept(signed, concern, digest, oldest=0):
    """Check what a run brought before it is applied: it is about this, and this node can check it. Raises Untrusted.

    oldest: what the guard would not take (accepted()), and would put back against the run. What was signed far in the future is refused, since everything
    that is signed rightly would count as older from then on.
    """
    ahead = agree(signed["statement"], node_of(signed), concern, digest, oldest) / 1e6 - time.time()
    if ahead > AHEAD_SECONDS:
        raise Untrusted(f"it was signed {ahead / 3600:.0f} hours from now, as this node counts: set the clock of the controller, or of this node")
    verify_given(signed)


def accepted(concern):
    """The highest serial number of a concern that the guard of this node accepted; 0 without any."""
    return max(_serials(os.path.join(directory, SERIALS)).get(concern, 0) for directory in FOLDERS)


def _serials(path):
    try:
        with open(path, encoding="utf-8", opener=plain) as stream:
            return {str(name): int(serial) for name, serial in json.load(stream).items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}


def demanded(settings=SETTINGS):
    """Whether the guard of this node takes only what is signed."""
    try:
        with open(settings, encoding="utf-8") as stream:
            return bool(json.load(stream).get("signed"))
    except (OSError, ValueError, AttributeError):
        return False


class Trust:
    """What a guard believes: nothing unsigned where its settings say so.

    directory: where the serial numbers are kept that were accepted, so that no earlier state comes back, not even while the guard is down;
    owner: number of the account that alone may write the file of signers.
    """

    def __init__(self, settings, directory, signers=SIGNERS, owner=0):
        self.required, self.node, self.signers, self.owner = bool(settings.get("signed")), settings.get("node"), signers, owner
        self.path = os.path.join(directory, SERIALS)
        self.accepted = _serials(self.path)  # nothing at the first start, or after a full disk: then only what is older than this start's is refused

    def check(self, signed, concern, digest):
        """Raises Untrusted where a signature is required and there is none that holds for this."""
        if not self.required:
            return
        try:
            found = os.lstat(self.signers)
        except OSError as error:
            raise Untrusted(f"{self.signers}, which says whose signatures hold, cannot be read: {error.strerror}") from None
        if found.st_uid != self.owner or found.st_mode & 0o022 or not stat.S_ISREG(found.st_mode):
            raise Untrusted(f"{self.signers} could have been written by others than root")
        if not isinstance(signed, dict) or not signed.get("statement"):
            raise Untrusted("it is not signed by the controller")
        serial = agree(signed["statement"], self.node, concern, digest, self.accepted.get(concern, 0))
        verify(signed, self.signers)
        if serial > self.accepted.get(concern, 0):
            self.accepted[concern] = serial
            self.keep()

    def keep(self):
        """Write the accepted serial numbers."""
        try:
            with open(self.path + ".new", "w", encoding="utf-8") as stream:
                json.dump(self.accepted, stream, sort_keys=True)
            os.replace(self.path + ".new", self.path)
        except OSError:
            return  # it is known for as long as the guard runs

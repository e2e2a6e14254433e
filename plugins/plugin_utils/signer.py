# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The controller's signature over what a node is to be. The key is read by ssh-keygen alone, and never sent anywhere."""

from __future__ import annotations

import os
import subprocess
import time

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import signing
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_run import plain

VARIABLE = "vllm_guard_signing_key"


class SigningError(AnsibleActionFail):
    """Nothing can be signed; the message is for the user."""


def key_of(templar, task_vars):
    """The path of the key that the inventory names, or an empty text."""
    return str(templar.template(task_vars.get(VARIABLE) or "") or "")


def as_validated(spec, arguments):
    """The arguments of a task as its module will have them, so that both halves take the digest of the same. Raises SigningError."""
    checked = ArgumentSpecValidator(spec).validate(plain(arguments))
    if checked.error_messages:
        raise SigningError("; ".join(checked.error_messages))
    return checked.validated_parameters


def signed(key, node, concern, digest):
    """A signed statement that `node` is to be `digest` as far as `concern` goes. Raises SigningError.

    key: path of a private key, or of a public one (``*.pub``) whose private half an agent holds.
    """
    key = os.path.expanduser(key)
    public = key if key.endswith(".pub") else f"{key}.pub"
    try:
        with open(public, encoding="utf-8") as stream:
            public_key = " ".join(stream.read().split()[:2])  # without the comment, which names people and machines
    except OSError as error:
        raise SigningError(f"{VARIABLE} is {key!r}, and {public} cannot be read: {error.strerror}. Where no private key may be (ansible-pull), leave it "
                           "empty: what is signed already stays so") from None
    text = signing.statement(node, concern, digest, time.time_ns() // 1000)
    environment = {**os.environ, "SSH_ASKPASS_REQUIRE": "never"}
    try:
        done = subprocess.run(["ssh-keygen", "-Y", "sign", "-f", key, "-n", signing.NAMESPACE], input=text, capture_output=True, text=True, timeout=60,
                              check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SigningError(f"{VARIABLE}: ssh-keygen could not be run on the controller: {error}") from None
    if done.returncode or "SSH SIGNATURE" not in done.stdout:
        said = done.stderr.strip()[-200:]
        raise SigningError(f"{VARIABLE} is {key!r}, with which nothing can be signed (it may want a passphrase: use an agent and name the public key): {said}")
    return {"statement": text, "signature": done.stdout, "public_key": public_key}

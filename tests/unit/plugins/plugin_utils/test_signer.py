# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The controller's half of signatures: what is signed with which key, and what is said where that cannot be."""

from __future__ import annotations

import subprocess

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.vllm_mindspore.hardening.plugins.filter.guard import guard_signers
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import applied, signing
from ansible_collections.vllm_mindspore.hardening.plugins.modules import gateway, ssh_access
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import signer


def make_key(folder, passphrase=""):
    path = folder / "state"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "somebody@somewhere", "-f", str(path)], check=True)
    return path


def test_what_the_controller_signs_the_node_accepts(tmp_path):
    signed = signer.signed(str(make_key(tmp_path)), "npu01", "vllm_network", "abc")
    signing.accept(signed, "vllm_network", "abc")
    assert signing.node_of(signed) == "npu01"
    assert "somebody" not in str(signed)
    later = signer.signed(str(tmp_path / "state"), "npu01", "vllm_network", "abc")
    assert signing.parse(later["statement"])["serial"] > signing.parse(signed["statement"])["serial"]


def test_a_key_that_is_not_there_or_wants_a_passphrase_is_named(tmp_path):
    with pytest.raises(signer.SigningError, match="vllm_guard_signing_key is .*cannot be read"):
        signer.signed(str(tmp_path / "none"), "npu01", "vllm_network", "abc")
    with pytest.raises(signer.SigningError, match="passphrase"):
        signer.signed(str(make_key(tmp_path, "secret")), "npu01", "vllm_network", "abc")


def test_signers_are_public_keys_for_this_purpose_only(tmp_path):
    line = (make_key(tmp_path).with_suffix(".pub")).read_text()
    assert guard_signers([line]) == f'controller namespaces="{signing.NAMESPACE}" {" ".join(line.split()[:2])}\n'
    assert guard_signers([]) == ""
    for bad in ("", "ssh-ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----", 'cert-authority,namespaces="*" ssh-ed25519 AAAA'):
        with pytest.raises(AnsibleFilterError, match="no public key"):
            guard_signers([bad])


def test_what_the_guard_keeps_of_the_gateway_has_no_secret_in_it():
    rendered = {"files": {"haproxy.cfg": "global\n"}, "unit": "[Service]\n"}
    kept = applied.remembered(gateway.kept(rendered, {"keys.map": "secret", "certificates/npu01.pem": "secret"}))
    assert "secret" not in str(kept)
    files = {item["path"]: item for item in kept["files"]}
    assert files["/etc/vllm-hardening/gateway/keys.map"]["ownership_only"]
    assert files["/etc/vllm-hardening/gateway/haproxy.cfg"]["content"] == "global\n"
    assert kept["reloads"] == {"/etc/vllm-hardening/gateway/haproxy.cfg": ["vllm-gateway.service"]}


def test_what_the_guard_keeps_of_ssh_is_the_drop_in_and_a_reload():
    params = {"addresses": ["10.77.0.11"], "port": 22, "groups": ["deploy"], "settings": {}, "state": "present"}
    kept = applied.remembered(ssh_access.kept(params))
    assert [item["path"] for item in kept["files"]] == [ssh_access.DROPIN]
    assert "10.77.0.11" in kept["files"][0]["content"]
    assert kept["reloads"] == {ssh_access.DROPIN: ["ssh.service", "sshd.service"]}
    assert applied.wanted_nothing(applied.remembered(ssh_access.kept({**params, "state": "absent"})))

#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin that verifies the reports of audits."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: verify_reports
short_description: Verify that the reports of audits are whole and unchanged
version_added: 0.1.0
description:
  - Runs on the controller, contacts no host and changes nothing.
  - Every audit writes a manifest with the SHA-256 of its files and of the manifest of the audit before it, and signs it where it has a key.
    The manifests of up to 10,000 earlier audits are kept in the folder C(manifests) of the directory.
  - Checks of each that it is whole, that it names its predecessor, that none between is missing, exchanged or added, and its signature; of the latest also
    that its files are those listed; and that C(history.jsonl) has the same audits.
  - Fails unless all of it holds, and names the first link that does not.
  - A directory that was brought back as a whole to what it was after an earlier audit cannot be told from one in which that audit was the last, unless
    O(expected) has the digest of a later one.
options:
  directory:
    description: The directory that audits write their reports to (C(vllm_audit_directory)), or a copy of it.
    type: path
    required: true
  allowed_signers:
    description:
      - A file of public keys as C(ssh-keygen) has it (ALLOWED SIGNERS in its manual). Every signature has to be of one of them, and the latest manifest has
        to be signed. An unsigned manifest before it is reported as such, and is covered by the signatures after it.
      - Without it no signature is checked, and whoever could write the directory could have made all of it.
    type: path
  identity:
    description: For whom the keys in O(allowed_signers) have to be listed.
    type: str
    default: audit
  expected:
    description: The SHA-256 of manifests, C(newest.digest) of earlier checks that were noted in another place. Each has to be in the chain.
    type: list
    elements: str
    default: []
  copies:
    description: Files that are said to be reports of these audits. Each has to be one that a manifest lists; the files of earlier audits are not kept.
    type: list
    elements: path
    default: []
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
attributes:
  check_mode:
    support: full
    details: It changes nothing and does the same in check mode.
  diff_mode: {support: none}
  platform: {support: full, platforms: all}
  action: {support: full}
  async: {support: none}
  bypass_host_loop: {support: none}
author:
  - vllm_mindspore.hardening contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Verify what the audits left
  vllm_mindspore.hardening.verify_reports:
    directory: /srv/audit
    allowed_signers: /etc/ansible/keys/allowed_signers
  delegate_to: localhost
  run_once: true
  register: verified

- name: Verify it against what was noted in another place, and a report that somebody sent
  vllm_mindspore.hardening.verify_reports:
    directory: /srv/audit
    allowed_signers: /etc/ansible/keys/allowed_signers
    expected: ["{{ noted_digest }}"]
    copies: [/srv/inbox/report.html]
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
problems:
  description: What does not hold, from the oldest audit on. The task fails unless it is empty.
  returned: when the directory could be read
  type: list
  elements: str
  sample: ["the manifest of run 2 is missing between /srv/audit/manifests/00000001-5f2b7c90aa31d4e8.json and /srv/audit/manifest.json;
    restore it from a backup"]
runs:
  description:
    - The audits, the oldest first, each with C(run) (its number, 0 for one of before audits were numbered), C(generated), C(verdict), C(manifest) (the file),
      C(digest), C(signature), C(files) and C(problems).
    - C(signature) is V(good), V(bad), V(unsigned), or V(unchecked) without O(allowed_signers). C(files) is V(intact) or V(changed), and
      V(replaced by later runs) for all but the latest.
  returned: when the directory could be read
  type: list
  elements: dict
newest:
  description: C(run), C(generated), C(verdict) and C(digest) of the latest audit, to be noted in another place; null where its manifest is missing or damaged.
  returned: when the directory could be read
  type: dict
  sample: {run: 3, generated: "2026-06-01T00:00:00+00:00", verdict: compliant, digest: 9a1c0e4f6b7d2853c1f0a9e8d7c6b5a4938271605f4e3d2c1b0a99887766554a}
copies:
  description: By file of O(copies), the numbers of the audits that list it.
  returned: when the directory could be read
  type: dict
  sample: {/srv/inbox/report.html: [2]}
not_listed:
  description: What else lies in the directory. The latest manifest does not list it, so that nothing is said about it.
  returned: when the directory could be read
  type: list
  elements: str
  sample: [drift.jsonl]
"""

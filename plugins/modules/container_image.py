#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A container image in podman's store of the node, known by the digest of its configuration."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: container_image
short_description: Bring a container image into podman's store without a registry
version_added: 0.1.0
author:
  - vllm_mindspore.hardening contributors (!UNKNOWN)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
description:
  - Loads an image from an archive on the node, unless the store has it. Nothing is fetched.
  - The image is named by its ID, the sha256 of its configuration, which in turn names every layer by digest. podman computes these digests
    when it loads an archive. An archive with another image is refused, and what it brought is taken out again.
attributes:
  check_mode:
    support: full
    description: Says whether an image would be loaded or removed. The digest of an archive is computed only when it is loaded.
  diff_mode:
    support: full
  platform:
    support: full
    platforms: linux
options:
  image:
    description: ID of the image, C(sha256:) and 64 hexadecimal digits, as C(podman image inspect --format '{{.Id}}') prints it.
    type: str
    required: true
  archive:
    description: Archive on the node, made by C(podman save) or C(docker save). Without it the store must have the image.
    type: path
  state:
    description: Whether the image is in the store.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Bring the serving image to the node
  vllm_mindspore.hardening.container_image:
    image: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    archive: /srv/images/vllm.tar
"""

RETURN = r"""
image:
  description: ID of the image.
  type: str
  returned: always
  sample: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
names:
  description: Names that the store has for the image.
  type: list
  elements: str
  returned: when it is there
"""

import json
import os
import re

from ansible.module_utils.basic import AnsibleModule


class Store:
    """podman's store of images on this node."""

    def __init__(self, module):
        self.module = module
        self.podman = module.get_bin_path("podman")
        if self.podman is None:
            module.fail_json(msg="podman: is not installed on this node; install it, or use vllm_runtime_software: managed")

    def run(self, *arguments, check=True):
        """Call podman; a failure ends the module with podman's words."""
        code, out, err = self.module.run_command([self.podman, *arguments])
        if check and code != 0:
            self.module.fail_json(msg=f"podman {' '.join(arguments[:3])}: {(err or out).strip()}")
        return out if code == 0 else None

    def find(self, image):
        """{image, names} of an image, or None."""
        out = self.run("image", "inspect", image.partition(":")[2], check=False)
        if out is None:
            return None
        found = json.loads(out)[0]
        return {"image": f"sha256:{found['Id']}", "names": found.get("RepoTags") or []}

    def ids(self):
        """IDs of all images."""
        return set(self.run("images", "--quiet", "--no-trunc").split())


def main():
    """Look for the image, load or remove it."""
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True}, "archive": {"type": "path"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    image, archive, absent = module.params["image"], module.params["archive"], module.params["state"] == "absent"
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", image):
        module.fail_json(msg=f"image: {image!r} is no ID of an image; write sha256: and the 64 digits that podman image inspect --format '{{{{.Id}}}}' prints")
    if absent and module.get_bin_path("podman") is None:
        module.exit_json(changed=False, image=image)
    store = Store(module)
    found = store.find(image)
    result = {"changed": (found is not None) == absent, "image": image, **(found or {})}
    if module._diff and result["changed"]:
        sides = {"before": f"{image}\n" if absent else "", "after": "" if absent else f"{image}\n"}
        result["diff"] = {**sides, "before_header": "podman images", "after_header": "podman images"}
    if not result["changed"]:
        module.exit_json(**result)
    if absent:
        if not module.check_mode:
            store.run("image", "rm", "--force", image.partition(":")[2])
        module.exit_json(**result)
    if not archive:
        module.fail_json(msg=f"image: {image} is not in podman's store of this node; load it, or name an archive of it in vllm_runtime_image_archive")
    if not os.path.isfile(archive):
        module.fail_json(msg=f"archive: {archive} is not there on this node; copy or mount it there")
    if not module.check_mode:
        before = store.ids()
        store.run("load", "--quiet", "--input", archive)
        found = store.find(image)
        if found is None:
            brought = sorted(store.ids() - before)
            for other in brought:
                store.run("image", "rm", other.partition(":")[2])
            module.fail_json(msg=f"archive: {archive} holds {', '.join(brought) or 'an image that the store had'}, not {image}; "
                             "fetch the archive of that image, or correct vllm_runtime_image")
        result.update(found)
    module.exit_json(**result)


if __name__ == "__main__":
    main()

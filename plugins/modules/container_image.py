#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A container image in the store of podman or docker of the node, known by the digest of its configuration."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: container_image
short_description: Bring a container image into the store of podman or docker without a registry
version_added: 0.1.0
author:
  - vllm_mindspore.hardening contributors (!UNKNOWN)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
description:
  - Loads an image from an archive on the node, unless the store has it. Nothing is fetched.
  - The image is named by its ID, the sha256 of its configuration, which in turn names every layer by digest. The container engine computes these
    digests when it loads an archive. An archive with another image is refused, and what it brought is taken out again.
  - docker has to keep its images with the driver C(overlay2), as its engine does without containerd's image store; the roots of other drivers
    cannot be mounted without starting a container.
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
  engine:
    description: Whose store on the node keeps the image.
    type: str
    choices: [podman, docker]
    default: podman
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
former:
  description: ID of the image out of which the instances of the node run so far, where that is another one; else empty.
  type: str
  returned: always
  sample: ""
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


UNIT = "/etc/systemd/system/vllm-image.service"
ID = re.compile("sha256:[0-9a-f]{64}")


class Store:
    """The images of a container engine on this node."""

    def __init__(self, module):
        self.module, self.engine = module, module.params["engine"]
        self.program = module.get_bin_path(self.engine)
        if self.program is None:
            module.fail_json(msg=f"{self.engine}: is not installed on this node; install it, or use vllm_runtime_software: managed")

    def run(self, *arguments, check=True):
        """Call the engine; a failure ends the module with its words."""
        code, out, err = self.module.run_command([self.program, *arguments])
        if check and code != 0:
            self.module.fail_json(msg=f"{self.engine} {' '.join(arguments[:3])}: {(err or out).strip()}")
        return out if code == 0 else None

    def refuse_other_drivers(self):
        """End the module where docker keeps images in a way out of which no root can be made."""
        if self.engine != "docker":
            return
        driver = self.run("info", "--format", "{{.Driver}}").strip()
        if driver != "overlay2":
            self.module.fail_json(msg=f"docker: keeps its images with the driver {driver}, out of which no root can be made; set the feature "
                                  "containerd-snapshotter to false in docker's daemon.json, or keep the image in podman's store")

    def find(self, image):
        """{image, names} of an image, or None."""
        out = self.run("image", "inspect", image.partition(":")[2], check=False)
        if out is None:
            # It is not there, unless the engine does not answer at all.
            self.ids()
            return None
        found = json.loads(out)[0]
        return {"image": f"sha256:{found['Id'].rpartition(':')[2]}", "names": found.get("RepoTags") or []}

    def ids(self):
        """IDs of all images."""
        return set(self.run("images", "--all", "--quiet", "--no-trunc").split())


def former(image):
    """The image that the unit of the node's images names, where it is another one; else nothing."""
    try:
        with open(UNIT, encoding="utf-8") as handle:
            named = ID.search(handle.read())
    except OSError:
        return ""
    return named[0] if named and named[0] != image else ""


def main():
    """Look for the image, load or remove it."""
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True}, "archive": {"type": "path"},
            "engine": {"type": "str", "choices": ["podman", "docker"], "default": "podman"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    image, archive, absent = module.params["image"], module.params["archive"], module.params["state"] == "absent"
    if not ID.fullmatch(image):
        module.fail_json(msg=f"image: {image!r} is no ID of an image; write sha256: and the 64 digits that podman image inspect --format '{{{{.Id}}}}' prints")
    if absent and module.get_bin_path(module.params["engine"]) is None:
        module.exit_json(changed=False, image=image, former=former(image))
    store = Store(module)
    if not absent:
        store.refuse_other_drivers()
    found = store.find(image)
    result = {"changed": (found is not None) == absent, "former": former(image), "image": image, **(found or {})}
    if module._diff and result["changed"]:
        sides = {"before": f"{image}\n" if absent else "", "after": "" if absent else f"{image}\n"}
        result["diff"] = {**sides, "before_header": f"{store.engine} images", "after_header": f"{store.engine} images"}
    if not result["changed"]:
        module.exit_json(**result)
    if absent:
        if not module.check_mode:
            store.run("image", "rm", "--force", image.partition(":")[2])
        module.exit_json(**result)
    if not archive:
        module.fail_json(msg=f"image: {image} is not in the store of {store.engine} of this node; load it, or name an archive of it "
                             "in vllm_runtime_image_archive")
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

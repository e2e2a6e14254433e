# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The store of a container engine that answers, and of one that does not."""

from __future__ import annotations

import json

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.modules import container_image

IMAGE = "sha256:" + "ab" * 32


class Ended(Exception):
    """The module ended with this message."""


class Module:
    """What a store needs of AnsibleModule; ``answers`` maps the first words of a command to (code, out, err)."""

    def __init__(self, answers):
        self.params, self.answers = {"engine": "docker"}, answers

    def get_bin_path(self, name):
        """Every engine is installed."""
        return f"/usr/bin/{name}"

    def run_command(self, command):
        """As AnsibleModule.run_command."""
        return self.answers[command[1]]

    def fail_json(self, msg):
        """As AnsibleModule.fail_json."""
        raise Ended(msg)


DOWN = (1, "", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?")


def test_an_image_that_the_store_has():
    found = [{"Id": IMAGE, "RepoTags": ["serving:1"]}]
    assert container_image.Store(Module({"image": (0, json.dumps(found), "")})).find(IMAGE) == {"image": IMAGE, "names": ["serving:1"]}


def test_an_image_that_the_store_lacks():
    assert container_image.Store(Module({"image": (1, "", "Error: No such image"), "images": (0, "", "")})).find(IMAGE) is None


def test_an_engine_that_does_not_answer_lacks_nothing():
    with pytest.raises(Ended, match="Cannot connect to the Docker daemon"):
        container_image.Store(Module({"image": DOWN, "images": DOWN})).find(IMAGE)

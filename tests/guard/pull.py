# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A node that corrects itself with ansible-pull from a repository, as docs/drift.md has it: signed commits are run, others are not.

    python3 tests/guard/pull.py [--lab NAME --block 10.NN] [--keep]

The node gets this machine's Ansible and this checkout by read-only mounts. Leaves with 1 where anything is otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from faults.node import CHECKOUT, Node

LAB = str(CHECKOUT / "tests/lab/lab")
COLLECTION = "/usr/share/ansible/collections/ansible_collections/vllm_mindspore/hardening"
KEY = "net.ipv4.conf.eth1.accept_redirects"
REPOSITORY = "/srv/cluster.git"
GIT = "[gpg]\n\tformat = ssh\n[gpg \"ssh\"]\n\tallowedSignersFile = /etc/vllm-drift-signers\n[safe]\n\tdirectory = *\n"
SEEN_ALL = 3  # nothing is left that the node can see; it cannot probe itself from elsewhere


def documented_units():
    """The service and the timer as the documentation has them."""
    text = (CHECKOUT / "docs/drift.md").read_text()
    block = re.search(r"(    # /etc/systemd/system/vllm-drift\.service\n.*?)\n\n[^ \n]", text, re.DOTALL)[1]
    lines = "\n".join(line[4:] for line in block.splitlines())
    service, timer = re.split(r"# /etc/systemd/system/vllm-drift\.timer\n", lines)
    service = service.replace("https://git.example.com/cluster.git", f"file://{REPOSITORY}")
    return service.replace("/usr/bin/ansible-pull", f"{sys.prefix}/bin/ansible-pull"), timer


class Pull:
    """The node, the repository, and what went wrong."""

    def __init__(self, options, folder):
        self.options, self.folder, self.wrong = options, folder, 0
        self.work, self.bare = folder / "work", folder / "cluster.git"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(self.bare), where=folder)
        self.git("init", "--quiet", "--initial-branch=main", str(self.work), where=folder)

    def git(self, *words, where=None):
        """Run git as a committer of the site."""
        settings = ("user.name=Operations", "user.email=ops@example.com", "gpg.format=ssh", f"user.signingkey={self.folder}/key")
        subprocess.run(["git", *(word for setting in settings for word in ("-c", setting)), *words], cwd=where or self.work, check=True, capture_output=True)

    def commit(self, message, signed):
        """Commit everything, and push."""
        self.git("add", "--all")
        self.git("commit", "--quiet", *(["-S"] if signed else ["--no-gpg-sign"]), "--message", message)
        self.git("push", "--quiet", str(self.bare), "main")

    def variables(self, more=""):
        """Write the variables of the cluster; the controller, which is not this run, still reaches the node from its own address."""
        (self.work / "group_vars/vllm_nodes.yml").write_text(
            f"vllm_cluster_instances: []\nvllm_audit_directory: /var/lib/vllm-drift-report\nvllm_cluster_controller: {self.options.block}.0.1\n{more}")

    def up(self):
        """The lab, provisioned from the controller."""
        base = Path(sysconfig.get_config_var("prefix") or sys.base_prefix)
        mounts = [f"{self.bare}:{REPOSITORY}:ro", f"{CHECKOUT}:{COLLECTION}:ro", f"{sys.prefix}:{sys.prefix}:ro"]
        mounts += [] if base.is_relative_to("/usr") else [f"{sys.base_prefix}:{sys.base_prefix}:ro"]
        subprocess.run([LAB, "up", "--name", self.options.lab, "--block", self.options.block, "--hosts", "npu01", "--root", "bookworm+git",
                        *(word for mount in mounts for word in ("--mount", mount))], check=True)
        self.node = Node(self.options.lab, "npu01")
        inventory = self.node.files / "inventory.yml"
        (self.work / "inventory.yml").write_text(inventory.read_text())
        (self.work / "group_vars").mkdir()
        self.variables()
        (self.work / "drift.yml").write_text("---\n- ansible.builtin.import_playbook: vllm_mindspore.hardening.drift\n")
        (self.folder / "site.yml").write_text("---\n- ansible.builtin.import_playbook: vllm_mindspore.hardening.plan\n"
                                              "- ansible.builtin.import_playbook: vllm_mindspore.hardening.provision\n")
        done = subprocess.run(["ansible-playbook", "-i", str(self.work / "inventory.yml"), str(self.folder / "site.yml")], cwd=CHECKOUT, capture_output=True,
                              text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the node could not be provisioned:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
        service, timer = documented_units()
        public = (self.folder / "key.pub").read_text().split()
        for path, text in (("etc/systemd/system/vllm-drift.service", service), ("etc/systemd/system/vllm-drift.timer", timer),
                           ("etc/vllm-drift-signers", f"ops@example.com {public[0]} {public[1]}\n"),
                           ("etc/gitconfig", GIT)):
            self.node.path(path).write_text(text)
        self.node.run("hostname", "npu01")
        self.node.run("systemctl", "daemon-reload")
        self.node.run("systemctl", "enable", "--quiet", "vllm-drift.timer")

    def deviate_and_pull(self):
        """Change a parameter, and let the service run; ``(its exit status, the parameter afterwards, the journal)``."""
        self.node.run("sysctl", "-qw", f"{KEY}=1")
        self.node.run("systemctl", "start", "vllm-drift.service", check=False)
        shown = self.node.run("systemctl", "show", "--property=ExecMainStatus", "--value", "vllm-drift.service").strip()
        journal = self.node.run("journalctl", "--quiet", "--no-pager", "--output=cat", "--unit=vllm-drift.service", "--lines=200")
        return int(shown or -1), self.node.run("sysctl", "-n", KEY).strip(), journal

    def expect(self, what, good, journal):
        """Print one outcome."""
        self.wrong += not good
        print(f"{'ok   ' if good else 'WRONG'} {what}{'' if good else f'{chr(10)}{journal[-4000:]}'}", flush=True)

    def run(self):
        """A signed commit, an unsigned one, and a signed one again."""
        self.commit("Describe the cluster", True)
        status, value, journal = self.deviate_and_pull()
        self.expect(f"a signed commit is run: the parameter is {value}, exit status {status}", (status, value) == (SEEN_ALL, "0"), journal)
        self.variables("vllm_network_state: absent\n")
        self.commit("Not signed", False)
        status, value, journal = self.deviate_and_pull()
        self.expect(f"an unsigned commit is not run: the parameter is {value}, exit status {status}", status not in (0, 3, 4) and value == "1", journal)
        self.variables()
        self.commit("Signed again", True)
        status, value, journal = self.deviate_and_pull()
        self.expect(f"the next signed commit is: the parameter is {value}, exit status {status}", (status, value) == (SEEN_ALL, "0"), journal)
        history = json.loads(self.node.path("var/lib/vllm-drift-report/deviations.json").read_text())["deviations"]
        corrected = [one for one in history if one["control"] == "NET-05" and one["by"] == "drift correction"]
        self.expect(f"the node's own report has the history of {len(corrected)} corrections", len(corrected) == 2, json.dumps(history))


def main():
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lab", default="guard-pull")
    parser.add_argument("--block", default="10.86")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        pull = Pull(options, Path(folder))
        try:
            pull.up()
            pull.run()
        finally:
            if not options.keep:
                subprocess.run([LAB, "down", "--name", options.lab], check=False)
    return 1 if pull.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The filters ``guard_program`` (the guard and the modules that it imports, as files that `node_state` puts on a node) and ``guard_signers``."""

from __future__ import annotations

import os
import re

from ansible.errors import AnsibleFilterError

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import signing

PACKAGE = "ansible_collections/vllm_mindspore/hardening/plugins/module_utils"
UTILS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "module_utils")
_FROM = re.compile(r"^\s*from ansible_collections\.vllm_mindspore\.hardening\.plugins\.module_utils(?:\.(\w+))? import (\([^)]*\)|[^\n]*)", re.MULTILINE)


def imported(text):
    """Names of the modules of module_utils that a source imports."""
    names = set()
    for module, what in _FROM.findall(text):
        names |= {module} if module else {name.strip() for name in what.strip("()").split(",") if name.strip()}
    return names


def guard_program(source, directory="/usr/local/lib/vllm-guard", state="present"):
    """The source of the program -> ``{"directories": [...], "files": [...]}`` below a directory of the node."""
    texts, waiting = {}, imported(source)
    while waiting:
        name = waiting.pop()
        try:
            with open(os.path.join(UTILS, f"{name}.py"), encoding="utf-8") as stream:
                texts[name] = stream.read()
        except OSError as error:
            raise AnsibleFilterError(f"guard_program: the program imports {name}, which the collection does not have: {error}") from None
        waiting |= imported(texts[name]) - set(texts)
    folders = [directory]
    for part in PACKAGE.split("/"):
        folders.append(f"{folders[-1]}/{part}")
    folder = folders[-1]
    files = [{"path": f"{directory}/guard.py", "content": source if source.endswith("\n") else source + "\n"}]
    files += [{"path": f"{folder}/{name}.py", "content": text} for name, text in sorted(texts.items())]
    if state == "absent":
        return {"directories": [{"path": directory, "state": "absent"}], "files": []}
    return {"directories": [{"path": path} for path in folders], "files": files}


def guard_signers(keys):
    """Public keys as they lie in ``*.pub`` -> the text of the guard's file of allowed signers."""
    for key in keys:
        if len(str(key).split()) < 2 or not re.match(r"(ssh|ecdsa|sk)-[A-Za-z0-9@.-]+ +[A-Za-z0-9+/=]+", str(key)):
            raise AnsibleFilterError(f"vllm_guard_signers: {str(key)[:60]!r} is no public key; write a line of a *.pub file, such as 'ssh-ed25519 AAAA...'")
    return signing.allowed([str(key) for key in keys])


class FilterModule:
    """What Ansible loads."""

    def filters(self):
        return {"guard_program": guard_program, "guard_signers": guard_signers}

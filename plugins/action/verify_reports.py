# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Verifies the chain of manifests in a directory of reports."""

from __future__ import annotations

import json
import os
import re

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_chain import check_chain, runs_of_copies
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_files import (
    HISTORY, HISTORY_LIMIT, MANIFEST, MANIFESTS, ReportError, check_signers, digest, is_digest, kept_names, lines_of, parse_manifest, read_data,
    undisturbed, verify_signature)


class ActionModule(ActionBase):
    """See the documentation of the module ``verify_reports``."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _spec, arguments = self.validate_argument_spec({
            "directory": {"type": "path", "required": True},
            "allowed_signers": {"type": "path"},
            "identity": {"type": "str", "default": "audit"},
            "expected": {"type": "list", "elements": "str", "default": []},
            "copies": {"type": "list", "elements": "path", "default": []},
        })
        nonsense = [value for value in arguments["expected"] if not is_digest(value)]
        if nonsense:
            raise AnsibleActionFail(f"expected has {nonsense[0]!r}, which is no SHA-256; write the 64 hexadecimal digits that an "
                                    "earlier check returned as newest.digest")
        try:
            if arguments["allowed_signers"] is not None:
                check_signers(arguments["allowed_signers"])
            with undisturbed(arguments["directory"]):
                result.update(verified(arguments))
        except ReportError as error:
            raise AnsibleActionFail(str(error)) from None
        return {**result, "changed": False, "failed": bool(result["problems"]), "msg": sentence(result, arguments)}


def verified(arguments):
    """What the directory holds, judged. Raises ReportError."""
    directory, signers = arguments["directory"], arguments["allowed_signers"]
    try:
        links = read_links(directory, signers, arguments["identity"])
        if not links:
            raise ReportError(f"directory is {directory!r}, where there is no {MANIFEST}: no audit wrote its reports there, or all of it was removed; "
                              "name the vllm_audit_directory of audits")
        manifest = parse_manifest(links[-1]["data"], links[-1]["path"]) if links[-1]["number"] is None else None
        files = {name: digest(os.path.join(directory, name)) for name in (manifest or {"files": {}})["files"]}
        copies = runs_of_copies(links, {path: digest(path) for path in arguments["copies"]})
        entries = sorted(os.listdir(directory))
    except OSError as error:
        raise ReportError(f"{error.filename or directory} cannot be read: {error.strerror}; read it as the account that audits, or restore it from a "
                          "backup") from None
    history = [parsed(line) for line in lines_of(os.path.join(directory, HISTORY))[-HISTORY_LIMIT:]]
    found = check_chain(links, files, history, arguments["expected"], signers is not None)
    found["problems"] += [f"{path} is a file of no run whose manifest is here: it was changed, or is no report of {directory}; ask who gave it for another"
                          for path, runs in copies.items() if not runs]
    own = {MANIFEST, f"{MANIFEST}.sig", MANIFESTS, *files}
    latest = found["runs"][-1] if manifest else None
    return {**found, "copies": copies, "not_listed": [name for name in entries if name not in own],
            "newest": latest and {key: latest[key] for key in ("run", "generated", "verdict", "digest")}}


def read_links(directory, signers, identity):
    """The manifests as `check_chain` wants them, the oldest first, with what their signatures are worth. Raises OSError, ReportError."""
    paths = [(os.path.join(directory, MANIFESTS, name), int(name[:8]), re.split(r"[-.]", name)[1]) for name in kept_names(directory)]
    links = []
    for path, number, prefix in [*paths, (os.path.join(directory, MANIFEST), None, None)]:
        data = read_data(path)
        if data is None:
            continue
        signature, reason = "unsigned", None
        if read_data(f"{path}.sig") is not None:
            reason = verify_signature(data, f"{path}.sig", signers, identity) if signers is not None else None
            signature = "unchecked" if signers is None else "bad" if reason else "good"
        links.append({"path": path, "number": number, "prefix": prefix, "data": data, "signature": signature, "reason": reason})
    return links


def parsed(line):
    """What a line of JSON says, None where it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def sentence(result, arguments):
    """The result in a sentence, with the first broken link."""
    directory, problems, runs = arguments["directory"], result["problems"], result["runs"]
    if problems:
        more = f" (and {len(problems) - 1} more, listed under problems)" if problems[1:] else ""
        return f"the chain of {len(runs)} runs in {directory} is broken: {problems[0]}{more}"
    signatures = [run["signature"] for run in runs]
    said = f"{signatures.count('good')} signed by {arguments['identity']}, {signatures.count('unsigned')} unsigned"
    if arguments["allowed_signers"] is None:
        said = f"{signatures.count('unchecked')} signed and not checked, since no allowed_signers are given, {signatures.count('unsigned')} unsigned: " \
               "nothing shows who wrote them"
    return f"the chain of {len(runs)} runs in {directory} holds, {runs[0]['run']} to {runs[-1]['run']}: {said}"

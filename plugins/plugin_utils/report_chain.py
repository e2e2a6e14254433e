# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Whether the manifests of audits, each of which names the digest of the one before, are the whole and unchanged chain. Pure; `report_files` writes them.

A link is ``{path, number, prefix, data, signature, reason}``: the bytes of a manifest, and of an earlier run the number and the beginning of the digest in
its file's name (None for `manifest.json`); signature is good, bad (with the reason), unsigned, or unchecked where nobody said who signs.
"""

from __future__ import annotations

import hashlib

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_files import HISTORY, HISTORY_LIMIT, KEPT, MANIFEST, is_summary, parse_manifest

BACKUP = "restore it from a backup"
FILES_LATER, FILES_INTACT, FILES_CHANGED = "replaced by later runs", "intact", "changed"


def check_chain(links, files, history, expected=(), signers=False):
    """``{runs, problems}``, both from the oldest run on; there is no problem only where the whole chain holds.

    links: from the oldest to `manifest.json`, which may be missing; files: ``{name: SHA-256, or None where there is none}`` as `manifest.json` lists them;
    history: the lines of `history.jsonl`, None for one that is no JSON; expected: SHA-256 of manifests, noted elsewhere; signers: whether signatures
    were checked. A run is ``{run, generated, verdict, manifest, digest, signature, files, problems}``. Raises ReportError for what a newer release wrote.
    """
    links = [{**link, "digest": hashlib.sha256(link["data"]).hexdigest(), "manifest": parse_manifest(link["data"], link["path"])} for link in links]
    newest = links.pop() if links and links[-1]["number"] is None else None
    if newest and links and links[-1]["digest"] == newest["digest"]:
        links.pop()  # a run that broke off had kept it, and written no manifest of its own
    runs, before = [], None
    for link in [*links, *([newest] if newest else [])]:
        run = _run(link, before)
        run["problems"] += _of_link(link, run) + (_of_neighbours(before, run, link) if before else _of_oldest(run, link, len(links)))
        before = (run, link)
        runs.append(run)
    if newest:
        runs[-1]["problems"] += _of_newest(newest, files, signers)
        runs[-1]["files"] = FILES_INTACT if newest["manifest"] and newest["manifest"]["files"] == files else FILES_CHANGED
    problems = [problem for run in runs for problem in run["problems"]]
    if not newest:
        problems.append(f"{MANIFEST} is missing after run {runs[-1]['run']}: the manifest of the latest run was removed; {BACKUP}")
    problems += _of_history(runs, history) + [
        f"no manifest has the SHA-256 {digest} that was expected: its run was removed, replaced or undone with all that came after it, or is older than the "
        f"{KEPT} that are kept; look for it in a backup" for digest in expected if digest not in {run["digest"] for run in runs}]
    return {"runs": runs, "problems": problems}


def _run(link, before):
    """A link as it is told, without what is wrong with it."""
    manifest = link["manifest"] or {}
    number = link["number"]
    if number is None:
        number = manifest["run"] if manifest else before[0]["run"] + 1 if before else None
    return {"run": number, "generated": manifest.get("generated"), "verdict": manifest.get("verdict"), "manifest": link["path"], "digest": link["digest"],
            "signature": link["signature"], "files": FILES_LATER, "problems": []}


def _of_link(link, run):
    """What is wrong with a manifest by itself."""
    path, found = link["path"], []
    if link["manifest"] is None:
        found.append(f"{path} is no whole manifest: it is truncated or was edited; {BACKUP}")
    elif link["number"] is not None and link["manifest"]["run"] not in (link["number"], 0):
        found.append(f"{path} is the manifest of run {link['manifest']['run']}: the files of runs were renamed or exchanged; {BACKUP}")
    if link["prefix"] is not None and not link["digest"].startswith(link["prefix"]):
        found.append(f"{path} was changed or replaced: its SHA-256 is not the one in its name; {BACKUP}")
    if link["signature"] == "bad":
        found.append(f"{path}.sig is no signature of the allowed signers over run {run['run']} ({link['reason']}): somebody else signed it, or it was "
                     f"changed; {BACKUP}, or name its signer, with the identity, in allowed_signers")
    return found


def _of_oldest(run, link, kept):
    """What is wrong with where the chain begins. Beyond those that are kept, the oldest are dropped."""
    manifest = link["manifest"]
    if manifest is None or kept >= KEPT:
        return []
    if run["run"] > 1:
        return [f"the manifests of runs 1 to {run['run'] - 1} are missing before {link['path']}; restore them from a backup"]
    if run["run"] == 1 and manifest["previous"] is not None:
        return [f"the manifest before {link['path']}, whose SHA-256 begins with {manifest['previous'][:16]}, is missing; {BACKUP}"]
    return []


def _of_neighbours(before, run, link):
    """What is wrong between a manifest and the one before it."""
    (earlier, former), path, manifest = before, link["path"], link["manifest"]
    if manifest is None:
        return []
    if run["run"] == earlier["run"] + 2:
        return [f"the manifest of run {run['run'] - 1} is missing between {former['path']} and {path}; {BACKUP}"]
    if run["run"] > earlier["run"] + 1:
        return [f"the manifests of runs {earlier['run'] + 1} to {run['run'] - 1} are missing between {former['path']} and {path}; restore them from a backup"]
    if run["run"] <= earlier["run"]:
        return [f"{path} is of run {run['run']} and follows {former['path']} of run {earlier['run']}: an earlier state was brought back, or a foreign "
                f"manifest was added; {BACKUP}"]
    if manifest["previous"] is None:
        return [f"{path} names no manifest before it, and {former['path']} is there: {MANIFEST} was removed between the two runs; look for it in a backup"]
    if manifest["previous"] != former["digest"]:
        return [f"{path} names the SHA-256 {manifest['previous'][:16]}... for the manifest before it, and that of {former['path']} is "
                f"{former['digest'][:16]}...: one of them was changed or replaced; {BACKUP}"]
    return []


def _of_newest(link, files, signers):
    """What is wrong with the files of the latest run, and with its signature, which all before it depend on."""
    found = []
    for name, wanted in sorted((link["manifest"] or {"files": {}})["files"].items()):
        if files.get(name) is None:
            found.append(f"{name} is missing, which {link['path']} lists; {BACKUP}")
        elif files[name] != wanted:
            found.append(f"{name} was changed after {link['path']} was written, or an audit broke off; {BACKUP}, or audit again")
    if signers and link["signature"] == "unsigned":
        found.append(f"{link['path']} has no signature, so that nothing shows who wrote it and what came before: set vllm_audit_signing_key and audit again")
    return found


def _of_history(runs, history):
    """Where the history of summaries and the manifests first disagree, from the latest run back; nothing where they agree."""
    for place, (run, summary) in enumerate(zip(reversed(runs), reversed(history)), 1):
        if not is_summary(summary):
            return [f"line {len(history) - place + 1} of {HISTORY} is no summary of a run: it is truncated or was edited; {BACKUP}"]
        if place == HISTORY_LIMIT and summary["verdict"] == "compliant":
            continue  # the last compliant run stays, however old it is
        if run["generated"] is not None and (summary["generated"], summary["verdict"]) != (run["generated"], run["verdict"]):
            return [f"line {len(history) - place + 1} of {HISTORY} is of the run of {summary['generated']} ({summary['verdict']}), and {run['manifest']} of "
                    f"that of {run['generated']} ({run['verdict']}): a run was removed, added or changed; restore both from a backup"]
    if len(history) < min(len(runs), HISTORY_LIMIT):
        return [f"{HISTORY} has {len(history)} runs, and there are manifests of {len(runs)}: it was truncated; {BACKUP}"]
    return []


def runs_of_copies(links, copies):
    """Of which runs files are: ``{path: [number]}`` for ``{path: SHA-256}``, by what the manifests list."""
    listed = {}
    for link in links:
        manifest = parse_manifest(link["data"], link["path"]) or {"run": link["number"], "files": {}}
        for digest in manifest["files"].values():
            listed.setdefault(digest, set()).add(manifest["run"])
    return {path: sorted(listed.get(digest, ())) for path, digest in copies.items()}

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Write docs/engines.md from the pairings and the refusals of the plan. With --check nothing is written, and the exit status is 1 where it is stale."""

from __future__ import annotations

import sys

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.pairings import PAIRINGS
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_refusals import DANGEROUS_ENVIRONMENT, DANGEROUS_FLAGS

from _page import write

HEAD = """\
# Engines

Which versions belong together, and what an instance may not carry. This page is written by `make docs` from
`plugins/plugin_utils/pairings.py` and `plan_refusals.py`.

## Pairings

pip cannot tell these: vllm-mindspore requires neither vLLM nor MindSpore nor msadapter in its metadata. The lock of a node
(`vllm_runtime_requirements`) is compared with them before any node is contacted, CANN on the node before anything is installed, and by the audit what
lies beside the programs of an installation of the site (`vllm_runtime_software: existing`, SRV-16). An instance's `version` chooses; by
default it is the one in the lock, or the first of its engine here.

| engine | version | vLLM, which gives flags and variables | beside it | CANN |
|---|---|---|---|---|
"""
FLAGS = """
## Flags

Further `arguments` of an instance have to be flags of the paired vLLM, spelled out. The plan decides addresses, ports, sizes and ranks itself. Refused:

| flag | because it |
|---|---|
"""
VARIABLES = """
`trust_remote_code` of an instance, with a reason and with the code's files in `model_checksums`, is the one way to run code that comes with a model.

## Variables

Refused in `environment`, and looked for in the units by the audit:

| variable | because it |
|---|---|
"""


def page() -> str:
    """The whole page."""
    text = HEAD
    for engine, versions in PAIRINGS.items():
        for version, pairing in versions.items():
            beside = ", ".join(f"{name} {wanted}" for name, wanted in pairing["packages"].items() if name != "vllm")
            text += f"| {engine} | {version} | {pairing['vllm']} | {beside or '-'} | {pairing['cann'] or '-'} |\n"
    text += FLAGS + "".join(f"| `{flag}` | {reason} |\n" for flag, reason in sorted(DANGEROUS_FLAGS.items()))
    return text + VARIABLES + "".join(f"| `{name}` | {reason} |\n" for name, reason in sorted(DANGEROUS_ENVIRONMENT.items()))


if __name__ == "__main__":
    sys.exit(write("engines.md", page()))

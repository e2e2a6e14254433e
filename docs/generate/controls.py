# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Write docs/controls.md from the catalogue of controls. With --check nothing is written, and the exit status is 1 where it is stale."""

from __future__ import annotations

import sys

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import ADDITIONS, CONTROLS, RECOMMENDATIONS

from _page import write

HEAD = """\
# Controls

Every requirement the audit judges. A control's result on a node is a finding: pass, fail, waived, not applicable or unknown; unknown is never a pass.
This page is written by `make docs` from `plugins/plugin_utils/controls.py`.

"""


def page() -> str:
    """The whole page."""
    lines = [HEAD + "| id | severity | witness | requirement | applies to | put right by |", "|---|---|---|---|---|---|"]
    for control in CONTROLS:
        tags = ", ".join(f"`site.yml --tags {tag}`" for tag in control.tags) or control.fix
        lines.append(f"| [{control.id}](#{control.id.lower()}) | {control.severity} | {control.witness} | {control.title} | {control.applies} | {tags} |")
    lines += [
        "",
        "## Where they come from",
        "",
        "Each recommendation of the plugin's security page, and the controls that answer it:",
        "",
        "| recommendation | controls |",
        "|---|---|",
    ]
    for key, text in RECOMMENDATIONS.items():
        lines.append(f"| {text} | {', '.join(control.id for control in CONTROLS if key in control.sources)} |")
    lines += ["", "What is required beyond that page:", "", "| source | controls |", "|---|---|"]
    for key, text in ADDITIONS.items():
        lines.append(f"| {text} | {', '.join(control.id for control in CONTROLS if key in control.sources)} |")
    for control in CONTROLS:
        waiver = "can be waived" if control.waivable else "cannot be waived"
        lines += ["", f"### {control.id}", "", f"**{control.title}** ({control.severity}, {waiver})", "", control.rationale, "",
                  f"Witness: {control.witness}. Applies to {control.applies}. {control.fix}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(write("controls.md", page()))

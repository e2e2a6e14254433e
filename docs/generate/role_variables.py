# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Write the table of variables into each roles/*/README.md, from meta/argument_specs.yml.

The table goes between the lines `<!-- variables -->` and `<!-- /variables -->`. With --check nothing is written, and the
exit status is 1 where a table is stale.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
START, END = "<!-- variables -->", "<!-- /variables -->"


def prose(text: str | list[str]) -> str:
    """A description in Ansible's markup as one line of Markdown that is safe in a table."""
    lines = text if isinstance(text, list) else [text]
    if not all(isinstance(line, str) for line in lines):
        raise SystemExit(f"a description is no text but a mapping, since it holds a colon: quote it or use a dash: {lines}")
    line = " ".join(" ".join(lines).split())
    line = re.sub(r"\b[CVOPE]\(([^()]*)\)", r"`\1`", line)
    line = re.sub(r"\bB\(([^()]*)\)", r"**\1**", line)
    line = re.sub(r"\bI\(([^()]*)\)", r"*\1*", line)
    line = re.sub(r"\bU\(([^()]*)\)", r"<\1>", line)
    line = re.sub(r"\bL\(([^(),]*), *([^()]*)\)", r"[\1](\2)", line)
    return line.replace("|", "\\|")


def rows(options: dict, prefix: str = "") -> list[str]:
    """The table's rows: an option, then the options inside it as `outer.inner` or `outer[].inner`."""
    lines = []
    for name, option in options.items():
        kind = option.get("type", "str")
        elements = option.get("elements")
        shown = f"{kind} of {elements}" if elements else kind
        if option.get("required"):
            default = "*required*"
        else:
            default = f"`{json.dumps(option['default'], ensure_ascii=False)}`".replace("|", "\\|") if "default" in option else ""
        text = prose(option.get("description", ""))
        if "choices" in option:
            text += " One of " + ", ".join(f"`{choice}`" for choice in option["choices"]) + "."
        lines.append(f"| `{prefix}{name}` | {shown} | {default} | {text} |")
        inner = f"{prefix}{name}[]." if kind == "list" else f"{prefix}{name}."
        lines += rows(option.get("options", {}), inner)
    return lines


def table(role: Path) -> str:
    """The tables of a role, one for each of its entry points."""
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    parts = []
    for entry, spec in specs.items():
        if len(specs) > 1:
            parts.append(f"\nEntry point `{entry}`: {prose(spec['short_description'])}\n")
        parts.append("| variable | type | default | |\n|---|---|---|---|\n" + "\n".join(rows(spec.get("options", {}))))
    return "\n".join(parts).strip("\n")


def main() -> int:
    """Write or check every role's README."""
    check, stale = "--check" in sys.argv[1:], []
    for role in sorted(path.parents[1] for path in CHECKOUT.glob("roles/*/meta/argument_specs.yml")):
        readme = role / "README.md"
        text = readme.read_text(encoding="utf-8") if readme.exists() else ""
        head, start, rest = text.partition(START)
        _old, end, tail = rest.partition(END)
        if not start or not end:
            stale.append(f"{readme.relative_to(CHECKOUT)}: no lines {START} and {END}")
            continue
        new = f"{head}{START}\n{table(role)}\n{END}{tail}"
        if new != text and check:
            stale.append(f"{readme.relative_to(CHECKOUT)}: the table differs from meta/argument_specs.yml; run `make docs`")
        elif new != text:
            readme.write_text(new, encoding="utf-8")
            print(f"wrote {readme.relative_to(CHECKOUT)}")
    print("\n".join(stale), end="\n" if stale else "", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

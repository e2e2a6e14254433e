# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the scripts that write one page share."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]


def write(name: str, text: str) -> int:
    """Write docs/`name`; with --check write nothing and return 1 where it is stale."""
    target = DOCS / name
    if "--check" not in sys.argv[1:]:
        target.write_text(text, encoding="utf-8")
    elif not target.exists() or target.read_text(encoding="utf-8") != text:
        print(f"docs/{name} is stale: run make docs", file=sys.stderr)
        return 1
    return 0

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Port ranges: the one place that reads and writes them."""

from __future__ import annotations

import re


def parse_ports(value):
    """``8443`` or ``"8443"`` or ``"28000-28999"`` -> ``(first, last)``.

    Raises ValueError with a message for the user where it is no port or range within 0-65535.
    """
    found = re.fullmatch(r"([0-9]{1,5})(?:\s*-\s*([0-9]{1,5}))?", str(value).strip(), re.ASCII)
    if found is None:
        raise ValueError(f"{value!r} is not a port or a range of ports such as 28000-28999")
    bounds = (int(found[1]), int(found[2] or found[1]))
    if isinstance(value, bool) or not 0 <= bounds[0] <= bounds[1] <= 65535:
        raise ValueError(f"{value!r} is not a port or a range of ports within 0-65535")
    return bounds


def merge_ports(ranges):
    """Sorted, disjoint, maximal ranges that cover the same ports as the ``(first, last)`` pairs given."""
    merged = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def format_ports(bounds):
    """``(8443, 8443)`` -> ``"8443"``, ``(28000, 28999)`` -> ``"28000-28999"``."""
    first, last = bounds
    return str(first) if first == last else f"{first}-{last}"

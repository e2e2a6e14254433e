# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""iptables' own matches and targets inside nftables rules (`xt`), as far as they can be read."""

from __future__ import annotations


def target_decides(expression):
    """Whether a target can have an effect on the verdict."""
    return expression.get("name") not in ("LOG", "NFLOG", "AUDIT", "TRACE", "CHECKSUM", "TCPMSS", "CLASSIFY")


def match(rules, expression, state):
    """The conditions of a match: ``[(constraints, diagram)]`` as Rules._require() takes them."""
    return [(None, rules.atom(f"iptables match {expression.get('name')}"))]


def target(rules, expression, state):
    """The outcome of a target, None for *carry on*."""
    return None

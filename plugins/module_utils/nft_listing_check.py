# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Does `nft list ruleset` say what is loaded?

nft translates loaded expressions back into its language, and some translations mean something else than the kernel does.
The shapes for which this is known are recognised in the loaded rules themselves: that needs neither `nft` nor a second
reading of its output.
"""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import nft_ruleset
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_listing import rule_text
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_machine import register_offset

# Where fields begin in the network header (by its family) and in the transport header.
_NETWORK_FIELDS = {2: (1, 2, 4, 6, 8, 9, 10, 12, 16), 10: (4, 6, 7, 8, 24)}
_TRANSPORT_FIELDS = (2, 4, 8, 12, 13, 14, 16, 18)
_ICMP_FIELDS = (1, 2, 4, 6)
_NEQ = 1

MERGED = (
    "two != matches were merged into one comparison: the listing shows both, the kernel only refuses to match where both "
    "fields are equal (nft before the fix of March 2024); write the matches as two rules, or update nft and load again"
)
ANY_FAMILY = "the listing shows an ICMP match of one family, the kernel looks at packets of either (nothing asks for the family)"
ANY_PROTOCOL = "the listing shows a port, the kernel looks at these bytes of any protocol's header (nothing asks for the protocol)"
DORMANT = "the table is dormant: the listing shows its chains, the kernel does not use them"


def check_listing(snapshot):
    """Rules whose listing misleads: ``[{"table", "chain", "handle", "loaded", "why"}]``; handle 0 stands for a whole table."""
    found = []
    for table in snapshot["tables"]:
        name = f"{table['family']} {table['name']}"
        if table["flags"] & nft_ruleset.TABLE_DORMANT:
            found.append({"table": name, "chain": "", "handle": 0, "loaded": "flags dormant", "why": DORMANT})
        for chain in table["chains"].values():
            for rule in chain["rules"]:
                found += [
                    {"table": name, "chain": chain["name"], "handle": rule["handle"], "loaded": rule_text(table, rule), "why": why}
                    for why in _misleading(table, rule)
                ]
    return found


def _misleading(table, rule):
    loads, family, protocols, reasons = {}, {"ip": 2, "ip6": 10}.get(table["family"]), None, []
    for expression in rule["expressions"]:
        kind = expression["expr"]
        if kind == "cmp" or kind == "lookup":
            source = loads.get(register_offset(expression["sreg"]))
            if source is None:
                continue
            if source == "family" and kind == "cmp" and expression["op"] == 0:
                family = expression["data"][0]
            elif source == "protocol":
                protocols = {expression["data"][0]} if kind == "cmp" and expression["op"] == 0 else {0}
            elif isinstance(source, dict):
                if kind == "cmp" and expression["op"] == _NEQ and _spans(source, family, protocols):
                    reasons.append(MERGED)
                if source["base"] == 2 and source["offset"] < 4 and protocols is None:
                    reasons.append(ANY_PROTOCOL)
                if source["base"] == 2 and source["offset"] == 0 and protocols in ({1}, {58}) and family is None:
                    if table["family"] == "inet" and source["len"] <= 2:
                        reasons.append(ANY_FAMILY)
        elif expression.get("dreg"):
            at = register_offset(expression["dreg"])
            loads[at] = None
            if kind == "payload":
                loads[at] = expression
            elif kind == "meta" and expression["key"] == 15:
                loads[at] = "family"
            elif kind == "meta" and expression["key"] == 1:
                loads[at] = None
            elif kind == "meta" and expression["key"] == 16:
                loads[at] = "protocol"
            if kind == "payload" and expression["base"] == 1 and _is_protocol(expression, family):
                loads[at] = "protocol"
    return sorted(set(reasons))


def _is_protocol(expression, family):
    return expression["len"] == 1 and expression["offset"] == {2: 9, 10: 6}.get(family)


def _spans(expression, family, protocols):
    """Whether a load covers more than one header field."""
    if expression["base"] == 1:
        borders = _NETWORK_FIELDS.get(family, ())
    elif expression["base"] == 2:
        borders = _ICMP_FIELDS if protocols in ({1}, {58}) else _TRANSPORT_FIELDS
    else:
        return False
    return any(expression["offset"] < border < expression["offset"] + expression["len"] for border in borders)

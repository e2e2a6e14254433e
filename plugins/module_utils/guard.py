# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the guard of a node decides: pure, no I/O. `guard_firewall` and `guard_node` are its edges.

Times are seconds of CLOCK_BOOTTIME (`confirmed_change.now`), which no setting of the clock moves; only records for people carry the time of day.
"""

from __future__ import annotations

import collections
import hashlib
import ipaddress
import json
import re
import struct

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import nft_change, nft_listing, ports, sealing
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_users import resolve_users
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.netlink import attributes, string
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.sealing import Untrusted

FAMILY, NAME = "inet", "vllm_hardening"
TABLE = f"{FAMILY} {NAME}"
CONCERN = "vllm_firewall"  # as what the rules are signed
TRIAL = f"{NAME}_trial"  # a table asleep, in which the kernel says what it makes of signed rules
GRACE = 10.0  # seconds after its deadline until a change counts as abandoned
COMMIT_SECONDS = 20.0  # from a confirmation to its files in place, at most
LONGEST_WINDOW = 8 * 3600.0
LINES = 40
LENGTH = 500

_SET = re.compile(r"\{ ([^{}]*) \}")
_HEADER = struct.Struct("=IHHII")
_NFTABLES = 10
_NEWGEN = 15
_ELEMENTS = (12, 14)
_NAME = NAME.encode() + b"\0"
PREROUTING, INPUT, OUTPUT, INGRESS = 0, 1, 3, 5


# -- the last confirmed ruleset ----------------------------------------------------------------------------------------


def confirmed_rules(state, rules, key):
    """The last confirmed ruleset: ``(record, text for nft)`` from the texts of the state file and of the rules, each None where there is none.

    Raises Untrusted, with what is wrong, where they are not what a confirmed change of this node wrote.
    """
    if rules is None:
        raise Untrusted("the confirmed rules are missing")
    confirmed = sealed_record(state, key)
    content = content_of(rules)
    if hashlib.sha256(content.encode()).hexdigest() != confirmed["content"]:
        raise Untrusted("the confirmed rules are not those of their record")
    return confirmed, nft_change.replacement(TABLE, content)


def sealed_record(state, key):
    """The record of the last confirmed ruleset, which says what the loaded table has to be even where the text of the rules is lost. Raises Untrusted."""
    if state is None:
        raise Untrusted("the record of the confirmed rules is missing")
    try:
        confirmed = json.loads(state)["confirmed"]
        confirmed["canonical"] + confirmed["content"]
    except (ValueError, KeyError, TypeError):
        raise Untrusted("the record of the confirmed rules is truncated or not what the module nft_table writes") from None
    try:
        sealing.check(key, confirmed.get("seal"), *sealing.firewall_parts(confirmed))
    except Untrusted as error:
        raise Untrusted(f"the record of the confirmed rules: {error}") from None
    return confirmed


def source_digest(source):
    """What of the rules is signed: the text that the controller made, in which users have names."""
    return hashlib.sha256(str(source or "").encode()).hexdigest()


def signed_rules(confirmed, content, trust, lookup):
    """Check the signature over confirmed rules. Raises Untrusted.

    Signed is the text of the controller; the node put numbers in place of the names of users, which is done here again (`lookup`: name to number or None).
    """
    if not trust.required:
        return
    source = confirmed.get("source")
    try:
        trust.check(confirmed.get("signed"), CONCERN, source_digest(source))
    except Untrusted as error:
        raise Untrusted(f"the record of the confirmed rules: {error}") from None
    if resolve_users(source, lookup)[0] != content:
        raise Untrusted("the confirmed rules are not those that the controller signed, or a user got another number since; run the role vllm_firewall")


def trial_rules(content):
    """The rules in a table of another name that is asleep. Raises Untrusted for text that is not one table of ours."""
    head = f"table {TABLE} {{"
    if content.count(head) != 1 or not content.startswith(head):
        raise Untrusted("the confirmed rules are more, or less, than the table of this collection")
    return nft_change.replacement(f"{FAMILY} {TRIAL}", f"table {FAMILY} {TRIAL} {{\n\tflags dormant;\n" + content[len(head):])


def content_of(rules):
    """The table in the file of the confirmed rules. Raises Untrusted."""
    while rules.startswith("#"):
        rules = rules.partition("\n")[2]
    head = nft_change.replacement(TABLE, "")
    if not rules.startswith(head):
        raise Untrusted("the confirmed rules are truncated or not what the module nft_table writes")
    return rules[len(head):]


def emergency_rules(port, sources, users):
    """The table of a node whose confirmed rules are gone and cannot be trusted: closed to all but SSH, service users to all but loopback.

    `port` of SSH, `sources` (networks that may reach it; none, or only what is no network: everybody, whom SSH still authenticates), `users`: numbers of
    service users.
    """
    sources = _networks(sources)
    lines = [f"table {TABLE} {{", "\tchain input {", "\t\ttype filter hook input priority filter; policy drop;", '\t\tiif "lo" accept',
             "\t\tct state established ct direction reply accept",
             "\t\ticmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept",
             "\t\tct state related meta l4proto { icmp, ipv6-icmp } accept"]
    for family, dots in (("ip", "."), ("ip6", ":")):
        chosen = [source for source in sources if (":" in source) == (dots == ":")]
        if chosen:
            lines.append(f"\t\t{family} saddr {{ {', '.join(sorted(chosen))} }} tcp dport {int(port)} accept")
    if not sources:
        lines.append(f"\t\ttcp dport {int(port)} accept")
    lines += ["\t\tcounter drop", "\t}", "\tchain forward {", "\t\ttype filter hook forward priority filter; policy drop;", "\t\tcounter drop", "\t}"]
    if users:
        numbers = ", ".join(str(int(number)) for number in sorted(users))
        lines += ["\tchain output {", "\t\ttype filter hook output priority filter; policy accept;",
                  f'\t\toif != "lo" meta skuid {{ {numbers} }} ct direction original drop', "\t}"]
    return "\n".join([*lines, "}"]) + "\n"


def _networks(texts):
    """Those of the texts that are networks; one that is none, and that nft would not load, keeps no node open."""
    found = []
    for text in texts:
        try:
            found.append(str(ipaddress.ip_network(str(text), strict=False)))
        except ValueError:
            continue
    return found


# -- changes under way and maintenance ---------------------------------------------------------------------------------


def change_under_way(changes, now, staged):
    """Why the guard has to wait for a confirmed change, or None.

    `changes` as `confirmed_change.Journal.changes` gives them, with ``since`` (when a change was first seen confirmed) in the record;
    `staged` says whether a file waits to be renamed into place, by path.
    """
    for identifier, (state, record) in sorted(changes.items()):
        if state is None:
            continue
        if state in ("pending", "rolling-back") and now < float(record.get("deadline", 0)) + GRACE:
            return f"change {identifier} is {state}"
        if state == "confirmed" and any(staged(path) for path in record.get("staged", ())) and now < float(record.get("since", 0)) + COMMIT_SECONDS:
            return f"change {identifier} is being written"
    return None


def removed(changes):
    """Whether the last change took the table away."""
    records = sorted((record.get("begun", ""), record.get("present", True)) for state, record in changes.values() if state == "confirmed")
    return bool(records) and not records[-1][1]


def window(text, owner, mode, now):
    """The declared maintenance: ``(end, reason)`` in seconds of the boot clock, or None where there is none or it is over.

    Raises Untrusted for a declaration that is not root's, or longer than LONGEST_WINDOW: it is then not obeyed.
    """
    if owner != 0 or mode & 0o022:
        raise Untrusted("the declaration of maintenance could have been written by others than root")
    try:
        found = json.loads(text)
        end, reason = float(found["end"]), str(found["reason"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise Untrusted("the declaration of maintenance is not what `guard.py maintenance` writes") from None
    if end - now > LONGEST_WINDOW:
        raise Untrusted(f"the declaration of maintenance ends more than {LONGEST_WINDOW / 3600:.0f} hours from now")
    return (end, reason) if end > now else None


class Pace:
    """How often the guard corrects: at once, but after `burst` corrections within `seconds` only every `interval` seconds, with an alarm.

    That ends when for ten intervals nothing had to be corrected.
    """

    def __init__(self, burst=30, seconds=40.0, interval=1.0):
        self.burst, self.seconds, self.interval = burst, seconds, interval
        self.times, self.contended = collections.deque(maxlen=burst), False

    def alarm(self, now):
        """Whether somebody keeps undoing what the guard corrects."""
        if self.contended and now - self.times[-1] >= 10 * self.interval:
            self.times.clear()
            self.contended = False
        self.contended = self.contended or len(self.times) == self.burst and now - self.times[0] < self.seconds
        return self.contended

    def wait(self, now):
        """Seconds until the next correction."""
        return max(0.0, self.times[-1] + self.interval - now) if self.alarm(now) else 0.0

    def rest(self, now):
        """Seconds until the alarm ends where nothing has to be corrected any more, or None without one."""
        return max(0.0, self.times[-1] + 10 * self.interval - now) if self.alarm(now) else None

    def note(self, now):
        """A correction was made."""
        self.times.append(now)


# -- events of the ruleset ---------------------------------------------------------------------------------------------


class Notices:
    """What a run of datagrams of the group NFNLGRP_NFTABLES says: who changed our table, and whether rules of others changed."""

    def __init__(self):
        self.ours = self.others = False
        self.by = None
        self.awaits_name = False  # the notice of the generation follows those of its transaction
        self.count = 0

    def take(self, data):
        """One datagram. Elements of foreign sets (what fail2ban and Docker change all day) are passed over: none of them opens anything."""
        self.count += 1
        mine = _NAME in data
        offset, end = 0, len(data)
        while offset + 20 <= end:
            length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data, offset)
            if length < 20:
                return
            message = kind & 0xFF
            if kind >> 8 == _NFTABLES:
                if message == _NEWGEN:
                    if self.awaits_name:
                        self.by, self.awaits_name = _process(data[offset + 16:offset + length]), False
                elif mine and _NAME in data[offset:offset + length]:
                    self.ours = self.awaits_name = True
                elif message not in _ELEMENTS:
                    self.others = True
            offset += (length + 3) & ~3


def _process(body):
    found = dict(attributes(body, 4))
    if 2 not in found:
        return None
    return {"pid": int.from_bytes(found[2], "big"), "command": string(found.get(3, b""))}


def threats(tables):
    """Rules of others that could lead packets around the filter, as text: the filter refuses what an accept elsewhere accepts, but
    not what is redirected, translated, copied out or handed to a program before it looks."""
    found = []
    for table in tables:
        if (table["family"], table["name"]) == (FAMILY, NAME) or table["flags"] & 1:
            continue
        for chain in table["chains"].values():
            for rule in chain["rules"]:
                for expression in rule["expressions"]:
                    what = _threat(expression)
                    if what:
                        found.append(f"{table['family']} {table['name']} {chain['name']}: {nft_listing.rule_text(table, rule)[:160]} ({what})")
                        break
    return sorted(found)


def _threat(expression):
    name = expression["expr"]
    if name == "nat":
        return "translates addresses" if expression.get("type") == 1 else ""
    if name == "target":
        kind = str(expression.get("name"))
        return {"DNAT": "translates addresses", "REDIRECT": "redirects", "TPROXY": "hands to a program", "NFQUEUE": "hands to a program",
                "CT": "takes out of connection tracking", "TEE": "copies out"}.get(kind, "")
    return {"redir": "redirects", "tproxy": "hands to a program", "fwd": "forwards past the filter", "dup": "copies out", "queue": "hands to a program",
            "flow_offload": "forwards past the filter"}.get(name, "")


def rules_in_words(table):
    """A table as lines, for a record of what changed; None is no table."""
    if table is None:
        return []
    lines = []
    for name, chain in sorted(table["chains"].items()):
        if chain["hook"] is not None:
            lines.append(f"chain {name}: hook {chain['hook']} priority {chain['priority']} policy {'drop' if chain['policy'] == 0 else 'accept'}")
        lines += [f"chain {name}: {_ordered(nft_listing.rule_text(table, rule))}" for rule in chain["rules"]]
    for name, one in sorted(table["sets"].items()):
        if not one["flags"] & 0x1:
            lines += [f"set {name}: {(element['key'] or b'').hex()}" for element in one["elements"]]
    return lines


def _ordered(text):
    """The elements of anonymous sets in one order: the kernel keeps none."""
    return _SET.sub(lambda found: "{ " + ", ".join(sorted(found.group(1).split(", "))) + " }", text)


def changed_lines(have, want):
    """``(lines only in have, lines only in want)``, each cut to a bounded number of a bounded length."""
    have_count, want_count = collections.Counter(have), collections.Counter(want)
    return tuple(_bounded(list((one - other).elements())) for one, other in ((have_count, want_count), (want_count, have_count)))


def _bounded(lines):
    more = [f"and {len(lines) - LINES} more"] if len(lines) > LINES else []
    return [line if len(line) <= LENGTH else f"{line[:LENGTH]}..." for line in lines[:LINES]] + more


def listens_as_planned(socket, planned):
    """Whether a listening socket is the plan's: `planned` has ``protocol``, ``ports`` and perhaps ``address`` and ``wildcard``."""
    if socket["protocol"] != planned["protocol"]:
        return False
    if not any(low <= socket["port"] <= high for low, high in (ports.parse_ports(item) for item in planned["ports"])):
        return False
    address = planned.get("address")
    return not address or planned.get("wildcard") or socket["address"] == address


# -- records -----------------------------------------------------------------------------------------------------------

METRICS = {
    "events_total": ("counter", "Deviations seen, by kind and outcome."),
    "alarm": ("gauge", "Whether something needs an administrator, by kind."),
    "last_correction_seconds": ("gauge", "From the change to the restored rules, of the last correction."),
    "last_check_timestamp_seconds": ("gauge", "Time of the last complete comparison."),
    "maintenance": ("gauge", "Whether maintenance is declared."),
}


def metrics_text(duty, values):
    """The Prometheus text of ``{(metric, label pairs): number}``."""
    lines = []
    for name, (kind, text) in METRICS.items():
        rows = sorted((labels, number) for (metric, labels), number in values.items() if metric == name)
        if rows:
            lines += [f"# HELP vllm_guard_{name} {text}", f"# TYPE vllm_guard_{name} {kind}"]
        for labels, number in rows:
            pairs = ",".join(f'{key}="{value}"' for key, value in (("duty", duty), *labels))
            lines.append(f"vllm_guard_{name}{{{pairs}}} {round(number, 4)}")
    return "\n".join(lines) + "\n" if lines else ""


def sentence(record):
    """One line about a record, for the journal."""
    by = record.get("by")
    who = f"; it was {by['command']} (process {by['pid']})" if by else ""
    count = f" {record['count']} times" if record.get("count", 1) > 1 else ""
    return f"{record['outcome']}: {record['what']}{who}{count}"

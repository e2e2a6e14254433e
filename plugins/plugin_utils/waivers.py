# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Waivers: who accepts which control's failure where, why, and until when. Pure."""

from __future__ import annotations

import datetime
import difflib

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import BY_ID

KEYS = ("control", "hosts", "reason", "owner", "expires")
LONGEST = 180


class WaiverError(Exception):
    """Waivers that are not accepted; the message names all problems."""


def _nearest(word, known):
    found = difflib.get_close_matches(str(word), known, 1, 0.4)
    return f"; the nearest is {found[0]}" if found else ""


def _date(value):
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, datetime.date):
        return value
    return datetime.date.fromisoformat(str(value))


def read_waivers(waivers, hosts, today):
    """Check waivers and sort them by host.

    waivers: [{control, hosts: [host] or "all", reason, owner, expires: date}]; hosts: those of the plan; today: a date.
    Returns ({host: [waiver in force]}, {host: [expired waiver]}), dates as ISO 8601 texts. Raises WaiverError.
    """
    problems, force, expired = [], {}, {}
    for index, waiver in enumerate(waivers or []):
        where = f"vllm_audit_waivers[{index}]"
        if not isinstance(waiver, dict):
            problems.append(f"{where} is {waiver!r}; write a mapping with {', '.join(KEYS)}")
            continue
        problems += [f"{where}.{key} is no key of a waiver{_nearest(key, KEYS)}" for key in waiver if key not in KEYS]
        problems += [f"{where}.{key} is missing" for key in KEYS if waiver.get(key) is None or str(waiver[key]).strip() in ("", "[]")]
        problems += [f"{where}.{key} is {waiver[key]!r}; write a text" for key in ("control", "reason", "owner") if isinstance(waiver.get(key), (dict, list))]
        control = waiver.get("control")
        if isinstance(control, (dict, list)):
            control = None
        if control and control not in BY_ID:
            problems.append(f"{where}.control is {control!r}, which is no control{_nearest(control, list(BY_ID))}")
        elif control and not BY_ID[control].waivable:
            problems.append(f"{where}.control is {control}, which isolates the network and cannot be waived")
        scope = waiver.get("hosts") or []
        scope = list(hosts) if scope == "all" else scope if isinstance(scope, list) else [scope]
        problems += [f"{where}.hosts has {host!r}, which is no node of the plan{_nearest(host, list(hosts))}" for host in scope if host not in hosts]
        if waiver.get("expires") in (None, ""):
            continue
        try:
            ends = _date(waiver["expires"])
        except ValueError:
            problems.append(f"{where}.expires is {waiver['expires']!r}; write a date such as 2027-01-31")
            continue
        if ends > today + datetime.timedelta(days=LONGEST):
            problems.append(f"{where}.expires is {ends}, more than {LONGEST} days ahead; the latest is {today + datetime.timedelta(days=LONGEST)}")
        clean = {**{key: str(waiver.get(key)) for key in ("control", "reason", "owner")}, "expires": ends.isoformat()}
        for host in filter(hosts.__contains__, scope):
            (force if ends >= today else expired).setdefault(host, []).append(clean)
    if problems:
        raise WaiverError(
            f"The waivers have {len(problems)} problem{'s' if len(problems) > 1 else ''}:\n" + "\n".join(f"  - {problem}" for problem in problems)
        )
    return force, expired

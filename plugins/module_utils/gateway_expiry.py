# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""When the gateway's certificates and the keys of its clients end. A program of the node too, which a timer runs:

    gateway_expiry.py DIRECTORY WARNING_DAYS OUTPUT

It reads the gateway's DIRECTORY, writes metrics for Prometheus to OUTPUT, and says in the journal what ends within WARNING_DAYS. Exit status 1
where a certificate has expired or cannot be read. Standard library only, no import of this collection; the pure half takes texts.
"""

from __future__ import annotations

import base64
import calendar
import os
import re
import sys
import tempfile
import time

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x17, 0x18, 0xA0
DAY = 86400


def element(der, at):
    """(tag, first byte of the content, first byte after it) of the DER element at an offset; raises ValueError."""
    if at + 2 > len(der):
        raise ValueError("it ends too early")
    tag, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(der[start:start + count], "big"), start + count
    if start + length > len(der):
        raise ValueError("it ends too early")
    return tag, start, start + length


def moment(tag, text):
    """Seconds since 1970 of an ASN.1 time; RFC 5280 section 4.1.2.5 allows these two forms only, both in UTC."""
    if tag == _UTC_TIME:
        text = ("20" if int(text[:2]) < 50 else "19") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("its validity is no time")
    return calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ"))


def not_after(der):
    """Seconds since 1970 at which a certificate (DER) expires; raises ValueError."""
    _tag, at, _end = element(der, 0)
    _tag, at, _end = element(der, at)
    if element(der, at)[0] == _VERSION:
        at = element(der, at)[2]
    for _skipped in ("serial number", "signature", "issuer"):
        at = element(der, at)[2]
    _tag, at, _end = element(der, at)
    tag, start, end = element(der, element(der, at)[2])
    return moment(tag, der[start:end].decode("ascii"))


def first_end(pem):
    """Seconds since 1970 at which the first of the certificates in a PEM text expires, its own or one of its chain; raises ValueError."""
    found = [not_after(base64.b64decode(body)) for body in _PEM.findall(pem)]
    if not found:
        raise ValueError("it holds no certificate")
    return min(found)


def key_ends(text):
    """{(client, key): seconds since 1970} of the gateway's map of keys; the sums stay where they are."""
    found = {}
    for line in text.splitlines():
        fields = line.partition(" ")[2].split(":")
        if len(fields) >= 3 and fields[2].isdigit():
            found[fields[0], fields[1]] = int(fields[2])
    return found


def judge(certificates, keys, now, warning_days):
    """(lines for the journal as (priority, text), whether a certificate has expired or is unreadable).

    ``certificates``: {file: seconds since 1970, or the text of an error}; ``keys`` as key_ends(). A client is warned of by the key that
    ends last, so that a key whose successor is in use ends quietly.
    """
    lines, broken = [], False
    for name, ends in sorted(certificates.items()):
        if isinstance(ends, str):
            lines.append((3, f"certificate {name} cannot be read: {ends}"))
            broken = True
        else:
            lines += _line(f"certificate {name}", ends, now, warning_days)
            broken = broken or ends <= now
    for client in sorted({client for client, _key in keys}):
        ends, key = max((ends, key) for (owner, key), ends in keys.items() if owner == client)
        lines += _line(f"key {key}, the last one of client {client},", ends, now, warning_days)
    if not lines:
        lines.append((6, f"{len(certificates)} certificates and {len(keys)} keys: none ends within {warning_days} days"))
    return lines, broken


def _line(what, ends, now, warning_days):
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ends))
    if ends <= now:
        return [(3, f"{what} expired at {when}")]
    if ends - now < warning_days * DAY:
        return [(4, f"{what} expires at {when}, in {(ends - now) // DAY} days")]
    return []


def metrics(certificates, keys, now):
    """The text of Prometheus: when everything ends, in seconds since 1970, and when that was looked at. What is unreadable ends at 0."""
    lines = ["# HELP vllm_gateway_certificate_end_seconds When a certificate of the gateway expires.", "# TYPE vllm_gateway_certificate_end_seconds gauge"]
    for name, ends in sorted(certificates.items()):
        lines.append(f'vllm_gateway_certificate_end_seconds{{file="{_quoted(name)}"}} {0 if isinstance(ends, str) else ends}')
    lines += ["# HELP vllm_gateway_key_end_seconds When the key of a client expires.", "# TYPE vllm_gateway_key_end_seconds gauge"]
    for (client, key), ends in sorted(keys.items()):
        lines.append(f'vllm_gateway_key_end_seconds{{client="{_quoted(client)}",key="{_quoted(key)}"}} {ends}')
    lines += ["# HELP vllm_gateway_expiry_checked_seconds When this was looked at.", "# TYPE vllm_gateway_expiry_checked_seconds gauge"]
    return "\n".join([*lines, f"vllm_gateway_expiry_checked_seconds {now}"]) + "\n"


def _quoted(text):
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def read(directory):
    """(certificates, keys) of a gateway's directory, as judge() takes them."""
    certificates = {}
    folder = os.path.join(directory, "certificates")
    names = [f"certificates/{name}" for name in sorted(os.listdir(folder))]
    for name in [*names, "administrators.pem"]:
        try:
            with open(os.path.join(directory, name), "rb") as handle:
                certificates[name] = first_end(handle.read())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            certificates[name] = str(error)
    with open(os.path.join(directory, "keys.map"), encoding="ascii", errors="replace") as handle:
        return certificates, key_ends(handle.read())


def main(directory, warning_days, output):
    """Read, state, and return the exit status."""
    now = int(time.time())
    certificates, keys = read(directory)
    lines, broken = judge(certificates, keys, now, int(warning_days))
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(output))
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(metrics(certificates, keys, now))
    os.chmod(temporary, 0o644)
    os.replace(temporary, output)
    for priority, text in lines:
        # systemd takes the priority from the prefix (sd-daemon(3)).
        sys.stdout.write(f"<{priority}>{text}\n")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""One nftables table of this node: read it, load text, and try text where it can do no harm.

Reading goes over netlink and sees what the kernel enforces; `nft` is needed to load text and to word rules for people.
"""

from __future__ import annotations

import ctypes
import hashlib
import ipaddress
import json
import os
import re
import traceback

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import nft_ruleset

CLONE_NEWNET = 0x40000000
HOOKS = ("prerouting", "input", "forward", "output", "postrouting", "ingress")
SET_FLAGS = {
    nft_ruleset.SET_CONSTANT: "constant", nft_ruleset.SET_INTERVAL: "interval", nft_ruleset.SET_MAP: "map", nft_ruleset.SET_TIMEOUT: "timeout",
    nft_ruleset.SET_DYNAMIC: "dynamic", nft_ruleset.SET_OBJECT: "object", nft_ruleset.SET_CONCAT: "concatenation",
}
ADDRESS_TYPES = {7: ipaddress.IPv4Address, 8: ipaddress.IPv6Address}

_COUNTS = re.compile(r"counter packets \d+ bytes \d+")
_HANDLE = re.compile(r"^(?P<text>.*) # handle (?P<handle>\d+)$")


class NftError(Exception):
    """nft refused or could not be run; the message is what it said."""


class Table:
    """The table `family` `name` of the current network namespace.

    `run` is a callable like ``AnsibleModule.run_command``, `nft` the path of the binary (None where it is not installed:
    reading works without).
    """

    def __init__(self, run, nft, family, name):
        self.run, self.nft, self.family, self.name = run, nft, family, name
        self.table = f"{family} {name}"

    def load(self, text):
        """Load text as one transaction. Raises NftError with nft's own words."""
        self._nft(["-f", "-"], text)

    def text(self):
        """The table as nft writes it, counters included, for putting it back. Empty where there is none."""
        return self._nft(["list", "table", self.family, self.name]) if self.read() else ""

    def read(self):
        """The table's canonical form (`nft_ruleset.canonical`), or None where there is none."""
        return self._read()[0]

    def describe(self):
        """The table as `nft_change` compares it, rules in words, or None where there is none."""
        canonical, table = self._read()
        if canonical is None:
            return None
        words = {}
        for line in self._nft(["-a", "list", "table", self.family, self.name]).splitlines() if self.nft else ():
            found = _HANDLE.match(line.strip())
            if found:
                words[int(found["handle"])] = _COUNTS.sub("counter", found["text"])
        return _described(canonical, table, words)

    def raw(self):
        """The table as `nft_ruleset.read_ruleset` gives it, or None."""
        return self._read()[1]

    def _read(self):
        tables = nft_ruleset.read_ruleset(self.name, self.family)["tables"]
        return (nft_ruleset.canonical(tables[0]), tables[0]) if tables else (None, None)

    def _nft(self, arguments, text=None):
        code, out, error = self.run([self.nft, *arguments], data=text)
        if code:
            raise NftError(error.strip() or f"nft ended with status {code}")
        return out


def fingerprint(canonical):
    """A short text that two canonical forms share where they are the same; empty for None."""
    if canonical is None:
        return ""
    return hashlib.sha256(json.dumps(nft_ruleset.to_json(canonical), sort_keys=True).encode()).hexdigest()


def _described(canonical, table, words):
    described = {"chains": {}, "sets": {}}
    for name, chain in canonical["chains"].items():
        if name.startswith("("):
            continue
        declaration = "regular"
        if chain["hook"] is not None:
            hook = HOOKS[chain["hook"]] if chain["hook"] < len(HOOKS) else chain["hook"]
            declaration = f"type {chain['type']} hook {hook} priority {chain['priority']} policy {'drop' if chain['policy'] == 0 else 'accept'}"
        handles = [rule["handle"] for rule in table["chains"][name]["rules"]]
        rules = []
        for rule, handle in zip(chain["rules"], handles):
            key = json.dumps(nft_ruleset.to_json(_inlined(rule, canonical)), sort_keys=True)
            rules.append({"key": key, "text": words.get(handle) or rule["comment"] or key})
        described["chains"][name] = {"declaration": declaration, "rules": rules}
    for name, one in canonical["sets"].items():
        if not name.startswith("("):
            kind = ADDRESS_TYPES.get(one["key_type"])
            described["sets"][name] = {
                "declaration": (f"type {'ipv%d_addr' % kind(0).version if kind else one['key_type']}"
                                + "".join(f", {word}" for bit, word in SET_FLAGS.items() if one["flags"] & bit)),
                "elements": elements_text(one),
            }
    return described


def _inlined(value, canonical):
    """A rule with anonymous sets and chains replaced by what they hold, so that their numbering does not count."""
    if isinstance(value, dict):
        return {key: _inlined(content, canonical) for key, content in value.items()}
    if isinstance(value, list):
        return [_inlined(content, canonical) for content in value]
    if isinstance(value, str) and value.startswith("("):
        inner = canonical["sets"].get(value) or canonical["chains"].get(value)
        return _inlined(inner, canonical) if inner else value
    return value


def elements_text(one):
    """The elements of a canonical set as nft writes them: addresses, networks and ranges; other types as hexadecimal."""
    kind = ADDRESS_TYPES.get(one["key_type"])
    if kind is None or one["flags"] & (nft_ruleset.SET_MAP | nft_ruleset.SET_CONCAT):
        return [json.dumps(nft_ruleset.to_json(element), sort_keys=True) for element in one["elements"]]
    if not one["flags"] & nft_ruleset.SET_INTERVAL:
        return [str(kind(element["key"])) for element in one["elements"]]
    starts, bounds = [], set()
    for element in one["elements"]:
        value = int.from_bytes(element["key"], "big")
        bounds.add(value)
        if not element["flags"] & nft_ruleset.ELEMENT_INTERVAL_END:
            starts.append(value)
    bounds = sorted(bounds) + [1 << kind(0).max_prefixlen]
    following = dict(zip(bounds, bounds[1:]))
    texts = []
    for start in sorted(starts):
        first, last = kind(start), kind(following[start] - 1)
        networks = list(ipaddress.summarize_address_range(first, last))
        if len(networks) > 1:
            texts.append(f"{first}-{last}")
        else:
            texts.append(str(first) if first == last else str(networks[0]))
    return texts


def in_private_network(function):
    """Run `function` in a forked child with a network namespace of its own, and return its JSON-able result.

    Raises NftError with the child's NftError, and OSError where the node refuses a new namespace.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            with os.fdopen(writing, "w", encoding="utf-8") as stream:
                json.dump(_guarded(function), stream)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "r", encoding="utf-8") as stream:
        text = stream.read()
    os.waitpid(child, 0)
    if not text:
        raise NftError("the trial in a private network namespace ended without a result")
    kind, value = json.loads(text)
    if kind == "nft":
        raise NftError(value)
    if kind == "os":
        raise OSError(*value)
    if kind == "bug":
        raise RuntimeError(value)
    return value


def _guarded(function):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        return "os", (ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        return "value", function()
    except (NftError, nft_ruleset.RulesetUnreadable) as error:
        return "nft", str(error)
    except Exception:  # nobody catches what a forked child raises
        return "bug", traceback.format_exc()

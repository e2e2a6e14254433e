# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Keys of the gateway's clients on the controller: what a secret must be, and a store that makes and rotates them.

Only SHA-256 sums of secrets leave the controller.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import secrets
import tempfile

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.gateway_tls import Unusable, exclusive, read_secret

KEY_DAYS = 90
_SECRET = re.compile(r"[A-Za-z0-9._~+/=-]{32,256}")


def digest(secret):
    """SHA-256 of a secret, hexadecimal; raises Unusable where a secret can be guessed or cannot be sent as a bearer token.

    32 characters of at least 12 kinds hold more than 128 bits where they are random; nobody can see whether they are.
    """
    if not _SECRET.fullmatch(secret):
        raise Unusable("holds no secret of 32 to 256 letters, digits and . _ ~ + / = -")
    if len(set(secret)) < 12:
        raise Unusable("holds a secret that can be guessed")
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


def expiry(value):
    """``2027-01-31`` (to the end of that day, UTC) or ``2027-01-31T12:00:00Z`` -> seconds since 1970; raises ValueError."""
    text = str(value).strip()
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        day = datetime.datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=datetime.timezone.utc)
        return int(day.timestamp()) + 86400
    moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return int(moment.timestamp())


def _stamp(moment):
    return moment.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class KeyStore:
    """A private directory of the controller with one file ``CLIENT.json`` a client: ``{keys: [{id, secret, expires}]}``.

    With ``write`` false nothing is written and what would be made is made in memory only, for check mode.
    """

    def __init__(self, directory, write=True):
        self.directory, self.write = directory, write

    def keys(self, client, now):
        """``[{id, sha256, expires}]`` of a client that have not expired, and whether the first one was made just now."""
        with exclusive(self.directory, self.write):
            held = self._read(client)
            if held is None:
                held = [self._new(client, now, now.strftime("%Y%m%d"))]
                self._write(client, held)
                return [self._public(key) for key in held], True
            return [self._public(key) for key in held if expiry(key["expires"]) > now.timestamp()], False

    def add(self, client, now):
        """Make a further key; keys of before live on. Returns its id. Raises Unusable where two are valid already."""
        with exclusive(self.directory, self.write):
            held = self._read(client) or []
            valid = [key for key in held if expiry(key["expires"]) > now.timestamp()]
            if len(valid) > 1:
                raise Unusable(f"holds two valid keys of {client} already ({', '.join(key['id'] for key in valid)}); retire one first")
            # An id never comes back: gateways count the requests of a key by its id.
            made = self._new(client, now, now.strftime("%Y%m%d-%H%M%S"))
            self._write(client, [*valid, made])
            return made["id"]

    def retire(self, client, identifier):
        """Take a key away. Raises Unusable where it is the only one or not there."""
        with exclusive(self.directory, self.write):
            held = self._read(client) or []
            left = [key for key in held if key["id"] != identifier]
            if len(left) == len(held):
                raise Unusable(f"holds no key {identifier} of {client}")
            if not left:
                raise Unusable(f"holds no other key of {client} than {identifier}; add one first, or remove the client")
            self._write(client, left)

    def revoke(self, client, identifier, now):
        """Take a key away at once, used or not. Returns the id of the key made in its place where no valid one is left, else None.

        Raises Unusable where it is not there.
        """
        with exclusive(self.directory, self.write):
            held = self._read(client) or []
            left = [key for key in held if key["id"] != identifier]
            if len(left) == len(held):
                raise Unusable(f"holds no key {identifier} of {client}, but {', '.join(key['id'] for key in held) or 'none'}")
            made = None
            if not any(expiry(key["expires"]) > now.timestamp() for key in left):
                left.append(self._new(client, now, now.strftime("%Y%m%d-%H%M%S")))
                made = left[-1]["id"]
            self._write(client, left)
            return made

    def _path(self, client):
        return os.path.join(self.directory, f"{client}.json")

    def _read(self, client):
        try:
            content = read_secret(self._path(client))
        except FileNotFoundError:
            return None
        try:
            held = [{field: str(key[field]) for field in ("id", "secret", "expires")} for key in json.loads(content)["keys"]]
            for key in held:
                expiry(key["expires"])
        except (ValueError, KeyError, TypeError):
            raise Unusable(f"has a file {client}.json that is not {{keys: [{{id, secret, expires}}]}}") from None
        return held

    def _write(self, client, held):
        if not self.write:
            return
        descriptor, temporary = tempfile.mkstemp(dir=self.directory)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                json.dump({"keys": held}, stream, indent=2)
                stream.write("\n")
            os.replace(temporary, self._path(client))
        except BaseException:
            os.unlink(temporary)
            raise

    @staticmethod
    def _new(client, now, identifier):
        expires = _stamp(now + datetime.timedelta(days=KEY_DAYS))
        return {"id": identifier, "secret": f"vms_{client}_{secrets.token_urlsafe(32)}", "expires": expires}

    @staticmethod
    def _public(key):
        return {"id": key["id"], "sha256": digest(key["secret"]), "expires": expiry(key["expires"])}

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a user writes for the role ``vllm_gateway``, checked and turned into what its node gets. Every problem at once."""

from __future__ import annotations

import difflib
import os
import re

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import gateway, gateway_keys, gateway_places, gateway_tls
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.gateway_tls import Unusable
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.plan_reader import PlanError, Reader

_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_COMMON_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._-]{0,63}")
_MANAGEMENT_PATH = re.compile(r"(?:GET|POST) (?:/[A-Za-z0-9_-]+)+")
CLIENT_KEYS = ("name", "instances", "endpoints", "rate", "concurrency", "keys")
RATE, CONCURRENCY = 600, 32
MOST_FILES = 1024 * 1024  # that a process may open, fs.nr_open where nobody changed it
MOST = 10**12  # of any limit; what each can really be is said below
BOUNDED = ("n", "best_of", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "prompt_logprobs")


class GatewayError(PlanError):
    """The variables of the role cannot be used; ``problems`` as in PlanError."""

    subject, consequence = "vllm_gateway", "nothing was changed"


def read(raw, node, now, write):
    """Check the variables and return ``(settings, files, report)``.

    ``raw`` holds the role's variables without their prefix, ``node`` is the name of the node, ``now`` an aware datetime; with ``write``
    false nothing is written on the controller. ``settings`` is what ``gateway.configuration`` takes. ``files`` maps a name below the
    gateway's directory to its content (bytes); private keys are among them. ``report`` lists certificates and keys with their expiry.
    Raises GatewayError.
    """
    reader = Reader()
    gateway_places.check(reader, raw)
    if reader.problems:
        raise GatewayError(reader.problems)
    instances = [gateway_places.normal(instance) for instance in raw["instances"]]
    raw = {**raw, "instances": instances, "metrics": gateway_places.normal(raw["metrics"])}
    clients, warnings = _clients(reader, raw, instances, now, write)
    limits = _limits(reader, raw)
    bounds = _bounds(reader, raw, limits)
    authority = None
    if raw.get("ca_directory"):
        authority = gateway_tls.Authority(raw["ca_directory"], (raw.get("ca_passphrase") or "").encode() or None, write)
    files, certificates = _certificates(reader, raw, instances, node, now, authority)
    administrators = _administrators(reader, raw, files, now, authority)
    if reader.problems:
        raise GatewayError(reader.problems)
    settings = {
        "instances": instances,
        "metrics": raw["metrics"],
        "management_names": raw.get("management_names") or [],
        "administrators": administrators,
        "management_endpoints": raw.get("management_endpoints") or [],
        "limits": limits,
        "bounds": bounds,
        "threads": raw.get("threads") or 4,
    }
    files["haproxy.cfg"] = gateway.configuration(settings).encode()
    files["keys.map"] = gateway.key_map(clients).encode()
    files["scopes.lst"] = gateway.scopes(clients, instances).encode()
    files["clients.lst"] = gateway.network_list(raw["client_networks"]).encode()
    files["monitors.lst"] = gateway.network_list(raw["monitor_networks"]).encode()
    keys = [{"client": client["name"], "id": key["id"], "expires": key["expires"]} for client in clients for key in client["keys"]]
    soon = now.timestamp() + raw.get("warning_days", 14) * 86400
    warnings += [
        f"the key {key['id']} of client {key['client']} expires within {raw.get('warning_days', 14)} days"
        for key in keys
        if now.timestamp() < key["expires"] < soon
    ]
    warnings += [
        f"the certificate for {', '.join(entry['names'])} expires in {entry['days_left']} days"
        for entry in certificates
        if entry["days_left"] < raw.get("warning_days", 14)
    ]
    return settings, files, {"certificates": certificates, "keys": keys, "warnings": warnings}


def _clients(reader, raw, instances, now, write):
    path = "vllm_gateway_clients"
    known = sorted({instance["name"] for instance in instances} | set(raw.get("known_instances") or []))
    store = gateway_keys.KeyStore(raw["key_directory"], write) if raw.get("key_directory") else None
    clients, warnings, digests, names = [], [], {}, set()
    if not raw.get("clients"):
        reader.problem(path, None, "is missing or empty", "Write at least one client, such as {name: team-a, instances: [chat]}")
    for index, client in enumerate(raw.get("clients") or []):
        where = f"{path}[{client.get('name', index) if isinstance(client, dict) else index}]"
        if not isinstance(client, dict):
            reader.problem(where, client, "is no mapping", "Write {name: team-a, instances: [chat]}")
            continue
        reader.known_keys(f"{where}.", client, CLIENT_KEYS, "key of a client")
        name = str(client.get("name", ""))
        if not _IDENTIFIER.fullmatch(name):
            reader.problem(f"{where}.name", client.get("name"), "is no name", "Write at most 31 lower-case letters, digits and -")
        if name in names:
            reader.problem(f"{where}.name", name, "stands there twice", "Write one entry with all instances of the client")
        names.add(name)
        _scope(reader, where, client, known, instances)
        entry = {
            "name": name,
            "instances": [str(item) for item in _listed(client.get("instances"))],
            "endpoints": client.get("endpoints"),
            "rate": reader.integer(f"{where}.rate", client.get("rate", RATE), 1, "number of requests a minute"),
            "concurrency": reader.integer(f"{where}.concurrency", client.get("concurrency", CONCURRENCY), 1, "number of open requests"),
            "keys": _keys(reader, where, client, name, store, now),
        }
        for key in entry["keys"]:
            owner = digests.setdefault(key["sha256"], where)
            if owner != where:
                reader.problem(f"{where}.keys[{key['id']}]", None, f"is the key of {owner} too", "Give each client a key of its own")
        valid = [key for key in entry["keys"] if key["expires"] > now.timestamp()]
        if len(valid) > 2:
            shown = ", ".join(key["id"] for key in valid)
            reader.problem(f"{where}.keys", shown, "are more than two keys valid at once", "Keep the one in use and the next one")
        elif entry["keys"] and not valid:
            warnings.append(f"no key of client {name} is valid any more")
        clients.append(entry)
    return clients, warnings


def _listed(value):
    return value if isinstance(value, list) else []


def _scope(reader, where, client, known, instances):
    scope = [str(name) for name in _listed(client.get("instances"))]
    if not scope:
        trouble = "is missing or empty, so the client may call nothing"
        reader.problem(f"{where}.instances", client.get("instances"), trouble, f"Write such as {known[:2]}")
    for index, name in enumerate(scope):
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0)
            reader.problem(f"{where}.instances[{index}]", name, "is no instance", f"Write {near[0] if near else 'an instance'}")
    endpoints = client.get("endpoints")
    if endpoints is None:
        return
    served = sorted({endpoint for instance in instances if instance["name"] in scope for endpoint in instance["endpoints"]})
    if not isinstance(endpoints, list) or not endpoints:
        reader.problem(f"{where}.endpoints", endpoints, "is no list of endpoints", f"Write such as {served[:2]}, or leave it out")
        return
    # A node serves some of the instances only; what it does not serve is judged where it is served.
    if any(instance["name"] in scope for instance in instances):
        for index, endpoint in enumerate(endpoints):
            if endpoint not in served and set(scope) <= {instance["name"] for instance in instances}:
                near = difflib.get_close_matches(str(endpoint), served, n=1, cutoff=0)
                trouble = "is served by none of the client's instances"
                reader.problem(f"{where}.endpoints[{index}]", endpoint, trouble, f"Write {near[0]}, or add it to endpoints of the instance")


def _keys(reader, where, client, name, store, now):
    """``[{id, sha256, expires}]`` from the inventory, from files, or from the store."""
    raw = client.get("keys")
    if raw is None:
        if store is None:
            fix = "Write [{id: a, sha256: SUM, expires: 2027-01-31}], or set vllm_gateway_key_directory to have keys made"
            reader.problem(f"{where}.keys", None, "is missing", fix)
            return []
        if not _IDENTIFIER.fullmatch(name):
            return []
        try:
            return store.keys(name, now)[0]
        except (Unusable, OSError) as error:
            trouble = str(error) if isinstance(error, Unusable) else f"cannot be used: {error.strerror}"
            reader.problem("vllm_gateway_key_directory", store.directory, trouble, _repair(error))
            return []
    if not isinstance(raw, list) or not raw:
        reader.problem(f"{where}.keys", raw, "is no list of keys", "Write [{id: a, sha256: SUM, expires: 2027-01-31}]")
        return []
    found = []
    for index, key in enumerate(raw):
        entry = _key(reader, f"{where}.keys[{index}]", key)
        if entry and entry["id"] in [other["id"] for other in found]:
            reader.problem(f"{where}.keys[{index}].id", entry["id"], "stands there twice", "Give each key an id of its own")
        found += [entry] if entry else []
    return found


def _key(reader, where, key):
    if not isinstance(key, dict):
        reader.problem(where, None, "is no mapping", "Write {id: a, sha256: SUM, expires: 2027-01-31}")
        return None
    reader.known_keys(f"{where}.", key, ("id", "sha256", "file", "expires"), "setting of a key")
    before = len(reader.problems)
    if not _IDENTIFIER.fullmatch(str(key.get("id", ""))):
        reader.problem(f"{where}.id", key.get("id"), "is no id", "Write at most 31 lower-case letters, digits and -")
    expires = None
    try:
        expires = gateway_keys.expiry(key.get("expires", ""))
    except ValueError:
        reader.problem(f"{where}.expires", key.get("expires"), "is no date", "Write such as 2027-01-31 or 2027-01-31T12:00:00Z")
    sha256 = key.get("sha256")
    if (sha256 is None) == (key.get("file") is None):
        reader.problem(where, None, "needs either sha256 or file", "Write the SHA-256 sum of the secret, or a file on the controller")
    elif sha256 is not None:
        # What is not a sum may be the secret itself, which no message shows.
        if not re.fullmatch(r"[0-9a-f]{64}", str(sha256)):
            reader.problem(f"{where}.sha256", None, "is no SHA-256 sum of 64 lower-case hexadecimal digits", "Write the sum, never the secret")
    else:
        path = os.path.expanduser(str(key["file"]))
        try:
            sha256 = gateway_keys.digest(gateway_tls.read_secret(path).decode("ascii", "replace").strip())
        except (Unusable, OSError) as error:
            trouble = str(error) if isinstance(error, Unusable) else f"cannot be read: {error.strerror}"
            reader.problem(f"{where}.file", path, trouble, _repair(error))
    if len(reader.problems) > before:
        return None
    return {"id": str(key["id"]), "sha256": str(sha256), "expires": expires}


def _repair(error):
    if "mode" in str(error):
        return "chmod go= it, and use another secret if others may have read it"
    return "Correct it, or name another path"


def _limits(reader, raw):
    limits = {}
    reader.known_keys("vllm_gateway_limits.", raw.get("limits") or {}, tuple(gateway.LIMITS), "limit")
    for key in gateway.LIMITS:
        if (raw.get("limits") or {}).get(key) is not None:
            limits[key] = reader.integer(f"vllm_gateway_limits.{key}", raw["limits"][key], 1, "limit", MOST) or gateway.LIMITS[key]
    most = {
        "body_bytes": (10**gateway.LENGTH_DIGITS - 1, "than the gateway can count"),
        "connections": ((MOST_FILES - 4096) // 2 // (len(raw["instances"]) + 1), f"than a process may have, with {len(raw['instances'])} instances"),
    }
    for key, (largest, why) in most.items():
        if limits.get(key, 0) > largest:
            reader.problem(f"vllm_gateway_limits.{key}", limits[key], f"is more {why}", f"Write at most {largest}")
    return limits


def _bounds(reader, raw, limits):
    bounds = {}
    for key, value in (raw.get("bounds") or {}).items():
        if key not in BOUNDED:
            near = difflib.get_close_matches(str(key), BOUNDED, n=1, cutoff=0)
            reader.problem(f"vllm_gateway_bounds.{key}", value, "is no key of a request that can be bounded", f"Write {near[0]}, or remove it")
            continue
        bounds[key] = reader.integer(f"vllm_gateway_bounds.{key}", value, 0, "bound", MOST)
    largest = 1024 * 1024
    if bounds and limits.get("body_bytes", gateway.LIMITS["body_bytes"]) > largest:
        reader.problem(
            "vllm_gateway_limits.body_bytes",
            limits.get("body_bytes", gateway.LIMITS["body_bytes"]),
            "is more than the gateway can hold of each request to judge it (vllm_gateway_bounds)",
            f"Write at most {largest}",
        )
    return bounds


def _certificates(reader, raw, instances, node, now, authority):
    """Files of the certificates, and what they are; those of the inventory, or one of the internal authority."""
    files, report = {}, []
    path = "vllm_gateway_certificates"
    own = raw.get("certificates") or []
    wanted = _server_names(raw, instances)
    if own and authority and not raw.get("administrators"):
        reader.problem(path, None, "and vllm_gateway_ca_directory are both set", "Write one of them")
        return files, report
    if not own and not authority:
        reader.problem(path, None, "is missing", "Write [{certificate: FILE, private_key: FILE}], or set vllm_gateway_ca_directory")
        return files, report
    if not own:
        try:
            chain, key, _new = authority.issue(node, wanted["all"], now, renew=bool(raw.get("renew_certificates")))
            name = f"certificates/{node}.pem"
            report.append({"file": name, **gateway_tls.judge(chain, key, wanted["all"], now)})
            files[name] = chain + key
        except (Unusable, OSError) as error:
            _ca_problem(reader, raw, error)
        return files, report
    uncovered = set(wanted["required"])
    for index, entry in enumerate(own):
        where = f"{path}[{index}]"
        if not isinstance(entry, dict) or not entry.get("certificate") or not entry.get("private_key"):
            reader.problem(where, None, "is no pair of files", "Write {certificate: FILE, private_key: FILE}")
            continue
        variable, used = f"{where}.certificate", os.path.expanduser(str(entry["certificate"]))
        try:
            with open(used, "rb") as stream:
                chain = stream.read()
            variable, used = f"{where}.private_key", os.path.expanduser(str(entry["private_key"]))
            key = gateway_tls.read_secret(used)
            variable, used = f"{where}.certificate", os.path.expanduser(str(entry["certificate"]))
            name = f"certificates/{index:02d}.pem"
            report.append({"file": name, **gateway_tls.judge(chain, key, [], now)})
            dns, addresses = gateway_tls.names_of(chain)
        except (Unusable, OSError) as error:
            trouble = str(error) if isinstance(error, Unusable) else f"cannot be read: {error.strerror}"
            reader.problem(
                variable,
                used,
                trouble,
                "Write a certificate that is valid now, of an EC key on P-256 or P-384" if "private" not in variable else _repair(error),
            )
            uncovered = set()
            continue
        uncovered = {name for name in uncovered if not gateway_tls.covered(name, dns, addresses)}
        files[name] = chain.rstrip() + b"\n" + key
    for name in sorted(uncovered):
        reader.problem(path, name, "is a name that clients call and no certificate is valid for", "Add a certificate, or remove the name")
    return files, report


def _server_names(raw, instances):
    """Names that a certificate must hold (those that clients call), and all that one of our own gets."""
    names = [name for instance in instances for name in instance["server_names"]]
    addresses = [address for instance in instances for address in instance["addresses"]]
    unnamed = [address for instance in instances if not instance["server_names"] for address in instance["addresses"]]
    management = [*(raw.get("management_names") or []), *raw["metrics"]["addresses"]]
    return {"required": list(dict.fromkeys(names + unnamed)), "all": list(dict.fromkeys(names + addresses + management))}


def _ca_problem(reader, raw, error):
    trouble = str(error) if isinstance(error, Unusable) else f"cannot be used: {error.strerror}"
    reader.problem("vllm_gateway_ca_directory", raw["ca_directory"], trouble, _repair(error))


def _administrators(reader, raw, files, now, authority):
    """Names of administrators' certificates; their authority goes into ``files``, and the internal one issues what is missing."""
    administrators = raw.get("administrators") or []
    for index, name in enumerate(administrators):
        if not _COMMON_NAME.fullmatch(str(name)):
            reader.problem(f"vllm_gateway_administrators[{index}]", name, "is no common name of a certificate", "Write such as alice")
    for index, endpoint in enumerate(raw.get("management_endpoints") or []):
        if not _MANAGEMENT_PATH.fullmatch(str(endpoint)):
            where = f"vllm_gateway_management_endpoints[{index}]"
            reader.problem(where, endpoint, "is no method and exact path", "Write such as POST /pause")
    if raw.get("management_endpoints") and not administrators:
        fix = "Write the common names of their certificates"
        reader.problem("vllm_gateway_administrators", None, "is missing, though vllm_gateway_management_endpoints is there", fix)
    if not administrators or reader.problems:
        return administrators
    if raw.get("administrators_ca"):
        path = os.path.expanduser(str(raw["administrators_ca"]))
        try:
            with open(path, "rb") as stream:
                files["administrators.pem"] = stream.read()
            gateway_tls.names_of(files["administrators.pem"])
        except (Unusable, OSError) as error:
            trouble = str(error) if isinstance(error, Unusable) else f"cannot be read: {error.strerror}"
            reader.problem("vllm_gateway_administrators_ca", path, trouble, "Write the file of the authority that signs administrators' certificates")
    elif authority:
        try:
            for name in administrators:
                authority.issue(f"administrator-{name}", [], now, "client", str(name))
            files["administrators.pem"] = authority.certificate(now)
        except (Unusable, OSError) as error:
            _ca_problem(reader, raw, error)
    else:
        fix = "Write the file of the authority that signs administrators' certificates, or set vllm_gateway_ca_directory"
        reader.problem("vllm_gateway_administrators_ca", None, "is missing, though there are administrators", fix)
    return [str(name) for name in administrators]

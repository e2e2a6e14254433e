# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Comparisons of what was wanted with what was observed, for the modules that verify a host on their own. Pure.

Each returns findings, `{subject, expected, observed}`; none means that everything is as wanted.
"""

from __future__ import annotations

import ipaddress

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.ports import parse_ports


def finding(subject, expected, observed):
    """One deviation."""
    return {"subject": str(subject), "expected": str(expected), "observed": str(observed)}


def check_allowed(allowed):
    """Refuse what is no allowed listener. Raises ValueError with all problems."""
    problems = []
    for index, entry in enumerate(allowed):
        try:
            if entry.get("address") not in (None, "*"):
                ipaddress.ip_address(entry["address"])
            for ports in entry["ports"]:
                parse_ports(ports)
        except ValueError as error:
            problems.append(f"allowed[{index}]: {error}")
    if problems:
        raise ValueError("; ".join(problems))


def compare_listeners(listeners, allowed, loopback=False):
    """Listening sockets that nothing allows.

    allowed: [{address, protocol, ports, unit}]; `address` None stands for any single address and "*" also for every interface, `unit` None for any.
    loopback: whether sockets on loopback are looked at.
    """
    found = []
    for entry in listeners:
        address = ipaddress.ip_address(entry["address"])
        # A socket of IPv6 that is bound to a mapped address listens on that address of IPv4.
        address = getattr(address, "ipv4_mapped", None) or address
        if address.is_loopback and not loopback:
            continue
        for permit in allowed:
            named = permit.get("address")
            fits = named == "*" or (named is None and not address.is_unspecified) or (named not in (None, "*") and ipaddress.ip_address(named) == address)
            if (fits and permit.get("protocol", "tcp") == entry["protocol"] and permit.get("unit") in (None, entry["unit"])
                    and any(first <= entry["port"] <= last for first, last in map(parse_ports, permit["ports"]))):
                break
        else:
            owner = entry["unit"] or entry["command"] or f"uid {entry['uid']}"
            found.append(finding(f"{entry['address']} port {entry['port']}/{entry['protocol']}", "not listening, or allowed", f"listening, {owner}"))
    return found


def compare_unit(name, facts, user=None, properties=None, active=True, unprivileged=True):
    """A unit's effective properties, and its processes.

    facts: {properties, processes} of units.read_units; properties: {name: value or list of accepted values}.
    """
    seen, found = facts["properties"], []
    wanted = {"LoadState": ["loaded"], "NeedDaemonReload": ["no"]}
    wanted.update({"ActiveState": ["active"]} if active else {})
    wanted.update({"User": [user]} if user else {})
    wanted.update({key: value if isinstance(value, list) else [value] for key, value in (properties or {}).items()})
    for key, values in wanted.items():
        if key not in seen:
            found.append(finding(f"{name} {key}", " or ".join(map(str, values)), "unknown to this systemd"))
        elif seen[key] not in [str(value) for value in values]:
            found.append(finding(f"{name} {key}", " or ".join(map(str, values)) or "empty", seen[key] or "empty"))
    for process in facts["processes"] if unprivileged else ():
        label = f"{name} process {process['pid']} ({process['command']})"
        if "0" in str(process["uid"]).split():
            found.append(finding(label, "not root", "root"))
        for kind in ("permitted", "effective", "ambient"):
            if process[kind] is None or int(process[kind], 16):
                found.append(finding(label, f"no {kind} capability", process[kind] or "unknown"))
        if process["no_new_privileges"] != "1":
            found.append(finding(label, "no new privileges", f"NoNewPrivs {process['no_new_privileges']}"))
    return found


def compare_network(addresses, sysctls, wanted_addresses, wanted_sysctls):
    """Addresses that are missing or elsewhere, and settings with other values.

    addresses: of network_tables.read_addresses; sysctls: of observation.read_sysctls; wanted_addresses: [{address, interface or None}].
    """
    seen = {ipaddress.ip_address(entry["address"]): entry["interface"] for entry in addresses}
    found = []
    for entry in wanted_addresses:
        interface = seen.get(ipaddress.ip_address(entry["address"]))
        if interface is None:
            found.append(finding(entry["address"], f"on {entry.get('interface') or 'an interface'}", "on no interface"))
        elif entry.get("interface") not in (None, interface):
            found.append(finding(entry["address"], f"on {entry['interface']}", f"on {interface}"))
    for name, value in wanted_sysctls.items():
        if not sysctls[name]:
            found.append(finding(name, value, "not known to this kernel, or not readable"))
        for path, actual in sysctls[name].items():
            if actual is None or actual.split() != str(value).split():
                found.append(finding(path, value, "not known to this kernel" if actual is None else actual or "empty"))
    return found


def compare_sshd(settings, wanted):
    """Settings of the SSH daemon with other values. wanted: {name: value or list of accepted values}."""
    found = []
    for name, values in wanted.items():
        accepted = [str(value) for value in (values if isinstance(values, list) else [values])]
        actual = settings.get(name.lower())
        if actual is None or not set(actual) <= set(accepted):
            found.append(finding(name, " or ".join(accepted), "unknown to this SSH daemon" if actual is None else ", ".join(actual)))
    return found


def compare_accounts(accounts, shells=("/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false")):
    """Accounts of services that could log in or become somebody else. accounts: of access.read_accounts."""
    found = []
    for name, account in accounts.items():
        if account is None:
            found.append(finding(name, "an account", "no such account"))
            continue
        if account["shell"] not in shells:
            found.append(finding(name, "no shell", account["shell"]))
        if account["password"] != "locked":
            found.append(finding(name, "a locked password", account["password"] or "unknown"))
        found.extend(finding(name, "no sudo rule", rule) for rule in account["sudo"])
    return found

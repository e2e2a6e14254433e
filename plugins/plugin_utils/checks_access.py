# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Checks of who may change files, log in and gain privileges. Pure.

A check returns `(expected, problems)`, and passes without problems. It raises Unknown where the node did not tell, and NotApplicable where the
control does not concern the node.
"""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_request import SSH_DROPIN, SUDO_LIMITS, around, model_path, software_paths
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judged_node import NotApplicable, Unknown, clip, not_roots

PRIVILEGED_GROUPS = ("root", "sudo", "wheel", "adm", "docker", "podman", "lxd", "libvirt", "disk", "shadow", "kmem", "admin")
SSH_UNITS = ("ssh.service", "sshd.service", "ssh.socket", "sshd.socket")
NO_SHELLS = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false")


# Files and accounts

def model_is_roots(node):
    paths = [model_path(instance) for instance in node.instances if model_path(instance)]
    if not paths:
        raise NotApplicable("no model is a directory of this node")
    files, problems = node.observed("files"), []
    for path in paths:
        problems += _not_roots_on_the_way(node, around(path))
        problems += _not_roots_on_the_way(node, sorted(name for name in files if name.startswith(f"{path}/")))
    return ", ".join(paths) + " owned by root, writable by nobody else", list(dict.fromkeys(problems))


def _not_roots_on_the_way(node, paths):
    """What is wrong with files that only root may change, and with what links among them lead to."""
    for path in paths:
        for where, facts in node.followed(path):
            yield from [f"{clip(where)} does not exist"] if facts is None else not_roots(where, facts)


def software_is_roots(node):
    if not node.instances:
        raise NotApplicable("no instance on this node")
    images = {properties.get("RootDirectory") for _unit, _instance, properties, _processes in node.units()} - {"", None}
    paths, problems = sorted(images) or software_paths(node.planned), []
    if not paths:
        problems.append("the units have no image, where the software is planned to be")
    problems += _not_roots_on_the_way(node, paths)
    return f"{', '.join(paths) or 'an image'}, owned by root, writable by nobody else", problems


def credentials_are_roots(node):
    files, problems = node.observed("files"), []
    found = [path for path in files if path.startswith("/etc/vllm-hardening/credentials") and files[path]]
    for path in sorted(found):
        facts = node.file(path)
        if facts["owner"] != "root" or int(facts["mode"], 8) & 0o077:
            problems.append(f"{clip(path)} is {clip(facts['owner'])}'s with mode {facts['mode']}")
    if not found:
        raise NotApplicable("no credential on this node")
    return "owned by root, no access for others", problems


def _sshd(node, wanted):
    settings = node.observed("sshd")["settings"]
    if settings is None:
        raise NotApplicable("no SSH daemon on this node")
    problems, expected = [], []
    for name, values in wanted.items():
        found = settings.get(name.lower())
        expected.append(f"{name} {' or '.join(values)}")
        if not isinstance(found, list):
            raise Unknown(f"the SSH daemon did not tell {name}")
        if found[0] not in values:
            problems.append(f"{name} is {clip(found[0])}, wanted {' or '.join(values)}")
    return "; ".join(expected), problems


def no_root_password(node):
    return _sshd(node, {"PermitRootLogin": ("no", "without-password", "prohibit-password", "forced-commands-only")})


def keys_only(node):
    return _sshd(node, {"PasswordAuthentication": ("no",), "KbdInteractiveAuthentication": ("no",)})


def no_login_without_secret(node):
    return _sshd(node, {"PermitEmptyPasswords": ("no",), "HostbasedAuthentication": ("no",)})


def ssh_is_restricted(node):
    planned, missing = node.planned.get("access"), node.file(SSH_DROPIN) is None
    if missing and not planned:
        raise NotApplicable("SSH is not restricted by this collection on this node")
    settings = node.observed("sshd")["settings"]
    if settings is None:
        raise Unknown("no SSH daemon answered")
    management, problems = node.planned["addresses"].get("management", []), [f"{SSH_DROPIN} does not exist"] if missing else []
    for listed in settings.get("listenaddress", []):
        address = listed.rpartition(":")[0].strip("[]")
        if address not in management and address not in ("127.0.0.1", "::1"):
            problems.append(f"the SSH daemon is set to listen on {clip(listed)}")
    for entry in node.observed("listeners", list):
        # A socket of systemd is held by systemd itself, in no unit of SSH's.
        ssh = entry.get("unit") in SSH_UNITS or (entry.get("pid") == 1 and str(entry.get("port")) in settings.get("port", []))
        if ssh and entry.get("protocol") == "tcp" and entry["address"] not in (*management, "127.0.0.1", "::1"):
            problems.append(f"{clip(entry.get('command') or entry['unit'])} listens on {clip(entry['address'])}:{clip(entry['port'])}")
    if not settings.get("allowgroups"):
        problems.append("AllowGroups is not set: every account may log in")
    elif planned and set(settings["allowgroups"]) - set(planned["groups"]):
        problems.append(f"AllowGroups also lets in {clip(', '.join(sorted(set(settings['allowgroups']) - set(planned['groups']))))}")
    return f"listening on {', '.join(management)} alone, for {', '.join(planned['groups']) if planned else 'named groups'}", problems


def access_files_are_roots(node):
    found = {path: facts for path, facts in ((path, node.file(path)) for path in (SSH_DROPIN, SUDO_LIMITS)) if facts}
    missing = [SUDO_LIMITS] if (node.planned.get("access") or {}).get("sudo") and SUDO_LIMITS not in found else []
    if not found and not missing:
        raise NotApplicable("neither SSH nor sudo is restricted by this collection on this node")
    problems = [f"{path} does not exist" for path in missing]
    return "owned by root, writable by nobody else", problems + [problem for path, facts in found.items() for problem in not_roots(path, facts)]


def _accounts(node):
    accounts = node.observed("accounts")
    for name in sorted({instance["user"] for instance in node.instances}):
        if accounts[name] is None:
            raise Unknown(f"the account {name} does not exist")
        yield name, accounts[name]


def account_cannot_log_in(node):
    problems, untold = [], []
    for name, account in _accounts(node):
        if account["shell"] not in NO_SHELLS:
            problems.append(f"{name} has the shell {clip(account['shell'])}")
        if account["password"] is None:
            untold.append(name)
        elif account["password"] != "locked":
            problems.append(f"{name}: the password is {clip(account['password'])}, wanted locked")
    if untold and not problems:
        raise Unknown(f"the host did not tell whether the password of {', '.join(untold)} is locked")
    return "no shell, password locked", problems


def account_has_no_privilege(node):
    problems = []
    for name, account in _accounts(node):
        problems += [f"{name} is in the group {clip(group)}" for group in account["groups"] if group in PRIVILEGED_GROUPS]
        problems += [f"{name} may use sudo: {clip(rule)}" for rule in account["sudo"]]
        problems += [f"{name} has the user id 0"] if account["uid"] == 0 else []
    return "no privileged group, no sudo rule", problems


CHECKS = {
    "FIL-01": model_is_roots, "FIL-02": software_is_roots, "FIL-03": credentials_are_roots, "ACC-01": no_root_password, "ACC-02": keys_only,
    "ACC-03": no_login_without_secret, "ACC-04": account_cannot_log_in, "ACC-05": account_has_no_privilege,
    "ACC-06": ssh_is_restricted, "ACC-07": access_files_are_roots,
}

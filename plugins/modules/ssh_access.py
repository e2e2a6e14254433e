#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who may log in to a node, changed so that the login that changes it is never cut off."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ssh_access
short_description: Restrict SSH through a drop-in that a new login has to prove
version_added: 0.1.0
author:
  - vllm_mindspore.hardening contributors (!UNKNOWN)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
description:
  - Writes one drop-in of sshd and restarts it, which open sessions survive. No other file of SSH is touched. With O(limit_sudo) it writes one of sudo too,
    with O(addresses) one of sshd's unit, which then begins again until the addresses are there.
  - The drop-in is refused before it is in place where sshd does not take it, where something else overrides it, or where the login of this run would
    not be let in under it, all of which C(sshd -T) says for that login.
  - A timer on the node puts the drop-in of before back unless the controller confirms the change over a connection that it opens for that purpose.
    So does a unit at boot, where the node goes down in between.
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    support: full
    platforms: linux
  action:
    support: full
  async:
    support: none
  bypass_host_loop:
    support: none
options:
  addresses:
    description: Addresses that sshd listens on.
    type: list
    elements: str
    default: []
  port:
    description: The port that sshd listens on.
    type: int
    default: 22
  groups:
    description: Groups whose members may log in.
    type: list
    elements: str
    default: []
  settings:
    description: Further options of sshd, or others than those that the role vllm_access documents.
    type: dict
    default: {}
  limit_sudo:
    description:
      - Whether the account of this run may use sudo for what Ansible runs as root and for nothing else. Needs sudo 1.9.10.
      - Without it the drop-in of sudo is removed.
    type: bool
    default: false
  rollback_timeout:
    description: Seconds after which an unconfirmed change is undone.
    type: int
    default: 30
  state:
    description: V(absent) removes the drop-in.
    type: str
    choices: [present, absent]
    default: present
  phase:
    description: Set by the controller's half of this module.
    type: str
    choices: [apply, confirm, outcome]
    default: apply
  change_id:
    description: Set by the controller's half of this module.
    type: str
    default: ""
  signed:
    description: Set by the controller's half of this module, where C(vllm_guard_signing_key) names a key.
    type: dict
  asks_password:
    description: Set by the controller's half of this module.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Let administrators in on the management segment only
  vllm_mindspore.hardening.ssh_access:
    addresses: [10.77.0.11]
    groups: [administrators]
"""

RETURN = r"""
effective:
  description: What sshd runs with for the login of this run, of the options that the drop-in names.
  type: dict
  returned: when O(state=present)
resources:
  description: Each file that differs, and how.
  type: list
  elements: dict
  returned: success
origin:
  description: Whether the difference comes from another desired state than was last applied (V(rollout)), or from a change on the node (V(foreign)).
  type: str
  returned: when changed
  sample: foreign
"""

import contextlib
import glob
import grp
import json
import os
import pwd
import re
import shutil
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import applied, confirmed_change, node_files, sealing, ssh_daemon

MAIN = "/etc/ssh/sshd_config"
DROPIN = "/etc/ssh/sshd_config.d/00-vllm-hardening.conf"
SUDOERS = "/etc/sudoers.d/zz-vllm-hardening"
UNITS = ("ssh.service", "sshd.service")  # Debian's name and Fedora's
DIRECTORY = "/var/lib/vllm-hardening/access"
GUARD = "vllm-hardening-access.service"
RUNTIME = "/run/vllm-hardening"
RECORD = "vllm_access"


class Refused(Exception):
    """A change that is not begun; the message is for the user."""


def kept(params):
    """What the guard keeps, as node_state has it: sshd's drop-in, which sshd reads again where it was put back. sudo's depends on the login. Pure."""
    present = params["state"] == "present"
    text = ssh_daemon.dropin(params["addresses"], params["port"], params["groups"], params["settings"]) if present else None
    item = {"path": DROPIN, "content": text, "owner": "root", "group": "root", "mode": "0644", "state": params["state"], "sensitive": False}
    return {"groups": [], "users": [], "directories": [], "units": [], "files": [item], **({"reloads": {DROPIN: list(UNITS)}} if present else {})}


def read(path):
    """The text of a file, or None."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except FileNotFoundError:
        return None


def login():
    """(account, its groups, client address, (server address, port)) of this run's login; the addresses None without SSH."""
    account = os.environ.get("SUDO_USER") or pwd.getpwuid(os.geteuid()).pw_name
    primary = pwd.getpwnam(account).pw_gid
    groups = [grp.getgrgid(number).gr_name for number in os.getgrouplist(account, primary)]
    words = (confirmed_change.login() or "").split()
    if len(words) != 4:
        return account, groups, None, None
    return account, groups, words[0], (words[2], int(words[3]))


class Access:
    """The edge of one run."""

    def __init__(self, module):
        self.module, self.params = module, module.params
        self.sshd = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin:/usr/local/sbin")
        self.unit = "ssh.service" if os.path.exists("/lib/systemd/system/ssh.service") else "sshd.service"
        self.waiting = f"/etc/systemd/system/{self.unit}.d/vllm-hardening.conf"
        self.files = {DROPIN: ("previous.conf", 0o644), SUDOERS: ("previous.sudoers", 0o440), self.waiting: ("previous.unit", 0o644)}

    def effective(self, text):
        """``sshd -T`` for this run's login with ``text`` in place of the drop-in, as ssh_daemon.parse; raises Refused."""
        account, _groups, client, server = login()
        os.makedirs(RUNTIME, mode=0o755, exist_ok=True)
        folder = tempfile.mkdtemp(prefix="access-check-", dir=RUNTIME)
        try:
            # Everything as on the node but the drop-in itself: options such as AllowGroups add up, so the one in place must not count.
            os.mkdir(f"{folder}/sshd_config.d")
            for other in sorted(glob.glob("/etc/ssh/sshd_config.d/*")):
                if other != DROPIN and os.path.isfile(other):
                    shutil.copy(other, f"{folder}/sshd_config.d")
            main = re.sub(r"(?:/etc/ssh/)?sshd_config\.d", f"{folder}/sshd_config.d", read(MAIN) or "")
            for name, content in (("sshd_config.d/00-vllm-hardening.conf", text), ("sshd_config", main)):
                with open(f"{folder}/{name}", "w", encoding="utf-8") as handle:
                    handle.write(content)
            of = [f"user={account}", f"host={client or 'localhost'}", f"addr={client or '127.0.0.1'}"]
            of += [f"laddr={server[0]}", f"lport={server[1]}"] if server else []
            code, out, err = self.module.run_command([self.sshd, "-T", "-f", f"{folder}/sshd_config", "-C", ",".join(of)])
            if code != 0:
                raise Refused(f"sshd refuses the drop-in: {err.replace(folder, '/etc/ssh').strip()}")
            return ssh_daemon.parse(out)
        finally:
            shutil.rmtree(folder)

    def judge(self, text):
        """What takes effect; raises Refused where the drop-in would not, or where this login would be refused."""
        if not re.search(r"(?im)^\s*include\s.*sshd_config\.d", read(MAIN) or ""):
            raise Refused(f"{MAIN} does not include sshd_config.d: add 'Include /etc/ssh/sshd_config.d/*.conf' as its first line")
        effective = self.effective(text)
        account, groups, _client, server = login()
        problems = ssh_daemon.refusals(effective, account, groups, server)
        if problems:
            raise Refused("the change would lock this run out: " + "; ".join(problems) + ". Nothing was changed; correct vllm_access_*")
        missing = [name for name in self.params["groups"] if not self._group(name)]
        if missing:
            raise Refused(f"vllm_access_groups: {', '.join(missing)} is no group of this node; create it, or remove it")
        others = ssh_daemon.overridden(text, effective)
        if others:
            shown = "; ".join(f"{name} is {have}, not {want}" for name, want, have in others)
            raise Refused(f"something else in {MAIN} decides for this login: {shown}. Remove that, nothing was changed")
        for name, more in ssh_daemon.added(text, effective):
            self.module.warn(f"{name}: another file of sshd adds {', '.join(more)} to what vllm_access_* names (ACC-06); remove it there, or name it")
        return {name: effective.get(name) for name in ssh_daemon.parse(text)}

    @staticmethod
    def _group(name):
        try:
            return grp.getgrnam(name)
        except KeyError:
            return None

    def run(self, *command):
        """Run a tool; raises Refused."""
        code, out, err = self.module.run_command(list(command))
        if code != 0:
            raise Refused(f"{' '.join(command)}: {(err or out).strip()}")
        return out

    def sudo_rules(self):
        """The wanted text of sudo's drop-in, judged by visudo; raises Refused."""
        account = login()[0]
        if account == "root":
            raise Refused("vllm_access_limit_sudo: this run logs in as root, whom sudo does not limit; log in as another account, or leave it out")
        if ssh_daemon.sudo_version(self.run("sudo", "-V")) < (1, 9, 10):
            raise Refused("vllm_access_limit_sudo: sudo on this node is older than 1.9.10, which knows no regular expressions; leave it out for this node")
        text = ssh_daemon.sudo_rules(account, self.params["asks_password"])
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            self.run("visudo", "--check", "--quiet", f"--file={handle.name}")
        return text

    def change(self, wanted, before):
        """Arm the rollback, put the files in place, restart sshd. Both arguments map the paths of ``files`` to a text, None where there is no file."""
        identifier = self.params["change_id"]
        folder = f"{DIRECTORY}/{identifier}"
        os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
        for name in os.listdir(DIRECTORY):
            if os.path.exists(f"{DIRECTORY}/{name}/pending"):
                raise Refused(f"another change of SSH access ({name}) waits for its confirmation; run again when it has ended")
            shutil.rmtree(f"{DIRECTORY}/{name}", ignore_errors=True)
        os.mkdir(folder, 0o700)
        for path, (copy, _mode) in self.files.items():
            if before[path] is not None:
                shutil.copy2(path, f"{folder}/{copy}")
        script = ssh_daemon.rollback_script(folder, {copy: path for path, (copy, _mode) in self.files.items()}, self.unit)
        for name, content in (("rollback", script), ("pending", json.dumps({"id": identifier}))):
            node_files.write_file(f"{folder}/{name}", content.encode("utf-8"), 0, 0, 0o600)
        guard = f"/etc/systemd/system/{GUARD}"
        if read(guard) != ssh_daemon.guard_unit(DIRECTORY):
            node_files.write_file(guard, ssh_daemon.guard_unit(DIRECTORY).encode("utf-8"), 0, 0, 0o644)
            self.run("systemctl", "daemon-reload")
            self.run("systemctl", "enable", GUARD)
        timer = f"vllm-hardening-access-{identifier}"
        after = f"--on-active={self.params['rollback_timeout']}"
        self.run("systemd-run", "--quiet", f"--unit={timer}", after, "--timer-property=AccuracySec=1s", "--collect", "/bin/sh", f"{folder}/rollback", "timer")
        for path, text in wanted.items():
            if text is None:
                node_files.remove(path)
            elif text != before[path]:
                os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
                node_files.write_file(path, text.encode("utf-8"), 0, 0, self.files[path][1])
        self.run("systemctl", "daemon-reload")
        # Not reload: it returns before sshd reads anything, and a login in between would prove the old configuration. Sessions live on.
        code, dummy, error = self.module.run_command(["systemctl", "restart", self.unit])
        if code:
            self.run("/bin/sh", f"{folder}/rollback", "now")
            raise Refused(f"{self.unit} does not restart with the change, which was taken back: {error.strip()}")
        # What comes after the drop-in, in sudoers itself or from another source, wins over it.
        later = ssh_daemon.later_rules(self.module.run_command(["sudo", "-l", "-U", login()[0]])[1]) if wanted[SUDOERS] else []
        if later:
            self.run("/bin/sh", f"{folder}/rollback", "now")
            raise Refused(f"vllm_access_limit_sudo: a rule after {SUDOERS} lets {login()[0]} run more ({'; '.join(later)}); remove it. Nothing was changed")

    def remember(self):
        """What was applied, for the guard and for telling a rollout from a foreign change."""
        applied.write(RECORD, kept(self.params), sealing.read_key(), signed=self.params["signed"])

    def loose(self):
        """Files of ours whose owner or mode is not ours: ``{path: what it is}``."""
        found = {}
        for path, (_copy, mode) in self.files.items():
            if os.path.lexists(path):
                status = os.lstat(path)
                if status.st_uid or status.st_gid or stat.S_IMODE(status.st_mode) != mode:
                    found[path] = f"owner {status.st_uid}, group {status.st_gid}, mode {stat.S_IMODE(status.st_mode):04o}"
        return found

    def tighten(self, paths):
        """Give files of ours back to root; that needs no proof, since their content is the same."""
        for path in paths:
            os.chown(path, 0, 0)
            os.chmod(path, self.files[path][1])

    def token(self):
        """pending, confirmed, rolling-back, rolled-back or unknown."""
        for state in ("pending", "confirmed", "rolling-back", "rolled-back"):
            if os.path.exists(f"{DIRECTORY}/{self.params['change_id']}/{state}"):
                return state
        return "unknown"

    def confirm(self):
        """Win or lose against the rollback."""
        folder = f"{DIRECTORY}/{self.params['change_id']}"
        try:
            os.rename(f"{folder}/pending", f"{folder}/confirmed")
        except FileNotFoundError:
            self.module.fail_json(msg=f"the change is {self.token()}", outcome=self.token())
        self.module.run_command(["systemctl", "stop", f"vllm-hardening-access-{self.params['change_id']}.timer"])
        self.remember()
        if not os.path.exists(self.waiting):
            with contextlib.suppress(OSError):  # not there, or somebody else's drop-ins are in it
                os.rmdir(os.path.dirname(self.waiting))
        return {"outcome": "confirmed", "login": confirmed_change.login()}


def arguments():
    """The options of the module, as documented."""
    return {
        "addresses": {"type": "list", "elements": "str", "default": []}, "port": {"type": "int", "default": 22},
        "groups": {"type": "list", "elements": "str", "default": []}, "settings": {"type": "dict", "default": {}},
        "limit_sudo": {"type": "bool", "default": False}, "asks_password": {"type": "bool", "default": False, "no_log": False},
        "rollback_timeout": {"type": "int", "default": 30},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "phase": {"type": "str", "choices": ["apply", "confirm", "outcome"], "default": "apply"},
        "change_id": {"type": "str", "default": ""}, "signed": {"type": "dict"},
    }


def described(before, wanted, loose):
    """The differences as resources: what lies there otherwise, and what others than root could change."""
    found = [{"resource": f"file {path}", "change": "update", "before": {"ownership": what}, "after": {"ownership": "root's"}} for path, what in loose.items()]
    for path in wanted:
        if wanted[path] != before[path]:
            change = "create" if before[path] is None else "remove" if wanted[path] is None else "update"
            texts = ({"content": "other"} if before[path] is not None else {}, {"content": "as planned"} if wanted[path] is not None else {})
            found.append({"resource": f"file {path}", "change": change, "before": texts[0], "after": texts[1]})
    return found


def main():
    """apply, confirm or tell the outcome."""
    module = AnsibleModule(argument_spec=arguments(), supports_check_mode=True)
    access, params = Access(module), module.params
    if access.sshd is None:
        module.fail_json(msg="there is no sshd on this node")
    if params["phase"] == "confirm":
        module.exit_json(**access.confirm())
    if params["phase"] == "outcome":
        if access.token() == "rolled-back":
            applied.broken_off(RECORD)
        module.exit_json(outcome=access.token())
    before = {path: read(path) for path in access.files}
    wanted = dict.fromkeys(access.files)
    result = {}
    try:
        if params["state"] == "present":
            if not params["groups"]:
                raise Refused("vllm_access_groups is empty, so that nobody could log in: name the groups of the administrators")
            none = ", ".join(ssh_daemon.no_addresses(params["addresses"]))
            if none:
                raise Refused(f"vllm_access_addresses: {none} is no numeric address of an interface; write such as 10.77.0.11")
            wanted[DROPIN] = ssh_daemon.dropin(params["addresses"], params["port"], params["groups"], params["settings"])
            wanted[access.waiting] = ssh_daemon.waiting_unit() if params["addresses"] else None
            result["effective"] = access.judge(wanted[DROPIN])
            if params["limit_sudo"]:
                wanted[SUDOERS] = access.sudo_rules()
        loose = access.loose()
        result["changed"] = wanted != before or bool(loose)
        if result["changed"]:
            same = applied.last_digest(RECORD) == applied.digest(applied.remembered(kept(params)))
            result["origin"] = "foreign" if same else "rollout"
        result["resources"] = described(before, wanted, loose)
        if module._diff:
            headers = {item["resource"]: f"{item['resource']} ({item['change']})" for item in result["resources"]}
            result["diff"] = [
                {"before_header": headers[f"file {path}"], "after_header": headers[f"file {path}"], "before": before[path] or "", "after": wanted[path] or ""}
                for path in wanted if wanted[path] != before[path]
            ]
        if not module.check_mode:
            applied.admit(RECORD, kept(params), params["signed"])
            access.tighten(loose)
            if wanted != before:
                applied.begin(RECORD)
                access.change(wanted, before)
                result["change"] = {"id": params["change_id"], "seconds": params["rollback_timeout"]}
            else:
                access.remember()
    except (Refused, OSError, applied.Busy, sealing.Untrusted) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()

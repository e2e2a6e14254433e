# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The guard of a node: keeps the packet filter, the kernel parameters, the files and the units what was last applied and confirmed.

    python3 -I guard.py firewall                           the duty of vllm-guard-firewall.service
    python3 -I guard.py node                               the duty of vllm-guard-node.service
    python3 -I guard.py prepare                            as root, before either: the key of the seals, the directories
    python3 -I guard.py maintenance MINUTES REASON         as root: correct nothing for so long (0 ends it)
    python3 -I guard.py status                             as root: what was recorded last

It needs nothing but Python 3.9 and nft, opens no port, and reads no input but the kernel's and root's.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

SETTINGS = "/etc/vllm-guard/guard.json"
SIGNERS = "/etc/vllm-guard/allowed_signers"
SOON, REST = 10.0, 10.0  # seconds: a duty that breaks so soon after its start rests before systemd starts it again
DEFAULTS = {"ssh_port": 22, "administrators": [], "services": "stop", "listeners": [], "node": "", "signed": False}


def settings():
    """The settings of the role; those that cannot be read are the strictest."""
    try:
        with open(SETTINGS, encoding="utf-8") as stream:
            found = {**DEFAULTS, **json.load(stream)}
    except (OSError, ValueError, TypeError) as error:
        print(f"{SETTINGS}: {error}; the strictest settings are used", file=sys.stderr)
        found = dict(DEFAULTS)
    found["signed"] = bool(found["signed"]) or os.path.lexists(SIGNERS)
    return found


def directory(duty):
    """Where a duty keeps its records: systemd makes it."""
    return os.environ.get("STATE_DIRECTORY") or f"/var/lib/vllm-guard-{duty}"


def firewall():
    """The duty that needs CAP_NET_ADMIN."""
    from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import guard_firewall, guard_node

    duty = guard_firewall.FirewallGuard(directory("firewall"), settings())
    duty.run([guard_node.Parameters(duty.records, duty.signatures).look])


def node():
    """The duty that needs root."""
    from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import guard_node

    guard_node.NodeGuard(directory("node"), settings()).run()


def prepare():
    """Make the key and the directories; at the first time, seal what was applied and confirmed before there was a key."""
    from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import guard_firewall, sealing

    os.makedirs(guard_firewall.VOLATILE, mode=0o700, exist_ok=True)
    os.makedirs(os.path.dirname(sealing.KEY), mode=0o755, exist_ok=True)
    with open(os.path.join(guard_firewall.VOLATILE, "lock"), "a", encoding="utf-8"):
        pass
    alone = os.open(guard_firewall.VOLATILE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(alone, fcntl.LOCK_EX)  # both services begin at the same time
    sealing.make_key(enrol=enrol)
    os.close(alone)


def enrol(key):
    """Seal with a new key what was applied and confirmed before there was one."""
    from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import applied, guard_firewall, sealing

    print(f"sealed what was applied: {', '.join(applied.enrol(key)) or 'nothing'}", file=sys.stderr)
    path = os.path.join(guard_firewall.PERMANENT, "state.json")
    try:
        with open(path, encoding="utf-8") as stream:
            state = json.load(stream)
        state["confirmed"]["seal"] = sealing.seal(key, *sealing.firewall_parts(state["confirmed"]))
    except (OSError, ValueError, KeyError, TypeError):
        print("there is no confirmed packet filter to seal", file=sys.stderr)
        return
    handle = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(state, sort_keys=True, indent=1) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(path + ".new", path)


def maintenance(minutes, *words):
    """Declare maintenance: deviations are recorded and not corrected. In /run, and by the boot clock: it ends with a restart, and no clock moves it."""
    from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import guard_firewall
    from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.confirmed_change import now
    from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.guard import LONGEST_WINDOW

    try:
        seconds, reason = 60.0 * float(minutes), " ".join(words).strip()
    except ValueError:
        return f"{minutes!r} is no number of minutes; write guard.py maintenance 60 replacing a cable"
    if os.geteuid():
        return "only root declares maintenance; write sudo before it"
    if not os.path.isdir(os.path.dirname(guard_firewall.MAINTENANCE)):
        return "no guard has run here since the node started"
    if seconds <= 0:
        if os.path.exists(guard_firewall.MAINTENANCE):
            os.unlink(guard_firewall.MAINTENANCE)
        return None
    if not seconds <= LONGEST_WINDOW or not reason:
        return f"maintenance needs a reason and ends after at most {LONGEST_WINDOW / 60:.0f} minutes"
    handle = os.open(guard_firewall.MAINTENANCE + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump({"end": now() + seconds, "reason": reason}, stream)
    os.rename(guard_firewall.MAINTENANCE + ".new", guard_firewall.MAINTENANCE)
    return None


def status():
    """Print the last records of both duties."""
    for duty in ("firewall", "node"):
        try:
            with open(f"/var/lib/vllm-guard-{duty}/history.jsonl", encoding="utf-8") as stream:
                lines = stream.readlines()[-20:]
        except OSError:
            continue
        for line in lines:
            print(line.rstrip("\n"))


DUTIES = {function.__name__: function for function in (firewall, node, prepare, maintenance, status)}


def main(arguments):
    """Entry point; returns the exit status, or a message."""
    if not arguments or arguments[0] not in DUTIES or (arguments[0] == "maintenance") != (len(arguments) > 1):
        return __doc__
    if arguments[0] not in (firewall.__name__, node.__name__):
        return DUTIES[arguments[0]](*arguments[1:])
    begun = time.monotonic()
    try:
        return DUTIES[arguments[0]]()
    except Exception:
        traceback.print_exc()
        # Who is killed is back at once; a program that cannot run, as on a node half through an upgrade, would take a whole processor.
        if time.monotonic() - begun < SOON:
            time.sleep(REST)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

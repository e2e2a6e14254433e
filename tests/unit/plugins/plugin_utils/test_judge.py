# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Each single deviation is found by its control and by no other, and what is not known never passes."""

from __future__ import annotations

import copy

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.units import mask_secrets
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.audit_request import SSH_DROPIN, SUDO_LIMITS
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.controls import ADDITIONS, BY_ID, CONTROLS, RECOMMENDATIONS, SEVERITIES, WITNESSES
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judge import CHECKS, clip, judge, worst
from ansible_collections.vllm_mindspore.hardening.tests.unit.plugins.plugin_utils.audit_example import (
    PLAN, ROOTS, composed, listener, observations, path_of, probes)

CHAT = "vllm-chat.service"


def judged(change=None, reasons=None, probe_change=None):
    seen = observations()
    if change:
        change(seen)
    targets = composed()
    results = probes(targets)
    if probe_change:
        probe_change(results)
    return judge(PLAN, targets, seen, reasons or {}, results)


def deviations(judgement, status="fail"):
    return {(finding["control"], finding["host"]) for finding in judgement["findings"] if finding["status"] == status}


def test_the_catalogue_is_whole():
    assert len(BY_ID) == len(CONTROLS)
    assert set(CHECKS) == set(BY_ID)
    for control in CONTROLS:
        assert control.severity in SEVERITIES
        assert control.witness in WITNESSES
        assert control.title and control.rationale and control.sources and control.fix and control.applies


def test_a_cluster_as_planned_is_compliant():
    judgement = judged()
    assert (judgement["verdict"], judgement["exit_status"]) == ("compliant", 0)
    assert deviations(judgement, "fail") == deviations(judgement, "unknown") == set()
    assert judgement["coverage"]["observed"] == 2
    assert sum(judgement["counts"].values()) == len(judgement["findings"])


def unit(seen, host="npu02"):
    return seen[host]["units"][CHAT]


def properties(**values):
    return lambda seen: unit(seen)["properties"].update(values)


def process(**values):
    return lambda seen: unit(seen)["processes"][0].update(values)


def file(path, **values):
    return lambda seen: seen["npu02"]["files"][path].update(values)


def gone(path):
    return lambda seen: seen["npu02"]["files"].update({path: None})


def setting(name, path, value):
    return lambda seen: seen["npu02"]["sysctls"][name].update({path: value})


def rewrite(seen, host, name, before, after):
    """A changed property; a changed command line is also what runs."""
    facts = unit(seen, host)
    facts["properties"][name] = facts["properties"][name].replace(before, after)
    for entry in facts["processes"] if name == "ExecStart" else ():
        entry["arguments"] = entry["arguments"] and entry["arguments"].replace(before, after)


def replaced(name, before, after):
    return lambda seen: rewrite(seen, "npu02", name, before, after)


def account(**values):
    return lambda seen: seen["npu02"]["accounts"]["vllm-chat"].update(values)


def sshd(name, value):
    return lambda seen: seen["npu02"]["sshd"]["settings"].update({name: [value]})


def heard(address, port, unit_name=CHAT):
    return lambda seen: seen["npu02"]["listeners"].append(listener(address, port, unit_name))


def table(**values):
    return lambda seen: seen["npu02"]["table"].update(values)


def policy(hook):
    return lambda seen: next(chain for chain in seen["npu02"]["table"]["chains"] if chain["hook"] == hook).update(policy="accept")


def proof(**values):
    return lambda seen: seen["npu02"]["packet_filter"].update(verdict="violated", **values)


PACKET = {"protocol": "tcp", "source": "10.77.2.67", "destination": "10.77.2.12", "destination_port": 22, "interface": "eth2"}
FIREWALL = "/etc/vllm-hardening/firewall.nft"
FIREWALL_UNIT = "vllm-hardening-firewall.service"
REDIRECTS = "net.ipv4.conf.*.accept_redirects"

DEVIATIONS = {
    "SSH is set to listen on the API segment": ("ACC-06", lambda seen: seen["npu02"]["sshd"]["settings"]["listenaddress"].append("10.77.1.12:22")),
    "SSH listens on every interface": ("ACC-06", heard("0.0.0.0", 22, "ssh.service")),
    "a socket of systemd takes SSH everywhere": (
        "ACC-06",
        lambda seen: seen["npu02"]["listeners"].append({**listener("::", 22, "init.scope"), "pid": 1, "command": "systemd"}),
    ),
    "SSH is not restricted any more": ("ACC-06", gone(SSH_DROPIN)),
    "a group that is not planned may log in": ("ACC-06", lambda seen: seen["npu02"]["sshd"]["settings"]["allowgroups"].append("users")),
    "sudo is not limited any more": ("ACC-07", gone(SUDO_LIMITS)),
    "every group may log in": ("ACC-06", lambda seen: seen["npu02"]["sshd"]["settings"].pop("allowgroups")),
    "others may change what restricts SSH": ("ACC-07", file(SSH_DROPIN, mode="0666")),
    "what restricts sudo is somebody's": ("ACC-07", file(SUDO_LIMITS, owner="deploy")),
    "a filter leaks": ("NET-03", proof(leaks=[{"status": "leak", "packet": PACKET, "outcome": "accepted", "trace": []}])),
    "a filter breaks a flow": ("NET-03", proof(flows=[{"status": "broken", "name": "ssh", "packet": PACKET, "outcome": "dropped", "trace": []}])),
    "a planned address is gone": (
        "NET-04",
        lambda seen: seen["npu02"].update(addresses=[entry for entry in seen["npu02"]["addresses"] if entry["address"] != "10.77.1.12"]),
    ),
    "an address sits on another interface": (
        "NET-04",
        lambda seen: next(entry for entry in seen["npu02"]["addresses"] if entry["address"] == "10.77.1.12").update(interface="eth7"),
    ),
    "an address too many on a segment": ("NET-04", lambda seen: seen["npu02"]["addresses"].append({"address": "10.77.2.99", "interface": "eth2"})),
    "a setting of one interface differs": ("NET-05", setting(REDIRECTS, "net/ipv4/conf/eth1/accept_redirects", "1")),
    "the port range is the kernel's": ("NET-06", setting("net.ipv4.ip_local_port_range", "net/ipv4/ip_local_port_range", "32768 60999")),
    "the reserved ports are gone": ("NET-06", setting("net.ipv4.ip_local_reserved_ports", "net/ipv4/ip_local_reserved_ports", "")),
    "the node forwards": ("NET-07", setting("net.ipv4.ip_forward", "net/ipv4/ip_forward", "1")),
    "the settings' file is gone": ("NET-08", gone("/etc/sysctl.d/90-vllm-hardening.conf")),
    "the settings' file is writable": ("NET-08", file("/etc/sysctl.d/90-vllm-hardening.conf", mode="0666")),
    "the table is gone": ("FW-01", table(present=False, chains=[])),
    "the table is dormant": ("FW-01", table(dormant=True)),
    "input accepts by default": ("FW-01", policy("input")),
    "forward accepts by default": ("FW-01", policy("forward")),
    "the table has no chain": ("FW-01", table(chains=[])),
    "the filter's rules are not kept": ("FW-02", gone(FIREWALL)),
    "the filter's unit is disabled": ("FW-02", lambda seen: seen["npu02"]["units"][FIREWALL_UNIT]["properties"].update(UnitFileState="disabled")),
    "the filter's unit is masked": ("FW-02", lambda seen: seen["npu02"]["units"][FIREWALL_UNIT]["properties"].update(LoadState="masked")),
    "the filter's rules are readable": ("FW-03", file(FIREWALL, mode="0644")),
    "the filter's rules are somebody's": ("FW-03", file(FIREWALL, owner="vllm-chat")),
    "a rule is listed otherwise than loaded": (
        "FW-04",
        lambda seen: seen["npu02"]["packet_filter"].update(listing=[{"table": "x", "chain": "y", "handle": 4, "why": "merged"}]),
    ),
    "the engine takes every interface": ("SOC-01", heard("0.0.0.0", 20555)),
    "the engine takes every interface of IPv6": ("SOC-01", heard("::", 20555)),
    "the engine listens on another segment": ("SOC-01", heard("10.77.1.12", 28018)),
    "the engine listens there by a mapped address": ("SOC-01", heard("::ffff:10.77.1.12", 28018)),
    "the engine takes every interface by a mapped address": ("SOC-01", heard("::ffff:0.0.0.0", 20555)),
    "the engine listens on an unplanned port": ("SOC-01", heard("10.77.2.12", 29550)),
    "another service listens": ("SOC-02", heard("0.0.0.0", 111, "rpcbind.socket")),
    "a process outside any unit listens": ("SOC-02", heard("10.77.1.12", 8000, None)),
    "another service takes a port of the instance": ("SOC-02", heard("0.0.0.0", 28018, "rpc-statd.service")),
    "a process outside any unit takes a planned port": ("SOC-02", heard("10.77.2.12", 28018, None)),
    "the address of the parallel master differs": ("PAR-03", replaced("ExecStart", "--data-parallel-address 10.77.2.11", "--data-parallel-address 10.77.0.11")),
    "the rpc port is gone": ("PAR-04", replaced("ExecStart", "--data-parallel-rpc-port 20550", "")),
    "the rpc port is given twice": (
        "PAR-04",
        replaced("ExecStart", "--data-parallel-rpc-port 20550", "--data-parallel-rpc-port 20550 --data-parallel-rpc-port=29550"),
    ),
    "the host address is gone": ("PAR-05", replaced("Environment", "VLLM_HOST_IP=10.77.2.12", "")),
    "the master address differs": ("PAR-06", replaced("Environment", "VLLM_DP_MASTER_IP=10.77.2.11", "VLLM_DP_MASTER_IP=127.0.0.1")),
    "the master port is the default": ("PAR-07", replaced("Environment", "VLLM_DP_MASTER_PORT=20551", "VLLM_DP_MASTER_PORT=0")),
    "an argument is added": ("PAR-08", replaced("ExecStart", "--headless", "--headless --trust-remote-code")),
    "an argument is missing": ("PAR-08", replaced("ExecStart", "--enforce-eager", "")),
    "another program is started": ("PAR-08", replaced("ExecStart", "argv[]=/opt/vllm/current/bin/vllm serve", "argv[]=/tmp/vllm serve")),
    "another command is started before": ("PAR-08", properties(ExecStartPre="{ path=/bin/x ; argv[]=/bin/x ; ignore_errors=no }")),
    "another command is started after": ("PAR-08", properties(ExecStartPost="{ path=/bin/x ; argv[]=/bin/x ; ignore_errors=no }")),
    "another command is run at the end": ("PAR-08", properties(ExecStopPost="{ path=/bin/x ; argv[]=/bin/x ; ignore_errors=no }")),
    "variables come out of a file": ("PAR-10", properties(EnvironmentFiles="/etc/default/vllm (ignore_errors=no)")),
    "a variable is missing": ("PAR-09", replaced("Environment", "HF_HUB_OFFLINE=1", "")),
    "development mode is on": ("PAR-10", replaced("Environment", "HF_HUB_OFFLINE=1", "HF_HUB_OFFLINE=1 VLLM_SERVER_DEV_MODE=1")),
    "a library is preloaded": ("PAR-10", replaced("Environment", "HF_HUB_OFFLINE=1", "HF_HUB_OFFLINE=1 LD_PRELOAD=/tmp/x.so")),
    "a secret stands in the unit": ("PAR-11", replaced("Environment", "HF_HUB_OFFLINE=1", "HF_HUB_OFFLINE=1 VLLM_API_KEY=(hidden)")),
    "the unit is stopped": ("SRV-01", properties(ActiveState="failed")),
    "the unit was edited and not reloaded": ("SRV-01", properties(NeedDaemonReload="yes")),
    "the unit is not enabled": ("SRV-01", properties(UnitFileState="disabled")),
    "the unit runs as root": ("SRV-02", properties(User="")),
    "the unit runs in another group": ("SRV-02", properties(Group="root")),
    "the unit has another group beside": ("SRV-02", properties(SupplementaryGroups="disk")),
    "a process is root": ("SRV-03", process(uid="0\t0\t0\t0")),
    "a process may gain privileges": ("SRV-03", process(no_new_privileges="0")),
    "a process has a capability": ("SRV-04", process(effective="0000000000000400")),
    "a process may regain a capability": ("SRV-04", process(bounding="0000000000000400")),
    "a process has no call filter": ("SRV-05", process(seccomp="0")),
    "the unit was changed after its start": ("SRV-06", file(f"/etc/systemd/system/{CHAT}", modified=9e9)),
    "what runs was started otherwise": ("SRV-06", lambda seen: unit(seen)["processes"][0].update(arguments="vllm serve /srv/models/tiny")),
    "an engine runs by hand": ("SRV-07", lambda seen: seen["npu02"]["strays"].append({"pid": 9, "command": "vllm serve", "uid": 0, "unit": "session-1.scope"})),
    "the system is writable": ("SRV-08", properties(ProtectSystem="full")),
    "a directory is writable": ("SRV-08", properties(ReadWritePaths="/etc")),
    "every device is open": ("SRV-09", properties(DevicePolicy="auto")),
    "a device too many is open": ("SRV-09", properties(DeviceAllow="/dev/mem rw")),
    "kernel modules are open": ("SRV-10", properties(ProtectKernelModules="no")),
    "a capability is declared": ("SRV-11", properties(CapabilityBoundingSet="cap_net_raw")),
    "raw packets are declared": ("SRV-11", properties(RestrictAddressFamilies="AF_INET AF_PACKET")),
    "no call filter is declared": ("SRV-12", properties(SystemCallFilter="")),
    "mount is declared": ("SRV-12", lambda seen: unit(seen)["properties"].update(SystemCallFilter=unit(seen)["properties"]["SystemCallFilter"] + " mount")),
    "packets go anywhere": ("SRV-13", properties(IPAddressDeny="")),
    "packets go to a stranger": ("SRV-13", properties(IPAddressAllow="192.0.2.0/24")),
    "the unit is somebody's": ("SRV-14", file(f"/etc/systemd/system/{CHAT}", owner="vllm-chat")),
    "the unit is overridden": (
        "SRV-14",
        lambda seen: (properties(DropInPaths="/run/systemd/system/x.conf")(seen), seen["npu02"]["files"].update({"/run/systemd/system/x.conf": None})),
    ),
    "another version is installed": ("SRV-16", lambda seen: seen["npu02"].update(packages={"vllm": ["0.11.0"]})),
    "the model is writable": ("FIL-01", file("/srv/models/tiny", mode="0777")),
    "a file of the model is somebody's": ("FIL-01", file("/srv/models/tiny/config.json", owner="vllm-chat")),
    "the software is writable": ("FIL-02", file("/opt/vllm", mode="0775")),
    "the directory around the software is writable": ("FIL-02", lambda seen: seen["npu02"]["files"].update({"/opt": {**ROOTS, "mode": "0777"}})),
    "the directory that is the current software is writable": ("FIL-02", file("/opt/vllm/standin", mode="0777")),
    "the software leads to nothing": ("FIL-02", gone("/opt/vllm/standin")),
    "the directory around the model is somebody's": ("FIL-01", file("/srv/models", owner="data")),
    "a file of the model leads to one that is somebody's": (
        "FIL-01",
        lambda seen: seen["npu02"]["files"].update({
            "/srv/models/tiny/weights": {**ROOTS, "type": "link", "mode": "0777", "target": "../blobs/1"},
            "/srv/models/tiny/../blobs/1": {**ROOTS, "owner": "data", "mode": "0644"}}),
    ),
    "the software is gone": ("FIL-02", gone("/opt/vllm/current/bin")),
    "a credential is readable": ("FIL-03", file("/etc/vllm-hardening/credentials/example", mode="0640")),
    "root logs in with a password": ("ACC-01", sshd("permitrootlogin", "yes")),
    "passwords log in": ("ACC-02", sshd("passwordauthentication", "yes")),
    "empty passwords log in": ("ACC-03", sshd("permitemptypasswords", "yes")),
    "the account has a shell": ("ACC-04", account(shell="/bin/bash")),
    "the account has a password": ("ACC-04", account(password="set")),
    "the account is in a privileged group": ("ACC-05", account(groups=["docker", "vllm-chat"])),
    "the account may use sudo": ("ACC-05", account(sudo=["x: vllm-chat ALL=(ALL) ALL"])),
    "addresses are not randomised": ("HST-01", setting("kernel.randomize_va_space", "kernel/randomize_va_space", "0")),
}


@pytest.mark.parametrize("deviation", DEVIATIONS)
def test_one_deviation_is_one_finding(deviation):
    control, change = DEVIATIONS[deviation]
    judgement = judged(change)
    assert deviations(judgement) == {(control, "npu02")}
    assert deviations(judgement, "unknown") == set()
    assert judgement["exit_status"] == 2
    finding = next(finding for finding in judgement["findings"] if finding["status"] == "fail")
    assert finding["expected"] and finding["observed"] and finding["evidence"]


def test_every_control_of_a_node_is_held_by_a_deviation():
    elsewhere = {"NET-01", "NET-02", "SOC-03", "PAR-01", "PAR-02", "SRV-15"} | {control for control in BY_ID if control.startswith(("NPU-", "GW-", "GRD-"))}
    assert {control for control, _change in DEVIATIONS.values()} == set(BY_ID) - elsewhere


DROPIN = f"/etc/systemd/system/{CHAT}.d/memory.conf"
PLANNED_DROPIN = {**ROOTS, "mode": "0644", "sha256": "a" * 64, "modified": 0}


def with_dropin(told, paths=DROPIN):
    """The findings about SRV-14 on a node whose plan has a drop-in; told: its facts, False where the node does not tell them."""
    plan, seen = copy.deepcopy(PLAN), observations()
    plan["nodes"]["npu02"]["instances"][0]["dropins"] = {"memory": "a" * 64}
    properties(DropInPaths=paths)(seen)
    seen["npu02"]["files"].update(dict.fromkeys(paths.split(), PLANNED_DROPIN))
    seen["npu02"]["files"][DROPIN] = told
    if told is False:
        del seen["npu02"]["files"][DROPIN]
    judgement = judge(plan, composed(), seen, {}, probes(composed()))
    return {status: deviations(judgement, status) & {("SRV-14", "npu02")} for status in ("pass", "fail", "unknown")}, [
        finding["observed"] for finding in judgement["findings"] if (finding["control"], finding["host"]) == ("SRV-14", "npu02")][0]


@pytest.mark.parametrize("told, paths, status, said", [
    (PLANNED_DROPIN, DROPIN, "pass", ""),
    ({**PLANNED_DROPIN, "sha256": "b" * 64}, DROPIN, "fail", "another content"),
    ({**PLANNED_DROPIN, "owner": "vllm-chat"}, DROPIN, "fail", "belongs to vllm-chat"),
    ({**PLANNED_DROPIN, "mode": "0666"}, DROPIN, "fail", "writable by others"),
    ({**PLANNED_DROPIN, "type": "link", "sha256": None, "target": "/tmp/x"}, DROPIN, "fail", "no regular file"),
    (None, DROPIN, "fail", "gone"),
    (PLANNED_DROPIN, "", "fail", "not in force"),
    (PLANNED_DROPIN, f"{DROPIN} /run/systemd/system/{CHAT}.d/memory.conf", "fail", f"overridden by /run/systemd/system/{CHAT}.d/memory.conf"),
    ({**PLANNED_DROPIN, "sha256": None}, DROPIN, "unknown", "did not tell the content"),
    ({**PLANNED_DROPIN, "sha256": 7}, DROPIN, "unknown", "did not tell the content"),
    (False, DROPIN, "unknown", "did not tell about"),
    ("nonsense", DROPIN, "unknown", "nonsense"),
])
def test_planned_drop_ins_are_deployed_with_their_content_and_no_others(told, paths, status, said):
    found, observed = with_dropin(told, paths)
    assert found == {**dict.fromkeys(("pass", "fail", "unknown"), set()), status: {("SRV-14", "npu02")}}
    assert said in observed


@pytest.mark.parametrize(
    "before, after, control",
    [
        ("--host 10.77.1.11", "", "PAR-01"),
        ("--host 10.77.1.11", "--host 0.0.0.0", "PAR-01"),
        ("--port 7443", "--port 8000", "PAR-02"),
        ("--port 7443", "", "PAR-02"),
    ],
)
def test_the_heads_flags(before, after, control):
    assert deviations(judged(lambda seen: rewrite(seen, "npu01", "ExecStart", before, after))) == {(control, "npu01")}


def test_planned_arguments_that_speak_of_tokens_are_no_secret_and_no_deviation():
    plan = copy.deepcopy(PLAN)
    more = ["--max-num-batched-tokens", "8192", "--tokenizer", "/srv/models/tiny", "--own-key", "x"]
    plan["nodes"]["npu02"]["instances"][0]["arguments"] += more
    seen = observations()
    rewrite(seen, "npu02", "ExecStart", "--max-model-len 128", mask_secrets("--max-model-len 128 " + " ".join(more)))
    judgement = judge(plan, composed(), seen, {}, probes(composed()))
    assert deviations(judgement) == {("PAR-11", "npu02")}
    rewrite(seen, "npu02", "ExecStart", " --own-key (hidden)", "")
    plan["nodes"]["npu02"]["instances"][0]["arguments"] = plan["nodes"]["npu02"]["instances"][0]["arguments"][:-2]
    assert deviations(judge(plan, composed(), seen, {}, probes(composed()))) == set()


def test_what_is_declared_and_not_enforced_is_said_and_not_passed():
    def old(seen):
        seen["npu02"]["host"]["systemd_features"] = ["-BPF_FRAMEWORK"]
        unit(seen)["properties"]["SocketBindDeny"] = "tcp:1-65535"
    finding = next(finding for finding in judged(old)["findings"] if (finding["control"], finding["host"]) == ("SRV-15", "npu02"))
    assert finding["status"] == "not applicable"
    assert "SocketBindDeny is declared" in finding["observed"]


def test_a_password_that_the_host_does_not_tell_is_unknown():
    judgement = judged(account(password=None))
    assert (deviations(judgement), deviations(judgement, "unknown")) == (set(), {("ACC-04", "npu02")})


def test_a_filter_that_depends_on_something_unknown_is_unknown():
    def change(seen):
        seen["npu02"]["packet_filter"].update(verdict="unknown", unknown=[{"object": "chain x", "reason": "xt match"}])
    assert deviations(judged(change), "unknown") == {("NET-03", "npu02")}


def test_an_api_that_does_not_listen_is_found_on_the_head():
    def mute(seen):
        seen["npu01"]["listeners"] = [entry for entry in seen["npu01"]["listeners"] if entry["port"] != 7443]
    judgement = judged(mute)
    assert deviations(judgement) == {("SOC-03", "npu01")}


def test_loopback_and_planned_listeners_are_no_finding():
    def more(seen):
        seen["npu02"]["listeners"] += [listener("127.0.0.1", 28018), listener("::1", 631, "cups.service"), listener("10.77.2.12", 28999)]
    assert deviations(judged(more)) == set()


def test_a_leak_is_found_on_the_node_that_leaks_and_names_the_vantage_point():
    def leak(results):
        path = path_of(results, "rogue", "npu02", "10.77.0.12")
        path["silent"].remove("22")
        path["open"] = ["22"]
    judgement = judged(probe_change=leak)
    assert deviations(judgement) == {("NET-01", "npu02")}
    observed = worst(judgement["findings"])[0]["observed"]
    assert "rogue 10.77.2.67 -> npu02 10.77.0.12 tcp 22" in observed


def test_a_break_names_the_flow():
    def break_it(results):
        path = path_of(results, "client", "npu01", "10.77.1.11")
        path["open"].remove("7443")
        path["silent"].append("7443")
    judgement = judged(probe_change=break_it)
    assert deviations(judgement) == {("NET-02", "npu01")}
    assert "flow chat-api" in worst(judgement["findings"])[0]["observed"]


@pytest.mark.parametrize("part", [
    "packages", "listeners", "addresses", "sysctls", "packet_filter", "units", "accounts", "sshd", "files", "table", "strays", "host"])
@pytest.mark.parametrize("value", [None, "nonsense", 7, [7], [None], {"a": 1}, {"a": None}, {}])
def test_what_a_node_does_not_tell_is_never_a_pass(part, value):
    before = judged()
    after = judged(lambda seen: seen["npu02"].update({part: value}))
    assert deviations(after) == set()
    empty_is_an_answer = part == "strays" and value == []
    assert empty_is_an_answer or deviations(after, "unknown")
    assert deviations(after, "pass") <= deviations(before, "pass")
    assert after["exit_status"] == 3


PROPERTIES = ("LoadState", "Environment", "DropInPaths", "CapabilityBoundingSet", "AmbientCapabilities", "ReadWritePaths", "FragmentPath",
              "SupplementaryGroups")


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize("value", [None, 7, []])
def test_a_property_that_is_not_told_is_no_empty_one(name, value):
    def forget(seen):
        facts = unit(seen)["properties"]
        facts.pop(name)
        if value is not None:
            facts[name] = value
    judgement = judged(forget)
    assert deviations(judgement) == set()
    assert ("SRV-14", "npu02") in deviations(judgement, "unknown")


@pytest.mark.parametrize("change", [
    lambda seen: seen["npu02"]["files"]["/opt/vllm/current"].update(target="current"),
    lambda seen: seen["npu02"]["files"]["/opt/vllm/current"].update(target="elsewhere"),
    lambda seen: seen["npu02"]["files"]["/opt/vllm/current"].update(target=7),
    lambda seen: unit(seen)["processes"][0].update(started=10 ** 400),
    lambda seen: unit(seen)["processes"][0].update(started=float("nan")),
    lambda seen: seen["npu02"]["files"][f"/etc/systemd/system/{CHAT}"].update(modified=float("nan")),
    lambda seen: seen["npu02"]["sysctls"].update({REDIRECTS: {}}),
])
def test_nonsense_within_a_part_is_never_a_pass(change):
    before, after = judged(), judged(change)
    assert deviations(after) == set()
    assert deviations(after, "unknown")
    assert deviations(after, "pass") < deviations(before, "pass")


def test_an_unreached_node_is_unknown_throughout_and_the_run_incomplete():
    def gone(seen):
        seen["npu02"] = None

    def not_probing(results):
        results["npu02"] = None
    judgement = judged(gone, {"npu02": "unreachable: timed out"}, not_probing)
    assert judgement["exit_status"] == 3
    assert judgement["coverage"]["not_observed"] == {"npu02": "unreachable: timed out"}
    assert judgement["coverage"]["not_probed"] == {"npu02": "unreachable: timed out"}
    assert ("NET-04", "npu02") in deviations(judgement, "unknown")
    assert ("NET-01", "npu01") in deviations(judgement, "unknown")


def test_findings_weigh_more_than_gaps():
    def both(seen):
        seen["npu02"] = None
        seen["npu01"]["listeners"].append(listener("0.0.0.0", 20555))
    assert judged(both)["exit_status"] == 2


def test_no_probe_at_all_is_no_pass():
    judgement = judged(probe_change=lambda results: results.update(dict.fromkeys(results)))
    assert {control for control, _host in deviations(judgement, "unknown")} == {"NET-01", "NET-02"}
    assert judgement["exit_status"] == 3


def test_what_hosts_say_is_cut_and_cleaned():
    assert clip("a\x1b[2J\n\x00b") == "a [2J  b"
    assert len(clip("x" * 5000)) == 400


def test_the_worst_come_first_one_a_control():
    def many(seen):
        seen["npu01"]["listeners"].append(listener("0.0.0.0", 20555))
        for host in seen:
            seen[host]["listeners"].append(listener("0.0.0.0", 111, "rpcbind.socket"))
    assert [finding["control"] for finding in worst(judged(many)["findings"])] == ["SOC-01", "SOC-02"]


def test_every_recommendation_is_answered_by_a_control_and_every_source_is_known():
    known = {**RECOMMENDATIONS, **ADDITIONS}
    cited = {source for control in CONTROLS for source in control.sources}
    assert cited == set(known)


def test_udp_that_was_asked_for_and_not_answered_is_unknown():
    seen = observations()
    seen["npu02"]["responder"] = None
    seen["npu02"]["unknown"] = {"responder": "OSError: none of the ports could be bound"}
    result = judge(PLAN, composed(seen), seen, {}, probes(composed(seen)))
    found = {finding["host"]: finding for finding in result["findings"] if finding["control"] == "NET-01"}
    assert found["npu01"]["status"] == "pass"
    assert found["npu02"]["status"] == "unknown" and "UDP was not tried" in found["npu02"]["observed"]

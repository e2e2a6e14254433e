# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""NPUs: what the vendor's tools print, and what a node has to be. The recorded output names its source in the first line."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import npu
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.npu_conditions import conditions, wanted_npus

RECORDED = Path(__file__).parent / "npu_output"


def recorded(name):
    """A recorded output without the line that names its source."""
    return (RECORDED / f"{name}.txt").read_text(encoding="utf-8").partition("\n")[2]


def test_npu_smi_of_one_chip_a_card():
    told = npu.parse_npu_smi(recorded("smi_a2"))
    assert told["version"] == "25.2.0"
    assert [(item["number"], item["name"], item["health"], item["bus"]) for item in told["npus"]] == [
        (0, "910B4-1", "OK", "0000:C1:00.0"), (1, "910B4-1", "OK", "0000:C2:00.0")]
    assert told["npus"][1]["memory"] == [27547, 65536] and told["npus"][1]["hugepages"] == [0, 0]


def test_npu_smi_of_two_chips_a_card_gives_physical_numbers():
    told = npu.parse_npu_smi(recorded("smi_a3"))
    assert [(item["npu"], item["chip"], item["number"]) for item in told["npus"]] == [(0, 0, 0), (0, 1, 1), (1, 0, 2)]


def test_npu_smi_of_inference_cards():
    told = npu.parse_npu_smi(recorded("smi_310p"))
    assert [(item["npu"], item["number"], item["memory"]) for item in told["npus"]] == [(32768, 3, [1846, 21527]), (32800, 4, [1844, 21527])]


@pytest.mark.parametrize("text", ["", "dcmi module initialize failed. ret is -8005", recorded("smi_a2").replace("| 0                         | 0000:C1", "x")])
def test_what_is_no_table_is_no_health(text):
    with pytest.raises(ValueError):
        npu.parse_npu_smi(text)


def test_other_tools():
    assert npu.parse_settings(recorded("install"))["UserGroup"] == "HwHiAiUser"
    assert npu.parse_settings(recorded("toolkit"))["version"] == "8.3.RC2"
    assert npu.parse_hccn_address(recorded("address")) == {"address": "10.77.8.10", "prefix": 24}
    assert npu.parse_hccn_address("") is None
    assert npu.parse_hccn_tls(recorded("tls")) is False
    assert npu.parse_hccn_tls(recorded("tls").replace("switch[0]", "switch[1]")) is True
    assert npu.parse_hccn_tls("hccn_tool is busy, please try again") is None


def test_routes_without_the_default_one():
    header = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    lines = "eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth2\t00024D0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    assert npu.parse_routes(header + lines) == [("10.77.2.0/24", "eth2")]
    six = "fd000077000200000000000000000000 40 " + "0" * 32 + " 00 " + "0" * 32 + " 00000100 00000001 00000000 00000001     eth2\n"
    assert npu.parse_routes6(six) == [("fd00:77:2::/64", "eth2")]


def test_a_node_without_npus_tells_so(monkeypatch):
    monkeypatch.setattr(npu, "INSTALL_INFO", "/nonexistent/ascend_install.info")
    monkeypatch.setattr(npu, "DRIVER_PATH", "/nonexistent")
    monkeypatch.setattr(npu, "TOOLKITS", ("/nonexistent/*",))
    monkeypatch.setattr(npu, "SMI_PATHS", ("/nonexistent/npu-smi",))
    monkeypatch.setattr(npu, "SHARED_DEVICES", ("/nonexistent/davinci_manager",))
    observed = npu.observe_npus([77], lambda argv: (0, "", ""))
    assert set(observed["unknown"]) == {"install", "driver", "firmware", "cann", "smi", "fabric"}
    assert observed["unknown"]["smi"] == "npu-smi is not installed"
    assert observed["devices"] == {"/dev/davinci77": None, "/nonexistent/davinci_manager": None}
    assert observed["memory"]["total"] > 0
    verdicts = {item["id"]: item["status"] for item in conditions(wanted_npus([77], cann="8.3", spans=True), observed)}
    assert verdicts == {"NPU-01": "unknown", "NPU-02": "unknown", "NPU-03": "fail", "NPU-04": "unknown", "NPU-05": "unknown", "NPU-06": "unknown"}


def test_the_tools_are_asked_for_every_npu(monkeypatch, tmp_path):
    tool = tmp_path / "driver" / "tools" / "hccn_tool"
    tool.parent.mkdir(parents=True)
    tool.write_text("")
    tool.chmod(0o755)
    monkeypatch.setattr(npu, "INSTALL_INFO", "/nonexistent/ascend_install.info")
    monkeypatch.setattr(npu, "DRIVER_PATH", str(tmp_path))
    asked = []

    def run(argv):
        asked.append(argv[1:])
        return 0, recorded("address" if "-ip" in argv else "tls"), ""

    assert npu.observe_npus([0, 3], run)["fabric"] == {number: {"address": {"address": "10.77.8.10", "prefix": 24}, "tls": False} for number in ("0", "3")}
    assert asked == [["-i", "0", "-ip", "-g"], ["-i", "0", "-tls", "-g"], ["-i", "3", "-ip", "-g"], ["-i", "3", "-tls", "-g"]]


def test_an_npu_that_the_tool_fails_on_hides_no_other(monkeypatch, tmp_path):
    tool = tmp_path / "driver" / "tools" / "hccn_tool"
    tool.parent.mkdir(parents=True)
    tool.write_text("")
    tool.chmod(0o755)
    monkeypatch.setattr(npu, "INSTALL_INFO", "/nonexistent/ascend_install.info")
    monkeypatch.setattr(npu, "DRIVER_PATH", str(tmp_path))

    def run(argv):
        return (1, "", "device 3 is busy") if "3" in argv else (0, recorded("address" if "-ip" in argv else "tls"), "")

    observed = npu.observe_npus([0, 3], run)
    assert observed["fabric"]["3"] == {"address": None, "tls": None, "silent": "hccn_tool failed: device 3 is busy"}
    assert "fabric" not in observed["unknown"] and npu.observe_npus([3], run)["unknown"]["fabric"] == "hccn_tool failed: device 3 is busy"
    for segments, status in ((["10.77.8.0/24"], "fail"), ([], "unknown")):
        wanted = wanted_npus([0, 3], spans=True, segments=segments)
        judged = {item["id"]: item for item in conditions(wanted, {**observed, "routes": []})}
        assert judged["NPU-05"]["status"] == status and judged["NPU-06"]["status"] == "unknown"
    assert judged["NPU-05"]["problems"] == ["nothing is told of NPU 3: hccn_tool failed: device 3 is busy"]


DEVICE = {"mode": "0660", "owner": "HwHiAiUser", "group": "HwHiAiUser", "character": True}
WANTED = wanted_npus([0, 1], "HwHiAiUser", "8.3", True, ["10.77.0.0/24", "10.77.2.0/24"], ["10.77.8.0/22"])
GOOD = {
    "install": {**npu.parse_settings(recorded("install")), "Driver_Install_For_All": "no"},
    "driver": "25.2.0", "firmware": "7.7.0.6.236", "cann": "8.3.RC2",
    "devices": dict.fromkeys(("/dev/davinci0", "/dev/davinci1", *npu.SHARED_DEVICES), DEVICE),
    "smi": npu.parse_npu_smi(recorded("smi_a2")),
    "fabric": {str(number): {"address": {"address": f"10.77.8.1{number}", "prefix": 24}, "tls": False} for number in (0, 1)},
    "routes": [("10.77.2.0/24", "eth2")], "memory": {}, "unknown": {},
    "scripts": {"/usr/local/Ascend/cann/set_env.sh": {"mode": "0555", "owner": "root", "group": "root", "character": False}},
}


def verdicts(wanted=None, **changes):
    return {item["id"]: item for item in conditions(wanted or WANTED, {**copy.deepcopy(GOOD), **changes})}


def test_a_sound_node_passes():
    assert {item["status"] for item in verdicts().values()} == {"pass"}
    assert len(verdicts()) == 6


def test_the_fabric_concerns_nobody_who_stays_on_one_node():
    assert set(verdicts({**WANTED, "spans": False})) == {"NPU-01", "NPU-02", "NPU-03", "NPU-04"}


def test_a_driver_for_all_is_taken_where_the_inventory_says_why():
    open_to_all = {
        "install": npu.parse_settings(recorded("install")), "devices": {path: {**facts, "mode": "0666"} for path, facts in GOOD["devices"].items()}}
    assert [item["status"] for item in verdicts(**open_to_all).values()][:3] == ["fail", "pass", "fail"]
    assert {item["status"] for item in verdicts({**WANTED, "for_all": True}, **open_to_all).values()} == {"pass"}


def fabric(**changes):
    return {"fabric": {**GOOD["fabric"], "1": {**GOOD["fabric"]["1"], **changes}}}


SCRIPT = "/usr/local/Ascend/ascend-toolkit/set_env.sh"
ROOTS = {"mode": "0555", "owner": "root", "group": "root", "character": False}
DEVIATIONS = {
    "the driver is installed for all": ("NPU-01", {"install": npu.parse_settings(recorded("install"))}, "--install-for-all"),
    "a driver for all of which nothing else is told": ("NPU-01", {"install": npu.parse_settings(recorded("install")), "driver": None}, "--install-for-all"),
    "a driver without version": ("NPU-01", {"driver": ""}, "no version"),
    "the driver has the group root": ("NPU-01", {"install": {**GOOD["install"], "UserGroup": "root"}}, "root"),
    "another CANN": ("NPU-02", {"cann": "8.2.RC1"}, "8.2.RC1 is installed, the engine is paired with 8.3"),
    "a script of CANN that others change": ("NPU-02", {"scripts": {SCRIPT: {**ROOTS, "mode": "0775"}}}, "mode 0775"),
    "a script of CANN of another user": ("NPU-02", {"cann": None, "scripts": {SCRIPT: {**ROOTS, "owner": "deploy"}}}, "belongs to deploy"),
    "a CANN whose number only begins alike": ("NPU-02", {"cann": "8.30.0"}, "8.30.0"),
    "a device node is missing": ("NPU-03", {"devices": {**GOOD["devices"], "/dev/davinci1": None}}, "/dev/davinci1 does not exist"),
    "a device node is open to all": ("NPU-03", {"devices": {**GOOD["devices"], "/dev/hisi_hdc": {**DEVICE, "mode": "0666"}}}, "mode 0666"),
    "a device node of another group": ("NPU-03", {"devices": {**GOOD["devices"], "/dev/davinci0": {**DEVICE, "group": "root"}}}, "group root"),
    "a file in place of a device": ("NPU-03", {"devices": {**GOOD["devices"], "/dev/davinci0": {**DEVICE, "character": False}}}, "no device"),
    "a sick NPU": ("NPU-04", {"smi": npu.parse_npu_smi(recorded("smi_a2").replace("OK ", "Alarm", 1))}, "Alarm"),
    "an NPU that is not there": ("NPU-04", {"smi": npu.parse_npu_smi(recorded("smi_310p"))}, "does not list NPU 0"),
    "an NPU without address": ("NPU-05", fabric(address=None), "no address"),
    "an NPU in a segment of the host": ("NPU-05", {**fabric(address={"address": "10.77.2.9", "prefix": 24}), "routes": []}, "segment 10.77.2.0/24"),
    "an NPU outside the fabric": ("NPU-05", fabric(address={"address": "192.0.2.1", "prefix": 24}), "outside the fabric"),
    "two NPUs with one address": ("NPU-05", fabric(address=GOOD["fabric"]["0"]["address"]), "of NPU 0"),
    "a route to the fabric": ("NPU-05", {"routes": [("10.77.8.0/24", "eth0")]}, "10.77.8.0/24 on eth0"),
    "TLS on one NPU alone": ("NPU-06", fabric(tls=True), "NPU 1 alone"),
}


@pytest.mark.parametrize("deviation", DEVIATIONS)
def test_one_deviation_fails_one_condition(deviation):
    identifier, change, words = DEVIATIONS[deviation]
    found = verdicts(**change)
    assert [key for key, item in found.items() if item["status"] != "pass"] == [identifier]
    assert found[identifier]["status"] == "fail"
    assert any(words in problem for problem in found[identifier]["problems"]), found[identifier]["problems"]


@pytest.mark.parametrize("part", ["install", "cann", "devices", "smi", "fabric", "routes"])
@pytest.mark.parametrize("nonsense", [None, 7, [1], {"0": 1}, "x"])
def test_what_a_node_does_not_tell_never_passes(part, nonsense):
    affected = {"install": "NPU-01", "cann": "NPU-02", "devices": "NPU-03", "smi": "NPU-04", "fabric": "NPU-06", "routes": "NPU-05"}[part]
    if (part, nonsense) == ("cann", "x"):
        nonsense = None
    assert verdicts(**{part: nonsense, "unknown": {part: "the reason"}})[affected]["status"] in ("unknown", "fail")
    if nonsense is None:
        assert verdicts(**{part: nonsense, "unknown": {part: "the reason"}})[affected]["problems"] == ["the reason"]

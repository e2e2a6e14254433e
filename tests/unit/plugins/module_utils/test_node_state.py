# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The difference between what a node is and what it has to be."""

from __future__ import annotations

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import node_state

ROOT = {"kind": "directory", "owner": "root", "group": "root", "mode": 0o755, "mtime": 0, "content": b""}


def have(**parts):
    """A node on which nothing of ours is there."""
    paths = dict.fromkeys(("/", "/etc", "/etc/systemd/system", "/etc/sysctl.d", "/opt"), ROOT)
    paths.update(parts.pop("paths", {}))
    return {"groups": {"root": {"gid": 0}}, "users": {"root": {"uid": 0}}, "sysctls": {}, "units": {}, "addresses": [], **parts, "paths": paths}


def a_file(path="/etc/x", **values):
    """A file as the module's options give it."""
    return {"path": path, "content": "new\n", "owner": "root", "group": "root", "mode": "0644", "sensitive": False, "state": "present", **values}


def there(content=b"new\n", **values):
    """A file as it is observed."""
    return {"kind": "file", "owner": "root", "group": "root", "mode": 0o644, "mtime": 100.0, "content": content, **values}


def a_unit(**values):
    """A unit as the module's options give it."""
    return {"name": "x.service", "content": None, "dropins": {}, "enabled": None, "state": None, "restart_on": [], "restart": False, "ready": None, **values}


def running(**values):
    """A running unit as it is observed."""
    return {"load": "loaded", "active": "active", "sub": "running", "enabled": "enabled", "stale": False, "started": 200.0, **values}


def steps(want, node):
    """(resource, change) of what a run does."""
    return [(step.resource, step.change) for step in node_state.difference(node_state.Desired(want), node)]


def refused(want, node=None):
    """The problems of a refusal."""
    with pytest.raises(node_state.Refusal) as caught:
        node_state.difference(node_state.Desired(want), node or have())
    return caught.value.problems


def test_bare_node_in_the_order_of_needs():
    want = {
        "groups": [{"name": "svc", "gid": None, "system": True, "state": "present"}],
        "users": [{"name": "svc", "uid": None, "group": None, "groups": [], "home": "/x", "shell": "/n", "comment": None, "state": "present"}],
        "directories": [{"path": "/opt/svc", "owner": "svc", "group": "svc", "mode": "0750", "state": "present"}],
        "files": [a_file("/opt/svc/x", owner="svc", group="svc")],
        "units": [a_unit(content="[Service]\n", enabled=True, state="started")],
    }
    assert steps(want, have(units={"x.service": running(load="not-found", active="inactive", sub="dead", enabled="", started=None)})) == [
        ("group svc", "create"), ("user svc", "create"), ("directory /opt/svc", "create"), ("file /opt/svc/x", "create"),
        ("file /etc/systemd/system/x.service", "create"), ("systemd", "reload"), ("unit x.service", "enable"), ("unit x.service", "start"),
    ]


@pytest.mark.parametrize(("system", "password", "changes"), [(True, "set", True), (True, "none", False), (False, "set", False)])
def test_the_account_of_a_service_has_no_password(system, password, changes):
    want = {"users": [{"name": "svc", "uid": None, "group": None, "groups": [], "home": "/x", "shell": "/n", "comment": None, "system": system,
                       "state": "present"}]}
    found = {"uid": 990, "group": "svc", "groups": [], "home": "/x", "shell": "/n", "comment": "", "password": password}
    result = node_state.difference(node_state.Desired(want), have(users={"svc": found}, groups={"svc": {"gid": 990}}))
    assert [(step.verb, step.before, step.after) for step in result] == ([("usermod", {"password": "set"}, {"password": "none"})] if changes else [])


def test_of_a_file_whose_content_nobody_remembers_only_the_owner_and_the_mode_count():
    item = {"path": "/etc/x", "owner": "root", "group": "root", "mode": "0600", "state": "present", "sensitive": True, "ownership_only": True}
    node = have(paths={"/etc/x": there(b"", mode=0o644)})
    found = node_state.difference(node_state.Desired({"files": [item]}), node)
    assert [(step.verb, step.before, step.after) for step in found] == [("ownership", {"mode": "0644"}, {"mode": "0600"})]
    assert steps({"files": [item]}, have(paths={"/etc/x": there(b"anything", mode=0o600)})) == []
    assert steps({"files": [item]}, have(paths={})) == []
    with pytest.raises(node_state.Refusal, match="no content"):
        node_state.Desired({"files": [{**item, "ownership_only": False, "content": None}]})


def test_nothing_to_do_is_nothing():
    want = {"files": [a_file()], "units": [a_unit(content="[Service]\n", enabled=True, state="started", restart_on=["/etc/x"])]}
    node = have(paths={"/etc/x": there(), "/etc/systemd/system/x.service": there(b"[Service]\n")}, units={"x.service": running()})
    assert steps(want, node) == []


def test_a_reload_alone_is_no_difference_of_the_node():
    want = {"units": [a_unit(content="[Service]\n")]}
    found = node_state.difference(node_state.Desired(want), have(units={"x.service": running()}))
    assert [step.resource for step in found] == ["file /etc/systemd/system/x.service", "systemd"]
    assert [item["resource"] for item in node_state.resources(found)] == ["file /etc/systemd/system/x.service"]


@pytest.mark.parametrize(("mtime", "started", "restarts"), [(100.0, 200.0, False), (300.0, 200.0, True)])
def test_a_restart_owed_by_an_interrupted_run_is_made_up_for(mtime, started, restarts):
    want = {"units": [a_unit(content="[Service]\n", state="started", restart_on=["/opt/current"])]}
    node = have(
        paths={"/etc/systemd/system/x.service": there(b"[Service]\n"), "/opt/current": there(b"", kind="link", mtime=mtime)},
        units={"x.service": running(started=started)},
    )
    assert (("unit x.service", "restart") in steps(want, node)) is restarts


def test_a_mode_corrected_restarts_nothing():
    want = {"units": [a_unit(content="[Service]\n", state="started")]}
    node = have(paths={"/etc/systemd/system/x.service": there(b"[Service]\n", mode=0o666)}, units={"x.service": running()})
    assert steps(want, node) == [("file /etc/systemd/system/x.service", "update")]


def test_a_changed_file_restarts_the_units_that_watch_it_only():
    want = {"files": [a_file()], "units": [a_unit(state="started", restart_on=["/etc/x"]), a_unit(name="y.service", state="started")]}
    node = have(paths={"/etc/x": there(b"old\n")}, units={"x.service": running(), "y.service": running()})
    assert steps(want, node) == [("file /etc/x", "update"), ("unit x.service", "restart")]


def test_a_unit_that_systemd_keeps_retrying_is_started_again():
    node = have(units={"x.service": running(active="activating", sub="auto-restart")})
    assert steps({"units": [a_unit(state="started")]}, node) == [("unit x.service", "start")]


def test_a_stale_definition_is_reloaded_and_told():
    node = have(units={"x.service": running(stale=True)})
    assert steps({"units": [a_unit(state="started")]}, node) == [("unit x.service", "reload"), ("systemd", "reload")]


def test_absent_undoes_in_the_reverse_order():
    want = {
        "groups": [{"name": "svc", "state": "absent"}], "users": [{"name": "svc", "groups": [], "state": "absent"}],
        "directories": [{"path": "/opt/svc", "owner": "root", "group": "root", "mode": "0755", "state": "absent"}],
        "files": [a_file(state="absent", content=None)], "units": [a_unit(state="absent", dropins={"site": "x"})],
    }
    node = have(
        groups={"root": {"gid": 0}, "svc": {"gid": 9}}, users={"root": {"uid": 0}, "svc": {"uid": 9}}, units={"x.service": running()},
        paths={"/etc/x": there(), "/opt/svc": ROOT, "/etc/systemd/system/x.service": there(), "/etc/systemd/system/x.service.d/site.conf": there(),
               "/etc/systemd/system/x.service.d": ROOT},
    )
    assert steps(want, node) == [
        ("unit x.service", "stop"), ("unit x.service", "disable"), ("file /etc/systemd/system/x.service", "remove"),
        ("file /etc/systemd/system/x.service.d/site.conf", "remove"), ("systemd", "reload"), ("file /etc/x", "remove"), ("directory /opt/svc", "remove"),
        ("directory /etc/systemd/system/x.service.d", "remove"), ("user svc", "remove"), ("group svc", "remove"),
    ]


def test_a_failed_unit_that_goes_is_not_listed_on():
    found = steps({"units": [a_unit(state="absent")]}, have(units={"x.service": {**running(), "active": "failed"}}))
    assert found[0] == ("unit x.service", "forget")


def test_sensitive_content_is_never_shown():
    want = {"files": [a_file(content="SECRET-new", sensitive=True)]}
    found = node_state.difference(node_state.Desired(want), have(paths={"/etc/x": there(b"SECRET-old")}))
    assert "SECRET" not in repr(node_state.resources(found)) + repr(node_state.diffs(found))
    shown = node_state.diffs(found)[0]
    assert shown["before"] != shown["after"]


def test_sysctls_compare_live_values_and_expand_globs():
    want = {
        "sysctls": {
            "path": "/etc/sysctl.d/9-x.conf",
            "values": {"net.ipv4.conf.*.rp_filter": "1", "net.ipv4.conf.eth0.rp_filter": "2", "net.ipv4.ip_local_port_range": "1\t2"},
        }
    }
    live = {"net.ipv4.conf.all.rp_filter": "1", "net.ipv4.conf.eth0.rp_filter": "0", "net.ipv4.conf.lo.rp_filter": "0", "net.ipv4.ip_local_port_range": "1 2"}
    found = node_state.difference(node_state.Desired(want), have(sysctls=live))
    assert [(step.resource, step.after.get("value")) for step in found] == [
        ("file /etc/sysctl.d/9-x.conf", None), ("sysctl net.ipv4.conf.eth0.rp_filter", "2"), ("sysctl net.ipv4.conf.lo.rp_filter", "1"),
    ]
    content = found[0].data["item"]["content"]
    assert "net.ipv4.ip_local_port_range = 1 2\n" in content and "# before: net.ipv4.conf.lo.rp_filter = 0\n" in content
    settled = {**live, "net.ipv4.conf.eth0.rp_filter": "2", "net.ipv4.conf.lo.rp_filter": "1"}
    assert steps(want, have(sysctls=settled, paths={"/etc/sysctl.d/9-x.conf": there(content.encode())})) == []


def test_sysctls_given_up_return_to_what_they_were():
    content = b"net.ipv4.ip_forward = 0\n# before: net.ipv4.ip_forward = 1\n"
    node = have(sysctls={"net.ipv4.ip_forward": "0"}, paths={"/etc/sysctl.d/9-x.conf": there(content)})
    found = node_state.difference(node_state.Desired({"sysctls": {"path": "/etc/sysctl.d/9-x.conf", "values": {}}}), node)
    assert [(step.resource, step.change, step.after) for step in found] == [
        ("sysctl net.ipv4.ip_forward", "update", {"value": "1"}), ("file /etc/sysctl.d/9-x.conf", "remove", {}),
    ]


def test_what_somebody_set_is_no_value_of_before():
    want = {"sysctls": {"path": "/etc/sysctl.d/90-x.conf", "values": {"net.ipv4.ip_forward": "0", "net.ipv4.conf.*.rp_filter": "1"}}}
    content = (node_state.HEADER + "net.ipv4.conf.*.rp_filter = 1\nnet.ipv4.ip_forward = 0\n").encode()
    node = have(paths={"/etc/sysctl.d": there(kind="directory", mode=0o755), "/etc/sysctl.d/90-x.conf": there(content)},
                sysctls={"net.ipv4.ip_forward": "1", "net.ipv4.conf.eth0.rp_filter": "0"})
    assert sorted(steps(want, node)) == [("sysctl net.ipv4.conf.eth0.rp_filter", "update"), ("sysctl net.ipv4.ip_forward", "update")]


def test_forwarding_is_written_first_since_it_resets_others():
    wanted = node_state.sysctl_wanted(
        {"net.ipv4.conf.*.x": "0", "net.ipv4.ip_forward": "0"}, ["net.ipv4.conf.all.x", "net.ipv4.conf.a.x", "net.ipv4.ip_forward"]
    )
    assert list(wanted) == ["net.ipv4.ip_forward", "net.ipv4.conf.all.x", "net.ipv4.conf.a.x"]


def test_keys_of_interfaces_with_dots():
    assert node_state.sysctl_path("net/ipv4/conf/eth0.100/rp_filter") == "net/ipv4/conf/eth0.100/rp_filter"
    assert node_state.sysctl_path("net.ipv4.conf.eth0/100.rp_filter") == "net/ipv4/conf/eth0.100/rp_filter"
    assert node_state.sysctl_path("net.ipv4.conf.*.rp_filter") == "net/ipv4/conf/*/rp_filter"


@pytest.mark.parametrize(("left", "right"), [("20550,20551-20561", "20550-20561"), ("", ""), ("7443, 20550", "7443,20550")])
def test_reserved_ports_are_compared_as_sets(left, right):
    key = "net.ipv4.ip_local_reserved_ports"
    assert node_state.normal_sysctl(key, left) == node_state.normal_sysctl(key, right)


def test_missing_keys_are_refused_but_those_of_ipv6_left_alone():
    want = {"sysctls": {"path": "/etc/sysctl.d/9-x.conf", "values": {"net.ipv6.conf.all.forwarding": "0", "net.ipv4.nonsense": "1"}}}
    assert refused(want, have(sysctls={"net.ipv6.conf.all.forwarding": None, "net.ipv4.nonsense": None})) == [
        "sysctls: this kernel has no net.ipv4.nonsense; leave it out for this node"
    ]


def test_addresses_name_interface_expected_and_found():
    node = have(addresses=[{"interface": "eth2", "address": "10.77.2.99", "prefix": 24}, {"interface": "eth1", "address": "10.77.2.11", "prefix": 24}])
    want = {"addresses": [{"address": "10.77.2.11", "interface": "eth2", "name": "internal"}, {"address": "fd00:77::11", "interface": None, "name": None}]}
    found = refused(want, node)
    assert "interface eth2: expected the internal address 10.77.2.11, found 10.77.2.99/24; 10.77.2.11 is on eth1" in found[0]
    assert "expected the address fd00:77::11 on this node" in found[1]
    assert steps({"addresses": [{"address": "10.77.2.11", "interface": "eth1", "name": None}]}, node) == []


def test_bad_input_all_at_once():
    want = {
        "files": [a_file("relative"), a_file("/etc/../x"), a_file("/etc/y", mode="rw"), a_file("/etc/z", content=None), a_file("/etc/w"), a_file("/etc/w")],
        "users": [{"name": "Bad Name", "groups": []}], "units": [a_unit(name="x"), a_unit(name="y.service", ready={"url": "http://x"})],
        "sysctls": {"path": "/tmp/x", "values": {"a b": "1"}}, "addresses": [{"address": "host"}],
    }
    with pytest.raises(node_state.Refusal) as caught:
        node_state.Desired(want)
    assert len(caught.value.problems) == 11


def test_what_would_end_in_a_traceback_is_refused():
    ready = a_unit(name="y.service", state="started", ready={"url": "127.0.0.1:7443"})
    with pytest.raises(node_state.Refusal) as caught:
        node_state.Desired({"units": [ready], "sysctls": {"path": "/etc/sysctl.d/x.conf", "values": {"kernel.hostname": "n\u00f6de"}}})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["sysctls", "units"]


def test_unknown_owners_and_missing_parents_are_refused():
    found = refused({"files": [a_file("/srv/none/x", owner="nobody-here")]}, have(paths={"/srv/none": None}))
    assert any("owner nobody-here" in problem for problem in found) and any("directory /srv/none is not there" in problem for problem in found)


def test_missing_supplementary_group_is_refused():
    want = {"groups": [{"name": "u", "state": "present"}],
            "users": [{"name": "u", "group": None, "groups": ["HwHiAiUser"], "home": "/", "shell": "/", "comment": None, "uid": None, "state": "present"}]}
    assert "HwHiAiUser" in refused(want)[0]


UP, DOWN, AGAIN = ({"active": active, "sub": sub} for active, sub in (("active", "running"), ("inactive", "dead"), ("activating", "auto-restart")))


@pytest.mark.parametrize(("looks", "failures"), [
    ([(UP, 100)], 0),
    ([(UP, 100.5)], 0),
    ([(UP, 100), (DOWN, 100), (DOWN, None)], 1),
    ([(DOWN, 100), (UP, 111)], 1),
    ([(UP, 100), (UP, 111)], 1),
    ([(AGAIN, 100), (AGAIN, 111)], 2),
    ([(UP, 100), (AGAIN, 111)], 2),
    ([(AGAIN, 100), (UP, 111), (DOWN, 111), (UP, 122)], 2),
])
def test_failures_of_a_starting_unit_are_counted_once_each(looks, failures):
    attempts = node_state.Attempts(100)
    assert [attempts.failures({**state, "started": started}) for state, started in looks][-1] == failures


def test_first_error_is_the_cause_not_the_consequence():
    journal = [
        "(APIServer pid=1) INFO 11-23 19:05:45 [api.py:1] error count 0",
        "(EngineCore pid=2) ERROR 11-23 19:05:46 [core.py:1] EngineCore failed to start.",
        "(EngineCore pid=2) ERROR 11-23 19:05:46 [core.py:1] Traceback (most recent call last):",
        '(EngineCore pid=2) ERROR 11-23 19:05:46 [core.py:1]   File "x.py", line 1, in run',
        "(EngineCore pid=2) ERROR 11-23 19:05:46 [core.py:1] RuntimeError: Insufficient space in /dev/shm",
        "Traceback (most recent call last):", "RuntimeError: Engine core initialization failed.",
        "x.service: Failed with result 'exit-code'.",
    ]
    assert node_state.first_error(journal).endswith("RuntimeError: Insufficient space in /dev/shm")
    assert "EngineCore failed to start" in node_state.first_error(journal)


@pytest.mark.parametrize(
    ("journal", "expected"),
    [
        (["vllm: error: unrecognized arguments: --x", "x.service: Failed with result"], "vllm: error: unrecognized arguments: --x"),
        (
            ["Started x", "x.service: Failed to set up credentials: No such file or directory"],
            "x.service: Failed to set up credentials: No such file or directory",
        ),
        (
            ["Traceback (most recent call last):", '  File "a", line 1', "ModuleNotFoundError: No module named 'x'"],
            "Traceback (most recent call last):\nModuleNotFoundError: No module named 'x'",
        ),
        (
            ["Started x", "x.service: Main process exited, code=exited, status=203/EXEC"],
            "x.service: Main process exited, code=exited, status=203/EXEC (the program of its ExecStart= is not there, or not for this node)",
        ),
        (["all good", "INFO nothing failed to happen"], ""),
    ],
)
def test_first_error_of_other_journals(journal, expected):
    found = node_state.first_error(journal)
    assert found == expected or (expected.startswith("Traceback") and expected.splitlines()[1] in found)

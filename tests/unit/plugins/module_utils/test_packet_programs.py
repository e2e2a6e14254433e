# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""IPVS, of which the test machines' kernels have none, by the table that ip_vs_ctl.c writes; tests/fuzz/programs.py tries the rest on the kernel."""

from __future__ import annotations

import errno
import os

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import packet_programs

HEAD = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
"""
SERVICES = """TCP  0A4D010B:1F90 rr
  -> 0A4D020C:1F90      Masq    1      0          0
FWM  00000001 wlc
"""


@pytest.mark.parametrize(("table", "names"), [
    (None, []),
    (HEAD, []),
    (HEAD + SERVICES, ["IPVS: 2 virtual services"]),
])
def test_virtual_services_are_an_obstacle(tmp_path, table, names):
    path = tmp_path / "ip_vs"
    if table is not None:
        path.write_text(table, encoding="ascii")
    found = packet_programs._virtual_servers(str(path))
    assert [one["object"] for one in found] == names
    assert all(one["rewrites"] and one["hooks"] == ["input", "forward", "output"] for one in found)


def test_what_cannot_be_listed_is_an_obstacle(monkeypatch):
    def refused(*_arguments):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    for name in ("_devices", "_netfilter", "_virtual_servers"):
        monkeypatch.setattr(packet_programs, name, refused)
    found = packet_programs.program_obstacles({"interfaces": []})
    assert len(found) == 3
    assert all(one["rewrites"] and one["reason"] == "cannot be listed: Operation not permitted" for one in found)

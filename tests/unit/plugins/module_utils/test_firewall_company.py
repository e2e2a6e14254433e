# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Other programs with packet filter rules are recognised by their units, tables and chains."""

from __future__ import annotations

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_company import recognise


@pytest.mark.parametrize("units, chains, names, forwards", [
    ((), (), [], []),
    ((), [("inet", "vllm_hardening", "input")], [], []),
    (["firewalld.service"], [("inet", "firewalld", "filter_INPUT")], ["firewalld"], []),
    ((), [("ip", "filter", "ufw-before-input")], ["ufw"], []),
    ((), [("ip", "nat", "DOCKER"), ("ip", "filter", "DOCKER-USER")], ["docker"], ["docker"]),
    (["kubelet.service"], [("ip", "nat", "KUBE-SERVICES")], ["kubernetes"], ["kubernetes"]),
    ((), [("inet", "netavark", "INPUT")], ["podman"], ["podman"]),
    (["fail2ban.service"], [("inet", "f2b-table", "f2b-chain")], ["fail2ban"], []),
    (["nftables.service"], (), ["nftables"], []),
])
def test_company(units, chains, names, forwards):
    found = recognise(set(units), set(chains), set())
    assert [one["name"] for one in found] == names
    assert [one["name"] for one in found if one["forwards"]] == forwards


def test_evidence_names_what_was_seen():
    found = recognise({"docker.service"}, {("ip", "nat", "DOCKER")}, {"ip filter"})
    assert found == [
        {"name": "docker", "evidence": "docker.service is active, chain DOCKER in table ip nat", "forwards": True},
        {"name": "iptables-legacy", "evidence": "tables ip filter", "forwards": False},
    ]

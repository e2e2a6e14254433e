# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which other programs keep packet filter rules on this node, and by what one sees it."""

from __future__ import annotations

import os

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.netlink import NETLINK_NETFILTER, NetlinkSocket, attribute_map, string

_GETCHAIN = 10 << 8 | 4
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}

# name: (units, table names, prefixes of chain names, whether it forwards packets for containers)
_KNOWN = {
    "firewalld": (("firewalld.service",), ("firewalld",), (), False),
    "ufw": (("ufw.service",), (), ("ufw-", "ufw6-"), False),
    "docker": (("docker.service",), (), ("DOCKER",), True),
    "kubernetes": (("kubelet.service", "k3s.service"), ("kube-proxy",), ("KUBE-", "cali-", "CILIUM_"), True),
    "podman": ((), ("netavark",), ("NETAVARK", "CNI-"), True),
    "fail2ban": (("fail2ban.service",), ("f2b-table",), ("f2b-",), False),
    "nftables": (("nftables.service",), (), (), False),
    "iptables": (("iptables.service", "ip6tables.service", "netfilter-persistent.service"), (), (), False),
}


def recognise(units, chains, legacy):
    """Active unit names, ``(family, table, chain)`` triples and legacy iptables tables -> what is present, with the evidence.

    Each entry is ``{"name", "evidence", "forwards"}``.
    """
    found = []
    for name, (its_units, tables, prefixes, forwards) in _KNOWN.items():
        evidence = [f"{unit} is active" for unit in its_units if unit in units]
        for family, table, chain in sorted(chains):
            if table in tables or (prefixes and chain.startswith(prefixes)):
                evidence.append(f"chain {chain} in table {family} {table}")
                break
        if evidence:
            found.append({"name": name, "evidence": ", ".join(evidence), "forwards": forwards})
    if legacy:
        found.append({"name": "iptables-legacy", "evidence": "tables " + ", ".join(sorted(legacy)), "forwards": False})
    return found


def detect():
    """What `recognise` says about this node. Needs root."""
    chains = set()
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        for _kind, body in netlink.dump(_GETCHAIN, b"\0\0\0\0"):
            fields = attribute_map(body, 4)
            chains.add((_FAMILIES.get(body[0], str(body[0])), string(fields[1]), string(fields[3])))
    units = {unit for its_units, *dummy in _KNOWN.values() for unit in its_units if os.path.lexists(f"/run/systemd/units/invocation:{unit}")}
    legacy = set()
    for family in ("ip", "ip6"):
        try:
            with open(f"/proc/net/{family}_tables_names", encoding="ascii") as stream:
                legacy |= {f"{family} {name}" for name in stream.read().split()}
        except OSError:
            continue
    return recognise(units, chains, legacy)

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What Ansible and ssh read about a lab: inventories, ssh configuration, host keys. Pure."""
from __future__ import annotations

import json
from pathlib import Path

from .topology import CONTROLLER_NUMBER, INTERFACES, MONITOR_NUMBER, SEGMENTS, Block, Host

ACCOUNT = "deploy"
FAMILIES = {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}


def inventory(block: Block, hosts: list[Host], directory: Path, families: str = "ipv4") -> dict:
    """The Ansible inventory of a lab.

    ``families`` is ipv4, ipv6 or dual; addresses and networks are plain strings with one family and lists with two.
    Instances are the caller's: a second inventory file adds ``vllm_cluster_instances`` to the group ``vllm_nodes``.
    """
    versions = FAMILIES[families]

    def each(make):
        values = [make(version) for version in versions]
        return values if len(values) > 1 else values[0]

    def single(number):
        return [
            f"{block.address('management', number, version)}/{32 if version == 4 else 128}" for version in versions
        ]

    def entry(host, variable):
        addresses = {
            segment: each(lambda version, segment=segment: block.address(segment, host.number, version))
            for segment in host.segments
        }
        return {"ansible_host": block.address("management", host.number, versions[0]), variable: addresses}

    nodes = [host for host in hosts if host.is_node]
    others = [host for host in hosts if not host.is_node]
    return {
        "all": {
            "vars": {
                "ansible_user": ACCOUNT,
                "ansible_ssh_private_key_file": str(directory / "id_ed25519"),
                "ansible_ssh_common_args": f"-o UserKnownHostsFile={directory / 'known_hosts'}"
                " -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes",
                "ansible_python_interpreter": "/usr/bin/python3",
                # A busy machine takes its time for a login, and for the two that confirm a change.
                "ansible_ssh_timeout": 60,
                "vllm_firewall_rollback_timeout": 300,
                "vllm_access_rollback_timeout": 300,
            }
        },
        "vllm_nodes": {
            "vars": {
                "vllm_cluster_networks": {
                    segment: each(lambda version, segment=segment: block.network(segment, version))
                    for segment in SEGMENTS
                },
                "vllm_cluster_interfaces": dict(INTERFACES),
                "vllm_cluster_administrators": single(CONTROLLER_NUMBER),
                "vllm_cluster_clients": [block.clients(version) for version in versions],
                "vllm_cluster_monitors": single(MONITOR_NUMBER),
            },
            "hosts": {host.name: entry(host, "vllm_cluster_addresses") for host in nodes},
        },
        "vllm_vantage_points": {"hosts": {host.name: entry(host, "vllm_audit_addresses") for host in others}},
    }


def yaml(value: dict, depth: int = 0) -> str:
    """Nested dictionaries as YAML: innermost values (without a dictionary of dictionaries) in flow style."""
    lines = []
    for key, item in value.items():
        nested = isinstance(item, dict) and (depth < 3 or any(isinstance(inner, dict) for inner in item.values()))
        if nested and item:
            lines.append(f"{'  ' * depth}{key}:\n{yaml(item, depth + 1)}")
        else:
            lines.append(f"{'  ' * depth}{key}: {json.dumps(item)}\n")
    return "".join(lines)


def known_hosts(block: Block, hosts: list[Host], keys: dict[str, str]) -> str:
    """The lab's known_hosts: every name and management address of a host with its public key."""
    lines = []
    for host in hosts:
        names = [host.name] + [block.address("management", host.number, version) for version in (4, 6)]
        lines.append(f"{','.join(names)} {' '.join(keys[host.name].split()[:2])}\n")
    return "".join(lines)


def ssh_config(block: Block, hosts: list[Host], directory: Path) -> str:
    """So that ``ssh -F FILE HOST`` works."""
    text = "".join(
        f"Host {host.name}\n    HostName {block.address('management', host.number, 4)}\n" for host in hosts
    )
    return text + (
        f"Host *\n    User {ACCOUNT}\n    IdentityFile {directory / 'id_ed25519'}\n    IdentitiesOnly yes\n"
        f"    UserKnownHostsFile {directory / 'known_hosts'}\n    GlobalKnownHostsFile /dev/null\n"
        "    StrictHostKeyChecking yes\n"
    )


def etc_hosts(name: str) -> str:
    """A host's own /etc/hosts as Debian's installer writes it: the name is 127.0.1.1, not an address of a segment."""
    return (
        f"127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    )

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Numeric addresses and networks as a user writes them."""

from __future__ import annotations

from ansible.errors import AnsibleError

try:
    import netaddr
except ImportError:
    netaddr = None


def parse_address(value):
    """A numeric IPv4 or IPv6 address that one host can have.

    Raises ValueError that says what the value is instead: a name, a wildcard, a network, multicast or link-local.
    """
    _need_netaddr()
    try:
        address = netaddr.IPAddress(str(value), flags=netaddr.INET_PTON)
    except (netaddr.AddrFormatError, ValueError):
        raise ValueError("is not a numeric address") from None
    if int(address) == 0:
        raise ValueError("is a wildcard, it means every address of the node")
    if address.is_ipv4_mapped():
        raise ValueError(f"is the IPv4 address {address.ipv4()} in the form of IPv6")
    if address.is_multicast() or address.is_link_local() or str(address) == "255.255.255.255":
        raise ValueError("is no address that one host has on a routed network")
    return address


def parse_network(value):
    """A network in CIDR form without host bits; a bare address is the network of that address alone.

    Raises ValueError that says what the value is instead, with the network that was probably meant.
    """
    _need_netaddr()
    try:
        network = netaddr.IPNetwork(str(value))
    except (netaddr.AddrFormatError, ValueError):
        raise ValueError("is not a network in CIDR form") from None
    if network.ip != network.network:
        raise ValueError(f"has host bits set, the network is {network.cidr}")
    if network.prefixlen == 0:
        raise ValueError("is the whole Internet")
    if network.version == 6 and network.ip.is_ipv4_mapped():
        raise ValueError("is IPv4 in the form of IPv6, which no packet carries")
    if int(network.network) == 0:
        raise ValueError("begins with a wildcard")
    if network.is_multicast():
        raise ValueError("is multicast, which nobody has for a source")
    return network


def _need_netaddr():
    if netaddr is None:
        raise AnsibleError("The Python package netaddr is missing on the controller: install what requirements.txt of the collection names.")


def is_loopback(address):
    """Whether a ``netaddr.IPAddress`` is reachable on its own host only."""
    return address.is_loopback()

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Address translation: what nat, masquerade and redirect, and iptables' targets of that kind, make of a connection's first packet.

The functions take the Rules being compiled. Those of expressions have the form of nft_loads' and answer with a diagram that accepts, with
the new addresses and ports as rewritten fields.
"""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_fields import DADDR, DPORT, IIF, NATTED, REROUTED, SADDR, SPORT
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_machine import OUTPUT

SOME = "some"  # a value that nobody knows


def nat(rules, expression, state, _rest):
    """Source or destination translation."""
    address, port = (SADDR, SPORT) if expression["type"] == 0 else (DADDR, DPORT)
    if expression.get("family", 1) not in (1, 2 if rules.space.family == "ip" else 10):
        return None
    environment = {}
    if "addr_min" in expression:
        size = rules.space.bits // 8
        environment[address] = _new_value(rules, state, expression, "addr_min", "addr_max", address, size)
    if "port_min" in expression:
        environment[port] = _new_value(rules, state, expression, "port_min", "port_max", port, 2)
    elif port == SPORT:
        environment[port] = _unknown(rules, port)
    return _accepted(rules, environment)


def masquerade(rules, _expression, _state, _rest):
    """The source becomes an address of the interface by which the packet leaves."""
    place = f"masqueraded ({rules.place()})"
    return _accepted(rules, {rank: rules.space.unknown_value(rank, place) for rank in (SADDR, SPORT)})


def redirect(rules, expression, state, _rest):
    """The destination becomes this host."""
    environment = {}
    if "port_min" in expression:
        environment[DPORT] = _new_value(rules, state, expression, "port_min", "port_max", DPORT, 2)
    return _to_this_host(rules, environment)


def translated(rules, source, address, port):
    """Accepted, with a new source or destination: a number, SOME for one that nobody knows, None for the old one."""
    environment = {}
    for rank, value in zip((SADDR, SPORT) if source else (DADDR, DPORT), (address, port)):
        if value == SOME or source:
            value = _unknown(rules, rank)
        if value is not None:
            environment[rank] = value
    return _accepted(rules, environment)


def redirected(rules, port):
    """Accepted, redirected to this host itself; ``port`` as in translated()."""
    environment = {}
    if port is not None:
        environment[DPORT] = _unknown(rules, DPORT) if port == SOME else port
    return _to_this_host(rules, environment)


def _unknown(rules, rank):
    return rules.space.unknown_value(rank, f"translated ({rules.place()})")


def _accepted(rules, environment):
    environment[NATTED] = 1
    if DADDR in environment or DPORT in environment:
        environment[REROUTED] = 1
    return rules.diagrams.terminal(("accept", tuple(sorted(environment.items()))))


def _new_value(rules, state, expression, low, high, rank, size):
    """The value that a field is translated to: one, or one of several."""
    first = state.read(expression[low], size)
    last = state.read(expression.get(high, expression[low]), size)
    if first == last and all(isinstance(cell, int) for cell in first):
        return int.from_bytes(bytes(first), "big")
    return _unknown(rules, rank)


def _to_this_host(rules, environment):
    """To an address of this host: in prerouting the input interface's first one, in output loopback's."""
    space, host = rules.space, rules.host
    if rules.hook == OUTPUT:
        environment[DADDR] = 0x7F000001 if space.family == "ip" else 1
        return _accepted(rules, environment)
    unknown, parts = None, []
    for interface in space.interfaces:
        address = host.first_address(space.family, interface) if host else None
        if host and address is None:
            parts.append(rules.diagrams.terminal(("drop",)))  # an interface without an address: the kernel drops
            continue
        if address is None:
            unknown = unknown or space.unknown_value(DADDR, f"redirected ({rules.place()})")
            address = unknown
        parts.append(_accepted(rules, {**environment, DADDR: address}))
    return rules.diagrams.node(IIF, list(range(len(parts))), parts)

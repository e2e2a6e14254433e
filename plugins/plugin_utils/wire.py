# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The wire witness on the controller: what to try from where, and what the answers mean.

Pure. Whether a packet is planned is decided by addresses and the segment it arrives on, never by the name of the host it comes from.
"""

from __future__ import annotations

import ipaddress

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.ports import format_ports, merge_ports, parse_ports

# Ports that an installation of this kind is known to open when a default slips through, and what attackers try first.
KNOWN_PORTS = (
    22, 80, 111, 443, 2375, 5000, 5557, 5600, 5601, 5710, 6000, 6379, 7000, 8000, 8080, 8118, 8265, 8443, 8998, 9090, 9100, 9256, 10001, 12213, 14579,
    16309, 16666, 18000, 29500, 29501, 29550, 44217, 44227, 52365, 60000, 60031)
# UDP: name, time, RPC, NetBIOS, SNMP, IKE, syslog, VXLAN, RoCE v2, multicast name services, memcached.
KNOWN_UDP_PORTS = (53, 67, 69, 111, 123, 137, 161, 389, 500, 514, 1900, 4500, 4789, 4791, 5353, 5355, 11211)
OK_OPEN, OK_BLOCKED, LEAK, BROKEN, UNKNOWN = "ok-open", "ok-blocked", "LEAK", "BROKEN", "UNKNOWN"
RESULTS = (OK_OPEN, OK_BLOCKED, LEAK, BROKEN, UNKNOWN)
PASSED = {"open": "accepted", "closed": "reset, so no filter dropped it"}
STOPPED = {"refused": "refused", "silent": "no answer"}


def spread_ports(count):
    """`count` ports spread evenly over 1-65535, the same in every run."""
    return [1 + (index * 65535 + 32767) // count for index in range(count)] if count else []


def sample_range(first, last, inside=3):
    """The ends of a range and some ports inside it."""
    step = (last - first) / (inside + 1)
    return sorted({first, last} | {first + round(step * (index + 1)) for index in range(inside)})


class AddressSet:
    """Addresses and networks of both families; membership in constant time for single addresses."""

    def __init__(self, texts):
        self.single, self.networks = set(), []
        for text in texts:
            network = ipaddress.ip_network(text)
            if network.num_addresses == 1:
                self.single.add(network.network_address)
            else:
                self.networks.append(network)

    def __contains__(self, address):
        return address in self.single or any(address in network for network in self.networks)


class Planned:
    """Answers which ports of a node a given packet may reach under the plan."""

    def __init__(self, plan):
        self.plan = plan
        self._sets = {}
        self._cache = {}

    def _matches(self, cluster, source, address):
        for entry in source:
            if entry.startswith("@"):
                key = (cluster, entry)
                if key not in self._sets:
                    self._sets[key] = AddressSet(self.plan["clusters"][cluster]["sets"].get(entry[1:], []))
                if address in self._sets[key]:
                    return True
            else:
                if entry not in self._sets:
                    self._sets[entry] = AddressSet([entry])
                if address in self._sets[entry]:
                    return True
        return False

    def ports(self, host, source, segment, destination, protocol):
        """[(first, last, flow name)] that `source`, arriving on `segment`, may reach at `destination` of node `host`."""
        key = (host, source, segment, destination, protocol)
        if key in self._cache:
            return self._cache[key]
        node = self.plan["nodes"][host]
        origin, target = ipaddress.ip_address(source), ipaddress.ip_address(destination)
        found = []
        for flow in node["flows"]:
            if flow["protocol"] != protocol:
                continue
            if flow.get("interface") and flow.get("segment") and flow["segment"] != segment:
                continue
            if flow["destinations"] and not self._matches(node["cluster"], flow["destinations"], target):
                continue
            if flow["sources"] and not self._matches(node["cluster"], flow["sources"], origin):
                continue
            found.extend((*parse_ports(ports), flow["name"]) for ports in flow["ports"])
        self._cache[key] = sorted(found)
        return self._cache[key]


def observed_ports(observation, protocol):
    """The ports a host listens on, on whatever address."""
    listeners = (observation or {}).get("listeners")
    return {entry["port"] for entry in (listeners if isinstance(listeners, list) else ())
            if isinstance(entry, dict) and entry.get("protocol") == protocol and isinstance(entry.get("port"), int) and 0 < entry["port"] <= 65535}


def compose(plan, observations, addresses, spread=64, peers=8):
    """What every vantage point tries.

    observations: {host: observation or None}; addresses: {vantage point outside the plan: {segment: address or list}}.
    Every node is tried by the next `peers` nodes of its cluster in ring order, and by every vantage point outside the plan.
    Returns {targets: {host: {host, addresses, tcp, udp, udp_nonce}}, vantage_points: {name: {sources: [{segment, address}], hosts: [host]}}}.
    """
    targets = {}
    general = set(KNOWN_PORTS) | set(spread_ports(spread))
    for host, node in plan["nodes"].items():
        ports = set(general) | observed_ports(observations.get(host), "tcp")
        for flow in node["flows"]:
            if flow["protocol"] == "tcp":
                for bounds in flow["ports"]:
                    ports.update(sample_range(*parse_ports(bounds)))
        ports.discard(0)
        targets[host] = {
            "host": host, "addresses": {segment: list(listed) for segment, listed in node["addresses"].items()},
            "tcp": [format_ports(bounds) for bounds in merge_ports((port, port) for port in ports)], **_udp_target(observations.get(host)),
        }
    points = {}
    for cluster in plan["clusters"].values():
        ring = list(cluster["nodes"])
        for index, host in enumerate(ring):
            count = min(peers, len(ring) - 1)
            sources = plan["nodes"][host]["addresses"]
            points[host] = {"sources": _sources(sources), "hosts": [ring[(index - 1 - step) % len(ring)] for step in range(count)]}
    for name, listed in addresses.items():
        points[name] = {"sources": _sources(listed), "hosts": [host for host in targets if host != name]}
    return {"targets": targets, "vantage_points": points}


def _udp_target(observation):
    """Which UDP ports of a host are tried: those its responder answers on."""
    answers = (observation or {}).get("responder")
    if not isinstance(answers, dict) or not isinstance(answers.get("ports"), list):
        return {"udp": [], "udp_nonce": ""}
    ports = [port for port in answers["ports"] if isinstance(port, int) and 0 < port <= 65535]
    return {"udp": [format_ports(bounds) for bounds in merge_ports((port, port) for port in ports)], "udp_nonce": str(answers.get("nonce") or "")}


def without_ended_responders(observations, now, lost=()):
    """The observations without the responders that had ended by `now`, in seconds since the epoch, or before: their silence means nothing.

    lost: hosts that found no responder running when they had probed themselves.
    """
    left = {}
    for host, observation in observations.items():
        left[host] = observation
        answers = observation.get("responder") if isinstance(observation, dict) else None
        reason = None if answers is None else _why_not_believed(answers, now)
        if answers is not None and host in lost:
            reason = reason or "the responder of UDP probes was ended by somebody else before all had probed"
        if reason:
            told = observation.get("unknown")
            left[host] = {**observation, "responder": None, "unknown": {**(told if isinstance(told, dict) else {}), "responder": reason}}
    return left


def _why_not_believed(answers, now):
    """Why what a host told of its responder means nothing; None where it does."""
    try:
        if answers["started"] + answers["seconds"] < now:
            return "the responder of UDP probes had ended before all had probed: raise vllm_audit_udp_seconds"
    except (KeyError, TypeError):
        return "the host told nonsense of its responder of UDP probes"
    return None if _udp_target({"responder": answers})["udp"] else "the responder of UDP probes had no port"


def without_responder(probes):
    """The hosts that found none of the responders of UDP probes running when they had probed."""
    return {host for host, probe in probes.items() if isinstance(probe, dict) and probe.get("responders") == 0}


def _sources(addresses):
    return [{"segment": segment, "address": str(address)}
            for segment, listed in (addresses or {}).items() for address in ([listed] if isinstance(listed, str) else listed or [])]


def judge_path(planned, row):
    """The cells of one probed path: [{result, expected, observed, ports, flows}], ports merged to ranges."""
    allowed = planned.ports(row["host"], row["source"], row["segment"], row["address"], row["protocol"])
    cells = {}
    for observed in (*PASSED, *STOPPED, "unsent"):
        for text in row.get(observed) or []:
            for first, last, flow in _split(*parse_ports(text), allowed):
                if observed == "unsent":
                    result = UNKNOWN
                elif flow is not None:
                    result = OK_OPEN if observed in PASSED else BROKEN
                else:
                    result = LEAK if observed in PASSED else OK_BLOCKED
                cell = cells.setdefault((result, observed, flow), [])
                cell.append((first, last))
    return [{
        "result": result, "expected": "blocked" if flow is None else "open", "observed": observed, "flow": flow,
        "ports": [format_ports(bounds) for bounds in merge_ports(ranges)], "count": sum(last - first + 1 for first, last in ranges),
    } for (result, observed, flow), ranges in sorted(cells.items(), key=lambda item: (RESULTS.index(item[0][0]), item[0][1], item[0][2] or ""))]


def _split(first, last, allowed):
    """(first, last, flow or None) pieces of a range, cut where a planned range begins or ends."""
    cuts = sorted({first, last + 1} | {bound for low, high, _flow in allowed for bound in (low, high + 1) if first < bound <= last})
    for low, high in zip(cuts, cuts[1:]):
        flow = next((name for start, end, name in allowed if start <= low and high - 1 <= end), None)
        yield low, high - 1, flow


def judge_wire(plan, composed, probes):
    """Compare what was tried with the plan.

    probes: {vantage point: result of the module probe, or None where there is none}.
    Returns {counts, rows: [{vantage, segment, source, host, address, to_segment, crossed, protocol, cells, why}], missing: [{vantage, source, host, address}]}.
    Counts are numbers of (source, address, port).
    """
    planned = Planned(plan)
    segments = {(host, address): segment
                for host, node in plan["nodes"].items() for segment, listed in node["addresses"].items() for address in listed}
    counts = dict.fromkeys(RESULTS, 0)
    rows, missing = [], []
    protocols = {host: [name for name in ("tcp", "udp") if target.get(name)] for host, target in composed["targets"].items()}
    asked = {(host, name): merge_ports(map(parse_ports, target[name])) for host, target in composed["targets"].items() for name in protocols[host]}
    for vantage, point in composed["vantage_points"].items():
        probe = probes.get(vantage)
        paths = probe.get("paths") if isinstance(probe, dict) else None
        tried = set()
        for path in paths if isinstance(paths, list) else []:
            row = _checked_path(path, segments, point)
            if row is None or row["protocol"] not in protocols[row["host"]]:
                continue
            try:
                _complete(row, asked[row["host"], row["protocol"]])
                cells = judge_path(planned, row)
            except ValueError:
                continue
            if not cells:
                continue
            tried.add((row["source"], row["host"], row["address"], row["protocol"]))
            for cell in cells:
                counts[cell["result"]] += cell["count"]
            rows.append({"vantage": vantage, "to_segment": segments[row["host"], row["address"]], "cells": cells,
                         **{key: row.get(key) for key in ("segment", "source", "host", "address", "crossed", "protocol", "why")}})
        for host in point["hosts"]:
            for source in point["sources"]:
                for listed in plan["nodes"][host]["addresses"].values():
                    for address in listed:
                        same_family = (":" in address) == (":" in source["address"])
                        if not same_family or address == source["address"]:
                            continue
                        for protocol in protocols[host]:
                            if (source["address"], host, address, protocol) not in tried:
                                missing.append({"vantage": vantage, "source": source["address"], "host": host, "address": f"{address} {protocol}"})
                                counts[UNKNOWN] += 1
    return {"counts": counts, "rows": rows, "missing": missing}


def _complete(row, asked):
    """Add the ports that were to be tried, and of which the path says nothing, to those that were not sent. Raises ValueError for what is no port."""
    told = merge_ports(parse_ports(text) for name in (*PASSED, *STOPPED, "unsent") for text in row.get(name) or [])
    if not told or told == asked:
        return
    left = {port for first, last in asked for port in range(first, last + 1)} - {port for first, last in told for port in range(first, last + 1)}
    if left:
        row["unsent"] = [*(row.get("unsent") or []), *(format_ports(bounds) for bounds in merge_ports((port, port) for port in left))]
        row["why"] = row["why"] or "the vantage point did not tell"


def _checked_path(path, segments, point):
    """A path as the probe reported it, or None where it is not one this run asked for (what a host says is only data)."""
    if not isinstance(path, dict) or path.get("protocol") not in ("tcp", "udp"):
        return None
    try:
        known = (path.get("host"), path.get("address")) in segments and path["host"] in point["hosts"]
        asked = {"segment": path.get("segment"), "address": path.get("source")} in point["sources"]
    except TypeError:
        return None
    lists = all(isinstance(path.get(name) or [], list) for name in (*PASSED, *STOPPED, "unsent"))
    if not (known and asked and lists):
        return None
    return {**path, "why": str(path["why"])[:300] if path.get("why") else None, "crossed": bool(path.get("crossed"))}

# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Does a packet filter do what a policy says? Decided for every packet, with examples where it does not.

verify() is pure: a snapshot (nft_ruleset), a picture of the host (host_network, or None) and a policy
(firewall_policy) go in, a result that JSON can carry comes out.
"""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.decision_diagram import TooLarge
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_examples import Examples, deciding
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_policy import read_policy
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.host_network import Host
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import nft_ruleset
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_fields import (
    DADDR,
    DIRECTION,
    DPORT,
    ESTABLISHED,
    EXTENSIONS,
    IIF,
    NEW,
    NO_UID,
    OIF,
    OLDER,
    PROTOCOL,
    RELATED,
    SADDR,
    SPORT,
    STATE,
    STATES,
    TCP_FLAGS,
    UID,
    complement,
    intersect,
    union,
)
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_paths import LOOPBACK, Filter, hooked, interfaces_of
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_machine import FORWARD, HOOKS, INGRESS, INPUT, OUTPUT, POSTROUTING, PREROUTING

_EPHEMERAL = [(1024, 65535)]
_SYN, _ACKS, _ANSWERS = [(0x02, 0x02)], [(0x10, 0x11), (0x18, 0x19)], [(0x10, 0x12), (0x18, 0x19)]
# What can be the source of a connection from elsewhere: not "this network", loopback, multicast or broadcast.
_SOURCES = {
    "ip": [(0x01000000, 0x7EFFFFFF), (0x80000000, 0xDFFFFFFF)],
    "ip6": [(2, (0xFF << 120) - 1)],
}
_WALKED = {"inet": INGRESS, "ip": POSTROUTING, "ip6": POSTROUTING, "netdev": 1}  # the last hook of each family
_MOST_BOXES, _MOST_FINDINGS, _MOST_NAMES = 4000, 40, 6


def verify(snapshot, host, policy, obstacles=(), users=None, families=("ip", "ip6")):
    """Judge a ruleset by a policy.

    ``snapshot``   what read_ruleset() gave
    ``host``       what read_host() gave, or None: then addresses and routes are unknown
    ``policy``     the policy as a user writes it; PolicyError is raised where it is wrong
    ``obstacles``  ``[{"object", "reason", "hooks": ["input", ...], "rewrites": bool}]``: filters that are not evaluated and
                   may refuse anything in these directions; where one may rewrite packets, nothing is certain
    ``users``      ``{name: uid}`` for the users that egress flows name

    Returns::

        {"verdict": "ok" | "violated" | "unknown",
         "flows":   [{"name", "part", "status": "ok" | "broken" | "unknown", "reason", "family", "phase",
                      "packet", "box", "trace", "outcome", "depends_on"}],
         "leaks":   [{"part": "input" | "forward" | "output", "status": "leak" | "unknown", "family", "rule", "packet", "box",
                      "trace", "depends_on", "boxes", "refused": name of the flow of refuse_egress, or None}],
         "unknown": [{"object", "reason"}],
         "statistics": {"tables", "rules", "elements", "nodes"}}

    A *leak* or *broken* flow holds for every value of what is not known; *unknown* says that it depends on it.
    """
    checked = read_policy(policy)
    picture = Host(host) if host else None
    result = {"verdict": "ok", "flows": [], "leaks": [], "unknown": [], "statistics": _statistics(snapshot)}
    interfaces = _interfaces(snapshot, picture, checked)
    blocked = [
        ({"input": INPUT, "forward": FORWARD, "output": OUTPUT}[hook], one["object"])
        for one in obstacles for hook in one.get("hooks", ("input", "forward", "output"))
    ]
    result["unknown"] += [{"object": one["object"], "reason": one["reason"]} for one in obstacles]
    unread = _unread(snapshot, picture)
    result["unknown"] += [{"object": one["object"], "reason": one["reason"]} for one in unread]
    strangers = [name for name in checked["egress_users"] or () if isinstance(name, str) and name not in (users or {})]
    result["unknown"] += [{"object": f"egress_users: {name}", "reason": "no such user on this host"} for name in strangers]
    undecided = bool(strangers) or any(one.get("rewrites") for one in obstacles) or any(one["refuses"] for one in unread)
    nodes = 0
    for family in families:
        judge = _Judge(Filter(snapshot, family, picture, blocked, interfaces), checked, users or {})
        try:
            judge.run(result)
            uncertain = judge.undecided_order()
        except (TooLarge, RecursionError):
            uncertain = judge.give_up(result, "its conditions combine in too many ways to be proved")
        for entry in uncertain:
            undecided = True
            if entry not in result["unknown"]:
                result["unknown"].append(entry)
        nodes += len(judge.diagrams.rank)
        for reason, place in judge.filter.rules.unmodelled.items():
            entry = {"object": f"{reason} ({place})", "reason": "not modelled: it may do anything"}
            if entry not in result["unknown"]:
                result["unknown"].append(entry)
    result["statistics"]["nodes"] = nodes
    result["flows"] = _merge_families(result["flows"])
    states = {one["status"] for one in result["flows"]} | {one["status"] for one in result["leaks"]}
    if states & {"broken", "leak"}:
        result["verdict"] = "violated"
    elif "unknown" in states or undecided:
        result["verdict"] = "unknown"
    return result


def _statistics(snapshot):
    tables = snapshot["tables"]
    return {
        "tables": len(tables),
        "rules": sum(len(chain["rules"]) for table in tables for chain in table["chains"].values()),
        "elements": sum(len(one["elements"]) for table in tables for one in table["sets"].values()),
    }


def _interfaces(snapshot, picture, policy):
    """The interfaces of the proof, with those that the policy names."""
    result = interfaces_of(snapshot, picture)
    known = {one["name"].rstrip(b"\0").decode("utf-8", "replace") for one in result}
    flows = [flow for part in policy.values() if isinstance(part, list) for flow in part if isinstance(flow, dict)]
    names = {flow[key] for flow in flows for key in ("interface", "output_interface") if flow.get(key)} | {"lo"}
    for at, name in enumerate(sorted(names - known)):
        index = 1 if name == "lo" else (1 << 21) + at
        result.append({"name": name.encode().ljust(16, b"\0"), "index": index, "present": picture is None})
    return result


def _unread(snapshot, picture):
    """Base chains that this proof does not walk: they can only refuse more, or steer around it."""
    found = []
    for table in snapshot["tables"]:
        for chain in table["chains"].values():
            if chain["hook"] is None or table["flags"] & nft_ruleset.TABLE_DORMANT:
                continue
            name = f"{table['family']} {table['name']} {chain['name']}"
            if table["family"] not in _WALKED:
                found.append({"object": name, "reason": f"{table['family']} chains are not walked: they may refuse more", "refuses": True})
            elif table["family"] == "netdev" and chain["hook"] == 1:
                found.append({"object": name, "reason": "egress chains of devices are not walked: they may refuse more", "refuses": True})
            elif chain["hook"] > _WALKED[table["family"]]:
                found.append({"object": name, "reason": f"hook number {chain['hook']} is not known", "refuses": True})
            elif chain["devices"] and picture:
                below = [one for one in picture.data["interfaces"] if one.get("carries") and hooked(chain, one["name"])]
                reason = "packets of {} come by it first: it may refuse more"
                found += [{"object": f"{name} on {one['name']}", "reason": reason.format(", ".join(one["carries"])), "refuses": True} for one in below]
        for one in table["flowtables"]:
            found.append({
                "object": f"{table['family']} {table['name']} flowtable {one['name']}",
                "reason": "forwarded connections that are established pass by it, around the forward chains",
                "refuses": False,
            })
    return found


def _merge_families(flows):
    """One entry a flow: the worst of its families."""
    order = {"broken": 0, "unknown": 1, "ok": 2, "not applicable": 3}
    merged = {}
    for flow in flows:
        key = (flow["part"], flow["name"])
        if key not in merged or order[flow["status"]] < order[merged[key]["status"]]:
            merged[key] = flow
    for flow in merged.values():
        if flow["status"] == "not applicable":
            flow["status"], flow["reason"] = "broken", "neither IPv4 nor IPv6 has both a source and a destination"
    return list(merged.values())


class _Judge:
    """One network protocol's part of the proof."""

    def __init__(self, packet_filter, policy, users):
        self.filter, self.policy, self.users = packet_filter, policy, users
        self.space, self.diagrams, self.family = packet_filter.space, packet_filter.diagrams, packet_filter.family
        self.host = packet_filter.host
        self.everything = [(0, (1 << self.space.bits) - 1)]
        names = [one["name"].rstrip(b"\0").decode("utf-8", "backslashreplace") for one in self.space.interfaces]
        self.interface_at = {name: at for at, name in enumerate(names) if at}
        self.interface_names = names
        self.examples = Examples(packet_filter, names)
        self.outside = self.diagrams.terminal(("outside",))
        self.inside = self.diagrams.terminal(("inside",))

    def run(self, result):
        """Put the findings of this protocol into the result."""
        self.part(result, "allow", "input")
        if self.policy["forward"] is not None:
            self.part(result, "forward", "forward")
        if self.policy["egress"] is not None:
            self.part(result, "egress", "output")
        if self.policy["refuse_egress"]:
            self.refused(result)

    def give_up(self, result, reason):
        """Leave every flow unknown that has not been judged; the entries of what is unknown."""
        known = {(one["part"], one["name"]) for one in result["flows"] if one["family"] == self.family}
        for part in ("allow", "forward", "egress"):
            left = [flow for flow in self.policy[part] or () if (part, flow["name"]) not in known]
            result["flows"] += [{**self.entry(flow, part), "status": "unknown", "reason": reason} for flow in left]
        return [{"object": f"the ruleset for {self.family}", "reason": reason}]

    def undecided_order(self):
        """Chains of different tables whose order decides and is not known, as entries of what is unknown."""
        hooks = [INGRESS, PREROUTING, INPUT, OUTPUT, POSTROUTING] + ([] if self.policy["forward"] is None else [FORWARD])
        return [
            {
                "object": " and ".join(f"{table['family']} {table['name']} {chain['name']}" for table, chain in chains),
                "reason": f"both have priority {chains[0][1]['priority']} in {HOOKS[hook]}, and what passes depends on which comes first",
            }
            for hook, *chains in self.filter.undecided_order(hooks)
        ]

    def part(self, result, part, where):
        """One direction: its flows, then what else passes."""
        raw = self.filter.sent() if where == "output" else self.filter.received(assume_local=where == "input")
        decided = self.decided(raw, where)
        for flow in self.policy[part]:
            result["flows"].append(self.flow(flow, part, where, raw))
        self.leaks(result, self.intent(part, where), where, decided, raw)

    def refused(self, result):
        """What may not be opened from here: one comparison for each flow, so that a finding names it."""
        raw, diagrams = self.filter.sent(), self.diagrams
        decided = self.decided(raw, "output")
        impossible = [diagrams.box(box, self.inside, self.space.cont) for box in self.impossible("output")]
        for flow in self.policy["refuse_egress"]:
            box = self.box(flow, "output")
            if box is None:
                continue
            box.setdefault(STATE, complement([(ESTABLISHED, RELATED)], len(STATES) - 1))
            parts = [*impossible, diagrams.box(box, self.outside, self.space.cont)]
            self.leaks(result, diagrams.seq(diagrams.fold(parts), self.inside), "output", decided, raw, flow["name"])

    # -- outcomes ------------------------------------------------------------------------------------------------------

    def decided(self, diagram, where):
        """("pass",), ("refuse",) or ("mixed", names of what decides), for packets alone."""
        def simple(value):
            return self.diagrams.terminal(("pass",) if value == ("accept", where) else ("refuse",))

        def merge(first, second, name):
            names = {name}
            for value in (first, second):
                if value[0] == "mixed":
                    names.update(value[1])
            return ("mixed", frozenset(sorted(names)[:_MOST_NAMES]))

        simplified = self.diagrams.map_terminals(diagram, ("decided", where), simple)
        return self.diagrams.quantify(simplified, merge, "free")

    # -- regions -------------------------------------------------------------------------------------------------------

    def shorthand(self, name, where):
        """The boxes of packets that a shorthand stands for."""
        if name == "established":
            return [{STATE: [(ESTABLISHED, RELATED)]}]
        if name == "loopback":
            at = self.interface_at["lo"]
            return [{OIF if where == "output" else IIF: [(at, at)]}]
        if name == "icmp":
            number = 1 if self.family == "ip" else 58
            return [{PROTOCOL: [(number, number)]}]
        if name == "igmp":
            return [{PROTOCOL: [(2, 2)]}]
        ports = (67, 68) if self.family == "ip" else (547, 546)
        server, client = ports if where == "output" else (ports[1], ports[0])
        return [{PROTOCOL: [(17, 17)], DPORT: [(server, server)], SPORT: [(client, client)]}]

    def interface(self, name):
        """The interval of an interface by name."""
        at = self.interface_at[name]
        return [(at, at)]

    def box(self, flow, where):
        """The box of all packets of a flow, or None where this protocol has none."""
        box = {}
        for key, rank in (("protocols", PROTOCOL), ("ports", DPORT), ("source_ports", SPORT)):
            if flow[key] is not None:
                box[rank] = flow[key]
        for key, rank in (("sources", SADDR), ("destinations", DADDR)):
            if flow[key] is not None:
                box[rank] = flow[key][self.family]
                if not box[rank]:
                    return None
        if flow["interface"]:
            box[OIF if where == "output" else IIF] = self.interface(flow["interface"])
        if flow["output_interface"]:
            box[OIF] = self.interface(flow["output_interface"])
        if flow["states"] is not None:
            box[STATE] = sorted((STATES.index(state), STATES.index(state)) for state in flow["states"])
        if flow["users"] is not None:
            box[UID] = self.numbers(flow["users"])
            if not box[UID]:
                return None
        if flow["other_users"] is not None:
            box[UID] = complement(self.numbers(flow["other_users"]), NO_UID - 1)
        return box

    def numbers(self, users):
        """The numbers of the users that this host knows, as intervals."""
        found = {self.users.get(user, user) for user in users}
        return union((number, number) for number in found if not isinstance(number, str))

    def intent(self, part, where):
        """("inside",) for packets that the policy lets pass or that cannot come, ("outside",) for all others."""
        permit = {"allow": "permit", "forward": "permit_forward", "egress": "permit_egress"}[part]
        boxes = self.impossible(where)
        if part == "egress" and self.policy["egress_users"] is not None:
            boxes.append({UID: complement(self.numbers(self.policy["egress_users"]), NO_UID)})
        for flow in self.policy[part] + self.policy[permit]:
            if isinstance(flow, str):
                boxes += self.shorthand(flow, where)
            else:
                box = self.box(flow, where)
                if box is not None:
                    boxes.append(box)
        diagrams = self.diagrams
        parts = [diagrams.box(box, self.inside, self.space.cont) for box in boxes]
        return diagrams.seq(diagrams.fold(parts), self.outside)

    def own(self, index=None):
        """The host's own addresses, of one interface or of all, as intervals."""
        return sorted((one, one) for one in set(self.host.addresses(self.family, index)))

    def impossible(self, where):
        """What the kernel's own IP code refuses before or after the hooks, or what cannot be."""
        last = len(self.space.interfaces) - 1
        foreign = complement(self.interface("lo"), last)
        fresh = complement([(ESTABLISHED, RELATED)], len(STATES) - 1)
        boxes = [{STATE: fresh, DIRECTION: [(1, 1)]}, {STATE: fresh, OLDER: [(1, 1)]}]
        if where == "output":
            boxes += [{OIF: [(0, 0)]}, {IIF: [(1, last)]}]
            if self.host is not None:
                boxes.append({DADDR: self.own(), OIF: foreign})
            return boxes
        boxes.append({IIF: [(0, 0)]})
        if where == "forward":
            boxes += [{OIF: [(0, 0)]}, {IIF: self.interface("lo")}]  # what comes by loopback is for this host
            for low, high, at in self.filter.output_interfaces():
                boxes.append({DADDR: [(low, high)], OIF: complement([(at, at)], last)})
        # Martian sources and destinations: net/ipv4/route.c, net/ipv6/ip6_input.c.
        if self.family == "ip":
            boxes.append({IIF: foreign, SADDR: [(0xE0000000, 0xEFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF)]})
            takes = [(at, at) for at, name in enumerate(self.interface_names) if self.host is not None and self.host.takes_loopback_from(name)]
            boxes += [{IIF: intersect(foreign, complement(takes, last)), rank: [LOOPBACK]} for rank in (SADDR, DADDR)]
        else:
            boxes.append({IIF: foreign, SADDR: [(1, 1), (0xFF << 120, (1 << 128) - 1)]})
            boxes.append({IIF: foreign, DADDR: [(1, 1)]})
        return boxes

    # -- flows ---------------------------------------------------------------------------------------------------------

    def entry(self, flow, part):
        """A flow's entry in the result, so far without a blemish."""
        return {
            "name": flow["name"], "part": part, "status": "ok", "reason": None, "family": self.family, "phase": None,
            "packet": None, "box": None, "trace": None, "outcome": None, "depends_on": [],
        }

    def flow(self, flow, part, where, raw):
        """Whether a flow works: its opening packet, its later packets, and the answers."""
        entry = self.entry(flow, part)
        strangers = [user for user in flow["users"] or () if isinstance(user, str) and user not in self.users]
        if strangers:
            entry.update(status="unknown", reason=f"no user {', '.join(strangers)} on this host")
            return entry
        box = self.box(flow, where)
        if box is None:
            entry["status"] = "not applicable"
            return entry
        if self.host is not None and not self.host.addresses(self.family) and not flow["interface"] == "lo":
            entry["status"] = "not applicable"
            return entry
        required, missing = self.required(flow, box, where)
        if missing:
            entry.update(status="broken", reason=missing)
            return entry
        path = "sent" if where == "output" else "received"
        decided = self.decided(raw, where)
        phases = [
            ("opening", path, required, NEW, _SYN, decided, raw),
            ("established", path, required, ESTABLISHED, _ACKS, decided, raw),
        ]
        if where == "input":
            back = self.filter.sent()
            opening = [{**one, STATE: [(NEW, NEW)], OIF: [(0, 0)], OLDER: [(0, 0)], DIRECTION: [(0, 0)]} for one in required]
            if self.filter.translates_destination(opening):
                back = self.filter.answers_of_translated(back)
            phases.append(("answer", "sent", [self.reversed(one) for one in required], ESTABLISHED, _ANSWERS, self.decided(back, "output"), back))
        elif where == "output":
            back = self.filter.received(assume_local=True)
            opening = [{**one, STATE: [(NEW, NEW)], IIF: [(0, 0)], OLDER: [(0, 0)], DIRECTION: [(0, 0)]} for one in required]
            if not self.filter.translates_source(opening):
                back = self.filter.answers_to_untranslated(back)
            phases.append(("answer", "received", [self.reversed(one) for one in required], ESTABLISHED, _ANSWERS, self.decided(back, "input"), back))
        elif not self.filter.may_translate_forwarded():
            phases.append(("answer", path, self.forwarded_answers(flow, required), ESTABLISHED, _ANSWERS, decided, raw))
        for phase, way, boxes, state, flags, verdicts, whole in phases:
            # What this host sends came in nowhere, and what it receives goes out nowhere.
            nowhere = {} if where == "forward" else {IIF if way == "sent" else OIF: [(0, 0)]}
            direction = {OLDER: [(0, 0)], DIRECTION: [(1, 1)] if phase == "answer" else [(0, 0)]}
            boxes = [{**one, **nowhere, **direction} for one in boxes]
            found = self.phase(boxes, state, flags, verdicts, flow)
            if found is None or (entry["status"] == "unknown" and found[0] != "broken"):
                continue
            status, values, ranges, names = found
            entry.update(status=status, phase=phase, depends_on=sorted(names))
            end = {"input": "output", "output": "input"}.get(where, where) if phase == "answer" else where
            self.examples.illustrate(entry, values, ranges, whole, way, end, want_pass=False)
            if status == "broken":
                entry["reason"] = f"the {phase} packet is refused"
                return entry
            entry["reason"] = f"whether the {phase} packet passes depends on " + ", ".join(sorted(names))
        return entry

    def required(self, flow, box, where):
        """The boxes of packets that must pass, and what is missing on this host, if anything."""
        box = dict(box)
        box.setdefault(PROTOCOL, [(0, 255)])
        box.setdefault(SPORT, _EPHEMERAL)
        if where != "output":
            box[SADDR] = intersect(box.get(SADDR, self.everything), _SOURCES[self.family])
            if not box[SADDR]:
                return [], "none of its sources can send packets"
        box[EXTENSIONS] = [(0, 0)]
        strangers = complement(sorted([(0, 0), *self.interface("lo")]), len(self.space.interfaces) - 1)
        if where == "output":
            box.setdefault(UID, [(0, NO_UID)])
            boxes = [] if OIF in box else self.routed(box) or self.anywhere(box)
            if boxes:
                return [{**box, **one} for one in boxes], None
            box.setdefault(OIF, [(at, at) for at in range(1, len(self.space.interfaces)) if self.space.interfaces[at]["present"]])
            if self.host is not None and self.own():
                box.setdefault(SADDR, self.own())
            return [box], None
        if where == "forward":
            box.setdefault(IIF, strangers)
            if OIF in box:
                return [box], None
            return [{**box, DADDR: one[DADDR], OIF: one[OIF]} for one in self.routed(box)] or [{**box, OIF: strangers}], None
        if self.host is None:
            box.setdefault(IIF, strangers)
            return [box], None
        boxes = []
        for at, interface in enumerate(self.space.interfaces):
            if not interface["present"] or (IIF in box and not intersect(box[IIF], [(at, at)])):
                continue
            if self.host.is_loopback(interface["index"]) and IIF not in box:
                continue
            own = sorted((one, one) for one in set(self.host.addresses(self.family, interface["index"])))
            wanted = intersect(own, box.get(DADDR, self.everything))
            if not wanted:
                continue
            # The host's own addresses as sources are for loopback.
            others = complement(sorted((address, address) for address in set(self.host.addresses(self.family))), self.everything[0][1])
            one = {**box, IIF: [(at, at)], DADDR: wanted, SADDR: intersect(box.get(SADDR, self.everything), others)}
            if not one[SADDR]:
                continue
            if not flow["interface"]:
                routed = self.host.sources_by(self.family, interface["index"])
                reachable = intersect(one[SADDR], routed) if routed is not None else None
                if reachable:
                    one[SADDR] = reachable
            boxes.append(one)
        if not boxes:
            if flow["interface"] and not self.space.interfaces[self.interface_at[flow["interface"]]]["present"]:
                return [], f"there is no interface {flow['interface']}"
            if flow["destinations"] is not None:
                return [], "none of its destinations is an address of this host" + (
                    f" on {flow['interface']}" if flow["interface"] else ""
                )
            box.setdefault(IIF, strangers)
            boxes = [box]
        return boxes, None

    def routed(self, box):
        """A box for each interface by which its destinations are reached, from the addresses there; empty where the routes do not tell."""
        boxes = []
        for low, high, at in self.filter.output_interfaces():
            wanted = intersect(box.get(DADDR, self.everything), [(low, high)])
            if wanted and self.interface_names[at] != "lo":
                own = self.own(self.space.interfaces[at]["index"]) or self.own()
                boxes.append({DADDR: wanted, OIF: [(at, at)], SADDR: box.get(SADDR, own or self.everything)})
        return boxes

    def anywhere(self, box):
        """A box for each interface, from the addresses there: where rules decide about routes, any of them may be the way."""
        boxes = []
        for at, interface in enumerate(self.space.interfaces):
            own = self.own(interface["index"]) if self.host is not None and interface["present"] and self.interface_names[at] != "lo" else []
            if own:
                boxes.append({OIF: [(at, at)], SADDR: box.get(SADDR, own)})
        return boxes

    def reversed(self, box):
        """The box of the answers."""
        swap = {SADDR: DADDR, DADDR: SADDR, SPORT: DPORT, DPORT: SPORT, IIF: OIF, OIF: IIF}
        result = {swap.get(rank, rank): intervals for rank, intervals in box.items()}
        result.pop(UID, None)
        return result

    def forwarded_answers(self, flow, required):
        """The boxes of the answers to what is forwarded, by the interfaces that lead to its sources."""
        answers = [self.reversed(one) for one in required]
        for one in answers:
            one[SADDR] = intersect(one.get(SADDR, self.everything), _SOURCES[self.family])
            if self.host is not None:
                here = union(self.host.local_intervals(self.family) + self.host.perhaps_local_intervals(self.family))
                one[DADDR] = intersect(one[DADDR], complement(here, self.everything[0][1]))
        if not flow["interface"]:
            routes = self.filter.output_interfaces()
            answers = [
                {**one, DADDR: intersect(one[DADDR], [(low, high)]), OIF: [(at, at)]} for one in answers for low, high, at in routes
                if [(at, at)] != one[IIF]  # neighbours do without this host
            ] if routes else answers
        return [one for one in answers if one[SADDR] and one[DADDR]]

    def phase(self, boxes, state, flags, decided, flow):
        """None where all packets pass, else ("broken" or "unknown", values, box, names)."""
        diagrams = self.diagrams
        parts = []
        for box in boxes:
            box = {**box, STATE: [(state, state)]}
            if any(low <= 6 <= high for low, high in box[PROTOCOL]):
                box[TCP_FLAGS] = flags
            parts.append(diagrams.box(box, self.inside, self.space.cont))
        region = diagrams.seq(diagrams.fold(parts), self.outside)
        inside = diagrams.combine(decided, region, "within", lambda value, _inside: value, absorb=("outside",))
        if self.host is None and not flow["interface"] and not flow["output_interface"]:
            inside = self.any_interface(inside)
        for status, wanted in (("broken", "refuse"), ("unknown", "mixed")):
            for box, value in diagrams.boxes(inside, lambda value, wanted=wanted: value[0] == wanted):
                names = value[1] if value[0] == "mixed" else ()
                values = self.examples.example(box)
                return status, values, box, names
        return None

    def any_interface(self, diagram):
        """Where nothing says by which interface a flow comes, what depends on it is unknown."""
        def merge(first, second, name):
            if first == ("outside",):
                return second
            if second == ("outside",):
                return first
            names = {f"the interface ({name})"}
            for value in (first, second):
                if value[0] == "mixed":
                    names.update(value[1])
            return ("mixed", frozenset(sorted(names)[:_MOST_NAMES]))

        return self.diagrams.quantify(diagram, merge, "interfaces", (IIF, OIF))

    # -- leaks ---------------------------------------------------------------------------------------------------------

    def leaks(self, result, intent, where, decided, raw, refused=None):
        """Everything that passes and should not, one finding for each rule or policy that lets it."""
        combined = self.diagrams.combine(decided, intent, "leaks", lambda value, _outside: value, absorb=("inside",))
        path = "sent" if where == "output" else "received"
        for status, wanted in (("leak", "pass"), ("unknown", "mixed")):
            found = {}
            for number, (box, value) in enumerate(
                self.diagrams.boxes(combined, lambda value, wanted=wanted: value[0] == wanted)
            ):
                if number >= _MOST_BOXES or len(found) >= _MOST_FINDINGS:
                    break
                names = value[1] if value[0] == "mixed" else ()
                entry = {"part": where, "status": status, "family": self.family, "depends_on": sorted(names), "boxes": 1, "refused": refused}
                self.examples.illustrate(entry, self.examples.example(box), box, raw, path, where, want_pass=True)
                entry["rule"] = deciding(entry["trace"], where)
                key = repr(entry["rule"])
                known = found.get(key)
                if known is not None:
                    entry["boxes"] += known["boxes"]
                    if known["packet"]["protocol"] in ("tcp", "udp") or entry["packet"]["protocol"] not in ("tcp", "udp"):
                        known["boxes"] = entry["boxes"]
                        continue
                found[key] = entry
            result["leaks"] += found.values()

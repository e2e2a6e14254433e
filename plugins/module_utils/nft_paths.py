# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A packet's way through the host: all hooks and all base chains, as one diagram, and as a trace for one packet.

`received`: ingress, prerouting, routing, then input, or forward and postrouting. `sent`: output, postrouting.
Terminals: ("accept", "input"), ("accept", "forward"), ("accept", "output"), ("drop",), ("reject", type, code) and
("kernel", reason) for what the host's own IP code refuses.
"""

from __future__ import annotations

import itertools
import sys

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import nft_listing, nft_ruleset
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.decision_diagram import ACCEPTS, BREAKS
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_fields import (
    DADDR,
    DIRECTION,
    DPORT,
    ESTABLISHED,
    IIF,
    INVALID,
    NATTED,
    NEW,
    OIF,
    OLDER,
    RELATED,
    REROUTED,
    SADDR,
    SPORT,
    STATE,
    Space,
)
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_machine import (
    DROP,
    FORWARD,
    HOOKS,
    INGRESS,
    INPUT,
    OUTPUT,
    POSTROUTING,
    PREROUTING,
    register_offset,
)
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_semantics import Rules
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_sets import ranges

LOOPBACK = (0x7F000000, 0x7FFFFFFF)
_CONNTRACK = -200
_NAT = {PREROUTING: -100, OUTPUT: -100, INPUT: 100, POSTROUTING: 100}


def interfaces_of(snapshot, host=None):
    """The interfaces that can make a difference: the host's, those that rules name, and one that nobody names.

    The first stands for "no interface". Names are 16 bytes, as rules compare them.
    """
    names, indexes, loads = set(), set(), {}
    for table in snapshot["tables"]:
        for chain in table["chains"].values():
            for rule in chain["rules"]:
                for expression in rule["expressions"]:  # rules share expressions
                    asks = loads.get(id(expression))
                    if asks is None:
                        asks = loads[id(expression)] = expression["expr"] == "meta" and expression["key"] in (4, 5, 6, 7)
                    if asks:
                        _interfaces_in_rule(table, rule["expressions"], names, indexes)
                        break
    result = [{"name": bytes(16), "index": 0, "present": False}]
    known = {}
    for one in host.data["interfaces"] if host else []:
        known[one["name"].encode()] = one["index"]
    for index in sorted(indexes - set(known.values()) - {0}):
        known.setdefault(b"lo" if index == 1 else b"if%d" % index, index)
    present = {one["name"].encode() for one in host.data["interfaces"]} if host else set()
    wanted = dict(known)
    next_index = 1 << 20
    exact = {name.rstrip(b"\0") for name in names if len(name) == 16}
    prefixes = {name for name in names if len(name) < 16 and name}
    for name in sorted(exact) + sorted(_stranger(prefix, exact, prefixes, known) for prefix in prefixes | {b""}):
        if name and name not in wanted:
            wanted[name] = 1 if name == b"lo" and 1 not in known.values() else next_index
            next_index += 1
    for name, index in wanted.items():
        result.append({"name": name.ljust(16, b"\0")[:16], "index": index, "present": name in present or host is None})
    return result


def _stranger(prefix, exact, prefixes, known):
    """A name that begins with ``prefix`` and with no longer one of ``prefixes``, and that nobody mentions."""
    for number in range(1 << 16):
        name = (prefix or b"other") + (b"%d" % number if number or not prefix else b"~")
        longer = any(name.startswith(one) for one in prefixes if len(one) > len(prefix))
        if len(name) < 16 and not longer and name not in exact and name not in known:
            return name
    return b""


def _interfaces_in_rule(table, expressions, names, indexes):
    """The names and index numbers that a rule compares interfaces with."""
    loaded = {}
    for expression in expressions:
        kind = expression["expr"]
        if kind == "meta" and "dreg" in expression and expression["key"] in (4, 5, 6, 7):
            loaded[register_offset(expression["dreg"])] = 4 if expression["key"] < 6 else 16
        elif kind == "cmp" and register_offset(expression["sreg"]) in loaded:
            _mention(expression["data"], loaded[register_offset(expression["sreg"])], names, indexes)
        elif kind == "lookup":
            start = register_offset(expression["sreg"])
            one = table["sets"][expression["set"]]
            for offset, size in loaded.items():
                at = offset - start
                if 0 <= at < one["key_len"]:
                    for low, high, _element in ranges(one)[0]:
                        _mention(_common(low[at : at + size], high[at : at + size]), size, names, indexes)
        elif expression.get("dreg"):
            loaded.pop(register_offset(expression["dreg"]), None)


def _common(low, high):
    """A name, or the prefix that a wildcard's interval begins with."""
    if low == high:
        return low
    at = 0
    while low[at] == high[at]:
        at += 1
    return low[:at]


def _mention(data, size, names, indexes):
    if size == 16:
        # A name that is compared with its closing zero is meant whole, without it as a prefix.
        exact = len(data) == 16 or b"\0" in data
        names.add(bytes(data).partition(b"\0")[0].ljust(16, b"\0") if exact else bytes(data))
    elif len(data) == 4:
        indexes.add(int.from_bytes(data, sys.byteorder))


class Filter:
    """The packet filter of a snapshot for one network protocol ("ip" or "ip6").

    ``host`` is a host_network.Host or None; ``obstacles`` are ``[(hook, name)]``: things in the way that may refuse any
    packet, for reasons unknown.
    """

    def __init__(self, snapshot, family, host=None, obstacles=(), interfaces=None):
        self.snapshot, self.family, self.host, self.obstacles = snapshot, family, host, obstacles
        self.space = Space(family, interfaces or interfaces_of(snapshot, host))
        self.rules = Rules(self.space, host)
        self.diagrams = self.space.diagrams
        self._accept = self.diagrams.terminal(("accept", ()))
        self._paths = {}

    # -- base chains ---------------------------------------------------------------------------------------------------

    def base_chains(self, hook):
        """The base chains of a hook in the order in which a packet meets them: ``[(table, chain), ...]``.

        At equal priority the one made later comes first; across tables the order in which the tables were made is taken
        for it (see undecided_order()).
        """
        found = []
        for table in self.snapshot["tables"]:
            if table["flags"] & nft_ruleset.TABLE_DORMANT:
                continue
            for chain in table["chains"].values():
                if chain["hook"] is None:
                    continue
                if table["family"] == "netdev":
                    matches = hook == INGRESS and chain["hook"] == 0
                else:
                    matches = table["family"] in ("inet", self.family) and chain["hook"] == hook
                if matches:
                    found.append((table, chain))
        return sorted(reversed(found), key=lambda one: one[1]["priority"])

    def undecided_order(self, hooks):
        """Base chains of equal priority in different tables whose order, which nothing tells, decides about packets.

        ``[(number of the hook, (table, chain), (table, chain)), ...]``; whether a packet is dropped or rejected does not count.
        """
        found = []
        for hook in hooks:
            for (table, chain), (other_table, other) in itertools.combinations(self.base_chains(hook), 2):
                if table is other_table or chain["priority"] != other["priority"] or self._is_nat(chain) != self._is_nat(other):
                    continue
                both = [(table, chain), (other_table, other)]
                if self._together(hook, both) != self._together(hook, both[::-1]):
                    found.append((hook, *both))
        return found

    def _together(self, hook, chains):
        """Base chains of one priority in this order, with all refusals alike."""
        if self._is_nat(chains[0][1]):
            return self._nat(hook, chains)
        going_on = [
            self.diagrams.map_terminals(self._stage(hook, ("chain", *one)), "accept goes on", self._goes_on, ACCEPTS) for one in chains
        ]
        refused = self.diagrams.terminal(("drop",))
        return self.diagrams.map_terminals(
            self.diagrams.seq(*going_on), "refused alike", lambda value: refused if value[0] == "reject" else self.diagrams.terminal(value),
        )

    def _is_nat(self, chain):
        return chain["type"] == "nat"

    def _pick(self, rank, intervals, inside, outside):
        diagrams = self.diagrams
        selector = diagrams.select(rank, intervals, diagrams.terminal(("pick", 0)), diagrams.terminal(("pick", 1)))
        return diagrams.apply(selector, (inside, outside))

    def _loopbacks(self):
        return [
            (at, at) for at, one in enumerate(self.space.interfaces)
            if one["name"].rstrip(b"\0") == b"lo" or (self.host and self.host.is_loopback(one["index"]))
        ]

    def _stages(self, hook):
        """The stages of a hook in order: ``[("chain", table, chain) or ("nat", [...]) or ("obstacle", name)]``."""
        chains = self.base_chains(hook)
        stages = [("obstacle", name) for at, name in self.obstacles if at == hook]
        nat = [one for one in chains if self._is_nat(one[1])]
        point = _NAT.get(hook)
        for table, chain in chains:
            if self._is_nat(chain):
                continue
            if nat and chain["priority"] >= point:
                stages.append(("nat", nat))
                nat = []
            stages.append(("chain", table, chain))
        if nat:
            stages.append(("nat", nat))
        return stages

    def _stage(self, hook, stage):
        """The diagram of one stage; ("accept", environment) means that the packet goes on."""
        if stage[0] == "obstacle":
            atom = self.space.atom(stage[1], hook)
            refused = self.diagrams.map_terminals(
                atom, "obstacle", lambda value: self.diagrams.terminal(("drop",) if value == ("break",) else value), BREAKS
            )
            return self.diagrams.seq(refused, self._accept)
        if stage[0] == "nat":
            return self._nat(hook, stage[1])
        _kind, table, chain = stage
        diagram = self.rules.base_chain(table, chain)
        if hook == INGRESS:
            here = [(at, at) for at, one in enumerate(self.space.interfaces) if hooked(chain, _name(one))]
            diagram = self._pick(IIF, here, self._untracked(diagram), self._accept)
        elif hook in (PREROUTING, OUTPUT) and chain["priority"] < _CONNTRACK:
            diagram = self._untracked(diagram)
        return diagram

    def _untracked(self, diagram):
        """Before connection tracking every packet looks invalid, but on loopback, where it was tracked when sent."""
        narrowed = self.diagrams.assign(diagram, ((STATE, INVALID),), remember=False)
        return self._pick(IIF, self._loopbacks(), diagram, narrowed)

    def _nat(self, hook, chains):
        """Address translation: the first packet of a connection asks the rules, the others follow the first."""
        diagram = self._accept
        for table, chain in reversed(chains):
            one = self.rules.base_chain(table, chain)
            going_on = self.diagrams.map_terminals(one, "accept goes on", self._goes_on, ACCEPTS)
            rest = self._pick(NATTED, [(1, 1)], self._accept, diagram)
            diagram = self.diagrams.seq(going_on, rest)
        first = self.diagrams.assign(diagram, ((NATTED, 0),), remember=False)
        # Later packets of the same direction fare like the first, unless that came before these rules; answers get back
        # what the first had before.
        follow = self._accept
        if hook == PREROUTING or (hook == OUTPUT and any(self._is_nat(one[1]) for one in self.base_chains(INPUT))):
            translated = self.space.unknown_value(DADDR, "of the connection before its translation")
            atom = self._source_was_translated(hook)
            moved = self.diagrams.terminal(("accept", tuple(sorted({DADDR: translated, REROUTED: 1}.items()))))
            follow = self._pick(self.diagrams.rank[atom], [(1, 1)], moved, self._accept)
        alike = self._pick(OLDER, [(0, 0)], first, self._accept)
        follow = self._pick(DIRECTION, [(0, 0)], alike, follow)
        related = self.space.atom("the related packet begins a connection", hook)
        maybe = self._pick(self.diagrams.rank[related], [(1, 1)], first, follow)
        by_state = self._pick(STATE, [(NEW, NEW)], first, self._accept)
        by_state = self._pick(STATE, [(RELATED, RELATED)], maybe, by_state)
        by_state = self._pick(STATE, [(ESTABLISHED, ESTABLISHED)], follow, by_state)
        return self.diagrams.map_terminals(by_state, "translation done", self._forget_natted, ACCEPTS)

    def _source_was_translated(self, hook):
        return self.space.atom("the connection's source was translated", hook)

    def answers_to_untranslated(self, diagram):
        """received(), narrowed to answers of connections whose source no rule translated (translates_source)."""
        atom = self._source_was_translated(PREROUTING)
        return self.diagrams.assign(diagram, ((self.diagrams.rank[atom], 0),), remember=False)

    def answers_of_translated(self, diagram):
        """sent(), for answers of connections whose destination was translated: they leave with the source that only the rules know."""
        after = {rank: self.space.unknown_value(rank, "of the connection after its translation") for rank in (SADDR, SPORT)}
        return self.diagrams.assign(diagram, tuple(sorted(after.items())), remember=False)

    def translates_source(self, boxes):
        """Whether any rule may give packets in ``boxes`` that this host sends another source."""
        return self._may_rewrite({SADDR, SPORT}, self.diagrams.seq(self.hook(OUTPUT), self.hook(POSTROUTING)), boxes)

    def translates_destination(self, boxes):
        """Whether any rule may give packets in ``boxes`` that come in another destination."""
        return self._may_rewrite({DADDR, DPORT}, self.diagrams.seq(self.hook(INGRESS), self.hook(PREROUTING)), boxes)

    def _may_rewrite(self, ranks, way, boxes):
        """Whether fields may be rewritten of packets in ``boxes`` on their way."""
        diagrams, gone = self.diagrams, self._settle(way)
        if not ranks & diagrams.writes(gone):
            return False
        inside, outside = diagrams.terminal(("inside",)), diagrams.terminal(("outside",))
        region = diagrams.seq(diagrams.fold([diagrams.box(box, inside, diagrams.cont) for box in boxes]), outside)
        within = diagrams.combine(gone, region, "on the way within", lambda value, _inside: value, absorb=("outside",))
        return any(diagrams.boxes(within, lambda value: value[0] == "cont" and bool(ranks & dict(value[1]).keys())))

    def may_translate_forwarded(self):
        """Whether there are rules that may give forwarded packets another source or destination."""
        return any(self._is_nat(chain) and chain["rules"] for hook in (PREROUTING, POSTROUTING) for _table, chain in self.base_chains(hook))

    def _forget_natted(self, value):
        if value[0] == "accept":
            value = ("accept", tuple(one for one in value[1] if one[0] != NATTED))
        return self.diagrams.terminal(value)

    def _goes_on(self, value):
        return self.diagrams.terminal(("cont",) + value[1:] if value[0] == "accept" else value)

    def hook(self, hook, where=None):
        """The diagram of a whole hook; ("cont", environment) where the packet goes on.

        With ``where`` nothing comes after the hook, and packets that go on end in ("accept", where).
        """
        known = self._paths.get((hook, where))
        if known is None:
            known = self.diagrams.cont if where is None else self.diagrams.terminal(("accept", where))
            for number, stage in enumerate(reversed(self._stages(hook))):
                diagram = self._stage(hook, stage)
                if number == 0 and where is not None:
                    known = self.diagrams.map_terminals(diagram, ("end", where), lambda value: self._end(value, where), ACCEPTS)
                else:
                    known = self.diagrams.seq(self.diagrams.map_terminals(diagram, "accept goes on", self._goes_on, ACCEPTS), known)
            self._paths[hook, where] = known
        return known

    # -- whole paths ---------------------------------------------------------------------------------------------------

    def _end(self, value, where):
        """Accepted at the end of the last hook: the packet passes."""
        return self.diagrams.terminal(("accept", where) if value[0] == "accept" else value)

    def received(self, assume_local=None):
        """What becomes of packets that come in by an interface.

        Where nothing is known of the host's addresses, ``assume_local`` says whether packets whose destination no rule
        translates are for this host.
        """
        key = ("received", assume_local if self.host is None else None)
        if key not in self._paths:
            diagrams = self.diagrams
            first = diagrams.seq(self.hook(INGRESS), self.hook(PREROUTING))
            rerouted = REROUTED in diagrams.writes(first)  # whether any packet's destination may be another one by now
            local = self.hook(INPUT, "input")
            onward = diagrams.seq(self.hook(FORWARD), self.hook(POSTROUTING, "forward"))
            onward = self._unless_not_forwarding(self._by_route(onward) if rerouted else onward)
            if self.host is not None:
                routed = self._pick(DADDR, self.host.local_intervals(self.family), local, onward)
                perhaps = self.host.perhaps_local_intervals(self.family)
                if perhaps:
                    routed = self._pick(DADDR, perhaps, self._pick(self._routed_here(), [(1, 1)], local, onward), routed)
                if rerouted and self.family == "ip":
                    routed = diagrams.seq(self._to_loopback(), routed)
            else:
                routed = local if assume_local else onward
                if rerouted:
                    atom = self.space.atom("the translated destination is this host", "routing")
                    unknown = self._pick(diagrams.rank[atom], [(1, 1)], local, onward)
                    routed = self._pick(REROUTED, [(1, 1)], unknown, routed)
            whole = diagrams.seq(first, routed)
            self._paths[key] = self._settle(whole)
        return self._paths[key]

    def _routed_here(self):
        """The rank of a free yes-or-no: rules about routes lead the packet to this host."""
        return self.diagrams.rank[self.space.atom("rules about routes lead the packet to this host", "routing")]

    def _to_loopback(self):
        """IPv4 refuses packets that a rule has given one of loopback's addresses, but by interfaces that may bring such."""
        foreign = [
            (at, at) for at, one in enumerate(self.space.interfaces)
            if not self.host.is_loopback(one["index"]) and not self.host.takes_loopback_from(_name(one))
        ]
        refused = self.diagrams.terminal(("kernel", "translated to 127.0.0.0/8, which route_localnet does not let in by that interface"))
        return self.diagrams.box({IIF: foreign, DADDR: [LOOPBACK], REROUTED: [(1, 1)]}, refused, self.diagrams.cont)

    def sent(self):
        """What becomes of packets that this host sends."""
        if "sent" not in self._paths:
            whole = self.diagrams.seq(self.hook(OUTPUT), self.hook(POSTROUTING, "output"))
            self._paths["sent"] = self._settle(whole)
        return self._paths["sent"]

    def _settle(self, diagram):
        """No packet begins its way translated."""
        return self.diagrams.assign(diagram, ((NATTED, 0), (REROUTED, 0)), remember=False)

    def output_interfaces(self):
        """Where a destination leads: ``[(low, high, number of the interface), ...]``, as far as the routes tell."""
        routes = self.host.routes_to(self.family) if self.host is not None else None
        numbers = {one["index"]: at for at, one in enumerate(self.space.interfaces)}
        return [(low, high, numbers[index]) for low, high, index in routes or () if index in numbers]

    def _by_route(self, onward):
        """A packet whose destination was rewritten leaves by the interface that the new destination's route names."""
        routes = self.output_interfaces()
        if not routes:
            return onward
        diagrams, chosen = self.diagrams, sorted({at for _low, _high, at in routes})
        picks = [diagrams.terminal(("pick", number)) for number in range(len(chosen) + 1)]
        bounds, children, at = [], [], 0
        for low, high, interface in routes:
            if low > at:
                bounds.append(low - 1)
                children.append(picks[-1])
            bounds.append(high)
            children.append(picks[chosen.index(interface)])
            at = high + 1
        if at <= diagrams.fields[DADDR].maximum:
            bounds.append(diagrams.fields[DADDR].maximum)
            children.append(picks[-1])
        selector = diagrams.node(DADDR, bounds, children)
        choices = [diagrams.assign(onward, ((OIF, one),), remember=False) for one in chosen] + [onward]
        return self._pick(REROUTED, [(1, 1)], diagrams.apply(selector, tuple(choices)), onward)

    def _unless_not_forwarding(self, onward):
        if self.host is None:
            return onward
        refused = self.diagrams.terminal(("kernel", "this host does not forward packets from that interface"))
        forwards = [
            (at, at) for at, one in enumerate(self.space.interfaces)
            if not one["present"] or self.host.forwards(self.family, _name(one))
        ]
        if not self.host.data["forwarding"][self.family]:
            return refused
        return self._pick(IIF, forwards, onward, refused)

    # -- traces --------------------------------------------------------------------------------------------------------

    def trace(self, values, path="received", assume_local=True):
        """The way of one packet, rule by rule: ``(steps, outcome)``.

        ``values`` are ``{rank: value}``; a step names the hook, table, chain and rule (handle, text, comment) that did
        something, or the chain whose policy decided.
        """
        walker = _Walker(self, values)
        if path == "sent":
            outcome = walker.hooks((OUTPUT, POSTROUTING))
            return walker.steps, outcome or ("accept", "output")
        outcome = walker.hooks((INGRESS, PREROUTING))
        if outcome:
            return walker.steps, outcome
        if self.host is not None:
            if self.family == "ip":
                refused = self.diagrams.lookup(self._to_loopback(), walker.current())
                if refused[0] == "kernel":
                    walker.steps.append({"hook": "input", "outcome": refused[1]})
                    return walker.steps, refused
            local = any(low <= walker.get(DADDR) <= high for low, high in self.host.local_intervals(self.family))
            if any(low <= walker.get(DADDR) <= high for low, high in self.host.perhaps_local_intervals(self.family)):
                local = bool(walker.get(self._routed_here()))
        elif walker.values.get(REROUTED):
            atom = self.space.atom("the translated destination is this host", "routing")
            local = bool(walker.get(self.diagrams.rank[atom]))
        else:
            local = assume_local
        if local:
            return walker.steps, walker.hooks((INPUT,)) or ("accept", "input")
        if walker.get(REROUTED):
            routes = (at for low, high, at in self.output_interfaces() if low <= walker.get(DADDR) <= high)
            walker.values[OIF] = next(routes, walker.get(OIF))
        refused = self.diagrams.lookup(self._unless_not_forwarding(self._accept), walker.current())
        if refused[0] == "kernel":
            walker.steps.append({"hook": "forward", "outcome": refused[1]})
            return walker.steps, refused
        return walker.steps, walker.hooks((FORWARD, POSTROUTING)) or ("accept", "forward")


def _name(interface):
    """The name of a Space's interface as text, empty for none."""
    return interface["name"].rstrip(b"\0").decode("utf-8", "backslashreplace")


def hooked(chain, name):
    """Whether an ingress chain sees packets of the interface of this name."""
    return bool(name) and any(name.startswith(one[:-1]) if one.endswith("*") else name == one for one in chain["devices"])


class _Walker:
    """One packet on its way."""

    def __init__(self, owner, values):
        self.owner, self.values, self.steps = owner, dict(values), []
        self.notrack = False  # a rule took the packet out of connection tracking
        self.diagrams = owner.diagrams

    def current(self):
        return self.values

    def get(self, rank):
        return self.values.get(rank, 0)

    def absorb(self, environment):
        """Fields that a rule rewrote."""
        for rank, value in environment:
            self.values[rank] = self.values.get(value.rank, 0) if hasattr(value, "rank") else value

    def hooks(self, hooks):
        """Through the hooks; the outcome where one refuses, else None."""
        for hook in hooks:
            for stage in self.owner._stages(hook):
                outcome = self.stage(hook, stage)
                if outcome is not None:
                    return outcome
        return None

    def stage(self, hook, stage):
        if stage[0] == "obstacle":
            value = self.diagrams.lookup(self.owner._stage(hook, stage), self.values)
            if value[0] != "accept":
                self.steps.append({"hook": HOOKS[hook], "outcome": f"refused by {stage[1]}"})
                return value
            return None
        if stage[0] == "nat":
            value = self.diagrams.lookup(self.owner._nat(hook, stage[1]), self.values)
            if self.get(STATE) == NEW or (
                self.get(STATE) == ESTABLISHED and not self.get(DIRECTION) and not self.get(OLDER)
            ):
                for table, chain in stage[1]:
                    outcome = self.base_chain(hook, table, chain)
                    if outcome is not None:
                        return outcome
                    if self.values.pop(NATTED, 0):
                        break
            elif value[0] == "accept":
                self.absorb(value[1])
            return None
        _kind, table, chain = stage
        if hook == INGRESS and not hooked(chain, _name(self.owner.space.interfaces[self.get(IIF)])):
            return None
        early = hook == INGRESS or (hook in (PREROUTING, OUTPUT) and chain["priority"] < _CONNTRACK)
        on_loopback = any(low <= self.get(IIF) <= high for low, high in self.owner._loopbacks())
        tracked = early and not on_loopback and not self.notrack
        state = self.get(STATE)
        if tracked:
            self.values[STATE] = INVALID
        outcome = self.base_chain(hook, table, chain)
        if tracked and self.values[STATE] == INVALID:
            self.values[STATE] = state
        elif tracked:
            self.notrack = True
        return outcome

    def base_chain(self, hook, table, chain):
        """Through a base chain; the outcome where it refuses."""
        outcome = self.chain(hook, table, chain, chain, ())
        if outcome[0] in ("cont", "return"):
            refuses = chain["policy"] == DROP
            self.steps.append({
                "hook": HOOKS[hook], "family": table["family"], "table": table["name"], "chain": chain["name"],
                "outcome": "policy drop" if refuses else "policy accept",
            })
            return ("drop",) if refuses else None
        return None if outcome[0] == "accept" else outcome

    def chain(self, hook, table, base, chain, calls):
        """Through a chain's rules; the terminal that ends it, ("cont",) at its end."""
        calls = calls if self.owner.rules._keeps_state(table, chain["name"]) else ()
        for rule in chain["rules"]:
            diagram = self.owner.rules.step(table, chain, rule, base["hook"], base["type"], calls)
            value = self.diagrams.lookup(diagram, self.values)
            environment = value[1] if len(value) > 1 and isinstance(value[1], tuple) else ()
            if value == ("cont", ()):
                continue
            self.absorb(environment)
            self.steps.append({
                "hook": HOOKS[hook], "family": table["family"], "table": table["name"], "chain": chain["name"],
                "handle": rule["handle"], "comment": rule["comment"],
                "rule": nft_listing.rule_text(table, rule), "outcome": _outcome(value),
            })
            if value[0] == "cont":
                continue
            if value[0] in ("jump", "goto"):
                target = table["chains"][value[2]]
                inner = self.chain(hook, table, base, target, calls + (rule["handle"],))
                if inner[0] not in ("cont", "return"):
                    return inner
                if value[0] == "goto":
                    return ("return",)
                continue
            return value
        return ("cont",)


def _outcome(value):
    if value[0] == "cont":
        return "goes on, changed"
    if value[0] in ("jump", "goto"):
        return f"{value[0]} {value[2]}"
    if value[0] == "reject":
        return "reject " + nft_listing.reject_kind(value[1], value[2])
    return value[0]

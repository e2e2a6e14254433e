# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What loaded rules do, as decision diagrams: expressions, rules and chains of one network protocol.

Follows the kernel's machine (net/netfilter/nf_tables_core.c): expressions run over registers until one of them breaks the
rule or sets a verdict. Terminals of a rule and of a chain::

    ("cont", environment)     undecided: the next rule, or the end of the chain
    ("return", environment)   back to the caller
    ("accept", environment)   this base chain accepts
    ("drop",)                 refused silently
    ("reject", type, code)    refused with an answer

What is not modelled becomes a free field or a free yes-or-no, named so that a person finds it.
"""

from __future__ import annotations

import sys

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import nft_loads, nft_ruleset, nft_translation, nft_xtables
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.decision_diagram import BREAKS, OPEN, RETURNS
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_fields import (
    INVALID,
    PROTOCOL,
    STATE,
    UNTRACKED,
    EQ,
    Comparison,
    Load,
    Space,
    combine_cell,
    intersect,
)
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_machine import (
    ACCEPT,
    BREAK,
    CONTINUE,
    DROP,
    FORWARD,
    GOTO,
    JUMP,
    POSTROUTING,
    QUEUE,
    RETURN,
    State,
    Unsupported,
)
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_sets import Membership, ranges

_HARMLESS = frozenset(("counter", "log", "last", "dup", "flow_offload"))
_PLAIN = _HARMLESS | {"cmp", "bitwise", "byteorder", "range"}
_MOST_BRANCHES = 512
_UNASKED = object()


class Rules:
    """Compiles the rules and chains of one network protocol. ``tables`` are a snapshot's, ``host`` may answer FIB lookups.

    ``host`` is None or an object with ``fib(space, expression, hook)`` that returns cells or None.
    """

    def __init__(self, space: Space, host=None):
        self.space, self.host = space, host
        self.diagrams = space.diagrams
        self.cont, self.break_ = space.cont, space.break_
        self._drop = self.diagrams.terminal(("drop",))
        self._accept = self.diagrams.terminal(("accept", ()))
        self._return = self.diagrams.terminal(("return", ()))
        self._chains, self._steps, self._memberships, self._leading = {}, {}, {}, {}
        self._never = set()  # beginnings of rules that match no packet
        self._symbols, self._templates = {}, {}  # see _compile
        self._where = None  # (table, chain, rule, hook, chain type) being compiled
        self._shallow = False
        self._calls = ()  # the rules that jumped here
        self._atoms = 0  # of the rule being compiled, so far
        self._stateful_chains = {}
        self._changed_sets = {}  # by table, the names of the sets that its rules add to or delete from
        self.unmodelled = {}  # what this model has no words for: {text: where}

    # -- chains --------------------------------------------------------------------------------------------------------

    def base_chain(self, table, chain):
        """The diagram of a base chain with its policy: terminals accept, drop and reject only."""
        key = (table["family"], table["name"], chain["name"])
        diagram = self._chains.get(key)
        if diagram is None:
            hook, kind = chain["hook"], chain["type"]
            rules = [self.rule(table, chain, rule, hook, kind) for rule in chain["rules"]]
            policy = self._drop if chain["policy"] == DROP else self._accept
            if any(self.diagrams.summary[one] & RETURNS for one in rules):
                inner = self._ends(self._in_sequence(rules), "return to policy", {"return": "cont"})
                diagram = self.diagrams.seq(inner, policy)
            else:
                diagram = self._in_sequence([*rules, policy])
            self._chains[key] = diagram
        return diagram

    def _in_sequence(self, rules):
        return self.diagrams.fold([one for one in rules if one != self.cont])

    def chain(self, table, name, hook, kind):
        """The diagram of a chain's rules, without a policy, as seen from a base chain of ``hook`` and type ``kind``."""
        # What a load means depends on the hook. A chain whose rules keep state may answer differently each time a
        # packet comes by, so that each way to it has free fields of its own.
        calls = self._calls if self._calls and self._keeps_state(table, name) else ()
        key = (table["family"], table["name"], name, hook, kind, calls)
        diagram = self._chains.get(key)
        if diagram is None:
            chain = table["chains"][name]
            rules = [self.rule(table, chain, rule, hook, kind, calls) for rule in chain["rules"]]
            diagram = self._chains[key] = self._in_sequence(rules)
        return diagram

    def rule(self, table, chain, rule, hook, kind, calls=(), shallow=False):
        """The diagram of one rule; ``shallow`` as in step()."""
        outer = self._where, self._calls, self._atoms, self._shallow
        self._where, self._calls, self._atoms = (table, chain, rule, hook, kind), calls, 0
        self._shallow = shallow
        try:
            return self._compile(rule)
        finally:
            self._where, self._calls, self._atoms, self._shallow = outer

    def step(self, table, chain, rule, hook, kind, calls=()):
        """As rule(), ending at jumps with ("jump" or "goto", environment, chain); for traces, which ask again and again."""
        key = (table["family"], table["name"], chain["name"], rule["handle"], hook, kind, calls)
        if key not in self._steps:
            self._steps[key] = self.rule(table, chain, rule, hook, kind, calls, shallow=True)
        return self._steps[key]

    def _keeps_state(self, table, name):
        """Whether a chain, or one it jumps to, holds expressions whose outcome changes from time to time."""
        key = (table["family"], table["name"], name)
        known = self._stateful_chains.get(key)
        if known is None:
            self._stateful_chains[key] = True  # in case of a loop, which the kernel refuses
            known = self._stateful_chains[key] = any(
                expression["expr"] in _STATEFUL
                or expression["expr"] not in _KNOWN
                or (expression["expr"] == "lookup" and self._unsteady(table, expression["set"]))
                or any(self._keeps_state(table, one) for one in self._targets(table, expression))
                for rule in table["chains"][name]["rules"]
                for expression in rule["expressions"]
            )
        return known

    def _unsteady(self, table, name):
        one = table["sets"].get(name)
        return one is None or bool(one["flags"] & nft_ruleset.SET_TIMEOUT) or self._changed_by_packets(table, one)

    def _changed_by_packets(self, table, one):
        """Whether packets change a set's elements: rules may do so to sets that were made without the flag, too."""
        if one["flags"] & (nft_ruleset.SET_DYNAMIC | nft_ruleset.SET_CONSTANT):
            return bool(one["flags"] & nft_ruleset.SET_DYNAMIC)
        key = (table["family"], table["name"])
        changed = self._changed_sets.get(key)
        if changed is None:
            rules = (rule for chain in table["chains"].values() for rule in chain["rules"])
            changed = self._changed_sets[key] = {each["set"] for rule in rules for each in rule["expressions"] if each["expr"] == "dynset"}
        return one["name"] in changed

    @staticmethod
    def _targets(table, expression):
        """The chains that an expression may jump to."""
        data = [expression.get("data")]
        if expression["expr"] == "lookup" and expression.get("dreg") == 0:
            data = [element.get("data") for element in table["sets"][expression["set"]]["elements"]]
        return {one["chain"] for one in data if isinstance(one, dict) and one.get("chain")}

    def _ends(self, diagram, name, renamed):
        def change(value):
            return self.diagrams.terminal((renamed.get(value[0], value[0]),) + value[1:])

        return self.diagrams.map_terminals(diagram, name, change, RETURNS if "return" in renamed else OPEN)

    @property
    def hook(self):
        """The hook from which the rule being compiled is seen."""
        return self._where[3]

    @property
    def table(self):
        """The table of the rule being compiled."""
        return self._where[0]

    def place(self):
        """Where the rule being compiled stands, in words."""
        table, chain, rule, _hook, _kind = self._where
        return f"{table['family']} {table['name']} {chain['name']} handle {rule['handle']}"

    # -- rules ---------------------------------------------------------------------------------------------------------

    def _compile(self, rule):
        expressions = rule["expressions"]
        while expressions and not self._decides(expressions[-1]):
            expressions = expressions[:-1]
        if not expressions:
            return self.cont
        if len(expressions) > 1 and self._beginning(expressions) in self._never:
            return self.cont
        # Most rulesets are many rules of few shapes: what tells them apart is the constants of comparisons.
        shape = (self.table["family"], self.hook, *[self._symbols.get(id(one)) or self._symbol(one) for one in expressions])
        template = self._templates.get(shape)
        if template is None:
            state = State()
            diagram = self._run((expressions, 0), state)
            if not self._plain(expressions, state):
                return diagram
            template = self._templates[shape] = (state.box, state.values, self._ending(expressions[-1]))
        box, values, inner = template
        box = self._with_values(dict(box), values, expressions)
        return self.cont if box is None else self.diagrams.box(box, inner, self.cont)

    def _symbol(self, expression):
        """What an expression contributes to the shape of its rule: itself, or for comparisons of larger numbers no constant."""
        symbol = id(expression)
        if expression["expr"] == "cmp" and expression["op"] == EQ and len(expression["data"]) > 1 and "unknown" not in expression:
            symbol = (expression["sreg"], len(expression["data"]))
        self._symbols[id(expression)] = symbol
        return symbol

    def _plain(self, expressions, state):
        """Whether a rule, now run, is nothing but conditions on single fields and a verdict, wherever it stands."""
        if state.diagrams or state.impossible or self._atoms or self._ending(expressions[-1]) is None:
            return False
        if len(state.values) != sum(isinstance(self._symbols[id(one)], tuple) for one in expressions):
            return False  # a constant that is no plain number, such as a name, has become part of the conditions
        return all(
            one["expr"] in _PLAIN or (one["expr"] in ("meta", "ct") and "sreg" not in one and one["key"] not in nft_loads.TIMES)
            or (one["expr"] == "payload" and "sreg" not in one)
            for one in expressions[:-1]
        )

    def _ending(self, expression):
        """The terminal of a verdict that is the same everywhere, else None."""
        if expression["expr"] == "reject":
            return self._reject(expression, None, None)
        if expression["expr"] == "immediate" and expression["data"]["code"] in (ACCEPT, DROP, RETURN):
            return self._verdict(expression["data"], None)
        return None

    @staticmethod
    def _with_values(box, values, expressions):
        """The box with the constants of comparisons put in, None where no packet is left."""
        for position, rank, bits in values:
            value = int.from_bytes(expressions[position]["data"], "big") << bits
            intervals = [(value, value | (1 << bits) - 1)]
            if rank in box:
                intervals = intersect(box[rank], intervals)
                if not intervals:
                    return None
            box[rank] = intervals
        return box

    def _beginning(self, expressions):
        """What the first two expressions of a rule do, as a key; mostly they ask for the network protocol."""
        return id(expressions[0]), id(expressions[1]), self._where[0]["family"], self._where[3]

    @staticmethod
    def _decides(expression):
        """Whether an expression, as the last of its rule, can have any effect on this or a later packet's verdict."""
        name = expression["expr"]
        if name == "immediate":
            return expression.get("dreg") == 0 and expression["data"].get("code") != CONTINUE
        if name == "lookup":
            return expression.get("dreg") == 0
        if name in ("meta", "ct"):
            keys = (nft_loads.META_MARK,) if name == "meta" else (nft_loads.CT_MARK, 17)
            return "sreg" in expression and expression["key"] in keys
        if name == "payload":
            return "sreg" in expression
        if name == "target":
            return nft_xtables.target_decides(expression)
        if name == "objref":
            return False
        return name in ("reject", "nat", "masq", "redir", "notrack", "queue", "tproxy", "synproxy", "fwd") or (
            name not in _KNOWN
        )

    def _run(self, rest, state):
        """The diagram of what is left of a rule, ``(expressions, position)``, under the state's conditions."""
        expressions, start = rest
        for position in range(start, len(expressions)):
            expression = expressions[position]
            if expression["expr"] in _HARMLESS:
                continue
            try:
                handler = _HANDLERS.get(expression["expr"])
                if handler is None:
                    raise Unsupported(f"expression {expression['expr']!r}")
                if "unknown" in expression:
                    raise Unsupported(f"attribute {expression['unknown']} of expression {expression['expr']!r}")
                outcome = handler(self, expression, state, (expressions, position + 1))
            except Unsupported as reason:
                outcome = self._anything(str(reason), expression, state, (expressions, position + 1))
            if outcome is not None:
                return self._wrap(state, outcome, expressions)
            if state.impossible:
                if position == 1 and start == 0:
                    self._never.add(self._beginning(expressions))
                return self.cont
        return self._wrap(state, self.cont, expressions)

    def after(self, environment, state, rest):
        """The rest of the rule once fields were rewritten; they stay so, whether or not the rest applies."""
        return self.diagrams.assign(self._run(rest, state.branch(environment)), tuple(sorted(environment.items())))

    def _wrap(self, state, inner, expressions):
        """``inner`` under the conditions that the rule has met so far; where they fail, the next rule."""
        box = None if state.impossible else self._with_values(dict(state.box), state.values, expressions)
        if box is None or inner in (self.break_, self.cont):
            return self.cont
        diagrams = self.diagrams
        if not state.diagrams and diagrams.rank[inner] > max(box, default=-1):
            return diagrams.box(box, inner, self.cont)
        for condition in reversed(state.diagrams):
            inner = diagrams.seq(condition, inner)
        inner = diagrams.seq(diagrams.box(box, self.cont, self.break_), inner)
        return diagrams.map_terminals(inner, "unbreak", self._unbreak, BREAKS)

    def _unbreak(self, value):
        return self.cont if value == ("break",) else self.diagrams.terminal(value)

    def _anything(self, reason, expression, state, rest):
        """What an expression does that this model has no words for: nobody knows."""
        self.unmodelled.setdefault(reason, self.place())
        if expression["expr"] in _KNOWN and expression.get("dreg"):
            state.write(expression["dreg"], [None] * 16)
            return None
        going_on = self._run(rest, state.branch())
        refused = self._perhaps(f"{reason} refuses", self._drop, self._perhaps(f"{reason} ends", self.cont, going_on))
        return self._perhaps(f"{reason} accepts", self._accept, refused)

    def atom(self, what):
        """A free yes-or-no named after what decides it and where it stands."""
        self._atoms += 1
        return self.space.atom(f"{what} ({self.place()})", (self._where[3:], self._calls, self._atoms))

    # -- conditions ----------------------------------------------------------------------------------------------------

    def require(self, state, cells, test, what):
        """Put a condition on the rule."""
        constraints, diagram = self.space.condition(cells, test, state.box, lambda: self.atom(what))
        self._require(state, constraints, diagram)

    def _require(self, state, constraints, diagram):
        if diagram is not None:
            if diagram == self.break_:
                state.impossible = True
            elif diagram != self.cont:
                state.diagrams.append(diagram)
            return
        for rank, intervals in constraints.items():
            if rank in state.box:
                intervals = intersect(state.box[rank], intervals)
            state.box[rank] = intervals
            if not intervals:
                state.impossible = True

    def _cmp(self, expression, state, rest):
        data, register = expression["data"], expression["sreg"]
        loaded = state.cells
        if register == state.register and expression["op"] == EQ and len(loaded) == len(data) and isinstance(loaded, Load):
            # By far the most common comparison: a whole load with a constant.
            key = (id(loaded), *state.box.get(PROTOCOL, ()))
            leading = self._leading.get(key, _UNASKED)
            if leading is _UNASKED:
                leading = self._leading[key] = self.space.leading(loaded, state.box)
            if leading is not None:
                rank, bits = leading
                if len(data) > 1:
                    state.values.append((rest[1] - 1, rank, bits))
                else:
                    value = data[0] << bits
                    self._require(state, {rank: [(value, value | (1 << bits) - 1)]}, None)
                return
        cells = state.read(register, len(data))
        if expression["op"] == EQ and len(data) == 1 and isinstance(cells[0], int):
            if cells[0] != data[0]:  # the network protocol
                state.impossible = True
            return
        self.require(state, cells, Comparison(expression["op"], data), "comparison beyond the model")

    def _range(self, expression, state, _rest):
        low, high = expression["from"], expression["to"]
        cells = state.read(expression["sreg"], len(low))
        test = Comparison(0, low, high, negated=expression["op"] == 1)
        self.require(state, cells, test, "range beyond the model")

    # -- registers -----------------------------------------------------------------------------------------------------

    def _immediate(self, expression, state, _rest):
        data = expression["data"]
        if isinstance(data, dict):
            return self._verdict(data, state)
        state.write(expression["dreg"], list(data))
        return None

    def _verdict(self, verdict, state):
        """The diagram of a verdict, or None for *carry on with this rule*."""
        code = verdict["code"]
        if code == CONTINUE:
            return None
        if code == DROP:
            return self._drop
        if code == ACCEPT:
            return self._accept
        if code == RETURN:
            return self._return
        if code == BREAK:
            return self.break_
        if code in (JUMP, GOTO):
            table, _chain, rule, hook, kind = self._where
            if self._shallow:
                return self.diagrams.terminal(("jump" if code == JUMP else "goto", (), verdict["chain"]))
            calls, self._calls = self._calls, self._calls + (rule["handle"],)
            try:
                body = self.chain(table, verdict["chain"], hook, kind)
            finally:
                self._calls = calls
            if code == JUMP:
                return self._ends(body, "return to caller", {"return": "cont"})
            return self._ends(body, "end returns", {"cont": "return"})
        if code & 0xFF == QUEUE:
            return self._queue()
        raise Unsupported(f"verdict {code}")

    def _bitwise(self, expression, state, _rest):
        length = expression["len"]
        cells = state.read(expression["sreg"], length)
        if expression.get("op", 0) == 0 and "mask" in expression:
            mask, flip = expression["mask"], expression["xor"]
            cells = [combine_cell(cell, mask[at], flip[at]) for at, cell in enumerate(cells)]
        elif expression.get("op", 0) in (1, 2) and all(isinstance(cell, int) for cell in cells) and length == 4:
            shift = int.from_bytes(expression["data"], sys.byteorder)
            number = int.from_bytes(bytes(cells), sys.byteorder)
            number = number << shift if expression["op"] == 1 else number >> shift
            cells = list((number & 0xFFFFFFFF).to_bytes(4, sys.byteorder))
        else:
            cells = [None] * length
        state.write(expression["dreg"], cells)

    def _byteorder(self, expression, state, _rest):
        length, size = expression["len"], expression["size"]
        cells = state.read(expression["sreg"], length)
        if sys.byteorder == "little":
            cells = [cell for at in range(0, length, size) for cell in reversed(cells[at : at + size])]
        state.write(expression["dreg"], cells)

    # -- sets ----------------------------------------------------------------------------------------------------------

    def _membership(self, name):
        """``(entries, values, catch-all, everything may change)`` of a set; ``entries`` as Membership wants them.

        A value, and the catch-all where there is one, is ``(data, whether it may end at any time)``.
        """
        table = self._where[0]
        key = (table["family"], table["name"], name)
        known = self._memberships.get(key)
        if known is None:
            one = table["sets"][name]
            entries, catchall = ranges(one)
            values, numbers, listed = [], {}, []
            for low, high, element in entries:
                value = self._element_value(element)
                mark = repr(value)
                if mark not in numbers:
                    numbers[mark] = len(values)
                    values.append(value)
                listed.append((low, high, numbers[mark]))
            rest = catchall and self._element_value(catchall)
            known = self._memberships[key] = (listed, values, rest, self._changed_by_packets(table, one), one)
        return known

    @staticmethod
    def _element_value(element):
        temporary = "expiration" in element or any(each["expr"] not in _HARMLESS for each in element.get("expressions", ()))
        return element.get("data"), temporary

    def _lookup(self, expression, state, rest):
        name = expression["set"]
        entries, values, catchall, dynamic, one = self._membership(name)
        cells = state.read(expression["sreg"], one["key_len"])
        missing = len(values)
        what = f"membership in set {name}"
        if dynamic:
            what = f"content of the dynamic set {name}"
            if expression.get("dreg") != 0:
                state.diagrams.append(self.atom(what))
                if "dreg" in expression:  # packets store values, too
                    state.write(expression["dreg"], [None] * 16)
                return None
        is_map = "dreg" in expression
        if is_map and len(values) > _MOST_BRANCHES and expression["dreg"] != 0:
            raise Unsupported(f"map {name} with {len(values)} different values")
        if entries:
            test = Membership(entries, one["field_lens"], missing)
            failed = []
            _none, selector = self.space.condition(cells, test, state.box, lambda: failed.append(1) or self.cont)
            if failed:
                if is_map:
                    raise Unsupported(what)
                state.diagrams.append(self.atom(what))
                return None
        else:
            selector = self.diagrams.terminal(("pick", missing))
        inverted = bool(expression.get("flags", 0) & 1)
        choices = []
        for value, temporary in [*values, catchall or (None, None)]:
            if temporary is None:
                choices.append(self.cont if inverted or is_map else self.break_)
                continue
            if is_map:
                inner = self._with_value(expression, value, state, rest)
            else:
                inner = self.break_ if inverted else self.cont
            if temporary or dynamic:
                other = self.cont if inverted or is_map else self.break_
                inner = self._perhaps(f"{what}, which may end at any time", inner, other)
            choices.append(inner)
        diagram = self.diagrams.apply(selector, tuple(choices))
        if is_map:
            return diagram
        self._require(state, None, diagram)
        return None

    def _perhaps(self, what, inner, otherwise):
        """``inner`` or ``otherwise``, nobody knows."""
        atom = self.atom(what)
        selector = self.diagrams.select(
            self.diagrams.rank[atom], [(1, 1)], self.diagrams.terminal(("pick", 0)), self.diagrams.terminal(("pick", 1))
        )
        return self.diagrams.apply(selector, (inner, otherwise))

    def _with_value(self, expression, value, state, rest):
        """The rest of the rule with a map's value."""
        branch = state.branch()
        if isinstance(value, dict):
            diagram = self._verdict(value, branch)
            return self._run(rest, branch) if diagram is None else diagram
        if value is None:
            raise Unsupported("a map to objects")
        branch.write(expression["dreg"], list(value))
        return self._run(rest, branch)

    def _dynset(self, expression, state, _rest):
        if expression.get("op") != 2:
            state.diagrams.append(self.atom(f"update of the dynamic set {expression['set']}"))

    # -- state of the host ---------------------------------------------------------------------------------------------

    def _stateful(self, expression, state, _rest):
        name = {"connlimit": "ct count"}.get(expression["expr"], expression["expr"])
        state.diagrams.append(self.atom(name))

    def _objref(self, expression, state, _rest):
        kind = {1: "counter", 2: "quota", 4: "limit", 5: "ct count", 10: "synproxy"}.get(expression.get("type"))
        if "set" in expression:
            state.diagrams.append(self.atom(f"object map {expression['set']}"))
        elif kind in ("quota", "limit", "ct count", "synproxy"):
            state.diagrams.append(self.atom(f"{kind} {expression['name']}"))

    def _match(self, expression, state, _rest):
        nft_xtables.match(self, expression, state)

    def _target(self, expression, state, rest):
        return nft_xtables.target(self, expression, state, rest)

    # -- what iptables' matches and targets need -----------------------------------------------------------------------

    def demand(self, state, constraints, diagram=None):
        """Put constraints on single fields, or a diagram that goes on or breaks, on the rule."""
        self._require(state, constraints, diagram)

    def hop_cells(self):
        """The cell of the time to live, or hop limit."""
        return self.space.network_cells(8 if self.space.family == "ip" else 7, 1, self.hook in (FORWARD, POSTROUTING))

    def no_tracking(self, state, rest):
        """The outcome of taking the packet out of connection tracking."""
        return self._notrack(None, state, rest)

    def after_mark(self, name, value, state, rest):
        """The rest of the rule under a mark that is set to a number, or to None: nobody knows."""
        rank = self.space.free_view(name, 4).rank
        if value is None:
            value = self.space.unknown_value(rank, f"({self.place()})")
        return self.after({rank: value}, state, rest)

    def after_header(self, offset, length, state, rest):
        """The rest of the rule once bytes of the network header have changed: nobody knows to what."""
        return nft_loads.rewritten(self, self.space.network_cells(offset, length), state, rest)

    def anything(self, reason, state, rest):
        """The outcome of something that this model has no words for."""
        return self._anything(reason, {"expr": "target of iptables"}, state, rest)

    # -- verdict statements --------------------------------------------------------------------------------------------

    def _reject(self, expression, _state, _rest):
        return self.diagrams.terminal(("reject", expression["type"], expression.get("code", 0)))

    def _queue(self, _expression=None, _state=None, _rest=None):
        return self._perhaps("verdict of a program in user space (queue)", self._accept, self._drop)

    def _notrack(self, _expression, state, rest):
        """Packets that have no connection yet will not get one."""
        selector = self.diagrams.select(
            STATE, [(INVALID, INVALID)], self.diagrams.terminal(("pick", 0)), self.diagrams.terminal(("pick", 1))
        )
        return self.diagrams.apply(selector, (self.after({STATE: UNTRACKED}, state, rest), self._run(rest, state.branch())))

    def _tproxy(self, _expression, state, _rest):
        state.diagrams.append(self.atom("tproxy: a listening socket"))

    def _steals(self, expression, state, rest):
        """synproxy and fwd take packets out of this path, or let them go on."""
        return self._perhaps(f"{expression['expr']} lets the packet go on", self._run(rest, state.branch()), self._drop)


_HANDLERS = {
    "immediate": Rules._immediate, "cmp": Rules._cmp, "range": Rules._range, "bitwise": Rules._bitwise,
    "byteorder": Rules._byteorder, "payload": nft_loads.payload, "exthdr": nft_loads.exthdr, "meta": nft_loads.meta,
    "ct": nft_loads.ct, "fib": nft_loads.fib, "rt": nft_loads.free_load, "socket": nft_loads.free_load, "osf": nft_loads.free_load,
    "xfrm": nft_loads.free_load, "tunnel": nft_loads.free_load, "numgen": nft_loads.free_load, "hash": nft_loads.free_load,
    "lookup": Rules._lookup, "dynset": Rules._dynset, "limit": Rules._stateful, "quota": Rules._stateful,
    "connlimit": Rules._stateful, "objref": Rules._objref, "match": Rules._match, "target": Rules._target,
    "reject": Rules._reject, "queue": Rules._queue, "notrack": Rules._notrack, "nat": nft_translation.nat,
    "masq": nft_translation.masquerade, "redir": nft_translation.redirect, "tproxy": Rules._tproxy, "synproxy": Rules._steals, "fwd": Rules._steals,
}
_KNOWN = frozenset(_HANDLERS) | _HARMLESS
_STATEFUL = frozenset(("limit", "quota", "connlimit", "numgen", "dynset", "objref", "match", "target", "queue"))

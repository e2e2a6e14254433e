# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The kernel's machine as rules see it: hooks, verdicts, and registers that hold symbolic bytes.

Numbers: linux/netfilter.h, linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.nft_fields import PROTOCOL, Case

ACCEPT, DROP, QUEUE = 1, 0, 3
CONTINUE, BREAK, JUMP, GOTO, RETURN = -1, -2, -3, -4, -5

PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING, INGRESS = range(6)
HOOKS = ("prerouting", "input", "forward", "output", "postrouting", "ingress")


def register_offset(register):
    """Where a register's bytes begin: 1-4 are 16 bytes wide, 8-23 are their 4-byte quarters."""
    return 16 * (register - 1) if register <= 4 else 4 * (register - 8)


class Unsupported(Exception):
    """An expression that this model has no words for."""


class State:
    """A rule while it runs: registers, and the conditions met so far.

    ``box`` and ``diagrams`` are conditions; ``values`` are ``(position, rank, bits)`` of comparisons of whole numbers whose
    constants are still to be put in (see Rules).
    """

    __slots__ = ("_bytes", "register", "cells", "box", "diagrams", "values", "impossible")

    def __init__(self):
        self._bytes, self.box, self.diagrams, self.values, self.impossible = {}, {}, [], [], False
        self.register, self.cells = None, ()  # what was written last, which is mostly overwritten before it is read byte by byte

    def registers(self):
        """The cells of all bytes."""
        if self.register is not None:
            at, size = register_offset(self.register), len(self.cells)
            self._bytes.update(zip(range(at, at + size), self.cells))
            for k in range(at + size, at + ((size + 3) & ~3)):
                self._bytes[k] = 0
            self.register = None
        return self._bytes

    def branch(self, rewritten=()):
        """The state of what follows in the same rule, with no conditions of its own yet.

        The protocol is kept: it tells how to read the transport header, and no rule can change it.
        """
        other = State()
        other._bytes = {
            at: None if isinstance(cell, tuple) and _ranks(cell[0]) & set(rewritten) else cell
            for at, cell in self.registers().items()
        }
        if PROTOCOL in self.box:
            other.box = {PROTOCOL: self.box[PROTOCOL]}
        return other

    def write(self, register, cells):
        """Cells into a register; the rest of the last word becomes zero."""
        if self.register is not None and (self.register != register or len(self.cells) > len(cells)):
            self.registers()
        self.register, self.cells = register, cells

    def read(self, register, size):
        """The cells of a register."""
        if register == self.register and size <= len(self.cells):
            return list(self.cells[:size])
        at, known = register_offset(register), self.registers()
        return [known.get(at + k) for k in range(size)]


def _ranks(owner):
    """The fields that a view or a case looks at."""
    if isinstance(owner, Case):
        return {rank for cells in owner.cells for cell in cells if isinstance(cell, tuple) for rank in _ranks(cell[0])}
    return {owner.rank}

"""Random numbers that depend on (seed, execution number) alone.

Execution number i of a campaign must be the same in any process, in any order, with any number of executions under
way, on any Python. Seeding a Mersenne twister for each execution would cost as much as three steps; a SHAKE-128
digest read as 16-bit draws costs a tenth of that, is stateless, and its bias below 65536 is at most n/65536.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

_FIRST: Final = struct.Struct("<32H")


class Draws:
    """A stream of draws for one execution after another.

    Strategies index `table` themselves in their hot path and call `more` on IndexError.
    """

    __slots__ = ("at", "seed", "source", "table")

    def __init__(self, seed: int, purpose: str = "") -> None:
        self.seed = f"{purpose}{seed}:"
        self.begin(0)

    def begin(self, number: int) -> None:
        """The draws of execution `number`, from the start."""
        self.source = hashlib.shake_128(f"{self.seed}{number}".encode())
        self.table: tuple[int, ...] = _FIRST.unpack(self.source.digest(64))
        self.at = 0

    def more(self) -> None:
        """Twice as many draws (the first half stays as it is)."""
        size = len(self.table) * 4
        self.table = struct.unpack(f"<{size // 2}H", self.source.digest(size))

    def below(self, n: int) -> int:
        """An integer from 0 to n-1; beyond 65536 from two draws."""
        value = self._next()
        if n > 0x10000:
            value = value << 16 | self._next()
            return value * n >> 32
        return value * n >> 16

    def _next(self) -> int:
        at = self.at
        self.at = at + 1
        if at >= len(self.table):
            self.more()
        return self.table[at]

    def shuffle(self, items: list[int]) -> None:
        """A random order, in place."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]

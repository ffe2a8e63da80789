"""Random numbers that depend on (seed, execution number) alone.

Execution number i of a campaign must be the same in any process, in any order, with any number of executions under
way, on any Python. Seeding a Mersenne twister for each execution would cost as much as three steps. A SHAKE-128
digest read as 16-bit draws costs a tenth of that, is stateless, and its bias is at most n/65536. One digest serves the
first draws of several neighbouring executions; an execution that needs more gets a digest of its own.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Draws of an execution that come from the common digest, and executions that share one.
FIRST: Final = 32
SHARING: Final = 16


def _draws(source: str, count: int) -> memoryview[int]:
    """That many 16-bit draws. A view makes an int only of those that are looked at."""
    digest = hashlib.shake_128(source.encode()).digest(2 * count)
    if sys.byteorder == "big":
        swapped = array("H", digest)
        swapped.byteswap()
        return memoryview(swapped)
    return memoryview(digest).cast("H")


class Draws:
    """A stream of draws for one execution after another.

    Strategies index `table` themselves in their hot path and call `more` on IndexError.

    Args:
        seed: of the campaign.
        purpose: keeps the streams of different users of one seed apart.
    """

    __slots__ = ("at", "block", "common", "number", "seed", "table")

    def __init__(self, seed: int, purpose: str = "") -> None:
        self.seed = f"{purpose}{seed}:"
        self.block = -1
        self.begin(0)

    def begin(self, number: int) -> None:
        """The draws of execution `number`, from the start."""
        block, index = divmod(number, SHARING)
        if block != self.block:
            self.block = block
            self.common = _draws(f"{self.seed}{block}", FIRST * SHARING)
        self.number = number
        self.table: Sequence[int] = self.common[index * FIRST : index * FIRST + FIRST]
        self.at = 0

    def more(self) -> None:
        """At least twice as many draws; those there are stay as they are."""
        own = len(self.table)
        self.table = (*self.table[:FIRST], *_draws(f"{self.seed}more:{self.number}", 2 * own))

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

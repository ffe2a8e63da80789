"""Random walk: at every choice, each candidate with the same probability.

Fair with probability 1, without parameters, and the base that others are measured against. Its weakness: the late
events of long threads are badly sampled, since every interleaving has probability 1 over the product of its arities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.explore.draws import Draws
from stressvm.kernel.kernel import MEMBERS, members

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel


class RandomWalk:
    """See the module.

    Args:
        seed: of the campaign.
    """

    __slots__ = ("at", "draws", "table")

    def __init__(self, seed: int) -> None:
        self.draws = Draws(seed, "random:")
        self.begin(0)

    def begin(self, number: int) -> None:
        """See Strategy."""
        self.draws.begin(number)
        self.table = self.draws.table
        self.at = 0

    def pick(self, k: Kernel, mask: int) -> int:  # noqa: ARG002 - see Strategy
        """See Strategy."""
        try:
            among = MEMBERS[mask]
        except KeyError:
            among = members(mask)
        at = self.at
        self.at = at + 1
        try:
            return among[self.table[at] * len(among) >> 16]
        except IndexError:
            return among[self._draw(at) * len(among) >> 16]

    def choose(self, k: Kernel, n: int) -> int:  # noqa: ARG002 - see Strategy
        """See Strategy."""
        at = self.at
        if n > 0x10000:
            self.at = at + 2
            return (self._draw(at) << 16 | self._draw(at + 1)) * n >> 32
        self.at = at + 1
        return self._draw(at) * n >> 16

    def end(self, k: Kernel) -> None:
        """See Strategy."""

    def _draw(self, at: int) -> int:
        while at >= len(self.table):
            self.draws.more()
            self.table = self.draws.table
        return self.table[at]

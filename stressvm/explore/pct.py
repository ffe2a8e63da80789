"""PCT: probabilistic concurrency testing (Burckhardt and others, ASPLOS 2010).

Threads get a random order of priority, and the most urgent candidate always runs; at d-1 random points of the
execution the one about to run falls below all others. A bug of depth d (d orderings between threads must hold) is
then hit with probability at least 1/(n * k**(d-1)), for n threads and k choices.

Here k is what the pilot (execution 0, a random walk) needed, and stays: execution i must not depend on executions
before it. Change points are counted only where there is a choice. Strict priorities are not fair: a thread that
yields falls to the bottom, and after as many choices as make half the step budget the walk is random, so that a
livelock verdict is the program's fault and not the strategy's.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, ClassVar, Final

from stressvm.explore.draws import Draws
from stressvm.explore.random_walk import RandomWalk
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel

_NEVER: Final = sys.maxsize


class PCT:
    """See the module.

    Args:
        seed: of the campaign.
        depth: d, the number of orderings that the bug needs; 1 draws a priority order and nothing else.
    """

    #: See Auto.
    notes: ClassVar[bool] = True

    __slots__ = ("choices", "count", "depth", "draws", "fair_after", "low", "next_change", "order", "points", "walk")

    def __init__(self, seed: int, depth: int = 3) -> None:
        if depth < 1:
            raise UsageError(f"PCT with depth {depth}: a bug has depth 1 at least (--depth)")
        self.depth = depth
        self.draws = Draws(seed, "pct:")
        self.walk = RandomWalk(seed)
        #: k: the choices of the pilot; 0 until it has run.
        self.choices = 0
        self.begin(0)

    def begin(self, number: int) -> None:
        """See Strategy."""
        self.draws.begin(number)
        self.walk.begin(number)
        #: Threads from most to least urgent; those demoted at change points stand in `low`, by rank.
        self.order: list[int] = []
        self.low: dict[int, int] = {}
        self.count = 0
        self.fair_after = 0 if number == 0 else _NEVER
        at = 0
        #: (at which choice, what rank the demoted thread gets), the next one last.
        self.points: list[tuple[int, int]] = []
        ranks = list(range(1, self.depth))
        self.draws.shuffle(ranks)
        for point in sorted(1 + self.draws.below(max(1, self.choices)) for _ in ranks):
            at = max(at + 1, point)
            self.points.append((at, ranks.pop()))
        self.points.reverse()
        self.next_change = self.points[-1][0] if self.points else _NEVER

    def pick(self, k: Kernel, mask: int) -> int:
        """See Strategy."""
        self.count += 1
        if self.count > self.fair_after:
            return self.walk.pick(k, mask)
        if len(self.order) + len(self.low) < len(k.threads):
            self._arrivals(k)
        if k.cur >= 0 and k.pend[k.cur] is k.yield_op:
            # Below everybody, those that yielded before included.
            self._demote(k.cur, min(0, min(self.low.values(), default=0)) - 1)
        if self.count == self.next_change:
            _, rank = self.points.pop()
            self.next_change = self.points[-1][0] if self.points else _NEVER
            self._demote(self._most_urgent(mask), rank)
        return self._most_urgent(mask)

    def note(self) -> tuple[float, int]:
        """See Auto; the pilot, a random walk, is of no depth."""
        return -1.0, self.depth if self.fair_after else 0

    def choose(self, k: Kernel, n: int) -> int:
        """See Strategy."""
        return self.walk.choose(k, n)

    def end(self, k: Kernel) -> None:
        """See Strategy."""
        if not self.choices:
            self.choices = max(
                1, sum(1 for _, op, _ in k.trace if op not in (k.choose_op, k.record_op, k.spawn_op, k.signal_op))
            )

    def _most_urgent(self, mask: int) -> int:
        for t in self.order:
            if mask >> t & 1:
                return t
        return max((t for t in self.low if mask >> t & 1), key=lambda t: (self.low[t], -t))

    def _demote(self, t: int, rank: int) -> None:
        if t in self.low:
            del self.low[t]
        else:
            self.order.remove(t)
        self.low[t] = rank

    def _arrivals(self, k: Kernel) -> None:
        """Give a rank to threads not seen before: all of them at the start, later one that was spawned."""
        if self.fair_after == _NEVER:
            self.fair_after = k.max_steps // 2
        known = {*self.order, *self.low}
        for th in k.threads:
            if th.number not in known:
                self.order.insert(self.draws.below(len(self.order) + 1), th.number)


class SweptPCT(PCT):
    """PCT with one depth after the other: the bound is best for the depth that a bug has, and nobody knows it.

    Args:
        seed: of the campaign.
    """

    #: By number: 1 has the second of them.
    DEPTHS: ClassVar[tuple[int, ...]] = (10, 3, 1, 2)

    __slots__ = ()

    def __init__(self, seed: int) -> None:
        super().__init__(seed, self.DEPTHS[0])

    def begin(self, number: int) -> None:
        """See Strategy."""
        self.depth = self.DEPTHS[number % len(self.DEPTHS)]
        super().begin(number)

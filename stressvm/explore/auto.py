"""The default strategy: a portfolio of samplers, and a search to the end where the space of executions looks small.

No sampler is best for every bug, and each misses some for good. A mixture costs as much more as the share of the one that
would have been best, and misses nothing that one of them finds. The shares are fixed: which sampler runs execution i
depends on i alone, and what it does on (seed, i, pilot). So there is nothing to agree on between processes.

If the pilot's tree looks small, a search gets a stretch of numbers after the first few samples: long enough to end, if the
estimate is not far off. If it is, as many samples follow, then twice as much of both, and so on. In spaces that look large
a search gets nothing. It is a thing of one process, which goes through its stretches in order; samples can be run anywhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from stressvm.explore.estimate import power_of_ten
from stressvm.explore.pct import PCT
from stressvm.explore.pos import POS
from stressvm.explore.profile import Profile
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.surw import SURW, RoleSURW
from stressvm.explore.urw import URW, Weighted

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.strategy import Strategy


#: Which sampler runs which of every sixteen executions. By roles SURW is the best for most programs, and nothing else is
#: so rarely the worst; each of the others is several times as good for some.
MIX: Final = (
    "roles",
    "surw",
    "pos",
    "roles",
    "urw",
    "surw",
    "roles",
    "random",
    "roles",
    "surw",
    "pos",
    "roles",
    "urw",
    "surw",
    "roles",
    "pct",
)

#: For each place in MIX: how many there have the same sampler, and how many of them come before.
_SHARES: Final = [(MIX.count(name), MIX[:at].count(name)) for at, name in enumerate(MIX)]

#: Samples before the first search: bugs that show often show here.
FIRST_SAMPLES: Final = 32

#: A tree that looks no larger is searched; the estimate of one walk may well be too low by the factor.
SMALL: Final = 4_096
DOUBT: Final = 4
STRETCH_MIN: Final = 64


class _Probe(RandomWalk):
    """A random walk that notes how large the tree looks."""

    __slots__ = ("log10",)

    def begin(self, number: int) -> None:
        """See Strategy."""
        super().begin(number)
        self.log10 = 0.0

    def pick(self, k: Kernel, mask: int) -> int:
        """See Strategy."""
        self.log10 += math.log10(mask.bit_count())
        return super().pick(k, mask)

    def choose(self, k: Kernel, n: int) -> int:
        """See Strategy."""
        self.log10 += math.log10(n)
        return super().choose(k, n)


def share(number: int) -> tuple[str, int]:
    """Which sampler runs execution `number`, and which of its own that is; they count from 1, past the pilot."""
    turns, at = divmod(number, len(MIX))
    size, before = _SHARES[at]
    return MIX[at], 1 + turns * size + before


class Auto:
    """See the module: the samplers. What it leaves to a search is told by `turn`, and done by whoever runs executions.

    Attributes:
        size: how many executions there seem to be, from the pilot; 0 before it.
        first, stretch: the number where searching begins (-1: never), and for how long at first.
        name: of what makes the choices of the current execution.

    Args:
        seed: of the campaign.
    """

    #: Those of whatever runs the current execution, so that being in a portfolio costs nothing.
    pick: Callable[[Kernel, int], int]
    choose: Callable[[Kernel, int], int]

    def __init__(self, seed: int) -> None:
        self.probe = _Probe(seed)
        self.samplers: dict[str, Strategy] = {
            "random": RandomWalk(seed),
            "pct": PCT(seed, 3),
            "pos": POS(seed),
            "urw": URW(seed),
            "surw": SURW(seed),
            "roles": RoleSURW(seed),
        }
        self.size = 0.0
        self.first = -1
        self.stretch = 0
        self.begin(0)

    def turn(self, number: int) -> int:
        """Which of the search's executions that one is: 0, 1, 2, ..., to be run in order in one process; -1 if none.

        Where there is no search, or no more of it, the execution is a sample as well.
        """
        if self.first < 0 or number < self.first:
            return -1
        after = number - self.first
        doublings = (after // (2 * self.stretch) + 1).bit_length() - 1
        done = self.stretch * ((1 << doublings) - 1)
        within = after - 2 * done
        return done + within if within < self.stretch << doublings else -1

    def begin(self, number: int) -> None:
        """See Strategy."""
        self.number = number
        if not number:
            self._use("pilot", self.probe, 0)
        else:
            name, own = share(number)
            self._use(name, self.samplers[name], own)

    def _use(self, name: str, strategy: Strategy, number: int) -> None:
        strategy.begin(number)
        self.name = name
        self.current = strategy
        self.pick = strategy.pick
        self.choose = strategy.choose

    def end(self, k: Kernel) -> None:
        """See Strategy. The pilot teaches all samplers."""
        if self.number:
            self.current.end(k)
            return
        profile = Profile(k)
        for sampler in self.samplers.values():
            sampler.begin(0)
            if isinstance(sampler, Weighted):
                sampler.learn(profile)
            else:
                sampler.end(k)
        self.size = power_of_ten(self.probe.log10)
        self.first = -1
        if self.size <= SMALL:
            self.first = 1 if self.size <= FIRST_SAMPLES else 1 + FIRST_SAMPLES
            self.stretch = max(STRETCH_MIN, DOUBT * math.ceil(self.size))

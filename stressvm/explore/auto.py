"""The default strategy: a portfolio of samplers, and a search to the end where the space of executions looks small.

No sampler is best for every bug, and each misses some for good. A mixture costs as much more as the share of the one that
would have been best, and misses nothing that one of them finds. The shares are fixed: which sampler runs execution i
depends on i alone, and what it does on (seed, i, pilot). So there is nothing to agree on between processes.

Where the pilot has few races, the first numbers are a search's: it reverses them one by one, and what they lead to. That
finds most bugs of small programs sooner than any sampler, since no execution is like another.

If the pilot's tree looks small, a search gets a stretch of numbers after the first few samples: long enough to end, if the
estimate is not far off. If it is, as many samples follow, then twice as much of both, and so on. A tree that looks large
may have few classes all the same, where threads mostly wait for each other: there a search gets one stretch, and no more.
It is a thing of one process, which goes through its numbers in order; samples can be run anywhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from stressvm.explore.estimate import power_of_ten
from stressvm.explore.pct import PCT, SweptPCT
from stressvm.explore.pos import POS
from stressvm.explore.profile import Profile
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.surw import SURW, RoleSURW
from stressvm.explore.urw import URW, Weighted

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.strategy import Strategy


#: Which sampler runs which of every sixteen executions, from number 1 on. What is best for many programs comes first, and
#: none of the others late: bugs that show at all mostly show in the first dozen. Chosen by the measured probabilities of
#: each sampler, for the benchmark programs and for re-created bugs of kernels.
MIX: Final = (
    "urw",
    "surw",
    "roles",
    "surw",
    "urw",
    "surw",
    "roles",
    "surw",
    "roles",
    "pos",
    "surw",
    "roles",
    "urw",
    "pos",
    "pct",
    "random",
)

#: For each place in MIX: how many there have the same sampler, and how many of them come before.
_SHARES: Final = [(MIX.count(name), MIX[:at].count(name)) for at, name in enumerate(MIX)]

#: Those whose executions say something about the space, or what has been covered of it.
_NOTED: Final = frozenset({"pilot", "random", "pct"})

#: A pilot with no more races than that is varied by a search at once, for so many executions.
FEW_RACES: Final = 4
EARLY: Final = 8

#: Samples before the first long search: bugs that show often show here.
FIRST_SAMPLES: Final = 32

#: A tree that looks no larger is searched; the estimate of one walk may well be too low by the factor.
SMALL: Final = 4_096
DOUBT: Final = 4
STRETCH_MIN: Final = 64

#: Samples before the one stretch of a search in a tree that looks large, and its length.
LATE_AFTER: Final = 256
LATE: Final = 128


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
    turns, at = divmod(number - 1, len(MIX))
    size, before = _SHARES[at]
    return MIX[at], 1 + turns * size + before


class Auto:
    """See the module: the samplers. What it leaves to a search is told by `turn`, and done by whoever runs executions.

    Attributes:
        size: how many executions there seem to be, from the pilot; 0 before it.
        early: how many numbers after the pilot are a search's at once.
        first, stretch: the number where it has long stretches from (-1: never), and the length of the first.
        once: there is no second one.
        name: of what makes the choices of the current execution.
        notes: there is something to note of it: see `note`.

    Args:
        seed: of the campaign.
    """

    #: Those of whatever runs the current execution, so that being in a portfolio costs nothing.
    pick: Callable[[Kernel, int], int]
    choose: Callable[[Kernel, int], int]

    def __init__(self, seed: int) -> None:
        self.probe = _Probe(seed)
        self.pct = SweptPCT(seed)
        self.samplers: dict[str, Strategy] = {
            "random": _Probe(seed),
            "pct": self.pct,
            "pos": POS(seed),
            "urw": URW(seed),
            "surw": SURW(seed),
            "roles": RoleSURW(seed),
        }
        self.size = 0.0
        self.early = 0
        self.first = -1
        self.stretch = 0
        self.once = False
        self.begin(0)

    def turn(self, number: int) -> int:
        """Which of the search's executions that one is: 0, 1, 2, ..., to be run in order in one process; -1 if none.

        Where there is no search, or no more of it, the execution is a sample as well.
        """
        if 0 < number <= self.early:
            return number - 1
        if self.first < 0 or number < self.first:
            return -1
        after = number - self.first
        if self.once and after >= self.stretch:
            return -1
        doublings = (after // (2 * self.stretch) + 1).bit_length() - 1
        done = self.stretch * ((1 << doublings) - 1)
        within = after - 2 * done
        return self.early + done + within if within < self.stretch << doublings else -1

    def begin(self, number: int) -> None:
        """See Strategy."""
        self.number = number
        if not number:
            self._use("pilot", self.probe, 0)
        else:
            name, own = share(number)
            self._use(name, self.samplers[name], own)

    @property
    def choices(self) -> int:
        """What PCT has taken from the pilot: how many choices there are."""
        return self.pct.choices

    def note(self) -> tuple[float, int]:
        """Of a random walk, the decimal logarithm of the size that the tree seems to have, else -1; of PCT, the depth, else 0."""
        current = self.current
        if isinstance(current, _Probe):
            return current.log10, 0
        return current.note() if isinstance(current, PCT) else (-1.0, 0)

    def _use(self, name: str, strategy: Strategy, number: int) -> None:
        strategy.begin(number)
        self.name = name
        self.current = strategy
        self.notes = name in _NOTED
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
        self.plan(-1)

    def plan(self, races: int) -> None:
        """What is to be searched, and when.

        Args:
            races: how many of the pilot's races are to be reversed; -1 if no search has begun with the pilot.
        """
        self.early = EARLY if 0 <= races <= FEW_RACES else 0
        self.once = self.size > SMALL
        self.first = 1 + self.early + LATE_AFTER
        self.stretch = LATE
        if not self.once:
            self.first = 1 + self.early + (0 if self.size <= FIRST_SAMPLES else FIRST_SAMPLES)
            self.stretch = max(STRETCH_MIN, DOUBT * math.ceil(self.size))

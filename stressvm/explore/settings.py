"""How to hunt: budget, seed, strategy, driver."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from stressvm.check.detectors import checked
from stressvm.explore.auto import Auto
from stressvm.explore.bounded import DelayBounding, PreemptionBounding
from stressvm.explore.bpor import BoundedPOR
from stressvm.explore.dfs import DFS
from stressvm.explore.dpor import DPOR
from stressvm.explore.fair import Fair
from stressvm.explore.pct import PCT
from stressvm.explore.pos import POS
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.split import SplitDPOR
from stressvm.explore.surw import SURW, RoleSURW
from stressvm.explore.urw import URW
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stressvm.explore.scenario import Scenario
    from stressvm.explore.search import Search
    from stressvm.explore.subject import Subject
    from stressvm.kernel.strategy import Strategy

#: Executions for a scenario where neither the hunt nor the scenario says how many.
EXECUTIONS_DEFAULT: Final = 1_000

DRIVERS: Final = ("stepped", "trio")

#: Each execution depends on the seed, its number and the pilot: they can be run anywhere, in any order.
SAMPLERS: Final[Mapping[str, Callable[[int], Strategy]]] = {
    "random": RandomWalk,
    "pos": POS,
    "urw": URW,
    "surw": SURW,
    "roles": RoleSURW,
}

#: They go through executions in an order of their own, in one process.
SEARCHES: Final = ("dfs", "delay", "dpor")

STRATEGIES: Final = ("auto", "pct", *SAMPLERS, *SEARCHES)

#: Neighbouring execution numbers that go to the same shard.
SHARD_BLOCK: Final = 256


@dataclass(frozen=True, slots=True)
class Shard:
    """One of the `count` parts of a campaign: every count-th block of execution numbers.

    A shard counts its own executions 0, 1, 2, ...; what they are is told by their numbers in the whole campaign.
    """

    index: int = 0
    count: int = 1

    def number_of(self, own: int) -> int:
        """The number in the campaign of the shard's own n-th execution."""
        block, offset = divmod(own, SHARD_BLOCK)
        return (block * self.count + self.index) * SHARD_BLOCK + offset

    def below(self, number: int) -> int:
        """How many of the campaign's executions before that number are the shard's."""
        blocks, offset = divmod(number, SHARD_BLOCK)
        turns, turn = divmod(blocks, self.count)
        own = (turns + (turn > self.index)) * SHARD_BLOCK
        return own + offset if turn == self.index else own

    def __str__(self) -> str:
        """As it is given: counted from 1."""
        return f"{self.index + 1}/{self.count}"


#: A hunt that may end by saturation is looked at after so many executions, and after half as many more, and so on.
CHECKPOINT_FIRST: Final = 1024

WHOLE: Final = Shard()


@dataclass(frozen=True, slots=True)
class Settings:
    """How to hunt.

    Attributes:
        executions: how many at most; None: as the scenario says.
        seconds: how long at most; None: as long as the executions take.
        seed: of the campaign.
        strategy: one of STRATEGIES.
        depth: of PCT.
        preemptions: how many a search may use at most; None: any number.
        driver: one of DRIVERS.
        keep_going: go on after a finding, for others.
        hang_seconds: how long a thread may run without reaching a kernel operation.
        shard: which part of the execution numbers.
        until_saturated: stop when hardly anything new is seen any more.
        checks: which detectors look at executions: names and groups of check/detectors.py.
    """

    executions: int | None = None
    seconds: float | None = None
    seed: int = 1
    strategy: str = "auto"
    depth: int = 3
    preemptions: int | None = None
    driver: str = "stepped"
    keep_going: bool = False
    hang_seconds: float = 5.0
    shard: Shard = WHOLE
    until_saturated: bool = False
    checks: tuple[str, ...] = ("default",)

    def __post_init__(self) -> None:
        """Raises UsageError for a driver, a strategy or a check that there is not."""
        checked(self.checks)
        if self.driver not in DRIVERS:
            raise UsageError(f"driver {self.driver!r}: there are {', '.join(DRIVERS)}")
        if self.strategy not in STRATEGIES:
            raise UsageError(f"strategy {self.strategy!r}: there are {', '.join(STRATEGIES)}")
        if self.preemptions is not None and self.strategy not in ("dfs", "dpor"):
            raise UsageError(f"--preemptions bounds the searches dfs and dpor, not {self.strategy}")
        if self.strategy in SEARCHES and self.shard.count > 1:
            raise UsageError(f"strategy {self.strategy} goes through executions in order: it cannot be cut into shards")
        if self.until_saturated and self.shard.count > 1:
            raise UsageError(f"--until saturated: shard {self.shard} cannot know what the others see; leave one out")

    def subject(self, subject: Subject) -> Subject:
        """The subject with these checks, unless it has its own."""
        return subject if subject.checks else replace(subject, checks=self.checks)

    def checkpoint(self, executions: int, limit: int) -> int:
        """The next number of executions at which the hunt is looked at, and may end; `limit` if it is not."""
        if not self.until_saturated:
            return limit
        step = CHECKPOINT_FIRST
        while step <= executions:
            if executions < step + step // 2:
                return min(limit, step + step // 2)
            step *= 2
        return min(limit, step)

    def executions_of(self, scenario: Scenario) -> int:
        """How many executions are to be run at most, of this shard's."""
        return self.shard.below(self.executions or scenario.executions or EXECUTIONS_DEFAULT)

    @property
    def sequential(self) -> bool:
        """Must one process go through the executions in order?"""
        return self.strategy in SEARCHES

    @property
    def piecewise(self) -> bool:
        """Does the search's tree fall into pieces that can be explored apart from each other?"""
        return self.strategy == "dpor" and self.preemptions is None

    def make_strategy(self) -> Strategy:
        """A fresh strategy for what is not searched."""
        if self.strategy == "auto":
            return Auto(self.seed)
        if self.strategy == "pct":
            return PCT(self.seed, self.depth)
        return SAMPLERS[self.strategy](self.seed)

    def make_search(self) -> Search | None:
        """A fresh search for all executions, or for those that a portfolio gives to it; None where nothing is searched."""
        if self.strategy == "dfs":
            return Fair(DFS() if self.preemptions is None else PreemptionBounding(self.preemptions))
        if self.strategy == "delay":
            return Fair(DelayBounding())
        if self.piecewise:
            return SplitDPOR()
        if self.strategy in ("dpor", "auto"):
            return DPOR() if self.preemptions is None else BoundedPOR(self.preemptions)
        return None

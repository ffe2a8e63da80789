"""Runs the executions of a search: in its own order, in one lane of one process, and some of them twice.

A search goes on from where it was. Whoever asks for a later execution than the next one, because those between were run
in another process, has them run here first, uncounted: what a search does depends on nothing but the scenario.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from stressvm.check.pairs import Pair, Pairs, is_looked_at
from stressvm.explore.bpor import BoundedPOR
from stressvm.explore.dependency import CUT
from stressvm.explore.dpor import DPOR
from stressvm.explore.execution import digests, execute
from stressvm.explore.fair import Fair
from stressvm.kernel.errors import ReplayDiverged, UsageError

if TYPE_CHECKING:
    from stressvm.check.verdict import Verdict
    from stressvm.explore.execution import Subject
    from stressvm.explore.rehearsal import Rehearsal
    from stressvm.explore.search import Search
    from stressvm.kernel.driver import Driver

#: The first executions also look for misuse that takes time to look for.
AUDITED: Final = 16

#: A search that looks at every step, and at pairs of them, cuts executions short after so many.
EVERY_STEP_STEPS_MAX: Final = 1_000


class Outcome(NamedTuple):
    """What came of an execution that is over and unwound.

    Attributes:
        steps: how long it was.
        klass: its class.
        picks: its schedule.
        verdict: the bug that it shows, or None.
        digest: of its trace, for the first execution only.
        pairs: see check/pairs.py.
    """

    steps: int
    klass: int
    picks: tuple[int, ...]
    verdict: Verdict | None
    digest: tuple[str, ...] = ()
    pairs: frozenset[Pair] = frozenset()


class Searcher:
    """A search under way.

    Attributes:
        search: the search.
        given_up: why the search cannot go on; "" while it can.
        loops: an execution has been cut short, for it would have gone on for ever.
        rehearsed: the search's first execution is one that has been run already, and is not counted.

    Args:
        subject: what is executed.
        lane: runs the executions; its kernel asks at every step if the search wants that.
        search: not begun yet.
    """

    def __init__(self, subject: Subject, lane: Driver, search: Search) -> None:
        self.subject = subject
        self.lane = lane
        self.search = search
        self.every_step = bool(getattr(search, "EVERY_STEP", False))
        if self.every_step:
            self.shorten(EVERY_STEP_STEPS_MAX)
        #: None where a search is cut into pieces, which are not the same executions by number.
        self.pairs = Pairs() if isinstance(search, DPOR | Fair | BoundedPOR) else None
        self.done = self.calls = 0
        self.given_up = ""
        self.loops = False
        self.rehearsed = False

    async def rehearse(self, rehearsal: Rehearsal, known: tuple[str, ...]) -> int:
        """Let the search begin with an execution that has been run before, so that its own come to something new.

        Args:
            rehearsal: the order of that execution.
            known: the digest of its trace.

        Returns:
            How many of its races the search is to reverse; -1 if it cannot be searched, or not be begun like that.
        """
        search = self.search
        assert isinstance(search, DPOR)
        if rehearsal.spawns:
            return -1
        search.rehearsal = rehearsal
        try:
            outcome = await self._next()
            self.rehearsed = outcome.digest == known and not self.loops and not search.exhausted
        except (UsageError, ReplayDiverged) as exc:
            self.given_up = str(exc)
        self.done = 0
        if self.rehearsed:
            return search.left
        self.calls = 0
        return -1

    @property
    def over(self) -> bool:
        """Has the search come to its end, without having cut an execution short?"""
        return bool(self.calls) and self.search.exhausted and not self.loops

    def shorten(self, steps: int) -> None:
        """Cut executions short after so many steps."""
        self.lane.k.max_steps = min(self.lane.k.max_steps, steps)

    async def execute(self, turn: int) -> Outcome | None:
        """The search's execution of that number; None if there is none.

        Raises:
            UsageError: the scenario cannot be searched; it is noted in `given_up`.
        """
        if turn < self.done:
            self.done = self.calls = 0
        while True:
            if self.given_up or (self.calls and self.search.exhausted):
                return None
            try:
                outcome = await self._next()
            except (UsageError, ReplayDiverged) as exc:
                self.given_up = str(exc)
                raise
            if self.done > turn:
                return outcome

    async def _next(self) -> Outcome:
        lane = self.lane
        k = lane.k
        number = self.calls
        verdict = await execute(self.subject, lane, self.search, number, audit=number < AUDITED)
        if verdict is not None and verdict.kind in CUT and self.every_step:
            # It goes round a loop as often as it can, whoever waits: that is no fault of the program's.
            verdict = None
            self.loops = True
        digest = digests(k.trace) if not number else ()
        pairs = self.pairs.look(k) if self.pairs is not None and is_looked_at(number) else frozenset()
        outcome = Outcome(len(k.trace), self.subject.inspector.class_of(k), tuple(k.picks), verdict, digest, pairs)
        lane.unwind()
        self.calls = number + 1
        self.done += not (getattr(self.search, "vain", False) or (self.rehearsed and not number))
        again = getattr(self.search, "again", None)
        while again is not None:
            other = await execute(self.subject, lane, again)
            try:
                again.compare(k, verdict, other)
            finally:
                lane.unwind()
            again = again.following
        return outcome

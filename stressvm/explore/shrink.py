"""Shrinking: the simplest schedule that shows the same bug.

Simpler is, in this order: fewer preemptions, fewer decisions against the default, fewer steps, smaller numbers.
Every candidate is replayed leniently, so any edit of the choices makes an execution, and what counts is the schedule
of the execution that came out of it. The passes: cut the tail, delta debugging over the decisions against the default,
remove preemptions one by one, lower each number, delete decisions; round and round until nothing helps.

Passes end in local minima. So what they end in is held against a search that goes through all schedules with no
preemption, then with one, and so on: it may find one with fewer preemptions, or show that there is none.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from stressvm.check.verdict import shows
from stressvm.explore.bounded import PreemptionBounding
from stressvm.explore.execution import Recording, Subject, execute, record
from stressvm.explore.fair import Fair
from stressvm.explore.tape import Follow, Lenient
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stressvm.kernel.driver import Driver

    Passes = tuple[Callable[["_Search"], Iterator["Choices"]], ...]

Choices = tuple[int, ...]

#: Steps of executions that go into looking for a schedule with fewer preemptions.
BOUNDED_STEPS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The result: the simplest recording, what it came from, how many executions that took, was the budget enough?

    `fewest`: no schedule with fewer preemptions shows the bug, as a search through all of those has shown.
    """

    best: Recording
    preemptions_before: int
    switches_before: int
    executions: int
    cut: bool
    fewest: bool = False


def switches(choices: Sequence[int]) -> int:
    """Decisions against the default."""
    return sum(1 for choice in choices if choice)


class _Attempt(NamedTuple):
    """What came of a candidate that shows the bug: how simple it is, its choices, and which of them preempt."""

    cost: tuple[int, int, int, int, Choices]
    choices: Choices
    preempting: tuple[bool, ...]


class _Search:
    """The best schedule so far, and what came of all that was tried."""

    def __init__(self, subject: Subject, driver: Driver, fingerprint: str, limit: int, seconds: float) -> None:
        self.subject = subject
        self.driver = driver
        self.fingerprint = fingerprint
        self.limit = limit
        self.deadline = time.monotonic() + seconds
        self.tried: dict[Choices, _Attempt | None] = {}
        self.executions = 0
        self.cut = False
        self.best: Choices = ()
        self.preempting: tuple[bool, ...] = ()
        self.now: _Attempt | None = None

    async def start(self, choices: Choices) -> None:
        """Begin (again) with a schedule that shows the bug."""
        self.now = None
        await self.attempt(choices)

    async def attempt(self, choices: Choices) -> bool:
        """Is the execution of these choices simpler than the best, with the same bug? Then it is the best."""
        choices = _trim(choices)
        if choices not in self.tried:
            if self.executions and (self.executions >= self.limit or time.monotonic() >= self.deadline):
                self.cut = True
                return False
            self.tried[choices] = await self._execute(choices)
        made = self.tried[choices]
        if made is None or (self.now is not None and made.cost >= self.now.cost):
            return False
        self.now = made
        self.best, self.preempting = made.choices, made.preempting
        return True

    async def _execute(self, choices: Choices) -> _Attempt | None:
        self.executions += 1
        # Shrinking may take seconds: whoever waits for us may want to cancel.
        await trio.lowlevel.checkpoint_if_cancelled()
        tape = Lenient(choices)
        verdict = await execute(self.subject, self.driver, tape)
        steps = len(self.driver.k.trace)
        self.driver.unwind()
        if not shows(verdict, self.fingerprint):
            return None
        actual = _trim(tuple(tape.choices))
        cost = (sum(tape.preempting), switches(actual), steps, len(actual), actual)
        made = self.tried[actual] = _Attempt(cost, actual, tuple(tape.preempting))
        return made


def _trim(choices: Choices) -> Choices:
    """Without trailing defaults: the tape gives those by itself."""
    end = len(choices)
    while end and not choices[end - 1]:
        end -= 1
    return choices[:end]


async def shrink(
    subject: Subject,
    driver: Driver,
    found: Recording,
    *,
    limit: int = 2_000,
    seconds: float = math.inf,
    bounded_steps: int = BOUNDED_STEPS,
) -> Shrunk:
    """Make the schedule of a failing recording as simple as it gets, keeping its fingerprint.

    Args:
        subject: what was executed.
        driver: runs the attempts.
        found: a recording with a verdict.
        limit: executions to spend at most.
        seconds: time to spend at most; the best so far is kept. (With a limit of time the result depends on the machine.)
        bounded_steps: steps of executions that may be spent on the search for fewer preemptions.
    """
    assert found.verdict is not None
    search = _Search(subject, driver, found.verdict.fingerprint, limit, seconds)
    ends = [await _passes(search, passes, found.choices) for passes in ORDERS]
    fewest = False
    while not search.cut and not fewest:
        preemptions = min(ends).cost[0]
        fewer = None
        if preemptions:
            fewer, fewest = await _fewer(search, preemptions - 1, bounded_steps)
        else:
            fewest = True
        if fewer is None:
            break
        ends = [await _passes(search, passes, fewer) for passes in ORDERS]
    best = (await record(subject, driver, Lenient(min(ends).choices))).about(search.fingerprint)
    return Shrunk(best, found.preemptions, switches(found.choices), search.executions, search.cut, fewest)


async def _passes(search: _Search, passes: Passes, choices: Choices) -> _Attempt:
    """Where one order of passes ends."""
    await search.start(choices)
    improved = True
    while improved and not search.cut:
        improved = False
        for candidates in passes:
            improved |= await _exhaust(search, candidates)
    if search.now is None:
        raise UsageError(
            f"scenario {search.subject.scenario.name} is not deterministic: the schedule that has shown the bug does not "
            "show it again"
        )
    return search.now


async def _fewer(search: _Search, preemptions: int, steps: int) -> tuple[Choices | None, bool]:
    """A schedule with at most that many preemptions that shows the bug; is there certainly none?"""
    # Fair, or a loop that waits for somebody would be gone round until the steps are used up, again and again.
    bounding = Fair(PreemptionBounding(preemptions))
    k = search.driver.k
    number = 0
    while steps > 0 and time.monotonic() < search.deadline:
        await trio.lowlevel.checkpoint_if_cancelled()
        search.executions += 1
        verdict = await execute(search.subject, search.driver, bounding, number)
        steps -= len(k.trace)
        number += 1
        picks = tuple(k.picks)
        search.driver.unwind()
        if shows(verdict, search.fingerprint):
            made = await record(search.subject, search.driver, Follow(picks))
            # Where fairness takes the baton away, it is a preemption all the same.
            return (made.choices if made.preemptions <= preemptions else None), False
        if bounding.exhausted:
            # What fairness has ruled out has not been looked at.
            return None, not bounding.restricted
    return None, False


async def _exhaust(search: _Search, candidates: Callable[[_Search], Iterator[Choices]]) -> bool:
    """Try a pass's candidates. Each is made from the best of that moment, so a pass goes on where it has got to."""
    improved = False
    for choices in candidates(search):
        improved |= await search.attempt(choices)
        if search.cut:
            break
    return improved


def _prefixes(search: _Search) -> Iterator[Choices]:
    """Halves, quarters ... cut off the end; the default goes on from there."""
    cut = len(search.best) // 2
    while cut:
        yield search.best[:-cut]
        cut //= 2


def _without_chunks(search: _Search) -> Iterator[Choices]:
    """Delta debugging: chunks of the decisions against the default set back to it, large chunks first."""
    size = switches(search.best) // 2
    while size:
        done = 0
        while True:
            best = search.best
            places = [at for at, choice in enumerate(best) if choice]
            if done >= len(places):
                break
            zeroed = list(best)
            for at in places[done : done + size]:
                zeroed[at] = 0
            yield tuple(zeroed)
            if search.best is best:
                done += size
        size //= 2


def _without_preemptions(search: _Search) -> Iterator[Choices]:
    """Each preemption undone: the thread that had the baton keeps it."""
    for at in range(len(search.best)):
        best = search.best
        if at < len(best) and best[at] and search.preempting[at]:
            yield (*best[:at], 0, *best[at + 1 :])
            # Later decisions shift when a thread runs on: also try without this one.
            if search.best is best:
                yield (*best[:at], *best[at + 1 :])


def _lowered(search: _Search) -> Iterator[Choices]:
    """Each number smaller."""
    for at in range(len(search.best)):
        for divisor in (2, 1):
            best = search.best
            if at < len(best) and best[at] > 1:
                yield (*best[:at], best[at] // 2 if divisor == 2 else best[at] - 1, *best[at + 1 :])


def _deleted(search: _Search) -> Iterator[Choices]:
    """Each decision, and each pair of neighbours, left out."""
    for width in (2, 1):
        for at in range(len(search.best)):
            best = search.best
            if at + width <= len(best):
                yield best[:at] + best[at + width :]


#: Which local minimum the passes end in depends on what is tried first: one order takes long schedules down fast,
#: the other looks at single preemptions while there are still many to choose from.
ORDERS: Final = (
    (_prefixes, _without_chunks, _without_preemptions, _lowered, _deleted),
    (_without_preemptions, _prefixes, _without_chunks, _lowered, _deleted),
)

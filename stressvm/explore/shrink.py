"""Shrinking: the simplest schedule that shows the same bug.

Simpler is, in this order: fewer preemptions, fewer decisions against the default, fewer steps, smaller numbers.
Every candidate is replayed leniently, so any edit of the choices makes an execution, and what counts is the schedule
of the execution that came out of it. The passes: cut the tail, remove preemptions one by one, delta debugging over
the decisions against the default, lower each of them, delete decisions; round and round until nothing helps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stressvm.explore.execution import Recording, Subject, execute, record
from stressvm.explore.tape import Lenient

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stressvm.kernel.driver import Driver

Choices = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The result: the simplest recording, the one it came from, and how many executions that took."""

    best: Recording
    preemptions_before: int
    switches_before: int
    executions: int


def switches(choices: Sequence[int]) -> int:
    """Decisions against the default."""
    return sum(1 for choice in choices if choice)


class _Search:
    """The best schedule so far, and a cache of what was tried."""

    def __init__(self, subject: Subject, driver: Driver, fingerprint: str, limit: int) -> None:
        self.subject = subject
        self.driver = driver
        self.fingerprint = fingerprint
        self.limit = limit
        self.tried: set[Choices] = set()
        self.executions = 0
        self.best: Choices = ()
        self.cost: tuple[object, ...] = ()
        self.preempting: tuple[bool, ...] = ()

    async def attempt(self, choices: Choices) -> bool:
        """Is the execution of these choices simpler than the best, with the same bug? Then it is the best."""
        choices = _trim(choices)
        if choices in self.tried or self.executions >= self.limit:
            return False
        self.tried.add(choices)
        self.executions += 1
        tape = Lenient(choices)
        verdict = await execute(self.subject, self.driver, tape)
        steps = len(self.driver.k.trace)
        self.driver.unwind()
        if verdict is None or verdict.fingerprint != self.fingerprint:
            return False
        actual = _trim(tuple(tape.choices))
        cost = (sum(tape.preempting), switches(actual), steps, len(actual), actual)
        if self.cost and cost >= self.cost:
            return False
        self.best, self.cost = actual, cost
        self.preempting = tuple(tape.preempting)
        self.tried.add(actual)
        return True


def _trim(choices: Choices) -> Choices:
    """Without trailing defaults: the tape gives those by itself."""
    end = len(choices)
    while end and not choices[end - 1]:
        end -= 1
    return choices[:end]


async def shrink(subject: Subject, driver: Driver, found: Recording, *, limit: int = 2_000) -> Shrunk:
    """Make the schedule of a failing recording as simple as it gets, keeping its fingerprint.

    Args:
        subject: what was executed.
        driver: runs the attempts.
        found: a recording with a verdict.
        limit: executions to spend at most.
    """
    assert found.verdict is not None
    search = _Search(subject, driver, found.verdict.fingerprint, limit)
    await search.attempt(found.choices)
    improved = True
    while improved:
        improved = False
        for candidates in (_prefixes, _without_preemptions, _without_chunks, _lowered, _deleted):
            improved |= await _exhaust(search, candidates)
    tape = Lenient(search.best)
    best = await record(subject, driver, tape)
    return Shrunk(best, found.preemptions, switches(found.choices), search.executions)


async def _exhaust(search: _Search, candidates: object) -> bool:
    """Try a pass's candidates, starting over with the new best whenever one is simpler."""
    assert callable(candidates)
    improved = False
    again = True
    while again:
        again = False
        for choices in candidates(search):
            if await search.attempt(choices):
                improved = again = True
                break
    return improved


def _prefixes(search: _Search) -> Iterator[Choices]:
    """Halves, quarters ... cut off the end; the default goes on from there."""
    best = search.best
    cut = len(best) // 2
    while cut:
        yield best[:-cut]
        cut //= 2


def _without_preemptions(search: _Search) -> Iterator[Choices]:
    """Each preemption undone: the thread that had the baton keeps it."""
    best = search.best
    for at, choice in enumerate(best):
        if choice and search.preempting[at]:
            yield (*best[:at], 0, *best[at + 1 :])
            # Later decisions shift when a thread runs on: also try without those up to the next switch.
            yield (*best[:at], *best[at + 1 :])


def _without_chunks(search: _Search) -> Iterator[Choices]:
    """Delta debugging: chunks of the decisions against the default set back to it, large chunks first."""
    best = search.best
    places = [at for at, choice in enumerate(best) if choice]
    size = len(places) // 2
    while size:
        for start in range(0, len(places), size):
            zeroed = list(best)
            for at in places[start : start + size]:
                zeroed[at] = 0
            yield tuple(zeroed)
        size //= 2


def _lowered(search: _Search) -> Iterator[Choices]:
    """Each number smaller."""
    best = search.best
    for at, choice in enumerate(best):
        for lower in sorted({choice // 2, choice - 1} - {choice}) if choice > 1 else ():
            yield (*best[:at], lower, *best[at + 1 :])


def _deleted(search: _Search) -> Iterator[Choices]:
    """Each decision, and each pair of neighbours, left out."""
    best = search.best
    for width in (2, 1):
        for at in range(len(best) - width + 1):
            yield best[:at] + best[at + width :]

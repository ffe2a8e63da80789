"""The smallest program that shows the same bug, and the simplest schedule for it.

Hypothesis shrinks what it has drawn, choice by choice, and gets stuck where two operations belong together: one that
allocates and one that frees what that got, say, neither of which can go alone. A program knows what belongs together, so
here an operation is left out along with all that use its result. The schedule of what is left is looked for anew:
first the one there was, then some at random; executions are cheap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from stressvm.explore.execution import Recording, Subject, execute, record
from stressvm.explore.flips import Flip, flips
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.shrink import shrink
from stressvm.explore.tape import Follow, Lenient
from stressvm.kernel.stepped import stepped
from stressvm.stateful.program import parse, without

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stressvm.kernel.driver import Driver
    from stressvm.stateful.program import Program

#: Random schedules for each program that is tried.
WALKS: Final = 24

#: Executions that may be spent on one schedule, and on the program altogether.
SCHEDULE_EXECUTIONS_MAX: Final = 500
PROGRAM_EXECUTIONS_MAX: Final = 4_000


@dataclass(frozen=True, slots=True)
class Smallest:
    """A failing execution, recorded, as simple as it gets.

    Attributes:
        program: what was executed.
        recording: how it went.
        flips: which switches matter.
        left_out: how many operations the program has lost.
    """

    program: Program
    recording: Recording
    flips: tuple[Flip, ...]
    left_out: int


class _Search:
    """The smallest so far."""

    def __init__(self, driver: Driver, recording: Recording) -> None:
        assert recording.verdict is not None, "the execution to shrink shows its bug"
        self.driver = driver
        self.fingerprint = recording.verdict.fingerprint
        self.recording = recording
        self.executions = 0

    @property
    def program(self) -> Program:
        """What is executed."""
        return parse(self.recording.subject.params["program"])

    async def schedule(self) -> None:
        """Make the schedule simpler."""
        subject = self.recording.subject
        self.recording = (await shrink(subject, self.driver, self.recording, limit=SCHEDULE_EXECUTIONS_MAX)).best

    async def operations(self) -> bool:
        """Leave operations out, many at a time, then one by one; has any of them gone?"""
        changed = False
        size = max(1, len(self.program.refs()) // 2)
        while size:
            at = 0
            while at < len(refs := self.program.refs()) and self.executions < PROGRAM_EXECUTIONS_MAX:
                # The last operations first: others do not depend on them.
                gone = refs[::-1][at : at + size]
                if await self.attempt(without(self.program, gone)):
                    changed = True
                else:
                    at += size
            size //= 2
        return changed

    async def attempt(self, program: Program) -> bool:
        """Does the bug show in that program, too? Then it is the best."""
        if not program.refs():
            return False
        subject = replace(self.recording.subject, params={"program": program.json()})
        for strategy, number in self.schedules():
            self.executions += 1
            verdict = await execute(subject, self.driver, strategy, number)
            picks = tuple(self.driver.k.picks)
            self.driver.unwind()
            if verdict is not None and verdict.fingerprint == self.fingerprint:
                self.recording = await record(subject, self.driver, Follow(picks))
                return True
        return False

    def schedules(self) -> Iterator[tuple[Lenient | RandomWalk, int]]:
        """The one there is, then some at random."""
        yield Lenient(self.recording.choices), 0
        walk = RandomWalk(0)
        for number in range(WALKS):
            yield walk, number


async def smallest(subject: Subject, schedule: Sequence[int], *, operations: bool) -> Smallest:
    """Make a failing execution as simple as it gets, keeping its fingerprint.

    Args:
        subject: a scenario with the parameter `program`.
        schedule: read leniently.
        operations: whether operations may be left out.
    """
    async with stepped(subject.kernel()) as driver:
        search = _Search(driver, await record(subject, driver, Lenient(schedule)))
        before = len(search.program.refs())
        await search.schedule()
        while operations and await search.operations():
            await search.schedule()
        recording = search.recording
        left_out = before - len(search.program.refs())
        return Smallest(search.program, recording, await flips(recording.subject, driver, recording), left_out)

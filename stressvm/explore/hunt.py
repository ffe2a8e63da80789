"""The hunt for one scenario: executions by number, until a bug is found or the budget is spent.

Execution number i means the same whatever the driver and however many executions are under way: results are taken
in order of number, and a finding is that of the lowest number. A failing execution is repeated with everything
recorded (which also shows whether the scenario is deterministic), shrunk, and kept once per fingerprint.
"""

from __future__ import annotations

import math
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from stressvm._version import __version__
from stressvm.explore.execution import Recording, Subject, digests, execute, record
from stressvm.explore.flips import Flip, flips
from stressvm.explore.loading import digest_of
from stressvm.explore.pct import PCT
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.schedule import Schedule
from stressvm.explore.seen import Seen
from stressvm.explore.shrink import Shrunk, shrink, switches
from stressvm.explore.tape import Follow
from stressvm.kernel.errors import ReplayDiverged, StressvmError, UsageError
from stressvm.kernel.looped import looped
from stressvm.kernel.stepped import stepped
from stressvm.kernel.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stressvm.check.verdict import Verdict
    from stressvm.kernel.driver import Driver
    from stressvm.kernel.strategy import Strategy

#: Executions under way at once in one loop with the driver `trio`; more share the cost of a pass no further.
LANES: Final = 8

#: How long executions go on before the loop looks at the time, cancellation and progress, in seconds.
SLICE_SECONDS: Final = 0.05

#: Seconds for shrinking that a finding gets even if the budget of time is spent.
SHRINK_SECONDS_MIN: Final = 2.0

#: Executions for a scenario where neither the hunt nor the scenario says how many.
EXECUTIONS_DEFAULT: Final = 1_000

#: The first executions also look for misuse that takes time to look for.
AUDITED: Final = 16

DRIVERS: Final = ("stepped", "trio")
STRATEGIES: Final = ("random", "pct")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to hunt.

    Attributes:
        executions: how many at most; None: as the scenario says.
        seconds: how long at most; None: as long as the executions take.
        seed: of the campaign.
        strategy: one of STRATEGIES.
        depth: of PCT.
        driver: one of DRIVERS.
        keep_going: go on after a finding, for others.
        hang_seconds: how long a thread may run without reaching a kernel operation.
    """

    executions: int | None = None
    seconds: float | None = None
    seed: int = 1
    strategy: str = "random"
    depth: int = 3
    driver: str = "stepped"
    keep_going: bool = False
    hang_seconds: float = 5.0

    def make_strategy(self) -> Strategy:
        """A fresh strategy; UsageError for an unknown one."""
        if self.strategy == "random":
            return RandomWalk(self.seed)
        if self.strategy == "pct":
            return PCT(self.seed, self.depth)
        raise UsageError(f"strategy {self.strategy!r}: there are {', '.join(STRATEGIES)}")


@dataclass(frozen=True, slots=True)
class Finding:
    """A bug, shrunk, with all that a report needs."""

    verdict: Verdict
    recording: Recording
    schedule: Schedule
    executions_to_find: int
    shrunk: Shrunk
    flips: tuple[Flip, ...]

    @property
    def kind(self) -> str:
        """The kind of finding."""
        return self.verdict.kind

    @property
    def fingerprint(self) -> str:
        """What makes it the same bug again."""
        return self.verdict.fingerprint


@dataclass(slots=True)
class Result:
    """What a hunt for one scenario came to; `status` is one of clean, exhausted, found, missed, unexpected, error."""

    subject: Subject
    status: str = "clean"
    executions: int = 0
    steps: int = 0
    seconds: float = 0.0
    seen: Seen = field(default_factory=Seen)
    findings: list[Finding] = field(default_factory=list)
    error: str = ""
    interrupted: bool = False
    exhausted: bool = False

    def settle(self) -> None:
        """Derive the status from the findings."""
        expect = self.subject.scenario.expect
        kinds = {finding.kind for finding in self.findings}
        if self.error:
            self.status = "error"
        elif kinds - {expect}:
            self.status = "unexpected"
        elif expect is None:
            self.status = "exhausted" if self.exhausted else "clean"
        else:
            self.status = "found" if expect in kinds else "missed"


class _Outcome(NamedTuple):
    """What the hunt keeps of an execution that it cannot take at once, or that needs a second look."""

    number: int
    steps: int
    picks: tuple[int, ...]
    verdict: Verdict | None
    error: StressvmError | None = None


async def hunt_subject(
    subject: Subject,
    settings: Settings,
    progress: Callable[[Result], None] | None = None,
    found: Callable[[Result, Finding], None] | None = None,
) -> Result:
    """Hunt in one scenario.

    Args:
        subject: the scenario with its parameters.
        settings: budget, seed, strategy, driver.
        progress: called at the start, now and then with the result so far, and at the end.
        found: called with every finding, as soon as it is there.

    Returns:
        The result; a scenario that cannot be run gives status "error" and a message.
    """
    result = Result(subject)
    started = time.monotonic()
    if progress is not None:
        progress(result)
    try:
        async with AsyncExitStack() as stack:
            lanes = [await stack.enter_async_context(driver) for driver in _drivers(subject, settings)]
            spare = await stack.enter_async_context(stepped(subject.kernel()))
            with Watchdog([spare.k, *(lane.k for lane in lanes)], settings.hang_seconds):
                await _Hunt(subject, settings, result, lanes, spare, progress, found, started).run()
    except* (UsageError, ReplayDiverged) as group:
        result.error = "; ".join(str(exc) for exc in _leaves(group))
    result.seconds = time.monotonic() - started
    result.settle()
    if progress is not None:
        progress(result)
    return result


def _drivers(subject: Subject, settings: Settings) -> Iterator[Any]:
    if settings.driver not in DRIVERS:
        raise UsageError(f"driver {settings.driver!r}: there are {', '.join(DRIVERS)}")
    if settings.driver == "stepped":
        yield stepped(subject.kernel())
    else:
        for _ in range(LANES):
            yield looped(subject.kernel())


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc


class _Hunt:
    """One hunt under way: numbers go out to the lanes, outcomes come back and are taken in order of number."""

    def __init__(
        self,
        subject: Subject,
        settings: Settings,
        result: Result,
        lanes: list[Driver],
        spare: Driver,
        progress: Callable[[Result], None] | None,
        found: Callable[[Result, Finding], None] | None,
        started: float,
    ) -> None:
        self.subject = subject
        self.settings = settings
        self.result = result
        self.lanes = lanes
        #: For repeating and shrinking, while the lanes may be in the middle of other executions.
        self.spare = spare
        self.shrinking = trio.Lock()
        self.progress = progress
        self.found = found
        self.started = started
        self.executions = settings.executions or subject.scenario.executions or EXECUTIONS_DEFAULT
        self.next_number = 0
        self.waiting: dict[int, _Outcome] = {}
        self.stop = False
        self.fingerprints: set[str] = set()

    async def run(self) -> None:
        """The pilot, which also shows whether the scenario is fit to be hunted in; then all the others."""
        strategies = [self.settings.make_strategy() for _ in self.lanes]
        await self._pilot(strategies)
        if self.executions <= 1 or self.stop:
            return
        self.next_number = 1
        if len(self.lanes) == 1:
            await self._lane(self.lanes[0], strategies[0])
            return
        async with trio.open_nursery() as nursery:
            for lane, strategy in zip(self.lanes, strategies, strict=True):
                nursery.start_soon(self._lane, lane, strategy)

    async def _pilot(self, strategies: list[Strategy]) -> None:
        """Execution 0, for every strategy to learn from, with what only one execution can afford to look for."""
        for lane, strategy in reversed(list(zip(self.lanes, strategies, strict=True))):
            verdict = await execute(self.subject, lane, strategy, 0, audit=True)
            k = lane.k
            first = _Outcome(0, len(k.trace), tuple(k.picks), verdict)
            digest = digests(k.trace)
            lane.unwind()
        again = await record(self.subject, self.spare, Follow(first.picks))
        if again.digests != digest:
            raise UsageError(
                f"scenario {self.subject.scenario.name} is not deterministic: the same schedule gave a trace of {first.steps} "
                f"steps, then another of {len(again.records)}; something outside the kernel's objects decides"
            )
        await self._take(first)
        if not first.picks:
            # No decision at all: this is the only execution that there is.
            self.result.exhausted = True
            self.stop = True

    async def _lane(self, lane: Driver, strategy: Strategy) -> None:
        """Execute number after number. What is clean and next in order is counted on the spot."""
        executions = self.executions
        subject = self.subject
        result = self.result
        seen = result.seen
        k = lane.k
        monotonic = time.monotonic
        pause = monotonic() + SLICE_SECONDS
        while not self.stop and self.next_number < executions:
            number = self.next_number
            self.next_number = number + 1
            try:
                verdict = await execute(subject, lane, strategy, number, audit=number < AUDITED)
                error = None
            except StressvmError as exc:
                verdict, error = None, exc
            if error is None and verdict is None and number == result.executions and not self.stop:
                result.executions = number + 1
                result.steps += len(k.trace)
                seen.add(hash(tuple(k.picks)))
                if k.alive:
                    lane.unwind()
            else:
                self.waiting[number] = _Outcome(number, len(k.trace), tuple(k.picks), verdict, error)
                if error is None:
                    lane.unwind()
            while self.waiting and not self.stop:
                ready = self.waiting.pop(result.executions, None)
                if ready is None:
                    break
                await self._take(ready)
            if monotonic() >= pause:
                await self._breathe()
                pause = monotonic() + SLICE_SECONDS

    async def _breathe(self) -> None:
        """Look at the time, tell how it goes, let others go on, be cancelled."""
        spent = time.monotonic() - self.started
        self.result.seconds = spent
        if self.settings.seconds is not None and spent >= self.settings.seconds:
            self.stop = True
        if self.progress is not None:
            self.progress(self.result)
        await trio.lowlevel.checkpoint()

    async def _take(self, outcome: _Outcome) -> None:
        """Count an outcome, in order of number; a bug not seen before becomes a finding."""
        if outcome.error is not None:
            self.stop = True
            raise outcome.error
        result = self.result
        result.executions += 1
        result.steps += outcome.steps
        result.seen.add(hash(outcome.picks))
        verdict = outcome.verdict
        if verdict is None:
            return
        if not self.settings.keep_going:
            self.stop = True
        if verdict.fingerprint not in self.fingerprints:
            self.fingerprints.add(verdict.fingerprint)
            await self._examine(outcome)

    async def _examine(self, outcome: _Outcome) -> None:
        """Repeat a failing execution, shrink it, and keep it as a finding; cut short, keep it as it is."""
        verdict = outcome.verdict
        assert verdict is not None
        async with self.shrinking:
            first = await record(self.subject, self.spare, Follow(outcome.picks))
            if first.verdict is None or first.verdict.fingerprint != verdict.fingerprint:
                raise UsageError(
                    f"scenario {self.subject.scenario.name} is not deterministic: execution {outcome.number} ended with "
                    f"{verdict.kind}, and repeated with {first.verdict.kind if first.verdict else 'nothing'}"
                )
            seconds = math.inf
            if self.settings.seconds is not None:
                seconds = max(SHRINK_SECONDS_MIN, self.settings.seconds - (time.monotonic() - self.started))
            shrunk = Shrunk(first, first.preemptions, switches(first.choices), 0, cut=True)
            matter: tuple[Flip, ...] = ()
            try:
                shrunk = await shrink(self.subject, self.spare, first, seconds=seconds)
                if not shrunk.cut:
                    matter = await flips(self.subject, self.spare, shrunk.best)
            finally:
                # An interrupt must not lose what has been found.
                self._keep(outcome, shrunk, matter)

    def _keep(self, outcome: _Outcome, shrunk: Shrunk, matter: tuple[Flip, ...]) -> None:
        best = shrunk.best
        assert best.verdict is not None
        finding = Finding(best.verdict, best, schedule_of(best), outcome.number + 1, shrunk, matter)
        self.result.findings.append(finding)
        if self.found is not None:
            self.found(self.result, finding)


def schedule_of(recording: Recording) -> Schedule:
    """The replayable form of a recording."""
    scenario = recording.subject.scenario
    return Schedule(
        scenario=scenario.name,
        choices=recording.choices,
        arities=recording.arities,
        file=scenario.file,
        params=dict(recording.subject.params),
        source=digest_of(scenario),
        timers=scenario.timers.value,
        max_steps=scenario.max_steps,
        digests=recording.digests,
        version=__version__,
    )

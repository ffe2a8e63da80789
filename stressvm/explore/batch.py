"""A batch: neighbouring executions of one scenario, run in one process, and what came of them.

Execution number i means the same wherever it is run, so a hunt is cut into batches of any size, run here or by workers,
in any order, and put together in order of number: `Result.take`.
"""

from __future__ import annotations

import math
import time
from array import array
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from stressvm.explore.execution import digests, execute, record
from stressvm.explore.tape import Follow
from stressvm.kernel.errors import StressvmError, UsageError
from stressvm.kernel.looped import looped
from stressvm.kernel.stepped import stepped
from stressvm.kernel.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from stressvm.explore.execution import Subject
    from stressvm.explore.settings import Settings
    from stressvm.kernel.driver import Driver
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.strategy import Strategy

#: Executions under way at once in one loop with the driver `trio`; more share the cost of a pass no further.
LANES: Final = 8

#: How long executions go on before anything else is looked at, in seconds.
SLICE_SECONDS: Final = 0.05

#: The first executions also look for misuse that takes time to look for.
AUDITED: Final = 16


def never() -> bool:
    """No pause."""
    return False


class Failure(NamedTuple):
    """An execution that showed a bug: enough to run it again."""

    number: int
    picks: tuple[int, ...]
    kind: str
    fingerprint: str


@dataclass(slots=True)
class Batch:
    """What executions `first`, `first + 1`, ... came to (numbers of a shard's own, if the campaign is cut into shards).

    Attributes:
        first: number of the first one.
        executions: how many.
        classes: the class of each, of 64 bits; or of those only that a `Seen` still counts.
        steps: of all together.
        failures: those that showed a bug, the first of each fingerprint.
        seconds: that it took.
        exhausted: there is no further execution.
        error: why the next one cannot be run.
        lost: executions that ended the process they ran in, and how.
    """

    first: int
    executions: int = 0
    classes: Sequence[int] = ()
    steps: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    exhausted: bool = False
    error: StressvmError | None = None
    lost: tuple[tuple[int, str], ...] = ()

    @property
    def stop(self) -> int:
        """The number after its last execution."""
        return self.first + self.executions

    def ends(self, *, keep_going: bool) -> bool:
        """Is nothing to be run after it?"""
        return self.exhausted or bool(self.failures and not keep_going)


class _Done(NamedTuple):
    own: int
    steps: int
    klass: int


class _Span:
    """A batch under way: numbers go out to the lanes, and what they did comes back in any order."""

    def __init__(self, first: int, stop: int, seconds: float) -> None:
        self.first = first
        self.next = first
        self.stop = stop
        self.started = time.monotonic()
        self.pause = self.started + seconds
        self.done: list[_Done] = []
        self.failures: list[tuple[int, Failure]] = []
        self.errors: dict[int, StressvmError] = {}

    def batch(self) -> Batch:
        """In order of number, up to where it stopped."""
        done = sorted(one for one in self.done if one.own < self.stop)
        batch = Batch(self.first, len(done), array("Q", [one.klass for one in done]), sum(one.steps for one in done))
        batch.seconds = time.monotonic() - self.started
        known: set[str] = set()
        for index, failure in sorted(self.failures):
            if index < self.stop and failure.fingerprint not in known:
                known.add(failure.fingerprint)
                batch.failures.append(failure)
        batch.error = self.errors.get(self.stop)
        return batch


def class_of(k: Kernel) -> int:
    """What stands for the interleaving that the kernel has just been through: an integer of 64 bits."""
    return hash(tuple(k.picks)) & 0xFFFFFFFFFFFFFFFF


class Runner:
    """Runs batches of one subject; made by `open_runner`.

    Attributes:
        spare: a driver for repeating and shrinking, which no batch uses.
    """

    def __init__(self, subject: Subject, settings: Settings, lanes: list[Driver], spare: Driver) -> None:
        self.subject = subject
        self.settings = settings
        self.lanes = lanes
        self.spare = spare
        self.strategies: list[Strategy] = []
        self.shard = settings.shard
        self.pilot: Batch | None = None
        #: The next number of a search, which goes through its executions in order.
        self.position = 0

    async def run(self, first: int, stop: int, seconds: float, pause: Callable[[], bool] = never) -> Batch:
        """Executions from `first` to before `stop`, as far as they get in that time: one at least.

        It ends early after a bug (unless told to keep going), where a scenario cannot be run, and after about
        SLICE_SECONDS when `pause` says so.
        """
        sequential = self.settings.sequential
        if sequential and first < self.position:
            self.pilot = None
        if self.pilot is None:
            self.pilot = await self._pilot()
            self.position = self.shard.index == 0
        pilot = self.pilot
        if self.shard.index == 0 and first == 0 and (stop == 1 or pilot.ends(keep_going=self.settings.keep_going)):
            return pilot
        while sequential and self.position < first:
            # A search begun elsewhere: what it has been through is gone through again, uncounted.
            self.position = (await self._span(self.position, first, math.inf, pause)).stop
        begin = first
        if self.shard.index == 0 and first == 0:
            begin = 1
        batch = await self._span(begin, stop, seconds, pause)
        self.position = batch.stop
        if begin != first:
            batch = _joined(pilot, batch)
        batch.exhausted = sequential and bool(getattr(self.strategies[0], "exhausted", False))
        return batch

    async def _span(self, first: int, stop: int, seconds: float, pause: Callable[[], bool]) -> Batch:
        span = _Span(first, stop, seconds)
        if len(self.lanes) == 1:
            await self._lane(self.lanes[0], self.strategies[0], span, pause)
        else:
            async with trio.open_nursery() as nursery:
                for lane, strategy in zip(self.lanes, self.strategies, strict=True):
                    nursery.start_soon(self._lane, lane, strategy, span, pause)
        return span.batch()

    async def _pilot(self) -> Batch:
        """Execution 0, for every strategy to learn from, with what only one execution can afford to look for."""
        self.strategies = [self.settings.make_strategy() for _ in self.lanes]
        batch = Batch(0)
        for lane, strategy in reversed(list(zip(self.lanes, self.strategies, strict=True))):
            verdict = await execute(self.subject, lane, strategy, 0, audit=True)
            k = lane.k
            batch = Batch(0, 1, array("Q", [class_of(k)]), len(k.trace))
            picks = tuple(k.picks)
            digest = digests(k.trace)
            if verdict is not None:
                batch.failures.append(Failure(0, picks, verdict.kind, verdict.fingerprint))
            lane.unwind()
        again = await record(self.subject, self.spare, Follow(picks))
        if again.digests != digest:
            raise UsageError(
                f"scenario {self.subject.scenario.name} is not deterministic: the same schedule gave a trace of {batch.steps} "
                f"steps, then another of {len(again.records)}; something outside the kernel's objects decides"
            )
        # No decision at all: this is the only execution that there is.
        batch.exhausted = not picks or (
            self.settings.sequential and bool(getattr(self.strategies[0], "exhausted", False))
        )
        return batch

    async def _lane(self, lane: Driver, strategy: Strategy, span: _Span, pause: Callable[[], bool]) -> None:
        """Execution after execution, whatever number is next."""
        subject = self.subject
        k = lane.k
        done = span.done
        keep_going = self.settings.keep_going
        number_of = self.shard.number_of
        monotonic = time.monotonic
        look = monotonic() + SLICE_SECONDS
        while span.next < span.stop:
            index = span.next
            span.next = index + 1
            number = number_of(index)
            try:
                verdict = await execute(subject, lane, strategy, number, audit=index < AUDITED)
            except StressvmError as exc:
                span.errors[index] = exc
                span.stop = min(span.stop, index)
                return
            done.append(_Done(index, len(k.trace), class_of(k)))
            if verdict is not None:
                span.failures.append((index, Failure(number, tuple(k.picks), verdict.kind, verdict.fingerprint)))
                if not keep_going:
                    span.stop = min(span.stop, index + 1)
            if k.alive:
                lane.unwind()
            now = monotonic()
            if now >= look:
                look = now + SLICE_SECONDS
                if now >= span.pause or pause():
                    span.stop = min(span.stop, span.next)
                    return


def _joined(one: Batch, other: Batch) -> Batch:
    """Two neighbouring batches as one."""
    known = {failure.fingerprint for failure in one.failures}
    return Batch(
        one.first,
        one.executions + other.executions,
        array("Q", [*one.classes, *other.classes]),
        one.steps + other.steps,
        one.seconds + other.seconds,
        [*one.failures, *(failure for failure in other.failures if failure.fingerprint not in known)],
        exhausted=other.exhausted,
        error=other.error,
    )


@asynccontextmanager
async def open_runner(subject: Subject, settings: Settings) -> AsyncIterator[Runner]:
    """A runner with the drivers it needs, watched for threads that hang."""
    async with AsyncExitStack() as stack:
        lanes = [await stack.enter_async_context(driver) for driver in _drivers(subject, settings)]
        spare = await stack.enter_async_context(stepped(subject.kernel()))
        with Watchdog([spare.k, *(lane.k for lane in lanes)], settings.hang_seconds):
            yield Runner(subject, settings, lanes, spare)


def _drivers(subject: Subject, settings: Settings) -> list[Any]:
    if settings.driver == "stepped":
        return [stepped(subject.kernel())]
    return [looped(subject.kernel()) for _ in range(1 if settings.sequential else LANES)]

"""A batch: neighbouring executions of one scenario, run in one process, and what came of them.

Execution number i means the same wherever it is run, so a hunt is cut into batches of any size, run here or by workers,
in any order, and put together in order of number: `Result.take`.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from stressvm.check.pairs import Pair, Pairs, is_looked_at
from stressvm.explore.auto import Auto
from stressvm.explore.coverage import WALKS_BELOW, Covered, joined
from stressvm.explore.execution import digests, execute, record
from stressvm.explore.pct import PCT
from stressvm.explore.rehearsal import Rehearsal
from stressvm.explore.searching import AUDITED, Outcome, Searcher
from stressvm.explore.tape import Follow
from stressvm.kernel.errors import ReplayDiverged, StressvmError, UsageError
from stressvm.kernel.looped import looped
from stressvm.kernel.stepped import stepped
from stressvm.kernel.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from stressvm.check.verdict import Verdict
    from stressvm.explore.execution import Subject
    from stressvm.explore.settings import Settings
    from stressvm.kernel.driver import Driver
    from stressvm.kernel.strategy import Strategy

#: Executions under way at once in one loop with the driver `trio`; more share the cost of a pass no further.
LANES: Final = 8

#: In a portfolio the search gives up where an execution takes so many times as many steps as the pilot.
LONGER_THAN_PILOT: Final = 8

#: How long executions go on before anything else is looked at, in seconds.
SLICE_SECONDS: Final = 0.05


def never() -> bool:
    """No pause."""
    return False


class Failure(NamedTuple):
    """An execution that showed a bug: enough to run it again."""

    number: int
    picks: tuple[int, ...]
    kind: str
    fingerprint: str


def failures_of(number: int, picks: tuple[int, ...], verdict: Verdict) -> list[Failure]:
    """All bugs that an execution has shown."""
    return [Failure(number, picks, one.kind, one.fingerprint) for one in verdict.all]


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
        exhausted: there is no further execution within `bounds` (in words; "" for none).
        provided: with that, what it rests on and no search can know for certain; "" for nothing.
        cut: with that, executions that did not end were cut short, so that what `exhausted` says is not much.
        error: why the next one cannot be run.
        lost: executions that ended the process they ran in, and how.
        covered: see coverage.py.
    """

    first: int
    executions: int = 0
    classes: Sequence[int] = ()
    steps: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    exhausted: bool = False
    bounds: str = ""
    provided: str = ""
    cut: bool = False
    error: StressvmError | None = None
    lost: tuple[tuple[int, str], ...] = ()
    covered: Covered = field(default_factory=Covered)

    @property
    def stop(self) -> int:
        """The number after its last execution."""
        return self.first + self.executions

    def ends(self, *, keep_going: bool) -> bool:
        """Is nothing to be run after it?"""
        return self.exhausted or bool(self.failures and not keep_going)


class _Span:
    """A batch under way: numbers go out to the lanes, and what they did comes back in any order."""

    def __init__(self, first: int, stop: int, seconds: float) -> None:
        self.first = first
        self.next = first
        self.stop = stop
        self.started = time.monotonic()
        self.pause = self.started + seconds
        #: Of each execution: its number, its steps and its class. Plain tuples: there are tens of thousands in a second.
        self.done: list[tuple[int, int, int]] = []
        self.failures: list[tuple[int, Failure]] = []
        self.pairs: list[tuple[int, frozenset[Pair]]] = []
        #: By number: what a sampler notes of an execution, see Auto.
        self.notes: list[tuple[int, float, int]] = []
        #: Threads of the pilot, and its choices for PCT.
        self.shape = (0, 0)
        self.errors: dict[int, StressvmError] = {}
        self.exhausted = False
        self.bounds = ""
        self.provided = ""
        self.cut = False

    def batch(self) -> Batch:
        """In order of number, up to where it stopped."""
        stop = self.stop
        done = sorted(one for one in self.done if one[0] < stop)
        batch = Batch(
            self.first, len(done), array("Q", [klass for _, _, klass in done]), sum(steps for _, steps, _ in done)
        )
        batch.seconds = time.monotonic() - self.started
        known: set[str] = set()
        # The failures of one execution stay in the order of their gravity.
        for index, failure in sorted(self.failures, key=itemgetter(0)):
            if index < self.stop and failure.fingerprint not in known:
                known.add(failure.fingerprint)
                batch.failures.append(failure)
        batch.error = self.errors.get(self.stop)
        batch.exhausted = self.exhausted
        batch.bounds = self.bounds
        batch.provided = self.provided
        batch.cut = self.cut
        batch.covered = self._covered()
        return batch

    def _covered(self) -> Covered:
        pairs = {pair for index, pairs in self.pairs if index < self.stop for pair in pairs}
        notes = sorted(note for note in self.notes if note[0] < self.stop)
        depths = Counter(depth for _, _, depth in notes if depth)
        walks = tuple(log10 for _, log10, _ in notes if log10 >= 0)
        return Covered(tuple(sorted(pairs)), walks, tuple(sorted(depths.items())), *self.shape)


class Runner:
    """Runs batches of one subject; made by `open_runner`.

    Attributes:
        spare: a driver for repeating and shrinking, which no batch uses.
        searcher: runs what a search decides: everything, or in a portfolio its part; None where nothing is searched.
    """

    def __init__(
        self, subject: Subject, settings: Settings, lanes: list[Driver], searcher: Searcher | None, spare: Driver
    ) -> None:
        self.subject = subject
        self.settings = settings
        self.lanes = lanes
        self.searcher = searcher
        self.spare = spare
        self.strategies: list[Strategy] = []
        self.shard = settings.shard
        self.pilot: Batch | None = None
        self.pairs = Pairs()

    async def run(self, first: int, stop: int, seconds: float, pause: Callable[[], bool] = never) -> Batch:
        """Executions from `first` to before `stop`, as far as they get in that time: one at least.

        It ends early after a bug (unless told to keep going), where there is nothing more to search or a scenario cannot
        be run, and after about SLICE_SECONDS when `pause` says so.
        """
        if self.pilot is None:
            self.pilot = await self._pilot()
        pilot = self.pilot
        if self.shard.index or first:
            return await self._span(first, stop, seconds, pause)
        if stop == 1 or pilot.ends(keep_going=self.settings.keep_going):
            return pilot
        return _joined(pilot, await self._span(1, stop, seconds, pause))

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
        outcome: Outcome | None = None
        span = _Span(0, 1, 0.0)
        if self.settings.sequential:
            assert self.searcher is not None
            self.strategies = [self.searcher.search]
            outcome = await self.searcher.execute(0)
        else:
            self.strategies = [self.settings.make_strategy() for _ in self.lanes]
            rehearsal: Rehearsal | None = None
            for lane, strategy in zip(self.lanes, self.strategies, strict=True):
                verdict = await execute(self.subject, lane, strategy, 0, audit=True)
                k = lane.k
                klass = self.subject.inspector.class_of(k)
                pairs = self.pairs.look(k)
                outcome = Outcome(len(k.trace), klass, tuple(k.picks), verdict, digests(k.trace), pairs)
                span.shape = (len(k.threads), strategy.choices) if isinstance(strategy, Auto | PCT) else (0, 0)
                rehearsal = Rehearsal(k)
                lane.unwind()
            assert outcome is not None
            assert rehearsal is not None
            await self._repeat(outcome)
            if self.searcher is not None:
                # Whoever goes on for much longer than the pilot goes round a loop.
                self.searcher.shorten(LONGER_THAN_PILOT * outcome.steps)
                if outcome.verdict is None or self.settings.keep_going:
                    races = await self.searcher.rehearse(rehearsal, outcome.digest)
                    for strategy in self.strategies:
                        if isinstance(strategy, Auto):
                            strategy.plan(races)
        assert outcome is not None
        if self.settings.sequential and self.searcher is not None and not self.searcher.loops:
            await self._repeat(outcome)
        if isinstance(self.strategies[0], Auto):
            span.notes.append((0, self.strategies[0].probe.log10, 0))
        self._note(span, 0, 0, outcome)
        if not outcome.picks:
            # No decision at all: this is the only execution that there is.
            span.exhausted = True
        return span.batch()

    async def _repeat(self, outcome: Outcome) -> None:
        again = await record(self.subject, self.spare, Follow(outcome.picks))
        if again.digests != outcome.digest:
            raise UsageError(
                f"scenario {self.subject.scenario.name} is not deterministic: the same schedule gave a trace of {outcome.steps} "
                f"steps, then another of {len(again.records)}; something outside the kernel's objects decides"
            )

    async def _lane(self, lane: Driver, strategy: Strategy, span: _Span, pause: Callable[[], bool]) -> None:
        """Execution after execution, whatever number is next."""
        subject = self.subject
        k = lane.k
        done = span.done
        class_of = subject.inspector.class_of
        keep_going = self.settings.keep_going
        number_of = self.shard.number_of
        searching = self.searcher is not None
        noting = strategy if isinstance(strategy, Auto | PCT) else None
        monotonic = time.monotonic
        look = monotonic() + SLICE_SECONDS
        while span.next < span.stop:
            index = span.next
            span.next = index + 1
            number = number_of(index)
            try:
                if not searching or not await self._searched(strategy, span, index, number):
                    verdict = await execute(subject, lane, strategy, number, audit=index < AUDITED)
                    done.append((index, len(k.trace), class_of(k)))
                    if is_looked_at(number):
                        span.pairs.append((index, self.pairs.look(k)))
                    if noting is not None and noting.notes:
                        self._take_note(span, noting, index, number)
                    if verdict is not None:
                        span.failures += [(index, failure) for failure in failures_of(number, tuple(k.picks), verdict)]
                        if not keep_going:
                            span.stop = min(span.stop, index + 1)
                    if k.alive:
                        lane.unwind()
            except StressvmError as exc:
                span.errors[index] = exc
                span.stop = min(span.stop, index)
                return
            now = monotonic()
            if now >= look:
                look = now + SLICE_SECONDS
                if now >= span.pause or pause():
                    span.stop = min(span.stop, span.next)
                    return

    def _take_note(self, span: _Span, sampler: Auto | PCT, index: int, number: int) -> None:
        log10, depth = sampler.note()
        if depth or (log10 >= 0 and number < WALKS_BELOW):
            span.notes.append((index, log10, depth))

    async def _searched(self, strategy: Strategy, span: _Span, index: int, number: int) -> bool:
        """Run the execution, if it is the search's."""
        searcher = self.searcher
        assert searcher is not None
        if isinstance(strategy, Auto):
            turn = strategy.turn(number)
            if turn < 0 or searcher.given_up or searcher.loops:
                return False
            try:
                outcome = await searcher.execute(turn)
            except (UsageError, ReplayDiverged):
                # The samplers do not need what a search relies on.
                return False
            if outcome is None:
                if not searcher.over or turn != searcher.done or self.shard.count > 1:
                    # It came to its end elsewhere, or not at all: whoever has that number says so.
                    return False
                span.stop = min(span.stop, index)
                self._ended(span, searcher)
                return True
        else:
            outcome = await searcher.execute(number)
            if outcome is None:
                # What was left to try came to nothing new.
                span.stop = min(span.stop, index)
                self._ended(span, searcher)
                return True
        self._note(span, index, number, outcome)
        return True

    def _note(self, span: _Span, index: int, number: int, outcome: Outcome) -> None:
        span.done.append((index, outcome.steps, outcome.klass))
        span.pairs.append((index, outcome.pairs))
        verdict = outcome.verdict
        if verdict is not None:
            span.failures += [(index, failure) for failure in failures_of(number, outcome.picks, verdict)]
            if not self.settings.keep_going:
                span.stop = min(span.stop, index + 1)
        searcher = self.searcher
        if searcher is None or not searcher.calls or not searcher.search.exhausted:
            return
        # Having cut executions short it has come to its end, but says little: the samplers, if any, go on.
        if self.settings.sequential or not searcher.loops:
            span.stop = min(span.stop, index + 1)
            self._ended(span, searcher)

    def _ended(self, span: _Span, searcher: Searcher) -> None:
        """The search has come to its end."""
        span.exhausted = True
        span.bounds = searcher.search.bounds
        span.provided = getattr(searcher.search, "provided", "")
        span.cut = searcher.loops


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
        bounds=other.bounds,
        provided=other.provided,
        cut=other.cut,
        error=other.error,
        covered=joined((one.covered, other.covered)),
    )


@asynccontextmanager
async def open_runner(subject: Subject, settings: Settings) -> AsyncIterator[Runner]:
    """A runner with the drivers it needs, watched for threads that hang."""
    make: Any = stepped if settings.driver == "stepped" else looped
    subject = settings.subject(subject)
    search = settings.make_search()
    async with AsyncExitStack() as stack:
        count = LANES if settings.driver == "trio" and search is None else 1
        lanes = [await stack.enter_async_context(make(subject.kernel())) for _ in range(count)]
        spare = await stack.enter_async_context(stepped(subject.kernel()))
        kernels = [spare.k, *(lane.k for lane in lanes)]
        searcher = None
        if search is not None:
            kernel = subject.kernel(every_step=getattr(search, "EVERY_STEP", False))
            searcher = Searcher(subject, await stack.enter_async_context(make(kernel)), search)
            kernels.append(kernel)
        with Watchdog(kernels, settings.hang_seconds):
            yield Runner(subject, settings, lanes, searcher, spare)

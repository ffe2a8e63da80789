"""The hunt for one scenario with workers: leases go out, batches come back in any order and are taken in order.

The result is that of `hunt_subject`, whatever the number of workers and whatever became of them: a finding is that of
the lowest number, what was run beyond it is not counted, and a budget of time cuts a prefix. A lease that a worker died
of is run again; if that one dies too, the lease is cut in halves, down to the one execution that ends its process:
it is reported, and the hunt goes on behind it.
"""

from __future__ import annotations

import heapq
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from stressvm.campaign.workers import Death, Workers
from stressvm.explore.batch import Batch
from stressvm.explore.hunt import examine, limit, look_again
from stressvm.explore.result import Examination, Result
from stressvm.explore.running import run_trio
from stressvm.kernel.errors import ReplayDiverged, UsageError
from stressvm.kernel.stepped import stepped
from stressvm.kernel.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.campaign.workers import Lease
    from stressvm.explore.pieces import Explored
    from stressvm.explore.result import Finding, Ledger
    from stressvm.explore.settings import Settings
    from stressvm.explore.subject import Subject

#: Seconds of work that a lease should be worth, and after which it comes back at any rate.
LEASE_SECONDS: Final = 0.4
_LEASE_SECONDS_MAX: Final = 2.0
#: Executions of the first lease, before anything is known of their speed.
_LEASE_FIRST: Final = 32
#: Seconds between two looks at the clock.
_LOOK_SECONDS: Final = 0.1
#: Seconds that workers are given to bring back what they have, when interrupted.
_GATHER_SECONDS: Final = 1.0


class ParallelHunt:
    """One hunt under way.

    Args:
        workers: the pool.
        number: of the subject, as the workers know it.
        seconds: how long at most; None: as long as the executions take.
        progress, found, ledger: see `hunt_subject`.
    """

    def __init__(
        self,
        workers: Workers,
        number: int,
        seconds: float | None,
        progress: Callable[[Result], None],
        found: Callable[[Result, Finding], None],
        ledger: Ledger,
    ) -> None:
        self.workers = workers
        self.number = number
        self.subject: Subject = workers.subjects[number]
        self.settings: Settings = replace(workers.settings, seconds=seconds)
        self.progress = progress
        self.found = found
        self.ledger = ledger
        self.result = Result(self.subject)
        self.started = time.monotonic() - ledger.spent()
        self.executions = limit(self.subject, self.settings, ledger)
        #: The first execution that has not been given out, what has come back early, and what must go out again.
        self.next_first = 0
        self.ready: dict[int, Batch] = {}
        self.holes: list[tuple[int, int]] = []
        self.deaths: dict[tuple[int, int], int] = {}
        self.rate = 0.0
        self.over = False
        self._begin()

    def _begin(self) -> None:
        """What a kind of hunt has of its own."""

    def run(self) -> Result:
        """Hunt. KeyboardInterrupt passes, once what the workers had done has been counted."""
        result = self.result
        self.progress(result)
        self.workers.recall()
        try:
            run_trio(self._look_again)
            self._hunt()
        except KeyboardInterrupt:
            self._gather(_GATHER_SECONDS)
            raise
        except (UsageError, ReplayDiverged) as exc:
            result.error = str(exc)
        finally:
            self.workers.recall()
            result.seconds = time.monotonic() - self.started
            result.settle(self.settings.shard)
            self.progress(result)
        return result

    def _hunt(self) -> None:
        result = self.result
        while not self.over and result.executions < self.executions:
            self._lend()
            self._collect(_LOOK_SECONDS)
            self._take()
            result.seconds = time.monotonic() - self.started
            self.progress(result)
            seconds = self.settings.seconds
            if seconds is not None and result.seconds >= seconds and not self.over:
                self._gather(float("inf"))
                return

    def _gather(self, seconds: float) -> None:
        """Have everything back that is under way, as far as it has got, and count what is next in order."""
        deadline = time.monotonic() + seconds
        self.workers.recall()
        while self.workers.outstanding() and time.monotonic() < deadline:
            self._collect(_LOOK_SECONDS)
        self._take()

    # ---------------------------------------------------------------- leases

    def _lend(self) -> None:
        """Give every worker something to do."""
        while (worker := self.workers.wanting(sequential=self.settings.sequential)) is not None:
            span = self._next_span()
            if span is None:
                return
            seconds = float("inf") if self.settings.sequential else _LEASE_SECONDS_MAX
            self.workers.give(worker, self.number, *span, seconds)

    def _next_span(self) -> tuple[int, int] | None:
        """What to do next: what must be done again, else the next executions that are not stored."""
        if self.holes:
            return heapq.heappop(self.holes)
        while self.next_first < self.executions:
            first = self.next_first
            stored = self.ledger.batch(first)
            if stored is None:
                known = self.ledger.next_first(first) or self.executions
                checkpoint = self.settings.checkpoint(first, self.executions)
                self.next_first = min(first + self._size(), known, checkpoint)
                return first, self.next_first
            self.ready[first] = stored
            self.next_first = stored.stop
            if stored.ends(keep_going=self.settings.keep_going):
                self.next_first = self.executions
        return None

    def _size(self) -> int:
        if not self.rate:
            return _LEASE_FIRST
        return max(1, min(int(self.rate * LEASE_SECONDS), 4 * max(_LEASE_FIRST, self.next_first)))

    def _collect(self, seconds: float) -> None:
        """Wait that long for what comes back."""
        if not self.workers.outstanding():
            return
        for lease, answer in self.workers.wait(seconds):
            if lease.subject != self.number or self.over:
                continue
            if isinstance(answer, Death):
                self._bury(lease, answer)
            else:
                self._receive(lease, answer)

    def _receive(self, lease: Lease, answer: Batch | Explored) -> None:
        """A lease has come back."""
        assert isinstance(answer, Batch)
        if answer.executions:
            self.ledger.keep_batch(answer, self.result.seen, time.monotonic() - self.started)
            if answer.seconds > 0:
                self.rate = answer.executions / answer.seconds
        if answer.executions or answer.error is not None:
            self.ready[lease.first] = answer
        if answer.stop < lease.stop and answer.error is None and not answer.ends(keep_going=self.settings.keep_going):
            heapq.heappush(self.holes, (answer.stop, lease.stop))

    def _bury(self, lease: Lease, death: Death) -> None:
        span = (lease.first, lease.stop)
        died = self.deaths[span] = self.deaths.get(span, 0) + 1
        if died == 1:
            heapq.heappush(self.holes, span)
        elif lease.stop - lease.first > 1:
            middle = (lease.first + lease.stop) // 2
            # The second death of the whole is the first of each half.
            for half in ((lease.first, middle), (middle, lease.stop)):
                self.deaths[half] = 1
                heapq.heappush(self.holes, half)
        else:
            number = self.settings.shard.number_of(lease.first)
            batch = self.ready[lease.first] = Batch(lease.first, 1, lost=((number, ending(death)),))
            self.ledger.keep_batch(batch, self.result.seen, time.monotonic() - self.started)

    # ---------------------------------------------------------------- in order of number

    def _take(self) -> None:
        """Count what is next in order, and look at its bugs."""
        result = self.result
        while not self.over:
            batch = self.ready.pop(result.executions, None)
            if batch is None:
                return
            self._count(batch)

    def _count(self, batch: Batch) -> None:
        """Count the batch that is next in order, and look at its bugs."""
        result = self.result
        for failure in result.take(batch, self.settings):
            examination = Examination(self.subject, failure, self.settings, self.started, self.ledger)
            run_trio(self._examine, examination)
        if batch.error is not None:
            raise batch.error
        self.over = result.over(batch, self.settings)

    async def _look_again(self) -> None:
        async with stepped(self.subject.kernel()) as driver:
            with Watchdog([driver.k], self.settings.hang_seconds):
                await look_again(self.result, self.settings, self.started, driver, self.found, self.ledger)
        self.over = bool(self.result.findings) and not self.settings.keep_going

    async def _examine(self, examination: Examination) -> None:
        async with stepped(self.subject.kernel()) as driver:
            with Watchdog([driver.k], self.settings.hang_seconds):
                await examine(self.result, examination, driver, self.found)


def ending(death: Death) -> str:
    """How a process ended, in words."""
    if death.status < 0:
        return f"killed by {signal.Signals(-death.status).name}"
    return f"exit status {death.status}"

"""One campaign: hunt in scenario after scenario, within one budget of time, and say how it goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from stressvm.campaign.parallel import ParallelHunt
from stressvm.campaign.pieces import PiecewiseHunt
from stressvm.campaign.workers import Workers
from stressvm.explore.hunt import hunt_subject
from stressvm.explore.running import run_trio

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stressvm.explore.execution import Subject
    from stressvm.explore.result import Finding, Ledger, Result
    from stressvm.explore.settings import Settings


class Watcher(Protocol):
    """What a campaign tells, as it happens."""

    def begin(self, subject: Subject, number: int, total: int) -> None:
        """The hunt in a scenario starts, number 1 to `total`."""

    def progress(self, result: Result, left: float | None) -> None:
        """Now and then: the result so far, and the seconds left if there is a budget of time."""

    def found(self, result: Result, finding: Finding) -> None:
        """A finding, as soon as it is there."""

    def end(self, result: Result) -> None:
        """The hunt in a scenario is over."""


@dataclass(slots=True)
class Campaign:
    """Subjects, settings and results so far; the results stay readable when a run is interrupted.

    Attributes:
        subjects: what to hunt in, in this order.
        settings: for each; `settings.seconds` is for all together and is shared out evenly over those to come.
        watcher: is told.
        ledgers: where the hunt in each of the subjects goes on from, and is written to.
        jobs: worker processes; 1: none, all is done in this process.
        results: of the finished ones, and of the one under way when interrupted.
    """

    subjects: Sequence[Subject]
    settings: Settings
    watcher: Watcher
    ledgers: Sequence[Ledger]
    jobs: int = 1
    results: list[Result] = field(default_factory=list)
    current: Result | None = None
    started: float = 0.0

    def run(self) -> None:
        """Hunt. KeyboardInterrupt leaves what was found in `results`."""
        try:
            if self.jobs == 1:
                run_trio(self._run)
            else:
                with Workers(self.subjects, self.settings, self.jobs) as workers:
                    self._run_with(workers)
        except KeyboardInterrupt:
            if self.current is not None:
                self.current.interrupted = True
                self.current.settle(self.settings.shard)
                self.results.append(self.current)
            raise

    async def _run(self) -> None:
        for number, seconds in self._turns():
            settings = replace(self.settings, seconds=seconds)
            subject = self.subjects[number]
            ledger = self.ledgers[number]
            self._ended(await hunt_subject(subject, settings, self._progress, self.watcher.found, ledger), ledger)

    def _run_with(self, workers: Workers) -> None:
        hunt = PiecewiseHunt if self.settings.piecewise else ParallelHunt
        for number, seconds in self._turns():
            ledger = self.ledgers[number]
            self._ended(hunt(workers, number, seconds, self._progress, self.watcher.found, ledger).run(), ledger)

    def _turns(self) -> Iterator[tuple[int, float | None]]:
        """The numbers of the subjects, and the seconds that each may take."""
        self.started = time.monotonic() - sum(ledger.spent() for ledger in self.ledgers)
        for number, subject in enumerate(self.subjects):
            left = self._left()
            self.watcher.begin(subject, number + 1, len(self.subjects))
            spent = self.ledgers[number].spent()
            yield number, None if left is None else max(0.0, spent + left / (len(self.subjects) - number))

    def _left(self) -> float | None:
        seconds = self.settings.seconds
        return None if seconds is None else seconds - (time.monotonic() - self.started)

    def _ended(self, result: Result, ledger: Ledger) -> None:
        ledger.keep_end(result.executions)
        self.current = None
        self.results.append(result)
        self.watcher.end(result)

    def _progress(self, result: Result) -> None:
        self.current = result
        self.watcher.progress(result, self._left())

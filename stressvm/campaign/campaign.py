"""One campaign: hunt in scenario after scenario, within one budget of time, and say how it goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from stressvm.explore.hunt import Finding, Result, Settings, hunt_subject
from stressvm.explore.running import run_trio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stressvm.explore.execution import Subject


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
        results: of the finished ones, and of the one under way when interrupted.
    """

    subjects: Sequence[Subject]
    settings: Settings
    watcher: Watcher
    results: list[Result] = field(default_factory=list)
    current: Result | None = None

    def run(self) -> None:
        """Hunt. KeyboardInterrupt leaves what was found in `results`."""
        try:
            run_trio(self._run)
        except KeyboardInterrupt:
            if self.current is not None:
                self.current.interrupted = True
                self.current.settle()
                self.results.append(self.current)
            raise

    async def _run(self) -> None:
        started = time.monotonic()
        for index, subject in enumerate(self.subjects):
            settings = self.settings
            left: float | None = None
            if settings.seconds is not None:
                left = settings.seconds - (time.monotonic() - started)
                settings = replace(settings, seconds=max(0.0, left / (len(self.subjects) - index)))
            self.watcher.begin(subject, index + 1, len(self.subjects))
            result = await hunt_subject(subject, settings, self._progress(started), self.watcher.found)
            self.current = None
            self.results.append(result)
            self.watcher.end(result)

    def _progress(self, started: float) -> Callable[[Result], None]:
        def progress(result: Result) -> None:
            self.current = result
            seconds = self.settings.seconds
            self.watcher.progress(result, None if seconds is None else seconds - (time.monotonic() - started))

        return progress

"""What a hunt for one scenario came to: batches put together in order of number, and the findings."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from stressvm._version import __version__
from stressvm.explore.coverage import Coverage
from stressvm.explore.execution import Recording, Subject, record
from stressvm.explore.flips import Flip, flips
from stressvm.explore.loading import digest_of
from stressvm.explore.schedule import Schedule
from stressvm.explore.seen import Seen
from stressvm.explore.settings import WHOLE
from stressvm.explore.shrink import Shrunk, shrink, switches
from stressvm.explore.steer import bring_about
from stressvm.explore.tape import Follow, Strict
from stressvm.explore.turning import Turning, turning_point
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.check.verdict import Verdict
    from stressvm.explore.batch import Batch, Failure
    from stressvm.explore.known import Known, Quiet
    from stressvm.explore.settings import Settings, Shard
    from stressvm.kernel.driver import Driver

#: Seconds for shrinking that a finding gets even if the budget of time is spent.
SHRINK_SECONDS_MIN: Final = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A bug, shrunk, with all that a report needs.

    Attributes:
        verdict: what it is.
        recording: the simplest execution that shows it.
        schedule: the same, to be replayed.
        executions_to_find: how many the hunt had run; 0: a schedule kept from an earlier hunt has shown it.
        shrunk: how it became simple.
        flips: which of its switches matter.
        note: how it was come by, if not by an execution that just showed it; "" for most.
        turning: when it became inevitable; None where that was not looked for.
    """

    verdict: Verdict
    recording: Recording
    schedule: Schedule
    executions_to_find: int
    shrunk: Shrunk
    flips: tuple[Flip, ...]
    note: str = ""
    turning: Turning | None = None

    @property
    def kind(self) -> str:
        """The kind of finding."""
        return self.verdict.kind

    @property
    def fingerprint(self) -> str:
        """What makes it the same bug again."""
        return self.verdict.fingerprint


class Kept(NamedTuple):
    """A finding as it is stored: its schedule, and how it was shrunk."""

    schedule: Schedule
    preemptions_before: int
    switches_before: int
    executions: int
    cut: bool
    fewest: bool
    note: str = ""


class Ledger(Protocol):
    """Where a hunt writes what it has, and finds what it had before it was killed."""

    def batch(self, first: int) -> Batch | None:
        """The batch that begins with that execution."""

    def next_first(self, number: int) -> int | None:
        """Where the first batch after that execution begins."""

    def keep_batch(self, batch: Batch, seen: Seen, elapsed: float) -> None:
        """A batch is done, so many seconds into the hunt; `seen` says which of its classes are still counted."""

    def known(self) -> Sequence[Known]:
        """Bugs that earlier hunts have found."""

    def spent(self) -> float:
        """Seconds into the hunt when the last batch was done."""

    def finding(self, fingerprint: str) -> Kept | None:
        """The finding of that fingerprint."""

    def keep_finding(self, finding: Finding) -> None:
        """A finding is there."""

    def ended(self) -> int | None:
        """The number of executions that the hunt came to its end with; None if it has not."""

    def keep_end(self, executions: int) -> None:
        """The hunt has come to its end."""


@dataclass(slots=True)
class Result:
    """What a hunt for one scenario came to; `status` is one of clean, exhausted, found, missed, unexpected, error."""

    subject: Subject
    status: str = "clean"
    executions: int = 0
    steps: int = 0
    seconds: float = 0.0
    seen: Seen = field(default_factory=Seen)
    coverage: Coverage = field(default_factory=Coverage)
    findings: list[Finding] = field(default_factory=list)
    error: str = ""
    interrupted: bool = False
    exhausted: bool = False
    #: A search has come to its end, if perhaps only by cutting executions short.
    searched: bool = False
    bounds: str = ""
    provided: str = ""
    saturated: bool = False
    #: Executions that ended their process.
    lost: int = 0
    #: Fingerprints met so far.
    fingerprints: set[str] = field(default_factory=set)
    #: Known bugs whose schedules run clean.
    quiet: list[Quiet] = field(default_factory=list)

    @property
    def fixed(self) -> list[Quiet]:
        """Known bugs that neither their schedules nor the hunt have shown."""
        if self.error or self.interrupted:
            return []
        return [quiet for quiet in self.quiet if quiet.known.fingerprint not in self.fingerprints]

    def take(self, batch: Batch, settings: Settings) -> list[Failure]:
        """Count the batch that is next in order; those of its failures that are bugs not met before."""
        assert batch.first == self.executions
        self.count(batch)
        if settings.until_saturated and batch.stop == settings.checkpoint(batch.first, batch.stop + 1):
            self.saturated = self.seen.saturated
        new = [failure for failure in batch.failures if failure.fingerprint not in self.fingerprints]
        self.fingerprints.update(failure.fingerprint for failure in new)
        return new

    def count(self, batch: Batch) -> None:
        """Add the executions of a batch to ours."""
        self.executions += batch.executions
        self.steps += batch.steps
        self.seen.add(batch.classes, batch.executions)
        self.coverage.add(batch.covered)
        if batch.exhausted:
            self.searched, self.exhausted = True, not batch.cut
            self.bounds, self.provided = batch.bounds, batch.provided
        for number, how in batch.lost:
            self.lost += 1
            if not self.error:
                self.error = f"execution {number} ended the process that it ran in: {how}"

    def over(self, batch: Batch, settings: Settings) -> bool:
        """Is the hunt over with this batch, the last one taken?"""
        return self.saturated or batch.ends(keep_going=settings.keep_going)

    @property
    def evidence(self) -> str:
        """What the status rests on."""
        if self.findings:
            return "found"
        if self.exhausted:
            what = (
                f"exhausted within the bounds: {self.bounds}"
                if self.bounds
                else "exhausted: there is no other execution"
            )
            return f"{what}, {self.provided}" if self.provided else what
        if self.searched:
            return f"searched, but executions that did not end were cut short: {self.bounds}"
        unseen = f"{self.seen.unseen_mass:.1%} of what executions do is unseen"
        return f"saturated: {unseen}" if self.saturated else f"not found, about {unseen}"

    def settle(self, shard: Shard = WHOLE) -> None:
        """Derive the status from the findings; what one shard of several has not found, another may."""
        expect = self.subject.scenario.expect
        kinds = {finding.kind for finding in self.findings}
        if self.error:
            self.status = "error"
        elif kinds - {expect}:
            self.status = "unexpected"
        elif expect is None or (shard.count > 1 and not kinds):
            self.status = "exhausted" if self.exhausted else "clean"
        else:
            self.status = "found" if expect in kinds else "missed"


class Examination:
    """A failing execution, looked at: repeated with everything recorded, shrunk, each of its switches undone.

    Args:
        subject: what was executed.
        failure: the execution.
        settings: of the hunt.
        started: when the hunt began, for what is left of its budget of time.
        ledger: may have the finding already.
        kept: the finding itself, from an earlier hunt.
    """

    def __init__(
        self,
        subject: Subject,
        failure: Failure,
        settings: Settings,
        started: float,
        ledger: Ledger | None = None,
        kept: Kept | None = None,
    ) -> None:
        self.kept = kept
        self.ledger = ledger
        self.subject = settings.subject(subject)
        self.failure = failure
        self.settings = settings
        self.started = started
        self.note = ""
        #: Set as soon as the failure was repeated; an interrupt must not lose what has been found.
        self.finding: Finding | None = None

    async def run(self, driver: Driver) -> None:
        """Do it; cut short, `finding` is as far as it got.

        Raises:
            UsageError: the execution cannot be repeated.
        """
        if await self._again(driver):
            return
        failure = self.failure
        first = (await record(self.subject, driver, Follow(failure.picks))).about(failure.fingerprint)
        if first.verdict is None or first.verdict.fingerprint != failure.fingerprint:
            raise UsageError(
                f"scenario {self.subject.scenario.name} is not deterministic: execution {failure.number} ended with "
                f"{failure.kind}, and repeated with {first.verdict.kind if first.verdict else 'nothing'}"
            )
        if failure.kind == "predicted-deadlock":
            first = await self._bring_about(driver, first)
            if self.failure is not failure and await self._again(driver):
                return
        seconds = math.inf
        if self.settings.seconds is not None:
            seconds = max(SHRINK_SECONDS_MIN, self.settings.seconds - (time.monotonic() - self.started))
        self._keep(Shrunk(first, first.preemptions, switches(first.choices), 0, cut=True), ())
        shrunk = await shrink(self.subject, driver, first, seconds=seconds)
        self._keep(shrunk, ())
        if not shrunk.cut:
            await self._explain(driver, shrunk)
        if self.ledger is not None and self.finding is not None:
            self.ledger.keep_finding(self.finding)

    async def _bring_about(self, driver: Driver, first: Recording) -> Recording:
        """The deadlock that an execution predicts, if it can be had; else the execution."""
        failure = self.failure
        made, text = await bring_about(self.subject, driver, failure.picks, failure.fingerprint)
        if made is None or made.verdict is None:
            self.note = text
            return first
        self.note = f"predicted by an execution in which it did not happen, {text}"
        self.failure = failure._replace(kind=made.verdict.kind, fingerprint=made.verdict.fingerprint)
        return made

    async def _again(self, driver: Driver) -> bool:
        """Is it stored? Then it takes one execution to have it back, and those that say which switches matter."""
        fingerprint = self.failure.fingerprint
        kept = self.ledger.finding(fingerprint) if self.ledger is not None else None
        kept = kept or self.kept
        if kept is None:
            return False
        best = (await record(self.subject, driver, Strict(kept.schedule))).about(fingerprint)
        if best.verdict is None or best.verdict.fingerprint != fingerprint:
            raise UsageError(
                f"scenario {self.subject.scenario.name}: the stored schedule of {self.failure.kind} "
                f"{fingerprint} does not show it any more"
            )
        self.note = kept.note
        shrunk = Shrunk(best, kept.preemptions_before, kept.switches_before, kept.executions, kept.cut, kept.fewest)
        self._keep(shrunk, ())
        if not kept.cut:
            await self._explain(driver, shrunk)
        if self.ledger is not None and kept is self.kept and self.finding is not None:
            self.ledger.keep_finding(self.finding)
        return True

    async def _explain(self, driver: Driver, shrunk: Shrunk) -> None:
        """Which switches matter, and when it became inevitable."""
        matter = await flips(self.subject, driver, shrunk.best)
        self._keep(shrunk, matter)
        self._keep(shrunk, matter, await turning_point(self.subject, driver, shrunk.best, matter))

    def _keep(self, shrunk: Shrunk, matter: tuple[Flip, ...], turning: Turning | None = None) -> None:
        best = shrunk.best
        assert best.verdict is not None
        number = self.failure.number + 1
        self.finding = Finding(best.verdict, best, schedule_of(best), number, shrunk, matter, self.note, turning)


def schedule_of(recording: Recording) -> Schedule:
    """The replayable form of a recording."""
    scenario = recording.subject.scenario
    verdict = recording.verdict
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
        checks=recording.subject.asked,
        bug=verdict.fingerprint if verdict is not None and verdict.also else "",
    )

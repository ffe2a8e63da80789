"""The hunt for one scenario, in this process: batch after batch, until a bug is found or the budget is spent.

A failing execution is repeated with everything recorded (which also shows whether the scenario is deterministic),
shrunk, and kept once per fingerprint. With workers the same is done by `campaign/`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import trio

from stressvm.check.verdict import shows
from stressvm.explore.batch import SLICE_SECONDS, Failure, open_runner
from stressvm.explore.execution import record
from stressvm.explore.known import Quiet
from stressvm.explore.result import Examination, Finding, Kept, Ledger, Result, schedule_of
from stressvm.explore.settings import Settings
from stressvm.explore.shrink import switches
from stressvm.explore.tape import Lenient
from stressvm.kernel.errors import ReplayDiverged, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stressvm.explore.execution import Subject
    from stressvm.kernel.driver import Driver

#: The number of an execution that comes before those of a hunt.
BEFORE_ALL: Final = -1

__all__ = ["Finding", "Result", "Settings", "hunt_subject"]


async def hunt_subject(
    subject: Subject,
    settings: Settings,
    progress: Callable[[Result], None] | None = None,
    found: Callable[[Result, Finding], None] | None = None,
    ledger: Ledger | None = None,
) -> Result:
    """Hunt in one scenario.

    Args:
        subject: the scenario with its parameters.
        settings: budget, seed, strategy, driver.
        progress: called at the start, now and then with the result so far, and at the end.
        found: called with every finding, as soon as it is there.
        ledger: where it goes on from, and is written to.

    Returns:
        The result; a scenario that cannot be run gives status "error" and a message.
    """
    result = Result(subject)
    started = time.monotonic() - (ledger.spent() if ledger is not None else 0.0)
    if progress is not None:
        progress(result)
    try:
        await _hunt(result, settings, started, progress, found, ledger)
    except* (UsageError, ReplayDiverged) as group:
        result.error = "; ".join(str(exc) for exc in _leaves(group))
    result.seconds = time.monotonic() - started
    result.settle(settings.shard)
    if progress is not None:
        progress(result)
    return result


async def _hunt(
    result: Result,
    settings: Settings,
    started: float,
    progress: Callable[[Result], None] | None,
    found: Callable[[Result, Finding], None] | None,
    ledger: Ledger | None,
) -> None:
    subject = result.subject
    executions = limit(subject, settings, ledger)
    async with open_runner(subject, settings) as runner:
        await look_again(result, settings, started, runner.spare, found, ledger)
        if result.findings and not settings.keep_going:
            return
        while result.executions < executions:
            first = result.executions
            batch = ledger.batch(first) if ledger is not None else None
            stored = batch is not None
            if batch is None:
                known = ledger.next_first(first) if ledger is not None else None
                stop = settings.checkpoint(first, known or executions)
                batch = await runner.run(first, stop, SLICE_SECONDS)
                if ledger is not None and batch.executions:
                    ledger.keep_batch(batch, result.seen, time.monotonic() - started)
            for failure in result.take(batch, settings):
                await examine(result, Examination(subject, failure, settings, started, ledger), runner.spare, found)
            if batch.error is not None:
                raise batch.error
            if result.over(batch, settings):
                break
            result.seconds = time.monotonic() - started
            if settings.seconds is not None and result.seconds >= settings.seconds and not stored:
                break
            if progress is not None:
                progress(result)
            await trio.lowlevel.checkpoint()


async def look_again(
    result: Result,
    settings: Settings,
    started: float,
    driver: Driver,
    found: Callable[[Result, Finding], None] | None,
    ledger: Ledger | None,
) -> None:
    """Run the schedules of the bugs that earlier hunts have found; see known.py.

    Args:
        result: of the hunt; bugs that are still there are findings, what runs clean is noted.
        settings: of the hunt.
        started: when it began.
        driver: one that nothing runs on at present.
        found: called with every finding.
        ledger: knows the bugs.
    """
    subject = settings.subject(result.subject)
    for known in ledger.known() if ledger is not None else ():
        if not known.concerns(subject):
            continue
        schedule = known.schedule
        again = await record(subject, driver, Lenient(schedule.choices))
        fits = (again.choices, again.arities) == (schedule.choices, schedule.arities)
        if not shows(again.verdict, known.fingerprint):
            result.quiet.append(Quiet(known, fits))
            continue
        failure = Failure(BEFORE_ALL, tuple(driver.k.picks), known.kind, known.fingerprint)
        kept = None
        if fits:
            note = "fixed once, and back" if known.told else known.note
            count = switches(again.choices)
            kept = Kept(schedule_of(again), again.preemptions, count, 0, cut=False, fewest=known.fewest, note=note)
        await examine(result, Examination(subject, failure, settings, started, ledger, kept), driver, found)


def limit(subject: Subject, settings: Settings, ledger: Ledger | None) -> int:
    """How many executions there are to be at most: as many as there were, if the hunt had come to its end before."""
    ended = ledger.ended() if ledger is not None else None
    return settings.executions_of(subject.scenario) if ended is None else ended


async def examine(
    result: Result,
    examination: Examination,
    driver: Driver,
    found: Callable[[Result, Finding], None] | None,
) -> None:
    """Look at a failing execution; interrupted, what has been found is kept all the same."""
    if _has(result, examination.failure.fingerprint):
        return
    try:
        await examination.run(driver)
    finally:
        finding = examination.finding
        # What was predicted and brought about may be known already.
        if finding is not None and not _has(result, finding.fingerprint):
            result.fingerprints.add(finding.fingerprint)
            result.findings.append(finding)
            if found is not None:
                found(result, finding)


def _has(result: Result, fingerprint: str) -> bool:
    return any(finding.fingerprint == fingerprint for finding in result.findings)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc

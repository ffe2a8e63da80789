"""The hunt for one scenario, in this process: batch after batch, until a bug is found or the budget is spent.

A failing execution is repeated with everything recorded (which also shows whether the scenario is deterministic),
shrunk, and kept once per fingerprint. With workers the same is done by `campaign/`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from stressvm.explore.batch import SLICE_SECONDS, open_runner
from stressvm.explore.result import Examination, Finding, Ledger, Result
from stressvm.explore.settings import Settings
from stressvm.kernel.errors import ReplayDiverged, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stressvm.explore.execution import Subject
    from stressvm.kernel.driver import Driver

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
    try:
        await examination.run(driver)
    finally:
        if examination.finding is not None:
            result.findings.append(examination.finding)
            if found is not None:
                found(result, examination.finding)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc

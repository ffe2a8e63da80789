"""Which switches of a schedule matter: each is undone by itself, and what happens then is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stressvm.check.verdict import shows
from stressvm.explore.execution import Recording, Subject, execute
from stressvm.explore.tape import Lenient

if TYPE_CHECKING:
    from stressvm.kernel.driver import Driver


@dataclass(frozen=True, slots=True)
class Flip:
    """One decision against the default, undone.

    Attributes:
        decision: its place in the schedule.
        step: the step that it decided.
        preempting: it was a preemption.
        then: the kind of finding with the decision undone, or None for a clean execution.
        same: the same bug shows all the same.
    """

    decision: int
    step: int
    preempting: bool
    then: str | None
    same: bool


async def flips(subject: Subject, driver: Driver, recording: Recording) -> tuple[Flip, ...]:
    """Undo every decision against the default in turn, the rest of the schedule kept where it still applies."""
    assert recording.verdict is not None
    fingerprint = recording.verdict.fingerprint
    preempted = {record.step for record in recording.records if record.preempted}
    found = []
    for at, choice in enumerate(recording.choices):
        if not choice:
            continue
        tape = Lenient((*recording.choices[:at], 0, *recording.choices[at + 1 :]))
        verdict = await execute(subject, driver, tape)
        driver.unwind()
        step = recording.decided[at]
        found.append(
            Flip(
                at,
                step,
                step in preempted,
                verdict.kind if verdict is not None else None,
                shows(verdict, fingerprint),
            )
        )
    return tuple(found)

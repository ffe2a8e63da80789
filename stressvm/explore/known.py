"""Bugs that earlier hunts have found: their schedules are run before anything else.

A schedule that still shows its bug is a finding at once, with no hunting. One that runs clean is not proof, for the code
may have changed so that the decisions mean something else; so a bug counts as fixed when the hunt that follows has not
found it either. The decisions are read leniently, and it is noted whether they still fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stressvm.check.detectors import DETECTORS

if TYPE_CHECKING:
    from stressvm.explore.execution import Subject
    from stressvm.explore.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Known:
    """A bug that an earlier hunt has found.

    Attributes:
        kind, fingerprint, text: what it was.
        schedule: the simplest that showed it.
        fewest: no schedule with fewer preemptions showed it.
        note: how it was come by.
        told: that it is fixed has been said before.
    """

    kind: str
    fingerprint: str
    text: str
    schedule: Schedule
    fewest: bool = False
    note: str = ""
    told: bool = False

    def concerns(self, subject: Subject) -> bool:
        """Would it be an undeclared finding of a hunt in this subject? Only those are looked for again."""
        scenario = subject.scenario
        if self.kind == scenario.expect or self.kind in scenario.tolerate:
            return False
        brought = {detector.kind for detector in scenario.checks if not isinstance(detector, str)}
        looked_for = brought | {DETECTORS[name].kind for name in subject.asked}
        return self.kind in looked_for or all(self.kind != entry.kind for entry in DETECTORS.values())


@dataclass(frozen=True, slots=True)
class Quiet:
    """A known bug that its schedule does not show any more; `fits`: its decisions could all be made as they were."""

    known: Known
    fits: bool

"""What a hunt ends with is as simple as it gets: for every scenario that declares a bug."""

from __future__ import annotations

from typing import Final

import pytest

from stressvm.explore.execution import Subject, execute
from stressvm.explore.hunt import Settings, hunt_subject
from stressvm.explore.loading import select
from stressvm.explore.tape import Lenient
from tests.support import in_trio, opened

DECLARED: Final = {scenario.name: scenario for scenario in select([]) if scenario.expect is not None}

#: Where the search for a schedule with fewer preemptions does not come to its end within the steps that a hunt gives it, or
#: leaves out unfair ones.
UNTOLD: Final = {
    "inspect_bounded_buffer",
    "interlocked_work_steal_queue",
    "interlocked_work_steal_queue_with_state",
    "lw_04_release_in_two_steps",
    "netbsd6_wired_halves",
    "peterson_broken",
    "st_03_spinner_bit_cleared",
    "st_04_handoff_left_behind",
    "st_06_scan_hogs_the_lock",
    "state_work_steal_queue",
    "ticket_lock_broken",
    "ws_01_sf_buf_one_woken",
}


@pytest.mark.parametrize("name", list(DECLARED))
def test_no_preemption_can_go(name: str) -> None:
    scenario = DECLARED[name]
    subject = Subject(scenario, scenario.resolve({}))
    result = in_trio(lambda: hunt_subject(subject, Settings()))
    (finding,) = result.findings
    best = finding.recording
    assert not finding.shrunk.cut

    async def others() -> list[tuple[str, int]]:
        """What the same schedule gives without one of its decisions against the default."""
        found = []
        async with opened(subject.kernel(), "stepped") as driver:
            for at, choice in enumerate(best.choices):
                if not choice:
                    continue
                tape = Lenient((*best.choices[:at], 0, *best.choices[at + 1 :]))
                verdict = await execute(subject, driver, tape)
                driver.unwind()
                found.append((verdict.fingerprint if verdict is not None else "", sum(tape.preempting)))
        return found

    assert all(
        fingerprint != finding.fingerprint or preemptions >= best.preemptions
        for fingerprint, preemptions in in_trio(others)
    )
    assert finding.shrunk.fewest == (name not in UNTOLD)

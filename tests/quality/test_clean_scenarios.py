"""No detector says anything of a scenario that declares nothing: every one of them looks at every clean scenario that is shipped.

And none of them is silent for want of anything to say: what each finds when its subject is broken is in
test_detectors_in_hunts.py and in the tests of its own.
"""

from __future__ import annotations

import pytest

from stressvm.check.detectors import DETECTORS, Asked
from stressvm.explore.execution import Subject, execute
from stressvm.explore.loading import select, shipped_folder
from stressvm.explore.random_walk import RandomWalk
from stressvm.kernel.stepped import stepped
from tests.support import in_trio

CLEAN = {scenario.name: scenario for scenario in select([str(shipped_folder())]) if scenario.expect is None}

EXECUTIONS = 12

#: The strictest rules of lock order are not part of `all`; what they say of clean scenarios is in test_lock_detectors.py.
ASKED = [name for name, entry in DETECTORS.items() if entry.asked is not Asked.NAMED]


@pytest.mark.parametrize("name", CLEAN)
def test_they_say_nothing_of_what_is_clean(name: str) -> None:
    scenario = CLEAN[name]
    subject = Subject(scenario, dict(scenario.params), ("all",))
    assert set(ASKED) <= set(subject.asked) | {check.kind for check in scenario.checks if not isinstance(check, str)}

    async def main() -> list[str]:
        said = []
        async with stepped(subject.kernel()) as driver:
            strategy = RandomWalk(1)
            for number in range(EXECUTIONS):
                verdict = await execute(subject, driver, strategy, number)
                said += [f"{one.kind}: {one.text}" for one in verdict.all] if verdict is not None else []
                driver.unwind()
        return said

    assert in_trio(main) == []


def test_there_are_scenarios_of_every_kernel_and_twins_of_every_historical_bug() -> None:
    assert len(CLEAN) >= 80
    assert sum(name.startswith("freebsd") for name in CLEAN) >= 10
    assert sum(name.startswith("netbsd") for name in CLEAN) >= 10

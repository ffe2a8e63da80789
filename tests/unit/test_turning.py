"""When a bug became inevitable, and the smallest change of the schedule that avoids it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Atomic, Cell, Kernel, Mutex
from stressvm.explore.execution import execute, record
from stressvm.explore.flips import flips
from stressvm.explore.tape import Lenient
from stressvm.explore.turning import Turning, turning_point
from stressvm.report.facts import avoided, turning_facts
from tests.support import in_trio, opened, subject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stressvm.explore.execution import Recording


def _turning(build: Callable[[Kernel], None], choices: Sequence[int]) -> tuple[Turning, Recording]:
    what = subject(build)

    async def main() -> tuple[Turning, Recording]:
        async with opened(what.kernel(), "stepped") as driver:
            recording = await record(what, driver, Lenient(choices))
            assert recording.verdict is not None
            matter = await flips(what, driver, recording)
            found = await turning_point(what, driver, recording, matter)
            if found.choices:
                # What is said to end well does.
                assert await execute(what, driver, Lenient(found.choices)) is None
                driver.unwind()
        return found, recording

    result: tuple[Turning, Recording] = in_trio(main)
    return result


def _deadlock(k: Kernel) -> None:
    a, b = Mutex(k, "a"), Mutex(k, "b")
    cell = Atomic(k, 0, "cell")

    async def takes(first: Mutex, second: Mutex) -> None:
        await cell.load()
        await first.lock()
        await second.lock()
        await cell.load()
        await second.unlock()
        await first.unlock()

    k.spawn(takes, a, b, name="ab")
    k.spawn(takes, b, a, name="ba")


def test_two_locks_in_two_orders_are_a_deadlock_as_soon_as_each_has_one() -> None:
    # ab: load, lock a; then ba runs: load, lock b.
    turning, recording = _turning(_deadlock, (0, 0, 1))
    assert turning.decision is not None
    step = recording.records[turning.step]
    assert (recording.names()[step.thread], step.kind, step.obj) == ("ba", "lock", "b")
    assert turning.changes == 1
    text = avoided(recording, turning)
    assert "ba: lock b" in text
    assert "The smallest change of the schedule that avoids it" in text
    facts = turning_facts(turning)
    assert facts is not None
    assert facts["step"] == turning.step


def test_what_happens_in_every_schedule_was_inevitable_from_the_beginning() -> None:
    def build(k: Kernel) -> None:
        cell = Cell(k, 0, "cell")

        async def fails() -> None:
            await cell.load()
            raise AssertionError("always")

        k.spawn(fails)
        k.spawn(cell.load)

    turning, recording = _turning(build, (0,))
    assert turning.decision is None
    assert turning.tried > 1
    assert "from the beginning" in avoided(recording, turning)


def test_a_data_choice_may_be_the_turning_point() -> None:
    def build(k: Kernel) -> None:
        cell = Cell(k, 0, "cell")

        async def rolls() -> None:
            await cell.load()
            rolled = k.choose(6)
            await cell.load()
            assert rolled != 5

        k.spawn(rolls)

    turning, recording = _turning(build, (5,))
    assert turning.decision == 0
    assert turning.changes == 1
    assert len(turning.choices) == 1
    assert recording.choices == (5,)


def test_the_search_depends_on_the_execution_alone() -> None:
    assert _turning(_deadlock, (0, 0, 1))[0] == _turning(_deadlock, (0, 0, 1))[0]

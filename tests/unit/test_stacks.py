"""Stacks of given steps, from a repetition of the execution."""

from __future__ import annotations

import pytest

from stressvm import CondVar, Kernel, Mutex
from stressvm.check.lock_order import LockOrder
from stressvm.explore.execution import execute
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.stacks import stacks_at
from stressvm.kernel.errors import ReplayDiverged
from tests.support import DRIVERS, in_trio, opened, subject


def world(k: Kernel) -> None:
    a, b, m, cv = Mutex(k, "a"), Mutex(k, "b"), Mutex(k, "m"), CondVar(k, "cv")

    async def innermost(lock: Mutex) -> None:
        await lock.lock()

    async def up() -> None:
        await a.lock()
        await innermost(b)
        await b.unlock()
        await a.unlock()

    async def down() -> None:
        await b.lock()
        await innermost(a)
        await a.unlock()
        await b.unlock()

    async def sleeper() -> None:
        await m.lock()
        await cv.timedwait(m, 5)
        await m.unlock()

    k.spawn(up)
    k.spawn(down)
    k.spawn(sleeper)


@pytest.mark.parametrize("driver", DRIVERS)
def test_both_stacks_of_a_reversal(driver: str) -> None:
    what = subject(world)

    async def main() -> list[list[str]]:
        async with opened(what.kernel(), driver) as made:
            k = made.k
            strategy = RandomWalk(1)
            for number in range(20):
                verdict = await execute(what, made, strategy, number)
                picks = list(k.picks)
                found = LockOrder().observe(k.trace, k.threads) if verdict is None else ()
                made.unwind()
                if found:
                    steps = [step for seen in found[0].seen for step in (seen.first_step, seen.step)]
                    stacks = await stacks_at(what, made, picks, steps)
                    assert set(stacks) == set(steps)
                    return [[frame.function.split(".")[-1] for frame in stacks[step]] for step in steps]
        return []

    found = in_trio(main)
    assert sorted(found) == [
        ["down", "innermost", "lock"],
        ["down", "lock"],
        ["up", "innermost", "lock"],
        ["up", "lock"],
    ]
    assert found[0] == [*found[1][:1], "lock"]


def test_steps_that_are_not_come_to_and_schedules_that_do_not_fit() -> None:
    what = subject(world)

    async def main() -> None:
        async with opened(what.kernel(), "stepped") as made:
            k = made.k
            await execute(what, made, RandomWalk(1), 0)
            picks, length = list(k.picks), len(k.trace)
            made.unwind()
            assert set(await stacks_at(what, made, picks, [0, length - 1, length, 10_000])) == {0, length - 1}
            with pytest.raises(ReplayDiverged):
                await stacks_at(what, made, picks[:3], [0])
            # And the driver serves on.
            assert set(await stacks_at(what, made, picks, [1])) == {1}

    in_trio(main)

"""A look aside races with nobody, and is a use all the same: searches try both orders."""

from __future__ import annotations

import pytest

from stressvm import Field, Kernel, Mutex
from stressvm.check.races import Races
from stressvm.explore.dpor import DPOR
from stressvm.explore.execution import execute
from stressvm.explore.random_walk import RandomWalk
from stressvm.kernel.aside import Aside
from tests.partial_orders import explored
from tests.support import in_trio, opened, subject


def build(k: Kernel, *, aside: bool, write: bool = True) -> None:
    field = Field(k, "data")
    lock, other = Mutex(k, "lock"), Mutex(k, "other")

    async def changes() -> None:
        await lock.lock()
        if write:
            field.write()
        await lock.unlock()

    async def looks() -> None:
        await other.lock()
        if aside:
            with Aside(k):
                field.read()
        else:
            field.read()
        await other.unlock()

    k.spawn(changes)
    k.spawn(looks)


def raced(*, aside: bool) -> int:
    what = subject(lambda k: build(k, aside=aside))

    async def main() -> int:
        async with opened(what.kernel(), "stepped") as driver:
            await execute(what, driver, RandomWalk(1), 0)
            found = len(Races().look(driver.k))
            driver.unwind()
        return found

    found: int = in_trio(main)
    return found


def test_it_races_with_nobody() -> None:
    assert raced(aside=False) == 1
    assert raced(aside=True) == 0


@pytest.mark.parametrize("aside", [False, True])
def test_both_orders_are_explored(aside: bool) -> None:  # noqa: FBT001 - pytest passes it so
    assert explored(lambda k: build(k, aside=aside), DPOR()).executions == 2
    assert explored(lambda k: build(k, aside=aside, write=False), DPOR()).executions == 1


def test_nothing_is_noted_where_nothing_is_looked_at() -> None:
    k = Kernel()
    with Aside(k):
        pass
    assert k.asides == []

"""Which schedules are fair, told from the trace alone; and whose fault a livelock is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Atomic, Cell, CondVar, Kernel, Mutex, Rw, RwLock
from stressvm.check.fairness import blame, fair_until, selfish
from stressvm.explore.fair import Fair
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.tape import Lenient
from stressvm.report.explain import explain
from tests.support import in_trio, opened, run, subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.strategy import Strategy


def _after(
    build: Callable[[Kernel], None], strategy: Strategy, see: Callable[[Kernel], object], n: int = 1, **settings: int
) -> list[object]:
    what = subject(build, **settings)  # type: ignore[arg-type]
    found: list[object] = []

    async def main() -> None:
        async with opened(what.kernel(), "stepped") as driver:
            for number in range(n):
                strategy.begin(number)
                driver.k.reset(strategy)
                what.scenario.build(driver.k)
                driver.k.start()
                await driver.run()
                found.append(see(driver.k))
                driver.unwind()

    in_trio(main)
    return found


def _yields(k: Kernel) -> None:
    cell = Cell(k, 0, "cell")

    async def yields() -> None:
        for _ in range(4):
            await k.yield_()
            await cell.load()

    for _ in range(3):
        k.spawn(yields)


def _locks(k: Kernel) -> None:
    mutex, rw = Mutex(k, "m"), RwLock(k, "rw")

    async def user(how: Rw) -> None:
        for _ in range(3):
            await mutex.lock()
            await k.yield_()
            await mutex.unlock()
            await rw.enter(how)
            await k.yield_()
            await rw.exit()

    k.spawn(user, Rw.READER)
    k.spawn(user, Rw.READER)
    k.spawn(user, Rw.WRITER)


def _sleeps(k: Kernel) -> None:
    mutex, cv, ready = Mutex(k, "m"), CondVar(k, "cv"), Cell(k, 0, "ready")

    async def waits() -> None:
        await mutex.lock()
        while not ready.peek():
            await cv.timedwait(mutex, 3)
        await mutex.unlock()

    async def spins() -> None:
        while not ready.peek():
            await k.yield_()

    async def gives() -> None:
        await k.yield_()
        await mutex.lock()
        ready.poke(1)
        await cv.broadcast()
        await mutex.unlock()

    k.spawn(waits)
    k.spawn(waits)
    k.spawn(spins)
    k.spawn(gives)


@pytest.mark.parametrize("build", [_yields, _locks, _sleeps])
def test_what_fair_scheduling_makes_is_fair_and_what_chance_makes_often_is_not(build: Callable[[Kernel], None]) -> None:
    def whole(k: Kernel) -> bool:
        return fair_until(k) == len(k.trace)

    assert all(_after(build, Fair(RandomWalk(1)), whole, 60))
    assert not all(_after(build, RandomWalk(1), whole, 60))


def _spinning(gives_way: bool) -> Callable[[Kernel], None]:  # noqa: FBT001 - the two cases
    """One waits for another that never does what it waits for."""

    def build(k: Kernel) -> None:
        ready = Atomic(k, 0, "ready")

        async def waits() -> None:
            while not await ready.load():
                if gives_way:
                    await k.yield_()

        async def other() -> None:
            while not ready.peek():
                await k.yield_()

        k.spawn(waits, name="waits")
        k.spawn(other, name="other")

    return build


def test_who_never_gives_way_is_blamed() -> None:
    (found,) = _after(_spinning(gives_way=False), Lenient([0] * 500), lambda k: (blame(k), selfish(k)), max_steps=300)
    assert found == (
        "waits took 150 steps without giving way to anybody: whoever waits for others must yield or sleep",
        (0, 300),
    )


def test_a_schedule_that_is_unfair_is_blamed_and_not_the_program() -> None:
    (text,) = _after(_spinning(gives_way=True), Lenient([0] * 500), blame, max_steps=300)
    assert "the schedule is unfair from step" in str(text)
    assert "where waits goes on" in str(text)


def test_where_all_give_way_and_have_their_turns_nobody_gets_on() -> None:
    (text,) = _after(_spinning(gives_way=True), Fair(Lenient([0] * 500)), blame, max_steps=300)
    assert text == "every thread gives way, all have their turns, and none gets on"


def test_the_explanation_of_a_livelock_says_whose_fault_it_is() -> None:
    recording = run(_spinning(gives_way=False), [0] * 500, max_steps=300)
    assert recording.verdict is not None
    assert recording.verdict.kind == "livelock"
    assert "Why it does not end:\n  Waits took 150 steps without giving way" in explain(recording, ())

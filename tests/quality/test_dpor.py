"""Optimal partial order reduction: exact numbers of executions, real schedules, honest ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Atomic, Cell, CondVar, Fifo, Kernel, Mutex, Timers
from stressvm.check.happens_before import class_of
from stressvm.explore.bpor import BoundedPOR
from stressvm.explore.dfs import DFS
from stressvm.explore.dpor import DPOR
from stressvm.explore.execution import execute
from stressvm.explore.stepwise import ALTERNATIVES_MAX
from stressvm.explore.tape import Follow
from stressvm.kernel.errors import ReplayDiverged, UsageError
from stressvm.kernel.every_step import EveryStepKernel
from tests.model.small_maps import LONG
from tests.partial_orders import explored
from tests.support import DRIVERS, in_trio, opened, subject

if TYPE_CHECKING:
    from collections.abc import Callable

    Build = Callable[[Kernel], None]


def sections(threads: int, count: int) -> Build:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")

        async def thread() -> None:
            for _ in range(count):
                await m.lock()
                await m.unlock()

        for _ in range(threads):
            k.spawn(thread)

    return build


def orders(threads: int, count: int) -> int:
    """In how many orders so many sections of each thread can be passed."""
    return math.comb(threads * count, count) * orders(threads - 1, count) if threads else 1


@pytest.mark.parametrize(("threads", "count"), [(1, 5), (2, 1), (2, 3), (3, 1), (3, 2), (3, 3), (4, 1)])
def test_locked_sections_have_one_execution_for_each_order(threads: int, count: int) -> None:
    search = DPOR()
    found = explored(sections(threads, count), search, repeat=False)
    assert found.exhausted
    assert found.executions == len(found.classes) == orders(threads, count)
    assert search.blocked == 0
    assert search.bounds == ""


@pytest.mark.skipif(not LONG, reason="takes some seconds; set STRESSVM_LONG=1")
def test_four_sections_of_three_threads() -> None:
    found = explored(sections(3, 4), DPOR(), limit=40_000, repeat=False)
    assert found.exhausted
    assert found.executions == orders(3, 4) == 34_650


def test_what_nobody_shares_has_one_execution() -> None:
    def build(k: Kernel) -> None:
        cells = [Cell(k, 0) for _ in range(3)]

        async def thread(cell: Cell[int]) -> None:
            for n in range(4):
                await cell.store(n)
                await k.yield_()

        for cell in cells:
            k.spawn(thread, cell)

    assert explored(build, DPOR()).executions == 1


def test_loads_commute_and_stores_do_not() -> None:
    def build(k: Kernel) -> None:
        cell = Cell(k, 0)

        async def load() -> None:
            await cell.load()

        async def store() -> None:
            await cell.store(1)

        for _ in range(4):
            k.spawn(load)
        k.spawn(store)

    assert explored(build, DPOR()).executions == 2**4


def abba(k: Kernel) -> None:
    a, b = Mutex(k, "a"), Mutex(k, "b")

    async def thread(first: Mutex, second: Mutex) -> None:
        await first.lock()
        await second.lock()
        await second.unlock()
        await first.unlock()

    k.spawn(thread, a, b)
    k.spawn(thread, b, a)


def test_a_deadlock_is_one_of_three_classes() -> None:
    found = explored(abba, DPOR())
    assert found.executions == 3
    assert found.kinds == {None, "deadlock"}


def test_a_lost_wakeup_is_found_among_all_that_there_is() -> None:
    def build(k: Kernel) -> None:
        m, cv, ready = Mutex(k, "m"), CondVar(k, "cv"), Cell(k, False)

        async def wait() -> None:
            await m.lock()
            if not ready.peek():
                await m.unlock()
                await m.lock()
                await cv.wait(m, until=ready.peek)
            await m.unlock()

        async def wake() -> None:
            await m.lock()
            ready.poke(True)
            await cv.signal()
            await m.unlock()

        k.spawn(wait)
        k.spawn(wake)

    found = explored(build, DPOR())
    assert found.exhausted
    assert found.kinds == {None, "lost-wakeup"}
    assert found.classes == dict.fromkeys(explored(build, DFS()).classes, 1)


@pytest.mark.parametrize("driver", DRIVERS)
def test_its_executions_can_be_repeated_by_their_picks(driver: str) -> None:
    """Forced steps are no decisions: a plain kernel needs exactly what was noted."""
    what = subject(sections(3, 2))

    async def main() -> None:
        search = DPOR()
        async with opened(what.kernel(every_step=True), driver) as asked, opened(what.kernel(), driver) as plain:
            number = 0
            while not search.exhausted:
                await execute(what, asked, search, number)
                number += 1
                picks, trace = tuple(asked.k.picks), [(t, op.kind, arg) for t, op, arg in asked.k.trace]
                asked.unwind()
                await execute(what, plain, Follow(picks))
                assert [(t, op.kind, arg) for t, op, arg in plain.k.trace] == trace
                assert tuple(plain.k.picks) == picks
                plain.unwind()
            assert number == 90

    in_trio(main)


def test_both_drivers_do_the_same() -> None:
    what = subject(abba)

    async def main() -> list[Any]:
        found = []
        for driver in DRIVERS:
            search = DPOR()
            async with opened(what.kernel(every_step=True), driver) as made:
                number = 0
                while not search.exhausted:
                    await execute(what, made, search, number)
                    number += 1
                    found.append((tuple(made.k.picks), class_of(made.k)))
                    made.unwind()
        return found

    found = in_trio(main)
    assert len(found) == 6
    assert found[:3] == found[3:]


# ---------------------------------------------------------------- what it says of itself


def test_it_counts_by_ones_and_ends() -> None:
    search = DPOR()
    found = explored(abba, search)
    assert found.exhausted
    with pytest.raises(UsageError, match="after 2, the last"):
        search.begin(3)
    search.begin(0)
    with pytest.raises(UsageError, match="goes on by ones"):
        search.begin(2)
    assert explored(abba, search).classes == found.classes, "0 starts it anew"


@pytest.mark.parametrize("search", [DPOR(), BoundedPOR(1)], ids=["dpor", "bounded"])
def test_a_plain_kernel_is_refused(search: Any) -> None:
    what = subject(abba)

    async def main() -> None:
        async with opened(what.kernel(), "stepped") as driver:
            await execute(what, driver, search, 0)

    with pytest.raises(UsageError, match="EveryStepKernel"):
        in_trio(main)


def test_executions_cut_short_are_a_bound() -> None:
    def build(k: Kernel) -> None:
        cell = Cell(k, 0)

        async def thread() -> None:
            while True:
                await cell.load()

        k.spawn(thread)

    search = DPOR()
    found = explored(build, search, max_steps=20)
    assert found.kinds == {"livelock"}
    assert search.bounds == "at most 20 steps"


def test_a_choice_among_too_many_is_refused() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            k.choose(ALTERNATIVES_MAX + 1)

        k.spawn(thread)

    with pytest.raises(UsageError, match="cannot all be explored"):
        explored(build, DPOR())


def test_choices_are_all_explored_also_before_the_first_step() -> None:
    def build(k: Kernel) -> None:
        chosen = [k.choose(2)]

        async def thread() -> None:
            chosen.append(k.choose(3))
            await k.yield_()
            chosen.append(k.choose(2))
            k.record(did=tuple(chosen))

        k.spawn(thread)

    found = explored(build, DPOR())
    assert found.executions == 12
    assert len(found.outcomes) == 12


def unprotected(k: Kernel) -> None:
    """A counter in no kernel object, and nothing that protects it."""
    count = [0]

    async def thread() -> None:
        await k.yield_()
        seen = count[0]
        await k.yield_()
        count[0] = seen + 1
        k.record(count=count[0])

    k.spawn(thread)
    k.spawn(thread)


def test_state_outside_the_kernels_objects_is_noticed() -> None:
    with pytest.raises(UsageError, match=r"operation 2, and in another order.*Threads share something") as refused:
        explored(unprotected, DPOR())
    assert "thread1" in str(refused.value) or "thread0" in str(refused.value)


def test_state_that_changes_only_the_verdict_is_noticed() -> None:
    def build(k: Kernel) -> None:
        order: list[int] = []

        async def thread(number: int) -> None:
            await k.yield_()
            order.append(number)
            await k.yield_()
            assert len(order) < 2 or order == [0, 1]

        k.spawn(thread, 0)
        k.spawn(thread, 1)

    with pytest.raises((UsageError, ReplayDiverged), match="Threads share something"):
        explored(build, DPOR())


def test_state_that_decides_who_goes_on_is_noticed() -> None:
    def build(k: Kernel) -> None:
        first: list[int] = []

        async def thread(number: int) -> None:
            await k.yield_()
            first.append(number)
            if first[0] == number:
                await k.yield_()

        k.spawn(thread, 0)
        k.spawn(thread, 1)

    with pytest.raises((UsageError, ReplayDiverged), match="Threads share something"):
        explored(build, DPOR())


def test_what_the_search_cannot_know_is_said() -> None:
    search = DPOR()
    explored(abba, search)
    assert search.provided.startswith("provided that threads share nothing but kernel objects")
    assert f"({search.repeated} executions agreed" in search.provided
    assert search.repeated >= 1


def test_asking_for_the_time_under_anytime_is_said() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            await k.delay(3)
            k.record(now=k.now)

        k.spawn(thread)

    search = DPOR()
    explored(build, search, timers=Timers.ANYTIME)
    assert "time" in search.provided
    explored(build, search, timers=Timers.IDLE)
    assert "time" not in search.provided


# ---------------------------------------------------------------- bounded


@pytest.mark.parametrize("bound", [0, 1, 2, 3])
def test_within_a_bound_all_schedules_are_covered(bound: int) -> None:
    def build(k: Kernel) -> None:
        cell = Atomic(k, 0)

        async def thread() -> None:
            seen = await cell.load()
            await cell.store(seen + 1)

        for _ in range(3):
            k.spawn(thread)

    search = BoundedPOR(bound)
    found = explored(build, search)
    assert found.exhausted
    assert search.bounds == f"at most {bound} preemption{'' if bound == 1 else 's'}"
    lost = {value for outcomes in found.outcomes.values() for *_, cells in outcomes for _, value in cells}
    assert lost == ({3} if bound == 0 else {1, 2, 3})


def test_a_negative_bound_is_refused() -> None:
    with pytest.raises(UsageError, match="0 is the fewest"):
        BoundedPOR(-1)


def test_the_kernel_that_asks_at_every_step_makes_the_same_decisions() -> None:
    assert type(subject(abba).kernel()) is Kernel
    assert type(subject(abba).kernel(every_step=True)) is EveryStepKernel


def test_forecasts_that_fail_lose_nothing_and_are_said() -> None:
    """The one who gets a queued lock at once pokes the cell in the same step; the one who has to queue does not."""

    def build(k: Kernel) -> None:
        m, cell = Mutex(k, "m", Fifo()), Cell(k, 0, "cell")

        async def section() -> None:
            await m.lock()
            cell.poke(cell.peek() + 1)
            await m.unlock()

        async def attempt() -> None:
            if await m.trylock():
                await m.unlock()

        async def store() -> None:
            await cell.store(4)

        k.spawn(attempt)
        k.spawn(section)
        k.spawn(store)

    search = DPOR()
    assert explored(build, search).outcomes == explored(build, DFS()).outcomes
    assert "of which no proof is known" in search.provided
    assert search.blocked == 0

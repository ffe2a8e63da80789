"""Depth-first search: as many executions as arithmetic says, each once, in order, and an end."""

from __future__ import annotations

from math import comb, factorial, prod
from typing import TYPE_CHECKING

import pytest

from stressvm import Atomic, CondVar, Kernel, Mutex, Semaphore, Timers, UsageError
from stressvm.explore.dfs import DFS
from stressvm.explore.execution import execute, record
from stressvm.explore.tape import Follow
from stressvm.kernel.errors import ReplayDiverged
from tests.support import Ending, Step, ending, every, in_trio, opened, subject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Build = Callable[[Kernel], None]

LIMIT = 20_000


def searched(build: Build, search: DFS | None = None, *, driver: str = "stepped", **settings: object) -> list[Ending]:
    """All executions; fails where the search does not end."""
    what = subject(build, **settings)  # type: ignore[arg-type]  # as given by name
    search = search or DFS()

    async def main() -> list[Ending]:
        endings: list[Ending] = []
        async with opened(what.kernel(), driver) as made:
            while not search.exhausted:
                assert len(endings) < LIMIT
                endings.append(await ending(what, made, search, len(endings)))
        return endings

    endings: list[Ending] = in_trio(main)
    assert search.exhausted
    assert len({one.picks for one in endings}) == len(endings)
    return endings


def multinomial(counts: Sequence[int]) -> int:
    """The orders of so many steps of each thread."""
    return factorial(sum(counts)) // prod(map(factorial, counts))


def storing(counts: Sequence[int]) -> Build:
    """Threads that store so often."""

    def build(k: Kernel) -> None:
        cell = Atomic(k, 0, "n")

        async def thread(times: int) -> None:
            for _ in range(times):
                await cell.store(times)

        for times in counts:
            k.spawn(thread, times)

    return build


@pytest.mark.parametrize(
    "counts", [(1, 1), (3, 3), (5, 2), (2, 2, 2), (3, 3, 3), (1, 2, 3), (1, 1, 1, 1), (2, 2, 1, 1)]
)
def test_independent_threads_are_interleaved_in_every_way(counts: tuple[int, ...]) -> None:
    assert len(searched(storing(counts))) == multinomial(counts)


@pytest.mark.parametrize(("threads", "sections"), [(2, 1), (2, 4), (3, 1), (3, 2), (3, 3), (4, 1)])
def test_sections_under_one_lock_are_ordered_in_every_way(threads: int, sections: int) -> None:
    def build(k: Kernel) -> None:
        mutex = Mutex(k, "m")

        async def thread() -> None:
            for _ in range(sections):
                await mutex.lock()
                await mutex.unlock()

        for _ in range(threads):
            k.spawn(thread)

    # A lock ends a section's step; between an unlock and the next lock there is nothing to switch.
    assert len(searched(build)) == multinomial([sections] * threads)


def test_a_lone_thread_has_one_execution() -> None:
    (only,) = searched(storing([7]))
    assert only.picks == ()


def test_data_choices_multiply() -> None:
    def build(k: Kernel) -> None:
        cell = Atomic(k, 0, "n")

        async def thread(ways: Sequence[int]) -> None:
            for n in ways:
                k.record(did=k.choose(n))
                await cell.store(n)

        k.choose(2)
        k.spawn(thread, (3, 1))
        k.spawn(thread, (2, 4))

    # A choice before a thread's first step, too: threads are brought there one after the other.
    endings = searched(build)
    assert len(endings) == 2 * (3 * 1) * (2 * 4) * multinomial((2, 2))
    first, second = endings[0], endings[1]
    assert first.picks[:3] == (0, 0, 0)
    assert first.picks[:-1] == second.picks[:-1]


def test_the_number_of_steps_may_depend_on_what_was_chosen() -> None:
    def build(k: Kernel) -> None:
        cell = Atomic(k, 0, "n")

        async def thread() -> None:
            await cell.load()
            for _ in range(k.choose(4)):
                await cell.fetchadd(1)

        k.spawn(thread)
        k.spawn(thread)

    # Of one thread and of the other 0 to 3 steps follow the first.
    assert len(searched(build)) == sum(comb(2 + a + b, 1 + a) for a in range(4) for b in range(4))


def delaying(ticks: Sequence[int]) -> Build:
    def build(k: Kernel) -> None:
        async def thread(t: int) -> None:
            await k.delay(t)

        for t in ticks:
            k.spawn(thread, t)

    return build


@pytest.mark.parametrize("timers", [Timers.IDLE, Timers.NEVER])
@pytest.mark.parametrize(("ticks", "orders"), [((1, 2, 3), 1), ((2, 1, 2), 2), ((4, 4, 4), 6), ((1, 1, 2, 2), 4)])
def test_delays_end_in_order_and_those_of_one_tick_in_any(timers: Timers, ticks: tuple[int, ...], orders: int) -> None:
    assert len(searched(delaying(ticks), timers=timers)) == orders


def test_delays_may_end_at_any_time_in_any_order() -> None:
    assert len(searched(delaying((1, 2, 3)), timers=Timers.ANYTIME)) == factorial(3)


def sleeping(sleepers: int, wakers: int) -> Build:
    """Threads that sleep, unless they are too late, for a tick at most; others signal."""

    def build(k: Kernel) -> None:
        mutex, cv = Mutex(k, "m"), CondVar(k, "cv", timeout_signals=False)

        async def sleeper() -> None:
            await mutex.lock()
            woken = await cv.timedwait(mutex, 1)
            k.record(did=woken.name)
            await mutex.unlock()

        async def waker() -> None:
            await cv.signal()

        for _ in range(sleepers):
            k.spawn(sleeper)
        for _ in range(wakers):
            k.spawn(waker)

    return build


def test_a_timed_sleep_under_every_kind_of_timer() -> None:
    # The signal comes before the lock, before the sleep, or in time; only then does it wake.
    never = searched(sleeping(1, 1), timers=Timers.NEVER)
    assert sorted((one.kind or "", len(one.said)) for one in never) == [("", 1), ("stranded", 0), ("stranded", 0)]
    idle = searched(sleeping(1, 1), timers=Timers.IDLE)
    assert sorted(one.said[0].split()[1] for one in idle) == ["TIMEOUT", "TIMEOUT", "WOKEN"]
    anytime = searched(sleeping(1, 1), timers=Timers.ANYTIME)
    # The signal before any of the five steps of a timeout, or after them: woken if it is between sleep and timeout.
    assert sorted(one.said[0].split()[1] for one in anytime) == ["TIMEOUT"] * 5 + ["WOKEN"]


@pytest.mark.parametrize("timers", Timers)
@pytest.mark.parametrize("shape", [(2, 0), (2, 1), (1, 2)])
def test_timers_give_what_another_enumeration_gives(timers: Timers, shape: tuple[int, int]) -> None:
    build = sleeping(*shape)
    endings = searched(build, timers=timers)
    assert {one.picks for one in endings} == {one.picks for one in every(build, timers=timers)}
    assert len(endings) > 1


def crossing(k: Kernel) -> None:
    one, other = Mutex(k, "a"), Mutex(k, "b")

    async def thread(first: Mutex, second: Mutex) -> None:
        await first.lock()
        await second.lock()
        await second.unlock()
        await first.unlock()

    k.spawn(thread, one, other)
    k.spawn(thread, other, one)


def test_executions_that_end_in_a_deadlock_are_executions() -> None:
    endings = searched(crossing)
    stuck = [one for one in endings if one.kind == "deadlock"]
    # Both first locks in either order, and then nobody can go on.
    assert [len(one.steps) for one in stuck] == [2, 2]
    assert {one.picks for one in endings} == {one.picks for one in every(crossing)}
    assert {one.kind for one in endings} == {None, "deadlock"}


def test_the_order_is_that_of_schedules() -> None:
    """The first is all zeros; each is the next larger one, read as digits."""
    what = subject(crossing)
    picks = [one.picks for one in searched(crossing)]

    async def main() -> list[tuple[int, ...]]:
        async with opened(what.kernel(), "stepped") as driver:
            return [(await record(what, driver, Follow(one))).choices for one in picks]

    choices = in_trio(main)
    assert set(choices[0]) == {0}
    assert choices == sorted(choices)


def test_both_drivers_are_searched_alike() -> None:
    assert searched(crossing) == searched(crossing, driver="trio")
    assert searched(sleeping(1, 1), timers=Timers.ANYTIME) == searched(
        sleeping(1, 1), timers=Timers.ANYTIME, driver="trio"
    )


def test_a_panic_ends_an_execution_and_not_the_search() -> None:
    def build(k: Kernel) -> None:
        mutex = Mutex(k, "m")

        async def thread() -> None:
            if await mutex.trylock():
                await mutex.unlock()
            else:
                raise k.panic("taken")

        k.spawn(thread)
        k.spawn(thread)

    endings = searched(build)
    assert sum(one.kind == "panic" for one in endings) == 2
    assert {one.picks for one in endings} == {one.picks for one in every(build)}


def test_what_was_cut_short_is_in_the_bounds() -> None:
    def build(k: Kernel) -> None:
        flag = Atomic(k, 0, "flag")

        async def spin() -> None:
            while not await flag.load():
                pass

        async def raise_it() -> None:
            await flag.store(1)

        k.spawn(spin)
        k.spawn(raise_it)

    search = DFS()
    endings = searched(build, search, max_steps=10)
    assert search.bounds == "at most 10 steps"
    # The flag is raised after 0 to 9 looks, or not within ten steps.
    assert [one.kind for one in endings] == ["livelock", *[None] * 10]
    search = DFS()
    searched(crossing, search)
    assert search.bounds == ""


def test_it_goes_on_by_ones_and_starts_again_at_zero() -> None:
    what = subject(crossing)
    search = DFS()

    async def main() -> None:
        async with opened(what.kernel(), "stepped") as driver:
            first = await ending(what, driver, search, 0)
            second = await ending(what, driver, search, 1)
            with pytest.raises(UsageError, match="was asked for execution 5 after 1: it goes on by ones"):
                search.begin(5)
            with pytest.raises(UsageError, match="after 1"):
                search.begin(1)
            assert await ending(what, driver, search, 0) == first
            assert await ending(what, driver, search, 1) == second
            number = 1
            while not search.exhausted:
                number += 1
                await ending(what, driver, search, number)
            with pytest.raises(UsageError, match=f"after {number}, the last"):
                search.begin(number + 1)
            assert await ending(what, driver, search, 0) == first

    in_trio(main)


def test_what_decides_outside_the_kernel_is_noticed() -> None:
    """More threads, fewer alternatives, an earlier end: the same decisions must lead to the same place."""

    def world(change: Callable[[int], tuple[int, int, int]]) -> Build:
        serial = iter(range(100))

        def build(k: Kernel) -> None:
            threads, ways, steps = change(next(serial))
            units = Semaphore(k, 9, "units")

            async def thread() -> None:
                for _ in range(steps):
                    k.choose(ways)
                    await units.wait()

            for _ in range(threads):
                k.spawn(thread)

        return build

    steady = world(lambda _: (2, 2, 1))
    assert len(searched(steady)) == 2 * 2 * 2
    for change in (
        lambda serial: (2 + (serial == 3), 2, 1),
        lambda serial: (2, 2 + (serial == 3), 1),
        lambda serial: (2, 2, 2 - (serial == 3)),
    ):
        with pytest.raises(ReplayDiverged, match="not deterministic"):
            searched(world(change))


def test_an_execution_can_be_repeated_by_its_picks() -> None:
    what = subject(storing((2, 2)))

    async def main() -> None:
        search = DFS()
        async with opened(what.kernel(), "stepped") as driver:
            number = 0
            while not search.exhausted:
                await execute(what, driver, search, number)
                number += 1
                picks, trace = tuple(driver.k.picks), _plain(driver.k)
                driver.unwind()
                again = await ending(what, driver, Follow(picks), 0)
                assert again.steps == trace
        assert number == comb(4, 2)

    in_trio(main)


def _plain(k: Kernel) -> tuple[Step, ...]:
    return tuple((t, op.kind, op.obj.name, repr(arg)) for t, op, arg in k.trace)

"""What is learnt from a pilot: counts by origin, of threads that spawn and of pilots that end early; weights follow them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Cell, Kernel, Mutex
from stressvm.explore.execution import execute
from stressvm.explore.profile import Profile
from stressvm.explore.surw import SURW, RoleSURW
from stressvm.explore.tape import Lenient
from stressvm.explore.urw import URW
from tests.support import in_trio, opened, subject

if TYPE_CHECKING:
    from tests.support import Build


def _profile(build: Build, choices: tuple[int, ...] = ()) -> Profile:
    what = subject(build)

    async def main() -> Profile:
        async with opened(what.kernel(), "stepped") as driver:
            await execute(what, driver, Lenient(choices))
            try:
                return Profile(driver.k)
            finally:
                driver.unwind()

    found: Profile = in_trio(main)
    return found


def _family(k: Kernel) -> None:
    """A parent of two that each have a child; all store so many times: 3, 2, 1."""
    x = Cell(k, 0, "x")

    async def child() -> None:
        await x.store(1)

    async def middle() -> None:
        await x.load()
        k.spawn(child)
        await x.store(2)

    async def parent() -> None:
        await x.store(3)
        k.spawn(middle)
        await x.store(3)
        k.spawn(middle)
        await x.store(3)

    k.spawn(parent)


def test_steps_are_counted_for_each_origin_and_summed_over_descendants() -> None:
    profile = _profile(_family)
    by_function = sorted(zip(profile.functions, profile.steps, strict=True))
    names = [name.rpartition(".")[2] for name, _ in by_function]
    # A start is a step of a spawned thread.
    assert list(zip(names, (steps for _, steps in by_function), strict=True)) == [
        ("child", 2),
        ("child", 2),
        ("middle", 3),
        ("middle", 3),
        ("parent", 3),
    ]
    weights = profile.weights()
    assert weights[0] == 3 + 2 * (3 + 2)
    assert sorted(weights) == [2, 2, 5, 5, 13]
    assert sorted(profile.weights(0)) == [1, 1, 3, 3, 9]
    assert profile.weights(7) == [0] * 5
    assert profile.world == 1


def test_only_objects_that_are_written_and_used_by_two_are_shared() -> None:
    def build(k: Kernel) -> None:
        shared, read, own = Cell(k, 0, "shared"), Cell(k, 0, "read"), Cell(k, 0, "own")

        async def one() -> None:
            await own.store(1)
            await own.load()
            await read.load()
            await shared.load()

        async def other() -> None:
            await read.load()
            await shared.store(1)
            await shared.load()

        k.spawn(one)
        k.spawn(other)

    assert _profile(build).shared() == {0: 3}


def test_threads_that_a_deadlock_cut_short_are_taken_to_do_as_much_as_others_like_them() -> None:
    def build(k: Kernel) -> None:
        m, other = Mutex(k, "m"), Cell(k, 0, "n")

        async def keeper() -> None:
            await m.lock()
            await other.store(1)

        async def user() -> None:
            for _ in range(3):
                await m.lock()
                await m.unlock()

        k.spawn(user)
        k.spawn(keeper)
        k.spawn(user)

    profile = _profile(build)
    # User 0 ran to its end, keeper kept the lock, user 2 waits for ever.
    assert profile.steps == [6, 2, 6]
    assert profile.touched[2] == {0: 6}


def test_of_threads_cut_short_what_they_stand_before_counts_too() -> None:
    def build(k: Kernel) -> None:
        a, b = Mutex(k, "a"), Mutex(k, "b")

        async def thread(first: Mutex, second: Mutex) -> None:
            await first.lock()
            await second.lock()
            await second.unlock()
            await first.unlock()

        k.spawn(thread, a, b)
        k.spawn(thread, b, a)

    profile = _profile(build, (0, 1))
    assert profile.steps == [2, 2]
    assert profile.shared() == {0: 2, 1: 2}


class _Weights(URW):
    """URW that notes the weights at every pick."""

    __slots__ = ("looks",)

    def begin(self, number: int) -> None:
        super().begin(number)
        self.looks: list[list[int]] = []

    def pick(self, k: Kernel, mask: int) -> int:
        chosen = super().pick(k, mask)
        self.looks.append(list(self.weights))
        return chosen


def _executions(build: Build, strategy: Any, count: int) -> list[tuple[int, ...]]:
    """The orders in which threads did their steps, of that many executions; the pilot is not counted."""
    what = subject(build)

    async def main() -> list[tuple[int, ...]]:
        orders = []
        async with opened(what.kernel(), "stepped") as driver:
            for number in range(count + 1):
                assert await execute(what, driver, strategy, number) is None
                orders.append(tuple(t for t, op, _ in driver.k.trace if op.obj.number >= 0))
                driver.unwind()
        return orders[1:]

    found: list[tuple[int, ...]] = in_trio(main)
    return found


def test_what_a_spawned_thread_weighs_is_taken_from_its_parent() -> None:
    strategy = _Weights(1)
    for _ in range(20):
        _executions(_family, strategy, 1)
        totals = [sum(look) for look in strategy.looks]
        # In all 13 steps; each pick sees those not done yet, whoever they belong to.
        assert all(0 < total <= 13 for total in totals)
        assert totals == sorted(totals, reverse=True)
        for look in strategy.looks:
            assert all(weight > 0 for weight in look[:1]) or look[0] == 0


def test_weights_are_exact_to_the_end_where_the_counts_are() -> None:
    def build(k: Kernel) -> None:
        x = Cell(k, 0, "x")

        async def child() -> None:
            await x.store(1)
            await x.store(1)

        async def parent() -> None:
            await x.load()
            k.spawn(child)
            k.spawn(child)
            await x.load()

        k.spawn(parent)
        k.spawn(child)

    class Exact(_Weights):
        __slots__ = ("checked",)
        checked: int

        def pick(self, k: Kernel, mask: int) -> int:
            chosen = super().pick(k, mask)
            if self.number:
                done = Counter(t for t, op, _ in k.trace if op.obj.number >= 0)
                for t, weight in enumerate(self.weights):
                    th = k.threads[t]
                    own = 2 - done[t] + (t > 1 and k.pend[t] is k.start_op and not th.done)
                    unborn = 3 * (4 - len(k.threads)) if t == 0 else 0
                    assert weight == max(own + unborn, int(bool(mask >> t & 1)))
                    self.checked += 1
            return chosen

    strategy = Exact(1)
    strategy.checked = 0
    _executions(build, strategy, 50)
    assert strategy.checked > 500


def test_a_thread_of_unknown_origin_weighs_as_much_as_others_with_its_function() -> None:
    def build(k: Kernel) -> None:
        x = Cell(k, 0, "x")

        async def child() -> None:
            for _ in range(4):
                await x.store(1)

        async def stranger() -> None:
            await x.load()

        async def parent() -> None:
            await x.load()
            for _ in range(1 + k.choose(2)):
                k.spawn(child)
            if k.choose(2):
                k.spawn(stranger)

        k.spawn(parent)
        k.spawn(child)

    class Unknown(_Weights):
        __slots__ = ("met",)
        met: set[tuple[str, int]]

        def arrivals(self, k: Kernel) -> list[tuple[int, int]]:
            births = super().arrivals(k)
            for _, child in births:
                self.met.add((k.threads[child].coro.__qualname__.rpartition(".")[2], self.weights[child]))
            return births

    met: set[tuple[str, int]] = set()
    for seed in range(20):
        strategy = Unknown(seed)
        strategy.met = met
        _executions(build, strategy, 10)
    # A start and four stores where its like was seen; a function never seen weighs as little as the smallest that was.
    assert ("child", 5) in met
    assert {name for name, _ in met} == {"child", "stranger"}
    assert {weight for name, weight in met if name == "child"} <= {4, 5}
    assert {weight for name, weight in met if name == "stranger"} <= {2, 4}


@pytest.mark.parametrize("make", [URW, SURW, RoleSURW])
def test_without_a_pilot_it_is_a_random_walk(make: type[URW | SURW]) -> None:
    """Somebody may ask for execution 5 first; it must not crash, and it is fair."""

    def build(k: Kernel) -> None:
        x = Cell(k, 0, "x")
        for _ in range(3):
            k.spawn(x.store, 1)

    what = subject(build)

    async def main() -> Counter[int]:
        firsts: Counter[int] = Counter()
        async with opened(what.kernel(), "stepped") as driver:
            for number in range(1, 301):
                await execute(what, driver, make(1), number)
                firsts[driver.k.trace[0][0]] += 1
                driver.unwind()
        return firsts

    firsts = in_trio(main)
    assert all(60 < firsts[t] < 140 for t in range(3))

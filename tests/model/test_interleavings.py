"""Random walks see every interleaving that there is, and none that there is not: known counts, exactly."""

from __future__ import annotations

from math import factorial
from typing import TYPE_CHECKING

import pytest

from stressvm import Kernel, Mutex
from stressvm.explore.execution import execute
from stressvm.explore.random_walk import RandomWalk
from tests.support import DRIVERS, every, in_trio, opened, subject

if TYPE_CHECKING:
    from collections.abc import Callable


def _steps(threads: int, steps: int) -> Callable[[Kernel], None]:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            for _ in range(steps):
                await k.yield_()

        for _ in range(threads):
            k.spawn(thread)

    return build


def _sections(threads: int, sections: int) -> Callable[[Kernel], None]:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")

        async def thread() -> None:
            for _ in range(sections):
                await m.lock()
                await m.unlock()

        for _ in range(threads):
            k.spawn(thread)

    return build


def _orders(build: Callable[[Kernel], None], kind: str, n: int, driver: str) -> set[tuple[int, ...]]:
    """In which orders threads did what is of that kind, over `n` executions of a random walk."""
    what = subject(build)
    walk = RandomWalk(1)
    seen: set[tuple[int, ...]] = set()

    async def main() -> None:
        async with opened(what.kernel(), driver) as made:
            k = made.k
            for number in range(n):
                assert await execute(what, made, walk, number) is None
                seen.add(tuple(t for t, op, _ in k.trace if op.kind == kind))
                made.unwind()

    in_trio(main)
    return seen


def _arrangements(threads: int, each: int) -> int:
    return factorial(threads * each) // int(factorial(each) ** threads)


@pytest.mark.parametrize("driver", DRIVERS)
def test_all_20_interleavings_of_two_threads_with_three_steps_are_seen(driver: str) -> None:
    assert len(_orders(_steps(2, 3), "yield", 600, driver)) == _arrangements(2, 3) == 20


@pytest.mark.parametrize("driver", DRIVERS)
def test_all_6_orders_of_three_threads_with_one_section_are_seen(driver: str) -> None:
    assert len(_orders(_sections(3, 1), "lock", 300, driver)) == _arrangements(3, 1) == 6


def test_all_90_orders_of_three_threads_with_two_sections_are_seen() -> None:
    assert len(_orders(_sections(3, 2), "lock", 3_000, "stepped")) == _arrangements(3, 2) == 90


def test_all_1680_orders_of_three_threads_with_three_sections_are_seen() -> None:
    assert len(_orders(_sections(3, 3), "lock", 60_000, "stepped")) == _arrangements(3, 3) == 1_680


@pytest.mark.parametrize(("threads", "steps"), [(2, 1), (2, 3), (2, 5), (3, 2), (4, 1)])
def test_taking_every_decision_both_ways_meets_each_interleaving_exactly_once(threads: int, steps: int) -> None:
    orders = [tuple(t for t, _, _, _ in ending.steps) for ending in every(_steps(threads, steps))]
    assert len(orders) == len(set(orders)) == _arrangements(threads, steps)

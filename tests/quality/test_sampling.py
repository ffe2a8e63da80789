"""Do the samplers find what the field's benchmark programs hide, as soon as published ones do? Are they as uniform as they say?

Published: Zhao and others, ASPLOS 2025, artifact: mean number of schedules to the first bug over 20 trials, of those that
found it within the cap. The tools there have thread creation as events; here threads exist from the start.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from math import factorial, sqrt
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Cell, Kernel
from stressvm.explore.auto import Auto
from stressvm.explore.execution import execute
from stressvm.explore.pct import PCT
from stressvm.explore.pos import POS
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.surw import SURW, RoleSURW
from stressvm.explore.urw import URW
from tests.quality.sampling_programs import executions_to_find
from tests.support import in_trio, opened, subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Build

    Make = Callable[[int], Any]

SEEDS = range(20)


@cache
def _found(name: str, make: Make, limit: int = 10_000) -> list[int]:
    """For each seed the executions to the bug; it must be found with all of them."""
    found = executions_to_find(name, make, SEEDS, limit)
    assert all(found), f"{name}: found in {sum(map(bool, found))} of {len(found)}"
    return found


def test_reorder_20_is_found_by_surw_in_sixty_executions() -> None:
    assert median(_found("reorder_20", SURW)) <= 60


@pytest.mark.parametrize(
    ("name", "most"),
    [("reorder_3", 20), ("reorder_5", 20), ("reorder_10", 50), ("reorder_20", 80), ("reorder_50", 200)],
)
def test_surw_finds_reorder_in_about_twice_as_many_executions_as_there_are_threads(name: str, most: int) -> None:
    """One of two objects matters, and there the checker must be first of N."""
    assert mean(_found(name, SURW)) <= most


@pytest.mark.parametrize("name", ["reorder_3", "reorder_10", "reorder_20", "reorder_50", "reorder_100"])
def test_by_roles_the_number_of_threads_matters_no_more(name: str) -> None:
    """Published for SURW: 7, 17, 6, 13, 194."""
    assert mean(_found(name, RoleSURW)) <= 8


@pytest.mark.parametrize(("name", "published"), [("twostage_20", 6), ("twostage_50", 20)])
def test_by_roles_twostage_is_found_about_as_soon_as_published(name: str, published: int) -> None:
    assert mean(_found(name, RoleSURW)) <= 2 * published


@pytest.mark.parametrize(("name", "published"), [("reorder_3", 86), ("reorder_5", 2_169), ("twostage_20", 156)])
def test_pos_finds_it_sooner_than_published(name: str, published: int) -> None:
    assert mean(_found(name, POS)) <= published


@pytest.mark.parametrize(("name", "published"), [("reorder_3", 185), ("reorder_5", 647), ("wronglock", 51)])
def test_pct_finds_it_sooner_than_published(name: str, published: int) -> None:
    assert mean(_found(name, lambda seed: PCT(seed, 3))) <= published


#: The best published mean of any tool.
EASY = [
    ("account", 3),
    ("deadlock01", 2),
    ("lazy01", 2),
    ("wronglock", 4),
    ("wronglock_3", 4),
    ("reorder_3", 7),
]


@pytest.mark.parametrize("make", [POS, SURW, RoleSURW, Auto])
def test_a_pilot_that_ends_early_costs_little(make: Make) -> None:
    """Of two threads in twostage, one gives up where it comes first: half of the pilots never show what it would do.

    Published: 8 at best.
    """
    assert mean(_found("twostage", make)) <= 25


@pytest.mark.parametrize(("name", "published"), EASY)
@pytest.mark.parametrize("make", [POS, SURW, RoleSURW, Auto])
def test_what_is_easy_stays_easy(name: str, published: int, make: Make) -> None:
    assert mean(_found(name, make)) <= 2 * published + 1


@pytest.mark.parametrize("name", ["reorder_3", "reorder_10", "reorder_20", "twostage", "twostage_20", "wronglock"])
def test_the_portfolio_costs_at_most_four_times_its_best(name: str) -> None:
    best = min(mean(_found(name, make)) for make in (POS, SURW, RoleSURW))
    assert mean(_found(name, Auto)) <= 4 * best


# ---------------------------------------------------------------- how uniform


def _orders(build: Build, strategy: Any, count: int) -> Counter[tuple[int, ...]]:
    """In which orders threads did their steps, over so many executions after the pilot."""
    what = subject(build)

    async def main() -> Counter[tuple[int, ...]]:
        found: Counter[tuple[int, ...]] = Counter()
        async with opened(what.kernel(), "stepped") as driver:
            k = driver.k
            await execute(what, driver, strategy, 0)
            driver.unwind()
            for number in range(1, count + 1):
                assert await execute(what, driver, strategy, number) is None
                found[tuple(t for t, op, _ in k.trace if op.obj.number == 0)] += 1
                driver.unwind()
        return found

    found: Counter[tuple[int, ...]] = in_trio(main)
    return found


def _stores(*counts: int) -> Build:
    def build(k: Kernel) -> None:
        x = Cell(k, 0, "x")

        async def work(count: int) -> None:
            for _ in range(count):
                await x.store(1)

        for count in counts:
            k.spawn(work, count)

    return build


def _chi_square(found: Counter[tuple[int, ...]], classes: int) -> float:
    """In standard deviations from what a uniform distribution gives."""
    expected = found.total() / classes
    assert len(found) <= classes
    chi = sum((count - expected) ** 2 / expected for count in found.values())
    chi += (classes - len(found)) * expected
    freedom = classes - 1
    return (chi - freedom) / sqrt(2 * freedom)


@pytest.mark.parametrize("make", [URW, SURW])
@pytest.mark.parametrize("counts", [(3, 3), (1, 5), (2, 2, 2), (1, 2, 3)])
def test_every_interleaving_has_the_same_probability(make: Make, counts: tuple[int, ...]) -> None:
    """SURW as well, where all operations are on one object."""
    classes = factorial(sum(counts))
    for count in counts:
        classes //= factorial(count)
    found = _orders(_stores(*counts), make(1), 100 * classes)
    assert len(found) == classes
    assert abs(_chi_square(found, classes)) < 4


def test_a_random_walk_is_far_from_uniform() -> None:
    """So that the test above can tell."""
    assert _chi_square(_orders(_stores(3, 3), RandomWalk(1), 2_000), 20) > 20


def test_uniform_also_over_threads_that_threads_spawn() -> None:
    """The parent's two loads and the children's stores: all orders in which children come after their spawn."""

    def build(k: Kernel) -> None:
        x = Cell(k, 0, "x")

        async def child() -> None:
            await x.store(1)

        async def parent() -> None:
            await x.load()
            k.spawn(child)
            await x.load()
            k.spawn(child)

        k.spawn(parent)
        k.spawn(child)

    # With starts as steps of their own: parent p p; child 1 (world) one step; child 2 two steps after the first p;
    # child 3 two steps after the second. Every linear extension is equally probable, so an order of those that
    # can be seen has as many chances as there are places for the starts.
    def extensions() -> Counter[tuple[int, ...]]:
        chains = {0: ["p1", "p2"], 1: ["c1"], 2: ["s2", "c2"], 3: ["s3", "c3"]}
        after = {"s2": "p1", "s3": "p2"}
        found: Counter[tuple[int, ...]] = Counter()

        def go(done: list[str], seen: tuple[int, ...]) -> None:
            if len(done) == 7:
                found[seen] += 1
                return
            for t, chain in chains.items():
                rest = [step for step in chain if step not in done]
                if rest and after.get(rest[0], "") in ("", *done):
                    visible = seen if rest[0].startswith("s") else (*seen, t)
                    go([*done, rest[0]], visible)

        go([], ())
        return found

    expected = extensions()
    total = sum(expected.values())
    count = 100 * len(expected)
    found = _orders(build, URW(1), count)
    assert found.keys() <= expected.keys()
    chi = sum((found[order] - count * ways / total) ** 2 / (count * ways / total) for order, ways in expected.items())
    freedom = len(expected) - 1
    assert abs(chi - freedom) / sqrt(2 * freedom) < 4


def test_the_order_on_one_object_is_uniform_whatever_else_threads_do() -> None:
    """Three threads store once to the object, after none, four or eight stores to others, by themselves."""

    def build(k: Kernel) -> None:
        x = Cell(k, 0, "x")

        async def work(before: int, own: Cell[int]) -> None:
            for _ in range(before):
                await own.store(1)
            await x.store(1)

        for t in range(3):
            k.spawn(work, 4 * t, Cell(k, 0, f"own{t}"))

    found = _orders(build, SURW(1), 1_200)
    assert len(found) == 6
    assert abs(_chi_square(found, 6)) < 4
    walk = _orders(build, RandomWalk(1), 1_200)
    assert _chi_square(walk, 6) > 100

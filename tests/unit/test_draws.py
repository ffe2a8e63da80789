"""Draws depend on seed and execution number alone, and are about uniform."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stressvm.explore.draws import Draws
from stressvm.explore.random_walk import RandomWalk
from tests.support import ending as run_one
from tests.support import explore, in_trio, opened, subject

if TYPE_CHECKING:
    from stressvm import Kernel


def _first(draws: Draws, number: int, count: int) -> list[int]:
    draws.begin(number)
    return [draws.below(1000) for _ in range(count)]


@given(st.lists(st.integers(0, 200), max_size=10), st.integers(0, 200), st.integers(1, 200))
def test_the_draws_of_an_execution_do_not_depend_on_those_before_it(before: list[int], number: int, count: int) -> None:
    used = Draws(7)
    for other in before:
        _first(used, other, 1 + other % 100)
    assert _first(used, number, count) == _first(Draws(7), number, count)


@given(st.integers(0, 100), st.integers(1, 100), st.integers(1, 300))
def test_more_draws_begin_with_the_same_ones(number: int, few: int, many: int) -> None:
    assert _first(Draws(3), number, few + many)[:few] == _first(Draws(3), number, few)


def test_seed_purpose_and_number_each_make_another_stream() -> None:
    streams = [
        _first(Draws(seed, purpose), number, 40)
        for seed in (1, 2, 11)
        for purpose in ("", "pct:")
        for number in (0, 1, 16)
    ]
    assert len({tuple(stream) for stream in streams}) == len(streams)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100])
def test_below_is_about_uniform(n: int) -> None:
    draws = Draws(5)
    counts: Counter[int] = Counter()
    for number in range(200):
        draws.begin(number)
        counts.update(draws.below(n) for _ in range(100))
    assert set(counts) == set(range(n))
    expected = 20_000 / n
    assert all(abs(count - expected) < 6 * expected**0.5 + 1 for count in counts.values())


@pytest.mark.parametrize("n", [0x10000, 0x10001, 1 << 20, (1 << 32) - 1])
def test_below_reaches_high_and_low_of_large_ranges(n: int) -> None:
    draws = Draws(5)
    values = [draws.below(n) for _ in range(4000)]
    assert 0 <= min(values) < n // 100
    assert n - n // 100 < max(values) < n


def test_shuffle_reaches_every_order_about_equally_often() -> None:
    draws = Draws(5)
    counts: Counter[tuple[int, ...]] = Counter()
    for number in range(6000):
        draws.begin(number)
        items = [0, 1, 2]
        draws.shuffle(items)
        counts[tuple(items)] += 1
    assert len(counts) == 6
    assert all(850 < count < 1150 for count in counts.values())


def _world(k: Kernel) -> None:
    async def thread() -> None:
        for _ in range(15):
            k.choose(3)
            await k.yield_()
        k.choose(1 << 20)

    for _ in range(4):
        k.spawn(thread)


def test_execution_i_of_a_random_walk_is_the_same_whatever_ran_before() -> None:
    in_order = explore(_world, 40)
    what = subject(_world)
    walk = RandomWalk(1)

    async def main() -> dict[int, object]:
        async with opened(what.kernel(), "stepped") as driver:
            return {n: await run_one(what, driver, walk, n) for n in (39, 0, 17, 17, 16, 15, 3)}

    for number, ending in in_trio(main).items():
        assert ending == in_order[number]
    assert len({ending.picks for ending in in_order}) == 40


def test_another_seed_is_another_walk() -> None:
    assert [e.picks for e in explore(_world, 5)] != [e.picks for e in explore(_world, 5, seed=2)]


def test_a_random_walk_picks_every_candidate_about_equally_often() -> None:
    def build(k: Kernel) -> None:
        for _ in range(4):
            k.spawn(k.yield_)

    firsts = Counter(ending.steps[0][0] for ending in explore(build, 4000))
    assert set(firsts) == {0, 1, 2, 3}
    assert all(850 < count < 1150 for count in firsts.values())

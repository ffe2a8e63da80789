"""One engine, two drivers: the same execution number gives the same trace, picks and verdict, whoever switches."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from stressvm import Kernel, Timers
from stressvm.explore.pct import PCT
from stressvm.explore.random_walk import RandomWalk
from stressvm.kernel.looped import looped
from tests.model.programs import OPERATIONS, Operation, building, programs
from tests.support import Ending, ending, explore, in_trio, opened, subject

if TYPE_CHECKING:
    from stressvm.explore.execution import Subject
    from stressvm.kernel.strategy import Strategy

Program = tuple[tuple[Operation, ...], ...]

NUMBERS = (0, 1, 2, 5, 17)


def _run(what: Subject, strategy: Strategy, driver: str) -> list[Ending]:
    async def main() -> list[Ending]:
        async with opened(what.kernel(), driver) as made:
            return [await ending(what, made, strategy, number) for number in NUMBERS]

    endings: list[Ending] = in_trio(main)
    return endings


def _together(what: Subject, lanes: int) -> list[list[Ending]]:
    """Several kernels in one loop, each with all executions, all under way at once."""
    found: list[list[Ending]] = [[] for _ in range(lanes)]

    async def lane(index: int) -> None:
        strategy = RandomWalk(1)
        async with looped(what.kernel()) as driver:
            for number in NUMBERS:
                found[index].append(await ending(what, driver, strategy, number))
                await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for index in range(lanes):
                nursery.start_soon(lane, index)

    in_trio(main)
    return found


@settings(max_examples=150)
@given(programs, st.sampled_from(Timers), st.integers(0, 3))
def test_traces_picks_and_verdicts_are_those_of_the_other_driver(program: Program, timers: Timers, seed: int) -> None:
    what = subject(building(program), timers=timers, max_steps=300)
    assert _run(what, RandomWalk(seed), "stepped") == _run(what, RandomWalk(seed), "trio")


@settings(max_examples=40)
@given(programs, st.integers(0, 3))
def test_so_they_are_with_a_strategy_that_learns_from_the_pilot(program: Program, seed: int) -> None:
    what = subject(building(program), max_steps=300)
    assert _run(what, PCT(seed), "stepped") == _run(what, PCT(seed), "trio")


@settings(max_examples=40)
@given(programs, st.sampled_from(Timers))
def test_so_they_are_with_several_kernels_in_one_loop(program: Program, timers: Timers) -> None:
    what = subject(building(program), timers=timers, max_steps=300)
    alone = _run(what, RandomWalk(1), "stepped")
    assert _together(what, 3) == [alone, alone, alone]


@pytest.mark.parametrize("driver", ["stepped", "trio"])
def test_a_kernel_used_for_other_worlds_in_between_gives_the_same(driver: str) -> None:
    first = subject(building(((("section", 0), ("wait", 1)), (("signal", 0), ("timedwait", 3)))))
    second = subject(building(((("read", 1), ("spawn", 2)), (("choose", 5),), (("write", 1), ("join", 0)))))

    async def main() -> list[Ending]:
        walk = RandomWalk(1)
        async with opened(Kernel(), driver) as made:
            return [await ending(what, made, walk, 4) for what in (first, second, first, second)]

    endings = in_trio(main)
    assert endings[:2] == endings[2:]
    assert endings[0] == explore(building(((("section", 0), ("wait", 1)), (("signal", 0), ("timedwait", 3)))), 5)[4]


def test_the_programs_of_these_tests_come_to_all_sorts_of_ends() -> None:
    kinds: Counter[str | None] = Counter()
    for name in OPERATIONS:
        for n in (0, 1, 7):
            for other in ("section", "nested", "sleep", "join"):
                build = building((((name, n), (other, n)), (("nested", 1), (name, n)), (("nested", 2),)))
                kinds.update(ending.kind for ending in explore(build, 10, max_steps=300))
    assert {None, "deadlock", "stranded", "exception", "panic"} <= set(kinds)

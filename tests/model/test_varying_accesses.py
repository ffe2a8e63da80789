"""Steps that access one thing in one order and another in another: nothing is hidden from partial order reduction.

A thread writes plain data only if what it has just loaded tells it to, say. Small worlds and random programs of such steps
are compared with depth-first search, begun with many executions.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stressvm import Atomic, Kernel, Timers
from stressvm.explore.accesses import Accesses
from stressvm.explore.bpor import BoundedPOR
from stressvm.explore.dfs import DFS
from stressvm.explore.dpor import DPOR
from stressvm.explore.execution import execute
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.rehearsal import Rehearsal
from stressvm.explore.split import SplitDPOR
from stressvm.kernel.stepped import stepped
from tests.partial_orders import explored
from tests.support import in_trio, subject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stressvm.explore.dependency import Step

#: What a thread does: an operation on one cell, another cell, and a value.
Operation = tuple[str, int, int, int]
Threads = list[list[Operation]]

KINDS: Final = ("load", "store", "writes-if", "reads-if", "add-if", "fails-if")
CELLS: Final = 3
EXECUTIONS: Final = 300


class NothingLearnt(DPOR):
    """A search for which every step accesses what it does in the execution at hand, and no more."""

    def account(self, step: Step, k: Kernel) -> None:
        super().account(step, k)
        self.accesses = Accesses()


def freed_first(k: Kernel) -> None:
    """A page is freed before it is unmapped: who has it mapped writes to what another has got."""
    free, mapped, content = Atomic(k, 0, "free"), Atomic(k, 1, "mapped"), Atomic(k, 0, "content")

    async def unmaps() -> None:
        await free.store(1)
        await mapped.store(0)

    async def writes() -> None:
        if await mapped.load():
            content.poke(1)

    async def allocates() -> None:
        if await free.load():
            await content.store(2)
            assert await content.load() == 2

    for body in (unmaps, writes, allocates):
        k.spawn(body)


def building(program: Threads) -> Callable[[Kernel], None]:
    def build(k: Kernel) -> None:
        cells = [Atomic(k, 0, f"c{number}") for number in range(CELLS)]

        async def run(operations: Sequence[Operation]) -> None:
            for kind, one, other, value in operations:
                cell, beside = cells[one], cells[other]
                if kind == "store":
                    await cell.store(value)
                    continue
                holds = await cell.load() == value
                k.record(holds=holds)
                if not holds or kind == "load":
                    continue
                if kind == "writes-if":
                    beside.poke(value + 1)
                elif kind == "add-if":
                    beside.poke(beside.peek() + 1)
                else:
                    seen = beside.peek()
                    k.record(seen=seen)
                    assert kind != "fails-if" or seen < 2

        for operations in program:
            k.spawn(run, operations)

    return build


def rehearsal(build: Callable[[Kernel], None], seed: int) -> Rehearsal:
    """A random walk, for a search to begin with."""

    async def main() -> Rehearsal:
        what = subject(build)
        async with stepped(what.kernel()) as driver:
            await execute(what, driver, RandomWalk(seed), 0)
            found = Rehearsal(driver.k)
            driver.unwind()
        return found

    found: Rehearsal = in_trio(main)
    return found


def compare(build: Callable[[Kernel], None], seeds: Sequence[int]) -> tuple[int, int, bool]:
    """The number of classes, 0 if there are too many executions; the most executions, and whether accesses vary."""
    every = explored(build, DFS(), limit=EXECUTIONS)
    if not every.exhausted:
        return 0, 0, False
    assert all(len(outcomes) == 1 for outcomes in every.outcomes.values())
    most, vary = 0, False
    for seed in seeds:
        search = DPOR()
        search.rehearsal = rehearsal(build, seed)
        found = explored(build, search)
        assert found.exhausted
        assert found.outcomes == every.outcomes
        if not search.accesses.vary:
            assert set(found.classes.values()) == {1}
        assert search.blocked == 0
        assert search.accesses.vary == ("that it did in any order" in search.provided)
        most = max(most, found.executions)
        vary = vary or search.accesses.vary
    split = explored(build, SplitDPOR(5))
    assert split.exhausted
    assert split.outcomes == every.outcomes
    bounded = explored(build, BoundedPOR(20))
    assert bounded.exhausted
    assert bounded.outcomes == every.outcomes
    return len(every.classes), most, vary


def test_a_write_that_a_fault_prevents_hides_no_class() -> None:
    classes, most, vary = compare(freed_first, range(40))
    assert classes == len(explored(freed_first, DFS(), timers=Timers.IDLE).classes)
    assert vary
    assert most <= 5 * classes


def test_without_what_has_been_learnt_the_search_ends_too_soon() -> None:
    every = explored(freed_first, DFS())
    missed = bugs = 0
    for seed in range(40):
        search = NothingLearnt()
        search.rehearsal = rehearsal(freed_first, seed)
        found = explored(freed_first, search)
        missed += found.outcomes != every.outcomes
        bugs += found.kinds != every.kinds
    assert missed
    assert bugs


@pytest.mark.parametrize("threads", [2, 3])
def test_random_programs(threads: int) -> None:
    draw = random.Random(f"varying {threads}")
    compared = varied = 0
    while compared < 40:
        program = [
            [
                (draw.choice(KINDS), draw.randrange(CELLS), draw.randrange(CELLS), draw.randrange(2))
                for _ in range(draw.choice((1, 2) if threads == 3 else (2, 3)))
            ]
            for _ in range(threads)
        ]
        classes, _, vary = compare(building(program), (draw.randrange(1000),))
        compared += classes > 1
        varied += vary
    assert varied >= 10


operations = st.tuples(st.sampled_from(KINDS), st.integers(0, CELLS - 1), st.integers(0, CELLS - 1), st.integers(0, 1))


@settings(max_examples=40)
@given(st.lists(st.lists(operations, min_size=1, max_size=3), min_size=2, max_size=3), st.integers(0, 100))
def test_any_program(program: list[list[Operation]], seed: int) -> None:
    compare(building(program), (seed,))

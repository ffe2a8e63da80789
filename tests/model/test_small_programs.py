"""Searches over 246 small programs whose figures are exactly known: every figure comes out.

`tests/data/programs.jsonl.gz` has programs with locks, upgrades, condition variables, timed waits, semaphores, atomic
operations and data choices. Their figures were computed by two programs that have nothing in common with each other, nor
with this one. Classes of executions are counted here by a plain reference that knows of an operation only what it says
that it accesses: so that is under test as well. Partial order reduction does one execution of each class, and none in
vain. The nightly environment takes the programs with up to 2,000,000 executions too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from stressvm.conform.records import read
from stressvm.conform.small_figures import CountedDFS, Measured, measure
from stressvm.conform.small_program import Program, parse
from stressvm.conform.small_programs import EVERY, check_reduced, compare_all, compare_classes
from stressvm.explore.dfs import DFS
from stressvm.explore.dpor import DPOR
from tests.model.happens_before import Classes
from tests.model.small_maps import LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from stressvm import Kernel

PROGRAMS: Final = [parse(record) for record in read(Path(__file__).parents[1] / "data" / "programs.jsonl.gz")]
#: More executions, and more classes, are for the night.
EXECUTIONS: Final = 20_000
CLASSES: Final = 300_000 if LONG else 2_000
#: Of programs with more executions than this the reference does not count the classes by day; reduction does.
CLASSIFIED: Final = 2_000_000 if LONG else 6_000
SMALL: Final = sorted((p for p in PROGRAMS if p.executions <= EXECUTIONS), key=lambda program: program.executions)
LARGE: Final = [program for program in PROGRAMS if program.executions > EXECUTIONS]
SHARDS: Final = 12


def searched(program: Program, classify: Callable[[Kernel], Hashable] | None) -> Measured:
    """All executions and one more, which is not there."""
    found = measure(program, CountedDFS(), program.executions + 1, classify)
    assert found.exhausted, program.name
    return found


def check(program: Program) -> None:
    found = searched(program, Classes(len(program.threads)) if program.executions <= CLASSIFIED else None)
    compare_all(program, EVERY, {**found.outcomes(), **found.counts()})
    if found.classes:
        compare_classes(program, EVERY, found)
    assert set(found.outcomes()) | set(found.counts()) | set(found.failing_traces()) >= set(program.figures)


def test_the_file_holds_all_programs() -> None:
    assert len(PROGRAMS) == len({program.name for program in PROGRAMS}) == 246
    assert (len(SMALL), len(LARGE)) == (211, 35)
    assert sum(program.executions for program in SMALL) == 358_849
    words = {operation.word for program in SMALL for thread in program.threads for operation in thread.operations}
    assert words >= {"cas", "tryupgrade", "timedwait", "broadcast", "sem_wait", "choose", "trylock", "skip", "assert"}


@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_figure_comes_out(shard: int) -> None:
    for program in SMALL[shard::SHARDS]:
        check(program)


@pytest.mark.skipif(not LONG, reason="takes a quarter of an hour; set STRESSVM_LONG=1")
@pytest.mark.parametrize("program", LARGE, ids=lambda program: program.name)
def test_every_figure_of_the_larger_ones_comes_out(program: Program) -> None:
    check(program)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_partial_order_reduction_does_each_class_once(shard: int) -> None:
    chosen = sorted((p for p in PROGRAMS if p.traces <= CLASSES), key=lambda program: program.traces)
    assert len(chosen) >= 220
    for program in chosen[shard::SHARDS]:
        search = DPOR()
        found = measure(program, search, program.traces + 1)
        assert (found.exhausted, found.executions, search.blocked) == (True, program.traces, 0), program.name
        check_reduced(program, found, program.traces + 1)


def test_readers_that_commute_make_fewer_classes() -> None:
    fewer = 0
    for program in SMALL:
        if program.traces_readers_commute is not None:
            found = searched(program, Classes(len(program.threads), readers_commute=True))
            compare_classes(program, EVERY, found, readers_commute=True)
            fewer += program.traces_readers_commute < program.traces
    assert fewer >= 10


def test_counting_preemptions_changes_no_schedule() -> None:
    """What is counted along the way is no part of the search."""

    def picks(search: DFS, program: Program) -> list[Any]:
        found: list[Any] = []
        measure(program, search, program.executions, lambda k: found.append(tuple(k.picks)))
        return found

    for program in SMALL[100:110]:
        plain = picks(DFS(), program)
        assert plain == picks(CountedDFS(), program)
        assert len(set(plain)) == len(plain) == program.executions

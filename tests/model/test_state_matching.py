"""Matching states finds all that trying every schedule finds, in far fewer executions, and ends where that does not.

The 246 programs of `tests/data/programs.jsonl.gz` have all kinds of kernel objects, timeouts at any time and data
choices; their final states are exactly known.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

from stressvm.conform.programs import STEPS_MAX
from stressvm.conform.records import read
from stressvm.conform.small_figures import CountedDFS, measure
from stressvm.conform.small_program import Program, parse
from stressvm.conform.small_world import World, in_words
from stressvm.explore.execution import Subject, execute
from stressvm.explore.scenario import scenario
from stressvm.explore.state_key import StateKey
from stressvm.explore.state_matching import StateMatching
from stressvm.kernel.kernel import Timers
from stressvm.kernel.stepped import stepped
from tests.model.small_maps import LONG

if TYPE_CHECKING:
    from stressvm import Kernel
    from stressvm.kernel.object import KernelObject

PROGRAMS: Final = [parse(record) for record in read(Path(__file__).parents[1] / "data" / "programs.jsonl.gz")]
#: More executions are for the night.
EXECUTIONS: Final = 2_000_000 if LONG else 3_000
CHOSEN: Final = [program for program in PROGRAMS if program.executions <= EXECUTIONS]
SHARDS: Final = 4


class States:
    """What of a small program makes its state."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.names = {id(world): "world", id(world.program): "program"}
        self.names |= {id(task): f"task {number}" for number, task in enumerate(world.tasks)}

    def state(self) -> Any:
        return [[(task.registers, task.word, task.args) for task in self.world.tasks], self.world.failed]

    def name(self, value: object) -> Any:
        return self.names.get(id(value))

    def local(self, name: str, value: Any) -> Any:
        # The list of operations is the program's, and how far a thread has come is in `at`.
        return None if name == "operations" else value

    def matters(self, obj: KernelObject) -> bool:
        del obj
        return True


class Blind(States):
    """Does not see the registers."""

    def state(self) -> Any:
        return self.world.failed


def matched(program: Program, states: type[States] = States) -> tuple[set[str], int, StateMatching]:
    """All final states in words, with the number of executions, and the search."""
    key = StateKey()
    search = StateMatching(key)
    worlds: list[World] = []
    found: set[str] = set()

    def build(k: Kernel) -> None:
        worlds[:] = [World(k, program)]
        key.world = states(worlds[0])

    subject = Subject(scenario(timers=Timers.ANYTIME, max_steps=STEPS_MAX)(build), {})

    async def main() -> int:
        number = 0
        async with stepped(subject.kernel()) as driver:
            while not search.exhausted:
                await execute(subject, driver, search, number)
                if not search.pruned:
                    found.add(in_words(program, worlds[0].state()))
                driver.unwind()
                number += 1
        return number

    return found, trio.run(main), search


def every(program: Program) -> set[str]:
    """All final states by plain search."""
    return {in_words(program, state) for state in measure(program, CountedDFS(), program.executions).states}


@pytest.mark.parametrize("shard", range(SHARDS))
def test_all_final_states_are_found(shard: int) -> None:
    for program in CHOSEN[shard::SHARDS]:
        found, executions, search = matched(program)
        assert len(found) == program.figures["final_states.count"], program.name
        assert sorted(found, key=str.encode) == program.figures.get(
            "final_states.states", sorted(found, key=str.encode)
        )
        assert executions <= program.executions, program.name
        assert not search.circles, program.name
        assert search.bounds == ""


def test_many_executions_are_saved() -> None:
    large = [program for program in CHOSEN if program.executions >= 1_000]
    assert len(large) >= 20
    done = sum(matched(program)[1] for program in large)
    assert done * 5 < sum(program.executions for program in large)


def test_a_state_that_leaves_something_out_makes_the_search_blind() -> None:
    """That final states are missed shows that there are tests which would notice."""
    missed = 0
    for program in CHOSEN:
        if 100 <= program.executions <= 500:
            found = matched(program, Blind)[0]
            assert found <= every(program)
            missed += len(found) < program.figures["final_states.count"]
    assert missed >= 5

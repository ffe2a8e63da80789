"""Wiring with real page faults against FreeBSD's own code: pages, object locks and a pmap add no outcome.

The recorded programs were run with a fault that looks into the map, or does nothing. Here the same programs run with
memory under the map: each fault looks up, makes a page, maps it, wires it. What they come to must be in the same sets.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stressvm.conform import programs
from stressvm.conform.freebsd_case import FIRST_FIT
from stressvm.conform.freebsd_program import parse
from stressvm.conform.freebsd_programs import VERDICTS
from stressvm.conform.freebsd_world import World
from stressvm.conform.records import read
from stressvm.explore.random_walk import RandomWalk
from stressvm.vm import freebsd
from stressvm.vm.pages import VmPages13

if TYPE_CHECKING:
    from stressvm.conform.freebsd_program import Program
    from stressvm.conform.programs import Reached

PROGRAMS = [
    program
    for program in map(parse, read(Path(__file__).parents[1] / "data" / "freebsd_mt.jsonl.gz"))
    if any(op.word == "wire" for ops in (program.setup, *program.threads) for op in ops)
]
EXECUTIONS = 60


class RealWorld(World):
    """The world of a program, with memory."""

    def memory(self) -> freebsd.Memory:
        """Pages enough that nobody has to wait for one."""
        return freebsd.Memory(VmPages13(self.k, 2 * self.program.pages + 8))

    def fault(self, bad: list[int]) -> freebsd.Fault:
        return freebsd.VmFault(bad)


class RestlessWorld(RealWorld):
    """The same with every page of a pager's, so that each first fault lets go of the map."""

    def fault(self, bad: list[int]) -> freebsd.Fault:
        class Paged(freebsd.VmFault):
            def has_pager(self, obj: freebsd.VmObject) -> bool:
                del obj
                return True

        return Paged(bad)


def explore(program: Program, world: type[World], executions: int = EXECUTIONS) -> Reached:
    expected = program.expected(FIRST_FIT)
    return programs.explore(
        lambda k: world(k, program, FIRST_FIT), RandomWalk(1), executions, known=expected | VERDICTS
    )


def test_the_programs_that_wire_are_there() -> None:
    assert len(PROGRAMS) == 39
    assert sum(program.fault == "lookup" for program in PROGRAMS) == 6
    assert sum(bool(program.bad_pages) for program in PROGRAMS) == 3


@pytest.mark.parametrize("world", [RealWorld, RestlessWorld])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_real_faults_come_to_nothing_that_was_not_recorded(program: Program, world: type[World]) -> None:
    reached = explore(program, world)
    foreign = set(reached.outcomes) - program.expected(FIRST_FIT)
    assert not foreign, [reached.ways[outcome] for outcome in foreign]
    assert set(reached.verdicts) <= VERDICTS, reached.verdicts
    assert not reached.endless


def test_nearly_all_of_what_was_recorded_is_reached() -> None:
    chosen = [program for program in PROGRAMS if program.fault == "lookup"]
    unreached = sum(
        len(program.expected(FIRST_FIT) - set(explore(program, RealWorld, 200).outcomes)) for program in chosen
    )
    assert unreached <= 1


def test_a_fault_that_is_wrong_comes_to_something_else() -> None:
    """The comparison can fail: here a fault gives up where it should start from scratch."""

    class Weary(RealWorld):
        def fault(self, bad: list[int]) -> freebsd.Fault:
            class GivesUp(freebsd.VmFault):
                async def attempt(self, fs: freebsd.FaultState) -> int:
                    result = await super().attempt(fs)
                    return freebsd.KERN_FAILURE if result < 0 else result

                async def relock_map(self, fs: freebsd.FaultState) -> bool:
                    del fs
                    return False

                def has_pager(self, obj: freebsd.VmObject) -> bool:
                    del obj
                    return True

            return GivesUp(bad)

    wrong = [
        program.name for program in PROGRAMS if set(explore(program, Weary, 5).outcomes) - program.expected(FIRST_FIT)
    ]
    assert len(wrong) > 20

"""Small concurrent programs on FreeBSD's map: what many executions come to is held against what its own code can.

It is done by two personalities. Version 13 with its splay tree has to stay within the recorded outcomes, and to reach
those that need a search that misses the last gap. Version 13 with first fit has to stay within the outcomes of the same
code with such searches mended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.conform import programs
from stressvm.conform.freebsd_case import FIRST_FIT, SPLAY
from stressvm.conform.freebsd_program import parse
from stressvm.conform.freebsd_world import World
from stressvm.conform.tally import Differs
from stressvm.explore.random_walk import RandomWalk

if TYPE_CHECKING:
    from stressvm.conform.freebsd_case import Personality
    from stressvm.conform.freebsd_program import Program
    from stressvm.conform.programs import Reached
    from stressvm.conform.records import Record
    from stressvm.conform.tally import Tally
    from stressvm.kernel.strategy import Strategy

PERSONALITIES: Final = (FIRST_FIT, SPLAY)

#: What may be said of an execution: somebody sleeps for ever. Whether that is right the outcomes say; anything else is
#: a fault, an endless execution too.
VERDICTS: Final = frozenset({"lost-wakeup", "exhausted", "stranded"})

#: For a program with outcomes that need a missed gap: how many executions to look for them, at least.
SEARCH_MAX: Final = 10_000


def explore(program: Program, personality: Personality, strategy: Strategy, executions: int) -> Reached:
    """Run executions 0, 1, 2, ... of a program, and more if an outcome that needs a missed gap is not reached yet."""
    needed = _needed(program, personality)
    return programs.explore(
        lambda k: World(k, program, personality),
        strategy,
        executions,
        known=program.expected(personality) | VERDICTS,
        enough=lambda reached: needed <= reached.outcomes.keys(),
        at_most=max(executions, SEARCH_MAX),
    )


def _needed(program: Program, personality: Personality) -> frozenset[str]:
    return program.missing if personality is SPLAY else frozenset()


def check(program: Program, personality: Personality, tally: Tally, executions: int, seed: int) -> None:
    """Run a program many times: it comes to nothing that it should not, and it misses the gaps that it should.

    Raises:
        Differs: it does not.
    """
    expected = program.expected(personality)
    reached = explore(program, personality, RandomWalk(seed), executions)
    tally.executions += reached.executions
    tally.outcomes += len(expected)
    tally.met += len(expected & set(reached.outcomes))
    programs.compare(reached, expected, VERDICTS, seed)
    if unmet := sorted(_needed(program, personality) - set(reached.outcomes)):
        where = f"{reached.executions} executions (seed {seed})"
        raise Differs(where, unmet[0], "never, though it takes only a search that misses the last gap")


def answer(record: Record, tally: Tally, personality: Personality, executions: int, seed: int) -> None:
    """Check the program of one line, and note what comes of it.

    Raises:
        UsageError: it is no program.
    """
    program = parse(record)
    tally.kind = "programs"
    if program.unknown:
        tally.left_out += program.left_out()
        return
    operations = sum(len(ops) for ops in (program.setup, *program.threads))
    tally.operations += operations
    try:
        check(program, personality, tally, executions, seed)
    except Differs as difference:
        tally.case_done(difference.at(record, program.name))
    else:
        tally.operations_passed += operations
        tally.case_done(None)

"""Small concurrent programs on FreeBSD's map: what executions come to is held against what its own code can come to.

It is done by two personalities. Version 13 with its splay tree has to have the recorded outcomes, and no others. Version
13 with first fit has to have the outcomes of the same code with those searches mended that miss the last gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.conform import programs
from stressvm.conform.freebsd_case import FIRST_FIT, SPLAY
from stressvm.conform.freebsd_program import parse
from stressvm.conform.freebsd_states import States
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


def match(program: Program, personality: Personality, executions: int) -> Reached:
    """Go through all states of a program, in so many executions at most."""
    return programs.match(
        lambda k: World(k, program, personality),
        States,
        executions,
        known=program.expected(personality) | VERDICTS,
    )


def _needed(program: Program, personality: Personality) -> frozenset[str]:
    return program.missing if personality is SPLAY else frozenset()


def check(program: Program, personality: Personality, tally: Tally, executions: int, seed: int) -> None:
    """Run a program: it comes to all that it should, and nothing else.

    If it has too many states for so many executions, as many random ones follow; then not every outcome need come about,
    but those must for which the search misses a gap.

    Raises:
        Differs: it does not.
    """
    expected = program.expected(personality)
    reached = match(program, personality, executions)
    tally.executions += reached.executions
    tally.outcomes += len(expected)
    met = set(reached.outcomes)
    try:
        programs.compare(reached, expected, VERDICTS, programs.MATCHED)
        if reached.complete:
            return
        tally.left_out[programs.TOO_MANY.format(executions)] += 1
        reached = explore(program, personality, RandomWalk(seed), executions)
        tally.executions += reached.executions
        met |= set(reached.outcomes)
        programs.compare(reached, expected, VERDICTS, f"seed {seed}")
        if unmet := sorted(_needed(program, personality) - set(reached.outcomes)):
            where = f"{reached.executions} executions (seed {seed})"
            raise Differs(where, unmet[0], "never, though it takes only a search that misses the last gap")
    finally:
        tally.met += len(expected & met)


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

"""Small closed programs with exactly known figures: the exploration engine held to what it claims.

Each program is searched twice. Depth first, without any reduction, all figures come out: the number of executions, how
many have at most so many preemptions, how many fail and how, the fewest preemptions of a failure, all final states. With
partial order reduction there is one execution for each class of equivalent ones (the recorded `traces`: readers of one
lock depend on each other there, see stressvm.explore.dependency), the same final states and the same failures.

Where a program has more executions than were asked for, what was seen has to be possible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from stressvm.conform.answers import compare
from stressvm.conform.small_figures import CountedDFS, measure
from stressvm.conform.small_program import FAILURES, parse
from stressvm.conform.small_world import in_words
from stressvm.conform.tally import Differs
from stressvm.explore.dpor import DPOR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stressvm.conform.records import Record
    from stressvm.conform.small_figures import Measured
    from stressvm.conform.small_program import Program
    from stressvm.conform.tally import Tally

    #: Figures, and when one is impossible beside what is recorded.
    Limits: TypeAlias = list[tuple[str, Callable[[Any, Any], bool]]]

EVERY: Final = "all executions, depth first"
SOME: Final = "the first {} executions, depth first"
REDUCED: Final = "all executions, by partial order reduction"
SOME_REDUCED: Final = "the first {} executions, by partial order reduction"

#: Why something is left out.
UNCOUNTED: Final = (
    "programs with more than {} executions: their classes and final states were compared, not their numbers"
)
TOO_MANY: Final = (
    "programs with more than {} classes of executions: what was seen of them is possible, all was not asked"
)


def answer(record: Record, tally: Tally, executions: int, _seed: int) -> None:
    """Check the program of one line, and note what comes of it.

    Raises:
        UsageError: it is no program.
    """
    program = parse(record)
    tally.kind = "programs"
    operations = sum(len(thread.operations) for thread in program.threads)
    tally.operations += operations
    try:
        check(program, tally, executions)
    except Differs as difference:
        tally.case_done(difference.at(record, program.name))
    else:
        tally.operations_passed += operations
        tally.case_done(None)


def check(program: Program, tally: Tally, executions: int) -> None:
    """Search a program, and compare all of its figures that can be known from so many executions of each search.

    Raises:
        Differs: one is not as recorded.
    """
    tally.outcomes += program.figures["final_states.count"]
    found = measure(program, CountedDFS(), executions)
    reduced = measure(program, DPOR(), executions)
    tally.executions += found.executions + reduced.executions
    tally.met += len(found.states | reduced.states)
    check_every(program, found, executions)
    check_reduced(program, reduced, executions)
    if not found.exhausted:
        tally.left_out[(UNCOUNTED if reduced.exhausted else TOO_MANY).format(executions)] += 1


def check_every(program: Program, found: Measured, executions: int) -> None:
    """What depth-first search has found in so many executions at most."""
    if found.exhausted:
        compare_all(program, EVERY, {**found.outcomes(), **found.counts()})
    elif program.executions <= executions:
        raise Differs(EVERY, {"executions": program.executions}, {"executions": f"more than {executions}"})
    else:
        compare_seen(program, SOME.format(found.executions), found, _limits(program))


def check_reduced(program: Program, found: Measured, executions: int) -> None:
    """What partial order reduction has found in so many executions at most."""
    if found.exhausted:
        compare_all(program, REDUCED, found.outcomes())
        actual = {"traces": found.executions, **found.failing("failing_traces")}
        compare(REDUCED, {key: program.expected(key) for key in actual}, actual, str, fields=True)
    elif program.traces <= executions:
        raise Differs(REDUCED, {"traces": program.traces}, {"traces": f"more than {executions}"})
    else:
        compare_seen(program, SOME_REDUCED.format(found.executions), found, _outcome_limits())


def compare_all(program: Program, where: str, actual: Mapping[str, Any]) -> None:
    """Figures that should be as recorded.

    Args:
        program: which.
        where: what was searched, in words.
        actual: figures by key.

    Raises:
        Differs: some are not; those are shown.
    """
    compare(where, {key: program.expected(key) for key in actual}, dict(actual), str, fields=True)


def compare_classes(program: Program, where: str, found: Measured, *, readers_commute: bool = False) -> None:
    """The classes of all executions, by the recorded relation or by the one in which readers commute.

    Args:
        program: which.
        where: what was searched, in words.
        found: a search with classes that came to its end.
        readers_commute: readers of one lock do not depend on one another.

    Raises:
        Differs: there are more or fewer, or more or fewer that show a failure; those figures are shown.
    """
    key = "traces_readers_commute" if readers_commute else "traces"
    actual = {key: len(found.classes), **({} if readers_commute else found.failing_traces())}
    compare(where, {key: program.expected(key) for key in actual}, actual, str, fields=True)


def compare_seen(program: Program, where: str, found: Measured, limits: Limits) -> None:
    """Some of all executions: what they show has to be possible.

    Raises:
        Differs: something is not; it is shown.
    """
    figures = program.figures
    actual = {**found.outcomes(), **found.counts()}
    wrong = {key: actual[key] for key, impossible in limits if impossible(actual[key], figures[key])}
    states = figures.get("final_states.states")
    if states is not None:
        foreign = sorted({in_words(program, state) for state in found.states} - set(states))
        if foreign:
            wrong["final_states.states"] = foreign
    if wrong:
        raise Differs(where, {key: figures[key] for key in wrong}, wrong)


def _outcome_limits() -> Limits:
    """Of each figure, when its value for some of the executions contradicts that for all: what they come to."""
    return [("final_states.count", _more), ("length", _beyond), *((failure, _more) for failure in FAILURES)]


def _limits(program: Program) -> Limits:
    """The same, with numbers of executions."""
    limits = _outcome_limits()
    limits += [(f"failing_executions.{failure}", _more) for failure in FAILURES]
    for prefix in ("", "timeout_not_counted.") if program.timed else ("",):
        limits.append((f"{prefix}bounded_executions", _more_anywhere))
        limits += [(f"{prefix}min_preemptions.{failure}", _fewer) for failure in FAILURES]
    return limits


def _more(some: int, every: int) -> bool:
    return some > every


def _beyond(some: list[int], every: list[int]) -> bool:
    return some[0] < every[0] or some[1] > every[1]


def _more_anywhere(some: list[int], every: list[int]) -> bool:
    return any(map(_more, some, every))


def _fewer(some: int | None, every: int | None) -> bool:
    return some is not None and (every is None or some < every)

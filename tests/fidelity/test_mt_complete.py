"""All that concurrent programs can come to, on both systems' maps: the recorded outcomes, every one, and no others.

`tests/data/netbsd_mt.jsonl.gz` and `tests/data/freebsd_mt.jsonl.gz` have the complete sets of outcomes of small programs, as the
kernels' own code gave them. Here the model goes through all of its states, so that its sets are complete as well, and
the two are equal. Some programs on NetBSD 6 can go on for ever, each failing retry making the other one retry: which
these are comes out, too. The nightly environment takes the programs with many states.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from stressvm.conform import freebsd_programs, netbsd_programs, programs
from stressvm.conform.freebsd_case import FIRST_FIT, SPLAY, Personality
from stressvm.conform.freebsd_program import parse as parse_freebsd
from stressvm.conform.netbsd_programs import parse as parse_netbsd
from stressvm.conform.records import Record, read
from stressvm.conform.tally import Difference, Tally
from stressvm.explore.dfs import DFS
from tests.model.small_maps import LONG

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.conform.programs import Reached

DATA: Final = Path(__file__).parents[1] / "data"
NETBSD: Final = read(DATA / "netbsd_mt.jsonl.gz")
FREEBSD: Final = read(DATA / "freebsd_mt.jsonl.gz")

#: States that the kernels' code has in a program; those with more are for the night.
STATES: Final = 150_000 if LONG else 1_500
#: The model has fewer: it may switch threads at fewer places.
EXECUTIONS: Final = 40_000
SHARDS: Final = 8


def same(reached: Reached, outcomes: frozenset[str]) -> bool:
    return reached.complete and set(reached.outcomes) == outcomes


@pytest.mark.parametrize("shard", range(SHARDS))
def test_netbsd(shard: int) -> None:
    records = sorted((r for r in NETBSD if r.fields["states"] <= STATES), key=lambda r: int(r.fields["states"]))
    assert len(records) == (150 if LONG else 99)
    for record in records[shard::SHARDS]:
        program = parse_netbsd(record)
        reached = netbsd_programs.match(program, EXECUTIONS)
        assert same(reached, program.outcomes), program.name
        assert set(reached.verdicts) <= netbsd_programs.VERDICTS, program.name
        assert ("lost-wakeup" in reached.verdicts) is program.lost_wakeup, program.name
        assert bool(reached.circles) is program.endless is (record.fields["executions"] is None), program.name


@pytest.mark.parametrize("personality", [FIRST_FIT, SPLAY], ids=["first-fit", "splay"])
@pytest.mark.parametrize("half", range(2))
def test_freebsd(half: int, personality: Personality) -> None:
    for record in FREEBSD[half::2]:
        program = parse_freebsd(record)
        reached = freebsd_programs.match(program, personality, EXECUTIONS)
        assert same(reached, program.expected(personality)), program.name
        assert set(reached.verdicts) <= freebsd_programs.VERDICTS, program.name
        assert not reached.circles, program.name


def every(explore: Callable[[DFS], Reached]) -> set[str]:
    """Outcomes by plain search; there must be an end to it."""
    reached = explore(DFS())
    assert reached.complete
    return set(reached.outcomes)


def test_trying_every_schedule_comes_to_the_same() -> None:
    """Where there are few enough: nothing is lost where states are matched."""
    done = 0
    for record in NETBSD:
        if record.fields["executions"] is not None and record.fields["executions"] <= 500:
            program = parse_netbsd(record)
            assert every(lambda search, of=program: netbsd_programs.explore(of, search, 500)) == program.outcomes  # type: ignore[misc]
            done += 1
    for record in FREEBSD:
        if record.fields["executions"] <= 40:
            one = parse_freebsd(record)
            outcomes = every(lambda search, of=one: freebsd_programs.explore(of, SPLAY, search, 2_000))  # type: ignore[misc]
            assert outcomes == one.outcomes
            done += 1
    assert done >= 70


# ---------------------------------------------------------------- the comparison can fail


def first_netbsd(record: Record, executions: int = EXECUTIONS, **change: Any) -> Difference:
    tally = Tally("")
    netbsd_programs.answer(replace(record, fields={**record.fields, **change}), tally, executions, 1)
    assert (tally.cases, tally.passed) == (1, 0)
    return tally.differences[0]


def test_an_outcome_that_never_comes_about_is_a_difference() -> None:
    record = next(record for record in NETBSD if record.fields["id"] == "rnd-6-014")
    (threads, *_), outcomes = record.fields["outcomes"][0]["threads"], record.fields["outcomes"]
    invented = {**outcomes[0], "threads": [[*threads, "ok"], *outcomes[0]["threads"][1:]]}
    difference = first_netbsd(record, outcomes=[*outcomes, invented])
    assert difference.operation == "all 40 executions (all states)"
    assert (difference.expected, difference.actual) == (invented, "never")
    for gone, outcome in enumerate(outcomes):
        difference = first_netbsd(record, outcomes=outcomes[:gone] + outcomes[gone + 1 :])
        assert difference.operation.endswith("(all states)")
        assert difference.actual == outcome


def test_endless_schedules_that_are_denied_or_invented_are_a_difference() -> None:
    endless = next(record for record in NETBSD if record.fields["unbounded"] and record.fields["states"] < 2_000)
    difference = first_netbsd(endless, unbounded=False)
    assert (difference.expected, difference.actual) == ("none without an end", "schedules without an end")
    ending = next(record for record in NETBSD if record.fields["id"] == "rnd-6-014")
    difference = first_netbsd(ending, unbounded=True)
    assert (difference.expected, difference.actual) == ("schedules without an end", "none without an end")


def test_too_many_states_are_said_to_be_so() -> None:
    record = next(record for record in NETBSD if record.fields["id"] == "rnd-6-014")
    tally = Tally("")
    netbsd_programs.answer(record, tally, 20, 1)
    assert (tally.passed, tally.left_out) == (1, {programs.TOO_MANY.format(20): 1})
    assert tally.executions == 20 + 20
    tally = Tally("")
    netbsd_programs.answer(record, tally, 40, 1)
    assert (tally.passed, tally.left_out, tally.executions) == (1, {}, 40)
    assert tally.met == tally.outcomes == len(record.fields["outcomes"])
    tally = Tally("")
    freebsd_programs.answer(FREEBSD[0], tally, FIRST_FIT, 2, 1)
    assert (tally.passed, tally.left_out) == (1, {programs.TOO_MANY.format(2): 1})


def test_circles_are_no_findings_but_livelocks_of_random_walks_may_be() -> None:
    record = next(record for record in NETBSD if record.fields["unbounded"] and record.fields["states"] < 2_000)
    reached = netbsd_programs.match(parse_netbsd(record), EXECUTIONS)
    assert reached.circles
    assert reached.endless == 0
    assert "livelock" not in reached.verdicts

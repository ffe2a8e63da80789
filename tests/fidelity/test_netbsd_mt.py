"""The wait for addresses against NetBSD's own code: what 150 small programs can come to, and nothing else.

`tests/data/netbsd_mt.jsonl.gz` holds, for each program, the complete set of outcomes over all interleavings, as the
kernels' own C code gave it when every schedule was run. Random schedules of the model must stay within those sets, reach
most of them, and lose a wakeup in exactly those programs where the code does. The map of 5.2 has one page more there,
for its own entries; it is left out of programs and outcomes, and the model does without it.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stressvm import Timers
from stressvm.conform.netbsd_programs import SYSTEMS, VERDICTS, Program, Reached, answer, explore, parse
from stressvm.conform.records import Record, read
from stressvm.conform.tally import Tally
from stressvm.explore.random_walk import RandomWalk
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDS = read(Path(__file__).parents[1] / "data" / "netbsd_mt.jsonl.gz")
PROGRAMS = [parse(record) for record in RECORDS]

EXECUTIONS = 400
#: For a program that loses a wakeup in some interleaving: how long to look for it.
EXECUTIONS_MAX = 10_000

#: By kind and system: how many outcomes these executions may leave out, which is a little more than they do. Given
#: 6,000 of them, two programs (rnd-52-019, in either mode) leave out three each; given 34,000, none does.
UNREACHED_MAX = {
    ("lost-wakeup", "netbsd6"): 2,
    ("lost-wakeup", "netbsd5.2-intrsafe"): 0,
    ("waiter", "netbsd6"): 0,
    ("waiter", "netbsd5.2-intrsafe"): 0,
    ("nowait", "netbsd6"): 2,
    ("nowait", "netbsd5.2-intrsafe"): 0,
    ("trylock", "netbsd6"): 0,
    ("trylock", "netbsd5.2-intrsafe"): 0,
    ("free", "netbsd6"): 0,
    ("free", "netbsd5.2-intrsafe"): 0,
    ("busy", "netbsd6"): 0,
    ("random", "netbsd6"): 12,
    ("random", "netbsd5.2-intrsafe"): 66,
}


def _group(kind: str, system: str) -> list[Program]:
    return [program for program in PROGRAMS if (program.kind, program.system) == (kind, system)]


def _explored(kind: str, system: str) -> Iterator[tuple[Program, Reached]]:
    for program in _group(kind, system):
        until = "lost-wakeup" if program.lost_wakeup else ""
        yield program, explore(program, RandomWalk(1), EXECUTIONS, until_kind=until, at_most=EXECUTIONS_MAX)


def test_the_file_holds_all_programs() -> None:
    assert len(PROGRAMS) == len({program.name for program in PROGRAMS}) == 150
    assert {(program.kind, program.system) for program in PROGRAMS} == set(UNREACHED_MAX)
    assert sum(len(program.outcomes) for program in PROGRAMS) == 723
    assert sum(program.lost_wakeup for program in PROGRAMS) == 24
    assert {program.system for program in PROGRAMS if program.lost_wakeup} == {"netbsd5.2-intrsafe"}
    assert {program.timers for program in PROGRAMS} == {Timers.IDLE, Timers.NEVER}
    assert {program.system for program in PROGRAMS} == set(SYSTEMS)


@pytest.mark.parametrize(("kind", "system"), UNREACHED_MAX)
def test_executions_come_to_what_the_kernels_own_code_comes_to(kind: str, system: str) -> None:
    unreached = 0
    for program, reached in _explored(kind, system):
        foreign = {outcome: number for outcome, number in reached.outcomes.items() if outcome not in program.outcomes}
        assert not foreign, f"{program.name}: outcomes that the kernel's code does not have, and in which execution"
        assert ("lost-wakeup" in reached.verdicts) == program.lost_wakeup, program.name
        assert set(reached.verdicts) <= VERDICTS, program.name
        assert reached.endless * 10 < reached.executions, program.name
        unreached += len(program.outcomes - set(reached.outcomes))
    assert unreached <= UNREACHED_MAX[kind, system]


def test_what_52_comes_to_is_outside_the_set_of_6() -> None:
    """The comparison can fail."""
    program = next(program for program in PROGRAMS if program.name == "lw-big-small-free-52-idle")
    six = next(program for program in PROGRAMS if program.name == "lw-big-small-free-6-idle")
    lost = explore(program, RandomWalk(1), EXECUTIONS)
    assert set(lost.outcomes) == program.outcomes
    assert set(lost.outcomes) - six.outcomes


def test_every_operation_and_result_has_its_form() -> None:
    record = {
        "id": "all",
        "system": "netbsd6",
        "kind": "by hand",
        "pages": 4,
        "init": [[0, 1], [2, 2]],
        "threads": [
            [
                ["busy"],
                ["alloc", 1, ["NOWAIT", "CANFAIL"]],
                ["alloc", 1, ["TRYLOCK"]],
                ["unbusy"],
                ["alloc", 1, ["TRYLOCK"]],
                ["free", "init", 1],
                ["free", "op", 1],
                ["free", "op", 4],
                ["alloc", 3, ["WAITVA"]],
                ["alloc", 1, ["WAITVA"]],
            ]
        ],
        "mode": "never",
        "lost_wakeup": False,
        "outcomes": [
            {
                "threads": [["ok", 1, "fail", "ok", "fail", "ok", "ok", "skip", 1, {"asleep": "va"}]],
                "entries": [[0, 4]],
                "wantva": True,
            }
        ],
    }
    program = parse(Record(Path("all.jsonl"), 1, json.loads(json.dumps(record))))
    assert set(explore(program, RandomWalk(1), 1).outcomes) == program.outcomes


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"threads": [[["alloc", "1", []]]]}, "no such operation"),
        ({"threads": [[["alloc", 0, []]]]}, "operation 0 allocates 0 pages"),
        ({"threads": [[["alloc", 1, ["SOON"]]]]}, "'SOON' is missing, or a flag is not known"),
        ({"threads": [[["free", "map", 0]]]}, "no such operation"),
        ({"threads": [[["free", "op", 0]]]}, "frees what operation 0 got, which is no allocation"),
        ({"threads": [[["free", "init", 1]]]}, "frees the initial range 1, and there is none"),
        ({"threads": [[["busy", 1]]]}, "no such operation"),
        ({"threads": [[["protect"]]]}, "no such operation"),
        ({"system": "netbsd5.2-intrsafe", "threads": [[["busy"]]]}, "INTRSAFE maps cannot be busy"),
        ({"init": [[0, 1], [0, 1]]}, "is taken, empty or not in the map"),
        ({"init": [[1, 1]]}, "is taken, empty or not in the map"),
        ({"mode": "soon"}, "'soon' is not a valid Timers"),
        ({"outcomes": [{"threads": []}]}, "'entries' is missing"),
    ],
)
def test_what_is_no_program_is_refused_by_its_line(change: dict[str, object], fault: str) -> None:
    record = {"id": "x", "system": "netbsd6", "kind": "", "pages": 1, "init": [[0, 1]], "threads": [[["busy"]]]}
    fields = {**record, "mode": "idle", "lost_wakeup": False, "outcomes": [], **change}
    with pytest.raises(UsageError, match=re.escape(fault)) as refused:
        parse(Record(Path("x.jsonl"), 7, fields))
    assert str(refused.value).startswith("x.jsonl: line 7: ")


def test_wrong_records_are_caught() -> None:
    """An outcome left out, a lost wakeup denied, one invented."""
    records = {f"{r.fields['id']}-{r.fields['mode']}": r for r in RECORDS}
    lost, calm = records["lw-big-small-free-52-idle"], records["lw-big-small-free-6-idle"]

    def first(record: Record, **change: object) -> tuple[object, object]:
        tally = Tally("")
        answer(replace(record, fields={**record.fields, **change}), tally, 200, 1)
        assert (tally.cases, tally.passed, tally.operations_passed) == (1, 0, 0)
        (difference,) = tally.differences
        return difference.expected, difference.actual

    for record in (lost, calm):
        outcomes = record.fields["outcomes"]
        for left_out in range(len(outcomes)):
            kept = outcomes[:left_out] + outcomes[left_out + 1 :]
            expected, actual = first(record, outcomes=kept)
            assert (expected, actual) == (f"one of the {len(kept)} recorded outcomes", outcomes[left_out])
    assert first(lost, lost_wakeup=False) == ("no lost wakeup", "a lost wakeup")
    assert first(calm, lost_wakeup=True) == ("a lost wakeup", "no lost wakeup")
    unlocked = [["unbusy"]]
    assert first(calm, threads=[*calm.fields["threads"], unlocked])[0] == "no panic"

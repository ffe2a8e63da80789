"""Wrong figures of small programs are caught, each by its name; lines that are no programs are refused by the field.

The comparison itself is under test, with as many executions as there are and with fewer.
"""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from stressvm.conform.conform import conform
from stressvm.conform.records import Record, read
from stressvm.conform.small_figures import CountedDFS, measure
from stressvm.conform.small_program import parse
from stressvm.conform.small_programs import EVERY, REDUCED, SOME, SOME_REDUCED, TOO_MANY, UNCOUNTED, answer
from stressvm.conform.small_world import in_words
from stressvm.conform.tally import Difference, Tally
from stressvm.explore.dpor import DPOR
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDS: Final = {r.fields["name"]: r for r in read(Path(__file__).parents[1] / "data" / "programs.jsonl.gz")}

#: Programs with every kind of object, timed waits and data choices, and all three failures.
CHOSEN: Final = (
    "racy-counter-2",
    "rw-upgrade-deadlock",
    "timed-rescue",
    *(
        next(name for name, r in RECORDS.items() if r.fields["kind"] == kind and 50 < r.fields["executions"] < 400)
        for kind in ("condvar", "timedwait", "semaphore", "choose", "trylock")
    ),
)


def answered(record: Record, executions: int) -> Tally:
    tally = Tally("")
    answer(record, tally, executions, 1)
    assert tally.cases == 1
    return tally


def first(record: Record, limit: int, **change: Any) -> Difference:
    tally = answered(replace(record, fields={**record.fields, **change}), limit)
    assert (tally.passed, tally.operations_passed) == (0, 0)
    (difference,) = tally.differences
    assert (difference.line, difference.case) == (record.line, record.fields["name"])
    return difference


def places(fields: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Where all figures are."""
    yield from (("executions",), ("traces",), ("deadlock",), ("assertion",), ("stuck_waiter",))
    yield from (("final_states", name) for name in ("count", "sha256", "states"))
    yield from (("length", at) for at in range(2))
    for name in ("failing_executions", "failing_traces"):
        yield from ((name, failure) for failure in fields[name])
    for prefix in ((), ("timeout_not_counted",)) if "timeout_not_counted" in fields else ((),):
        yield from ((*prefix, "bounded_executions", at) for at in range(3))
        yield from ((*prefix, "min_preemptions", failure) for failure in fields["min_preemptions"])


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, list):
        return value[1:]
    return 1 if value is None else f"{value[:-1]}?"


def changed(record: Record, path: tuple[Any, ...]) -> tuple[Record, Any]:
    fields = copy.deepcopy(record.fields)
    holder: Any = fields
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = other(holder[path[-1]])
    return replace(record, fields=fields), holder[path[-1]]


@pytest.mark.parametrize("name", CHOSEN)
def test_every_figure_is_compared_and_named(name: str) -> None:
    record = RECORDS[name]
    assert answered(record, record.fields["executions"]).left_out == {}
    for path in places(record.fields):
        wrong, value = changed(record, path)
        difference = first(wrong, 3_000)
        *front, last = path
        key = ".".join(front) if isinstance(last, int) else ".".join(path)
        assert list(difference.expected) == list(difference.actual) == [key], path
        assert difference.expected[key][last] == value if isinstance(last, int) else difference.expected[key] == value
        assert difference.operation == (REDUCED if "trace" in key else EVERY)
        assert difference.actual[key] == parse(record).expected(key)


def test_a_program_with_another_operation_differs() -> None:
    """Not the figures are wrong, but what they are of."""
    for name in CHOSEN:
        threads = copy.deepcopy(RECORDS[name].fields["threads"])
        threads[0].append(["choose", 2, "more"])
        assert first(RECORDS[name], 3_000, threads=threads).operation == EVERY


def test_more_executions_than_are_recorded() -> None:
    record = RECORDS["racy-counter-2"]
    difference = first(record, 10, executions=10)
    assert (difference.operation, difference.expected) == (EVERY, {"executions": 10})
    assert difference.actual == {"executions": "more than 10"}
    difference = first(record, 5, executions=10, traces=5)
    assert (difference.operation, difference.expected) == (REDUCED, {"traces": 5})
    assert difference.actual == {"traces": "more than 5"}


def test_what_was_seen_of_a_larger_program_must_be_possible() -> None:
    record = next(r for r in RECORDS.values() if r.fields["executions"] > 50_000 and r.fields["traces"] > 100)
    states = record.fields["final_states"]
    assert answered(record, 50).left_out == {TOO_MANY.format(50): 1}
    where = SOME.format(50)
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"final_states": {**states, "count": 0}}, "final_states.count"),
        ({"final_states": {**states, "states": []}}, "final_states.states"),
        ({"length": [99, 99]}, "length"),
        ({"length": [1, 1]}, "length"),
        ({"bounded_executions": [0, 99_999, 99_999]}, "bounded_executions"),
    )
    for change, key in changes:
        difference = first(record, 50, **change)
        assert (difference.operation, list(difference.actual)) == (where, [key])
    failing = RECORDS["rw-upgrade-deadlock"]
    assert answered(failing, 3).left_out == {TOO_MANY.format(3): 1}
    calm = dict.fromkeys(failing.fields["min_preemptions"])
    none = dict.fromkeys(failing.fields["failing_executions"], 0)
    denials: tuple[tuple[dict[str, Any], str], ...] = (
        ({"deadlock": False}, "deadlock"),
        ({"min_preemptions": calm}, "min_preemptions.deadlock"),
        ({"min_preemptions": {**calm, "deadlock": 5}}, "min_preemptions.deadlock"),
        ({"failing_executions": none}, "failing_executions.deadlock"),
    )
    for change, key in denials:
        assert list(first(failing, 5, **change).actual) == [key]


def test_classes_may_be_few_enough_where_executions_are_not() -> None:
    record = next(r for r in RECORDS.values() if r.fields["executions"] > 50_000 and r.fields["traces"] < 20)
    tally = answered(record, 30)
    assert tally.left_out == {UNCOUNTED.format(30): 1}
    assert (tally.executions, tally.met) == (30 + record.fields["traces"], tally.outcomes)
    assert first(record, 30, traces=record.fields["traces"] + 1).operation == REDUCED
    # The one search is complete and the other is not: each says what it has seen.
    states = record.fields["final_states"]
    difference = first(record, 30, final_states={**states, "states": ["nowhere"]})
    assert (difference.operation, difference.expected) == (SOME.format(30), {"final_states.states": ["nowhere"]})


def test_what_reduction_sees_must_be_possible_too() -> None:
    """Each search by itself: here the first executions of the other come to nothing that is denied."""
    for record in RECORDS.values():
        if record.fields["traces"] > 60 and "states" in record.fields["final_states"]:
            program = parse(record)
            plain, reduced = measure(program, CountedDFS(), 60), measure(program, DPOR(), 60)
            denied = sorted(in_words(program, state) for state in reduced.states - plain.states)
            if denied:
                break
    recorded = record.fields["final_states"]
    kept = [state for state in recorded["states"] if state not in denied]
    difference = first(record, 60, final_states={**recorded, "states": kept})
    assert difference.operation == SOME_REDUCED.format(60)
    assert difference.actual == {"final_states.states": denied}


def test_a_panic_is_a_difference() -> None:
    record = RECORDS["racy-counter-2"]
    difference = first(record, 100, mutexes=["m"], threads=[[["load", "n", "r"], ["unlock", "m"]]])
    assert (difference.operation, difference.expected) == ("execution 0", "no panic")
    assert "released, but nobody owns it" in difference.actual
    assert difference.around == "T0: load n"


BASE: Final = RECORDS["timed-rescue"].fields


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"name": ...}, "the field 'name' is missing"),
        ({"name": 7}, "name: a text is needed, not 7"),
        ({"vars": ...}, "the field 'vars' is missing"),
        ({"vars": "f"}, "vars: a list is needed"),
        ({"vars": [1]}, "vars: a name is needed, not 1"),
        ({"vars": ["f", "f"]}, "vars: a name stands there twice"),
        ({"sems": []}, "sems: an object is needed"),
        ({"sems": {"s": -1}}, "sems.s: a number from 0 is needed, not -1"),
        ({"threads": []}, "threads: there must be one"),
        ({"threads": {}}, "threads: a list is needed"),
        ({"threads": [7]}, "threads[0]: a list of operations is needed, not 7"),
        ({"threads": [[], [[]]]}, "threads[1][0]: an operation is needed, not []"),
        ({"threads": [[["fork"]]]}, "threads[0][0]: no such operation: 'fork'"),
        ({"threads": [[["lock"]]]}, "threads[0][0]: lock has 1 arguments, not 0"),
        ({"threads": [[["lock", "n"]]]}, "threads[0][0]: lock: no such mutex: 'n'"),
        ({"threads": [[["wait", "m", "m"]]]}, "wait: no such condition variable: 'm'"),
        ({"threads": [[["sem_post", ["s"]]]]}, "sem_post: no such semaphore: ['s']"),
        ({"threads": [[["load", "f", 1]]]}, "load: a register is needed, not 1"),
        ({"threads": [[["store", "f", ["r"]]]]}, "store: a value is needed, not ['r']"),
        ({"threads": [[["store", "f", True]]]}, "store: a value is needed, not True"),
        ({"threads": [[["skip", -1]]]}, "skip: a number from 0 is needed, not -1"),
        ({"threads": [[["choose", 0, "r"]]]}, "choose: a choice among none"),
        ({"threads": [[["assert", 1, "=", 1]]]}, "assert: no such comparison: '='"),
        ({"executions": ...}, "the field 'executions' is missing"),
        ({"executions": "6"}, "executions: a number from 0 is needed, not '6'"),
        ({"executions": True}, "executions: a number from 0 is needed, not True"),
        ({"traces": ...}, "the field 'traces' is missing"),
        ({"final_states": {"count": 1}}, "the field 'final_states.sha256' is missing"),
        ({"final_states": {"count": 1, "sha256": 7}}, "final_states.sha256: a text is needed"),
        ({"final_states": {"count": 1, "sha256": "", "states": [7]}}, "final_states.states: a list of texts is needed"),
        ({"deadlock": 0}, "deadlock: true or false is needed, not 0"),
        ({"length": [1]}, "length: a list of 2 numbers is needed, not [1]"),
        ({"bounded_executions": [1, 2, "3"]}, "bounded_executions[2]: a number from 0 is needed"),
        ({"min_preemptions": {}}, "the field 'min_preemptions.deadlock' is missing"),
        ({"min_preemptions": 1}, "the field 'min_preemptions.deadlock' is missing"),
        ({"failing_traces": {"deadlock": None}}, "failing_traces.deadlock: a number from 0 is needed, not None"),
        ({"timeout_not_counted": ...}, "the field 'timeout_not_counted.bounded_executions' is missing"),
        ({"rwlocks": ["w"]}, "the field 'traces_readers_commute' is missing"),
    ],
)
def test_what_is_no_program_is_refused_by_its_line_and_field(change: dict[str, Any], fault: str) -> None:
    fields = {name: value for name, value in {**BASE, **change}.items() if value is not ...}
    with pytest.raises(UsageError, match=re.escape(fault)) as refused:
        parse(Record(Path("x.jsonl"), 7, fields))
    assert str(refused.value).startswith("x.jsonl: line 7: ")


def test_a_file_of_programs_is_known_by_its_form(tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "data" / "programs.jsonl.gz"
    (tally,) = conform(path, executions=10)
    assert (tally.cases, tally.passed, tally.kind) == (246, 246, "programs")
    assert sum(tally.left_out.values()) == sum(r.fields["executions"] > 10 for r in RECORDS.values())
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"threads": [], "vars": []}\n{"threads": []}\n')
    with pytest.raises(UsageError, match="line 1: the field 'name' is missing"):
        conform(bad)
    bad.write_text('{"threads": []}\n')
    with pytest.raises(UsageError, match=r"vectors in this form are not known; .*small programs with exact figures"):
        conform(bad)

"""Recordings that are wrong in one place: each is caught, whatever the field, in all four files.

The comparison itself is under test. From each file copies are made with one recorded answer changed or left out, several
for every field there is, at random places; whoever answers the case has to differ.
"""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from stressvm.conform import freebsd, freebsd_case, freebsd_program, freebsd_programs, netbsd, netbsd_programs
from stressvm.conform.freebsd_case import FIRST_FIT, OF_2013, SPLAY
from stressvm.conform.records import Record, read
from stressvm.conform.tally import Tally
from stressvm.explore.random_walk import RandomWalk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stressvm.conform.freebsd_case import Personality

    Path_ = tuple[Any, ...]

DATA: Final = Path(__file__).parents[1] / "data"
#: Longer cases are as good, and take longer.
SMALL: Final = 40
#: Executions of each program; only outcomes that come about in these are made wrong.
EXECUTIONS: Final = 40


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """All values within a value that are neither lists nor objects, items of lists, and objects below the top."""
    if isinstance(value, dict | list):
        if path and (isinstance(path[-1], int) or isinstance(value, dict)):
            yield path
        items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from places(item, (*path, name))
    else:
        yield path


def label(path: Path_) -> str:
    """Places of one kind have one label: which item of a list does not matter, but for the columns of a range."""
    columns = len(path) > 2 and path[-3] in {"entries", "gaps"}
    *front, last = path
    names = [name if isinstance(name, str) else "*" for name in front]
    return "/".join([*names, str(last) if columns or isinstance(last, str) else "*"])


def wrong(fields: dict[str, Any], path: Path_) -> dict[str, Any]:
    """A copy with another value there; lists and objects, and words that stand alone, are left out."""
    fields = copy.deepcopy(fields)
    holder: Any = fields
    for name in path[:-1]:
        holder = holder[name]
    last = path[-1]
    value = holder[last]
    if isinstance(value, list) or (isinstance(value, str) and last in {"quirk", "kassert"}):
        del holder[last]
    elif isinstance(value, dict):
        holder[last] = None
    elif last == "entry":
        holder[last] = ["0x1000", "0x2000"]
    else:
        holder[last] = changed(value)
    return fields


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if value is None:
        return "0x1000"
    if value.startswith("0x"):
        return hex(int(value, 16) ^ 0x1000)
    return "KERN_FAILURE" if value.startswith("KERN_") else f"{value}?"


def sample(records: list[Record], answers: Any, each: int) -> list[tuple[str, Record, Path_]]:
    """For each kind of place so many, at random, with the record that has it."""
    dice = random.Random(1)
    found: dict[str, list[tuple[str, Record, Path_]]] = defaultdict(list)
    for record in records:
        for what, path in answers(record.fields):
            found[what].append((what, record, path))
    return [one for what in sorted(found) for one in dice.sample(found[what], min(each, len(found[what])))]


# ---------------------------------------------------------------- one thread


def of_netbsd(fields: dict[str, Any]) -> Iterator[tuple[str, Path_]]:
    for at, (word, _, answer) in enumerate(fields["ops"]):
        for path in places(answer):
            yield f"{word} {label(path)}", ("ops", at, 2, *path)
    for name in ("final", "entries"):
        for path in places(fields[name]):
            yield f"{name} {label((name, *path))}", (name, *path)


def of_freebsd(fields: dict[str, Any]) -> Iterator[tuple[str, Path_]]:
    for at, op in enumerate(fields["ops"]):
        _, _, results = freebsd_case.OPERATIONS[op["op"]]
        names = {*results, *(f"{name}_2013" for name in results), "first_fit", "quirk"}
        for name in sorted(names & set(op)):
            for path in places(op[name], (name,)):
                yield f"{op['op']} {label(path)}", ("ops", at, *path)
    for path in places(fields["final"]):
        yield f"final {label(path)}", ("final", *path)


def test_netbsd_cases() -> None:
    records = [record for record in read(DATA / "netbsd.jsonl.gz") if len(record.fields["ops"]) <= SMALL]
    chosen = sample(records, of_netbsd, 12)
    for what, record, path in chosen:
        tally = Tally("")
        netbsd.answer(replace(record, fields=wrong(record.fields, path)), tally)
        assert tally.passed == 0, (what, record.line, path)
        where = f"operation {path[1]}: " if path[0] == "ops" else "the map at the end"
        assert tally.differences[0].operation.startswith(where), (what, record.line, path)
    assert {what for what, _, _ in chosen} >= {
        "map rc", "map addr", "map kassert", "findspace addr", "findspace prev", "findspace kassert", "unmap removed",
        "unmap nentries", "lookup found", "lookup index", "final final/size", "final final/nentries",
        "final final/first_free", "final final/root_maxgap", "final final/wantva", "final final/timestamp",
        "entries entries/*", "entries entries/*/0", "entries entries/*/1",
    }  # fmt: skip


def caught(record: Record, personality: Personality) -> str:
    """Where a personality differs, "" if it does not."""
    tally = Tally("")
    freebsd.answer(record, tally, personality)
    return tally.differences[0].operation if tally.differences else ""


def must_catch(fields: dict[str, Any], path: Path_) -> set[Personality]:
    """Who is asked for that answer: 10.4 was not asked to the end, first fit not for what the other search missed."""
    operations = freebsd_case.parse(Record(Path(), 1, fields)).operations
    to_the_end = not any(operation.parts for operation in operations)
    if path[0] == "final":
        return {FIRST_FIT, SPLAY, OF_2013} if to_the_end else {FIRST_FIT, SPLAY}
    op, name = fields["ops"][path[1]], path[2]
    if str(name).endswith("_2013"):
        return {OF_2013}
    if name in {"first_fit", "quirk"}:
        return {FIRST_FIT}
    asked_2013 = to_the_end and f"{name}_2013" not in op
    return {SPLAY} | ({FIRST_FIT} if "quirk" not in op else set()) | ({OF_2013} if asked_2013 else set())


def test_freebsd_cases() -> None:
    records = read(DATA / "freebsd.jsonl.gz")
    small = [record for record in records if len(record.fields["ops"]) <= SMALL]
    big = [record for record in records if record.fields["ops"][0]["op"] == "insert_bulk"]
    chosen = sample(small, of_freebsd, 12)
    chosen += [one for one in sample(big[:1], of_freebsd, 1) if one[0].startswith(("insert_bulk", "final"))]
    for what, record, path in chosen:
        copied = replace(record, fields=wrong(record.fields, path))
        for personality in must_catch(record.fields, path):
            where = caught(copied, personality)
            assert where, (what, record.line, path, personality)
            expected = f"operation {path[1]}: " if path[0] == "ops" else "the map at the end"
            assert where.startswith(expected), (what, record.line, path, personality, where)
    assert {what for what, _, _ in chosen} == {
        "insert rc", "insert_bulk rc", "delete rc", "remove rc", "fixed rc", "lookup found", "lookup entry",
        "lookup entry/*", "findspace addr", "findspace addr_2013", "findspace first_fit", "findspace quirk", "find rc",
        "find addr_out", "find rc_2013", "find addr_out_2013", "find first_fit", "find quirk", "final nentries",
        "final size", "final root_max_free", "final entries/*", "final entries/*/0", "final entries/*/1",
        "final gaps/*", "final gaps/*/0", "final gaps/*/1",
    }  # fmt: skip


def test_freebsd_ranges_that_are_not_there() -> None:
    """One more, at any place."""
    dice = random.Random(2)
    records = [record for record in read(DATA / "freebsd.jsonl.gz") if len(record.fields["ops"]) <= SMALL]
    for name in ("entries", "gaps"):
        for record in dice.sample(records, 12):
            fields = copy.deepcopy(record.fields)
            ranges = fields["final"][name]
            ranges.insert(dice.randint(0, len(ranges)), ["0x1000", "0x2000"])
            assert caught(replace(record, fields=fields), SPLAY) == "the map at the end"


# ---------------------------------------------------------------- programs


def of_program(key: str, outcomes: list[int]) -> Any:
    """Everything in the outcomes of those numbers, and each of them as a whole."""

    def answers(fields: dict[str, Any]) -> Iterator[tuple[str, Path_]]:
        for number in outcomes:
            outcome = {name: fields[key][number][name] for name in ("threads", "entries", *REST[fields["system"]])}
            for path in ((), *places(outcome)):
                if path and isinstance(path[-1], int) and path[0] == "threads" and len(path) == 2:
                    continue
                yield f"outcome {label(path)}" if path else "outcome", (key, number, *path)

    return answers


REST: Final = {
    "freebsd13": ("needs_wakeup", "busy"),
    "netbsd6": ("wantva",),
    "netbsd5.2-intrsafe": ("wantva",),
}


def without(fields: dict[str, Any], path: Path_) -> dict[str, Any]:
    """As `wrong`; an outcome as a whole is left out."""
    if len(path) > 2:
        return wrong(fields, path)
    key, number = path
    return {**fields, key: [outcome for at, outcome in enumerate(fields[key]) if at != number]}


def reached_netbsd(record: Record) -> list[int]:
    """By number, the recorded outcomes that come about soon."""
    reached = netbsd_programs.explore(netbsd_programs.parse(record), RandomWalk(1), EXECUTIONS).outcomes
    found = []
    for number, outcome in enumerate(record.fields["outcomes"]):
        alone = netbsd_programs.parse(replace(record, fields={**record.fields, "outcomes": [outcome]}))
        if alone.outcomes <= set(reached):
            found.append(number)
    return found


def test_netbsd_programs() -> None:
    seen = set()
    for record in read(DATA / "netbsd_mt.jsonl.gz")[::4]:
        answers = of_program("outcomes", reached_netbsd(record))
        record = replace(record, fields={**record.fields, "lost_wakeup": False})  # noqa: PLW2901 - it is searched for else
        for what, _, path in sample([record], answers, 1):
            tally = Tally("")
            netbsd_programs.answer(replace(record, fields=without(record.fields, path)), tally, EXECUTIONS, 1)
            assert tally.passed == 0, (what, record.line, path)
            assert tally.differences[0].expected.startswith("one of the "), (what, record.line, path)
            seen.add(what)
    assert seen >= {
        "outcome", "outcome threads/*/*", "outcome threads/*/*/asleep", "outcome entries/*", "outcome entries/*/0",
        "outcome entries/*/1", "outcome wantva",
    }  # fmt: skip


def reached_freebsd(record: Record, key: str) -> list[int]:
    """By number, the outcomes in that list that come about soon, with first fit; of two that are one, neither."""
    program = freebsd_program.parse(record)
    reached = freebsd_programs.explore(program, FIRST_FIT, RandomWalk(1), EXECUTIONS).outcomes
    found: dict[str, list[int]] = defaultdict(list)
    for number, outcome in enumerate(record.fields[key]):
        alone = freebsd_program.parse(replace(record, fields={**record.fields, key: [outcome]}))
        (told,) = alone.expected(FIRST_FIT)
        found[told].append(number)
    return [numbers[0] for told, numbers in found.items() if told in reached and len(numbers) == 1]


@pytest.mark.parametrize("remainder", range(2))
def test_freebsd_programs(remainder: int) -> None:
    seen = set()
    for record in read(DATA / "freebsd_mt.jsonl.gz")[remainder::4]:
        key = "outcomes_first_fit" if "outcomes_first_fit" in record.fields else "outcomes"
        for what, _, path in sample([record], of_program(key, reached_freebsd(record, key)), 1):
            fields = without(record.fields, path)
            tally = Tally("")
            freebsd_programs.answer(replace(record, fields=fields), tally, FIRST_FIT, EXECUTIONS, 1)
            assert tally.passed == 0, (what, record.line, path)
            assert tally.differences[0].expected.startswith("one of the "), (what, record.line, path)
            seen.add(what)
    assert seen >= {
        "outcome", "outcome threads/*/ops/*", "outcome threads/*/asleep", "outcome threads/*/asleep/op",
        "outcome threads/*/asleep/on", "outcome entries/*", "outcome entries/*/0", "outcome entries/*/1",
        "outcome entries/*/2", "outcome entries/*/3", "outcome entries/*/4", "outcome needs_wakeup", "outcome busy",
    }  # fmt: skip

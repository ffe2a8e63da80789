"""uvm_map_findspace, uvm_map, uvm_unmap and lookups against NetBSD's own code: one thread, both directions.

`tests/data/netbsd.jsonl.gz` holds what NetBSD 6.99.16's C code answered: every operation with its result, and the map at
the end. Operations at which a DIAGNOSTIC kernel panics are counted; they must do so here, and no other may.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stressvm.conform.netbsd import FINAL, OPERATIONS, answer
from stressvm.conform.records import Record, read
from stressvm.conform.tally import Tally
from stressvm.kernel.errors import UsageError
from stressvm.vm import netbsd

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDS = read(Path(__file__).parents[1] / "data" / "netbsd.jsonl.gz")
SMALL = [record for record in RECORDS if len(record.fields["ops"]) <= 40]


def run(*records: Record) -> Tally:
    tally = Tally("")
    for record in records:
        answer(record, tally)
    return tally


@pytest.mark.parametrize(
    ("topdown", "merge", "cases", "words"),
    [
        (False, False, 165, {"map": 2655, "findspace": 1861, "unmap": 1805, "lookup": 164, "fill": 4, "kassert": 5}),
        (False, True, 36, {"map": 523, "findspace": 181, "unmap": 242, "lookup": 34, "kassert": 3}),
        (True, False, 163, {"map": 2381, "findspace": 1818, "unmap": 1670, "lookup": 137, "fill": 4, "kassert": 276}),
        (True, True, 36, {"map": 463, "findspace": 177, "unmap": 209, "lookup": 36, "kassert": 76}),
    ],
)
def test_every_case_agrees(topdown: bool, merge: bool, cases: int, words: dict[str, int]) -> None:  # noqa: FBT001
    tally = run(*[r for r in RECORDS if (r.fields["topdown"], r.fields["merge"]) == (topdown, merge)])
    assert not tally.differences
    assert tally.cases == tally.passed == cases
    assert tally.words == words
    assert tally.operations == tally.operations_passed == tally.words.total() - tally.words["kassert"]
    assert not tally.left_out


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return hex(int(value, 16) ^ 0x1000)
    return "0x1000"


def with_fields(record: Record, fields: dict[str, Any]) -> Record:
    return replace(record, fields=fields)


def wrong_answers() -> Iterator[tuple[str, Record, int]]:
    """Copies with one answer changed, many for each field: what, the copy, and the operation."""
    dice = random.Random(1)
    places = [(record, at) for record in SMALL for at in range(len(record.fields["ops"]))]
    dice.shuffle(places)
    done: Counter[str] = Counter()
    for record, at in places:
        word, _, expected = record.fields["ops"][at]
        for name in expected:
            what = f"{word} {name}"
            if (done[what] >= 12 and name != "kassert") or done[what] >= 60:
                continue
            done[what] += 1
            fields = copy.deepcopy(record.fields)
            answer = fields["ops"][at][2]
            if name == "kassert":
                if done[what] % 2:
                    del answer[name]
                else:
                    answer[name] = "orig_hint < prev->end"
            else:
                answer[name] = changed(answer[name])
            yield what, with_fields(record, fields), at
    for record in (r for r in RECORDS if r.fields["ops"][0][0] == "fill"):
        fields = copy.deepcopy(record.fields)
        fields["ops"][0][2]["rc"] = 12
        done["fill rc"] += 1
        yield "fill rc", with_fields(record, fields), 0
    fields_of = {f"{word} {name}" for word, (_, _, names) in OPERATIONS.items() for name in names}
    assert set(done) == fields_of | {"map kassert", "findspace kassert"}


def test_every_wrong_answer_is_caught_at_its_operation() -> None:
    caught = 0
    for what, record, at in wrong_answers():
        tally = run(record)
        assert (tally.cases, tally.passed) == (1, 0), (what, record.fields["case"], at)
        (difference,) = tally.differences
        assert difference.operation.startswith(f"operation {at}: {what.split()[0]}("), (what, difference)
        assert difference.around.startswith("<EntryList")
        assert tally.operations_passed == at
        caught += 1
    assert caught > 150


def test_a_panic_that_was_not_recorded_is_caught_and_one_recorded_for_nothing() -> None:
    record = next(r for r in SMALL if any("kassert" in op[2] for op in r.fields["ops"]))
    fields = copy.deepcopy(record.fields)
    at = next(at for at, op in enumerate(fields["ops"]) if "kassert" in op[2])
    text = fields["ops"][at][2].pop("kassert")
    (difference,) = run(with_fields(record, fields)).differences
    assert f"KASSERT({text})" in difference.actual["panic"]
    calm = next(r for r in SMALL if r.fields["ops"][0][0] == "map" and not r.fields["topdown"])
    fields = copy.deepcopy(calm.fields)
    fields["ops"][0][2]["kassert"] = text
    (difference,) = run(with_fields(calm, fields)).differences
    assert (difference.expected, difference.operation[-15:]) == ({"panic": f"KASSERT({text})"}, "with DIAGNOSTIC")
    assert difference.actual == calm.fields["ops"][0][2]


def test_every_wrong_field_at_the_end_is_caught() -> None:
    for record in SMALL[::9]:
        for name in FINAL:
            fields = copy.deepcopy(record.fields)
            fields["final"][name] = changed(fields["final"][name])
            (difference,) = run(with_fields(record, fields)).differences
            assert (difference.operation, list(difference.expected)) == ("the map at the end", [name])
        fields = copy.deepcopy(record.fields)
        if fields["entries"]:
            fields["entries"][-1][1] = changed(fields["entries"][-1][1])
        else:
            fields["entries"].append(["0x1000", "0x2000"])
        (difference,) = run(with_fields(record, fields)).differences
        assert list(difference.expected) == ["entries"]


def test_another_direction_and_other_merging_are_caught() -> None:
    """By many cases, not by every one: some maps never hold two entries that touch."""
    for name in ("topdown", "merge"):
        chosen = SMALL[::5]
        tally = run(*[with_fields(r, {**r.fields, name: not r.fields[name]}) for r in chosen])
        assert tally.passed < tally.cases * 0.6, name


def test_fields_that_nobody_asks_for_mean_nothing() -> None:
    fields = copy.deepcopy(SMALL[0].fields)
    for place in (fields, fields["final"], fields["ops"][0][1], fields["ops"][0][2]):
        place["remark"] = {"by": "somebody"}
    assert run(with_fields(SMALL[0], fields)).passed == 1


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"min": None}, "this is no case"),
        ({"max": "0xg"}, "this is no case"),
        ({"final": {}}, "the field 'size' is missing"),
        ({"ops": [["protect", {}, {}]]}, "the operation 'protect' is not known"),
        ({"ops": [["lookup", {}, {}]]}, "the field 'addr' is missing"),
        ({"ops": [["map", {"hint": "0x0", "size": "0x1000", "align": "0x0", "fixed": 1}, {}]]}, "map: fixed is 1"),
        ({"ops": [["unmap", {}]]}, "this is no case"),
        ({"ops": 5}, "this is no case"),
        ({"min": "0x1001"}, "both must be page aligned"),
    ],
)
def test_what_is_no_case_is_refused_by_its_line(change: dict[str, object], fault: str) -> None:
    with pytest.raises(UsageError, match=fault) as refused:
        run(with_fields(SMALL[3], {**SMALL[3].fields, **change}))
    assert str(refused.value).startswith(f"{SMALL[3].path}: line {SMALL[3].line}: ")


def test_a_map_with_a_defect_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only wrong records are caught: so are wrong maps, and the report shows the map."""

    class Deaf(netbsd.VmMap):
        async def wake_va_waiters(self) -> None:
            """Nobody is told."""

    monkeypatch.setattr(netbsd, "VmMap", Deaf)
    tally = run(*SMALL)
    assert 0 < tally.passed < tally.cases
    assert {difference.operation for difference in tally.differences} == {"the map at the end"}

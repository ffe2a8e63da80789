"""vm_map against FreeBSD's own code, one thread, operation by operation, in every version and search that is modelled.

`tests/data/freebsd.jsonl.gz` holds what 13.0's C code answered: every operation with its result, and the map at the end.
Where 10.4's code answered something else that is recorded, too; after an answer that changes the map otherwise 10.4 was
not asked any more. A search of 13.0 that misses the gap after the last entry carries what first fit would have found.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stressvm.conform.freebsd import NO_END, NOT_ASKED, NOT_FIRST_FIT, Replay, answer
from stressvm.conform.freebsd_case import FIRST_FIT, MISSED, OF_2013, SPLAY, Personality, parse
from stressvm.conform.records import Record, read
from stressvm.conform.tally import Differs, Tally
from stressvm.kernel.errors import UsageError
from stressvm.vm import freebsd

RECORDS = read(Path(__file__).parents[1] / "data" / "freebsd.jsonl.gz")
#: What the file has.
ALL = {
    "insert": 4773,
    "findspace": 2972,
    "find": 2121,
    "delete": 1113,
    "remove": 363,
    "fixed": 326,
    "lookup": 297,
    "insert_bulk": 4,
}


def run(personality: Personality, *records: Record) -> Tally:
    tally = Tally("")
    for record in records:
        answer(record, tally, personality)
    return tally


def test_what_the_file_holds() -> None:
    assert len(RECORDS) == 412
    ops = [op for record in RECORDS for op in record.fields["ops"]]
    assert Counter(op["op"] for op in ops) == ALL
    quirks = Counter((op["op"], op["quirk"]) for op in ops if "quirk" in op)
    assert quirks == {("findspace", MISSED): 11, ("find", MISSED): 4}
    others = Counter(key for op in ops for key in op if key.endswith("_2013"))
    assert others == {"addr_2013": 141, "rc_2013": 60, "addr_out_2013": 60}
    assert Counter(record.fields["coalesce"] for record in RECORDS) == {False: 227, True: 185}


@pytest.mark.parametrize(
    ("personality", "fewer", "left_out"),
    [
        # The gaps that 13.0 misses are missed, and no others: the tree has the very shape of the real one.
        (SPLAY, {}, {}),
        (FIRST_FIT, {}, {NOT_FIRST_FIT: 15}),
        # Four cases end early: there 13.0 missed the last gap in a mapping, and 10.4 mapped.
        (
            OF_2013,
            {"insert": 20, "findspace": 11, "find": 5, "delete": 6, "remove": 1, "fixed": 1, "lookup": 1},
            {NOT_ASKED: 45, NO_END: 4},
        ),
    ],
    ids=["13-splay", "13-first-fit", "2013"],
)
def test_every_case_agrees(personality: Personality, fewer: dict[str, int], left_out: dict[str, int]) -> None:
    tally = run(personality, *RECORDS)
    assert not tally.differences
    assert tally.cases == tally.passed == 412
    assert tally.words == Counter(ALL) - Counter(fewer)
    assert tally.operations == tally.operations_passed == tally.words.total()
    assert tally.left_out == left_out
    assert sum(fewer.values()) == left_out.get(NOT_ASKED, 0)


class LazyTree(freebsd.SplayTree):
    """A tree whose searches leave it as it is."""

    def findspace(self, start: int, length: int) -> int | None:
        """First fit."""
        return freebsd.FirstFit.findspace(self, start, length)


def test_a_tree_whose_searches_leave_it_as_it_is_finds_too_much() -> None:
    """Every recorded miss is one because the tree says so: with first fit in its place all of them differ."""
    misses = [record for record in RECORDS if any("quirk" in op for op in record.fields["ops"])]
    for record in misses:
        at = next(at for at, op in enumerate(record.fields["ops"]) if "quirk" in op)
        replayed = Replay(parse(record), SPLAY)
        replayed.map.tree = LazyTree(replayed.map.entries)
        with pytest.raises(Differs, match=f"^operation {at}: find") as differs:
            replayed.run(Tally(""))
        assert None in differs.value.expected.values()
        assert None not in differs.value.actual.values()
    assert len(misses) == 15


def mapped_elsewhere() -> Record:
    """A mapping that 13.0 makes, too, but not where first fit would: aligned it finds nothing, so it does without."""
    find = {
        "op": "find", "addr": "0x403000", "length": "0x201000", "max_addr": "0x0", "strategy": "OPTIMAL", "color": 0,
        "offset": "0x0", "rc": "KERN_SUCCESS", "addr_out": "0x403000", "quirk": MISSED, "first_fit": "0x800000",
        "rc_2013": "KERN_SUCCESS", "addr_out_2013": "0x800000",
    }  # fmt: skip
    fields = {
        "case": "by hand", "min": "0x3fe000", "max": "0xe26000", "coalesce": False,
        "ops": [
            {"op": "insert", "start": "0x656000", "end": "0x657000", "rc": "KERN_SUCCESS"},
            find,
            {"op": "lookup", "addr": "0x900000", "found": False, "entry": ["0x656000", "0x657000"]},
        ],
        "final": {
            "nentries": 2, "size": "0x202000", "root_max_free": "0x7cf000",
            "entries": [["0x403000", "0x604000"], ["0x656000", "0x657000"]],
            "gaps": [["0x3fe000", "0x403000"], ["0x604000", "0x656000"], ["0x657000", "0xe26000"]],
        },
    }  # fmt: skip
    return Record(Path("by_hand.jsonl"), 1, fields)


def test_where_first_fit_maps_elsewhere_the_case_goes_on_as_it_was_recorded() -> None:
    record = mapped_elsewhere()
    for personality, left_out in ((SPLAY, {}), (FIRST_FIT, {NOT_FIRST_FIT: 1}), (OF_2013, {NOT_ASKED: 1, NO_END: 1})):
        tally = run(personality, record)
        assert not tally.differences
        assert tally.left_out == left_out
    record.fields["ops"][1]["first_fit"] = None
    (difference,) = run(FIRST_FIT, record).differences
    assert difference.expected == {"rc": "KERN_NO_SPACE", "addr_out": None}
    assert difference.actual == {"rc": "KERN_SUCCESS", "addr_out": "0x800000"}


def test_a_difference_shows_the_map_around_it() -> None:
    record = next(record for record in RECORDS if record.fields["ops"][0]["op"] == "insert_bulk")
    fields = copy.deepcopy(record.fields)
    at = next(at for at, op in enumerate(fields["ops"]) if op["op"] == "lookup" and op["found"])
    lookup = fields["ops"][at]
    right, lookup["entry"] = lookup["entry"], ["0x0", "0x1000"]
    (difference,) = run(FIRST_FIT, replace(record, fields=fields)).differences
    assert difference.operation == f"operation {at}: lookup(addr={lookup['addr']})"
    assert difference.expected == {"found": True, "entry": ["0x0", "0x1000"]}
    assert difference.actual == {"found": True, "entry": right}
    first, *shown = difference.around.splitlines()
    assert first.endswith(f"around {lookup['addr']}")
    assert 8 < len(shown) <= 16
    assert any(f"{right[0]}-{right[1]}, then" in line for line in shown)


def test_a_long_list_is_shown_from_where_it_differs() -> None:
    record = next(record for record in RECORDS if record.fields["ops"][0]["op"] == "insert_bulk")
    fields = copy.deepcopy(record.fields)
    del fields["final"]["entries"][700]
    (difference,) = run(FIRST_FIT, replace(record, fields=fields)).differences
    assert difference.operation == "the map at the end"
    assert list(difference.expected) == ["entries"]
    shown = difference.actual["entries"]
    assert (shown["from"], len(shown["items"])) == (700, 8)
    assert shown["length"] == difference.expected["entries"]["length"] + 1


def test_a_reference_too_many_is_caught() -> None:
    """What vectors do not have: whose references the objects hold."""

    class Leaking(freebsd.VmMap13):
        def deallocate(self, entry: freebsd.VmMapEntry) -> None:
            """Nobody lets go."""

    record = next(
        r for r in RECORDS if not r.fields["coalesce"] and any(op["op"] == "remove" for op in r.fields["ops"])
    )
    replayed = Replay(parse(record), FIRST_FIT)
    replayed.map.__class__ = Leaking
    with pytest.raises(Differs, match=r"^the map at the end, object ") as differs:
        replayed.run(Tally(""))
    assert differs.value.actual["references"] > differs.value.expected["references"]


def test_a_map_with_a_defect_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only wrong records are caught: so are wrong maps."""

    class Blind(freebsd.VmMap13):
        def next_overlaps(self, prev: freebsd.VmMapEntry | None, end: int) -> bool:
            """Only the start of a mapping is looked at, and what is in the way is taken out."""
            after = self.after(prev)
            while after is not None and after.start < end:
                self.delete_entry(after)
                after = self.after(prev)
            return False

    monkeypatch.setitem(freebsd.VERSIONS, "13", Blind)
    tally = run(FIRST_FIT, *RECORDS[:100])
    assert 0 < tally.passed < tally.cases
    assert len(tally.differences) == 5


def test_fields_that_nobody_asks_for_mean_nothing() -> None:
    fields = copy.deepcopy(RECORDS[0].fields)
    for place in (fields, fields["final"], fields["ops"][0]):
        place["remark"] = {"by": "somebody"}
    assert run(SPLAY, replace(RECORDS[0], fields=fields)).passed == 1


def changed_op(**change: Any) -> dict[str, Any]:
    op = {"op": "find", "addr": "0x0", "length": "0x1000", "max_addr": "0x0", "strategy": "ANY", "rc": "KERN_SUCCESS"}
    return {"ops": [{**op, "addr_out": "0x0", **change}]}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"min": None}, "this is no case"),
        ({"max": "0xg"}, "this is no case"),
        ({"max": "0x0"}, "the second must be larger"),
        ({"coalesce": 1}, "coalesce is 1"),
        ({"final": {}}, "the field 'nentries' is missing; record the case again"),
        ({"ops": 5}, "this is no case"),
        ({"ops": [["insert"]]}, "this is no case"),
        ({"ops": [{}]}, "the field 'op' is missing"),
        ({"ops": [{"op": "protect"}]}, "the operation 'protect' is not known, only insert, "),
        ({"ops": [{"op": "lookup", "addr": "0x0", "found": 1, "entry": None}]}, "found is 1"),
        ({"ops": [{"op": "lookup", "addr": "0x0", "found": True, "entry": ["0x0"]}]}, "not enough values"),
        ({"ops": [{"op": "insert_bulk", "ranges": [], "rc": "KERN_SUCCESS"}]}, "insert_bulk of nothing"),
        ({"ops": [{"op": "fixed", "start": "0x0", "length": "0x1", "excl": 1, "rc": "KERN_SUCCESS"}]}, "excl is 1"),
        (changed_op(rc="SUCCESS"), "rc 'SUCCESS' is not known, only KERN_"),
        (changed_op(rc=0), "this is no case"),
        (changed_op(strategy="BEST"), "the strategy 'BEST' is not known, only ALIGNED, NO, "),
        (changed_op(strategy="ALIGNED"), "the field 'align_log2' is missing"),
        (changed_op(color=1), "a colour, which is an object's"),
        (changed_op(quirk="other"), "the quirk 'other' of a find is not known"),
        (changed_op(quirk=MISSED), "the field 'first_fit' is missing"),
    ],
)
def test_what_is_no_case_is_refused_by_its_line(change: dict[str, object], fault: str) -> None:
    record = next(record for record in RECORDS if record.fields["coalesce"])
    with pytest.raises(UsageError) as refused:
        run(SPLAY, replace(record, fields={**record.fields, **change}))
    assert fault in str(refused.value)
    assert str(refused.value).startswith(f"{record.path}: line {record.line}: ")

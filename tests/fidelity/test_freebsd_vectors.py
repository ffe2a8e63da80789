"""vm_map against FreeBSD's own code, one thread, operation by operation, in every version and search that is modelled.

`tests/data/freebsd.jsonl.gz` holds what 13.0's C code answered: every operation with its result, and the map at the end.
Where 10.4's code answered something else that is recorded, too; after an answer that changes the map otherwise 10.4 was
not asked any more, so there the rest of the case and its end are left out. A search of 13.0 that misses the gap after
the last entry carries what first fit would have found. With coalescing off, every mapping has an object of its own.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stressvm.conform.lone import LoneThread
from stressvm.vm import freebsd

FILE = Path(__file__).parents[1] / "data" / "freebsd.jsonl.gz"
#: What a mapping that misses the last gap says, and what it changes: nothing.
MISSED = "tail-gap-miss"
STRATEGIES = {
    "NO": freebsd.VMFS_NO_SPACE,
    "ANY": freebsd.VMFS_ANY_SPACE,
    "OPTIMAL": freebsd.VMFS_OPTIMAL_SPACE,
    "SUPER": freebsd.VMFS_SUPER_SPACE,
}


def _load() -> list[dict[str, Any]]:
    with gzip.open(FILE, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


CASES = _load()


class Unchecked13(freebsd.VmMap13):
    """A map that is not proved right at every release of its lock."""

    def check(self) -> None:
        """Nothing."""


class Unchecked2013(freebsd.VmMap2013):
    """The same of the other version."""

    def check(self) -> None:
        """Nothing."""


def number(text: str) -> int:
    return int(text, 16)


def code(text: str) -> int:
    value: int = getattr(freebsd, text)
    return value


@dataclass
class Replay:
    """One case on the model: a single thread, which nobody else can take the baton from."""

    case: dict[str, Any]
    version: str
    search: freebsd.Search = freebsd.Search.FIRST_FIT
    lone: LoneThread = field(default_factory=LoneThread)
    map: freebsd.VmMap = field(init=False)
    seen: Counter[str] = field(default_factory=Counter)
    objects: list[freebsd.VmObject] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Of the largest maps only the last state is checked, of the others every one.
        big = self.case["kind"] == "big"
        cls = {"13": Unchecked13, "2013": Unchecked2013}[self.version] if big else freebsd.VERSIONS[self.version]
        low, high = number(self.case["min"]), number(self.case["max"])
        self.map = cls(self.lone.k, low, high, kind=freebsd.MapKind.SYSTEM, search=self.search)
        self.lone.start()
        self.now = self.lone.now

    @property
    def is_2013(self) -> bool:
        return self.version == "2013"

    def run(self) -> Counter[str]:
        """All operations that there are answers to, then the map as it is at the end; what was done, by kind."""
        try:
            for at, op in enumerate(self.case["ops"]):
                word = op["op"]
                where = f"{self.case['case']} operation {at}: {op}"
                if (
                    self.version == "13"
                    and self.search is freebsd.Search.FIRST_FIT
                    and word == "find"
                    and "quirk" in op
                ):
                    self.seen["find left out"] += 1
                    continue
                getattr(self, word)(op, where)
                self.seen[word] += 1
                if self.is_2013 and self.parts(op):
                    left = len(self.case["ops"]) - at - 1
                    self.seen["after other answer"] += left
                    return self.seen
            self.finally_()
            return self.seen
        finally:
            self.lone.close()

    def parts(self, op: dict[str, Any]) -> bool:
        """Do the two versions go separate ways from here on?"""
        return "rc_2013" in op and "KERN_SUCCESS" in {op["rc"], op["rc_2013"]}

    def object(self, **kind: Any) -> freebsd.VmObject | None:
        """What a mapping maps: nothing if mappings may coalesce, else an object of its own."""
        if self.case["coalesce"]:
            return None
        self.objects.append(freebsd.VmObject(1, **kind))
        return self.objects[-1]

    def kept(self, rc: int) -> None:
        """A mapping that failed leaves the reference to its maker."""
        if rc and not self.case["coalesce"]:
            assert self.objects.pop().ref_count == 1

    def insert(self, op: dict[str, Any], where: str) -> None:
        self.now(self.map.lock.lock())
        got = freebsd.vm_map_insert(self.map, self.object(), 0, number(op["start"]), number(op["end"]))
        self.kept(got)
        self.now(self.map.lock.unlock())
        assert got == code(op["rc"]), where

    def insert_bulk(self, op: dict[str, Any], where: str) -> None:
        for start, end in op["ranges"]:
            self.insert({"start": start, "end": end, "rc": "KERN_SUCCESS"}, where)

    def delete(self, op: dict[str, Any], where: str) -> None:
        self.now(self.map.lock.lock())
        got = self.now(freebsd.vm_map_delete(self.map, number(op["start"]), number(op["end"])))
        self.now(self.map.lock.unlock())
        assert got == code(op["rc"]), where

    def remove(self, op: dict[str, Any], where: str) -> None:
        got = self.now(freebsd.vm_map_remove(self.map, number(op["start"]), number(op["end"])))
        assert got == code(op["rc"]), where

    def fixed(self, op: dict[str, Any], where: str) -> None:
        cow = freebsd.MAP_CHECK_EXCL if op["excl"] else 0
        start, length = number(op["start"]), number(op["length"])
        got = self.now(freebsd.vm_map_fixed(self.map, self.object(), 0, start, length, cow=cow))
        self.kept(got)
        assert got == code(op["rc"]), where

    def lookup(self, op: dict[str, Any], where: str) -> None:
        self.now(self.map.lock.lock())
        found, entry = self.now(freebsd.vm_map_lookup_entry(self.map, number(op["addr"])))
        self.now(self.map.lock.unlock())
        assert found == op["found"], where
        assert ([entry.start, entry.end] if entry is not None else None) == (
            [number(word) for word in op["entry"]] if op["entry"] is not None else None
        ), where

    def findspace(self, op: dict[str, Any], where: str) -> None:
        self.now(self.map.lock.lock())
        got = freebsd.vm_map_findspace(self.map, number(op["start"]), number(op["length"]))
        self.now(self.map.lock.unlock())
        expected = op["addr"]
        if self.is_2013:
            expected = op.get("addr_2013", expected)
        elif self.search is freebsd.Search.FIRST_FIT:
            expected = op.get("first_fit", expected)
        assert got == (number(expected) if expected is not None else None), where

    def find(self, op: dict[str, Any], where: str) -> None:
        if op["strategy"] == "ALIGNED":
            find_space = freebsd.VMFS_ALIGNED_SPACE(op["align_log2"])
        else:
            find_space = STRATEGIES[op["strategy"]]
        obj = self.object(pg_color=op.get("color"))
        if obj is None and op.get("color") is not None:
            raise AssertionError("a colour without an object")
        found = freebsd.vm_map_find(
            self.map,
            obj,
            number(op.get("offset", "0x0")),
            number(op["addr"]),
            number(op["length"]),
            number(op["max_addr"]),
            find_space,
        )
        rc, addr = self.now(found)
        self.kept(rc)
        other = self.is_2013 and "rc_2013" in op
        expected_rc, expected = (op["rc_2013"], op["addr_out_2013"]) if other else (op["rc"], op["addr_out"])
        assert (rc, addr) == (code(expected_rc), number(expected) if expected is not None else 0), where

    def finally_(self) -> None:
        """Entries, gaps, size, the largest gap; and every object is referred to by its entries, and nothing else."""
        final = self.case["final"]
        freebsd.VmMap.check(self.map)
        entries = list(self.map.entries)
        assert [[entry.start, entry.end] for entry in entries] == [
            [number(word) for word in pair] for pair in final["entries"]
        ]
        assert len(entries) == final["nentries"]
        assert self.map.size == number(final["size"])
        assert (self.map.entries.largest_gap if entries else 0) == number(final["root_max_free"])
        edges = [self.map.min_offset, *(edge for entry in entries for edge in (entry.start, entry.end))]
        edges.append(self.map.max_offset)
        gaps = [[start, end] for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]
        assert gaps == [[number(word) for word in pair] for pair in final["gaps"]]
        users = Counter(id(entry.object) for entry in entries)
        assert all(obj.ref_count == users[id(obj)] for obj in self.objects)
        if isinstance(self.map.tree, freebsd.SplayTree) and self.map.tree.root is not None:
            assert self.map.tree.root.max_free == number(final["root_max_free"])


def replay(version: str, search: freebsd.Search = freebsd.Search.FIRST_FIT) -> Counter[str]:
    seen: Counter[str] = Counter()
    for case in CASES:
        seen += Replay(case, version, search).run()
    return seen


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


def test_what_the_file_holds() -> None:
    assert len(CASES) == 412
    assert Counter(op["op"] for case in CASES for op in case["ops"]) == ALL
    quirks = Counter((op["op"], op["quirk"]) for case in CASES for op in case["ops"] if "quirk" in op)
    assert quirks == {("findspace", MISSED): 11, ("find", MISSED): 4}
    others = Counter(key for case in CASES for op in case["ops"] for key in op if key.endswith("_2013"))
    assert others == {"addr_2013": 141, "rc_2013": 60, "addr_out_2013": 60}


def test_13_with_its_splay_tree_answers_all_of_it() -> None:
    """The gaps that 13.0 misses are missed, and no others: the tree has the very shape of the real one."""
    assert replay("13", freebsd.Search.SPLAY) == ALL


def test_13_with_first_fit_answers_all_but_the_mappings_that_missed_the_last_gap() -> None:
    """The four mappings would succeed and change the map; searches are held to first fit."""
    assert replay("13") == {**ALL, "find": ALL["find"] - 4, "find left out": 4}


def test_2013_answers_all_that_was_recorded() -> None:
    """Four cases end early: there 13.0 missed the last gap in a mapping, and 10.4 mapped."""
    seen = replay("2013")
    assert sum(seen.values()) == sum(ALL.values())
    assert seen == {
        "insert": 4753,
        "findspace": 2961,
        "find": 2116,
        "delete": 1107,
        "remove": 362,
        "fixed": 325,
        "lookup": 296,
        "insert_bulk": 4,
        "after other answer": 45,
    }


class LazyTree(freebsd.SplayTree):
    """A tree whose searches leave it as it is."""

    def findspace(self, start: int, length: int) -> int | None:
        """First fit."""
        return freebsd.FirstFit.findspace(self, start, length)


def test_a_tree_whose_searches_leave_it_as_it_is_finds_too_much() -> None:
    """Every recorded miss is one because the tree says so: with first fit in its place all of them differ."""
    misses = [case for case in CASES if any("quirk" in op for op in case["ops"])]
    for case in misses:
        replayed = Replay(case, "13", freebsd.Search.SPLAY)
        replayed.map.tree = LazyTree(replayed.map.entries)
        with pytest.raises(AssertionError, match=MISSED):
            replayed.run()
    assert len(misses) == 15


@pytest.mark.parametrize("version", ["13", "2013"])
def test_a_wrong_answer_is_noticed(version: str) -> None:
    """Each field of each kind of operation, changed in one case."""
    keys = {
        "insert": ["rc"], "delete": ["rc"], "remove": ["rc"], "fixed": ["rc"],
        "lookup": ["found", "entry"], "findspace": ["addr"], "find": ["rc", "addr_out"],
    }  # fmt: skip
    for word, fields in keys.items():
        for key in fields:
            case, at = next(
                (case, at)
                for case in CASES
                for at, op in enumerate(case["ops"])
                if op["op"] == word and op[key] and not {"addr_2013", "rc_2013"} & set(op)
            )
            op = case["ops"][at]
            wrong = {"rc": "KERN_FAILURE", "found": not op.get("found"), "entry": ["0x0", "0x1"]}.get(key, "0x1")
            ops = [*case["ops"][:at], {**op, key: wrong}]
            with pytest.raises(AssertionError, match=word):
                Replay({**case, "ops": ops}, version).run()

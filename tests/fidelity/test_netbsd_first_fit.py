"""uvm_map_findspace, uvm_map and uvm_unmap against NetBSD's own code, bottom-up, one thread.

`tests/data/netbsd.jsonl.gz` holds what NetBSD 6.99.16's C code answered: every operation with its result, and the map at
the end. Maps that search from the top are not modelled, so their cases are left out; so is every operation at which a
DIAGNOSTIC kernel panics (in an assertion on a wrapped-around search, after which the code answers "none"). What is left
out is counted. With merging off every mapping is NOMERGE; with merging on, only entries of equal advice merge.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stressvm.vm import netbsd
from tests.model.test_netbsd_map import LoneThread

FILE = Path(__file__).parents[1] / "data" / "netbsd.jsonl.gz"


def _load() -> list[dict[str, Any]]:
    with gzip.open(FILE, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


CASES = _load()
BOTTOM_UP = [case for case in CASES if not case["topdown"]]


def _number(text: str | None) -> int:
    return int(text, 16) if text is not None else 0


class Unchecked(netbsd.VmMap):
    """A map that is not proved right at every release of its lock."""

    def check(self) -> None:
        """Nothing."""


@dataclass
class Replay:
    """One case on the model: a single thread, which nobody else can take the baton from."""

    case: dict[str, Any]
    lone: LoneThread = field(default_factory=LoneThread)
    kmap: netbsd.VmMap = field(init=False)
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        # As where the answers come from: of the largest maps only the last state is checked, of others every one.
        cls = Unchecked if self.case["ops"][0][0] == "fill" else netbsd.VmMap
        self.kmap = cls(self.lone.k, _number(self.case["min"]), _number(self.case["max"]))
        self.lone.start()
        self.now = self.lone.now

    def run(self) -> Counter[str]:
        """All operations, then the map as it is at the end; what was done, by kind."""
        for number, (word, args, expected) in enumerate(self.case["ops"]):
            where = f"{self.case['case']} operation {number}: {word} {args}"
            if "kassert" in expected:
                self.seen["kassert"] += 1
                self.silent(word)
                continue
            self.seen[word] += 1
            getattr(self, word)(args, expected, where)
        self.finally_()
        self.lone.close()
        return self.seen

    def silent(self, word: str) -> None:
        """An operation that is left out found nothing: it took the lock, and a mapping that failed set WANTVA."""
        lock = self.kmap.lock
        lock.timestamp.poke(lock.timestamp.peek() + 1)
        if word == "map":
            self.kmap.flags.poke(self.kmap.flags.peek() | netbsd.VM_MAP_WANTVA)

    def map(self, args: dict[str, Any], expected: dict[str, Any], where: str) -> None:
        """uvm_map."""
        flags = (netbsd.UVM_FLAG_FIXED if args["fixed"] else 0) | (0 if self.case["merge"] else netbsd.UVM_FLAG_NOMERGE)
        hint, size, align = (_number(args[key]) for key in ("hint", "size", "align"))
        advice = args.get("adv", netbsd.UVM_ADV_RANDOM)
        got = self.now(netbsd.uvm_map(self.kmap, hint, size, align=align, flags=flags, advice=advice))
        assert got == (expected["rc"], _number(expected["addr"])), where

    def findspace(self, args: dict[str, Any], expected: dict[str, Any], where: str) -> None:
        """uvm_map_findspace, under the write lock."""
        hint, size, align = (_number(args[key]) for key in ("hint", "size", "align"))
        self.now(self.kmap.lock.lock())
        va = self.kmap.findspace(hint, size, align, netbsd.UVM_FLAG_FIXED if args["fixed"] else 0)
        assert va == (_number(expected["addr"]) if expected["addr"] is not None else None), where
        if va is not None:
            prev, _ = self.kmap.neighbours(va)
            assert self.index(prev) == expected["prev"], where
        self.now(self.kmap.lock.unlock())

    def unmap(self, args: dict[str, Any], expected: dict[str, Any], where: str) -> None:
        """uvm_unmap1."""
        before = self.kmap.size
        self.now(netbsd.uvm_unmap(self.kmap, _number(args["start"]), _number(args["end"])))
        got = (before - self.kmap.size, len(self.kmap.entries))
        assert got == (_number(expected["removed"]), expected["nentries"]), where

    def lookup(self, args: dict[str, Any], expected: dict[str, Any], where: str) -> None:
        """uvm_map_lookup_entry, which the recorder did under the write lock."""
        self.now(self.kmap.lock.lock())
        found, entry = self.kmap.entries.lookup(_number(args["addr"]))
        assert (found, self.index(entry)) == (expected["found"], expected["index"]), where
        self.now(self.kmap.lock.unlock())

    def fill(self, args: dict[str, Any], _expected: dict[str, Any], where: str) -> None:
        """Many mappings at fixed places."""
        start, stride, size = (_number(args[key]) for key in ("start", "stride", "size"))
        flags = netbsd.UVM_FLAG_FIXED | netbsd.UVM_FLAG_NOMERGE
        for at in range(args["count"]):
            va = start + at * stride
            got = self.now(netbsd.uvm_map(self.kmap, va, size, flags=flags, advice=netbsd.UVM_ADV_RANDOM))
            assert got == (0, va), where

    def index(self, entry: netbsd.MapEntry | None) -> int:
        """The place of an entry in the list; -1 for the header."""
        return -1 if entry is None else list(self.kmap.entries).index(entry)

    def finally_(self) -> None:
        """Entries, size, the largest gap but the first, WANTVA and the timestamp."""
        kmap = self.kmap
        netbsd.VmMap.check(kmap)
        final = self.case["final"]
        entries = list(kmap.entries)
        assert [[entry.start, entry.end] for entry in entries] == [
            [_number(start), _number(end)] for start, end in self.case["entries"]
        ]
        assert kmap.size == _number(final["size"])
        assert len(entries) == final["nentries"]
        gaps = [kmap.entries.gap_after(entry) for entry in entries]
        assert (max(gaps) if gaps else None) == (_number(final["root_maxgap"]) if final["root_maxgap"] else None)
        assert bool(kmap.flags.peek() & netbsd.VM_MAP_WANTVA) == final["wantva"]
        assert kmap.lock.timestamp.peek() == final["timestamp"]


def test_what_is_left_out_is_counted() -> None:
    assert Counter(case["topdown"] for case in CASES) == {False: 201, True: 199}
    left_out = Counter(
        (word, expected.get("kassert"))
        for case in BOTTOM_UP
        for word, _, expected in case["ops"]
        if "kassert" in expected
    )
    assert left_out == {("map", "orig_hint <= prev->end"): 5, ("findspace", "orig_hint <= prev->end"): 3}


@pytest.mark.parametrize(
    ("merge", "counts"),
    [
        pytest.param(
            False,
            {"map": 2653, "findspace": 1858, "unmap": 1805, "lookup": 164, "fill": 4, "kassert": 5},
            id="NOMERGE",
        ),
        pytest.param(True, {"map": 520, "findspace": 181, "unmap": 242, "lookup": 34, "kassert": 3}, id="merging"),
    ],
)
def test_bottom_up_cases_agree(merge: bool, counts: dict[str, int]) -> None:  # noqa: FBT001 - a column of the table
    seen: Counter[str] = Counter()
    for case in BOTTOM_UP:
        if case["merge"] == merge:
            seen += Replay(case).run()
    assert seen == counts

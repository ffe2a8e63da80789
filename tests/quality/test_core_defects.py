"""Mistakes planted in the entry list, one method each, are found: by `_check` at once, and by comparing answers.

`_check` sees what is recorded, not what a search makes of it: mistakes in searches are found by comparison alone. What
only costs time, such as levels that nobody needs, is found by `_check` alone.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import pytest

from stressvm.bench.defects.entry_lists import (
    DeleteForgetsTheGapUnderATower,
    DeleteForgetsTheLanes,
    ResizeForgetsTheGap,
    TowersLookAtOneGap,
)
from stressvm.vm.entry import Entry, EntryError
from stressvm.vm.skiplist import EntryList

if TYPE_CHECKING:
    from stressvm.vm.entry import Lane

PAGES: Final = 1_000
OPERATIONS: Final = 4_000

Entries = EntryList[Entry]


class ClipEndForgetsTheGap(EntryList[Entry]):
    """What is left of the entry says that the old gap follows it."""

    def clip_end(self, entry: Entry, addr: int) -> Entry:
        gap = entry.gap
        back = super().clip_end(entry, addr)
        entry.gap = gap
        return back


class ClipStartForgetsTheGap(EntryList[Entry]):
    """What was split off says so of the gap before it."""

    def clip_start(self, entry: Entry, addr: int) -> Entry:
        gap = entry.prev.gap
        front = super().clip_start(entry, addr)
        front.gap = gap
        return front


class MergeForgetsTheGap(EntryList[Entry]):
    """The entry that survives says that nothing is free after it."""

    def merge(self, left: Entry, right: Entry) -> None:
        super().merge(left, right)
        left.gap = 0


class ResizeForgetsTheLanes(EntryList[Entry]):
    """It is recorded at the entry only."""

    def _set_gap(self, entry: Entry, gap: int) -> None:
        entry.gap = gap


class ResizeForgetsTheKey(EntryList[Entry]):
    """The links to the entry have its old start."""

    def _set_start(self, entry: Entry, start: int) -> None:
        entry.start = start


class DeleteLeavesLevels(EntryList[Entry]):
    """Levels that no entry reaches stay."""

    def _drop_levels(self) -> None:
        pass


class InsertForgetsTheLanes(EntryList[Entry]):
    """No annotation is lowered. Searches look where nothing is, and go on from there: that takes time, no more."""

    def _shrunk(self, lane: Lane[Entry], gap: int) -> None:
        pass


class InsertForgetsTheGapAfter(EntryList[Entry]):
    """The new entry has all that was free."""

    def _link(self, entry: Entry, prev: Entry, lane: Lane[Entry]) -> None:
        gap = prev.gap
        super()._link(entry, prev, lane)
        entry.gap = gap


class AlignedUpIsNotVerified(EntryList[Entry]):
    """The first fit is rounded up, and whether there is room is not looked at again."""

    def _aligned_up(self, entry: Entry, start: int, length: int, align: int, offset: int, bound: int) -> int | None:
        if start + length > entry.next.start:
            start = self._next_gap(entry.next, length).end
        start += (offset - start) % align
        return start if start + length <= bound else None


class AlignedDownIsNotVerified(EntryList[Entry]):
    """The last fit is rounded down, and whether there is room is not looked at again."""

    def _aligned_down(self, entry: Entry, start: int, length: int, align: int, offset: int) -> int | None:
        if start < entry.end:
            start = self._prev_gap(entry.prev, length).next.start - length
        start -= (start - offset) % align
        return start if start >= self.min else None


class Ground:
    """The same map as a byte a page; addresses are pages here."""

    def __init__(self) -> None:
        self.used = bytearray(PAGES)

    def set(self, start: int, end: int, value: int) -> None:
        self.used[start:end] = bytes([value]) * (end - start)

    def up(self, length: int, hint: int, align: int) -> int | None:
        place = self.used.find(bytes(length), hint)
        while place >= 0 and place % align:
            place = self.used.find(bytes(length), place + 1)
        return place if place >= 0 else None

    def down(self, length: int, hint: int, align: int) -> int | None:
        place = self.used.rfind(bytes(length), 0, hint + length)
        while place >= 0 and place % align:
            place = self.used.rfind(bytes(length), 0, place - 1 + length)
        return place if place >= 0 else None


class Run:
    """Random operations of every kind on one list, and the same on the ground."""

    def __init__(self, kind: type[Entries], seed: int) -> None:
        self.dice = random.Random(seed)
        self.entries = kind(0, PAGES)
        self.ground = Ground()
        self.live: list[Entry] = []

    def step(self) -> None:
        """One change. Only what the ground says is possible is done."""
        if len(self.live) < 40 or (self.dice.random() < 0.3 and len(self.live) < 150):
            self.insert()
            return
        entry = self.dice.choice(self.live)
        match self.dice.randrange(5):
            case 0:
                self.live.remove(entry)
                self.entries.delete(entry)
                self.ground.set(entry.start, entry.end, 0)
            case 1:
                self.resize(entry)
            case 2 if entry.end - entry.start > 1:
                self.live.append(self.entries.clip_start(entry, self.dice.randrange(entry.start + 1, entry.end)))
            case 3 if entry.end - entry.start > 1:
                self.live.append(self.entries.clip_end(entry, self.dice.randrange(entry.start + 1, entry.end)))
            case _:
                self.merge(entry)

    def insert(self) -> None:
        length = self.dice.randrange(1, 8)
        start = self.ground.up(length, self.dice.randrange(PAGES), 1)
        if start is None:
            return
        self.live.append(Entry(start, start + length))
        self.entries.insert(self.live[-1])
        self.ground.set(start, start + length, 1)

    def resize(self, entry: Entry) -> None:
        """Any other range within the free pages around it."""
        before, after = entry.start, entry.end
        low = self.ground.used.rfind(b"\1", 0, before) + 1
        high = self.ground.used.find(b"\1", after)
        start = self.dice.randrange(low, before + 1)
        end = self.dice.randrange(max(start + 1, before + 1), (high if high >= 0 else PAGES) + 1)
        self.entries.resize(entry, start=start, end=end)
        self.ground.set(before, after, 0)
        self.ground.set(start, end, 1)

    def merge(self, left: Entry) -> None:
        right = next((entry for entry in self.live if entry.start == left.end), None)
        if right is None:
            return
        if self.dice.random() < 0.5:
            self.live.remove(right)
            self.entries.merge(left, right)
        else:
            self.live.remove(left)
            self.entries.merge_into_right(left, right)

    def compare(self, alignments: tuple[int, ...]) -> None:
        """One search in both directions."""
        request = self.dice.randrange(1, 12), self.dice.randrange(PAGES), self.dice.choice(alignments)
        length, hint, align = request
        assert self.entries.first_fit(length, hint, align=align) == self.ground.up(*request)
        assert self.entries.last_fit(length, hint, align=align) == self.ground.down(*request)
        assert self.entries.lookup(hint)[0] == bool(self.ground.used[hint])
        assert self.entries.largest_gap == max(map(len, self.ground.used.split(b"\1")))


def steps_to_check(kind: type[Entries]) -> tuple[int | None, str]:
    """After how many operations `_check` fails (None: never), and what it says."""
    run = Run(kind, seed=1)
    for number in range(OPERATIONS):
        run.step()
        try:
            run.entries._check()
        except AssertionError as exc:
            return number, str(exc)
    return None, ""


def steps_to_difference(kind: type[Entries], alignments: tuple[int, ...] = (1, 1, 2, 4, 16)) -> int | None:
    """After how many operations an answer is wrong, or an operation is refused that is possible (None: never)."""
    run = Run(kind, seed=2)
    for number in range(OPERATIONS):
        try:
            run.step()
            run.compare(alignments)
        except (AssertionError, EntryError):
            return number
    return None


def test_nothing_is_wrong_with_the_list_itself() -> None:
    assert steps_to_check(EntryList) == (None, "")
    assert steps_to_difference(EntryList) is None


RECORDED: Final = [
    (ClipEndForgetsTheGap, "the gap after"),
    (ClipStartForgetsTheGap, "the gap after"),
    (MergeForgetsTheGap, "the gap after"),
    (ResizeForgetsTheGap, "the gap after"),
    (ResizeForgetsTheLanes, "says that the largest gap is"),
    (ResizeForgetsTheKey, "starts at"),
    (DeleteForgetsTheLanes, "says that the largest gap is"),
    (DeleteForgetsTheGapUnderATower, "says that the largest gap is"),
    (InsertForgetsTheLanes, "says that the largest gap is"),
    (InsertForgetsTheGapAfter, "the gap after"),
    (TowersLookAtOneGap, "says that the largest gap is"),
]


@pytest.mark.parametrize(("kind", "says"), RECORDED)
def test_what_is_recorded_wrongly_is_found_by_check_and_by_comparison(kind: type[Entries], says: str) -> None:
    assert says in steps_to_check(kind)[1]
    # Led astray by wrong keys, a search for an aligned address might not end.
    difference = steps_to_difference(kind, (1,)) if kind is ResizeForgetsTheKey else steps_to_difference(kind)
    assert difference is not None


@pytest.mark.parametrize("kind", [AlignedUpIsNotVerified, AlignedDownIsNotVerified])
def test_what_is_searched_wrongly_is_found_by_comparison(kind: type[Entries]) -> None:
    assert steps_to_check(kind) == (None, "")
    assert steps_to_difference(kind) is not None


def test_levels_for_nobody_are_found_by_check() -> None:
    assert steps_to_difference(DeleteLeavesLevels) is None
    assert "is reached by no entry" in steps_to_check(DeleteLeavesLevels)[1]

"""The entry list against a plain sorted list of ranges, under any sequence of operations."""

from __future__ import annotations

from typing import Self

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stressvm.vm.entry import Entry, EntryError, OverlapError, RangeError
from stressvm.vm.skiplist import EntryList

SPAN = 96
TOP = 1 << 64


class Tagged(Entry):
    """As a face would subclass it: one more slot, carried over by clips."""

    __slots__ = ("tag",)

    def __init__(self, start: int, end: int, tag: int) -> None:
        super().__init__(start, end)
        self.tag = tag

    def copy(self) -> Self:
        twin = super().copy()
        twin.tag = self.tag
        return twin


def free_ranges(low: int, high: int, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    edges = [low, *(edge for pair in ranges for edge in pair), high]
    return list(zip(edges[::2], edges[1::2], strict=True))


addresses = st.integers(-2, SPAN + 2)
lengths = st.integers(1, 14)
alignments = st.sampled_from([1, 1, 2, 3, 4, 8, 16, 32])


class AgainstPlainList(RuleBasedStateMachine):
    """`self.plain` holds (start, end, tag) in order; everything is answered from it by linear scan."""

    entries: EntryList[Tagged]

    @initialize(base=st.sampled_from([0, 4096, TOP - SPAN]))
    def begin(self, base: int) -> None:
        self.base = base
        self.entries = EntryList(base, base + SPAN)
        self.plain: list[tuple[int, int, int]] = []
        self.tags = 0

    def pick(self, data: st.DataObject, *, spare: int = 0) -> tuple[int, Tagged]:
        at = data.draw(st.integers(0, len(self.plain) - 1 - spare))
        return at, list(self.entries)[at]

    def fresh(self) -> int:
        self.tags += 1
        return self.tags

    @rule(start=addresses, length=st.integers(-1, 6))
    def insert(self, start: int, length: int) -> None:
        low = self.base + start
        high = low + length
        entry = Tagged(low, high, self.fresh())
        if length <= 0 or start < 0 or start + length > SPAN:
            with pytest.raises(RangeError):
                self.entries.insert(entry)
        elif any(s < high and low < e for s, e, _ in self.plain):
            with pytest.raises(OverlapError):
                self.entries.insert(entry)
        else:
            self.entries.insert(entry)
            self.plain = sorted([*self.plain, (low, high, entry.tag)])

    @rule(length=st.integers(1, 3), every=st.integers(3, 6))
    def insert_many(self, length: int, every: int) -> None:
        for start in range(0, SPAN - length, every):
            self.insert(start, length)

    @precondition(lambda self: self.plain)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        at, entry = self.pick(data)
        self.entries.delete(entry)
        assert (entry.start, entry.end) == self.plain.pop(at)[:2]
        with pytest.raises(EntryError):
            self.entries.delete(entry)

    @precondition(lambda self: self.plain)
    @rule(data=st.data(), back=st.booleans(), offset=st.integers(-1, 6))
    def clip(self, data: st.DataObject, back: bool, offset: int) -> None:  # noqa: FBT001
        at, entry = self.pick(data)
        start, end, tag = self.plain[at]
        addr = start + offset
        clip = self.entries.clip_end if back else self.entries.clip_start
        if not start < addr < end:
            with pytest.raises(RangeError):
                clip(entry, addr)
            return
        twin = clip(entry, addr)
        assert twin.tag == tag
        twin.tag = self.fresh()
        low, high = (tag, twin.tag) if back else (twin.tag, tag)
        self.plain[at : at + 1] = [(start, addr, low), (addr, end, high)]

    @precondition(lambda self: self.plain)
    @rule(data=st.data(), start=st.none() | st.integers(-6, 6), end=st.none() | st.integers(-6, 6))
    def resize(self, data: st.DataObject, start: int | None, end: int | None) -> None:
        at, entry = self.pick(data)
        low, high = entry.start + (start or 0), entry.end + (end or 0)
        first = None if start is None else low
        last = None if end is None else high
        others = self.plain[:at] + self.plain[at + 1 :]
        if not self.base <= low < high <= self.base + SPAN:
            with pytest.raises(RangeError):
                self.entries.resize(entry, start=first, end=last)
        # Leaping over a neighbour into free space is refused as well.
        elif any(s < max(high, entry.end) and min(low, entry.start) < e for s, e, _ in others):
            with pytest.raises(OverlapError):
                self.entries.resize(entry, start=first, end=last)
        else:
            self.entries.resize(entry, start=first, end=last)
            self.plain[at] = (low, high, entry.tag)

    @precondition(lambda self: len(self.plain) > 1)
    @rule(data=st.data(), into_right=st.booleans())
    def merge(self, data: st.DataObject, into_right: bool) -> None:  # noqa: FBT001
        at, left = self.pick(data, spare=1)
        right = list(self.entries)[at + 1]
        merge = self.entries.merge_into_right if into_right else self.entries.merge
        if left.end != right.start:
            with pytest.raises(RangeError):
                merge(left, right)
            return
        merge(left, right)
        kept = right if into_right else left
        self.plain[at : at + 2] = [(self.plain[at][0], self.plain[at + 1][1], kept.tag)]

    @rule(addr=addresses)
    def lookup(self, addr: int) -> None:
        found, entry = self.entries.lookup(self.base + addr)
        below = [r for r in self.plain if r[0] <= self.base + addr]
        assert (entry.tag if entry else None) == (below[-1][2] if below else None)
        assert found == (bool(below) and self.base + addr < below[-1][1])

    @rule(
        hint=addresses,
        length=lengths,
        align=alignments,
        align_offset=st.integers(-3, 40),
        bound=st.none() | addresses,
    )
    def fit(self, hint: int, length: int, align: int, align_offset: int, bound: int | None) -> None:
        limit = None if bound is None else self.base + bound
        free = free_ranges(self.base, self.base + SPAN, [r[:2] for r in self.plain])
        good = [
            addr
            for low, high in free
            for addr in range(low, high - length + 1)
            if (addr - align_offset) % align == 0 and (limit is None or addr + length <= limit)
        ]
        hint += self.base
        up = self.entries.first_fit(length, hint, align=align, align_offset=align_offset, bound=limit)
        down = self.entries.last_fit(length, hint, align=align, align_offset=align_offset, bound=limit)
        assert up == min((addr for addr in good if addr >= hint), default=None)
        assert down == max((addr for addr in good if addr <= hint), default=None)

    @invariant()
    def same(self) -> None:
        entries = self.entries
        entries._check()
        forward = list(entries)
        assert [(e.start, e.end, e.tag) for e in forward] == self.plain
        assert list(reversed(entries)) == forward[::-1]
        assert len(entries) == len(forward)
        assert [entries.first, entries.last] == ([forward[0], forward[-1]] if forward else [None, None])
        assert [entries.next_of(e) for e in forward] == [*forward[1:], None][: len(forward)]
        assert [entries.prev_of(e) for e in forward] == [None, *forward][: len(forward)]
        gaps = [high - low for low, high in free_ranges(self.base, self.base + SPAN, [r[:2] for r in self.plain])]
        assert [entries.gap_after(e) for e in (None, *forward)] == gaps
        assert entries.largest_gap == max(gaps)


TestAgainstPlainList = AgainstPlainList.TestCase
TestAgainstPlainList.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

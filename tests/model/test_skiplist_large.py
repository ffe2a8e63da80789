"""The entry list over the whole address space, after much churn, and the shape that it takes."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from stressvm.vm.entry import Entry
from stressvm.vm.skiplist import EntryList

PAGE = 1 << 12


def test_the_whole_address_space_is_one_gap() -> None:
    entries: EntryList[Entry] = EntryList(0, 1 << 64)
    assert entries.largest_gap == 1 << 64
    assert entries.first_fit(1 << 64, 0) == entries.last_fit(1 << 64, 0) == 0
    assert entries.first_fit(1 << 64, 1) is None
    assert entries.last_fit(1, 1 << 70) == (1 << 64) - 1
    assert entries.first_fit(1 << 63, 1, align=1 << 63) == 1 << 63
    entries.insert(Entry((1 << 64) - 1, 1 << 64))
    entries.insert(Entry(0, 1))
    entries._check()
    assert entries.largest_gap == (1 << 64) - 2
    assert entries.lookup((1 << 64) - 1) == (True, entries.last)
    assert entries.lookup(1 << 64) == (False, entries.last)


def churn(count: int, seed: int) -> EntryList[Entry]:
    """A map of many entries after random operations of every kind."""
    dice = random.Random(seed)
    entries: EntryList[Entry] = EntryList(PAGE, PAGE + count * 16 * PAGE)
    live = []
    for slot in dice.sample(range(count), count):
        start = PAGE + slot * 16 * PAGE
        live.append(Entry(start, start + dice.randrange(2, 16) * PAGE))
        entries.insert(live[-1])
    for _ in range(count):
        at = dice.randrange(len(live))
        entry = live[at]
        pages = (entry.end - entry.start) // PAGE
        match dice.randrange(5):
            case 0:
                entries.delete(entry)
                live[at] = live[-1]
                live.pop()
            case 1 if pages > 1:
                live.append(entries.clip_start(entry, entry.start + dice.randrange(1, pages) * PAGE))
            case 2 if pages > 1:
                live.append(entries.clip_end(entry, entry.start + dice.randrange(1, pages) * PAGE))
            case 3:
                entries.resize(entry, end=entry.end + dice.randrange(entries.gap_after(entry) // PAGE + 1) * PAGE)
            case _:
                length = dice.randrange(1, 24) * PAGE
                start = entries.first_fit(length, entry.start) or PAGE
                if entries.first_fit(length, start) == start:
                    live.append(Entry(start, start + length))
                    entries.insert(live[-1])
    return entries


def test_twenty_thousand_entries() -> None:
    entries = churn(20_000, seed=1)
    entries._check()
    gaps = [after.start - before.end for before, after in pairwise(entries)]
    for length in (PAGE, 9 * PAGE, 17 * PAGE, entries.largest_gap):
        low, high = entries.first_fit(length, 0), entries.last_fit(length, 1 << 64)
        assert low is not None
        assert high is not None
        assert low <= high
    assert entries.first_fit(entries.largest_gap + 1, 0) is None
    assert entries.last_fit(entries.largest_gap + 1, 1 << 64) is None
    assert max(gaps) <= entries.largest_gap


@pytest.mark.parametrize("seed", range(6))
def test_aligned_requests_in_a_map_of_many_levels(seed: int) -> None:
    """Alignments far below, about and far above the distance of entries, against a scan of all gaps."""
    dice = random.Random(seed)
    entries = churn(400, seed)
    edges = [entries.min, *(edge for entry in entries for edge in (entry.start, entry.end)), entries.max]
    free = list(zip(edges[::2], edges[1::2], strict=True))
    for _ in range(150):
        length = dice.randrange(1, 24) * PAGE
        align = dice.choice([1, 3, 16, 100, 1000]) * PAGE
        offset = dice.randrange(align)
        hint = dice.randrange(entries.min, entries.max)
        bound = dice.choice([entries.max, hint + 100 * PAGE])
        keys = {"align": align, "align_offset": offset, "bound": bound}
        ups = [start + (offset - start) % align for low, high in free if (start := max(low, hint)) < high]
        lowest = min((a for a in ups if a + length <= min(bound, end_of(free, a))), default=None)
        tops = [(low, min(high, hint + length, bound) - length) for low, high in free]
        highest = max((a for low, top in tops if (a := top - (top - offset) % align) >= low), default=None)
        assert entries.first_fit(length, hint, **keys) == lowest
        assert entries.last_fit(length, hint, **keys) == highest


def end_of(free: list[tuple[int, int]], addr: int) -> int:
    """Where the gap around `addr` ends; 0 if there is none."""
    return next((high for low, high in free if low <= addr < high), 0)


def shape(entries: EntryList[Entry]) -> list[int]:
    heights = []
    for entry in entries:
        height, lane = 0, entry.lane
        while lane is not None:
            height, lane = height + 1, lane.up
        heights.append(height)
    return heights


def test_the_shape_depends_on_the_operations_alone() -> None:
    """Other lists, other global random numbers and other objects in between make no difference."""
    first = churn(500, seed=7)
    random.seed(99)
    churn(50, seed=8)
    assert shape(first) == shape(churn(500, seed=7))


def test_towers_are_a_quarter_as_many_at_each_level() -> None:
    heights = shape(churn(5_000, seed=3))
    for level in range(4):
        taller = [h for h in heights if h > level]
        assert len(taller) == pytest.approx(len(heights) / 4 ** (level + 1), rel=0.3)

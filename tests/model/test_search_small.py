"""The entry list on every map of up to twelve pages, against brute force: all requests, all alignments.

The plain run takes every set of free pages, each run of used pages being one entry: of twelve pages at both ends and in
the middle of the address space, of fewer pages one page away from its ends. Runs that are cut into several entries, in
every way, are tried up to eight pages, and with towers of every height up to six. The long one takes every number of
pages everywhere, and twelve and seven.

`test_every_change` proves by induction what the searches rely on: from every list of up to five pages, with towers of
every height, every change leads to a list that is what it should be.
"""

from __future__ import annotations

from itertools import combinations_with_replacement, product
from typing import TYPE_CHECKING, Final

import pytest

from stressvm.vm.entry import Entry
from stressvm.vm.skiplist import EntryList
from tests.model.small_maps import LONG, PAGE, PLACES, Answers, Ranges, free_pages, layouts, runs

if TYPE_CHECKING:
    from collections.abc import Iterator

CUT_MAX: Final = 12 if LONG else 8
SHAPED_MAX: Final = 7 if LONG else 6
#: The tallest tower that is tried.
HEIGHT_MAX: Final = 2
#: In pages; 0 stands for no alignment, which is a path of its own.
ALIGNMENTS: Final = (0, 1, 2, 4, 8)
ENDS: Final = ("at 0", "at the top")
MAPS: Final = [
    (place, pages)
    for pages, place in product(range(12, 0, -1), PLACES)
    if LONG or (pages == 12) == (place in {*ENDS, "middle"})
]


def build(answers: Answers, ranges: Ranges, heights: tuple[int, ...] | None = None) -> EntryList[Entry]:
    entries: EntryList[Entry] = EntryList(answers.min, answers.max)
    for number, (start, end) in enumerate(ranges):
        if heights is not None:
            next_height(entries, heights[number])
        entries.insert(Entry(answers.at[start], answers.at[end]))
    return entries


def next_height(entries: EntryList[Entry], height: int) -> None:
    """Let the next tower be that tall, but at most one level taller than all: turn the dice to just before that."""
    throw = (1 << 32 - 2 * height) - 1
    entries._dice = (throw - 2891336453) * pow(747796405, -1, 1 << 32) % (1 << 32)


def ask(answers: Answers, entries: EntryList[Entry], free: int) -> None:
    """Every length at every hint, with every alignment, in both directions."""
    up, down, hints = entries.first_fit, entries.last_fit, answers.hints
    for align in ALIGNMENTS:
        right, unit = answers.aligned(align or 1), align * PAGE or 1
        fits = free
        for length in answers.lengths:
            size = length * PAGE
            got = [up(size, hint, align=unit) for hint in hints]
            assert got == answers.up[fits & right], f"up, {size:#x}, {unit:#x}: {entries.describe()}"
            got = [down(size, hint, align=unit) for hint in hints]
            assert got == answers.down[fits & right], f"down, {size:#x}, {unit:#x}: {entries.describe()}"
            fits &= free >> length


@pytest.mark.parametrize(("place", "pages"), MAPS)
def test_every_map_every_request(place: str, pages: int) -> None:
    answers = Answers(PLACES[place](pages))
    for free in range(1 << pages):
        ask(answers, build(answers, runs(pages, free)), free)


@pytest.mark.parametrize("place", ENDS)
@pytest.mark.parametrize("pages", range(CUT_MAX, 0, -1))
def test_every_way_to_cut_runs_into_entries(place: str, pages: int) -> None:
    answers = Answers(PLACES[place](pages))
    for ranges in layouts(pages):
        entries = build(answers, ranges)
        entries._check()
        ask(answers, entries, free_pages(pages, ranges))


@pytest.mark.parametrize("pages", range(SHAPED_MAX, 0, -1))
def test_every_tower(pages: int) -> None:
    answers = Answers(PLACES[ENDS[pages % 2 - 1]](pages))
    for ranges in layouts(pages):
        for heights in product(range(HEIGHT_MAX + 1), repeat=len(ranges)):
            entries = build(answers, ranges, heights)
            assert [height_of(entry) for entry in entries] == [*heights]
            ask(answers, entries, free_pages(pages, ranges))


@pytest.mark.parametrize("place", ENDS)
def test_every_bound_and_every_alignment_with_an_offset(place: str) -> None:
    """Six pages; an alignment that is no power of two, too."""
    pages = 6
    answers = Answers(PLACES[place](pages))
    for ranges in layouts(pages):
        entries = build(answers, ranges)
        free = free_pages(pages, ranges)
        for align, bound in product((0, 2, 3, 4), range(-1, pages + 2)):
            for offset in range(align or 1):
                end = answers.min + bound * PAGE
                keys = {"align": align * PAGE or 1, "align_offset": offset * PAGE, "bound": end}
                fits = free
                for length in answers.lengths:
                    right = fits & answers.aligned(align or 1, offset) & (1 << max(bound - length + 1, 0)) - 1
                    ups = [entries.first_fit(length * PAGE, hint, **keys) for hint in answers.hints]
                    downs = [entries.last_fit(length * PAGE, hint, **keys) for hint in answers.hints]
                    assert ups == answers.up[right], (entries.describe(), length, keys)
                    assert downs == answers.down[right], (entries.describe(), length, keys)
                    fits &= free >> length


# -- changes

#: What is done, to the entry with that number (-1: none), with which pages.
Change = tuple[str, int, int, int]


def height_of(entry: Entry) -> int:
    height, lane = 0, entry.lane
    while lane is not None:
        height, lane = height + 1, lane.up
    return height


def changes(pages: int, ranges: Ranges) -> Iterator[tuple[Change, Ranges]]:
    """Every change that is possible, and the ranges afterwards."""
    for at, (start, end) in enumerate(ranges):
        before, after = ranges[:at], ranges[at + 1 :]
        low, high = (before[-1][1] if before else 0), (after[0][0] if after else pages)
        yield ("delete", at, 0, 0), [*before, *after]
        for new_start, new_end in combinations_with_replacement(range(low, high + 1), 2):
            if new_start < new_end:
                yield ("resize", at, new_start, new_end), [*before, (new_start, new_end), *after]
        for page in range(start + 1, end):
            parts = [*before, (start, page), (page, end), *after]
            yield ("clip_start", at, page, 0), parts
            yield ("clip_end", at, page, 0), parts
        if after and end == after[0][0]:
            joined = [*before, (start, after[0][1]), *after[1:]]
            yield ("merge", at, 0, 0), joined
            yield ("merge_into_right", at, 0, 0), joined
    for start, end in combinations_with_replacement(range(pages + 1), 2):
        if start < end and all(end <= one or other <= start for one, other in ranges):
            yield ("insert", -1, start, end), sorted([*ranges, (start, end)])


def apply(entries: EntryList[Entry], what: str, at: int, one: int, two: int) -> None:
    """Do one of the changes; `one` and `two` are addresses here."""
    if what == "insert":
        entries.insert(Entry(one, two))
        return
    entry = list(entries)[at]
    match what:
        case "delete":
            entries.delete(entry)
        case "resize":
            entries.resize(entry, start=one, end=two)
        case "clip_start" | "clip_end":
            getattr(entries, what)(entry, one)
        case _:
            after = entries.next_of(entry)
            assert after is not None
            getattr(entries, what)(entry, after)


@pytest.mark.parametrize("place", ENDS)
@pytest.mark.parametrize("pages", range(5, 0, -1))
def test_every_change(place: str, pages: int) -> None:
    """With every height of a tower that the change may build: the list is proved, and has the ranges it should have."""
    answers = Answers(PLACES[place](pages))
    page_of = {address: page for page, address in enumerate(answers.at)}
    for ranges in layouts(pages):
        for heights in product(range(HEIGHT_MAX + 1), repeat=len(ranges)):
            for (what, at, one, two), expected in changes(pages, ranges):
                builds = what in {"insert", "clip_start", "clip_end"}
                for height in range(HEIGHT_MAX + 2) if builds else (0,):
                    entries = build(answers, ranges, heights)
                    next_height(entries, height)
                    apply(entries, what, at, answers.at[one], answers.at[two])
                    entries._check()
                    got = [(page_of[entry.start], page_of[entry.end]) for entry in entries]
                    assert got == expected, (ranges, heights, what, at, one, two, height)

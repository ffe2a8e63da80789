"""Where the kernels' maps find room, on every small map: the lowest or highest fit, and just the documented exceptions.

FreeBSD 13 promises the lowest fit, aligned or not. 2013 aligns what it has found and inserts there on the chance that it
is free, which shows in two ways. NetBSD promises the lowest aligned fit from the bottom; from the top it may miss what
there is, for two reasons, and for three it goes above the hint, which its assertions forbid.

The answers are brute force over pages (`small_maps`). A map that reaches from one end of the address space to the other,
with a single entry over the middle, lets sums wrap into pages that are free.
"""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Final

import pytest

from stressvm.conform.lone import LoneThread
from stressvm.vm import freebsd
from stressvm.vm.entry import Entry
from stressvm.vm.netbsd import findspace
from stressvm.vm.skiplist import EntryList
from tests.model.small_maps import LONG, PAGE, PAGES, PLACES, Answers, Ranges, contiguous, free_pages, layouts, runs

if TYPE_CHECKING:
    from collections.abc import Iterator

WORD: Final = 1 << 64
OK, INVALID, NO_SPACE = freebsd.KERN_SUCCESS, freebsd.KERN_INVALID_ADDRESS, freebsd.KERN_NO_SPACE
#: Powers of two, in pages.
LOG2: Final = (0, 1, 2, 3)


def from_end_to_end(first: int, pages: int) -> list[int]:
    """So many pages at either end of the address space, and between them one for an entry over all of the middle."""
    return contiguous(first, pages) + contiguous(PAGES - 1 - pages, pages)


def end_to_end_layouts(pages: int) -> Iterator[Ranges]:
    """What `from_end_to_end` may hold: the entry over the middle, and any other pages."""
    for below, above in product(range(1 << pages), repeat=2):
        upper = [(start + pages + 1, end + pages + 1) for start, end in runs(pages, above)]
        yield [*runs(pages, below), (pages, pages + 1), *upper]


# -- FreeBSD


class Trial:
    """A map of FreeBSD, one thread, and neighbours that stay apart."""

    def __init__(self, version: str, answers: Answers, ranges: Ranges, search: freebsd.Search) -> None:
        self.lone = LoneThread()
        kind = freebsd.MapKind.SYSTEM
        self.map = freebsd.VERSIONS[version](self.lone.k, answers.min, answers.max, kind=kind, search=search)
        for number, (start, end) in enumerate(ranges):
            prot = freebsd.VM_PROT_READ if number % 2 else freebsd.VM_PROT_RW
            where = answers.at[start], answers.at[end]
            assert freebsd.vm_map_insert(self.map, None, 0, *where, prot, freebsd.VM_PROT_ALL) == OK
        assert [(entry.start, entry.end) for entry in self.map.entries] == [
            (answers.at[start], answers.at[end]) for start, end in ranges
        ]
        self.lone.start()

    def findspace(self, start: int, length: int) -> int | None:
        return freebsd.vm_map_findspace(self.map, start, length)

    def find(self, start: int, length: int, bound: int, log2: int | None) -> tuple[int, int]:
        """What vm_map_find answers; what it has mapped is unmapped again."""
        find_space = freebsd.VMFS_ANY_SPACE if log2 is None else freebsd.VMFS_ALIGNED_SPACE(log2 + freebsd.PAGE_SHIFT)
        none = freebsd.VM_PROT_NONE
        rc, addr = self.lone.now(freebsd.vm_map_find(self.map, None, 0, start, length, bound, find_space, none, none))
        if rc == OK:
            found, entry = self.map.entries.lookup(addr)
            assert found
            assert entry is not None
            assert (entry.start, entry.end) == (addr, addr + length)
            self.lone.now(freebsd.vm_map_remove(self.map, addr, addr + length))
        return rc, addr

    def close(self) -> None:
        self.lone.close()


@pytest.mark.parametrize("version", ["13", "2013", "13 splay"])
@pytest.mark.parametrize("top", [8 * PAGE, 0x7F0000002 * PAGE, WORD - PAGE, WORD - 1], ids=hex)
@pytest.mark.parametrize("pages", [6, 8])
def test_freebsd_findspace_is_the_lowest_fit(version: str, top: int, pages: int) -> None:
    """Six pages cut in every way, eight in runs; lengths from 0 on. Nothing is rounded: the last address may be max."""
    answers = Answers([top - (pages - page) * PAGE for page in range(pages + 1)])
    version, _, splay = version.partition(" ")
    missed = 0
    for ranges in layouts(pages) if LONG or pages == 6 else [runs(pages, free) for free in range(1 << pages)]:
        trial = Trial(version, answers, ranges, freebsd.Search.SPLAY if splay else freebsd.Search.FIRST_FIT)
        trial.lone.now(trial.map.lock.lock())
        free = free_pages(pages, ranges)
        for length in answers.lengths:
            expected = answers.up[answers.fits(free, length)]
            hints = answers.hints if answers.min else answers.hints[1:]
            for hint, lowest in zip(hints, expected[-len(hints) :], strict=True):
                got = trial.findspace(hint, length * PAGE)
                if got is None and lowest is not None and splay:
                    # The hint is free, but not far enough; one entry is above it; the room is behind that.
                    missed += 1
                    above = [(start, end) for start, end in ranges if answers.at[start] >= max(hint, answers.min)]
                    assert len(above) == 1
                    assert lowest == answers.at[above[0][1]]
                    assert free >> answers.at.index(max(hint, answers.min)) & 1
                else:
                    assert got == lowest, (ranges, hint, length)
        for page, hint in enumerate(answers.at):
            assert trial.findspace(hint, 0) == nothing_at(version, answers, ranges, page)
        trial.close()
    assert bool(missed) == bool(splay)


def nothing_at(version: str, answers: Answers, ranges: Ranges, page: int) -> int | None:
    """Where there is room for nothing: where the hint is, or behind the entry that it is in."""
    if page == answers.pages:
        return answers.max if version == "2013" else None
    inside = [(start, end) for start, end in ranges if start <= page < end]
    if not inside or (version == "2013" and inside[0][0] == page):
        return answers.at[page]
    return answers.at[inside[0][1]]


def find_13(answers: Answers, free: int, hint: int, length: int, bound: int, log2: int | None) -> tuple[int, int]:
    """The lowest aligned fit, if it ends within the bound. `hint` and `bound` are numbers of pages, -1 for no bound."""
    fits = answers.fits(free, length) & answers.aligned(1 << (log2 or 0)) if length else 0
    if bound >= 0:
        fits &= (1 << max(bound - length + 1, 0)) - 1
    place = answers.lowest(fits, hint)
    return (NO_SPACE, 0) if place is None else (OK, place)


def find_2013(answers: Answers, free: int, hint: int, length: int, bound: int, log2: int | None) -> tuple[int, int]:
    """A fit within the bound, then the next aligned address: if that is used, on from it; outside the map is an error."""
    align = PAGE << (log2 or 0)
    at = answers.at[hint]
    while True:
        found = answers.lowest(answers.fits(free, length), answers.at.index(at))
        if found is None or (bound >= 0 and found + length * PAGE > answers.at[bound]):
            return NO_SPACE, 0
        at = (found + align - 1) // align * align
        if at + length * PAGE > answers.max:
            return INVALID, 0
        if answers.fits(free, length) >> answers.at.index(at) & 1:
            return OK, at


FINDS: Final = {"13": find_13, "2013": find_2013}


@pytest.mark.parametrize("version", FINDS)
@pytest.mark.parametrize(
    ("pages", "place"), [(8, "below the top"), *product([7 if LONG else 5], ["at 0", "middle", "below the top"])]
)
def test_freebsd_find_every_place_bound_and_alignment(version: str, pages: int, place: str) -> None:
    """Eight pages without a bound, five (in the long run seven) with any."""
    answers = Answers(PLACES[place](pages))
    hints = range(pages + 1)
    bounds = (-1, *hints) if pages < 8 else (-1,)
    seen: Counter[str] = Counter()
    for free in range(1 << pages):
        trial = Trial(version, answers, runs(pages, free), freebsd.Search.FIRST_FIT)
        for hint, length, bound, log2 in product(hints, answers.lengths, bounds, (None, *LOG2)):
            if bound == 0 and not answers.at[0]:
                continue
            limit = answers.at[bound] if bound >= 0 else 0
            got = trial.find(answers.at[hint], length * PAGE, limit, log2)
            request = answers, free, hint, length, bound, log2
            assert got == FINDS[version](*request), request[1:]
            ideal = find_13(*request)
            above = got[0] == OK and limit and got[1] + length * PAGE > limit
            seen["as 13" if got == ideal else "above the bound" if above else str(got[0])] += 1
            if version == "2013" and got != ideal:
                # No fit within the bound that is right: it is above the bound, or the search has run out of the map.
                assert ideal == (NO_SPACE, 0)
                assert above or got[0] == INVALID
        trial.close()
    quirks = {str(INVALID), "above the bound"} if len(bounds) > 1 else {str(INVALID)}
    assert set(seen) == {"as 13"} | (quirks if version == "2013" else set())


@pytest.mark.parametrize("version", FINDS)
def test_freebsd_find_never_maps_nothing(version: str) -> None:
    answers = Answers(PLACES["middle"](4))
    for ranges in layouts(4):
        trial = Trial(version, answers, ranges, freebsd.Search.FIRST_FIT)
        for hint in answers.at:
            place = nothing_at(version, answers, ranges, answers.at.index(hint))
            assert trial.find(hint, 0, 0, None) == ((NO_SPACE if place is None else INVALID), 0)
        trial.close()


@pytest.mark.parametrize("version", FINDS)
def test_freebsd_find_does_not_wrap_into_pages_that_are_free(version: str) -> None:
    """Aligned, the last pages of the address space become 0, which is below the map."""
    answers = Answers(from_end_to_end(1, 3))
    for ranges in end_to_end_layouts(3):
        free = free_pages(answers.pages, ranges)
        trial = Trial(version, answers, ranges, freebsd.Search.FIRST_FIT)
        for hint, length, log2 in product(range(answers.pages), range(1, 4), LOG2):
            ideal = find_13(answers, free, hint, length, -1, log2)
            got = trial.find(answers.at[hint], length * PAGE, 0, log2)
            found = answers.lowest(answers.fits(free, length), hint)
            assert got == ideal or (
                version == "2013" and found is not None and (got, ideal[0]) == ((INVALID, 0), NO_SPACE)
            )
        trial.close()


# -- NetBSD


def entry_list(answers: Answers, ranges: Ranges) -> EntryList[Entry]:
    entries: EntryList[Entry] = EntryList(answers.min, answers.max)
    for start, end in ranges:
        entries.insert(Entry(answers.at[start], answers.at[end]))
    return entries


def netbsd_maps() -> dict[str, tuple[Answers, list[Ranges]]]:
    """Every set of pages of eight, every way to cut five, and some that go from end to end."""
    maps: dict[str, tuple[Answers, list[Ranges]]] = {}
    for place in ("at 0", "above 0", "middle", "below the top"):
        maps[f"8 pages {place}"] = Answers(PLACES[place](8)), [runs(8, free) for free in range(1 << 8)]
        maps[f"5 cut pages {place}"] = Answers(PLACES[place](5)), [*layouts(5)]
    for first in (0, 1):
        maps[f"end to end from {first}"] = Answers(from_end_to_end(first, 3)), [*end_to_end_layouts(3)]
    return maps


NETBSD: Final = netbsd_maps()
#: What may be wrong with a search from the top.
BEFORE_FIRST: Final = "the only room is before the first entry, which no tree node says"
PAST_THE_END: Final = "the hint plus the length is beyond the address space"
BELOW_MINIMUM: Final = "the hint is not above the minimum, and the search begins at the top of the first gap"
OUT_OF_GAP: Final = "rounded down, the hint leaves its gap, and the search begins at the top of that"
BELOW_0: Final = "the gap of the hint ends below the length, so the search begins at the top of the address space"


def requests(answers: Answers) -> Iterator[tuple[int, int, int]]:
    """Number of the hint in `answers.hints`, pages, alignment in bytes."""
    hints = range(len(answers.hints))
    return product(hints if answers.min else hints[1:], answers.lengths, (1, *(PAGE << log2 for log2 in LOG2)))


@pytest.mark.parametrize("name", NETBSD)
def test_netbsd_bottom_up_is_the_lowest_aligned_fit(name: str) -> None:
    """Only if rounding up passes the end of the address space may it find a place, below the hint, or assert."""
    answers, layouts = NETBSD[name]
    wraps = 0
    for ranges in layouts:
        entries = entry_list(answers, ranges)
        free = free_pages(answers.pages, ranges)
        for number, length, align in requests(answers):
            hint = answers.hints[number]
            fits = answers.fits(free, length) & answers.aligned(align // PAGE or 1)
            got = findspace.bottom_up(entries, hint, length * PAGE, align)
            lowest = answers.up[fits][number]
            if start_of(answers, ranges, max(number - 1, 0)) + align - 1 >= WORD:
                assert lowest is None
                wraps += bool(got.kassert)
                assert got.address is None or (got.address < hint and got.kassert and legal(answers, fits, got.address))
            else:
                assert got == (lowest, ""), (ranges, hint, length, align)
    assert bool(wraps) == ("below the top" in name or "end to end" in name)


def start_of(answers: Answers, ranges: Ranges, page: int) -> int:
    """Where the search begins that is to begin at a page: behind the entry that has it."""
    return answers.at[next((end for start, end in ranges if start <= page < end), page)]


def legal(answers: Answers, fits: int, address: int) -> bool:
    """Is it one of the places that are free and aligned?"""
    return address in answers.at and bool(fits >> answers.at.index(address) & 1)


def first_frees(answers: Answers, ranges: Ranges) -> Iterator[int]:
    """What first_free may be: an entry (-1: the header) that no gap lies before."""
    yield -1
    edge = 0
    for number, (start, end) in enumerate(ranges):
        if start != edge:
            return
        yield number
        edge = end


@pytest.mark.parametrize("name", NETBSD)
def test_netbsd_top_down_is_the_highest_aligned_fit_but_for_what_is_named(name: str) -> None:
    answers, layouts = NETBSD[name]
    seen: Counter[str] = Counter()
    for ranges in layouts:
        entries = entry_list(answers, ranges)
        every = [*entries]
        free = free_pages(answers.pages, ranges)
        for number, length, align in requests(answers):
            fits = answers.fits(free, length) & answers.aligned(align // PAGE or 1)
            page = max(number - 1, 0)
            highest = answers.down[fits][page + 1]
            for first_free in first_frees(answers, ranges) if page == 0 else [-1]:
                first = every[first_free] if first_free >= 0 else None
                got = findspace.top_down(entries, first, answers.hints[number], length * PAGE, align)
                assert got.address is None or legal(answers, fits, got.address), (ranges, number, length, align)
                if got.address == highest:
                    seen["as it should be"] += 1
                elif got.address is None:
                    seen[why_missed(answers, ranges, page, length, align, highest)] += 1
                else:
                    assert got.address > answers.at[page]
                    assert got.kassert
                    seen[why_above(answers, ranges, page, length, align)] += 1
    expected = {"as it should be", BEFORE_FIRST, BELOW_MINIMUM, OUT_OF_GAP}
    expected |= {PAST_THE_END} if "below the top" in name or "end to end" in name else set()
    expected |= set() if "middle" in name or "below the top" in name else {BELOW_0}
    assert set(seen) == expected


def why_missed(answers: Answers, ranges: Ranges, page: int, length: int, align: int, highest: int | None) -> str:
    """The two ways to find nothing where there is something."""
    assert highest is not None
    inside = any(start <= page < end for start, end in ranges)
    if not inside and answers.at[page] // align * align + length * PAGE >= WORD:
        return PAST_THE_END
    assert highest < answers.at[ranges[0][0]]
    return BEFORE_FIRST


def why_above(answers: Answers, ranges: Ranges, page: int, length: int, align: int) -> str:
    """The three ways to go above the hint."""
    if page == 0:
        return BELOW_MINIMUM
    inside = [start for start, end in ranges if start <= page < end]
    gap_end = answers.at[inside[0] if inside else min([start for start, _ in ranges if start > page], default=-1)]
    if gap_end < length * PAGE:
        return BELOW_0
    gap_start = answers.at[max([end for _, end in ranges if end <= page], default=0)]
    assert not inside
    assert answers.at[page] // align * align < gap_start
    return OUT_OF_GAP

"""uvm_map_findspace without its tree: what the kernel's search answers, from gaps and addresses alone.

The kernel looks at the gap that the hint names, then descends a red-black tree for a candidate gap, and if alignment
defeats that one it walks the list of entries. Which nodes the descent meets depends on the shape of the tree; what it
answers does not, but for the two remarks at the end, so the skip list's searches can stand in for it.

From the bottom the answer is the first fit. The one exception: rounding the place to start from up to the alignment
passes the end of the address space and wraps to 0, and the search goes on from there (`_wrapped_up`).

From the top, let e be the entry below whose following gap the search begins, and `start` the highest aligned address
that ends with that gap (`_downwards`). Below it the kernel's answer is the last fit, with one blind spot: the free space
before the first entry is the header's gap, and the header is in no tree. It is found only if e is the header, or by the
walk over the list. That walk happens when a gap of an entry is long enough and yet has no aligned place: either one that
ends below start + length (the descent always meets the highest of these), or that of the entry which `start` itself is
inside of (if all gaps before it are too short, the descent ends there). Nothing else leads to the walk.

If the gap after e ends below `length`, the subtraction wraps to the top of the address space. Mostly start + length then
wraps, too, and the kernel gives up. But a large alignment can round `start` down so far that it does not; the search
then goes on from the top, and finds what lies above the hint (`_wrapped_down`).

The answer includes the assertion that a kernel with DIAGNOSTIC would have panicked on; many calls from the top violate
one. Where the shape of the tree does matter is in searches that have wrapped: there it can decide which assertion fails
first (an assertion about a node that is passed over is not looked at here), and, if e lies low, `start` inside an entry
near the top of the address space and a long gap follows that entry, whether a gap between them is offered at all.

COLORMATCH asks for addresses of one page colour, PMAP_PREFER for those that agree with an offset: both are alignments
with another remainder than 0 (`offset`), and the rest is the same. Only where rounding would leave the address space
does the kernel's arithmetic differ, so maps that reach so close to its ends are refused by the caller.

Costs are those of `stressvm.vm.fit`: O(log n) without alignment.

Source: sys/uvm/uvm_map.c 1.324, uvm_map_findspace and uvm_map_space_avail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from stressvm.vm.entry import E
    from stressvm.vm.skiplist import EntryList

#: One more than the largest address.
WORD: Final = 1 << 64

#: The kernel's assertions on what it found, as its source has them.
BELOW_HINT: Final = "!topdown || hint <= orig_hint"
ABOVE_HINT: Final = "topdown || hint >= orig_hint"
CANDIDATE_BELOW: Final = "orig_hint >= prev->next->start - length || prev->next->start - length > prev->next->start"
CANDIDATE_ABOVE: Final = "orig_hint <= prev->end"


class Found(NamedTuple):
    """Where there is room (None: nowhere), and the first assertion that fails on the way ("": none)."""

    address: int | None
    kassert: str = ""


NOWHERE: Final = Found(None)


def fixed(entries: EntryList[E], hint: int, length: int) -> Found:
    """With UVM_FLAG_FIXED: the hint itself, or nothing."""
    if entries.min <= hint <= entries.max and entries.first_fit(length, hint) == hint:
        return Found(hint)
    return NOWHERE


def bottom_up(entries: EntryList[E], hint: int, length: int, align: int, offset: int = 0) -> Found:
    """The lowest address at or above the hint that is `offset` modulo `align`, a power of two."""
    if hint > entries.max:
        return NOWHERE
    if align > 1:
        start = max(hint, entries.min)
        found, entry = entries.lookup(start)
        if found and entry is not None:
            start = entry.end
        if _up(start, align, offset) >= WORD:
            return _wrapped_up(entries, hint, length, align, inside=found)
    return Found(entries.first_fit(length, hint, align=align, align_offset=offset))


def top_down(entries: EntryList[E], first_free: E | None, hint: int, length: int, align: int, offset: int = 0) -> Found:
    """The highest such address at or below the hint, as far as the kernel sees it. `align` is a power of two.

    A hint at or below the map's minimum stands for the gap after `first_free`, whose top is above it.
    """
    if hint > entries.max:
        return NOWHERE
    if hint <= entries.min:
        return _judged(_downwards(entries, first_free, length, align, offset), hint)
    found, entry = entries.lookup(hint)
    if found and entry is not None:
        return _judged(_downwards(entries, entries.prev_of(entry), length, align, offset), hint)
    start = _down(hint, align, offset)
    if start + length >= WORD:
        return NOWHERE
    if _fits(entries, entry, start, length):
        return Found(start)
    return _judged(_downwards(entries, entry, length, align, offset), hint)


def _judged(found: Found, hint: int) -> Found:
    """With the last assertion: an address from the top is not above the hint."""
    if found.address is not None and found.address > hint and not found.kassert:
        return Found(found.address, BELOW_HINT)
    return found


# -- from the top


def _downwards(entries: EntryList[E], entry: E | None, length: int, align: int, offset: int) -> Found:
    """From the top of the gap after `entry` (None: the header) downwards."""
    bound = _gap_end(entries, entry)
    if bound < length:
        start = _down(WORD + bound - length, align, offset)
        return NOWHERE if start + length >= WORD else _wrapped_down(entries, start, length, align, offset)
    last = entries.last_fit(length, bound - length, align=align, align_offset=offset, bound=bound)
    first = entries.first
    if last is None or entry is None or (first is not None and last >= first.end):
        return Found(last)
    return Found(last) if _walks(entries, _down(bound - length, align, offset), length) else NOWHERE


def _walks(entries: EntryList[E], start: int, length: int) -> bool:
    """Does the list search get its turn? Asked when only the space before the first entry has an aligned place."""
    if _highest_below(entries, start + length, length) is not None:
        return True
    found, entry = entries.lookup(start)
    return (
        found
        and entry is not None
        and entry.start < start
        and start + length <= _gap_end(entries, entry)
        and entries.gap_after(entry) >= length
    )


def _wrapped_down(entries: EntryList[E], start: int, length: int, align: int, offset: int) -> Found:
    """The search of the tree from `start`, far above the gap that it should have begun at."""
    found, entry = entries.lookup(start)
    if not found and entry is not None and start < entries.max and entries.gap_after(entry) >= length:
        here = min(start, _down(_gap_end(entries, entry) - length, align, offset))
        return Found(here) if here >= entry.end else NOWHERE
    candidate = _highest_below(entries, start + length, length)
    if candidate is None:
        return NOWHERE
    # The search began below this gap, so its place is above the hint, always.
    here = _down(_gap_end(entries, candidate) - length, align, offset)
    return Found(here if here >= candidate.end else None, CANDIDATE_BELOW)


def _highest_below(entries: EntryList[E], end: int, length: int) -> E | None:
    """The highest entry with a gap of `length` after it that ends below `end`; the header is none.

    Needs [end - length, end) not to be free.
    """
    place = entries.last_fit(length, end, bound=end - 1)
    return entries.lookup(place)[1] if place is not None else None


# -- from the bottom


def _wrapped_up(entries: EntryList[E], hint: int, length: int, align: int, *, inside: bool) -> Found:
    """The place to start from has been rounded up to 0."""
    start = max(hint, entries.min)
    _, entry = entries.lookup(start)
    if not inside:
        if entries.min == 0 and entry is None and _fits(entries, None, 0, length):
            return Found(0, ABOVE_HINT)
        if entry is entries.last:
            return NOWHERE
    # The first gap after an entry that is long enough, wherever it is.
    first = entries.first
    place = entries.first_fit(length, first.end) if first is not None else None
    if place is None:
        return NOWHERE
    here = _up(place, align, 0)
    kassert = CANDIDATE_ABOVE if hint > place else ""
    _, entry = entries.lookup(place)
    if here + length < WORD and _fits(entries, entry, here, length):
        return Found(here, kassert or (ABOVE_HINT if here < hint else ""))
    return Found(None, kassert)


# -- gaps and addresses


def _gap_end(entries: EntryList[E], entry: E | None) -> int:
    """Where the gap after an entry (None: the header) ends."""
    after = entries.next_of(entry) if entry is not None else entries.first
    return after.start if after is not None else entries.max


def _fits(entries: EntryList[E], entry: E | None, start: int, length: int) -> bool:
    """Is [start, start + length) within the gap after an entry (None: the header)?"""
    begin = entry.end if entry is not None else entries.min
    return begin <= start and start + length <= _gap_end(entries, entry)


def _down(address: int, align: int, offset: int) -> int:
    return address - ((address - offset) & (align - 1))


def _up(address: int, align: int, offset: int) -> int:
    return address + ((offset - address) & (align - 1))

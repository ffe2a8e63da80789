"""The proof that a skip list is what it should be: every link, key, count and annotation, from first principles.

The bottom level is proved first, from the sentinels and the addresses alone. Each level above is then rebuilt from the
one below (it must consist of exactly the towers that rise out of it, in the same order) and its annotations are
recomputed from the addresses, not from the level below, so that no error can hide behind another one.

Maps prove their entries whenever a write lock is released, and mostly nothing is wrong. So `covered` asks all of that in
one walk along the bottom level, which carries the link under way at each level with it; and only if it meets something
does `explain` go over it level by level, to say what it is.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NoReturn

from stressvm.vm.entry import BEYOND, E
from stressvm.vm.sketch import around

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.vm.entry import Entry, Lane


def covered(head: E, over: Lane[E], top: Lane[E], count: int, height: int) -> int:
    """Check everything about a list. O(n).

    Args:
        head: the header.
        over: its link over everything.
        top: its link at the highest level.
        count: how many entries it says it has.
        height: how many levels.

    Returns:
        How many addresses the entries have; -1 if anything is wrong with the list, and `explain` says what.
    """
    owner = head.owner
    tail = over.next.entry
    roof = over.up
    first = _tower(head)
    if (
        owner is None
        or roof is None
        or roof.gap != BEYOND
        or not 0 < height < len(first)
        or first[height] is not over
        or over.down is not top
        or (height > 1 and top.next is over.next.down)
        or head.prev is not tail
        or tail.next is not tail
        or tail.gap != BEYOND
        or not head.start == head.end == owner.min
        or not tail.start == tail.end == owner.max
    ):
        return -1
    # The link under way at each level, and the largest gap in it before that of the level below began.
    rails = first[: height + 1]
    widest = [0] * (height + 2)
    wide = addresses = 0
    entry = head
    while True:
        after = entry.next
        start = after.start
        gap = start - entry.end
        if after.prev is not entry or gap != entry.gap or gap < 0 or after.owner is not owner:
            return -1
        if gap > wide:  # noqa: PLR1730 - here and below: max() takes three times as long
            wide = gap
        if after is tail:
            break
        length = after.end - start
        if length <= 0 or not count:
            return -1
        count -= 1
        addresses += length
        entry = after
        lane = after.lane
        if lane is not None:
            # Its tower ends the links under way at the levels that it reaches, and begins new ones.
            level = 0
            below = None
            while lane is not None:
                left = rails[level]
                if wide < widest[level]:  # noqa: PLR1730
                    wide = widest[level]
                if (
                    level == height
                    or lane.entry is not after
                    or lane.down is not below
                    or lane.prev is not left
                    or left.next is not lane
                    or left.until != start
                    or left.gap != wide
                ):
                    return -1
                rails[level] = below = lane
                widest[level] = 0
                level += 1
                lane = lane.up
            if wide > widest[level]:  # noqa: PLR1730
                widest[level] = wide
            wide = 0
    last = _tower(tail)
    if count or len(last) <= height or last[height] is not over.next:
        return -1
    for level, end in enumerate(last[: height + 1]):
        left = rails[level]
        if wide < widest[level]:  # noqa: PLR1730
            wide = widest[level]
        if end.prev is not left or left.next is not end or left.until != start or left.gap != wide:
            return -1
        if end.gap != BEYOND or first[level].prev is not end:
            return -1
    return addresses


def _tower(entry: E) -> list[Lane[E]]:
    """An entry's links from the bottom up, as long as they are its own and each stands on the one below."""
    tower: list[Lane[E]] = []
    below = None
    lane = entry.lane
    while lane is not None and lane.entry is entry and lane.down is below:
        tower.append(lane)
        below = lane
        lane = lane.up
    return tower


def explain(head: E, over: Lane[E], top: Lane[E], count: int, height: int) -> NoReturn:
    """Say what is wrong with a list, of which something is. O(n log n). For the arguments see `covered`.

    Raises:
        AssertionError: always; the message says what is wrong, where, and shows the entries around it.
    """
    chain, gaps = _bottom(head, over.next.entry, count)
    level: list[tuple[int, Lane[E], Lane[E] | None]]
    level = [(at, lane, None) for at, entry in enumerate(chain) if (lane := entry.lane) is not None]
    reached = 2
    number = 0
    while True:
        number += 1
        _level(chain, gaps, level, number)
        if level[0][1] is over:
            if len(level) != 2:
                raise _wrong(chain, 0, f"level {number}, above all entries, is reached by {len(level) - 2}")
            if number != height + 1:
                raise _wrong(chain, 0, f"there are {number - 1} levels, and {height} are recorded")
            if number > 2 and reached <= 2:
                raise _wrong(chain, 0, f"level {number - 1} is reached by no entry")
            if over.down is not top:
                raise _wrong(chain, 0, "a search does not begin at the highest level")
            roof = over.up
            if roof is None or roof.gap != BEYOND:
                raise _wrong(chain, 0, "the roof does not stop a climb")
            raise _wrong(chain, 0, "an internal error: at first sight something is wrong, and nothing is")
        reached = len(level)
        level = [(at, up, lane) for at, lane, _ in level if (up := lane.up) is not None]


def _wrong(chain: Sequence[Entry], at: int, what: str) -> AssertionError:
    """What is wrong at a place of the chain, with the entries around it. Called when it is, for a proof runs often."""
    return AssertionError(f"{what}\n{around(chain, at)}")


def _bottom(head: E, tail: E, count: int) -> tuple[list[E], list[int]]:
    """The entries with both sentinels, in order, and the gaps after all but the tail, once they are proved."""
    entry = head
    chain = [head]
    while entry is not tail:
        after = entry.next
        if after.prev is not entry:
            raise _wrong(chain, len(chain) - 1, f"prev of {after!r} is {after.prev!r}, not {entry!r}")
        if len(chain) > count + 1:
            raise _wrong(chain, len(chain) - 1, f"there are more entries than the {count} recorded")
        chain.append(after)
        entry = after
    if len(chain) != count + 2:
        raise _wrong(chain, 0, f"there are {len(chain) - 2} entries, and {count} are recorded")
    stops = head.prev is tail and tail.next is tail and tail.gap == BEYOND
    if not stops:
        raise _wrong(chain, count + 1, "the sentinels do not stop a search")
    owner = head.owner
    assert owner is not None, "the header belongs to its list"
    if head.start != owner.min or head.end != owner.min:
        raise _wrong(chain, 0, f"the header is not at the map's min, {owner.min:#x}")
    if tail.start != owner.max or tail.end != owner.max:
        raise _wrong(chain, count + 1, f"the tail is not at the map's max, {owner.max:#x}")
    gaps = []
    for entry, after in itertools.pairwise(chain):
        gap = after.start - entry.end
        if gap < 0 or entry.gap != gap or after.owner is not owner or (entry.start >= entry.end and entry is not head):
            raise _fault(chain)
        gaps.append(gap)
    return chain, gaps


def _fault(chain: Sequence[Entry]) -> AssertionError:
    """The worst that is wrong with the addresses: where two things are, a gap that is not as recorded comes last."""
    owner = chain[0].owner
    for at, (entry, after) in enumerate(itertools.pairwise(chain)):
        if after.owner is not owner:
            return _wrong(chain, at + 1, f"{after!r} belongs to {after.owner!r}")
        if at and entry.start >= entry.end:
            return _wrong(chain, at, f"{entry!r} is empty or inside out")
        if entry.start > after.start:
            return _wrong(chain, at, f"{entry!r} and {after!r} are out of order")
        if entry.end > after.start:
            return _wrong(chain, at, f"{entry!r} and {after!r} overlap")
    pairs = enumerate(itertools.pairwise(chain))
    at, gap = next((at, gap) for at, (entry, after) in pairs if (gap := after.start - entry.end) != entry.gap)
    return _wrong(chain, at, f"the gap after {chain[at]!r} is {gap:#x}, not {chain[at].gap:#x}")


def _level(
    chain: Sequence[Entry], gaps: Sequence[int], level: Sequence[tuple[int, Lane[E], Lane[E] | None]], number: int
) -> None:
    """Prove one level, given as its links, each with the place in `chain` where it must start and the link below it."""
    ends = bool(level) and level[0][0] == 0 and level[-1][0] == len(chain) - 1
    if not ends:
        raise _wrong(chain, 0, f"level {number} does not reach from the header to the tail")
    for (at, lane, below), (to, ahead, _) in itertools.pairwise(level):
        if lane.entry is not chain[at]:
            raise _wrong(chain, at, f"the level {number} link of {chain[at]!r} belongs to {lane.entry!r}")
        if lane.down is not below:
            raise _wrong(chain, at, f"the level {number} link of {chain[at]!r} does not stand on the link below it")
        if ahead.prev is not lane:
            raise _wrong(chain, to, f"level {number}: prev of {chain[to]!r} is not {chain[at]!r}")
        if lane.next is not ahead:
            leads = f"leads to {lane.next.entry!r}, not {chain[to]!r}"
            raise _wrong(chain, at, f"the level {number} link of {chain[at]!r} {leads}")
        if lane.until != chain[to].start:
            says = f"says that {chain[to]!r} starts at {lane.until:#x}"
            raise _wrong(chain, at, f"the level {number} link of {chain[at]!r} {says}")
        widest = max(gaps[at:to])
        if lane.gap != widest:
            says = f"the level {number} link of {chain[at]!r}, to {chain[to]!r}, says that the largest gap is"
            raise _wrong(chain, at, f"{says} {lane.gap:#x}, and it is {widest:#x}")
    _, end, below = level[-1]
    tail = chain[-1]
    if end.entry is not tail or end.down is not below or level[0][1].prev is not end or end.gap != BEYOND:
        raise _wrong(chain, len(chain) - 1, f"the level {number} link of {tail!r} does not stop a search")

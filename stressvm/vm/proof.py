"""The proof that a skip list is what it should be: every link, key, count and annotation, from first principles.

The bottom level is proved first, from the sentinels and the addresses alone. Each level above is then rebuilt from the
one below (it must consist of exactly the towers that rise out of it, in the same order) and its annotations are
recomputed from the addresses, not from the level below, so that no error can hide behind another one.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from stressvm.vm.entry import BEYOND, E
from stressvm.vm.sketch import around

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.vm.entry import Entry, Lane


def prove(head: E, over: Lane[E], count: int, height: int) -> None:
    """Check everything about the list that begins at `head` and whose link over everything is `over`. O(n log n).

    Raises:
        AssertionError: something is wrong; the message says what, where, and shows the entries around it.
    """
    chain = _bottom(head, over.next.entry, count)
    level = [(at, lane) for at, entry in enumerate(chain) if (lane := entry.lane) is not None]
    below: dict[int, Lane[E]] = {}
    for number in itertools.count(1):
        _level(chain, level, below, number)
        if level[0][1] is over:
            if len(level) != 2:
                raise _wrong(chain, 0, f"level {number}, above all entries, is reached by {len(level) - 2}")
            if number != height + 1:
                raise _wrong(chain, 0, f"there are {number - 1} levels, and {height} are recorded")
            if number > 2 and len(below) <= 2:
                raise _wrong(chain, 0, f"level {number - 1} is reached by no entry")
            roof = over.up
            if roof is None or roof.gap != BEYOND:
                raise _wrong(chain, 0, "the roof does not stop a climb")
            return
        below = dict(level)
        level = [(at, up) for at, lane in level if (up := lane.up) is not None]


def _wrong(chain: Sequence[Entry], at: int, what: str) -> AssertionError:
    """What is wrong at a place of the chain, with the entries around it. Called when it is, for a proof runs often."""
    return AssertionError(f"{what}\n{around(chain, at)}")


def _bottom(head: E, tail: E, count: int) -> list[E]:
    """The entries with both sentinels, in order, once the bottom level is proved."""
    chain = [head]
    while chain[-1] is not tail:
        entry = chain[-1].next
        if entry.prev is not chain[-1]:
            raise _wrong(chain, len(chain) - 1, f"prev of {entry!r} is {entry.prev!r}, not {chain[-1]!r}")
        if len(chain) > count + 1:
            raise _wrong(chain, len(chain) - 1, f"there are more entries than the {count} recorded")
        chain.append(entry)
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
    for at, (entry, after) in enumerate(itertools.pairwise(chain)):
        if after.owner is not owner:
            raise _wrong(chain, at + 1, f"{after!r} belongs to {after.owner!r}")
        if at and entry.start >= entry.end:
            raise _wrong(chain, at, f"{entry!r} is empty or inside out")
        if entry.start > after.start:
            raise _wrong(chain, at, f"{entry!r} and {after!r} are out of order")
        if entry.end > after.start:
            raise _wrong(chain, at, f"{entry!r} and {after!r} overlap")
    for at, (entry, after) in enumerate(itertools.pairwise(chain)):
        gap = after.start - entry.end
        if entry.gap != gap:
            raise _wrong(chain, at, f"the gap after {entry!r} is {gap:#x}, not {entry.gap:#x}")
    return chain


def _level(chain: Sequence[E], level: Sequence[tuple[int, Lane[E]]], below: dict[int, Lane[E]], number: int) -> None:
    """Prove one level, given as its links and the positions in `chain` at which they must start."""
    ends = bool(level) and level[0][0] == 0 and level[-1][0] == len(chain) - 1
    if not ends:
        raise _wrong(chain, 0, f"level {number} does not reach from the header to the tail")
    for i, (at, lane) in enumerate(level):
        entry = chain[at]
        ahead = level[(i + 1) % len(level)]
        if lane.entry is not entry:
            raise _wrong(chain, at, f"the level {number} link of {entry!r} belongs to {lane.entry!r}")
        if lane.down is not below.get(at):
            raise _wrong(chain, at, f"the level {number} link of {entry!r} does not stand on the link below it")
        if ahead[1].prev is not lane:
            raise _wrong(chain, ahead[0], f"level {number}: prev of {chain[ahead[0]]!r} is not {entry!r}")
        if i == len(level) - 1:
            if lane.start != BEYOND or lane.gap != BEYOND:
                raise _wrong(chain, at, f"the level {number} link of {entry!r} does not stop a search")
            return
        if lane.next is not ahead[1]:
            raise _wrong(
                chain, at, f"the level {number} link of {entry!r} leads to {lane.next.entry!r}, not {chain[ahead[0]]!r}"
            )
        if lane.start != entry.start:
            raise _wrong(chain, at, f"the level {number} link of {entry!r} has the key {lane.start:#x}")
        widest = max(chain[k + 1].start - chain[k].end for k in range(at, ahead[0]))
        if lane.gap != widest:
            says = f"the level {number} link of {entry!r}, to {chain[ahead[0]]!r}, says that the largest gap is"
            raise _wrong(chain, at, f"{says} {lane.gap:#x}, and it is {widest:#x}")

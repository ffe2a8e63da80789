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
            _claim(len(level) == 2, chain, 0, f"level {number}, above all entries, is reached by {len(level) - 2}")
            _claim(number == height + 1, chain, 0, f"there are {number - 1} levels, and {height} are recorded")
            _claim(number <= 2 or len(below) > 2, chain, 0, f"level {number - 1} is reached by no entry")
            roof = over.up
            _claim(roof is not None and roof.gap == BEYOND, chain, 0, "the roof does not stop a climb")
            return
        below = dict(level)
        level = [(at, up) for at, lane in level if (up := lane.up) is not None]


def _claim(holds: bool, chain: Sequence[Entry], at: int, otherwise: str) -> None:  # noqa: FBT001 - an assertion's argument
    if not holds:
        raise AssertionError(f"{otherwise}\n{around(chain, at)}")


def _bottom(head: E, tail: E, count: int) -> list[E]:
    """The entries with both sentinels, in order, once the bottom level is proved."""
    chain = [head]
    while chain[-1] is not tail:
        entry = chain[-1].next
        _claim(
            entry.prev is chain[-1], chain, len(chain) - 1, f"prev of {entry!r} is {entry.prev!r}, not {chain[-1]!r}"
        )
        _claim(len(chain) <= count + 1, chain, len(chain) - 1, f"there are more entries than the {count} recorded")
        chain.append(entry)
    _claim(len(chain) == count + 2, chain, 0, f"there are {len(chain) - 2} entries, and {count} are recorded")
    stops = head.prev is tail and tail.next is tail and tail.gap == BEYOND
    _claim(stops, chain, count + 1, "the sentinels do not stop a search")
    owner = head.owner
    assert owner is not None, "the header belongs to its list"
    _claim(head.start == head.end == owner.min, chain, 0, f"the header is not at the map's min, {owner.min:#x}")
    _claim(tail.start == tail.end == owner.max, chain, count + 1, f"the tail is not at the map's max, {owner.max:#x}")
    for at, (entry, after) in enumerate(itertools.pairwise(chain)):
        _claim(after.owner is owner, chain, at + 1, f"{after!r} belongs to {after.owner!r}")
        _claim(at == 0 or entry.start < entry.end, chain, at, f"{entry!r} is empty or inside out")
        _claim(entry.start <= after.start, chain, at, f"{entry!r} and {after!r} are out of order")
        _claim(entry.end <= after.start, chain, at, f"{entry!r} and {after!r} overlap")
    for at, (entry, after) in enumerate(itertools.pairwise(chain)):
        gap = after.start - entry.end
        _claim(entry.gap == gap, chain, at, f"the gap after {entry!r} is {gap:#x}, not {entry.gap:#x}")
    return chain


def _level(chain: Sequence[E], level: Sequence[tuple[int, Lane[E]]], below: dict[int, Lane[E]], number: int) -> None:
    """Prove one level, given as its links and the positions in `chain` at which they must start."""
    ends = bool(level) and level[0][0] == 0 and level[-1][0] == len(chain) - 1
    _claim(ends, chain, 0, f"level {number} does not reach from the header to the tail")
    for i, (at, lane) in enumerate(level):
        entry = chain[at]
        name = f"the level {number} link of {entry!r}"
        ahead = level[(i + 1) % len(level)]
        _claim(lane.entry is entry, chain, at, f"{name} belongs to {lane.entry!r}")
        _claim(lane.down is below.get(at), chain, at, f"{name} does not stand on the link below it")
        _claim(ahead[1].prev is lane, chain, ahead[0], f"level {number}: prev of {chain[ahead[0]]!r} is not {entry!r}")
        if i == len(level) - 1:
            _claim(lane.start == lane.gap == BEYOND, chain, at, f"{name} does not stop a search")
            return
        _claim(lane.next is ahead[1], chain, at, f"{name} leads to {lane.next.entry!r}, not {chain[ahead[0]]!r}")
        _claim(lane.start == entry.start, chain, at, f"{name} has the key {lane.start:#x}")
        widest = max(chain[k + 1].start - chain[k].end for k in range(at, ahead[0]))
        says = f"{name}, to {chain[ahead[0]]!r}, says that the largest gap is {lane.gap:#x}, and it is {widest:#x}"
        _claim(lane.gap == widest, chain, at, says)

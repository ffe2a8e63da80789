"""What the model knows about a map and the kernel does not: bookkeeping that invariants are checked against.

None of it has a switch point, and no modelled step ever looks at it. It is written where a step of the kernel's says what
it has done, and read by the checks of `stressvm.vm.netbsd.invariants`.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, TypeAlias

#: Every address is `0` modulo `1`.
UNALIGNED: Final = (1, 0)


#: A range that uvm_map has just entered: (start, end, align, offset, left, right). The start was to be `offset` modulo
#: `align`. `left` and `right` are its own ends, or those of the neighbours that it touches. A plain tuple: it is made often.
Placed: TypeAlias = tuple[int, int, int, int, int, int]


class Ranges:
    """Disjoint ranges of addresses that can be added and taken away."""

    __slots__ = ("ends", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []

    def add(self, start: int, end: int) -> bool:
        """Add [start, end), unless an address of it is in one of them: then False. O(log n), and a shift of the list."""
        starts, ends = self.starts, self.ends
        at = bisect_right(starts, start)
        if (at and ends[at - 1] > start) or (at < len(starts) and starts[at] < end):
            return False
        starts.insert(at, start)
        ends.insert(at, end)
        return True

    def discard(self, start: int, end: int) -> None:
        """Take [start, end) away, whatever of it is there."""
        starts, ends = self.starts, self.ends
        at = bisect_right(starts, start)
        if at and ends[at - 1] > start:
            at -= 1
        while at < len(starts) and starts[at] < end:
            first, last = starts.pop(at), ends.pop(at)
            if first < start:
                starts.insert(at, first)
                ends.insert(at, start)
                at += 1
            if end < last:
                starts.insert(at, end)
                ends.insert(at, last)
                at += 1

    def __iter__(self) -> zip[tuple[int, int]]:
        return zip(self.starts, self.ends, strict=True)


class Ghost:
    """The bookkeeping of one map.

    Attributes:
        acquired: successful write acquisitions of the map's lock.
        asked: (align, offset) of the search that was last answered, for `placed`.
        placed: what uvm_map has entered since the lock was acquired, or None.
        live: what uvm_km_alloc has handed out and nobody has freed.
        plain: no entry has ever had a type, or been NOMERGE.
        static: ranges that are never unmapped.
        forgotten: bytes that have left the map without the kernel taking them off the map's size.
        waits: by thread number: the timestamp of its last failed search for addresses, and the timestamp at the moment
            when it decided to sleep.
    """

    __slots__ = ("acquired", "asked", "forgotten", "live", "placed", "plain", "static", "waits")

    def __init__(self) -> None:
        self.acquired = 0
        self.asked = UNALIGNED
        self.placed: Placed | None = None
        self.live = Ranges()
        self.plain = True
        self.static: list[tuple[int, int]] = []
        self.forgotten = 0
        self.waits: dict[int, tuple[int, int]] = {}

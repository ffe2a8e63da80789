"""The skip list itself: towers over entries, and the largest gap within the span of every link.

Pugh's skip list, with an annotation on each link. Keeping "the largest gap below here" in the index is the kernels' own
idea (they keep it in trees); on a skip list it needs no rotations, so a change touches only the links that pass over
it. Two facts make that cheap. A link's annotation changes only if the changed gap was, or becomes, the largest in its
span, so the walk upwards mostly ends at the first level. And with back pointers at every level the link above is a few
steps to the left (expected 1/P - 1), so no change except an insert has to search at all.

The ends are two sentinels as tall as the list: the header ends at the map's minimum, the tail starts at its maximum.
The tail's gap is larger than any length, and the tail is its own successor and the header's predecessor, so a search
stops there in either direction without testing for it. Above the highest level that entries reach lies one link over
everything, whose annotation is the largest gap of all. Above that lies the roof, a link that leads nowhere, with a gap
as large as the tail's, so that a walk upwards stops there.

Heights come from a small generator in each list: the shape depends on the operations so far and on nothing else. A
height drawn above the top is cut to one new level. P is 1/4: against it, 1/2 makes searches 5 to 30 % and changes 35 %
slower; 1/8 saves a tenth on small maps and costs as much on large ones.

A sorted array of the tall towers' addresses, bisected, would replace the upper half of a descent: it makes lookups 1.3
to 1.7 times faster from 1,000 entries on, and no faster at 100. Rejected: an insert would cost O(n) in moved memory.
"""

from __future__ import annotations

from typing import Final, Generic, cast

from stressvm.vm.entry import BEYOND, E, Entry, Lane, RangeError

SEED: Final = 0x9E3779B9
WORD: Final = 0xFFFFFFFF
QUARTER: Final = 1 << 30


class Lanes(Generic[E]):
    """Entries between two sentinels, linked in address order at several levels."""

    __slots__ = ("_count", "_dice", "_head", "_height", "_over", "_tail", "_top", "max", "min")

    def __init__(self, min: int, max: int) -> None:  # noqa: A002 - the kernels' words
        if not 0 <= min < max <= 1 << 64:
            raise RangeError(f"an address map needs 0 <= min < max <= 2**64, not min {min:#x} and max {max:#x}")
        self.min = min
        self.max = max
        # The sentinels are never handed out, so they need not be of the entries' own class.
        self._head = head = cast("E", Entry(min, min))
        self._tail = tail = cast("E", Entry(max, max))
        head.owner = tail.owner = self
        head.lane = tail.lane = None
        head.next = tail
        head.prev = tail
        tail.next = tail
        tail.prev = head
        head.gap = max - min
        tail.gap = BEYOND
        self._count = 0
        self._dice = SEED
        # One link over everything, above the highest level that entries reach, and the roof above that.
        self._over = self._rail(None, None, max - min)
        self._over.up = roof = Lane(head, max, None)
        roof.gap = BEYOND
        self._height = 0
        self._top: Lane[E]
        self._add_level()

    # -- levels

    def _rail(self, below: Lane[E] | None, below_tail: Lane[E] | None, gap: int) -> Lane[E]:
        """A link from the header to the tail, standing on those of the level below."""
        rail = Lane(self._head, self.max, below)
        end = Lane(self._tail, BEYOND, below_tail)
        rail.next = rail.prev = end
        end.prev = rail
        rail.gap = gap
        end.gap = BEYOND
        return rail

    def _add_level(self) -> None:
        """Lay one more level, empty so far, under the link over everything."""
        over, over_tail = self._over, self._over.next
        below, below_tail = over.down, over_tail.down
        top = self._rail(below, below_tail, over.gap)
        if below is None or below_tail is None:
            self._head.lane = top
            self._tail.lane = top.next
        else:
            below.up = top
            below_tail.up = top.next
        top.up = over
        top.next.up = over_tail
        over.down = self._top = top
        over_tail.down = top.next
        self._height += 1

    def _drop_levels(self) -> None:
        """Take away the top levels that no entry reaches any more, down to the last one."""
        over, top = self._over, self._top
        while top.next.entry is self._tail and (below := top.down) is not None:
            below_tail = top.next.down
            assert below_tail is not None, "the tail is as tall as the header"
            below.up = over
            below_tail.up = over.next
            over.down = self._top = top = below
            over.next.down = below_tail
            self._height -= 1

    # -- annotations

    def _widest(self, lane: Lane[E]) -> int:
        """The largest gap in the span of `lane`, from the level below it. Expected O(1)."""
        widest = 0
        below = lane.down
        if below is None:
            entry, stop = lane.entry, lane.next.entry
            while entry is not stop:
                if entry.gap > widest:  # noqa: PLR1730 - max() takes three times as long
                    widest = entry.gap
                entry = entry.next
        else:
            end = lane.next.down
            while below is not end:
                assert below is not None, "every lane above the first has one below it"
                if below.gap > widest:  # noqa: PLR1730
                    widest = below.gap
                below = below.next
        return widest

    def _grown(self, lane: Lane[E], gap: int) -> None:
        """A gap under `lane` has grown to `gap`: raise the annotations from here upwards that it exceeds."""
        while lane.gap < gap:
            lane.gap = gap
            while (up := lane.up) is None:
                lane = lane.prev
            lane = up

    def _shrunk(self, lane: Lane[E], gap: int) -> None:
        """A gap of size `gap` under `lane` has become smaller: recompute, upwards, where it was the largest."""
        while lane.gap == gap:
            widest = self._widest(lane)
            if widest == gap:
                break
            lane.gap = widest
            while (up := lane.up) is None:
                lane = lane.prev
            lane = up

    def _set_gap(self, entry: E, gap: int) -> None:
        """Record that the gap after `entry` is now `gap`, and no longer what it was."""
        old = entry.gap
        entry.gap = gap
        if gap > old:
            self._grown(self._lane_at(entry), gap)
        else:
            self._shrunk(self._lane_at(entry), old)

    def _set_start(self, entry: E, start: int) -> None:
        """Move the start of `entry`, and with it the keys of its tower; the gap before it is the caller's business."""
        entry.start = start
        lane = entry.lane
        while lane is not None:
            lane.prev.until = start
            lane = lane.up

    def _lane_at(self, entry: E) -> Lane[E]:
        """The first-level link that passes over the gap after `entry`. Expected O(1)."""
        while (lane := entry.lane) is None:
            entry = entry.prev
        return lane

    # -- linking

    def _link(self, entry: E, prev: E, lane: Lane[E]) -> None:
        """Put `entry` after `prev`; `lane` is the first-level link that passes over that place. Expected O(1).

        The free space it goes into is what `prev.gap` records, even if a clip has just moved the end of `prev`.
        """
        following = prev.next
        space = prev.gap
        entry.owner = self
        entry.prev = prev
        entry.next = following
        prev.next = following.prev = entry
        prev.gap = before = entry.start - prev.end
        entry.gap = after = following.start - entry.end
        self._count += 1
        # A full-period generator modulo 2**32. Its high bits are the good ones: each leading pair of zeros is a level.
        self._dice = dice = (self._dice * 747796405 + 2891336453) & WORD
        if dice < QUARTER:
            self._build(entry, lane, (32 - dice.bit_length()) >> 1, space)
            return
        entry.lane = None
        if lane.gap == space and before != space != after:
            self._shrunk(lane, space)

    def _build(self, entry: E, left: Lane[E], levels: int, space: int) -> None:
        """Raise a tower over `entry`, splitting the links that it meets, the first of which is `left`. Expected O(1).

        `space` is the gap that the entry has just divided.
        """
        if levels > self._height:
            levels = self._height + 1
            self._add_level()
        start = entry.start
        below: Lane[E] | None = None
        for _ in range(levels):
            lane = Lane(entry, left.until, below)
            if below is None:
                entry.lane = lane
            else:
                below.up = lane
            lane.next = right = left.next
            lane.prev = left
            left.next = right.prev = lane
            left.until = start
            left.gap = self._widest(left)
            lane.gap = self._widest(lane)
            below = lane
            while (up := left.up) is None:
                left = left.prev
            left = up
        self._shrunk(left, space)

    def _unlink(self, entry: E) -> None:
        """Take `entry` out: its range and the gaps around it become one gap. Expected O(1)."""
        prev = entry.prev
        following = entry.next
        prev.next = following
        following.prev = prev
        prev.gap = gap = following.start - prev.end
        self._count -= 1
        lane = entry.lane
        if lane is None:
            # `_lane_at` written out, and no call where nothing is to be raised: a tenth of the time of a deletion.
            while (lane := prev.lane) is None:
                prev = prev.prev
            if lane.gap < gap:
                self._grown(lane, gap)
        else:
            self._raze(lane, gap)
        entry.owner = None
        # A stale pointer in an entry that is out of the list would hide a mistake, and keep the map alive.
        del entry.prev, entry.next, entry.gap, entry.lane

    def _raze(self, lane: Lane[E] | None, gap: int) -> None:
        """Take the tower from `lane` upwards out; `gap` is the gap that its entry leaves. Expected O(1)."""
        left = self._top
        while lane is not None:
            left = lane.prev
            left.next = right = lane.next
            right.prev = left
            left.until = lane.until
            left.gap = max(left.gap, lane.gap, gap)
            lane = lane.up
        while (up := left.up) is None:
            left = left.prev
        self._grown(up, gap)
        if self._top.next.entry is self._tail:
            self._drop_levels()

    # -- finding a place

    def _seek(self, addr: int) -> Lane[E]:
        """The last first-level link that starts at or below `addr`. Needs addr < max. Expected O(log n)."""
        lane = self._top
        while True:
            while lane.until <= addr:
                lane = lane.next
            if (down := lane.down) is None:
                return lane
            lane = down

    def _pred(self, addr: int) -> E:
        """The last entry that starts at or below `addr`, or the header. Needs addr < max. Expected O(log n)."""
        entry = self._seek(addr).entry
        after = entry.next
        while after.start <= addr:
            entry = after
            after = entry.next
        return entry

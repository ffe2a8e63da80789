"""The address map's core: disjoint entries in address order, and the operations that map code is written with.

Every operation checks its arguments before it touches anything, so an exception leaves the list as it was. What the
list keeps, how, and what it costs is said in `lanes`; the searches for free space are in `fit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.entry import E, EntryError, OverlapError, RangeError
from stressvm.vm.fit import Fits
from stressvm.vm.proof import covered, explain
from stressvm.vm.sketch import ranges

if TYPE_CHECKING:
    from collections.abc import Iterator


class EntryList(Fits[E]):
    """Entries of [min, max), disjoint and in address order, with every free gap accounted for.

    While an entry is being iterated over it may be deleted, merged or clipped; its successor may not be deleted.
    """

    __slots__ = ()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[E]:
        entry, tail = self._head.next, self._tail
        while entry is not tail:
            after = entry.next
            yield entry
            entry = after

    def __reversed__(self) -> Iterator[E]:
        entry, head = self._tail.prev, self._head
        while entry is not head:
            before = entry.prev
            yield entry
            entry = before

    def __repr__(self) -> str:
        count = f"{self._count} entries" if self._count != 1 else "1 entry"
        return f"<{type(self).__name__} {self.min:#x}-{self.max:#x}, {count}, largest gap {self.largest_gap:#x}>"

    def describe(self, limit: int = 40) -> str:
        """A picture for reports: every entry and every gap on a line of its own, at most about `limit` entries."""
        picture = ranges(self._head, self._count, limit)
        return f"{self!r}\n{picture}" if picture else repr(self)

    # -- looking

    @property
    def first(self) -> E | None:
        """The lowest entry. O(1)."""
        entry = self._head.next
        return None if entry is self._tail else entry

    @property
    def last(self) -> E | None:
        """The highest entry. O(1)."""
        entry = self._tail.prev
        return None if entry is self._head else entry

    @property
    def largest_gap(self) -> int:
        """The length of the largest free range, 0 if the map is full. O(1)."""
        return self._over.gap

    def next_of(self, entry: E) -> E | None:
        """The entry after `entry`, None after the last. O(1)."""
        if entry.owner is not self:
            raise self._stranger(entry)
        after = entry.next
        return None if after is self._tail else after

    def prev_of(self, entry: E) -> E | None:
        """The entry before `entry`, None before the first. O(1)."""
        if entry.owner is not self:
            raise self._stranger(entry)
        before = entry.prev
        return None if before is self._head else before

    def gap_after(self, entry: E | None) -> int:
        """Free addresses between `entry` (None: the map's min) and what follows it. O(1)."""
        if entry is None:
            return self._head.gap
        self._mine(entry)
        return entry.gap

    def lookup(self, addr: int) -> tuple[bool, E | None]:
        """Whether `addr` is in an entry, and that entry, or else the last one before it. Expected O(log n).

        None stands for the place before the first entry. Any address will do; outside the map nothing is found.
        """
        if addr >= self.max:
            entry = self._tail.prev
        else:
            # `_pred` written out: half the time of a lookup in a small map.
            lane = self._top
            while True:
                while lane.until <= addr:
                    lane = lane.next
                if (down := lane.down) is None:
                    break
                lane = down
            entry = lane.entry
            after = entry.next
            while after.start <= addr:
                entry = after
                after = entry.next
        if entry is self._head:
            return False, None
        return addr < entry.end, entry

    # -- changing

    def insert(self, entry: E) -> None:
        """Put `entry` into the list, at its own addresses. Expected O(log n).

        Raises:
            RangeError: the range is empty, or not within the map.
            OverlapError: another entry has some of the addresses.
            EntryError: the entry is in a list already.
        """
        start = entry.start
        end = entry.end
        if entry.owner is not None:
            raise EntryError(f"{entry!r} is already in {entry.owner!r}: delete it there, or insert a copy")
        if not self.min <= start < end <= self.max:
            raise RangeError(f"{entry!r} is empty or not within {self.min:#x}-{self.max:#x}")
        lane = self._seek(start)
        prev = lane.entry
        after = prev.next
        while after.start <= start:
            prev = after
            after = prev.next
        if prev.end > start or after.start < end:
            raise OverlapError(f"{entry!r} overlaps {prev if prev.end > start else after!r}")
        self._link(entry, prev, lane)

    def delete(self, entry: E) -> None:
        """Take `entry` out; its addresses are free. Expected O(1), O(log n) if that makes the largest gap of all."""
        if entry.owner is not self:
            raise self._stranger(entry)
        self._unlink(entry)

    def clip_start(self, entry: E, addr: int) -> E:
        """Split at `addr`, a new entry getting the front part; it is returned. Expected O(1).

        `entry` keeps its identity and becomes [addr, end). What else the new entry holds is up to `Entry.copy`.

        Raises:
            RangeError: `addr` is not inside the entry, or is its start.
        """
        self._inside(entry, addr)
        front = entry.copy()
        front.end = addr
        self._set_start(entry, addr)
        prev = entry.prev
        self._link(front, prev, self._lane_at(prev))
        return front

    def clip_end(self, entry: E, addr: int) -> E:
        """Split at `addr`, a new entry getting the back part; it is returned. Expected O(1).

        `entry` keeps its identity and becomes [start, addr). What else the new entry holds is up to `Entry.copy`.

        Raises:
            RangeError: `addr` is not inside the entry, or is its start.
        """
        self._inside(entry, addr)
        back = entry.copy()
        back.start = addr
        entry.end = addr
        self._link(back, entry, self._lane_at(entry))
        return back

    def resize(self, entry: E, *, start: int | None = None, end: int | None = None) -> None:
        """Give `entry` another range, in place. Expected O(1), O(log n) if that changes the largest gap of all.

        Raises:
            RangeError: the range would be empty, or leave the map.
            OverlapError: it would reach into a neighbour.
        """
        self._mine(entry)
        start = entry.start if start is None else start
        end = entry.end if end is None else end
        prev, after = entry.prev, entry.next
        if not self.min <= start < end <= self.max:
            raise RangeError(f"{entry!r} cannot become {start:#x}-{end:#x} within {self.min:#x}-{self.max:#x}")
        if start < prev.end or end > after.start:
            raise OverlapError(
                f"{entry!r} cannot become {start:#x}-{end:#x}: only {prev.end:#x}-{after.start:#x} is free"
            )
        if start != entry.start:
            self._set_start(entry, start)
            self._set_gap(prev, start - prev.end)
        if end != entry.end:
            entry.end = end
            self._set_gap(entry, after.start - end)

    def merge(self, left: E, right: E) -> None:
        """Let `left` absorb the entry that follows it without a gap; `right` leaves the list. Expected O(1).

        Raises:
            RangeError: `right` does not begin where `left` ends.
        """
        self._adjacent(left, right)
        left.end = right.end
        self._unlink(right)

    def merge_into_right(self, left: E, right: E) -> None:
        """As `merge`, but the higher entry survives (as in FreeBSD) and `left` leaves the list. Expected O(1).

        Raises:
            RangeError: `right` does not begin where `left` ends.
        """
        self._adjacent(left, right)
        self._set_start(right, left.start)
        self._unlink(left)

    # -- arguments

    def _mine(self, entry: E) -> None:
        if entry.owner is not self:
            raise self._stranger(entry)

    def _stranger(self, entry: E) -> EntryError:
        where = "in no list" if entry.owner is None else f"in {entry.owner!r}"
        return EntryError(f"{entry!r} is {where}, and not in {self!r}: use an entry that this list holds")

    def _inside(self, entry: E, addr: int) -> None:
        self._mine(entry)
        if not entry.start < addr < entry.end:
            raise RangeError(f"{entry!r} cannot be split at {addr:#x}: both parts need some addresses")

    def _adjacent(self, left: E, right: E) -> None:
        self._mine(left)
        self._mine(right)
        if left.end != right.start:
            raise RangeError(f"{left!r} and {right!r} cannot be merged: the second must begin where the first ends")

    # -- proof

    def _check(self) -> int:
        """Prove everything that this list claims about itself (see `proof`); how many addresses its entries have. O(n)."""
        addresses = covered(self._head, self._over, self._top, self._count, self._height)
        if addresses < 0:
            explain(self._head, self._over, self._top, self._count, self._height)
        return addresses

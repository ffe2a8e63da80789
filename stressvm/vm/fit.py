"""Finding free space: first fit from below and from above, with alignment.

Both searches go first to the place that the hint names, down from the top; most requests are answered there. If that
gap is too small they climb: sideways along the highest link that starts where they stand, for as long as its annotation
says that nothing in its span is large enough, and then down into the first span that has something. So the cost grows
with the distance of the answer and not with the size of the map.

An annotation says how large a gap is, not where its aligned addresses lie, and a gap of length to length + align - 2
may hold none. (One of length + align - 1 always does.) Such gaps are tried one by one. But a gap that holds none also
says what the next aligned address is, and the search goes on from there: it never tries two gaps for the same aligned
address. An index for each alignment was rejected: every insert would pay for it.
"""

from __future__ import annotations

from stressvm.vm.entry import E, RangeError
from stressvm.vm.lanes import Lanes


class Fits(Lanes[E]):
    """The searches over the annotated lanes; they change nothing."""

    __slots__ = ()

    def first_fit(
        self, length: int, hint: int, *, align: int = 1, align_offset: int = 0, bound: int | None = None
    ) -> int | None:
        """The lowest address a >= hint with [a, a + length) free and a = align_offset modulo align.

        None if there is none with a + length <= bound (by default, and at most, the map's max). Expected O(log n)
        where align is 1. Otherwise O((1 + m) log n), where m is the smaller of the number of gaps before the answer
        that are as long as `length` but shorter than length + align - 1, and the number of aligned addresses there.
        Any alignment will do, not only powers of two.

        Raises:
            RangeError: length or align is not positive.
        """
        if length <= 0 or align <= 0:
            raise RangeError(f"length and align must be positive, not {length:#x} and {align:#x}")
        if hint >= self.max:
            return None
        # Comparisons instead of max(), and `_pred` written out: four calls fewer, a third of the time at 100 entries.
        if hint < self.min:  # noqa: PLR1730
            hint = self.min
        lane = self._top
        while True:
            while lane.until <= hint:
                lane = lane.next
            if (down := lane.down) is None:
                break
            lane = down
        entry = lane.entry
        after = entry.next
        while after.start <= hint:
            entry = after
            after = entry.next
        start = entry.end
        if start < hint:  # noqa: PLR1730
            start = hint
        if align != 1:
            limit = self.max if bound is None or bound > self.max else bound
            return self._aligned_up(entry, start, length, align, align_offset, limit)
        if start + length > after.start:
            if self._over.gap < length:
                return None
            entry = self._next_gap(after, length)
            if entry is self._tail:
                return None
            start = entry.end
        return start if bound is None or start + length <= bound else None

    def last_fit(
        self, length: int, hint: int, *, align: int = 1, align_offset: int = 0, bound: int | None = None
    ) -> int | None:
        """The highest address a <= hint with [a, a + length) free and a = align_offset modulo align.

        None if there is none at or above the map's min. `bound` is a limit on the end, a + length <= bound (by default,
        and at most, the map's max); `hint` is one on the start. Costs as `first_fit` does.

        Raises:
            RangeError: length or align is not positive.
        """
        if length <= 0 or align <= 0:
            raise RangeError(f"length and align must be positive, not {length:#x} and {align:#x}")
        limit = hint + length
        if bound is not None and bound < limit:
            limit = bound
        if limit > self.max:  # noqa: PLR1730
            limit = self.max
        start = limit - length
        if start < self.min:
            return None
        entry = self._pred(limit - 1)
        if align != 1:
            return self._aligned_down(entry, start, length, align, align_offset)
        if entry.end <= start:
            return start
        if self._over.gap < length:
            return None
        entry = self._prev_gap(entry.prev, length)
        return None if entry is self._tail else entry.next.start - length

    # -- the next gap that is large enough

    def _next_gap(self, entry: E, length: int) -> E:
        """The first entry at or after `entry` with a gap of `length` after it; the tail if there is none.

        Not from the header: its top link is not the end of the climb. Expected O(log distance).
        """
        while entry.gap < length:
            if (lane := entry.lane) is not None:
                break
            entry = entry.next
        else:
            return entry
        while lane.gap < length:
            up = lane.up
            lane = lane.next if up is None else up
        while (down := lane.down) is not None:
            lane = down
            while lane.gap < length:
                lane = lane.next
        entry = lane.entry
        while entry.gap < length:
            entry = entry.next
        return entry

    def _prev_gap(self, entry: E, length: int) -> E:
        """The last entry (or header) at or before `entry` with a gap of `length` after it; the tail if there is none.

        Expected O(log distance).
        """
        while entry.gap < length:
            if (lane := entry.lane) is not None:
                break
            entry = entry.prev
        else:
            return entry
        while (left := lane.prev).gap < length:
            up = lane.up
            lane = left if up is None else up
        while (down := lane.down) is not None:
            lane = down
            while lane.prev.gap < length:
                lane = lane.prev
        entry = lane.entry.prev
        while entry.gap < length:
            entry = entry.prev
        return entry

    # -- alignment

    def _aligned_up(self, entry: E, start: int, length: int, align: int, offset: int, bound: int) -> int | None:
        """`first_fit` from `start`, which lies in the gap after `entry` or at the end of that gap."""
        start += (offset - start) % align
        end = start + length
        after = entry.next
        while end > after.start:
            # No aligned address below `start` is free, so only a gap that ends beyond it can be of use.
            if end > bound:
                return None
            entry = after if after.gap >= length else self._next_gap(after, length)
            after = entry.next
            if after.start <= start:
                entry = self._next_gap(self._pred(start), length)
                after = entry.next
            if entry.end > start:
                start = entry.end
                start += (offset - start) % align
                end = start + length
        return start if end <= bound else None

    def _aligned_down(self, entry: E, start: int, length: int, align: int, offset: int) -> int | None:
        """`last_fit` from `start`, where `entry` is the last that begins below start + length."""
        tail = self._tail
        start -= (start - offset) % align
        while start < entry.end:
            # No aligned address above `start` is free, so only a gap that begins at or below it can be of use.
            # Below the map's min there is none: the step back from the header leads to the tail.
            entry = entry.prev
            if entry.end > start:
                entry = self._pred(start)
                if entry.end > start:
                    entry = entry.prev
            if entry.gap < length:
                entry = self._prev_gap(entry, length)
            if entry is tail:
                return None
            top = entry.next.start - length
            if top < start:
                start = top - (top - offset) % align
        return start

"""A map as nothing but the list of what is taken: sorted, disjoint, half-open intervals of whole numbers.

It knows no entries, no merging and no tree, and shares no code with the maps.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Flat:
    """Places from `low` up to `high`."""

    low: int
    high: int
    taken: list[tuple[int, int]] = field(default_factory=list)

    def free(self, start: int, length: int) -> bool:
        inside = self.low <= start and start + length <= self.high
        return inside and not any(one < start + length and start < other for one, other in self.taken)

    def covers(self, place: int) -> bool:
        return any(one <= place < other for one, other in self.taken)

    def first_fit(self, hint: int, length: int, align: int = 1, rest: int = 0, bound: int = 0) -> int | None:
        """The lowest place at or above the hint that is `rest` modulo `align` and ends at the bound or below."""
        starts = [max(hint, self.low), *(end for _, end in self.taken if end > hint)]
        right = [start + (rest - start) % align for start in starts]
        return next((at for at in sorted(right) if self.free(at, length) and (not bound or at + length <= bound)), None)

    def take(self, start: int, length: int) -> None:
        assert self.free(start, length), f"{start}+{length} is handed out although it is taken: {self.taken}"
        self._put([*self.taken, (start, start + length)])

    def give(self, start: int, length: int) -> None:
        """All of it must be taken."""
        assert all(self.covers(at) for at in range(start, start + length)), f"{start}+{length} is freed twice"
        self.drop(start, length)

    def drop(self, start: int, length: int) -> None:
        """Whatever of it is taken."""
        end = start + length
        cut = [(a, b) for one, other in self.taken for a, b in ((one, min(other, start)), (max(one, end), other))]
        self._put([(a, b) for a, b in cut if a < b])

    def _put(self, intervals: list[tuple[int, int]]) -> None:
        joined: list[tuple[int, int]] = []
        for start, end in sorted(intervals):
            if joined and joined[-1][1] == start:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        self.taken = joined


def joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in order, those that touch made one."""
    flat = Flat(0, 0)
    flat._put(ranges)
    return flat.taken

"""How many different interleavings a hunt has seen, and how much it has not: in bounded memory.

Counts are exact up to a stated size; beyond it, only every other, every fourth ... class is kept (by its hash), and
what is told is scaled up and marked as an estimate. The probability that the next execution is one not seen yet is
estimated after Good and Turing: classes seen once, over executions.
"""

from __future__ import annotations

from typing import Final

#: Classes kept exactly.
KEPT_MAX: Final = 1 << 18


class Seen:
    """Classes of executions seen, by an integer that stands for the class."""

    __slots__ = ("counts", "kept_max", "shift", "total")

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self.counts: dict[int, int] = {}
        self.kept_max = kept_max
        self.shift = 0
        self.total = 0

    def add(self, key: int) -> None:
        """One more execution, of class `key`."""
        self.total += 1
        if self.shift and _spread(key) & ((1 << self.shift) - 1):
            return
        counts = self.counts
        if key in counts:
            counts[key] += 1
            return
        counts[key] = 1
        if len(counts) > self.kept_max:
            self.shift += 1
            low = (1 << self.shift) - 1
            self.counts = {key: n for key, n in counts.items() if not _spread(key) & low}

    @property
    def sampled(self) -> bool:
        """Are the numbers estimates?"""
        return self.shift > 0

    @property
    def distinct(self) -> int:
        """Classes seen."""
        return len(self.counts) << self.shift

    @property
    def unseen_mass(self) -> float:
        """Estimated probability that the next execution is of a class not seen yet (1.0 before the first)."""
        if not self.total:
            return 1.0
        once = sum(1 for n in self.counts.values() if n == 1) << self.shift
        return min(1.0, once / self.total)


def _spread(key: int) -> int:
    """Well mixed low bits, whatever the key."""
    return (key * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 32

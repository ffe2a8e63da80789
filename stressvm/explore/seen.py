"""How many different interleavings a hunt has seen, and how much it has not: in bounded memory.

Counts are exact up to a stated size; beyond it, only every other, every fourth ... class is kept (by its hash), and
what is told is scaled up and marked as an estimate. The probability that the next execution is one not seen yet is
estimated after Good and Turing: classes seen once, over executions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

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

    def add(self, keys: Iterable[int], total: int) -> None:
        """That many more executions, and their classes: all of them, or at least those that are kept."""
        self.total += total
        counts = self.counts
        for key in self.kept(keys):
            counts[key] = counts.get(key, 0) + 1
        while len(counts) > self.kept_max:
            self.shift += 1
            keep = set(self.kept(counts))
            counts = self.counts = {key: n for key, n in counts.items() if key in keep}

    def kept(self, keys: Iterable[int]) -> Iterable[int]:
        """Those of the classes that are counted. What is counted at one time only becomes fewer later."""
        if not self.shift:
            return keys
        low = (1 << self.shift) - 1
        return [key for key in keys if not _spread(key) & low]

    @property
    def sampled(self) -> bool:
        """Are the numbers estimates?"""
        return self.shift > 0

    @property
    def distinct(self) -> int:
        """Classes seen."""
        return len(self.counts) << self.shift

    @property
    def saturated(self) -> bool:
        """Is the next execution all but certain to be of a class that was seen?"""
        return self.unseen_mass < SATURATED

    @property
    def unseen_mass(self) -> float:
        """Estimated probability that the next execution is of a class not seen yet (1.0 before the first)."""
        if not self.total:
            return 1.0
        once = sum(1 for n in self.counts.values() if n == 1) << self.shift
        return min(1.0, once / self.total)


#: A hunt is saturated when an execution is of a new class with less than this probability.
SATURATED: Final = 0.001


def _spread(key: int) -> int:
    """Well mixed low bits, whatever the key."""
    return (key * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 32

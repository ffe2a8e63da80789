"""Histograms with logarithmic buckets: sixteen in each octave, so that a bucket is at most a sixteenth of its value wide.

A bucket is an integer, so histograms of different replications, machines and versions of Python are added as counters.
Values below 32 have a bucket each: the first octave in which sixteen buckets could be wider than one begins there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Buckets in an octave, as a power of two.
_OCTAVE_BITS: Final = 4
_OCTAVE: Final = 1 << _OCTAVE_BITS


def bucket_of(value: int) -> int:
    """The bucket that counts `value`, which is an integer of at least 0 (ticks, say)."""
    if value < _OCTAVE:
        if value < 0:
            raise UsageError(f"a histogram counts values from 0 on, not {value}")
        return value
    shift = value.bit_length() - 1 - _OCTAVE_BITS
    return (shift << _OCTAVE_BITS) + (value >> shift)


def bounds(bucket: int) -> tuple[int, int]:
    """The least and the greatest value that the bucket counts."""
    if bucket < _OCTAVE:
        if bucket < 0:
            raise UsageError(f"there is no bucket {bucket}: they are numbered from 0")
        return bucket, bucket
    shift = (bucket >> _OCTAVE_BITS) - 1
    low = (bucket - (shift << _OCTAVE_BITS)) << shift
    return low, low + (1 << shift) - 1


def quantile(counts: Mapping[int, int], q: float) -> float:
    """The value below or at which a share `q` (0 to 1) of what was counted lies, by nearest rank.

    It is the middle of the bucket that holds that rank: exact below 32, else off by less than a thirty-second of the
    value. An empty histogram has 0.

    Raises:
        UsageError: `q` is not between 0 and 1.
    """
    if not 0.0 <= q <= 1.0:
        raise UsageError(f"quantile({q}): a share lies between 0 and 1")
    total = sum(counts.values())
    if not total:
        return 0.0
    # Nearest rank: the least integer that is no less than q * total, without what a product of floats adds to it.
    rank = max(1, -int(-(q * total - 1e-9) // 1))
    for bucket in sorted(counts):
        rank -= counts[bucket]
        if rank <= 0:
            low, high = bounds(bucket)
            return (low + high) / 2
    low, high = bounds(max(counts))
    return (low + high) / 2


def merged(histograms: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """The sum of several histograms, its buckets in ascending order."""
    total: dict[int, int] = {}
    for counts in histograms:
        for bucket, count in counts.items():
            total[bucket] = total.get(bucket, 0) + count
    return {bucket: total[bucket] for bucket in sorted(total)}


class Histogram:
    """Counts values, and remembers besides how many there were, their sum and the greatest, all exactly.

    `counts` is what a `Sample` keeps of it: bucket to count.
    """

    __slots__ = ("counts", "greatest", "sum", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total = 0
        self.sum = 0
        self.greatest = 0

    def add(self, value: int, times: int = 1) -> None:
        """Count `value`, that many times."""
        bucket = bucket_of(value)
        self.counts[bucket] = self.counts.get(bucket, 0) + times
        self.total += times
        self.sum += value * times
        self.greatest = max(self.greatest, value)

    @property
    def mean(self) -> float:
        """The mean of all values, exact; 0 if there are none."""
        return self.sum / self.total if self.total else 0.0

    def quantile(self, q: float) -> float:
        """See `quantile`; no more than the greatest value."""
        return min(quantile(self.counts, q), float(self.greatest))

    def frozen(self) -> dict[int, int]:
        """The counts, buckets in ascending order."""
        return {bucket: self.counts[bucket] for bucket in sorted(self.counts)}

"""What replications say together: a mean with its interval, and a comparison under common random numbers.

All intervals are Student's, of 95 %, over replications, which are independent of each other; nothing is adjusted for how
many of them a study states. Two points are compared replication by replication, since both were given the same arrivals,
sizes and holds by the same seed: what the draws do to both cancels. Where all values are positive it is their ratio that is
compared (the mean of its logarithm, so that a over b is one over b over a); otherwise their difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Of an interval.
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, and between what the true value lies with a confidence of 95 %; with one replication, anywhere."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half of its width."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class Difference:
    """How one point differs from another in a measure.

    Attributes:
        interval: of the ratio, or of the difference.
        ratio: it is a ratio: 1 is no difference; else 0 is.
    """

    interval: Interval
    ratio: bool

    @property
    def sign(self) -> int:
        """1 if it is certainly more, -1 if certainly less, 0 if that cannot be told."""
        none = 1.0 if self.ratio else 0.0
        return (self.interval.low > none) - (self.interval.high < none)


def interval(values: Sequence[float]) -> Interval:
    """The mean of what replications measured."""
    if not values:
        raise UsageError("an interval of no replications")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = t_quantile(0.5 + CONFIDENCE / 2, len(values) - 1) * math.sqrt(variance / len(values))
    return Interval(mean, mean - half, mean + half)


def compared(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Difference:
    """Ours over theirs, or ours less theirs.

    Args:
        ours: for each setting in which the two are compared, the values by replication.
        theirs: the same of the other.
    """
    settings = [list(zip(a, b, strict=True)) for a, b in zip(ours, theirs, strict=True)]
    by_replication = list(zip(*settings, strict=True))
    if all(value > 0 for pairs in settings for pair in pairs for value in pair):
        logs = [math.fsum(math.log(a / b) for a, b in row) / len(row) for row in by_replication]
        found = interval(logs)
        return Difference(Interval(*(_exp(x) for x in (found.value, found.low, found.high))), ratio=True)
    return Difference(interval([math.fsum(a - b for a, b in row) / len(row) for row in by_replication]), ratio=False)


def _exp(x: float) -> float:
    return math.inf if x == math.inf else math.exp(x)


@cache
def t_quantile(p: float, freedom: int) -> float:
    """The `p`-quantile of Student's distribution, exact to some 1e-9.

    Raises:
        UsageError: `p` is not between 0.5 and 1, or there is no degree of freedom.
    """
    if not 0.5 <= p < 1.0 or freedom < 1:
        raise UsageError(f"t_quantile({p}, {freedom}): 0.5 <= p < 1, one degree of freedom at least")
    low, high = 0.0, 1.0
    while _t_cdf(high, freedom) < p:
        low, high = high, high * 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _t_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def _t_cdf(t: float, freedom: int) -> float:
    """The share of Student's distribution that lies below `t`, which is at least 0: finite sums, exact for whole degrees.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    cosine2 = math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    k = 2 if odd else 1
    for _ in range((freedom - odd) // 2):
        total += term
        term *= cosine2 * k / (k + 1)
        k += 2
    inside = (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total
    return 0.5 + inside / 2

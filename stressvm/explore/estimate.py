"""How large the space of executions is, and how much of it has been seen: estimates, and what they rest on.

Sizes run far beyond what a float holds, so they are kept as decimal logarithms.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LN10: Final = math.log(10)


class TreeSize:
    """The number of executions, after Knuth (Mathematics of Computation, 1975).

    The product of the arities along a random path is an unbiased estimate of the number of leaves, if every alternative
    was equally probable: feed it random walks only. Its spread is enormous; a mean of few is mostly too low.
    """

    __slots__ = ("log10_sum", "probes")

    def __init__(self) -> None:
        self.probes = 0
        self.log10_sum = -math.inf

    def add(self, arities: Iterable[int]) -> None:
        """One more random walk: the number of alternatives at each of its decisions."""
        self.add_log10(sum(math.log10(arity) for arity in arities))

    def add_log10(self, log10: float) -> None:
        """One more random walk: the decimal logarithm of the product of the arities at its decisions."""
        self.probes += 1
        high, low = max(self.log10_sum, log10), min(self.log10_sum, log10)
        self.log10_sum = high + math.log10(1 + 10 ** (low - high))

    @property
    def log10(self) -> float:
        """Decimal logarithm of the estimate; 0.0 before the first walk."""
        return self.log10_sum - math.log10(self.probes) if self.probes else 0.0

    @property
    def executions(self) -> float:
        """The estimate; infinite if a float cannot hold it."""
        return power_of_ten(self.log10)


def power_of_ten(log10: float) -> float:
    """Ten to that power; infinite if a float cannot hold it."""
    return 10.0**log10 if log10 < 308 else math.inf


def interleavings(steps: Sequence[int]) -> int:
    """In how many orders threads can do that many steps each, if none ever blocks: (sum)! / product of the factorials.

    An upper bound where threads block, exact where they do not.
    """
    if any(count < 0 for count in steps):
        raise UsageError(f"interleavings of {list(steps)}: a thread does 0 steps or more")
    total = math.factorial(sum(steps))
    for count in steps:
        total //= math.factorial(count)
    return total


def log10_interleavings(steps: Sequence[int]) -> float:
    """The decimal logarithm of `interleavings`, fast for any size."""
    if any(count < 0 for count in steps):
        raise UsageError(f"interleavings of {list(steps)}: a thread does 0 steps or more")
    return (math.lgamma(sum(steps) + 1) - sum(math.lgamma(count + 1) for count in steps)) / _LN10


def pct_probability(threads: int, choices: int, depth: int) -> float:
    """The guarantee of PCT: each execution hits a bug of that depth with at least this probability.

    Args:
        threads: how many.
        choices: how many decisions an execution has.
        depth: how many orderings the bug needs.
    """
    if threads < 1 or choices < 1 or depth < 1:
        raise UsageError(
            f"the bound of PCT for {threads} threads, {choices} choices, depth {depth}: each is 1 at least"
        )
    return math.exp(-(math.log(threads) + (depth - 1) * math.log(choices)))


def pct_confidence(threads: int, choices: int, depth: int, executions: int) -> float:
    """The probability that PCT would have hit a bug of that depth in so many executions: 1-(1-1/(n k^(d-1)))^N."""
    if executions < 0:
        raise UsageError(f"the bound of PCT for {executions} executions: 0 or more")
    p = pct_probability(threads, choices, depth)
    if p >= 1.0:
        return 1.0 if executions else 0.0
    return -math.expm1(executions * math.log1p(-p))


def pct_executions(threads: int, choices: int, depth: int, confidence: float = 0.95) -> float:
    """How many executions PCT needs to be that confident; infinite if a float cannot tell."""
    if not 0 < confidence < 1:
        raise UsageError(f"a confidence of {confidence}: between 0 and 1")
    p = pct_probability(threads, choices, depth)
    if p >= 1.0:
        return 1.0
    return math.ceil(math.log1p(-confidence) / math.log1p(-p)) if p > 1e-15 else math.inf

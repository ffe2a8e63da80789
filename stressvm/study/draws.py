"""Random quantities for workloads: declared as values, drawn the same on every machine and every version of Python.

    rng = stream(seed, "sizes")
    Mix({1: 9, 16: 1}).draw(rng)

A quantity is drawn by `random.Random.random` and an inverse distribution function of our own: what `random` makes of
its bits in `expovariate` or `choices` may change with the version, and the C library's logarithm with the machine.
There is one stream for each purpose, named by it: two points of a study that differ in a policy then see the same
arrivals, sizes and holds, one for one, and are compared in pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final, Protocol

from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LN2: Final = 0.6931471805599453
_SQRT_HALF: Final = 0.7071067811865476


class Quantity(Protocol):
    """Something to draw: ticks, or pages. A user's own class has this one method."""

    def draw(self, rng: Random, /) -> int:
        """The next value, at least 0, made from `rng.random()` or `rng.getrandbits()` alone."""


def stream(seed: int, purpose: str) -> Random:
    """The random numbers of one replication for one purpose. Streams of different purposes do not depend on each other."""
    return Random(f"{seed}/{purpose}")


def log(x: float) -> float:
    """The natural logarithm of x > 0 by additions, multiplications and divisions alone: the same on every machine."""
    mantissa, exponent = math.frexp(x)
    if mantissa < _SQRT_HALF:
        mantissa *= 2.0
        exponent -= 1
    z = (mantissa - 1.0) / (mantissa + 1.0)
    square = z * z
    term, total = z, 0.0
    for odd in range(1, 26, 2):
        total += term / odd
        term *= square
    return 2.0 * total + exponent * _LN2


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    value: int

    def __post_init__(self) -> None:
        _natural("Fixed", value=self.value)

    def draw(self, _rng: Random, /) -> int:
        """The value; it takes nothing from the stream."""
        return self.value


@dataclass(frozen=True, slots=True)
class Uniform:
    """Each of `low` to `high`, both included, equally often."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _natural("Uniform", low=self.low, high=self.high)
        if self.low > self.high:
            raise UsageError(f"Uniform({self.low}, {self.high}): the lower bound comes first")

    def draw(self, rng: Random, /) -> int:
        """One random number a value."""
        return self.low + int(rng.random() * (self.high - self.low + 1))


@dataclass(frozen=True, slots=True)
class Exponential:
    """Exponentially distributed with that mean, rounded to the nearest integer."""

    mean: float

    def __post_init__(self) -> None:
        if self.mean < 0:
            raise UsageError(f"Exponential({self.mean}): a mean of at least 0")

    def draw(self, rng: Random, /) -> int:
        """One random number a value."""
        return int(-self.mean * log(1.0 - rng.random()) + 0.5)


@dataclass(frozen=True, slots=True)
class Pareto:
    """A heavy tail: never below `least`, above x with probability (least / x) ** shape, cut off at `most`."""

    least: int
    shape: float
    most: int

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.most or self.shape <= 0:
            raise UsageError(f"Pareto({self.least}, {self.shape}, {self.most}): 0 < least <= most, and a shape above 0")

    def draw(self, rng: Random, /) -> int:
        """One random number a value."""
        over = -log(1.0 - rng.random()) / self.shape
        # e ** over by its series, halved until it converges at once: no exp of the C library.
        halvings = 0
        while over > 0.5:
            over /= 2.0
            halvings += 1
        term = grown = 1.0
        for i in range(1, 18):
            term *= over / i
            grown += term
        for _ in range(halvings):
            grown = min(grown * grown, 1e100)
        return int(min(self.least * grown, float(self.most)))


@dataclass(frozen=True, slots=True)
class Mix:
    """One of several values, each with a weight: `Mix({1: 9, 16: 1})` is 1 nine times out of ten.

    A value may be a quantity itself: `Mix({Fixed(1): 9, Uniform(8, 32): 1})`.
    """

    weights: Mapping[int | Quantity, int]

    def __post_init__(self) -> None:
        if not self.weights or min(self.weights.values()) < 0 or not sum(self.weights.values()):
            raise UsageError(f"Mix({dict(self.weights)!r}): weights from 0 on, and one above 0")
        for value in self.weights:
            if isinstance(value, int):
                _natural("Mix", value=value)

    def draw(self, rng: Random, /) -> int:
        """One random number to choose, and what the chosen one takes."""
        at = int(rng.random() * sum(self.weights.values()))
        for value, weight in self.weights.items():
            at -= weight
            if at < 0:
                return value if isinstance(value, int) else value.draw(rng)
        raise AssertionError("a share of the weights is less than their sum")


def quantity(value: int | Quantity) -> Quantity:
    """A number stands for itself."""
    return Fixed(value) if isinstance(value, int) else value


def _natural(what: str, **values: int) -> None:
    for name, value in values.items():
        if value < 0:
            raise UsageError(f"{what}: {name}={value}: at least 0")

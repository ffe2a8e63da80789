"""Sizes of spaces, and what so many executions are worth: against exact values."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stressvm.explore.estimate import (
    TreeSize,
    interleavings,
    log10_interleavings,
    pct_confidence,
    pct_executions,
    pct_probability,
)
from stressvm.kernel.errors import UsageError


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(lambda steps: sum(steps) <= 8))
def test_interleavings_are_the_distinct_orders(steps: list[int]) -> None:
    letters = [t for t, count in enumerate(steps) for _ in range(count)]
    assert interleavings(steps) == len(set(itertools.permutations(letters)))


@given(st.lists(st.integers(0, 300), min_size=1, max_size=30))
def test_the_logarithm_is_that_of_the_number(steps: list[int]) -> None:
    assert log10_interleavings(steps) == pytest.approx(math.log10(interleavings(steps)), abs=1e-6)


@pytest.mark.parametrize("count", [interleavings, log10_interleavings])
def test_negative_counts_are_refused(count: object) -> None:
    with pytest.raises(UsageError, match="0 steps or more"):
        count([1, -1])  # type: ignore[operator]


def test_a_tree_whose_paths_are_alike_is_estimated_exactly() -> None:
    size = TreeSize()
    assert size.executions == 1.0
    for _ in range(3):
        size.add([2, 3, 4])
    assert size.executions == pytest.approx(24)
    assert size.probes == 3


def test_the_estimate_is_the_mean_of_the_products() -> None:
    size = TreeSize()
    for arities in ([2, 2], [5], [10, 10, 10], []):
        size.add(arities)
    assert size.executions == pytest.approx((4 + 5 + 1_000 + 1) / 4)


def test_the_estimate_is_unbiased_on_a_lopsided_tree() -> None:
    """The tree of all ways to merge 2 and 4 steps: 15 leaves on paths of very different probability."""
    rng = random.Random(1)
    size = TreeSize()
    for _ in range(20_000):
        left = [2, 4]
        arities = []
        while all(left):
            arities.append(2)
            left[rng.randrange(2)] -= 1
        size.add(arities)
    assert size.executions == pytest.approx(math.comb(6, 2), rel=0.02)


def test_sizes_beyond_floats_are_told_by_their_logarithm() -> None:
    size = TreeSize()
    size.add([10] * 1_000)
    size.add([10] * 400)
    assert size.log10 == pytest.approx(1_000 - math.log10(2))
    assert size.executions == math.inf


@pytest.mark.parametrize(
    ("threads", "choices", "depth", "executions", "expected"),
    [
        (2, 10, 1, 0, 0.0),
        (2, 10, 1, 1, 0.5),
        (2, 10, 1, 3, 0.875),
        (4, 5, 2, 2, 1 - (19 / 20) ** 2),
        (3, 7, 3, 100, 1 - (1 - 1 / 147) ** 100),
        (1, 1, 3, 1, 1.0),
        (1, 1, 3, 0, 0.0),
    ],
)
def test_the_confidence_of_pct(threads: int, choices: int, depth: int, executions: int, expected: float) -> None:
    assert pct_confidence(threads, choices, depth, executions) == pytest.approx(expected)


@given(st.integers(1, 50), st.integers(1, 10_000), st.integers(1, 6), st.floats(0.01, 0.999))
def test_so_many_executions_give_that_confidence_and_one_less_does_not(
    threads: int, choices: int, depth: int, confidence: float
) -> None:
    needed = pct_executions(threads, choices, depth, confidence)
    if needed == math.inf:
        assert pct_probability(threads, choices, depth) < 1e-14
        return
    assert pct_confidence(threads, choices, depth, int(needed)) >= confidence * (1 - 1e-9)
    if needed > 1:
        assert pct_confidence(threads, choices, depth, int(needed) - 1) <= confidence * (1 + 1e-9)


def test_tiny_probabilities_do_not_vanish() -> None:
    assert 0 < pct_confidence(100, 100_000, 5, 10) < 1e-15
    assert pct_confidence(100, 100_000, 3, 10**13) == pytest.approx(1 - math.exp(-10), rel=1e-6)


@pytest.mark.parametrize(("threads", "choices", "depth"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_the_bound_of_pct_is_for_something(threads: int, choices: int, depth: int) -> None:
    with pytest.raises(UsageError, match="each is 1 at least"):
        pct_confidence(threads, choices, depth, 1)


def test_confidences_are_between_none_and_certainty() -> None:
    for confidence in (0.0, 1.0):
        with pytest.raises(UsageError, match="between 0 and 1"):
            pct_executions(2, 2, 2, confidence)
    with pytest.raises(UsageError, match="0 or more"):
        pct_confidence(2, 2, 2, -1)

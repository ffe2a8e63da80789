"""Intervals and comparisons of studies, against what is known exactly."""

from __future__ import annotations

import math
import random

import pytest

from stressvm.kernel.errors import UsageError
from stressvm.study.statistics import compared, interval, t_quantile


@pytest.mark.parametrize(
    ("p", "freedom", "known"),
    [
        (0.975, 1, 12.7062047362),
        (0.975, 2, 4.3026527299),
        (0.975, 3, 3.1824463053),
        (0.975, 5, 2.5705818366),
        (0.975, 10, 2.2281388520),
        (0.975, 30, 2.0422724563),
        (0.975, 99, 1.9842169516),
        (0.95, 5, 2.0150483733),
        (0.5, 7, 0.0),
    ],
)
def test_students_quantiles_are_those_of_the_tables(p: float, freedom: int, known: float) -> None:
    assert t_quantile(p, freedom) == pytest.approx(known, abs=1e-9)


def test_wrong_quantiles_are_refused() -> None:
    for p, freedom in ((0.4, 3), (1.0, 3), (0.9, 0)):
        with pytest.raises(UsageError, match="t_quantile"):
            t_quantile(p, freedom)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    rng = random.Random(1)
    held = 0
    for _ in range(4000):
        found = interval([rng.gauss(7.0, 2.0) for _ in range(5)])
        held += found.low <= 7.0 <= found.high
    assert 0.94 <= held / 4000 <= 0.96


def test_an_interval_by_hand() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.half == pytest.approx(4.3026527299 / math.sqrt(3), abs=1e-8)
    alone = interval([5.0])
    assert (alone.value, alone.low, alone.high) == (5.0, -math.inf, math.inf)
    with pytest.raises(UsageError, match="no replications"):
        interval([])


def test_a_ratio_is_what_remains_when_both_had_the_same_luck() -> None:
    theirs = [[1.0, 5.0, 30.0], [2.0, 2.5, 9.0]]
    ours = [[3.0 * value for value in row] for row in theirs]
    found = compared(ours, theirs)
    assert found.ratio
    assert found.sign == 1
    assert [found.interval.low, found.interval.high] == pytest.approx([3.0, 3.0])
    back = compared(theirs, ours)
    assert back.sign == -1
    assert back.interval.value * found.interval.value == pytest.approx(1.0)


def test_what_may_be_zero_is_compared_by_its_difference() -> None:
    found = compared([[0.0, 0.0, 0.0]], [[4.0, 5.0, 6.0]])
    assert not found.ratio
    assert found.sign == -1
    assert found.interval.value == -5.0
    assert compared([[0.0, 1.0, 2.0]], [[2.0, 1.0, 0.0]]).sign == 0


def test_one_replication_tells_nothing_for_certain() -> None:
    assert compared([[8.0]], [[1.0]]).sign == 0
    assert compared([[8.0]], [[0.0]]).sign == 0

"""Histograms: every value has one bucket, buckets leave nothing out, quantiles are those of the values themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stressvm import UsageError
from stressvm.study.histogram import Histogram, bounds, bucket_of, merged, quantile

VALUES = st.integers(0, 1 << 40)


def test_small_values_have_buckets_of_their_own() -> None:
    """Below 32 a bucket is a value, from there on there are sixteen in each octave."""
    assert [bucket_of(value) for value in range(32)] == list(range(32))
    for octave in range(5, 40):
        assert len({bucket_of(value) for value in range(1 << octave, 1 << octave + 1, 1 << octave - 4)}) == 16
        assert bucket_of((1 << octave + 1) - 1) == bucket_of(1 << octave) + 15


def test_buckets_follow_each_other() -> None:
    """What comes after one bucket's greatest value is the next one's least."""
    at = 0
    for bucket in range(600):
        low, high = bounds(bucket)
        assert low == at <= high
        assert bucket_of(low) == bucket_of(high) == bucket
        at = high + 1


@given(VALUES)
def test_a_bucket_is_narrow(value: int) -> None:
    """It holds its value, and is at most a sixteenth of it wide."""
    low, high = bounds(bucket_of(value))
    assert low <= value <= high
    assert high - low <= value / 16


@given(st.lists(VALUES, min_size=1, max_size=200), st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0]))
def test_quantiles(values: list[int], q: float) -> None:
    """By nearest rank, off by half a bucket at most."""
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    rank = max(1, -(-round(q * 1000) * len(values) // 1000))
    exact = sorted(values)[rank - 1]
    assert abs(histogram.quantile(q) - exact) <= exact / 32
    assert abs(quantile(histogram.frozen(), q) - exact) <= exact / 32
    assert histogram.mean * len(values) == pytest.approx(sum(values))
    assert histogram.greatest == max(values)


@given(st.lists(st.lists(VALUES, max_size=20), max_size=5))
def test_sums(parts: list[list[int]]) -> None:
    """Histograms of parts, added, are the histogram of the whole, whatever the order of the parts."""
    whole = Histogram()
    for value in (value for part in parts for value in part):
        whole.add(value)
    histograms = []
    for part in parts:
        histogram = Histogram()
        for value in part:
            histogram.add(value)
        histograms.append(histogram.frozen())
    assert list(merged(histograms).items()) == list(whole.frozen().items())
    assert merged(reversed(histograms)) == whole.frozen()


def test_misuse() -> None:
    """An empty histogram has no values, and nothing is negative."""
    assert quantile({}, 0.5) == 0
    for wrong in (lambda: bucket_of(-1), lambda: bounds(-1), lambda: quantile({1: 1}, 1.5)):
        with pytest.raises(UsageError):
            wrong()

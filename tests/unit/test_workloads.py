"""Workloads: the same seed gives the same plan, streams do not depend on each other, distributions are what they say."""

import math
from pathlib import Path
from typing import Any

import pytest

from stressvm import UsageError
from stressvm.study.draws import Exponential, Fixed, Mix, Pareto, Quantity, Uniform, log, stream
from stressvm.study.logged import Logged
from stressvm.study.workloads import (
    AtOnce,
    Bursts,
    Closed,
    Every,
    ExecStorm,
    ForkStorm,
    Mode,
    Open,
    Poisson,
    Together,
    Workload,
    interrupts,
)

LOGS = Path(__file__).parents[1] / "data"
KNOWN = [326, 508, 640, 1070, 69, 18, 37, 66]
KNOWN_TIMES = [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
EACH: list[Workload] = [
    Open(Poisson(10.5), sizes=Mix({1: 3, 4: 1}), holds=Exponential(100), requests=200),
    Open(Bursts(100, size=Uniform(2, 9), within=3), holds=5, requests=200),
    Closed(clients=7, sizes=Uniform(1, 4), holds=Pareto(10, 1.2, 1000), think=Exponential(50), rounds=30),
    ExecStorm(processes=20),
    ForkStorm(fanout=3, generations=4),
    interrupts(50, 40, holds=10),
    Together((Closed(3, name="a"), Open(Every(10, Uniform(0, 9)), requests=5, name="b"))),
    Logged(LOGS / "xz_t2.strace.gz"),
]


@pytest.mark.parametrize("workload", EACH, ids=lambda workload: type(workload).__name__)
def test_the_seed_says_all(workload: Workload) -> None:
    """The same again for the same seed; something else for another, but for a log; sizes and ticks make sense."""
    plan = workload.plan(7)
    assert plan == workload.plan(7)
    assert (plan == workload.plan(8)) is isinstance(workload, Logged)
    assert len({client.name for client in plan}) == len(plan) > 0
    for client in plan:
        assert client.begin >= 0
        assert client.requests
        assert all(r.pages >= 1 and r.pause >= 0 and r.hold >= 0 for r in client.requests)


def test_known_numbers() -> None:
    """What a seed gives is part of the interface: results of one version are those of the next."""
    rng = stream(1, "known")
    drawn = [Exponential(1000).draw(rng) for _ in range(4)] + [Uniform(0, 99).draw(rng) for _ in range(4)]
    assert drawn == KNOWN
    assert Poisson(0.25).times(stream(1, "a"), 12) == KNOWN_TIMES


def test_common_random_numbers() -> None:
    """Other holds leave arrivals and sizes as they were; more clients leave the first ones as they were."""
    plans = [Open(Poisson(9), Uniform(1, 8), holds, 100).plan(3) for holds in (5, Exponential(77))]
    assert [(c.begin, c.requests[0].pages) for c in plans[0]] == [(c.begin, c.requests[0].pages) for c in plans[1]]
    few, many = (Closed(n, Uniform(1, 8), Exponential(9), Exponential(5)).plan(3) for n in (4, 9))
    assert few == many[:4]


@pytest.mark.parametrize(
    ("quantity", "mean"),
    [
        (Fixed(7), 7.0),
        (Uniform(3, 9), 6.0),
        (Exponential(250), 250.0),
        (Mix({1: 3, 5: 1}), 2.0),
        (Pareto(100, 2.5, 10**9), 100 * 2.5 / 1.5),
    ],
    ids=str,
)
def test_means(quantity: Quantity, mean: float) -> None:
    """Over twenty thousand draws the mean is near where it must be (five deviations and less)."""
    rng = stream(5, "means")
    drawn = [quantity.draw(rng) for _ in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.04)


def test_exponential_tail() -> None:
    """A share 1/e is above the mean, 1/e^3 above three times the mean."""
    rng = stream(6, "tail")
    drawn = [Exponential(10_000).draw(rng) for _ in range(40_000)]
    for times in (1, 3):
        share = sum(value > times * 10_000 for value in drawn) / len(drawn)
        assert share == pytest.approx(math.exp(-times), rel=0.06)


def test_log() -> None:
    """Our own logarithm is the logarithm."""
    for x in (1e-17, 0.1, 0.5, 0.7071, 1.0, 1.5, 2.0, 1e6):
        assert log(x) == pytest.approx(math.log(x), rel=1e-14, abs=1e-15)


def test_rates() -> None:
    """Poisson and burst arrivals come as often as they say, even several in a tick."""
    for mean in (0.25, 3.0, 400.0):
        assert Poisson(mean).times(stream(1, "rate"), 20_000)[-1] == pytest.approx(20_000 * mean, rel=0.05)
    times = Bursts(1000, size=10, within=2).times(stream(1, "bursts"), 20_000)
    assert times[-1] == pytest.approx(2_000 * 1000, rel=0.1)
    assert times == sorted(times)
    assert AtOnce(50).times(stream(1, "x"), 3) == [50, 50, 50]
    assert all(50 <= at < 60 for at in AtOnce(50, 10).times(stream(1, "x"), 30))


def test_a_storm_of_forks() -> None:
    """2 + 4 + 8 children, none before its parent."""
    plan = ForkStorm(fanout=2, generations=3).plan(1)
    assert len(plan) == 14
    for child, parent in [(2, 0), (3, 0), (4, 1), (5, 1), (6, 2), (13, 5)]:
        assert plan[child].begin >= plan[parent].begin


def test_a_log() -> None:
    """As many requests as the log has allocations; in one slot they do not overlap; copies are staggered."""
    one = Logged(LOGS / "numpy_import.strace.gz", pages_max=0).plan(0)
    two = Logged(LOGS / "numpy_import.strace.gz", copies=2, stagger=500, pages_max=16).plan(0)
    requests = [request for client in one for request in client.requests]
    assert len(two) == 2 * len(one)
    assert {client.begin for client in two} == {0, 500}
    assert max(request.pages for request in requests) > 16
    assert max(request.pages for client in two for request in client.requests) == 16
    assert sum(len(client.requests) for client in two) == 2 * len(requests) > 100
    assert len({client.name.split("s")[0] for client in one}) >= 1
    assert sum(len(client.requests) > 1 for client in one) > 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fixed(-1),
        lambda: Uniform(3, 2),
        lambda: Exponential(-1),
        lambda: Mix({}),
        lambda: Mix({1: 0}),
        lambda: Pareto(0, 1, 5),
        lambda: Open(Poisson(1), requests=0),
        lambda: Open(Poisson(1), interrupt=True),
        lambda: Closed(0),
        lambda: ForkStorm(10, 10),
        lambda: Logged("x", copies=0),
        lambda: Logged("/nonexistent.strace").plan(0),
        lambda: Together((Closed(2), Closed(3))).plan(0),
    ],
)
def test_mistakes(make: Any) -> None:
    """A workload that makes no sense is the user's mistake, said at once."""
    with pytest.raises(UsageError):
        make()


def test_modes() -> None:
    """Interrupt handlers do not wait."""
    assert all(c.interrupt and c.requests[0].mode is Mode.NOWAIT for c in interrupts(5, 10).plan(1))

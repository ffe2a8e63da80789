"""Whom to wake when addresses have been freed: all, one, who fits, or who is given the place at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.study.draws import Exponential, Mix
from stressvm.study.experiment import measured, server
from stressvm.study.policies import WAKE_POLICIES
from stressvm.study.spaces import FreeBSDSpace
from stressvm.study.study import Study
from stressvm.study.wait_maps import waiting
from stressvm.study.workloads import MICROSECOND, SECOND, Open, Poisson, Together
from stressvm.vm import freebsd

if TYPE_CHECKING:
    from stressvm.study.sample import Sample
    from stressvm.study.study import Point

#: Pages of the map, of a small and of a large request, and how many small ones there are for each large one.
PAGES, SMALL, LARGE, RATIO = 16, 1, 8, 9
#: Ticks for which pages are kept.
HOLD = 400 * MICROSECOND
#: Small requests of a replication.
REQUESTS = 270


def simulate(point: Point, seed: int) -> Sample:
    """Requests of one page, and now and then one of eight, at a map that is so many percent in use."""
    cls = waiting(freebsd.VmMap2013, WAKE_POLICIES[str(point["wake"])])
    # A small one comes each `apart` ticks, a large one each RATIO of those: together they need so much of the map.
    apart = HOLD * (SMALL + LARGE / RATIO) * 100 / (PAGES * int(point["load %"]))
    small = Open(Poisson(apart), Mix({SMALL: 1}), Exponential(HOLD), REQUESTS, name="small")
    large = Open(Poisson(apart * RATIO), LARGE, Exponential(HOLD), REQUESTS // RATIO, name="large")
    return measured(
        lambda k: FreeBSDSpace(k, PAGES, version="2013", cls=cls),
        Together((small, large)),
        machine=server(4),
        until=5 * SECOND,
        seed=seed,
        only=str(point["measured"]),
    )


STUDY = Study(
    name="who_is_woken",
    question="Should a free wake one sleeper, all, those who fit, or hand the range over - and does the big waiter ever win?",
    factors={
        "wake": ("all", "first", "last", "fitting", "hand-off", "hand-off-in-order", "hysteresis"),
        "measured": ("small", "large"),
        "load %": (60, 80),
    },
    simulate=simulate,
    baseline={"wake": "all"},
    compare=(("wake", "wait_mean"), ("wake", "wait_p99"), ("wake", "wakeups_per_success"), ("wake", "overtakes")),
    replications=20,
    quick={"factors": {"wake": ("all", "first", "hand-off"), "load %": (80,)}, "replications": 4},
    axis="load %",
    text=(
        "FreeBSD's exec_map of 16 pages. Nine of ten requests want one page, the tenth wants eight side by side; all keep them for "
        "some 400 us. Measured are, one at a time, the small ones and the large ones."
    ),
)

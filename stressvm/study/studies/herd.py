"""The thundering herd at an exhausted map: all who sleep are woken for what one of them can have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.study.draws import Exponential
from stressvm.study.experiment import measured, server
from stressvm.study.policies import WAKE_POLICIES
from stressvm.study.spaces import FreeBSDSpace
from stressvm.study.study import Study
from stressvm.study.wait_maps import waiting
from stressvm.study.workloads import MICROSECOND, SECOND, Closed
from stressvm.vm import freebsd

if TYPE_CHECKING:
    from stressvm.study.sample import Sample
    from stressvm.study.study import Point

#: Pages of the map: so many clients can have one.
PAGES = 4


def simulate(point: Point, seed: int) -> Sample:
    """So many sleepers beyond those who fit, all of which want a page, keep it for some 200 us, and want one again."""
    cls = waiting(freebsd.VmMap2013, WAKE_POLICIES[str(point["wake"])])
    clients = PAGES + int(point["waiters"])
    return measured(
        lambda k: FreeBSDSpace(k, PAGES, version="2013", cls=cls),
        Closed(
            clients,
            holds=Exponential(200 * MICROSECOND),
            think=Exponential(20 * MICROSECOND),
            rounds=max(4, 320 // clients),
        ),
        machine=server(int(point["cpus"])),
        until=20 * SECOND,
        seed=seed,
    )


STUDY = Study(
    name="herd",
    question="What does it cost to wake all who sleep at an exhausted map, and does waking one do better?",
    factors={"wake": ("all", "first", "hand-off"), "waiters": (4, 16, 64), "cpus": (1, 4)},
    simulate=simulate,
    baseline={"wake": "all"},
    compare=(
        ("wake", "wait_p99"),
        ("wake", "throughput"),
        ("wake", "wakeups_per_success"),
        ("wake", "switches"),
        ("wake", "cpu_use"),
    ),
    replications=20,
    quick={"factors": {"waiters": (4, 16), "cpus": (4,)}, "replications": 4},
    axis="waiters",
    text=(
        "FreeBSD's exec_map with room for four, and so many more clients. Each wants one page, keeps it for some 200 us and asks "
        "again 20 us later; what is not kept by anybody is worth nothing, so throughput says what the herd costs everybody."
    ),
)

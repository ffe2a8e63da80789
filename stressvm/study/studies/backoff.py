"""Back-off: what a thread does whose trylock has failed, before it queues for the map's lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.study.draws import Exponential
from stressvm.study.experiment import measured, server
from stressvm.study.grants import ADAPTIVE
from stressvm.study.policies import Backoff, WakeAll
from stressvm.study.spaces import NetBSDSpace
from stressvm.study.study import Study
from stressvm.study.wait_maps import waiting
from stressvm.study.workloads import MICROSECOND, SECOND, Closed
from stressvm.vm import netbsd

if TYPE_CHECKING:
    from stressvm.study.sample import Sample
    from stressvm.study.study import Point

#: By name; "none" is what NetBSD does: one trylock, then the lock.
BACKOFFS = {
    "none": None,
    "fixed 2 us": Backoff(2 * MICROSECOND, factor=1, most=2 * MICROSECOND, tries=8),
    "fixed 20 us": Backoff(20 * MICROSECOND, factor=1, most=20 * MICROSECOND, tries=8),
    "doubling from 2 us": Backoff(2 * MICROSECOND, factor=2, most=256 * MICROSECOND, tries=8),
}


def simulate(point: Point, seed: int) -> Sample:
    """A map with room enough, whose lock is wanted all the time."""
    cls = waiting(netbsd.VmMap, WakeAll, backoff=BACKOFFS[str(point["backoff"])])
    return measured(
        lambda k: NetBSDSpace(k, 64, cls=cls),
        Closed(
            int(point["threads"]),
            holds=Exponential(2 * MICROSECOND),
            think=Exponential(2 * MICROSECOND),
            rounds=max(10, 640 // int(point["threads"])),
        ),
        machine=server(8, spin=ADAPTIVE if point["locks"] == "adaptive" else 0),
        until=SECOND,
        seed=seed,
    )


STUDY = Study(
    name="backoff",
    question="After a failed trylock of the map, should a thread back off before it queues for the lock?",
    factors={"backoff": tuple(BACKOFFS), "threads": (4, 16, 48), "locks": ("adaptive", "sleeping")},
    simulate=simulate,
    baseline={"backoff": "none"},
    compare=(("backoff", "throughput"), ("backoff", "wait_p99"), ("backoff", "switches"), ("backoff", "cpu_use")),
    replications=20,
    quick={"factors": {"threads": (16,), "locks": ("adaptive",)}, "replications": 4},
    axis="threads",
    text=(
        "NetBSD 6's map, never exhausted, on eight CPUs: threads allocate a page and free it, over and over. Adaptive locks "
        "spin while the holder runs; sleeping ones never do. Back-off is a sleep, so the CPU is free meanwhile."
    ),
)

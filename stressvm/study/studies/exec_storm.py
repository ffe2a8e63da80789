"""Under a storm of execs: NetBSD's protocols of waiting for addresses, and FreeBSD's before and after its pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.study.experiment import measured
from stressvm.study.presets import ARG_PAGES, PRESETS, preset
from stressvm.study.study import Study
from stressvm.study.workloads import SECOND, ExecStorm

if TYPE_CHECKING:
    from stressvm.study.sample import Sample
    from stressvm.study.study import Point


def simulate(point: Point, seed: int) -> Sample:
    """Two waves of execs; all systems have the same addresses, as many ranges as FreeBSD's pool has."""
    system, cpus = preset(str(point["system"])), int(point["cpus"])
    return measured(
        lambda k: system.space(k, pages=(2 * cpus + 4) * ARG_PAGES, cpus=cpus),
        ExecStorm(processes=int(point["processes"]), waves=2),
        machine=system.machine(cpus),
        until=20 * SECOND,
        seed=seed,
    )


STUDY = Study(
    name="exec_storm",
    question="When many processes call execve(2) at once, which system's protocol serves them best, and at what cost?",
    factors={"system": tuple(PRESETS), "processes": (16, 64, 160), "cpus": (4,)},
    simulate=simulate,
    baseline={"system": "freebsd-exec-map"},
    compare=(("system", "wait_p99"), ("system", "wakeups_per_success"), ("system", "switches"), ("system", "jain")),
    replications=20,
    quick={"factors": {"processes": (16, 48)}, "replications": 4},
    axis="processes",
    text=(
        "Each execve takes one range of 256 KiB for its arguments, copies, waits for the disk, and gives the range back. All "
        "systems have the same number of ranges, 2 * cpus + 4, and the same costs."
    ),
)

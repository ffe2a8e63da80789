"""One replication: a workload on an address space on a machine, measured from outside.

sample = measured(lambda k: NetBSDSpace(k, 8), Closed(64, ...), machine=Machine(ncpu=4, ...), until=SECOND, seed=seed)
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from stressvm.study.costs import TYPICAL
from stressvm.study.grants import ADAPTIVE, BARGING, LockGrant
from stressvm.study.machine import Machine, simulate
from stressvm.study.measures import Measures
from stressvm.study.spaces import Space, drive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stressvm.study.machine import Run
    from stressvm.study.machine_kernel import MachineKernel
    from stressvm.study.sample import Sample
    from stressvm.study.workloads import Workload

#: A time slice of either system's scheduler, 100 ms, in ticks.
QUANTUM: Final = 100_000_000

#: A replication with more events is given up; whom it leaves waiting is counted as unserved.
EVENTS_MAX: Final = 400_000


#: Where `measured` puts its runs, with all their events; None: they are not kept.
_runs: ContextVar[list[Run] | None] = ContextVar("runs", default=None)


@contextmanager
def traced() -> Iterator[list[Run]]:
    """While this lasts, `measured` keeps all events, and puts its runs into the list: the numbers are the same."""
    runs: list[Run] = []
    token = _runs.set(runs)
    try:
        yield runs
    finally:
        _runs.reset(token)


def server(ncpu: int = 4, *, grant: LockGrant = BARGING, spin: int = ADAPTIVE) -> Machine:
    """A machine as the shipped studies have it: typical costs, adaptive locks, one run queue, time slices of 100 ms."""
    return Machine(ncpu=ncpu, costs=TYPICAL, quantum=QUANTUM, grant=grant, spin=spin, limit=EVENTS_MAX)


def measured(
    make: Callable[[MachineKernel], Space],
    workload: Workload,
    *,
    machine: Machine,
    until: int,
    seed: int,
    warmup: int = 0,
    only: str = "",
) -> Sample:
    """Run a workload, and say what was measured.

    Args:
        make: builds the address space, in a kernel without threads.
        workload: who asks for what.
        machine: what it runs on.
        until: ticks after which the simulation ends; it ends earlier if all requests have been served.
        seed: of the replication.
        warmup: ticks until counting begins.
        only: count requests of clients alone whose names begin so.
    """
    measures = Measures(warmup, only)

    def build(k: MachineKernel) -> None:
        drive(k, make(k), workload, seed, measures)

    runs = _runs.get()
    run = simulate(build, machine=machine, until=until, subscriber=measures, seed=seed, trace=runs is not None)
    if runs is not None:
        runs.append(run)
    return measures.sample(run)

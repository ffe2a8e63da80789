"""Writers of a map lock beside readers who never stop: who starves, under which policy of granting the lock?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.rwlock import Rw, RwLock
from stressvm.study.draws import Exponential
from stressvm.study.experiment import measured, server
from stressvm.study.grants import GRANTS
from stressvm.study.study import Study
from stressvm.study.workloads import MICROSECOND, MILLISECOND, Closed, Together

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.kernel.object import KernelObject
    from stressvm.study.machine_kernel import MachineKernel
    from stressvm.study.sample import Sample
    from stressvm.study.study import Point
    from stressvm.study.workloads import Mode

#: Clients before this number are writers.
WRITERS = 2


class MapLock:
    """A reader-writer lock as something to take: for writing by the first clients, for reading by all others.

    Page faults read, and hold the lock while they look up; mmap and munmap write. Measured are those that `of` says.
    """

    def __init__(self, k: MachineKernel) -> None:
        self.rw = RwLock(k, "map.lock")

    def queues(self) -> Sequence[KernelObject]:
        """Nobody sleeps for anything but the lock."""
        return []

    def lock(self) -> KernelObject:
        """The lock."""
        return self.rw

    def gaps(self) -> tuple[int, int, int]:
        """There are no addresses."""
        return 0, 0, 0

    async def take(self, client: int, pages: int, mode: Mode) -> int:  # noqa: ARG002 - see Space
        """Acquire it."""
        await self.rw.enter(Rw.WRITER if client < WRITERS else Rw.READER)
        return 1

    async def give(self, client: int, taken: int, pages: int) -> None:  # noqa: ARG002 - see Space
        """Release it."""
        await self.rw.exit()


def simulate(point: Point, seed: int) -> Sample:
    """Two writers, and readers enough to keep the lock in use."""
    writers = Closed(
        WRITERS, think=Exponential(200 * MICROSECOND), work=Exponential(20 * MICROSECOND), rounds=600, name="writer"
    )
    readers = Closed(
        int(point["readers"]),
        think=Exponential(100 * MICROSECOND),
        work=Exponential(20 * MICROSECOND),
        rounds=600,
        name="reader",
    )
    return measured(
        MapLock,
        Together((writers, readers)),
        machine=server(8, grant=GRANTS[str(point["grant"])], spin=0),
        until=40 * MILLISECOND,
        seed=seed,
        only=str(point["measured"]),
    )


STUDY = Study(
    name="writers",
    question="Do writers of the map lock starve beside readers, and what does it cost the readers to prevent that?",
    factors={"grant": tuple(GRANTS), "measured": ("writer", "reader"), "readers": (8, 16, 32)},
    simulate=simulate,
    baseline={"grant": "barging"},
    compare=(("grant", "wait_p99"), ("grant", "wait_max"), ("grant", "throughput")),
    replications=20,
    quick={"factors": {"readers": (16,)}, "replications": 4},
    axis="readers",
    text=(
        "Eight CPUs; two threads lock a map for writing as mmap and munmap do, the others for reading as page faults do, some "
        "20 us each. Measured are, one at a time, the writers and the readers."
    ),
)

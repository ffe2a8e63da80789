"""The recheck: a thread that sleeps for addresses looks again after a second, whether woken or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stressvm.study.draws import Exponential, stream
from stressvm.study.experiment import measured, server
from stressvm.study.spaces import NetBSDSpace
from stressvm.study.study import Study
from stressvm.study.workloads import MILLISECOND, SECOND, Closed
from stressvm.vm import netbsd

if TYPE_CHECKING:
    from stressvm.study.machine_kernel import MachineKernel
    from stressvm.study.sample import Sample
    from stressvm.study.study import Point

#: Requests of each client.
ROUNDS = 200
#: Names of periods: milliseconds between two looks, 0 for no recheck.
PERIODS = {"none": 0, "10 ms": 10, "100 ms": 100, "1 s": 1_000, "10 s": 10_000}


class Rechecking(netbsd.VmMap):
    """NetBSD 6's map, whose sleepers look again after another period, and some of whose frees wake nobody.

    uvm_map_replace with nothing to put in and uvm_map_extract are such frees: they neither look at WANTVA nor broadcast.
    """

    period: ClassVar[int] = SECOND

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.silent: set[int] = set()

    async def sleep_for_va(self, hint: int, size: int, align: int, flags: int) -> None:
        """As in NetBSD, but for the period."""
        until = lambda: self.room_for(hint, size, align, flags)  # noqa: E731 - a predicate
        if self.period:
            await self.lock.cv.timedwait(self.lock.misc_lock, self.period, wmesg="addresses", until=until)
        else:
            await self.lock.cv.wait(self.lock.misc_lock, wmesg="addresses", until=until)

    async def wake_va_waiters(self) -> None:
        """Nobody, if this thread frees without a word."""
        if self.k.cur not in self.silent:
            await super().wake_va_waiters()


class Space(NetBSDSpace):
    """Some percent of what is given back is given back without a word, by the seed and the client's number."""

    def __init__(self, k: MachineKernel, pages: int, cls: type[Rechecking], silent: int, seed: int) -> None:
        super().__init__(k, pages, cls=cls)
        self.k = k
        self.percent = silent
        self.seed = seed
        self.streams: dict[int, object] = {}

    async def give(self, client: int, taken: int, pages: int) -> None:
        """See Space."""
        rng = self.streams.setdefault(client, stream(self.seed, f"silent/{client}"))
        vm_map, me = self.map, self.k.cur
        assert isinstance(vm_map, Rechecking)
        if rng.random() * 100 < self.percent:  # type: ignore[attr-defined]
            vm_map.silent.add(me)
        await super().give(client, taken, pages)
        vm_map.silent.discard(me)


def simulate(point: Point, seed: int) -> Sample:
    """Three clients that need the same addresses, each for some 100 ms, with pauses between."""
    period = PERIODS[str(point["recheck"])] * MILLISECOND
    cls = type("Rechecking", (Rechecking,), {"period": period})
    return measured(
        lambda k: Space(k, 1, cls, int(point["silent %"]), seed),
        Closed(
            3, holds=Exponential(100 * MILLISECOND), think=Exponential(int(point["pause s"]) * SECOND), rounds=ROUNDS
        ),
        machine=server(2),
        until=ROUNDS * 20 * SECOND,
        seed=seed,
    )


STUDY = Study(
    name="recheck",
    question="What does the recheck of one second save, and what does it cost?",
    factors={"recheck": tuple(PERIODS), "silent %": (0, 2, 20), "pause s": (1, 10)},
    simulate=simulate,
    baseline={"recheck": "1 s"},
    compare=(("recheck", "wait_p99"), ("recheck", "wait_max"), ("recheck", "switches"), ("recheck", "unserved")),
    replications=20,
    quick={"factors": {"recheck": ("none", "1 s"), "pause s": (10,)}, "replications": 4},
    axis="recheck",
    text=(
        "NetBSD 6's map with room for one, and three clients that pause for so many seconds between requests. Of the frees, so "
        "many percent are like those of uvm_map_replace and uvm_map_extract: they wake nobody. Who waits when all others have "
        "ended, and is never woken, is counted as unserved."
    ),
)

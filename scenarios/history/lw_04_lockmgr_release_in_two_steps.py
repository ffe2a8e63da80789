"""DragonFly's lockmgr, 2018: between the two steps of letting go of a shared hold, a reader falls asleep uncounted.

The last hold has been counted down, and the lock has not been handed over yet: the word says SHARED, no holds, and that a
writer waits. A new reader must not get in, and is not even counted. Then the writer gives up waiting. It finds no holds,
takes the lock for itself, finds nobody who is counted, and lets go of it again, all without a wakeup. Last, the thread that
let go sees that the word has changed and the request gone, and thinks that it has nothing more to do. The lock is free, and
the reader sleeps.

Source: DragonFly, sys/kern/kern_lock.c, commit 8319957b9f of February 2018.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, Timers, scenario

if TYPE_CHECKING:
    from scenarios.history._lockmgr_2018 import LKC_EXREQ2, Lockmgr
else:
    from _lockmgr_2018 import LKC_EXREQ2, Lockmgr

SOURCE = "DragonFly, sys/kern/kern_lock.c, undo_shreq and undo_exreq; repaired by 8319957b9f, February 2018"


class ForgetsReaders(Lockmgr):
    """Readers that sleep uncounted are thought of by nobody."""

    async def raced_to_zero(self) -> None:
        """Nothing."""

    def sleeps_on_exreq(self, count: int) -> bool:
        """Only other writers."""
        return bool(count & LKC_EXREQ2)


def impatient_writer(k: Kernel, cls: type[Lockmgr]) -> None:
    """Two readers let go, a writer waits for a while, and a third reader comes.

    The writer's sleep may time out at any point.
    """
    lock = cls(k, "map")

    async def reads() -> None:
        await lock.shared()
        await k.yield_()
        await lock.release()

    async def writes() -> None:
        if await lock.exclusive(timo=1):
            await lock.release()

    k.spawn(reads, name="reader0")
    k.spawn(reads, name="reader1")
    k.spawn(writes, name="writer")
    k.spawn(reads, name="late")


@scenario(expect="lost-wakeup", source=SOURCE, timers=Timers.ANYTIME, executions=10_000)
def lw_04_release_in_two_steps(k: Kernel) -> None:
    """A reader sleeps because of a request that its owner has given up meanwhile."""
    impatient_writer(k, ForgetsReaders)


@scenario(source=SOURCE, timers=Timers.ANYTIME, executions=200)
def lw_04_release_in_two_steps_ok(k: Kernel) -> None:
    """Whoever was about to hand the lock over, and could not, wakes all; so does a request that has granted itself."""
    impatient_writer(k, Lockmgr)

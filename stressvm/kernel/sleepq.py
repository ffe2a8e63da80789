"""Sleep queues: tsleep, msleep and wakeup on a channel, as sleep(9).

Source: FreeBSD kern_synch.c and subr_sleepqueue.c. A channel is an address that sleepers and wakers agree on;
here it is the queue object itself. The sleeper is queued before its interlock is released, so a waker that
changes the condition under the interlock cannot be missed. A wakeup without sleepers is not remembered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.condvar import WaitQueueStatistics
from stressvm.kernel.waitq import QueueOps, WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.object import Interlock
    from stressvm.kernel.op import ObjectId
    from stressvm.kernel.thread import Wake


def _make_ops(k: Kernel, ident: ObjectId) -> QueueOps:
    return QueueOps(k, ident, "wakeup_one", "wakeup")


class SleepQueue(WaitQueue):
    """The sleepers of one wait channel.

    Args:
        k: the kernel.
        name: the channel, as reports show it.
    """

    __slots__ = ()

    def __init__(self, k: Kernel, name: str | None = None) -> None:
        self.k = k
        self.ident, self.ops = k.adopt(self, "sleepq", name, _make_ops)
        self.waiters = []

    async def sleep(
        self,
        interlock: Interlock | None,
        wmesg: str,
        *,
        timo: int = 0,
        pcatch: bool = False,
        pdrop: bool = False,
        until: Callable[[], bool] | None = None,
        holder: Callable[[], int] | None = None,
    ) -> Wake:
        """Sleep on the channel until woken, timed out or interrupted.

        Locks: `interlock` held on entry; released while asleep; held on return unless `pdrop`. Sleeps: yes.

        Args:
            interlock: a mutex or an sx lock; None (tsleep) needs a `timo`, since a wakeup could be missed.
            wmesg: a word on what is awaited, for reports.
            timo: ticks after which the sleep ends with TIMEOUT; 0 for never.
            pcatch: a signal ends the sleep with SIGNAL.
            pdrop: do not take the interlock back.
            until: pure; true when what the caller waits for is there.
            holder: pure; the number of the thread that could end the wait, or -1.
        """
        if interlock is None and not timo:
            th = self.k.threads[self.k.cur]
            raise self.k.panic(f"{th.name}: {self.ident.name}: {wmesg}: a sleep without interlock needs a timeout")
        return await self._sleep(
            interlock,
            wmesg=wmesg,
            ticks=timo,
            interruptible=pcatch,
            relock=not pdrop,
            until=until,
            holder=holder,
        )

    async def wakeup(self) -> None:
        """Wake all sleepers of the channel. Sleeps: no."""
        await self._wake_all()

    async def wakeup_one(self) -> None:
        """Wake the most urgent sleeper, the longest asleep among equals. Sleeps: no."""
        await self._wake_first()

    def statistics(self) -> WaitQueueStatistics:
        """Who sleeps here."""
        self.k.touch(self.ident.number, write=False)
        return WaitQueueStatistics(self.names(self.waiters))

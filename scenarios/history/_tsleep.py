"""DragonFly's tsleep with an interlock, for locks that keep their state in one atomic word.

A thread first says that it is about to sleep on a channel (`interlock`), then changes the word, and then sleeps, but not if
anybody has called wakeup since it said so. So between the look at the word and the sleep no wakeup is lost, though no
mutex is held. Here a wakeup counts itself, and whoever is about to sleep compares: with a wakeup that wakes all sleepers of
the channel, which is the only one that is used, that is the same.

Source: sys/kern/kern_synch.c of DragonFly, tsleep_interlock, tsleep with PINTERLOCKED, wakeup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Atomic, SleepQueue, SpinMutex, Wake

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm import Kernel


class Tsleep:
    """A wait channel.

    Args:
        k: the kernel.
        name: as reports show it.
    """

    def __init__(self, k: Kernel, name: str) -> None:
        self.wakeups = Atomic(k, 0, f"{name}.wakeups")
        self.lock = SpinMutex(k, f"{name}.queue lock")
        self.queue = SleepQueue(k, name)

    def interlock(self) -> int:
        """tsleep_interlock: the caller is about to sleep; a token for `sleep`. Locks: none. Sleeps: no.

        No step of its own: a wakeup that comes before the caller's next step is none that it could miss.
        """
        return self.wakeups.peek()

    async def sleep(
        self,
        token: int,
        wmesg: str,
        *,
        timo: int = 0,
        pcatch: bool = False,
        until: Callable[[], bool] | None = None,
        holder: Callable[[], int] | None = None,
    ) -> Wake:
        """Sleep, with PINTERLOCKED: unless there was a wakeup since `interlock`. Locks: none. Sleeps: yes.

        Args:
            token: from `interlock`.
            wmesg: a word on what is awaited.
            timo: ticks, 0 for no limit.
            pcatch: a signal ends the sleep.
            until: pure; true when what is waited for is there.
            holder: pure; the number of the thread that could end the wait, or -1.
        """
        await self.lock.lock()
        if self.wakeups.peek() != token:
            await self.lock.unlock()
            return Wake.WOKEN
        return await self.queue.sleep(
            self.lock, wmesg, timo=timo, pcatch=pcatch, pdrop=True, until=until, holder=holder
        )

    async def wakeup(self) -> None:
        """Wake all sleepers, and all that are about to sleep. Locks: none. Sleeps: no."""
        await self.lock.lock()
        self.wakeups.poke(self.wakeups.peek() + 1)
        await self.queue.wakeup()
        await self.lock.unlock()

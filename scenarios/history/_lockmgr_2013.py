"""DragonFly's lockmgr of 2013 to 2017: a lock of maps, buffers and vnodes, shared or exclusive, all of it in one word.

The word has a count of holds and five bits: it is held exclusively, somebody waits to have it exclusively, or shared, or to
upgrade, and an upgrade has been granted to whoever asked for one. An upgrade gives the shared hold up in the step in which
it is asked for, if others have shared holds, and whoever lets go of the last one hands the lock over. A second one that
wants to upgrade becomes an ordinary request for the exclusive lock.

Each method that a defect of that time was in is small, and is overridden in the scenarios that plant it back.

Source: sys/kern/kern_lock.c of DragonFly 3.8, lockmgr: LK_SHARED, LK_EXCLUSIVE, LK_UPGRADE, LK_WAITUPGRADE, LK_RELEASE,
undo_upreq. Recursion, downgrades and LK_NOWAIT are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm import Atomic, Wake

if TYPE_CHECKING:
    from scenarios.history._tsleep import Tsleep
    from stressvm import Kernel
else:
    from _tsleep import Tsleep

LKC_EXREQ: Final = 0x8000_0000
LKC_SHREQ: Final = 0x4000_0000
LKC_UPREQ: Final = 0x2000_0000
LKC_EXCL: Final = 0x1000_0000
LKC_UPGRANT: Final = 0x0800_0000
LKC_MASK: Final = 0x07FF_FFFF


class Lockmgr:
    """A lock.

    Args:
        k: the kernel.
        name: as reports show it.
        timo: how many ticks an upgrade waits at most, 0 for no limit (LK_TIMELOCK).
    """

    def __init__(self, k: Kernel, name: str, timo: int = 0) -> None:
        self.k = k
        self.name = name
        self.timo = timo
        self.count = Atomic(k, 0, f"{name}.lk_count")
        self.channel = Tsleep(k, name)

    async def shared(self) -> None:
        """LK_SHARED. Locks: none of this one on entry. Sleeps: while it is, or is to be, exclusive."""
        while True:
            count = await self.count.load()
            if not count & (LKC_EXREQ | LKC_UPREQ | LKC_EXCL):
                if await self.count.cas(count, count + 1):
                    return
                continue
            token = self.channel.interlock()
            if await self.count.cas(count, count | LKC_SHREQ):
                await self.channel.sleep(token, f"{self.name} shared", until=self.idle)

    async def exclusive(self) -> None:
        """LK_EXCLUSIVE. Locks: none of this one on entry. Sleeps: while anybody holds it."""
        while True:
            count = await self.count.load()
            if not count:
                if await self.count.cas(0, LKC_EXCL | 1):
                    return
                continue
            token = self.channel.interlock()
            if await self.count.cas(count, count | LKC_EXREQ):
                await self.channel.sleep(token, f"{self.name} exclusive", until=self.idle)

    async def upgrade(self) -> bool:
        """LK_UPGRADE: from shared to exclusive. Others may have had it in between.

        Locks: a shared hold on entry; the exclusive one after True, none after False. Sleeps: while others hold it.

        Returns: False if it has taken too long.
        """
        while True:
            count = await self.count.load()
            if count & (LKC_UPREQ | LKC_EXCL | LKC_MASK) == 1:
                if await self.count.cas(count, count | LKC_EXCL):
                    return True
                continue
            token = self.channel.interlock()
            if not await self.count.cas(count, self.give_up(count)):
                continue
            if self.must_grant(count):
                await self.channel.wakeup()
            if count & LKC_UPREQ:
                await self.channel.sleep(token, f"{self.name} exclusive", until=self.idle)
                await self.exclusive()
                return True
            return await self.wait_upgrade(token)

    async def wait_upgrade(self, token: int) -> bool:
        """LK_WAITUPGRADE: this thread has asked for the upgrade; wait until it is granted."""
        while True:
            woken = await self.channel.sleep(token, f"{self.name} upgrade", timo=self.timo, until=self.granted)
            if woken is Wake.TIMEOUT:
                await self.upgrade_failed()
                return False
            if await self.take_grant():
                return True
            token = self.channel.interlock()
            if await self.take_grant():
                return True

    async def take_grant(self) -> bool:
        """If the upgrade has been granted, note that its owner has seen it. Sleeps: no."""
        while (count := await self.count.load()) & LKC_UPGRANT:
            if await self.count.cas(count, count & ~LKC_UPGRANT):
                return True
        return False

    async def release(self) -> None:
        """LK_RELEASE. Locks: a hold of either kind on entry. Sleeps: no."""
        while True:
            count = await self.count.load()
            if not count & LKC_MASK:
                raise self.k.panic(f"lockmgr: LK_RELEASE: {self.name}: no lock held")
            if count & (LKC_UPREQ | LKC_MASK) == 1:
                new = (count - 1) & ~(LKC_EXCL | LKC_EXREQ | LKC_SHREQ)
                wakes = bool(count & (LKC_EXREQ | LKC_SHREQ))
            elif self.must_grant(count):
                new = count & ~LKC_UPREQ | LKC_EXCL | LKC_UPGRANT
                wakes = True
            else:
                new, wakes = count - 1, False
            if await self.count.cas(count, new):
                if wakes:
                    await self.channel.wakeup()
                return

    async def upgrade_failed(self) -> None:
        """The sleep for the upgrade has ended by its timeout: undo_upreq.

        Locks: none on exit, even if the upgrade has been granted meanwhile. Sleeps: no.
        """
        while True:
            count = await self.count.load()
            if count & LKC_UPGRANT:
                if await self.count.cas(count, count & ~LKC_UPGRANT):
                    await self.release()
                    return
            elif count & (LKC_EXCL | LKC_EXREQ):
                if await self.count.cas(count, count & ~LKC_UPREQ):
                    if count & LKC_EXCL:
                        await self.channel.wakeup()
                    return
            elif await self.count.cas(count, count & ~(LKC_UPREQ | LKC_SHREQ)):
                if count & LKC_SHREQ:
                    await self.channel.wakeup()
                return

    # ------------------------------------------------------------ the steps

    def must_grant(self, count: int) -> bool:
        """Is this the last hold, and does somebody wait to upgrade?"""
        return count & (LKC_UPREQ | LKC_MASK) == LKC_UPREQ | 1

    def give_up(self, count: int) -> int:
        """The word after a shared hold is given up for an upgrade, which is asked for in the same step.

        If somebody else has asked for one and this was the last hold but his, he gets it in this step.
        """
        if self.must_grant(count):
            return count & ~LKC_UPREQ | LKC_EXREQ | LKC_EXCL | LKC_UPGRANT
        return (count - 1) | (LKC_EXREQ if count & LKC_UPREQ else LKC_UPREQ)

    def granted(self) -> bool:
        """For the reports: an upgrade has been granted, or nobody is left who could be waited for."""
        count = self.count.peek()
        return bool(count & LKC_UPGRANT) or not count & LKC_MASK

    def idle(self) -> bool:
        """For the reports: nobody holds it."""
        return not self.count.peek() & LKC_MASK

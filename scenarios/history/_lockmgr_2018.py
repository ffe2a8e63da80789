"""DragonFly's lockmgr of 2018: shared and exclusive holds counted apart, requests handed over, blocked requests cancelled.

The word has a count of shared holds, which includes those that are only asked for: they are granted, all at once, when the
bit SHARED is set. It has a count of exclusive holds. And it has the bits EXREQ, the one exclusive request that the lock will
be handed to, EXREQ2, which says that others want to set EXREQ and sleep until they can try, and CANCEL, which sends away
those who have asked to be sent away.

A shared request is not even counted while the lock is shared and somebody has set EXREQ: else writers would starve.

The last of several shared holds is given up in two steps: count it down, and then, if nothing is left and there is a
request, hand the lock over. In between the word says SHARED, and nobody holds it.

Source: sys/kern/kern_lock.c of DragonFly 5.2, lockmgr_shared, lockmgr_exclusive, lockmgr_release, lockmgr_cancel_beg,
lockmgr_cancel_end, undo_shreq, undo_exreq. Upgrades and downgrades, recursion and LK_NOWAIT are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm import Atomic, Wake

if TYPE_CHECKING:
    from scenarios.history._tsleep import Tsleep
    from stressvm import Kernel
else:
    from _tsleep import Tsleep

LKC_SCOUNT: Final = 1 << 32
LKC_SMASK: Final = 0x3FFF_FFFF << 32
LKC_XMASK: Final = 0x07FF_FFFF
LKC_EXREQ: Final = 1 << 31
LKC_EXREQ2: Final = 1 << 30
LKC_CANCEL: Final = 1 << 29
LKC_SHARED: Final = 1 << 28


class Lockmgr:
    """A lock.

    Args:
        k: the kernel.
        name: as reports show it.
    """

    def __init__(self, k: Kernel, name: str) -> None:
        self.k = k
        self.name = name
        self.count = Atomic(k, LKC_SHARED, f"{name}.lk_count")
        self.channel = Tsleep(k, name)

    # ------------------------------------------------------------ requests

    async def shared(self) -> None:
        """lockmgr_shared. Locks: none of this one on entry. Sleeps: while it is, or is to be, exclusive."""
        count = await self.count.load()
        while self.refused(count):
            token = self.channel.interlock()
            if self.refused(await self.count.load()):
                await self.channel.sleep(token, f"{self.name} shared", until=self.open_to_readers)
            count = await self.count.load()
        count = await self.count.fetchadd(LKC_SCOUNT) + LKC_SCOUNT
        while not count & LKC_SHARED:
            if not count & (LKC_XMASK | LKC_EXREQ):
                if await self.count.cas(count, count | LKC_SHARED):
                    return
                count = await self.count.load()
                continue
            token = self.channel.interlock()
            count = await self.count.load()
            if not count & LKC_SHARED and count & (LKC_XMASK | LKC_EXREQ):
                await self.channel.sleep(token, f"{self.name} shared", until=self.open_to_readers)
                count = await self.count.load()

    async def exclusive(self, *, timo: int = 0, cancelable: bool = False) -> bool:
        """lockmgr_exclusive: did the caller get it?

        Locks: none of this one on entry. Sleeps: while anybody holds it.

        Args:
            timo: ticks that a single sleep may take, 0 for no limit; LK_TIMELOCK.
            cancelable: LK_CANCELABLE: give up if the lock is being cancelled.
        """
        count = await self.count.load()
        while True:
            if not count & (LKC_EXREQ | LKC_XMASK) and not (count & LKC_SHARED and count & LKC_SMASK):
                if await self.count.cas(count, (count + 1) & ~LKC_SHARED):
                    return True
                count = await self.count.load()
                continue
            if cancelable and count & LKC_CANCEL:
                return False
            queued = bool(count & (LKC_EXREQ | LKC_XMASK))
            token = self.channel.interlock()
            if not await self.count.cas(count, count | (LKC_EXREQ2 if queued else LKC_EXREQ)):
                count = await self.count.load()
                continue
            if not queued:
                return await self.wait_exreq(token, timo, cancelable=cancelable)
            woken = await self.channel.sleep(
                token, f"{self.name} exclusive", timo=timo, until=lambda: self.open_to_writers(cancelable=cancelable)
            )
            if woken is Wake.TIMEOUT:
                return False
            count = await self.count.load()

    async def wait_exreq(self, token: int, timo: int, *, cancelable: bool) -> bool:
        """EXREQ is this thread's: wait until the lock is handed to it. See `exclusive`."""
        count = await self.count.load()
        while count & LKC_EXREQ:
            if cancelable and count & LKC_CANCEL:
                if not await self.undo_exreq():
                    await self.release()
                return False
            woken = await self.channel.sleep(token, f"{self.name} exclusive", timo=timo, until=self.handed_over)
            if woken is Wake.TIMEOUT:
                return not await self.undo_exreq()
            token = self.channel.interlock()
            count = await self.count.load()
        return True

    # ------------------------------------------------------------ letting go

    async def release(self) -> None:
        """lockmgr_release. Locks: a hold of either kind on entry, none on exit. Sleeps: no."""
        while True:
            count = await self.count.load()
            if count & LKC_XMASK:
                done = await self.release_exclusive(count)
            elif count & (LKC_EXREQ | LKC_SMASK) == LKC_SCOUNT:
                done = await self.count.cas(count, (count - LKC_SCOUNT) & ~LKC_CANCEL)
            elif count & (LKC_EXREQ | LKC_SMASK) == LKC_EXREQ | LKC_SCOUNT:
                done = await self.hand_over(count, count - LKC_SCOUNT)
            else:
                await self.undo_shreq()
                done = True
            if done:
                return

    async def release_exclusive(self, count: int) -> bool:
        """The exclusive hold ends; False: the word has changed."""
        if count & LKC_EXREQ:
            return await self.hand_over(count, count - 1)
        if not await self.count.cas(count, (count - 1) & ~(LKC_CANCEL | LKC_EXREQ2) | LKC_SHARED):
            return False
        if count & (LKC_SMASK | LKC_EXREQ2):
            await self.channel.wakeup()
        return True

    async def hand_over(self, count: int, new: int) -> bool:
        """The owner of EXREQ gets the lock, with the word that is `new` else; False: the word has changed."""
        if not await self.count.cas(count, (new + 1) & ~(LKC_EXREQ | LKC_EXREQ2 | LKC_CANCEL | LKC_SHARED)):
            return False
        await self.channel.wakeup()
        return True

    async def undo_shreq(self) -> None:
        """Give a shared hold up, one of several a moment ago; if it was the last one in the end, hand the lock over."""
        count = await self.count.fetchadd(-LKC_SCOUNT) - LKC_SCOUNT
        while count & LKC_EXREQ and not count & (LKC_SMASK | LKC_XMASK):
            if await self.hand_over(count, count):
                return
            await self.raced_to_zero()
            count = await self.count.load()

    async def raced_to_zero(self) -> None:
        """The request was there when the last hold was given up, and the word has changed before the lock was handed over.

        Whoever changed it may have taken the request away, and could not know that a reader, which is not counted, sleeps
        because of it.
        """
        await self.channel.wakeup()

    async def undo_exreq(self) -> bool:
        """Take the request EXREQ back; False: too late, the lock is the caller's."""
        while (count := await self.count.load()) & LKC_EXREQ:
            if count & (LKC_XMASK | LKC_SMASK):
                if await self.count.cas(count, count & ~(LKC_EXREQ | LKC_EXREQ2)):
                    if count & (LKC_EXREQ2 | LKC_SMASK):
                        await self.channel.wakeup()
                    return True
            elif await self.count.cas(count, (count + 1) & ~(LKC_EXREQ | LKC_EXREQ2)):
                if self.sleeps_on_exreq(count):
                    await self.channel.wakeup()
                return False
        return False

    def sleeps_on_exreq(self, count: int) -> bool:
        """The word when a request granted itself: may anybody sleep because of it? Readers may, uncounted, if it is SHARED."""
        return bool(count & (LKC_EXREQ2 | LKC_SHARED))

    # ------------------------------------------------------------ cancelling

    async def cancel_beg(self) -> None:
        """lockmgr_cancel_beg: send away those who wait and are cancelable. Locks: a hold. Sleeps: no."""
        while True:
            count = await self.count.load()
            if await self.count.cas(count, count | LKC_CANCEL):
                break
        if self.somebody_waits(count):
            await self.channel.wakeup()

    def somebody_waits(self, count: int) -> bool:
        """Does the word say that somebody may sleep?"""
        return bool(count & (LKC_EXREQ | LKC_EXREQ2 | LKC_SMASK))

    async def cancel_end(self) -> None:
        """lockmgr_cancel_end."""
        while not await self.count.cas(count := await self.count.load(), count & ~LKC_CANCEL):
            pass

    # ------------------------------------------------------------ for the reports, and tests of the word

    def refused(self, count: int) -> bool:
        """Must a reader not even be counted?"""
        return bool(count & LKC_SHARED and count & LKC_EXREQ)

    def open_to_readers(self) -> bool:
        """May a reader have it?"""
        return not self.count.peek() & (LKC_XMASK | LKC_EXREQ)

    def open_to_writers(self, *, cancelable: bool) -> bool:
        """May a writer try, or must it go?"""
        count = self.count.peek()
        return bool(cancelable and count & LKC_CANCEL) or not count & (LKC_XMASK | LKC_EXREQ)

    def handed_over(self) -> bool:
        """Has the owner of EXREQ got it, or nobody?"""
        return not self.count.peek() & LKC_EXREQ

"""FreeBSD's shared/exclusive lock, sx(9): sleepable, with upgrade and downgrade.

Source: FreeBSD kern_sx.c. `try_upgrade` succeeds for the sole sharer, whoever waits; `downgrade` lets waiting
sharers in. Which waiter an exclusive release prefers is not modelled: any may win, which is the weakest promise.
"""

from __future__ import annotations

from stressvm.kernel.object import Interlock
from stressvm.kernel.op import ALONE, SHARED
from stressvm.kernel.rwlock import Rw, RwCore


class Sx(RwCore, Interlock):
    """A shared/exclusive lock with the weakest promise.

    Args:
        k: the kernel.
        name: as reports show it.
    """

    __slots__ = ()

    TYPE = "sx"

    async def slock(self) -> None:
        """Acquire it shared. Sleeps: yes. Holding it exclusively is a panic."""
        await self._read()

    async def xlock(self) -> None:
        """Acquire it exclusively. Sleeps: yes. Holding it exclusively is a panic; holding it shared blocks for ever."""
        await self._write()

    async def try_slock(self) -> bool:
        """Acquire it shared if possible at once. Sleeps: no."""
        return await self._try(Rw.READER)

    async def try_xlock(self) -> bool:
        """Acquire it exclusively if possible at once. Sleeps: no."""
        return await self._try(Rw.WRITER)

    async def unlock(self) -> None:
        """Release it, in whichever way it is held. Sleeps: no."""
        await self._exit()

    async def try_upgrade(self) -> bool:
        """From shared to exclusive, for the sole sharer; else False, still shared. Sleeps: no."""
        return await self._upgrade()

    async def downgrade(self) -> None:
        """From exclusive to shared, atomically. Sleeps: no."""
        await self._downgrade()

    def xlocked(self) -> bool:
        """Does the current thread hold it exclusively? For assertions."""
        return self.write_held()

    # ------------------------------------------------------------ as an interlock, held exclusively

    def drop(self, me: int) -> None:
        """See Interlock."""
        if self.owner != me:
            raise self._foreign(me)
        self._let_go(me)

    def ask(self, t: int) -> None:
        """See Interlock."""
        k = self.k
        self.want_write |= 1 << t
        k.pend[t] = self.ops.enter_write
        self._refresh()

    async def regain(self, me: int) -> None:
        """See Interlock."""
        self._got_write(me)
        self.k.trace.append(self.ops.enter_write.events[me])


class FreeBSDSx(Sx):
    """The lock with the kernel's refusal: a new sharer waits while somebody sleeps for it exclusively.

    One that already shares some sx lock is let in all the same: the kernel's guard against self-deadlock. A contended
    request is two visible operations, the attempt, which queues, and the grant; `want_read` and `want_write` are the
    bits of those that queue, so only a writer whose attempt has been made is in anybody's way.
    """

    __slots__ = ()

    def offers(self) -> int:
        """See KernelObject. Every request can be made: it may have to queue."""
        return SHARED | ALONE

    def _refresh(self) -> None:
        super()._refresh()
        if self.want_write and self.owner < 0:
            self.k.enabled &= ~(self.want_read & ~self._sharers())

    async def _read(self) -> None:
        k = self.k
        me = k.cur
        self._check_entry("read", me)
        if k.away(self.ops.enter_read if self._can(Rw.READER) else self.ops.block_read):
            await k.baton
        if not self._can(Rw.READER):
            self.want_read |= 1 << me
            self._refresh()
            k.trace.append(self.ops.block_read.events[me])
            if k.away(self.ops.enter_read):
                await k.baton
        self._got_read(me)
        k.trace.append(self.ops.enter_read.events[me])

    async def _write(self) -> None:
        k = self.k
        me = k.cur
        self._check_entry("write", me)
        if k.away(self.ops.enter_write if self._can(Rw.WRITER) else self.ops.block_write):
            await k.baton
        if not self._can(Rw.WRITER):
            await self._queue_for_write(me)
        self._got_write(me)
        k.trace.append(self.ops.enter_write.events[me])

    async def _queue_for_write(self, me: int) -> None:
        k = self.k
        self.want_write |= 1 << me
        self._refresh()
        k.trace.append(self.ops.block_write.events[me])
        if k.away(self.ops.enter_write):
            await k.baton

    def ask(self, t: int) -> None:
        """See Interlock: the attempt is always possible."""
        k = self.k
        k.pend[t] = self.ops.block_write
        k.enabled |= 1 << t

    async def regain(self, me: int) -> None:
        """See Interlock."""
        if not self._can(Rw.WRITER):
            await self._queue_for_write(me)
        await super().regain(me)

    def _sharers(self) -> int:
        """The bits of all threads that share some sx lock."""
        shared = 0
        for obj in self.k.objects:
            if isinstance(obj, Sx):
                shared |= obj.readers
        return shared

    def _can(self, how: Rw) -> bool:
        if how is Rw.READER and self.want_write:
            return self.owner < 0 and bool(self._sharers() >> self.k.cur & 1)
        return super()._can(how)

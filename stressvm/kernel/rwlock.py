"""NetBSD's reader-writer lock, rwlock(9).

Source: NetBSD kern_rwlock.c 1.39. Its own rules are those of `NetBSDRwLock`:

- A reader waits for a writer that holds the lock *or waits for it* (writer preference, so a recursive read
  deadlocks with a writer in between). A writer waits only for holders: it may pass writers that sleep.
- Release of a write hold with readers asleep hands the lock to all of them at once. Release of the last read hold
  with readers and writers asleep hands it to the longest waiting writer. With only writers asleep all of them
  wake and compete, and new readers stay blocked until one has got it.
- A try for writing heeds holders only; a try for reading heeds waiting writers too.

`RwLock` has the same calls and keeps the weakest promise instead (see grant.py). Reads may recurse, as there.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from stressvm.kernel.object import KernelObject
from stressvm.kernel.op import ALONE, EVERYTHING, SHARED

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import ObjectId, Op


class Rw(enum.Enum):
    """How a lock is asked for."""

    READER = "read"
    WRITER = "write"


# An enum is slow to ask for its members.
_READER, _WRITER = Rw.READER, Rw.WRITER


class _Ops(NamedTuple):
    enter_read: Op
    enter_write: Op
    tryenter_read: Op
    tryenter_write: Op
    tryenter_failed: Op
    exit: Op
    downgrade: Op
    tryupgrade: Op
    tryupgrade_failed: Op
    block_read: Op
    block_write: Op


def make_ops(k: Kernel, ident: ObjectId) -> _Ops:
    """The operations of a reader-writer lock; the sx lock has the same."""
    return _Ops(
        k.op("read-lock", ident, write=True, needs=SHARED),
        k.op("write-lock", ident, write=True, needs=ALONE),
        k.op("try-read-lock", ident, write=True),
        k.op("try-write-lock", ident, write=True),
        k.op("try-lock-failed", ident, write=False),
        k.op("unlock", ident, write=True),
        k.op("downgrade", ident, write=True),
        k.op("try-upgrade", ident, write=True),
        k.op("try-upgrade-failed", ident, write=False),
        k.op("block-read", ident, write=True),
        k.op("block-write", ident, write=True),
    )


@dataclass(frozen=True, slots=True)
class RwStatistics:
    """A snapshot: the writer's name or None, the readers' names, and who waits for which."""

    writer: str | None
    readers: tuple[str, ...]
    waiting_readers: tuple[str, ...]
    waiting_writers: tuple[str, ...]


class RwCore(KernelObject):
    """Holders and waiters of a lock with two modes; the weakest grants. What NetBSD's and FreeBSD's share."""

    __slots__ = ("again", "ops", "owner", "readers", "want_read", "want_write")

    TYPE = "rwlock"

    def __init__(self, k: Kernel, name: str | None = None) -> None:
        self.k = k
        self.ident, self.ops = k.adopt(self, self.TYPE, name, make_ops)
        self.owner = -1
        self.readers = 0
        self.again: dict[int, int] = {}
        self.want_read = 0
        self.want_write = 0

    def holders(self) -> list[int]:
        """The writer, or all readers."""
        if self.owner >= 0:
            return [self.owner]
        return [t for t in range(self.readers.bit_length()) if self.readers >> t & 1]

    def offers(self) -> int:
        """See KernelObject."""
        if self.owner >= 0:
            return 0
        return SHARED if self.readers else SHARED | ALONE

    def write_held(self) -> bool:
        """Does the current thread hold it for writing? For assertions."""
        return self.owner == self.k.cur >= 0

    def read_held(self) -> bool:
        """Does the current thread hold it for reading? For assertions."""
        me = self.k.cur
        return me >= 0 and bool(self.readers >> me & 1)

    def statistics(self) -> RwStatistics:
        """Who holds it, who waits."""
        # Who waits is known from announcements, which belong to steps on anything.
        self.k.touch(EVERYTHING, write=True)
        writer = self.names([self.owner])[0] if self.owner >= 0 else None
        return RwStatistics(writer, self.names(self.readers), self.names(self.want_read), self.names(self.want_write))

    # ------------------------------------------------------------ within

    def _refresh(self) -> None:
        """Which requesters could be granted their request now?"""
        k = self.k
        enabled = k.enabled | self.want_read | self.want_write
        if self.owner >= 0:
            enabled &= ~(self.want_read | self.want_write)
        elif self.readers:
            enabled &= ~self.want_write
        k.enabled = enabled

    async def _read(self) -> None:
        k = self.k
        me = k.cur
        bit = 1 << me
        if k.atomic & bit or self.owner == me:
            self._check_entry("read", me)
        self.want_read |= bit
        if self.owner >= 0:
            k.enabled &= ~bit
        op = self.ops.enter_read
        if k.away(op):
            await k.baton
        self._got_read(me)
        k.trace.append(op.events[me])

    async def _write(self) -> None:
        k = self.k
        me = k.cur
        bit = 1 << me
        if k.atomic & bit or self.owner == me:
            self._check_entry("write", me)
        self.want_write |= bit
        if self.owner >= 0 or self.readers:
            k.enabled &= ~bit
        op = self.ops.enter_write
        if k.away(op):
            await k.baton
        self._got_write(me)
        k.trace.append(op.events[me])

    def _got_read(self, me: int) -> None:
        if self.readers >> me & 1:
            self.again[me] = self.again.get(me, 0) + 1
        self.readers |= 1 << me
        self.want_read &= ~(1 << me)
        self._refresh()

    def _got_write(self, me: int) -> None:
        self.owner = me
        self.want_write &= ~(1 << me)
        self._refresh()

    def _check_entry(self, how: str, me: int) -> None:
        k = self.k
        k.may_sleep(f"{how} lock {self.ident.name}")
        if self.owner == me:
            raise k.panic(f"{k.threads[me].name}: {self.ident.name}: locking against myself")

    async def _try(self, how: Rw) -> bool:
        k = self.k
        op = self.ops.tryenter_read if how is _READER else self.ops.tryenter_write
        if k.away(op):
            await k.baton
        me = k.cur
        if not self._can(how):
            k.trace.append(self.ops.tryenter_failed.events[me])
            return False
        if how is _READER:
            self._got_read(me)
        else:
            self._got_write(me)
        k.trace.append(op.events[me])
        return True

    def _can(self, how: Rw) -> bool:
        return self.owner < 0 and (how is _READER or not self.readers)

    async def _exit(self) -> None:
        k = self.k
        if k.away(self.ops.exit):
            await k.baton
        me = k.cur
        self._let_go(me)
        k.trace.append(self.ops.exit.events[me])

    def _let_go(self, me: int) -> None:
        if self.owner == me:
            self.owner = -1
        elif self.again.get(me):
            self.again[me] -= 1
        elif self.readers >> me & 1:
            self.readers &= ~(1 << me)
        else:
            raise self._foreign(me)
        self._refresh()

    async def _upgrade(self) -> bool:
        """One attempt: succeeds for the only reader, waiters or not."""
        k = self.k
        if k.away(self.ops.tryupgrade):
            await k.baton
        me = k.cur
        if not self.readers >> me & 1:
            raise k.panic(f"{k.threads[me].name}: {self.ident.name}: upgrade of a lock that is not read-held")
        if self.readers != 1 << me or self.again.get(me):
            k.trace.append(self.ops.tryupgrade_failed.events[me])
            return False
        self.readers = 0
        self.owner = me
        self._refresh()
        k.trace.append(self.ops.tryupgrade.events[me])
        return True

    async def _downgrade(self) -> None:
        k = self.k
        if k.away(self.ops.downgrade):
            await k.baton
        me = k.cur
        if self.owner != me:
            raise self._foreign(me)
        self.owner = -1
        self.readers = 1 << me
        self._refresh()
        k.trace.append(self.ops.downgrade.events[me])

    def _foreign(self, me: int) -> Exception:
        k = self.k
        held = ", ".join(k.threads[t].name for t in self.holders()) or "nobody"
        return k.panic(f"{k.threads[me].name}: {self.ident.name}: not held by it, but by {held}")


class RwLock(RwCore):
    """A reader-writer lock with NetBSD's calls and the weakest promise: whoever asks when it can be had, gets it.

    Args:
        k: the kernel.
        name: as reports show it.
    """

    __slots__ = ()

    async def enter(self, how: Rw) -> None:
        """Acquire it for reading or writing.

        Locks: not held by the caller for writing (panic), nor for reading when asked for writing (it blocks for
        ever). Sleeps: yes.
        """
        await (self._read() if how is _READER else self._write())

    async def tryenter(self, how: Rw) -> bool:
        """Acquire it if that is possible at once. Sleeps: no."""
        return await self._try(how)

    async def exit(self) -> None:
        """Release it, in whichever way it is held. Locks: held by the caller (else panic). Sleeps: no."""
        # `_exit` written out: a release is frequent.
        k = self.k
        op = self.ops.exit
        if k.away(op):
            await k.baton
        me = k.cur
        self._let_go(me)
        k.trace.append(op.events[me])

    async def tryupgrade(self) -> bool:
        """From reader to writer, if the caller is the only reader; else False, still a reader. Sleeps: no."""
        return await self._upgrade()

    async def downgrade(self) -> None:
        """From writer to reader. Sleeps: no."""
        await self._downgrade()


class NetBSDRwLock(RwLock):
    """The lock under NetBSD's own rules; `want_read` and `want_write` are the bits of those asleep on it."""

    __slots__ = ("write_wanted", "writers")

    def __init__(self, k: Kernel, name: str | None = None) -> None:
        super().__init__(k, name)
        self.writers: list[int] = []
        self.write_wanted = False

    def offers(self) -> int:
        """See KernelObject. Every request can be made: it may have to queue."""
        return SHARED | ALONE

    def _can(self, how: Rw) -> bool:
        if how is _READER:
            return self.owner < 0 and not self.write_wanted
        return self.owner < 0 and not self.readers

    def _refresh(self) -> None:
        """Nobody's request is granted behind his back: those asleep are handed the lock, or woken to compete."""

    async def _read(self) -> None:
        k = self.k
        me = k.cur
        self._check_entry("read", me)
        if k.away(self.ops.enter_read if self._can(_READER) else self.ops.block_read):
            await k.baton
        if self._can(_READER):
            self._got_read(me)
        else:
            self.want_read |= 1 << me
            k.enabled &= ~(1 << me)
            k.trace.append(self.ops.block_read.events[me])
            if k.away(self.ops.enter_read):
                await k.baton
        k.trace.append(self.ops.enter_read.events[me])

    async def _write(self) -> None:
        k = self.k
        me = k.cur
        self._check_entry("write", me)
        if k.away(self.ops.enter_write if self._can(_WRITER) else self.ops.block_write):
            await k.baton
        while self.owner != me and not self._can(_WRITER):
            self.want_write |= 1 << me
            self.writers.append(me)
            self.write_wanted = True
            k.enabled &= ~(1 << me)
            k.trace.append(self.ops.block_write.events[me])
            if k.away(self.ops.enter_write):
                await k.baton
        if self.owner != me:
            self.owner = me
            self.write_wanted = bool(self.writers)
        k.trace.append(self.ops.enter_write.events[me])

    def _let_go(self, me: int) -> None:
        wrote = self.owner == me
        super()._let_go(me)
        if self.owner < 0 and not self.readers:
            self._pass_on(wrote=wrote)

    def _pass_on(self, *, wrote: bool) -> None:
        k = self.k
        if self.want_read and (wrote or not self.writers):
            self.readers = self.want_read
            k.enabled |= self.want_read
            self.want_read = 0
            self.write_wanted = bool(self.writers)
        elif self.want_read:
            heir = self.writers.pop(0)
            self.want_write &= ~(1 << heir)
            self.owner = heir
            k.enabled |= 1 << heir
            self.write_wanted = bool(self.writers)
        elif self.writers:
            # All sleeping writers wake and compete; the wanted bit keeps new readers out meanwhile.
            k.enabled |= self.want_write
            self.want_write = 0
            self.writers.clear()
            self.write_wanted = True

    async def _downgrade(self) -> None:
        k = self.k
        await super()._downgrade()
        if self.want_read:
            # All sleeping readers, even past sleeping writers; `write_wanted` goes on keeping new readers out.
            self.readers |= self.want_read
            k.enabled |= self.want_read
            self.want_read = 0

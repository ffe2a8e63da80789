"""Mutexes: adaptive (the default; a contender may sleep) and spin (the holder may not sleep).

Source: NetBSD kern_mutex.c and FreeBSD kern_mutex.c, as far as it can be seen from outside: neither hands over on
release, so the default grant policy is none at all (see grant.py). Spinning and sleeping differ here in what
they allow the holder and the contender, not in who gets the lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from stressvm.kernel.object import Interlock
from stressvm.kernel.op import ALONE, EVERYTHING

if TYPE_CHECKING:
    from stressvm.kernel.grant import Grant
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import ObjectId, Op


class _Ops(NamedTuple):
    lock: Op
    trylock: Op
    trylock_failed: Op
    unlock: Op
    block: Op


def _make_ops(k: Kernel, ident: ObjectId) -> _Ops:
    return _Ops(
        k.op("lock", ident, write=True, needs=ALONE),
        k.op("trylock", ident, write=True),
        k.op("trylock-failed", ident, write=False),
        k.op("unlock", ident, write=True),
        k.op("block", ident, write=True),
    )


@dataclass(frozen=True, slots=True)
class MutexStatistics:
    """A snapshot: the owner's name (None when free) and the waiters' names in order of thread or of arrival."""

    owner: str | None
    waiters: tuple[str, ...]
    acquired: int


class Mutex(Interlock):
    """An adaptive mutex: `lock` may sleep, the holder may too.

    Args:
        k: the kernel.
        name: as reports show it.
        grant: who gets it next; None (the default) is the weakest promise.
    """

    __slots__ = ("grant", "lock_op", "ops", "owner", "queue", "unlock_op", "want")

    TYPE = "mutex"

    def __init__(self, k: Kernel, name: str | None = None, grant: Grant | None = None) -> None:
        self.k = k
        self.ident, ops = k.adopt(self, self.TYPE, name, _make_ops)
        self.ops = ops
        self.lock_op = ops.lock
        self.unlock_op = ops.unlock
        self.owner = -1
        self.want = 0
        self.grant = grant
        self.queue: list[int] = []

    async def lock(self) -> None:
        """Acquire it.

        Locks: none of this one on entry (recursion panics); held on exit. Sleeps: yes; panics in interrupt
        context and with a spin mutex held.
        """
        k = self.k
        me = k.cur
        bit = 1 << me
        if k.atomic & bit:
            self._check_context()
        if self.grant is not None:
            await self._lock_queued(me)
            return
        self.want |= bit
        if self.owner >= 0:
            if self.owner == me:
                raise self._recursion()
            k.enabled &= ~bit
        if k.away(self.lock_op):
            await k.baton
        self.owner = me
        want = self.want = self.want ^ bit
        if want:
            k.enabled &= ~want
        k.trace.append(self.lock_op.events[me])

    async def unlock(self) -> None:
        """Release it. Locks: held by the caller on entry (else panic). Sleeps: no."""
        k = self.k
        me = k.cur
        if k.away(self.unlock_op):
            await k.baton
        if self.owner != me:
            raise self._foreign(me)
        if self.queue:
            self._release()
        else:
            self.owner = -1
            if self.want:
                k.enabled |= self.want
        k.trace.append(self.unlock_op.events[me])

    async def trylock(self) -> bool:
        """Acquire it if it is free, else return False at once. Sleeps: no. Holding it already gives False."""
        k = self.k
        me = k.cur
        if k.away(self.ops.trylock):
            await k.baton
        if self.owner >= 0:
            k.trace.append(self.ops.trylock_failed.events[me])
            return False
        self._take(me)
        k.trace.append(self.ops.trylock.events[me])
        return True

    def owned(self) -> bool:
        """Does the current thread hold it? Sleeps: no; not a visible operation, for assertions."""
        return self.owner == self.k.cur >= 0

    def statistics(self) -> MutexStatistics:
        """Who owns it, who waits, how often it was acquired so far."""
        # Who waits is known from announcements, which belong to steps on anything.
        self.k.touch(EVERYTHING, write=True)
        waiting = self.names(self.queue) if self.grant is not None else self.names(self.want)
        taking = (self.ops.lock, self.ops.trylock)
        acquired = sum(1 for _, op, _ in self.k.trace if op in taking)
        return MutexStatistics(self.names([self.owner])[0] if self.owner >= 0 else None, waiting, acquired)

    def holders(self) -> list[int]:
        """The owner."""
        return [self.owner] if self.owner >= 0 else []

    def offers(self) -> int:
        """See KernelObject. With a policy every request can be made."""
        return ALONE if self.owner < 0 or self.grant is not None else 0

    # ------------------------------------------------------------ as an interlock

    def drop(self, me: int) -> None:
        """See Interlock."""
        if self.owner != me:
            raise self._foreign(me)
        self._release()

    def ask(self, t: int) -> None:
        """See Interlock."""
        k = self.k
        if self.grant is not None:
            k.enabled |= 1 << t
            k.pend[t] = self.ops.block
            return
        self.want |= 1 << t
        k.pend[t] = self.lock_op
        k.enabled = k.enabled & ~(1 << t) if self.owner >= 0 else k.enabled | 1 << t

    async def regain(self, me: int) -> None:
        """See Interlock."""
        if self.grant is not None:
            await self._attempt(me)
            return
        self._take(me)
        self.k.trace.append(self.lock_op.events[me])

    # ------------------------------------------------------------ within

    def _take(self, me: int) -> None:
        k = self.k
        bit = 1 << me
        self.owner = me
        self.want &= ~bit
        k.enabled = k.enabled & ~self.want | bit

    def _release(self) -> None:
        k = self.k
        self.owner = -1
        if self.queue and self.grant is not None:
            index = self.grant.heir([k.threads[t] for t in self.queue])
            self.owner = self.queue.pop(index)
            k.enabled |= 1 << self.owner
        else:
            k.enabled |= self.want

    async def _lock_queued(self, me: int) -> None:
        if self.owner == me:
            raise self._recursion()
        k = self.k
        if k.away(self.ops.block if self.owner >= 0 else self.lock_op):
            await k.baton
        await self._attempt(me)

    async def _attempt(self, me: int) -> None:
        """The attempt has been chosen: take the lock, or queue for it and be handed it."""
        k = self.k
        if self.owner < 0:
            self.owner = me
        else:
            self.queue.append(me)
            k.enabled &= ~(1 << me)
            k.trace.append(self.ops.block.events[me])
            if k.away(self.lock_op):
                await k.baton
        k.trace.append(self.lock_op.events[me])

    def _check_context(self) -> None:
        self.k.may_sleep(f"lock {self.ident.name}")

    def _recursion(self) -> Exception:
        k = self.k
        return k.panic(f"{k.threads[k.cur].name}: {self.ident.name}: locking against myself")

    def _foreign(self, me: int) -> Exception:
        k = self.k
        owner = "nobody" if self.owner < 0 else k.threads[self.owner].name
        return k.panic(f"{k.threads[me].name}: {self.ident.name}: released, but {owner} owns it")


class SpinMutex(Mutex):
    """A spin mutex: `lock` spins, so interrupt handlers may take it; while it is held, its holder may not sleep."""

    __slots__ = ()

    TYPE = "spinmutex"
    SPINS = True

    async def lock(self) -> None:
        """Acquire it. Locks: as for `Mutex.lock`. Sleeps: no, it spins."""
        k = self.k
        me = k.cur
        bit = 1 << me
        if self.grant is not None:
            await self._lock_queued(me)
        else:
            # As Mutex.lock, written out: a call and a coroutine less.
            self.want |= bit
            if self.owner >= 0:
                if self.owner == me:
                    raise self._recursion()
                k.enabled &= ~bit
            if k.away(self.lock_op):
                await k.baton
            self.owner = me
            want = self.want = self.want ^ bit
            if want:
                k.enabled &= ~want
            k.trace.append(self.lock_op.events[me])
        k.threads[me].spins += 1
        k.atomic |= bit

    async def unlock(self) -> None:
        """Release it. Locks: held by the caller on entry (else panic). Sleeps: no."""
        k = self.k
        me = k.cur
        if k.away(self.unlock_op):
            await k.baton
        if self.owner != me:
            raise self._foreign(me)
        self._release()
        k.trace.append(self.unlock_op.events[me])

    async def trylock(self) -> bool:
        """Acquire it if it is free. Sleeps: no."""
        got = await super().trylock()
        if got:
            self._held(self.k.cur)
        return got

    async def regain(self, me: int) -> None:
        """See Interlock."""
        await super().regain(me)
        self._held(me)

    def _held(self, me: int) -> None:
        k = self.k
        k.threads[me].spins += 1
        k.atomic |= 1 << me

    def _release(self) -> None:
        k = self.k
        th = k.threads[self.owner]
        th.spins -= 1
        if not th.spins and not th.interrupt:
            k.atomic &= ~(1 << self.owner)
        if self.queue:
            super()._release()
        else:
            self.owner = -1
            k.enabled |= self.want

    def _check_context(self) -> None:
        """Spinning is allowed where sleeping is not."""

"""Condition variables, as condvar(9).

Source: NetBSD kern_condvar.c. The waiter is queued before the mutex is released; the mutex is got back by
ordinary contention. A timed wait that times out signals once before it returns, in case it swallowed a wakeup
that another waiter could have used: so a timeout of one waiter can wake another for nothing. FreeBSD's
cv_timedwait does not do that: `timeout_signals=False`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stressvm.kernel.thread import Wake
from stressvm.kernel.waitq import QueueOps, WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.object import Interlock
    from stressvm.kernel.op import ObjectId


def _make_ops(k: Kernel, ident: ObjectId) -> QueueOps:
    return QueueOps(k, ident, "signal", "broadcast")


@dataclass(frozen=True, slots=True)
class WaitQueueStatistics:
    """A snapshot: who sleeps here, in the order in which they would be woken one by one."""

    waiters: tuple[str, ...]


class CondVar(WaitQueue):
    """A condition variable.

    Args:
        k: the kernel.
        name: as reports show it; also the wait message of its sleepers.
        timeout_signals: a timed-out waiter signals once (NetBSD); False for FreeBSD's.
    """

    __slots__ = ("mutex", "timeout_signals")

    def __init__(self, k: Kernel, name: str | None = None, *, timeout_signals: bool = True) -> None:
        self.k = k
        self.ident, self.ops = k.adopt(self, "condvar", name, _make_ops)
        self.waiters = []
        self.timeout_signals = timeout_signals
        self.mutex: Interlock | None = None

    async def wait(
        self,
        mutex: Interlock,
        *,
        wmesg: str = "",
        until: Callable[[], bool] | None = None,
        holder: Callable[[], int] | None = None,
    ) -> None:
        """Sleep until signalled. Always re-test the condition afterwards.

        Locks: `mutex` held on entry, released while asleep, held on return. Sleeps: yes.

        Args:
            mutex: the interlock; all concurrent waiters must use the same.
            wmesg: what is awaited, for reports, where waiters for different things share one condition variable.
            until: pure; true when what the caller waits for is there. Lets a stranded sleeper be judged.
            holder: pure; the number of the thread that could end the wait, or -1.
        """
        await self._sleep(mutex, wmesg=wmesg or self.ident.name, until=until, holder=holder)

    async def wait_sig(self, mutex: Interlock, *, until: Callable[[], bool] | None = None) -> Wake:
        """As `wait`, but a signal posted to the thread ends it: WOKEN or SIGNAL."""
        return await self._sleep(mutex, wmesg=self.ident.name, interruptible=True, until=until)

    async def timedwait(
        self,
        mutex: Interlock,
        ticks: int,
        *,
        wmesg: str = "",
        until: Callable[[], bool] | None = None,
        holder: Callable[[], int] | None = None,
    ) -> Wake:
        """As `wait`, for that many ticks at most (0: no limit): WOKEN or TIMEOUT.

        Locks: as `wait`; after a timeout the mutex is held again *before* the one signal is passed on.
        """
        woken = await self._sleep(mutex, wmesg=wmesg or self.ident.name, ticks=ticks, until=until, holder=holder)
        if woken is Wake.TIMEOUT and self.timeout_signals:
            await self.signal()
        return woken

    async def signal(self) -> None:
        """Wake the most urgent waiter, the longest waiting among equals; without waiters, nothing. Sleeps: no."""
        await self._wake_first()

    async def broadcast(self) -> None:
        """Wake all waiters; without waiters, nothing. Sleeps: no."""
        await self._wake_all()

    def has_waiters(self) -> bool:
        """Does anybody sleep here? Not a visible operation; call it with the mutex held."""
        self.k.touch(self.ident.number, write=False)
        return bool(self.waiters)

    def statistics(self) -> WaitQueueStatistics:
        """Who sleeps here."""
        self.k.touch(self.ident.number, write=False)
        return WaitQueueStatistics(self.names(self.waiters))

    def _admit(self, interlock: Interlock | None) -> None:
        """All that sleep here at one time gave up the same mutex."""
        if self.waiters and self.mutex is not interlock:
            names = [lock.ident.name if lock is not None else "nothing" for lock in (interlock, self.mutex)]
            th = self.k.threads[self.k.cur]
            raise self.k.panic(
                f"{th.name}: {self.ident.name}: waited on with {names[0]} while others sleep with {names[1]} as interlock"
            )
        self.mutex = interlock

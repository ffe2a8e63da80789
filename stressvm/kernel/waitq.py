"""Sleeping and waking: what condition variables and sleep queues share.

A sleep is two visible operations, or three if it times out. First the sleeper queues itself and gives up its
interlock, in one step: nothing can be lost in between. Then it is no candidate until it is woken; being woken
makes its next operation the request for the interlock (or a bare `resume` where it wants none back), so it
competes with newcomers, as in the kernels: a woken thread must re-test. A timeout is an operation of the sleeper
itself, taken when the clock offers it or, in mode ANYTIME, at any point.

Woken threads leave the queue in the waker's step; nothing is remembered when nobody sleeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.kernel.kernel import Timers
from stressvm.kernel.object import Interlock, KernelObject
from stressvm.kernel.op import WRITE, ObjectId, Op, signals_of
from stressvm.kernel.thread import Sleep, Thread, Wake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stressvm.kernel.kernel import Kernel


def _holds(until: Callable[[], bool] | None, queue: WaitQueue) -> bool | None:
    """Is what a sleeper waits for there? None if it gave no predicate. UsageError if the predicate fails."""
    if until is None:
        return None
    k = queue.k
    mark = len(k.touched)
    try:
        held = bool(until())
    except Exception as exc:
        error = UsageError(f"a predicate (until) of a sleep on {queue.ident.name} raised {type(exc).__name__}: {exc}")
        k.abort(error)
        raise error from exc
    if len(k.touched) > mark:
        k.asides.append((mark, len(k.touched)))
    return held


class QueueOps:
    """The operations of a wait queue; those that also touch an interlock are made when first needed."""

    __slots__ = ("ident", "k", "resume", "sleeps", "timeout", "wake_all", "wake_one")

    def __init__(self, k: Kernel, ident: ObjectId, one: str, every: str) -> None:
        self.k = k
        self.ident = ident
        self.wake_one = k.op(one, ident, write=True)
        self.wake_all = k.op(every, ident, write=True)
        self.timeout = k.op("timeout", ident, write=True, beside=k.ticking())
        # Whatever it waited for has been done: going on touches nothing.
        self.resume = k.cover(Op("resume", ident, (), k.capacity))
        self.sleeps: dict[int, Op] = {}

    def sleep(self, interlock: Interlock | None) -> Op:
        """The operation of queueing here and giving up that interlock."""
        number = -1 if interlock is None else interlock.ident.number
        try:
            return self.sleeps[number]
        except KeyError:
            also = () if interlock is None else ((number, WRITE),)
            made = self.sleeps[number] = self.k.op("sleep", self.ident, write=True, also=also)
            return made


class WaitQueue(KernelObject):
    """A queue of sleeping threads, most urgent first, in order of arrival among equals."""

    __slots__ = ("ops", "waiters")

    ops: QueueOps
    waiters: list[int]

    async def _sleep(
        self,
        interlock: Interlock | None,
        *,
        wmesg: str,
        ticks: int = 0,
        interruptible: bool = False,
        relock: bool = True,
        until: Callable[[], bool] | None = None,
        holder: Callable[[], int] | None = None,
    ) -> Wake:
        """Queue up, give up the interlock, wait to be woken, get it back. See the public calls of subclasses."""
        k = self.k
        me = k.cur
        th = k.threads[me]
        if ticks < 0:
            raise UsageError(f"{self.ident.name}: a sleep of {ticks} ticks; use 0 to wait for ever")
        self._check_context(th, interlock)
        if k.away(self.ops.sleep(interlock)):
            await k.baton
        self._admit(interlock)
        if interruptible:
            k.touch(signals_of(me), write=True)
        if interruptible and th.signal:
            # A signal posted earlier: no sleep at all, the interlock stays held.
            th.signal = False
            k.trace.append((me, self.ops.sleep(interlock), Wake.SIGNAL))
            if interlock is not None and not relock:
                interlock.drop(me)
            return Wake.SIGNAL
        if _holds(until, self):
            # It goes to sleep although what it waits for is there: only this moment can tell.
            k.trace.append((me, self.ops.sleep(interlock), True))
        else:
            k.trace.append(self.ops.sleep(interlock).events[me])
        if interlock is not None:
            interlock.drop(me)
        self._enqueue(th)
        back = interlock if relock else None
        th.wake = None
        th.sleep = Sleep(self, wmesg, until, holder, back, len(k.trace), k.clock, interruptible)
        k.enabled &= ~(1 << me)
        if ticks and k.timers_mode is not Timers.NEVER:
            k.set_timer(ticks)
        if k.away(self.ops.timeout):
            await k.baton
        woken: Wake | None = th.wake
        if woken is None:
            return await self._time_out(th, back)
        if back is not None:
            await back.regain(me)
        else:
            k.trace.append(self.ops.resume.events[me])
        return woken

    async def _time_out(self, th: Thread, back: Interlock | None) -> Wake:
        k = self.k
        me = th.number
        sleep = th.sleep
        assert sleep is not None
        k.timer_fired()
        if sleep.interruptible:
            k.touch(signals_of(me), write=True)
        self.waiters.remove(me)
        # Was what it waited for there all the time? Only this moment can tell; what it means is for the checks.
        k.trace.append((me, self.ops.timeout, _holds(sleep.until, self)))
        th.sleep = None
        th.wake = Wake.TIMEOUT
        if back is not None:
            back.ask(me)
            op = k.pend[me]
            assert op is not None
            if k.away(op):
                await k.baton
            await back.regain(me)
        return Wake.TIMEOUT

    async def _wake_first(self) -> None:
        """Wake the most urgent sleeper, the longest asleep among equals, if there is one."""
        k = self.k
        if k.away(self.ops.wake_one):
            await k.baton
        if self.waiters:
            first = self.waiters[0]
            k.trace.append((k.cur, self.ops.wake_one, (first,)))
            self._wake(first, Wake.WOKEN)
        else:
            k.trace.append(self.ops.wake_one.events[k.cur])

    async def _wake_all(self) -> None:
        """Wake all sleepers, if there are any."""
        k = self.k
        if k.away(self.ops.wake_all):
            await k.baton
        if self.waiters:
            woken = tuple(self.waiters)
            k.trace.append((k.cur, self.ops.wake_all, woken))
            for t in woken:
                self._wake(t, Wake.WOKEN)
        else:
            k.trace.append(self.ops.wake_all.events[k.cur])

    async def wake_these(self, choose: Callable[[], Iterable[int]]) -> tuple[int, ...]:
        """Wake those who are chosen in the waker's step, for policies of wakeup; who they were. Sleeps: no.

        Args:
            choose: pure; the numbers of threads that sleep here.
        """
        k = self.k
        if k.away(self.ops.wake_all):
            await k.baton
        woken = tuple(choose())
        if not woken:
            k.trace.append(self.ops.wake_all.events[k.cur])
            return woken
        k.trace.append((k.cur, self.ops.wake_all, woken))
        for t in woken:
            self._wake(t, Wake.WOKEN)
        return woken

    def _wake(self, t: int, how: Wake) -> None:
        """Take thread `t` off the queue and let it go on; a part of the waker's step."""
        k = self.k
        th = k.threads[t]
        sleep = th.sleep
        assert sleep is not None
        if sleep.interruptible:
            k.touch(signals_of(t), write=True)
        self.waiters.remove(t)
        th.wake = how
        th.sleep = None
        k.timers.pop(t, None)
        back = sleep.relock
        if back is not None:
            back.ask(t)
        else:
            k.pend[t] = self.ops.resume
            k.enabled |= 1 << t

    def interrupt(self, thread: Thread) -> None:
        """A signal reaches an interruptible sleeper: it leaves the queue with `Wake.SIGNAL`."""
        self.k.touch(self.ident.number, write=True)
        self._wake(thread.number, Wake.SIGNAL)

    def _admit(self, interlock: Interlock | None) -> None:
        """The step of going to sleep begins: the place for a queue's own assertions about its interlock."""

    def _enqueue(self, th: Thread) -> None:
        threads = self.k.threads
        at = len(self.waiters)
        while at and threads[self.waiters[at - 1]].priority < th.priority:
            at -= 1
        self.waiters.insert(at, th.number)

    def _check_context(self, th: Thread, interlock: Interlock | None) -> None:
        """No sleeping in interrupt context, nor with a spin mutex held that is not the interlock."""
        k = self.k
        if not k.atomic >> th.number & 1:
            return
        own = 1 if interlock is not None and interlock.SPINS else 0
        if th.interrupt or th.spins > own:
            k.may_sleep(f"sleep on {self.ident.name}")

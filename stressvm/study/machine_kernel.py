"""The kernel of a simulated machine: it decides by time, and not by chance, who goes next.

A thread announces an operation. The machine lets it use its CPU for what that costs; then the operation is done, at once,
if it still can be. If it cannot, the thread spins, or leaves its CPU until it is made runnable again and gets one. So a
thread that is woken has to get a CPU first and to try again then, and others may have come before it.

Each thread has at most one event to come: the end of what it does on a CPU, the end of its spinning, or its deadline.
Everything is decided at the end of a step (`away`, `leave`): no CPU, no thread and no timer is ever polled.
"""

from __future__ import annotations

import random
from collections import deque
from heapq import heappop
from typing import TYPE_CHECKING, Any, cast

from stressvm.kernel.errors import Over, StressvmError, UsageError
from stressvm.kernel.kernel import Kernel, members
from stressvm.kernel.op import ENDED, NOTHING, Op
from stressvm.kernel.thread import frames_of
from stressvm.study.cpus import Cpus
from stressvm.study.proc import NEVER, OFF, RUNNING, SPINNING, Events, Plan, Proc, Waiting
from stressvm.study.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from stressvm.kernel.strategy import Strategy
    from stressvm.kernel.thread import Thread
    from stressvm.study.machine import Machine
    from stressvm.study.subscriber import Subscriber


class Draws:
    """The strategy of a machine: it draws data choices from the seed, and is never asked for a thread."""

    def __init__(self, seed: int | str) -> None:
        self.random = random.Random(f"{seed}/choices")

    def begin(self, number: int) -> None:
        """See Strategy."""

    def pick(self, k: Kernel, mask: int) -> int:
        """See Strategy."""
        raise NotImplementedError

    def choose(self, k: Kernel, n: int) -> int:  # noqa: ARG002 - see Strategy
        """See Strategy."""
        return self.random.getrandbits(32) * n >> 32

    def end(self, k: Kernel) -> None:
        """See Strategy."""


class MachineKernel(Cpus, Kernel):
    """See the module; for its calls see machine.py.

    Args:
        machine: what it is.
        until: when it ends, in ticks.
        subscriber: hears what happens.
        seed: of data choices and streams.
        keep: keep the trace, and never use a thread's number again.
    """

    def __init__(
        self, machine: Machine, until: int, subscriber: Subscriber, seed: int | str = 0, *, keep: bool = False
    ) -> None:
        super().__init__(hz=machine.hz, max_steps=NEVER)
        self.machine = machine
        self.until = until
        self.subscriber = subscriber
        self.seed = seed
        self.keep = keep
        for op in (self.choose_op, self.delay_op, self.record_op, self.signal_op, self.spawn_op, self.start_op):
            self.cover(op)
        self.cover(self.yield_op)
        # Operations are made with tables of events for so many threads.
        self.capacity = 0
        self.compute_op = self.cover(Op("compute", NOTHING, (), 0))

    def cover(self, op: Op) -> Op:
        """See Kernel. Events are made as they are needed: tables for thousands of threads would be large."""
        op.events = cast("Any", Events(op))
        return op

    def reset(self, strategy: Strategy) -> None:
        """See Kernel."""
        super().reset(strategy)
        self.procs: list[Proc] = []
        self.free: deque[int] = deque()
        self.plans: dict[Op, Plan] = {}
        self.heap: list[tuple[int, int, Proc]] = []
        self.serials = 0
        #: Threads that the last step has woken, and locks that it may have made free.
        self.woken: list[int] = []
        self.dirty: list[int] = []
        self.waiting: dict[int, Waiting] = {}
        #: Threads that are to be handed a lock now.
        self.grants: deque[Proc] = deque()
        self.owners: dict[int, int] = {}
        self.ended = ""
        self.trace = self.stream_ = Stream(self, keep=self.keep)
        # Nobody looks for races here.
        self.touched = cast("Any", deque(maxlen=0))
        self.picks = cast("Any", deque(maxlen=0))
        self.make_cpus(self.machine, self.subscriber)

    def start(self) -> None:
        """See Kernel. Nobody goes on a CPU before all have been made."""
        if not self.threads:
            raise UsageError("build() spawned no thread: call k.spawn(function, ...) or k.device(...) at least once")
        for p in self.procs:
            self.make_ready(p, None)
        self.advance()

    def stream(self, name: str) -> random.Random:
        """Random numbers for one purpose: they depend on the seed and the name alone. Use `random()` and `getrandbits()`."""
        return random.Random(f"{self.seed}/{name}")

    def spawn(
        self,
        fn: Callable[..., Coroutine[Any, Any, Any]],
        *args: Any,
        name: str | None = None,
        priority: int = 0,
        daemon: bool = False,
        interrupt: bool = False,
    ) -> Thread:
        """See Kernel. The number of a thread that has ended is used again."""
        p = self._enter(fn, args, name, priority, daemon=daemon, interrupt=interrupt)
        if self.cur >= 0:
            self.make_ready(p, self.procs[self.cur])
        return p.th

    def device(
        self, fn: Callable[..., Coroutine[Any, Any, Any]], *args: Any, name: str | None = None, daemon: bool = False
    ) -> Thread:
        """A thread that needs no CPU: what it does takes no time, but delays. See `spawn`.

        Args:
            fn: an `async def`.
            *args: passed to it.
            name: for reports.
            daemon: as for `spawn`: when only daemons are left, the simulation is done.
        """
        p = self._enter(fn, args, name, 0, daemon=daemon, interrupt=False)
        p.device = True
        if self.cur >= 0:
            self.make_ready(p, self.procs[self.cur])
        return p.th

    def _enter(
        self,
        fn: Callable[..., Coroutine[Any, Any, Any]],
        args: tuple[Any, ...],
        name: str | None,
        priority: int,
        *,
        daemon: bool,
        interrupt: bool,
    ) -> Proc:
        th = super().spawn(fn, *args, name=name, priority=priority, daemon=daemon, interrupt=interrupt)
        if self.free:
            # It takes the place of one that has ended.
            self.threads.pop()
            self.pend.pop()
            self.enabled ^= 1 << th.number
            self.atomic &= ~(1 << th.number)
            th.number = t = self.free.popleft()
            self.threads[t] = th
            self.pend[t] = self.start_op
            self.enabled |= 1 << t
            if interrupt:
                self.atomic |= 1 << t
            p = self.procs[t]
            p.serve(th)
        else:
            p = Proc(th)
            self.procs.append(p)
        self.subscriber.on_spawn(self.clock, p.t, th.name)
        return p

    def _more_threads(self) -> None:
        """There are no tables to be made longer."""

    def shut(self) -> None:
        """End the simulation at this step. Sleeps: no."""
        self.ended = "shut"

    async def compute(self, ticks: int) -> None:
        """Use the CPU for that many ticks; see `compute` in machine.py. Sleeps: no."""
        if ticks < 0:
            raise UsageError(f"compute({ticks}): ticks count up from 0")
        if self.procs[self.cur].device:
            raise UsageError("compute: a device has no CPU to use; it is k.delay() that takes its time")
        self.procs[self.cur].owed += ticks
        if self.away(self.compute_op):
            await self.baton
        self.trace.append((self.cur, self.compute_op, ticks))

    # ---------------------------------------------------------------- the end of a step

    def away(self, op: Op) -> bool:
        """See Kernel."""
        me = self.cur
        if self.over:
            raise Over
        self.pend[me] = op
        p = self.procs[me]
        try:
            if self.woken or self.dirty:
                self._settle(p)
            if p.remote:
                self._handed(p)
            elif self.enabled & p.bit or not self._leaves(p, op):
                when = self.clock + self.cost(p, op)
                if p.state is RUNNING and not self.grants and when <= p.slice_end and op is not self.yield_op:
                    heap = self.heap
                    while heap and heap[0][2].event != heap[0][1]:
                        heappop(heap)
                    if when <= self.until and (not heap or when < heap[0][0]) and not self.ended and self.can_go(p):
                        if not p.device:
                            self.charge(p, when)
                        self.clock = when
                        return False
                self.go_on(p, when - self.clock)
            self.advance()
        except StressvmError as exc:
            if not self.over:
                self.abort(exc)
            raise Over from None
        except Exception as exc:  # noqa: BLE001 - a policy's, or a subscriber's
            self.abort(UsageError(f"{type(exc).__name__}: {exc}{where(exc)}"))
            raise Over from None
        return self.cur != me

    def leave(self) -> None:
        """See Kernel."""
        me = self.cur
        th = self.threads[me]
        th.done = True
        self.alive -= 1
        if self.over:
            self.cur = -1
            return
        p = self.procs[me]
        self.pend[me] = self.start_op
        self.enabled = self.enabled & ~p.bit | th.joiners
        self.atomic &= ~p.bit
        if th.joiners:
            self.woken.extend(members(th.joiners))
        if th.daemon:
            self.daemons.remove(th)
        try:
            self._settle(p)
            self.subscriber.on_exit(self.clock, me)
            if p.state is RUNNING and not p.device:
                self.release_cpu(p)
            p.state = OFF
            p.event = 0
            if not self.keep:
                self.free.append(me)
            self.advance()
        except Exception as exc:  # noqa: BLE001 - no thread is left here that could carry it
            self.abort(
                exc if isinstance(exc, StressvmError) else UsageError(f"{type(exc).__name__}: {exc}{where(exc)}")
            )
            self.cur = -1

    def _leaves(self, p: Proc, op: Op) -> bool:
        """The thread cannot do what it has announced. True if it has left its CPU already, False if it has yet to try."""
        t = p.t
        th = p.th
        deadline = self.timers.get(t)
        if deadline is not None or th.sleep is not None:
            p.state, was = OFF, p.state
            sleep = th.sleep
            self.off_cpu(p, was)
            if sleep is not None:
                self.subscriber.on_block(self.clock, t, sleep.queue.ident, "sleep")
            else:
                self.subscriber.on_block(self.clock, t, NOTHING, "delay")
            if deadline is not None:
                self.at(p, deadline)
            return True
        if op.needs == ENDED:
            p.state, was = OFF, p.state
            self.off_cpu(p, was)
            self.subscriber.on_block(self.clock, t, op.obj, "join")
            return True
        last = self.stream_.last
        if last[0] == t and self.plan(last[1]).block:
            # It has queued, by a policy of the lock's own.
            self.wait_for_lock(p, op)
            return True
        return False

    def _handed(self, p: Proc) -> None:
        """It has been handed a lock, perhaps without a CPU; now it has to get one to go on."""
        p.remote = False
        if p.device or p.state is RUNNING:
            self.go_on(p, self.cost(p, cast("Op", self.pend[p.t])))
            return
        deadline = self.timers.get(p.t)
        if deadline is not None and p.th.sleep is None:
            p.pause = deadline - self.clock
        self.make_ready(p, self.waker)

    def _settle(self, p: Proc) -> None:
        """Who has been woken by the last step, and which locks have become free?"""
        woken, self.woken = self.woken, []
        for t in woken:
            q = self.procs[t]
            if q.state is OFF and q.th.sleep is None and not q.th.done:
                p.owed += self.costs.wake
                self.subscriber.on_wake(self.clock, t, p.t)
                self.make_ready(q, p)
        dirty, self.dirty = self.dirty, []
        self.waker = p
        for number in dirty:
            self.lock_freed(number, p)

    # ---------------------------------------------------------------- time

    def advance(self) -> None:
        """Go on to whoever does the next step: he is `cur`; -1 if nobody does."""
        heap = self.heap
        while True:
            if self.ended:
                self.close(self.clock)
                self.cur = -1
                return
            if self.grants:
                p = self.grants.popleft()
                if self.enabled & p.bit:
                    p.remote = True
                    self.cur = p.t
                    return
                self.wait_for_lock(p, cast("Op", self.pend[p.t]))
                continue
            if not heap or self.alive == len(self.daemons):
                self.ended = "done" if self.alive == len(self.daemons) else "stuck"
                continue
            when, serial, p = heap[0]
            if p.event != serial:
                heappop(heap)
                continue
            if when > self.until:
                self.close(self.until)
                self.ended = "until"
                self.cur = -1
                return
            heappop(heap)
            p.event = 0
            self.clock = when
            if p.state is RUNNING:
                if self._done(p):
                    self.cur = p.t
                    return
            elif p.state is SPINNING:
                self.stop_spinning(p)
            else:
                self.subscriber.on_wake(when, p.t, -1)
                self.make_ready(p, None)

    def _done(self, p: Proc) -> bool:
        """What a thread did on its CPU is done, or its quantum is over. True if it does its operation now."""
        if not p.device:
            self.charge(p, self.clock)
            if p.need:
                self.end_of_slice(p)
                return False
        if p.pause >= 0:
            self.timers[p.t] = self.clock + p.pause
            p.pause = -1
            p.state = OFF
            self.off_cpu(p, RUNNING)
            self.at(p, self.timers[p.t])
            return False
        if self.can_go(p):
            if p.tried >= 0:
                self.tries(p)
            return True
        op = cast("Op", self.pend[p.t])
        if p.tried >= 0:
            self.tries(p)
        if not self._leaves(p, op):
            self.contend(p, op)
        return False


def where(exc: BaseException) -> str:
    """The innermost line in a traceback that is not the kernel's, in brackets."""
    frames = [frame for frame in frames_of(exc.__traceback__) if not frame.ours]
    return f" ({frames[-1].file}:{frames[-1].line} in {frames[-1].function})" if frames else ""

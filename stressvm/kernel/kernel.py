"""The kernel: who runs, who may run next, what has happened.

One `Kernel` serves one execution after another (`reset`). It holds the set of enabled threads as an int of bits,
kept up to date by the operations themselves: asking every thread at every step would cost more than all the
rest. A thread announces its next visible operation with `away`; the answer says whether another thread goes
first, and only then does the thread hand over the baton:

    if k.away(self.lock_op):
        await k.baton
    ...the operation itself, at once, with no further switch...
    k.trace.append(self.lock_op.events[k.cur])

`away` is the hot path. It is synchronous and allocates nothing; everything rare (no thread enabled, an execution
that has ended) is behind a branch. `k.baton` belongs to the driver: nothing else here knows how switching is done.
"""

from __future__ import annotations

import enum
import gc
from dataclasses import dataclass
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakSet

from stressvm.kernel.errors import InternalError, Over, Panic, UsageError
from stressvm.kernel.op import (
    CLOCK,
    ENDED,
    NOTHING,
    OBJECTS,
    READ,
    THREADS,
    THREADS_AT_FIRST,
    WRITE,
    Event,
    ObjectId,
    Op,
    end_of,
    fires_of,
    signals_of,
)
from stressvm.kernel.strategy import Prologue, Strategy
from stressvm.kernel.thread import Thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from stressvm.kernel.object import KernelObject

Ops = TypeVar("Ops")
Made = TypeVar("Made")

#: Alternatives of a data choice; strategies draw 32 bits.
CHOICES_MAX: Final = 1 << 32

#: With more kernel objects a world is large; with more young objects it pays to collect them.
OBJECTS_MANY: Final = 16
YOUNG_MANY: Final = 250

#: A timer that keeps re-arming without progress fires this often in one operation, then no more.
FIRES_MAX: Final = 2


class Timers(enum.Enum):
    """When a timed sleep may time out. `delay` is no wait for anything: it always ends, as under IDLE.

    IDLE: only when nothing else can run; time then jumps to the earliest deadline.
    NEVER: never; a sleeper that nobody wakes sleeps for ever.
    ANYTIME: at every point, as a choice, in any order: all that a slow machine could do, and a little more.
    """

    IDLE = "idle"
    NEVER = "never"
    ANYTIME = "anytime"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an execution was stopped from inside: the kind of finding, what happened, in which thread (-1: none).

    `site` tells it from others of its kind, if the function that it happened in does not.
    """

    kind: str
    text: str
    thread: int
    site: str = ""


class Kernel:
    """A small kernel for one execution at a time; what a scenario gets as its first argument.

    Scenarios use: `spawn`, `join`, `yield_`, `delay`, `choose`, `record`, `progress`, `psignal`, `take_signal`,
    `now`, `hz`.
    """

    __slots__ = (
        "alive",
        "asides",
        "atomic",
        "baton",
        "cache",
        "capacity",
        "choose_op",
        "clock",
        "cur",
        "daemons",
        "delay_op",
        "enabled",
        "fatal",
        "fired",
        "hz",
        "join_ops",
        "limit",
        "max_steps",
        "objects",
        "over",
        "pend",
        "picks",
        "progress_step",
        "record_op",
        "serial",
        "signal_op",
        "singletons",
        "spawn_op",
        "start_op",
        "strategy",
        "thread_ops",
        "threads",
        "timers",
        "timers_mode",
        "touched",
        "trace",
        "trouble",
        "yield_op",
    )

    def __init__(self, *, hz: int = 100, timers: Timers = Timers.IDLE, max_steps: int = 10_000) -> None:
        self.hz = hz
        self.timers_mode = timers
        self.max_steps = max_steps
        self.baton: Awaitable[None] = NO_BATON
        self.cache: list[tuple[str, str | None, ObjectId, Any]] = []
        self.capacity = THREADS_AT_FIRST
        self.thread_ops: WeakSet[Op] = WeakSet()
        self.choose_op = Op("choose", NOTHING, (), self.capacity)
        self.delay_op = Op("delay", NOTHING, (), self.capacity, beside=self.ticking())
        self.join_ops: dict[int, Op] = {}
        self.record_op = Op("record", NOTHING, (), self.capacity)
        self.signal_op = Op("signal", NOTHING, (), self.capacity)
        self.spawn_op = Op("spawn", NOTHING, (), self.capacity, beside=((THREADS, WRITE),))
        self.start_op = Op("start", NOTHING, (), self.capacity)
        self.yield_op = Op("yield", NOTHING, (), self.capacity)
        self.threads: list[Thread] = []
        self.objects: list[KernelObject] = []
        self.trace: list[Event] = []
        self.cur = -1
        self.alive = 0
        self.over = True
        #: What steps access beyond what their operations say, as (length of the trace, thread, number, READ or WRITE).
        self.touched: list[tuple[int, int, int, bool]] = []
        #: Ranges of `touched` that are the looks of predicates, which are no code of the program's.
        self.asides: list[tuple[int, int]] = []
        #: Counts executions, for whoever wants to know whether it is still the same one.
        self.serial = 0

    # ---------------------------------------------------------------- one execution, from the driver's side

    def reset(self, strategy: Strategy) -> None:
        """Forget the last execution; operations made for its objects are kept, by number of object."""
        self.serial += 1
        large = len(self.objects) > OBJECTS_MANY
        self.strategy = strategy
        self.cur = -1
        self.enabled = 0
        self.atomic = 0
        self.alive = 0
        self.clock = 0
        self.fired = 0
        self.limit = self.max_steps
        self.over = False
        self.trouble: Trouble | None = None
        #: An error of the caller's or our own, met inside a thread: not a finding; whoever runs executions raises it.
        self.fatal: BaseException | None = None
        self.progress_step = 0
        self.threads = []
        self.daemons: list[Thread] = []
        self.pend: list[Op | None] = []
        self.trace = []
        self.touched = []
        self.asides = []
        self.picks: list[int] = []
        self.timers: dict[int, int] = {}
        self.objects = []
        self.singletons: dict[str, Any] = {}
        if large:
            self._sweep()

    def _sweep(self) -> None:
        """Collect the world that has just been forgotten: a large one hangs together in circles.

        Now it is all that is young. In the middle of an execution, when the collector comes by itself, the next world is
        gone over as well, and kept for a second, longer collection. Now and then it is left to the collector all the same,
        for the sake of what is older.
        """
        if self.serial % 64 >= 4 and gc.isenabled() and gc.get_count()[0] > YOUNG_MANY:
            gc.collect(0)

    def start(self) -> None:
        """The world is built: thread 0 goes first, as far as its first announcement."""
        if not self.threads:
            raise UsageError("the scenario spawned no thread: call k.spawn(function, ...) at least once")
        self.strategy = Prologue(self.strategy)
        self.cur = 0

    def leave(self) -> None:
        """The current thread has ended: choose who goes on (`cur` is -1 when nobody can)."""
        me = self.cur
        th = self.threads[me]
        th.done = True
        self.alive -= 1
        self.progress_step = len(self.trace)
        if self.over:
            self.cur = -1
            return
        self.pend[me] = self.start_op
        mask = self.enabled = self.enabled & ~(1 << me) | th.joiners
        try:
            if mask & (mask - 1):
                nxt = self.strategy.pick(self, mask)
                self.picks.append(nxt)
                self.cur = nxt
            elif mask:
                self.cur = mask.bit_length() - 1
            else:
                self._idle()
        except Exception as exc:  # noqa: BLE001 - no thread is left here that could carry it
            self.abort(exc)
            self.cur = -1

    def finish(self) -> None:
        """The execution is over, however it went: from here on every operation raises `Over`."""
        self.over = True
        self.limit = -1
        self.strategy.end(self)

    def abandon(self) -> None:
        """Whoever runs executions was interrupted, perhaps in the middle of one: it is over, with no verdict."""
        self.over = True
        self.limit = -1

    def stop(self, kind: str, text: str, site: str = "") -> None:
        """End the execution from inside, at the current thread's step, with a reason; the first reason counts."""
        if not self.over:
            self.trouble = Trouble(kind, text, self.cur, site)
        self.over = True
        self.limit = -1

    def abort(self, exc: BaseException) -> None:
        """End the execution because of an error that is no finding."""
        self.fatal = self.fatal or exc
        self.stop("aborted", str(exc))

    def panic(self, text: str, kind: str = "panic") -> Panic:
        """The exception for `raise k.panic(...)`: noted here first, so that no `except` can swallow it."""
        self.stop(kind, text)
        return Panic(text)

    def violation(self, owner: str, invariant: str, wrong: str) -> Panic:
        """The exception for `raise k.violation(...)`: of what a named invariant is asked, and what is wrong."""
        text = f"{owner}: {invariant}: {wrong}"
        self.stop("invariant", text, invariant)
        return Panic(text)

    # ---------------------------------------------------------------- the hot path

    def away(self, op: Op) -> bool:
        """Announce `op`. True: another thread goes first, the caller must await the baton."""
        me = self.cur
        self.pend[me] = op
        if len(self.trace) >= self.limit:
            self._at_limit()
        mask = self.enabled
        if not mask & (mask - 1):
            # Nobody to choose between: no draw, and no choice in the schedule.
            if mask == 1 << me:
                return False
            if mask:
                self.cur = mask.bit_length() - 1
                return True
            self._idle()
            return self.cur != me
        nxt = self.strategy.pick(self, mask)
        self.picks.append(nxt)
        if nxt == me:
            return False
        self.cur = nxt
        return True

    def _at_limit(self) -> None:
        if not self.over:
            quiet = len(self.trace) - self.progress_step
            if quiet > self.max_steps // 2:
                self.stop("livelock", f"{self.max_steps} steps, and no progress in the last {quiet}")
            else:
                self.stop("too-long", f"{self.max_steps} steps, and still making progress; raise max_steps")
        raise Over

    def _idle(self) -> None:
        """Nothing is enabled: virtual time jumps to the next timer that may fire; without one, nobody goes on."""
        threads = self.threads
        due = 0
        deadline = 0
        for t, when in self.timers.items():
            th = threads[t]
            if th.fires >= FIRES_MAX and (th.sleep is not None or th.daemon):
                continue
            if not due or when < deadline:
                due, deadline = 1 << t, when
            elif when == deadline:
                due |= 1 << t
        if not due:
            self.cur = -1
            return
        self.clock = max(self.clock, deadline)
        if due & (due - 1):
            self.cur = self.strategy.pick(self, due)
            self.picks.append(self.cur)
        else:
            self.cur = due.bit_length() - 1

    # ---------------------------------------------------------------- timers of sleeping threads

    @property
    def now(self) -> int:
        """Virtual time, ticks."""
        return self.clock

    def ticking(self) -> tuple[tuple[int, bool], ...]:
        """What an operation that waits for its time accesses, for it to be ordered with all others of its like.

        Under ANYTIME they come in any order: time is no more than a number then.
        """
        return () if self.timers_mode is Timers.ANYTIME else ((CLOCK, WRITE),)

    def set_timer(self, ticks: int) -> None:
        """The current thread, about to sleep, may time out after that many ticks."""
        me = self.cur
        th = self.threads[me]
        self.timers[me] = self.clock + ticks
        self._touch_fires(th, write=True)
        if self.timers_mode is Timers.ANYTIME and th.fires < FIRES_MAX:
            self.enabled |= 1 << me

    def timer_fired(self) -> None:
        """The current thread runs because its timer fired, not because it was woken."""
        me = self.cur
        when = self.timers.pop(me)
        self.clock = max(self.clock, when)
        th = self.threads[me]
        th.fires += 1
        self._touch_fires(th, write=True)
        self.fired += 1
        self.enabled |= 1 << me

    def _touch_fires(self, th: Thread, *, write: bool) -> None:
        """Others can let a daemon's timers fire anew, by progress; it matters only where they fire at any time.

        Progress reads, for two that make progress do not depend on each other.
        """
        if th.daemon and self.timers_mode is Timers.ANYTIME:
            self.touch(fires_of(th.number), write=write)

    def candidates(self, mask: int) -> list[int]:
        """The threads of a mask in the order in which schedules number them.

        The current thread, the others by number, then those that would time out, by deadline.
        """
        timers = self.timers
        ready = [t for t in members(mask) if t not in timers]
        if self.cur in ready:
            ready.remove(self.cur)
            ready.insert(0, self.cur)
        return ready + sorted((t for t in members(mask) if t in timers), key=lambda t: (timers[t], t))

    # ---------------------------------------------------------------- objects

    def adopt(
        self, obj: KernelObject, kind: str, name: str | None, make: Callable[[Kernel, ObjectId], Ops]
    ) -> tuple[ObjectId, Ops]:
        """Number a new object and give it its operations, those of the last execution if it is the same one."""
        objects = self.objects
        n = len(objects)
        objects.append(obj)
        if self.cur >= 0:
            self.touch(OBJECTS, write=True)
        cache = self.cache
        if n < len(cache):
            old_kind, old_name, ident, ops = cache[n]
            if old_kind == kind and old_name == name:
                return ident, ops
        ident = ObjectId(n, kind, name if name is not None else f"{kind}{n}")
        made = make(self, ident)
        entry = (kind, name, ident, made)
        if n < len(cache):
            cache[n] = entry
        else:
            cache.append(entry)
        return ident, made

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What exists once in a kernel, such as a global lock: made when first asked for in an execution."""
        if name not in self.singletons:
            self.singletons[name] = make()
        made: Made = self.singletons[name]
        return made

    def op(
        self,
        kind: str,
        obj: ObjectId,
        *,
        write: bool,
        also: Iterable[tuple[int, bool]] = (),
        needs: int = 0,
        beside: Iterable[tuple[int, bool]] = (),
    ) -> Op:
        """An operation on an object, for `adopt`'s `make`; see `Op` for what it needs and what it touches beside."""
        accesses = ((obj.number, WRITE if write else READ), *also)
        return self.cover(Op(kind, obj, accesses, self.capacity, needs=needs, beside=beside))

    def touch(self, number: int, *, write: bool) -> None:
        """The current step also accesses that: an object, by its number, or what else is numbered in op.py.

        For what is used in a step of another object's operation, and not protected by a lock that every user holds: a
        cell that some look at under a lock and others without, say. It tells which steps could change places, and which
        races there are. While the world is built, or is at rest, it does nothing.
        """
        if self.cur >= 0:
            self.touched.append((len(self.trace), self.cur, number, write))

    def cover(self, op: Op) -> Op:
        """Keep an operation's events in step with the number of threads."""
        self.thread_ops.add(op)
        return op

    # ---------------------------------------------------------------- what scenarios use

    def spawn(
        self,
        fn: Callable[..., Coroutine[Any, Any, Any]],
        *args: Any,
        name: str | None = None,
        priority: int = 0,
        daemon: bool = False,
        interrupt: bool = False,
    ) -> Thread:
        """A new kernel thread running `await fn(*args)`.

        Callable while the world is built and from other threads; a thread spawned by a thread takes a first step
        of its own, `start`. May not sleep. A higher `priority` is woken first where the kernel's queues care.

        Args:
            fn: an `async def`.
            *args: passed to it.
            name: for reports; the function's name and the thread's number by default.
            priority: larger is more urgent.
            daemon: may be asleep at the end, and its timers keep no execution going.
            interrupt: stands for an interrupt handler: any attempt to sleep panics.

        Raises:
            UsageError: `fn` is not an async function.
        """
        if self.over:
            raise Over
        coro = fn(*args)
        if type(coro) is not CoroutineType:
            raise UsageError(f"k.spawn({getattr(fn, '__name__', fn)!s}): a kernel thread must be an async function")
        number = len(self.threads)
        if number >= self.capacity:
            self._more_threads()
        th = Thread(number, name, coro)
        if priority:
            th.priority = priority
        if daemon:
            th.daemon = True
            self.daemons.append(th)
        if interrupt:
            th.interrupt = True
            self.atomic |= 1 << number
        self.threads.append(th)
        self.enabled |= 1 << number
        self.alive += 1
        if self.cur < 0:
            self.pend.append(None)
        else:
            self.pend.append(self.start_op)
            self.trace.append((self.cur, self.spawn_op, number))
        return th

    def _more_threads(self) -> None:
        self.capacity *= 2
        fixed = (
            self.choose_op,
            self.delay_op,
            self.record_op,
            self.signal_op,
            self.spawn_op,
            self.start_op,
            self.yield_op,
        )
        for op in (*fixed, *self.thread_ops):
            op.cover(self.capacity)

    async def join(self, thread: Thread) -> Any:
        """Wait until a thread has ended; its return value. Sleeps. Joining oneself is a panic."""
        me = self.cur
        if thread.number == me:
            raise self.panic(f"{thread.name} joins itself")
        if self.atomic >> me & 1:
            self.may_sleep(f"join {thread.name}")
        if not thread.done:
            thread.joiners |= 1 << me
            self.enabled &= ~(1 << me)
            self.threads[me].joining = thread
        op = self.join_ops.get(thread.number)
        if op is None or op.obj.name != thread.name:
            end = ((end_of(thread.number), READ),)
            op = self.cover(Op("join", ObjectId(-1, "thread", thread.name), (), self.capacity, needs=ENDED, beside=end))
            self.join_ops[thread.number] = op
        if self.away(op):
            await self.baton
        self.threads[me].joining = None
        self.trace.append((me, op, thread.number))
        return thread.result

    async def yield_(self) -> None:
        """Let others go first, if the strategy agrees; a visible operation on nothing."""
        if self.away(self.yield_op):
            await self.baton
        self.trace.append(self.yield_op.events[self.cur])

    async def delay(self, ticks: int) -> None:
        """Do nothing for that many ticks of virtual time (`k.hz` to the second). Sleeps; nothing wakes it earlier."""
        if ticks < 0:
            raise UsageError(f"k.delay({ticks}): ticks count up from 0")
        self.may_sleep("delay")
        me = self.cur
        self.timers[me] = self.clock + ticks
        th = self.threads[me]
        self._touch_fires(th, write=True)
        if self.timers_mode is not Timers.ANYTIME or (th.daemon and th.fires >= FIRES_MAX):
            self.enabled &= ~(1 << me)
        if self.away(self.delay_op):
            await self.baton
        self.timer_fired()
        if not th.daemon:
            th.fires -= 1
        self.trace.append((me, self.delay_op, ticks))

    def choose(self, n: int) -> int:
        """A data choice: some integer from 0 to n-1, every one of which is tried sooner or later. No switch."""
        if self.over:
            raise Over
        if n < 1:
            raise UsageError(f"k.choose({n}): there must be at least one alternative")
        if n > CHOICES_MAX:
            raise UsageError(f"k.choose({n}): at most {CHOICES_MAX} alternatives can be told apart")
        value = 0
        if n > 1:
            value = self.strategy.choose(self, n)
            if not 0 <= value < n:
                raise InternalError(f"the strategy chose {value} of {n}")
            self.picks.append(value)
        self.trace.append((self.cur, self.choose_op, (value, n)))
        return value

    def record(self, **facts: Any) -> None:
        """Note facts about the current thread in the trace (for reports and checks). Marks progress."""
        self.trace.append((self.cur, self.record_op, facts))
        self.progress()

    def progress(self) -> None:
        """The current thread has completed something: its timers may fire anew, and no livelock is in sight."""
        self.progress_step = len(self.trace)
        me = self.cur
        if me >= 0:
            th = self.threads[me]
            th.fires = 0
            if not th.daemon:
                for other in self.daemons:
                    self._touch_fires(other, write=False)
                    if other.fires:
                        other.fires = 0
                        if self.timers_mode is Timers.ANYTIME and other.number in self.timers:
                            self.enabled |= 1 << other.number

    def psignal(self, thread: Thread) -> None:
        """Post a signal to a thread: an interruptible sleep ends with SIGNAL, now or when next tried. No switch.

        It belongs to the step that the caller is in.
        """
        if self.over:
            raise Over
        self.trace.append((self.cur, self.signal_op, thread.number))
        sleep = thread.sleep
        self.touch(signals_of(thread.number), write=True)
        if sleep is not None and sleep.interruptible:
            sleep.queue.interrupt(thread)
        else:
            thread.signal = True

    def take_signal(self) -> bool:
        """Take the signal that is pending for the current thread; was there one? It belongs to the step it is in."""
        th = self.threads[self.cur]
        self.touch(signals_of(th.number), write=True)
        signal, th.signal = th.signal, False
        return signal

    def may_sleep(self, what: str) -> None:
        """Panic where the current thread must not sleep: an interrupt handler, or a spin mutex held."""
        if not self.atomic >> self.cur & 1:
            return
        th = self.threads[self.cur]
        if th.interrupt:
            raise self.panic(f"{th.name}: {what} in interrupt context, where sleeping is not allowed", "sleep-rule")
        raise self.panic(f"{th.name}: {what} with a spin mutex held", "sleep-rule")


class _NoBaton:
    """Stands where no driver has put its baton yet."""

    def __await__(self) -> Any:
        raise InternalError("a kernel operation was awaited outside an execution")


NO_BATON: Final = _NoBaton()

#: The numbers of the bits set in a mask, for masks met so far; hot paths look here before they call `members`.
MEMBERS: Final[dict[int, list[int]]] = {}
_MEMBERS_MAX: Final = 1 << 16


def members(mask: int) -> list[int]:
    """The numbers of the bits set, ascending; a table, filled as needed. Do not change the list."""
    try:
        return MEMBERS[mask]
    except KeyError:
        if len(MEMBERS) >= _MEMBERS_MAX:
            MEMBERS.clear()
        found = MEMBERS[mask] = [t for t in range(mask.bit_length()) if mask >> t & 1]
        return found

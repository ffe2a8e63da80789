"""What is ordered before what, by the synchronization of an execution: vector clocks, and what each operation does to them.

An order is made by what the modelled kernel promises: a lock's release and its next acquisition (readers of a
reader-writer lock are not ordered among each other), a store to an atomic and the loads after it, a unit put into a
semaphore and those taken later, a wakeup and the sleeper that it wakes, a signal and the sleep that it ends, spawn and first
step, end and join. No order is made
by tries that fail, by waiting in a queue, by two wakeups of one channel, by virtual time: no machine would let code rely on
those. Operations on objects of other types order each other as their accesses say.

This is not the relation by which executions are of one class (happens_before.py), which has every order of two accesses
to a thing: that a lock was taken by this thread first is a fact about an execution, but orders nothing that was done before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.check.locks import Effect, effect_of
from stressvm.kernel.thread import Wake

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.kernel.op import Event, Op

#: Types of objects that are plain data: their accesses make no order, and must have one.
DATA: Final = frozenset({"cell", "field"})

# What an operation does to clocks. A thread's clock is C; what an object hands on to whoever acquires it is H, and what
# its readers leave for its next writer is R. Those that are plain data come first.
#: A use of data, reading or changing it.
READ: Final = 0
WRITE: Final = 1
#: Nothing.
NONE: Final = 2
#: C takes in H, the clock of the last release.
LOCK: Final = 3
#: H is C.
UNLOCK: Final = 4
#: C takes in H: an atomic's load, a unit of a semaphore.
JOIN: Final = 5
#: H takes in C: an atomic's store, a unit put back.
ADD: Final = 6
#: Both, in that order.
MODIFY: Final = 7
#: As JOIN: the thread is now a reader.
LOCK_SHARED: Final = 8
#: C takes in H and R: the thread is now the writer.
LOCK_ALONE: Final = 9
#: By the writer H is C; by a reader R takes in C.
UNLOCK_EITHER: Final = 10
#: H is C, and the writer a reader.
DOWNGRADE: Final = 11
#: As the interlock's release, if there is one; C takes in what was posted, if that kept it from sleeping.
SLEEP: Final = 12
#: Clocks of the threads that the argument names take in C.
LET_GO: Final = 13
#: C takes in the clock of the thread that the argument names.
ENDED: Final = 14
#: What was posted to the thread that the argument names takes in C.
POST: Final = 15
#: Whoever writes takes in H and R, whoever reads H; then H is C, or R takes in C.
ORDERED: Final = 16

_BY_EFFECT: Final = {
    Effect.REFUSED: NONE,
    Effect.QUEUED: NONE,
    Effect.QUEUED_SHARED: NONE,
    Effect.TIMER: NONE,
    Effect.NOTHING: NONE,
    Effect.LOCK_SHARED: LOCK_SHARED,
    Effect.TRY_SHARED: LOCK_SHARED,
    Effect.UPGRADE: LOCK_ALONE,
    Effect.DOWNGRADE: DOWNGRADE,
    Effect.SLEEP: SLEEP,
    Effect.WAKE: LET_GO,
    Effect.SPAWN: LET_GO,
    Effect.POST: POST,
    Effect.JOIN: ENDED,
}
_OF_DATA: Final = {Effect.READ: READ, Effect.WRITE: WRITE, Effect.MODIFY: WRITE}
_OF_ATOMICS: Final = {Effect.READ: JOIN, Effect.WRITE: ADD, Effect.MODIFY: MODIFY}
_OF_SEMAPHORES: Final = {"sema_wait": JOIN, "sema_trywait": JOIN, "sema_trywait-failed": NONE, "sema_post": ADD}

_SHARED: Final = frozenset({"rwlock", "sx"})


def role_of(op: Op) -> int:
    """What an operation does to clocks: one of the numbers above.

    Raises:
        UsageError: it is of a kind that objects of its type do not have.
    """
    effect = effect_of(op)
    kind = op.obj.type
    if kind in DATA:
        return _OF_DATA[effect]
    if kind == "atomic":
        return _OF_ATOMICS[effect]
    if kind == "semaphore":
        return _OF_SEMAPHORES[op.kind]
    if effect in _BY_EFFECT:
        return _BY_EFFECT[effect]
    if effect is Effect.UNLOCK:
        return UNLOCK_EITHER if kind in _SHARED else UNLOCK
    if effect in (Effect.LOCK, Effect.TRY):
        return LOCK_ALONE if kind in _SHARED else LOCK
    return NONE if op.kind.endswith("-failed") or not op.accesses else ORDERED


def named(arg: object) -> tuple[int, ...]:
    """The threads that the argument of a wakeup, a spawn or a signal names."""
    if isinstance(arg, tuple):
        return arg
    return (arg,) if isinstance(arg, int) else ()


class Order:
    """Follows an execution, event by event; every thread's clock counts its own events.

    Args:
        threads: how many there are.
    """

    def __init__(self, threads: int) -> None:
        self.zero = [0] * threads
        #: The clocks of all threads, never changed in place.
        self.now = [self.zero] * threads
        self.handed: dict[int, list[int]] = {}
        self.read: dict[int, list[int]] = {}
        self.writers: dict[int, int] = {}
        #: By thread, what was posted to it.
        self.posted: dict[int, list[int]] = {}

    def take(self, event: Event) -> list[int]:
        """The clock of the next event, itself counted."""
        t, op, arg = event
        if t < 0:
            return self.zero
        role = role_of(op)
        number = op.obj.number
        clock = self.now[t][:]
        clock[t] += 1
        if role in (LOCK, JOIN, MODIFY, LOCK_SHARED, LOCK_ALONE):
            clock = _joined(clock, self.handed.get(number))
        if role == LOCK_ALONE:
            clock = _joined(clock, self.read.get(number))
            self.writers[number] = t
        elif role == LOCK_SHARED and self.writers.get(number) == t:
            # It had given the lock up by going to sleep.
            del self.writers[number]
        elif role == ENDED:
            clock = _joined(clock, self.now[arg])
        elif role == SLEEP and arg is Wake.SIGNAL:
            clock = _joined(clock, self.posted.get(t))
        elif role == ORDERED:
            clock = self._after_others(op, clock)
        self.now[t] = clock
        self._hand_on(t, op, arg, role)
        return clock

    def _after_others(self, op: Op, clock: list[int]) -> list[int]:
        for number, write in op.accesses:
            clock = _joined(clock, self.handed.get(number))
            if write:
                clock = _joined(clock, self.read.get(number))
        return clock

    def _hand_on(self, t: int, op: Op, arg: object, role: int) -> None:
        number = op.obj.number
        clock = self.now[t]
        if role == UNLOCK or (role == UNLOCK_EITHER and self.writers.get(number) == t):
            self.writers.pop(number, None)
            self.handed[number] = clock
        elif role == UNLOCK_EITHER:
            self.read[number] = _joined(clock, self.read.get(number))
        elif role in (ADD, MODIFY):
            self.handed[number] = _joined(clock, self.handed.get(number))
        elif role == DOWNGRADE:
            self.writers.pop(number, None)
            self.handed[number] = clock
        elif role == SLEEP:
            # Interrupted at once it keeps the interlock, unless it is to be dropped.
            for interlock, _ in op.accesses[1:]:
                self.handed[interlock] = clock
                if arg is not Wake.SIGNAL:
                    self.writers.pop(interlock, None)
        elif role == LET_GO:
            for other in named(arg):
                self.now[other] = _joined(self.now[other], clock)
        elif role == POST:
            for other in named(arg):
                self.posted[other] = _joined(clock, self.posted.get(other))
        elif role == ORDERED:
            for other, write in op.accesses:
                if write:
                    self.handed[other] = clock
                else:
                    self.read[other] = _joined(clock, self.read.get(other))


def _joined(clock: list[int], other: list[int] | None) -> list[int]:
    return clock if other is None else list(map(max, clock, other))


def clocks(trace: Sequence[Event]) -> list[list[int]]:
    """The clock of every event: how many events of each thread come before it, its own included.

    (That a signal ends a sleep is not in the trace; races.py knows it from what was touched.)

    Of two events neither comes before the other if each has more events of its own thread in its clock than the other has.
    """
    threads = 1 + max((t for t, _, _ in trace), default=-1)
    threads = max(threads, 1 + max((arg for _, op, arg in trace if op.kind == "spawn"), default=-1))
    order = Order(threads)
    return [order.take(event) for event in trace]

"""What traces say of locks: which operation acquires, which releases, and what each thread holds at any step.

`EFFECTS` is the one place that knows what an operation does, by the type of its object and its kind. The rest is an
automaton: a state is what a thread holds, in order of acquisition; an operation leads from one to the next. Programs
nest few locks in few ways, so after a few executions every transition is known, and to follow a trace is one look-up
for each step (`Ways.seen`). What only reports need, at which steps it happened, is found by a second pass that is made
when there is something to report (`Ways.acquisitions`).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

from stressvm.kernel.errors import UsageError
from stressvm.kernel.thread import Wake

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from stressvm.kernel.op import Event, ObjectId, Op


class Effect(enum.Enum):
    """What an operation does, as far as locks, order and memory are concerned.

    LOCK, LOCK_SHARED: it has got the lock, and would have waited for it.
    TRY, TRY_SHARED: it has got the lock, and would have failed otherwise.
    REFUSED: it has not got it, and goes on without.
    QUEUED, QUEUED_SHARED: it waits for the lock, in the lock's own queue.
    UNLOCK: it gives up one hold.
    UPGRADE, DOWNGRADE: the hold becomes exclusive, or shared; it never waits.
    SLEEP: the thread sleeps, and gives up the interlock if there is one (the second object that the operation accesses).
    WAKE: it wakes the threads that its argument names.
    TIMER: time has passed.
    READ, WRITE, MODIFY: of a variable.
    SPAWN, JOIN, POST: the thread that its argument names begins, has ended, or is sent a signal.
    ORDERED: what it does depends on all that was done with its object before.
    NOTHING: it touches nothing of anybody's.
    """

    LOCK = enum.auto()
    LOCK_SHARED = enum.auto()
    TRY = enum.auto()
    TRY_SHARED = enum.auto()
    REFUSED = enum.auto()
    QUEUED = enum.auto()
    QUEUED_SHARED = enum.auto()
    UNLOCK = enum.auto()
    UPGRADE = enum.auto()
    DOWNGRADE = enum.auto()
    SLEEP = enum.auto()
    WAKE = enum.auto()
    TIMER = enum.auto()
    READ = enum.auto()
    WRITE = enum.auto()
    MODIFY = enum.auto()
    SPAWN = enum.auto()
    JOIN = enum.auto()
    POST = enum.auto()
    ORDERED = enum.auto()
    NOTHING = enum.auto()


_MUTEX: Final = {
    "lock": Effect.LOCK,
    "trylock": Effect.TRY,
    "trylock-failed": Effect.REFUSED,
    "unlock": Effect.UNLOCK,
    "block": Effect.QUEUED,
}
_RWLOCK: Final = {
    "read-lock": Effect.LOCK_SHARED,
    "write-lock": Effect.LOCK,
    "try-read-lock": Effect.TRY_SHARED,
    "try-write-lock": Effect.TRY,
    "try-lock-failed": Effect.REFUSED,
    "unlock": Effect.UNLOCK,
    "downgrade": Effect.DOWNGRADE,
    "try-upgrade": Effect.UPGRADE,
    "try-upgrade-failed": Effect.REFUSED,
    "block-read": Effect.QUEUED_SHARED,
    "block-write": Effect.QUEUED,
}
#: What every queue of sleepers has, whatever its type.
_QUEUE: Final = {
    "sleep": Effect.SLEEP,
    "timeout": Effect.TIMER,
    "resume": Effect.NOTHING,
    "wakeup": Effect.WAKE,
    "wakeup_one": Effect.WAKE,
}
_CELL: Final = {
    "load": Effect.READ,
    "peek": Effect.READ,
    "poke": Effect.WRITE,
    "store": Effect.WRITE,
    "write": Effect.WRITE,
    "cas": Effect.MODIFY,
    "cas-failed": Effect.READ,
    "fetchadd": Effect.MODIFY,
    "swap": Effect.MODIFY,
}

#: By type of object and kind of operation. Types that are not here are no locks; they may be queues of sleepers, and
#: whatever else can be done with them is ORDERED.
EFFECTS: Final[Mapping[str, Mapping[str, Effect]]] = {
    "mutex": _MUTEX,
    "spinmutex": _MUTEX,
    "rwlock": _RWLOCK,
    "sx": _RWLOCK,
    "condvar": {**_QUEUE, "signal": Effect.WAKE, "broadcast": Effect.WAKE},
    "sleepq": _QUEUE,
    "semaphore": dict.fromkeys(("sema_wait", "sema_trywait", "sema_trywait-failed", "sema_post"), Effect.ORDERED),
    "cell": _CELL,
    "atomic": _CELL,
    "field": {"read": Effect.READ, "write": Effect.WRITE},
    "thread": {"join": Effect.JOIN},
    "history": {"call": Effect.NOTHING, "return": Effect.NOTHING},
}

#: Operations of the kernel itself, on no object. It has them for as long as it lives.
KERNEL_EFFECTS: Final[Mapping[str, Effect]] = {
    "choose": Effect.NOTHING,
    "delay": Effect.TIMER,
    "record": Effect.NOTHING,
    "signal": Effect.POST,
    "spawn": Effect.SPAWN,
    "start": Effect.NOTHING,
    "yield": Effect.NOTHING,
}

#: Types of objects whose operations are made for one use, but for those of the kernel itself.
_MADE_ANEW: Final = frozenset({"", "thread"})

ACQUIRES: Final = frozenset({Effect.LOCK, Effect.LOCK_SHARED, Effect.TRY, Effect.TRY_SHARED})
WAITS: Final = frozenset({Effect.LOCK, Effect.LOCK_SHARED})
TRIES: Final = frozenset({Effect.TRY, Effect.TRY_SHARED})
QUEUES: Final = frozenset({Effect.QUEUED, Effect.QUEUED_SHARED})
SHARES: Final = frozenset({Effect.LOCK_SHARED, Effect.TRY_SHARED, Effect.QUEUED_SHARED})


def effect_of(op: Op) -> Effect:
    """What an operation does.

    Raises:
        UsageError: it is of a kind that objects of its type do not have.
    """
    obj = op.obj
    if not obj.type:
        return KERNEL_EFFECTS.get(op.kind, Effect.ORDERED)
    kinds = EFFECTS.get(obj.type)
    if kinds is None:
        return _QUEUE.get(op.kind, Effect.ORDERED)
    try:
        return kinds[op.kind]
    except KeyError:
        raise UsageError(
            f"operation {op.kind!r} on {obj.name}: nobody knows what it does to a {obj.type}; an object with operations "
            "of its own needs a type of its own"
        ) from None


class Hold(NamedTuple):
    """A lock that a thread holds.

    Attributes:
        lock: which.
        shared: with others that share it.
        tried: it was got by a try, which would not have waited.
        depth: how often it is held, more than once only where it is shared.
    """

    lock: ObjectId
    shared: bool
    tried: bool
    depth: int = 1


class Moment(enum.Enum):
    """What a thread has just done: acquired the last of its holds, gone to sleep with what it holds, or something else."""

    ACQUIRED = enum.auto()
    ASLEEP = enum.auto()
    OTHER = enum.auto()


class Held(dict["Op", "Held"]):
    """A state: what a thread holds. As a mapping it says where each operation leads that was met so far.

    Attributes:
        holds: in order of acquisition.
        moment: what it has just done.
        bit: one of its own if it has just acquired a lock with another held, or gone to sleep with one; else 0.
    """

    __slots__ = ("bit", "holds", "moment", "ways")

    def __init__(self, ways: Ways, holds: tuple[Hold, ...], moment: Moment, bit: int) -> None:
        super().__init__()
        self.ways = ways
        self.holds = holds
        self.moment = moment
        self.bit = bit

    def __missing__(self, op: Op) -> Held:
        after = self.ways.after(self, op)
        # A join is made anew each time, and so may be what code of a world's own does on no object.
        if op.obj.type not in _MADE_ANEW or op.kind in KERNEL_EFFECTS:
            self.ways.transitions += 1
            self[op] = after
        return after


class Acquisition(NamedTuple):
    """A lock was acquired, in one execution.

    Attributes:
        step: index in the trace.
        thread: number of the thread.
        got: the lock, and how.
        held: what the thread held at that time, in order, each with the step at which it got it.
    """

    step: int
    thread: int
    got: Hold
    held: tuple[tuple[Hold, int], ...]


class Ways:
    """The automaton: all states and transitions met so far, over any number of executions.

    Attributes:
        states: those that have a bit; that of number n is `1 << n`.
        transitions: how many are known.
        forgotten: how often all has been forgotten; bits from before mean nothing any more.
    """

    #: Transitions remembered. Where the objects of executions differ, kernels make new operations all the time.
    REMEMBERED: Final = 1 << 16

    def __init__(self) -> None:
        #: The trace that was looked at last, how long it was, and its bits: several checks may ask for the same.
        self.last: tuple[Sequence[Event], int, int] = ((), -1, 0)
        self.forgotten = -1
        self.forget()

    def seen(self, trace: Sequence[Event], threads: int) -> int:
        """The bits of all states that the threads of an execution have been in.

        Args:
            trace: of the execution.
            threads: how many there were.
        """
        if self.last[0] is trace and self.last[1] == len(trace):
            return self.last[2]
        if self.transitions > self.REMEMBERED:
            self.forget()
        signalled = Wake.SIGNAL
        bits = 0
        # One more, where -1 finds it: the builder of the world.
        at = [self.free] * (threads + 1)
        for step, (t, op, arg) in enumerate(trace):
            if arg is signalled and not self.gave_up(trace, step):
                continue
            state = at[t] = at[t][op]
            bits |= state.bit
        self.last = (trace, len(trace), bits)
        return bits

    def seen_by(self, trace: Sequence[Event], threads: int) -> tuple[int, ...]:
        """The same for each thread by itself. Call `seen` first."""
        bits = [0] * (threads + 1)
        at = [self.free] * (threads + 1)
        for step, (t, op, arg) in enumerate(trace):
            if arg is Wake.SIGNAL and not self.gave_up(trace, step):
                continue
            state = at[t] = at[t][op]
            bits[t] |= state.bit
        return tuple(bits)

    def states_of(self, bits: int) -> Iterator[Held]:
        """The states that have these bits."""
        while bits:
            least = bits & -bits
            yield self.states[least.bit_length() - 1]
            bits ^= least

    def walk(self, trace: Sequence[Event], threads: int) -> Iterator[tuple[int, Held, Held]]:
        """Each step that changes what its thread holds: its number, and the states before and after it."""
        at = [self.free] * (threads + 1)
        for step, (t, op, arg) in enumerate(trace):
            if arg is Wake.SIGNAL and not self.gave_up(trace, step):
                continue
            before = at[t]
            after = at[t] = before[op]
            if after.holds != before.holds:
                yield step, before, after

    def acquisitions(self, trace: Sequence[Event], threads: int) -> Iterator[Acquisition]:
        """All acquisitions of an execution, in order. Recursion of a shared hold is none."""
        since: dict[tuple[int, ObjectId], int] = {}
        for step, before, after in self.walk(trace, threads):
            if len(after.holds) > len(before.holds):
                t = trace[step][0]
                got = after.holds[-1]
                since[t, got.lock] = step
                yield Acquisition(step, t, got, tuple([(hold, since[t, hold.lock]) for hold in before.holds]))

    @staticmethod
    def gave_up(trace: Sequence[Event], step: int) -> bool:
        """A signal that was pending kept a thread from sleeping: has it given up its interlock all the same?

        It has if it was told to (PDROP), which shows only in what it does with the lock next.
        """
        t, op, _ = trace[step]
        for other, later, _ in trace[step + 1 :]:
            if other == t and any(number == at for at, _ in later.accesses for number, _ in op.accesses[1:]):
                return effect_of(later) in ACQUIRES or effect_of(later) is Effect.REFUSED
        return False

    def forget(self) -> None:
        """Forget everything."""
        self.forgotten += 1
        self.transitions = 0
        self.nodes: dict[tuple[tuple[Hold, ...], Moment], Held] = {}
        self.states: list[Held] = []
        self.free = self._state((), Moment.OTHER)
        self.last = ((), -1, 0)

    def after(self, state: Held, op: Op) -> Held:
        """What a thread holds after an operation."""
        effect = effect_of(op)
        holds = state.holds
        moment = Moment.OTHER
        if effect in ACQUIRES:
            holds = _acquired(holds, op.obj, shared=effect in SHARES, tried=effect in TRIES)
            if len(holds) > len(state.holds):
                moment = Moment.ACQUIRED
        elif effect is Effect.UNLOCK:
            holds = _released(holds, op.obj.number)
        elif effect is Effect.UPGRADE or effect is Effect.DOWNGRADE:
            shared = effect is Effect.DOWNGRADE
            holds = tuple([hold._replace(shared=shared, depth=1) if hold.lock == op.obj else hold for hold in holds])
        elif effect is Effect.SLEEP:
            for number, _ in op.accesses[1:]:
                holds = _released(holds, number)
            moment = Moment.ASLEEP
        return self._state(holds, moment)

    def _state(self, holds: tuple[Hold, ...], moment: Moment) -> Held:
        try:
            return self.nodes[holds, moment]
        except KeyError:
            tells = len(holds) > 1 if moment is Moment.ACQUIRED else bool(holds) and moment is Moment.ASLEEP
            made = self.nodes[holds, moment] = Held(self, holds, moment, 1 << len(self.states) if tells else 0)
            if tells:
                self.states.append(made)
            return made


def _acquired(holds: tuple[Hold, ...], lock: ObjectId, *, shared: bool, tried: bool) -> tuple[Hold, ...]:
    for index, hold in enumerate(holds):
        if hold.lock == lock:
            deeper = hold._replace(depth=hold.depth + 1)
            return (*holds[:index], deeper, *holds[index + 1 :])
    return (*holds, Hold(lock, shared, tried))


def _released(holds: tuple[Hold, ...], number: int) -> tuple[Hold, ...]:
    for index, hold in enumerate(holds):
        if hold.lock.number == number:
            left = (hold._replace(depth=hold.depth - 1),) if hold.depth > 1 else ()
            return (*holds[:index], *left, *holds[index + 1 :])
    return holds

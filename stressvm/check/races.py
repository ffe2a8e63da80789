"""Data races: two uses of plain data, at least one of which changes it, that nothing orders.

Plain data are cells (`Cell`, but not `Atomic`) and what is declared as a `Field`. What makes an order is in clocks.py.
An execution has a race if some two uses are not ordered, even if they were a long time apart in it: the machine would not
have had to keep to that. Code that relies on an unordered use says so where the data is declared (`benign=`), with the
reason, and is believed.

Almost all executions have no race. So there are two passes: one that only says whether there is any, with epochs in place
of clocks wherever one use is all that has to be remembered; and one over the executions that have, which says between
which uses. Of the races on one thing the first is told, the one whose second use has least before it: what comes later may
be a consequence. All of that depends on the class of the execution only (happens_before.py).

Source: Flanagan, Freund, FastTrack: efficient and precise dynamic race detection, PLDI 2009. Of its rules those for a use
in the same epoch, by the owner alone, and by many readers are here; what its locks and volatiles do is `clocks.role_of`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stressvm.check.clocks import (
    ADD,
    DATA,
    DOWNGRADE,
    ENDED,
    JOIN,
    LET_GO,
    LOCK,
    LOCK_ALONE,
    LOCK_SHARED,
    MODIFY,
    NONE,
    POST,
    READ,
    SLEEP,
    UNLOCK,
    UNLOCK_EITHER,
    WRITE,
    Order,
    named,
    role_of,
)
from stressvm.check.verdict import Verdict
from stressvm.kernel import op as ops
from stressvm.kernel.errors import InternalError
from stressvm.kernel.op import Op
from stressvm.kernel.thread import Wake
from stressvm.kernel.waitq import WaitQueue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Event, ObjectId

#: What stands for the end of a sleep by a signal.
_WAKES: Final = frozenset({"broadcast", "wakeup"})

_NUMBER: Final = re.compile(r"\d+")

#: How texts say what a thread did.
_DEEDS: Final = {"load": "loaded", "store": "stored", "peek": "read", "poke": "wrote", "read": "read", "write": "wrote"}


class Use(NamedTuple):
    """A use of data.

    Attributes:
        thread: whose.
        op: what it was.
        step: its step if it was an operation of its own, else the next step of the execution.
        touch: its place in `Kernel.touched`; -1 for an operation of its own.
    """

    thread: int
    op: Op
    step: int
    touch: int = -1


class Race(NamedTuple):
    """Two uses of the same data that nothing orders, in the order in which they were made."""

    first: Use
    second: Use


class Races:
    """The detector. It keeps what it knows of operations, nothing of executions."""

    kind = "data-race"
    per_class = True

    def __init__(self) -> None:
        self.roles: dict[Op, tuple[int, int]] = {}
        #: By object number: what a touch of it is, reading and writing it.
        self.touches: dict[int, tuple[ObjectId, Op, Op]] = {}

    def look(self, k: Kernel) -> tuple[Verdict, ...]:
        """The first race on each thing, in order of how much comes before it; see `Detector.look`."""
        return tuple(_verdict(k, race) for race in self.races(k))

    def races(self, k: Kernel) -> tuple[Race, ...]:
        """The same, as pairs of uses."""
        for obj in k.objects:
            if obj.ident.type in DATA:
                break
        else:
            return ()
        events = self._events(k)
        if not self._any(k, events):
            return ()
        found = self._first_ones(k)
        if not found:
            raise InternalError("one pass over an execution has found a data race, and the other one none")
        return found

    # ------------------------------------------------------------ events

    def _events(self, k: Kernel, origins: list[int] | None = None) -> Sequence[Event]:
        """The trace, with what was touched as steps of the same threads.

        Args:
            k: the kernel.
            origins: is told for every event its step, or ~index of the touch.
        """
        trace = k.trace
        touched = k.touched
        if not touched:
            if origins is not None:
                origins += range(len(trace))
            return trace
        aside = {index for begin, end in k.asides for index in range(begin, end)}
        known: dict[int, Op | None] = {}
        events: list[Event] = []
        at = 0
        for index, (length, t, number, write) in enumerate(touched):
            key = 2 * number + write
            try:
                op = known[key]
            except KeyError:
                op = known[key] = self._touch(k, number, write=write)
            if op is None or index in aside:
                continue
            if at < length:
                events += trace[at:length]
                if origins is not None:
                    origins += range(at, length)
                at = length
            arg = None
            if op.kind in _WAKES:
                # A queue is written beside its own operations where a signal ends a sleep: the step before says whose. Else
                # it is what the queue belongs to that is used, such as a page.
                if not length or trace[length - 1][1] is not k.signal_op:
                    continue
                arg = (trace[length - 1][2],)
            events.append((t, op, arg))
            if origins is not None:
                origins.append(~index)
        events += trace[at:]
        if origins is not None:
            origins += range(at, len(trace))
        return events

    def _touch(self, k: Kernel, number: int, *, write: bool) -> Op | None:
        """What a touch of an object is; None if no order and no race comes of it."""
        if number < 0:
            return None
        obj = k.objects[number]
        if isinstance(obj, WaitQueue):
            return obj.ops.wake_all if write else None
        ident = obj.ident
        if ident.type not in DATA and ident.type != "atomic":
            return None
        if ident.type in DATA and obj.benign:
            return None
        made = self.touches.get(number)
        if made is None or made[0] is not ident:
            kinds = ("read", "write") if ident.type == "field" else ("peek", "poke")
            both = [
                Op(kind, ident, ((number, change),), 0)
                for kind, change in zip(kinds, (ops.READ, ops.WRITE), strict=True)
            ]
            made = self.touches[number] = (ident, both[0], both[1])
        return made[2] if write else made[1]

    # ------------------------------------------------------------ is there any

    def _any(self, k: Kernel, events: Sequence[Event]) -> bool:  # noqa: PLR0915 - one loop, without calls
        """Has the execution a race? FastTrack, up to the first one."""
        roles = self.roles
        threads = range(len(k.threads))
        #: A thread's own count is that of its releases.
        clocks = [[0] * len(threads) for _ in threads]
        for t in threads:
            clocks[t][t] = 1
        #: By data: thread and count of the last write, those of the last read, and a clock if several reads are to be
        #: remembered; None for data that nobody looks after.
        uses: dict[int, list[Any] | None] = {}
        #: By lock: the last release, as (thread, its count, its clock).
        released: dict[int, tuple[int, int, list[int]]] = {}
        handed: dict[int, list[int]] = {}
        left: dict[int, list[int]] = {}
        writers: dict[int, int] = {}
        posted: dict[int, list[int]] = {}
        for t, op, arg in _of_threads(events):
            try:
                role, number = roles[op]
            except KeyError:
                role, number = self._learn(op)
            clock = clocks[t]
            if role <= WRITE:
                try:
                    use = uses[number]
                except KeyError:
                    use = uses[number] = None if k.objects[number].benign else [0, 0, 0, 0, None]
                if use is None:
                    continue
                writer, write, reader, read, several = use
                mine = clock[t]
                if role == READ:
                    if read == mine and reader == t:
                        continue
                    if clock[writer] < write:
                        return True
                    if several is not None:
                        several[t] = mine
                    elif clock[reader] >= read:
                        use[2] = t
                        use[3] = mine
                    else:
                        several = use[4] = [0 for _ in threads]
                        several[reader] = read
                        several[t] = mine
                        # No epoch is this one.
                        use[3] = 0
                else:
                    if write == mine and writer == t:
                        continue
                    if clock[writer] < write or clock[reader] < read:
                        return True
                    if several is not None:
                        for count, known in zip(several, clock, strict=True):
                            if count > known:
                                return True
                        use[4] = None
                    use[0] = t
                    use[1] = mine
                    use[3] = 0
                continue
            if role == NONE:
                continue
            if role == LOCK:
                if number in released:
                    who, count, other = released[number]
                    # Whoever has heard of a release has heard of all that the releaser had.
                    if clock[who] < count:
                        _take_in(clock, other)
                continue
            if role == UNLOCK:
                released[number] = (t, clock[t], clock[:])
            elif role in (JOIN, MODIFY, LOCK_SHARED, LOCK_ALONE):
                if number in handed:
                    _take_in(clock, handed[number])
                if role == LOCK_ALONE:
                    if number in left:
                        _take_in(clock, left[number])
                    writers[number] = t
                elif role == LOCK_SHARED and writers.get(number) == t:
                    del writers[number]
                if role != MODIFY:
                    continue
                handed[number] = clock[:]
            elif role == ADD:
                if number in handed:
                    _take_in(handed[number], clock)
                else:
                    handed[number] = clock[:]
            elif role in (UNLOCK_EITHER, DOWNGRADE):
                if writers.get(number) == t:
                    del writers[number]
                    handed[number] = clock[:]
                elif number in left:
                    _take_in(left[number], clock)
                else:
                    left[number] = clock[:]
            elif role == SLEEP:
                if arg is Wake.SIGNAL and t in posted:
                    _take_in(clock, posted[t])
                for interlock, _ in op.accesses[1:]:
                    released[interlock] = (t, clock[t], clock[:])
                    handed[interlock] = clock[:]
                    if arg is not Wake.SIGNAL:
                        writers.pop(interlock, None)
            elif role == LET_GO:
                if arg is None:
                    continue
                for target in named(arg):
                    _take_in(clocks[target], clock)
            elif role == ENDED:
                _take_in(clock, clocks[arg])
                continue
            elif role == POST:
                for target in named(arg):
                    if target in posted:
                        _take_in(posted[target], clock)
                    else:
                        posted[target] = clock[:]
            else:
                _order(op, clock, handed, left)
            clock[t] += 1
        return False

    def _learn(self, op: Op) -> tuple[int, int]:
        """What an operation does to clocks, and the number of its object."""
        found = role_of(op), op.obj.number
        if op.obj.number >= 0 or not op.obj.type:
            # Not those that are made for one use.
            self.roles[op] = found
        return found

    # ------------------------------------------------------------ which

    def _first_ones(self, k: Kernel) -> tuple[Race, ...]:
        """The first race on each thing."""
        origins: list[int] = []
        events = self._events(k, origins)
        order = Order(len(k.threads))
        clocks: list[list[int]] = []
        #: By data: the last read and the last write of each thread.
        last: dict[int, tuple[dict[int, int], dict[int, int]]] = {}
        #: By data: the first race, after how much comes before its second use, and the two uses' places.
        best: dict[int, tuple[tuple[int, int], int, int]] = {}
        for at, event in enumerate(events):
            t, op, _ = event
            clock = order.take(event)
            clocks.append(clock)
            role = role_of(op)
            number = op.obj.number
            if t < 0 or role > WRITE or k.objects[number].benign:
                continue
            reads, writes = last.setdefault(number, ({}, {}))
            others = [*writes.items(), *reads.items()] if role == WRITE else writes.items()
            racing = [(sum(clocks[i]), u, i) for u, i in others if clocks[i][u] > clock[u]]
            if racing:
                rank = (sum(clock), t)
                if number not in best or rank < best[number][0]:
                    best[number] = (rank, max(racing)[2], at)
            (writes if role == WRITE else reads)[t] = at
        trace_at = [_use(k, events[at], origins[at]) for _, i, j in sorted(best.values()) for at in (i, j)]
        return tuple(Race(*pair) for pair in zip(trace_at[::2], trace_at[1::2], strict=True))


def _of_threads(events: Sequence[Event]) -> Sequence[Event]:
    """Without what was done while the world was built, and when it had come to rest."""
    begin, end = 0, len(events)
    while begin < end and events[begin][0] < 0:
        begin += 1
    while begin < end and events[end - 1][0] < 0:
        end -= 1
    return events if end - begin == len(events) else events[begin:end]


def _take_in(clock: list[int], other: list[int]) -> None:
    for t, count in enumerate(other):
        if count > clock[t]:  # noqa: PLR1730 - three times as fast as max()
            clock[t] = count


def _order(op: Op, clock: list[int], handed: dict[int, list[int]], left: dict[int, list[int]]) -> None:
    """All operations on an object order each other, but for those that only read it."""
    for number, write in op.accesses:
        if number in handed:
            _take_in(clock, handed[number])
        if write and number in left:
            _take_in(clock, left[number])
    for number, write in op.accesses:
        if write:
            handed[number] = clock[:]
        elif number in left:
            _take_in(left[number], clock)
        else:
            left[number] = clock[:]


def _use(k: Kernel, event: Event, origin: int) -> Use:
    t, op, _ = event
    if origin >= 0:
        return Use(t, op, origin)
    return Use(t, op, k.touched[~origin][0], ~origin)


def _verdict(k: Kernel, race: Race) -> Verdict:
    first, second = race
    obj = first.op.obj
    text = f"{obj.name}: {_told(k, first)} and {_told(k, second)}, and nothing orders the two"
    return Verdict(
        "data-race",
        text,
        (first.thread, second.thread),
        tuple(_site(k, use) for use in race),
        steps=tuple(use.step for use in race if use.touch < 0),
        touches=tuple(use.touch for use in race if use.touch >= 0),
    )


def _told(k: Kernel, use: Use) -> str:
    where = f"at step {use.step}" if use.touch < 0 else f"before step {use.step}"
    return f"{k.threads[use.thread].name} {_DEEDS[use.op.kind]} it ({where})"


def _site(k: Kernel, use: Use) -> str:
    """Numbers in a name tell instances apart, of the pages of an object say: a race on another one is the same bug."""
    obj = use.op.obj
    name = obj.name if obj.name == f"{obj.type}{obj.number}" else _NUMBER.sub("", obj.name) or obj.name
    return f"{use.op.kind} {name} in {k.threads[use.thread].coro.__qualname__}"


def find(k: Kernel) -> tuple[Race, ...]:
    """The first race on each thing in an execution that has ended."""
    return Races().races(k)

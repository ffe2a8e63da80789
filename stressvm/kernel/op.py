"""What a thread announces and what the trace records: visible operations as values made once.

A step must allocate nothing, so an `Op` is made once for each kind of operation on each object, is kept from
one execution to the next (the n-th object of an execution is the n-th of the next), and holds one ready-made
event for every thread. Announcing is one list store, recording is one list append. Operations with arguments
that vary (a stored value, an address) make their event afresh, in the same shape.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

READ: Final = False
WRITE: Final = True

#: Events are made for this many threads at first; a kernel with more doubles it.
THREADS_AT_FIRST: Final = 8

#: What `Op.needs` may ask of its object and `KernelObject.offers` says of it: that it can be had alone, or shared.
ALONE: Final = 1
SHARED: Final = 2
#: A join needs the end of a thread, which no object offers.
ENDED: Final = 4

#: What a step may access that is no object, numbered below them (-1 is none): all there is; that the execution goes on,
#: which every step needs; how threads are numbered; how objects are; virtual time.
EVERYTHING: Final = -2
GOES_ON: Final = -3
THREADS: Final = -4
OBJECTS: Final = -5
CLOCK: Final = -6


def end_of(t: int) -> int:
    """The end of thread number t, as something that others read."""
    return -7 - 3 * t


def whose_end(number: int) -> int:
    """The thread of which that is the end."""
    return (-7 - number) // 3


def signals_of(t: int) -> int:
    """Whether a signal is pending for thread number t, and whether one would end its sleep."""
    return -8 - 3 * t


def fires_of(t: int) -> int:
    """How often the timers of thread number t may fire without progress."""
    return -9 - 3 * t


def bits(number: int) -> int:
    """A mask for what may be accessed: one bit, or all of them; 0 for nothing."""
    if number >= 0:
        return 2 << 2 * number
    if number == EVERYTHING:
        return -1
    return 1 << 2 * (-3 - number) if number < -1 else 0


@dataclass(frozen=True, slots=True)
class ObjectId:
    """A kernel object as traces name it: its number in order of creation (-1: none), its type and its name."""

    number: int
    type: str
    name: str

    def __str__(self) -> str:
        """The name alone: it is what its creator called it."""
        return self.name


NOTHING: Final = ObjectId(-1, "", "")


class Op:
    """One kind of visible operation on one object, such as `lock` on the third mutex.

    Attributes:
        kind: what is done, in the kernels' words: "lock", "wakeup", "load".
        obj: on what.
        accesses: the objects that it touches, as (object number, READ or WRITE); a wait touches two.
        footprint: the same, and what it touches that is no object (see `end_of` and its like).
        touches, writes: the footprint as masks (see `bits`).
        needs: what its object must offer for it to be possible, if nobody else asks; 0: it always is, or another thread's
            step makes it so.
        mark: an integer for its kind, the same everywhere, with room below for the number of a thread.
        marks: `mark` with each thread's number, last that of none (-1); if it only reads, with the number of what it reads,
            and room for a count.
        sole: if it writes one thing and touches nothing else, the number of that; else None.
        only: if it reads one thing and touches nothing else, the number of that; else None.
        events: `events[t]` is the event `(t, op, None)` of thread number t.
    """

    __slots__ = (
        "__weakref__",
        "accesses",
        "events",
        "footprint",
        "kind",
        "mark",
        "marks",
        "needs",
        "obj",
        "only",
        "sole",
        "touches",
        "writes",
    )

    def __init__(
        self,
        kind: str,
        obj: ObjectId,
        accesses: Iterable[tuple[int, bool]],
        threads: int,
        *,
        needs: int = 0,
        beside: Iterable[tuple[int, bool]] = (),
    ) -> None:
        self.kind = kind
        self.obj = obj
        self.accesses = tuple(accesses)
        self.footprint = (*self.accesses, *beside)
        self.touches = bits(GOES_ON)
        self.writes = 0
        for number, write in self.footprint:
            self.touches |= bits(number)
            if write:
                self.writes |= bits(number)
        self.needs = needs
        self.mark = zlib.crc32(kind.encode()) << 24
        self.sole: int | None = None
        self.only: int | None = None
        if len(self.footprint) == 1:
            number, write = self.footprint[0]
            if write:
                self.sole = number
            else:
                self.only = number
        self.events: list[Event] = []
        self.marks = [self._mark_of(-1)]
        self.cover(threads)

    def cover(self, threads: int) -> None:
        """Have events for at least that many threads."""
        more = range(len(self.events), threads)
        self.events.extend((t, self, None) for t in more)
        self.marks[-1:-1] = [self._mark_of(t) for t in more]

    def _mark_of(self, t: int) -> int:
        mark = self.mark + t
        return mark if self.only is None else (mark << 24 | self.only & 0xFFFFFF) << 24

    def __repr__(self) -> str:
        """As a report writes it."""
        return f"{self.kind} {self.obj}" if self.obj.number >= 0 else self.kind


#: (thread number or -1 for the world's builder, operation, argument or None)
Event = tuple[int, Op, Any]

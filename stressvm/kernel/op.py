"""What a thread announces and what the trace records: visible operations as values made once.

A step must allocate nothing, so an `Op` is made once for each kind of operation on each object, is kept from
one execution to the next (the n-th object of an execution is the n-th of the next), and holds one ready-made
event for every thread. Announcing is one list store, recording is one list append. Operations with arguments
that vary (a stored value, an address) make their event afresh, in the same shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

READ: Final = False
WRITE: Final = True

#: Events are made for this many threads at first; a kernel with more doubles it.
THREADS_AT_FIRST: Final = 8


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
        accesses: all that it touches, as (object number, READ or WRITE); a wait touches two objects.
        events: `events[t]` is the event `(t, op, None)` of thread number t.
    """

    __slots__ = ("__weakref__", "accesses", "events", "kind", "obj")

    def __init__(self, kind: str, obj: ObjectId, accesses: Iterable[tuple[int, bool]], threads: int) -> None:
        self.kind = kind
        self.obj = obj
        self.accesses = tuple(accesses)
        self.events: list[Event] = [(t, self, None) for t in range(threads)]

    def cover(self, threads: int) -> None:
        """Have events for at least that many threads."""
        self.events.extend((t, self, None) for t in range(len(self.events), threads))

    def __repr__(self) -> str:
        """As a report writes it."""
        return f"{self.kind} {self.obj}" if self.obj.number >= 0 else self.kind


#: (thread number or -1 for the world's builder, operation, argument or None)
Event = tuple[int, Op, Any]

"""Which executions are equivalent, by vector clocks over what operations say that they access: a plain reference.

Two steps depend on each other if they are of one thread, or access a common object and do not both read it. Two
executions are equivalent if they have the same steps, with the same outcomes, and order each dependent pair alike: if
every step has the same clock. In the finer relation two steps by which threads become and cease to be readers of a
lock do not depend on each other either.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import TYPE_CHECKING, Final

from stressvm.kernel.op import WRITE

if TYPE_CHECKING:
    from stressvm import Kernel
    from stressvm.kernel.op import Event, Op

#: How a step touches an object. Two that touch it alike do not depend on each other, unless they write.
READS, WRITES, SHARES = range(3)

#: The operations by which a thread becomes the writer of a lock.
TO_WRITE: Final = frozenset({"write-lock", "try-write-lock", "try-upgrade"})


class Classes:
    """Names the class of each execution of one kernel, as a digest.

    Args:
        threads: how many there are.
        readers_commute: the finer relation.
    """

    def __init__(self, threads: int, *, readers_commute: bool = False) -> None:
        self.threads = threads
        self.readers_commute = readers_commute
        #: Operations by number: kernels keep them from one execution to the next.
        self.ops: dict[Op, int] = {}

    def __call__(self, k: Kernel) -> bytes:
        """The class of the execution that has ended."""
        zero = [0] * self.threads
        clocks = [zero[:] for _ in range(self.threads)]
        #: By object, what has happened before whoever touches it now, by the way in which it was touched.
        touched: dict[int, list[list[int]]] = {}
        writers: dict[int, int] = {}
        steps: list[list[int]] = [[] for _ in range(self.threads)]
        for event in k.trace:
            t, op, arg = event
            clock = clocks[t]
            accesses = [(access[0], self.manner(event, access, writers)) for access in op.accesses]
            for number, manner in accesses:
                before = touched.setdefault(number, [zero, zero, zero])
                for other, past in enumerate(before):
                    if other != manner or manner == WRITES:
                        clock = list(map(max, clock, past))
            clock = clock[:]
            clock[t] += 1
            for number, manner in accesses:
                touched[number][manner] = list(map(max, touched[number][manner], clock))
            clocks[t] = clock
            steps[t] += (self.ops.setdefault(op, len(self.ops)), arg[0] if op is k.choose_op else 0, *clock)
        text = array("q", [number for own in steps for number in (len(own), *own)])
        return hashlib.blake2b(text, digest_size=16).digest()

    def manner(self, event: Event, access: tuple[int, bool], writers: dict[int, int]) -> int:
        """How a step touches an object; keeps track of who writes which lock."""
        t, op, _ = event
        number, writes = access
        if writes is not WRITE:
            return READS
        if not self.readers_commute or op.obj.type != "rwlock":
            return WRITES
        if op.kind in TO_WRITE:
            writers[number] = t
        elif op.kind == "read-lock" or (op.kind == "unlock" and writers.get(number) != t):
            return SHARES
        elif op.kind == "unlock":
            del writers[number]
        return WRITES

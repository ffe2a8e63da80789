"""What came before what in an execution: its class as one integer.

Two executions are equivalent, of one class, if each can be turned into the other by exchanging neighbouring steps that
do not depend on each other (`stressvm.explore.dependency` has the relation). A class is told by the order in which each
thing was written, by how many writes had come before each read of it, by each thread's data choices, and by which of two
operations came of what was tried (a try that fails is another operation than one that does not). That is what
`fingerprint` hashes. It consists of integers only, so it is the same in every process.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from stressvm.kernel.op import EVERYTHING, NOTHING, READ, THREADS_AT_FIRST, Op

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Event

#: What belongs to a thread alone is numbered below all else that is accessed.
_OWN: Final = -(1 << 40)
_READS: Final = _OWN + 2
_LOOKS: Final = _OWN + 3

_MASK: Final = (1 << 64) - 1


def fingerprint(trace: Sequence[Event], touched: Iterable[tuple[int, int, int, bool]] = ()) -> int:
    """The class of an execution, as an integer of 64 bits.

    Args:
        trace: its steps.
        touched: what they accessed beyond what the trace says (`Kernel.touched`). Without it executions that differ only
            in that may count as equivalent.
    """
    #: By thing: who wrote it, in order. By thread, as _OWN less its number: what it did by itself.
    orders: defaultdict[int, list[int]] = defaultdict(list)
    #: What was read by whom, after how many writes of it.
    reads: list[int] = []
    if touched:
        trace = _with_touched(trace, touched)
    for t, op, arg in trace:
        number = op.sole
        if number is not None:
            orders[number].append(op.marks[t])
            continue
        number = op.only
        if number is not None:
            reads.append(op.marks[t] + len(orders[number]))
            continue
        mark = op.mark + t
        for number, write in op.footprint:
            if write:
                orders[number].append(mark)
            else:
                reads.append((mark << 24 | number & 0xFFFFFF) << 24 | len(orders[number]))
        if not op.footprint:
            own = orders[_OWN - t]
            own.append(mark)
            if op.kind == "choose":
                own.append(arg[0])
    found = [(number, *order) for number, order in orders.items()]
    if reads:
        reads.sort()
        found.append((_READS, *reads))
    if EVERYTHING in orders:
        found.append((_LOOKS, *_looks(trace)))
    return hash(frozenset(found)) & _MASK


def _looks(trace: Sequence[Event]) -> list[int]:
    """Where steps that access everything stand among the others, of each what can be told whatever the order of those.

    One that reads everything stands between writes of each thing; one that writes it, between the steps of each thread.
    """
    found: list[int] = []
    written: dict[int, int] = {}
    done: dict[int, int] = {}
    for t, op, _ in trace:
        if op.sole == EVERYTHING:
            found.append(hash((t, *sorted(done.items()))))
        elif (EVERYTHING, READ) in op.footprint:
            found.append(hash((t, *sorted(written.items()))))
        else:
            done[t] = done.get(t, 0) + (op.kind != "touch")
            for number, write in op.footprint:
                if write:
                    written[number] = written.get(number, 0) + 1
    return sorted(found)


def _with_touched(trace: Sequence[Event], touched: Iterable[tuple[int, int, int, bool]]) -> list[Event]:
    """A trace in which what was touched stands as steps of the same threads."""
    found: list[Event] = []
    at = 0
    for length, t, number, write in touched:
        if at < length:
            found += trace[at:length]
            at = length
        op = _TOUCHES[number, write]
        if t >= len(op.events):
            op.cover(2 * t)
        found.append((t, op, None))
    found += trace[at:]
    return found


class _Touches(dict[tuple[int, bool], Op]):
    """Operations that stand for touching something."""

    def __missing__(self, key: tuple[int, bool]) -> Op:
        made = self[key] = Op("touch", NOTHING, (), THREADS_AT_FIRST, beside=(key,))
        return made


_TOUCHES: Final = _Touches()


def class_of(k: Kernel) -> int:
    """The class of the execution that has ended, and what stopped it if it was stopped; an integer of 64 bits."""
    found = fingerprint(k.trace, k.touched)
    trouble = k.trouble
    if trouble is None:
        return found
    return hash((found, zlib.crc32(trouble.kind.encode()), trouble.thread)) & _MASK

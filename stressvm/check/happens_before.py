"""What came before what in an execution: its class as one integer, and vector clocks.

Two executions are equivalent, of one class, if each can be turned into the other by exchanging neighbouring steps that
do not depend on each other (`stressvm.explore.dependency` has the relation). A class is told by the order in which each
thing was accessed: writes one by one, what was read between two writes as a set. That, each thread's data choices, and
which of two operations came of it (a try that fails is another operation than one that does not) is what `fingerprint`
hashes. It consists of integers only, so it is the same in every process.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from stressvm.kernel.op import EVERYTHING, NOTHING, READ, Op

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Event

#: What belongs to a thread alone is numbered below all else that is accessed.
_OWN: Final = -(1 << 40)

_MASK: Final = (1 << 64) - 1


def fingerprint(trace: Sequence[Event], touched: Iterable[tuple[int, int, int, bool]] = ()) -> int:
    """The class of an execution, as an integer of 64 bits.

    Args:
        trace: its steps.
        touched: what they accessed beyond what the trace says (`Kernel.touched`). Without it executions that differ only
            in that may count as equivalent.
    """
    orders: dict[int, list[int]] = {}
    #: What was read at all.
    mixed: set[int] = set()
    counts: list[int] = []
    if touched:
        trace = _with_touched(trace, touched)
        counts = _looks(trace)
    for t, op, arg in trace:
        mark = op.mark + t
        number = op.sole
        if number is not None:
            try:
                orders[number].append(mark)
            except KeyError:
                orders[number] = [mark]
        elif op.footprint:
            for number, write in op.footprint:
                if not write:
                    mixed.add(number)
                try:
                    orders[number].append(mark if write else ~mark)
                except KeyError:
                    orders[number] = [mark if write else ~mark]
        else:
            own = orders.setdefault(_OWN - t, [])
            own.append(mark)
            if op.kind == "choose":
                own.append(arg[0])
    for number in mixed:
        orders[number] = _runs_sorted(orders[number])
    return hash(frozenset([(_OWN, *counts), *((number, *order) for number, order in orders.items())])) & _MASK


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


def _runs_sorted(order: list[int]) -> list[int]:
    """The same with each run of reads, which are negative, in a fixed order."""
    found: list[int] = []
    run: list[int] = []
    for mark in order:
        if mark < 0:
            run.append(mark)
        else:
            if run:
                found += sorted(run)
                run.clear()
            found.append(mark)
    return found + sorted(run)


def _with_touched(trace: Sequence[Event], touched: Iterable[tuple[int, int, int, bool]]) -> list[Event]:
    """A trace in which what was touched stands as steps of the same threads."""
    found: list[Event] = []
    at = 0
    for length, t, number, write in touched:
        found += trace[at:length]
        at = length
        found.append((t, _TOUCHES[number, write], None))
    found += trace[at:]
    return found


class _Touches(dict[tuple[int, bool], Op]):
    """Operations that stand for touching something."""

    def __missing__(self, key: tuple[int, bool]) -> Op:
        made = self[key] = Op("touch", NOTHING, (), 0, beside=(key,))
        return made


_TOUCHES: Final = _Touches()


def class_of(k: Kernel) -> int:
    """The class of the execution that has ended, and what stopped it if it was stopped; an integer of 64 bits."""
    found = fingerprint(k.trace, k.touched or ())
    trouble = k.trouble
    if trouble is None:
        return found
    return hash((found, zlib.crc32(trouble.kind.encode()), trouble.thread)) & _MASK


def clocks(trace: Sequence[Event], data: Container[str] = frozenset({"cell"})) -> list[list[int]]:
    """The vector clock of every event: how many events of each thread come before it, its own included.

    An order is made by what synchronizes: operations on one object (loads of an atomic do not order each other), spawn and
    first step, end and join, wakeup and awakening. Tries that fail make none, nor does virtual time: no machine would let
    code rely on those. Two accesses to a plain cell are a race if neither's thread number and count are in the clock of
    the other.

    Args:
        trace: of an execution.
        data: types of objects whose operations make no order.
    """
    threads = 1 + max((t for t, _, _ in trace), default=-1)
    threads = max(threads, 1 + max((arg for _, op, arg in trace if op.kind == "spawn"), default=-1))
    zero = [0] * threads
    now = [zero[:] for _ in range(threads)]
    #: By object: the last writes, and the reads since.
    written: dict[int, list[int]] = {}
    read: dict[int, list[int]] = {}
    found = []
    for t, op, arg in trace:
        if t < 0:
            found.append(zero)
            continue
        clock = now[t][:]
        clock[t] += 1
        orders = op.obj.type not in data and (not op.kind.endswith("-failed") or op.obj.type == "atomic")
        for number, write in op.accesses if orders else ():
            clock = list(map(max, clock, written.get(number, zero)))
            if write:
                clock = list(map(max, clock, read.pop(number, zero)))
        if op.kind == "join":
            clock = list(map(max, clock, now[arg]))
        now[t] = clock
        found.append(clock)
        for number, write in op.accesses if orders else ():
            if write:
                written[number] = clock
            else:
                read[number] = list(map(max, clock, read.get(number, zero)))
        for other in _let_go(op, arg):
            now[other] = list(map(max, now[other], clock))
    return found


def _let_go(op: Op, arg: object) -> tuple[int, ...]:
    """The threads that an event lets go on, or begin."""
    if isinstance(arg, tuple) and op.kind in ("signal", "broadcast", "wakeup", "wakeup_one"):
        return arg
    if isinstance(arg, int) and op.obj.number < 0 and op.kind in ("spawn", "signal"):
        return (arg,)
    return ()

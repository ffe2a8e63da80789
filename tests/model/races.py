"""Which uses of data nothing orders, by the plainest means: a graph of steps, and what can be reached in it.

No clocks, no epochs. An edge leads from each step of a thread to its next one, and from each step that hands something on
to every later step that gets it. Two uses of the same data, at least one of them a write, are a race if neither can be
reached from the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stressvm import Atomic, Cell, CondVar, Field, SleepQueue, Wake

if TYPE_CHECKING:
    from typing import Any

    from stressvm import Kernel

TAKES = {"lock", "trylock", "read-lock", "write-lock", "try-read-lock", "try-write-lock", "try-upgrade"}
ALONE = {"write-lock", "try-write-lock", "try-upgrade"}
SHARES = {"read-lock", "try-read-lock"}
WAKES = {"interrupt", "signal", "broadcast", "wakeup", "wakeup_one"}
LOOKS = {"load", "cas-failed", "peek"}
CHANGES = {"store", "write", "poke"}
BOTH = {"cas", "fetchadd", "swap"}


class Step(NamedTuple):
    """A step, or a use of data within one; `number` -1 for what is on no object."""

    thread: int
    kind: str
    number: int
    type: str
    arg: Any
    interlock: int = -1


def steps_of(k: Kernel) -> list[Step]:
    """What the threads of an execution have done, in order."""
    aside = {index for begin, end in k.asides for index in range(begin, end)}
    touches: dict[int, list[Step]] = {}
    for index, (length, t, number, write) in enumerate(k.touched):
        if number >= 0 and index not in aside and isinstance(k.objects[number], Cell | Field):
            kind = "poke" if write else "peek"
            touches.setdefault(length, []).append(Step(t, kind, number, k.objects[number].ident.type, None))
        elif number >= 0 and write and isinstance(k.objects[number], CondVar | SleepQueue):
            # A signal has ended a sleep.
            touches.setdefault(length, []).append(Step(t, "interrupt", number, "", (k.trace[length - 1][2],)))
    found: list[Step] = []
    for at in range(len(k.trace) + 1):
        found += touches.get(at, [])
        if at < len(k.trace):
            t, op, arg = k.trace[at]
            interlock = op.accesses[1][0] if op.kind == "sleep" and len(op.accesses) > 1 else -1
            found.append(Step(t, op.kind, op.obj.number, op.obj.type, arg, interlock))
    return [step for step in found if step.thread >= 0]


def races_of(k: Kernel) -> set[tuple[int, int, int]]:
    """All races of an execution: the number of the data, and the places of both uses among the steps."""
    steps = steps_of(k)
    edges = _edges(steps)
    reached: list[int] = []
    for at in range(len(steps)):
        before = 1 << at
        for other in edges[at]:
            before |= reached[other]
        reached.append(before)
    uses = [
        (at, step)
        for at, step in enumerate(steps)
        if step.number >= 0
        and isinstance(k.objects[step.number], Cell | Field)
        and not isinstance(k.objects[step.number], Atomic)
        and not k.objects[step.number].benign
    ]
    return {
        (one.number, i, j)
        for i, one in uses
        for j, other in uses
        if i < j
        and one.number == other.number
        and one.thread != other.thread
        and (one.kind in CHANGES or other.kind in CHANGES)
        and not reached[j] >> i & 1
    }


def _edges(steps: list[Step]) -> list[list[int]]:
    """For every step, what comes right before it."""
    found: list[list[int]] = [[] for _ in steps]
    last: dict[int, int] = {}
    #: What a thread's next step comes after.
    due: dict[int, list[int]] = {}
    #: By object: steps by which it was given up for good, or shared and given up.
    given: dict[int, list[int]] = {}
    shared: dict[int, list[int]] = {}
    posted: dict[int, list[int]] = {}
    writer: dict[int, int] = {}
    for at, step in enumerate(steps):
        t, kind, number, type_, arg, interlock = step
        found[at] += due.pop(t, [])
        if t in last:
            found[at].append(last[t])
        last[t] = at
        gets = kind in TAKES or (type_ == "atomic" and kind in LOOKS | BOTH) or kind in ("sema_wait", "sema_trywait")
        if gets:
            found[at] += given.get(number, [])
        if kind in ALONE:
            found[at] += shared.get(number, [])
            writer[number] = t
        if kind in SHARES and writer.get(number) == t:
            del writer[number]
        if kind == "join":
            found[at].append(last[arg])
        if kind == "unlock" and type_ in ("rwlock", "sx") and writer.get(number) != t:
            shared.setdefault(number, []).append(at)
        elif kind in ("unlock", "downgrade", "sema_post") or (type_ == "atomic" and kind in CHANGES | BOTH):
            given.setdefault(number, []).append(at)
            writer.pop(number, None)
        if interlock >= 0:
            given.setdefault(interlock, []).append(at)
            if arg is not Wake.SIGNAL:
                writer.pop(interlock, None)
        if kind in WAKES and isinstance(arg, tuple):
            for other in arg:
                due.setdefault(other, []).append(at)
        if number < 0 and kind == "spawn":
            due.setdefault(arg, []).append(at)
        if number < 0 and kind == "signal":
            posted.setdefault(arg, []).append(at)
        if kind == "sleep" and arg is Wake.SIGNAL:
            found[at] += posted.get(t, [])
    return found

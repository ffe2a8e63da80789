"""Sleeps and wakeups of an ended execution: who was woken by whom, and who was woken for nothing.

A wakeup achieved nothing for a thread that goes back to sleep on the same channel without having done anything in between.
To take locks and let go of them is nothing, and so is to read; to change something is something: a cell, a field, whatever
else the kernel can see, or `k.record`. What is plain Python and not declared cannot be seen; a thread that does only such
things between two sleeps looks idle.

Source: the thundering herd of sleep(9): "wakeup" where "wakeup_one" would do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from stressvm.check.bounds import Bounds, bounds_of
from stressvm.check.locks import Effect, effect_of
from stressvm.check.turns import NEVER, sleeps, woken
from stressvm.check.verdict import Verdict
from stressvm.kernel.op import WRITE

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import ObjectId, Op

#: What a thread has done something by.
_DOES: Final = frozenset(
    {Effect.WRITE, Effect.MODIFY, Effect.WAKE, Effect.SPAWN, Effect.JOIN, Effect.POST, Effect.ORDERED}
)

#: Cells that a lock is made of: to write them is no more than to take the lock, or to say that one waits.
LOCK_WORDS: Final = (".flags", ".timestamp", ".wakeups")


@dataclass(slots=True)
class Nap:
    """One sleep.

    Attributes:
        thread: its number.
        channel: on what.
        slept: the step in which it fell asleep.
        woken: the step that ended it; NEVER if none did.
        by: the thread that did that; its own number if its timer did.
        timed: it was its timer.
        first: the step in which the wait began that it is a part of: that of an earlier sleep, if it was woken for nothing.
        idle: it was woken for nothing: it sleeps there again, and has done nothing.
        done: the step in which the wait was over, as far as can be seen: the first in which it did something.
    """

    thread: int
    channel: ObjectId
    slept: int
    first: int
    woken: int = NEVER
    by: int = -1
    timed: bool = False
    idle: bool = False
    done: int = NEVER


class Channel(NamedTuple):
    """What came of the wakeups of one channel.

    Attributes:
        name: of the channel.
        sleeps: how often threads fell asleep there.
        wakeups: calls that could have woken some.
        nobody: those that found nobody asleep.
        woken: sleeps that they ended.
        idle: those of them that ended for nothing.
        herd: the most that one call woke for nothing.
    """

    name: str
    sleeps: int
    wakeups: int
    nobody: int
    woken: int
    idle: int
    herd: int


def naps(k: Kernel) -> list[Nap]:
    """Every sleep of an ended execution, in order."""
    found: list[Nap] = []
    asleep: dict[int, Nap] = {}
    #: Threads that have done nothing since they were woken.
    up: dict[int, Nap] = {}
    changed = _changed(k)
    for step, event in enumerate(k.trace):
        t, op, arg = event
        for who in changed.get(step, ()):
            if who in up:
                up.pop(who).done = step
        if sleeps(op, arg):
            nap = Nap(t, op.obj, step, step)
            before = up.pop(t, None)
            if before is not None and before.channel == op.obj:
                before.idle = True
                nap.first = before.first
            elif before is not None:
                before.done = step
            asleep[t] = nap
            found.append(nap)
        elif t in asleep and op.kind == "timeout":
            nap = up[t] = asleep.pop(t)
            nap.woken, nap.by, nap.timed = step, t, True
        elif t in up and _does(k, op):
            up.pop(t).done = step
        for other in woken(event):
            if other in asleep:
                nap = up[other] = asleep.pop(other)
                nap.woken, nap.by = step, t
    for t, nap in up.items():
        if k.threads[t].done:
            nap.done = len(k.trace)
    return found


def _does(k: Kernel, op: Op) -> bool:
    return (effect_of(op) in _DOES or op is k.record_op) and not op.obj.name.endswith(LOCK_WORDS)


def _changed(k: Kernel) -> dict[int, set[int]]:
    """Who changed something besides what its operations say, by the step that came next."""
    objects = k.objects
    found: dict[int, set[int]] = {}
    for step, t, number, how in k.touched or ():
        if how == WRITE and number >= 0:
            obj = objects[number].ident
            # A signal that ends a sleep is noted as a change of the queue.
            if not obj.name.endswith(LOCK_WORDS) and obj.type not in ("sleepq", "condvar"):
                found.setdefault(step, set()).add(t)
    return found


def channels(k: Kernel) -> tuple[Channel, ...]:
    """What came of the wakeups of each channel that anybody slept on, in order of the objects' numbers."""
    every = naps(k)
    by_call = _herds(every)
    found = []
    for obj in sorted({nap.channel for nap in every}, key=lambda obj: obj.number):
        mine = [nap for nap in every if nap.channel == obj]
        calls = [event for event in k.trace if event[1].obj == obj and effect_of(event[1]) is Effect.WAKE]
        roused = [nap for nap in mine if nap.woken != NEVER and not nap.timed]
        found.append(
            Channel(
                obj.name,
                sleeps=len(mine),
                wakeups=len(calls),
                nobody=sum(1 for event in calls if not event[2]),
                woken=len(roused),
                idle=sum(1 for nap in roused if nap.idle),
                herd=max((len(herd) for (_, number), herd in by_call.items() if number == obj.number), default=0),
            )
        )
    return tuple(found)


def _herds(every: list[Nap]) -> dict[tuple[int, int], list[Nap]]:
    """By step and channel of a call, the sleeps that it ended for nothing."""
    found: dict[tuple[int, int], list[Nap]] = {}
    for nap in every:
        if nap.idle and not nap.timed:
            found.setdefault((nap.woken, nap.channel.number), []).append(nap)
    return found


class Herds:
    """A detector: a wakeup that wakes more threads for nothing than the world's bound allows.

    Args:
        otherwise: the bounds, where the world gives none.
    """

    kind = "herd"
    per_class = False

    def __init__(self, otherwise: Bounds | None = None) -> None:
        self.otherwise = otherwise
        self.of_promises = otherwise is None

    def look(self, k: Kernel) -> tuple[Verdict, ...]:
        """See Detector."""
        given = bounds_of(k, self.otherwise)
        if given is None or given.herd is None:
            return ()
        bound = given.herd
        worst: dict[int, tuple[int, list[Nap]]] = {}
        for (step, number), herd in _herds(naps(k)).items():
            if len(herd) > max(bound, len(worst.get(number, (0, []))[1])):
                worst[number] = (step, herd)
        return tuple(_verdict(k, step, herd, bound) for _, (step, herd) in sorted(worst.items()))


def _verdict(k: Kernel, step: int, herd: list[Nap], bound: int) -> Verdict:
    names = [k.threads[nap.thread].name for nap in herd]
    channel = herd[0].channel.name
    waker = k.threads[herd[0].by]
    text = (
        f"{waker.name} woke {len(herd)} threads on {channel} for nothing in step {step}: {', '.join(names)} went back to "
        f"sleep there without having done anything; the bound is {bound}"
    )
    threads = (waker.number, *(nap.thread for nap in herd))
    return Verdict("herd", text, threads, (f"woken for nothing on {channel}",), steps=(step,))

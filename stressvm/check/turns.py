"""Who waited for what, from when to when: the requests of an ended execution, read out of its trace.

A thread announces its next operation in the step before it. So a request for a lock begins with its thread's last step
before the acquisition, or with the wakeup that made it ask, and is refused from the first moment on at which another has
the lock in a way that keeps it out. Before that it is only not there yet: that another is quicker is no overtaking. A lock
with a queue of its own is asked by an operation, and who has not done that has not asked.

Sleeps on a channel are requests of the same kind. A thread that is woken and sleeps again without having done anything is
in one and the same wait (see wakeups.py).
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from stressvm.check.locks import ACQUIRES, QUEUES, SHARES, WAITS, Effect, Ways, effect_of
from stressvm.kernel.rwlock import NetBSDRwLock
from stressvm.kernel.sx import FreeBSDSx
from stressvm.kernel.thread import Wake

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Event, ObjectId, Op

#: The step of what never happens.
NEVER: Final = 1 << 60


class Request(NamedTuple):
    """A thread asked for something that others had, and got it or not.

    Attributes:
        thread: its number.
        obj: for what.
        shared: it would have shared it.
        asked: the last step before it could ask.
        refused: the step since which it could not have it; NEVER if it was not refused.
        got: the step in which it got it; NEVER if it did not.
    """

    thread: int
    obj: ObjectId
    shared: bool
    asked: int
    refused: int
    got: int


class Hold(NamedTuple):
    """A thread had a lock, after step `since` and until step `until`."""

    thread: int
    shared: bool
    since: int
    until: int


def woken(event: Event) -> tuple[int, ...]:
    """The threads whose sleep an event ends."""
    _, op, arg = event
    if isinstance(arg, tuple) and effect_of(op) is Effect.WAKE:
        return arg
    if not op.obj.type and op.kind == "signal":
        return (arg,)
    return ()


def holds(k: Kernel) -> dict[int, list[Hold]]:
    """Of each lock, by number, who had it from when to when, in order."""
    found: dict[int, list[Hold]] = defaultdict(list)
    now: dict[tuple[int, int], tuple[int, bool]] = {}
    for step, before, after in Ways().walk(k.trace, len(k.threads)):
        t = k.trace[step][0]
        was = {hold.lock.number: hold.shared for hold in before.holds}
        has = {hold.lock.number: hold.shared for hold in after.holds}
        for number in was.keys() | has.keys():
            if was.get(number) is has.get(number):
                continue
            if number in was:
                since, shared = now.pop((t, number))
                found[number].append(Hold(t, shared, since, step))
            if number in has:
                now[t, number] = (step, has[number])
    for (t, number), (since, shared) in now.items():
        found[number].append(Hold(t, shared, since, NEVER))
    return found


def queueing(k: Kernel) -> frozenset[int]:
    """The numbers of locks with queues of their own: whoever has to wait there has a place in the queue by an operation."""
    found = {op.obj.number for _, op, _ in k.trace if effect_of(op) in QUEUES}
    for obj in k.objects:
        if isinstance(obj, NetBSDRwLock | FreeBSDSx) or getattr(obj, "grant", None) is not None:
            found.add(obj.ident.number)
    return frozenset(found)


def requests(k: Kernel) -> list[Request]:
    """Every request for a lock of an ended execution, in the order in which they ended, those that never did last."""
    had = holds(k)
    lines = queueing(k)
    last = [-1] * (len(k.threads) + 1)
    queued: dict[int, tuple[Op, int]] = {}
    found = []
    for step, event in enumerate(k.trace):
        t, op, arg = event
        effect = effect_of(op)
        if effect in QUEUES:
            if t not in queued or queued[t][0].obj != op.obj:
                queued[t] = (op, step)
        elif effect in ACQUIRES:
            asked, refused = last[t], NEVER
            if t in queued and queued[t][0].obj == op.obj:
                _, refused = queued.pop(t)
                asked = refused
            shared = effect in SHARES
            if op.obj.number in lines:
                asked = min(step, refused)
            elif effect in WAITS:
                refused = min(refused, _refused(had[op.obj.number], t, shared=shared, since=asked, until=step))
            else:
                asked = step
            found.append(Request(t, op.obj, shared, asked, refused, step))
        elif effect is Effect.SPAWN:
            last[arg] = step
        last[t] = step
        for other in woken(event):
            last[other] = step
    return [*found, *_never(k, had, lines, last, queued)]


def _never(
    k: Kernel,
    had: dict[int, list[Hold]],
    lines: frozenset[int],
    last: list[int],
    queued: dict[int, tuple[Op, int]],
) -> Iterator[Request]:
    """The requests of threads that wait at the end."""
    for th in k.threads:
        op = k.pend[th.number] if th.number < len(k.pend) else None
        if th.done or th.sleep is not None or op is None or effect_of(op) not in WAITS | QUEUES:
            continue
        t = th.number
        shared = effect_of(op) in SHARES
        asked, refused = last[t], NEVER
        if t in queued and queued[t][0].obj == op.obj:
            _, refused = queued[t]
            asked = refused
        if op.obj.number not in lines:
            refused = _refused(had[op.obj.number], t, shared=shared, since=asked, until=NEVER)
        yield Request(t, op.obj, shared, asked, refused, NEVER)


def _refused(had: Iterable[Hold], t: int, *, shared: bool, since: int, until: int) -> int:
    """The first step between those after which another has the lock in a way that keeps thread `t` out."""
    return min(
        (
            max(since, hold.since)
            for hold in had
            if hold.thread != t and hold.since < until and hold.until > since and not (shared and hold.shared)
        ),
        default=NEVER,
    )


def sleeps(op: Op, arg: object) -> bool:
    """Does the event begin a sleep? With a signal pending there is none."""
    return effect_of(op) is Effect.SLEEP and arg is not Wake.SIGNAL

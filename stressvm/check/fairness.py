"""Was a schedule fair? And who could run all the time, and was not run?

Fair is a schedule as Musuvathi and Qadeer define it (PLDI 2008): a thread that gives way (yields, delays, lets a timed
sleep time out) may not run again as long as one can that it has kept waiting since it last gave way. A thread that runs for
long without giving way breaks the rule of the good samaritan: it is its fault that others wait, not the scheduler's.

All this is told from the trace alone, so a schedule that is replayed or made smaller is judged as it is, whatever strategy
made it. Who could run is read out of what threads do next. That of a thread in a lock's own queue, at a semaphore or before
its timer is not known; it counts as unable.

The rule is that of `stressvm.explore.fair`, which makes schedules fair.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple

from stressvm.check.locks import QUEUES, SHARES, WAITS, Effect, effect_of
from stressvm.check.turns import Hold, holds, queueing, woken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Event, Op

#: A thread that does not give way is taken to do so after this part of the step budget; and after so many steps at least.
PATIENCE_PART: Final = 16
PATIENCE_MIN: Final = 64

#: What a trace notes besides visible operations: it belongs to the step before it.
NOTES: Final = frozenset({"call", "choose", "record", "return", "spawn", "write"})


def is_step(op: Op) -> bool:
    """Is an event of the trace a visible operation of its own?"""
    return op.kind not in NOTES and (op.kind != "signal" or op.obj.number >= 0)


def gives_way(op: Op) -> bool:
    """Does a thread say by that operation that it cannot get on by itself?"""
    return op.kind == "timeout" or (op.obj.number < 0 and op.kind in ("yield", "delay"))


class Unrun(NamedTuple):
    """A thread that could run in `steps` steps after step `since` and up to step `until`, and was not; about to do `op`."""

    thread: int
    op: Op
    since: int
    until: int
    steps: int


class Ready(NamedTuple):
    """Thread `thread` was about to do `op` from after step `since` to step `until`; it could in the steps of `spans`."""

    thread: int
    op: Op
    since: int
    until: int
    spans: tuple[tuple[int, int], ...]


def ready(k: Kernel) -> list[Ready]:
    """When each thread could have gone on, one item for each of its steps and for what it was about to do at the end."""
    trace = k.trace
    had = holds(k)
    for number in queueing(k):
        # Whoever asks there can: it may have to queue.
        had[number] = []
    last = [-1] * (len(k.threads) + 1)
    before: list[Op | None] = [None] * (len(k.threads) + 1)
    ends = _ends(trace, len(k.threads))
    found = []
    for step, event in enumerate(trace):
        t, op, arg = event
        if t >= 0:
            found.append(Ready(t, op, last[t], step, _spans(k, had, ends, before[t], op, arg, (t, last[t], step))))
        last[t], before[t] = step, op
        if op.kind == "spawn" and isinstance(arg, int):
            last[arg] = step
        for other in woken(event):
            last[other] = step
            before[other] = None
    for th in k.threads:
        t = th.number
        pend = k.pend[t] if t < len(k.pend) else None
        if not th.done and th.sleep is None and pend is not None:
            target = th.joining.number if th.joining is not None else None
            where = (t, last[t], len(trace))
            found.append(Ready(t, pend, last[t], len(trace), _spans(k, had, ends, before[t], pend, target, where)))
    return found


def _ends(trace: Sequence[Event], threads: int) -> list[int]:
    """Of each thread, its last step."""
    last = [-1] * (threads + 1)
    for step, (t, _, _) in enumerate(trace):
        last[t] = step
    return last


def _spans(
    k: Kernel,
    had: dict[int, list[Hold]],
    ends: Sequence[int],
    before: Op | None,
    op: Op,
    arg: object,
    where: tuple[int, int, int],
) -> tuple[tuple[int, int], ...]:
    """The steps, as half-open ranges, in which a thread could have done what it did in the last of them."""
    t, since, until = where
    effect = effect_of(op)
    if effect is Effect.TIMER or op.kind == "sema_wait" or (before is not None and effect_of(before) in QUEUES):
        return ((until, until + 1),) if until < len(k.trace) else ()
    if effect is Effect.JOIN and isinstance(arg, int):
        return ((max(since, ends[arg]) + 1, until + 1),) if k.threads[arg].done else ()
    if effect not in WAITS:
        return ((since + 1, until + 1),)
    shared = effect in SHARES
    shut = sorted(
        (max(since, hold.since) + 1, min(hold.until, until) + 1)
        for hold in had[op.obj.number]
        if hold.thread != t and hold.since < until and hold.until > since and not (shared and hold.shared)
    )
    spans = []
    at = since + 1
    for start, stop in shut:
        if start > at:
            spans.append((at, start))
        at = max(at, stop)
    return (*spans, (at, until + 1)) if at <= until else tuple(spans)


def fair_until(k: Kernel, among: Sequence[Ready] | None = None) -> int:
    """The first step that a fair scheduler would not have taken; the number of steps if there is none.

    Args:
        k: after an execution.
        among: what `ready` says of it.
    """
    trace = k.trace
    threads = len(k.threads)
    masks = [0] * (len(trace) + 1)
    for one in ready(k) if among is None else among:
        for start, stop in one.spans:
            for step in range(start, min(stop, len(masks))):
                masks[step] |= 1 << one.thread
    patience = max(PATIENCE_MIN, k.max_steps // PATIENCE_PART)
    # As in fair.py: of each thread, bits of others.
    waits_for, scheduled, enabled, disabled, runs = (
        [0] * threads,
        [-1] * threads,
        [0] * threads,
        [0] * threads,
        [0] * threads,
    )
    for step, (t, op, _) in enumerate(trace):
        if t < 0 or not is_step(op):
            continue
        mask, after, bit = masks[step], masks[step + 1], 1 << t
        if waits_for[t] & mask:
            return step
        for other in range(threads):
            scheduled[other] |= bit
            enabled[other] &= after
            waits_for[other] &= ~bit
        disabled[t] |= mask & ~after & ~bit
        runs[t] += 1
        if runs[t] >= patience or gives_way(op):
            waits_for[t] |= (enabled[t] | disabled[t]) & ~scheduled[t] & ~bit
            enabled[t] = after
            disabled[t] = scheduled[t] = runs[t] = 0
    return len(trace)


def unrun(k: Kernel) -> list[Unrun]:
    """Of each wait for a turn, in how many steps its thread could have run; only as far as the schedule is fair."""
    among = ready(k)
    limit = fair_until(k, among)
    steps = [step for step, (t, op, _) in enumerate(k.trace) if t >= 0 and is_step(op)]
    found = []
    for one in among:
        count = sum(
            max(0, bisect_left(steps, min(stop, one.until, limit)) - bisect_left(steps, start))
            for start, stop in one.spans
        )
        if count:
            found.append(Unrun(one.thread, one.op, one.since, min(one.until, limit), count))
    return found


def selfish(k: Kernel, since: int = 0) -> tuple[int, int]:
    """The thread that took the most steps since that one without giving way or sleeping, and how many; (-1, 0) if none.

    Args:
        k: after an execution.
        since: a step.
    """
    most = (0, -1)
    runs: dict[int, int] = {}
    for t, op, _ in k.trace[since:]:
        if t < 0 or not is_step(op):
            continue
        runs[t] = 0 if gives_way(op) or effect_of(op) is Effect.SLEEP or effect_of(op) in QUEUES else runs.get(t, 0) + 1
        most = max(most, (runs[t], -1 - t))
    return (-1 - most[1], most[0]) if most[0] else (-1, 0)


def blame(k: Kernel) -> str:
    """Whose fault it is that an execution ran out of steps without progress, in words."""
    # More than half of the budget went by without progress, or it would not be a livelock.
    t, run = selfish(k, max(0, len(k.trace) - k.max_steps // 2))
    patience = max(PATIENCE_MIN, k.max_steps // PATIENCE_PART)
    unfair = fair_until(k)
    if run >= patience:
        return f"{k.threads[t].name} took {run} steps without giving way to anybody: whoever waits for others must yield or sleep"
    if unfair < len(k.trace):
        kept = k.threads[k.trace[unfair][0]].name
        return (
            f"the schedule is unfair from step {unfair} on, where {kept} goes on although it has just given way to threads "
            "that could run; a fair one may end"
        )
    return "every thread gives way, all have their turns, and none gets on"

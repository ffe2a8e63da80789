"""Priority inversion: an urgent thread waits for a lock, and less urgent ones run while the holder could.

What is looked for is not a strategy's whim: a step counts only if a scheduler that always runs the most urgent thread could
have taken it. There the holder is kept from running by a thread of middling priority, and the urgent one by the holder.
Where waiters lend their priority to the holder (propagation, turnstiles), the holder is as urgent as the most urgent of
them, through any number of locks; then the middling thread would not have been chosen, and such a step is none of these.

Which locks lend is part of the bounds. Those of turnstile(9), mutex and rwlock, do by default; the sx lock does not, nor
does anything that threads sleep for.

Source: FreeBSD sys/kern/subr_turnstile.c, propagate_priority; NetBSD sys/kern/kern_turnstile.c, turnstile_lendpri.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stressvm.check.bounds import Bounds, bounds_of
from stressvm.check.fairness import is_step, ready
from stressvm.check.turns import Hold, Request, holds, requests
from stressvm.check.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stressvm.kernel.kernel import Kernel


@dataclass(slots=True)
class Inverted:
    """One wait of an urgent thread: for what, who could have ended it, and the steps in which less urgent threads ran.

    `holder` has what is waited for, or what its holder waits for, and so on.
    """

    request: Request
    holder: int
    steps: list[int] = field(default_factory=list)


def inversions(k: Kernel, lending: frozenset[str]) -> list[Inverted]:
    """Every wait of an ended execution that was prolonged by less urgent threads.

    Args:
        k: after an execution.
        lending: types of locks that lend the priority of those who wait to the holder.
    """
    urgency = [th.priority for th in k.threads]
    if min(urgency, default=0) == max(urgency, default=0):
        return []
    had = holds(k)
    waits = [request for request in requests(k) if request.refused < request.got]
    runnable = _runnable(k)
    found: dict[tuple[int, int, int], Inverted] = {}
    for step, (runs, op, _) in enumerate(k.trace):
        if runs < 0 or not is_step(op):
            continue
        asking = [request for request in waits if request.refused < step < request.got]
        if not any(urgency[request.thread] > urgency[runs] for request in asking):
            continue
        blocked = [(request, holder) for request in asking for holder in _holders(had, request, step)]
        lent = _lent(urgency, [pair for pair in blocked if pair[0].obj.type in lending])
        able = runnable[step]
        if any(lent[t] > lent[runs] for t in range(len(lent)) if able >> t & 1):
            continue
        for request in asking:
            if urgency[runs] >= urgency[request.thread]:
                continue
            behind = [t for t in _behind(request.thread, blocked, able) if urgency[t] < urgency[runs]]
            if behind:
                key = (request.thread, request.obj.number, request.asked)
                found.setdefault(key, Inverted(request, behind[0])).steps.append(step)
    return list(found.values())


def _runnable(k: Kernel) -> list[int]:
    """The threads that could run, as bits, at each step."""
    masks = [0] * (len(k.trace) + 1)
    for one in ready(k):
        for start, stop in one.spans:
            for step in range(start, min(stop, len(masks))):
                masks[step] |= 1 << one.thread
    return masks


def _holders(had: dict[int, list[Hold]], request: Request, step: int) -> Iterator[int]:
    for hold in had[request.obj.number]:
        if hold.since < step <= hold.until and hold.thread != request.thread and not (hold.shared and request.shared):
            yield hold.thread


def _behind(t: int, blocked: list[tuple[Request, int]], able: int) -> list[int]:
    """Those that could go on and that a thread waits for, through however many locks."""
    found = []
    front = [t]
    seen = {t}
    for waiter in front:
        for request, holder in blocked:
            if request.thread == waiter and holder not in seen:
                seen.add(holder)
                if able >> holder & 1:
                    found.append(holder)
                else:
                    front.append(holder)
    return found


def _lent(urgency: list[int], blocked: list[tuple[Request, int]]) -> list[int]:
    """Of each thread its own priority, or the highest of those that wait for it, however indirectly."""
    lent = urgency[:]
    for _ in range(len(blocked)):
        before = lent[:]
        for request, holder in blocked:
            lent[holder] = max(lent[holder], lent[request.thread])
        if lent == before:
            break
    return lent


class PriorityInversion:
    """A detector: an urgent thread waits longer for less urgent ones than the world's bound allows.

    Args:
        otherwise: the bounds, where the world gives none.
    """

    kind = "priority-inversion"
    per_class = False

    def __init__(self, otherwise: Bounds | None = None) -> None:
        self.otherwise = otherwise
        self.of_promises = otherwise is None

    def look(self, k: Kernel) -> tuple[Verdict, ...]:
        """See Detector."""
        given = bounds_of(k, self.otherwise)
        if given is None or given.inversion is None:
            return ()
        worst: dict[str, Inverted] = {}
        for one in inversions(k, given.lending):
            name = one.request.obj.name
            if len(one.steps) > max(given.inversion, len(worst[name].steps) if name in worst else 0):
                worst[name] = one
        return tuple(_verdict(k, one, given.inversion) for one in worst.values())


def _verdict(k: Kernel, one: Inverted, bound: int) -> Verdict:
    request = one.request
    urgent, holder = k.threads[request.thread], k.threads[one.holder]
    between = sorted({k.trace[step][0] for step in one.steps})
    names = ", ".join(f"{k.threads[t].name} (priority {k.threads[t].priority})" for t in between)
    name = request.obj.name
    text = (
        f"{urgent.name} (priority {urgent.priority}) waits for {name}, and so for {holder.name} (priority "
        f"{holder.priority}), which could go on; meanwhile {names} ran for {len(one.steps)} steps, from step "
        f"{one.steps[0]} to {one.steps[-1]}; the bound is {bound}"
    )
    threads = (urgent.number, holder.number, *between)
    sites = (f"{urgent.coro.__qualname__} waits for {name} of {holder.coro.__qualname__}",)
    return Verdict("priority-inversion", text, threads, sites, steps=(one.steps[0],))

"""Starvation: a waiter that others overtake again and again, or that could run and never does.

A waiter is overtaken when another thread gets what it waits for, has asked for it later, and keeps it out by that. Where no
bound is given nothing is checked: a lock of the weakest promise keeps none. What waits and is overtaken is read out of the
trace for locks, and for channels (a thread that slept later is done waiting earlier); what no kernel object shows is
declared by a `Line` (kernel/line.py).

A thread that could run and is not run is the scheduler's doing, but for fair schedules: there all the others had to give
way to it before long. So steps are counted up to the first that a fair scheduler would not have taken (see fairness.py).

Source: the idea of bounded overtaking is that of mutual exclusion since Dijkstra's time; see also the handoff bits of
Linux's rwsem, and the writer-preference bits of rwlock(9).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from stressvm.check.bounds import Bounds, bounds_of
from stressvm.check.fairness import Unrun, unrun
from stressvm.check.turns import NEVER, Request, requests
from stressvm.check.verdict import Verdict
from stressvm.check.wakeups import naps

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import ObjectId


class Overtaken(NamedTuple):
    """A request, and who overtook it, in order; a thread as often as it did."""

    request: Request
    by: tuple[int, ...]


def overtaken(k: Kernel) -> list[Overtaken]:
    """Every request of an ended execution that was overtaken, for locks and for channels."""
    by_object: dict[ObjectId, list[Request]] = defaultdict(list)
    for request in (*requests(k), *_waits(k)):
        by_object[request.obj].append(request)
    found = []
    for same in by_object.values():
        # Few are refused, and of those few for long.
        for request in same:
            if request.refused < request.got:
                by = tuple(other.thread for other in same if _overtakes(other, request))
                if by:
                    found.append(Overtaken(request, by))
    return found


def _overtakes(other: Request, request: Request) -> bool:
    return (
        request.refused <= other.asked
        and other.got < request.got
        and other.thread != request.thread
        and not (other.shared and request.shared)
    )


def _waits(k: Kernel) -> list[Request]:
    """The waits on channels, of one sleep or several, as requests."""
    return [
        Request(nap.thread, nap.channel, shared=False, asked=nap.first, refused=nap.first, got=nap.done)
        for nap in naps(k)
        if not nap.idle
    ]


class Starvation:
    """A detector: a waiter that is overtaken, or able to run and not run, more often than the world's bound allows.

    Args:
        otherwise: the bounds, where the world gives none.
    """

    kind = "starvation"
    per_class = False

    def __init__(self, otherwise: Bounds | None = None) -> None:
        self.otherwise = otherwise
        self.of_promises = otherwise is None

    def look(self, k: Kernel) -> tuple[Verdict, ...]:
        """See Detector."""
        given = bounds_of(k, self.otherwise)
        found: list[Verdict] = []
        if given is None:
            return ()
        if given.overtakes is not None:
            worst: dict[tuple[str, str], Overtaken] = {}
            for one in overtaken(k):
                key = (one.request.obj.name, k.threads[one.request.thread].coro.__qualname__)
                if len(one.by) > max(given.overtakes, len(worst[key].by) if key in worst else 0):
                    worst[key] = one
            found += [_passed(k, one, given.overtakes) for one in worst.values()]
        if given.unrun is not None:
            longest = max(unrun(k), key=lambda one: one.steps, default=None)
            if longest is not None and longest.steps > given.unrun:
                found.append(_unrun(k, longest, given.unrun))
        return tuple(found)


def _passed(k: Kernel, one: Overtaken, bound: int) -> Verdict:
    request = one.request
    th = k.threads[request.thread]
    name = request.obj.name
    until = f"until step {request.got}" if request.got != NEVER else "until the end"
    who = ", ".join(
        k.threads[t].name + (f" {times} times" if times > 1 else "") for t, times in Counter(one.by).most_common()
    )
    text = (
        f"{th.name} waited for {name} from step {max(0, request.refused)} {until}, and was overtaken {len(one.by)} times "
        f"by threads that came later ({who}); the bound is {bound}"
    )
    threads = tuple(dict.fromkeys((th.number, *one.by)))
    steps = (request.got,) if request.got < len(k.trace) else ()
    return Verdict("starvation", text, threads, (f"overtaken on {name} in {th.coro.__qualname__}",), steps=steps)


def _unrun(k: Kernel, one: Unrun, bound: int) -> Verdict:
    th = k.threads[one.thread]
    text = (
        f"{th.name} could run in {one.steps} steps between steps {one.since} and {one.until} and was not run, though "
        f"threads gave way as a fair scheduler has it; it was about to {one.op!r}; the bound is {bound}"
    )
    return Verdict("starvation", text, (th.number,), (f"not run at {one.op!r} in {th.coro.__qualname__}",))

"""The checks that look at every execution when it has ended: what stopped it, who is stuck, what was left behind.

They run before the threads are unwound, while every predicate still sees the world as it came to rest. The order
is that of cause before consequence: a lock left behind by a thread that ended explains those that wait for it; a
cycle explains all that waits behind it; and only then are sleepers judged by their own predicates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.check.verdict import Verdict, place, site
from stressvm.check.waiting import Wait, cycle_in, waits
from stressvm.kernel.kernel import Timers
from stressvm.kernel.thread import stack_of

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel


#: Threads that a sentence names; of more, it gives the number.
NAMED_MAX: Final = 4


def judge(k: Kernel) -> Verdict | None:
    """The first bug that an ended execution shows, or None."""
    if k.trouble is not None:
        return _troubled(k)
    return _left_behind(k) or (_stuck(k) if k.alive else None) or (_rescued(k) if k.fired else None)


def _troubled(k: Kernel) -> Verdict:
    trouble = k.trouble
    assert trouble is not None
    if trouble.thread < 0:
        return Verdict(trouble.kind, trouble.text, (), (trouble.kind,))
    th = k.threads[trouble.thread]
    frames = stack_of(th)
    where = place(frames)
    if trouble.kind in ("livelock", "too-long"):
        # Where the budget ran out is chance; what loops is known by the functions that the threads are in.
        places = {place(stack_of(t)) for t in k.threads if not t.done or t is th}
        return Verdict(trouble.kind, trouble.text, (th.number,), tuple(sorted(places)))
    error = type(th.error).__name__ if th.error is not None else ""
    return Verdict(trouble.kind, f"{trouble.text} (in {where})", (th.number,), (trouble.site or f"{error} in {where}",))


def _left_behind(k: Kernel) -> Verdict | None:
    threads = k.threads
    for obj in k.objects:
        for t in obj.holders():
            th = threads[t]
            if th.done and th.error is None:
                text = f"{th.name} ended with {obj.ident.name} held"
                return Verdict("lock-held-at-exit", text, (t,), (f"{obj.ident.name} left by {th.coro.__qualname__}",))
    return None


def _stuck(k: Kernel) -> Verdict | None:
    graph = [wait for wait in waits(k) if not (k.threads[wait.thread].daemon and wait.idle)]
    if not graph:
        return None
    cycle = cycle_in(graph)
    if cycle:
        return _deadlock(k, graph, cycle)
    sleepers = [wait for wait in graph if wait.asleep]
    if not sleepers:
        stuck = tuple(wait.thread for wait in graph)
        text = "; ".join(f"{k.threads[wait.thread].name} {wait.what}" for wait in graph)
        return Verdict("deadlock", f"{text}: nobody is left to let them go on", stuck, _sites(k, stuck))
    return _sleepers(k, graph, sleepers)


def _deadlock(k: Kernel, graph: list[Wait], cycle: tuple[int, ...]) -> Verdict:
    by_thread = {wait.thread: wait for wait in graph}
    names = [k.threads[t].name for t in cycle]
    links = [
        f"{name} {by_thread[t].what}, held by {after}"
        for t, name, after in zip(cycle, names, names[1:] + names[:1], strict=True)
    ]
    return Verdict("deadlock", "; ".join(links), cycle, _sites(k, cycle), cycle)


def _sleepers(k: Kernel, graph: list[Wait], sleepers: list[Wait]) -> Verdict:
    """Sleepers for ever: the gravest of what can be said of any of them, and of those only."""
    kinds: dict[str, list[int]] = {"lost-wakeup": [], "stranded": [], "exhausted": []}
    for wait in sleepers:
        sleep = k.threads[wait.thread].sleep
        assert sleep is not None
        if sleep.until is None:
            kinds["stranded"].append(wait.thread)
        else:
            kinds["lost-wakeup" if sleep.until() else "exhausted"].append(wait.thread)
    kind, threads = next((kind, tuple(threads)) for kind, threads in kinds.items() if threads)
    said = {
        "lost-wakeup": "although what it waits for is there; nobody is left to wake it",
        "stranded": "and nobody is left to wake it",
        "exhausted": "for something that never came; nobody is left to bring it",
    }[kind]
    text = "; ".join(f"{k.threads[t].name} {_what(graph, t)} {said}" for t in threads[:NAMED_MAX])
    if len(threads) > NAMED_MAX:
        text += f"; and {len(threads) - NAMED_MAX} more like these"
    others = [k.threads[wait.thread].name for wait in graph if wait.thread not in threads]
    if others:
        more = f" and {len(others) - NAMED_MAX} more" if len(others) > NAMED_MAX else ""
        text += f" (stuck as well: {', '.join(others[:NAMED_MAX])}{more})"
    return Verdict(kind, text, threads, _sites(k, threads))


def _what(graph: list[Wait], thread: int) -> str:
    return next(wait.what for wait in graph if wait.thread == thread)


def _sites(k: Kernel, threads: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(site(k, k.threads[t]) for t in threads)


def _rescued(k: Kernel) -> Verdict | None:
    """A timeout under IDLE comes when nothing else can run: if its sleeper's predicate held, it alone saved it."""
    if k.timers_mode is not Timers.IDLE:
        return None
    for step, (t, op, satisfied) in enumerate(k.trace):
        if op.kind == "timeout" and satisfied is True:
            th = k.threads[t]
            text = f"{th.name} slept on {op.obj.name} while what it waited for was there; only its timeout ended that (step {step})"
            return Verdict("rescued-sleep", text, (t,), (f"timeout {op.obj.name} in {th.coro.__qualname__}",))
    return None

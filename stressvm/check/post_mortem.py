"""What is looked at when an execution has failed, before its threads are unwound: the facts of a bug report.

Who holds what, who waits where and for how long, why sleepers were not woken, what led to the failing step, what came of
the wakeups of each channel, whose fault a livelock is. All in plain values, so that it outlives the execution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stressvm.check.attribution import Attribution, Made, attribute
from stressvm.check.chain import Link, chain
from stressvm.check.fairness import blame
from stressvm.check.turns import NEVER, holds, requests
from stressvm.check.wakeups import Channel, channels, naps

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from stressvm.check.verdict import Verdict
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.thread import Thread


@dataclass(frozen=True, slots=True)
class Process:
    """A thread as ps(1) shows it.

    Attributes:
        number, name, priority: of the thread.
        state: "sleep", "lock", "join", "run", "ended" or "failed".
        wmesg: what it waits for: the word that it sleeps with, or the name of the lock; "" if it does not wait.
        channel: the name of the object that it sleeps on or waits at; "" for none.
        since: the step since which it waits; None if it does not.
        ticks: for how long it has slept, in virtual time.
        holds: names of the locks that it has, those that it shares in brackets.
    """

    number: int
    name: str
    priority: int
    state: str
    wmesg: str
    channel: str
    since: int | None
    ticks: int
    holds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PostMortem:
    """The facts; see the module.

    Attributes:
        processes: every thread, in order of number.
        attributions: why sleepers were not woken.
        failing: the step that the chain leads to; -1 if there is none.
        links: what led to that step.
        channels: what came of wakeups.
        blame: of a livelock, whose fault it is; "" for others.
    """

    processes: tuple[Process, ...]
    attributions: tuple[Attribution, ...]
    failing: int
    links: tuple[Link, ...]
    channels: tuple[Channel, ...]
    blame: str


def examine(
    k: Kernel, verdict: Verdict | None, made: Mapping[int, Made], reads: Mapping[int, Collection[int]]
) -> PostMortem:
    """Look at an execution that has ended.

    Args:
        k: of the execution; no thread is unwound yet.
        verdict: what it shows, or None.
        made: of each sleeper, who made true what it waits for.
        reads: of each sleeper, the objects that tell whether it is there.
    """
    at = failing(k, verdict)
    return PostMortem(
        _processes(k),
        attribute(k, verdict, made, reads) if verdict is not None else (),
        at,
        chain(k.trace, at) if at >= 0 else (),
        channels(k),
        blame(k) if verdict is not None and verdict.kind == "livelock" else "",
    )


def failing(k: Kernel, verdict: Verdict | None) -> int:
    """The step at which the bug of an execution shows: the last of a thread that it is about; -1 if there is none."""
    if verdict is None:
        return -1
    steps = [step for step in verdict.steps if step < len(k.trace)]
    if steps:
        return steps[-1]
    about = verdict.threads[:1] or {t for t, _, _ in k.trace}
    return max((step for step, (t, _, _) in enumerate(k.trace) if t in about), default=-1)


def _processes(k: Kernel) -> tuple[Process, ...]:
    held: dict[int, list[str]] = {}
    for number, among in sorted(holds(k).items()):
        for hold in among:
            if hold.until == NEVER:
                name = k.objects[number].ident.name
                held.setdefault(hold.thread, []).append(f"({name})" if hold.shared else name)
    waits = {request.thread: request for request in requests(k) if request.got == NEVER}
    asleep = {nap.thread: nap.slept for nap in naps(k) if nap.woken == NEVER}
    found = []
    for th in k.threads:
        since: int | None = None
        if th.sleep is not None:
            since = asleep.get(th.number, th.sleep.step)
        elif th.number in waits and waits[th.number].refused != NEVER:
            since = max(0, waits[th.number].refused)
        state, wmesg, channel = _state(k, th, blocked=since is not None)
        ticks = k.now - th.sleep.tick if th.sleep is not None else 0
        mine = tuple(held.get(th.number, ()))
        found.append(Process(th.number, th.name, th.priority, state, wmesg, channel, since, ticks, mine))
    return tuple(found)


def _state(k: Kernel, th: Thread, *, blocked: bool) -> tuple[str, str, str]:
    if th.error is not None and k.trouble is not None and k.trouble.thread == th.number:
        return "failed", "", ""
    if th.done:
        return "ended", "", ""
    if th.sleep is not None:
        return "sleep", th.sleep.wmesg, th.sleep.queue.ident.name
    if th.joining is not None:
        return "join", th.joining.name, ""
    op = k.pend[th.number] if th.number < len(k.pend) else None
    if blocked and op is not None:
        return "lock", op.obj.name, op.obj.name
    return "run", "", ""

"""A sleeper that nobody woke: which wakeup it missed, and who should have woken it.

Told of an execution that was watched (explore/watch.py): there it is known who made true what the sleeper waits for. Then
there are four cases. It came true while the thread slept, and whoever did that woke nobody. Or woke somebody else, who did
not pass it on. It was true already when the thread fell asleep: then the wakeup, if there was one, came before the thread
was in the queue, and was lost. Or nothing is known, for the sleeper gave no predicate: then it is said who woke the channel
last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from stressvm.check.locks import Effect, effect_of
from stressvm.check.turns import NEVER
from stressvm.check.wakeups import Nap, naps

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from stressvm.check.verdict import Verdict
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import ObjectId

#: Kinds of findings in which a wakeup is missing.
MISSING: Final = frozenset({"lost-wakeup", "stranded", "rescued-sleep"})


class Made(NamedTuple):
    """What a sleeper waits for has been there since that step, by that thread (-1: since the world was built)."""

    step: int
    thread: int


class Call(NamedTuple):
    """A wakeup: its step, the thread that called, and whom it woke."""

    step: int
    thread: int
    woken: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Attribution:
    """Why one sleeper sleeps.

    Attributes:
        sleeper: number of the thread.
        channel: name of what it sleeps on.
        slept: the step in which it fell asleep.
        made: since when what it waits for has been there, and by whom; None if that is not known.
        last: the last wakeup of the channel before its sleep ended; None if there was none.
        missed: the wakeup that it should have had, and that came too early or went to others; None if there was none.
        owed_by: the thread that should have woken it; None if nobody can be named.
        text: all of that in words.
    """

    sleeper: int
    channel: str
    slept: int
    made: Made | None
    last: Call | None
    missed: Call | None
    owed_by: int | None
    text: str


def attribute(
    k: Kernel, verdict: Verdict, made: Mapping[int, Made], reads: Mapping[int, Collection[int]]
) -> tuple[Attribution, ...]:
    """Why the sleepers that a verdict is about were not woken; empty for verdicts of other kinds.

    Args:
        k: after an execution that was watched.
        verdict: of it.
        made: of each sleeper, who made true what it waits for while it slept, where that happened.
        reads: of each sleeper, the numbers of the objects that tell whether it is there.
    """
    if verdict.kind not in MISSING:
        return ()
    found = []
    last: dict[int, Nap] = {}
    rescued = verdict.kind == "rescued-sleep"
    for nap in naps(k):
        if nap.timed and k.trace[nap.woken][2] is True if rescued else nap.woken == NEVER:
            last.setdefault(nap.thread, nap)
    for t in verdict.threads:
        if t not in last:
            continue
        nap = last[t]
        since = made.get(t)
        if since is None or since.step <= nap.slept:
            since = _made_before(k, t, nap.slept, reads.get(t, ())) if k.trace[nap.slept][2] is True or since else None
        found.append(_told(k, t, nap.channel, (nap.slept, min(nap.woken, len(k.trace))), since))
    return tuple(found)


def _made_before(k: Kernel, t: int, slept: int, reads: Collection[int]) -> Made | None:
    """Who last changed, before a thread fell asleep, what tells whether it may go on; None if that is not known."""
    writes = [(step, who) for step, who, number, write in k.touched or () if write and number in reads]
    writes = [(_step_of(k, at, who), who) for at, who in writes]
    for step, (who, op, _) in enumerate(k.trace[:slept]):
        if any(number in reads and write for number, write in op.accesses):
            writes.append((step, who))
    before = [Made(step, who) for step, who in writes if step < slept and who != t]
    return max(before, default=None)


def _step_of(k: Kernel, at: int, who: int) -> int:
    """The step of a thread that a use of data belongs to: the last that it had done, or else the next."""
    for step in range(min(at, len(k.trace)) - 1, -1, -1):
        if k.trace[step][0] == who:
            return step
    return at


def calls(k: Kernel, channel: ObjectId) -> list[Call]:
    """The wakeups of a channel, in order."""
    return [
        Call(step, t, arg or ())
        for step, (t, op, arg) in enumerate(k.trace)
        if op.obj == channel and effect_of(op) is Effect.WAKE
    ]


def _told(k: Kernel, t: int, channel: ObjectId, asleep: tuple[int, int], made: Made | None) -> Attribution:
    slept, until = asleep
    every = [call for call in calls(k, channel) if call.step < until]
    last = every[-1] if every else None
    name = k.threads[t].name
    fell = f"{name} fell asleep on {channel.name} in step {slept}"
    was_there = k.trace[slept][2] is True
    if made is not None and made.step > slept:
        since = f"What it waits for has been there since step {made.step} ({_step(k, made.step)}), while it slept."
        text, missed, owed = _while_asleep(k, [call for call in every if call.step > made.step], made, last)
        return Attribution(t, channel.name, slept, made, last, missed, owed, f"{fell}. {since} {text}")
    own = max((step for step in range(slept) if k.trace[step][0] == t), default=-1)
    if was_there or made is not None:
        since = "What it waits for was there already"
        since += f", since step {made.step} ({_step(k, made.step)})." if made is not None else "."
        begin = made.step if made is not None else own
        woke = [call for call in every if begin <= call.step < slept and t in call.woken]
        if woke:
            text = f"It had been woken for that: {_call(k, woke[-1])}; and went back to sleep without having seen it."
            return Attribution(t, channel.name, slept, made, last, woke[-1], t, f"{fell}. {since} {text}")
        early = [call for call in every if begin <= call.step < slept and t not in call.woken]
        text, missed, owed = _before_sleep(k, name, early, made)
        return Attribution(t, channel.name, slept, made, last, missed, owed, f"{fell}. {since} {text}")
    lost = last if last is not None and last.step < slept and last.step > own else None
    text = "It gave no predicate, so it cannot be told what it waits for. "
    if last is None:
        text += f"Nobody ever woke {channel.name}."
    elif lost is not None:
        text += f"The last wakeup came before it was in the queue: {_call(k, lost)}."
    else:
        text += f"The last wakeup was that of {_call(k, last)}."
    return Attribution(t, channel.name, slept, None, last, lost, lost.thread if lost else None, f"{fell}. {text}")


def _while_asleep(k: Kernel, after: list[Call], made: Made, last: Call | None) -> tuple[str, Call | None, int | None]:
    maker = k.threads[made.thread].name if made.thread >= 0 else "the builder of the world"
    for call in after:
        if call.woken:
            heirs = ", ".join(k.threads[other].name for other in call.woken)
            text = f"The wakeup that came for it went to others: {_call(k, call)}; {heirs} did not pass it on."
            return text, call, call.woken[-1]
    if last is not None and last.thread == made.thread and last.step <= made.step:
        return f"{maker} should have woken it then; it had done so before: {_call(k, last)}.", last, made.thread
    before = (
        f"the last wakeup of the channel was that of {_call(k, last)}" if last is not None else "nobody ever woke it"
    )
    return f"{maker} should have woken it, and woke nobody; {before}.", None, made.thread


def _before_sleep(k: Kernel, name: str, early: list[Call], made: Made | None) -> tuple[str, Call | None, int | None]:
    if early:
        call = early[-1]
        found = "found nobody" if not call.woken else "did not find it"
        text = f"The wakeup for it came before it was in the queue, and {found}: {_call(k, call)}."
        return f"{text} {name} should have looked once more, or the wakeup have waited for its lock.", call, call.thread
    if made is None or made.thread < 0:
        return "Nobody has woken the channel since it last looked.", None, None
    return f"{k.threads[made.thread].name} made it so, and woke nobody then.", None, made.thread


def _step(k: Kernel, step: int) -> str:
    if not 0 <= step < len(k.trace):
        return "the world was built so"
    t, op, _ = k.trace[step]
    return f"{k.threads[t].name}: {op!r}" if t >= 0 else repr(op)


def _call(k: Kernel, call: Call) -> str:
    woken = ", ".join(k.threads[t].name for t in call.woken) or "nobody"
    return f"{_step(k, call.step)} in step {call.step}, which woke {woken}"

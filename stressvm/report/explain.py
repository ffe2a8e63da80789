"""A finding as a kernel engineer would put it into a bug report: what, how it came about, who waits, what matters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.check.verdict import KINDS
from stressvm.report.facts import avoided, led_to, missed, processes, woken
from stressvm.report.lane import describe, one_line, swim_lane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.explore.execution import Recording
    from stressvm.explore.flips import Flip
    from stressvm.explore.turning import Turning


#: Steps of an execution that an explanation shows; of a longer one, the middle is left out.
STEPS_SHOWN: Final = 180


def explain(recording: Recording, flips: Sequence[Flip], *, width: int = 100, turning: Turning | None = None) -> str:
    """The whole explanation, as text."""
    parts = [headline(recording), how(recording, width=width), where(recording), processes(recording), who(recording)]
    if recording.verdict is not None:
        parts += [missed(recording), led_to(recording), what_matters(recording, flips), avoided(recording, turning)]
    parts.append(woken(recording))
    return "\n\n".join(part for part in parts if part)


def headline(recording: Recording) -> str:
    """Kind, scenario, and one sentence; what such a finding means."""
    scenario = recording.subject.scenario
    verdict = recording.verdict
    given = ", ".join(f"{name}={value}" for name, value in recording.subject.params.items())
    title = f"{scenario.name}({given})" if given else scenario.name
    if verdict is None:
        return f"{title}: clean, {len(recording.records)} steps"
    lines = [
        f"{verdict.kind} in {title}  [{verdict.fingerprint}]",
        f"  {verdict.text}",
        f"  ({verdict.kind}: {KINDS[verdict.kind]})",
    ]
    lines += [f"  it also shows: {other.kind}  [{other.fingerprint}]  {other.text}" for other in verdict.also]
    return "\n".join(lines)


def how(recording: Recording, *, width: int) -> str:
    """The swim lane."""
    switches = sum(1 for choice in recording.choices if choice)
    counted = f"{_many(recording.preemptions, 'preemption')}, {_many(switches, 'decision')} against the default"
    lane = "\n".join(f"  {line}" for line in swim_lane(recording, width=width - 2, limit=STEPS_SHOWN).splitlines())
    return f"What happened ({_many(len(recording.records), 'step')}, {counted}):\n{lane}\n  in short: {one_line(recording)}"


def where(recording: Recording) -> str:
    """The user's lines of the stack at each step that the verdict is about, innermost last; "" if it names none."""
    places = recording.shown()
    if not places:
        return ""
    names = recording.names()
    lines = ["Where it is:"]
    for place in places:
        lines.append(f"  step {place.step}: {names[place.thread]}, {place.what}")
        lines.extend(f"    {frame}" for frame in place.stack if not frame.ours)
    return "\n".join(lines)


def who(recording: Recording) -> str:
    """Every thread at the end: its state, and the user's lines of its stack, innermost last."""
    longest = max((len(thread.name) for thread in recording.threads), default=0)
    lines = ["Who waits for whom, at the end:"]
    for thread in recording.threads:
        since = f"; what it waits for has been there since step {thread.since}" if thread.since is not None else ""
        lines.append(f"  {thread.name:<{longest}}  {thread.state}{since}")
        lines.extend(f"  {'':<{longest}}    {frame}" for frame in thread.stack if not frame.ours)
    return "\n".join(lines)


def what_matters(recording: Recording, flips: Sequence[Flip]) -> str:
    """Each decision against the default, and what happens without it."""
    if not flips:
        return (
            "Which switches matter: none. It takes no decision against the default: every thread runs until it sleeps or "
            "ends, in the order in which they were spawned."
        )
    names = recording.names()
    by_step = {record.step: record for record in recording.records}
    lines = ["Which switches matter (each undone by itself, the rest kept):"]
    for flip in flips:
        record = by_step.get(flip.step)
        if record is None:
            what = "the last decision"
        else:
            who_goes = names[record.thread] if record.thread >= 0 else "the world"
            kind = "preempts" if flip.preempting else "goes first"
            what = f"step {flip.step}: {who_goes} {kind}, to {describe(record, names)}"
        if flip.same:
            then = "the same bug shows all the same"
        elif flip.then is None:
            then = "the bug is gone"
        else:
            then = f"it becomes {flip.then}"
        lines.append(f"  {what}. Without: {then}.")
    return "\n".join(lines)


def _many(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"

"""The facts of a bug report in text and in plain values: threads, missed wakeups, what led to it, wakeups by channel."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stressvm.report.lane import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.check.attribution import Call
    from stressvm.explore.execution import Recording
    from stressvm.explore.turning import Turning


def processes(recording: Recording) -> str:
    """The threads as ps(1) lists them."""
    post = recording.post_mortem
    if post is None:
        return ""
    head = ("TID", "PRI", "STATE", "WCHAN", "WMESG", "SINCE", "TICKS", "HOLDS", "NAME")
    rows = [head]
    for one in post.processes:
        since = "-" if one.since is None else f"step {one.since}"
        wmesg = one.wmesg if one.wmesg != one.channel else ""
        held = " ".join(one.holds) or "-"
        row = (
            one.number,
            one.priority,
            one.state,
            one.channel or "-",
            wmesg or "-",
            since,
            one.ticks or "-",
            held,
            one.name,
        )
        rows.append(tuple(str(cell) for cell in row))  # type: ignore[arg-type]  # as many as there are in the head
    # What is empty for all of them is left out.
    shown = [n for n, title in enumerate(head) if title not in ("PRI", "WMESG", "TICKS") or _any(rows, n)]
    widths = {n: max(len(row[n]) for row in rows) for n in shown}
    lines = ["  " + "  ".join(f"{row[n]:<{widths[n]}}" for n in shown).rstrip() for row in rows]
    return "\n".join(["Threads (locks that are shared in brackets):", *lines])


def _any(rows: Sequence[tuple[str, ...]], n: int) -> bool:
    return any(row[n] not in ("-", "0") for row in rows[1:])


def missed(recording: Recording) -> str:
    """Which wakeup each sleeper missed, and who should have woken it."""
    post = recording.post_mortem
    if post is None:
        return ""
    lines = [f"  {one.text}" for one in post.attributions]
    if post.blame:
        lines.append(f"  {post.blame[0].upper()}{post.blame[1:]}.")
    title = "Why nobody woke it:" if post.attributions else "Why it does not end:"
    return "\n".join([title, *lines]) if lines else ""


def led_to(recording: Recording) -> str:
    """The steps of other threads without which the failing one could not have been."""
    post = recording.post_mortem
    if post is None or not post.links:
        return ""
    names = recording.names()

    def told(step: int) -> str:
        record = recording.records[step]
        who = names[record.thread] if record.thread >= 0 else "the world"
        return f"step {step}: {who}: {describe(record, names)}"

    lines = [
        f"What led to step {post.failing} (each before the one below it, in every schedule that has them both so):"
    ]
    for n, link in enumerate(post.links):
        if not n or post.links[n - 1].after != link.before:
            lines.append(f"  {told(link.before)}")
        lines.append(f"    -> {told(link.after)}")
    if post.links[-1].after != post.failing:
        lines.append(f"  {told(post.failing)}")
    return "\n".join(lines)


def woken(recording: Recording) -> str:
    """What came of the wakeups of each channel, where some achieved nothing."""
    post = recording.post_mortem
    told = [channel for channel in post.channels if channel.idle or channel.nobody] if post is not None else []
    if not told:
        return ""
    lines = ["Wakeups by channel:"]
    for one in told:
        text = f"  {one.name}: {_many(one.sleeps, 'sleep')}, {_many(one.wakeups, 'wakeup')}"
        text += f", {one.nobody} of them found nobody" if one.nobody else ""
        text += f"; {one.woken} woken"
        text += f", {one.idle} of them for nothing, at most {one.herd} at once" if one.idle else ""
        lines.append(text)
    return "\n".join(lines)


def _many(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def avoided(recording: Recording, turning: Turning | None) -> str:
    """The decision after which nothing helped, and the smallest change of the schedule without which it ends well."""
    if turning is None:
        return ""
    names = recording.names()
    tried = f"({turning.tried} other ways to go on were tried)"
    if turning.decision is None:
        return f"When it became inevitable: from the beginning, as far as can be told {tried}."
    record = recording.records[turning.step] if turning.step < len(recording.records) else None
    what = (
        f"{names[record.thread]}: {describe(record, names)}" if record is not None and record.thread >= 0 else "the end"
    )
    lines = [
        f"When it became inevitable {tried}:",
        f"  with the decision for step {turning.step} ({what}). Until then it could have ended well; after it, no way was found.",
    ]
    if turning.instead:
        lines.append(f"  The smallest change of the schedule that avoids it: {turning.instead}.")
    return "\n".join(lines)


def post_mortem_facts(recording: Recording) -> dict[str, Any]:
    """All of that, but for what needs other executions, in plain values."""
    post = recording.post_mortem
    if post is None:
        return {}
    names = recording.names()

    def call(one: Call | None) -> dict[str, Any] | None:
        if one is None:
            return None
        return {"step": one.step, "thread": names[one.thread], "woken": [names[t] for t in one.woken]}

    return {
        "processes": [asdict(one) for one in post.processes],
        "missed_wakeups": [
            {
                "sleeper": names[one.sleeper],
                "channel": one.channel,
                "slept_at_step": one.slept,
                "there_since_step": one.made.step if one.made is not None else None,
                "made_by": names[one.made.thread] if one.made is not None and one.made.thread >= 0 else None,
                "last_wakeup": call(one.last),
                "missed": call(one.missed),
                "owed_by": names[one.owed_by] if one.owed_by is not None and one.owed_by >= 0 else None,
                "text": one.text,
            }
            for one in post.attributions
        ],
        "led_to": {"step": post.failing, "links": [[link.before, link.after] for link in post.links]},
        "channels": [one._asdict() for one in post.channels],
        "blame": post.blame or None,
    }


def turning_facts(turning: Turning | None) -> dict[str, Any] | None:
    """When it became inevitable, in plain values."""
    if turning is None:
        return None
    return {
        "decision": turning.decision,
        "step": turning.step if turning.decision is not None else None,
        "tried": turning.tried,
        "changes": turning.changes,
        "instead": turning.instead or None,
        "choices": list(turning.choices),
    }

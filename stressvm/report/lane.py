"""An execution as a person reads it: a swim lane, one column a thread, and a schedule on one line.

The mark before a step says how its thread got the baton from the one before: `P` it was taken from a thread that could
have gone on (a preemption), `S` the thread before slept or was blocked, `E` it had ended; nothing: the same goes on.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stressvm.explore.execution import Record, Recording

#: A column narrower than this says too little: the steps then stand one below the other, indented by thread.
COLUMN_MIN: Final = 16

#: Runs of steps shown in the schedule on one line.
RUNS_MAX: Final = 60

LEGEND: Final = "the thread before: P was preempted, S slept or was blocked, E ended"


def marks(recording: Recording) -> list[str]:
    """For each step how its thread got the baton: "P", "S", "E" or "" (see the module)."""
    last = {record.thread: record.step for record in recording.records}
    finished = {thread.number for thread in recording.threads if thread.state == "ended"}
    found = []
    before: int | None = None
    for record in recording.records:
        if before is None or record.thread == before or record.thread < 0 or before < 0:
            mark = ""
        elif record.preempted:
            mark = "P"
        elif before in finished and last[before] < record.step:
            mark = "E"
        else:
            mark = "S"
        found.append(mark)
        before = record.thread
    return found


#: Operations that wake sleepers; their argument is whom.
WAKES: Final = frozenset({"signal", "broadcast", "wakeup", "wakeup_one"})


def describe(record: Record, names: Sequence[str]) -> str:
    """One step in words."""
    text = f"{record.kind} {record.obj}".rstrip()
    arg = record.arg
    if record.kind in WAKES and record.obj:
        return f"{text} -> {', '.join(names[t] for t in arg) if arg else 'nobody'}"
    if arg is None:
        return text
    if record.obj.endswith(".flags"):
        return f"{text} {arg:#x}"
    if record.kind == "choose":
        return f"{text} {arg[0]} of {arg[1]}"
    if record.kind == "record":
        return ", ".join(f"{key}={_value(value)}" for key, value in arg.items())
    if record.kind in ("timeout", "sleep") and isinstance(arg, bool):
        return f"{text} (was there)" if arg else text
    return f"{text} {_value(arg)}"


def _value(value: Any) -> str:
    """Addresses in hexadecimal."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0x1000:
        return hex(value)
    return str(value)


def swim_lane(recording: Recording, *, width: int = 100, limit: int | None = None) -> str:
    """The execution as a table, as wide as told; with many threads or little width one step a line.

    Of an execution of more than `limit` steps the middle is left out, and it is said how much.
    """
    names = recording.names()
    ticks = any(record.tick for record in recording.records)
    head = 12 if ticks else 7
    column = (width - head) // max(1, len(names))
    rows = _columns(recording, column, width - head) if column >= COLUMN_MIN else _lines(recording)
    lines = []
    if column >= COLUMN_MIN:
        titles = "".join(_fit(name, column) for name in names)
        lines.append(f"{'step':>4}{' tick' if ticks else ''}   {titles}".rstrip())
    total = len(recording.records)
    skipped = range(0) if limit is None or total <= limit else range(limit * 2 // 3, total - limit // 3)
    for record, mark, row in zip(recording.records, marks(recording), rows, strict=True):
        if record.step in skipped:
            if record.step == skipped.start:
                lines.append(f"   ... {len(skipped)} steps left out ...")
            continue
        tick = f"{record.tick:>5}" if ticks else ""
        lines.append(f"{record.step:>4}{tick} {mark or ' '} {row}".rstrip())
    lines.append(f"({LEGEND})")
    return "\n".join(lines)


def _columns(recording: Recording, column: int, width: int) -> Iterator[str]:
    """Nobody else does anything in the same row: a text that is long runs on to the right, and begins earlier if need be."""
    for record in recording.records:
        text = describe(record, recording.names())
        begin = min(column * max(0, record.thread), max(0, width - len(text)))
        yield " " * begin + text


def _lines(recording: Recording) -> Iterator[str]:
    names = recording.names()
    longest = min(20, max((len(name) for name in names), default=0))
    for record in recording.records:
        name = names[record.thread] if record.thread >= 0 else "(world)"
        yield f"{_fit(name, longest + 1)} {describe(record, names)}"


def _fit(text: str, column: int) -> str:
    """Exactly `column` wide, the last place blank."""
    return f"{text if len(text) < column else text[: column - 2] + '~':<{column}}"


def one_line(recording: Recording) -> str:
    """The schedule in short: `big*5 S small*7 P give*3`, steps of each thread in a row and how the baton moved."""
    names = recording.names()
    parts: list[str] = []
    steps = zip(recording.records, marks(recording), strict=True)
    for thread, group in groupby(steps, key=lambda step: step[0].thread):
        run = list(group)
        mark = run[0][1]
        name = names[thread] if thread >= 0 else "(world)"
        parts.append(f"{mark} {name}*{len(run)}".lstrip())
        if len(parts) > RUNS_MAX:
            return " ".join((*parts[:-1], "..."))
    return " ".join(parts)

"""A picture of entries and gaps for people: whole maps in reports, surroundings of a fault in `_check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.vm.entry import BEYOND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.vm.entry import Entry

#: A tower has fewer levels: its height is drawn from the leading zeros of 32 bits, and the sentinels have two more.
LEVELS_MAX: Final = 40


def _size(gap: int) -> str:
    return "without end" if gap == BEYOND else f"{gap:#x}"


def line(entry: Entry) -> str:
    """One entry: its range, the gap after it as recorded, and the annotations of its tower from the bottom up."""
    text = f"{entry.start:#x}-{entry.end:#x}  gap {_size(entry.gap)}"
    gaps: list[str] = []
    lane = entry.lane
    # A broken tower may be a circle.
    while lane is not None and len(gaps) < LEVELS_MAX:
        gaps.append(_size(lane.gap))
        lane = lane.up
    return text + "  lanes " + ", ".join(gaps) if gaps else text


def around(entries: Sequence[Entry], at: int, reach: int = 3) -> str:
    """The entries near position `at`, one a line, that one marked; the first and last are the sentinels."""
    first, stop = max(at - reach, 0), min(at + reach + 1, len(entries))
    lines = [f"  ... {first} before"] if first else []
    lines += [("> " if i == at else "  ") + line(entries[i]) for i in range(first, stop)]
    if stop < len(entries):
        lines.append(f"  ... {len(entries) - stop} after")
    return "\n".join(lines)


def ranges(head: Entry, count: int, limit: int) -> str:
    """Entries and gaps in order, one a line; of more than `limit` entries the middle ones are left out."""
    lines = [f"  {head.end:#x} free {head.gap:#x}"] if head.gap else []
    entry = head
    for position in range(count):
        entry = entry.next
        if limit // 2 <= position < count - (limit + 1) // 2:
            if position == limit // 2:
                lines.append(f"  ... {count - limit} entries")
            continue
        lines.append(f"  {entry.start:#x}-{entry.end:#x} {type(entry).__name__}")
        if entry.gap:
            lines.append(f"  {entry.end:#x} free {entry.gap:#x}")
    return "\n".join(lines)

"""What the address map costs, beside a plain sorted list and beside the kernels' own C.

The map is the one on which the C was timed: N entries of 1 to 15 pages, one every 16 pages, and a free tail of 4,096
pages. Requests are for 1 to 14 pages at a random page. Sizes, operations and structures take turns within each round,
and the median over the rounds is reported, so that a busy moment of the machine spoils one round of everything and not
all rounds of one thing. The garbage collector is off while the clock runs.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypedDict

from stressvm.vm.entry import Entry
from stressvm.vm.skiplist import EntryList

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE: Final = 4096
SLOT: Final = 16 * PAGE
TAIL: Final = 4096 * PAGE
SIZES: Final = (100, 1_000, 10_000, 100_000)
PLAIN_SIZE_MAX: Final = 10_000

FIND_RANDOM: Final = "find, random start"
FIND_MIN: Final = "find, from the minimum"
FIND_ALIGNED: Final = "find, aligned"
INSERT_DELETE: Final = "insert + delete"
CYCLE: Final = "find + insert + delete"

# Nanoseconds per call of the kernels' own C at 100, 1,000, 10,000 and 100,000 entries: the unmodified functions cut out
# of the kernels, gcc -O2, one thread, two shared cores of an x86-64 server, assertions compiled out. They vary by 30 %
# and more between runs. NetBSD 6.99.16: uvm_map_findspace, bottom-up, on the map described above; "aligned" is 4 pages
# at a multiple of 16. FreeBSD 13.0: vm_map_findspace on a map of one entry every 64 pages; the cycle is of one page.
NETBSD: Final = {
    FIND_RANDOM: (124, 237, 412, 1229),
    FIND_MIN: (11, 62, 9, 78),
    FIND_ALIGNED: (285, 4232, 33959, 631471),
}
FREEBSD: Final = {
    FIND_RANDOM: (170, 239, 403, 893),
    FIND_MIN: (32, 38, 39, 62),
    CYCLE: (233, 415, 527, 1229),
}


class Row(TypedDict):
    """One operation at one size: nanoseconds, and what to hold them against (None where there is nothing)."""

    operation: str
    entries: int
    ns: float
    growth: float | None
    plain_ns: float | None
    netbsd_ratio: float | None
    freebsd_ratio: float | None


class Ranges(Protocol):
    """What both structures can do."""

    def first_fit(self, length: int, hint: int, *, align: int = 1) -> int | None:
        """The lowest aligned address from `hint` on with `length` free."""

    def insert(self, entry: Entry, /) -> None:
        """Put an entry in its place."""

    def delete(self, entry: Entry, /) -> None:
        """Take it out again."""


class PlainList:
    """The yardstick: a sorted list of entries, scanned from its start by every operation."""

    def __init__(self, entries: list[Entry], end: int) -> None:
        self.entries = entries
        self.end = end

    def first_fit(self, length: int, hint: int, *, align: int = 1) -> int | None:
        """The lowest aligned address from `hint` on with `length` free. O(n)."""
        start = hint + -hint % align
        for entry in self.entries:
            if entry.end > start:
                if entry.start >= start + length:
                    return start
                start = entry.end + -entry.end % align
        return start if start + length <= self.end else None

    def insert(self, entry: Entry) -> None:
        """Keep the order. O(n)."""
        at = 0
        for other in self.entries:
            if other.start > entry.start:
                break
            at += 1
        self.entries.insert(at, entry)

    def delete(self, entry: Entry) -> None:
        """O(n)."""
        self.entries.remove(entry)


@dataclass(frozen=True, slots=True)
class Load:
    """The inputs of one size: requests as (length, hint), and entries that fit into gaps of the map."""

    requests: list[tuple[int, int]]
    guests: list[Entry]


def run(*, quick: bool) -> list[Row]:
    """Measure everything. Takes some 4 seconds if quick, 25 if not."""
    rounds, effort = (3, 500_000) if quick else (15, 2_000_000)
    samples: dict[tuple[str, int, bool], list[float]] = {}
    worlds = [(size, *_world(size)) for size in SIZES]
    for _ in range(rounds):
        for size, skiplist, plain, load in worlds:
            for operation, call in OPERATIONS.items():
                # Calls are chosen so that every measurement takes about as long; the aligned search visits n / 2 gaps.
                calls = _calls(effort // (size if operation == FIND_ALIGNED else 100))
                ns = _clock(call, skiplist, load, calls)
                samples.setdefault((operation, size, False), []).append(ns)
                if size <= PLAIN_SIZE_MAX:
                    ns = _clock(call, plain, load, _calls(effort // 4 // size))
                    samples.setdefault((operation, size, True), []).append(ns)
    medians = {key: statistics.median(values) for key, values in samples.items()}
    return [_row(medians, operation, k) for operation in OPERATIONS for k in range(len(SIZES))]


def render(rows: list[Row]) -> str:
    """The rows as a table: one block for each operation, one line for each size."""
    heads = ("entries", "ns", "growth", "plain list ns", "x NetBSD's C", "x FreeBSD's C")
    lines = ["  ".join(["operation".ljust(24), *(head.rjust(13) for head in heads)])]
    for row in rows:
        cells = [
            f"{row['entries']:,}",
            f"{row['ns']:,.0f}",
            _cell(row["growth"], ".2f"),
            _cell(row["plain_ns"], ",.0f"),
            _cell(row["netbsd_ratio"], ".1f"),
            _cell(row["freebsd_ratio"], ".1f"),
        ]
        lines.append("  ".join([row["operation"].ljust(24), *(cell.rjust(13) for cell in cells)]))
    lines.append("growth: against a tenth of the entries. The C was timed once, at another time.")
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _row(medians: dict[tuple[str, int, bool], float], operation: str, at: int) -> Row:
    ns = medians[operation, SIZES[at], False]
    netbsd, freebsd = NETBSD.get(operation), FREEBSD.get(operation)
    return Row(
        operation=operation,
        entries=SIZES[at],
        ns=ns,
        growth=ns / medians[operation, SIZES[at - 1], False] if at else None,
        plain_ns=medians.get((operation, SIZES[at], True)),
        netbsd_ratio=ns / netbsd[at] if netbsd else None,
        freebsd_ratio=ns / freebsd[at] if freebsd else None,
    )


def _calls(wanted: int) -> int:
    return max(5, min(wanted, 10_000))


# -- the worlds


def _world(size: int) -> tuple[EntryList[Entry], PlainList, Load]:
    """The same map in both structures, filled in random order, and its load."""
    dice = random.Random(size)
    end = size * SLOT + TAIL
    lengths = [dice.randrange(1, 16) * PAGE for _ in range(size)]
    skiplist: EntryList[Entry] = EntryList(0, end)
    for slot in dice.sample(range(size), size):
        skiplist.insert(Entry(slot * SLOT, slot * SLOT + lengths[slot]))
    requests = [(dice.randrange(1, 15) * PAGE, dice.randrange(size * 16) * PAGE) for _ in range(10_000)]
    guests = []
    for length, hint in requests:
        start = skiplist.first_fit(length, hint)
        assert start is not None, "the tail has room for every request"
        guests.append(Entry(start, start + length))
    return skiplist, PlainList([entry.copy() for entry in skiplist], end), Load(requests, guests)


# -- the operations, each a loop over as many calls as it is told


def _clock(operation: Callable[[Ranges, Load, int], None], ranges: Ranges, load: Load, calls: int) -> float:
    """Nanoseconds per call."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        began = time.perf_counter_ns()
        operation(ranges, load, calls)
        return (time.perf_counter_ns() - began) / calls
    finally:
        if was_enabled:
            gc.enable()


def _find_random(ranges: Ranges, load: Load, calls: int) -> None:
    find = ranges.first_fit
    for length, hint in load.requests[:calls]:
        find(length, hint)


def _find_min(ranges: Ranges, load: Load, calls: int) -> None:
    find = ranges.first_fit
    for length, _ in load.requests[:calls]:
        find(length, 0)


def _find_aligned(ranges: Ranges, load: Load, calls: int) -> None:
    find = ranges.first_fit
    for _, hint in load.requests[:calls]:
        find(4 * PAGE, hint, align=SLOT)


def _insert_delete(ranges: Ranges, load: Load, calls: int) -> None:
    insert, delete = ranges.insert, ranges.delete
    for entry in load.guests[:calls]:
        insert(entry)
        delete(entry)


def _cycle(ranges: Ranges, load: Load, calls: int) -> None:
    find, insert, delete = ranges.first_fit, ranges.insert, ranges.delete
    for _, hint in load.requests[:calls]:
        start = find(PAGE, hint)
        assert start is not None, "the tail has room for every request"
        entry = Entry(start, start + PAGE)
        insert(entry)
        delete(entry)


OPERATIONS: Final[dict[str, Callable[[Ranges, Load, int], None]]] = {
    FIND_RANDOM: _find_random,
    FIND_MIN: _find_min,
    FIND_ALIGNED: _find_aligned,
    INSERT_DELETE: _insert_delete,
    CYCLE: _cycle,
}

"""What the address map costs, beside a plain sorted list and beside the kernels' own C.

The map is the one on which the C was timed: N entries of 1 to 15 pages, one every 16 pages, and a free tail of 4,096
pages. Requests are for 1 to 14 pages at a random page. The mixed load has a map of its own, the same at first, in which
everything moves: any entry is deleted, room for a request is found, and the entry is inserted there.

Sizes, operations and structures take turns within each round, and the median over the rounds is reported, so that a
busy moment of the machine spoils one round of everything and not all rounds of one thing. How a cost grows is compared
within each round, too. The garbage collector is off while the clock runs.
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
CALLS_MAX: Final = 10_000

FIND_RANDOM: Final = "find, random start"
FIND_MIN: Final = "find, from the minimum"
FIND_ALIGNED: Final = "find, aligned"
INSERT_DELETE: Final = "insert + delete"
CYCLE: Final = "find + insert + delete"
MIXED: Final = "mixed load"

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
class World:
    """One structure at one size, and what is asked of it.

    Attributes:
        still: a map that is as it was before after every operation.
        moving: another one, that the mixed load changes.
        tenants: the entries of that, in any order.
        requests: as (length, hint) in bytes.
        guests: entries that fit into gaps of the map that is still.
        picks: which tenant moves next.
    """

    still: Ranges
    moving: Ranges
    tenants: list[Entry]
    requests: list[tuple[int, int]]
    guests: list[Entry]
    picks: list[int]


def run(*, quick: bool) -> list[Row]:
    """Measure everything. Takes some 4 seconds if quick, 25 if not."""
    rounds, effort = (3, 500_000) if quick else (15, 2_000_000)
    samples: dict[tuple[str, int, bool], list[float]] = {}
    worlds = [(size, *_worlds(size)) for size in SIZES]
    for _ in range(rounds):
        for size, skiplist, plain in worlds:
            for operation, call in OPERATIONS.items():
                # Calls are chosen so that every measurement takes about as long; the aligned search visits n / 2 gaps.
                calls = _calls(effort // (size if operation == FIND_ALIGNED else 100))
                samples.setdefault((operation, size, False), []).append(_clock(call, skiplist, calls))
                if size <= PLAIN_SIZE_MAX:
                    ns = _clock(call, plain, _calls(effort // 4 // size))
                    samples.setdefault((operation, size, True), []).append(ns)
    return [_row(samples, operation, k) for operation in OPERATIONS for k in range(len(SIZES))]


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
    growth = next(row["growth"] for row in rows if row["operation"] == MIXED and row["entries"] == SIZES[-1])
    lines.append(f"growth of the mixed load from {SIZES[-2]:,} to {SIZES[-1]:,} entries: {_cell(growth, '.2f')}")
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _row(samples: dict[tuple[str, int, bool], list[float]], operation: str, at: int) -> Row:
    skiplist = samples[operation, SIZES[at], False]
    plain = samples.get((operation, SIZES[at], True))
    ns = statistics.median(skiplist)
    netbsd, freebsd = NETBSD.get(operation), FREEBSD.get(operation)
    return Row(
        operation=operation,
        entries=SIZES[at],
        ns=ns,
        growth=_growth(samples[operation, SIZES[at - 1], False], skiplist) if at else None,
        plain_ns=statistics.median(plain) if plain is not None else None,
        netbsd_ratio=ns / netbsd[at] if netbsd else None,
        freebsd_ratio=ns / freebsd[at] if freebsd else None,
    )


def _growth(fewer: list[float], more: list[float]) -> float:
    """How much more an operation costs with more entries: the median over the rounds, which compare like with like."""
    return statistics.median(after / before for before, after in zip(fewer, more, strict=True))


def _calls(wanted: int) -> int:
    return max(5, min(wanted, CALLS_MAX))


# -- the worlds


def _worlds(size: int) -> tuple[World, World]:
    """The same maps in both structures, filled in random order, and the same load."""
    dice = random.Random(size)
    end = size * SLOT + TAIL
    lengths = [dice.randrange(1, 16) * PAGE for _ in range(size)]
    slots = dice.sample(range(size), size)
    requests = [(dice.randrange(1, 15) * PAGE, dice.randrange(size * 16) * PAGE) for _ in range(CALLS_MAX)]
    picks = [dice.randrange(size) for _ in range(CALLS_MAX)]

    def entries() -> list[Entry]:
        return [Entry(slot * SLOT, slot * SLOT + lengths[slot]) for slot in slots]

    still, _ = _skiplist(entries(), end)
    starts = [still.first_fit(length, hint) for length, hint in requests]
    assert None not in starts, "the tail has room for every request"
    guests = [
        Entry(start, start + length) for start, (length, _) in zip(starts, requests, strict=True) if start is not None
    ]
    plain, _ = _plain(entries(), end)
    moving, tenants = _skiplist(entries(), end)
    plain_moving, plain_tenants = _plain(entries(), end)
    return (
        World(still, moving, tenants, requests, guests, picks),
        World(plain, plain_moving, plain_tenants, requests, guests, picks),
    )


def _skiplist(entries: list[Entry], end: int) -> tuple[EntryList[Entry], list[Entry]]:
    """A map of these entries, inserted in this order, and they."""
    ranges: EntryList[Entry] = EntryList(0, end)
    for entry in entries:
        ranges.insert(entry)
    return ranges, entries


def _plain(entries: list[Entry], end: int) -> tuple[PlainList, list[Entry]]:
    """The same in the yardstick."""
    return PlainList(sorted(entries, key=lambda entry: entry.start), end), entries


# -- the operations, each a loop over as many calls as it is told


def _clock(operation: Callable[[World, int], None], world: World, calls: int) -> float:
    """Nanoseconds per call."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        began = time.perf_counter_ns()
        operation(world, calls)
        return (time.perf_counter_ns() - began) / calls
    finally:
        if was_enabled:
            gc.enable()


def _find_random(world: World, calls: int) -> None:
    find = world.still.first_fit
    for length, hint in world.requests[:calls]:
        find(length, hint)


def _find_min(world: World, calls: int) -> None:
    find = world.still.first_fit
    for length, _ in world.requests[:calls]:
        find(length, 0)


def _find_aligned(world: World, calls: int) -> None:
    find = world.still.first_fit
    for _, hint in world.requests[:calls]:
        find(4 * PAGE, hint, align=SLOT)


def _insert_delete(world: World, calls: int) -> None:
    insert, delete = world.still.insert, world.still.delete
    for entry in world.guests[:calls]:
        insert(entry)
        delete(entry)


def _cycle(world: World, calls: int) -> None:
    find, insert, delete = world.still.first_fit, world.still.insert, world.still.delete
    for _, hint in world.requests[:calls]:
        start = find(PAGE, hint)
        assert start is not None, "the tail has room for every request"
        entry = Entry(start, start + PAGE)
        insert(entry)
        delete(entry)


def _mixed(world: World, calls: int) -> None:
    find, insert, delete = world.moving.first_fit, world.moving.insert, world.moving.delete
    tenants, picks = world.tenants, world.picks
    for (length, hint), pick in zip(world.requests[:calls], picks, strict=False):
        entry = tenants[pick]
        delete(entry)
        start = find(length, hint)
        if start is not None:
            entry.start = start
            entry.end = start + length
        insert(entry)


OPERATIONS: Final[dict[str, Callable[[World, int], None]]] = {
    FIND_RANDOM: _find_random,
    FIND_MIN: _find_min,
    FIND_ALIGNED: _find_aligned,
    INSERT_DELETE: _insert_delete,
    CYCLE: _cycle,
    MIXED: _mixed,
}

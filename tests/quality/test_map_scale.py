"""The entry list at scale: a million operations on a hundred thousand entries, and how many links an operation visits.

Every answer of the long run is compared with brute force: a byte for each page, searched by `bytearray.find`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

from stressvm.vm import lanes
from stressvm.vm.entry import Entry, Lane
from stressvm.vm.skiplist import EntryList

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PAGE: Final = 1 << 12
#: Pages for each entry, used and free.
SLOT: Final = 16
LENGTH_MAX: Final = 14


def crowded(count: int, dice: random.Random, kind: type[Entry] = Entry) -> tuple[EntryList[Entry], list[Entry]]:
    """A map of so many entries of 1 to 15 pages, inserted in random order, and they in that order."""
    entries: EntryList[Entry] = EntryList(0, (count + 64) * SLOT * PAGE)
    inserted = []
    for slot in dice.sample(range(count), count):
        start = slot * SLOT * PAGE
        inserted.append(kind(start, start + dice.randrange(1, SLOT) * PAGE))
        entries.insert(inserted[-1])
    return entries, inserted


def ground(entries: EntryList[Entry]) -> bytearray:
    """A byte for each page, 1 where it is used."""
    used = bytearray(entries.max // PAGE)
    for entry in entries:
        used[entry.start // PAGE : entry.end // PAGE] = b"\1" * ((entry.end - entry.start) // PAGE)
    return used


def test_a_million_operations_on_a_hundred_thousand_entries() -> None:
    """A third each of searches, up or down, insertions at what they found, and deletions of any entry."""
    dice = random.Random(1)
    entries, tenants = crowded(100_000, dice)
    used = ground(entries)
    operations = 0
    for turn in range(1_000_000 // 3 + 1):
        pages = dice.randrange(1, LENGTH_MAX + 1)
        hint = dice.randrange(len(used))
        if turn % 2:
            start = entries.first_fit(pages * PAGE, hint * PAGE)
            place = used.find(bytes(pages), hint)
        else:
            start = entries.last_fit(pages * PAGE, hint * PAGE)
            place = used.rfind(bytes(pages), 0, hint + pages)
        assert start == (place * PAGE if place >= 0 else None)
        if start is not None:
            tenants.append(Entry(start, start + pages * PAGE))
            entries.insert(tenants[-1])
            used[place : place + pages] = b"\1" * pages
        at = dice.randrange(len(tenants))
        tenants[at], gone = tenants[-1], tenants[at]
        tenants.pop()
        entries.delete(gone)
        first, end = gone.start // PAGE, gone.end // PAGE
        used[first:end] = bytes(end - first)
        operations += 3 if start is not None else 2
        if turn % 33_333 == 0:
            entries._check()
            assert ground(entries) == used
    assert operations > 999_000
    assert len(entries) > 99_000
    entries._check()


# -- how many links an operation visits


def walked(cls: type[T], visits: list[int]) -> type[T]:
    """The class, with every step from link to link counted in `visits[0]`."""

    def counted(slot: Any) -> property:
        def read(link: Any) -> Any:
            visits[0] += 1
            return slot.__get__(link)

        return property(read, slot.__set__, slot.__delete__)

    steps = [name for name in ("next", "prev", "up", "down", "lane", "entry") if hasattr(cls, name)]
    return type(
        f"Walked{cls.__name__}", (cls,), {"__slots__": ()} | {name: counted(getattr(cls, name)) for name in steps}
    )


def visits_of(count: int, calls: int) -> dict[str, float]:
    """Links visited for each call of an operation, in a map of `count` entries."""
    visits = [0]
    dice = random.Random(count)
    totals = dict.fromkeys(("first_fit", "last_fit", "lookup", "delete", "insert"), 0)

    def tallied(call: Callable[..., T], *args: Any) -> T:
        visits[0] = 0
        result = call(*args)
        totals[call.__name__] += visits[0]
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "Lane", walked(Lane, visits))
        entries, tenants = crowded(count, dice, walked(Entry, visits))
        for _ in range(calls):
            length, hint = dice.randrange(1, LENGTH_MAX + 1) * PAGE, dice.randrange(entries.max)
            tenant = tenants[dice.randrange(count)]
            tallied(entries.lookup, hint)
            tallied(entries.last_fit, length, hint)
            tallied(entries.delete, tenant)
            start = tallied(entries.first_fit, length, hint)
            if start is not None:
                tenant.start, tenant.end = start, start + length
            tallied(entries.insert, tenant)
    return {name: total / calls for name, total in totals.items()}


def test_ten_times_as_many_entries_cost_at_most_twice_as_many_steps() -> None:
    few, many = visits_of(10_000, 4_000), visits_of(100_000, 4_000)
    for name, steps in many.items():
        assert few[name] > 10
        assert steps <= 2 * few[name], (name, few[name], steps)
    assert sum(many.values()) <= 1.5 * sum(few.values())


def test_without_towers_the_steps_grow_with_the_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted does grow, where nothing keeps it from growing."""
    monkeypatch.setattr(lanes, "QUARTER", 0)
    few, many = visits_of(100, 300), visits_of(1_000, 300)
    assert all(many[name] > 8 * few[name] for name in many)

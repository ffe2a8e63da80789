"""`_check` notices every kind of damage, and says where it is; refused operations leave no trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm.vm.entry import Entry, EntryError, Lane, OverlapError, RangeError
from stressvm.vm.skiplist import EntryList

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = 60


def many(count: int = COUNT) -> EntryList[Entry]:
    entries: EntryList[Entry] = EntryList(0, count * 16 + 100)
    for k in range(count):
        entries.insert(Entry(k * 16 + 3, k * 16 + 9 + k % 5))
    return entries


def lanes_of(entries: EntryList[Entry], height: int) -> list[Lane[Entry]]:
    """The links of the entries that reach level `height`."""
    found = []
    for entry in entries:
        lane = entry.lane
        for _ in range(height - 1):
            lane = lane.up if lane else None
        if lane:
            found.append(lane)
    return found


def nth(entries: EntryList[Entry], n: int) -> Entry:
    return list(entries)[n]


def low_lane(entries: EntryList[Entry]) -> Lane[Entry]:
    return lanes_of(entries, 1)[3]


def high_lane(entries: EntryList[Entry]) -> Lane[Entry]:
    return lanes_of(entries, 2)[1]


def widen_gap(entries: EntryList[Entry]) -> None:
    nth(entries, 20).gap += 1


def raise_low(entries: EntryList[Entry]) -> None:
    low_lane(entries).gap += 1


def lower_high(entries: EntryList[Entry]) -> None:
    high_lane(entries).gap -= 1


def raise_whole(entries: EntryList[Entry]) -> None:
    entries._over.gap += 1


def change_key(entries: EntryList[Entry]) -> None:
    low_lane(entries).until += 1


def skip_lane(entries: EntryList[Entry]) -> None:
    low_lane(entries).next = low_lane(entries).next.next


def skip_high_lane(entries: EntryList[Entry]) -> None:
    high_lane(entries).next = high_lane(entries).next.next


def lane_prev(entries: EntryList[Entry]) -> None:
    low_lane(entries).prev = low_lane(entries).prev.prev


def lose_tower(entries: EntryList[Entry]) -> None:
    low_lane(entries).entry.lane = None


def lose_storey(entries: EntryList[Entry]) -> None:
    below = high_lane(entries).down
    assert below is not None
    below.up = None


def wrong_owner_of_lane(entries: EntryList[Entry]) -> None:
    low_lane(entries).entry = nth(entries, 0)


def hang(entries: EntryList[Entry]) -> None:
    high_lane(entries).down = high_lane(entries).prev.down


def open_roof(entries: EntryList[Entry]) -> None:
    entries._over.up = None


def miss_level(entries: EntryList[Entry]) -> None:
    entries._height += 1


def idle_level(entries: EntryList[Entry]) -> None:
    entries._add_level()


def entry_prev(entries: EntryList[Entry]) -> None:
    nth(entries, 20).prev = nth(entries, 18)


def skip_entry(entries: EntryList[Entry]) -> None:
    nth(entries, 20).next = nth(entries, 22)


def count_up(entries: EntryList[Entry]) -> None:
    entries._count += 1


def count_down(entries: EntryList[Entry]) -> None:
    entries._count -= 1


def overlap(entries: EntryList[Entry]) -> None:
    nth(entries, 20).end += 14


def disorder(entries: EntryList[Entry]) -> None:
    a, b = nth(entries, 20), nth(entries, 21)
    (a.start, a.end), (b.start, b.end) = (b.start, b.end), (a.start, a.end)


def empty(entries: EntryList[Entry]) -> None:
    entry = nth(entries, 20)
    entry.end = entry.start


def past_max(entries: EntryList[Entry]) -> None:
    nth(entries, COUNT - 1).end += 200


def other_max(entries: EntryList[Entry]) -> None:
    entries.max += 1


def other_min(entries: EntryList[Entry]) -> None:
    entries.min += 1


def owner(entries: EntryList[Entry]) -> None:
    nth(entries, 20).owner = EntryList(0, 1)


def tail_gap(entries: EntryList[Entry]) -> None:
    nth(entries, COUNT - 1).next.gap = 0


def tail_next(entries: EntryList[Entry]) -> None:
    nth(entries, COUNT - 1).next.next = nth(entries, 0)


def tail_lane_gap(entries: EntryList[Entry]) -> None:
    entries._over.next.gap = 5


def tail_lane_down(entries: EntryList[Entry]) -> None:
    entries._over.next.down = None


def head_lane_prev(entries: EntryList[Entry]) -> None:
    entries._over.prev = entries._over


def low_top(entries: EntryList[Entry]) -> None:
    below = entries._top.down
    assert below is not None
    entries._top = below


def gap_and_disorder(entries: EntryList[Entry]) -> None:
    widen_gap(entries)
    disorder(entries)


DAMAGE = [
    (widen_gap, r"the gap after <Entry 0x143-0x149> is 0xa, not 0xb"),
    (raise_low, "level 1 link of .* says that the largest gap is"),
    (lower_high, "level 2 link of .* says that the largest gap is"),
    (raise_whole, "says that the largest gap is"),
    (change_key, "level 1 link of .* says that <Entry .*> starts at"),
    (skip_lane, "level 1 link of .* leads to"),
    (skip_high_lane, "level 2 link of .* leads to"),
    (lane_prev, "level 1: prev of"),
    (lose_tower, "level 1"),
    (lose_storey, "level 2"),
    (wrong_owner_of_lane, "belongs to"),
    (hang, "does not stand on the link below it"),
    (open_roof, "roof"),
    (miss_level, "levels, and .* are recorded"),
    (idle_level, "reached by no entry"),
    (entry_prev, "prev of <Entry 0x143-0x149> is"),
    (skip_entry, "prev of"),
    (count_up, "60 entries, and 61 are recorded"),
    (count_down, "more entries than the 59 recorded"),
    (overlap, "overlap"),
    (disorder, "out of order"),
    (empty, "is empty"),
    (past_max, "overlap"),
    (other_max, "not at the map's max"),
    (other_min, "not at the map's min"),
    (owner, "belongs to"),
    (tail_gap, "sentinels"),
    (tail_next, "sentinels"),
    (tail_lane_gap, "level 4 link of <Entry 0x424-0x424> does not stop a search"),
    (tail_lane_down, "does not stop a search"),
    (head_lane_prev, "does not stop a search"),
    (low_top, "does not begin at the highest level"),
    (gap_and_disorder, "out of order"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGE, ids=lambda v: getattr(v, "__name__", ""))
def test_damage_is_found_and_shown(damage: Callable[[EntryList[Entry]], None], says: str) -> None:
    entries = many()
    entries._check()
    damage(entries)
    with pytest.raises(AssertionError, match=says) as caught:
        entries._check()
    lines = str(caught.value).splitlines()
    assert 2 <= len(lines) <= 10
    assert sum(line.startswith("> ") for line in lines) == 1


REFUSED: list[tuple[Callable[[EntryList[Entry], Entry], object], type[EntryError]]] = [
    (lambda m, e: m.insert(e), EntryError),
    (lambda m, e: m.insert(e.copy()), OverlapError),
    (lambda m, _: m.insert(Entry(8, 25)), OverlapError),
    (lambda m, _: m.insert(Entry(1, 4)), OverlapError),
    (lambda m, _: m.insert(Entry(10, 10)), RangeError),
    (lambda m, _: m.insert(Entry(11, 10)), RangeError),
    (lambda m, _: m.insert(Entry(-1, 2)), RangeError),
    (lambda m, _: m.insert(Entry(m.max - 1, m.max + 1)), RangeError),
    (lambda m, e: m.delete(e.copy()), EntryError),
    (lambda m, _: m.delete(nth(many(), 3)), EntryError),
    (lambda m, e: m.clip_start(e, e.start), RangeError),
    (lambda m, e: m.clip_start(e, e.end), RangeError),
    (lambda m, e: m.clip_end(e, e.start), RangeError),
    (lambda m, e: m.clip_end(e, e.end), RangeError),
    (lambda m, e: m.clip_end(e.copy(), e.start + 1), EntryError),
    (lambda m, e: m.resize(e, end=e.start), RangeError),
    (lambda m, e: m.resize(e, start=-1), RangeError),
    (lambda m, e: m.resize(e, end=e.end + 50), OverlapError),
    (lambda m, e: m.resize(e, start=e.start - 14), OverlapError),
    (lambda m, e: m.resize(e.copy(), end=e.end + 1), EntryError),
    (lambda m, e: m.merge(e, nth(m, 6)), RangeError),
    (lambda m, e: m.merge_into_right(e, e), RangeError),
    (lambda m, e: m.merge(e, Entry(e.end, e.end + 1)), EntryError),
    (lambda m, e: m.next_of(e.copy()), EntryError),
    (lambda m, e: m.prev_of(e.copy()), EntryError),
    (lambda m, e: m.gap_after(e.copy()), EntryError),
    (lambda m, _: m.first_fit(0, 0), RangeError),
    (lambda m, _: m.first_fit(-1, 0), RangeError),
    (lambda m, _: m.last_fit(0, 0), RangeError),
    (lambda m, _: m.last_fit(-1, 0), RangeError),
    (lambda m, _: m.first_fit(1, 0, align=0), RangeError),
    (lambda m, _: m.last_fit(1, 0, align=0), RangeError),
    (lambda m, _: m.last_fit(1, 0, align=-4), RangeError),
]


@pytest.mark.parametrize(("call", "error"), REFUSED)
def test_a_refused_operation_changes_nothing(
    call: Callable[[EntryList[Entry], Entry], object], error: type[EntryError]
) -> None:
    entries = many()
    before = entries.describe(limit=COUNT)
    with pytest.raises(error, match=r"0x|positive") as caught:
        call(entries, nth(entries, 5))
    assert type(caught.value) is error
    entries._check()
    assert entries.describe(limit=COUNT) == before


@pytest.mark.parametrize(("low", "high"), [(5, 5), (6, 5), (-1, 5), (0, (1 << 64) + 1)])
def test_impossible_maps(low: int, high: int) -> None:
    with pytest.raises(RangeError, match="0 <= min < max"):
        EntryList(low, high)


def test_pictures() -> None:
    entries: EntryList[Entry] = EntryList(0, 0x100)
    assert repr(entries) == "<EntryList 0x0-0x100, 0 entries, largest gap 0x100>"
    entries.insert(Entry(0x10, 0x20))
    assert entries.describe().splitlines() == [
        "<EntryList 0x0-0x100, 1 entry, largest gap 0xe0>",
        "  0x0 free 0x10",
        "  0x10-0x20 Entry",
        "  0x20 free 0xe0",
    ]
    entries.resize(nth(entries, 0), start=0, end=0x100)
    assert entries.describe().splitlines()[1:] == ["  0x0-0x100 Entry"]
    assert entries.first_fit(1, 0) is None
    assert entries.last_fit(1, 0xFF) is None


def test_a_long_map_is_shown_by_its_ends() -> None:
    lines = many().describe(limit=4).splitlines()
    assert "  ... 56 entries" in lines
    assert lines[2] == "  0x3-0x9 Entry"
    assert lines[-2] == "  0x3b3-0x3bd Entry"


def test_the_current_entry_may_be_deleted_while_iterating() -> None:
    entries = many()
    for entry in entries:
        entries.delete(entry)
    for entry in reversed(entries):
        entries.delete(entry)
    assert len(entries) == 0
    entries._check()
    other: EntryList[Entry] = EntryList(0, 32)
    gone = Entry(3, 9)
    other.insert(gone)
    other.delete(gone)
    entries.insert(gone)
    assert list(entries) == [gone]

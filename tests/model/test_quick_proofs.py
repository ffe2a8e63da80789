"""The proofs that look once agree with those that look at everything: damage that one finds, the other finds.

Every proof that runs at each release of a lock is quick, and goes into detail only when it has met something. Here one
thing after the other is damaged, at random, in lists and in physical memory, and both are asked.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Kernel
from stressvm.explore.random_walk import RandomWalk
from stressvm.vm.entry import Entry
from stressvm.vm.pages import PAGE_SIZE, ZEROS, PageObject, PageQueue, Swap, UvmPages
from stressvm.vm.pages.invariants import INVARIANTS, census, nothing_wrong
from stressvm.vm.proof import covered, explain
from stressvm.vm.skiplist import EntryList

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stressvm.vm.entry import Lane

NUMBERS = ("start", "end", "gap", "until", "_count", "_height", "min", "max")

# ---------------------------------------------------------------- lists


def some(random: Random, count: int) -> EntryList[Entry]:
    """A list that has been used: entries of several heights, with and without gaps."""
    entries: EntryList[Entry] = EntryList(0, 0x100 * (count + 1))
    for number in range(count):
        start = 0x100 * number + random.choice((0, 0x10))
        entries.insert(Entry(start, start + random.choice((0x40, 0xF0))))
    for entry in entries:
        if not random.randrange(5):
            entries.delete(entry)
    return entries


def parts(entries: EntryList[Entry]) -> tuple[list[Any], list[Any]]:
    """All entries and all links of a list, the sentinels' included."""
    bottom: list[Any] = [entries._head, *entries, entries._tail]
    lanes: list[Any] = []
    for entry in bottom:
        lane: Lane[Entry] | None = entry.lane
        while lane is not None and lane not in lanes:
            lanes.append(lane)
            lane = lane.up
    return bottom, lanes


def damage(random: Random, entries: EntryList[Entry]) -> tuple[Any, str, Any]:
    """Something, and which of its attributes is to be what: of the kind that it should be, and another one."""
    bottom, lanes = parts(entries)
    kind = random.randrange(8)
    if not kind:
        names: tuple[str, ...] = ("_count", "_height", "_top", "min", "max")
        thing: Any = entries
    elif kind < 4:
        names = ("start", "end", "gap", "next", "prev", "lane", "owner")
        thing = random.choice(bottom)
    else:
        names = ("gap", "until", "next", "prev", "up", "down", "entry")
        thing = random.choice(lanes)
    name = random.choice([name for name in names if hasattr(thing, name)])
    old = getattr(thing, name)
    if name in NUMBERS:
        return thing, name, old + random.choice((-0x100, -1, 1, 0x10, 0x100))
    if name == "owner":
        return thing, name, EntryList(0, 1)
    is_lane = thing in lanes or name in ("lane", "_top")
    others = [one for one in (lanes if is_lane and name != "entry" else bottom) if one is not old]
    if name in ("lane", "up", "down") and old is not None:
        others.append(None)
    return thing, name, random.choice(others)


def quick(entries: EntryList[Entry]) -> bool:
    """Does the quick proof find something?"""
    try:
        return covered(entries._head, entries._over, entries._top, entries._count, entries._height) < 0
    except AttributeError:
        return True


def thorough(entries: EntryList[Entry]) -> bool:
    """Does the thorough one?"""
    try:
        explain(entries._head, entries._over, entries._top, entries._count, entries._height)
    except AssertionError as exc:
        return "internal error" not in str(exc)
    except AttributeError:
        return True


@pytest.mark.parametrize("seed", range(8))
def test_damage_to_a_list_is_found_at_first_sight_if_it_is_found_at_all(seed: int) -> None:
    random = Random(seed)
    found = 0
    for _ in range(250):
        entries = some(random, random.choice((0, 1, 2, 3, 8, 30)))
        assert not quick(entries)
        assert not thorough(entries)
        thing, name, new = damage(random, entries)
        said = f"{thing!r}.{name} is {new!r}, not {getattr(thing, name)!r}"
        setattr(thing, name, new)
        assert quick(entries) == thorough(entries), said
        found += quick(entries)
    assert found > 200, "most damage matters"


@pytest.mark.parametrize("seed", range(4))
def test_a_proof_says_how_many_addresses_are_taken(seed: int) -> None:
    random = Random(seed)
    for count in range(40):
        entries = some(random, count)
        assert entries._check() == sum(entry.end - entry.start for entry in entries)


# ---------------------------------------------------------------- physical memory


def memory(random: Random) -> UvmPages:
    """Pages in every state, some free ones known to be zeros, of one colour or two."""
    k = Kernel()
    k.reset(RandomWalk(0))
    uvm = UvmPages(k, 16, reserve_pagedaemon=1, reserve_kernel=2, ncolors=random.choice((1, 2)))
    obj = PageObject(k, "obj", Swap(k, 4))
    uvm.fill(obj, 2, queue=PageQueue.INACTIVE)
    uvm.fill(obj, 2, queue=PageQueue.ACTIVE)
    uvm.fill(PageObject(k, "other"), 1)
    for page in uvm.fill(None, 2):
        page.wire_count = 1
        uvm.wired += 1
    uvm.hold(2)
    for unknown, zeroed in uvm.buckets:
        for _ in range(random.randrange(3)):
            page = unknown.pop()
            page.zero()
            page.zeroed = True
            zeroed.append(page)
    uvm.lowest = {"ordinary": 4, "reserve": 3}
    return uvm


def hurt(random: Random, uvm: UvmPages) -> None:
    """One thing is not as it should be, or hardly."""
    page, another = random.sample(uvm.pages, 2)
    owner = random.choice(uvm.owners)
    which = random.choice(uvm.buckets)
    match random.randrange(12):
        case 0:
            page.queue = random.choice(list(PageQueue))
        case 1:
            page.owner = random.choice((None, *uvm.owners))
        case 2:
            page.wire_count += random.choice((-1, 1))
        case 3:
            name = random.choice(("busy", "wanted", "pageout", "released", "zeroed"))
            setattr(page, name, not getattr(page, name))
        case 4:
            page.content = random.choice((ZEROS, "old"))
        case 5:
            page.pv_list[None, 0] = None
        case 6:
            page.pindex += 1
        case 7:
            name = random.choice(("loose", "held", "wired", "claimed"))
            setattr(uvm, name, getattr(uvm, name) + random.choice((-1, 1)))
        case 8:
            uvm.free.poke(uvm.free.peek() + random.choice((-1, 1)))
        case 9:
            listed = random.choice((uvm.active, uvm.inactive))
            random.choice((listed.popitem, lambda: listed.update({page.number: another})))()
        case 10:
            kinds = [pages for pages in which if pages]
            pages = random.choice(kinds)
            random.choice((lambda: pages.append(page), pages.pop, lambda: which[0].append(pages.pop())))()
        case _:
            random.choice((lambda: uvm.free_channel.waiters.append(0), lambda: uvm.lowest.update(reserve=1)))()
            owner.pages.resident += random.choice((0, 1))


def broken(uvm: UvmPages) -> Iterator[str]:
    """The names of the invariants that do not hold, each asked by itself."""
    said = census(uvm)
    for name, holds in INVARIANTS.items():
        if holds(uvm, said) is not None:
            yield name


@pytest.mark.parametrize("seed", range(8))
def test_damage_to_physical_memory_is_found_at_first_sight_if_it_is_found_at_all(seed: int) -> None:
    random = Random(seed)
    met: set[str] = set()
    unsure = 0
    for _ in range(250):
        uvm = memory(random)
        assert nothing_wrong(uvm)
        assert not list(broken(uvm))
        for _ in range(random.choice((1, 1, 2))):
            hurt(random, uvm)
        names = list(broken(uvm))
        met.update(names)
        assert not (names and nothing_wrong(uvm)), f"at first sight nothing is wrong, but {names}"
        unsure += not names and not nothing_wrong(uvm)
    assert met == set(INVARIANTS)
    assert unsure < 10, "it is hardly ever unsure"


def test_a_page_that_is_listed_under_another_number_is_found() -> None:
    uvm = memory(Random(0))
    page = next(iter(uvm.active.values()))
    del uvm.active[page.number]
    uvm.active[page.number + PAGE_SIZE] = page
    assert not nothing_wrong(uvm)
    assert list(broken(uvm)) == ["queues"]

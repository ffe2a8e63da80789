"""FreeBSD's wiring, faults, protection and unmapping at once: nobody sleeps for ever, and all ends as in some order.

The programs are small enough for every interleaving, or nearly so; all invariants of the map are on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm.bench.defects.freebsd_programs import (
    Present,
    cut_while_one_waits,
    faults_and_remove,
    fill_the_hole,
    fork_while_wiring,
    look,
    wire_what_becomes_writable,
)
from stressvm.bench.defects.freebsd_world import READ, RW, WRITE, Call, World, build
from stressvm.vm import freebsd
from stressvm.vm.freebsd import Fault, LookupFault, MapKind, Search, VmMap13, VmMap2013
from tests.lone_map import HOLESOK, LOW, PAGE, SYSTEM, USER, pages
from tests.support import every, explore, kinds
from tests.wiring import in_some_order, said

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.vm.freebsd import VmMap

MAPS = pytest.mark.parametrize("cls", [VmMap13, VmMap2013])
KINDS = pytest.mark.parametrize("kind", list(MapKind))
COW = freebsd.MAP_COPY_ON_WRITE
NONE, SHARE = freebsd.VM_INHERIT_NONE, freebsd.VM_INHERIT_SHARE


# ---------------------------------------------------------------- as in some order


def one_entry(world: Any) -> None:
    """Pages 0 to 4."""
    world.insert(0, 4)


def three_entries(world: Any) -> None:
    """Pages 0 to 2, 2 to 4 and 4 to 6, with rights that differ."""
    world.insert(0, 2)
    world.insert(2, 4, prot=READ)
    world.insert(4, 6)


def with_a_hole(world: Any) -> None:
    """Pages 0 to 2, and 4 to 6."""
    world.insert(0, 2)
    world.insert(4, 6)


PROGRAMS: dict[str, tuple[Callable[[Any], None], tuple[Call, ...]]] = {
    "two users, one range": (one_entry, (("wire", 0, 4, USER), ("wire", 0, 4, USER))),
    "user and system, one range": (one_entry, (("wire", 0, 2, USER), ("wire", 0, 2, SYSTEM))),
    "overlapping ranges": (one_entry, (("wire", 0, 3, USER), ("wire", 1, 4, SYSTEM))),
    "wire and unwire": (one_entry, (("wire", 0, 2, USER), ("unwire", 0, 2, USER))),
    "wire and unwire a part": (one_entry, (("wire", 0, 3, USER), ("unwire", 1, 2, USER))),
    "wire and remove": (one_entry, (("wire", 0, 2, USER), ("remove", 0, 2, 0))),
    "wire and remove a part": (one_entry, (("wire", 0, 3, USER), ("remove", 1, 2, 0))),
    "wire and remove the middle": (three_entries, (("wire", 0, 6, USER), ("remove", 2, 4, 0))),
    "wire and remove the end": (three_entries, (("wire", 0, 6, USER | HOLESOK), ("remove", 4, 6, 0))),
    "wire and clip": (one_entry, (("wire", 0, 3, USER), ("inherit", 1, 2, NONE))),
    "wire and clip, more": (three_entries, (("wire", 1, 5, USER), ("inherit", 0, 5, SHARE))),
    "wire and protect": (one_entry, (("wire", 0, 3, USER), ("protect", 1, 2, READ))),
    "wire three and protect": (three_entries, (("wire", 0, 6, USER), ("protect", 1, 5, READ))),
    "wire and take the right away": (one_entry, (("wire", 0, 3, USER), ("protect", 2, 3, 0))),
    "wire around a hole and protect": (with_a_hole, (("wire", 0, 6, USER | HOLESOK), ("protect", 1, 5, READ))),
    "two clips in a wiring": (one_entry, (("wire", 0, 3, USER), ("inherit", 1, 3, NONE), ("inherit", 0, 2, SHARE))),
    "three wirings": (one_entry, (("wire", 0, 2, USER), ("wire", 1, 2, SYSTEM), ("wire", 0, 1, USER))),
    "two wirings and a remove": (one_entry, (("wire", 0, 2, USER), ("wire", 1, 3, USER), ("remove", 1, 2, 0))),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("bad", [(), (2,)])
@MAPS
def test_wiring_at_once_ends_as_in_some_order(cls: type[VmMap], name: str, bad: tuple[int, ...]) -> None:
    start, calls = PROGRAMS[name]

    def program(world: World) -> None:
        start(world)
        for call in calls:
            world.call(call)

    built = build(program, cls, fault=lambda: Fault(pages(*bad)))
    endings = every(built) if len(calls) == 2 else explore(built, 400)
    assert kinds(endings) == {None}
    allowed = in_some_order(calls, start, cls.version, bad=bad)
    assert said(endings) <= allowed
    assert len(said(endings)) == len(allowed), "each order is met"


def test_a_part_can_fail_after_it_was_cut_off_meanwhile() -> None:
    """A fault fails in the last of three pieces of an entry: what was wired whole is unwired, and nothing is left."""

    def program(world: World) -> None:
        world.insert(0, 4)
        world.call(("wire", 0, 4, USER))
        world.call(("inherit", 1, 3, NONE))

    endings = every(build(program, VmMap13, fault=lambda: Fault(pages(3))))
    assert kinds(endings) == {None}
    entries = [
        [0, 1, RW, freebsd.VM_INHERIT_COPY, 0, 0],
        [1, 3, RW, NONE, 0, 0],
        [3, 4, RW, freebsd.VM_INHERIT_COPY, 0, 0],
    ]
    assert said(endings) == {f"[('inherit1', 0), ('wire0', {freebsd.KERN_OUT_OF_BOUNDS})] {entries}"}


@pytest.mark.parametrize(
    ("bad", "cut", "counts"),
    [(3, (1, 2), {0, -2}), (1, (2, 3), {0}), (2, (1, 3), {0, -1}), (0, (1, 2), {0})],
)
def test_a_wiring_that_fails_after_a_cut_is_given_back_twice(bad: int, cut: tuple[int, int], counts: set[int]) -> None:
    """As in 13.0: the whole entry's share of what users have wired, and then that of each piece that was wired whole."""
    seen: set[int] = set()

    def program(world: World) -> None:
        world.insert(0, 4)
        world.call(("wire", 0, 4, USER))
        world.call(("inherit", *cut, NONE))
        world.at_end.append(lambda: seen.add(freebsd.user_wire_count(world.k).wired // PAGE))

    assert kinds(every(build(program, VmMap13, fault=lambda: Fault(pages(bad))))) == {None}
    assert seen == counts


# ---------------------------------------------------------------- sleepers


@MAPS
@KINDS
def test_what_the_system_wired_is_unmapped_when_the_system_lets_go(cls: type[VmMap], kind: MapKind) -> None:
    """In a user map the remover sleeps until then; elsewhere it does not care, and then there is nothing to unwire."""

    def program(world: World) -> None:
        world.insert(0, 2)
        entry = world.map.entries.first
        assert entry is not None
        entry.wired_count = 1
        world.call(("remove", 0, 2, 0))
        world.call(("unwire", 0, 2, SYSTEM))

    endings = every(build(program, cls, kind=kind))
    assert kinds(endings) == {None}
    gone = f"[('remove0', 0), ('unwire1', {freebsd.KERN_INVALID_ADDRESS})] []"
    assert said(endings) == {"[('remove0', 0), ('unwire1', 0)] []"} | (set() if kind is MapKind.USER else {gone})
    assert any(step[1] == "sleep" for ending in endings for step in ending.steps) == (kind is MapKind.USER)


@MAPS
def test_everybody_who_waits_for_an_entry_goes_on(cls: type[VmMap]) -> None:
    def program(world: World) -> None:
        world.insert(0, 3)
        world.call(("wire", 0, 3, USER))
        world.call(("wire", 1, 2, USER))
        world.call(("unwire", 0, 3, USER | HOLESOK))
        world.call(("remove", 0, 1, 0))
        world.call(("remove", 2, 3, 0))

    endings = explore(build(program, cls), 400)
    assert kinds(endings) == {None}
    assert max(sum(step[1:3] == ("sleep", "map.root") for step in ending.steps) for ending in endings) >= 4


def test_protect_waits_until_nobody_wires() -> None:
    """Anywhere in the map: it sleeps until the map is not busy, and then for an entry of the range."""

    def program(world: World) -> None:
        world.insert(0, 2)
        world.insert(4, 6)
        world.call(("wire", 0, 2, USER))
        world.call(("protect", 4, 6, READ))

    endings = every(build(program, VmMap13))
    assert kinds(endings) == {None}
    assert any(step[1:3] == ("sleep", "map.busy") for ending in endings for step in ending.steps)
    assert len(said(endings)) == 1


@MAPS
def test_a_fork_sees_nothing_that_is_half_wired(cls: type[VmMap]) -> None:
    endings = explore(build(fork_while_wiring, cls, fault=Present), 500)
    assert kinds(endings) == {None}
    assert any(step[1:3] == ("sleep", "map.busy") for ending in endings for step in ending.steps)


# ---------------------------------------------------------------- holes that are filled meanwhile


@MAPS
def test_who_wires_around_a_hole_leaves_alone_what_was_mapped_there(cls: type[VmMap]) -> None:
    filled: set[tuple[int, bool]] = set()

    def program(world: World) -> None:
        fill_the_hole(world)
        world.at_end.append(lambda: filled.add(wired_at(world, 2)))

    assert kinds(explore(build(program, cls), 600)) == {None}
    assert filled == {(1, False), (2, True)}, "either it was there in time, or it was not"


def wired_at(world: World, page: int) -> tuple[int, bool]:
    """How often the entry at a page is wired, and whether by the user."""
    found, entry = world.map.entries.lookup(LOW + page * PAGE)
    assert found
    assert entry is not None
    return entry.wired_count, bool(entry.eflags & freebsd.MAP_ENTRY_USER_WIRED)


# ---------------------------------------------------------------- faults


def two_faults(world: World, obj: freebsd.VmObject | None = None, cow: int = 0) -> None:
    """Two threads touch the same page for the first time."""
    found: list[freebsd.VmObject | None] = []
    world.insert(0, 2, obj, cow=cow)
    look(world, "a", WRITE, found)
    look(world, "b", WRITE, found)

    def one_object() -> None:
        entry = world.map.entries.first
        assert entry is not None
        assert found == [entry.object] * 2, "an object was lost"
        if world.map.kind is MapKind.SYSTEM and obj is None:
            assert found == [None] * 2
            return
        assert entry.object is not None
        assert entry.object.ref_count == 1
        assert freebsd.ucred(world.k).reserved == entry.object.charge == 2 * PAGE
        assert (entry.object.backing_object, entry.offset) == (obj, 0)
        assert obj is None or obj.ref_count == 1

    world.at_end.append(one_object)


@MAPS
@KINDS
def test_two_faults_at_once_make_one_object(cls: type[VmMap], kind: MapKind) -> None:
    endings = every(build(two_faults, cls, kind=kind))
    assert kinds(endings) == {None}
    if kind is not MapKind.SYSTEM:
        ways = {step[1] for ending in endings for step in ending.steps}
        assert {"try-upgrade", "try-upgrade-failed"} <= ways


@MAPS
@KINDS
def test_two_writes_at_once_make_one_copy(cls: type[VmMap], kind: MapKind) -> None:
    def program(world: World) -> None:
        two_faults(world, freebsd.VmObject(2), COW)

    assert kinds(every(build(program, cls, kind=kind))) == {None}


@pytest.mark.parametrize(
    ("cls", "search"),
    [(VmMap13, Search.FIRST_FIT), (VmMap13, Search.SPLAY), (VmMap2013, Search.FIRST_FIT)],
)
def test_a_fault_against_an_unmapping_finds_all_or_nothing(cls: type[VmMap], search: Search) -> None:
    results: set[tuple[int, int]] = set()

    def program(world: World) -> None:
        faults_and_remove(world)
        world.at_end.append(lambda: results.add((world.results["a"], world.results["b"])))

    assert kinds(explore(build(program, cls, search=search), 800)) == {None}
    assert results == {(freebsd.KERN_SUCCESS, 0), (freebsd.KERN_INVALID_ADDRESS, 0)}


def test_what_becomes_writable_while_it_is_wired_is_copied() -> None:
    """Whoever comes first: what the user has wired and may write is never left to be copied later."""
    left: set[int] = set()

    def program(world: World) -> None:
        wire_what_becomes_writable(world)
        world.at_end.append(
            lambda: left.update(entry.eflags & freebsd.MAP_ENTRY_NEEDS_COPY for entry in world.map.entries)
        )

    endings = every(build(program, VmMap13, fault=LookupFault))
    assert kinds(endings) == {None}
    assert left == {0}


def test_in_2013_it_may_be_left_uncopied() -> None:
    """Its vm_map_protect does not wait for whoever is wiring: the copy that it should have made is never made."""
    endings = every(build(wire_what_becomes_writable, VmMap2013, fault=LookupFault))
    assert kinds(endings) == {None, "invariant"}
    texts = {ending.text for ending in endings if ending.kind}
    assert all("G6 rights" in text and "still needs to be copied" in text for text in texts)


@MAPS
@pytest.mark.parametrize("bad", [(), (2,)])
def test_wiring_with_real_faults_ends_as_in_some_order(cls: type[VmMap], bad: tuple[int, ...]) -> None:
    """The fault locks the map, and makes objects, in the middle of the wiring."""
    calls: tuple[Call, ...] = (("wire", 0, 3, USER), ("wire", 1, 4, SYSTEM), ("inherit", 0, 2, NONE))

    def program(world: World) -> None:
        one_entry(world)
        for call in calls:
            world.call(call)

    endings = explore(build(program, cls, fault=lambda: LookupFault(pages(*bad))), 300)
    assert kinds(endings) == {None}
    allowed = in_some_order(calls, one_entry, cls.version, bad=bad, lookup=True)
    assert said(endings) == allowed


# ---------------------------------------------------------------- a defect that both kernels have


@MAPS
@pytest.mark.parametrize("word", ["wire", "unwire"])
def test_what_is_cut_while_one_waits_for_an_entry_that_is_unmapped_may_stay_in_transition(
    cls: type[VmMap], word: str
) -> None:
    """As in 10.4 and 13.0: who gives up there begins its second pass where its first entry was, not where that begins.

    The part in front stays in transition, of a thread that is long done, and whoever unmaps it sleeps for ever.
    """
    endings = explore(build(lambda world: cut_while_one_waits(world, word), cls), 400)
    assert kinds(endings) == {None, "invariant"}
    texts = {ending.text for ending in endings if ending.kind}
    assert all(f"{LOW:#x}-{LOW + PAGE:#x}> is left in transition for ever" in text for text in texts)

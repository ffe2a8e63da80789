"""FreeBSD's vm_map_wire and vm_map_unwire with nobody else about: codes, counts, and what is undone after a failure."""

from __future__ import annotations

import pytest

from stressvm.vm import freebsd
from stressvm.vm.freebsd import MapKind
from tests.lone_map import HOLESOK, LOW, PAGE, SYSTEM, USER, LoneMap, Wired

READ, WRITE, EXECUTE = freebsd.VM_PROT_READ, freebsd.VM_PROT_WRITE, freebsd.VM_PROT_EXECUTE
INVALID_ADDRESS = freebsd.KERN_INVALID_ADDRESS
OUT_OF_BOUNDS = freebsd.KERN_OUT_OF_BOUNDS
BOTH = pytest.mark.parametrize("version", ["13", "2013"])
KINDS = pytest.mark.parametrize("kind", list(MapKind))
WHO = pytest.mark.parametrize("flags", [USER, SYSTEM])


def three(one: LoneMap) -> None:
    """Three entries side by side that differ in nothing but their rights: [0, 4), [4, 8), [8, 12)."""
    one.insert(0, 4)
    one.insert(4, 8, prot=READ)
    one.insert(8, 12)


# ---------------------------------------------------------------- counts


@BOTH
@KINDS
def test_a_user_wires_once_however_often(version: str, kind: MapKind) -> None:
    one = LoneMap(version, kind)
    one.insert(0, 4)
    for _ in range(3):
        assert one.wire(0, 4) == 0
        assert one.wired() == [Wired(0, 4, 1, user=True)]
    for _ in range(2):
        assert one.unwire(0, 4) == 0
        assert one.wired() == [Wired(0, 4)]


@BOTH
@KINDS
def test_the_system_wires_as_often_as_it_says(version: str, kind: MapKind) -> None:
    one = LoneMap(version, kind)
    one.insert(0, 4)
    for count in (1, 2, 3):
        assert one.wire(0, 4, SYSTEM) == 0
        assert one.wired() == [Wired(0, 4, count)]
    for count in (2, 1, 0):
        assert one.unwire(0, 4, SYSTEM) == 0
        assert one.wired() == [Wired(0, 4, count)]
    assert one.unwire(0, 4, SYSTEM) == freebsd.KERN_INVALID_ARGUMENT
    assert one.wired() == [Wired(0, 4)]


@BOTH
@pytest.mark.parametrize("first", [USER, SYSTEM])
def test_user_and_system_do_not_undo_each_others_wiring(version: str, first: int) -> None:
    one = LoneMap(version)
    one.insert(0, 4)
    for flags in (first, USER + SYSTEM - first):
        assert one.wire(0, 4, flags) == 0
    assert one.wired() == [Wired(0, 4, 2, user=True)]
    assert one.unwire(0, 4, first) == 0
    assert one.wired() == [Wired(0, 4, 1, user=first == SYSTEM)]
    assert one.unwire(0, 4, first) == (freebsd.KERN_INVALID_ARGUMENT if first == SYSTEM else 0)
    assert one.wired() == [Wired(0, 4, 1, user=first == SYSTEM)]
    assert one.unwire(0, 4, USER + SYSTEM - first) == 0
    assert one.wired() == [Wired(0, 4)]


@BOTH
def test_what_the_system_has_not_wired_everywhere_it_cannot_unwire_anywhere(version: str) -> None:
    one = LoneMap(version)
    three(one)
    assert one.wire(0, 4, SYSTEM) == 0
    assert one.wire(4, 8) == 0
    before = one.wired()
    assert before == [Wired(0, 4, 1), Wired(4, 8, 1, user=True), Wired(8, 12)]
    assert one.unwire(0, 12, SYSTEM) == freebsd.KERN_INVALID_ARGUMENT
    assert one.wired() == before
    assert one.unwire(0, 12) == 0, "the user may say so of what is not wired"
    assert one.wired() == [Wired(0, 4, 1), Wired(4, 8), Wired(8, 12)]


@BOTH
@KINDS
@WHO
def test_a_part_of_an_entry_is_cut_out_and_joined_again(version: str, kind: MapKind, flags: int) -> None:
    one = LoneMap(version, kind)
    one.insert(0, 12)
    user = flags == USER
    assert one.wire(2, 4, flags) == 0
    assert one.wire(4, 8, flags) == 0
    assert one.wired() == [Wired(0, 2), Wired(2, 8, 1, user=user), Wired(8, 12)]
    assert one.unwire(3, 12, flags | HOLESOK) == (0 if user else freebsd.KERN_INVALID_ARGUMENT)
    if user:
        assert one.wired() == [Wired(0, 2), Wired(2, 3, 1, user=True), Wired(3, 12)]
    assert one.unwire(2, 8 if flags == SYSTEM else 3, flags) == 0
    assert one.wired() == [Wired(0, 12)]
    assert (one.entry(0).object is None) == (kind is MapKind.SYSTEM), "the cut made an object for all parts"


@BOTH
def test_removing_what_the_user_wired_unwires_it(version: str) -> None:
    one = LoneMap(version)
    one.insert(0, 4)
    assert one.wire(0, 4) == 0
    assert one.remove(1, 3) == 0
    assert one.wired() == [Wired(0, 1, 1, user=True), Wired(3, 4, 1, user=True)]


# ---------------------------------------------------------------- ranges


@BOTH
@pytest.mark.parametrize("call", ["wire", "unwire"])
def test_no_range_at_all_is_no_error_and_for_most_not_even_a_lock(version: str, call: str) -> None:
    one = LoneMap(version)
    assert getattr(one, call)(5, 5) == 0
    assert one.timestamp == (1 if (version, call) == ("13", "wire") else 0)


@BOTH
@pytest.mark.parametrize("call", ["wire", "unwire"])
def test_a_range_is_cut_to_the_map(version: str, call: str) -> None:
    one = LoneMap(version)
    one.insert(0, 16)
    if call == "unwire":
        assert one.wire(0, 16) == 0
    assert getattr(one, call)(-3, 40) == 0
    assert one.wired() == [Wired(0, 16, call == "wire", user=call == "wire")]


@BOTH
@pytest.mark.parametrize("call", ["wire", "unwire"])
@pytest.mark.parametrize(("start", "end"), [(20, 30), (-9, -3), (12, 10)])
def test_a_range_of_which_nothing_is_left_is_a_hole(version: str, call: str, start: int, end: int) -> None:
    one = LoneMap(version)
    one.insert(4, 8)
    assert getattr(one, call)(start, end) == INVALID_ADDRESS
    assert getattr(one, call)(start, end, USER | HOLESOK) == 0
    assert one.wired() == [Wired(4, 8)]


@BOTH
@pytest.mark.parametrize("call", ["wire", "unwire"])
def test_nothing_mapped_is_a_hole(version: str, call: str) -> None:
    one = LoneMap(version)
    assert getattr(one, call)(0, 16) == INVALID_ADDRESS
    assert getattr(one, call)(0, 16, USER | HOLESOK) == 0
    assert one.wired() == []
    assert one.free()


@BOTH
@KINDS
@WHO
@pytest.mark.parametrize(("start", "end"), [(0, 4), (2, 12), (9, 14), (0, 16)])
def test_a_hole_anywhere_undoes_all_unless_it_is_allowed(
    version: str, kind: MapKind, flags: int, start: int, end: int
) -> None:
    one = LoneMap(version, kind)
    one.insert(2, 6)
    one.insert(8, 12)
    assert one.wire(start, end, flags) == INVALID_ADDRESS
    assert one.wired() == [Wired(2, 6), Wired(8, 12)]
    assert one.wire(start, end, flags | HOLESOK) == 0
    wired = [entry for entry in one.wired() if entry.times]
    assert {(entry.times, entry.user) for entry in wired} == {(1, flags == USER)}
    covered = sum(entry.end - entry.start for entry in wired)
    assert covered == len(set(range(start, end)) & {2, 3, 4, 5, 8, 9, 10, 11})


@BOTH
@KINDS
@WHO
@pytest.mark.parametrize(("start", "end"), [(0, 4), (2, 12), (9, 14), (0, 16)])
def test_a_hole_anywhere_unwires_nothing_unless_it_is_allowed(
    version: str, kind: MapKind, flags: int, start: int, end: int
) -> None:
    one = LoneMap(version, kind)
    one.insert(2, 6)
    one.insert(8, 12)
    assert one.wire(0, 16, flags | HOLESOK) == 0
    user = flags == USER
    assert one.unwire(start, end, flags) == INVALID_ADDRESS
    assert one.wired() == [Wired(2, 6, 1, user=user), Wired(8, 12, 1, user=user)]
    assert one.unwire(start, end, flags | HOLESOK) == 0
    still = sum(entry.end - entry.start for entry in one.wired() if entry.times)
    assert still == 8 - len(set(range(start, end)) & {2, 3, 4, 5, 8, 9, 10, 11})


# ---------------------------------------------------------------- rights


@BOTH
@WHO
@pytest.mark.parametrize(
    ("prot", "write", "readable"),
    [
        (0, False, False),
        (WRITE, False, False),
        (WRITE, True, False),
        (READ, False, True),
        (EXECUTE, False, True),
        (READ, True, False),
        (READ | EXECUTE, True, False),
        (READ | WRITE, True, True),
    ],
)
def test_what_may_not_be_read_is_an_error_or_passed_over(
    *, version: str, flags: int, prot: int, write: bool, readable: bool
) -> None:
    flags |= freebsd.VM_MAP_WIRE_WRITE if write else 0
    one = LoneMap(version)
    one.insert(0, 4, prot=freebsd.VM_PROT_ALL)
    one.insert(4, 8, prot=prot)
    one.insert(8, 12, prot=freebsd.VM_PROT_ALL)
    assert one.wire(2, 10, flags) == (0 if readable else INVALID_ADDRESS)
    if not readable:
        assert one.wired() == [Wired(0, 4), Wired(4, 8), Wired(8, 12)], "all undone, and joined"
        assert one.wire(2, 10, flags | HOLESOK) == 0
    user = bool(flags & USER)
    middle = [Wired(4, 8, 1, user=user)] if readable else [Wired(4, 8)]
    assert one.wired() == [
        Wired(0, 2),
        Wired(2, 4, 1, user=user),
        *middle,
        Wired(8, 10, 1, user=user),
        Wired(10, 12),
    ]


@BOTH
def test_a_guard_cannot_be_wired(version: str) -> None:
    one = LoneMap(version)
    one.insert(0, 4)
    one.insert(4, 8, prot=0, max_prot=0, cow=freebsd.MAP_CREATE_GUARD)
    assert one.wire(0, 8) == INVALID_ADDRESS
    assert one.wire(0, 8, USER | HOLESOK) == 0
    assert one.wired() == [Wired(0, 4, 1, user=True), Wired(4, 8)]


# ---------------------------------------------------------------- failing faults


@BOTH
@KINDS
@WHO
@pytest.mark.parametrize("page", [2, 3, 5])
def test_a_fault_that_fails_on_any_page_of_an_entry_leaves_nothing(
    version: str, kind: MapKind, flags: int, page: int
) -> None:
    one = LoneMap(version, kind, bad=[page])
    one.insert(0, 8)
    assert one.wire(2, 6, flags) == OUT_OF_BOUNDS
    assert one.wired() == [Wired(0, 8)]
    assert one.wire(page + 1, 8, flags) == 0


@BOTH
@KINDS
@WHO
@pytest.mark.parametrize("page", [4, 5, 7])
def test_a_fault_that_fails_in_the_second_of_three_entries_undoes_the_first(
    version: str, kind: MapKind, flags: int, page: int
) -> None:
    one = LoneMap(version, kind, bad=[page])
    three(one)
    assert one.wire(2, 10, flags) == OUT_OF_BOUNDS
    assert one.wired() == [Wired(0, 4), Wired(4, 8), Wired(8, 12)]
    assert one.wire(2, 10, flags | HOLESOK) == OUT_OF_BOUNDS, "that is no hole"
    assert one.wired() == [Wired(0, 4), Wired(4, 8), Wired(8, 12)]


@BOTH
@pytest.mark.parametrize("before", [USER, SYSTEM])
@pytest.mark.parametrize("flags", [USER, SYSTEM])
def test_what_was_wired_before_a_failure_is_as_it_was(version: str, before: int, flags: int) -> None:
    one = LoneMap(version, bad=[5])
    three(one)
    assert one.wire(0, 4, before) == 0
    assert one.wire(8, 12, before) == 0
    assert one.wire(0, 12, flags) == OUT_OF_BOUNDS
    user = before == USER
    assert one.wired() == [Wired(0, 4, 1, user=user), Wired(4, 8), Wired(8, 12, 1, user=user)]


@BOTH
def test_what_is_wired_already_is_not_faulted_in_again(version: str) -> None:
    one = LoneMap(version, bad=[5])
    three(one)
    entry = one.entry(5)
    entry.wired_count = 1
    assert one.wire(0, 12) == 0
    assert one.wired() == [Wired(0, 4, 1, user=True), Wired(4, 8, 2, user=True), Wired(8, 12, 1, user=True)]


# ---------------------------------------------------------------- how much users may wire


def test_users_may_not_wire_more_than_the_limit() -> None:
    one = LoneMap()
    three(one)
    count = freebsd.user_wire_count(one.k)
    count.limit = 6 * PAGE
    assert one.wire(0, 4) == 0
    assert count.wired == 4 * PAGE
    assert one.wire(4, 8) == freebsd.KERN_RESOURCE_SHORTAGE
    assert one.wire(0, 12) == freebsd.KERN_RESOURCE_SHORTAGE, "what is wired already is not counted again"
    assert one.wired() == [Wired(0, 4, 1, user=True), Wired(4, 8), Wired(8, 12)]
    assert one.wire(4, 6) == 0
    assert count.wired == 6 * PAGE
    assert one.wire(4, 12, SYSTEM) == 0, "the system may"
    assert count.wired == 6 * PAGE


def test_beyond_the_limit_all_is_undone_and_given_back() -> None:
    one = LoneMap()
    three(one)
    count = freebsd.user_wire_count(one.k)
    count.limit = 7 * PAGE
    assert one.wire(1, 10) == freebsd.KERN_RESOURCE_SHORTAGE
    assert count.wired == 0
    assert one.wired() == [Wired(0, 4), Wired(4, 8), Wired(8, 12)]


@pytest.mark.parametrize("page", [4, 5, 7])
def test_a_failing_fault_gives_back_what_was_counted(page: int) -> None:
    one = LoneMap(bad=[page])
    three(one)
    assert one.wire(0, 12) == OUT_OF_BOUNDS
    assert freebsd.user_wire_count(one.k).wired == 0


def test_unwiring_and_unmapping_give_back_what_was_counted() -> None:
    one = LoneMap()
    one.insert(0, 8)
    count = freebsd.user_wire_count(one.k)
    assert one.wire(0, 8) == 0
    assert one.unwire(0, 3) == 0
    assert count.wired == 5 * PAGE
    assert one.remove(5, 8) == 0
    assert count.wired == 2 * PAGE
    assert one.unwire(0, 5) == 0
    assert count.wired == 0


def test_the_count_is_wrong_if_user_and_system_take_turns() -> None:
    """As in 13.0: only a first wiring is counted, and only a last unwiring of the user's is given back."""
    one = LoneMap()
    one.insert(0, 8)
    count = freebsd.user_wire_count(one.k)
    for flags in (SYSTEM, USER):
        assert one.wire(0, 8, flags) == 0
    assert count.wired == 0
    for flags in (SYSTEM, USER):
        assert one.unwire(0, 8, flags) == 0
    assert count.wired == -8 * PAGE
    for flags in (USER, SYSTEM):
        assert one.wire(0, 8, flags) == 0
    for flags in (USER, SYSTEM):
        assert one.unwire(0, 8, flags) == 0
    assert one.wired() == [Wired(0, 8)]
    assert count.wired == 0, "as wrong the other way round"


# ---------------------------------------------------------------- faults that look into the map


@BOTH
@KINDS
def test_faulting_in_makes_the_object(version: str, kind: MapKind) -> None:
    one = LoneMap(version, kind, lookup=True)
    one.insert(0, 4)
    assert one.wire(0, 4) == 0
    obj = one.entry(0).object
    assert (obj is None) == (kind is MapKind.SYSTEM)
    if obj is not None:
        assert (obj.size, obj.charge, one.entry(0).cred) == (4, 4 * PAGE, None)
    assert one.wired() == [Wired(0, 4, 1, user=True)]


@BOTH
@pytest.mark.parametrize(("prot", "copied"), [(READ, False), (freebsd.VM_PROT_RW, True)])
def test_wiring_what_is_copied_on_write_copies_it_if_it_may_be_written(
    *, version: str, prot: int, copied: bool
) -> None:
    one = LoneMap(version, lookup=True)
    obj = freebsd.VmObject(8)
    one.insert(0, 4, obj, cow=freebsd.MAP_COPY_ON_WRITE, prot=prot)
    assert one.wire(0, 4) == 0
    entry = one.entry(0)
    assert entry.object is not None
    assert (entry.object.backing_object is obj) == copied
    assert bool(entry.eflags & freebsd.MAP_ENTRY_NEEDS_COPY) != copied


@BOTH
@WHO
def test_an_object_that_a_failed_wiring_made_stays(version: str, flags: int) -> None:
    one = LoneMap(version, bad=[3], lookup=True)
    one.insert(0, 4)
    assert one.wire(0, 4, flags) == OUT_OF_BOUNDS
    assert one.wired() == [Wired(0, 4)]
    assert one.entry(0).object is not None


def test_a_fault_may_find_no_swap_for_the_copy() -> None:
    one = LoneMap(lookup=True)
    one.insert(0, 4, freebsd.VmObject(4), cow=freebsd.MAP_COPY_ON_WRITE | freebsd.MAP_ACC_NO_CHARGE)
    freebsd.ucred(one.k).limit = 3 * PAGE
    assert one.wire(0, 4) == freebsd.KERN_RESOURCE_SHORTAGE
    assert one.wired() == [Wired(0, 4)]
    assert freebsd.ucred(one.k).reserved == 0


# ---------------------------------------------------------------- pages larger than most


@pytest.mark.parametrize("call", ["wire", "unwire"])
def test_a_large_page_is_not_cut(call: str) -> None:
    lone = LoneMap()
    large = freebsd.NBPDR // PAGE
    vm_map = freebsd.setup(lone.k, 4 * large, min_offset=LOW, name="large")
    lone.map = vm_map
    lone.insert(0, 2 * large, freebsd.VmObject(2 * large), cow=1 << 19)
    flags = USER | HOLESOK if call == "unwire" else USER
    assert getattr(lone, call)(1, 2 * large, flags) == freebsd.KERN_INVALID_ARGUMENT
    assert getattr(lone, call)(large, 2 * large - 1, flags) == freebsd.KERN_INVALID_ARGUMENT
    assert {entry.times for entry in lone.wired()} == {0}
    assert getattr(lone, call)(large, 2 * large, flags) == 0

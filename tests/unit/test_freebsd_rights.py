"""FreeBSD's vm_map_protect and vm_map_inherit with nobody else about: codes, what is charged, copied, cut and joined."""

from __future__ import annotations

import pytest

from stressvm.vm import freebsd
from stressvm.vm.freebsd import MapKind
from tests.lone_map import LOW, PAGE, SYSTEM, USER, LoneMap, Wired

READ, WRITE, EXECUTE = freebsd.VM_PROT_READ, freebsd.VM_PROT_WRITE, freebsd.VM_PROT_EXECUTE
RW, ALL = freebsd.VM_PROT_RW, freebsd.VM_PROT_ALL
FAILURE = freebsd.KERN_PROTECTION_FAILURE
COW, NEEDS_COPY = freebsd.MAP_ENTRY_COW, freebsd.MAP_ENTRY_NEEDS_COPY
BOTH = pytest.mark.parametrize("version", ["13", "2013"])
KINDS = pytest.mark.parametrize("kind", list(MapKind))


def guarded(one: LoneMap) -> None:
    """[0, 4), a guard at [4, 6), a hole, [8, 12)."""
    one.insert(0, 4)
    one.insert(4, 6, prot=0, max_prot=0, cow=freebsd.MAP_CREATE_GUARD)
    one.insert(8, 12)


# ---------------------------------------------------------------- protect


@BOTH
@KINDS
def test_the_protection_of_a_part_is_set_and_set_back(version: str, kind: MapKind) -> None:
    one = LoneMap(version, kind)
    one.insert(0, 12)
    assert one.protect(2, 10, READ) == 0
    assert one.prots() == [(0, 2, RW), (2, 10, READ), (10, 12, RW)]
    assert one.protect(6, 12, READ) == 0
    assert one.prots() == [(0, 2, RW), (2, 12, READ)]
    assert one.protect(1, 12, RW) == 0
    assert one.prots() == [(0, 12, RW)]


@BOTH
def test_holes_and_guards_are_passed_over(version: str) -> None:
    one = LoneMap(version)
    guarded(one)
    assert one.protect(2, 14, READ) == 0
    assert one.prots() == [(0, 2, RW), (2, 4, READ), (4, 6, 0), (8, 12, READ)]
    assert one.entry(4).max_protection == 0
    assert one.protect(13, 16, ALL) == 0
    assert one.protect(6, 8, ALL) == 0
    assert one.prots() == [(0, 2, RW), (2, 4, READ), (4, 6, 0), (8, 12, READ)]


@BOTH
def test_no_range_at_all_needs_no_lock(version: str) -> None:
    one = LoneMap(version)
    one.insert(0, 4)
    before = one.timestamp
    assert one.protect(2, 2, 0) == 0
    assert one.protect(0, 4, RW, READ) == freebsd.KERN_OUT_OF_BOUNDS
    assert one.timestamp == before
    assert one.prots() == [(0, 4, RW)]


@BOTH
@pytest.mark.parametrize(("start", "end"), [(20, 30), (-9, -3), (12, 10)])
def test_a_range_of_which_nothing_is_left_changes_nothing(version: str, start: int, end: int) -> None:
    one = LoneMap(version)
    one.insert(0, 16)
    assert one.protect(start, end, READ) == 0
    assert one.inherit(start, end, freebsd.VM_INHERIT_NONE) == 0
    assert {prot for *_, prot in one.prots()} == {RW}
    assert {entry.inheritance for entry in one.map.entries} == {freebsd.VM_INHERIT_COPY}


@BOTH
def test_a_range_is_cut_to_the_map(version: str) -> None:
    one = LoneMap(version)
    one.insert(0, 16)
    assert one.protect(-5, 40, READ) == 0
    assert one.inherit(-5, 40, freebsd.VM_INHERIT_NONE) == 0
    assert one.prots() == [(0, 16, READ)]
    assert one.entry(0).inheritance == freebsd.VM_INHERIT_NONE


@BOTH
def test_nothing_is_set_if_any_entry_may_not_have_it(version: str) -> None:
    one = LoneMap(version)
    one.insert(0, 4)
    one.insert(4, 8, prot=READ, max_prot=READ)
    one.insert(8, 12)
    assert one.protect(0, 12, READ | EXECUTE) == FAILURE
    assert one.protect(0, 12, None, READ | EXECUTE) == FAILURE
    assert one.prots() == [(0, 4, RW), (4, 8, READ), (8, 12, RW)]
    assert [entry.max_protection for entry in one.map.entries] == [ALL, READ, ALL]
    assert one.free()


def test_a_refused_call_cuts_nothing_in_13() -> None:
    one = LoneMap()
    one.insert(0, 4)
    one.insert(4, 8, prot=READ, max_prot=READ)
    assert one.protect(2, 8, RW) == FAILURE
    assert one.shape() == [(0, 4), (4, 8)]


@BOTH
def test_the_most_that_is_allowed_cuts_the_protection_down_and_never_goes_up(version: str) -> None:
    one = LoneMap(version)
    one.insert(0, 8)
    assert one.protect(0, 4, None, READ | EXECUTE) == 0
    assert one.prots() == [(0, 4, READ), (4, 8, RW)]
    assert one.entry(0).max_protection == READ | EXECUTE
    assert one.protect(0, 4, None, ALL) == FAILURE
    assert one.protect(0, 4, RW) == FAILURE
    assert one.protect(0, 4, READ | EXECUTE) == 0


def test_both_may_be_set_at_once_in_13() -> None:
    one = LoneMap()
    one.insert(0, 8)
    assert one.protect(0, 4, READ, RW) == 0
    assert (one.entry(0).protection, one.entry(0).max_protection) == (READ, RW)
    assert one.protect(0, 4, RW, READ) == freebsd.KERN_OUT_OF_BOUNDS
    assert one.protect(0, 4, READ | EXECUTE, ALL) == FAILURE
    assert one.protect(0, 4) == 0, "neither"
    assert (one.entry(0).protection, one.entry(0).max_protection) == (READ, RW)


def test_a_map_may_forbid_what_is_writable_and_executable() -> None:
    one = LoneMap()
    one.map.flags |= freebsd.MAP_WXORX
    one.insert(0, 8)
    assert one.protect(0, 8, ALL) == FAILURE
    assert one.protect(8, 16, ALL) == FAILURE, "even where nothing is"
    assert one.protect(0, 8, READ | EXECUTE) == 0
    assert one.protect(0, 8, None, WRITE | EXECUTE) == 0, "that is no protection yet"
    assert one.prots() == [(0, 8, EXECUTE)]


@BOTH
def test_a_submap_in_the_range_is_an_error(version: str) -> None:
    one = LoneMap(version)
    one.insert(0, 4)
    one.insert(4, 8, max_prot=RW)
    submap = freebsd.setup(one.k, 4, version=version, min_offset=one.at(4), name="submap")
    assert one.now(one.map.submap(one.at(4), one.at(8), submap)) == 0
    assert one.protect(0, 8, READ) == freebsd.KERN_INVALID_ARGUMENT
    assert one.protect(0, 8, ALL) == freebsd.KERN_INVALID_ARGUMENT, "before its rights are looked at"
    assert one.prots() == [(0, 4, RW), (4, 8, RW)]
    assert one.protect(0, 4, READ) == 0


# ---------------------------------------------------------------- protect: swap


@BOTH
@KINDS
def test_private_memory_that_becomes_writable_is_charged_once(version: str, kind: MapKind) -> None:
    one = LoneMap(version, kind)
    cred = freebsd.ucred(one.k)
    one.insert(0, 8, prot=READ)
    assert cred.reserved == 0
    assert one.protect(2, 6, RW) == 0
    # A cut gives all parts but those of a system map one object, which is charged as a whole.
    assert cred.reserved == (4 if kind is MapKind.SYSTEM else 8) * PAGE
    assert one.protect(2, 6, READ) == 0
    assert one.protect(2, 6, RW) == 0
    assert cred.reserved == (4 if kind is MapKind.SYSTEM else 8) * PAGE
    assert one.remove(0, 8) == 0
    assert cred.reserved == 0


@BOTH
@pytest.mark.parametrize(
    ("anon", "cow", "charged"),
    [
        (False, 0, 0),
        (False, freebsd.MAP_COPY_ON_WRITE, 4),
        (True, 0, 9),
        (True, freebsd.MAP_COPY_ON_WRITE, 4),
    ],
)
def test_who_is_charged_depends_on_the_object(*, version: str, anon: bool, cow: int, charged: int) -> None:
    """A file's pages that are shared need no swap; a copy does; of shared anonymous memory all is charged for."""
    one = LoneMap(version)
    obj = freebsd.VmObject(9, anon=anon)
    one.insert(0, 4, obj, prot=READ, cow=cow)
    assert one.protect(0, 4, RW) == 0
    assert freebsd.ucred(one.k).reserved == charged * PAGE
    assert obj.charge == (charged * PAGE if anon and not cow else 0)
    assert (one.entry(0).cred is not None) == bool(cow)


@BOTH
def test_other_rights_need_no_swap(version: str) -> None:
    one = LoneMap(version)
    one.insert(0, 8, prot=READ)
    freebsd.ucred(one.k).limit = 0
    assert one.protect(0, 8, READ | EXECUTE) == 0
    assert one.protect(0, 8, None, RW) == 0
    assert one.protect(0, 8, RW) == freebsd.KERN_RESOURCE_SHORTAGE
    assert one.prots() == [(0, 8, READ)]


@BOTH
@KINDS
def test_without_swap_no_right_changes_and_what_was_charged_stays_so(version: str, kind: MapKind) -> None:
    one = LoneMap(version, kind)
    cred = freebsd.ucred(one.k)
    one.insert(0, 4, prot=READ)
    one.insert(4, 8, prot=READ, max_prot=RW)
    one.insert(8, 12, prot=READ)
    cred.limit = 6 * PAGE
    assert one.protect(0, 12, RW) == freebsd.KERN_RESOURCE_SHORTAGE
    assert one.prots() == [(0, 4, READ), (4, 8, READ), (8, 12, READ)]
    assert cred.reserved == 4 * PAGE
    assert [entry.cred for entry in one.map.entries] == [cred, None, None]
    assert one.free()
    cred.limit = 12 * PAGE
    assert one.protect(0, 12, RW) == 0
    assert cred.reserved == 12 * PAGE


def test_without_swap_13_joins_again_what_it_has_cut() -> None:
    one = LoneMap(kind=MapKind.SYSTEM)
    one.insert(0, 8, prot=READ)
    freebsd.ucred(one.k).limit = 0
    assert one.protect(2, 6, RW) == freebsd.KERN_RESOURCE_SHORTAGE
    assert one.shape() == [(0, 8)]


# ---------------------------------------------------------------- protect: wired memory


@BOTH
def test_what_the_user_wired_is_copied_as_soon_as_it_becomes_writable(version: str) -> None:
    one = LoneMap(version)
    obj = freebsd.VmObject(8)
    obj.reference()
    one.insert(0, 4, obj, 2, prot=READ, cow=freebsd.MAP_COPY_ON_WRITE)
    assert one.wire(0, 4) == 0
    assert one.protect(0, 4, READ | EXECUTE) == 0
    assert one.entry(0).object is obj
    assert one.protect(0, 4, RW) == 0
    entry = one.entry(0)
    assert entry.object is not None
    assert entry.object is not obj
    assert (entry.object.size, entry.object.backing_object, entry.offset, entry.cred) == (4, None, 0, None)
    assert (entry.object.cred, entry.object.charge) == (freebsd.ucred(one.k), 4 * PAGE)
    assert not entry.eflags & (COW | NEEDS_COPY)
    assert obj.ref_count == 1
    assert one.wired() == [Wired(0, 4, 1, user=True)]


@BOTH
@pytest.mark.parametrize("wired", [False, True])
def test_what_the_user_has_not_wired_is_copied_later(*, version: str, wired: bool) -> None:
    one = LoneMap(version)
    obj = freebsd.VmObject(8)
    one.insert(0, 4, obj, prot=READ, cow=freebsd.MAP_COPY_ON_WRITE)
    if wired:
        assert one.wire(0, 4, SYSTEM) == 0
    assert one.protect(0, 4, RW) == 0
    assert one.entry(0).object is obj
    assert one.entry(0).eflags & (COW | NEEDS_COPY) == COW | NEEDS_COPY


@BOTH
def test_a_wired_part_becomes_writable_alone(version: str) -> None:
    one = LoneMap(version)
    obj = freebsd.VmObject(8)
    one.insert(0, 8, obj, prot=READ, cow=freebsd.MAP_COPY_ON_WRITE)
    assert one.wire(2, 6) == 0
    assert one.protect(0, 8, RW) == 0
    assert one.wired() == [Wired(0, 2), Wired(2, 6, 1, user=True), Wired(6, 8)]
    assert [entry.object is obj for entry in one.map.entries] == [True, False, True]
    assert obj.ref_count == 2


# ---------------------------------------------------------------- inherit


@BOTH
@pytest.mark.parametrize("inheritance", [-1, 4, 17])
def test_there_are_four_kinds_of_inheritance(version: str, inheritance: int) -> None:
    one = LoneMap(version)
    one.insert(0, 4)
    before = one.timestamp
    assert one.inherit(0, 4, inheritance) == freebsd.KERN_INVALID_ARGUMENT
    assert one.inherit(2, 2, inheritance) == freebsd.KERN_INVALID_ARGUMENT
    assert one.inherit(2, 2, freebsd.VM_INHERIT_NONE) == 0
    assert one.timestamp == before
    assert one.entry(0).inheritance == freebsd.VM_INHERIT_COPY


@BOTH
@KINDS
def test_the_inheritance_of_a_part_is_set_and_set_back(version: str, kind: MapKind) -> None:
    one = LoneMap(version, kind)
    one.insert(0, 12)
    for inheritance in (freebsd.VM_INHERIT_SHARE, freebsd.VM_INHERIT_NONE, freebsd.VM_INHERIT_ZERO):
        assert one.inherit(2, 10, inheritance) == 0
        assert one.shape() == [(0, 2), (2, 10), (10, 12)]
        assert one.entry(2).inheritance == inheritance
    assert one.inherit(1, 12, freebsd.VM_INHERIT_COPY) == 0
    assert one.shape() == [(0, 12)]


@BOTH
def test_a_guard_cannot_be_zeroed_but_be_kept(version: str) -> None:
    one = LoneMap(version)
    guarded(one)
    assert one.inherit(0, 16, freebsd.VM_INHERIT_ZERO) == 0
    kinds = [entry.inheritance for entry in one.map.entries]
    assert kinds == [freebsd.VM_INHERIT_ZERO, freebsd.VM_INHERIT_COPY, freebsd.VM_INHERIT_ZERO]
    assert one.inherit(0, 16, freebsd.VM_INHERIT_NONE) == 0
    assert {entry.inheritance for entry in one.map.entries} == {freebsd.VM_INHERIT_NONE}


@BOTH
@pytest.mark.parametrize("call", ["protect", "inherit"])
def test_it_begins_anywhere_and_ends_anywhere(version: str, call: str) -> None:
    """Before, within and behind what is mapped; what has changed is exactly the range."""
    for start in range(16):
        for end in range(start + 1, 17):
            one = LoneMap(version)
            one.insert(2, 6)
            one.insert(8, 14)
            assert getattr(one, call)(start, end, READ if call == "protect" else freebsd.VM_INHERIT_NONE) == 0
            attribute, changed = ("protection", READ) if call == "protect" else ("inheritance", freebsd.VM_INHERIT_NONE)
            pages = {
                page
                for entry in one.map.entries
                for page in range((entry.start - LOW) // PAGE, (entry.end - LOW) // PAGE)
                if getattr(entry, attribute) == changed
            }
            assert pages == set(range(start, end)) & {2, 3, 4, 5, 8, 9, 10, 11, 12, 13}
            assert len(one.shape()) <= 4


# ---------------------------------------------------------------- pages larger than most


@pytest.mark.parametrize("call", ["protect", "inherit"])
def test_a_large_page_is_not_cut(call: str) -> None:
    one = LoneMap()
    large = freebsd.NBPDR // PAGE
    one.map = freebsd.setup(one.k, 4 * large, min_offset=LOW, name="large")
    one.insert(0, 2 * large, freebsd.VmObject(2 * large), cow=1 << 19)
    value = READ if call == "protect" else freebsd.VM_INHERIT_NONE
    for start, end in ((1, 2 * large), (0, large + 1)):
        assert getattr(one, call)(start, end, value) == freebsd.KERN_INVALID_ARGUMENT
        assert {(entry.protection, entry.inheritance) for entry in one.map.entries} == {(RW, freebsd.VM_INHERIT_COPY)}
        assert one.free()
    assert getattr(one, call)(large, 2 * large, value) == 0
    assert one.shape() == [(0, large), (large, 2 * large)]


def test_it_can_be_wired_and_protected_by_turns() -> None:
    """What one leaves behind is no obstacle to the other."""
    one = LoneMap()
    one.insert(0, 8)
    for prot in (READ, RW):
        assert one.wire(2, 6) == 0
        assert one.protect(0, 8, prot) == 0
        assert one.wired() == [Wired(0, 2), Wired(2, 6, 1, user=True), Wired(6, 8)]
        assert one.unwire(0, 8, USER) == 0
        assert one.prots() == [(0, 8, prot)]

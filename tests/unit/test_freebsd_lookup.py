"""FreeBSD's vm_map_lookup with nobody else about: what a fault is told, and the objects that it makes."""

from __future__ import annotations

import pytest

from stressvm.vm import freebsd
from stressvm.vm.freebsd import MapKind
from tests.lone_map import HOLESOK, PAGE, SYSTEM, USER, LoneMap

READ, WRITE, EXECUTE, RW = freebsd.VM_PROT_READ, freebsd.VM_PROT_WRITE, freebsd.VM_PROT_EXECUTE, freebsd.VM_PROT_RW
FAILURE = freebsd.KERN_PROTECTION_FAILURE
COW, NEEDS_COPY = freebsd.MAP_ENTRY_COW, freebsd.MAP_ENTRY_NEEDS_COPY
PRIVATE = freebsd.MAP_COPY_ON_WRITE
BOTH = pytest.mark.parametrize("version", ["13", "2013"])
KINDS = pytest.mark.parametrize("kind", list(MapKind))


def found(one: LoneMap, page: int, fault_type: int, *, copy: bool = False) -> freebsd.Found:
    """What vm_map_lookup finds, and that it succeeds; the lock is given back."""
    result, what = one.look(page, fault_type, copy=copy)
    assert result == 0
    assert what is not None
    assert one.free()
    return what


def refused(one: LoneMap, page: int, fault_type: int, *, copy: bool = False) -> int:
    """The error; nothing is held after it."""
    result, what = one.look(page, fault_type, copy=copy)
    assert what is None
    assert one.free()
    return result


# ---------------------------------------------------------------- errors


@BOTH
@KINDS
def test_where_nothing_is_mapped_nothing_is_found(version: str, kind: MapKind) -> None:
    one = LoneMap(version, kind)
    assert refused(one, 3, READ) == freebsd.KERN_INVALID_ADDRESS
    one.insert(4, 8)
    for page in (3, 8):
        assert refused(one, page, READ) == freebsd.KERN_INVALID_ADDRESS


@BOTH
@KINDS
@pytest.mark.parametrize("prot", range(8))
def test_each_right_is_asked_for(version: str, kind: MapKind, prot: int) -> None:
    one = LoneMap(version, kind)
    one.insert(4, 8, freebsd.VmObject(4), prot=prot)
    for fault_type in range(8):
        if prot and not fault_type & ~prot:
            what = found(one, 4, fault_type)
            assert (what.prot, what.wired) == (prot, False)
        else:
            assert refused(one, 4, fault_type) == FAILURE


@BOTH
def test_a_guard_is_nothing_that_can_be_touched(version: str) -> None:
    one = LoneMap(version)
    one.insert(4, 8, prot=0, max_prot=0, cow=freebsd.MAP_CREATE_GUARD)
    for fault_type in (0, READ):
        assert refused(one, 4, fault_type) == FAILURE


# ---------------------------------------------------------------- what is found


@BOTH
@KINDS
def test_the_page_of_the_object_that_is_mapped_there(version: str, kind: MapKind) -> None:
    one = LoneMap(version, kind)
    obj = freebsd.VmObject(16)
    one.insert(4, 8, obj, 3)
    for page in range(4, 8):
        what = found(one, page, READ)
        assert (what.vm_map, what.entry, what.object, what.pindex) == (one.map, one.entry(4), obj, page - 1)


@BOTH
@KINDS
def test_the_lock_is_held_until_it_is_given_back(version: str, kind: MapKind) -> None:
    one = LoneMap(version, kind)
    one.insert(4, 8)
    result, what = one.now(freebsd.vm_map_lookup(one.map, one.at(4), READ))
    assert result == 0
    assert what is not None
    assert not one.free()
    assert one.map.lock.locked() == (kind is MapKind.SYSTEM), "the mutex is one for both"
    one.now(freebsd.vm_map_lookup_done(what))
    assert one.free()


@BOTH
@KINDS
@pytest.mark.parametrize("fault_type", [READ, WRITE])
def test_memory_touched_for_the_first_time_gets_its_object(version: str, kind: MapKind, fault_type: int) -> None:
    one = LoneMap(version, kind)
    one.insert(4, 8)
    cred = freebsd.ucred(one.k)
    before = one.timestamp
    what = found(one, 6, fault_type)
    entry = one.entry(4)
    assert what.prot == RW
    assert what.object is entry.object
    if kind is MapKind.SYSTEM:
        assert (what.object, entry.cred, one.timestamp) == (None, cred, before)
        return
    assert what.object is not None
    assert what.object.anon
    assert (what.object.size, what.object.ref_count, what.pindex) == (4, 1, 2)
    assert (what.object.cred, what.object.charge, entry.cred, cred.reserved) == (cred, 4 * PAGE, None, 4 * PAGE)
    assert one.timestamp == before + 1, "that of the upgrade"
    assert found(one, 5, fault_type).object is what.object
    assert one.timestamp == before + 1, "nothing is left to be done"


@BOTH
def test_memory_that_nobody_is_charged_for_gets_an_object_without_charge(version: str) -> None:
    one = LoneMap(version)
    one.insert(4, 8, prot=READ)
    obj = found(one, 4, READ).object
    assert obj is not None
    assert (obj.cred, obj.charge, freebsd.ucred(one.k).reserved) == (None, 0, 0)


# ---------------------------------------------------------------- copy on write


@BOTH
@KINDS
def test_a_read_of_what_is_to_be_copied_may_not_write(version: str, kind: MapKind) -> None:
    one = LoneMap(version, kind)
    obj = freebsd.VmObject(8)
    one.insert(4, 8, obj, 2, cow=PRIVATE)
    before = one.timestamp
    what = found(one, 5, READ)
    assert (what.object, what.pindex, what.prot) == (obj, 3, READ)
    assert one.entry(4).eflags & NEEDS_COPY
    assert one.timestamp == before


@BOTH
@KINDS
def test_a_write_puts_a_shadow_before_it(version: str, kind: MapKind) -> None:
    one = LoneMap(version, kind)
    obj = freebsd.VmObject(8)
    one.insert(4, 8, obj, 2, cow=PRIVATE)
    cred = freebsd.ucred(one.k)
    assert (one.entry(4).cred, cred.reserved) == (cred, 4 * PAGE)
    what = found(one, 5, WRITE)
    entry = one.entry(4)
    assert what.object is entry.object
    assert what.object is not None
    assert (what.object.backing_object, what.object.backing_object_offset) == (obj, 2 * PAGE)
    assert (what.object.size, what.object.ref_count, obj.ref_count) == (4, 1, 1)
    assert (what.pindex, entry.offset, what.prot) == (1, 0, RW)
    assert (what.object.cred, what.object.charge, entry.cred, cred.reserved) == (cred, 4 * PAGE, None, 4 * PAGE)
    assert entry.eflags & (COW | NEEDS_COPY) == COW
    assert found(one, 5, WRITE).object is what.object
    assert found(one, 4, READ).prot == RW


@BOTH
def test_memory_that_nobody_else_refers_to_is_not_copied(version: str) -> None:
    one = LoneMap(version)
    cred = freebsd.ucred(one.k)
    obj = freebsd.VmObject(4, anon=True)
    obj.cred, obj.charge = cred, 4 * PAGE
    cred.swap_reserve(4 * PAGE)
    one.insert(4, 8, obj, cow=PRIVATE)
    assert cred.reserved == 8 * PAGE
    what = found(one, 4, WRITE)
    assert (what.object, what.prot) == (obj, RW)
    assert not one.entry(4).eflags & NEEDS_COPY
    assert (cred.reserved, one.entry(4).cred) == (4 * PAGE, None)


@BOTH
def test_each_part_of_a_mapping_gets_its_own_shadow(version: str) -> None:
    one = LoneMap(version)
    obj = freebsd.VmObject(8)
    one.insert(0, 8, obj, cow=PRIVATE)
    assert one.protect(0, 4, READ) == 0
    assert one.protect(0, 4, RW) == 0
    assert one.inherit(4, 8, freebsd.VM_INHERIT_NONE) == 0
    for page in (6, 2):
        what = found(one, page, WRITE)
        assert what.object is not None
        assert (what.object.size, what.pindex) == (4, page % 4)
        assert what.object.backing_object_offset == page // 4 * 4 * PAGE
    assert obj.ref_count == 2
    assert freebsd.ucred(one.k).reserved == 8 * PAGE


@BOTH
@pytest.mark.parametrize("limit", [0, 3])
def test_without_swap_nothing_is_copied_and_nothing_held(version: str, limit: int) -> None:
    one = LoneMap(version)
    obj = freebsd.VmObject(8)
    one.insert(4, 8, obj, cow=PRIVATE | freebsd.MAP_ACC_NO_CHARGE)
    cred = freebsd.ucred(one.k)
    cred.limit = limit * PAGE
    assert refused(one, 4, WRITE) == freebsd.KERN_RESOURCE_SHORTAGE
    assert (one.entry(4).object, one.entry(4).cred, cred.reserved) == (obj, None, 0)
    assert found(one, 4, READ).prot == READ
    cred.limit = 4 * PAGE
    assert found(one, 4, WRITE).prot == RW
    assert cred.reserved == 4 * PAGE


@BOTH
@pytest.mark.parametrize(("prot", "copied"), [(RW, True), (READ, False)])
def test_what_is_wired_is_got_for_all_that_it_may_be_used_for(*, version: str, prot: int, copied: bool) -> None:
    """Even if this fault only reads."""
    one = LoneMap(version)
    obj = freebsd.VmObject(8)
    one.insert(4, 8, obj, prot=prot, cow=PRIVATE)
    assert one.wire(4, 8, SYSTEM) == 0
    what = found(one, 4, READ)
    assert what.wired
    assert what.prot == prot
    assert (what.object is not obj) == copied


# ---------------------------------------------------------------- a debugger's write


@BOTH
def test_a_debugger_gets_a_copy_of_what_may_only_be_read(version: str) -> None:
    one = LoneMap(version)
    obj = freebsd.VmObject(8)
    one.insert(4, 8, obj, prot=READ | EXECUTE, cow=PRIVATE)
    what = found(one, 4, READ, copy=True)
    assert what.object is not None
    assert what.object.backing_object is obj
    assert what.prot == READ | EXECUTE
    assert freebsd.ucred(one.k).reserved == 4 * PAGE, "it is the debugger who is charged"
    assert not one.entry(4).eflags & NEEDS_COPY


@BOTH
@pytest.mark.parametrize(
    ("max_prot", "cow", "allowed"),
    [(READ, 0, False), (RW, 0, True), (READ, PRIVATE, True)],
)
def test_a_debugger_may_not_write_what_others_see_and_nobody_may_write(
    *, version: str, max_prot: int, cow: int, allowed: bool
) -> None:
    one = LoneMap(version)
    one.insert(4, 8, freebsd.VmObject(4), prot=READ, max_prot=max_prot, cow=cow)
    assert one.look(4, READ, copy=True)[0] == (0 if allowed else FAILURE)
    assert one.look(4, READ)[0] == 0


# ---------------------------------------------------------------- submaps


def nested(version: str) -> tuple[LoneMap, freebsd.VmMap]:
    """A map, and another that looks after pages 4 to 8 of it."""
    one = LoneMap(version)
    one.insert(4, 8)
    submap = freebsd.setup(one.k, 4, version=version, min_offset=one.at(4), name="submap")
    assert one.now(one.map.submap(one.at(4), one.at(8), submap)) == 0
    return one, submap


@BOTH
def test_a_fault_in_a_submap_is_the_submaps(version: str) -> None:
    one, submap = nested(version)
    assert refused(one, 5, READ) == freebsd.KERN_INVALID_ADDRESS
    assert not submap.lock.locked()
    one.now(submap.lock.lock())
    freebsd.vm_map_insert(submap, None, 0, one.at(5), one.at(6))
    one.now(submap.lock.unlock())
    result, what = one.now(freebsd.vm_map_lookup(one.map, one.at(5), WRITE))
    assert result == 0
    assert what is not None
    assert what.vm_map is submap
    assert what.entry is submap.entries.first
    assert one.free(), "only the submap is locked"
    assert isinstance(submap.lock, freebsd.UserMapLock)
    assert submap.lock.sx.read_held()
    one.now(freebsd.vm_map_lookup_done(what))
    assert not submap.lock.sx.read_held()


# ---------------------------------------------------------------- with the lock held already


def locked(one: LoneMap, page: int, fault_type: int) -> tuple[int, freebsd.Found | None]:
    """vm_map_lookup_locked; whatever comes of it, the map is as it was, and the lock as well."""
    one.now(one.map.lock.lock_read())
    before = one.timestamp, one.shape(), [(entry.object, entry.eflags) for entry in one.map.entries]
    answer = one.now(freebsd.vm_map_lookup_locked(one.map, one.at(page), fault_type))
    assert not one.free()
    assert (one.timestamp, one.shape(), [(entry.object, entry.eflags) for entry in one.map.entries]) == before
    one.now(one.map.lock.unlock_read())
    return answer


@BOTH
@KINDS
def test_lookup_locked_refuses_what_lookup_refuses(version: str, kind: MapKind) -> None:
    one = LoneMap(version, kind)
    one.insert(4, 8, freebsd.VmObject(4), prot=READ)
    assert locked(one, 3, READ) == (freebsd.KERN_INVALID_ADDRESS, None)
    assert locked(one, 4, WRITE) == (FAILURE, None)
    result, what = locked(one, 5, READ)
    assert result == 0
    assert what is not None
    assert (what.entry, what.object, what.pindex, what.prot) == (one.entry(4), one.entry(4).object, 1, READ)


@BOTH
@KINDS
def test_lookup_locked_fails_where_an_object_would_have_to_be_made(version: str, kind: MapKind) -> None:
    one = LoneMap(version, kind)
    one.insert(4, 8)
    system = kind is MapKind.SYSTEM
    assert locked(one, 4, READ)[0] == (0 if system else freebsd.KERN_FAILURE)
    found(one, 4, READ)
    assert locked(one, 4, READ)[0] == 0


@BOTH
def test_lookup_locked_fails_where_something_would_have_to_be_copied(version: str) -> None:
    one = LoneMap(version)
    one.insert(4, 8, freebsd.VmObject(4), cow=PRIVATE)
    result, what = locked(one, 4, READ)
    assert result == 0
    assert what is not None
    assert what.prot == READ
    assert locked(one, 4, WRITE) == (freebsd.KERN_FAILURE, None)
    assert one.wire(4, 8, SYSTEM) == 0
    assert locked(one, 4, READ) == (freebsd.KERN_FAILURE, None), "what is wired is got for writing"
    found(one, 4, WRITE)
    assert locked(one, 4, WRITE)[0] == 0


@BOTH
def test_lookup_locked_fails_at_a_submap(version: str) -> None:
    one, _ = nested(version)
    assert locked(one, 5, READ) == (freebsd.KERN_FAILURE, None)


# ---------------------------------------------------------------- a read hold and the tree


def test_the_only_reader_rearranges_the_tree_and_the_timestamp_stays() -> None:
    one = LoneMap()
    one.map = freebsd.setup(one.k, 16, search=freebsd.Search.SPLAY, min_offset=one.at(0), name="splay")
    for page in range(0, 16, 2):
        one.insert(page, page + 1, freebsd.VmObject(1))
    tree = one.map.tree
    assert isinstance(tree, freebsd.SplayTree)
    before = one.timestamp
    for page in (0, 14, 6):
        found(one, page, READ)
        assert tree.root is one.entry(page)
    assert one.timestamp == before


@BOTH
def test_the_code_that_wires_sees_what_the_fault_has_made(version: str) -> None:
    """A hole stays one: a fault maps nothing."""
    one = LoneMap(version, lookup=True)
    one.insert(4, 6)
    assert one.wire(0, 16, USER | HOLESOK) == 0
    assert one.shape() == [(4, 6)]
    assert one.entry(4).object is found(one, 5, READ).object

"""FreeBSD's vmspace_fork: what an entry leaves to a child, whom it is charged to, and what becomes of its object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Panic, UsageError
from stressvm.vm import freebsd
from tests.freebsd_lone import PAGE, Lone, closing

if TYPE_CHECKING:
    from stressvm.vm.freebsd import VmMapEntry, VmObject

BOTH = pytest.mark.parametrize("version", ["13", "2013"])
RW, RO = freebsd.VM_PROT_RW, freebsd.VM_PROT_READ
SHARE, COPY, NONE, ZERO = (
    freebsd.VM_INHERIT_SHARE,
    freebsd.VM_INHERIT_COPY,
    freebsd.VM_INHERIT_NONE,
    freebsd.VM_INHERIT_ZERO,
)
COPIED = freebsd.MAP_ENTRY_COW | freebsd.MAP_ENTRY_NEEDS_COPY
closed = pytest.fixture(autouse=True)(closing)


class Family(Lone):
    """An address space of 64 pages and a thread of it; places are pages."""

    def __init__(self, version: str = "13", **kw: Any) -> None:
        super().__init__()
        self.vm = freebsd.vmspace_alloc(self.k, 1 << 32, (1 << 32) + 64 * PAGE, version=version, name="init", **kw)
        self.begin()
        self.vm.adopt(self.k.threads[0])

    def at(self, page: int) -> int:
        return (1 << 32) + page * PAGE

    def map(
        self, start: int, end: int, obj: VmObject | None = None, *, inherit: int = COPY, offset: int = 0, **kw: Any
    ) -> None:
        """A mapping that leaves so much to a child."""
        vm_map = self.vm.map
        call = freebsd.vm_map_fixed(vm_map, obj, offset * PAGE, self.at(start), (end - start) * PAGE, **kw)
        assert self.now(call) == 0
        if inherit != COPY:
            assert self.now(freebsd.vm_map_inherit(vm_map, self.at(start), self.at(end), inherit)) == 0

    def fault(self, vm: freebsd.Vmspace, page: int, access: int = freebsd.VM_PROT_WRITE) -> int:
        result, found = self.now(vm.map.vm_map_lookup(self.at(page), access, grow=True))
        if found is not None:
            self.now(found.vm_map.lookup_done())
        return result

    def fork(self) -> freebsd.Vmspace:
        child = self.now(freebsd.fork1(self.vm))
        assert child is not None
        return child

    def entries(self, vm: freebsd.Vmspace) -> list[tuple[int, int]]:
        low = vm.map.min_offset
        return [((entry.start - low) // PAGE, (entry.end - low) // PAGE) for entry in vm.map.entries]

    def entry(self, vm: freebsd.Vmspace, page: int) -> VmMapEntry:
        found, entry = vm.map.entries.lookup(self.at(page))
        assert found
        assert entry is not None
        return entry

    def object(self, vm: freebsd.Vmspace, page: int) -> VmObject:
        obj = self.entry(vm, page).object
        assert obj is not None
        return obj

    def end(self, *children: freebsd.Vmspace) -> None:
        """All address spaces go, and nothing is left."""
        freebsd.audit(self.k)
        for vm in (*children, self.vm):
            self.now(freebsd.vmspace_free(vm))
            freebsd.audit(self.k)
        assert freebsd.ucred(self.k).reserved == 0

    @property
    def reserved(self) -> int:
        return freebsd.ucred(self.k).reserved // PAGE


# ---------------------------------------------------------------- what is left to a child


@BOTH
def test_what_each_inheritance_leaves(version: str) -> None:
    one = Family(version)
    for n, inherit in enumerate((SHARE, COPY, NONE, ZERO)):
        one.map(4 * n, 4 * n + 4, inherit=inherit)
    child = one.fork()
    assert one.entries(child) == [(0, 4), (4, 8), (12, 16)]
    assert (child.map.name, child.map.version, child.refcnt, child.map.size) == ("init.1", version, 1, 12 * PAGE)
    assert one.fork().map.name == "init.2"


@BOTH
def test_what_is_shared_is_one_object(version: str) -> None:
    one = Family(version)
    one.map(0, 4, inherit=SHARE)
    child = one.fork()
    obj = one.object(one.vm, 0)
    assert (one.object(child, 0), obj.ref_count, obj.one_mapping, obj.charge) == (obj, 2, False, 4 * PAGE)
    assert (one.entry(child, 0).eflags, one.entry(child, 0).inheritance, one.reserved) == (0, SHARE, 4)
    one.end(child)


@BOTH
def test_what_is_shared_and_was_to_be_copied_gets_one_shadow_for_both(version: str) -> None:
    one = Family(version)
    file = freebsd.VmObject(8)
    one.map(0, 4, file, offset=2, inherit=SHARE, cow=freebsd.MAP_COPY_ON_WRITE)
    child = one.fork()
    obj = one.object(one.vm, 0)
    assert (one.object(child, 0), obj.ref_count, obj.backing_object, file.ref_count) == (obj, 2, file, 1)
    assert (one.entry(child, 0).offset, one.entry(one.vm, 0).offset, obj.backing_object_offset) == (0, 0, 2 * PAGE)
    assert (one.entry(child, 0).eflags, obj.charge, one.entry(one.vm, 0).cred) == (
        freebsd.MAP_ENTRY_COW,
        4 * PAGE,
        None,
    )
    one.end(child)


@BOTH
def test_what_is_copied_is_copied_on_write_on_both_sides_and_charged_three_times(version: str) -> None:
    one = Family(version)
    one.map(0, 4)
    assert one.fault(one.vm, 0) == 0
    obj = one.object(one.vm, 0)
    child = one.fork()
    for vm in (one.vm, child):
        entry = one.entry(vm, 0)
        assert (entry.object, entry.eflags, entry.cred) == (obj, COPIED, freebsd.ucred(one.k))
    # The object, and a copy of it for whoever writes first, on either side.
    assert (obj.ref_count, obj.one_mapping, one.reserved) == (2, False, 12)
    assert one.fault(child, 1) == 0
    shadow = one.object(child, 0)
    assert (shadow.backing_object, shadow.charge, one.entry(child, 0).eflags) == (
        obj,
        4 * PAGE,
        freebsd.MAP_ENTRY_COW,
    )
    assert (one.fault(one.vm, 1), one.reserved) == (0, 12)
    one.end(child)


@BOTH
def test_the_last_who_needs_a_copy_gets_the_object_itself(version: str) -> None:
    one = Family(version)
    one.map(0, 4)
    assert one.fault(one.vm, 0) == 0
    obj = one.object(one.vm, 0)
    child = one.fork()
    one.now(freebsd.vmspace_free(child))
    assert (one.fault(one.vm, 0), one.object(one.vm, 0), one.reserved) == (0, obj, 4)
    one.end()


@BOTH
def test_what_was_never_touched_has_no_object_to_share(version: str) -> None:
    one = Family(version)
    one.map(0, 4)
    child = one.fork()
    for vm in (one.vm, child):
        assert (one.entry(vm, 0).object, one.entry(vm, 0).eflags, one.entry(vm, 0).offset) == (None, 0, 0)
    assert one.reserved == 8
    one.end(child)


@BOTH
def test_a_part_of_an_object_is_split_off_before_it_is_copied(version: str) -> None:
    one = Family(version)
    one.map(0, 6)
    assert one.fault(one.vm, 0) == 0
    assert one.now(freebsd.vm_map_remove(one.vm.map, one.at(2), one.at(4))) == 0
    whole = one.object(one.vm, 0)
    assert (whole.ref_count, one.object(one.vm, 4)) == (2, whole)
    child = one.fork()
    front, back = one.object(one.vm, 0), one.object(one.vm, 4)
    assert (front.size, front.charge, back, back.charge) == (2, 2 * PAGE, whole, 4 * PAGE)
    assert [one.object(child, page) for page in (0, 4)] == [front, back]
    one.end(child)


@BOTH
def test_a_file_mapped_privately_is_charged_to_a_child_in_2013_only(version: str) -> None:
    one = Family(version)
    file = freebsd.VmObject(4)
    one.map(0, 4, file, cow=freebsd.MAP_COPY_ON_WRITE)
    child = one.fork()
    cred = freebsd.ucred(one.k) if version == "2013" else None
    assert (one.object(child, 0), file.ref_count, one.entry(child, 0).cred) == (file, 2, cred)
    assert one.reserved == (4 if cred is None else 8)
    one.end(child)


@BOTH
def test_what_the_parent_wrote_to_a_file_is_put_off_until_the_locks_are_released(version: str) -> None:
    one = Family(version)
    file = freebsd.VmObject(4)
    freebsd.vm_object_hold(one.k, file)
    file.reference()
    one.map(0, 4, file, cow=freebsd.MAP_WRITECOUNT)
    child = one.fork()
    assert (one.entry(one.vm, 0).eflags, one.entry(child, 0).eflags, file.ref_count) == (COPIED, COPIED, 3)
    one.end(child)


@BOTH
def test_fresh_memory_where_a_child_is_to_have_zeros(version: str) -> None:
    one = Family(version)
    one.map(0, 4, freebsd.VmObject(4), inherit=ZERO, prot=RO, max_prot=RW)
    child = one.fork()
    entry = one.entry(child, 0)
    assert (entry.object, entry.protection, entry.max_protection, entry.inheritance) == (None, RO, RW, ZERO)
    assert (entry.cred, one.reserved) == (freebsd.ucred(one.k), 4)
    one.end(child)


@BOTH
@pytest.mark.parametrize("inherit", [SHARE, COPY, ZERO, NONE])
def test_a_guard_is_left_as_it_is_or_not_at_all(version: str, inherit: int) -> None:
    one = Family(version)
    one.map(0, 4, prot=0, max_prot=0, cow=freebsd.MAP_CREATE_GUARD)
    one.entry(one.vm, 0).inheritance = inherit
    child = one.fork()
    assert one.entries(child) == ([] if inherit == NONE else [(0, 4)])
    assert (child.map.size, one.reserved) == (0, 0)
    one.end(child)


@BOTH
def test_a_stack_is_left_with_its_gap_and_grows_in_the_child(version: str) -> None:
    one = Family(version)
    freebsd.sysctl(one.k).sgrowsiz = 4 * PAGE
    one.map(16, 32, cow=freebsd.MAP_STACK_GROWS_DOWN)
    child = one.fork()
    assert one.entries(child) == [(16, 28), (28, 32)]
    assert (one.entry(child, 16).next_read, child.limits.ssize) == (PAGE, 4 * PAGE)
    assert one.fault(child, 27) == freebsd.KERN_PROTECTION_FAILURE
    child.adopt(one.k.threads[0])
    assert one.fault(child, 27) == 0
    assert one.entries(one.vm) == [(16, 28), (28, 32)]
    one.end(child)


# ---------------------------------------------------------------- wirings, flags, and the map


@BOTH
def test_writable_memory_that_is_wired_is_copied_at_once(version: str) -> None:
    one = Family(version)
    one.map(0, 4)
    one.map(4, 8, prot=RO, max_prot=RO)
    for page in (0, 4):
        assert one.fault(one.vm, page, RO) == 0
    assert one.now(freebsd.vm_map_wire(one.vm.map, one.at(0), one.at(8), freebsd.VM_MAP_WIRE_USER)) == 0
    child = one.fork()
    writable, read = one.entry(child, 0), one.entry(child, 4)
    assert (writable.wired_count, writable.eflags, read.wired_count, read.eflags) == (0, 0, 0, COPIED)
    assert one.object(child, 0) is not one.object(one.vm, 0)
    assert (one.object(child, 0).charge, one.object(child, 0).backing_object) == (4 * PAGE, None)
    assert one.entry(one.vm, 0).eflags == freebsd.MAP_ENTRY_USER_WIRED
    assert one.entry(one.vm, 4).eflags == COPIED | freebsd.MAP_ENTRY_USER_WIRED
    one.end(child)


@BOTH
def test_that_somebody_waits_for_an_entry_is_left_to_the_child_as_the_code_has_it(version: str) -> None:
    one = Family(version)
    one.map(0, 4)
    entry = one.entry(one.vm, 0)
    moving = freebsd.MAP_ENTRY_IN_TRANSITION | freebsd.MAP_ENTRY_NEEDS_WAKEUP
    entry.eflags, entry.wiring_thread = moving, 0
    child = one.fork()
    assert (one.entry(child, 0).eflags, one.entry(child, 0).wiring_thread) == (freebsd.MAP_ENTRY_NEEDS_WAKEUP, -1)


def test_a_child_has_the_parents_randomness_and_its_place_for_mappings() -> None:
    flags = freebsd.MAP_ASLR | freebsd.MAP_ASLR_IGNSTART | freebsd.MAP_WXORX
    one = Family(flags=flags | freebsd.MAP_WIREFUTURE)
    one.vm.map.anon_loc = one.at(7)
    child = one.fork()
    assert (child.map.flags, child.map.anon_loc) == (flags, one.at(7))


@BOTH
def test_neighbours_that_have_become_alike_are_not_merged(version: str) -> None:
    one = Family(version)
    one.map(0, 8)
    assert one.fault(one.vm, 0) == 0
    assert one.now(freebsd.vm_map_wire(one.vm.map, one.at(0), one.at(4), freebsd.VM_MAP_WIRE_USER)) == 0
    one.now(one.vm.map.lock.lock())
    one.vm.map.entries.first.protection = RO  # type: ignore[union-attr]
    one.now(one.vm.map.lock.unlock())
    child = one.fork()
    assert one.entries(child) == [(0, 4), (4, 8)]
    one.now(child.map.lock.lock())
    one.now(child.map.lock.unlock())


def test_a_submap_is_not_left_to_anybody() -> None:
    one = Family()
    one.map(0, 4)
    sub = freebsd.setup(one.k, 4, kind=freebsd.MapKind.SUBMAP)
    assert one.now(freebsd.vm_map_submap(one.vm.map, one.at(0), one.at(4), sub)) == 0
    with pytest.raises(Panic, match="encountered a submap"):
        one.fork()


# ---------------------------------------------------------------- no swap, and the end


@BOTH
def test_without_swap_there_is_no_child_and_the_parents_part_stays_charged(version: str) -> None:
    one = Family(version)
    one.map(0, 4)
    assert one.fault(one.vm, 0) == 0
    freebsd.ucred(one.k).limit = 11 * PAGE
    assert one.now(freebsd.fork1(one.vm)) is None
    assert one.reserved == 8
    freebsd.ucred(one.k).limit = 16 * PAGE
    one.end(one.fork())


def test_fork_charge_is_not_reserved_by_vmspace_fork() -> None:
    one = Family()
    one.map(0, 4)
    child, charge = one.now(freebsd.vmspace_fork(one.vm))
    assert (charge, one.reserved) == (4 * PAGE, 4)
    with pytest.raises(Panic, match="0x4000 bytes of swap are reserved, and 0x8000 are charged for"):
        freebsd.audit(one.k)
    one = Family()
    one.map(0, 4)
    child, charge = one.now(freebsd.vmspace_fork(one.vm))
    assert freebsd.ucred(one.k).settle(charge)
    one.end(child)


def test_the_last_process_unmaps_everything() -> None:
    one = Family()
    one.map(0, 4)
    one.vm.refcnt = 2
    one.now(freebsd.vmspace_free(one.vm))
    assert one.entries(one.vm) == [(0, 4)]
    one.now(freebsd.vmspace_free(one.vm))
    assert (one.entries(one.vm), one.reserved) == ([], 0)


class Leaky(freebsd.VmMap13):
    """A map of which something is always left."""

    async def delete(self, start: int, end: int) -> int:
        """All but the last page."""
        return await super().delete(start, end - PAGE)


def test_what_is_left_of_an_address_space_is_a_panic() -> None:
    one = Family(cls=Leaky)
    one.map(60, 64)
    with pytest.raises(Panic, match="1 entries and a size of 0x1000 on free"):
        one.now(freebsd.vmspace_free(one.vm))


def test_impossible_address_spaces_are_refused() -> None:
    with pytest.raises(UsageError, match="version='14'"):
        freebsd.vmspace_alloc(Lone().k, 0, PAGE, version="14")


def test_generations_of_shadows_collapse_as_the_processes_end() -> None:
    one = Family()
    one.map(0, 4)
    assert one.fault(one.vm, 0) == 0
    bottom = one.object(one.vm, 0)
    child = one.fork()
    for vm in (child, one.vm):
        assert one.fault(vm, 0) == 0
    # Nobody maps what both copied from; each has a shadow of it.
    assert (bottom.ref_count, bottom.shadow_count) == (2, 2)
    one.now(freebsd.vmspace_free(child))
    assert (bottom.ref_count, one.object(one.vm, 0).backing_object, one.reserved) == (0, None, 4)
    one.end()


@BOTH
def test_a_stack_that_grows_up_after_a_fork_is_charged_twice_and_reserved_once(version: str) -> None:
    one = Family(version)
    freebsd.sysctl(one.k).sgrowsiz = 4 * PAGE
    one.map(16, 32, cow=freebsd.MAP_STACK_GROWS_UP)
    assert one.fault(one.vm, 16) == 0
    one.fork()
    # The entry has a charge of its own by now, for the copy that a write will make, and so has the object.
    with pytest.raises(Panic, match="0x14000 bytes of swap are charged for, and 0x10000 are reserved"):
        one.fault(one.vm, 20, RO)


@BOTH
def test_an_address_space_is_freed_once(version: str) -> None:
    one = Family(version)
    one.now(freebsd.vmspace_free(one.vm))
    with pytest.raises(Panic, match="init has been freed already"):
        one.now(freebsd.vmspace_free(one.vm))


@BOTH
def test_a_map_is_no_submap_of_itself(version: str) -> None:
    one = Family(version)
    with pytest.raises(UsageError, match="a submap can be no map that has submaps, or itself"):
        one.now(freebsd.vm_map_submap(one.vm.map, one.at(0), one.at(8), one.vm.map))

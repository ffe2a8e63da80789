"""uvm_map_pageable and uvm_map_pageable_all over pages: what is wired, what cannot be, and how it is undone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Panic, UsageError
from stressvm.conform.lone import LoneThread
from stressvm.vm import netbsd
from stressvm.vm.pages import PageQueue, Swap, UvmPages

if TYPE_CHECKING:
    from stressvm.vm.pmap import Translation

PAGE = netbsd.PAGE_SIZE
WIRED, PAGEABLE, VAONLY = netbsd.UVM_KMF_WIRED, netbsd.UVM_KMF_PAGEABLE, netbsd.UVM_KMF_VAONLY
READ, WRITE = netbsd.VM_PROT_READ, netbsd.VM_PROT_WRITE
RW = READ | WRITE
DIAGNOSTIC, DEBUG = netbsd.Options.DIAGNOSTIC, netbsd.Options.DEBUG
VERSIONS = pytest.mark.parametrize("version", netbsd.VERSIONS)


class Refusing(netbsd.KmFault):
    """Some addresses cannot be wired."""

    refused: frozenset[int] = frozenset()

    async def fault_wired(self, vm_map: netbsd.VmMap, va: int, access: int) -> int:
        if va in self.refused:
            return netbsd.EIO
        return await super().fault_wired(vm_map, va, access)


class One(LoneThread):
    """A PAGEABLE map of 64 pages over 24 pages of memory with swap, and a thread that nobody disturbs."""

    def __init__(self, version: str = "6", options: netbsd.Options = DIAGNOSTIC | DEBUG, **how: Any) -> None:
        super().__init__()
        self.uvm = UvmPages(self.k, 24)
        self.memory = netbsd.Memory(self.uvm, swap=Swap(self.k, 8), **how)
        self.memory.fault = self.fault = Refusing(self.memory, wiredmax=self.memory.fault.wiredmax)
        flags = netbsd.VM_MAP_PAGEABLE
        self.kmap = netbsd.setup(self.k, 64, version=version, flags=flags, options=options, memory=self.memory)
        self.start()

    def alloc(self, pages: int, kind: int = PAGEABLE) -> int:
        va: int = self.now(netbsd.uvm_km_alloc(self.kmap, pages * PAGE, 0, kind))
        return va

    def free(self, va: int, pages: int, kind: int = PAGEABLE) -> None:
        self.now(netbsd.uvm_km_free(self.kmap, va, pages * PAGE, kind))

    def touch(self, va: int, access: int = RW) -> Any:
        return self.now(netbsd.kernel_access(self.kmap, va, access))

    def pageable(self, va: int, pages: int, *, new_pageable: bool, lockflags: int = 0) -> int:
        call = netbsd.uvm_map_pageable(self.kmap, va, va + pages * PAGE, new_pageable=new_pageable, lockflags=lockflags)
        error: int = self.now(call)
        return error

    def wire(self, va: int, pages: int) -> int:
        return self.pageable(va, pages, new_pageable=False)

    def unwire(self, va: int, pages: int) -> int:
        return self.pageable(va, pages, new_pageable=True)

    def all(self, flags: int, limit: int = 0) -> int:
        error: int = self.now(netbsd.uvm_map_pageable_all(self.kmap, flags, limit))
        return error

    def found(self, va: int, pages: int) -> list[Translation]:
        return list(self.memory.pmap.translations(va, va + pages * PAGE))

    def counts(self, va: int, pages: int) -> list[int]:
        """How often each page of the range is wired; -1: it is not resident."""
        obj, base = self.memory.kernel_object, self.kmap.kernel_base
        found = [obj.pages.lookup((at - base) // PAGE) for at in range(va, va + pages * PAGE, PAGE)]
        return [page.wire_count if page is not None else -1 for page in found]

    def entries(self) -> list[tuple[int, int, int]]:
        low = self.kmap.min_offset
        return [((e.start - low) // PAGE, (e.end - low) // PAGE, e.wired_count) for e in self.kmap.entries]

    def idle(self) -> bool:
        return not self.kmap.lock.held() and self.kmap.lock.busy_thread == -1


# ---------------------------------------------------------------- wiring


@VERSIONS
def test_wiring_faults_the_pages_in_and_wires_them_and_their_mappings(version: str) -> None:
    one = One(version)
    va = one.alloc(3)
    page = one.touch(va + PAGE)
    page.write("mine")
    assert one.counts(va, 3) == [-1, 0, -1]
    assert one.wire(va, 3) == 0
    assert one.counts(va, 3) == [1, 1, 1]
    assert [(at.wired, at.prot, at.raw) for at in one.found(va, 3)] == [(True, RW | 4, False)] * 3
    assert (one.uvm.wired, one.memory.pmap.wired_count, len(one.uvm.active)) == (3, 3, 0)
    assert one.touch(va + PAGE).content == "mine"
    assert one.entries() == [(0, 3, 1)]
    assert one.idle()
    assert one.wire(va, 3) == 0
    assert one.counts(va, 3) == [1, 1, 1], "pages are wired once for their entry, however often that is"
    assert one.unwire(va, 3) == 0
    assert (one.counts(va, 3), one.entries()) == ([0, 0, 0], [(0, 3, 0)])
    assert not any(at.wired for at in one.found(va, 3))
    assert (one.uvm.wired, one.memory.pmap.wired_count, len(one.uvm.active)) == (0, 0, 3)
    one.free(va, 3)
    assert (one.found(va, 3), one.memory.kernel_object.pages.resident) == ([], 0)
    one.close()


def test_a_wired_page_has_no_slot_in_swap_and_is_dirty() -> None:
    one = One()
    va = one.alloc(1)
    page = one.touch(va)
    swap, obj = one.memory.kernel_object.pager.swap, one.memory.kernel_object  # type: ignore[union-attr]
    slot = one.now(swap.alloc())
    assert obj.pager is not None
    obj.pager.assign(page.pindex, slot)
    page.clean = True
    assert one.wire(va, 1) == 0
    assert (page.clean, swap.contents, obj.pager.slots) == (False, {}, {})
    one.free(va, 1)
    one.close()


@VERSIONS
def test_what_is_freed_while_it_is_wired_leaves_nothing_wired(version: str) -> None:
    one = One(version)
    va = one.alloc(2)
    assert one.wire(va, 2) == 0
    one.free(va, 2)
    assert (one.uvm.wired, one.memory.pmap.wired_count, one.memory.kernel_object.pages.resident) == (0, 0, 0)
    assert one.kmap.size == 0
    one.close()


def test_5_2_unmaps_wired_memory_unwiring_it_first() -> None:
    one = One("5.2")
    va = one.alloc(2)
    assert one.wire(va, 2) == 0
    one.now(netbsd.uvm_unmap(one.kmap, va, va + 2 * PAGE))
    assert (one.uvm.wired, one.memory.pmap.wired_count, one.memory.kernel_object.pages.resident) == (0, 0, 0)
    one.close()


def test_a_fault_on_a_wired_entry_maps_it_wired_and_leaves_the_page_alone() -> None:
    """Between the two passes, or after a failure: the entry counts as wired, the page is not."""
    one = One()
    va = one.alloc(1)
    entry = one.kmap.entries.first
    assert entry is not None
    entry.wired_count = 1
    one.touch(va, READ)
    (at,) = one.found(va, 1)
    assert (at.wired, at.modified, one.counts(va, 1)) == (True, True, [0]), "with all that the entry allows"
    entry.wired_count = 0
    one.free(va, 1)
    one.close()


@pytest.mark.parametrize(("version", "early"), [("6", True), ("5.2", False)])
def test_6_tells_the_processors_before_it_unlocks_and_5_2_afterwards(version: str, *, early: bool) -> None:
    # So that there is something to tell: another page has been unmapped, and the processors do not know.
    one = One(version)
    va, other = one.alloc(1), one.alloc(1)
    one.touch(other)
    one.now(one.memory.pmap.remove(other, other + PAGE))
    before = len(one.k.trace)
    one.touch(va)
    steps = [op.kind for _, op, _ in one.k.trace[before:] if op.obj.name == "kmap.lock" or op.kind == "invalidate"]
    assert (
        steps.index("unlock") > steps.index("invalidate")
        if early
        else steps.index("unlock") < steps.index("invalidate")
    )
    one.close()


# ---------------------------------------------------------------- what cannot be wired


@VERSIONS
@pytest.mark.parametrize("kind", [WIRED, VAONLY])
def test_other_memory_has_nothing_to_fault_in(version: str, kind: int) -> None:
    one = One(version)
    va = one.alloc(2, kind)
    assert one.wire(va, 2) == netbsd.EFAULT
    assert one.unwire(va, 2) == netbsd.EINVAL
    assert one.entries() == [(0, 2, 0)]
    assert one.uvm.wired == 0
    one.free(va, 2, kind)
    one.close()


def test_6_wires_a_part_though_its_page_says_that_is_not_supported() -> None:
    one = One()
    va = one.alloc(4)
    assert one.wire(va + PAGE, 2) == 0
    assert one.entries() == [(0, 1, 0), (1, 3, 1), (3, 4, 0)]
    assert one.counts(va, 4) == [-1, 1, 1, -1]
    assert one.unwire(va + PAGE, 1) == 0
    assert one.entries() == [(0, 1, 0), (1, 2, 0), (2, 3, 1), (3, 4, 0)], "the clips stay"
    assert one.unwire(va, 4) == netbsd.EINVAL
    one.free(va, 4)
    one.close()


def test_6_refuses_a_part_of_wired_memory() -> None:
    one = One()
    va = one.alloc(4, WIRED)
    assert one.wire(va + PAGE, 2) == netbsd.EFAULT
    assert one.entries() == [(0, 1, 0), (1, 3, 0), (3, 4, 0)]
    one.free(va, 4, WIRED)
    one.close()


@pytest.mark.parametrize("kind", [PAGEABLE, WIRED])
def test_5_2_panics_on_a_part_of_what_was_allocated_as_one(kind: int) -> None:
    one = One("5.2")
    va = one.alloc(4, kind)
    with pytest.raises(Panic, match=r"uvm_mapent_alloc_split: KASSERT\(me\)"):
        one.wire(va + PAGE, 2)
    one.close()


def test_5_2_splits_where_a_merge_has_saved_an_entry() -> None:
    one = One("5.2")
    first, second = one.alloc(2), one.alloc(2)
    assert one.entries() == [(0, 4, 0)]
    assert one.wire(second, 2) == 0
    assert one.entries() == [(0, 2, 0), (2, 4, 1)]
    with pytest.raises(Panic, match=r"KASSERT\(me\)"):
        one.wire(first, 1)
    one.close()


def test_5_2_frees_a_part_only_where_a_merge_has_saved_an_entry() -> None:
    one = One("5.2")
    va = one.alloc(3, WIRED)
    with pytest.raises(Panic, match=r"KASSERT\(me\)"):
        one.free(va + PAGE, 1, WIRED)
    one.close()


def test_memory_over_an_amap_has_no_pages_and_says_so() -> None:
    one = One()
    flags = netbsd.UVM_FLAG_COPYONW
    error, va = one.now(netbsd.uvm_map(one.kmap, one.kmap.min_offset, PAGE, flags=flags))
    assert not error
    with pytest.raises(UsageError, match="those have no pages"):
        one.wire(va, 1)
    one.close()


# ---------------------------------------------------------------- failure in the middle


@VERSIONS
def test_a_page_that_cannot_be_had_undoes_all_that_was_wired(version: str) -> None:
    one = One(version)
    first, second = one.alloc(2), one.alloc(2, WIRED)
    third = one.alloc(2)
    assert one.wire(first, 6) == netbsd.EFAULT, "what lies in the middle is wired memory"
    assert [count for _, _, count in one.entries()] == [0, 0, 0]
    assert one.counts(first, 2) == [0, 0]
    assert (one.uvm.wired, one.memory.pmap.wired_count) == (0, 0)
    assert one.idle()
    for va, kind in ((first, PAGEABLE), (second, WIRED), (third, PAGEABLE)):
        one.free(va, 2, kind)
    one.close()


@VERSIONS
def test_the_pages_before_it_in_the_same_entry_are_unwired_and_their_mappings_are_not(version: str) -> None:
    """uvm_fault_wire undoes what it has done while the entry still counts as wired, so the pmap is not asked."""
    one = One(version)
    va = one.alloc(3)
    one.fault.refused = frozenset({va + 2 * PAGE})
    assert one.wire(va, 3) == netbsd.EIO
    assert one.counts(va, 3) == [0, 0, -1]
    assert one.entries() == [(0, 3, 0)]
    assert [at.wired for at in one.found(va, 3)] == [True, True]
    assert (one.uvm.wired, one.memory.pmap.wired_count) == (0, 2)
    one.free(va, 3)
    assert one.memory.pmap.wired_count == 0
    one.close()


@VERSIONS
def test_what_was_wired_before_stays_wired_when_more_fails(version: str) -> None:
    one = One(version)
    first, _, third = one.alloc(2), one.alloc(1, WIRED), one.alloc(1)
    assert one.wire(first, 2) == 0
    assert one.wire(first, 4) == netbsd.EFAULT
    assert [count for _, _, count in one.entries()] == [1, 0, 0]
    assert one.counts(first, 2) == [1, 1]
    assert one.counts(third, 1) == [-1]
    one.close()


@pytest.mark.parametrize(
    "lockflags", [0, netbsd.UVM_LK_ENTER, netbsd.UVM_LK_EXIT, netbsd.UVM_LK_ENTER | netbsd.UVM_LK_EXIT]
)
@pytest.mark.parametrize("refused", [False, True])
def test_the_lock_is_taken_over_and_left_as_asked(lockflags: int, *, refused: bool) -> None:
    one = One()
    va = one.alloc(2)
    one.fault.refused = frozenset({va} if refused else ())
    if lockflags & netbsd.UVM_LK_ENTER:
        one.now(one.kmap.lock.lock())
    assert one.pageable(va, 2, new_pageable=False, lockflags=lockflags) == (netbsd.EIO if refused else 0)
    assert one.kmap.lock.write_held() == bool(lockflags & netbsd.UVM_LK_EXIT)
    assert one.kmap.lock.busy_thread == -1
    one.close()


# ---------------------------------------------------------------- all at once


def test_all_pageable_memory_is_wired_and_unwired() -> None:
    one = One(wiredmax=6)
    first, second = one.alloc(2), one.alloc(3)
    assert one.all(netbsd.MCL_CURRENT) == 0
    assert one.counts(first, 2) + one.counts(second, 3) == [1] * 5
    assert one.all(0) == 0
    assert (one.uvm.wired, one.memory.pmap.wired_count) == (0, 0)
    one.close()


def test_other_memory_makes_it_fail() -> None:
    """kernel_map has WIRED and VAONLY ranges, of which no fault finds anything."""
    one = One()
    va = one.alloc(2)
    one.alloc(1, WIRED)
    assert one.all(netbsd.MCL_CURRENT) == netbsd.EFAULT
    assert [count for _, _, count in one.entries()] == [0, 0]
    assert one.counts(va, 2) == [1, 1], "the kernel's recovery forgets those that were its own"
    one.close()


def test_limits_count_pages_that_are_wired_and_mappings_that_are() -> None:
    one = One()
    assert one.fault.wiredmax == 24 // 3
    va = one.alloc(3)
    assert one.wire(va, 3) == 0
    more = one.alloc(6)
    assert one.all(netbsd.MCL_CURRENT) == netbsd.ENOMEM, "3 + 6 > 8"
    one.free(more + 5 * PAGE, 1)
    assert one.all(netbsd.MCL_CURRENT, limit=8 * PAGE - 1) == netbsd.ENOMEM
    assert one.all(netbsd.MCL_CURRENT, limit=8 * PAGE) == 0
    assert one.counts(va, 8) == [1] * 8
    one.close()


# ---------------------------------------------------------------- protection, and faults in submaps


@VERSIONS
def test_what_may_no_longer_be_written_is_not_written(version: str) -> None:
    one = One(version)
    va = one.alloc(2)
    one.touch(va)
    one.touch(va + PAGE)
    assert one.now(netbsd.uvm_map_protect(one.kmap, va, va + 2 * PAGE, READ)) == 0
    assert [at.prot for at in one.found(va, 2)] == [READ, READ]
    assert one.touch(va, READ).content == "zeros"
    with pytest.raises(Panic, match=f"trap: uvm_fault.* -> {netbsd.EACCES}"):
        one.touch(va)
    one.close()


def test_a_fault_in_a_submap_is_the_submaps() -> None:
    one = One()
    sub = one.now(netbsd.uvm_km_suballoc(one.kmap, one.kmap.min_offset, 4 * PAGE, netbsd.VM_MAP_PAGEABLE))
    va = one.now(netbsd.uvm_km_alloc(sub, PAGE, 0, PAGEABLE))
    assert one.touch(va).owner is one.memory.kernel_object
    assert one.now(netbsd.uvm_fault(one.kmap, va + PAGE, READ)) == netbsd.EFAULT
    one.close()


def test_a_fault_in_a_map_that_is_not_pageable_panics_with_diagnostic() -> None:
    for options in (netbsd.Options.NONE, DIAGNOSTIC):
        one = LoneThread()
        memory = netbsd.Memory(UvmPages(one.k, 8))
        kmap = netbsd.setup(one.k, 4, memory=memory, options=options)
        one.start()
        va = one.now(netbsd.uvm_km_alloc(kmap, PAGE, 0, WIRED))
        if options is DIAGNOSTIC:
            with pytest.raises(Panic, match="VM_MAP_PAGEABLE"):
                one.now(netbsd.uvm_fault(kmap, va, READ))
        else:
            assert one.now(netbsd.uvm_fault(kmap, va, READ)) == netbsd.EFAULT
        one.close()


def test_maps_that_share_a_memory_have_parts_of_their_own_in_the_kernel_object() -> None:
    one = LoneThread()
    memory = netbsd.Memory(UvmPages(one.k, 8))
    low = netbsd.setup(one.k, 4, memory=memory, name="low", flags=netbsd.VM_MAP_PAGEABLE)
    high = netbsd.setup(one.k, 4, memory=memory, name="high", flags=netbsd.VM_MAP_PAGEABLE, min_offset=low.max_offset)
    one.start()
    pages = []
    for kmap in (low, high):
        va = one.now(netbsd.uvm_km_alloc(kmap, PAGE, 0, PAGEABLE))
        pages.append(one.now(netbsd.kernel_access(kmap, va, RW)))
    assert [page.pindex for page in pages] == [0, 4]
    one.close()


def test_a_page_that_was_wired_is_active_again() -> None:
    one = One()
    va = one.alloc(1)
    page = one.touch(va)
    assert one.wire(va, 1) == 0
    assert page.queue is PageQueue.NONE
    assert one.unwire(va, 1) == 0
    assert list(one.uvm.active.values()) == [page]
    one.close()

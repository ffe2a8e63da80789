"""Kernel maps with memory, call by call: what is where, in which order it goes, and what misuse comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Panic, UsageError
from stressvm.conform.lone import LoneThread
from stressvm.vm import netbsd
from stressvm.vm.pages import UNKNOWN, ZEROS, UvmPages
from stressvm.vm.pmap import NetBSDPmap

if TYPE_CHECKING:
    from collections.abc import Coroutine

PAGE = netbsd.PAGE_SIZE
WIRED = netbsd.UVM_KMF_WIRED
PAGEABLE = netbsd.UVM_KMF_PAGEABLE
VAONLY = netbsd.UVM_KMF_VAONLY
NOWAIT = netbsd.UVM_KMF_NOWAIT
ZERO = netbsd.UVM_KMF_ZERO
EXEC = netbsd.UVM_KMF_EXEC
RW = netbsd.VM_PROT_READ | netbsd.VM_PROT_WRITE
DEBUG = netbsd.Options.DEBUG
NONE = netbsd.Options.NONE
VERSIONS = pytest.mark.parametrize("version", netbsd.VERSIONS)


class One(LoneThread):
    """A map of 64 pages over 48 pages of memory, and a thread that nobody disturbs."""

    def __init__(
        self, version: str = "6", options: netbsd.Options = NONE, *, pageable: bool = True, **how: Any
    ) -> None:
        super().__init__()
        self.uvm = UvmPages(self.k, 48)
        self.memory = netbsd.Memory(self.uvm)
        flags = netbsd.VM_MAP_PAGEABLE if pageable else 0
        self.kmap = netbsd.setup(self.k, 64, version=version, flags=flags, options=options, memory=self.memory, **how)
        self.start()

    def alloc(self, pages: int, flags: int) -> int:
        va: int = self.now(netbsd.uvm_km_alloc(self.kmap, pages * PAGE, 0, flags))
        return va

    def free(self, va: int, pages: int, kind: int) -> None:
        self.now(netbsd.uvm_km_free(self.kmap, va, pages * PAGE, kind))

    def steps(self, operation: Coroutine[Any, Any, Any]) -> list[tuple[str, str]]:
        """What the call does, as operation and object."""
        before = len(self.k.trace)
        self.now(operation)
        return [(op.kind, op.obj.name) for _, op, _ in self.k.trace[before:]]

    def mapped(self) -> list[int]:
        return [one.va for one in self.memory.pmap.translations(self.kmap.min_offset, self.kmap.max_offset)]

    def panics(self, operation: Coroutine[Any, Any, Any], match: str) -> None:
        with pytest.raises(Panic, match=match):
            self.now(operation)
        self.close()


@VERSIONS
def test_wired_memory_has_a_page_of_its_own_for_each_address(version: str) -> None:
    one = One(version)
    va = one.alloc(3, WIRED | ZERO | EXEC)
    found = list(one.memory.pmap.translations(va, va + 3 * PAGE))
    assert [(at.va, at.prot, at.raw) for at in found] == [(va + n * PAGE, RW | 4, True) for n in range(3)]
    pages = [one.memory.by_address[at.pa] for at in found]
    assert {(page.content, page.busy, page.owner) for page in pages} == {(ZEROS, False, None)}
    assert one.uvm.loose == 3
    plain = one.alloc(1, WIRED)
    (at,) = one.memory.pmap.translations(plain, plain + PAGE)
    assert at.prot == RW
    assert one.memory.by_address[at.pa].content == UNKNOWN
    one.free(va, 3, WIRED)
    one.free(plain, 1, WIRED)
    assert (one.mapped(), one.uvm.loose, one.kmap.size) == ([], 0, 0)
    one.close()


def test_no_lock_is_held_while_pages_are_got_and_the_processors_are_told_once() -> None:
    one = One()
    va = one.alloc(20, WIRED)
    for n in range(20):
        one.now(netbsd.kernel_access(one.kmap, va + n * PAGE, RW))
    steps = one.steps(netbsd.uvm_km_free(one.kmap, va, 20 * PAGE, WIRED))
    unmaps = [n for n, (kind, name) in enumerate(steps) if name == "pmap_kernel.tables" and kind == "store"]
    frees = [n for n, (kind, name) in enumerate(steps) if (kind, name) == ("lock", "uvm_fpageqlock")]
    locked = steps.index(
        ("try-write-lock", "kmap.lock") if ("try-write-lock", "kmap.lock") in steps else ("write-lock", "kmap.lock")
    )
    told = [n for n, (kind, _) in enumerate(steps) if kind.startswith("invalidate")]
    assert len(unmaps) == 2, "a batch of sixteen, and the rest"
    assert unmaps[0] < frees[0] < frees[15] < unmaps[1] < frees[16] < frees[19] < locked
    assert len(told) == one.memory.machine.ncpu
    assert locked < told[0] < told[-1] < steps.index(("unlock", "kmap.lock"))
    one.close()


def test_5_2_frees_the_pages_before_it_unmaps_them() -> None:
    one = One("5.2")
    va = one.alloc(3, WIRED)
    steps = one.steps(netbsd.uvm_km_free(one.kmap, va, 3 * PAGE, WIRED))
    frees = [n for n, step in enumerate(steps) if step == ("lock", "uvm_fpageqlock")]
    unmaps = [n for n, step in enumerate(steps) if step == ("store", "pmap_kernel.tables")]
    assert len(frees) == 3
    assert len(unmaps) == 1
    assert frees[-1] < unmaps[0]
    one.close()


@VERSIONS
def test_pageable_memory_gets_pages_of_zeros_by_faults(version: str) -> None:
    one = One(version)
    va = one.alloc(3, PAGEABLE)
    assert one.mapped() == []
    page = one.now(netbsd.kernel_access(one.kmap, va + PAGE, RW))
    assert (page.content, page.owner) == (ZEROS, one.memory.kernel_object)
    assert page.pindex == (va + PAGE - one.kmap.kernel_base) // PAGE
    assert one.mapped() == [va + PAGE]
    assert one.now(netbsd.uvm_fault(one.kmap, va + 3 * PAGE, RW)) == netbsd.EFAULT
    one.free(va, 3, PAGEABLE)
    assert (one.mapped(), one.memory.kernel_object.pages.resident, one.kmap.size) == ([], 0, 0)
    one.close()


@pytest.mark.parametrize(("version", "unmapped_first"), [("6", True), ("5.2", False)])
def test_6_unmaps_pageable_memory_and_then_frees_it_and_5_2_the_other_way_round(
    version: str, *, unmapped_first: bool
) -> None:
    one = One(version)
    va = one.alloc(3, PAGEABLE)
    for n in range(3):
        one.now(netbsd.kernel_access(one.kmap, va + n * PAGE, RW))
    steps = one.steps(netbsd.uvm_km_free(one.kmap, va, 3 * PAGE, PAGEABLE))
    obj = ("lock", "uvm_kernel_object.vmobjlock")
    frees = [n for n, step in enumerate(steps) if step == ("lock", "uvm_fpageqlock")]
    unmaps = [n for n, step in enumerate(steps) if step == ("store", "pmap_kernel.tables")]
    told = [n for n, (kind, _) in enumerate(steps) if kind == "invalidate"]
    locked = next(n for n, (kind, name) in enumerate(steps) if name == "kmap.lock" and kind.endswith("write-lock"))
    assert (len(frees), len(unmaps), steps.count(obj)) == (3, 1, 1)
    if unmapped_first:
        assert steps.index(obj) < unmaps[0] < frees[0] < frees[-1] < steps.index(("unlock", obj[1]))
    else:
        assert steps.index(obj) < frees[0] < frees[-1] < steps.index(("unlock", obj[1])) < unmaps[0]
    assert unmaps[0] < locked < told[0] < told[-1] < steps.index(("unlock", "kmap.lock"))
    assert (one.mapped(), one.uvm.free.peek(), one.kmap.size) == ([], 48, 0)
    one.close()


def test_5_2_unmaps_pageable_memory_first_where_uvm_unmap_frees_it() -> None:
    one = One("5.2")
    va = one.alloc(1, PAGEABLE)
    one.now(netbsd.kernel_access(one.kmap, va, RW))
    steps = one.steps(netbsd.uvm_unmap(one.kmap, va, va + PAGE))
    assert steps.index(("store", "pmap_kernel.tables")) < steps.index(("lock", "uvm_fpageqlock"))
    one.close()


def test_on_5_2_a_page_may_be_somebody_elses_before_it_is_unmapped() -> None:
    """The mapping that is left goes all the same, and the page stays the other's."""
    one = One("5.2")
    va = one.alloc(1, PAGEABLE)
    page = one.now(netbsd.kernel_access(one.kmap, va, RW))
    taken: list[Any] = []

    class Taking(NetBSDPmap):
        async def remove(self, sva: int, eva: int) -> None:
            taken.append(await one.uvm.uvm_pagealloc(None, 0))
            await super().remove(sva, eva)

    one.memory.pmap.__class__ = Taking
    one.free(va, 1, PAGEABLE)
    one.memory.pmap.__class__ = NetBSDPmap
    assert taken == [page]
    assert (page.pv_list, one.mapped(), one.uvm.loose) == ({}, [], 1)
    one.now(one.uvm.uvm_pagefree(page))
    one.close()


# ---------------------------------------------------------------- misuse: the wrong type


def test_wired_memory_freed_as_vaonly_is_found_by_debug() -> None:
    for version in netbsd.VERSIONS:
        one = One(version, options=DEBUG)
        va = one.alloc(2, WIRED)
        one.panics(netbsd.uvm_km_free(one.kmap, va, 2 * PAGE, VAONLY), "uvm_unmap_remove: has mapping")


def test_without_debug_the_kernel_does_not_see_it_and_the_model_does() -> None:
    one = One()
    va = one.alloc(2, WIRED)
    one.panics(netbsd.uvm_km_free(one.kmap, va, 2 * PAGE, VAONLY), "G17 pages")


def test_pageable_memory_freed_as_vaonly_is_found_by_debug() -> None:
    for version in netbsd.VERSIONS:
        one = One(version, options=DEBUG)
        va = one.alloc(1, PAGEABLE)
        one.now(netbsd.kernel_access(one.kmap, va, RW))
        one.now(one.memory.pmap.remove(va, va + PAGE))
        one.panics(netbsd.uvm_km_free(one.kmap, va, PAGE, VAONLY), "uvm_km_check_empty: .* hashed")


def test_without_debug_its_page_is_left_in_the_kernel_object_and_the_model_sees_it() -> None:
    one = One()
    va = one.alloc(1, PAGEABLE)
    one.now(netbsd.kernel_access(one.kmap, va, RW))
    one.panics(netbsd.uvm_km_free(one.kmap, va, PAGE, VAONLY), "G17 pages")


@VERSIONS
def test_addresses_alone_can_be_freed_as_anything(version: str) -> None:
    """There is nothing to free, so nobody notices."""
    one = One(version, options=DEBUG | netbsd.Options.DIAGNOSTIC)
    for kind in (WIRED, PAGEABLE):
        va = one.alloc(1, VAONLY)
        one.free(va, 1, kind)
    assert (one.kmap.size, one.uvm.loose, one.mapped()) == (0, 0, [])
    one.close()


@VERSIONS
def test_pageable_memory_that_was_never_used_can_be_freed_as_anything(version: str) -> None:
    one = One(version, options=DEBUG | netbsd.Options.DIAGNOSTIC)
    for kind in (WIRED, VAONLY):
        va = one.alloc(1, PAGEABLE)
        one.free(va, 1, kind)
    assert (one.kmap.size, one.mapped()) == (0, [])
    one.close()


def test_wired_memory_freed_as_pageable_and_the_other_way_round() -> None:
    one = One()
    va = one.alloc(1, WIRED)
    one.panics(netbsd.uvm_km_free(one.kmap, va, PAGE, PAGEABLE), "pmap_remove: KASSERT.*entered by pmap_kenter_pa")
    two = One()
    va = two.alloc(1, PAGEABLE)
    two.now(netbsd.kernel_access(two.kmap, va, RW))
    two.panics(netbsd.uvm_km_free(two.kmap, va, PAGE, WIRED), "was entered by pmap_enter")
    five = One("5.2")
    va = five.alloc(1, PAGEABLE)
    five.now(netbsd.kernel_access(five.kmap, va, RW))
    five.panics(netbsd.uvm_km_free(five.kmap, va, PAGE, WIRED), r"pgremove_intrsafe: KASSERT: .* is an object's")


@pytest.mark.parametrize("kind", [0, WIRED | PAGEABLE, WIRED | VAONLY])
def test_no_type_or_two_panic(kind: int) -> None:
    one = One()
    va = one.alloc(1, WIRED)
    one.panics(netbsd.uvm_km_free(one.kmap, va, PAGE, kind), "exactly one memory type")


# ---------------------------------------------------------------- misuse: the wrong size


def test_a_size_too_small_leaves_the_rest_and_one_too_large_takes_the_neighbours() -> None:
    one = One()
    va = one.alloc(2, WIRED)
    other = one.alloc(1, WIRED)
    one.free(va, 1, WIRED)
    assert one.mapped() == [va + PAGE, other]
    one.free(va + PAGE, 2, WIRED)
    assert one.mapped() == []
    one.panics(netbsd.kernel_access(one.kmap, other, RW), "trap: uvm_fault")


def test_the_same_of_pageable_memory() -> None:
    one = One()
    va = one.alloc(2, PAGEABLE)
    other = one.alloc(1, PAGEABLE)
    for at in (va, va + PAGE, other):
        one.now(netbsd.kernel_access(one.kmap, at, RW))
    one.free(va, 1, PAGEABLE)
    assert one.mapped() == [va + PAGE, other]
    one.free(va + PAGE, 2, PAGEABLE)
    assert (one.mapped(), one.memory.kernel_object.pages.resident) == ([], 0)
    one.panics(netbsd.kernel_access(one.kmap, other, RW), "trap: uvm_fault")


def test_a_size_of_nothing_frees_nothing_and_diagnostic_panics_except_for_vaonly() -> None:
    one = One()
    for kind in (WIRED, PAGEABLE, VAONLY):
        va = one.alloc(1, kind)
        one.free(va, 0, kind)
        assert one.kmap.size == PAGE
        one.free(va, 1, kind)
    one.close()
    for kind, call in ((WIRED, "uvm_km_pgremove_intrsafe"), (PAGEABLE, "uvm_km_pgremove")):
        two = One(options=netbsd.Options.DIAGNOSTIC)
        va = two.alloc(1, kind)
        two.panics(netbsd.uvm_km_free(two.kmap, va, 0, kind), f"{call}: KASSERT")
    three = One(options=netbsd.Options.DIAGNOSTIC)
    three.free(three.alloc(1, VAONLY), 0, VAONLY)
    assert three.kmap.size == PAGE
    three.close()


def test_a_size_beyond_the_end_of_the_map() -> None:
    one = One()
    va = one.alloc(64, VAONLY)
    one.free(va + PAGE, 99, VAONLY)
    assert one.kmap.size == PAGE, "it is cut to the map"
    one.close()
    two = One(options=netbsd.Options.DIAGNOSTIC)
    va = two.alloc(1, WIRED)
    two.panics(
        netbsd.uvm_km_free(two.kmap, va, 99 * PAGE, WIRED), "uvm_km_pgremove_intrsafe: KASSERT: .* is no range of"
    )


def test_an_address_that_is_not_a_pages() -> None:
    one = One()
    va = one.alloc(1, WIRED)
    one.panics(netbsd.uvm_km_free(one.kmap, va + 8, PAGE, WIRED), "is not page aligned")


# ---------------------------------------------------------------- misuse: the wrong map


class Two(LoneThread):
    """Two maps over one memory, and a thread that nobody disturbs."""

    def __init__(self, version: str = "6", options: netbsd.Options = NONE) -> None:
        super().__init__()
        self.memory = netbsd.Memory(UvmPages(self.k, 8))
        how: Any = {"memory": self.memory, "version": version, "options": options, "flags": netbsd.VM_MAP_PAGEABLE}
        self.left = netbsd.setup(self.k, 4, name="left", **how)
        self.right = netbsd.setup(self.k, 4, name="right", min_offset=self.left.max_offset, **how)
        self.start()

    def alloc(self, kind: int) -> int:
        va: int = self.now(netbsd.uvm_km_alloc(self.left, PAGE, 0, kind))
        if kind == PAGEABLE:
            self.now(netbsd.kernel_access(self.left, va, RW))
        return va


@VERSIONS
@pytest.mark.parametrize("kind", [WIRED, PAGEABLE, VAONLY])
def test_the_wrong_map_loses_the_pages_and_keeps_the_addresses(version: str, kind: int) -> None:
    two = Two(version)
    va = two.alloc(kind)
    two.now(netbsd.uvm_km_free(two.right, va, PAGE, kind))
    assert (two.left.size, two.right.size, two.memory.uvm.loose) == (PAGE, 0, 0)
    assert (two.memory.kernel_object.pages.resident, list(two.memory.pmap.translations(va, va + PAGE))) == (0, [])
    two.close()


def test_with_diagnostic_it_panics_for_wired_memory_only() -> None:
    for kind in (WIRED, PAGEABLE, VAONLY):
        two = Two(options=netbsd.Options.DIAGNOSTIC)
        va = two.alloc(kind)
        if kind == WIRED:
            with pytest.raises(Panic, match=r"uvm_km_pgremove_intrsafe: KASSERT: .* is no range of <VmMap right"):
                two.now(netbsd.uvm_km_free(two.right, va, PAGE, kind))
        else:
            two.now(netbsd.uvm_km_free(two.right, va, PAGE, kind))
        two.close()


def test_a_process_map_panics() -> None:
    one = LoneThread()
    user = netbsd.setup(one.k, 4, kind=netbsd.MapKind.USER)
    one.start()
    with pytest.raises(Panic, match=r"uvm_km_free: KASSERT\(vm_map_pmap\(map\) == pmap_kernel"):
        one.now(netbsd.uvm_km_free(user, user.min_offset, PAGE, VAONLY))
    one.close()


def test_maps_that_share_addresses_are_refused() -> None:
    one = LoneThread()
    memory = netbsd.Memory(UvmPages(one.k, 8))
    netbsd.setup(one.k, 4, memory=memory)
    with pytest.raises(UsageError, match="share addresses and memory"):
        netbsd.setup(one.k, 4, memory=memory, name="other")


# ---------------------------------------------------------------- misuse: uvm_unmap instead of uvm_km_free


def test_uvm_unmap_frees_wired_memory_of_a_map_that_is_not_pageable() -> None:
    one = One(pageable=False)
    va = one.alloc(2, WIRED)
    one.now(netbsd.uvm_unmap(one.kmap, va, va + 2 * PAGE))
    assert (one.mapped(), one.uvm.loose, one.kmap.size) == ([], 0, 0)
    one.close()


def test_uvm_unmap_of_a_pageable_map() -> None:
    one = One()
    va = one.alloc(1, PAGEABLE)
    one.panics(netbsd.uvm_unmap(one.kmap, va, va + PAGE), "uvm_km_free is for that")
    for version in netbsd.VERSIONS:
        two = One(version, options=DEBUG)
        va = two.alloc(1, WIRED)
        two.panics(netbsd.uvm_unmap(two.kmap, va, va + PAGE), "has mapping")
        three = One(version)
        va = three.alloc(1, WIRED)
        three.panics(netbsd.uvm_unmap(three.kmap, va, va + PAGE), "G17 pages")
    five = One("5.2")
    va = five.alloc(1, PAGEABLE)
    five.now(netbsd.kernel_access(five.kmap, va, RW))
    five.now(netbsd.uvm_unmap(five.kmap, va, va + PAGE))
    assert five.memory.kernel_object.pages.resident == 0
    five.close()


def test_uvm_unmap_of_addresses_alone_is_no_different() -> None:
    for version in netbsd.VERSIONS:
        one = One(version, options=DEBUG)
        va = one.alloc(2, VAONLY)
        one.now(netbsd.uvm_unmap(one.kmap, va, va + 2 * PAGE))
        assert one.kmap.size == 0
        one.close()


# ---------------------------------------------------------------- uvm_km_check_empty


class Unproven(netbsd.Memory):
    """Without the model's own look at addresses that are handed out."""

    def handed_out(self, vm_map: Any, start: int, end: int) -> None:
        """Not looked at."""


@VERSIONS
@pytest.mark.parametrize("what", ["mapping", "page"])
def test_debug_looks_at_addresses_that_are_handed_out(version: str, what: str) -> None:
    for options in (NONE, DEBUG):
        one = LoneThread()
        uvm = UvmPages(one.k, 8)
        memory = Unproven(uvm)
        kmap = netbsd.setup(one.k, 4, version=version, options=options, memory=memory)
        one.start()
        obj = memory.kernel_object
        if what == "mapping":
            page = one.now(uvm.uvm_pagealloc(None, 0))
            assert page is not None
            one.now(memory.enter(kmap.min_offset, page, 0))
        else:
            one.now(obj.lock.lock())
            page = one.now(uvm.uvm_pagealloc(obj, 0))
            one.now(obj.lock.unlock())
        call = netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY)
        if options is DEBUG:
            words = "uvm_km_check_empty: va 0x.* has pa" if what == "mapping" else "uvm_km_check_empty: .* hashed"
            with pytest.raises(Panic, match=words):
                one.now(call)
        else:
            assert one.now(call) == kmap.min_offset
        one.close()


def test_an_intrsafe_map_is_not_looked_up_in_the_kernel_object() -> None:
    one = LoneThread()
    uvm = UvmPages(one.k, 8)
    memory = Unproven(uvm)
    kmap = netbsd.setup(one.k, 4, version="5.2", flags=netbsd.VM_MAP_INTRSAFE, options=DEBUG, memory=memory)
    one.start()
    one.now(memory.kernel_object.lock.lock())
    one.now(uvm.uvm_pagealloc(memory.kernel_object, 0))
    one.now(memory.kernel_object.lock.unlock())
    assert one.now(netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY)) == kmap.min_offset
    one.close()


# ---------------------------------------------------------------- and else


def test_a_dying_map_tells_nobody() -> None:
    one = One()
    va = one.alloc(1, WIRED)
    one.now(netbsd.kernel_access(one.kmap, va, RW))
    one.kmap.flags.poke(one.kmap.flags.peek() | netbsd.VM_MAP_DYING)
    steps = one.steps(netbsd.uvm_km_free(one.kmap, va, PAGE, WIRED))
    assert not [kind for kind, _ in steps if kind.startswith("invalidate")]
    one.close()


def test_kernel_map_grows_its_page_tables() -> None:
    base = 0xC000_0000
    one = LoneThread()
    memory = netbsd.Memory(UvmPages(one.k, 8), kernel_vm_end=base)
    kernel_map = netbsd.setup(one.k, 1024, memory=memory, kind=netbsd.MapKind.KERNEL)
    one.start()
    va = one.now(netbsd.uvm_km_alloc(kernel_map, PAGE, 0, WIRED))
    assert memory.maxkaddr == memory.pmap.kernel_vm_end == base + 512 * PAGE
    one.now(netbsd.uvm_km_alloc(kernel_map, 512 * PAGE, 0, VAONLY))
    assert memory.maxkaddr == base + 1024 * PAGE
    one.now(netbsd.uvm_km_free(kernel_map, va, PAGE, WIRED))
    one.close()


def test_a_submap_has_its_parents_memory() -> None:
    one = One()
    sub = one.now(netbsd.uvm_km_suballoc(one.kmap, one.kmap.min_offset, 4 * PAGE))
    va = one.now(netbsd.uvm_km_alloc(sub, PAGE, 0, WIRED))
    assert one.mapped() == [va]
    one.now(netbsd.uvm_km_free(sub, va, PAGE, WIRED))
    assert one.uvm.loose == 0
    one.close()


@pytest.mark.parametrize("cached", [False, True])
def test_pool_pages_of_5_2(*, cached: bool) -> None:
    one = LoneThread()
    memory = netbsd.Memory(UvmPages(one.k, 6, reserve_pagedaemon=1, reserve_kernel=2))
    kmap = netbsd.setup(one.k, 16, version="5.2", memory=memory, options=netbsd.Options.DIAGNOSTIC)
    if cached:
        netbsd.uvm_km_vacache_init(kmap, 4 * PAGE)
    one.start()
    got = [one.now(netbsd.uvm_km_alloc_poolpage_cache(kmap, waitok=True)) for _ in range(3)]
    got += [one.now(netbsd.uvm_km_alloc_poolpage_cache(kmap, waitok=False)) for _ in range(2)]
    assert all(got), "with waitok all but the reserve, without it of that, too"
    assert one.now(netbsd.uvm_km_alloc_poolpage_cache(kmap, waitok=False)) == 0
    assert memory.uvm.free.peek() == 1
    for va in got:
        one.now(netbsd.uvm_km_free_poolpage_cache(kmap, va))
    assert (memory.uvm.free.peek(), memory.uvm.loose) == (6, 0)
    assert kmap.size == (2 * 4 * PAGE if cached else 0), "the pool keeps its addresses"
    one.close()


def test_pool_pages_without_memory_or_on_6() -> None:
    one = One()
    with pytest.raises(UsageError, match="kmem_arena"):
        one.now(netbsd.uvm_km_alloc_poolpage(one.kmap, waitok=True))
    one.close()


def test_a_process_has_no_such_memory() -> None:
    one = LoneThread()
    memory = netbsd.Memory(UvmPages(one.k, 8))
    with pytest.raises(UsageError, match="only kernel maps"):
        netbsd.setup(one.k, 4, memory=memory, kind=netbsd.MapKind.USER)
    with pytest.raises(UsageError, match="the kernel's pmap maps"):
        netbsd.setup(one.k, 4, memory=memory, min_offset=0x1000)

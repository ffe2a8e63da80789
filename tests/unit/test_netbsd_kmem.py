"""NetBSD 6's vmem arenas, and uvm_km_kmem_alloc over them: where blocks are, what fails, and what misuse comes to."""

from __future__ import annotations

from typing import Any

import pytest

from stressvm import Panic, UsageError
from stressvm.conform.lone import LoneThread
from stressvm.vm import netbsd
from stressvm.vm.pages import UvmPages

PAGE = netbsd.PAGE_SIZE
SLEEP, NOSLEEP = netbsd.VM_SLEEP, netbsd.VM_NOSLEEP
INSTANT, BEST = netbsd.VM_INSTANTFIT, netbsd.VM_BESTFIT
RW = netbsd.VM_PROT_READ | netbsd.VM_PROT_WRITE
NONE, DIAGNOSTIC = netbsd.Options.NONE, netbsd.Options.DIAGNOSTIC
BOTH = netbsd.VMEM_ALLOC | netbsd.VMEM_FREE


class Arena(LoneThread):
    """An arena of pages 0 to `pages`, and a thread that nobody disturbs."""

    def __init__(self, pages: int = 16, **how: Any) -> None:
        super().__init__()
        self.vm = netbsd.Vmem(self.k, "arena", 0, pages * PAGE, **how)
        self.start()

    def alloc(self, pages: int, flags: int = NOSLEEP | INSTANT, vm: netbsd.Vmem | None = None) -> int | None:
        error, addr = self.now(netbsd.vmem_alloc(vm or self.vm, pages * PAGE, flags))
        assert not error or (error, addr) == (netbsd.ENOMEM, 0)
        return None if error else addr // PAGE

    def free(self, page: int, pages: int, vm: netbsd.Vmem | None = None) -> None:
        self.now(netbsd.vmem_free(vm or self.vm, page * PAGE, pages * PAGE))


# ---------------------------------------------------------------- vmem


def test_the_front_of_a_block_is_taken_and_free_neighbours_become_one() -> None:
    one = Arena()
    assert [one.alloc(3), one.alloc(1), one.alloc(2)] == [0, 3, 4]
    assert (netbsd.vmem_size(one.vm, netbsd.VMEM_ALLOC), netbsd.vmem_size(one.vm, netbsd.VMEM_FREE)) == (
        6 * PAGE,
        10 * PAGE,
    )
    one.free(3, 1)
    one.free(0, 3)
    assert one.alloc(4) == 0
    one.free(0, 4)
    one.free(4, 2)
    assert [(bt.kind, bt.size // PAGE) for bt in one.vm.segs] == [
        (netbsd.BtType.SPAN_STATIC, 16),
        (netbsd.BtType.FREE, 16),
    ]
    assert netbsd.vmem_size(one.vm, BOTH) == 16 * PAGE
    one.close()


def test_an_instant_fit_is_the_first_of_a_class_that_is_surely_large_enough() -> None:
    """Blocks of 3 and of 4 pages are free: for 3 pages the search begins with the class from 4 on, for 2 with that from 2."""
    one = Arena(pages=9)
    assert [one.alloc(n) for n in (3, 1, 4, 1)] == [0, 3, 4, 8]
    one.free(0, 3)
    one.free(4, 4)
    assert one.alloc(3) == 4
    assert one.alloc(2) == 0
    one.close()


def test_a_best_fit_is_the_latest_of_the_lowest_class_that_has_one_large_enough() -> None:
    one = Arena(pages=12)
    assert [one.alloc(n) for n in (3, 1, 2, 1, 3, 1)] == [0, 3, 4, 6, 7, 10]
    for page, pages in ((0, 3), (7, 3), (4, 2)):
        one.free(page, pages)
    assert one.alloc(3, NOSLEEP | BEST) == 7, "the latest in its list that is large enough"
    assert one.alloc(2, NOSLEEP | BEST) == 4, "the latest in its list"
    one.close()


def test_an_instant_fit_falls_back_to_the_best() -> None:
    one = Arena(pages=3)
    assert one.alloc(3) == 0, "3 pages are in the class of 2, which an instant fit passes over"
    assert one.alloc(1) is None
    assert one.alloc(1, NOSLEEP | BEST) is None
    one.close()


def test_sizes_are_rounded_up_to_the_quantum() -> None:
    one = Arena()
    assert one.now(netbsd.vmem_alloc(one.vm, 1, NOSLEEP | BEST)) == (0, 0)
    assert one.alloc(1) == 1
    one.now(netbsd.vmem_free(one.vm, 0, 100))
    assert one.vm.inuse == PAGE
    one.close()


@pytest.mark.parametrize(("large", "spans"), [(False, 1), (True, 16)])
def test_an_arena_imports_what_it_needs_and_gives_it_back_when_it_is_free(*, large: bool, spans: int) -> None:
    one = Arena(pages=40)
    vm = netbsd.Vmem(one.k, "kva", source=one.vm, large=large)
    assert one.alloc(2, vm=vm) == 0
    assert (vm.size, one.vm.inuse) == (2 * PAGE * spans, 2 * PAGE * spans)
    assert one.alloc(1, vm=vm) == 2
    assert one.vm.inuse == (32 if large else 3) * PAGE
    one.free(0, 2, vm=vm)
    assert one.vm.inuse == (32 if large else 1) * PAGE
    one.free(2, 1, vm=vm)
    assert (vm.size, vm.segs, one.vm.inuse) == (0, [], 0)
    assert one.alloc(41, vm=vm) is None
    one.close()


@pytest.mark.parametrize(
    ("size", "flags"),
    [
        (0, NOSLEEP | BEST),
        (PAGE, BEST),
        (PAGE, SLEEP | NOSLEEP | BEST),
        (PAGE, NOSLEEP),
        (PAGE, NOSLEEP | BEST | INSTANT),
    ],
)
def test_what_vmem_alloc_asserts(size: int, flags: int) -> None:
    one = Arena()
    with pytest.raises(Panic, match="vmem_alloc: KASSERT"):
        one.now(netbsd.vmem_alloc(one.vm, size, flags))
    one.close()


@pytest.mark.parametrize(("page", "pages"), [(0, 1), (1, 1), (4, 1), (0, 3)])
def test_what_vmem_free_asserts(page: int, pages: int) -> None:
    one = Arena()
    assert one.alloc(2) == 0
    with pytest.raises(Panic, match=r"vmem_xfree: KASSERT: arena: .* was not allocated so"):
        one.free(page, pages)
    one.close()


def test_arguments_that_make_no_arena() -> None:
    one = LoneThread()
    with pytest.raises(UsageError, match="a power of two"):
        netbsd.Vmem(one.k, "odd", 0, PAGE, quantum=3)
    vm = netbsd.Vmem(one.k, "arena", 0, 2 * PAGE)
    with pytest.raises(Panic, match="overlaps"):
        vm.add(PAGE, PAGE, netbsd.BtType.SPAN)
    with pytest.raises(Panic, match="vmem_size"):
        netbsd.vmem_size(vm, 4)


def test_an_arena_whose_books_are_wrong_is_found() -> None:
    for break_it, words in (
        (lambda vm: setattr(vm, "inuse", vm.inuse + PAGE), "counted as busy"),
        (lambda vm: vm.freelist[vm.order(vm.segs[-1].size)].clear(), "is in no list"),
        (lambda vm: vm.segs.pop(), "not followed to the end|are"),
    ):
        one = Arena()
        assert one.alloc(2) == 0
        one.now(one.vm.lock.lock())
        break_it(one.vm)
        with pytest.raises(Panic, match=words):
            one.now(one.vm.unlock())
        assert one.k.trouble is not None
        assert one.k.trouble.kind == "invariant"
        one.close()


# ---------------------------------------------------------------- uvm_km_kmem_alloc


class Kmem(LoneThread):
    """kernel_map of 64 pages, of which 16 are kmem_arena's, over some pages."""

    def __init__(self, npages: int = 24, options: netbsd.Options = DIAGNOSTIC, **how: Any) -> None:
        super().__init__()
        self.uvm = UvmPages(self.k, npages, reserve_pagedaemon=1, reserve_kernel=3)
        self.memory = netbsd.Memory(self.uvm, **how)
        self.kernel_map = netbsd.setup(
            self.k,
            64,
            kind=netbsd.MapKind.KERNEL,
            flags=netbsd.VM_MAP_PAGEABLE,
            memory=self.memory,
            options=options,
        )
        self.kmem = netbsd.kmem_arena(self.kernel_map, 16, offset=2)
        self.kva = netbsd.Vmem(self.k, "kva", source=self.kmem)
        self.start()

    def alloc(self, size: int, flags: int = NOSLEEP | INSTANT, vm: netbsd.Vmem | None = None) -> tuple[int, int]:
        return self.now(netbsd.uvm_km_kmem_alloc(vm or self.kva, size, flags))

    def free(self, va: int, size: int, vm: netbsd.Vmem | None = None) -> None:
        self.now(netbsd.uvm_km_kmem_free(vm or self.kva, va, size))

    def mapped(self) -> list[int]:
        low, high = self.kernel_map.min_offset, self.kernel_map.max_offset
        return [(at.va - low) // PAGE for at in self.memory.pmap.translations(low, high)]


@pytest.mark.parametrize("flags", [NOSLEEP | INSTANT, SLEEP | INSTANT, SLEEP | BEST])
def test_there_are_pages_at_addresses_of_the_arena_and_no_map_entry_for_them(flags: int) -> None:
    one = Kmem()
    entries = [(entry.start, entry.end) for entry in one.kernel_map.entries]
    error, va = one.alloc(2 * PAGE + 1, flags)
    assert (error, one.mapped()) == (0, [2, 3, 4])
    assert [(entry.start, entry.end) for entry in one.kernel_map.entries] == entries
    page = one.now(netbsd.kernel_access(one.kernel_map, va + 2 * PAGE, RW))
    page.write("mine")
    assert one.kernel_map.lock.timestamp.peek() == 0, "the map was never locked"
    one.free(va, 2 * PAGE + 1)
    assert (one.mapped(), one.uvm.free.peek(), one.kmem.inuse, one.memory.ledger.granted) == ([], 24, 0, {})
    one.close()


def test_the_processors_are_told_before_the_addresses_are_free() -> None:
    one = Kmem()
    _, va = one.alloc(PAGE, vm=one.kmem)
    one.now(netbsd.kernel_access(one.kernel_map, va, RW))
    before = len(one.k.trace)
    one.free(va, PAGE, vm=one.kmem)
    steps = [(op.kind, op.obj.name) for _, op, _ in one.k.trace[before:]]
    unmapped = steps.index(("store", "pmap_kernel.tables"))
    freed, locked = steps.index(("lock", "uvm_fpageqlock")), steps.index(("lock", "kmem"))
    told = [n for n, (kind, _) in enumerate(steps) if kind == "invalidate"]
    assert unmapped < freed < told[0] < told[-1] < locked
    one.close()


def test_nosleep_takes_the_kernels_reserve_and_gives_all_back_when_that_is_gone() -> None:
    one = Kmem(npages=6)
    assert one.alloc(6 * PAGE) == (netbsd.ENOMEM, 0)
    assert (one.mapped(), one.uvm.free.peek(), one.uvm.loose, one.kmem.inuse) == ([], 6, 0, 0)
    error, va = one.alloc(5 * PAGE)
    assert (error, one.uvm.free.peek()) == (0, 1)
    one.free(va, 5 * PAGE)
    one.close()


def test_without_addresses_no_page_is_asked_for() -> None:
    one = Kmem()
    assert one.alloc(17 * PAGE) == (netbsd.ENOMEM, 0)
    assert one.uvm.allocated == 0
    one.close()


def test_less_than_a_tenth_is_starved() -> None:
    one = Kmem()
    assert not netbsd.uvm_km_va_starved_p(one.kmem)
    _, va = one.alloc(14 * PAGE)
    assert not netbsd.uvm_km_va_starved_p(one.kmem), "two pages are more than a tenth of 16"
    _, more = one.alloc(PAGE)
    assert netbsd.uvm_km_va_starved_p(one.kmem), "one is not"
    one.free(more, PAGE)
    one.free(va, 14 * PAGE)
    one.close()


def test_page_tables_are_not_grown_for_an_arena() -> None:
    one = Kmem(kernel_vm_end=0xC000_0000)
    with pytest.raises(Panic, match=r"uvm_km_kmem_alloc: KASSERT: .* is beyond"):
        one.alloc(PAGE)
    one.close()


@pytest.mark.parametrize("options", [NONE, DIAGNOSTIC])
def test_a_mapping_that_was_left_there_panics(options: netbsd.Options) -> None:
    class Unproven(netbsd.Memory):
        def handed_out(self, vm_map: Any, start: int, end: int) -> None:
            """Not looked at."""

    one = LoneThread()
    uvm = UvmPages(one.k, 8)
    memory = Unproven(uvm)
    kernel_map = netbsd.setup(one.k, 8, memory=memory, options=options)
    kmem = netbsd.kmem_arena(kernel_map, 4)
    one.start()
    page = one.now(uvm.uvm_pagealloc(None, 0))
    assert page is not None
    one.now(memory.enter(kernel_map.min_offset, page, 0))
    with pytest.raises(Panic, match="is mapped"):
        one.now(netbsd.uvm_km_kmem_alloc(kmem, PAGE, NOSLEEP | BEST))
    one.close()


@pytest.mark.parametrize(("shift", "size"), [(0, PAGE), (0, 3 * PAGE), (PAGE, PAGE)])
def test_freeing_what_was_not_allocated_so_panics(shift: int, size: int) -> None:
    one = Kmem()
    _, va = one.alloc(2 * PAGE)
    with pytest.raises(Panic, match="vmem_xfree: KASSERT"):
        one.free(va + shift, size)
    one.close()


def test_uvm_km_free_of_kmem_panics_because_its_entry_is_static() -> None:
    one = Kmem()
    _, va = one.alloc(PAGE)
    with pytest.raises(Panic, match="is STATIC"):
        one.now(netbsd.uvm_km_free(one.kernel_map, va, PAGE, netbsd.UVM_KMF_WIRED))
    one.close()


def test_what_has_no_such_arena_says_so() -> None:
    one = LoneThread()
    memory = netbsd.Memory(UvmPages(one.k, 8))
    five = netbsd.setup(one.k, 8, version="5.2", memory=memory)
    with pytest.raises(UsageError, match="uvm_km_alloc_poolpage"):
        netbsd.kmem_arena(five, 4)
    with pytest.raises(UsageError, match="has no memory"):
        netbsd.kmem_arena(netbsd.setup(one.k, 8, name="bare"), 4)
    lone = netbsd.Vmem(one.k, "lone", 0, 4 * PAGE)
    one.start()
    with pytest.raises(UsageError, match="not made of kernel addresses"):
        one.now(netbsd.uvm_km_kmem_alloc(lone, PAGE, NOSLEEP | BEST))
    one.close()

"""Worlds of NetBSD's kernel memory over pages: clean with what the kernel does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.vm import netbsd
from stressvm.vm.pages import PageObject, PageQueue, Swap, UvmPages

if TYPE_CHECKING:
    from stressvm.bench.defects.defect import Build
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.netbsd import Memory, VmMap

PAGE: Final = netbsd.PAGE_SIZE
WIRED: Final = netbsd.UVM_KMF_WIRED
PAGEABLE: Final = netbsd.UVM_KMF_PAGEABLE
VAONLY: Final = netbsd.UVM_KMF_VAONLY
NOWAIT: Final = netbsd.UVM_KMF_NOWAIT
CANFAIL: Final = netbsd.UVM_KMF_CANFAIL
WAITVA: Final = netbsd.UVM_KMF_WAITVA


def same_address(memory: type[Memory] = netbsd.Memory, cls: type[VmMap] = netbsd.VmMap, *, version: str = "6") -> Build:
    """Two threads on two processors want the map's only page, use it and give it back; the pages are enough for both."""

    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 6, reserve_pagedaemon=0, reserve_kernel=1)
        kmap = netbsd.setup(k, 1, version=version, memory=memory(uvm), cls=cls)

        async def uses() -> None:
            va = await netbsd.uvm_km_alloc(kmap, PAGE, 0, WIRED | WAITVA)
            page = await netbsd.kernel_access(kmap, va, netbsd.VM_PROT_WRITE)
            page.write(f"of {k.cur}")
            page = await netbsd.kernel_access(kmap, va, netbsd.VM_PROT_READ)
            assert page.content == f"of {k.cur}", "somebody else writes to wired memory"
            await netbsd.uvm_km_free(kmap, va, PAGE, WIRED)

        k.spawn(uses, name="uses0")
        k.spawn(uses, name="uses1")

    return build


def failing(memory: type[Memory] = netbsd.Memory, *, more: int = NOWAIT) -> Build:
    """Two threads that do not wait want two pages each of three; what can be reclaimed is never reclaimed."""

    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 3 + 1 + 2, reserve_pagedaemon=1, reserve_kernel=1)
        uvm.fill(PageObject(k, "old", Swap(k, 4)), 2, queue=PageQueue.ACTIVE)
        kmap = netbsd.setup(k, 8, memory=memory(uvm))

        async def uses() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 2 * PAGE, 0, WIRED | WAITVA * (not more & NOWAIT) | more)
            k.record(va=va)
            if va:
                await netbsd.uvm_km_free(kmap, va, 2 * PAGE, WIRED)

        k.spawn(uses, name="uses0")
        k.spawn(uses, name="uses1")

    return build


def must_free(
    memory: type[Memory] = netbsd.Memory, uvm_class: type[UvmPages] = UvmPages, *, prove: bool = True
) -> Build:
    """A thread waits for pages until another has freed some, which locks the map before that; the daemon runs."""

    def build(k: Kernel) -> None:
        uvm = uvm_class(k, 5, reserve_pagedaemon=0, reserve_kernel=1, prove=prove)
        kmap = netbsd.setup(k, 8, memory=memory(uvm))
        uvm.start_daemons()

        async def uses() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 3 * PAGE, 0, WIRED | WAITVA)
            await netbsd.uvm_km_free(kmap, va, 3 * PAGE, WIRED)

        async def one() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 2 * PAGE, 0, WIRED | NOWAIT)
            window = await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY | WAITVA)
            if va:
                await netbsd.uvm_km_free(kmap, va, 2 * PAGE, WIRED)
            await netbsd.uvm_km_free(kmap, window, PAGE, VAONLY)

        k.spawn(uses, name="uses")
        k.spawn(one, name="one")

    return build


def in_interrupt(memory: type[Memory] = netbsd.Memory) -> Build:
    """An interrupt handler of 5.2 allocates from an INTRSAFE map, beside a thread that does; nobody may sleep there."""

    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 2 + 1 + 3, reserve_pagedaemon=1, reserve_kernel=1)
        uvm.fill(PageObject(k, "old", Swap(k, 4)), 2, queue=PageQueue.ACTIVE)
        kmap = netbsd.setup(k, 8, version="5.2", flags=netbsd.VM_MAP_INTRSAFE, memory=memory(uvm))

        async def uses() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 2 * PAGE, 0, WIRED | NOWAIT | CANFAIL)
            if va:
                await netbsd.uvm_km_free(kmap, va, 2 * PAGE, WIRED)

        k.spawn(uses, name="thread")
        k.spawn(uses, name="intr", interrupt=True)

    return build


def paged_out(uvm_class: type[UvmPages] = UvmPages, *, version: str = "6") -> Build:
    """A range of pageable memory is freed while the daemon may be writing its pages to swap."""

    def build(k: Kernel) -> None:
        uvm = uvm_class(k, 7, reserve_pagedaemon=0, reserve_kernel=1)
        swap = Swap(k, 8)
        memory = netbsd.Memory(uvm, swap=swap)
        kmap = netbsd.setup(k, 8, flags=netbsd.VM_MAP_PAGEABLE, version=version, memory=memory)
        uvm.start_daemons()

        async def uses() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 4 * PAGE, 0, PAGEABLE | WAITVA)
            for n in range(4):
                page = await netbsd.kernel_access(kmap, va + n * PAGE, netbsd.VM_PROT_WRITE)
                page.write(f"page {n}")
            page = await netbsd.kernel_access(kmap, va, netbsd.VM_PROT_READ)
            assert page.content == "page 0", "what was written is not there any more"
            await netbsd.uvm_km_free(kmap, va, 4 * PAGE, PAGEABLE)
            assert not swap.contents, "slots are left"

        async def presses() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 3 * PAGE, 0, WIRED | WAITVA)
            await netbsd.uvm_km_free(kmap, va, 3 * PAGE, WIRED)

        k.spawn(uses, name="uses")
        k.spawn(presses, name="presses")

    return build


def grows(memory: type[Memory] = netbsd.Memory, cls: type[VmMap] = netbsd.VmMap) -> Build:
    """Two threads allocate wired memory of kernel_map, whose page tables have to grow for both, for one further."""

    def build(k: Kernel) -> None:
        low, step = 0xC000_0000, 0x20_0000
        uvm = UvmPages(k, 12, reserve_pagedaemon=1, reserve_kernel=1)
        grown = memory(uvm, kernel_vm_end=low)
        kernel_map = netbsd.setup(k, 3 * step // PAGE, kind=netbsd.MapKind.KERNEL, memory=grown, cls=cls)
        kernel_map.fill(step // PAGE - 1)

        async def uses(align: int) -> None:
            va = await netbsd.uvm_km_alloc(kernel_map, PAGE, align, WIRED | NOWAIT)
            assert va
            await netbsd.kernel_access(kernel_map, va, netbsd.VM_PROT_WRITE)
            await netbsd.uvm_km_free(kernel_map, va, PAGE, WIRED)

        async def last() -> None:
            for thread in threads:
                await k.join(thread)
            end = grown.pmap.kernel_vm_end
            assert grown.maxkaddr == end, (
                f"kernel_map believes that page tables end at {grown.maxkaddr:#x}, not {end:#x}"
            )

        threads = [k.spawn(uses, 0, name="low"), k.spawn(uses, step, name="high")]
        k.spawn(last, name="last")

    return build

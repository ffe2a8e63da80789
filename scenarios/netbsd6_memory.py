"""NetBSD 6's kernel memory over physical pages: wired, pageable, and what happens when pages run out."""

from stressvm import Kernel, Thread, scenario
from stressvm.vm import netbsd, pages
from stressvm.vm.pmap import Machine

SOURCE = "NetBSD 6.99.16, sys/uvm/uvm_km.c 1.138, uvm_km_alloc and uvm_km_free"
WIRED = netbsd.UVM_KMF_WIRED
PAGEABLE = netbsd.UVM_KMF_PAGEABLE
WAITVA = netbsd.UVM_KMF_WAITVA
NOWAIT = netbsd.UVM_KMF_NOWAIT
PAGE = netbsd.PAGE_SIZE


class AddressesFirst(netbsd.Memory):
    """uvm_km_free that frees the addresses, and then the pages."""

    async def free(self, vm_map: netbsd.VmMap, addr: int, size: int, kind: int) -> None:
        """The wrong way round."""
        await self.free_addresses(vm_map, addr, addr + size)
        await self.free_contents(vm_map, addr, addr + size, kind)


@scenario(source=SOURCE, executions=300)
def netbsd6_wired_memory(k: Kernel, threads: int = 8, processors: int = 4, rounds: int = 1) -> None:
    """Eight threads on four processors allocate wired memory, use it and free it; pages are too few for all at once.

    Some wait for pages, which the daemon takes from an object, or another thread gives back. Whoever has memory finds in it
    what he has written, and nobody's is mapped anywhere else. In the end everything is free again.
    """
    k.once("machine", lambda: Machine(k, processors))
    uvm = pages.UvmPages(k, threads + 6, reserve_pagedaemon=1, reserve_kernel=2)
    memory = netbsd.Memory(uvm)
    kmap = netbsd.setup(k, threads, memory=memory)
    uvm.fill(pages.PageObject(k, "old", pages.Swap(k, 4)), 4, queue=pages.PageQueue.INACTIVE)
    uvm.start_daemons()

    async def uses(npages: int) -> None:
        for _ in range(rounds):
            va = await netbsd.uvm_km_alloc(kmap, npages * PAGE, 0, WIRED | WAITVA)
            page = await netbsd.kernel_access(kmap, va, netbsd.VM_PROT_WRITE)
            page.write(f"of {k.cur}")
            page = await netbsd.kernel_access(kmap, va, netbsd.VM_PROT_READ)
            assert page.content == f"of {k.cur}", "somebody else has written to this memory"
            await netbsd.uvm_km_free(kmap, va, npages * PAGE, WIRED)

    async def check(others: list[Thread]) -> None:
        for other in others:
            await k.join(other)
        assert kmap.size == 0, "addresses are left"
        assert not memory.ledger.wired, "pages are left"

    k.spawn(check, [k.spawn(uses, 1 + n % 2, name=f"uses{n}") for n in range(threads)], name="check")


@scenario(source=SOURCE, expect="livelock", max_steps=240)
def netbsd6_wired_halves(k: Kernel) -> None:
    """Two callers have half of what they want each, keep it, and wait for the other's half.

    uvm_km_alloc gets its pages one at a time, and a caller that may wait never gives one back. Nothing can be reclaimed, so
    the daemon wakes both for nothing, round after round.
    """
    uvm = pages.UvmPages(k, 3, reserve_pagedaemon=0, reserve_kernel=1)
    kmap = netbsd.setup(k, 4, memory=netbsd.Memory(uvm))
    uvm.start_daemons()

    async def uses() -> None:
        va = await netbsd.uvm_km_alloc(kmap, 2 * PAGE, 0, WIRED | WAITVA)
        await netbsd.uvm_km_free(kmap, va, 2 * PAGE, WIRED)

    k.spawn(uses, name="uses0")
    k.spawn(uses, name="uses1")


@scenario(source=SOURCE, executions=300)
def netbsd6_pageable_memory(k: Kernel) -> None:
    """What was written to pageable memory is there again, though a wired allocation has driven it out to swap meanwhile."""
    swap = pages.Swap(k, 8)
    uvm = pages.UvmPages(k, 7, reserve_pagedaemon=0, reserve_kernel=1)
    kmap = netbsd.setup(k, 8, flags=netbsd.VM_MAP_PAGEABLE, memory=netbsd.Memory(uvm, swap=swap))
    uvm.start_daemons()

    async def writes() -> None:
        va = await netbsd.uvm_km_alloc(kmap, 4 * PAGE, 0, PAGEABLE | WAITVA)
        for n in range(4):
            page = await netbsd.kernel_access(kmap, va + n * PAGE, netbsd.VM_PROT_WRITE)
            assert page.content == pages.ZEROS, "pageable memory is filled with zeros"
            page.write(f"page {n}")
        for n in range(4):
            page = await netbsd.kernel_access(kmap, va + n * PAGE, netbsd.VM_PROT_READ)
            assert page.content == f"page {n}", "what was written is gone"
        await netbsd.uvm_km_free(kmap, va, 4 * PAGE, PAGEABLE)
        assert not swap.contents, "a slot in swap is left"

    async def presses() -> None:
        va = await netbsd.uvm_km_alloc(kmap, 3 * PAGE, 0, WIRED | WAITVA)
        await netbsd.uvm_km_free(kmap, va, 3 * PAGE, WIRED)

    k.spawn(writes, name="writes")
    k.spawn(presses, name="presses")


@scenario(source=SOURCE, expect="invariant")
def netbsd6_addresses_first(k: Kernel) -> None:
    """Addresses that are free while their pages are still mapped: the next owner would find them in his way."""
    kmap = netbsd.setup(k, 2, memory=AddressesFirst(pages.UvmPages(k, 6)))

    async def uses() -> None:
        va = await netbsd.uvm_km_alloc(kmap, PAGE, 0, WIRED | NOWAIT)
        if va:
            await netbsd.uvm_km_free(kmap, va, PAGE, WIRED)

    k.spawn(uses, name="uses0")
    k.spawn(uses, name="uses1")

"""NetBSD 6's kmem arena, and wiring pageable memory: sleeping for addresses, and for pages with the map marked busy."""

from collections.abc import Callable

from stressvm import Kernel, scenario
from stressvm.vm import netbsd, pages

KMEM = "NetBSD 6.99, sys/kern/subr_vmem.c as of 2013, vmem_xalloc"
WIRE = "NetBSD 6.99.16, sys/uvm/uvm_map.c 1.324, uvm_map_pageable; uvm_fault.c 1.195, uvm_fault_wire"
PAGE = netbsd.PAGE_SIZE
PAGEABLE, WIRED, WAITVA = netbsd.UVM_KMF_PAGEABLE, netbsd.UVM_KMF_WIRED, netbsd.UVM_KMF_WAITVA
SLEEP = netbsd.VM_SLEEP | netbsd.VM_INSTANTFIT
READ, WRITE = netbsd.VM_PROT_READ, netbsd.VM_PROT_WRITE


class LooksAgain(netbsd.Vmem):
    """An arena in which whoever is about to sleep looks again whether there is room, with the lock held."""

    async def wait(self, until: Callable[[], bool]) -> None:
        """As condition variables want it."""
        await self.lock.lock()
        if not until():
            await self.cv.wait(self.lock, wmesg=self.name, until=until)
        await self.lock.unlock()


def two_for_one(k: Kernel, cls: type[netbsd.Vmem]) -> None:
    """Two threads want the only page of an arena, one after the other."""
    uvm = pages.UvmPages(k, 8)
    kernel_map = netbsd.setup(k, 4, kind=netbsd.MapKind.KERNEL, memory=netbsd.Memory(uvm))
    kmem = netbsd.kmem_arena(kernel_map, 1, cls=cls)

    async def uses() -> None:
        error, va = await netbsd.uvm_km_kmem_alloc(kmem, PAGE, SLEEP)
        assert not error, "with VM_SLEEP it does not fail"
        await netbsd.uvm_km_kmem_free(kmem, va, PAGE)

    k.spawn(uses, name="uses0")
    k.spawn(uses, name="uses1")


@scenario(source=KMEM, expect="lost-wakeup")
def netbsd6_vmem_sleeps_beside_room(k: Kernel) -> None:
    """The search and the sleep each take the arena's lock, and what is freed in between wakes nobody.

    The thread that finds no room lets go of the lock, kicks the page daemon, takes the lock again and sleeps, without a look
    at the arena. Until somebody frees something else it sleeps beside the page that it wants.
    """
    two_for_one(k, netbsd.Vmem)


@scenario(source=KMEM)
def netbsd6_vmem_that_looks_again(k: Kernel) -> None:
    """The same, if it looked again."""
    two_for_one(k, LooksAgain)


@scenario(source=WIRE, executions=300)
def netbsd6_wired_under_pressure(k: Kernel) -> None:
    """A thread wires pageable memory and works with it while another one presses and a third reads what is being wired.

    Pages come back from swap for it; what is wired is not paged out again, and keeps what was written to it.
    """
    swap = pages.Swap(k, 8)
    uvm = pages.UvmPages(k, 8, reserve_pagedaemon=0, reserve_kernel=1)
    memory = netbsd.Memory(uvm, swap=swap)
    options = netbsd.Options.DIAGNOSTIC
    kmap = netbsd.setup(k, 8, flags=netbsd.VM_MAP_PAGEABLE, memory=memory, options=options)
    uvm.start_daemons()

    async def wires() -> None:
        va = await netbsd.uvm_km_alloc(kmap, 2 * PAGE, 0, PAGEABLE | WAITVA)
        for n in range(2):
            (await netbsd.kernel_access(kmap, va + n * PAGE, WRITE)).write(f"page {n}")
        reader = k.spawn(reads, va, name="reads")
        error = await netbsd.uvm_map_pageable(kmap, va, va + 2 * PAGE, new_pageable=False)
        assert not error, "there is a page for each"
        page = await netbsd.kernel_access(kmap, va + PAGE, READ)
        assert page.content == "page 1", "what was written is gone"
        assert page.wire_count == 1, "what is wired was paged out"
        assert not await netbsd.uvm_map_pageable(kmap, va, va + 2 * PAGE, new_pageable=True)
        await k.join(reader)
        await netbsd.uvm_km_free(kmap, va, 2 * PAGE, PAGEABLE)
        assert not swap.contents, "a slot in swap is left"
        assert not uvm.wired, "a page is still wired"

    async def reads(va: int) -> None:
        page = await netbsd.kernel_access(kmap, va, READ)
        assert page.content == "page 0", "what was written is gone"

    async def presses() -> None:
        va = await netbsd.uvm_km_alloc(kmap, 6 * PAGE, 0, WIRED | WAITVA)
        await netbsd.uvm_km_free(kmap, va, 6 * PAGE, WIRED)

    k.spawn(wires, name="wires")
    k.spawn(presses, name="presses")

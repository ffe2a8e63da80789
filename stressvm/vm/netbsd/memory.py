"""What is under NetBSD's kernel maps, if they are given it: physical pages, processors, the kernel's pmap.

A map without memory is about addresses. A map with memory has pages behind wired and pageable allocations; unmapping
changes the pmap where the kernel does, and tells the processors before the addresses are free again.

    uvm = UvmPages(k, npages=12)
    memory = Memory(uvm)
    kmap = setup(k, pages=16, memory=memory)
    uvm.start_daemons()

Wired memory has a page of its own for each address, which belongs to no object. They are allocated one at a time, with no
lock held; a shortage is met page by page. Pageable memory is the kernel object's, gets its pages by faults, and can be
paged out.

Pageable memory can be wired and unwired with uvm_map_pageable.

Source: sys/uvm/uvm_km.c 1.138 ("6") and 1.101.4.2 ("5.2"), uvm_km_alloc, uvm_km_free. Each step is a small method: planted
defects override one. How pages go is in `km_pages`, faults in `km_fault`, what must hold in `km_proofs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.km_fault import KmFault
from stressvm.vm.netbsd.km_ledger import Ledger
from stressvm.vm.netbsd.km_pages import KmPages
from stressvm.vm.netbsd.uvm_map import uvm_unmap
from stressvm.vm.netbsd.uvm_object import KernelObject
from stressvm.vm.pages import UVM_FLAG_COLORMATCH, UVM_PGA_USERESERVE, UVM_PGA_ZERO
from stressvm.vm.pmap import VM_PROT_EXECUTE, VM_PROT_NONE, VM_PROT_RW, NetBSDPmap, machine
from stressvm.vm.pmap.netbsd_pages import pmap_page_protect

if TYPE_CHECKING:
    from stressvm.vm.netbsd.map_base import VmMap as MapBase
    from stressvm.vm.netbsd.vm_map import VmMap
    from stressvm.vm.netbsd.vmem_arena import Vmem
    from stressvm.vm.pages import Page, Swap, UvmPages
    from stressvm.vm.pmap import Machine

#: Where kernel addresses are, if nobody says otherwise.
VM_MIN_KERNEL_ADDRESS = 0xC000_0000
VM_MAX_KERNEL_ADDRESS = 0x1_0000_0000


class Memory(KmPages):
    """See the module. One for each kernel; its maps share it.

    Args:
        uvm: physical memory.
        processors: the machine; by default that of the kernel (`stressvm.vm.pmap.machine(k)`).
        swap: where pageable kernel memory can be written to; None: it stays in memory.
        pmap: the class of the kernel's pmap.
        min_address, max_address: what that can map.
        kernel_vm_end: its page tables reach up to here, and kernel_map grows them; None: they are all there.
        wiredmax: uvmexp.wiredmax: how many pages may be wired, as far as uvm_map_pageable_all asks; None: a third of all.

    Attributes:
        machine, pmap, kernel_object: the processors, pmap_kernel(), uvm_kernel_object.
        fault: what faults do in its maps.
        maxkaddr: uvm_maxkaddr: kernel_map's own copy of how far the page tables reach; under its write lock.
        ledger: the model's own.
    """

    def __init__(
        self,
        uvm: UvmPages,
        processors: Machine | None = None,
        *,
        swap: Swap | None = None,
        pmap: type[NetBSDPmap] = NetBSDPmap,
        min_address: int = VM_MIN_KERNEL_ADDRESS,
        max_address: int = VM_MAX_KERNEL_ADDRESS,
        kernel_vm_end: int | None = None,
        wiredmax: int | None = None,
    ) -> None:
        self.k = uvm.k
        self.uvm = uvm
        self.machine = processors or machine(self.k)
        self.maxkaddr = max_address if kernel_vm_end is None else kernel_vm_end
        self.pmap = pmap(
            self.machine,
            "pmap_kernel",
            kernel=True,
            min_address=min_address,
            max_address=max_address,
            kernel_vm_end=self.maxkaddr,
        )
        self.kernel_object = KernelObject(self.k, swap)
        self.fault = KmFault(self, wiredmax=len(uvm.pages) // 3 if wiredmax is None else wiredmax)
        self.ledger = Ledger(self.k)
        self.maps: list[MapBase] = []
        self.by_address = {page.phys_addr: page for page in uvm.pages}
        self.machine.add_pages(uvm.pages)
        uvm.remove_mappings = self.remove_mappings

    def attach(self, vm_map: MapBase) -> None:
        """While the world is built: a map of its own is given this memory.

        Offsets in the kernel object count from the least address of all, so maps have parts of their own there.

        Raises:
            UsageError: it is a process's, or its addresses are not the pmap's, or another map's.
        """
        if not vm_map.is_kernel:
            raise UsageError(f"{vm_map!r} is a process's map: only kernel maps can be given memory")
        low, high = self.pmap.min_address, self.pmap.max_address
        if vm_map.min_offset < low or vm_map.max_offset > high:
            raise UsageError(f"{vm_map!r}: the kernel's pmap maps {low:#x} to {high:#x}; say so when Memory is made")
        for other in self.maps:
            if vm_map.min_offset < other.max_offset and other.min_offset < vm_map.max_offset:
                raise UsageError(f"{vm_map!r} and {other!r} share addresses and memory: give one another min_offset")
        vm_map.kernel_base = low
        self.maps.append(vm_map)

    async def remove_mappings(self, page: Page) -> None:
        """What the page daemon does before it takes a page away."""
        await pmap_page_protect(self.machine, page, VM_PROT_NONE)

    async def grow(self, end: int) -> None:
        """kernel_map: page tables up to `end`, if they do not reach so far. Locks: its write lock. Sleeps: pmap's lock."""
        if self.maxkaddr < end:
            self.maxkaddr = await self.pmap.growkernel(end)

    # ------------------------------------------------------------ uvm_km_alloc: the pages of wired memory

    async def back(self, vm_map: VmMap, va: int, size: int, flags: int) -> bool:
        """Give every address a page, one after the other; False: there were too few, and everything is undone.

        Locks: none on entry and exit, and none while it waits. Sleeps: for pages, unless the flags say otherwise; for the
        map's lock, if all is undone.
        """
        at = va
        while at < va + size:
            if vm_map.diagnostic:
                await self.assert_unmapped(at)
            page = await self.pagealloc(at - vm_map.kernel_base, flags)
            if page is None:
                if await self.gives_up(flags):
                    await self.unwind(vm_map, va, size, flags & F.UVM_KMF_TYPEMASK)
                    return False
                await self.wait(vm_map)
                continue
            await self.enter(at, page, flags)
            at += F.PAGE_SIZE
        await self.update()
        return True

    async def assert_unmapped(self, va: int) -> None:
        """DIAGNOSTIC: KASSERT(!pmap_extract(pmap_kernel(), va, NULL)). Locks: any. Sleeps: no."""
        mapped, _ = await self.pmap.extract(va)
        if mapped:
            raise self.k.panic(f"uvm_km_alloc: KASSERT: {va:#x} is mapped")

    async def pagealloc(self, offset: int, flags: int) -> Page | None:
        """A page that belongs to nobody, of the colour of that offset; NOWAIT may use the kernel's reserve. Sleeps: no."""
        how = UVM_FLAG_COLORMATCH
        how |= UVM_PGA_USERESERVE if flags & F.UVM_KMF_NOWAIT else 0
        how |= UVM_PGA_ZERO if flags & F.UVM_KMF_ZERO else 0
        return await self.uvm.uvm_pagealloc(None, offset, how)

    async def gives_up(self, flags: int) -> bool:
        """There is no page: does the caller fail? NOWAIT is asked first, then CANFAIL and whether waiting may help."""
        if flags & F.UVM_KMF_NOWAIT:
            return True
        return bool(flags & F.UVM_KMF_CANFAIL) and not await self.uvm.uvm_reclaimable()

    async def unwind(self, vm_map: VmMap, va: int, size: int, kind: int) -> None:
        """uvm_km_free of the whole range, pages that it has and addresses. Locks: none. Sleeps: for the map's lock."""
        await self.free(vm_map, va, size, kind)

    async def wait(self, vm_map: VmMap) -> None:  # noqa: ARG002 - for who plants a lock held meanwhile
        """uvm_wait. Locks: none. Sleeps: until there may be pages again."""
        await self.uvm.uvm_wait("km_getwait2")

    async def enter(self, va: int, page: Page, flags: int) -> None:
        """The page is nobody's alone any more, and mapped by hand: read and write, with EXEC execute. Sleeps: no."""
        page.set_unbusy()
        prot = VM_PROT_RW | (VM_PROT_EXECUTE if flags & F.UVM_KMF_EXEC else 0)
        await self.pmap.kenter_pa(va, page.phys_addr, prot)
        self.ledger.entered(va, page)

    async def update(self) -> None:
        """pmap_update(pmap_kernel()). Locks: any. Sleeps: no."""
        await self.pmap.update()

    # ------------------------------------------------------------ uvm_km_free

    async def free(self, vm_map: VmMap, addr: int, size: int, kind: int) -> None:
        """First what lies at the addresses, then the addresses. Locks: none. Sleeps: for locks, and for busy pages."""
        await self.free_contents(vm_map, addr, addr + size, kind)
        await self.free_addresses(vm_map, addr, addr + size)

    async def free_contents(self, vm_map: VmMap, start: int, end: int, kind: int) -> None:
        """What that type of memory has at its addresses. VAONLY has nothing, which uvm_unmap makes sure of, with DEBUG."""
        if kind == F.UVM_KMF_PAGEABLE:
            await self.free_pageable(vm_map, start, end)
        elif kind == F.UVM_KMF_WIRED:
            await self.pgremove_intrsafe(vm_map, start, end)

    async def free_addresses(self, vm_map: VmMap, start: int, end: int) -> None:
        """uvm_unmap1 with VAONLY, which tells the processors before the map is unlocked."""
        quantum = F.UVM_FLAG_QUANTUM if vm_map.version == "5.2" else 0
        await uvm_unmap(vm_map, start, end, F.UVM_FLAG_VAONLY | quantum)

    # ------------------------------------------------------------ uvm_km_kmem_alloc and uvm_km_kmem_free (6)

    async def uvm_kick_pdaemon(self) -> None:
        """Tell the page daemon, if pages run low. Locks: takes uvm_fpageqlock. Sleeps: no, it spins."""
        await self.uvm.uvm_fpageqlock.lock()
        if self.uvm.needs_kick():
            await self.uvm.wake_pagedaemon()
        await self.uvm.release_fpageq()

    async def back_kmem(self, vm_map: VmMap, vm: Vmem, va: int, size: int, flags: int) -> bool:
        """Give every address a page; False: there were too few for VM_NOSLEEP, and everything is undone.

        Locks: none. Sleeps: with VM_SLEEP, for pages.
        """
        at = va
        while at < va + size:
            if vm_map.diagnostic:
                await self.assert_unmapped(at)
            reserve = 0 if flags & F.VM_SLEEP else UVM_PGA_USERESERVE
            page = await self.uvm.uvm_pagealloc(None, at, UVM_FLAG_COLORMATCH | reserve)
            if page is not None:
                await self.enter(at, page, 0)
                at += F.PAGE_SIZE
            elif flags & F.VM_SLEEP:
                await self.uvm.uvm_wait("plpg")
            else:
                await self.unwind_kmem(vm_map, vm, va, size)
                return False
        await self.update()
        return True

    async def unwind_kmem(self, vm_map: VmMap, vm: Vmem, va: int, size: int) -> None:
        """Give back pages and addresses. The processors are not told: none can have used them. Locks: none. Sleeps: no."""
        await self.pgremove_intrsafe(vm_map, va, va + size)
        self.given_back(vm_map, va, va + size)
        await vm.free(va, size)

    async def free_kmem(self, vm_map: VmMap, vm: Vmem, va: int, size: int) -> None:
        """The pages, the processors, the addresses. Locks: none. Sleeps: no, it spins."""
        await self.pgremove_intrsafe(vm_map, va, va + size)
        await self.update()
        self.given_back(vm_map, va, va + size)
        await vm.free(va, size)

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

Source: sys/uvm/uvm_km.c 1.138 ("6") and 1.101.4.2 ("5.2"), uvm_km_alloc, uvm_km_free, uvm_km_pgremove,
uvm_km_pgremove_intrsafe, uvm_km_check_empty. Each step is a small method: planted defects override one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.kernel.mutex import Mutex
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.km_fault import KmFault
from stressvm.vm.netbsd.km_ledger import Ledger
from stressvm.vm.netbsd.uvm_map import uvm_unmap
from stressvm.vm.netbsd.uvm_object import UvmObject
from stressvm.vm.pages import UVM_FLAG_COLORMATCH, UVM_PGA_USERESERVE, UVM_PGA_ZERO, PagesOf, SwapPager
from stressvm.vm.pmap import VM_PROT_EXECUTE, VM_PROT_NONE, VM_PROT_RW, NetBSDPmap, machine
from stressvm.vm.pmap.netbsd_pages import pmap_page_protect

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.netbsd.map_base import VmMap as MapBase
    from stressvm.vm.netbsd.vm_map import VmMap
    from stressvm.vm.pages import Page, Swap, UvmPages
    from stressvm.vm.pmap import Machine

#: __PGRM_BATCH: so many pages are looked up, unmapped together, and freed.
PGRM_BATCH = 16
#: Where kernel addresses are, if nobody says otherwise.
VM_MIN_KERNEL_ADDRESS = 0xC000_0000
VM_MAX_KERNEL_ADDRESS = 0x1_0000_0000


class KernelObject(UvmObject):
    """uvm_kernel_object: whose pages all pageable kernel memory is. An offset is a distance from kernel_map's minimum.

    Args:
        k: the kernel.
        swap: where its pages can be written to; None: they stay.
        name: as reports show it.
    """

    __slots__ = ("lock", "pager", "pages")

    def __init__(self, k: Kernel, swap: Swap | None = None, name: str = "uvm_kernel_object") -> None:
        super().__init__(name, kernel=True)
        self.lock = Mutex(k, f"{name}.vmobjlock")
        self.pages = PagesOf(managed=True)
        self.pager = SwapPager(swap) if swap is not None else None


class Memory:
    """See the module. One for each kernel; its maps share it.

    Args:
        uvm: physical memory.
        processors: the machine; by default that of the kernel (`stressvm.vm.pmap.machine(k)`).
        swap: where pageable kernel memory can be written to; None: it stays in memory.
        pmap: the class of the kernel's pmap.
        min_address, max_address: what that can map.
        kernel_vm_end: its page tables reach up to here, and kernel_map grows them; None: they are all there.

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
        self.fault = KmFault(self)
        self.ledger = Ledger()
        self.maps: list[MapBase] = []
        self.by_address = {page.phys_addr: page for page in uvm.pages}
        self.machine.add_pages(uvm.pages)
        uvm.remove_mappings = self.remove_mappings

    def attach(self, vm_map: MapBase) -> None:
        """While the world is built: a map of its own is given this memory.

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
        """What that type of memory has at its addresses. VAONLY has nothing, which only DEBUG makes sure of."""
        if kind == F.UVM_KMF_PAGEABLE:
            await self.pgremove(start - vm_map.kernel_base, end - vm_map.kernel_base, start)
        elif kind == F.UVM_KMF_WIRED:
            await self.pgremove_intrsafe(vm_map, start, end)
        elif vm_map.options & F.Options.DEBUG:
            await self.check_empty(vm_map, start, end)

    async def free_addresses(self, vm_map: VmMap, start: int, end: int) -> None:
        """uvm_unmap1 with VAONLY, which tells the processors before the map is unlocked."""
        quantum = F.UVM_FLAG_QUANTUM if vm_map.version == "5.2" else 0
        await uvm_unmap(vm_map, start, end, F.UVM_FLAG_VAONLY | quantum)

    async def pgremove(self, start: int, end: int, va: int) -> None:
        """uvm_km_pgremove: unmap a range of pageable memory, free its pages and slots in swap; wait for busy pages.

        5.2 frees the pages before it unmaps them; since a page that is mapped cannot be put on the free list here, that is
        not modelled, and both versions unmap first.

        Locks: none on entry and exit; takes the kernel object's and the paging queues'. Sleeps: for those, and for pages.

        Args:
            start: bytes in the kernel object.
            end: one past the last.
            va: the address of `start`.
        """
        uvm, obj = self.uvm, self.kernel_object
        await obj.lock.lock()
        await self.pmap.remove(va, va + end - start)
        off = start
        while off < end:
            page = uvm.uvm_pagelookup(obj, off)
            if page is not None and page.busy:
                await uvm.uvm_pagewait(page, "km_pgrm")
                await obj.lock.lock()
                off = uvm.after_wait(off)
                continue
            await uvm.remove_page(obj, off >> F.PAGE_SHIFT, page)
            off += F.PAGE_SIZE
        await obj.lock.unlock()

    async def pgremove_intrsafe(self, vm_map: MapBase, start: int, end: int) -> None:
        """uvm_km_pgremove_intrsafe: unmap and free the pages of a range, 16 at a time; what is not mapped is passed over.

        6 unmaps a batch, then frees it; 5.2 frees all pages, and then unmaps. Either may leave processors that still
        translate: nobody is told before pmap_update. Panics on a page that belongs to an object or is busy.

        Locks: any, but not uvm_fpageqlock. Sleeps: no, it spins.
        """
        if vm_map.version == "5.2":
            for va in range(start, end, F.PAGE_SIZE):
                await self.free_pages(await self.batch(va, va + F.PAGE_SIZE))
            await self.pmap.kremove(start, end - start)
            return
        va = start
        while va < end:
            found = await self.batch(va, end)
            after = found[-1][0] + F.PAGE_SIZE if len(found) == PGRM_BATCH else end
            await self.pmap.kremove(va, after - va)
            await self.free_pages(found)
            va = after

    async def batch(self, start: int, end: int) -> list[tuple[int, int]]:
        """The first 16 addresses of a range that are mapped, and to where. Locks: any. Sleeps: no."""
        found: list[tuple[int, int]] = []
        for va in range(start, end, F.PAGE_SIZE):
            mapped, pa = await self.pmap.extract(va)
            if mapped:
                found.append((va, pa))
                if len(found) == PGRM_BATCH:
                    break
        return found

    async def free_pages(self, found: list[tuple[int, int]]) -> None:
        """The pages of a batch, which belong to nobody, are freed. Locks: as pgremove_intrsafe. Sleeps: no."""
        for va, pa in found:
            page = self.by_address.get(pa)
            if page is None:
                raise self.k.panic(f"uvm_km_pgremove_intrsafe: KASSERT(pg): {va:#x} is mapped to {pa:#x}")
            if page.owner is not None or page.busy:
                raise self.k.panic(f"uvm_km_pgremove_intrsafe: KASSERT: {page!r} at {va:#x} is an object's, or busy")
            self.ledger.freed(page, va)
            await self.uvm.uvm_pagefree(page)

    async def check_empty(self, vm_map: MapBase, start: int, end: int) -> None:
        """uvm_km_check_empty, DEBUG: panics if anything is mapped in a range, or in the kernel object there.

        Locks: none; takes the kernel object's. Sleeps: for that. INTRSAFE maps are not looked at in the object.
        """
        obj = self.kernel_object
        for va in range(start, end, F.PAGE_SIZE):
            mapped, pa = await self.pmap.extract(va)
            if mapped:
                raise self.k.panic(f"uvm_km_check_empty: va {va:#x} has pa {pa:#x}")
            if vm_map.intrsafe:
                continue
            await obj.lock.lock()
            page = self.uvm.uvm_pagelookup(obj, va - vm_map.kernel_base)
            await obj.lock.unlock()
            if page is not None:
                raise self.k.panic(f"uvm_km_check_empty: {va:#x} has {page!r} hashed")

    # ------------------------------------------------------------ uvm_unmap

    async def unmap(self, vm_map: MapBase, start: int, end: int, flags: int) -> None:
        """What uvm_unmap_remove does to pages and pmap, for all entries at once. Locks: the map's write lock.

        VAONLY: nothing. In a map that is not PAGEABLE all memory is wired by hand, and freed with its addresses. In one that
        is, 5.2 frees what lies in the kernel object, still with the map locked; 6 does not, and panics afterwards.
        DEBUG: panics if anything is mapped then.
        """
        if not flags & F.UVM_FLAG_VAONLY:
            if not vm_map.flags.peek() & F.VM_MAP_PAGEABLE:
                await self.pgremove_intrsafe(vm_map, start, end)
            elif vm_map.version == "5.2":
                for entry in vm_map.entries:
                    low, high = max(start, entry.start), min(end, entry.end)
                    if entry.object is self.kernel_object and low < high:
                        await self.pgremove(low - vm_map.kernel_base, high - vm_map.kernel_base, low)
        if vm_map.options & F.Options.DEBUG:
            for va in range(start, end, F.PAGE_SIZE):
                if (await self.pmap.extract(va))[0]:
                    raise self.k.panic(f"uvm_unmap_remove: has mapping: {va:#x} in {vm_map.name}")

    # ------------------------------------------------------------ the model's own proofs

    def handed_out(self, vm_map: MapBase, start: int, end: int) -> None:
        """G15: nothing is mapped at addresses that enter the map, and no processor translates them. No switch."""
        self.hold(vm_map, "G15 vacated", self.translated(start, end))

    def translated(self, start: int, end: int) -> str | None:
        """Is there anything in the tables, or in a TLB, at these addresses?"""
        for found in self.pmap.translations(start, end):
            return f"{found.va:#x} is handed out, and still mapped to {found.pa:#x}"
        for tlb in self.pmap.tlbs:
            for vpn in tlb.within(start, end):
                return f"{vpn << F.PAGE_SHIFT:#x} is handed out, and cpu{tlb.cpu} still translates it"
        return None

    def given_back(self, vm_map: MapBase, start: int, end: int) -> None:
        """G17: what was at addresses that leave the map is freed, pages by hand, pages and slots of the kernel object.

        No switch.
        """
        wrong = self.ledger.given_back(start, end)
        obj = self.kernel_object
        slots = obj.pager.slots if obj.pager is not None else ()
        if wrong is None and (obj.pages.resident or slots):
            for va in range(start, end, F.PAGE_SIZE):
                pindex = (va - vm_map.kernel_base) >> F.PAGE_SHIFT
                page = obj.pages.lookup(pindex)
                if page is not None or pindex in slots:
                    wrong = f"{va:#x} is given back, and {page or 'its slot in swap'!r} has not been freed"
        self.hold(vm_map, "G17 pages", wrong)

    def returned(self, vm_map: MapBase, start: int, end: int) -> None:
        """G15: a WIRED range that is returned has its pages, and the tables say so. No switch."""
        self.hold(vm_map, "G15 wired", self.ledger.backed(start, end) or self.unlike_ledger(start, end))

    def unlike_ledger(self, start: int, end: int) -> str | None:
        """Do the tables have the pages that were entered?"""
        there = {found.va: found for found in self.pmap.translations(start, end)}
        for va in range(start, end, F.PAGE_SIZE):
            found, (page, _) = there.get(va), self.ledger.wired[va]
            if found is None or found.pa != page.phys_addr or not found.raw:
                return f"{va:#x} is returned as wired memory with {page!r}, and mapped as {found}"
        return None

    def failed(self, vm_map: MapBase, call: int) -> None:
        """G17: a call that has failed leaves nothing behind. No switch."""
        self.hold(vm_map, "G17 undone", self.ledger.undone(call))

    def hold(self, vm_map: MapBase, name: str, wrong: str | None) -> None:
        """A violated invariant is a panic of kind `invariant`."""
        if wrong is not None:
            raise self.k.panic(f"{vm_map.name}: {name}: {wrong}", "invariant")

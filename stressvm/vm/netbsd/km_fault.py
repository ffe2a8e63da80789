"""Page faults in pageable kernel memory: the kernel object's page, resident, from swap, or filled with zeros.

A fault looks the entry up under the map's read lock, then locks the object. A page that is resident, or that can be made of
zeros at once, is entered with both locks held. For anything that may take long, a busy page, a shortage or swap, the map is
unlocked first; afterwards it is locked again, and if anybody has locked it for writing meanwhile all begins anew. No map
is locked while a fault waits for pages.

Source: sys/uvm/uvm_fault.c 1.195, uvm_fault_internal, uvm_fault_lower, uvm_fault_lower_io, uvmfault_relock; uvm_aobj.c,
uao_get with PGO_LOCKED (NetBSD 6). Neighbouring pages are not faulted in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.uvm_fault import UvmFault
from stressvm.vm.pages import PageQueue
from stressvm.vm.pmap import PageFault

if TYPE_CHECKING:
    from stressvm.vm.netbsd.memory import Memory
    from stressvm.vm.netbsd.vm_map import VmMap
    from stressvm.vm.pages import Page


class KmFault(UvmFault):
    """Faults in the maps of a memory.

    Args:
        memory: the memory.
    """

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory

    async def wire(self, vm_map: VmMap, start: int, end: int, access: int) -> int:  # noqa: ARG002 - refused
        """See UvmFault: refused."""
        raise UsageError(
            f"uvm_map_pageable({vm_map!r}, {start:#x}, {end:#x}): wiring, of a part of an allocation or of all of it, is "
            "not modelled for maps with memory; allocate UVM_KMF_WIRED"
        )

    async def fault(self, vm_map: VmMap, va: int, access: int) -> int:
        """Fault in the page at `va`, for reading or writing.

        Locks: none on entry and exit. Sleeps: for the map's lock and the object's, for busy pages, free pages and swap.

        Args:
            vm_map: a map with memory.
            va: any address in it.
            access: VM_PROT_*.

        Returns:
            0; EFAULT if nothing is mapped there, or nothing that faults: wired memory has its pages from the start; EACCES
            if the entry does not allow that.

        Source: sys/uvm/uvm_fault.c, uvm_fault_internal.
        """
        va = F.trunc_page(va)
        while True:
            error = await self.fault_once(vm_map, va, access)
            if error is not None:
                return error

    async def fault_once(self, vm_map: VmMap, va: int, access: int) -> int | None:
        """One try: an error, 0, or None if it is to be tried again. Locks: none on entry and exit."""
        obj = self.memory.kernel_object
        await vm_map.lock.lock_read()
        found, entry = vm_map.lookup(va)
        if not found or entry is None or entry.object is not obj or access & ~entry.protection:
            await vm_map.lock.unlock_read()
            return F.EACCES if found and entry is not None and entry.object is obj else F.EFAULT
        off = entry.offset + va - entry.start
        prot = entry.protection
        timestamp = vm_map.lock.timestamp.peek()
        await obj.lock.lock()
        page = await self.get_locked(off)
        if page is None:
            await obj.lock.unlock()
            await vm_map.lock.unlock_read()
            page = await self.get_io(off)
            if not await self.relock(vm_map, timestamp):
                await obj.lock.lock()
                await self.unbusy(page, changed=False)
                await obj.lock.unlock()
                return None
            await obj.lock.lock()
        await self.memory.pmap.enter(va, page.phys_addr, prot, access)
        await self.unbusy(page, changed=bool(access & F.VM_PROT_WRITE))
        await obj.lock.unlock()
        await vm_map.lock.unlock_read()
        await self.memory.update()
        return 0

    async def get_locked(self, off: int) -> Page | None:
        """uao_get with PGO_LOCKED: a resident page that is not busy, or a new one of zeros; busy. Locks: the object's.

        Sleeps: no.
        """
        uvm, obj = self.memory.uvm, self.memory.kernel_object
        page = uvm.uvm_pagelookup(obj, off)
        if page is not None:
            if page.busy:
                return None
            page.set_busy(uvm.k.cur)
            return page
        if obj.pager is not None and obj.pager.find(off >> F.PAGE_SHIFT):
            return None
        page = await uvm.uvm_pagealloc(obj, off)
        if page is not None:
            page.zero()
            page.clean = False
        return page

    async def get_io(self, off: int) -> Page:
        """pgo_get with PGO_SYNCIO: the page, busy, however long it takes. Locks: none; takes the object's meanwhile."""
        obj = self.memory.kernel_object
        await obj.lock.lock()
        page = await self.memory.uvm.uao_get(obj, off)
        await obj.lock.unlock()
        return page

    async def relock(self, vm_map: VmMap, timestamp: int) -> bool:
        """uvmfault_relock: the map's read lock again, unless it has been locked for writing meanwhile."""
        await vm_map.lock.lock_read()
        if vm_map.lock.timestamp.peek() == timestamp:
            return True
        await vm_map.lock.unlock_read()
        return False

    async def unbusy(self, page: Page, *, changed: bool) -> None:
        """The page is active, and busy no more; those who want it are woken. Locks: the object's."""
        uvm = self.memory.uvm
        await uvm.uvm_pageqlock.lock()
        if changed:
            page.clean = False
        if page.queue is not PageQueue.ACTIVE:
            uvm.uvm_pageactivate(page)
        await uvm.uvm_page_unbusy((page,))
        await uvm.uvm_pageqlock.unlock()


async def uvm_fault(vm_map: VmMap, va: int, access: int) -> int:
    """Fault in the page at an address of a kernel map with memory.

    Locks: none on entry and exit. Sleeps: for the map's lock and the object's, for busy pages, free pages and swap.

    Args:
        vm_map: the map.
        va: any address in it.
        access: VM_PROT_*, what was tried.

    Returns:
        0; EFAULT where nothing is mapped, and in wired memory, which never faults; EACCES.

    Source: sys/uvm/uvm_fault.c, uvm_fault_internal.
    """
    _with_memory(vm_map, "uvm_fault")
    return await vm_map.fault.fault(vm_map, va, access)


async def kernel_access(vm_map: VmMap, va: int, access: int) -> Page:
    """What the kernel does with its memory: read or write at an address, faulting the page in if need be.

    Locks: none on entry and exit. Sleeps: as uvm_fault, if it faults. Panics on a fault that cannot be served.

    Args:
        vm_map: a map with memory.
        va: the address.
        access: VM_PROT_*.

    Returns:
        The page that the processor reached. No switch happens between the access and the return.

    Source: sys/arch/x86/x86/trap.c, a page fault in the kernel.
    """
    memory = _with_memory(vm_map, "kernel_access")
    while True:
        got = await memory.pmap.access(va, access)
        if not isinstance(got, PageFault):
            return memory.by_address[got.phys_addr]
        if got.spurious:
            continue
        error = await vm_map.fault.fault(vm_map, va, access)
        if error:
            raise vm_map.k.panic(f"trap: uvm_fault({vm_map.name}, {va:#x}, {access}) -> {error}")


def _with_memory(vm_map: VmMap, call: str) -> Memory:
    if vm_map.memory is None:
        raise UsageError(f"{call}: {vm_map!r} has no memory: make it with setup(memory=Memory(...))")
    return vm_map.memory

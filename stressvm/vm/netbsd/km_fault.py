"""Page faults in kernel memory: the kernel object's page, resident, from swap, or filled with zeros; and wiring.

A fault looks the entry up under the map's read lock, then locks the object. A page that is resident, or that can be made of
zeros at once, is entered with both locks held. For anything that may take long, a busy page, a shortage or swap, the map is
unlocked first; afterwards it is locked again, and if anybody has locked it for writing meanwhile all begins anew. No map
is locked while a fault waits for pages.

A fault that wires does the same, but the page is wired instead of active, and gives up its slot in swap; and it is mapped
with all rights that the entry has. A plain fault on a wired entry maps like that, too, and leaves the page alone. Only
pageable memory can be wired: the other types have nothing that a fault could find.

When a page in the middle of an entry cannot be had, uvm_fault_wire unwires those before it while their entry still counts
as wired. So the mappings stay wired, though the pages are not: the source has it so, and it does no harm but to the count.

Source: sys/uvm/uvm_fault.c 1.195, uvm_fault_internal, uvm_fault_check, uvm_fault_lower and what it calls, uvmfault_lookup,
uvmfault_relock, uvm_fault_wire, uvm_fault_unwire_locked; uvm_aobj.c, uao_get (NetBSD 6). What 5.2 does in another order: it
tells the processors of a new mapping when everything is unlocked, and it unwires under the lock of the paging queues alone.
Neighbouring pages are not faulted in. Amaps, and objects but the kernel's, have no pages here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stressvm.kernel.errors import UsageError
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.uvm_fault import UvmFault
from stressvm.vm.pages import PageQueue
from stressvm.vm.pmap import PMAP_CANFAIL, PMAP_WIRED, PageFault

if TYPE_CHECKING:
    from stressvm.vm.netbsd.memory import Memory
    from stressvm.vm.netbsd.vm_map import VmMap
    from stressvm.vm.netbsd.vm_map_entry import MapEntry
    from stressvm.vm.pages import Page


class Fault(NamedTuple):
    """A fault that uvm_fault_check has let pass: struct uvm_faultinfo and struct uvm_faultctx.

    Attributes:
        vm_map: the map that the entry is in, read-locked.
        va: the page's address.
        off: its place in the kernel object, bytes.
        prot: what it is mapped with.
        access: what that is said to be for.
        wire: request uvm_pagewire.
        wire_mapping: request a wired mapping.
        timestamp: the map's, when the entry was found.
    """

    vm_map: VmMap
    va: int
    off: int
    prot: int
    access: int
    wire: bool
    wire_mapping: bool
    timestamp: int


class KmFault(UvmFault):
    """Faults in the maps of a memory.

    Args:
        memory: the memory.
        wiredmax: uvmexp.wiredmax, as for all.

    Attributes:
        wired: the addresses that uvm_fault_wire has wired, for whoever looks; no step does.
    """

    def __init__(self, memory: Memory, *, wiredmax: int) -> None:
        super().__init__(wiredmax=wiredmax)
        self.memory = memory

    def uvmexp_wired(self) -> int:
        """See UvmFault."""
        return self.memory.uvm.wired

    def pmap_wired_count(self) -> int:
        """See UvmFault."""
        return self.memory.pmap.wired_count

    # ------------------------------------------------------------ one fault

    async def fault(self, vm_map: VmMap, va: int, access: int) -> int:
        """Fault in the page at `va`, for reading or writing.

        Locks: none on entry and exit. Sleeps: for the map's lock and the object's, for busy pages, free pages and swap.

        Args:
            vm_map: a map with memory.
            va: any address in it, or in one of its submaps.
            access: VM_PROT_*.

        Returns:
            0; EFAULT if nothing is mapped there, or nothing that faults: wired memory has its pages from the start; EACCES
            if the entry does not allow that.

        Source: sys/uvm/uvm_fault.c, uvm_fault_internal.
        """
        return await self.refault(vm_map, va, access, wire=False)

    async def fault_wired(self, vm_map: VmMap, va: int, access: int) -> int:
        """uvm_fault_internal with UVM_FAULT_WIRE and UVM_FAULT_MAXPROT. Locks, sleeps, returns: as `fault`."""
        return await self.refault(vm_map, va, access, wire=True)

    async def refault(self, vm_map: VmMap, va: int, access: int, *, wire: bool) -> int:
        """Try until it has come to something. Locks: none on entry and exit."""
        va = F.trunc_page(va)
        while True:
            error = await self.fault_once(vm_map, va, access, wire=wire)
            if error is not None:
                return error

    async def fault_once(self, vm_map: VmMap, va: int, access: int, *, wire: bool) -> int | None:
        """One try: an error, 0, or None if it is to be tried again. Locks: none on entry and exit."""
        flt, error = await self.check(vm_map, va, access, wire=wire)
        if flt is None:
            return error
        await self.memory.kernel_object.lock.lock()
        page = await self.get_locked(flt.off)
        if page is None:
            page = await self.lower_io(flt)
            if page is None:
                return None
        await self.lower_enter(flt, page)
        return 0

    async def lookup(self, vm_map: VmMap, va: int) -> tuple[VmMap, MapEntry | None]:
        """uvmfault_lookup: the map that an address belongs to, submaps looked into, read-locked; and the entry.

        Locks: none on entry; on exit the map's read lock if there is an entry, else none. Sleeps: for the lock.
        """
        while not vm_map.intrsafe:
            await vm_map.lock.lock_read()
            found, entry = vm_map.lookup(va)
            if not found or entry is None:
                await vm_map.lock.unlock_read()
                break
            if entry.sub_map is None:
                return vm_map, entry
            await vm_map.lock.unlock_read()
            vm_map = entry.sub_map
        return vm_map, None

    async def check(self, vm_map: VmMap, va: int, access: int, *, wire: bool) -> tuple[Fault | None, int]:
        """uvm_fault_check: what is to be done, with the map read-locked; or None and an error, with nothing locked.

        Panics, with DIAGNOSTIC, on a map that is not PAGEABLE.
        """
        vm_map, entry = await self.lookup(vm_map, va)
        if entry is None:
            return None, F.EFAULT
        if vm_map.diagnostic and not vm_map.flags.peek() & F.VM_MAP_PAGEABLE:
            raise vm_map.k.panic(f"uvm_fault: {va:#x}: (ufi->map->flags & VM_MAP_PAGEABLE) == 0: {vm_map!r}")
        if access & ~(entry.max_protection if wire else entry.protection):
            await vm_map.lock.unlock_read()
            return None, F.EACCES
        if entry.object is None and entry.amap is None and not entry.etype & F.UVM_ET_NEEDSCOPY:
            await vm_map.lock.unlock_read()
            return None, F.EFAULT
        if entry.object is not self.memory.kernel_object or entry.amap is not None:
            raise UsageError(
                f"a fault at {va:#x} in {vm_map!r}, where {entry!r} has an amap or an object of its own: those have no "
                "pages; use uvm_km_alloc with UVM_KMF_PAGEABLE"
            )
        wire_mapping = wire or entry.wired_count > 0
        prot = entry.protection
        if wire_mapping:
            access = prot
        off = entry.offset + va - entry.start
        return Fault(vm_map, va, off, prot, access, wire, wire_mapping, vm_map.lock.timestamp.peek()), 0

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

    async def lower_io(self, flt: Fault) -> Page | None:
        """uvm_fault_lower_io: the page, busy, however long it takes, with the map unlocked meanwhile.

        Locks: the map's read lock and the object's on entry; the same on exit, unless the map has changed: then none, and
        None is returned. Sleeps: for busy pages, free pages, swap, and locks.
        """
        uvm, obj = self.memory.uvm, self.memory.kernel_object
        await flt.vm_map.lock.unlock_read()
        page = await uvm.uao_get(obj, flt.off)
        await obj.lock.unlock()
        locked = await self.relock(flt)
        await obj.lock.lock()
        await uvm.uvm_pageqlock.lock()
        self.activate(page)
        await uvm.uvm_pageqlock.unlock()
        if locked:
            return page
        await uvm.uvm_page_unbusy((page,))
        await obj.lock.unlock()
        return None

    async def relock(self, flt: Fault) -> bool:
        """uvmfault_relock: the map's read lock again, unless it has been locked for writing meanwhile."""
        lock = flt.vm_map.lock
        await lock.lock_read()
        if lock.timestamp.peek() == flt.timestamp:
            return True
        await lock.unlock_read()
        return False

    async def lower_enter(self, flt: Fault, page: Page) -> None:
        """uvm_fault_lower_enter: map the page, wire it or make it active, and let go of it.

        Locks: the map's read lock and the object's on entry, none on exit. Sleeps: for locks.
        """
        memory = self.memory
        flags = flt.access | PMAP_CANFAIL | (PMAP_WIRED if flt.wire_mapping else 0)
        await memory.pmap.enter(flt.va, page.phys_addr, flt.prot, flags)
        await self.lower_done(flt, page)
        await memory.uvm.uvm_page_unbusy((page,))
        late = flt.vm_map.version == "5.2"
        if not late:
            await memory.update()
        await memory.kernel_object.lock.unlock()
        await flt.vm_map.lock.unlock_read()
        if late:
            await memory.update()

    async def lower_done(self, flt: Fault, page: Page) -> None:
        """uvm_fault_lower_done: wire the page, which then needs no slot in swap, or make it active. Locks: the object's."""
        uvm = self.memory.uvm
        await uvm.uvm_pageqlock.lock()
        if flt.wire:
            self.pagewire(page)
            page.clean = False
        else:
            if flt.access & F.VM_PROT_WRITE:
                page.clean = False
            self.activate(page)
        await uvm.uvm_pageqlock.unlock()
        if flt.wire:
            await uvm.uao_dropswap(self.memory.kernel_object, page.pindex)

    def activate(self, page: Page) -> None:
        """The page is active, where it was if it has been that. Locks: uvm_pageqlock."""
        if page.queue is not PageQueue.ACTIVE:
            self.memory.uvm.uvm_pageactivate(page)

    def pagewire(self, page: Page) -> None:
        """uvm_pagewire. Locks: uvm_pageqlock."""
        self.memory.uvm.uvm_pagewire(page)

    # ------------------------------------------------------------ wiring and unwiring ranges

    async def undo(self, vm_map: VmMap, start: int, end: int) -> None:
        """uvm_fault_unwire: as unwire, under the map's read lock. Locks: none of the map on entry and exit."""
        await vm_map.lock.lock_read()
        await self.unwire(vm_map, start, end)
        await vm_map.lock.unlock_read()

    async def unwire(self, vm_map: VmMap, start: int, end: int) -> None:
        """uvm_fault_unwire_locked: one wiring less for each page that is mapped in [start, end).

        The mapping of a page is wired no more if its entry is not. Panics if `start` is not mapped.

        Locks: the map's, any. Takes the kernel object's (6) and the paging queues' once for each entry, or (5.2) the paging
        queues' once. Sleeps: for those, and the pmap's.

        Source: sys/uvm/uvm_fault.c, uvm_fault_unwire_locked.
        """
        found, entry = vm_map.lookup(start)
        if not found:
            raise vm_map.k.panic(f"uvm_fault_unwire_locked: address {start:#x} not in map {vm_map.name}")
        if vm_map.version == "5.2":
            await self.memory.uvm.uvm_pageqlock.lock()
        locked: MapEntry | None = None
        for va in range(start, end, F.PAGE_SIZE):
            mapped, pa = await self.memory.pmap.extract(va)
            if not mapped:
                continue
            while entry is None or va >= entry.end:
                entry = vm_map.after(entry)
                if entry is None or entry.start > va:
                    raise vm_map.k.panic(f"uvm_fault_unwire_locked: KASSERT: {va:#x} is in no entry of {vm_map.name}")
            if vm_map.version != "5.2" and entry is not locked:
                await self.unlock_entry(locked)
                await self.lock_entry()
                locked = entry
            await self.unwire_page(entry, va, pa)
        if vm_map.version == "5.2":
            await self.memory.uvm.uvm_pageqlock.unlock()
        else:
            await self.unlock_entry(locked)
        self.wired.difference_update(range(start, end, F.PAGE_SIZE))

    async def lock_entry(self) -> None:
        """uvm_map_lock_entry, and the paging queues' lock."""
        await self.memory.kernel_object.lock.lock()
        await self.memory.uvm.uvm_pageqlock.lock()

    async def unlock_entry(self, entry: MapEntry | None) -> None:
        """The reverse, if there is such an entry."""
        if entry is not None:
            await self.memory.uvm.uvm_pageqlock.unlock()
            await self.memory.kernel_object.lock.unlock()

    async def unwire_page(self, entry: MapEntry, va: int, pa: int) -> None:
        """Unwire one page, and its mapping if the entry is not wired any more. Locks: uvm_pageqlock."""
        if not entry.wired_count:
            await self.memory.pmap.unwire(va)
        page = self.memory.by_address.get(pa)
        if page is not None:
            self.memory.uvm.uvm_pageunwire(page)


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

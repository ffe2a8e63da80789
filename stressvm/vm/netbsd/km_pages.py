"""Freeing what lies at kernel addresses, and making sure that nothing does: uvm_km_pgremove and its kin.

The two versions free pages and unmap them in another order. 6 unmaps first, whatever the type. In uvm_km_free 5.2 unmaps
last: a page may be on the free list, and somebody else's by then, while the range that is being freed still maps it. That
does no harm as long as nobody uses memory that is being freed: the mappings are gone, and the processors told, before the
addresses are free. In uvm_unmap 5.2 unmaps pageable memory first, and wired memory last.

Source: sys/uvm/uvm_km.c 1.138 ("6") and 1.101.4.2 ("5.2"), uvm_km_pgremove, uvm_km_pgremove_intrsafe, uvm_km_check_empty;
uvm_map.c, uvm_unmap_remove.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.km_proofs import KmProofs

if TYPE_CHECKING:
    from stressvm.vm.netbsd.map_base import VmMap as MapBase
    from stressvm.vm.netbsd.vm_map_entry import MapEntry
    from stressvm.vm.pages import Page

#: __PGRM_BATCH: so many pages are looked up, unmapped together, and freed.
PGRM_BATCH = 16


class KmPages(KmProofs):
    """The pages of a memory; see `Memory`, which is the whole of it."""

    by_address: dict[int, Page]

    # ------------------------------------------------------------ pageable memory

    async def pgremove(self, vm_map: MapBase, start: int, end: int, mapped: list[int] | None = None) -> None:
        """uvm_km_pgremove: free the pages of a range of pageable memory, and their slots in swap; wait for busy pages.

        6 unmaps the range first, with the object locked; on 5.2 that is the caller's business, before or afterwards. Panics,
        with DIAGNOSTIC, on a range that is empty or not the kernel's.

        Locks: none of the kernel object's on entry and exit; takes that and the paging queues'. Sleeps: for those, and for
        busy pages.

        Args:
            vm_map: the map that the addresses are in.
            start: the first address.
            end: one past the last.
            mapped: 5.2: the caller unmaps afterwards; gets the numbers of the pages that are freed before that.
        """
        if vm_map.diagnostic and not self.pmap.min_address <= start < end <= self.pmap.max_address:
            raise self.k.panic(f"uvm_km_pgremove: KASSERT: {start:#x}-{end:#x} is no range of the kernel's addresses")
        uvm, obj = self.uvm, self.kernel_object
        await obj.lock.lock()
        if vm_map.version != "5.2":
            await self.pmap.remove(start, end)
        off, last = start - vm_map.kernel_base, end - vm_map.kernel_base
        while off < last:
            page = uvm.uvm_pagelookup(obj, off)
            if page is not None and page.busy:
                await uvm.uvm_pagewait(page, "km_pgrm")
                await obj.lock.lock()
                off = uvm.after_wait(off)
                continue
            if page is not None and mapped is not None:
                mapped.append(page.number)
                uvm.unmapped_later[page.number] += 1
            await uvm.remove_page(obj, off >> F.PAGE_SHIFT, page)
            off += F.PAGE_SIZE
        await obj.lock.unlock()

    async def free_pageable(self, vm_map: MapBase, start: int, end: int) -> None:
        """What uvm_km_free does first with pageable memory: 6 unmaps, then frees; 5.2 frees, then unmaps.

        Locks, sleeps: as pgremove; the pmap's lock, too.
        """
        if vm_map.version != "5.2":
            await self.pgremove(vm_map, start, end)
            return
        mapped: list[int] = []
        await self.pgremove(vm_map, start, end, mapped)
        await self.pmap.remove(start, end)
        self.uvm.unmapped_later.subtract(mapped)

    # ------------------------------------------------------------ wired memory

    async def pgremove_intrsafe(self, vm_map: MapBase, start: int, end: int) -> None:
        """uvm_km_pgremove_intrsafe: unmap and free the pages of a range, 16 at a time; what is not mapped is passed over.

        6 unmaps a batch, then frees it; 5.2 frees all pages, and then unmaps. Either may leave processors that still
        translate: nobody is told before pmap_update. Panics on a page that belongs to an object or is busy; with DIAGNOSTIC
        on a range that is empty or not the map's.

        Locks: any, but not uvm_fpageqlock. Sleeps: no, it spins.
        """
        if vm_map.diagnostic and not vm_map.min_offset <= start < end <= vm_map.max_offset:
            raise self.k.panic(f"uvm_km_pgremove_intrsafe: KASSERT: {start:#x}-{end:#x} is no range of {vm_map!r}")
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

    # ------------------------------------------------------------ uvm_map_protect

    async def protect(self, entry: MapEntry) -> None:
        """uvm_map_protect: an entry's protection has changed: pmap_protect, which takes rights away and never gives any.

        Panics, as the pmap does, on wired memory that nobody may access any more: that is removed by pmap_kremove alone.

        Locks: the map's write lock; takes the kernel object's, if the entry is of it. Sleeps: for that, and the pmap's.
        """
        obj = self.kernel_object if entry.object is self.kernel_object else None
        if obj is not None:
            await obj.lock.lock()
        await self.pmap.protect(entry.start, entry.end, entry.protection)
        if obj is not None:
            await obj.lock.unlock()

    # ------------------------------------------------------------ uvm_unmap_remove

    async def unmap(self, vm_map: MapBase, entry: MapEntry, *, by_hand: bool) -> None:
        """What uvm_unmap_remove does to pages and pmap for an entry that is not the kernel object's.

        Locks: the map's write lock. Sleeps: for the pmap's lock.

        Args:
            vm_map: the map.
            entry: about to leave it. The pages that 5.2 keeps its entries in stay mapped.
            by_hand: the map is not PAGEABLE, so what is mapped there was mapped by hand, and is freed with its addresses.
        """
        if by_hand:
            if not entry.flags & F.UVM_MAP_KMAPENT:
                await self.pgremove_intrsafe(vm_map, entry.start, entry.end)
        elif entry.object is not None or entry.amap is not None:
            await self.pmap.remove(entry.start, entry.end)

    async def unmap_object(self, vm_map: MapBase, start: int, end: int) -> None:
        """5.2: what uvm_unmap_remove does to a range of the kernel object in a PAGEABLE map: unmap it, then free it.

        Locks: the map's write lock; takes the kernel object's. Sleeps: for that, and for busy pages, with the map locked.
        """
        await self.pmap.remove(start, end)
        await self.pgremove(vm_map, start, end)

    async def check_unmapped(self, vm_map: MapBase, entry: MapEntry) -> None:
        """DEBUG: panics if anything is left at the addresses of an entry that is about to leave the map.

        Locks: the map's write lock; takes the kernel object's. Sleeps: for that.
        """
        if entry.flags & F.UVM_MAP_KMAPENT:
            return
        for va in range(entry.start, entry.end, F.PAGE_SIZE):
            if (await self.pmap.extract(va))[0]:
                raise self.k.panic(f"uvm_unmap_remove: has mapping: {va:#x} in {vm_map.name}")
        await self.check_empty(vm_map, entry.start, entry.end)

    async def check_empty(self, vm_map: MapBase, start: int, end: int) -> None:
        """uvm_km_check_empty, DEBUG: panics if anything is mapped in a range, or in the kernel object there.

        Locks: none of the kernel object's; takes it. Sleeps: for that. INTRSAFE maps are not looked at in the object.
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

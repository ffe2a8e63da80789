"""5.2: map entries that lie in the map itself, a page of them at a time.

An INTRSAFE map, and kernel_map, cannot ask the ordinary pool for entries, since the pool might have to ask the map for
addresses. So the map gives up a page of its own, which is then a mapping like any other, with an entry that lies in it.
Three things follow, and are modelled.

To get an entry may take a mapping, so it must be got before the map is locked: uvm_map gets one, needed or not. If there
is no free one and the map is full it fails, WAITVA or no WAITVA. And uvm_unmap, which may have to split two entries, gets two beforehand.

What is mapped with QUANTUM, as all that uvm_km_alloc does, is said never to be split: it was mapped as a whole and will
be unmapped so. But neighbours merge, and then it must be. For that the entry which merging saves is kept with the map.
So QUANTUM ranges need no entries reserved; and to split what was mapped as one is a panic.

A page of entries whose last one is freed goes back to the map, unless it is the only one that has any free.

In the source, the two entries that uvm_unmap reserves are not the ones that its clips then use: those come from what is
left, after two have been taken. If nothing is left, the clip carves out a page with the map locked, and the lock panics.

Source: sys/uvm/uvm_map.c 1.263.4.5, uvm_kmapent_alloc, uvm_kmapent_free, uvm_mapent_alloc_split, uvm_mapent_reserve.
The physical page that such a page needs is always there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.kernel.mutex import SpinMutex
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.vm_map_entry import MapEntry

if TYPE_CHECKING:
    from stressvm.vm.netbsd.map_change import VmMap as MapChange

#: UVM_KMAPENT_CHUNK on a 64-bit machine: pages of 4096 bytes, less a header of 40, and entries of 136.
UVM_KMAPENT_CHUNK = 29


class EntryPage:
    """struct uvm_kmapent_hdr: a page of entries.

    Attributes:
        va: its address, 0 until it has one.
        used: how many of its entries are used, the page's own included.
    """

    __slots__ = ("used", "va")

    def __init__(self) -> None:
        self.va = 0
        self.used = 2

    def __repr__(self) -> str:
        """Where, and how full."""
        return f"<EntryPage {self.va:#x}, {self.used} used>"


class Kmapents:
    """The pages of entries of one map.

    Attributes:
        chunk: entries in a page.
        free: pages with free entries; the first one is asked first.
        merged: entries that merging QUANTUM ranges has saved, each by the page it lies in.
        umr: what whoever has locked the map for writing has reserved before.
    """

    def __init__(self, vm_map: MapChange, chunk: int = UVM_KMAPENT_CHUNK) -> None:
        self.map = vm_map
        self.chunk = chunk
        self.free: list[EntryPage] = []
        self.merged: list[EntryPage] = []
        self.umr: list[EntryPage] = []
        k = vm_map.k
        self.lock = k.once("uvm_kentry_lock", lambda: SpinMutex(k, "uvm_kentry_lock"))

    async def alloc(self, flags: int) -> EntryPage | None:
        """uvm_kmapent_alloc: an entry, known by the page that it lies in; None if a new page does not fit into the map.

        Locks: the map must not be locked. Sleeps: for the map's lock. Of the flags only NOWAIT counts, never WAITVA.
        """
        await self.lock.lock()
        page = self.take()
        await self.lock.unlock()
        if page is not None:
            return page
        error, va = await self.map.prepare(0, F.PAGE_SIZE, 0, flags & F.UVM_FLAG_NOWAIT)
        if error:
            return None
        page = EntryPage()
        await self.map.enter(va, self.own_entry(page, va))
        await self.lock.lock()
        self.free.insert(0, page)
        await self.lock.unlock()
        return page

    def own_entry(self, page: EntryPage, va: int) -> MapEntry:
        """The entry of the page itself, which lies in it."""
        page.va = va
        entry = MapEntry(va, va + F.PAGE_SIZE)
        entry.flags = F.UVM_MAP_KERNEL | F.UVM_MAP_KMAPENT | F.UVM_MAP_NOMERGE
        entry.home = page
        return entry

    def take(self) -> EntryPage | None:
        """uvm_kmapent_get: one entry of the first page with a free one. Locks: uvm_kentry_lock."""
        if not self.free:
            return None
        page = self.free[0]
        page.used += 1
        if page.used == self.chunk:
            del self.free[0]
        return page

    async def give(self, page: EntryPage) -> None:
        """uvm_kmapent_free: an entry of that page is not used any more; the page goes with its last one.

        Locks: the map must not be locked. Sleeps: for the map's lock, if the page goes.
        """
        await self.lock.lock()
        page.used -= 1
        if page.used < 1 or (page.used == 1 and page not in self.free):
            text = f"{self.map.name}: the page of entries at {page.va:#x} was unmapped with an entry in use"
            raise self.map.k.panic(text, "invariant")
        if page.used > 1:
            if page.used == self.chunk - 1:
                self.free.insert(0, page)
            await self.lock.unlock()
            return
        if self.free == [page]:
            await self.lock.unlock()
            return
        self.free.remove(page)
        await self.lock.unlock()
        await self.map.lock.lock()
        await self.map.remove(page.va, page.va + F.PAGE_SIZE)
        await self.map.lock.unlock()

    async def reserve(self, count: int, flags: int) -> list[EntryPage]:
        """uvm_mapent_reserve: entries for clipping, before the map is locked; none for QUANTUM.

        All or none; who asks does not look which. Locks: the map must not be locked. Sleeps: for the map's lock.
        """
        reserved: list[EntryPage] = []
        if flags & F.UVM_FLAG_QUANTUM:
            return reserved
        for _ in range(count):
            page = await self.alloc(flags)
            if page is None:
                await self.unreserve(reserved)
                return []
            reserved.append(page)
        return reserved

    async def unreserve(self, reserved: list[EntryPage]) -> None:
        """uvm_mapent_unreserve: give them back. Locks: the map must not be locked."""
        for page in reserved:
            await self.give(page)

    def for_split(self, entry: MapEntry) -> EntryPage:
        """uvm_mapent_alloc_split: an entry for what a clip splits off. Locks: the map's write lock. Sleeps: no.

        Panics if a QUANTUM range is split that was mapped as one; if none were reserved for a range without QUANTUM; and
        if no entry is free: then uvm_kmapent_alloc would lock the map that is locked already.
        """
        k = self.map.k
        if entry.flags & F.UVM_MAP_QUANTUM:
            if not self.merged:
                raise k.panic(f"uvm_mapent_alloc_split: KASSERT(me): {entry!r} is QUANTUM, and was mapped as one")
            return self.merged.pop()
        if not self.umr:
            raise k.panic(
                f"uvm_mapent_alloc_split: KASSERT(!UMR_EMPTY(umr)): {entry!r} is split, and none were reserved"
            )
        page = self.take()
        if page is None:
            raise k.panic(f"uvm_kmapent_alloc: {self.map.name}: locking against myself: no entry is free for a clip")
        return page

    def stock(self) -> None:
        """While the world is built: carve out a page now, at the lowest free address, all of its entries free.

        Raises:
            UsageError: the map is full.
        """
        vm_map = self.map
        va = vm_map.entries.first_fit(F.PAGE_SIZE, vm_map.min_offset)
        if va is None:
            raise UsageError(f"{vm_map!r} has no room for a page of map entries: stock it before it is filled")
        page = EntryPage()
        page.used = 1
        vm_map.link(self.own_entry(page, va), *vm_map.neighbours(va))
        vm_map.size += F.PAGE_SIZE
        self.free.insert(0, page)

    def stocked(self) -> EntryPage:
        """While the world is built: an entry.

        Raises:
            UsageError: there is none.
        """
        page = self.take()
        if page is None:
            raise UsageError(f"{self.map!r} has no free entry: call stock_entries() before fill()")
        return page

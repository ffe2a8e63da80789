"""FreeBSD's vm_fault, whole: find the page, or make it, or copy it, and map it.

The map is locked for reading at first. The object that is mapped gets a reference, so that the map may be let go of, and
the page is made busy, so that its object may be. What it is looking for may be in the object itself; in one of those that
this one shadows, from where it is copied if it is to be written; with a pager, which takes I/O without the map's lock; or
nowhere: then it is zeros. A new page is put into the first object at once, busy and not valid yet, so that nobody else
makes the same one meanwhile.

Whoever finds a page busy lets go of everything, sleeps for it and starts from scratch; so does who finds no free page.

If the map's lock was given up, the map may be another by now: see `vm_fault_lookup`.

What is left out: read-ahead and prefaulting, drivers that populate, vnode locks, the page fault's limit on waiting for
pages, and 10.4's habit of keeping the object locked, and not only the page busy, until the map has been looked at again.

Source: sys/vm/vm_fault.c of releng/13.0 and release/10.4: vm_fault (10.4: vm_fault_hold), vm_fault_lookup,
vm_fault_soft_fast, vm_fault_relookup, vm_fault_cow, vm_fault_next, vm_fault_allocate, vm_fault_getpages,
vm_fault_zerofill, vm_fault_busy_sleep, fault_deallocate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from stressvm.kernel.op import NOTHING
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.references import vm_object_hold
from stressvm.vm.freebsd.vm_fault_cow import FaultPages
from stressvm.vm.freebsd.vm_fault_lookup import RESTART
from stressvm.vm.freebsd.vm_fault_state import FaultState
from stressvm.vm.pages import VM_ALLOC_NORMAL, VM_ALLOC_ZERO
from stressvm.vm.pmap import PMAP_ENTER_NOSLEEP, PMAP_ENTER_WIRED

if TYPE_CHECKING:
    from stressvm.vm.freebsd.vm_map_lookup import Lookup
    from stressvm.vm.freebsd.vm_object import VmObject
    from stressvm.vm.pages import Page

#: The page is not there: look further.
NOT_FOUND: Final = -2


class VmFault(FaultPages):
    """A page fault of version 13 in a map with memory. Planted defects override one of the small methods.

    Args:
        bad: addresses of pages that cannot be had: where one is not in memory yet, the fault fails as for an I/O error.
    """

    #: What is returned for a page beyond the end of the object, and for one that cannot be read.
    BEYOND: ClassVar[int] = F.KERN_OUT_OF_BOUNDS
    UNREADABLE: ClassVar[int] = F.KERN_OUT_OF_BOUNDS

    async def fault(self, vm_map: Lookup, vaddr: int, fault_type: int, *, wire: bool = False) -> int:
        """vm_fault: have the page at `vaddr` in memory, and mapped for an access.

        Locks: none on entry and exit. Sleeps: for locks, for busy pages, entries in transition, free pages, and I/O.

        Args:
            vm_map: where.
            vaddr: the address.
            fault_type: the access, VM_PROT_*; whatever the entry allows, if that is wired.
            wire: VM_FAULT_WIRE: the page is to be wired; its entry is.

        Returns:
            KERN_SUCCESS, or what vm_map_lookup returns, or KERN_OUT_OF_BOUNDS for a page beyond its object, or one that
            cannot be read (10.4: KERN_PROTECTION_FAILURE and KERN_FAILURE).
        """
        await self.trap(vm_map.k, vaddr)
        while True:
            fs = FaultState(vm_map, F.trunc_page(vaddr), fault_type, wire=wire)
            result = await self.attempt(fs)
            if result != RESTART:
                return result

    async def attempt(self, fs: FaultState) -> int:
        """One try. Returns: KERN_*, or RESTART with nothing held."""
        result = await self.look_up(fs)
        if result:
            return result
        first = fs.first
        await first.lock.lock()
        if not fs.wire and await self.soft_fast(fs):
            return F.KERN_SUCCESS
        self.refer(fs)
        first.pip += 1
        result = await self.find(fs)
        if result:
            return result
        if fs.object is not fs.first_object:
            if fs.fault_type & F.VM_PROT_WRITE:
                await self.cow(fs)
            else:
                fs.prot &= ~F.VM_PROT_WRITE
        if not fs.lookup_still_valid:
            result = await self.relookup(fs)
            if result:
                await self.fault_deallocate(fs)
                return result
        await self.map_page(fs)
        await self.fault_deallocate(fs)
        return F.KERN_SUCCESS

    # ------------------------------------------------------------ the page

    async def soft_fast(self, fs: FaultState) -> bool:
        """vm_fault_soft_fast: if the page is in the first object, map it, without making it busy; was that all?

        Locks: the map's read lock and the first object's, both on entry; the same after False, nothing after True.
        """
        store = fs.first
        page = store.pages.lookup(fs.first_pindex)
        if page is None or not store.is_valid(page):
            return False
        if fs.prot & F.VM_PROT_WRITE and await fs.phys.vm_page_busied(page):
            return False
        flags = fs.fault_type | PMAP_ENTER_NOSLEEP | (PMAP_ENTER_WIRED if fs.wired else 0)
        if await fs.pmap.enter(fs.vaddr, page, fs.prot, flags):
            return False
        self.dirty(fs, page)
        await store.lock.unlock()
        await self.unlock_map(fs)
        return True

    def refer(self, fs: FaultState) -> None:
        """Keep the first object from going away while the map is not locked. Locks: the object's."""
        vm_object_hold(fs.k, fs.first_object).reference()

    async def find(self, fs: FaultState) -> int:
        """The search for the page, from the first object on.

        Locks: the map's read lock, perhaps given up; the first object's on entry, no object's on exit.

        Returns:
            0 with the page in `fs.m`, busy and valid; else an error or RESTART, with nothing held.
        """
        while True:
            store = fs.store
            page = store.pages.lookup(fs.pindex)
            if page is not None:
                if not await fs.phys.vm_page_tryxbusy(page):
                    await self.busy_sleep(fs, page)
                    return RESTART
                fs.m = page
                if store.is_valid(page):
                    await store.lock.unlock()
                    return F.KERN_SUCCESS
            paged = self.has_pager(fs.object)
            if fs.m is None and (paged or fs.object is fs.first_object):
                result = await self.allocate(fs)
                if result:
                    return result
            if paged:
                result = await self.get_pages(fs)
                if result != NOT_FOUND:
                    return result
            if await self.next_object(fs):
                continue
            await fs.store.lock.unlock()
            self.zerofill(fs)
            return F.KERN_SUCCESS

    def has_pager(self, obj: VmObject) -> bool:
        """Could the object's page be elsewhere than in memory? Anonymous memory's only if some of it is in swap."""
        if not obj.anon:
            return True
        return obj.store is not None and obj.store.pager is not None and obj.store.pager.count > 0

    async def allocate(self, fs: FaultState) -> int:
        """vm_fault_allocate: put a new page into the object, busy and not valid yet.

        Locks: the object's, and the map's read lock perhaps; nothing after an error or RESTART, for which it has waited
        until there are pages.
        """
        if fs.pindex >= fs.object.size or fs.vaddr in self.bad:
            await self.unlock_and_deallocate(fs)
            return self.BEYOND if fs.vaddr not in self.bad else F.KERN_OUT_OF_BOUNDS
        zero = VM_ALLOC_ZERO if fs.object.anon and fs.object.backing_object is None else 0
        page = await fs.phys.vm_page_alloc(fs.store, fs.pindex, VM_ALLOC_NORMAL | zero)
        if page is None:
            await self.unlock_and_deallocate(fs)
            await fs.phys.vm_wait("pfault")
            return RESTART
        fs.memory.fresh(page)
        fs.store.invalid(fs.pindex)
        fs.m = page
        return F.KERN_SUCCESS

    async def get_pages(self, fs: FaultState) -> int:
        """vm_fault_getpages: ask the pager for the page, which takes I/O. The map is let go of for it.

        Locks: the object's on entry; on exit none after 0, the object's after NOT_FOUND, nothing at all after an error.
        """
        store = fs.store
        await store.lock.unlock()
        await self.unlock_map(fs)
        content, unreadable = await self.read(fs)
        page = fs.m
        assert page is not None, "a page was allocated for it"
        if content is not None:
            page.content, page.zeroed, page.clean = content, False, True
            store.validate(page)
            return F.KERN_SUCCESS
        await store.lock.lock()
        if unreadable:
            fs.m = None
            await self.free_page(store, page)
            await self.unlock_and_deallocate(fs)
            return self.UNREADABLE
        return NOT_FOUND

    async def read(self, fs: FaultState) -> tuple[str | None, bool]:
        """vm_pager_get_pages: the I/O. What the page holds, None if the pager has not got it; was there an error?"""
        k = fs.k
        op = k.once("vm_pager", lambda: k.op("getpages", NOTHING, write=False))
        if k.away(op):
            await k.baton
        k.trace.append((k.cur, op, (fs.store.name, fs.pindex)))
        obj, store = fs.object, fs.store
        if obj.anon:
            slot = store.swapped(fs.pindex)
            if not slot:
                return None, False
            assert store.pager is not None, "there is a slot"
            await store.pager.swap.add_only(-1)
            return store.pager.swap.contents[slot], False
        pager = obj.pager or fs.memory.pager
        if fs.pindex in pager.errors:
            return None, True
        return pager.content(fs.pindex), False

    async def next_object(self, fs: FaultState) -> bool:
        """vm_fault_next: the object has not got the page: on to what it shadows; False: it shadows nothing.

        A page that was made in the first object stays there, busy. Locks: the object's on entry, the next one's on exit;
        with False the same.
        """
        store, page = fs.store, fs.m
        fs.m = None
        if fs.object is fs.first_object:
            fs.first_m = page
        elif page is not None:
            await self.free_page(store, page)
        behind = fs.object.backing_object
        if behind is None:
            return False
        after = fs.memory.store(behind)
        await after.lock.lock()
        after.pip += 1
        if fs.object is not fs.first_object:
            store.pip -= 1
        fs.pindex += F.off_to_idx(fs.object.backing_object_offset)
        fs.object = behind
        await store.lock.unlock()
        return True

    def zerofill(self, fs: FaultState) -> None:
        """vm_fault_zerofill: there never was such a page: that of the first object is zeros. Locks: none of objects."""
        page = fs.first_m
        assert page is not None, "the page of the first object"
        if fs.object is not fs.first_object:
            fs.store.pip -= 1
            fs.object, fs.pindex = fs.first_object, fs.first_pindex
        fs.m, fs.first_m = page, None
        if not page.zeroed:
            page.zero()
        fs.first.validate(page)

    # ------------------------------------------------------------ the end

    async def map_page(self, fs: FaultState) -> None:
        """pmap_enter; then the page is wired or active, and busy no more. Locks: the map's read lock throughout."""
        page = fs.m
        assert page is not None, "the page that was found"
        self.dirty(fs, page)
        await self.enter(fs, page)
        if fs.wire:
            await fs.phys.vm_page_wire(page)
        else:
            await fs.phys.vm_page_activate(page)
        await fs.phys.vm_page_xunbusy(page)
        fs.m = None

    async def enter(self, fs: FaultState, page: Page) -> None:
        """pmap_enter, as the protection and the wiring say."""
        await fs.pmap.enter(fs.vaddr, page, fs.prot, fs.fault_type | (PMAP_ENTER_WIRED if fs.wired else 0))

    def dirty(self, fs: FaultState, page: Page) -> None:
        """vm_fault_dirty: the page is about to be written."""
        if fs.prot & fs.fault_type & F.VM_PROT_WRITE and not fs.wire and page.managed:
            page.clean = False

    async def busy_sleep(self, fs: FaultState, page: Page) -> None:
        """vm_fault_busy_sleep: let go of everything and sleep for a page that somebody else has.

        Locks: the object's and perhaps the map's on entry, nothing on exit.
        """
        store = fs.store
        if fs.object is not fs.first_object:
            await self.leave_first(fs)
            fs.first_m = None
            fs.first.pip -= 1
        store.pip -= 1
        await self.unlock_map(fs)
        if store.pages.lookup(fs.pindex) is page:
            await fs.phys.vm_page_busy_sleep(page, "vmpfw")
        else:
            await store.lock.unlock()
        await self.deallocate(fs)

    async def leave_first(self, fs: FaultState) -> None:
        """The page that was made in the first object stays there, not valid. Locks: those of objects as they are."""
        await self.release_page(fs, fs.first_m)

    async def fault_deallocate(self, fs: FaultState) -> None:
        """Release the pages, the objects and the map. Locks: none of objects on entry; nothing on exit."""
        await self.release_page(fs, fs.m_cow)
        await self.release_page(fs, fs.m)
        fs.m_cow = fs.m = None
        fs.store.pip -= 1
        if fs.object is not fs.first_object:
            first, page = fs.first, fs.first_m
            fs.first_m = None
            await first.lock.lock()
            if page is not None:
                await self.free_page(first, page)
            await first.lock.unlock()
            first.pip -= 1
        await self.deallocate(fs)
        await self.unlock_map(fs)

    async def unlock_and_deallocate(self, fs: FaultState) -> None:
        """The same with the object's lock held on entry."""
        await fs.store.lock.unlock()
        await self.fault_deallocate(fs)

    async def deallocate(self, fs: FaultState) -> None:
        """Give the reference to the first object back. Sleeps: if it was the last."""
        vm_object_hold(fs.k, fs.first_object, -1)
        fs.first_object.deallocate()
        await fs.memory.drain()


class VmFault2013(VmFault):
    """A page fault of 10.4: other codes, and less care for who else may have mapped a page that was copied."""

    BEYOND: ClassVar[int] = F.KERN_PROTECTION_FAILURE
    UNREADABLE: ClassVar[int] = F.KERN_FAILURE

    def still_allowed(self, fs: FaultState, prot: int) -> int:
        """Only what may be mapped is cut down."""
        fs.prot &= prot
        return F.KERN_SUCCESS

    async def forget_elsewhere(self, fs: FaultState, page: Page) -> None:
        """Nobody cares."""

    async def leave_first(self, fs: FaultState) -> None:
        """The page that was made in the first object is freed; for that object's lock the other's may be given up."""
        first, store, page = fs.first, fs.store, fs.first_m
        assert page is not None, "the page of the first object"
        if not await first.lock.trylock():
            await store.lock.unlock()
            await first.lock.lock()
            await store.lock.lock()
        await self.free_page(first, page)
        await first.lock.unlock()

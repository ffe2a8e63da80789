"""What a page fault does with pages: copy on write, and letting go of pages that are busy.

Source: sys/vm/vm_fault.c, vm_fault_cow, fault_page_release, fault_page_free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.freebsd.references import vm_objects
from stressvm.vm.freebsd.vm_fault_lookup import FaultLookup
from stressvm.vm.pages import PageQueue
from stressvm.vm.pmap import pmap_remove_all

if TYPE_CHECKING:
    from stressvm.vm.freebsd.vm_fault_state import FaultState
    from stressvm.vm.freebsd.vm_object_pages import ObjectPages
    from stressvm.vm.pages import Page


class FaultPages(FaultLookup):
    """The part of `VmFault` that copies pages, and lets go of them."""

    async def cow(self, fs: FaultState) -> None:
        """vm_fault_cow: the page is of an object behind the first one, and will be written: the first one gets a copy.

        If nobody else can have that object, the page itself is moved instead. Locks: none of objects on entry and exit.
        """
        store, page, copy = fs.store, fs.m, fs.first_m
        assert page is not None, "the page that was found"
        assert copy is not None, "the page of the first object"
        if await self.may_move(fs):
            await self.free_page(fs.first, copy)
            fs.first.take(page, fs.first_pindex)
            page.clean = False
            if store.swapped(fs.pindex) and store.pager is not None:
                # A slot of it stays behind, and its contents are in no page of that object any more.
                await store.pager.swap.add_only(1)
            await store.lock.unlock()
            await fs.first.lock.unlock()
        else:
            await self.copy_page(fs, page, copy)
            page = copy
        store.pip -= 1
        fs.object, fs.pindex = fs.first_object, fs.first_pindex
        fs.m, fs.first_m = page, None

    async def may_move(self, fs: FaultState) -> bool:
        """Is the first object the only one that has the one behind it? If so both are locked on exit, else none."""
        obj = fs.object
        vm_objects(fs.k).write()
        if obj.ref_count != 1 or obj.shadow_count != 1 or not obj.anon:
            return False
        if not await fs.first.lock.trylock():
            return False
        if obj is fs.first_object.backing_object and await fs.store.lock.trylock():
            vm_objects(fs.k).write()
            if obj.ref_count == 1:
                return True
            await fs.store.lock.unlock()
        await fs.first.lock.unlock()
        return False

    async def copy_page(self, fs: FaultState, page: Page, copy: Page) -> None:
        """pmap_copy_page; the old page is released later, when the new one is mapped in its place."""
        copy.write(page.content)
        fs.first.validate(copy)
        if fs.wired and not fs.wire:
            await fs.phys.vm_page_wire(copy)
            await fs.phys.vm_page_unwire(page, PageQueue.INACTIVE)
        fs.m_cow = page
        await self.forget_elsewhere(fs, page)

    async def forget_elsewhere(self, fs: FaultState, page: Page) -> None:
        """If other address spaces share the first object, their mappings of the old page must go, too."""
        if not fs.first_object.one_mapping and page.managed:
            await pmap_remove_all(fs.memory.machine, page)

    async def release_page(self, fs: FaultState, page: Page | None) -> None:
        """fault_page_release: the page is busy no more, and inactive. Locks: none needed."""
        if page is not None:
            await fs.phys.vm_page_deactivate(page)
            await fs.phys.vm_page_xunbusy(page)

    async def free_page(self, store: ObjectPages, page: Page) -> None:
        """fault_page_free: free the page, or if it is wired make it unbusy. Locks: its object's."""
        if page.wire_count:
            await store.memory.pages.vm_page_xunbusy(page)
        else:
            await store.free(page)

"""What a map does to its pmap and to the pages of its objects, where the kernel does it; nothing without memory.

An entry is unwired before its mappings are removed, these are removed before it is unlinked, and its pages are freed
after that: so nobody reaches a page that is somebody else's by then. Mappings have no more rights than their entry.

Source: sys/vm/vm_map.c: vm_map_delete, vm_map_entry_unwire, vm_map_wire_entry_failure, vm_map_protect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.vm_fault_copy import vm_fault_copy_entry
from stressvm.vm.freebsd.vm_map_core import MapCore, MapKind
from stressvm.vm.freebsd.vm_object_pages import vm_object_unwire
from stressvm.vm.pages import PageQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry

#: What is to be taken from mappings: where it begins and ends, and the rights that stay.
Loss = tuple[int, int, int]


class Mapped(MapCore):
    """A map that may have memory."""

    # ------------------------------------------------------------ deletion

    async def unmap(self, entry: VmMapEntry) -> None:
        """Before an entry is unlinked: unwire its pages, then remove its mappings. Locks: the write lock throughout."""
        if self.memory is None:
            return
        if entry.wired_count:
            await self.unwire_pages(entry, entry.start, entry.end)
        if self.may_be_mapped(entry):
            await self.pmap_remove(entry.start, entry.end)

    def may_be_mapped(self, entry: VmMapEntry) -> bool:
        """Can there be mappings of it?"""
        raise NotImplementedError

    async def pmap_remove(self, start: int, end: int) -> None:
        """pmap_remove. Locks: the map's write lock throughout; takes the pmap's."""
        assert self.pmap is not None, "there is memory"
        await self.pmap.remove(start, end)

    async def vacated(self, start: int, end: int) -> None:
        """After an entry was unlinked: free its pages, if no other entry can have mapped them. Locks: the write lock."""
        if self.memory is None or self.pmap is None:
            return
        for found in self.pmap.translations(start, end):
            text = f"{found.va:#x} was unmapped, and {self.pmap.name} maps it to {found.pa:#x}"
            raise self.k.panic(f"{self.name}: G14 deleted: {text}", "invariant")
        while self.dropped:
            obj, first, last = self.dropped.pop(0)
            if obj.store is not None:
                await obj.store.page_remove(first, last)
        if self.kind is MapKind.SYSTEM:
            await self.memory.drain()

    # ------------------------------------------------------------ wiring

    async def unwire_pages(self, entry: VmMapEntry, start: int, end: int) -> None:
        """vm_map_entry_unwire's part: the mappings and the pages of a part of an entry are wired no more.

        Locks: the write lock throughout. Sleeps: for busy pages.
        """
        if self.memory is None or self.pmap is None:
            return
        await self.pmap.unwire(start, end)
        first = F.off_to_idx(entry.offset + start - entry.start)
        await vm_object_unwire(self.memory, entry.object, first, F.off_to_idx(end - start), PageQueue.ACTIVE)

    async def unwire_failed(self, failed: int) -> None:
        """vm_map_wire_entry_failure's part: a wiring has failed at that address: what is below, in its entry, is unwired.

        Locks: the write lock throughout. Sleeps: for busy pages.
        """
        if self.memory is None:
            return
        found, entry = self.lookup(failed)
        if found and entry is not None and entry.start < failed:
            await self.unwire_pages(entry, entry.start, failed)

    # ------------------------------------------------------------ protection

    async def prepare_pages(
        self, first: VmMapEntry, end: int, rights_of: Callable[[VmMapEntry], tuple[int, int]]
    ) -> list[Loss]:
        """Before the entries of a range get their rights: copy what must not be copied later; what will be lost.

        Locks: the write lock throughout. Sleeps: for pages and their objects.

        Args:
            first: the first entry.
            end: where the range ends.
            rights_of: the protection that an entry will have, and the most it will be allowed.
        """
        lost: list[Loss] = []
        entry: VmMapEntry | None = first if self.memory is not None else None
        while entry is not None and entry.start < end:
            prot = rights_of(entry)[0]
            if not entry.guard:
                if entry.eflags & F.MAP_ENTRY_USER_WIRED and prot & ~entry.protection & F.VM_PROT_WRITE:
                    await self.copy_wired(entry, prot)
                if entry.protection & ~prot:
                    lost.append((entry.start, entry.end, self.pmap_mask(entry, prot)))
            entry = self.entries.next_of(entry)
        return lost

    async def copy_wired(self, entry: VmMapEntry, prot: int) -> None:
        """vm_fault_copy_entry: what the user has wired becomes writable: it gets its own pages now."""
        assert self.memory is not None, "there is memory"
        assert self.pmap is not None, "there is memory"
        await vm_fault_copy_entry(self.memory, self.pmap, entry, entry, prot)

    def pmap_mask(self, entry: VmMapEntry, prot: int) -> int:
        """What mappings may have of a protection: no writing where it has to be copied for that."""
        return prot & ~F.VM_PROT_WRITE if entry.eflags & F.MAP_ENTRY_COW else prot

    async def take_rights(self, lost: list[Loss]) -> None:
        """After that: mappings lose what their entries have lost. Locks: the write lock throughout."""
        for start, end, prot in lost:
            await self.pmap_protect(start, end, prot)

    async def pmap_protect(self, start: int, end: int, prot: int) -> None:
        """pmap_protect. Locks: the map's write lock throughout; takes the pmap's."""
        assert self.pmap is not None, "there is memory"
        await self.pmap.protect(start, end, prot)

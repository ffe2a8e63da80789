"""FreeBSD's vm_map_delete, step by step. It may have to wait for an entry that somebody else wires or unwires.

Source: sys/vm/vm_map.c, vm_map_delete, vm_map_entry_delete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.vm_map_core import MapKind
from stressvm.vm.freebsd.vm_map_pmap import Mapped

if TYPE_CHECKING:
    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry


class Deletion(Mapped):
    """A map that can be deleted from."""

    async def delete(self, start: int, end: int) -> int:
        """vm_map_delete: unmap [start, end), which must be within the map; holes are no error.

        Locks: the write lock on entry and exit; released while waiting. Sleeps: for entries in transition, and on a
        user map for system wirings to go. What was unmapped before a sleep stays so.

        Returns:
            KERN_SUCCESS; KERN_INVALID_ARGUMENT at an end that is within a large page of a mapping, and what lies below
            it is unmapped.
        """
        self.must_be_locked("vm_map_delete")
        if start == end:
            return F.KERN_SUCCESS
        result, entry = self.first_to_delete(start)
        while not result and entry is not None and entry.start < end:
            if self.must_wait(entry):
                result, entry = await self.wait_to_delete(entry)
                continue
            result = self.clip_end(entry, end)
            if result:
                break
            after = self.entries.next_of(entry)
            if entry.end == self.anon_loc:
                self.anon_loc = entry.start
            start_of, end_of = entry.start, entry.end
            await self.unmap(entry)
            self.delete_entry(entry)
            await self.vacated(start_of, end_of)
            entry = after
        return result

    def first_to_delete(self, start: int) -> tuple[int, VmMapEntry | None]:
        """vm_map_lookup_clip_start: the first entry at or after `start`, clipped out of what it lies in, if it may be."""
        found, entry = self.lookup(start)
        if not found:
            return F.KERN_SUCCESS, self.after(entry)
        assert entry is not None, "what was found"
        return self.clip_start(entry, start), entry

    def must_wait(self, entry: VmMapEntry) -> bool:
        """Is it being wired or unwired, or, in a user map, wired by the system?"""
        return bool(entry.eflags & F.MAP_ENTRY_IN_TRANSITION) or (
            self.kind is MapKind.USER and entry.system_wired_count != 0
        )

    async def wait_to_delete(self, entry: VmMapEntry) -> tuple[int, VmMapEntry | None]:
        """Sleep until somebody is done with an entry; where to go on. Locks: the write lock, released meanwhile."""
        saved_start = entry.start
        if await self.wait_for_entry(entry, lambda: not self.must_wait(entry)):
            return F.KERN_SUCCESS, entry
        return self.first_to_delete(saved_start)

    def delete_entry(self, entry: VmMapEntry) -> None:
        """Unwire it, take it out, give its charge back, and leave its object to the end of this hold of the lock."""
        if entry.wired_count:
            self.unwire_entry(entry)
        opened = self.tree.open(entry.start, before=True, after=True)
        self.changing.delete(entry)
        self.tree.unlinked(opened)
        self.seams.discard(entry.start)
        self.seams.discard(entry.end)
        if not entry.guard:
            self.size -= entry.size
        if entry.cred is not None:
            entry.cred.swap_release(entry.size)
        obj = entry.object
        if obj is not None and obj.unmapped(entry.offset, entry.size):
            self.dropped.append((obj, F.off_to_idx(entry.offset), F.off_to_idx(entry.offset + entry.size)))
        self.dispose_of(entry)

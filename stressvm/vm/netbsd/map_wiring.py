"""NetBSD's struct vm_map: wiring, one small step a method.

Source: sys/uvm/uvm_map.c, uvm_map_pageable and uvm_map_pageable_all.

Wiring has two passes. In the first, under the write lock, entries are clipped and counted. In the second their pages are
faulted in, and faults take the read lock, so the write lock cannot be held. Nor may anybody change the entries
meanwhile, so the map is marked busy: others who want the write lock wait for the mark to go, the marker himself may have
it back, and readers come and go. If a fault fails the marker locks the map again, which under DIAGNOSTIC must be the only
time that anybody has since, and undoes what he has done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.map_change import VmMap as MapChange
from stressvm.vm.netbsd.uvm_object import VmAmap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stressvm.vm.netbsd.vm_map_entry import MapEntry


class VmMap(MapChange):
    """See VmMap, which is the whole of it."""

    def from_entry(self, entry: MapEntry | None, end: int) -> Iterator[MapEntry]:
        """That entry and those after it that begin below `end`; it panics if one leaves the map meanwhile."""
        while entry is not None and entry.start < end:
            yield entry
            entry = self.after(entry)

    def hole_after(self, entry: MapEntry, end: int) -> bool:
        """Is there free space behind the entry, before `end`?"""
        if entry.end >= end:
            return False
        after = self._entries.next_of(entry)
        return after is None or after.start > entry.end

    # ------------------------------------------------------------ unwiring

    def may_unwire(self, first: MapEntry, end: int) -> bool:
        """Is all of it wired, without a hole? Locks: the write lock."""
        return all(entry.wired_count and not self.hole_after(entry, end) for entry in self.from_entry(first, end))

    async def unwire_range(self, first: MapEntry, end: int) -> None:
        """Clip the end and unwire, however often it was wired. Locks: the write lock. Sleeps: as `unwire`."""
        for entry in self.from_entry(first, end):
            self.clip_end(entry, end)
            if entry.wired_count:
                await self.unwire(entry)

    async def unwire_all(self) -> None:
        """The same for all there is. Locks: the write lock. Sleeps: as `unwire`."""
        for entry in self.from_entry(self.entries.first, self.max_offset):
            if entry.wired_count:
                await self.unwire(entry)

    # ------------------------------------------------------------ wiring, pass 1

    def count_range(self, first: MapEntry, start: int, end: int) -> bool:
        """Pass 1: clip, and count one wiring more; False, and the counts as they were, for a hole or protection NONE.

        Locks: the write lock. What has been clipped stays so.
        """
        for entry in self.from_entry(first, end):
            self.needs_copy_resolved(entry)
            self.clip_start(entry, start)
            self.clip_end(entry, end)
            self.entries_field.write()
            entry.wired_count += 1
            if not entry.protection or self.hole_after(entry, end):
                self.uncount_back(entry, start)
                return False
        return True

    def uncount_back(self, entry: MapEntry, start: int) -> None:
        """One wiring less for that entry and those before it that end above `start`."""
        self.entries_field.write()
        before: MapEntry | None = entry
        while before is not None and before.end > start:
            before.wired_count -= 1
            before = self._entries.prev_of(before)

    def needs_copy_resolved(self, entry: MapEntry) -> None:
        """What a fault would need the write lock for: a copy-on-write entry that may be written gets its own amap."""
        if entry.wired_count or not entry.etype & F.UVM_ET_NEEDSCOPY:
            return
        self.entries_field.write()
        if entry.max_protection & F.VM_PROT_WRITE or entry.object is None:
            self.amap_copy(entry)

    def amap_copy(self, entry: MapEntry) -> bool:
        """amap_copy: an amap of its own for an entry that NEEDSCOPY. Locks: the write lock. Sleeps: no.

        Returns: is that done? (Here it always is; without memory it would not be.)
        """
        if entry.amap is None or entry.amap.refs > 1:
            if entry.amap is not None:
                entry.amap.unref()
            entry.amap, entry.pageoff = VmAmap(), 0
        entry.etype &= ~F.UVM_ET_NEEDSCOPY
        return True

    # ------------------------------------------------------------ wiring, pass 2

    async def fault_range(self, first: MapEntry | None, end: int) -> tuple[int, MapEntry | None]:
        """Pass 2: fault in what is wired for the first time.

        Locks: none; the map is busy by the caller. Sleeps: what faults do may.

        Returns:
            (0, None), or an error and the entry that it came from.
        """
        for entry in self.from_entry(first, end):
            if entry.wired_count == 1:
                error = await self.fault.wire(self.whole(), entry.start, entry.end, entry.max_protection)
                if error:
                    return error, entry
        return 0, None

    def prove_wired(self, first: MapEntry | None, end: int) -> None:
        """The model's own: over pages, what is wired now has its pages, and they are wired. The map is still busy."""
        if self.memory is None:
            return
        for entry in self.from_entry(first, end):
            if entry.wired_count and entry.object is self.memory.kernel_object:
                self.memory.wired_down(self, entry.start, entry.end)

    async def lock_again(self, timestamp: int) -> None:
        """After a fault failed: the write lock again, the mark off, and under DIAGNOSTIC: has nobody else locked it?

        Locks: none on entry, the write lock on exit. Sleeps: for readers, and for misc_lock.
        """
        await self.lock.lock()
        await self.lock.unbusy()
        if self.diagnostic and (timestamp + 1) & self.lock.timestamp_mask != self.lock.timestamp.peek():
            raise self.k.panic("uvm_map_pageable: stale map")

    async def undo_range(self, first: MapEntry, failed: MapEntry, end: int) -> None:
        """One wiring less for all; what that leaves unwired is unwired for good.

        Of the entry that failed, uvm_fault_wire has unwired the pages already. Locks: the write lock. Sleeps: as `unwire`.
        """
        self.entries_field.write()
        for entry in self.from_entry(failed, end):
            entry.wired_count -= 1
        for entry in self.from_entry(first, end):
            if entry is failed:
                break
            entry.wired_count -= 1
            if not entry.wired_count:
                await self.unwire(entry)

    # ------------------------------------------------------------ all at once

    def wirable_bytes(self) -> int:
        """What uvm_map_pageable_all would wire anew. Locks: the write lock."""
        return sum(entry.end - entry.start for entry in self.entries if entry.protection and not entry.wired_count)

    def count_all(self) -> None:
        """One wiring more for all that can be accessed. Locks: the write lock."""
        for entry in self.changing:
            if entry.protection:
                self.needs_copy_resolved(entry)
                entry.wired_count += 1

    async def undo_all(self, failed: MapEntry) -> None:
        """As `undo_range`, for uvm_map_pageable_all. Locks: the write lock. Sleeps: as `unwire`.

        The source has the last test the wrong way round: entries that somebody else has wired, too, are unwired for good,
        and the pages of those that nobody else has stay wired. So it is here.
        """
        self.entries_field.write()
        for entry in self.from_entry(failed, self.max_offset):
            if entry.protection:
                entry.wired_count -= 1
        for entry in self.from_entry(self.entries.first, self.max_offset):
            if entry is failed:
                break
            if not entry.protection:
                continue
            entry.wired_count -= 1
            if entry.wired_count:
                await self.unwire(entry)

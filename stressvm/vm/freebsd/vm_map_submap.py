"""Submaps: a range of one map that another map looks after.

Source: sys/vm/vm_map.c, vm_map_submap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.vm_map_core import MapCore, MapKind

if TYPE_CHECKING:
    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry


class Submaps(MapCore):
    """A map that others can look after parts of."""

    async def submap(self, start: int, end: int, submap: MapCore) -> int:
        """vm_map_submap. Locks: none on entry and exit. Sleeps: for this map's lock."""
        await self.lock.lock()
        result = self.submap_locked(start, end, submap)
        await self.lock.unlock()
        return result

    def submap_locked(self, start: int, end: int, submap: MapCore) -> int:
        """Leave [start, end), cut to the map, to a submap. Locks: the write lock. Returns: as vm_map_submap."""
        if submap is self or any(entry.sub_map is not None for entry in submap.entries):
            raise UsageError(
                f"vm_map_submap({self.name}, {submap.name}): a submap can be no map that has submaps, or itself"
            )
        start, end = self.range_check(start, end)
        error, entry = self.cut_out(start, end)
        if error or entry is None:
            return error or F.KERN_INVALID_ARGUMENT
        entry.sub_map = submap
        self.entries_field.write()
        entry.eflags |= F.MAP_ENTRY_IS_SUB_MAP
        return F.KERN_SUCCESS

    def cut_out(self, start: int, end: int) -> tuple[int, VmMapEntry | None]:
        """The entry that is to be left to a submap, clipped; or KERN_*, or None for one that cannot be."""
        raise NotImplementedError

    def submap_flags(self) -> int:
        """The flags of a map that is a submap of this one."""
        return 0

    def free_for_submap(self, entry: VmMapEntry) -> bool:
        """Has nobody done anything with it yet?"""
        return not entry.eflags & F.MAP_ENTRY_COW and entry.object is None and entry.sub_map is None

    def clip_both(self, entry: VmMapEntry, start: int, end: int) -> int:
        """Clip an entry to a range. Returns: KERN_*."""
        if self.kind is not MapKind.SYSTEM and (entry.start < start or entry.end > end):
            raise UsageError(f"vm_map_submap: {self.name} is no system map: an entry must be left to a submap whole")
        return self.clip_start(entry, start) or self.clip_end(entry, end)


class Submaps2013(Submaps):
    """Submaps of 10.4."""

    def cut_out(self, start: int, end: int) -> tuple[int, VmMapEntry | None]:
        """Clip first, ask then: the range must be all of an entry now. What was clipped stays so."""
        found, entry = self.lookup(start)
        if not found:
            entry = self.after(entry)
        if entry is None or entry.start >= end:
            return F.KERN_INVALID_ARGUMENT, None
        self.clip_both(entry, start, end)
        alone = entry.start == start and entry.end == end
        return F.KERN_SUCCESS, entry if alone and self.free_for_submap(entry) else None


class Submaps13(Submaps):
    """Submaps of 13.0."""

    def back(self, entry: VmMapEntry) -> None:
        """A range that was left to a submap is not clipped."""
        if entry.eflags & F.MAP_ENTRY_IS_SUB_MAP:
            self.kassert_failed(f"vm_map_entry_clone: KASSERT: {entry!r} belongs to a submap")
        super().back(entry)

    async def submap(self, start: int, end: int, submap: MapCore) -> int:
        """vm_map_submap: the submap says that it is one, before anything is checked.

        Locks: none on entry and exit; the submap's, then this map's, and after a failure the former again. Sleeps: for
        them.
        """
        await submap.lock.lock()
        submap.flags |= F.MAP_IS_SUB_MAP
        await submap.lock.unlock()
        result = await super().submap(start, end, submap)
        if result:
            await submap.lock.lock()
            submap.flags &= ~F.MAP_IS_SUB_MAP
            await submap.lock.unlock()
        return result

    def submap_flags(self) -> int:
        """It says that it is one."""
        return F.MAP_IS_SUB_MAP

    def cut_out(self, start: int, end: int) -> tuple[int, VmMapEntry | None]:
        """Ask first, clip then: the range must be part of one entry."""
        found, entry = self.lookup(start)
        if not found or entry is None or entry.end < end or not self.free_for_submap(entry):
            return F.KERN_INVALID_ARGUMENT, None
        return self.clip_both(entry, start, end), entry

"""NetBSD's struct vm_map: protection, inheritance, advice, submaps; one small step a method.

Source: sys/uvm/uvm_map.c, uvm_map_protect, uvm_map_inherit, uvm_map_advice, uvm_map_submap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.map_wiring import VmMap as MapWiring

if TYPE_CHECKING:
    from stressvm.vm.netbsd.vm_map import VmMap as WholeMap
    from stressvm.vm.netbsd.vm_map_entry import MapEntry


class VmMap(MapWiring):
    """See VmMap, which is the whole of it."""

    def may_protect(self, first: MapEntry | None, end: int, new_prot: int) -> int:
        """uvm_map_protect, pass 1: 0, EINVAL for a submap, EACCES for more than an entry may have. Nothing changes."""
        for entry in self.from_entry(first, end):
            if entry.etype & F.UVM_ET_SUBMAP:
                return F.EINVAL
            if new_prot & ~entry.max_protection:
                return F.EACCES
        return 0

    def set_protection(self, entry: MapEntry, new_prot: int, *, set_max: bool) -> int:
        """Change one entry; the protection that it had."""
        self.entries_field.write()
        old_prot = entry.protection
        if set_max:
            entry.max_protection = new_prot
            entry.protection = new_prot & old_prot
        else:
            entry.protection = new_prot
        return old_prot

    def to_wire(self, first: MapEntry, changed: MapEntry) -> MapEntry:  # noqa: ARG002 - see below
        """VM_MAP_WIREFUTURE: the entry to wire when one has become accessible: the first of the range.

        The source means the one that was changed, and looks at the first. So of several entries that become accessible
        at once only the first is wired.
        """
        return first

    def wires_future(self, first: MapEntry, changed: MapEntry, old_prot: int, new_prot: int) -> MapEntry | None:
        """The entry to wire now, if any: with WIREFUTURE what could not be accessed and can now be."""
        if not self.flags.peek() & F.VM_MAP_WIREFUTURE or old_prot or not new_prot:
            return None
        entry = self.to_wire(first, changed)
        return None if entry.wired_count else entry

    def make_submap(self, start: int, end: int, submap: WholeMap) -> int:
        """uvm_map_submap, with the map locked: 0, or EINVAL unless [start, end) is one blank entry once it is clipped."""
        start, end = self.range_check(start, end)
        found, entry = self.lookup(start)
        if not found or entry is None:
            return F.EINVAL
        self.clip_start(entry, start)
        self.clip_end(entry, end)
        blank = not entry.etype and entry.object is None and entry.amap is None
        if (entry.start, entry.end) != (start, end) or not blank:
            return F.EINVAL
        self.entries_field.write()
        entry.etype |= F.UVM_ET_SUBMAP
        entry.sub_map = submap
        self.ghost.plain = False
        submap.ref_count += 1
        submap.parent = self
        self.submaps.append(submap)
        return 0

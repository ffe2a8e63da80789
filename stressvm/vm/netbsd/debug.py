"""What a kernel built with DEBUG checks about a map, as it checks it, mistakes included.

Source: sys/uvm/uvm_map.c, _uvm_mapent_check, _uvm_map_sanity, _uvm_tree_sanity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from stressvm.vm.netbsd.map_base import VmMap as MapBase
    from stressvm.vm.netbsd.vm_map_entry import MapEntry


def mapent_fits(entry: MapEntry) -> bool:
    """_uvm_mapent_check: has the entry some addresses, what its type says, and no offset without an object?"""
    if entry.start >= entry.end:
        return False
    if entry.etype & F.UVM_ET_OBJ:
        return entry.object is not None
    if entry.etype & F.UVM_ET_SUBMAP:
        return entry.sub_map is not None and not entry.offset
    return entry.object is None and entry.sub_map is None and not entry.offset


def map_sanity(vm_map: MapBase) -> str | None:
    """_uvm_map_sanity: first_free is in the list and no gap is before it; the hint is in the list."""
    found, end = vm_map.first_free is None, vm_map.min_offset
    hint = vm_map.hint is None
    for entry in vm_map.entries:
        if not found and entry.start > end:
            return f"first_free {vm_map.first_free!r} should be before {entry!r}"
        found |= entry is vm_map.first_free
        hint |= entry is vm_map.hint
        end = entry.end
    if not found:
        return "stale first_free"
    return None if hint else "stale hint"


def tree_sanity(vm_map: MapBase) -> str | None:
    """_uvm_tree_sanity: gaps and order, and a look-up of every entry by its start.

    On 6 the look-up's comparison never says "equal", so it fails for the first entry. On 5.2 no gap may be as long as
    the sum of all entries, where the length of the map is meant.
    """
    entries = vm_map.entries
    limit = vm_map.size if vm_map.version == "5.2" else vm_map.max_offset - vm_map.min_offset
    for entry in entries:
        if entries.gap_after(entry) >= limit:
            meant = "map->size" if vm_map.version == "5.2" else "vm_map_max(map) - vm_map_min(map)"
            return f"KASSERT(tmp->gap < {meant}): {entry!r} is followed by {entries.gap_after(entry):#x} free bytes"
    if vm_map.version == "6" and entries.first is not None:
        return f"lookup: {entries.first!r} is not found by its start"
    return None

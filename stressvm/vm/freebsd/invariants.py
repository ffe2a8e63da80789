"""What must hold whenever nobody is changing a map, one named check each; they run at every release of the write lock.

The numbers are those of the catalogue of invariants in the docs. G3 and G4 are about the tree: the entry list proves the
like of its lanes, and a map that keeps a splay tree proves that, too.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.references import references

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.vm.freebsd.vm_map_core import MapCore
    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry
    from stressvm.vm.pmap import PhysPage, Translation

#: With so many translations or fewer, each is held against its entry.
TRANSLATIONS_MAX: Final = 256


def structure(vm_map: MapCore) -> str | None:
    """G1 to G4: entries in order, within the map, counted; every recorded gap is what it says."""
    try:
        vm_map.entries._check()  # noqa: SLF001 - the entries' own proof
        vm_map.tree.check()
    except AssertionError as exc:
        return str(exc)
    return None


def size(vm_map: MapCore) -> str | None:
    """G2: the map's size is the sum of all entries but the guards."""
    total = sum(entry.size for entry in vm_map.entries if not entry.guard)
    return None if total == vm_map.size else f"size is {vm_map.size:#x}, but the entries add up to {total:#x}"


def bounds(vm_map: MapCore) -> str | None:
    """G5: the map's ends stay where they were."""
    now = (vm_map.entries.min, vm_map.entries.max)
    return None if now == vm_map.bounds else f"the map was {_range(*vm_map.bounds)} and is {_range(*now)}"


def rights(vm_map: MapCore) -> str | None:
    """G6: no more rights than the most allowed; wirings add up."""
    for entry in vm_map.entries:
        if entry.protection & ~entry.max_protection:
            return f"{entry!r} has protection {entry.protection} beyond {entry.max_protection}"
        moving = bool(entry.eflags & F.MAP_ENTRY_IN_TRANSITION)
        if entry.wired_count < (-1 if moving else 0):
            return f"{entry!r} is wired {entry.wired_count} times"
        if entry.eflags & F.MAP_ENTRY_USER_WIRED:
            if entry.wired_count < 1:
                return f"{entry!r} is wired by the user, but wired {entry.wired_count} times"
            if vm_map.fault.copies and entry.eflags & F.MAP_ENTRY_NEEDS_COPY and entry.protection & F.VM_PROT_WRITE:
                return f"{entry!r} is wired and writable, but still needs to be copied"
    return None


def flags(vm_map: MapCore) -> str | None:
    """G8: a guard has nothing; a submap is never copied on write; what needs a copy is."""
    for entry in vm_map.entries:
        eflags = entry.eflags
        if entry.guard and (entry.protection or entry.max_protection or _holds(entry)):
            return f"{entry!r} is a guard with rights, an object, a submap or a charge"
        if eflags & F.MAP_ENTRY_IS_SUB_MAP and eflags & F.MAP_ENTRY_COW:
            return f"{entry!r} is a submap to be copied on write"
        if bool(eflags & F.MAP_ENTRY_IS_SUB_MAP) != (entry.sub_map is not None):
            return f"{entry!r} has a submap, or says so, but not both"
        if eflags & F.MAP_ENTRY_NEEDS_COPY and not eflags & F.MAP_ENTRY_COW:
            return f"{entry!r} needs a copy, but is not copied on write"
    return None


def transition(vm_map: MapCore) -> str | None:
    """G7: what is in transition has an owner, and nothing else; only what will be woken is waited for.

    A fork copies the mark of an entry that is waited for, though nobody waits in the new map.
    """
    for entry in vm_map.entries:
        moving = bool(entry.eflags & F.MAP_ENTRY_IN_TRANSITION)
        if moving != (entry.wiring_thread >= 0):
            return f"{entry!r} is {'' if moving else 'not '}in transition, and its owner is {entry.wiring_thread}"
        waited_for = entry.eflags & F.MAP_ENTRY_NEEDS_WAKEUP and not vm_map.forked
        if waited_for and not moving and entry.system_wired_count <= 0:
            return f"{entry!r} is waited for, and neither in transition nor wired by the system"
    return None


def merged(vm_map: MapCore) -> str | None:
    """G9: alike neighbours only where nobody has tried to merge them, after a clip."""
    for prev, entry in pairwise(vm_map.entries):
        if entry.start not in vm_map.seams and vm_map.may_merge(prev, entry):
            return f"{prev!r} and {entry!r} should have been merged"
    return None


def translations(vm_map: MapCore) -> str | None:
    """G15: every translation lies in an entry that allows as much, to write only what need not be copied for that.

    For a map with memory, as long as its pmap is small. What belongs to a submap is that one's affair.
    """
    pmap = vm_map.pmap
    if pmap is None or pmap.resident_count > TRANSLATIONS_MAX:
        return None
    pmap.tables.used(write=False)
    for found in pmap.translations(*vm_map.bounds):
        known, entry = vm_map.entries.lookup(found.va)
        if not known or entry is None or found.va + found.size > entry.end:
            return f"{pmap.name} maps {found.va:#x} to {found.pa:#x}, which is in no entry"
        if wrong := _exceeds(found, entry):
            return f"{pmap.name} maps {found.va:#x} to {found.pa:#x} {wrong}, of {entry!r} with protection {entry.protection}"
    return None


def pages(vm_map: MapCore) -> str | None:
    """G15: what a translation leads to is the page that its entry maps, of the object or of one that it shadows.

    For a map with memory, as long as its pmap is small; of entries with objects. Which of the objects in a chain it should
    be is not asked: while a page is being copied, it may be either.
    """
    pmap = vm_map.pmap
    if pmap is None or pmap.resident_count > TRANSLATIONS_MAX:
        return None
    pmap.tables.used(write=False)
    for found in pmap.translations(*vm_map.bounds):
        known, entry = vm_map.entries.lookup(found.va)
        if not known or entry is None or entry.object is None:
            continue
        for va in range(found.va, found.va + found.size, F.PAGE_SIZE):
            page = pmap.machine.md(found.pa + va - found.va).page
            if not _maps(entry, va, page):
                return f"{pmap.name} maps {va:#x} to {page!r}, which is not what {entry!r} maps there"
    return None


def _maps(entry: VmMapEntry, va: int, page: PhysPage) -> bool:
    pindex = F.off_to_idx(va - entry.start + entry.offset)
    obj = entry.object
    while obj is not None:
        if obj.store is not None and obj.store.pages.lookup(pindex) is page:
            return True
        pindex += F.off_to_idx(obj.backing_object_offset)
        obj = obj.backing_object
    return False


def _exceeds(found: Translation, entry: VmMapEntry) -> str | None:
    """Every translation can be read; so only no rights at all are less than that."""
    if entry.sub_map is not None:
        return None
    if not entry.protection:
        return "although nothing is allowed"
    if found.prot & F.VM_PROT_WRITE:
        if not entry.protection & F.VM_PROT_WRITE:
            return "for writing"
        if entry.eflags & F.MAP_ENTRY_NEEDS_COPY:
            return "for writing, though it needs to be copied for that"
    if found.prot & ~entry.protection & F.VM_PROT_EXECUTE:
        return "for executing"
    return None


def _holds(entry: VmMapEntry) -> bool:
    return entry.object is not None or entry.sub_map is not None or entry.cred is not None


def _range(start: int, end: int) -> str:
    return f"{start:#x}-{end:#x}"


#: Each by the name that a panic gives it.
INVARIANTS: Final[dict[str, Callable[[MapCore], str | None]]] = {
    "G1-G4 structure": structure,
    "G2 size": size,
    "G5 bounds": bounds,
    "G6 rights": rights,
    "G7 transition": transition,
    "G8 flags": flags,
    "G9 merged": merged,
    "G15 translations": translations,
    "G15 pages": pages,
    "G19 references": references,
}

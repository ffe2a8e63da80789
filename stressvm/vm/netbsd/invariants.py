"""What must hold whenever nobody is changing a map, one named check each.

The numbers are those of the catalogue of invariants in the docs. `INVARIANTS` run at every release of the write lock,
while it is still held; `ON_ACQUIRE` right after every successful acquisition. (The loop of vm_map_lock that gives the
lock back because somebody else has marked the map busy has acquired nothing and changed nothing.)

Most releases have nothing to show, and to find that out must be cheap: `nothing_wrong` looks once, and only where it is
not sure do the named checks run, and say what is wrong.

G9 is about the red-black tree; the entry list proves the like of its lanes, with G1 to G4. G11 is asserted where entries
are freed (uvm_unmap_detach), and G14 by the kernel's sleeping rules. G15 and G17 are about pages, and are in `memory`: they are
checked where addresses are handed out, returned and given back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.kernel.kernel import Timers
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.vm.netbsd.map_base import VmMap as MapBase
    from stressvm.vm.netbsd.vm_map_entry import MapEntry


def structure(vm_map: MapBase) -> str | None:
    """G1 to G4, and G9's like: entries in order, within the map, counted; every recorded gap is what it says."""
    try:
        vm_map.entries._check()  # noqa: SLF001 - the entries' own proof
    except AssertionError as exc:
        return str(exc)
    return None


def size(vm_map: MapBase) -> str | None:
    """G5: the map's size is the sum of its entries, and of what the kernel forgot to take off it.

    That is what uvm_map_extract removes from its source, and on 5.2 what uvm_map_replace gives up.
    """
    total = sum(entry.end - entry.start for entry in vm_map.entries)
    if total + vm_map.ghost.forgotten == vm_map.size:
        return None
    return f"size is {vm_map.size:#x}, but the entries add up to {total:#x}"


def first_free(vm_map: MapBase) -> str | None:
    """G6: first_free is in the list, and no gap is before it."""
    if vm_map.first_free is None:
        return None
    end = vm_map.min_offset
    for entry in vm_map.entries:
        if entry.start != end:
            break
        if entry is vm_map.first_free:
            return None
        end = entry.end
    return f"first_free is {vm_map.first_free!r}, and there is a gap before it"


def hint(vm_map: MapBase) -> str | None:
    """G7: the hint is in the list."""
    if vm_map.hint is None or vm_map.hint.owner is vm_map.entries:
        return None
    return f"the hint is {vm_map.hint!r}, which is not in the map"


def entry_type(entry: MapEntry) -> bool:
    """Has the entry what its type says?"""
    etype = entry.etype
    return (
        bool(etype & F.UVM_ET_OBJ) == (entry.object is not None)
        and bool(etype & F.UVM_ET_SUBMAP) == (entry.sub_map is not None)
        and (entry.object is None or entry.sub_map is None)
        and (not entry.offset or entry.object is not None)
    )


def types(vm_map: MapBase) -> str | None:
    """G8: an entry has an object or a submap exactly if its type says so, and an offset only with an object."""
    for entry in vm_map.entries:
        if (entry.etype or entry.object or entry.sub_map or entry.offset) and not entry_type(entry):
            return (
                f"{entry!r} has type {entry.etype:#x}, object {entry.object!r}, submap {entry.sub_map!r}, "
                f"offset {entry.offset:#x}"
            )
    return None


def nomerge(vm_map: MapBase) -> str | None:
    """G10: a NOMERGE entry never grows."""
    for entry in vm_map.entries:
        if entry.flags & F.UVM_MAP_NOMERGE:
            seen = entry.seen
            if seen is not None and (entry.start < seen[0] or entry.end > seen[1]):
                return f"{entry!r} is NOMERGE, and has grown from {seen[0]:#x}-{seen[1]:#x}"
            entry.seen = (entry.start, entry.end)
    return None


def timestamp(vm_map: MapBase) -> str | None:
    """G12: the timestamp has moved by one with each write acquisition (modulo 2**32); an INTRSAFE map's never moves."""
    lock = vm_map.lock
    expected = vm_map.ghost.acquired & lock.timestamp_mask
    now = lock.timestamp.peek()
    return None if now == expected else f"the timestamp is {now}, after {vm_map.ghost.acquired} acquisitions"


def unlocked_busy(vm_map: MapBase) -> str | None:
    """G22: who unlocks the map leaves it not busy, or busy by himself."""
    return _busy_by_other(vm_map) if vm_map.lock.write_held() else None


def busy(vm_map: MapBase) -> str | None:
    """G13: nobody but the one who marked the map busy gets the write lock."""
    return _busy_by_other(vm_map)


def _busy_by_other(vm_map: MapBase) -> str | None:
    k, marker = vm_map.k, vm_map.lock.busy_thread
    if marker < 0 or marker == k.cur:
        return None
    return f"{k.threads[k.cur].name} has the write lock, and {k.threads[marker].name} has marked the map busy"


def placed(vm_map: MapBase) -> str | None:
    """G16: what uvm_map has found lies within the map, aligned as asked."""
    if vm_map.ghost.placed is None:
        return None
    start, end, align, offset, _, _ = vm_map.ghost.placed
    if start % align != offset or not vm_map.min_offset <= start < end <= vm_map.max_offset:
        return f"{start:#x}-{end:#x} was found for alignment {align:#x}, remainder {offset:#x}"
    return None


def union(vm_map: MapBase) -> str | None:
    """G21: a new range, merged with its neighbours or not, adds its own addresses to what is mapped, and no others."""
    if vm_map.ghost.placed is None:
        return None
    start, end, _, _, left, right = vm_map.ghost.placed
    _, entry = vm_map.entries.lookup(left)
    at = left
    while entry is not None and entry.start == at and at < right:
        at = entry.end
        entry = vm_map.entries.next_of(entry)
    if at == right:
        return None
    return f"{start:#x}-{end:#x} was added, so entries should cover {left:#x}-{right:#x}, no less, no more"


def static(vm_map: MapBase) -> str | None:
    """G18: a STATIC range stays mapped."""
    for start, end in vm_map.ghost.static:
        found, entry = vm_map.entries.lookup(start)
        if not found or entry is None or not entry.flags & F.UVM_MAP_STATIC or entry.end < end:
            return f"the STATIC range {start:#x}-{end:#x} is no longer mapped"
    return None


def waiters(vm_map: MapBase) -> str | None:
    """G19: who sleeps for addresses without a time limit had failed to find some, and nobody had locked the map since.

    That is, when it decided to sleep; a writer may come between that and the sleep, and then wakes it if it has freed
    any. INTRSAFE maps never move their timestamp, so there it tells nothing.
    """
    sleepers = vm_map.lock.cv.waiters
    if not sleepers or vm_map.intrsafe or vm_map.k.timers_mode is Timers.NEVER:
        return None
    k = vm_map.k
    for number in sleepers:
        wait = vm_map.ghost.waits.get(number)
        if wait is not None and number not in k.timers and wait[0] != wait[1]:
            return f"{k.threads[number].name} sleeps without a limit, and had not looked since the map was last locked"
    return None


def lock_order(vm_map: MapBase) -> str | None:
    """G20: misc_lock is not held when the map is locked, and a map is never locked together with its submap."""
    me = vm_map.k.cur
    who = vm_map.k.threads[me].name
    if vm_map.lock.misc_lock.owner == me:
        return f"{who} has locked the map while it held {vm_map.lock.misc_lock.ident.name}"
    for other in (vm_map.parent, *vm_map.submaps) if vm_map.parent is not None else vm_map.submaps:
        if other.lock.write_held():
            return f"{who} has locked the map together with {other.name}"
    return None


def nothing_wrong(vm_map: MapBase) -> bool:
    """Do all of INVARIANTS hold, as far as one look can tell? False: they may not, so ask each one."""
    entries, ghost, lock = vm_map.entries, vm_map.ghost, vm_map.lock
    try:
        total = entries._check()  # noqa: SLF001 - the entries' own proof
    except AssertionError:
        return False
    if lock.timestamp.value != ghost.acquired & lock.timestamp_mask or (
        vm_map.hint is not None and vm_map.hint.owner is not entries
    ):
        return False
    if (lock.busy_now >= 0 and unlocked_busy(vm_map)) or (lock.cv.waiters and waiters(vm_map)):
        return False
    if ghost.static and static(vm_map):
        return False
    if not ghost.plain:
        for entry in entries:
            seen = entry.seen
            if entry.flags & F.UVM_MAP_NOMERGE and seen != (entry.start, entry.end) and nomerge(vm_map) is not None:
                return False
            if (entry.etype or entry.object is not None or entry.offset) and not entry_type(entry):
                return False
    if total + ghost.forgotten != vm_map.size:
        return False
    free = vm_map.first_free
    at_min = free is None or (free.start == entries.min and free.owner is entries)
    if not at_min and first_free(vm_map) is not None:
        return False
    new = ghost.placed
    if new is None:
        return True
    _, at = entries.lookup(new[0])
    if at is None or ((at.start != new[4] or at.end != new[5]) and union(vm_map) is not None):
        return False
    return new[2] == 1 or placed(vm_map) is None


#: Each by the name that a panic gives it.
INVARIANTS: Final[dict[str, Callable[[MapBase], str | None]]] = {
    "G1-G4 structure": structure,
    "G5 size": size,
    "G6 first_free": first_free,
    "G7 hint": hint,
    "G8 types": types,
    "G10 nomerge": nomerge,
    "G12 timestamp": timestamp,
    "G16 placed": placed,
    "G18 static": static,
    "G19 waiters": waiters,
    "G21 union": union,
    "G22 unlocked busy": unlocked_busy,
}
ON_ACQUIRE: Final[dict[str, Callable[[MapBase], str | None]]] = {
    "G13 busy": busy,
    "G20 lock order": lock_order,
}

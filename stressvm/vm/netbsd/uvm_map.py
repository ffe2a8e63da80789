"""The calls of uvm_map(9) that make and remove mappings, by their names in the kernel.

A call that is given an object takes over one reference of the caller's if it succeeds, and leaves it with the caller if
it does not.

Source: sys/uvm/uvm_map.c 1.324 ("6") and 1.263.4.5 ("5.2").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.vm_map_entry import MapEntry
from stressvm.vm.stale import bury

if TYPE_CHECKING:
    from stressvm.vm.netbsd.kmapent import EntryPage
    from stressvm.vm.netbsd.uvm_object import UvmObject
    from stressvm.vm.netbsd.vm_map import VmMap

#: Flags that mean something for a new entry, or forbid it; most calls have none of them.
_RARE = F.UVM_FLAG_COPYONW | F.UVM_FLAG_OVERLAY | F.UVM_FLAG_QUANTUM
#: Flags with which `align` may be 0 and still mean something.
_REMAINDERS = F.UVM_FLAG_COLORMATCH | F.PMAP_PREFERRED


async def uvm_map(
    vm_map: VmMap,
    addr: int,
    size: int,
    *,
    uobj: UvmObject | None = None,
    uoffset: int = F.UVM_UNKNOWN_OFFSET,
    align: int = 0,
    flags: int = 0,
    prot: int = F.VM_PROT_ALL,
    maxprot: int = F.VM_PROT_ALL,
    inherit: int = F.MAP_INHERIT_NONE,
    advice: int = F.UVM_ADV_NORMAL,
) -> tuple[int, int]:
    """Establish a mapping, of an object or of memory that will be anonymous.

    It becomes part of a neighbouring entry if the two touch and are alike, unless UVM_FLAG_NOMERGE keeps it apart.

    Locks: none on entry and exit. Sleeps: for the map's lock unless UVM_FLAG_TRYLOCK (NOWAIT does not prevent it), for
    addresses with UVM_FLAG_WAITVA. Panics on a size that is no whole number of pages, on an alignment that is no power of
    two, on NOWAIT with WAITVA, and on an unknown offset in an object that is not the kernel's.

    Args:
        vm_map: where.
        addr: a hint, or with UVM_FLAG_FIXED the place; bytes.
        size: bytes, whole pages.
        uobj: what to map, or None.
        uoffset: from which byte of it on. UVM_UNKNOWN_OFFSET for a kernel object: its distance from kernel_map's minimum.
            Without an object it only says with what the address shall agree on a machine with PMAP_PREFER.
        align: a power of two in bytes, or 0 for none; with UVM_FLAG_COLORMATCH (6) a page colour.
        flags: UVM_FLAG_FIXED, NOMERGE, TRYLOCK, NOWAIT, WAITVA; COPYONW, OVERLAY (an amap at once); COLORMATCH (6),
            QUANTUM (5.2, kernel maps).
        prot: the protection, within `maxprot`.
        maxprot: the most that it may become.
        inherit: MAP_INHERIT_*.
        advice: UVM_ADV_*.

    Returns:
        (0, address), or an error and 0: EACCES for `prot` beyond `maxprot`, and on 6 for address 0 of a user map; EAGAIN
        for a lock that TRYLOCK did not get; ENOMEM for no room, or with NOWAIT no memory for a map entry.

    Source: sys/uvm/uvm_map.c, uvm_map.
    """
    k = vm_map.k
    if size & (F.PAGE_SIZE - 1):
        raise k.panic(f"uvm_map: KASSERT: size {size:#x} is no whole number of pages")
    if vm_map.kind is F.MapKind.PAGER:
        flags |= F.UVM_FLAG_NOMERGE
    vm_map.check_request(size, flags)
    if prot & ~maxprot:
        return F.EACCES, 0
    if flags & _RARE:
        _check_flags(vm_map, flags)
    spare: EntryPage | None = None
    if not vm_map.ordinary:
        if uoffset != F.UVM_UNKNOWN_OFFSET and vm_map.machine.prefer > F.PAGE_SIZE:
            align, flags = _preferred(vm_map, uoffset, align, flags)
        if _refused(vm_map, addr, flags):
            return _refused(vm_map, addr, flags), 0
        if vm_map.kmapents is not None:
            spare = await vm_map.kmapents.alloc(flags)
            if spare is None:
                return F.ENOMEM, 0
    error, va = await vm_map.prepare(addr, size, align, flags)
    if error:
        if spare is not None and vm_map.kmapents is not None:
            await vm_map.kmapents.give(spare)
        return error, 0
    entry = MapEntry(va, va + size)
    entry.protection = prot
    entry.max_protection = maxprot
    entry.inheritance = inherit
    entry.advice = advice
    if flags & F.UVM_FLAG_NOMERGE:
        entry.flags |= F.UVM_MAP_NOMERGE
    if flags & _RARE:
        _dress(entry, flags)
    if uobj is not None:
        _back(vm_map, entry, uobj, uoffset)
    if spare is not None:
        entry.home = spare
    if (align or flags & _REMAINDERS) and not flags & F.UVM_FLAG_FIXED:
        vm_map.ghost.asked = vm_map.alignment(align, flags)
    error = await vm_map.enter(va, entry, flags)
    if (
        vm_map.debug
        and vm_map.memory is not None
        and not error
        and vm_map.options & F.Options.DEBUG
        and vm_map.is_kernel
    ):
        await vm_map.memory.check_empty(vm_map, va, va + size)
    return error, 0 if error else va


def _refused(vm_map: VmMap, addr: int, flags: int) -> int:
    """Before anything is locked: EACCES for address 0 of a process (6), ENOMEM for no entry for pager_map."""
    if vm_map.kind is F.MapKind.USER and vm_map.version != "5.2" and flags & F.UVM_FLAG_FIXED and not addr:
        return F.EACCES
    if vm_map.kind is F.MapKind.PAGER and flags & F.UVM_FLAG_NOWAIT and not vm_map.entry_available():
        return F.ENOMEM
    return 0


def _check_flags(vm_map: VmMap, flags: int) -> None:
    """What uvm_map asserts about flags, and what a version does not have."""
    if flags & F.UVM_FLAG_QUANTUM:
        if vm_map.version != "5.2":
            raise UsageError(f"version={vm_map.version!r} has no UVM_FLAG_QUANTUM; ask for version='5.2'")
        if not vm_map.is_kernel:
            raise vm_map.k.panic("uvm_map: KASSERT: QUANTUM on a user map")


def _preferred(vm_map: VmMap, uoffset: int, align: int, flags: int) -> tuple[int, int]:
    """PMAP_PREFER: the search shall look for addresses that agree with the offset; its alignment and flags."""
    prefer = vm_map.machine.prefer
    if flags & F.UVM_FLAG_FIXED:
        return align, flags
    if flags & F.UVM_FLAG_COLORMATCH or align > F.PAGE_SIZE:
        raise UsageError(f"uvm_map(align={align:#x}): an alignment on a machine with PMAP_PREFER is not modelled")
    return uoffset & (prefer - 1), flags | F.PMAP_PREFERRED


def _back(vm_map: VmMap, entry: MapEntry, uobj: UvmObject, uoffset: int) -> None:
    """Put an object behind a new entry."""
    if uoffset == F.UVM_UNKNOWN_OFFSET:
        if not uobj.kernel:
            raise vm_map.k.panic(f"uvm_map_prepare: KASSERT: unknown offset in {uobj!r}, which is no kernel object")
        uoffset = entry.start - vm_map.kernel_base
    entry.object = uobj
    entry.offset = uoffset
    entry.etype |= F.UVM_ET_OBJ


def _dress(entry: MapEntry, flags: int) -> None:
    """What rare flags make of a new entry."""
    if flags & F.UVM_FLAG_COPYONW:
        entry.etype |= F.UVM_ET_COPYONWRITE
        if not flags & F.UVM_FLAG_OVERLAY:
            entry.etype |= F.UVM_ET_NEEDSCOPY
    if flags & F.UVM_FLAG_QUANTUM:
        entry.flags |= F.UVM_MAP_QUANTUM


async def uvm_unmap(vm_map: VmMap, start: int, end: int, flags: int = 0) -> None:
    """Remove [start, end) from a map; holes in it are no error. Wakes those who wait for addresses.

    What is wired is unwired. What the entries refer to is let go of when the map is unlocked again.

    Locks: none on entry and exit. Sleeps: for the map's lock; what the last reference to an object does may. Panics on a
    STATIC entry, on a submap's, on 6 on one of the kernel object in a PAGEABLE map (unless VAONLY), and with LOCKDEBUG on
    a live lock in a range of kernel_map.

    Args:
        vm_map: the map.
        start: the first address, page aligned; cut to the map.
        end: one past the last.
        flags: UVM_FLAG_VAONLY: nothing is mapped there any more. UVM_FLAG_QUANTUM (5.2): what uvm_km_free gives.

    Source: sys/uvm/uvm_map.c, uvm_unmap1.
    """
    if vm_map.live_locks:
        vm_map.lockdebug_mem_check(start, end)
    if vm_map.kmapents is not None:
        await _unmap_reserved(vm_map, start, end, flags)
        return
    await vm_map.lock.lock()
    dead = await vm_map.remove(start, end, flags)
    await vm_map.finish_unmap(dead)


async def _unmap_reserved(vm_map: VmMap, start: int, end: int, flags: int) -> None:
    """5.2: two entries for the clips are got before the map is locked."""
    kmapents = vm_map.kmapents
    assert kmapents is not None
    reserved = await kmapents.reserve(2, flags)
    await vm_map.lock.lock()
    kmapents.umr = reserved
    dead = await vm_map.remove(start, end, flags)
    kmapents.umr = []
    await vm_map.finish_unmap(dead)
    await kmapents.unreserve(reserved)


async def uvm_unmap_detach(vm_map: VmMap, dead: list[MapEntry]) -> None:
    """Drop what removed entries referred to.

    Locks: none may be held. Sleeps: what the last reference to an object does may. Panics on an entry that is wired, or a
    submap's.

    Args:
        vm_map: the map that they were in.
        dead: the entries, in no list.

    Source: sys/uvm/uvm_map.c, uvm_unmap_detach.
    """
    for entry in dead:
        await vm_map.detach(entry)
        bury(vm_map.k, vm_map.name, entry)


def uvm_map_lookup_entry(vm_map: VmMap, addr: int) -> tuple[bool, MapEntry | None]:
    """Find the entry at an address, or the last one before it.

    The map remembers the entry as its hint, even under the read lock. The entry may be used for as long as the lock is
    held.

    Locks: the map's, for reading at least, which the kernel does not assert and the model does. Sleeps: no.

    Args:
        vm_map: the map.
        addr: any address.

    Returns:
        Whether it is mapped; and the entry, or else the last one before it, None if there is none.

    Source: sys/uvm/uvm_map.c, uvm_map_lookup_entry.
    """
    vm_map.must_be_locked("uvm_map_lookup_entry")
    return vm_map.lookup(addr)


def uvm_map_checkprot(vm_map: VmMap, start: int, end: int, prot: int) -> bool:
    """Ask whether all of [start, end) is mapped with at least that protection.

    Locks: the map's, for reading at least, which the kernel does not assert and the model does. Sleeps: no.

    Args:
        vm_map: the map.
        start: the first address.
        end: one past the last.
        prot: VM_PROT_*.

    Returns:
        True if it is; False for a hole, or for an entry that may do less.

    Source: sys/uvm/uvm_map.c, uvm_map_checkprot.
    """
    vm_map.must_be_locked("uvm_map_checkprot")
    found, entry = vm_map.lookup(start)
    if not found:
        return False
    while start < end:
        if entry is None or start < entry.start or prot & ~entry.protection:
            return False
        start = entry.end
        entry = vm_map.after(entry)
    return True


async def uvm_map_reserve(
    vm_map: VmMap, size: int, addr: int, *, offset: int = F.UVM_UNKNOWN_OFFSET, align: int = 0, flags: int = 0
) -> int | None:
    """Keep a range for later: a blank entry that cannot be accessed and never merges, as uvm_map_replace wants it.

    Locks: none on entry and exit. Sleeps: as uvm_map with these flags.

    Args:
        vm_map: where.
        size: bytes; rounded up to pages.
        addr: a hint, or with UVM_FLAG_FIXED the place.
        offset: what the address shall agree with on a machine with PMAP_PREFER.
        align: a power of two in bytes, or 0.
        flags: UVM_FLAG_FIXED or 0.

    Returns:
        The address, or None, whatever the reason. (The kernel returns true or false, and the address beside it.)

    Source: sys/uvm/uvm_map.c, uvm_map_reserve.
    """
    error, va = await uvm_map(
        vm_map,
        addr,
        F.round_page(size),
        uoffset=offset,
        align=align,
        flags=F.UVM_FLAG_NOMERGE | flags,
        prot=F.VM_PROT_NONE,
        maxprot=F.VM_PROT_NONE,
        advice=F.UVM_ADV_RANDOM,
    )
    return None if error else va


async def uvm_map_submap(vm_map: VmMap, start: int, end: int, submap: VmMap) -> int:
    """Turn a range that has been mapped blank into the place of a submap. It cannot be unmapped any more.

    Entries are clipped at both ends first, even if it comes to nothing. What addresses of the submap mean is decided
    there from then on; the two are never locked together.

    Locks: none on entry and exit. Sleeps: for the map's lock.

    Args:
        vm_map: the map that it becomes a part of.
        start: the first address.
        end: one past the last.
        submap: a map of that range. It gets one reference more.

    Returns:
        0, or EINVAL unless [start, end) is then exactly one entry without object, amap and submap, not copied on write.

    Source: sys/uvm/uvm_map.c, uvm_map_submap.
    """
    reserved: list[EntryPage] = []
    if vm_map.kmapents is not None:
        reserved = await vm_map.kmapents.reserve(2, 0)
    await vm_map.lock.lock()
    if vm_map.kmapents is not None:
        vm_map.kmapents.umr = reserved
    error = vm_map.make_submap(start, end, submap)
    if vm_map.kmapents is not None:
        vm_map.kmapents.umr = []
    await vm_map.lock.unlock()
    if vm_map.kmapents is not None:
        await vm_map.kmapents.unreserve(reserved)
    return error

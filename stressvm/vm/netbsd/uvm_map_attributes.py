"""The calls of uvm_map(9) that change what is mapped already: protection, inheritance, advice, wiring.

Each clips the entries at both ends of its range, and none ever merges them again.

Source: sys/uvm/uvm_map.c 1.324 ("6") and 1.263.4.5 ("5.2").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from stressvm.vm.netbsd.vm_map import VmMap
    from stressvm.vm.netbsd.vm_map_entry import MapEntry

_INHERITANCES = (F.MAP_INHERIT_SHARE, F.MAP_INHERIT_COPY, F.MAP_INHERIT_NONE)
_ADVICES = (F.UVM_ADV_NORMAL, F.UVM_ADV_RANDOM, F.UVM_ADV_SEQUENTIAL)


async def uvm_map_protect(vm_map: VmMap, start: int, end: int, new_prot: int, *, set_max: bool = False) -> int:
    """Change the protection of [start, end); holes are skipped without a word.

    On a map with VM_MAP_WIREFUTURE what could not be accessed and now can be is wired, as by uvm_map_pageable: the map is
    busy and unlocked meanwhile. The kernel wires the first entry of the range where it means the one that has changed,
    and so does the model: see `VmMap.to_wire`.

    In a map with memory the pmap loses the rights that an entry loses, and processors are told before the map is unlocked.

    Locks: none on entry and exit. Sleeps: for the map's lock; what faults do may; over pages for the kernel object's lock and
    the pmap's. Panics on wired memory that nobody may access any more.

    Args:
        vm_map: the map.
        start: the first address; the range is cut to the map.
        end: one past the last.
        new_prot: VM_PROT_*.
        set_max: it is the most that the protection may become; what the protection is now is cut to it.

    Returns:
        0; EINVAL for a submap in the range and EACCES for more than an entry may have, and then nothing has changed but
        that the first entry may have been clipped; ENOMEM if something could not be wired, with all protections changed.

    Source: sys/uvm/uvm_map.c, uvm_map_protect.
    """
    await vm_map.lock.lock()
    start, end = vm_map.range_check(start, end)
    first = vm_map.clipped_from(start)
    error = vm_map.may_protect(first, end, new_prot)
    if not error and first is not None:
        for entry in vm_map.from_entry(first, end):
            vm_map.clip_end(entry, end)
            old_prot = vm_map.set_protection(entry, new_prot, set_max=set_max)
            if vm_map.memory is not None and entry.protection != old_prot:
                await vm_map.memory.protect(entry)
            wire = vm_map.wires_future(first, entry, old_prot, new_prot)
            if wire is not None and await uvm_map_pageable(
                vm_map, wire.start, wire.end, new_pageable=False, lockflags=F.UVM_LK_ENTER | F.UVM_LK_EXIT
            ):
                error = F.ENOMEM
        if vm_map.memory is not None:
            await vm_map.memory.update()
    await vm_map.lock.unlock()
    vm_map.k.progress()
    return error


async def uvm_map_inherit(vm_map: VmMap, start: int, end: int, new_inheritance: int) -> int:
    """Change what a child gets of [start, end); holes are skipped.

    Locks: none on entry and exit. Sleeps: for the map's lock.

    Args:
        vm_map: the map.
        start: the first address; the range is cut to the map.
        end: one past the last.
        new_inheritance: MAP_INHERIT_NONE, COPY or SHARE.

    Returns:
        0, or EINVAL for any other inheritance, before anything is locked.

    Source: sys/uvm/uvm_map.c, uvm_map_inherit.
    """
    if new_inheritance not in _INHERITANCES:
        return F.EINVAL
    await vm_map.lock.lock()
    start, end = vm_map.range_check(start, end)
    for entry in vm_map.from_entry(vm_map.clipped_from(start), end):
        vm_map.clip_end(entry, end)
        vm_map.entries_field.write()
        entry.inheritance = new_inheritance
    await vm_map.lock.unlock()
    vm_map.k.progress()
    return 0


async def uvm_map_advice(vm_map: VmMap, start: int, end: int, new_advice: int) -> int:
    """Change what is expected of accesses to [start, end); holes are skipped.

    Locks: none on entry and exit. Sleeps: for the map's lock.

    Args:
        vm_map: the map.
        start: the first address; the range is cut to the map.
        end: one past the last.
        new_advice: UVM_ADV_NORMAL, RANDOM or SEQUENTIAL.

    Returns:
        0, or EINVAL for any other advice, if anything is mapped there; the first entry has been clipped by then.

    Source: sys/uvm/uvm_map.c, uvm_map_advice.
    """
    await vm_map.lock.lock()
    start, end = vm_map.range_check(start, end)
    error = 0
    for entry in vm_map.from_entry(vm_map.clipped_from(start), end):
        vm_map.clip_end(entry, end)
        if new_advice not in _ADVICES:
            error = F.EINVAL
            break
        vm_map.entries_field.write()
        entry.advice = new_advice
    await vm_map.lock.unlock()
    vm_map.k.progress()
    return error


async def uvm_map_pageable(vm_map: VmMap, start: int, end: int, *, new_pageable: bool, lockflags: int = 0) -> int:
    """Wire [start, end), or unwire it.

    Wirings are counted; to unwire ends them all at once. While pages are faulted in the map is busy and not locked: others
    may read it, and whoever wants to change it waits. A failure undoes everything but the clips.

    In a map with memory it is for what uvm_km_alloc has allocated as PAGEABLE: pages are faulted in, wired, and keep away
    from the page daemon. WIRED and VAONLY ranges have nothing to fault in, so to wire them is EFAULT, and to unwire them
    EINVAL. uvm_km(9) says that only a whole allocation may be wired or unwired; 6 does not look at that and clips.

    Locks: none, or with UVM_LK_ENTER the write lock, which may be given up in between; with UVM_LK_EXIT the write lock on
    exit, else none. Never the read lock. Sleeps: for the map's lock; what faults do may, so with memory for pages and swap.
    Panics on a map that is not VM_MAP_PAGEABLE, with UVM_LK_ENTER without the lock, with DIAGNOSTIC if somebody has locked
    the map for writing while it was busy and a fault failed, and on 5.2, with memory, on a part of what was allocated as
    one.

    Args:
        vm_map: the map.
        start: the first address; the range is cut to the map.
        end: one past the last.
        new_pageable: unwire; else wire.
        lockflags: UVM_LK_ENTER: the caller has locked the map. UVM_LK_EXIT: it shall be locked on return, errors included.

    Returns:
        0; EFAULT if nothing is mapped at `start`; EINVAL for a hole, to wire what cannot be accessed, or to unwire what is
        not wired; or what a fault returned: EFAULT for WIRED and VAONLY memory.

    Source: sys/uvm/uvm_map.c, uvm_map_pageable.
    """
    if not vm_map.flags.peek() & F.VM_MAP_PAGEABLE:
        raise vm_map.k.panic(f"uvm_map_pageable: KASSERT(map->flags & VM_MAP_PAGEABLE): {vm_map!r}")
    if not lockflags & F.UVM_LK_ENTER:
        await vm_map.lock.lock()
    elif not vm_map.lock.write_held():
        me = vm_map.k.threads[vm_map.k.cur].name
        raise vm_map.k.panic(f"uvm_map_pageable: KASSERT(rw_write_held(&map->lock)): {me} has not locked {vm_map.name}")
    start, end = vm_map.range_check(start, end)
    found, first = vm_map.lookup(start)
    if not found or first is None:
        return await _leave(vm_map, F.EFAULT, lockflags)
    if new_pageable:
        vm_map.clip_start(first, start)
        if not vm_map.may_unwire(first, end):
            return await _leave(vm_map, F.EINVAL, lockflags)
        await vm_map.unwire_range(first, end)
        return await _leave(vm_map, 0, lockflags)
    if not vm_map.count_range(first, start, end):
        return await _leave(vm_map, F.EINVAL, lockflags)
    return await _wire_counted(vm_map, first, end, lockflags)


async def _wire_counted(vm_map: VmMap, first: MapEntry, end: int, lockflags: int) -> int:
    """Pass 2, and its recovery. Locks: the write lock on entry."""
    lock = vm_map.lock
    timestamp = lock.timestamp.peek()
    await lock.busy()
    await lock.unlock()
    error, failed = await vm_map.fault_range(first, end)
    if failed is not None:
        await vm_map.lock_again(timestamp)
        await vm_map.undo_range(first, failed, end)
        return await _leave(vm_map, error, lockflags)
    vm_map.prove_wired(first, end)
    if lockflags & F.UVM_LK_EXIT:
        await lock.lock()
    await lock.unbusy()
    vm_map.k.progress()
    return 0


async def _leave(vm_map: VmMap, error: int, lockflags: int) -> int:
    """Unlock, unless the caller wants the lock."""
    if not lockflags & F.UVM_LK_EXIT:
        await vm_map.lock.unlock()
    vm_map.k.progress()
    return error


async def uvm_map_pageable_all(vm_map: VmMap, flags: int, limit: int = 0) -> int:
    """Wire all that can be accessed, and what will be mapped from now on; or unwire everything.

    As uvm_map_pageable, in one go; holes do not matter. If a fault fails, the kernel's recovery takes wirings away that
    are somebody else's, and leaves pages wired that are nobody's: see `VmMap.undo_all`.

    Locks: none on entry and exit. Sleeps: for the map's lock; what faults do may. Panics on a map that is not
    VM_MAP_PAGEABLE, and on a stale one as uvm_map_pageable.

    Args:
        vm_map: the map.
        flags: MCL_CURRENT: wire what is mapped. MCL_FUTURE: set VM_MAP_WIREFUTURE. 0: unwire everything, and clear that.
        limit: bytes that may be wired in this map, 0 for no limit.

    Returns:
        0; ENOMEM beyond the limit, or the machine's, with WIREFUTURE set all the same; or what a fault returned.

    Source: sys/uvm/uvm_map.c, uvm_map_pageable_all.
    """
    if not vm_map.flags.peek() & F.VM_MAP_PAGEABLE:
        raise vm_map.k.panic(f"uvm_map_pageable_all: KASSERT(map->flags & VM_MAP_PAGEABLE): {vm_map!r}")
    lock = vm_map.lock
    await lock.lock()
    if not flags:
        await vm_map.unwire_all()
        vm_map.flags.write(vm_map.flags.peek() & ~F.VM_MAP_WIREFUTURE)
        return await _leave(vm_map, 0, 0)
    if flags & F.MCL_FUTURE:
        vm_map.flags.write(vm_map.flags.peek() | F.VM_MAP_WIREFUTURE)
    if not flags & F.MCL_CURRENT:
        return await _leave(vm_map, 0, 0)
    more = vm_map.wirable_bytes()
    fault = vm_map.fault
    if (more >> F.PAGE_SHIFT) + fault.uvmexp_wired() > fault.wiredmax or (
        limit and more + fault.pmap_wired_count() * F.PAGE_SIZE > limit
    ):
        return await _leave(vm_map, F.ENOMEM, 0)
    vm_map.count_all()
    timestamp = lock.timestamp.peek()
    await lock.busy()
    await lock.unlock()
    error, failed = await vm_map.fault_range(vm_map.entries.first, vm_map.max_offset)
    if failed is not None:
        await vm_map.lock_again(timestamp)
        await vm_map.undo_all(failed)
        return await _leave(vm_map, error, 0)
    vm_map.prove_wired(vm_map.entries.first, vm_map.max_offset)
    await lock.unbusy()
    vm_map.k.progress()
    return 0

"""The calls of vm_map(9), by their names in the kernel.

Sums of addresses and lengths wrap at 64 bits, as they do there; those that do not fit into 64 bits are a UsageError. A call that takes a reference to an object takes over
the caller's if it returns KERN_SUCCESS, and leaves it with the caller if not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.addresses import must_fit
from stressvm.vm.freebsd.tunables import sysctl
from stressvm.vm.freebsd.versions import VERSIONS
from stressvm.vm.freebsd.vm_map_core import MapKind, Search
from stressvm.vm.freebsd.vm_map_find import Find13, Request

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.freebsd.vm_fault_stub import Fault
    from stressvm.vm.freebsd.vm_map import VmMap
    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry
    from stressvm.vm.freebsd.vm_memory import Memory
    from stressvm.vm.freebsd.vm_object import VmObject


def vm_map_findspace(vm_map: VmMap, start: int, length: int) -> int | None:
    """The lowest address at or above `start` (or the map's lowest) with `length` bytes free; None for nowhere.

    Nothing is rounded or aligned. A map of version 13 with the search SPLAY may say None although there is room. It
    never grows the kernel's map, though vm_map_findspace(9) says that it may: insertion does.

    Locks: the write lock throughout, which version 2013 does not check. Sleeps: no. Returns: the address, or None.

    Source: sys/vm/vm_map.c, vm_map_findspace.
    """
    must_fit("vm_map_findspace", start=start, length=length)
    if vm_map.version != "2013":
        vm_map.must_be_locked("vm_map_findspace")
    return vm_map.findspace(start, length)


def vm_map_insert(
    vm_map: VmMap,
    obj: VmObject | None,
    offset: int,
    start: int,
    end: int,
    prot: int = F.VM_PROT_RW,
    max_prot: int = F.VM_PROT_ALL,
    cow: int = 0,
) -> int:
    """Map [start, end) to an object, or to nothing yet. A mapping without object extends the one before it, if alike.

    Locks: the write lock throughout. Sleeps: no. Panics on `prot` beyond `max_prot`, and on MAP_NOFAULT with an object.

    Args:
        vm_map: where.
        obj: what is mapped; its reference is the entry's if that succeeds. None: anonymous memory.
        offset: from which byte of the object on.
        start: where the range begins, in bytes.
        end: where it ends.
        prot: VM_PROT_*.
        max_prot: the most that it may become.
        cow: MAP_*.

    Returns:
        KERN_SUCCESS; KERN_INVALID_ADDRESS for an empty range or one outside the map; KERN_PROTECTION_FAILURE for one
        writable and executable where that is forbidden; KERN_NO_SPACE if something is there; KERN_INVALID_ARGUMENT for
        a guard with an object or rights, or ends that are no boundaries of the pages it is made of;
        KERN_RESOURCE_SHORTAGE for no swap. After an error nothing is changed.

    Source: sys/vm/vm_map.c, vm_map_insert.
    """
    must_fit("vm_map_insert", offset=offset, start=start, end=end)
    return vm_map.insert(obj, offset, start, end, prot, max_prot, cow)


async def vm_map_delete(vm_map: VmMap, start: int, end: int) -> int:
    """Unmap [start, end), which the caller has cut to the map. Holes are no error.

    Locks: the write lock on entry and exit; released while asleep. Sleeps: for entries that others wire or unwire; on
    a user map also for those that the system has wired. Returns: KERN_SUCCESS.

    Source: sys/vm/vm_map.c, vm_map_delete.
    """
    must_fit("vm_map_delete", start=start, end=end)
    return await vm_map.delete(start, end)


async def vm_map_remove(vm_map: VmMap, start: int, end: int) -> int:
    """Unmap what of the map lies in [start, end). Locks: none on entry and exit. Sleeps: for the lock, and as delete.

    Nobody who waits for addresses is woken: only kmap_free_wakeup does that. Returns: KERN_SUCCESS.

    Source: sys/vm/vm_map.c, vm_map_remove.
    """
    must_fit("vm_map_remove", start=start, end=end)
    await vm_map.lock.lock()
    result = await vm_map.delete(*vm_map.range_check(start, end))
    await vm_map.lock.unlock()
    vm_map.k.progress()
    return result


async def vm_map_fixed(
    vm_map: VmMap,
    obj: VmObject | None,
    offset: int,
    start: int,
    length: int,
    prot: int = F.VM_PROT_RW,
    max_prot: int = F.VM_PROT_ALL,
    cow: int = 0,
) -> int:
    """Map [start, start + length), cut to the map, in place of what is there; with MAP_CHECK_EXCL only if it is free.

    With MAP_STACK_GROWS_DOWN or UP it is a stack and its gap, of the length given, cut or not.

    Locks: none on entry and exit. Sleeps: for the lock, and as delete; meanwhile others may map what was unmapped
    already, and then KERN_NO_SPACE comes back with the old mapping gone. Returns: KERN_*.

    Source: sys/vm/vm_map.c, vm_map_fixed.
    """
    must_fit("vm_map_fixed", offset=offset, start=start, length=length)
    if obj is not None and cow & (F.MAP_STACK_GROWS_DOWN | F.MAP_STACK_GROWS_UP):
        raise vm_map.k.panic("vm_map_fixed: KASSERT: non-NULL backing object for stack")
    await vm_map.lock.lock()
    start, end = vm_map.range_check(start, (start + length) & F.VM_OFFSET_MASK)
    result = F.KERN_SUCCESS
    if not cow & F.MAP_CHECK_EXCL:
        result = await vm_map.delete(start, end)
    if not result and cow & (F.MAP_STACK_GROWS_DOWN | F.MAP_STACK_GROWS_UP):
        result = vm_map.stack_locked(start, length, sysctl(vm_map.k).sgrowsiz, prot, max_prot, cow)
    elif not result:
        result = vm_map.insert(obj, offset, start, end, prot, max_prot, cow)
    await vm_map.lock.unlock()
    vm_map.k.progress()
    return result


async def vm_map_find(
    vm_map: VmMap,
    obj: VmObject | None,
    offset: int,
    addr: int,
    length: int,
    max_addr: int = 0,
    find_space: int = F.VMFS_ANY_SPACE,
    prot: int = F.VM_PROT_RW,
    max_prot: int = F.VM_PROT_ALL,
    cow: int = 0,
) -> tuple[int, int]:
    """Find room and map it.

    Locks: none on entry and exit. Sleeps: for the lock; with MAP_REMAP as delete.

    Args:
        vm_map: where.
        obj: what is mapped, or None.
        offset: from which byte of it on.
        addr: where to begin to look; with VMFS_NO_SPACE the place itself.
        length: bytes.
        max_addr: the mapping ends there or below; 0 for no bound. Version 2013 compares before it aligns.
        find_space: VMFS_NO_SPACE, ANY_SPACE, OPTIMAL_SPACE, SUPER_SPACE, or VMFS_ALIGNED_SPACE(n). SUPER does not
            align what is shorter than a superpage.
        prot: VM_PROT_*.
        max_prot: the most that it may become.
        cow: MAP_*.

    Returns:
        (KERN_SUCCESS, address), or an error and 0: what vm_map_insert returns, and KERN_NO_SPACE. (The kernel leaves
        something in *addr even then.)

    Source: sys/vm/vm_map.c, vm_map_find.
    """
    must_fit("vm_map_find", offset=offset, addr=addr, length=length, max_addr=max_addr)
    request = Request(obj, offset, addr, length, max_addr, find_space, prot, max_prot, cow)
    found = await vm_map.find(request)
    vm_map.k.progress()
    return found


async def vm_map_find_min(
    vm_map: VmMap,
    obj: VmObject | None,
    offset: int,
    addr: int,
    length: int,
    min_addr: int = 0,
    max_addr: int = 0,
    find_space: int = F.VMFS_ANY_SPACE,
    prot: int = F.VM_PROT_RW,
    max_prot: int = F.VM_PROT_ALL,
    cow: int = 0,
) -> tuple[int, int]:
    """Find room at a hint or above, and if that fails, once more from `min_addr` on.

    The lock is dropped in between, so the second search may find what was not free during the first.

    Locks: none on entry and exit; taken once for each search. Sleeps: as vm_map_find.

    Args:
        vm_map: where.
        obj: what is mapped, or None.
        offset: from which byte of it on.
        addr: the hint.
        length: bytes.
        min_addr: where to begin if there is nothing at the hint or above; not used if it is not below the hint.
        max_addr: as for vm_map_find.
        find_space: as for vm_map_find.
        prot: VM_PROT_*.
        max_prot: the most that it may become.
        cow: MAP_*.

    Returns:
        As vm_map_find.

    Source: sys/vm/vm_map.c, vm_map_find_min.
    """
    must_fit("vm_map_find_min", offset=offset, addr=addr, length=length, min_addr=min_addr, max_addr=max_addr)
    request = Request(obj, offset, addr, length, max_addr, find_space, prot, max_prot, cow)
    found = await vm_map.find_min(request, min_addr)
    vm_map.k.progress()
    return found


def vm_map_find_aligned(
    vm_map: VmMap, addr: int, length: int, max_addr: int = 0, alignment: int = 0
) -> tuple[int, int]:
    """The lowest address at or above `addr` where there is room and the alignment is right; nothing is mapped.

    Locks: the write lock throughout. Sleeps: no.

    Args:
        vm_map: where; of version 13.
        addr: where to begin to look.
        length: bytes.
        max_addr: a mapping of that length would end there or below; 0 for no bound.
        alignment: a power of two, in bytes; 0 for that of superpages, if the length is one or more.

    Returns:
        (KERN_SUCCESS, address), or (KERN_NO_SPACE, 0).

    Source: sys/vm/vm_map.c, vm_map_find_aligned.
    """
    if not isinstance(vm_map, Find13):
        raise UsageError("vm_map_find_aligned: version 2013 has no such call")
    must_fit("vm_map_find_aligned", addr=addr, length=length, max_addr=max_addr, alignment=alignment)
    if alignment & (alignment - 1):
        raise UsageError(f"vm_map_find_aligned: alignment={alignment:#x} is no power of two")
    vm_map.must_be_locked("vm_map_find_aligned")
    space = F.VMFS_SUPER_SPACE if not alignment else F.VMFS_ALIGNED_SPACE(alignment.bit_length() - 1)
    found = vm_map.find_aligned(Request(None, 0, addr, length, max_addr, space, 0, 0, 0))
    return (F.KERN_NO_SPACE, 0) if found is None else (F.KERN_SUCCESS, found)


async def vm_map_stack(
    vm_map: VmMap,
    addrbos: int,
    max_ssize: int,
    prot: int = F.VM_PROT_ALL,
    max_prot: int = F.VM_PROT_ALL,
    cow: int = F.MAP_STACK_GROWS_DOWN,
) -> int:
    """Map a stack: its first piece, kern.sgrowsiz bytes, and beside it a gap that it can grow into.

    The gap is a guard; some of it, security.bsd.stack_guard_page pages, always stays one. Neither counts in map->size.

    Locks: none on entry and exit. Sleeps: for the lock. Panics if what is mapped in the future is to be wired.

    Args:
        vm_map: a user map.
        addrbos: the lowest address of the whole, gap included.
        max_ssize: how large that is, bytes.
        prot: VM_PROT_*.
        max_prot: the most that it may become.
        cow: MAP_STACK_GROWS_DOWN or MAP_STACK_GROWS_UP, and other flags of a mapping.

    Returns:
        KERN_SUCCESS, or with nothing changed KERN_NO_SPACE if something is mapped there, or the first piece would be
        beyond RLIMIT_VMEM, or what vm_map_insert returns. Version 13: KERN_INVALID_ADDRESS outside the map,
        KERN_INVALID_ARGUMENT if the guard leaves no room; 2013 has KERN_NO_SPACE for both, and KERN_INVALID_ADDRESS for
        an end outside the map, and for no gap at all.

    Source: sys/vm/vm_map.c, vm_map_stack.
    """
    must_fit("vm_map_stack", addrbos=addrbos, max_ssize=max_ssize)
    result = await vm_map.stack(addrbos, max_ssize, prot, max_prot, cow)
    vm_map.k.progress()
    return result


async def vm_map_growstack(vm_map: VmMap, addr: int, gap_entry: VmMapEntry | None = None) -> int:
    """Extend a stack as far as an address in its gap, in multiples of kern.sgrowsiz as far as there is room.

    A page fault calls it; see vm_map_lookup. The read lock may be lost on the way, and the gap with it: whoever comes
    second finds it grown, which is success.

    Locks: the read lock on entry and exit, whatever is returned; every entry that the caller knows may be gone. Sleeps:
    for the lock; and to wire the new piece, if MAP_WIREFUTURE is set.

    Args:
        vm_map: a user map.
        addr: the address.
        gap_entry: the gap that it is in, if the caller knows it.

    Returns:
        KERN_SUCCESS, also if the address is mapped by now; KERN_FAILURE if it is not in the gap of a stack, in another
        process's stack, or the stack's object cannot be extended; KERN_NO_SPACE if the guard, a limit of the process,
        or (upwards) swap forbids it; what vm_map_insert returns; in version 13 what vm_map_wire returns.

    Source: sys/vm/vm_map.c, vm_map_growstack.
    """
    must_fit("vm_map_growstack", addr=addr)
    result = await vm_map.growstack(addr, gap_entry)
    vm_map.k.progress()
    return result


async def vm_map_submap(vm_map: VmMap, start: int, end: int, submap: VmMap) -> int:
    """Leave [start, end), cut to the map, to another map. It must be part of one entry that nothing was done with.

    Locks: none on entry and exit. Sleeps: for this map's lock, and in version 13 for the submap's before and, after a
    failure, afterwards.

    Args:
        vm_map: a system map; any other if nothing has to be clipped.
        start: of the range.
        end: of the range.
        submap: the map that shall look after it.

    Returns:
        KERN_SUCCESS; KERN_INVALID_ARGUMENT if the entry has an object, a submap already, is copied on write, or is not
        all of the range. Version 2013 has clipped it by then.

    Source: sys/vm/vm_map.c, vm_map_submap.
    """
    must_fit("vm_map_submap", start=start, end=end)
    result = await vm_map.submap(start, end, submap)
    vm_map.k.progress()
    return result


async def vm_map_lookup_entry(vm_map: VmMap, addr: int) -> tuple[bool, VmMapEntry | None]:
    """Is `addr` mapped, and the entry, or else the last one before it (None for the map's header).

    A reader tries to become the writer for a moment, to rearrange the tree; the timestamp does not move, and if it
    fails the tree stays as it is. What needs no rearranging, the root, is found without that.

    Locks: the lock, held for writing or reading. Sleeps: no. Returns: whether it is mapped, and the entry.

    Source: sys/vm/vm_map.c, vm_map_lookup_entry.
    """
    must_fit("vm_map_lookup_entry", addr=addr)
    return await vm_map.lookup_entry(addr)


def setup(
    k: Kernel,
    pages: int,
    *,
    version: str = "13",
    kind: MapKind = MapKind.USER,
    search: Search = Search.FIRST_FIT,
    name: str = "map",
    min_offset: int = 0x1_0000_0000,
    cls: type[VmMap] | None = None,
    fault: Fault | None = None,
    memory: Memory | None = None,
    options: F.Options = F.Options.INVARIANTS,
) -> VmMap:
    """While the world is built: a map of its own, empty.

    Args:
        k: the kernel.
        pages: its size.
        version: "13" or "2013".
        kind: its lock and its pmap.
        search: SPLAY for a map of version 13 that misses the last gap where the kernel does.
        name: as reports show it.
        min_offset: its lowest address.
        cls: the map's class, in place of a version; a subclass plants a defect.
        fault: what page faults do. If not given: nothing, or with memory all that they do.
        memory: pages and a pmap for it; without, addresses are all there is.
        options: what its kernel is built with.
    """
    if pages < 1:
        raise UsageError(f"a map of {pages} pages: it needs at least one")
    if cls is None:
        if version not in VERSIONS:
            raise UsageError(f"version={version!r}: FreeBSD {' and '.join(VERSIONS)} are modelled")
        cls = VERSIONS[version]
    end = min_offset + pages * F.PAGE_SIZE
    return cls(k, min_offset, end, kind=kind, name=name, search=search, fault=fault, memory=memory, options=options)


def exec_map(
    k: Kernel,
    pages: int,
    *,
    version: str = "13",
    search: Search = Search.FIRST_FIT,
    name: str = "exec_map",
    cls: type[VmMap] | None = None,
    parent: VmMap | None = None,
) -> VmMap:
    """While the world is built: a kernel submap, as those are that kmap_alloc_wait sleeps for.

    Args:
        k: the kernel.
        pages: its size.
        version: "13" or "2013"; that of the parent, if there is one.
        search: as for `setup`.
        name: as reports show it.
        cls: as for `setup`.
        parent: the kernel's map, which a range is taken from; without one, the submap stands by itself.
    """
    if parent is None:
        return setup(k, pages, version=version, kind=MapKind.SUBMAP, search=search, name=name, cls=cls)
    size = pages * F.PAGE_SIZE
    start = parent.findspace(parent.min_offset, size)
    if start is None:
        raise UsageError(f"exec_map(pages={pages}): {parent.name} has no room for so many")
    parent.insert(None, 0, start, start + size, F.VM_PROT_ALL, F.VM_PROT_ALL, F.MAP_ACC_NO_CHARGE)
    made = (cls or VERSIONS[parent.version])(
        k,
        start,
        start + size,
        kind=MapKind.SUBMAP,
        name=name,
        search=search,
        flags=parent.submap_flags(),
        memory=parent.memory,
    )
    parent.submap_locked(start, start + size, made)
    return made

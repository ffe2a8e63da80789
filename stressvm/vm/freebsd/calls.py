"""The calls of vm_map(9), by their names in the kernel.

Sums of addresses and lengths wrap at 64 bits, as they do there. A call that takes a reference to an object takes over
the caller's if it returns KERN_SUCCESS, and leaves it with the caller if not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.versions import VERSIONS
from stressvm.vm.freebsd.vm_map_core import MapKind, Search

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.freebsd.vm_fault import Fault
    from stressvm.vm.freebsd.vm_map import VmMap
    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry
    from stressvm.vm.freebsd.vm_object import VmObject


def vm_map_findspace(vm_map: VmMap, start: int, length: int) -> int | None:
    """The lowest address at or above `start` (or the map's lowest) with `length` bytes free; None for nowhere.

    Nothing is rounded or aligned. A map of version 13 with the search SPLAY may say None although there is room. It
    never grows the kernel's map, though vm_map_findspace(9) says that it may: insertion does.

    Locks: the write lock throughout, which version 2013 does not check. Sleeps: no.

    Source: sys/vm/vm_map.c, vm_map_findspace.
    """
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

    Locks: the write lock throughout. Sleeps: no. Returns: KERN_*, see `VmMap.insert`.

    Source: sys/vm/vm_map.c, vm_map_insert.
    """
    return vm_map.insert(obj, offset, start, end, prot, max_prot, cow)


async def vm_map_delete(vm_map: VmMap, start: int, end: int) -> int:
    """Unmap [start, end), which the caller has cut to the map. Holes are no error.

    Locks: the write lock on entry and exit; released while asleep. Sleeps: for entries that others wire or unwire; on
    a user map also for those that the system has wired. Returns: KERN_SUCCESS.

    Source: sys/vm/vm_map.c, vm_map_delete.
    """
    return await vm_map.delete(start, end)


async def vm_map_remove(vm_map: VmMap, start: int, end: int) -> int:
    """Unmap what of the map lies in [start, end). Locks: none on entry and exit. Sleeps: for the lock, and as delete.

    Nobody who waits for addresses is woken: only kmap_free_wakeup does that. Returns: KERN_SUCCESS.

    Source: sys/vm/vm_map.c, vm_map_remove.
    """
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

    Locks: none on entry and exit. Sleeps: for the lock, and as delete; meanwhile others may map what was unmapped
    already, and then KERN_NO_SPACE comes back with the old mapping gone. Returns: KERN_*.

    Source: sys/vm/vm_map.c, vm_map_fixed.
    """
    await vm_map.lock.lock()
    start, end = vm_map.range_check(start, (start + length) & F.VM_OFFSET_MASK)
    result = F.KERN_SUCCESS
    if not cow & F.MAP_CHECK_EXCL:
        result = await vm_map.delete(start, end)
    if not result:
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
    found = await vm_map.find(obj, offset, addr, length, max_addr, find_space, prot, max_prot, cow)
    vm_map.k.progress()
    return found


async def vm_map_lookup_entry(vm_map: VmMap, addr: int) -> tuple[bool, VmMapEntry | None]:
    """Is `addr` mapped, and the entry, or else the last one before it (None for the map's header).

    A reader tries to become the writer for a moment, to rearrange the tree; the timestamp does not move, and if it
    fails the tree stays as it is. What needs no rearranging, the root, is found without that.

    Locks: the lock, held for writing or reading. Sleeps: no.

    Source: sys/vm/vm_map.c, vm_map_lookup_entry.
    """
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
        fault: what page faults do; nothing, if not given.
    """
    if pages < 1:
        raise UsageError(f"a map of {pages} pages: it needs at least one")
    if cls is None:
        if version not in VERSIONS:
            raise UsageError(f"version={version!r}: FreeBSD {' and '.join(VERSIONS)} are modelled")
        cls = VERSIONS[version]
    return cls(k, min_offset, min_offset + pages * F.PAGE_SIZE, kind=kind, name=name, search=search, fault=fault)


def exec_map(
    k: Kernel,
    pages: int,
    *,
    version: str = "13",
    search: Search = Search.FIRST_FIT,
    name: str = "exec_map",
    cls: type[VmMap] | None = None,
) -> VmMap:
    """While the world is built: a kernel submap by itself, as those are that kmap_alloc_wait sleeps for."""
    return setup(k, pages, version=version, kind=MapKind.SUBMAP, search=search, name=name, cls=cls)

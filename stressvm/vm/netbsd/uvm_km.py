"""Kernel virtual memory, as uvm_km(9): address space without memory (UVM_KMF_VAONLY), and submaps.

Source: sys/uvm/uvm_km.c 1.138 ("6") and 1.101.4.2 ("5.2"). Where the manual page says otherwise, the code is followed:
CANFAIL does not end a wait for addresses; NOWAIT may sleep for the map's lock; TRYLOCK with WAITVA may return 0
after a sleep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.uvm_map import uvm_map, uvm_unmap
from stressvm.vm.netbsd.vm_map import VmMap

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel

#: Flags of uvm_km_alloc that uvm_map sees. CANFAIL, ZERO and EXEC are not among them.
_PASSED_ON = F.UVM_KMF_TRYLOCK | F.UVM_KMF_NOWAIT | F.UVM_KMF_WAITVA
_TYPES = (F.UVM_KMF_WIRED, F.UVM_KMF_PAGEABLE, F.UVM_KMF_VAONLY)


async def uvm_km_alloc(vm_map: VmMap, size: int, align: int, flags: int) -> int:
    """Allocate kernel virtual address space.

    Neighbouring allocations of one type become one map entry. Locks: none on entry and exit. Sleeps: for the map's
    lock unless UVM_KMF_TRYLOCK; for addresses with UVM_KMF_WAITVA, until there are some. Panics unless exactly one
    memory type is given, and on a size of 0; on a VM_MAP_TOPDOWN map with DIAGNOSTIC nearly always, because it gives the
    map's minimum as the hint and the place found is above that.

    Args:
        vm_map: a kernel map.
        size: bytes; rounded up to pages.
        align: a power of two in bytes, or 0.
        flags: UVM_KMF_VAONLY, and any of UVM_KMF_TRYLOCK, NOWAIT, CANFAIL, WAITVA (never NOWAIT with WAITVA).

    Returns:
        The address, or 0 if there is none: addresses without WAITVA, or the lock with TRYLOCK.

    Raises:
        UsageError: memory types and flags that need physical pages, which are not modelled yet.
    """
    k = vm_map.k
    kind = flags & F.UVM_KMF_TYPEMASK
    if kind not in _TYPES:
        raise k.panic(f"uvm_km_alloc: KASSERT: flags {flags:#x} name not exactly one memory type")
    if kind != F.UVM_KMF_VAONLY or flags & F.UVM_KMF_COLORMATCH:
        raise UsageError(
            f"uvm_km_alloc(flags={flags:#x}): only UVM_KMF_VAONLY memory without COLORMATCH is modelled yet; "
            "WIRED and PAGEABLE memory need physical pages"
        )
    _, va = await uvm_map(
        vm_map,
        vm_map.min_offset,
        F.round_page(size),
        align=align,
        flags=flags & _PASSED_ON,
        inherit=F.MAP_INHERIT_NONE,
        advice=F.UVM_ADV_RANDOM,
    )
    k.progress()
    return va


async def uvm_km_free(vm_map: VmMap, addr: int, size: int, flags: int) -> None:
    """Free what uvm_km_alloc returned.

    Locks: none on entry and exit. Sleeps: for the map's lock, whatever the flags of the allocation were.

    Args:
        vm_map: the map it came from.
        addr: page aligned.
        size: bytes; rounded up to pages.
        flags: the memory type of the allocation.
    """
    k = vm_map.k
    kind = flags & F.UVM_KMF_TYPEMASK
    if kind not in _TYPES:
        raise k.panic(f"uvm_km_free: KASSERT: flags {flags:#x} name not exactly one memory type")
    if kind != F.UVM_KMF_VAONLY:
        raise UsageError(f"uvm_km_free(flags={flags:#x}): only UVM_KMF_VAONLY memory is modelled yet")
    if addr & (F.PAGE_SIZE - 1):
        raise k.panic(f"uvm_km_free: KASSERT: address {addr:#x} is not page aligned")
    await uvm_unmap(vm_map, addr, addr + F.round_page(size))
    k.progress()


async def uvm_km_suballoc(
    vm_map: VmMap, min_offset: int, size: int, flags: int = 0, *, fixed: bool = False, name: str = "submap"
) -> VmMap:
    """Carve a submap out of a kernel map.

    Locks: none on entry and exit. Sleeps: for the parent's lock. Never fails: panics when there is no room. The
    place asked for is a hint even when it is not fixed, so one above the parent's maximum panics.

    Args:
        vm_map: the parent.
        min_offset: where, or with `fixed` exactly where.
        size: bytes; rounded up to pages.
        flags: VM_MAP_* of the submap.
        fixed: only there.
        name: as reports show the submap.

    Returns:
        The submap, with two references: the parent's and the caller's.
    """
    k = vm_map.k
    size = F.round_page(size)
    map_flags = F.UVM_FLAG_NOMERGE | (F.UVM_FLAG_FIXED if fixed else 0)
    error, va = await uvm_map(vm_map, min_offset, size, flags=map_flags, advice=F.UVM_ADV_RANDOM)
    if error:
        raise k.panic(f"uvm_km_suballoc: unable to allocate {size:#x} bytes in {vm_map.name} (error {error})")
    submap = type(vm_map)(k, va, va + size, flags, version=vm_map.version, name=name, options=vm_map.options)
    await uvm_map_submap(vm_map, va, va + size, submap)
    k.progress()
    return submap


async def uvm_map_submap(vm_map: VmMap, start: int, end: int, submap: VmMap) -> None:
    """Turn the blank entry that covers exactly [start, end) into a submap's. Locks: none. Sleeps: for the lock.

    Panics where the kernel would return EINVAL, which its only caller turns into a panic.
    """
    k = vm_map.k
    await vm_map.lock.lock()
    found, entry = vm_map.entries.lookup(start)
    if not found or entry is None or (entry.start, entry.end) != (start, end) or entry.sub_map is not None:
        raise k.panic(f"uvm_km_suballoc: submap allocation failed: [{start:#x}, {end:#x}) is no blank entry")
    entry.sub_map = submap
    submap.ref_count += 1
    await vm_map.lock.unlock()


def setup(
    k: Kernel,
    pages: int,
    *,
    version: str = "6",
    flags: int = 0,
    name: str = "kmap",
    min_offset: int = 0xC000_0000,
    options: F.Options = F.Options.NONE,
    cls: type[VmMap] = VmMap,
) -> VmMap:
    """While the world is built: a kernel map of its own, empty.

    Args:
        k: the kernel.
        pages: its size.
        version: "6" or "5.2".
        flags: VM_MAP_*.
        name: as reports show it.
        min_offset: its lowest address, page aligned.
        options: what its kernel is built with.
        cls: the map's class; a subclass plants a defect.
    """
    if pages < 1:
        raise UsageError(f"a map of {pages} pages: it needs at least one")
    max_offset = min_offset + pages * F.PAGE_SIZE
    return cls(k, min_offset, max_offset, flags, version=version, name=name, options=options)


def submap(
    k: Kernel,
    pages: int,
    *,
    version: str = "6",
    intrsafe: bool = False,
    name: str = "kmap",
    cls: type[VmMap] = VmMap,
) -> VmMap:
    """While the world is built: a small kernel submap by itself, as most scenarios need it.

    `intrsafe` makes it VM_MAP_INTRSAFE, which only version "5.2" has.
    """
    return setup(k, pages, version=version, flags=F.VM_MAP_INTRSAFE if intrsafe else 0, name=name, cls=cls)


def vm_map_to_kernel(vm_map: VmMap) -> VmMap:
    """5.2's struct vm_map_kernel of a map. NetBSD 6 has none, though the manual page of 6.1.4 still names it."""
    if vm_map.version != "5.2":
        raise UsageError(
            f"version={vm_map.version!r} has no struct vm_map_kernel: it left NetBSD with the vmem rework of January 2012, "
            "though the manual page of 6.1.4 still names it; ask for version='5.2'"
        )
    return vm_map

"""Kernel virtual memory, as uvm_km(9): addresses alone, or with memory behind them, and submaps.

Source: sys/uvm/uvm_km.c 1.138 ("6") and 1.101.4.2 ("5.2"). Where the manual page says otherwise, the code is followed:
CANFAIL does not end a wait for addresses, and ends one for pages only if nothing can be reclaimed; NOWAIT may sleep for
the map's lock, at first and when it gives back what it has; TRYLOCK with WAITVA may return 0 after a sleep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.kmapent import UVM_KMAPENT_CHUNK
from stressvm.vm.netbsd.uvm_map import uvm_map, uvm_map_submap, uvm_unmap
from stressvm.vm.netbsd.vm_map import VmMap

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.netbsd.memory import Memory
    from stressvm.vm.netbsd.uvm_fault import UvmFault

#: Flags of uvm_km_alloc that uvm_map sees. CANFAIL, ZERO and EXEC are not among them.
_PASSED_ON = F.UVM_KMF_TRYLOCK | F.UVM_KMF_NOWAIT | F.UVM_KMF_WAITVA | F.UVM_KMF_COLORMATCH
#: What 5.2 adds, to both: what is allocated as a whole is freed as a whole.
_QUANTUM = {"6": 0, "5.2": F.UVM_FLAG_QUANTUM}
_PLAIN_MACHINE = F.Machine()
_TYPES = (F.UVM_KMF_WIRED, F.UVM_KMF_PAGEABLE, F.UVM_KMF_VAONLY)


async def uvm_km_alloc(vm_map: VmMap, size: int, align: int, flags: int) -> int:
    """Allocate kernel virtual address space, and with UVM_KMF_WIRED a page for each address.

    Neighbouring allocations of one type become one map entry. Wired pages are allocated one by one when the map is unlocked
    again; if there are too few for a caller that does not wait, all is given back.

    Locks: none on entry and exit. Sleeps: for the map's lock unless UVM_KMF_TRYLOCK, and always when it gives back what it
    has; for addresses with UVM_KMF_WAITVA, until there are some; for wired pages without UVM_KMF_NOWAIT, with
    UVM_KMF_CANFAIL only while some can be reclaimed. Panics on a user map, unless exactly one memory type is given, and on a
    size of 0; on a VM_MAP_TOPDOWN map with DIAGNOSTIC nearly always, because it gives the map's minimum as the hint and the
    place found is above that.

    Args:
        vm_map: a kernel map.
        size: bytes; rounded up to pages.
        align: a power of two in bytes, or 0; with UVM_KMF_COLORMATCH (6) a page colour.
        flags: UVM_KMF_WIRED, PAGEABLE (pages come by faults) or VAONLY, and any of UVM_KMF_TRYLOCK, NOWAIT, CANFAIL, WAITVA
            (never NOWAIT with WAITVA), COLORMATCH (VAONLY); for WIRED, ZERO and EXEC.

    Returns:
        The address, or 0 if there is none: addresses without WAITVA, the lock with TRYLOCK, pages with NOWAIT or CANFAIL.

    Raises:
        UsageError: WIRED or PAGEABLE in a map without memory.

    Source: sys/uvm/uvm_km.c, uvm_km_alloc.
    """
    k = vm_map.k
    kind = flags & F.UVM_KMF_TYPEMASK
    if kind not in _TYPES:
        raise k.panic(f"uvm_km_alloc: KASSERT: flags {flags:#x} name not exactly one memory type")
    if not vm_map.is_kernel:
        raise k.panic(f"uvm_km_alloc: KASSERT(vm_map_pmap(map) == pmap_kernel()): {vm_map!r}")
    if kind != F.UVM_KMF_VAONLY:
        if flags & F.UVM_KMF_COLORMATCH:
            raise k.panic("uvm_km_alloc: KASSERT: COLORMATCH is for VAONLY")
        _memory_of(vm_map, "uvm_km_alloc", flags)
    size = F.round_page(size)
    memory = vm_map.memory
    error, va = await uvm_map(
        vm_map,
        vm_map.min_offset,
        size,
        uobj=memory.kernel_object if memory is not None and kind == F.UVM_KMF_PAGEABLE else None,
        align=align,
        flags=flags & _PASSED_ON | _QUANTUM[vm_map.version],
        inherit=F.MAP_INHERIT_NONE,
        advice=F.UVM_ADV_RANDOM,
    )
    if not error and not vm_map.ghost.live.add(va, va + size):
        raise k.panic(f"{vm_map.name}: G16 live: {va:#x}-{va + size:#x} is allocated, and not freed", "invariant")
    if memory is not None and not error:
        call = memory.ledger.grant(va, va + size, kind)
        if kind == F.UVM_KMF_WIRED:
            if not await memory.back(vm_map, va, size, flags):
                memory.failed(vm_map.name, call)
                va = 0
            else:
                memory.returned(vm_map.name, va, va + size)
    k.progress()
    return va


def _memory_of(vm_map: VmMap, call: str, flags: int) -> Memory:
    """The map's memory, for a call that needs it."""
    if vm_map.memory is None:
        raise UsageError(
            f"{call}(flags={flags:#x}): {vm_map!r} has addresses only, and so UVM_KMF_VAONLY alone; WIRED and PAGEABLE "
            "memory need physical pages: make the map with setup(memory=Memory(...))"
        )
    return vm_map.memory


async def uvm_km_free(vm_map: VmMap, addr: int, size: int, flags: int) -> None:
    """Free what uvm_km_alloc returned: its pages, then its addresses. Wakes those who wait for addresses.

    It is freed as what `flags` say, whatever it was: only DEBUG finds wired memory that is freed as VAONLY. 6 unmaps pages
    and then frees them; 5.2 frees them while they are still mapped. Either tells the processors before the addresses are
    free.

    Locks: none on entry and exit. Sleeps: for the map's lock, whatever the flags of the allocation were; for busy pages of
    pageable memory. Panics unless exactly one memory type is given, on an address that is not page aligned, and on a user
    map; on 5.2, in a map with memory or one that takes its entries out of itself, on a part of what was allocated as one; on
    wired memory freed as pageable, and on pageable memory with pages freed as wired; with DIAGNOSTIC on a size of 0, and on
    wired memory of another map.

    Args:
        vm_map: the map it came from.
        addr: page aligned.
        size: bytes; rounded up to pages.
        flags: the memory type of the allocation.

    Source: sys/uvm/uvm_km.c, uvm_km_free.
    """
    k = vm_map.k
    kind = flags & F.UVM_KMF_TYPEMASK
    if kind not in _TYPES:
        raise k.panic(f"uvm_km_free: KASSERT: flags {flags:#x} name not exactly one memory type")
    if kind != F.UVM_KMF_VAONLY:
        _memory_of(vm_map, "uvm_km_free", flags)
    if addr & (F.PAGE_SIZE - 1):
        raise k.panic(f"uvm_km_free: KASSERT: address {addr:#x} is not page aligned")
    if not vm_map.is_kernel:
        raise k.panic(f"uvm_km_free: KASSERT(vm_map_pmap(map) == pmap_kernel()): {vm_map!r}")
    size = F.round_page(size)
    if vm_map.memory is not None:
        await vm_map.memory.free(vm_map, addr, size, kind)
    else:
        await uvm_unmap(vm_map, addr, addr + size, F.UVM_FLAG_VAONLY | _QUANTUM[vm_map.version])
    k.progress()


async def uvm_km_suballoc(
    vm_map: VmMap,
    min_offset: int,
    size: int,
    flags: int = 0,
    *,
    fixed: bool = False,
    name: str = "submap",
    kmapent: bool = False,
) -> VmMap:
    """Carve a submap out of a kernel map. It has the parent's class, version, options and machine.

    Locks: none on entry and exit. Sleeps: for the parent's lock. Never fails: panics when there is no room, and on a user
    map. The place asked for is a hint even when it is not fixed, so one above the parent's maximum panics.

    Args:
        vm_map: the parent.
        min_offset: where, or with `fixed` exactly where.
        size: bytes; rounded up to pages.
        flags: VM_MAP_* of the submap, as they are: PAGEABLE, TOPDOWN, on 5.2 INTRSAFE.
        fixed: only there.
        name: as reports show the submap.
        kmapent: 5.2, INTRSAFE: its entries are taken out of itself; it becomes so much larger that they never run out.

    Returns:
        The submap, with two references: the parent's and the caller's. (The kernel also says where it begins and ends.)

    Source: sys/uvm/uvm_km.c, uvm_km_suballoc.
    """
    k = vm_map.k
    if not vm_map.is_kernel:
        raise k.panic(f"uvm_km_suballoc: KASSERT(vm_map_pmap(map) == pmap_kernel()): {vm_map!r}")
    size = F.round_page(size)
    if kmapent:
        size += uvm_mapent_overhead(size)
    map_flags = F.UVM_FLAG_NOMERGE | (F.UVM_FLAG_FIXED if fixed else 0)
    error, va = await uvm_map(vm_map, min_offset, size, flags=map_flags, advice=F.UVM_ADV_RANDOM)
    if error:
        raise k.panic(f"uvm_km_suballoc: unable to allocate {size:#x} bytes in {vm_map.name} (error {error})")
    submap = type(vm_map)(
        k,
        va,
        va + size,
        flags,
        version=vm_map.version,
        name=name,
        options=vm_map.options,
        machine=vm_map.machine,
        kmapent=kmapent,
        memory=vm_map.memory,
    )
    submap.kernel_base = vm_map.kernel_base
    if await uvm_map_submap(vm_map, va, va + size, submap):
        raise k.panic(f"uvm_km_suballoc: submap allocation failed: [{va:#x}, {va + size:#x}) is no blank entry")
    k.progress()
    return submap


def uvm_mapent_overhead(size: int) -> int:
    """5.2: how many bytes the entries of an INTRSAFE map of that size can take, when no two ranges merge.

    Source: sys/uvm/uvm_map.c, uvm_kmapent_overhead.
    """
    per_page = UVM_KMAPENT_CHUNK - 1
    pages = size >> F.PAGE_SHIFT
    return (pages + per_page - 1) // per_page * F.PAGE_SIZE


def setup(
    k: Kernel,
    pages: int,
    *,
    version: str = "6",
    flags: int = 0,
    name: str = "kmap",
    min_offset: int = 0xC000_0000,
    options: F.Options = F.Options.NONE,
    kind: F.MapKind = F.MapKind.SUBMAP,
    machine: F.Machine = _PLAIN_MACHINE,
    fault: UvmFault | None = None,
    kmapent: bool = False,
    memory: Memory | None = None,
    cls: type[VmMap] = VmMap,
) -> VmMap:
    """While the world is built: a map of its own, empty.

    Args:
        k: the kernel.
        pages: its size.
        version: "6" or "5.2".
        flags: VM_MAP_*.
        name: as reports show it.
        min_offset: its lowest address, page aligned.
        options: what its kernel is built with.
        kind: which map of the kernel it is.
        machine: page colours and caches.
        fault: what a page fault does, when ranges are wired; every one succeeds by default.
        kmapent: 5.2, for INTRSAFE maps and kernel_map: entries are taken out of the map itself. See `VmMap`.
        memory: physical pages and the kernel's pmap; without it the map is about addresses, UVM_KMF_VAONLY.
        cls: the map's class; a subclass plants a defect.
    """
    if pages < 1:
        raise UsageError(f"a map of {pages} pages: it needs at least one")
    max_offset = min_offset + pages * F.PAGE_SIZE
    made = cls(
        k,
        min_offset,
        max_offset,
        flags,
        version=version,
        name=name,
        options=options,
        kind=kind,
        machine=machine,
        fault=fault,
        kmapent=kmapent,
        memory=memory,
    )
    if memory is not None:
        memory.attach(made)
    return made


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
    """5.2's struct vm_map_kernel of a map. NetBSD 6 has none, though the manual page of 6.1.4 still names it.

    Locks: any or none. Sleeps: no.

    Args:
        vm_map: a map of version 5.2.

    Returns:
        What has the map's reclaim callbacks: here the map itself.

    Source: sys/uvm/uvm_map.h, vm_map_to_kernel.
    """
    if vm_map.version != "5.2":
        raise UsageError(
            f"version={vm_map.version!r} has no struct vm_map_kernel: it left NetBSD with the vmem rework of January 2012, "
            "though the manual page of 6.1.4 still names it; ask for version='5.2'"
        )
    return vm_map

"""NetBSD 6's memory for kmem(9) and pool(9): wired pages at addresses of a vmem arena, without a map entry for each.

The arena has a range of kernel_map, which one STATIC entry keeps for it. kmem_va_arena imports from kmem_arena. The port is
one without a direct map, so that a single page needs an address, too. 5.2 has none of it: see `uvm_km_poolpage`.

Source: sys/uvm/uvm_km.c 1.138, uvm_km_bootstrap, uvm_km_kmem_alloc, uvm_km_kmem_free, uvm_km_va_starved_p.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.vmem import vmem_alloc, vmem_size
from stressvm.vm.netbsd.vmem_arena import Vmem

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.netbsd.memory import Memory
    from stressvm.vm.netbsd.vm_map import VmMap


def kmem_arena(vm_map: VmMap, pages: int, *, offset: int = 0, name: str = "kmem", cls: type[Vmem] = Vmem) -> Vmem:
    """While the world is built: keep a range of a map for an arena, as uvm_km_bootstrap does.

    Args:
        vm_map: kernel_map, of version 6, with memory.
        pages: the size of the range.
        offset: its place, in pages from the map's minimum.
        name: as reports show it.
        cls: the arena's class; a subclass plants a defect.

    Returns:
        The arena. For one that imports from it, as kmem_va_arena: `Vmem(k, "kva", source=...)`.

    Raises:
        UsageError: the map is of 5.2, or has no memory.
    """
    if vm_map.version == "5.2":
        raise UsageError("version='5.2' has no kmem_arena; it has uvm_km_alloc_poolpage, or ask for version='6'")
    memory = vm_map.memory
    if memory is None:
        raise UsageError(f"kmem_arena: {vm_map!r} has no memory: make it with setup(memory=Memory(...))")
    start = vm_map.fill(pages, offset=offset, static=True)
    vm = cls(vm_map.k, name, start, pages * F.PAGE_SIZE)
    vm.kick = memory.uvm_kick_pdaemon
    _maps(vm_map.k)[vm] = vm_map
    return vm


async def uvm_km_kmem_alloc(vm: Vmem, size: int, flags: int) -> tuple[int, int]:
    """Get wired memory at addresses of an arena.

    Pages are allocated one by one. With VM_NOSLEEP they may be of the kernel's reserve; if there are too few, all is given
    back.

    Locks: none on entry and exit. Sleeps: with VM_SLEEP, for addresses as vmem_alloc does, and for pages. Panics as
    vmem_alloc; with DIAGNOSTIC if anything is mapped at the addresses; beyond the kernel's page tables, which are not grown
    for an arena.

    Args:
        vm: kmem_arena, or an arena that imports from it.
        size: bytes; rounded up to pages.
        flags: VM_SLEEP or VM_NOSLEEP; VM_INSTANTFIT or VM_BESTFIT.

    Returns:
        (0, address), or (ENOMEM, 0) with VM_NOSLEEP.

    Source: sys/uvm/uvm_km.c, uvm_km_kmem_alloc.
    """
    vm_map, memory = _of(vm, "uvm_km_kmem_alloc")
    size = F.round_page(size)
    error, va = await vmem_alloc(vm, size, flags)
    if error:
        return error, 0
    if memory.maxkaddr < va + size:
        raise vm.k.panic(f"uvm_km_kmem_alloc: KASSERT: {va:#x}-{va + size:#x} is beyond {memory.maxkaddr:#x}")
    memory.handed_out(vm_map, va, va + size)
    call = memory.ledger.grant(va, va + size, F.UVM_KMF_WIRED)
    if not await memory.back_kmem(vm_map, vm, va, size, flags):
        memory.failed(vm.name, call)
        return F.ENOMEM, 0
    memory.returned(vm.name, va, va + size)
    vm.k.progress()
    return 0, va


async def uvm_km_kmem_free(vm: Vmem, addr: int, size: int) -> None:
    """Free what uvm_km_kmem_alloc returned: its pages, then, when the processors know, its addresses.

    Locks: none on entry and exit. Sleeps: no, it spins. Panics on what was not allocated so.

    Args:
        vm: the arena that it came from.
        addr: the address.
        size: bytes, as allocated.

    Source: sys/uvm/uvm_km.c, uvm_km_kmem_free.
    """
    vm_map, memory = _of(vm, "uvm_km_kmem_free")
    await memory.free_kmem(vm_map, vm, addr, F.round_page(size))
    vm.k.progress()


def uvm_km_va_starved_p(vm: Vmem) -> bool:
    """Ask whether kernel addresses are short.

    Locks: none. Sleeps: no.

    Args:
        vm: kmem_arena.

    Returns:
        Is less than a tenth of it free?

    Source: sys/uvm/uvm_km.c, uvm_km_va_starved_p.
    """
    return vmem_size(vm, F.VMEM_FREE) < vmem_size(vm, F.VMEM_ALLOC | F.VMEM_FREE) // 10


def _maps(k: Kernel) -> dict[Vmem, VmMap]:
    """The map that each arena has a range of."""
    return k.once("kmem_arenas", dict)


def _of(vm: Vmem, call: str) -> tuple[VmMap, Memory]:
    """The map and the memory of an arena, or of what it imports from."""
    root = vm
    while root.source is not None:
        root = root.source
    vm_map = _maps(vm.k).get(root)
    if vm_map is None or vm_map.memory is None:
        raise UsageError(f"{call}: {vm!r} is not made of kernel addresses: make it, or its source, with kmem_arena()")
    return vm_map, vm_map.memory

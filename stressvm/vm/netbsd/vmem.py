"""The calls of NetBSD's vmem(9), by their names in the kernel. See `vmem_arena`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from stressvm.vm.netbsd.vmem_arena import Vmem


async def vmem_alloc(vm: Vmem, size: int, flags: int) -> tuple[int, int]:
    """Get a block of an arena.

    Locks: none on entry and exit; takes the arena's, a spin mutex, and that of the arena it imports from. Sleeps: with
    VM_SLEEP, until there is room; it may sleep on beside room that was freed while it was about to fall asleep. Panics on a
    size of 0, and unless one way of waiting and one of fitting is given.

    Args:
        vm: the arena.
        size: bytes; rounded up to its quantum.
        flags: VM_SLEEP or VM_NOSLEEP; VM_INSTANTFIT or VM_BESTFIT.

    Returns:
        (0, address), or (ENOMEM, 0) with VM_NOSLEEP.

    Source: sys/kern/subr_vmem.c, vmem_alloc and vmem_xalloc.
    """
    addr = await vm.alloc(size, flags)
    vm.k.progress()
    return (F.ENOMEM, 0) if addr is None else (0, addr)


async def vmem_free(vm: Vmem, addr: int, size: int) -> None:
    """Give back what vmem_alloc returned. Wakes all who wait for room.

    Locks: none on entry and exit; takes the arena's. Sleeps: no, it spins. Panics on what was not allocated so.

    Args:
        vm: the arena.
        addr: the address.
        size: as allocated.

    Source: sys/kern/subr_vmem.c, vmem_free and vmem_xfree.
    """
    await vm.free(addr, size)
    vm.k.progress()


def vmem_size(vm: Vmem, typemask: int) -> int:
    """How much of an arena is busy, free, or there at all, in bytes.

    Locks: none, so it may be out of date at once. Sleeps: no.

    Args:
        vm: the arena.
        typemask: VMEM_ALLOC, VMEM_FREE, or both; anything else panics.

    Returns:
        Bytes.

    Source: sys/kern/subr_vmem.c, vmem_size.
    """
    sizes = {F.VMEM_ALLOC: vm.inuse, F.VMEM_FREE: vm.size - vm.inuse, F.VMEM_ALLOC | F.VMEM_FREE: vm.size}
    if typemask not in sizes:
        raise vm.k.panic(f"vmem_size: {typemask:#x}")
    return sizes[typemask]

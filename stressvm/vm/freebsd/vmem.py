"""The calls of FreeBSD's vmem(9); what an arena does is in `vmem_arena`.

Source: sys/kern/subr_vmem.c of release/10.4 and releng/13.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.vm.freebsd.addresses import must_fit
from stressvm.vm.freebsd.vmem_arena import ENOMEM, Vmem, vmem_list

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.thread import Thread

#: How often all sleepers of all arenas are woken, in seconds.
VMEM_PERIODIC: Final = 10


async def vmem_alloc(vm: Vmem, size: int, flags: int) -> tuple[int, int]:
    """Allocate from an arena; small sizes from a quantum cache, if it has those.

    Locks: none on entry and exit; takes the arena's. Sleeps: for it; with M_WAITOK for room, without a limit, and where
    it imports from.

    Args:
        vm: the arena.
        size: bytes; rounded up to the arena's quantum.
        flags: M_WAITOK or M_NOWAIT, and M_BESTFIT or M_FIRSTFIT.

    Returns:
        (0, address), or with M_NOWAIT (ENOMEM, 0).

    Source: sys/kern/subr_vmem.c, vmem_alloc.
    """
    must_fit("vmem_alloc", size=size)
    size = vm.roundup(size)
    if size in vm.qcache:
        lock, cached = vm.qcache[size]
        await lock.lock()
        addr = cached.pop() if cached else None
        await lock.unlock()
        if addr is not None:
            vm.k.progress()
            return 0, addr
    return await vmem_xalloc(vm, size, flags)


async def vmem_xalloc(
    vm: Vmem, size: int, flags: int, align: int = 0, wanted: Callable[[], bool] | None = None
) -> tuple[int, int]:
    """Allocate from an arena, past its quantum caches.

    Locks: none on entry and exit; takes the arena's. Sleeps: as vmem_alloc.

    Args:
        vm: the arena.
        size: bytes; rounded up to the arena's quantum.
        flags: M_WAITOK or M_NOWAIT, and M_BESTFIT or M_FIRSTFIT.
        align: of the address, a power of two in bytes; 0 for the quantum.
        wanted: the model's own: pure; what else the caller could use instead is there. For judging who sleeps in vain.

    Returns:
        (0, address), or with M_NOWAIT (ENOMEM, 0).

    Source: sys/kern/subr_vmem.c, vmem_xalloc.
    """
    must_fit("vmem_xalloc", size=size, align=align)
    if not size or align & (align - 1):
        raise vm.k.panic(f"vmem_xalloc: MPASS: {vm.name}: size {size:#x}, align {align:#x}")
    addr = await vm.xalloc(size, flags, align or vm.quantum, wanted)
    if addr is None:
        return ENOMEM, 0
    vm.k.progress()
    return 0, addr


async def vmem_free(vm: Vmem, addr: int, size: int) -> None:
    """Give back what vmem_alloc returned. What goes into a quantum cache wakes nobody.

    Locks: none on entry and exit; takes the arena's, or the cache's. Sleeps: for it. Wakes: all who wait for room.

    Args:
        vm: the arena.
        addr: the address.
        size: bytes, as they were allocated.

    Source: sys/kern/subr_vmem.c, vmem_free.
    """
    must_fit("vmem_free", addr=addr, size=size)
    size = vm.roundup(size)
    if size in vm.qcache:
        lock, cached = vm.qcache[size]
        await lock.lock()
        cached.append(addr)
        await lock.unlock()
    else:
        await vm.xfree(addr, size)
    vm.k.progress()


async def vmem_xfree(vm: Vmem, addr: int, size: int) -> None:
    """Give back what vmem_xalloc returned.

    Locks: none on entry and exit; takes the arena's. Sleeps: for it. Wakes: all who wait for room.

    Source: sys/kern/subr_vmem.c, vmem_xfree.
    """
    must_fit("vmem_xfree", addr=addr, size=size)
    await vm.xfree(addr, size)
    vm.k.progress()


def vmem_size(vm: Vmem) -> tuple[int, int]:
    """How much of an arena is busy, and how much is free, in bytes; what quantum caches have is busy.

    Locks: none. Sleeps: no. Returns: both.

    Source: sys/kern/subr_vmem.c, vmem_size.
    """
    return vm.inuse, vm.size - vm.inuse


def vmem_start_callout(k: Kernel) -> Thread:
    """While the world is built: from now on, all who sleep in any arena are woken every ten seconds (vmem_periodic)."""

    async def vmem_periodic() -> None:
        while True:
            await k.delay(VMEM_PERIODIC * k.hz)
            for vm in vmem_list(k):
                await vm.broadcast()

    return k.spawn(vmem_periodic, name="vmem_periodic", daemon=True)

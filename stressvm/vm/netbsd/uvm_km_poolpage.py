"""5.2: single pages for pool(9), with or without the map's pool of addresses. 6 has its vmem arena: see `uvm_km_kmem`.

The port is one without a direct map, so that a page needs an address. Without the pool, "may wait" means pages and locks,
not addresses: with waitok a caller may still get nothing.

Source: sys/uvm/uvm_km.c 1.101.4.2, uvm_km_alloc_poolpage, uvm_km_free_poolpage, and their _cache variants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.uvm_km import uvm_km_alloc, uvm_km_free
from stressvm.vm.netbsd.vacache import km_vacache_alloc, km_vacache_free

if TYPE_CHECKING:
    from stressvm.vm.netbsd.memory import Memory
    from stressvm.vm.netbsd.vm_map import VmMap


async def uvm_km_alloc_poolpage(vm_map: VmMap, *, waitok: bool) -> int:
    """One wired page.

    Locks: none on entry and exit. Sleeps: with `waitok` for the map's lock and for pages, not for addresses.

    Args:
        vm_map: a kernel map of 5.2 with memory.
        waitok: the caller may sleep.

    Returns:
        The address; 0 without `waitok` if anything is missing, with it if addresses are.

    Source: sys/uvm/uvm_km.c, uvm_km_alloc_poolpage.
    """
    _memory_of(vm_map, "uvm_km_alloc_poolpage")
    how = 0 if waitok else F.UVM_KMF_NOWAIT | F.UVM_KMF_TRYLOCK
    return await uvm_km_alloc(vm_map, F.PAGE_SIZE, 0, F.UVM_KMF_WIRED | how)


async def uvm_km_free_poolpage(vm_map: VmMap, addr: int) -> None:
    """Free what uvm_km_alloc_poolpage returned. Locks: none on entry and exit. Sleeps: for the map's lock.

    Source: sys/uvm/uvm_km.c, uvm_km_free_poolpage.
    """
    _memory_of(vm_map, "uvm_km_free_poolpage")
    await uvm_km_free(vm_map, addr, F.PAGE_SIZE, F.UVM_KMF_WIRED)


async def uvm_km_alloc_poolpage_cache(vm_map: VmMap, *, waitok: bool) -> int:
    """One wired page, its address from the map's pool of addresses; as uvm_km_alloc_poolpage if there is no such pool.

    Locks: none on entry and exit. Sleeps: for the pool's lock, unless the map is INTRSAFE; with `waitok` also for the map's
    lock, for addresses and for pages.

    Args:
        vm_map: a kernel map of 5.2 with memory.
        waitok: the caller may sleep.

    Returns:
        The address, or 0 without `waitok` if anything is missing.

    Source: sys/uvm/uvm_km.c, uvm_km_alloc_poolpage_cache.
    """
    memory = _memory_of(vm_map, "uvm_km_alloc_poolpage_cache")
    if not vm_map.flags.peek() & F.VM_MAP_VACACHE:
        return await uvm_km_alloc_poolpage(vm_map, waitok=waitok)
    va = await km_vacache_alloc(vm_map, waitok=waitok)
    if not va:
        return 0
    if vm_map.diagnostic:
        await memory.assert_unmapped(va)
    while (page := await memory.pagealloc(0, 0 if waitok else F.UVM_KMF_NOWAIT)) is None:
        if not waitok:
            await km_vacache_free(vm_map, va)
            return 0
        await memory.uvm.uvm_wait("plpg")
    await memory.enter(va, page, 0)
    await memory.update()
    return va


async def uvm_km_free_poolpage_cache(vm_map: VmMap, addr: int) -> None:
    """Free what uvm_km_alloc_poolpage_cache returned: its page; the address stays with the pool.

    The processors are told at once only with DEBUG, else when the address is used again or leaves the pool.

    Locks: none on entry and exit. Sleeps: for the pool's lock, unless the map is INTRSAFE; without a pool for the map's.

    Source: sys/uvm/uvm_km.c, uvm_km_free_poolpage_cache.
    """
    memory = _memory_of(vm_map, "uvm_km_free_poolpage_cache")
    if not vm_map.flags.peek() & F.VM_MAP_VACACHE:
        await uvm_km_free_poolpage(vm_map, addr)
        return
    await memory.pgremove_intrsafe(vm_map, addr, addr + F.PAGE_SIZE)
    if vm_map.options & F.Options.DEBUG:
        await memory.update()
    await km_vacache_free(vm_map, addr)


def _memory_of(vm_map: VmMap, call: str) -> Memory:
    if vm_map.version != "5.2":
        raise UsageError(
            f"{call}: version={vm_map.version!r} has no such call, it has kmem_arena; ask for version='5.2'"
        )
    if vm_map.memory is None:
        raise UsageError(f"{call}: {vm_map!r} has no memory: make it with setup(memory=Memory(...))")
    return vm_map.memory

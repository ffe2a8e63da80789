"""5.2: a kernel map's pool of single pages of address space, VM_MAP_VACACHE.

Pages are cut from chunks of 32, each one QUANTUM mapping aligned to its size. A chunk goes back to the map only when
addresses are short: the pool has registered as one of the map's reclaim callbacks.

Source: sys/uvm/uvm_km.c 1.101.4.2, km_vacache_alloc, km_vacache_free, uvm_km_vacache_init, and as much of
sys/kern/subr_pool.c as concerns it. What is put into the pages is the caller's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.kernel.mutex import Mutex, SpinMutex
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.uvm_map import uvm_map, uvm_unmap

if TYPE_CHECKING:
    from stressvm.vm.netbsd.vm_map import VmMap

KM_VACACHE_SIZE = 32 * F.PAGE_SIZE


class KmVacache:
    """The pool.

    Args:
        vm_map: a kernel map of version 5.2.
        size: bytes of a chunk, a power of two.

    Attributes:
        free: by chunk, in order of arrival: the addresses of its free pages, the lowest last.
    """

    def __init__(self, vm_map: VmMap, size: int) -> None:
        self.map = vm_map
        self.size = size
        self.lock = (SpinMutex if vm_map.intrsafe else Mutex)(vm_map.k, f"{vm_map.name}.vacache")
        self.free: dict[int, list[int]] = {}

    async def get(self, *, waitok: bool) -> int:
        """pool_get: the address of a free page, or 0.

        Locks: none. Sleeps: for the pool's lock unless the map is INTRSAFE; with `waitok` for the map's lock and for
        addresses, without a limit.
        """
        await self.lock.lock()
        chunk = next((chunk for chunk, pages in self.free.items() if pages), None)
        if chunk is None:
            await self.lock.unlock()
            chunk = await self.grow(waitok=waitok)
            if not chunk:
                return 0
            await self.lock.lock()
            self.free[chunk] = list(range(chunk + self.size - F.PAGE_SIZE, chunk - 1, -F.PAGE_SIZE))
        va = self.free[chunk].pop()
        await self.lock.unlock()
        return va

    async def put(self, va: int) -> None:
        """pool_put: the page is free again; its chunk stays with the pool. Locks: none. Sleeps: for the pool's lock."""
        await self.lock.lock()
        self.free[va - va % self.size].append(va)
        await self.lock.unlock()

    async def grow(self, *, waitok: bool) -> int:
        """km_vacache_alloc: the address of a new chunk, or 0."""
        flags = F.UVM_FLAG_WAITVA if waitok else F.UVM_FLAG_TRYLOCK | F.UVM_FLAG_NOWAIT
        _, va = await uvm_map(
            self.map,
            self.map.min_offset,
            self.size,
            align=self.size,
            flags=flags | F.UVM_FLAG_QUANTUM,
            advice=F.UVM_ADV_RANDOM,
        )
        return va

    async def reclaim(self, _arg: object) -> int:
        """pool_reclaim, as a callback: give back the chunks of which no page is used. Never ends the chain.

        It gives up, as the pool does, if somebody else has its lock.
        """
        if not await self.lock.trylock():
            return F.CALLBACK_CHAIN_CONTINUE
        idle = [chunk for chunk, pages in self.free.items() if len(pages) * F.PAGE_SIZE == self.size]
        for chunk in idle:
            del self.free[chunk]
        await self.lock.unlock()
        for chunk in idle:
            await uvm_unmap(self.map, chunk, chunk + self.size, F.UVM_FLAG_QUANTUM | F.UVM_FLAG_VAONLY)
        return F.CALLBACK_CHAIN_CONTINUE


def uvm_km_vacache_init(vm_map: VmMap, size: int = 0) -> None:
    """Give a kernel map of 5.2 a pool of single pages, and set VM_MAP_VACACHE; while the world is built.

    Locks: none. Sleeps: no. Panics unless the map is more than twice as large as a chunk.

    Args:
        vm_map: the map.
        size: bytes of a chunk, a power of two; 0 for 32 pages.

    Source: sys/uvm/uvm_km.c, uvm_km_vacache_init.
    """
    if vm_map.version != "5.2":
        raise UsageError(f"version={vm_map.version!r} has no VM_MAP_VACACHE; ask for version='5.2'")
    size = size or KM_VACACHE_SIZE
    if not size < (vm_map.max_offset - vm_map.min_offset) // 2:
        raise vm_map.k.panic(f"km_vacache_init: KASSERT: chunks of {size:#x} bytes in {vm_map!r}")
    vm_map.flags.poke(vm_map.flags.peek() | F.VM_MAP_VACACHE)
    vm_map.vacache = KmVacache(vm_map, size)
    vm_map.vmk_reclaim_callback.add(vm_map.vacache.reclaim)


async def km_vacache_alloc(vm_map: VmMap, *, waitok: bool) -> int:
    """A page's address from the map's pool: what uvm_km_alloc_poolpage_cache does before it asks for the page itself.

    Locks: none on entry and exit. Sleeps: for the pool's lock, unless the map is INTRSAFE; with `waitok` also for the map's
    lock and for addresses.

    Args:
        vm_map: the map.
        waitok: wait for addresses if there are none; else neither for them nor for the map's lock.

    Returns:
        The address, or 0 if there are none.

    Source: sys/uvm/uvm_km.c, uvm_km_alloc_poolpage_cache and km_vacache_alloc.
    """
    return await _pool(vm_map).get(waitok=waitok)


async def km_vacache_free(vm_map: VmMap, addr: int) -> None:
    """Give a page's address back to the map's pool, which keeps it until addresses are short.

    Locks: none on entry and exit. Sleeps: for the pool's lock, unless the map is INTRSAFE.

    Args:
        vm_map: the map.
        addr: what km_vacache_alloc returned.

    Source: sys/uvm/uvm_km.c, uvm_km_free_poolpage_cache.
    """
    await _pool(vm_map).put(addr)


def _pool(vm_map: VmMap) -> KmVacache:
    if vm_map.vacache is None:
        raise UsageError(f"{vm_map!r} has no pool of addresses: call uvm_km_vacache_init when it is made")
    return vm_map.vacache

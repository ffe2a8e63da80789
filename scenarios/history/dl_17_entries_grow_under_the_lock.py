"""FreeBSD's kernel map, 2020: it is short of entries, and to make some more the map would have to be locked.

An entry of the kernel's map is memory of the kernel, which is mapped by the kernel's map. When an insertion found that the
zone was empty, the zone got itself a new slab, and the slab had to be mapped: the map is locked, and is to be locked again.
Some entries were set aside for that, but two threads may use these up. It was repaired with a zone of its own, which may be
dipped into under the lock, and is filled up just before the map is unlocked.

Source: FreeBSD, sys/vm/vm_map.c, r367595 of November 2020.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import freebsd

SOURCE = "FreeBSD, sys/vm/vm_map.c, vm_map_entry_create; repaired by r367595, November 2020"
PAGE = freebsd.PAGE_SIZE


class GrowsUnderTheLock(freebsd.KernelMap13):
    """A map whose entries come from an ordinary zone."""

    async def place(self, request: freebsd.Request) -> tuple[int, int]:
        """Before an insertion: if the zone is empty, it grows."""
        if not self.free_entries:
            await self.grow_zone()
        return await super().place(request)

    async def grow_zone(self) -> None:
        """keg_alloc_slab: memory for a slab, from kmem_malloc, which maps it as anything else. Locks: takes the map's."""
        await self.lock.lock()
        self.kmapent_alloc()
        await self.lock.unlock()

    def replenish(self) -> None:
        """Nothing is filled up before the map is unlocked."""
        self.flags &= ~freebsd.MAP_REPLENISH


def two_threads(k: Kernel, cls: type[freebsd.KernelMap]) -> None:
    """Two entries are set aside. Two threads map two ranges each, and unmap them again; no two have equal rights, or merge."""
    kernel_map = freebsd.kernel_map(k, 16, cls=cls, entries=0)
    low = kernel_map.min_offset

    async def uses(*rights: int) -> None:
        got = []
        for prot in rights:
            result, addr = await freebsd.vm_map_find(kernel_map, None, 0, low, PAGE, prot=prot)
            assert not result, "there is room"
            got.append(addr)
        for addr in got:
            await freebsd.vm_map_remove(kernel_map, addr, addr + PAGE)

    k.spawn(uses, freebsd.VM_PROT_READ, freebsd.VM_PROT_RW)
    k.spawn(uses, freebsd.VM_PROT_ALL, freebsd.VM_PROT_NONE)


@scenario(expect="panic", source=SOURCE)
def dl_17_entries_grow_under_the_lock(k: Kernel) -> None:
    """The other has used up what was set aside."""
    two_threads(k, GrowsUnderTheLock)


@scenario(source=SOURCE, executions=200)
def dl_17_entries_grow_under_the_lock_ok(k: Kernel) -> None:
    """Who takes one of the last entries sees to it that there are more before the map is unlocked."""
    two_threads(k, freebsd.KernelMap13)

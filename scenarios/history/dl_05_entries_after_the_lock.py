"""DragonFly's vm_contig, 2003: it locks the kernel's map, and then reserves the map entries that it will need.

Entries of the kernel's map come out of a pool, and to fill the pool up takes memory of the kernel, for which its map is
locked. So whoever is going to lock the map reserves entries before. One caller did it afterwards; that goes well until the
pool is empty.

Source: DragonFly, sys/vm/vm_contig.c, commit 2511e13f75 of October 2003. Here it is a map of NetBSD 5.2 that takes its entries
out of itself.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import netbsd

SOURCE = "DragonFly, sys/vm/vm_contig.c, vm_contig_pg_kmap; repaired by 2511e13f75, October 2003"
PAGE = netbsd.PAGE_SIZE


class Contig:
    """Maps contiguous memory into a kernel map.

    Args:
        kmap: the map; it takes its entries out of itself.
    """

    def __init__(self, kmap: netbsd.VmMap) -> None:
        self.map = kmap
        assert kmap.kmapents is not None
        self.entries = kmap.kmapents

    async def kmap(self, size: int) -> int:
        """vm_contig_pg_kmap: the address. Locks: takes the map's. Sleeps: for that."""
        spare = await self.reserve()
        error, va = await self.map.prepare(0, size, 0, 0)
        assert not error, "there is room"
        return await self.enter(va, size, spare)

    async def reserve(self) -> netbsd.EntryPage:
        """vm_map_entry_reserve: memory for one entry. Locks: the map must not be locked."""
        spare = await self.entries.alloc(0)
        assert spare is not None, "there is room for more entries"
        return spare

    async def enter(self, va: int, size: int, spare: netbsd.EntryPage) -> int:
        """Map it, and unlock the map. Locks: the map's on entry, none on exit."""
        entry = netbsd.MapEntry(va, va + size)
        entry.home = spare
        await self.map.enter(va, entry, 0)
        return va


class LocksFirst(Contig):
    """The map is locked before entries are reserved."""

    async def kmap(self, size: int) -> int:
        """The wrong way round."""
        error, va = await self.map.prepare(0, size, 0, 0)
        assert not error, "there is room"
        return await self.enter(va, size, await self.reserve())


def empty_pool(k: Kernel, cls: type[Contig]) -> None:
    """No entry is free."""
    kmap = netbsd.setup(k, 8, version="5.2", flags=netbsd.VM_MAP_INTRSAFE, kmapent=True)
    contig = cls(kmap)

    async def maps() -> None:
        k.record(va=await contig.kmap(2 * PAGE))

    k.spawn(maps)


@scenario(expect="panic", source=SOURCE)
def dl_05_entries_after_the_lock(k: Kernel) -> None:
    """To fill the pool up, the map would have to be locked that is locked already."""
    empty_pool(k, LocksFirst)


@scenario(source=SOURCE, executions=200)
def dl_05_entries_after_the_lock_ok(k: Kernel) -> None:
    """Entries first, then the lock."""
    empty_pool(k, Contig)

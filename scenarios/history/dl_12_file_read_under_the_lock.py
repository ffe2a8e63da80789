"""OSv's mmap, 2013: the file is read in with the address space locked, and to read it may take addresses.

A mapping that is to be there at once was filled by reading the file right after it was entered, under the lock of the address
space. Reading allocates memory, and if the allocator has to map some for that, it needs this very lock.

Source: OSv, core/mmu.cc, map_file, commit 8919c66a of July 2013. Here it is a kernel map of NetBSD's, in which buffers lie, too.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import netbsd

SOURCE = "OSv, core/mmu.cc, mmu::map_file; repaired by 8919c66a, July 2013"
PAGE = netbsd.PAGE_SIZE
VAONLY = netbsd.UVM_KMF_VAONLY


class Mmu:
    """Maps files.

    Args:
        kmap: where, and where the buffers of the file system are.
        buffers: so many it has already.
    """

    def __init__(self, kmap: netbsd.VmMap, buffers: int) -> None:
        self.map = kmap
        self.buffers = buffers

    async def map_file(self, size: int) -> int:
        """Map a file, and read it in; the address. Locks: takes the map's. Sleeps: for that, and for the file."""
        error, va = await self.map.prepare(0, size, 0, 0)
        assert not error, "there is room"
        await self.map.enter(va, netbsd.MapEntry(va, va + size), 0)
        await self.read(size)
        return va

    async def read(self, size: int) -> None:
        """Read the file, a buffer for each page. Locks: takes the map's, if a buffer has to be made."""
        for _ in range(0, size, PAGE):
            if self.buffers:
                self.buffers -= 1
            else:
                assert await netbsd.uvm_km_alloc(self.map, PAGE, 0, VAONLY | netbsd.UVM_KMF_NOWAIT), "there is room"


class ReadsFirst(Mmu):
    """The file is read before the map is unlocked."""

    async def map_file(self, size: int) -> int:
        """The wrong way round."""
        error, va = await self.map.prepare(0, size, 0, 0)
        assert not error, "there is room"
        await self.read(size)
        await self.map.enter(va, netbsd.MapEntry(va, va + size), 0)
        return va


def two_pages(k: Kernel, cls: type[Mmu]) -> None:
    """A file of two pages, and one buffer."""
    mmu = cls(netbsd.submap(k, pages=8), 1)

    async def maps() -> None:
        k.record(va=await mmu.map_file(2 * PAGE))

    k.spawn(maps)


@scenario(expect="panic", source=SOURCE)
def dl_12_file_read_under_the_lock(k: Kernel) -> None:
    """The second page needs a new buffer."""
    two_pages(k, ReadsFirst)


@scenario(source=SOURCE, executions=200)
def dl_12_file_read_under_the_lock_ok(k: Kernel) -> None:
    """The file is read when the map is unlocked."""
    two_pages(k, Mmu)

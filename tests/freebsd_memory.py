"""A FreeBSD process with memory, and a thread that nobody disturbs."""

from __future__ import annotations

from typing import Any

from stressvm.bench.defects.freebsd_memory_world import PAGE, MemoryWorld, Space
from stressvm.vm import freebsd, pages
from tests.freebsd_lone import Lone


class LoneMemory(Lone):
    """A process, a thread that nobody disturbs, and memory; places are pages from the lowest address.

    Args:
        version: "13" or "2013".
        npages: page frames.
        mapped: pages of anonymous memory from the lowest address on.
        kw: as for `MemoryWorld`.
    """

    def __init__(self, version: str = "13", npages: int = 24, *, mapped: int = 4, **kw: Any) -> None:
        super().__init__()
        self.world = MemoryWorld(self.k, npages, version, **kw)
        self.space = self.world.space(mapped)
        self.map = self.space.map
        self.vm = self.space.vm
        self.pages = self.world.pages
        self.memory = self.world.memory

    def insert(self, start: int, end: int, obj: freebsd.VmObject | None = None, offset: int = 0, **kw: Any) -> None:
        """Map pages; before `begin`, or after."""
        if self.k.cur >= 0:
            self.now(self.map.lock.lock())
        assert self.map.insert(obj, offset * PAGE, self.space.at(start), self.space.at(end), **kw) == 0
        if self.k.cur >= 0:
            self.now(self.map.lock.unlock())

    def read(self, page: int, space: Space | None = None) -> str:
        """What a page holds; reading it must succeed."""
        rc, content = self.now((space or self.space).read(page))
        assert rc == 0
        return content

    def write(self, page: int, content: str, space: Space | None = None) -> None:
        """Write a page, which must succeed."""
        assert self.now((space or self.space).write(page, content)) == 0

    def fault(self, page: int, access: int, *, wire: bool = False) -> int:
        return self.now(freebsd.vm_fault(self.map, self.space.at(page), access, wire=wire))

    def fork(self) -> Space:
        child = self.now(self.space.fork())
        assert child is not None
        return child

    def entry(self, page: int, space: Space | None = None) -> freebsd.VmMapEntry:
        found, entry = (space or self.space).map.entries.lookup(self.space.at(page))
        assert found
        assert entry is not None
        return entry

    def page(self, page: int, space: Space | None = None) -> pages.Page:
        """The page frame that is mapped there."""
        pmap = (space or self.space).map.pmap
        assert pmap is not None
        at = self.space.at(page)
        (found,) = pmap.translations(at, at + PAGE)
        return self.pages.pages[(found.pa - pages.PHYS_BASE) // PAGE]

    @property
    def free(self) -> int:
        """How many pages are free."""
        return int(self.pages.free.peek())

    def finish(self) -> None:
        """Every process exits: nothing may be left."""
        for space in self.world.spaces:
            self.now(space.exit())
        freebsd.audit(self.k)
        self.memory.audit()
        assert self.free == self.world.npages

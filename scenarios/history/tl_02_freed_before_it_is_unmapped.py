"""OSv's mmu, 2013: a page is freed, and only then removed from the page table.

In between somebody else may get it. A thread of the old owner that uses the address uses the new owner's page.

Source: OSv, core/mmu.cc, commit cd36c57b of April 2013. Here it is FreeBSD's pmap and pages, which nobody lists the mappings
of, as OSv does not: else the kernel would refuse to free a page that is mapped.
"""

from __future__ import annotations

from stressvm import Atomic, Kernel, scenario
from stressvm.vm import pages, pmap

SOURCE = "OSv, core/mmu.cc, unmap; repaired by cd36c57b, April 2013"
VA = 0x40_0000
THEIRS, MINE = 1, 2
ANY = pages.VM_ALLOC_INTERRUPT | pages.VM_ALLOC_NOOBJ


class Space:
    """An address space of one page, the only one there is.

    Args:
        k: the kernel.

    Attributes:
        content: what the page holds.
    """

    def __init__(self, k: Kernel) -> None:
        self.phys = pages.VmPages13(k, 1)
        machine = pmap.machine(k, 2)
        machine.add_pages(self.phys.pages)
        self.pmap = pmap.FreeBSDPmap(machine, "space")
        (self.page,) = self.phys.fill(None, 1)
        self.page.managed = False
        self.content = Atomic(k, 0, "page")
        self.pmap.prefill(VA, [self.page], pmap.VM_PROT_RW)

    async def unmap(self) -> None:
        """munmap: the mapping goes, and then the page. Locks: none. Sleeps: for the pmap's."""
        await self.pmap.remove(VA, VA + pmap.PAGE_SIZE)
        await self.phys.vm_page_free(self.page)


class FreesFirst(Space):
    """The other way round."""

    async def unmap(self) -> None:
        """The page goes, and then the mapping."""
        await self.phys.vm_page_free(self.page)
        await self.pmap.remove(VA, VA + pmap.PAGE_SIZE)


def unmap_and_write(k: Kernel, cls: type[Space]) -> None:
    """A thread unmaps a page, another of the same process writes to it, and somebody else wants a page."""
    space = cls(k)

    async def writes() -> None:
        if not isinstance(await space.pmap.access(VA, pmap.VM_PROT_WRITE), pmap.PageFault):
            space.content.poke(THEIRS)
        else:
            # With a fault it is not written; a search is told all the same that this step is about the page.
            space.content.peek()

    async def allocates() -> None:
        if await space.phys.vm_page_alloc(None, 0, ANY) is not None:
            await space.content.store(MINE)
            assert await space.content.load() == MINE, "somebody else has written to a page that was just allocated"

    k.spawn(space.unmap, name="unmaps")
    k.spawn(writes, name="writes")
    k.spawn(allocates, name="allocates")


@scenario(expect="assertion", source=SOURCE)
def tl_02_freed_before_it_is_unmapped(k: Kernel) -> None:
    """A page has two owners, and one reads what the other has written."""
    unmap_and_write(k, FreesFirst)


@scenario(source=SOURCE, executions=200)
def tl_02_freed_before_it_is_unmapped_ok(k: Kernel) -> None:
    """When the page is free, nobody can reach it."""
    unmap_and_write(k, Space)

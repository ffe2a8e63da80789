"""OSv's mmu, 2014: a page table that is empty is freed without a flush, and a processor still knows where it was.

All entries of it had been invalid already, and flushed, so it was thought that no processor could have use for it. But
processors remember entries of the upper levels as well. One that remembers the page directory's goes on reading the table's
page, whosever that is by then. It was repaired with a flush after the directory's entry is cleared.

Source: OSv, core/mmu.cc, commit 61b3f772 of November 2014. Here it is FreeBSD's pmap, freeing its page tables in a step of
their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario
from stressvm.vm import pmap

if TYPE_CHECKING:
    from collections.abc import Callable

    from scenarios.history._page_tables import VA, TablePages
else:
    from _page_tables import VA, TablePages

SOURCE = "OSv, core/mmu.cc; repaired by 61b3f772, November 2014"


class Osv(TablePages):
    """A pmap of processors that remember entries of the page directory.

    Attributes:
        remembered: the page table that each has found there, by number.
    """

    def __init__(self, machine: pmap.Machine, name: str) -> None:
        self.remembered: dict[int, pmap.PageTable] = {}
        super().__init__(machine, name)

    def forget(self, tlb: pmap.Tlb, forget: Callable[[pmap.Tlb], None]) -> None:
        """Whatever translation it is, entries of the page directory are forgotten with it."""
        super().forget(tlb, forget)
        self.remembered.pop(tlb.cpu, None)

    async def use(self) -> None:
        """The current processor uses VA, for which it has no translation. Locks: none. Sleeps: no."""
        await self.tables.load(VA)
        self.k.touch(self.tlbs[self.machine.cpu()].ident.number, write=True)
        table = self.remembered.get(self.machine.cpu()) or self.tables.table(VA)
        if table is not None:
            self.remembered[self.machine.cpu()] = table
            self.must_be_mine(self.entry_in(table))

    async def unmap(self) -> None:
        """Unmap the page, and then free the page table. Locks: none. Sleeps: for the pmap's."""
        self.table_at_va().holds += 1
        await self.remove(VA, VA + pmap.PAGE_SIZE)
        free: list[pmap.PhysPage] = []
        await self.acquire()
        await self.tables.store(VA)
        self.table_at_va().holds -= 1
        self.unuse_table(VA, free)
        await self.flush()
        await self.release()
        await self.free_tables(free)

    async def flush(self) -> None:
        """All processors forget the entry of the page directory that was just cleared. Locks: the pmap's."""
        await self.invalidate_page(VA)


class DoesNotFlush(Osv):
    """No translation has gone, so there is nothing to forget."""

    async def flush(self) -> None:
        """Not at all."""


def unmap_and_use(k: Kernel, cls: type[Osv]) -> None:
    """A page is unmapped, while another processor uses it twice; a third thread is glad of the page table's page."""
    space = cls(pmap.machine(k, 2), "space")

    async def uses() -> None:
        await space.activate()
        await space.use()
        await space.use()

    k.spawn(space.unmap, name="unmaps")
    k.spawn(uses, name="uses")
    k.spawn(space.take_page, name="allocates")


@scenario(expect="invariant", source=SOURCE)
def tl_10_directory_entry_cached(k: Kernel) -> None:
    """The processor takes a word of somebody else's memory for an entry."""
    unmap_and_use(k, DoesNotFlush)


@scenario(source=SOURCE, executions=200)
def tl_10_directory_entry_cached_ok(k: Kernel) -> None:
    """It has to ask the page directory again, which says that there is nothing."""
    unmap_and_use(k, Osv)

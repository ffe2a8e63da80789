"""FreeBSD on MIPS, 2020: a page table is freed while a processor is about to read an entry of it.

There a TLB is filled by software: a handler that reads the page directory, and then the page table that it names. It takes
no lock. Who removes the last entry of a page table takes it out of the directory, and frees it, and only then interrupts the
other processors; in between the page may be somebody else's, and what the handler finds there becomes a translation. The
handler runs with interrupts off, so it is enough to interrupt the processors first, and to wait.

Source: FreeBSD, sys/mips/mips/pmap.c, _pmap_unwire_ptp; repaired by r360280, April 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario
from stressvm.vm import pmap

if TYPE_CHECKING:
    from scenarios.history._page_tables import VA, TablePages
else:
    from _page_tables import VA, TablePages

SOURCE = "FreeBSD, sys/mips/mips/pmap.c, _pmap_unwire_ptp; repaired by r360280, April 2020"


class Refilled(TablePages):
    """A pmap of processors whose TLBs are filled by software."""

    async def refill(self) -> None:
        """The handler of a TLB miss. Locks: none. Sleeps: while the processor takes an interrupt."""
        await self.activate()
        await self.interrupts.disable()
        table = await self.load_pde()
        if table is not None:
            self.must_be_mine(await self.load_pte(table))
        await self.interrupts.enable()


class FreesAtOnce(Refilled):
    """A page table that is empty is freed at once."""

    async def remove_ptes(
        self, table: pmap.PageTable, vas: list[int], lockp: pmap.PvLock, free: list[pmap.PhysPage]
    ) -> bool:
        """pmap_remove_pte, with _pmap_unwire_ptp within; the processors are interrupted later."""
        anyvalid = await super().remove_ptes(table, vas, lockp, free)
        await self.free_tables(free)
        return anyvalid


def unmap_and_refill(k: Kernel, cls: type[Refilled]) -> None:
    """A page is unmapped while another processor misses it in its TLB; a third thread is glad of the page table's page."""
    space = cls(pmap.machine(k, 2), "space")

    async def removes() -> None:
        await space.remove(VA, VA + pmap.PAGE_SIZE)

    k.spawn(removes, name="removes")
    k.spawn(space.refill, name="misses")
    k.spawn(space.take_page, name="allocates")


@scenario(expect="invariant", source=SOURCE)
def tl_07_table_freed_under_a_walk(k: Kernel) -> None:
    """The handler makes a translation of a word of somebody else's memory."""
    unmap_and_refill(k, FreesAtOnce)


@scenario(source=SOURCE, executions=200)
def tl_07_table_freed_under_a_walk_ok(k: Kernel) -> None:
    """The page is freed when no handler can be reading it."""
    unmap_and_refill(k, Refilled)

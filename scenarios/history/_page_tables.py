"""Page tables that are themselves pages: when one is freed, its page becomes something else, and processors may still read it.

The model's processors read all levels of the tables in one step, and remember translations only. Here reading takes a step
for each level that counts, the page directory and the page table, or the former is remembered; and what a freed page table's
page is used for next is what a processor reads there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Atomic, Semaphore
from stressvm.vm import pmap

if TYPE_CHECKING:
    from scenarios.history._interrupts import Interrupting
else:
    from _interrupts import Interrupting

VA = 0x40_0000
#: A word as it may stand in anybody's memory; as an entry of a page table it would be of this page.
WORD = pmap.PG_V | pmap.PG_RW | 7 * pmap.PAGE_SIZE


class TablePages(Interrupting):
    """A pmap of one page, at VA. Its page table is a page that somebody may have next.

    Attributes:
        page: the page that it maps.
        table_page: that of the page table.
        word: what is there instead of the page table, once the page is somebody else's; or 0.
        freed: a unit, once the table's page is free.
    """

    def __init__(self, machine: pmap.Machine, name: str) -> None:
        self.freed = Semaphore(machine.k, 0, "free pages")
        self.word = Atomic(machine.k, 0, "the page table's page")
        super().__init__(machine, name, free_ptp=self.free_page)
        self.page, self.table_page = pmap.Frame(pmap.PAGE_SIZE), pmap.Frame(2 * pmap.PAGE_SIZE, managed=False)
        self.prefill(VA, [self.page], pmap.VM_PROT_RW)
        self.table_at_va().page = self.table_page

    def unuse_table(self, va: int, free: list[pmap.PhysPage]) -> bool:
        """Which changes the page directory, as processors see that do not read it and the page table in one step."""
        self.k.touch(self.tables.ident.number, write=True)
        return super().unuse_table(va, free)

    async def free_page(self, page: pmap.PhysPage) -> None:
        """Where the page of a page table goes."""
        assert page is self.table_page, "it is the only one"
        await self.freed.post()

    async def take_page(self) -> None:
        """Somebody else gets the page, and writes to it. Sleeps: until it is free."""
        await self.freed.wait()
        await self.word.store(WORD)

    def table_at_va(self) -> pmap.PageTable:
        """The page table."""
        table = self.tables.table(VA)
        assert table is not None, "it is there"
        return table

    async def load_pde(self) -> pmap.PageTable | None:
        """The processor reads the page directory. Locks: any. Sleeps: no."""
        await self.tables.load(VA)
        return self.tables.table(VA)

    async def load_pte(self, table: pmap.PageTable) -> int:
        """The processor reads a page table where the directory says that there is one. Locks: any. Sleeps: no."""
        await self.tables.load(VA)
        return self.entry_in(table)

    def entry_in(self, table: pmap.PageTable) -> int:
        """What a processor reads there, in the current step."""
        return self.word.peek() or table.entries.get(0, 0)

    def must_be_mine(self, pte: int) -> None:
        """What a processor makes of an entry is the page that was mapped, or nothing."""
        frame = pte & pmap.PG_FRAME
        if pte and frame != self.page.phys_addr:
            text = f"cpu{self.machine.cpu()} translates {VA:#x} to page {frame:#x}, which was never mapped"
            raise self.broken("G20 tlb", text)

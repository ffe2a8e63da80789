"""Superpages: 512 small mappings become one of 2 MiB, and one becomes 512 again.

Promotion changes no translation, so no processor is told; entries for small pages may linger, and PG_PROMOTED says so to
whoever destroys the superpage. Demotion changes none either. The page table is kept meanwhile, so that demotion needs no
memory for it; it does need 511 entries for pv lists, which it reserves before it changes anything.

Source: sys/amd64/amd64/pmap.c of releng/13.0, pmap_promote_pde, pmap_demote_pde_locked, pmap_remove_pde,
pmap_pv_promote_pde, pmap_pv_demote_pde.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.pmap import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pmap.freebsd_core import FreeBSDCore
from stressvm.vm.pmap.tables import PageTable

if TYPE_CHECKING:
    from stressvm.vm.pmap.machine import PvLock
    from stressvm.vm.pmap.page import PhysPage
    from stressvm.vm.pmap.tables import Directory

_INDEX = F.NPTEPG - 1


class Superpages(FreeBSDCore):
    """See the module."""

    # ------------------------------------------------------------ promotion

    async def promote_pde(self, directory: Directory, va: int, lockp: PvLock) -> bool:
        """pmap_promote_pde: make the page table for `va` a superpage, if it can be one; was it made?

        All 512 entries must be valid, accessed, of contiguous and aligned memory, and alike. Those that are writable and
        clean are made read-only first, and stay so if it fails further on: so a writable superpage is always modified.
        Locks: the pmap's; that of the pages' lists is held on exit if it succeeds. Sleeps: for that.
        """
        va = F.trunc_2mpage(va)
        table = directory.tables[va >> F.PDRSHIFT & _INDEX]
        new = self.promotable(table, va)
        if not new:
            self.promotion_failures += 1
            return False
        if new & F.PG_MANAGED:
            await lockp.change_to(new)
            self.pv_promote_pde(va, new)
        await self.tables.store(va)
        self.join_super(directory, va, new | F.PG_PS | F.PG_PROMOTED)
        self.promotions += 1
        return True

    def promotable(self, table: PageTable, va: int) -> int:
        """The superpage's entry, or 0 if the entries of the table cannot be one."""
        entries = table.entries
        first = entries.get(0, 0)
        if first & ((F.PG_FRAME & F.PDRMASK) | F.PG_A | F.PG_V) != F.PG_A | F.PG_V:
            return 0
        first = self.without_clean_writes(table, va, first)
        want = first & (F.PG_PS_FRAME | F.PG_A | F.PG_V)
        # From the top, as the kernel does: where it stops decides which entries have been made read-only.
        for index in range(F.NPTEPG - 1, 0, -1):
            pte = entries.get(index, 0)
            if pte & (F.PG_FRAME | F.PG_A | F.PG_V) != want + (index << F.PAGE_SHIFT):
                return 0
            pte = self.without_clean_writes(table, va + (index << F.PAGE_SHIFT), pte)
            if not self.alike(pte, first):
                return 0
        return first

    def without_clean_writes(self, table: PageTable, va: int, pte: int) -> int:
        """An entry that is writable and clean is made read-only; processors see that when they want to set its M."""
        if pte & F.PG_DIRTY == F.PG_RW:
            pte &= ~F.PG_RW
            self.store_pte(table, va, pte)
        return pte

    def alike(self, pte: int, first: int) -> bool:
        """Do two entries agree in every attribute?"""
        return not (pte ^ first) & F.PG_PTE_PROMOTE

    def pv_promote_pde(self, va: int, pde: int) -> None:
        """pmap_pv_promote_pde: one entry on the list of the 2 MiB for 512 on the lists of the pages. Locks: the lists'."""
        pages = self.machine.superpage(pde)
        for number, md in enumerate(pages):
            writeable = md.writeable
            self.unlist_page(va + (number << F.PAGE_SHIFT), md)
            md.writeable = writeable
            if number:
                self.free_pv_entry()
        header = self.machine.pvh(pde)
        header.pv_list[self, va] = None
        header.pv_gen += 1

    # ------------------------------------------------------------ demotion

    async def demote_pde(self, directory: Directory, va: int, lockp: PvLock) -> bool:
        """pmap_demote_pde_locked: back to small pages with the same translations; False: the mapping was destroyed instead.

        Destroyed is what was never accessed, and what no page table can be had for; never what is wired.
        Locks: the pmap's; that of the pages' lists may be held on exit. Sleeps: for locks.
        """
        va = F.trunc_2mpage(va)
        index = va >> F.PDRSHIFT & _INDEX
        old = directory.supers[index]
        table = directory.saved.pop(index, None) if old & F.PG_A else None
        if table is None and old & F.PG_W:
            raise self.kassert("pmap_demote_pde", f"a wired mapping, {va:#x}, cannot be demoted: {F.words(old)}")
        if table is None and old & F.PG_A:
            table = await self.demotion_table()
        if table is None:
            await self.demote_abort(directory, va, lockp)
            return False
        if old & F.PG_DIRTY == F.PG_RW:
            raise self.kassert("pmap_demote_pde", f"{va:#x} is writable and clean: {F.words(old)}")
        self.fill_table(table, old)
        if old & F.PG_MANAGED:
            await self.reserve_pv_entries(F.NPTEPG - 1, lockp)
        await self.tables.store(va)
        self.split_super(directory, va, table)
        if old & F.PG_MANAGED:
            await self.pv_demote_pde(va, old, lockp)
        self.demotions += 1
        return True

    async def demotion_table(self) -> PageTable | None:
        """A page table for a superpage that was not promoted; None if there is no page for one."""
        page = await self.alloc_ptp(False)
        return PageTable(page) if page is not None else None

    def fill_table(self, table: PageTable, pde: int) -> None:
        """pmap_fill_ptp: what the superpage says, for each page; left as it is if it says so already."""
        pte = pde & ~(F.PG_PS | F.PG_PROMOTED)
        entries = table.entries
        if len(entries) == F.NPTEPG and not (entries[0] ^ pte) & F.PG_PTE_PROMOTE:
            return
        entries.clear()
        for index in range(F.NPTEPG):
            entries[index] = pte + (index << F.PAGE_SHIFT)

    async def pv_demote_pde(self, va: int, pde: int, lockp: PvLock) -> None:
        """pmap_pv_demote_pde: 512 entries on the lists of the pages for one on the list of the 2 MiB."""
        await lockp.change_to(pde)
        self.unlist_super(va, pde)
        for number, md in enumerate(self.machine.superpage(pde)):
            if number and not self.take_pv_entry():
                raise self.kassert("pmap_pv_demote_pde", f"missing spare: entry {number} of 512 for {va:#x}")
            self.list_page(va + (number << F.PAGE_SHIFT), md)

    def unlist_super(self, va: int, pde: int) -> None:
        """Take a superpage off the list of its 2 MiB. Locks: the list's."""
        header = self.machine.pvh(pde)
        if (self, va) not in header.pv_list:
            raise self.kassert("pmap_pvh_free", f"pv not found: superpage {va:#x} of {pde & F.PG_PS_FRAME:#x}")
        del header.pv_list[self, va]
        header.pv_gen += 1

    async def demote_abort(self, directory: Directory, va: int, lockp: PvLock) -> None:
        """pmap_demote_pde_abort: destroy the mapping, and tell the processors."""
        free: list[PhysPage] = []
        old = directory.supers[va >> F.PDRSHIFT & _INDEX]
        await self.remove_pde(directory, va, lockp, free)
        if not old & F.PG_G:
            await self.invalidate_pde_page(va, old)
        if free:
            await self.free_tables(free)
        self.demotion_failures += 1

    # ------------------------------------------------------------ removal

    async def remove_pde(self, directory: Directory, va: int, lockp: PvLock, free: list[PhysPage]) -> None:
        """pmap_remove_pde: unmap a whole superpage. The caller invalidates, but for the kernel's pmap.

        Locks: the pmap's; that of the pages' lists is held on exit if they are managed. Sleeps: for that.

        Args:
            directory: its page directory.
            va: its address.
            lockp: the lock of a pv list that the caller holds.
            free: where page tables go that are not needed any more.
        """
        index = va >> F.PDRSHIFT & _INDEX
        await self.tables.store(va)
        old = self.store_super(directory, va, 0)
        saved = directory.saved.pop(index, None)
        if self.kernel:
            # The kernel keeps its page tables; this one is empty from now on.
            table = saved or PageTable()
            table.entries.clear()
            directory.tables[index] = table
        if old & F.PG_W:
            self.wired_count -= F.NPTEPG
        if old & F.PG_G:
            await self.invalidate_pde_page(va, old)
        self.resident_count -= F.NPTEPG
        if old & F.PG_MANAGED:
            await lockp.change_to(old)
            self.unlist_super(va, old)
            self.free_pv_entry()
            listed = bool(self.machine.pvh(old).pv_list)
            for md in self.machine.superpage(old):
                self.hand_over(md, old)
                if not listed and not md.page.pv_list:
                    md.writeable = False
                self.machine.invl.note(md)
        if not self.kernel:
            if saved is not None and saved.page is not None:
                free.append(saved.page)
            self.unuse_table(va, free)

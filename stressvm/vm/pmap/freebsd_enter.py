"""FreeBSD's pmap: make mappings: pmap_enter, of a small page or a superpage.

Source: sys/amd64/amd64/pmap.c of releng/13.0, pmap_enter and pmap_enter_pde.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.pmap import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pmap.freebsd_remove import Removal
from stressvm.vm.pmap.machine import PvLock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.vm.pmap.page import PhysPage
    from stressvm.vm.pmap.tables import Directory, PageTable

_INDEX = F.NPTEPG - 1


class Entering(Removal):
    """See the module."""

    async def enter(self, va: int, page: PhysPage, prot: int, flags: int, psind: int = 0) -> int:
        """pmap_enter: map a page, instead of what was there.

        The same page: rights and wiring change, and processors are told if rights shrink. Another page: the old mapping is
        broken first, that is cleared and invalidated, and only then the new one is made, so that no two processors see two
        pages. The mapping is accessed, and modified if the access that caused the call was a write. When the page table
        has become full, it may become a superpage.

        Locks: none of pmaps and lists on entry and exit; a managed page is busy, or its object locked (asserted if the
        machine knows `page_owned`). Sleeps: for locks; for a page table unless PMAP_ENTER_NOSLEEP. Without memory for the
        entry of a pv list it destroys some other mapping that is not wired.

        Args:
            va: the address; the offset within its page does not matter.
            page: the page; with psind 1 the first of the 512 of a superpage, all of which the machine must know.
            prot: VM_PROT_*: what the mapping allows.
            flags: the access that caused the call, VM_PROT_*, with PMAP_ENTER_WIRED and PMAP_ENTER_NOSLEEP.
            psind: 1 for a superpage, at once; 0 otherwise.

        Returns:
            KERN_SUCCESS; KERN_RESOURCE_SHORTAGE, with nothing changed, for want of a page table with NOSLEEP, or of the
            entry of a pv list for a superpage. A superpage may be refused with mappings in its place destroyed.
        """
        va = F.trunc_page(va)
        new = self.new_pte(va, page, prot, flags)
        lockp = PvLock(self.machine)
        await self.acquire()
        if psind:
            result = await self.enter_pde(va, new | F.PG_PS, flags, lockp)
        else:
            result = await self.enter_pte(va, new, flags, lockp)
        await lockp.release()
        await self.release()
        return result

    def new_pte(self, va: int, page: PhysPage, prot: int, flags: int) -> int:
        """The entry that pmap_enter makes, and its assertions."""
        if not self.min_address <= va < self.max_address:
            raise self.kassert(
                "pmap_enter", f"toobig: {va:#x} is not in [{self.min_address:#x}, {self.max_address:#x})"
            )
        if flags & F.VM_PROT_WRITE and not prot & F.VM_PROT_WRITE:
            raise self.kassert("pmap_enter", f"{va:#x}: flags includes VM_PROT_WRITE but prot doesn't")
        if flags & ~(F.VM_PROT_ALL | F.PMAP_ENTER_NOSLEEP | F.PMAP_ENTER_WIRED):
            raise UsageError(f"pmap_enter(flags={flags:#x}): NOSLEEP, WIRED and VM_PROT_* are modelled")
        owned = self.machine.page_owned
        if page.managed and owned is not None and not page.busy and not owned(page):
            raise self.kassert("pmap_enter", f"page {page.phys_addr:#x} is neither busy nor its object locked")
        self.machine.add_page(page)
        new = page.phys_addr | F.PG_A | F.PG_V | (F.PG_G if self.kernel else F.PG_U)
        if flags & F.VM_PROT_WRITE:
            new |= F.PG_M
        if prot & F.VM_PROT_WRITE:
            new |= F.PG_RW
        if not prot & F.VM_PROT_EXECUTE:
            new |= F.PG_NX
        if flags & F.PMAP_ENTER_WIRED:
            new |= F.PG_W
        if page.managed:
            return new | F.PG_MANAGED
        return new | F.PG_M if new & F.PG_RW else new

    # ------------------------------------------------------------ a small page

    async def enter_pte(self, va: int, new: int, flags: int, lockp: PvLock) -> int:
        """pmap_enter with psind 0. Locks: the pmap's; that of a list may be held on exit."""
        found = await self.table_for(va, flags, lockp)
        if found is None:
            return F.KERN_RESOURCE_SHORTAGE
        directory, table = found
        table.holds += 1
        old = table.entries.get(self.index_of(va), 0)
        if not old:
            self.resident_count += 1
            if new & F.PG_W:
                self.wired_count += 1
            await self.enter_listed(va, new, lockp, have_entry=False)
            await self.make(table, va, new)
        else:
            self.wired_count += ((new & F.PG_W) - (old & F.PG_W)) // F.PG_W
            if (old ^ new) & F.PG_FRAME:
                await self.replace(table, va, new, lockp)
            else:
                await self.change(table, va, new)
        table.holds -= 1
        if self.should_promote(table, new):
            await self.promote_pde(directory, va, lockp)
        return F.KERN_SUCCESS

    async def make(self, table: PageTable, va: int, new: int) -> None:
        """pte_store: the moment of truth."""
        await self.tables.store(va)
        self.store_pte(table, va, new)

    async def change(self, table: PageTable, va: int, new: int) -> None:
        """Another protection or wiring of the same page; processors are told if it needs that."""
        md = self.machine.md(new)
        if new & F.PG_MANAGED and new & F.PG_RW:
            md.writeable = True
        if not (table.entries[self.index_of(va)] ^ new) & ~(F.PG_M | F.PG_A):
            return
        await self.tables.store(va)
        old = table.entries[self.index_of(va)]
        if not new & F.PG_M and old & F.PG_DIRTY == F.PG_DIRTY:
            if old & F.PG_MANAGED:
                self.vm_page_dirty(md)
            shrinks = True
        else:
            shrinks = not old & F.PG_NX and bool(new & F.PG_NX)
        self.store_pte(table, va, new)
        if shrinks and old & F.PG_A:
            await self.invalidate_page(va)

    async def replace(self, table: PageTable, va: int, new: int, lockp: PvLock) -> None:
        """Another page: break the old mapping, then make the new one. The pv entry is used again."""
        old = await self.break_mapping(table, va)
        have_entry = bool(old & F.PG_MANAGED and new & F.PG_MANAGED)
        await self.unlist(va, old, lockp, keep_entry=have_entry)
        await self.enter_listed(va, new, lockp, have_entry=have_entry)
        await self.make(table, va, new)

    async def break_mapping(self, table: PageTable, va: int) -> int:
        """Clear the entry, and tell the processors if any can know it; the old entry."""
        await self.tables.store(va)
        old = self.store_pte(table, va, 0)
        if old & F.PG_MANAGED:
            self.hand_over(self.machine.md(old), old)
        if old & F.PG_A or not old & F.PG_MANAGED:
            await self.invalidate_page(va)
        return old

    async def enter_listed(self, va: int, new: int, lockp: PvLock, *, have_entry: bool) -> None:
        """The mapping that is about to be made goes on its page's list, if the page is managed."""
        if not new & F.PG_MANAGED:
            return
        if not have_entry:
            await self.get_pv_entry(lockp)
        md = self.machine.md(new)
        await lockp.change_to(new)
        self.list_page(va, md)
        if new & F.PG_RW:
            md.writeable = True

    def should_promote(self, table: PageTable, new: int) -> bool:
        """Is the page table full (the kernel's: perhaps), and the reservation of the page, too?"""
        fullpop = self.machine.fullpop
        return (
            self.pg_ps_enabled
            and (self.kernel or len(table.entries) == F.NPTEPG)
            and (fullpop is None or fullpop(self.machine.md(new).page))
        )

    async def table_for(self, va: int, flags: int, lockp: PvLock) -> tuple[Directory, PageTable] | None:
        """The page table for `va`, with its directory: found, demoted or allocated; None for want of a page with NOSLEEP.

        Locks: the pmap's, released while it waits for a page.
        """
        spare: list[PhysPage] = []
        while True:
            directory = self.tables.directory(va)
            index = va >> F.PDRSHIFT & _INDEX
            if directory is not None and index in directory.supers:
                await self.demote_pde(directory, va, lockp)
                directory = self.tables.directory(va)
            table = self.kernel_table(va) if self.kernel else self.tables.table(va)
            if table is not None:
                if spare:
                    await self.free_tables(spare)
                directory = self.tables.directory(va)
                assert directory is not None, "a table is in a directory"
                return directory, table
            if self.kernel:
                raise self.k.panic(f"pmap_enter: invalid page directory va={va:#x}")
            if not await self.alloc_table(va, spare):
                if flags & F.PMAP_ENTER_NOSLEEP:
                    await self.free_tables(spare)
                    return None
                await self.wait_for_ptp(lockp, spare)

    # ------------------------------------------------------------ a superpage

    async def enter_pde(self, va: int, new: int, flags: int, lockp: PvLock) -> int:
        """pmap_enter_pde: map a superpage; whatever is in its place is unmapped first. Locks: as enter_pte."""
        if va & F.PDRMASK or new & F.PG_FRAME & F.PDRMASK:
            raise self.kassert("pmap_enter", f"unaligned superpage: {va:#x} to {new & F.PG_FRAME:#x}")
        if new & F.PG_DIRTY == F.PG_RW:
            raise self.kassert("pmap_enter_pde", f"{va:#x}: newpde is missing PG_M")
        self.machine.superpage(new)
        directory = await self.directory_for(va, flags, lockp)
        if directory is None:
            return F.KERN_RESOURCE_SHORTAGE
        free: list[PhysPage] = []
        await self.vacate_superpage(directory, va, lockp, free)
        directory = self.tables.directory(va)
        if directory is None:
            # The last thing that the directory had was in the way, and the directory is gone with it.
            assert await self.alloc_table(va, free, leaf=False), "its own pages are free now"
            directory = self.tables.directory(va)
            assert directory is not None, "just made"
        if new & F.PG_MANAGED:
            if not self.take_pv_entry():
                self.unuse_table(va, free)
                if free:
                    await self.free_tables(free)
                return F.KERN_RESOURCE_SHORTAGE
            await lockp.change_to(new)
            header = self.machine.pvh(new)
            header.pv_list[self, va] = None
            header.pv_gen += 1
            if new & F.PG_RW:
                for md in self.machine.superpage(new):
                    md.writeable = True
        if new & F.PG_W:
            self.wired_count += F.NPTEPG
        self.resident_count += F.NPTEPG
        await self.tables.store(va)
        if self.kernel:
            index = va >> F.PDRSHIFT & _INDEX
            directory.saved[index] = directory.tables.pop(index)
        self.store_super(directory, va, new)
        if free:
            await self.free_tables(free)
        return F.KERN_SUCCESS

    async def directory_for(self, va: int, flags: int, lockp: PvLock) -> Directory | None:
        """pmap_alloc_pde: the page directory for `va`; None for want of a page with NOSLEEP."""
        spare: list[PhysPage] = []
        if self.kernel and self.kernel_table(va) is None and not self.tables.entry(va) & F.PG_PS:
            raise self.k.panic(f"pmap_alloc_pde: missing page table page va={va:#x}")
        while self.tables.directory(va) is None and not await self.alloc_table(va, spare, leaf=False):
            if flags & F.PMAP_ENTER_NOSLEEP:
                await self.free_tables(spare)
                return None
            await self.wait_for_ptp(lockp, spare)
        if spare:
            await self.free_tables(spare)
        return self.tables.directory(va)

    async def vacate_superpage(self, directory: Directory, va: int, lockp: PvLock, free: list[PhysPage]) -> None:
        """Break what is in the place of a superpage, and tell the processors."""
        index = va >> F.PDRSHIFT & _INDEX
        if index in directory.supers:
            old = directory.supers[index]
            await self.remove_pde(directory, va, lockp, free)
            if not old & F.PG_G:
                await self.invalidate_pde_page(va, old)
        table = directory.tables.get(index)
        if table is None:
            return
        vas = table.within(va, va + F.NBPDR)
        if vas:
            await self.machine.invl.start()
            if await self.remove_ptes(table, vas, lockp, free):
                await self.invalidate_all()
            await self.machine.invl.finish()

    # ------------------------------------------------------------ while the world is built

    def prefill(self, va: int, pages: Sequence[PhysPage], prot: int, flags: int = 0) -> None:
        """While the world is built: map these pages one behind the other, as `enter` would each, where nothing is mapped.

        The processors know nothing of them yet. 512 pages that could be a superpage become one. Page tables are nobody's.
        """
        if self.k.cur >= 0:
            raise UsageError("prefill builds the world; threads call enter")
        for number, page in enumerate(pages):
            at = va + (number << F.PAGE_SHIFT)
            table = self.kernel_table(at) if self.kernel else self.table_at(at)
            if table is None or self.index_of(at) in table.entries:
                raise UsageError(f"prefill: {at:#x} is mapped, or has no page table")
            new = self.new_pte(at, page, prot, flags)
            self.store_pte(table, at, new)
            self.resident_count += 1
            self.wired_count += bool(new & F.PG_W)
            if new & F.PG_MANAGED:
                if not self.take_pv_entry():
                    raise UsageError(f"prefill: pv_entries_max={self.machine.pv_entries_max} is too small")
                md = self.machine.md(new)
                self.list_page(at, md)
                md.writeable |= bool(new & F.PG_RW)
            if self.index_of(at) == _INDEX and self.should_promote(table, new):
                self._prefill_superpage(F.trunc_2mpage(at), table)
        self.check()

    def _prefill_superpage(self, va: int, table: PageTable) -> None:
        """promote_pde, when nobody else is there yet."""
        directory = self.tables.directory(va)
        assert directory is not None, "a table is in a directory"
        new = self.promotable(table, va)
        if new:
            if new & F.PG_MANAGED:
                self.pv_promote_pde(va, new)
            self.join_super(directory, va, new | F.PG_PS | F.PG_PROMOTED)
            self.promotions += 1

"""FreeBSD's pmap: take mappings away, or rights: pmap_remove, pmap_protect, pmap_unwire.

Source: sys/amd64/amd64/pmap.c of releng/13.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.pmap import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pmap.machine import PvLock
from stressvm.vm.pmap.superpage import Superpages

if TYPE_CHECKING:
    from stressvm.vm.pmap.page import PhysPage
    from stressvm.vm.pmap.tables import Directory, PageTable


class Removal(Superpages):
    """See the module."""

    async def remove(self, sva: int, eva: int) -> None:
        """pmap_remove: unmap [sva, eva), wired or not; holes are no error.

        Modified and accessed bits go to the pages. A superpage that is within the range goes as one, another is demoted.
        Processors are told before the lock is released, page tables freed afterwards. Without any mapping at all it returns
        at once, without the lock.

        Locks: none of pmaps and lists on entry and exit. Sleeps: for locks.

        Args:
            sva: where the range begins, page aligned, bytes.
            eva: where it ends, exclusive.
        """
        if not self.resident_count:
            return
        invl = self.machine.invl
        free: list[PhysPage] = []
        lockp = PvLock(self.machine)
        await invl.start()
        await self.acquire()
        anyvalid = False
        single = sva + F.PAGE_SIZE == eva and not self.tables.entry(sva) & F.PG_PS
        for start, directory, index in self.tables.slots(sva, eva):
            end = F.trunc_2mpage(start) + F.NBPDR
            if index in directory.supers:
                if start + F.NBPDR == end <= eva:
                    anyvalid |= not self.kernel
                    await self.remove_pde(directory, start, lockp, free)
                    continue
                if not await self.demote_pde(directory, start, lockp):
                    continue
            table = directory.tables[index]
            anyvalid |= await self.remove_ptes(table, table.within(start, min(end, eva)), lockp, free)
        await lockp.release()
        await self.finish_removal(anyvalid=anyvalid, page=sva if single else None)
        await invl.finish()
        if free:
            await self.free_tables(free)

    async def finish_removal(self, *, anyvalid: bool, page: int | None) -> None:
        """The end of a removal, of one page perhaps: tell the processors, and only then unlock."""
        if anyvalid and page is not None:
            await self.invalidate_page(page)
        elif anyvalid:
            await self.invalidate_all()
        await self.release()

    async def remove_ptes(self, table: PageTable, vas: list[int], lockp: PvLock, free: list[PhysPage]) -> bool:
        """pmap_remove_ptes: unmap these pages of one page table; must the caller invalidate everything?

        Kernel mappings are invalidated here. Locks: the pmap's; that of a list may be held on exit. Sleeps: for that.
        """
        if not vas:
            return False
        olds = await self.clear_ptes(table, vas)
        for va, old in zip(vas, olds, strict=True):
            self.uncount(old)
            await self.unlist(va, old, lockp)
        if self.kernel:
            await self.invalidate_range(vas[0], vas[-1] + F.PAGE_SIZE)
        self.unuse_table(vas[0], free)
        return not self.kernel

    async def clear_ptes(self, table: PageTable, vas: list[int]) -> list[int]:
        """pte_load_clear of each; the old entries."""
        await self.tables.store(vas[0])
        return [self.store_pte(table, va, 0) for va in vas]

    # ------------------------------------------------------------ protect

    async def protect(self, sva: int, eva: int, prot: int) -> None:
        """pmap_protect: take rights away from the mappings in [sva, eva); never gives any.

        VM_PROT_NONE removes them. Both write and execute asked for: nothing is done. Processors are told before the lock is
        released.

        Locks: none of pmaps and lists on entry and exit. Sleeps: for locks.

        Args:
            sva: where the range begins, page aligned, bytes.
            eva: where it ends, exclusive.
            prot: VM_PROT_*: what may stay.
        """
        if prot & ~F.VM_PROT_ALL:
            raise self.kassert("pmap_protect", f"invalid prot {prot:#x}")
        if prot == F.VM_PROT_NONE:
            await self.remove(sva, eva)
            return
        if prot & F.VM_PROT_WRITE and prot & F.VM_PROT_EXECUTE:
            return
        lockp = PvLock(self.machine)
        await self.acquire()
        anychanged = False
        for start, directory, index in self.tables.slots(sva, eva):
            end = F.trunc_2mpage(start) + F.NBPDR
            if index in directory.supers:
                if start + F.NBPDR == end <= eva:
                    anychanged |= await self.protect_pde(directory, start, prot)
                    continue
                demoted = await self.demote_pde(directory, start, lockp)
                await lockp.release()
                if not demoted:
                    continue
            table = directory.tables[index]
            anychanged |= await self.protect_ptes(table, table.within(start, min(end, eva)), prot)
        await self.finish_protection(anychanged=anychanged)

    async def finish_protection(self, *, anychanged: bool) -> None:
        """The end of a protection: tell the processors, and only then unlock."""
        if anychanged:
            await self.invalidate_all()
        await self.release()

    async def protect_ptes(self, table: PageTable, vas: list[int], prot: int) -> bool:
        """Take rights from these pages of one page table; must the caller invalidate everything? Kernel: it is done here."""
        if not any(self.protected(table.entries[self.index_of(va)], prot) for va in vas):
            return False
        await self.tables.store(vas[0])
        changed = [va for va in vas if self.protect_pte(table, va, prot)]
        if self.kernel and changed:
            await self.invalidate_range(changed[0], changed[-1] + F.PAGE_SIZE)
        return bool(changed) and not self.kernel

    def protect_pte(self, table: PageTable, va: int, prot: int) -> bool:
        """Take rights from one page; was there a change? A modified bit that goes is the page's from now on."""
        old = table.entries[self.index_of(va)]
        new = self.protected(old, prot)
        if not new:
            return False
        if not prot & F.VM_PROT_WRITE and old & F.PG_MANAGED and old & F.PG_DIRTY == F.PG_DIRTY:
            self.vm_page_dirty(self.machine.md(old))
        self.store_pte(table, va, new)
        return True

    def protected(self, pte: int, prot: int) -> int:
        """The entry with no more rights than those; 0 if it has no more."""
        new = pte if prot & F.VM_PROT_WRITE else pte & ~F.PG_DIRTY
        if not prot & F.VM_PROT_EXECUTE:
            new |= F.PG_NX
        return new if new != pte else 0

    async def protect_pde(self, directory: Directory, va: int, prot: int) -> bool:
        """pmap_protect_pde: take rights from a whole superpage; must the caller invalidate? Kernel: it is done here."""
        index = va >> F.PDRSHIFT & (F.NPTEPG - 1)
        if not self.protected(directory.supers[index], prot):
            return False
        await self.tables.store(va)
        old = directory.supers[index]
        new = self.protected(old, prot)
        if not new & F.PG_RW and old & F.PG_MANAGED and old & F.PG_DIRTY == F.PG_DIRTY:
            for md in self.machine.superpage(old):
                self.vm_page_dirty(md)
        # What lingers of small entries goes with the invalidation that is to come.
        self.store_super(directory, va, new & ~F.PG_PROMOTED)
        if self.kernel:
            await self.invalidate_pde_page(va, old)
        return not self.kernel

    # ------------------------------------------------------------ unwire

    async def unwire(self, sva: int, eva: int) -> None:
        """pmap_unwire: the mappings in [sva, eva) are wired no more; they stay.

        Holes are passed over; a mapping that is not wired is a panic. No processor is told: it is not its business.

        Locks: none of pmaps and lists on entry and exit. Sleeps: for locks.

        Args:
            sva: where the range begins, page aligned, bytes.
            eva: where it ends, exclusive.
        """
        lockp = PvLock(self.machine)
        await self.acquire()
        for start, directory, index in self.tables.slots(sva, eva):
            end = F.trunc_2mpage(start) + F.NBPDR
            if index in directory.supers:
                pde = directory.supers[index]
                if not pde & F.PG_W:
                    raise self.kassert("pmap_unwire", f"the superpage {start:#x} is missing PG_W: {F.words(pde)}")
                if start + F.NBPDR == end <= eva:
                    await self.tables.store(start)
                    self.store_super(directory, start, directory.supers[index] & ~F.PG_W)
                    self.wired_count -= F.NPTEPG
                    continue
                await self.demote_pde(directory, start, lockp)
                await lockp.release()
            table = directory.tables[index]
            vas = table.within(start, min(end, eva))
            if vas:
                await self.tables.store(vas[0])
            for va in vas:
                self.unwire_pte(table, va)
        await self.release()

    def unwire_pte(self, table: PageTable, va: int) -> None:
        """One page is wired no more."""
        pte = table.entries[self.index_of(va)]
        if not pte & F.PG_W:
            raise self.kassert("pmap_unwire", f"{va:#x} is missing PG_W: {F.words(pte)}")
        self.store_pte(table, va, pte & ~F.PG_W)
        self.wired_count -= 1

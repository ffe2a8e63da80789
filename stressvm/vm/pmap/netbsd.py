"""NetBSD's pmap, as pmap(9): the tables change at once, processors are told when pmap_update says so.

Until then any processor, the caller's own included, may go on using what it remembers. pmap_update makes all changes that
were made to the pmap before it visible everywhere. It is one visible operation for each processor that the pmap is active
on, and none if there is nothing to tell.

Source: pmap(9), and sys/arch/x86/x86/pmap.c of NetBSD 6 where the page leaves it open (what is queued for the processors,
what is left of the modified bit). There are small pages only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.pmap import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pmap.machine import PvLock
from stressvm.vm.pmap.netbsd_update import Updating

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.vm.pmap.page import MdPage, PhysPage
    from stressvm.vm.pmap.tables import PageTable

_INDEX = F.NPTEPG - 1


class NetBSDPmap(Updating):
    """NetBSD's pmap.

    Args:
        machine: its processors and memory.
        name: as reports show it.
        settings: see `PmapSettings`.
    """

    # ------------------------------------------------------------ managed mappings

    async def enter(self, va: int, pa: int, prot: int, flags: int) -> int:
        """pmap_enter: map a page, instead of what was there; managed if the page is.

        The same page keeps its accessed and modified bits. Other processors may use the old mapping until pmap_update.

        Locks: none of pmaps and lists. Sleeps: for locks. Panics if there is no page for a page table, without
        PMAP_CANFAIL; if the access that caused the call is a write that `prot` does not allow; in the kernel beyond its
        page tables.

        Args:
            va: page aligned.
            pa: the physical address of a page that the machine knows.
            prot: VM_PROT_*.
            flags: the access that caused the call, VM_PROT_*, with PMAP_WIRED and PMAP_CANFAIL.

        Returns:
            0, or ENOMEM with PMAP_CANFAIL, and nothing has changed.
        """
        new = self.new_pte("pmap_enter", va, pa, prot)
        new |= F.PG_A if flags & F.VM_PROT_ALL else 0
        if flags & F.VM_PROT_WRITE:
            if not prot & F.VM_PROT_WRITE:
                raise self.kassert("pmap_enter", f"{va:#x}: the access type is a write, and prot is {prot}")
            new |= F.PG_M
        md = self.machine.md(pa)
        new |= (F.PG_W if flags & F.PMAP_WIRED else 0) | (F.PG_MANAGED if md.page.managed else 0)
        await self.acquire()
        table = await self.table_for(va)
        if table is None:
            if not flags & F.PMAP_CANFAIL:
                raise self.k.panic(f"pmap_enter: get ptp failed for {va:#x} in {self.name}")
            await self.release()
            return F.ENOMEM
        lockp = PvLock(self.machine)
        await self.enter_pte(table, va, new, lockp)
        await lockp.release()
        await self.release()
        return 0

    def new_pte(self, call: str, va: int, pa: int, prot: int) -> int:
        """An entry with those rights, and the assertions on addresses."""
        if (va | pa) & F.PAGE_MASK or not self.min_address <= va < self.max_address:
            raise self.kassert(
                call, f"{va:#x} to {pa:#x}: aligned, and the first in [{self.min_address:#x}, {self.max_address:#x})"
            )
        new = self.machine.md(pa).page.phys_addr | F.PG_V | (F.PG_G if self.kernel else F.PG_U)
        new |= F.PG_RW if prot & F.VM_PROT_WRITE else 0
        return new if prot & F.VM_PROT_EXECUTE else new | F.PG_NX

    async def enter_pte(self, table: PageTable, va: int, new: int, lockp: PvLock) -> None:
        """The entry, the counts, the lists. Locks: the pmap's; that of a list may be held on exit."""
        table.holds += 1
        if new & F.PG_MANAGED:
            await lockp.change_to(new)
        old = await self.exchange(table, va, new)
        if old & F.PG_RAW:
            raise self.kassert("pmap_enter", f"{va:#x} was entered by pmap_kenter_pa")
        self.resident_count += not old
        self.wired_count += ((new & F.PG_W) - (old & F.PG_W)) // F.PG_W
        if (old ^ new) & (F.PG_FRAME | F.PG_V | F.PG_MANAGED):
            if new & F.PG_MANAGED:
                self.list_page(va, self.machine.md(new))
            await self.unlist(va, old, lockp)
        table.holds -= 1

    async def exchange(self, table: PageTable, va: int, new: int) -> int:
        """Store an entry, at once; the old one, whose accessed and modified bits the same page keeps."""
        await self.tables.store(va)
        old = table.entries.get(va >> F.PAGE_SHIFT & _INDEX, 0)
        if not (old ^ new) & (F.PG_FRAME | F.PG_V):
            new |= old & (F.PG_A | F.PG_M)
        self.store_pte(table, va, new)
        lost = (old ^ new) & F.PG_FRAME or old & ~new & F.PG_RW or new & ~old & F.PG_NX
        if old & F.PG_A and lost:
            self.queue_shootdown(va)
        return old

    async def remove(self, sva: int, eva: int) -> None:
        """pmap_remove: unmap what pmap_enter mapped in [sva, eva); holes are no error.

        A mapping by pmap_kenter_pa there is a panic. Locks: none of pmaps and lists. Sleeps: for locks. Page tables that
        are not needed any more are freed at once: processors remember nothing of them here.

        Args:
            sva: where the range begins, page aligned, bytes.
            eva: where it ends, exclusive.
        """
        lockp = PvLock(self.machine)
        free: list[PhysPage] = []
        await self.acquire()
        for start, directory, index in self.tables.slots(sva, eva):
            table = directory.tables[index]
            vas = table.within(start, eva)
            if not vas:
                continue
            await self.remove_ptes(table, vas, lockp, free)
        await lockp.release()
        await self.release()
        if free:
            await self.free_tables(free)

    async def remove_ptes(self, table: PageTable, vas: list[int], lockp: PvLock, free: list[PhysPage]) -> None:
        """Unmap these pages of one page table. Locks: the pmap's; that of a list may be held on exit."""
        await self.tables.store(vas[0])
        olds = [self.clear_pte(table, va, raw=False) for va in vas]
        for va, old in zip(vas, olds, strict=True):
            self.resident_count -= 1
            self.wired_count -= bool(old & F.PG_W)
            await self.unlist(va, old, lockp)
        self.unuse_table(vas[0], free)

    def clear_bit(self, va: int, bit: int) -> bool:
        """Clear the accessed or modified bit of a mapping, and queue it for the processors; was it set?"""
        table = self.tables.table(va)
        assert table is not None, "it is mapped"
        old = table.entries[va >> F.PAGE_SHIFT & _INDEX]
        if not old & bit:
            return False
        self.store_pte(table, va, old & ~bit, keep=False)
        if old & F.PG_A:
            self.queue_shootdown(va)
        return True

    def clear_pte(self, table: PageTable, va: int, *, raw: bool) -> int:
        """Clear an entry, and queue it for the processors if any can know it; the old one."""
        old = table.entries[va >> F.PAGE_SHIFT & _INDEX]
        if bool(old & F.PG_RAW) != raw:
            call, other = ("pmap_kremove", "pmap_enter") if raw else ("pmap_remove", "pmap_kenter_pa")
            raise self.kassert(call, f"{va:#x} was entered by {other}")
        self.store_pte(table, va, 0, keep=not raw)
        if old & F.PG_A:
            self.queue_shootdown(va)
        return old

    async def protect(self, sva: int, eva: int, prot: int) -> None:
        """pmap_protect: take rights away from the mappings in [sva, eva); never gives any.

        Without read and execute it removes; with write it does nothing. Modified bits stay. Locks: none of pmaps and lists.
        Sleeps: for locks.

        Args:
            sva: where the range begins, page aligned, bytes.
            eva: where it ends, exclusive.
            prot: VM_PROT_*: what may stay.
        """
        if prot & F.VM_PROT_WRITE:
            return
        if not prot & (F.VM_PROT_READ | F.VM_PROT_EXECUTE):
            await self.remove(sva, eva)
            return
        await self.acquire()
        for start, directory, index in self.tables.slots(sva, eva):
            table = directory.tables[index]
            vas = table.within(start, eva)
            if vas:
                await self.tables.store(vas[0])
            for va in vas:
                self.protect_pte(table, va, prot)
        await self.release()

    def protect_pte(self, table: PageTable, va: int, prot: int) -> None:
        """One page becomes read-only, and not executable if it may not be."""
        old = table.entries[va >> F.PAGE_SHIFT & _INDEX]
        new = old & ~F.PG_RW
        if not prot & F.VM_PROT_EXECUTE:
            new |= F.PG_NX
        if new != old:
            self.store_pte(table, va, new)
            if old & F.PG_M or (old & F.PG_A and new & ~old & F.PG_NX):
                self.queue_shootdown(va)

    async def unwire(self, va: int) -> None:
        """pmap_unwire: the mapping of one page is wired no more. Panics if there is none. Locks: none. Sleeps: for the pmap's.

        One that is not wired is left alone.
        """
        await self.acquire()
        table = self.tables.table(va)
        old = table.entries.get(va >> F.PAGE_SHIFT & _INDEX, 0) if table is not None else 0
        if table is None or not old:
            raise self.k.panic(f"pmap_unwire: invalid (unmapped) va {va:#x} in {self.name}")
        if old & F.PG_W:
            await self.tables.store(va)
            self.store_pte(table, va, table.entries[va >> F.PAGE_SHIFT & _INDEX] & ~F.PG_W)
            self.wired_count -= 1
        await self.release()

    async def extract(self, va: int) -> tuple[bool, int]:
        """pmap_extract: is `va` mapped, and to which physical address (0 if not), as the tables have it now.

        Locks: any. Sleeps: no.
        """
        await self.tables.load(va)
        pte = self.tables.entry(va)
        return (True, pte & F.PG_FRAME | va & F.PAGE_MASK) if pte else (False, 0)

    # ------------------------------------------------------------ unmanaged mappings of the kernel

    async def kenter_pa(self, va: int, pa: int, prot: int, flags: int = 0) -> None:  # noqa: ARG002 - the kernel's
        """pmap_kenter_pa: map a kernel page, wired, on no list, counted nowhere. Never fails. Locks: none. Sleeps: no.

        Panics if `va` is mapped, and beyond the kernel's page tables.

        Args:
            va: a kernel address, page aligned.
            pa: the physical address of a page that the machine knows.
            prot: VM_PROT_*.
            flags: of the kernel's own; none means anything here.
        """
        table = self.kernel_table(va) if self.kernel else None
        if table is None:
            raise self.k.panic(f"pmap_kenter_pa: no page table for {va:#x} in {self.name}")
        new = self.new_pte("pmap_kenter_pa", va, pa, prot) | F.PG_RAW
        await self.tables.store(va)
        old = table.entries.get(va >> F.PAGE_SHIFT & _INDEX, 0)
        if old:
            raise self.kassert("pmap_kenter_pa", f"{va:#x} is mapped already: {F.words(old)}")
        self.store_pte(table, va, new)
        self.touched.pop(va, None)

    async def kremove(self, va: int, size: int) -> None:
        """pmap_kremove: unmap what pmap_kenter_pa mapped in [va, va + size); holes are no error. Locks: none. Sleeps: no.

        A mapping by pmap_enter there is a panic.
        """
        for start, directory, index in self.tables.slots(va, va + size):
            table = directory.tables[index]
            vas = table.within(start, va + size)
            if vas:
                await self.tables.store(vas[0])
            for at in vas:
                if self.index_in(table, at):
                    self.clear_pte(table, at, raw=True)
                    self.touched.pop(at, None)

    def index_in(self, table: PageTable, va: int) -> bool:
        """Is it mapped (still)?"""
        return va >> F.PAGE_SHIFT & _INDEX in table.entries

    # ------------------------------------------------------------ page tables

    async def table_for(self, va: int) -> PageTable | None:
        """The page table for `va`, allocated if need be; None if there is no page for it. Locks: the pmap's."""
        if self.kernel:
            table = self.kernel_table(va)
            if table is None:
                raise self.k.panic(
                    f"pmap_enter: no page table for {va:#x} in {self.name}, which reaches to {self.kernel_vm_end:#x}"
                )
            return table
        pages: list[PhysPage] = []
        if not await self.alloc_table(va, pages):
            await self.free_tables(pages)
            return None
        return self.tables.table(va)

    async def growkernel(self, va: int) -> int:
        """pmap_growkernel: page tables up to `va`, in steps of 2 MiB; the new limit, which never goes back.

        Locks: the kernel map's write lock, which is what keeps the caller's copy of the limit right. Sleeps: for the pmap's.
        Panics without a page for a table.
        """
        await self.acquire()
        end = min((va + F.PDRMASK) & ~F.PDRMASK, self.max_address)
        while self.kernel_vm_end < end:
            at = self.kernel_vm_end
            if not await self.alloc_table(at, []):
                raise self.k.panic("pmap_growkernel: out of memory")
            await self.tables.store(at)
            self.grown(min(F.trunc_2mpage(at) + F.NBPDR, self.max_address))
        await self.release()
        return self.kernel_vm_end

    # ------------------------------------------------------------ while the world is built

    def prefill(self, va: int, pages: Sequence[PhysPage], prot: int, flags: int = 0, *, by_hand: bool = False) -> None:
        """While the world is built: map these pages one behind the other, where nothing is mapped.

        As `enter` would each, or by hand as `kenter_pa`. The processors know nothing of them yet. Page tables are nobody's.
        """
        if self.k.cur >= 0:
            raise UsageError("prefill builds the world; threads call enter or kenter_pa")
        for number, page in enumerate(pages):
            at = va + (number << F.PAGE_SHIFT)
            md = self.machine.add_page(page)
            table = self.kernel_table(at) if self.kernel else self.table_at(at)
            if table is None or at >> F.PAGE_SHIFT & _INDEX in table.entries:
                raise UsageError(f"prefill: {at:#x} is mapped, or has no page table")
            new = self.new_pte("prefill", at, page.phys_addr, prot)
            if by_hand:
                self.store_pte(table, at, new | F.PG_RAW)
                continue
            new |= (F.PG_A if flags & F.VM_PROT_ALL else 0) | (F.PG_M if flags & prot & F.VM_PROT_WRITE else 0)
            new |= (F.PG_W if flags & F.PMAP_WIRED else 0) | (F.PG_MANAGED if page.managed else 0)
            self.store_pte(table, at, new)
            self.resident_count += 1
            self.wired_count += bool(new & F.PG_W)
            if page.managed:
                self.list_page(at, md)
        self.check()

    # ------------------------------------------------------------ pv lists

    def list_page(self, va: int, md: MdPage) -> None:
        """pmap_enter_pv. Locks: the list's."""
        md.page.used(write=True)
        md.page.pv_list[self, va] = None
        self.listed[md] = None

    async def unlist(self, va: int, old: int, lockp: PvLock) -> None:
        """pmap_remove_pv: a mapping is gone; its bits go to the page. Locks: the pmap's; the list's is held on exit."""
        if not old & F.PG_MANAGED:
            return
        md = self.machine.md(old)
        if old & F.PG_M:
            self.vm_page_dirty(md)
        md.page.md_referenced |= bool(old & F.PG_A)
        await lockp.change_to(old)
        if (self, va) not in md.page.pv_list:
            raise self.kassert("pmap_remove_pv", f"pv not found: {va:#x} in the list of {md.page.phys_addr:#x}")
        md.page.used(write=True)
        del md.page.pv_list[self, va]
        self.listed[md] = None

"""FreeBSD's pmap: kernel mappings by hand (pmap_kenter, pmap_qenter and their kin), growth, and looking up.

pmap_kenter and pmap_kremove store and clear entries, and that is all: no lock, no pv list, no count, no invalidation. The
caller knows that no processor remembers what was there, or says so with `invalidate_range`.

Source: sys/amd64/amd64/pmap.c of releng/13.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.pmap import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pmap.freebsd_enter import Entering
from stressvm.vm.pmap.tlb import Shootdown, part_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stressvm.vm.pmap.page import PhysPage
    from stressvm.vm.pmap.tables import PageTable

_RAW = F.PG_V | F.PG_RW | F.PG_A | F.PG_M | F.PG_G | F.PG_NX | F.PG_RAW
_MASK = (1 << 64) - 1


class KernelMappings(Entering):
    """See the module.

    Attributes:
        kernel_map_owned: does the current thread hold the kernel map's mutex? Asserted where the kernel does; None: not.
        preallocated: a window whose page tables were made at boot (KERNBASE): growing there is no growing.
        growkernel_panics: without a page for a page table `growkernel` panics; else it returns a code (2025).
    """

    kernel_map_owned: Callable[[], bool] | None = None
    preallocated: tuple[int, int] = (0, 0)
    growkernel_panics = True

    # ------------------------------------------------------------ by hand

    async def kenter(self, va: int, pa: int) -> None:
        """pmap_kenter: map a kernel page, readable and writable. Locks: none. Sleeps: no.

        Nothing is counted, nobody is told. A panic of kind `invariant` if some processor remembers another page there.

        Args:
            va: a kernel address below kernel_vm_end, page aligned.
            pa: the physical address of a page that the machine knows.
        """
        table = self.raw_table("pmap_kenter", va)
        await self.tables.store(va)
        self.raw_store(table, va, pa, strict=True)

    async def kremove(self, va: int) -> None:
        """pmap_kremove: clear the entry of a kernel page. Nobody is told. Locks: none. Sleeps: no."""
        table = self.raw_table("pmap_kremove", va)
        await self.tables.store(va)
        self.raw_store(table, va, None, strict=False)

    async def qenter(self, sva: int, pages: Sequence[PhysPage]) -> None:
        """pmap_qenter: map pages one behind the other. Processors are told if anything was mapped there before.

        Locks: none. Sleeps: no.
        """
        duty = Shootdown()
        anyvalid = False
        for number, page in enumerate(pages):
            va = sva + (number << F.PAGE_SHIFT)
            self.machine.add_page(page)
            table = self.raw_table("pmap_qenter", va)
            if not number or not va & F.PDRMASK:
                await self.tables.store(va)
            anyvalid |= bool(self.raw_store(table, va, page.phys_addr, strict=False, duty=duty))
        if anyvalid:
            await self.invalidate_range(sva, sva + (len(pages) << F.PAGE_SHIFT))
        self.settled("pmap_qenter", duty)

    async def qremove(self, sva: int, count: int) -> None:
        """pmap_qremove: unmap that many pages, then tell the processors, once. Locks: none. Sleeps: no."""
        duty = Shootdown()
        for va in range(sva, sva + (count << F.PAGE_SHIFT), F.PAGE_SIZE):
            table = self.raw_table("pmap_qremove", va)
            if va == sva or not va & F.PDRMASK:
                await self.tables.store(va)
            self.raw_store(table, va, None, strict=False, duty=duty)
        await self.invalidate_removed(sva, sva + (count << F.PAGE_SHIFT))
        self.settled("pmap_qremove", duty)

    async def invalidate_removed(self, sva: int, eva: int) -> None:
        """The end of pmap_qremove."""
        await self.invalidate_range(sva, eva)

    def raw_table(self, call: str, va: int) -> PageTable:
        """The page table for a kernel address; a page fault in the kernel, if there is none."""
        table = self.kernel_table(va) if self.kernel else None
        if table is None:
            raise self.k.panic(f"{call}: page fault: no page table for {va:#x} in {self.name}")
        return table

    def raw_store(
        self, table: PageTable, va: int, pa: int | None, *, strict: bool, duty: Shootdown | None = None
    ) -> int:
        """Store or clear (None) an entry by hand; the old one. What it obsoletes is the caller's affair, or `duty`'s."""
        machine = self.machine
        entries = table.entries
        index = self.index_of(va)
        old = entries.get(index, 0)
        new = 0
        if old and not old & F.PG_RAW:
            self.uncounted(va, old)
        if pa is None:
            entries.pop(index, None)
        else:
            md = machine.md(pa)
            new = entries[index] = md.page.phys_addr | _RAW
            md.unlisted += 1
        if old:
            machine.md(old).unlisted -= 1
            (duty or self.stray).obsolete(self.tlbs, va, new)
            self.stray.doomed.clear()
        if new and strict:
            self.made(va, new)
        return old

    def uncounted(self, va: int, old: int) -> None:
        """A mapping by pmap_enter goes by hand, and nothing hears of it: the counts, and perhaps a list, are wrong from now on."""
        raise self.broken("G20 counts", f"{va:#x} is changed by hand, and was entered by pmap_enter: {F.words(old)}")

    def settled(self, call: str, duty: Shootdown) -> None:
        """What the call has obsoleted must be gone."""
        left = duty.left()
        if left is not None:
            raise self.broken("G20 tlb", f"{call} is done, and {left}")
        duty.closed = True

    # ------------------------------------------------------------ growing

    async def growkernel(self, addr: int) -> int:
        """pmap_growkernel: page tables up to `addr`, in steps of 2 MiB, at most to the end of the map.

        Locks: the kernel map's mutex (asserted if `kernel_map_owned` is known). Sleeps: no. Panics without a page for a
        table, or returns KERN_RESOURCE_SHORTAGE as the kernel of 2025 does, if `growkernel_panics` is false.

        Returns:
            KERN_SUCCESS. kernel_vm_end never goes back.
        """
        if self.kernel_map_owned is not None and not self.kernel_map_owned():
            raise self.kassert("pmap_growkernel", "the kernel map's mutex is not owned")
        low, high = self.preallocated
        if low < addr <= high:
            return F.KERN_SUCCESS
        addr = min((addr + F.PDRMASK) & ~F.PDRMASK, self.max_address)
        while self.kernel_vm_end < addr:
            va = self.kernel_vm_end
            pages: list[PhysPage] = []
            if not await self.alloc_table(va, pages):
                await self.free_tables(pages)
                if self.growkernel_panics:
                    raise self.k.panic("pmap_growkernel: no memory to grow kernel")
                return F.KERN_RESOURCE_SHORTAGE
            await self.tables.store(va)
            self.grown(min(F.trunc_2mpage(va) + F.NBPDR, self.max_address))
        return F.KERN_SUCCESS

    # ------------------------------------------------------------ looking up

    async def extract(self, va: int) -> int:
        """pmap_extract: the physical address that `va` translates to, offset included, or 0. Locks: none. Sleeps: for the pmap's."""
        await self.acquire()
        pa = _physical(self.tables.entry(va), va)
        await self.release()
        return pa

    async def kextract(self, va: int) -> int:
        """pmap_kextract: the same of a kernel address, without the lock. Panics if it is not mapped. Sleeps: no."""
        await self.tables.load(va)
        pte = self.tables.entry(va)
        if not pte:
            raise self.k.panic(f"pmap_kextract: page fault: {va:#x} is not mapped")
        return _physical(pte, va)

    async def extract_and_hold(self, va: int, prot: int) -> PhysPage | None:
        """pmap_extract_and_hold: the page that `va` translates to, held, if the mapping allows `prot`; else None.

        Locks: none. Sleeps: for the pmap's. Only VM_PROT_WRITE is asked of the mapping. Give it back with `unhold`.
        """
        await self.acquire()
        pte = self.tables.entry(va)
        page = None
        if pte and (pte & F.PG_RW or not prot & F.VM_PROT_WRITE):
            md = self.machine.md(part_of(pte, va) if pte & F.PG_PS else pte)
            md.held += 1
            page = md.page
        await self.release()
        return page

    def unhold(self, page: PhysPage) -> None:
        """vm_page_unhold: what extract_and_hold did. No switch."""
        md = self.machine.md(page.phys_addr)
        if not md.held:
            raise self.k.panic(f"vm_page_unhold: hold count < 0: page {page.phys_addr:#x}")
        md.held -= 1


def _physical(pte: int, va: int) -> int:
    if not pte:
        return 0
    if pte & F.PG_PS:
        return pte & F.PG_PS_FRAME | va & F.PDRMASK
    return pte & F.PG_FRAME | va & F.PAGE_MASK

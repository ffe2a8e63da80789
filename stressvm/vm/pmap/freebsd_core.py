"""What all operations of FreeBSD's pmap are made of: the lock, invalidation, page tables, pv lists.

Its promise: whatever takes rights away, or changes the page, is invalidated on every processor that the pmap is active on
before the pmap's lock is released. Invalidation is by interrupt and acknowledgement: one visible operation for each
processor, the caller's own included.

Source: sys/amd64/amd64/pmap.c of releng/13.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.pmap import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pmap.core import PmapCore
from stressvm.vm.pmap.tlb import Shootdown, Tlb

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

    from stressvm.vm.pmap.entries import PmapSettings
    from stressvm.vm.pmap.machine import Machine, PvLock
    from stressvm.vm.pmap.page import MdPage, PhysPage
    from stressvm.vm.pmap.tables import PageTable

_INDEX = F.NPTEPG - 1


class FreeBSDCore(PmapCore):
    """See the module.

    Attributes:
        duty: what must be invalidated before the lock is released.
        stray: what changes by hand have obsoleted, which is nobody's duty here: never said to be done.
        pv_spare: entries for pv lists that a demotion has reserved.
        pg_ps_enabled: superpages are made.
    """

    def __init__(
        self, machine: Machine, name: str = "pmap", *, pg_ps_enabled: bool = True, **settings: Unpack[PmapSettings]
    ) -> None:
        super().__init__(machine, name, **settings)
        self.duty = Shootdown()
        self.stray = Shootdown()
        self.pv_spare = 0
        self.pg_ps_enabled = pg_ps_enabled

    # ------------------------------------------------------------ the lock

    def account(self) -> Shootdown:
        """See PmapCore."""
        return self.duty

    def check(self) -> None:
        """The invariants, and G20: no processor remembers more than the tables say."""
        super().check()
        duty = self.duty
        if duty.doomed:
            self.tables.used(write=True)
            for tlb in self.tlbs:
                tlb.used(write=False)
            left = duty.left()
            if left is not None:
                raise self.broken("G20 tlb", f"the lock is released, and {left}")
            duty.closed = True
            self.duty = Shootdown()

    async def try_acquire(self) -> bool:
        """PMAP_TRYLOCK. Sleeps: no."""
        return await self.lock.trylock()

    def made(self, va: int, new: int) -> None:
        """See PmapCore. The kernel breaks before it makes."""
        for tlb in self.tlbs:
            entry = tlb.small.get(va >> F.PAGE_SHIFT)
            if entry is not None and (entry.pte ^ new) & F.PG_FRAME:
                raise self.broken(
                    "G20 two pages",
                    f"{va:#x} maps {new & F.PG_FRAME:#x} now, and cpu{tlb.cpu} translates it to {F.words(entry.pte)}",
                )

    # ------------------------------------------------------------ invalidation

    def ipi_targets(self) -> list[Tlb]:
        """Which processors to tell: those that the pmap is active on, the current one first."""
        self.tables.used(write=False)
        cpu = self.machine.cpu()
        targets = [tlb for tlb in self.tlbs if self.active >> tlb.cpu & 1]
        targets.sort(key=lambda tlb: tlb.cpu != cpu)
        return targets

    async def tell(self, va: int, forget: Callable[[Tlb], None]) -> None:
        """Make processors forget, one visible operation each; those that are elsewhere have forgotten when they come back.

        The latter first: while the others are told, any of them may come back.
        """
        k = self.k
        targets = self.ipi_targets()
        if self.machine.pcid:
            self.tell_inactive(forget)
        for tlb in targets:
            if k.away(tlb.ops.invalidate):
                await k.baton
            forget(tlb)
            self.invalidations += 1
            k.trace.append((k.cur, tlb.ops.invalidate, va))

    def tell_inactive(self, forget: Callable[[Tlb], None]) -> None:
        """pm_gen: what processors with other user pmaps remember by process-context id is worth nothing any more."""
        for tlb in self.tlbs:
            if not self.active >> tlb.cpu & 1:
                tlb.used(write=True)
                forget(tlb)

    async def invalidate_page(self, va: int) -> None:
        """pmap_invalidate_page: one page, and the superpage that it may be part of. Locks: the pmap's. Sleeps: no."""
        await self.tell(va, lambda tlb: tlb.drop(va))

    async def invalidate_range(self, sva: int, eva: int) -> None:
        """pmap_invalidate_range: every page in [sva, eva). Locks: the pmap's, or none. Sleeps: no.

        Whoever undoes kernel mappings with `kremove` and cannot know that no processor remembers them calls it.
        """
        await self.tell(sva, lambda tlb: tlb.drop_range(sva, eva))

    async def invalidate_all(self) -> None:
        """pmap_invalidate_all: everything. Locks: the pmap's. Sleeps: no."""
        await self.tell(0, Tlb.clear)

    async def invalidate_pde_page(self, va: int, pde: int) -> None:
        """pmap_invalidate_pde_page: a superpage; if it was promoted, small entries may linger beside it."""
        if pde & F.PG_PROMOTED:
            await self.invalidate_range(va, va + F.NBPDR)
        else:
            await self.invalidate_page(va)

    # ------------------------------------------------------------ page tables

    async def wait_for_ptp(self, lockp: PvLock, spare: list[PhysPage]) -> None:
        """vm_wait in _pmap_allocpte: let go of all locks until there may be a page, and lock the pmap again."""
        await lockp.release()
        await self.release()
        page = await self.alloc_ptp(True)
        if page is not None:
            spare.append(page)
        await self.acquire()

    # ------------------------------------------------------------ pv lists

    async def get_pv_entry(self, lockp: PvLock) -> None:
        """get_pv_entry: an entry for a pv list; without memory for one, somebody's mapping is destroyed for its entry.

        Locks: the pmap's; that of the list may be released. Sleeps: for locks.
        """
        while not self.take_pv_entry():
            await self.reclaim_pv_entry(lockp)

    def take_pv_entry(self) -> bool:
        """An entry that is there: reserved, or not yet used by anybody."""
        machine = self.machine
        if self.pv_spare:
            self.pv_spare -= 1
            return True
        machine.counts_pv_entries()
        if machine.pv_entries_max is not None and machine.pv_entries >= machine.pv_entries_max:
            return False
        machine.pv_entries += 1
        return True

    def free_pv_entry(self) -> None:
        """free_pv_entry."""
        self.machine.counts_pv_entries()
        self.machine.pv_entries -= 1

    async def reserve_pv_entries(self, needed: int, lockp: PvLock) -> None:
        """reserve_pv_entries: so many that nobody else can take. Locks: as get_pv_entry."""
        machine = self.machine
        while self.pv_spare < needed:
            machine.counts_pv_entries()
            if machine.pv_entries_max is not None and machine.pv_entries >= machine.pv_entries_max:
                await self.reclaim_pv_entry(lockp)
            else:
                machine.pv_entries += 1
                self.pv_spare += 1

    async def reclaim_pv_entry(self, lockp: PvLock) -> None:
        """reclaim_pv_chunk: destroy one mapping, of whatever pmap, that is neither wired nor a superpage.

        The kernel frees a chunk of 168 entries or as many of it as it can; this frees one. Pmaps in order of creation; one
        that was made before this one is only tried for, since that would be the wrong order of locks.
        Locks: the pmap's on entry and exit; that of the list is released. Sleeps: for locks.
        """
        machine = self.machine
        await lockp.release()
        begun = not machine.invl.inside()
        if begun:
            await machine.invl.start()
        found = busy = False
        for pmap in machine.pmaps:
            if not isinstance(pmap, FreeBSDCore):
                continue
            if pmap is not self and pmap.number > self.number:
                await pmap.acquire()
            elif pmap is not self and not await pmap.try_acquire():
                busy = True
                continue
            found = await pmap.reclaim_here(lockp)
            if pmap is not self:
                await pmap.release()
            if found:
                break
        if begun:
            await machine.invl.finish()
        if busy and not found:
            # The caller tries again; so does the kernel, without end.
            await self.k.yield_()
        elif not found:
            raise UsageError(
                f"pv_entries_max={machine.pv_entries_max}: all are in use, and none is of a small mapping that is not wired; "
                "allow for more"
            )

    async def reclaim_here(self, lockp: PvLock) -> bool:
        """Destroy one mapping of this pmap for its pv entry, if there is one to destroy. Locks: the pmap's."""
        va, table = self.reclaimable()
        if table is None:
            return False
        free: list[PhysPage] = []
        await self.tables.store(va)
        old = self.store_pte(table, va, 0)
        self.uncount(old)
        await self.unlist(va, old, lockp)
        await lockp.release()
        self.machine.pv_reclaimed += 1
        self.unuse_table(va, free)
        await self.invalidate_page(va)
        if free:
            await self.free_tables(free)
        return True

    def reclaimable(self) -> tuple[int, PageTable | None]:
        """The lowest small mapping that is managed and not wired, and its page table."""
        for low, pte in self.tables.every():
            if pte & (F.PG_MANAGED | F.PG_W | F.PG_PS) == F.PG_MANAGED:
                va = self.canonical(low)
                return va, self.tables.table(va)
        return 0, None

    def list_page(self, va: int, md: MdPage) -> None:
        """Put a mapping at the end of its page's pv list. Locks: the list's."""
        md.page.used(write=True)
        md.page.pv_list[self, va] = None
        md.pv_gen += 1
        self.listed[md] = None

    def unlist_page(self, va: int, md: MdPage) -> None:
        """pmap_pvh_remove. Locks: the list's."""
        if (self, va) not in md.page.pv_list:
            raise self.kassert("pmap_pvh_free", f"pv not found: {va:#x} in the list of {md.page.phys_addr:#x}")
        md.page.used(write=True)
        del md.page.pv_list[self, va]
        md.pv_gen += 1
        self.listed[md] = None
        if not md.page.pv_list and not self.machine.pvh(md.page.phys_addr).pv_list:
            md.writeable = False

    def hand_over(self, md: MdPage, pte: int) -> None:
        """The bits of an entry that goes are the page's from now on: vm_page_dirty, PGA_REFERENCED."""
        if pte & F.PG_DIRTY == F.PG_DIRTY:
            self.vm_page_dirty(md)
        if pte & F.PG_A:
            md.page.md_referenced = True

    async def unlist(self, va: int, old: int, lockp: PvLock, *, keep_entry: bool = False) -> None:
        """The mapping `old` of `va` is gone: its bits to the page, its pv entry to the free ones.

        Locks: the pmap's; that of the page's list is held on exit. Sleeps: for that. Inside a block of delayed
        invalidation the page is noted there.
        """
        if not old & F.PG_MANAGED:
            return
        md = self.machine.md(old)
        self.hand_over(md, old)
        await lockp.change_to(old)
        self.unlist_page(va, md)
        if not keep_entry:
            self.free_pv_entry()
        self.machine.invl.note(md)

    def uncount(self, old: int) -> None:
        """A mapping is gone: pm_stats."""
        self.resident_count -= 1
        if old & F.PG_W:
            self.wired_count -= 1

    def index_of(self, va: int) -> int:
        """pmap_pte_index."""
        return va >> F.PAGE_SHIFT & _INDEX

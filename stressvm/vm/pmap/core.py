"""How processors use a pmap, its lock, and how to look at it: what both kernels' pmaps have in common.

Processors read the tables and set the accessed and modified bits of entries at any moment, without any lock. Limits of the
model: they cache translations, not the upper levels of the tables; the changes of one call within one page table happen at
once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.pmap import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pmap.entries import Entries
from stressvm.vm.pmap.invariants import INVARIANTS
from stressvm.vm.pmap.tlb import Tlb, TlbEntry, part_of
from stressvm.vm.pmap.values import PageFault, PmapStatistics, Translation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Unpack

    from stressvm.vm.pmap.entries import PmapSettings
    from stressvm.vm.pmap.machine import Machine
    from stressvm.vm.pmap.page import PhysPage

_INDEX = F.NPTEPG - 1


class PmapCore(Entries):
    """A pmap; use the class of a kernel, `FreeBSDPmap` or `NetBSDPmap`. Arguments and attributes: see `Entries`."""

    def __init__(self, machine: Machine, name: str = "pmap", **settings: Unpack[PmapSettings]) -> None:
        super().__init__(machine, name, **settings)
        machine.pmaps.append(self)
        if self.kernel:
            machine.kernel_pmap = self

    # ------------------------------------------------------------ the lock

    async def acquire(self) -> None:
        """PMAP_LOCK. Sleeps: for the lock."""
        await self.lock.lock()

    async def release(self) -> None:
        """PMAP_UNLOCK, after the invariants. Locks: the pmap's on entry. Sleeps: no."""
        self.check()
        await self.lock.unlock()

    def check(self) -> None:
        """The invariants of a pmap that nobody is changing; a violation is a panic of kind `invariant`."""
        for name, invariant in INVARIANTS.items():
            broken = invariant(self)
            if broken is not None:
                raise self.broken(name, broken)
        self.touched.clear()
        self.touched_supers.clear()
        self.listed.clear()
        self.owed.clear()

    # ------------------------------------------------------------ processors

    def switch_to(self, cpu: int) -> None:
        """The processor goes over to this user pmap from what it had. No switch of threads."""
        old = self.machine.curpmap[cpu]
        if old is not self:
            if old is not None:
                old.deactivated(cpu)
            self.activated(cpu)

    def activated(self, cpu: int) -> None:
        """The processor uses it from now on."""
        self.tables.used(write=True)
        self.active |= 1 << cpu
        self.machine.curpmap[cpu] = self

    def deactivated(self, cpu: int) -> None:
        """The processor uses it no more; it forgets what it had of it, unless it has process-context ids."""
        self.tables.used(write=True)
        self.active &= ~(1 << cpu)
        self.machine.curpmap[cpu] = None
        if not self.machine.pcid:
            self.tlbs[cpu].used(write=True)
            self.tlbs[cpu].clear()

    async def activate(self) -> None:
        """pmap_activate: the current processor goes over to this user pmap. Locks: any. Sleeps: no.

        An access does it by itself.
        """
        k = self.k
        cpu = self.machine.cpu()
        op = self.tlbs[cpu].ops.switch
        if k.away(op):
            await k.baton
        self._switched(cpu)

    def _switched(self, cpu: int) -> None:
        if not self.kernel:
            self.switch_to(cpu)
            k = self.k
            k.trace.append(self.tlbs[cpu].ops.switch.events[k.cur])

    async def access(self, va: int, prot: int) -> PhysPage | PageFault:
        """The current processor reads, writes or executes at `va`: through its TLB, and else through the tables.

        One visible operation. If the processor has another user pmap, it goes over to this one first, in the same step.
        Locks: any. Sleeps: no.

        Args:
            va: the address.
            prot: VM_PROT_*, what is done.

        Returns:
            The page, or the fault. No switch happens between the access and the return, so what the caller does with the
            page at once belongs to it. A translation that is obsolete, but not yet invalidated, is used all the same;
            one that should be gone is a panic of kind `invariant`.
        """
        k = self.k
        cpu = self.machine.cpu()
        tlb = self.tlbs[cpu]
        bit = 1 << cpu
        op = tlb.ops.access
        if k.away(op if self.active & bit else tlb.ops.switch):
            await k.baton
        if not self.active & bit:
            self._switched(cpu)
        k.trace.append((k.cur, op, va))
        return self._translate(tlb, va, prot)

    def _translate(self, tlb: Tlb, va: int, prot: int) -> PhysPage | PageFault:
        entry = tlb.find(va)
        if entry is None:
            return self._walk(tlb, va, prot)
        if entry.doom is not None:
            self._stale(tlb, va, entry)
        pte = entry.pte
        if (prot & F.VM_PROT_WRITE and not pte & F.PG_RW) or (prot & F.VM_PROT_EXECUTE and pte & F.PG_NX):
            tlb.drop(va)
            return self._fault(va, prot, self.tables.entry(va), present=True)
        if prot & F.VM_PROT_WRITE and not pte & F.PG_M:
            return self._walk(tlb, va, prot)
        self.hits += 1
        return self.machine.md(part_of(pte, va) if pte & F.PG_PS else pte).page

    def _stale(self, tlb: Tlb, va: int, entry: TlbEntry) -> None:
        assert entry.doom is not None, "asked only of doomed entries"
        if entry.doom.closed:
            raise self.broken("G20 tlb", f"cpu{tlb.cpu} uses {F.words(entry.pte)} for {va:#x}, which was invalidated")
        self.stale_uses += 1

    def _walk(self, tlb: Tlb, va: int, prot: int) -> PhysPage | PageFault:
        """The processor reads the tables, sets the bits, and remembers what it found."""
        tlb.drop(va)
        self.tables.used(write=True)
        pte = self.tables.entry(va)
        if not _allows(pte, prot):
            return self._fault(va, prot, pte, present=bool(pte))
        new = pte | F.PG_A | (F.PG_M if prot & F.VM_PROT_WRITE else 0)
        directory = self.tables.directory(va)
        assert directory is not None, "there is an entry"
        if pte & F.PG_PS:
            directory.supers[va >> F.PDRSHIFT & _INDEX] = new
            tlb.large[va >> F.PDRSHIFT] = TlbEntry(new)
        else:
            directory.tables[va >> F.PDRSHIFT & _INDEX].entries[va >> F.PAGE_SHIFT & _INDEX] = new
            tlb.small[va >> F.PAGE_SHIFT] = TlbEntry(new)
        self.walks += 1
        return self.machine.md(part_of(new, va) if pte & F.PG_PS else new).page

    def _fault(self, va: int, prot: int, pte: int, *, present: bool) -> PageFault:
        spurious = _allows(pte, prot)
        self.faults += 1
        self.spurious_faults += spurious
        return PageFault(va, prot, present, spurious)

    # ------------------------------------------------------------ looking at it

    def canonical(self, low: int) -> int:
        """The address of which these are the lower 48 bits."""
        return low | 0xFFFF << 48 if low >> 47 and self.min_address >> 63 else low

    def translations(self, sva: int, eva: int) -> Iterator[Translation]:
        """All translations in [sva, eva), as the tables have them now. No switch; for invariants of maps, and tests."""
        for start, directory, index in self.tables.slots(sva, eva):
            base = F.trunc_2mpage(start)
            pde = directory.supers.get(index)
            if pde is not None:
                yield _translation(base, F.NBPDR, pde)
            elif index in directory.tables:
                table = directory.tables[index]
                for va in table.within(start, eva):
                    yield _translation(va, F.PAGE_SIZE, table.entries[va >> F.PAGE_SHIFT & _INDEX])

    def assert_vacated(self, sva: int, eva: int) -> None:
        """Panic (`invariant`) if [sva, eva) is mapped, or any processor translates it: it is about to be handed out anew.

        Locks: any. No switch.
        """
        reached = self.reached(sva, eva)
        if reached is not None:
            raise self.broken("vacated", reached)

    def reached(self, sva: int, eva: int) -> str | None:
        """What of [sva, eva), which is about to be handed out, is mapped or translated by any processor; None: nothing.

        Locks: any. No switch.
        """
        self.tables.used(write=False)
        for start, directory, index in self.tables.slots(sva, eva):
            if index in directory.supers or directory.tables[index].within(start, eva):
                found = next(iter(self.translations(start, eva)))
                return f"{found.va:#x} is handed out, and still mapped to {found.pa:#x}"
        for tlb in self.tlbs:
            tlb.used(write=False)
            if not tlb.small and not tlb.large:
                continue
            cached = [vpn << F.PAGE_SHIFT for vpn in tlb.within(sva, eva)]
            if tlb.large:
                large = F.trunc_2mpage(sva)
                cached += [va for va in range(large, eva, F.NBPDR) if va >> F.PDRSHIFT in tlb.large]
            if cached:
                return f"{cached[0]:#x} is handed out, and cpu{tlb.cpu} still translates it"
        return None

    def statistics(self) -> PmapStatistics:
        """Counts."""
        return PmapStatistics(
            self.resident_count,
            self.wired_count,
            self.superpages,
            self.tables.count(),
            self.kernel_vm_end,
            self.hits,
            self.walks,
            self.faults,
            self.spurious_faults,
            self.stale_uses,
            self.invalidations,
            self.promotions,
            self.promotion_failures,
            self.demotions,
            self.demotion_failures,
        )

    def __repr__(self) -> str:
        """Its name."""
        return f"<{type(self).__name__} {self.name}>"


def _allows(pte: int, prot: int) -> bool:
    return bool(
        pte & F.PG_V
        and not (prot & F.VM_PROT_WRITE and not pte & F.PG_RW)
        and not (prot & F.VM_PROT_EXECUTE and pte & F.PG_NX)
    )


def _translation(va: int, size: int, pte: int) -> Translation:
    prot = F.VM_PROT_READ
    prot |= F.VM_PROT_WRITE if pte & F.PG_RW else 0
    prot |= 0 if pte & F.PG_NX else F.VM_PROT_EXECUTE
    frame = pte & (F.PG_PS_FRAME if size == F.NBPDR else F.PG_FRAME)
    return Translation(
        va, size, frame, prot, bool(pte & F.PG_W), bool(pte & F.PG_A), bool(pte & F.PG_M), bool(pte & F.PG_RAW)
    )

"""What a processor remembers of the page tables: translations that live until they are invalidated.

A processor fills its TLB by walking the tables, and goes on using what it has, whatever happens to the tables, until it
is told to forget it. Three rules of the x86 matter to the kernels:

- Only what has the accessed bit set is remembered. The walk sets it.
- A write needs an entry that says "modified"; without, the processor walks again to set the bit, and so sees the tables
  as they are. That is why a mapping that is writable but clean can be made read-only without telling anybody.
- A page fault makes the processor forget what it had for the address. So rights can be added without telling anybody.

What a change of the tables takes away is *doomed*: it is remembered which entries the change obliges somebody to
invalidate (`Shootdown`). Until that is done, using them is legal; afterwards none of them may be left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stressvm.kernel.object import KernelObject
from stressvm.kernel.op import READ, WRITE
from stressvm.vm.pmap.flags import (
    NBPDR,
    NPTEPG,
    PAGE_SHIFT,
    PDRSHIFT,
    PG_DIRTY,
    PG_FRAME,
    PG_NX,
    PG_V,
    words,
)

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import ObjectId, Op
    from stressvm.vm.pmap.tables import PageTables


class TlbEntry:
    """One translation: the entry of the tables as it was when the processor walked them, and who must invalidate it."""

    __slots__ = ("doom", "pte")

    def __init__(self, pte: int) -> None:
        self.pte = pte
        self.doom: Shootdown | None = None


class _Ops(NamedTuple):
    access: Op
    switch: Op
    invalidate: Op


class Tlb(KernelObject):
    """What one processor remembers of one pmap.

    Args:
        k: the kernel.
        cpu: the processor's number.
        pmap_name: the pmap's.
        tables: the pmap's tables: an access may read them.

    Attributes:
        small: by address in pages.
        large: superpages, by address in superpages.
    """

    __slots__ = ("cpu", "large", "ops", "small")

    def __init__(self, k: Kernel, cpu: int, pmap_name: str, tables: PageTables) -> None:
        number = tables.ident.number

        def make_ops(k: Kernel, ident: ObjectId) -> _Ops:
            return _Ops(
                k.op("access", ident, write=True, also=((number, READ),)),
                k.op("switch", ident, write=True, also=((number, WRITE),)),
                k.op("invalidate", ident, write=True),
            )

        self.k = k
        self.ident, self.ops = k.adopt(self, "tlb", f"cpu{cpu}.{pmap_name}", make_ops)
        self.cpu = cpu
        self.small: dict[int, TlbEntry] = {}
        self.large: dict[int, TlbEntry] = {}

    def used(self, *, write: bool) -> None:
        """The current step, of whatever operation, also reads or changes what is remembered."""
        self.k.touch(self.ident.number, write=write)

    def find(self, va: int) -> TlbEntry | None:
        """What an access to `va` would use. After a promotion there may be both kinds; the small one is taken."""
        return self.small.get(va >> PAGE_SHIFT) or self.large.get(va >> PDRSHIFT)

    def drop(self, va: int) -> None:
        """INVLPG: forget all that translates `va`."""
        self.small.pop(va >> PAGE_SHIFT, None)
        if self.large:
            self.large.pop(va >> PDRSHIFT, None)

    def drop_range(self, sva: int, eva: int) -> None:
        """INVLPG of every page in [sva, eva)."""
        for va in range(sva & -NBPDR, eva, NBPDR):
            self.large.pop(va >> PDRSHIFT, None)
        for vpn in self.within(sva, eva):
            del self.small[vpn]

    def within(self, sva: int, eva: int) -> list[int]:
        """The small pages in [sva, eva) that it remembers, by address in pages."""
        small = self.small
        if not small:
            return []
        first, last = sva >> PAGE_SHIFT, eva >> PAGE_SHIFT
        if last - first == 1:
            return [first] if first in small else []
        if last - first < len(small):
            return [vpn for vpn in range(first, last) if vpn in small]
        return [vpn for vpn in small if first <= vpn < last]

    def clear(self) -> None:
        """Forget everything."""
        self.small.clear()
        self.large.clear()


def exceeds(had: int, has: int) -> bool:
    """Does an entry of a TLB give what the tables (`has`, of the same size) do not, or another page?

    The accessed bit is no right: it may be cleared and the entry linger, which costs a little of its truth.
    """
    return bool(
        not has & PG_V
        or (had ^ has) & PG_FRAME
        or (had & PG_DIRTY == PG_DIRTY and has & PG_DIRTY != PG_DIRTY)
        or (has & PG_NX and not had & PG_NX)
    )


class Shootdown:
    """What must be invalidated before somebody may say that it is done.

    Attributes:
        doomed: (TLB, large, key, entry): every entry that a change of the tables has obsoleted.
        closed: it has been said that it is done.
        pages: NetBSD's queue: the addresses to invalidate, in order.
        everything: NetBSD: too many pages; the whole TLB.
    """

    __slots__ = ("closed", "doomed", "everything", "pages")

    def __init__(self) -> None:
        self.doomed: list[tuple[Tlb, bool, int, TlbEntry]] = []
        self.closed = False
        self.pages: dict[int, None] = {}
        self.everything = False

    def add(self, tlb: Tlb, key: int, entry: TlbEntry, *, large: bool) -> None:
        """That entry must go."""
        entry.doom = self
        self.doomed.append((tlb, large, key, entry))

    def left(self) -> str | None:
        """An entry that has not gone, in words."""
        for tlb, large, key, entry in self.doomed:
            if (tlb.large if large else tlb.small).get(key) is entry:
                return f"cpu{tlb.cpu} still translates {key << (PDRSHIFT if large else PAGE_SHIFT):#x} to {words(entry.pte)}"
        return None

    def obsolete(self, tlbs: tuple[Tlb, ...], va: int, new: int) -> None:
        """The entry of the small page `va` has become `new`: what exceeds it must go."""
        vpn = va >> PAGE_SHIFT
        for tlb in tlbs:
            entry = tlb.small.get(vpn)
            if entry is not None and exceeds(entry.pte, new):
                self.add(tlb, vpn, entry, large=False)
            if tlb.large:
                entry = tlb.large.get(va >> PDRSHIFT)
                if entry is not None and exceeds(part_of(entry.pte, va), new):
                    self.add(tlb, va >> PDRSHIFT, entry, large=True)

    def obsolete_superpage(self, tlbs: tuple[Tlb, ...], va: int, new: int) -> None:
        """The entry of the superpage `va` has become `new`: what exceeds it must go, small pages as well."""
        for tlb in tlbs:
            entry = tlb.large.get(va >> PDRSHIFT)
            if entry is not None and exceeds(entry.pte, new):
                self.add(tlb, va >> PDRSHIFT, entry, large=True)
            for vpn in tlb.within(va, va + NBPDR):
                entry = tlb.small[vpn]
                if exceeds(entry.pte, part_of(new, vpn << PAGE_SHIFT)):
                    self.add(tlb, vpn, entry, large=False)


def part_of(pde: int, va: int) -> int:
    """What a superpage's entry says of the small page `va` within."""
    return pde + ((va >> PAGE_SHIFT & (NPTEPG - 1)) << PAGE_SHIFT) if pde & PG_V else pde

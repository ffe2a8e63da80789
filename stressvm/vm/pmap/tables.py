"""Four levels of page tables, nine bits each, as the processor reads them: without any lock.

PML4 entry (512 GiB), PDP entry (1 GiB), PD entry (2 MiB: a page table, or a superpage), PT entry (4 KiB). Tables are
sparse. A change is a visible operation on the tables, since processors read them at any moment: the changes that one
call makes within one page table are one such operation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stressvm.kernel.object import KernelObject
from stressvm.vm.pmap.flags import NPTEPG, PAGE_SHIFT, PDPSHIFT, PDRSHIFT, PML4SHIFT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import ObjectId, Op
    from stressvm.vm.pmap.page import PhysPage

_INDEX = NPTEPG - 1


class PageTable:
    """The lowest level.

    Attributes:
        entries: by index; only valid ones are kept.
        page: where it is; None for one that was there from the start.
        holds: calls under way that have it in hand, so that it may not go although it is empty.
    """

    __slots__ = ("entries", "holds", "page")

    def __init__(self, page: PhysPage | None = None) -> None:
        self.entries: dict[int, int] = {}
        self.page = page
        self.holds = 0

    def within(self, sva: int, eva: int) -> list[int]:
        """The addresses from `sva`, which lies within this table's 2 MiB, up to `eva` that it translates; ascending."""
        base = sva & -(1 << PDRSHIFT)
        first, last = (sva - base) >> PAGE_SHIFT, (eva - base) >> PAGE_SHIFT
        entries = self.entries
        if last - first == 1:
            return [base + (first << PAGE_SHIFT)] if first in entries else []
        if last - first <= len(entries):
            return [base + (index << PAGE_SHIFT) for index in range(first, last) if index in entries]
        return sorted(base + (index << PAGE_SHIFT) for index in entries if first <= index < last)


class Directory:
    """The level above.

    Attributes:
        tables: page tables by index.
        supers: superpages by index: their entries. An index is in one of the two at most.
        saved: the page table that a superpage leaves unused, kept for its demotion.
        page: where it is.
    """

    __slots__ = ("page", "saved", "supers", "tables")

    def __init__(self, page: PhysPage | None = None) -> None:
        self.tables: dict[int, PageTable] = {}
        self.supers: dict[int, int] = {}
        self.saved: dict[int, PageTable] = {}
        self.page = page

    def empty(self) -> bool:
        """Nothing is below."""
        return not self.tables and not self.supers


class Pdp:
    """The level above that."""

    __slots__ = ("directories", "page")

    def __init__(self, page: PhysPage | None = None) -> None:
        self.directories: dict[int, Directory] = {}
        self.page = page


class _Ops(NamedTuple):
    store: Op
    load: Op


def _make_ops(k: Kernel, ident: ObjectId) -> _Ops:
    return _Ops(k.op("store", ident, write=True), k.op("load", ident, write=False))


class PageTables(KernelObject):
    """The page tables of one pmap.

    Args:
        k: the kernel.
        name: as reports show them.
    """

    __slots__ = ("ops", "pml4")

    def __init__(self, k: Kernel, name: str) -> None:
        self.k = k
        self.ident, self.ops = k.adopt(self, "tables", name, _make_ops)
        self.pml4: dict[int, Pdp] = {}

    async def store(self, va: int) -> None:
        """The moment at which the caller changes entries at `va`, and others of the same page table."""
        k = self.k
        op = self.ops.store
        if k.away(op):
            await k.baton
        k.trace.append((k.cur, op, va))

    async def load(self, va: int) -> None:
        """The moment at which the caller reads an entry that processors may be changing."""
        k = self.k
        op = self.ops.load
        if k.away(op):
            await k.baton
        k.trace.append((k.cur, op, va))

    def used(self, *, write: bool) -> None:
        """The current step, of whatever operation, also reads or changes an entry, or who uses the tables."""
        self.k.touch(self.ident.number, write=write)

    def directory(self, va: int) -> Directory | None:
        """The page directory for `va`, if there is one."""
        pdp = self.pml4.get(va >> PML4SHIFT & _INDEX)
        return pdp.directories.get(va >> PDPSHIFT & _INDEX) if pdp is not None else None

    def table(self, va: int) -> PageTable | None:
        """The page table for `va`, if there is one that is in use."""
        pdp = self.pml4.get(va >> PML4SHIFT & _INDEX)
        if pdp is not None:
            directory = pdp.directories.get(va >> PDPSHIFT & _INDEX)
            if directory is not None:
                return directory.tables.get(va >> PDRSHIFT & _INDEX)
        return None

    def entry(self, va: int) -> int:
        """The entry that translates `va`, whatever its size; 0 if there is none."""
        pdp = self.pml4.get(va >> PML4SHIFT & _INDEX)
        if pdp is None:
            return 0
        directory = pdp.directories.get(va >> PDPSHIFT & _INDEX)
        if directory is None:
            return 0
        index = va >> PDRSHIFT & _INDEX
        if index in directory.supers:
            return directory.supers[index]
        table = directory.tables.get(index)
        return table.entries.get(va >> PAGE_SHIFT & _INDEX, 0) if table is not None else 0

    def slots(self, sva: int, eva: int) -> Iterable[tuple[int, Directory, int]]:
        """For each 2 MiB of [sva, eva) that have an entry in a page directory: (address, directory, index).

        The address is where the range and those 2 MiB begin to overlap. Levels that are missing are skipped whole. Each
        is looked up when it is asked for.
        """
        if sva >= eva or sva >> PDRSHIFT != (eva - 1) >> PDRSHIFT:
            return self._slots(sva, eva)
        # The usual case needs no generator.
        directory = self.directory(sva)
        index = sva >> PDRSHIFT & _INDEX
        if directory is None or not (index in directory.tables or index in directory.supers):
            return ()
        return ((sva, directory, index),)

    def _slots(self, sva: int, eva: int) -> Iterator[tuple[int, Directory, int]]:
        while sva < eva:
            directory = self.directory(sva)
            if directory is None:
                shift = PDPSHIFT if sva >> PML4SHIFT & _INDEX in self.pml4 else PML4SHIFT
                sva = ((sva >> shift) + 1) << shift
                continue
            index = sva >> PDRSHIFT & _INDEX
            if index in directory.tables or index in directory.supers:
                yield sva, directory, index
            sva = ((sva >> PDRSHIFT) + 1) << PDRSHIFT

    def every(self) -> Iterator[tuple[int, int]]:
        """All translations, as (address modulo 2^48, entry), one for a superpage; in order of address."""
        for top in sorted(self.pml4):
            pdp = self.pml4[top]
            for middle in sorted(pdp.directories):
                directory = pdp.directories[middle]
                for index in sorted({*directory.tables, *directory.supers}):
                    base = top << PML4SHIFT | middle << PDPSHIFT | index << PDRSHIFT
                    if index in directory.supers:
                        yield base, directory.supers[index]
                    else:
                        entries = directory.tables[index].entries
                        for low in sorted(entries):
                            yield base | low << PAGE_SHIFT, entries[low]

    def count(self) -> int:
        """How many tables there are, of all levels but the top, and those that superpages have saved."""
        total = 0
        for pdp in self.pml4.values():
            total += 1 + len(pdp.directories)
            total += sum(len(d.tables) + len(d.saved) for d in pdp.directories.values())
        return total

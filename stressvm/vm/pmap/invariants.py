"""What must hold of a pmap whenever its lock is released, one named check each.

They look at what this hold of the lock has changed (`touched`), so that they cost as much as the change did; the counts
are proven by counting everything as long as there is little of it. What must hold of the TLBs is checked where it is
promised: FreeBSD's pmap checks before it lets go of its lock, NetBSD's at the end of pmap_update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.vm.pmap import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.vm.pmap.core import PmapCore

#: With so many translations or fewer, all are counted; a superpage is one.
RECOUNT_MAX: Final = 64
#: They are, whenever a superpage has come or gone, and else at every so-manieth release.
RECOUNT_EVERY: Final = 16
_INDEX = F.NPTEPG - 1


def counts(pmap: PmapCore) -> str | None:
    """G20: resident_count is the number of translations, wired_count that of the wired ones; pmap_kenter's do not count.

    The kernel's counts are compared with those of the stores, always. Both are proven by counting everything, while there
    are at most RECOUNT_MAX translations: when a superpage has come or gone (which the stores do not see page by page), and
    at every RECOUNT_EVERY-th release.
    """
    if pmap.resident_count != pmap.valid or pmap.wired_count != pmap.wired:
        return (
            f"resident_count {pmap.resident_count}, wired_count {pmap.wired_count}, "
            f"but {pmap.valid} pages are mapped and {pmap.wired} wired"
        )
    if not 0 <= pmap.wired_count <= pmap.resident_count:
        return f"{pmap.wired_count} pages wired of {pmap.resident_count}"
    pmap.releases += 1
    due = pmap.touched_supers or not pmap.releases % RECOUNT_EVERY
    if due and pmap.valid - pmap.superpages * (F.NPTEPG - 1) <= RECOUNT_MAX:
        return recount(pmap)
    return None


def recount(pmap: PmapCore) -> str | None:
    """G20, by counting everything."""
    valid = wired = 0
    for _, pte in pmap.tables.every():
        if not pte & F.PG_RAW:
            pages = F.NPTEPG if pte & F.PG_PS else 1
            valid += pages
            wired += pages if pte & F.PG_W else 0
    if (valid, wired) != (pmap.resident_count, pmap.wired_count):
        return (
            f"resident_count {pmap.resident_count}, wired_count {pmap.wired_count}, "
            f"but the tables have {valid} pages, {wired} of them wired"
        )
    return None


def pv_lists(pmap: PmapCore) -> str | None:
    """A managed page is on its list once for each mapping, and a page mapped by a superpage is on no list of its own."""
    machine = pmap.machine
    for va in pmap.touched:
        pte = pmap.tables.entry(va)
        if not pte & F.PG_PS and pte & F.PG_MANAGED:
            page = machine.md(pte).page
            if (pmap, va) not in page.pv_list:
                return f"{va:#x} maps {page.phys_addr:#x}, whose list does not say so"
    for md in pmap.listed:
        for owner, va in md.page.pv_list:
            if owner is pmap:
                pte = pmap.tables.entry(va)
                if pte & F.PG_PS or not pte & F.PG_MANAGED or pte & F.PG_FRAME != md.page.phys_addr:
                    return f"the list of {md.page.phys_addr:#x} names {va:#x}, which has {F.words(pte)}"
    for va in pmap.touched_supers:
        pde = pmap.tables.entry(va)
        if pde & F.PG_PS and pde & F.PG_MANAGED and (pmap, va) not in machine.pvh(pde).pv_list:
            return f"superpage {va:#x} maps {pde & F.PG_PS_FRAME:#x}, whose list does not say so"
    return None


def superpages(pmap: PmapCore) -> str | None:
    """A superpage is aligned and, if writable, modified; what it was made of agreed with it in every attribute."""
    for va in pmap.touched_supers:
        directory = pmap.tables.directory(va)
        index = va >> F.PDRSHIFT & _INDEX
        pde = directory.supers.get(index) if directory is not None else None
        if directory is None or pde is None:
            continue
        if index in directory.tables:
            return f"{va:#x} has both a page table and a superpage"
        if pde & (F.PG_FRAME ^ F.PG_PS_FRAME) or pde & F.PG_DIRTY == F.PG_RW:
            return f"superpage {va:#x} is {F.words(pde)}"
        if pde & F.PG_PROMOTED:
            saved = directory.saved.get(index)
            odd = "no page table" if saved is None else _unlike(saved.entries, pde)
            if odd is not None:
                return f"superpage {va:#x} is {F.words(pde)}, made of {odd}"
    return None


def _unlike(entries: dict[int, int], pde: int) -> str | None:
    if len(entries) != F.NPTEPG:
        return f"{len(entries)} pages"
    want = (pde & F.PG_PTE_PROMOTE) | (pde & F.PG_PS_FRAME)
    # What may change of a superpage without ado: it is unwired, or its accessed bit is cleared.
    mask = (F.PG_PTE_PROMOTE | F.PG_FRAME) & ~(F.PG_A | F.PG_W)
    want &= mask
    for index, pte in entries.items():
        if pte & mask != want + (index << F.PAGE_SHIFT):
            return f"page {index} as {F.words(pte)}"
    return None


def dirty(pmap: PmapCore) -> str | None:
    """Pages that were written keep that: a modified bit that has left the tables has gone to the page."""
    for md in pmap.owed:
        return f"page {md.page.phys_addr:#x} was written through a mapping, and that is forgotten"
    return None


def kernel_end(pmap: PmapCore) -> str | None:
    """G15: the kernel's translations are below kernel_vm_end."""
    if pmap.kernel:
        for va in pmap.touched:
            if va >= pmap.kernel_vm_end and pmap.tables.entry(va):
                return f"{va:#x} is mapped, and page tables reach to {pmap.kernel_vm_end:#x}"
    return None


#: Each by the name that a panic gives it.
INVARIANTS: Final[dict[str, Callable[[PmapCore], str | None]]] = {
    "G20 counts": counts,
    "G20 pv lists": pv_lists,
    "G20 superpages": superpages,
    "dirty": dirty,
    "G15 kernel_vm_end": kernel_end,
}

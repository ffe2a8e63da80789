"""FreeBSD's maps with pages and a pmap under them: the order of unmapping, page tables, and faults that wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.bench.defects.defect import Anew, Defect, Label, Plant, direct
from stressvm.bench.defects.freebsd_memory_programs import (
    fault_and_remove,
    fixed_in_the_kernel,
    kernel_memory,
    remap_during_io,
    remove_during_io,
    remove_what_is_wired,
)
from stressvm.vm import freebsd
from stressvm.vm.freebsd import KernelMap13, VmFault, VmMap13
from stressvm.vm.pages import PageQueue

if TYPE_CHECKING:
    from stressvm.vm.freebsd import FaultState, VmMapEntry


class UnmapsLate(VmMap13):
    """Mappings are removed when the entry is gone and its pages are free. Two methods: it is moved from one to the other."""

    async def pmap_remove(self, start: int, end: int) -> None:
        """Later."""

    async def vacated(self, start: int, end: int) -> None:
        await super().vacated(start, end)
        assert self.pmap is not None
        await self.pmap.remove(start, end)


class NeverUnmaps(VmMap13):
    """Mappings are not removed."""

    async def pmap_remove(self, start: int, end: int) -> None:
        """Nothing."""


class UnwiresLate(VmMap13):
    """Pages are unwired after the mappings are gone, and found by the mappings, as 9.3 finds them."""

    async def unmap(self, entry: VmMapEntry) -> None:
        assert self.pmap is not None
        assert self.memory is not None
        await self.pmap_remove(entry.start, entry.end)
        for va in range(entry.start, entry.end, freebsd.PAGE_SIZE):
            pa = await self.pmap.extract(va)
            if pa:
                page = next(page for page in self.memory.pages.pages if page.phys_addr == pa)
                await self.memory.pages.vm_page_unwire(page, PageQueue.ACTIVE)


class UnwiresSecond(VmMap13):
    """The order alone: 13 finds pages by their objects, and its pmap does not mind."""

    async def unmap(self, entry: VmMapEntry) -> None:
        if self.memory is not None:
            await self.pmap_remove(entry.start, entry.end)
            if entry.wired_count:
                await self.unwire_pages(entry, entry.start, entry.end)


class GrowsNothing(KernelMap13):
    """No page tables are made."""

    def grow_kernel(self, end: int) -> None:
        """Nothing."""


class TrustsTheMap(VmFault):
    """Whether the map has changed is not asked."""

    def map_changed(self, fs: FaultState) -> bool:  # noqa: ARG002 - that is the defect
        return False


class ComparesTheObjectOnly(VmFault):
    """After another lookup it is enough that it is the same object."""

    def same_place(self, fs: FaultState, pindex: int) -> bool:  # noqa: ARG002 - that is the defect
        return True


class WaitsForTheMap(VmFault):
    """The map is locked again by waiting for it, with the page busy."""

    async def relock_map(self, fs: FaultState) -> bool:
        await fs.map.lock.lock_read()
        return True


class GrowsForFindsOnly(KernelMap13):
    """Page tables are made by the search for addresses, and so not for what is mapped at a fixed place."""

    def grow_kernel(self, end: int) -> None:
        """Nothing: the search has done it."""

    def findspace(self, start: int, length: int) -> int | None:
        found = super().findspace(start, length)
        if found is not None:
            super().grow_kernel(found + length)
        return found


_REMOVE, _WIRED = direct(fault_and_remove), direct(remove_what_is_wired)
_REMAP, _KERNEL = direct(remap_during_io), direct(kernel_memory)

DEFECTS: Final = (
    Defect(
        "F34",
        "Mappings are removed before their entry is unlinked and its pages are free.",
        (
            Plant("they are removed afterwards", _REMOVE, (("cls", UnmapsLate),), "invariant", "G14 deleted"),
            Plant("they are not removed", _REMOVE, (("cls", NeverUnmaps),), "invariant", "G14 deleted"),
        ),
    ),
    Defect(
        "F35",
        "Wired memory is unwired before its mappings are removed.",
        (
            Plant(
                "afterwards, by the mappings, as 9.3 finds the pages",
                _WIRED,
                (("cls", UnwiresLate),),
                "invariant",
                "G6 wirings",
            ),
            Plant(
                "afterwards, by the objects, as 13 finds the pages",
                _WIRED,
                (("cls", UnwiresSecond),),
                "",
                label=Label.EQUIVALENT,
                note="13 finds wired pages by their objects and not by the mappings, and its pmap passes over what is not mapped. "
                "Both happen in one hold of the map's lock, so nobody can tell which was first.",
            ),
        ),
    ),
    Defect(
        "F39",
        "The kernel's page tables grow with every insertion into its map.",
        (
            Plant("they do not", _KERNEL, (("map_cls", GrowsNothing),), "invariant", "G15 page tables"),
            Plant(
                "only with searches, and so not for what is mapped at a fixed place",
                direct(fixed_in_the_kernel),
                (("map_cls", GrowsForFindsOnly),),
                "invariant",
                "G15 page tables",
            ),
        ),
    ),
    Defect(
        "F41",
        "A fault that has waited looks whether the map has changed, and then whether object and offset are still those.",
        (
            Plant(
                "it does not look whether the map has changed",
                _REMAP,
                (("fault", Anew(TrustsTheMap)),),
                "assertion",
                "is not what is mapped",
            ),
            Plant(
                "it compares the object only",
                _REMAP,
                (("fault", Anew(ComparesTheObjectOnly)),),
                "assertion",
                "is not what is mapped",
            ),
        ),
    ),
    Defect(
        "F42",
        "A fault with a page busy only tries to lock the map again.",
        (
            Plant(
                "it waits for the map",
                direct(remove_during_io),
                (("fault", Anew(WaitsForTheMap)),),
                "deadlock",
                "waits for read-lock .* sleeps on page",
            ),
        ),
    ),
)

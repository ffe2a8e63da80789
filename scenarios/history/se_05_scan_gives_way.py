"""DragonFly's scans of an object's pages, 2016: the page is picked, then the scan gives way, then it goes on with that page.

So that a scan of a large object does not keep others out for too long, it lets go of the object between two pages. It did so
after it had picked the next one. By then that may have been freed, and be a page of quite another object.

Source: DragonFly, sys/vm/vm_object.c, commits 120ac5dd96 of July 2016 and 07540d375a of January 2017: look at the page's
object and index again. Here it is vm_object_page_remove of FreeBSD 13, made to give way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario
from stressvm.vm import freebsd, pages

if TYPE_CHECKING:
    from stressvm.vm.pages import Page

SOURCE = "DragonFly, sys/vm/vm_object.c, vm_object_page_remove; repaired by 120ac5dd96 and 07540d375a, 2016 and 2017"
PAGE = freebsd.PAGE_SIZE
LOW = 0x1_0000_0000


class GivesWay(freebsd.ObjectPages):
    """An object that is let go of before each page that is removed."""

    async def page_remove(self, first: int, end: int) -> None:
        """vm_object_page_remove, without swap. Locks: takes the object's. Sleeps: for that, and for busy pages."""
        phys = self.memory.pages
        await self.lock.lock()
        while (page := self.pages.find_least(first)) is not None and page.pindex < end:
            pindex = page.pindex
            await self.lock.unlock()
            await self.lock.lock()
            if not self.same(page, pindex):
                continue
            if await phys.vm_page_tryxbusy(page):
                await self.free(page)
            else:
                await phys.vm_page_sleep_if_busy(page, "vmopar")
        await self.lock.unlock()

    def same(self, page: Page, pindex: int) -> bool:
        """Is it still this object's page, at that index? Locks: the object's."""
        return page.owner is self and page.pindex == pindex


class GoesOn(GivesWay):
    """An object whose scan believes in the page that it has picked."""

    def same(self, page: Page, pindex: int) -> bool:
        """It must be."""
        del page, pindex
        return True


def two_truncations(k: Kernel, cls: type[freebsd.ObjectPages]) -> None:
    """A file of one page is truncated twice; who is done uses other memory."""
    memory = freebsd.Memory(pages.VmPages13(k, 6))
    vm = freebsd.vmspace_alloc(k, LOW, LOW + PAGE, memory=memory)
    vm.map.insert(None, 0, LOW, LOW + PAGE)
    file = cls(memory, "file", swap=False)
    memory.pages.fill(file, 1, clean=True)

    async def truncates() -> None:
        await file.page_remove(0, 1)

    async def uses() -> None:
        await file.page_remove(0, 1)
        await freebsd.vmspace_access(vm.map, LOW, freebsd.VM_PROT_WRITE, "mine")

    k.spawn(truncates, name="truncates")
    k.spawn(uses, name="uses")


@scenario(expect="panic", source=SOURCE)
def se_05_scan_gives_way(k: Kernel) -> None:
    """A page is freed that is free already, or another object's."""
    two_truncations(k, GoesOn)


@scenario(source=SOURCE, executions=200)
def se_05_scan_gives_way_ok(k: Kernel) -> None:
    """The page is looked at again."""
    two_truncations(k, GivesWay)

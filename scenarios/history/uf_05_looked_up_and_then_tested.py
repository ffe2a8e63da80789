"""DragonFly's page lookup, 2004: a page is looked up, and then it is tested whether it is busy: by then it is another's page.

An interrupt may come in between: the I/O on the page is done, the page is made unbusy, and freed. Then it is not busy, indeed.
It was repaired by making one thing of the lookup and the test, which no interrupt can divide.

Source: DragonFly, sys/vm/vm_page.c, commit 06ecca5a02 of May 2004. Here it is FreeBSD 13's pages; what kept interrupts out is
the object's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Atomic, Kernel, scenario
from stressvm.vm import pages

if TYPE_CHECKING:
    from scenarios.history._freed_pages import Pages
else:
    from _freed_pages import Pages

SOURCE = "DragonFly, sys/vm/vm_page.c, vm_page_lookup and vm_page_sleep_busy; repaired by 06ecca5a02, May 2004"
MINE, THEIRS = 1, 2


class File:
    """A file with one page in memory.

    Args:
        phys: physical memory.

    Attributes:
        obj: its object.
        other: the object of another file.
        holds: what the page holds: a page of which file.
    """

    def __init__(self, phys: Pages) -> None:
        self.phys = phys
        self.obj = pages.PageObject(phys.k, "file")
        self.other = pages.PageObject(phys.k, "other file")
        self.holds = Atomic(phys.k, MINE, "page")
        (self.page,) = phys.fill(self.obj, 1)

    async def find_busy(self) -> pages.Page | None:
        """The file's page, busy; None if it is not in memory. Locks: takes the object's. Sleeps: for a busy page."""
        await self.obj.lock.lock()
        while (page := self.obj.pages.lookup(0)) is not None:
            if not await self.phys.vm_page_sleep_if_busy(page, "find") and await self.phys.vm_page_tryxbusy(page):
                break
        await self.obj.lock.unlock()
        return page

    async def reuse(self) -> None:
        """The page, which is busy, is freed, and used for a page of the other file. Locks: takes the objects'."""
        await self.obj.lock.lock()
        await self.phys.vm_page_free(self.page)
        await self.obj.lock.unlock()
        await self.other.lock.lock()
        page = await self.phys.vm_page_alloc(self.other, 0, pages.VM_ALLOC_INTERRUPT | pages.VM_ALLOC_NOBUSY)
        assert page is not None, "it was just freed"
        self.holds.poke(THEIRS)
        await self.other.lock.unlock()

    async def read(self) -> None:
        """Read from the page, if it is in memory. Locks: as find_busy."""
        page = await self.find_busy()
        if page is not None:
            assert await self.holds.load() == MINE, "what was read is from another file"
            await self.phys.vm_page_xunbusy(page)


class TestsLater(File):
    """The lookup is one thing, and the test another."""

    async def find_busy(self) -> pages.Page | None:
        """The object is unlocked in between."""
        while (page := await self.lookup()) is not None and not await self.phys.vm_page_tryxbusy(page):
            await self.obj.lock.lock()
            if self.obj.pages.lookup(0) is page:
                await self.phys.vm_page_sleep_if_busy(page, "find")
            await self.obj.lock.unlock()
        return page

    async def lookup(self) -> pages.Page | None:
        """The file's page. Locks: takes the object's."""
        await self.obj.lock.lock()
        page = self.obj.pages.lookup(0)
        await self.obj.lock.unlock()
        return page


def reuse_and_read(k: Kernel, cls: type[File]) -> None:
    """A thread reads from a page, while another one, which has it busy, frees it, and uses it for another file."""
    file = cls(Pages(k, 1))
    k.spawn(file.read, name="reads")
    file.page.set_busy(k.spawn(file.reuse, name="reuses").number)


@scenario(expect="assertion", source=SOURCE)
def uf_05_looked_up_and_then_tested(k: Kernel) -> None:
    """It reads from the page what is of another file."""
    reuse_and_read(k, TestsLater)


@scenario(source=SOURCE, executions=200)
def uf_05_looked_up_and_then_tested_ok(k: Kernel) -> None:
    """The page that was found is the file's as long as the object is locked, and afterwards as long as it is busy."""
    reuse_and_read(k, File)

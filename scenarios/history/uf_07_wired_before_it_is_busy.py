"""FreeBSD's vm_page_release_locked, 2020: a page that nobody has wired is to be freed, and is wired by then.

A grab without the object's lock makes a page busy, wires it, and makes it unbusy again. So a page that was seen without
wirings may have one when it has been made busy in order to free it. It was repaired by looking again then.

Source: FreeBSD, sys/vm/vm_page.c, vm_page_release_locked; repaired in review D24592, April 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario
from stressvm.vm import pages

if TYPE_CHECKING:
    from scenarios.history._freed_pages import Pages
else:
    from _freed_pages import Pages

SOURCE = "FreeBSD, sys/vm/vm_page.c, vm_page_release_locked; repaired in review D24592, April 2020"


class Release:
    """Lets go of a page of an object, and frees it if nobody wires it.

    Args:
        phys: physical memory.
        obj: the object.
        page: its page.
    """

    def __init__(self, phys: Pages, obj: pages.PageObject, page: pages.Page) -> None:
        self.phys = phys
        self.obj = obj
        self.page = page

    async def release(self) -> None:
        """vm_page_release_locked, with VPR_TRYFREE. Locks: takes the object's. Sleeps: for that."""
        await self.obj.lock.lock()
        if not self.phys.wirings(self.page) and await self.phys.vm_page_tryxbusy(self.page):
            if self.may_free():
                await self.phys.vm_page_free(self.page)
            else:
                await self.phys.vm_page_xunbusy(self.page)
        await self.obj.lock.unlock()

    def may_free(self) -> bool:
        """Nobody wires it still. The page is busy."""
        return not self.phys.wirings(self.page)


class LooksOnce(Release):
    """That nobody wires it was seen before it was busy, and is not looked at again."""

    def may_free(self) -> bool:
        """Take it for granted."""
        return True


def release_and_grab(k: Kernel, cls: type[Release]) -> None:
    """One thread lets go of a page while another one grabs it, without the object's lock."""
    phys = Pages(k, 4)
    obj = pages.PageObject(k, "object")
    (page,) = phys.fill(obj, 1)
    release = cls(phys, obj, page)

    async def grabs() -> None:
        # vm_page_grab_valid_unlocked.
        if await phys.vm_page_tryxbusy(page):
            await phys.vm_page_wire(page)
            await phys.vm_page_xunbusy(page)

    k.spawn(release.release, name="releases")
    k.spawn(grabs, name="grabs")


@scenario(expect="panic", source=SOURCE)
def uf_07_wired_before_it_is_busy(k: Kernel) -> None:
    """A wired page is freed."""
    release_and_grab(k, LooksOnce)


@scenario(source=SOURCE, executions=200)
def uf_07_wired_before_it_is_busy_ok(k: Kernel) -> None:
    """A page that turns out to be wired stays."""
    release_and_grab(k, Release)

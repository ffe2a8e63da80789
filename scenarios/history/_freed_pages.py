"""FreeBSD's pages, whose busy word says so when they are free (VPB_FREED): nobody makes one busy that is, or is about to be.

The model's own pages leave that to the object's lock. Where pages are made busy without it, it takes this.

Source: sys/vm/vm_page.c of FreeBSD 13.0, vm_page_busy_free, vm_page_tryxbusy.
"""

from __future__ import annotations

from stressvm import Atomic, Kernel
from stressvm.vm import pages


class Pages(pages.VmPages13):
    """Pages of which those that are free are never busy, and that are wired without a lock.

    Args:
        k: the kernel.
        npages: how many frames.

    Attributes:
        ref_counts: how often pages were wired so far.
    """

    def __init__(self, k: Kernel, npages: int) -> None:
        super().__init__(k, npages)
        self.ref_counts = Atomic(k, 0, "ref_count")

    async def vm_page_tryxbusy(self, page: pages.Page) -> bool:
        """Make it busy if it is neither busy nor free. Locks: none needed. Sleeps: no."""
        if not await super().vm_page_tryxbusy(page):
            return False
        if page.owner is None:
            page.set_unbusy()
        return page.busy

    def wirings(self, page: pages.Page) -> int:
        """How often it is wired, for who does not have it busy: true for the moment. No switch."""
        self.ref_counts.peek()
        return page.wire_count

    async def vm_page_wire(self, page: pages.Page) -> None:
        """Wire it once more, if it is on no paging queue: one atomic operation. Locks: none. Sleeps: no."""
        await self.ref_counts.fetchadd(1)
        self.wired += not page.wire_count
        page.wire_count += 1

    async def vm_page_free_toq(self, page: pages.Page) -> None:
        """It is nobody's from the moment on at which it is certain to be freed."""
        self.check_freeable(page)
        self.disown(page)
        await super().vm_page_free_toq(page)

"""FreeBSD's page allocator: what both versions share. The free list and the waiting are in `vm_page_2013`, `vm_page_13`.

Source: sys/vm/vm_page.c of release/10.4 and releng/13.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.pages import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pages.page import PageQueue
from stressvm.vm.pages.vm_page_busy import VmBusy

if TYPE_CHECKING:
    from stressvm.vm.pages.page import Page, PageOwner


class VmPage(VmBusy):
    """Allocating and freeing. Use `VmPages2013` or `VmPages13`; planted defects override one of the small methods."""

    async def vm_page_alloc(self, obj: PageOwner | None, pindex: int, req: int) -> Page | None:
        """Allocate a page frame and put it into an object, busy unless VM_ALLOC_NOBUSY; for no object never busy.

        The page holds what it held, also with VM_ALLOC_ZERO: if `zeroed` does not say so, the caller fills it.

        Locks: the object's on entry and exit; takes the free list's. Sleeps: 2013 never. 13, when there is none: with
        VM_ALLOC_WAITFAIL it unlocks the object, waits for pages, locks the object again, and fails; with VM_ALLOC_WAITOK,
        for no object only, it waits and tries again.
        Wakes: the daemon, if pages run low or there are none.

        Args:
            obj: whose it shall be; None, with VM_ALLOC_NOOBJ: nobody's.
            pindex: where in the object, pages.
            req: a class, VM_ALLOC_NORMAL, SYSTEM or INTERRUPT, and VM_ALLOC_WIRED, ZERO, NOOBJ, NOBUSY.

        Returns:
            The page, or None.

        Source: sys/vm/vm_page.c, vm_page_alloc; in 13 vm_page_alloc_domain_after.
        """
        raise NotImplementedError

    async def vm_page_grab(self, obj: PageOwner, pindex: int, req: int) -> Page:
        """The page at an index, busy: the resident one, or a new one; waits for both.

        Locks: the object's on entry and exit, given up while asleep. Sleeps: for a busy page, and for free pages.

        Source: sys/vm/vm_page.c, vm_page_grab of 10.4.
        """
        while True:
            page = obj.pages.lookup(pindex)
            if page is None:
                page = await self.vm_page_alloc(obj, pindex, req & ~F.VM_ALLOC_WAITOK)
                if page is not None:
                    if req & F.VM_ALLOC_ZERO and not page.zeroed:
                        page.zero()
                    return page
                await obj.lock.unlock()
                await self.vm_wait()
                await obj.lock.lock()
            elif await self.vm_page_sleep_if_busy(page, "pgrbwt"):
                continue
            elif await self.vm_page_tryxbusy(page):
                return page

    async def vm_page_free(self, page: Page) -> None:
        """Free a page: take it from its paging queue and its object, put it on the free list, wake who waits.

        Panics if it is free already, wired, mapped, or busy by another thread, and if its object is not locked.

        Locks: the object's on entry and exit; takes the free list's, and the paging queues' if it is on one. Sleeps:
        for those. Wakes: those who wait for pages, once there are enough; those who want this one, if it is busy.

        Source: sys/vm/vm_page.c, vm_page_free and vm_page_free_toq.
        """
        page.zeroed = False
        await self.vm_page_free_toq(page)

    async def vm_page_free_zero(self, page: Page) -> None:
        """As `vm_page_free`, for a page that holds zeros. Source: sys/vm/vm_page.c, vm_page_free_zero."""
        if page.content != F.ZEROS:
            raise self.panic(f"vm_page_free_zero: {page!r} holds {page.content!r}")
        page.zeroed = True
        await self.vm_page_free_toq(page)

    async def vm_page_free_toq(self, page: Page) -> None:
        """See `vm_page_free`."""
        page.used(write=True)
        self.check_freeable(page)
        if self.paged(page):
            await self.pagequeue.lock()
            self.dequeue(page)
            await self.pagequeue.unlock()
        if page.busy:
            await self.vm_page_xunbusy(page)
        if page.owner is not None:
            self.disown(page)
        page.clean = True
        await self.free_list_insert(page)

    def check_freeable(self, page: Page) -> None:
        """What vm_page_free_toq asserts."""
        if page.queue is PageQueue.FREE:
            raise self.panic(f"vm_page_free: freeing free page {page!r}")
        if self.mapped(page):
            raise self.panic(f"vm_page_free_toq: freeing mapped page {page!r}")
        if page.busy and page.busy_thread != self.k.cur:
            raise self.panic(f"vm_page_free: freeing busy page {page!r}")
        if page.wire_count:
            raise self.panic(f"vm_page_free: freeing wired page {page!r}")
        if page.owner is not None and not page.owner.lock.owned():
            raise self.panic(f"vm_page_free: {page.owner.name} is not locked")

    async def free_list_insert(self, page: Page) -> None:
        """A loose page goes on the free list, and who waits for that is woken. Locks: takes the free list's."""
        raise NotImplementedError

    # ------------------------------------------------------------ the steps of an allocation

    def check_request(self, obj: PageOwner | None, req: int, pindex: int) -> None:
        """What vm_page_alloc asserts."""
        if (obj is None) != bool(req & F.VM_ALLOC_NOOBJ):
            raise self.panic(f"vm_page_alloc: inconsistent object({obj!r})/req({req:#x})")
        if obj is not None:
            if not obj.lock.owned():
                raise self.panic(f"vm_page_alloc: {obj.name} is not locked")
            if obj.pages.lookup(pindex) is not None:
                raise self.panic(f"vm_page_alloc: pindex {pindex} of {obj.name} already allocated")

    def dress(self, page: Page, obj: PageOwner | None, pindex: int, req: int) -> None:
        """What a page is when it is fresh, and into its object with it. Locks: the object's."""
        page.zeroed = page.zeroed and bool(req & F.VM_ALLOC_ZERO)
        page.clean = True
        page.md_modified = page.md_referenced = False
        page.managed = obj is not None and obj.pages.managed
        if obj is not None and not req & F.VM_ALLOC_NOBUSY:
            page.set_busy(self.k.cur)
        if req & F.VM_ALLOC_WIRED:
            self.books_field.write()
            page.wire_count = 1
            self.wired += 1
        if obj is not None:
            self.adopt(page, obj, pindex)
        else:
            page.pindex = pindex

    async def pagedaemon_wakeup(self) -> None:
        """Tell the daemon that pages run low. Locks: none needed. Sleeps: no. See the versions."""
        raise NotImplementedError

    # ------------------------------------------------------------ the paging queues, and wiring

    async def vm_page_activate(self, page: Page) -> None:
        """To the young end of the active queue, unless wired or unmanaged. Locks: takes the queues'. Sleeps: for it."""
        await self._queue(page, PageQueue.ACTIVE)

    async def vm_page_deactivate(self, page: Page) -> None:
        """To the young end of the inactive queue, unless wired or unmanaged. Locks: takes the queues'. Sleeps: for it."""
        await self._queue(page, PageQueue.INACTIVE)

    async def vm_page_wire(self, page: Page) -> None:
        """Wire it once more; a wired page is on no paging queue. Locks: takes the queues'. Sleeps: for it."""
        await self.pagequeue.lock()
        self.books_field.write()
        if not page.wire_count:
            self.dequeue(page)
            self.wired += 1
        page.wire_count += 1
        await self.pagequeue.unlock()

    async def vm_page_unwire(self, page: Page, queue: PageQueue) -> None:
        """Wire it once less; then it goes on that queue, if it is managed. Locks: takes the queues'. Sleeps: for it."""
        if not page.wire_count:
            raise self.panic(f"vm_page_unwire: page {page!r}'s wire count is zero")
        await self.pagequeue.lock()
        self.books_field.write()
        page.wire_count -= 1
        if not page.wire_count:
            self.wired -= 1
            if page.managed and page.owner is not None:
                self.enqueue(page, queue)
        await self.pagequeue.unlock()

    async def _queue(self, page: Page, queue: PageQueue) -> None:
        await self.pagequeue.lock()
        if not page.wire_count and page.managed:
            self.enqueue(page, queue)
        await self.pagequeue.unlock()

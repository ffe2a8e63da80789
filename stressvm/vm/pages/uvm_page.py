"""NetBSD's page allocator: uvm_pagealloc and its reserves, uvm_pagefree, busy pages and waiting for them.

Locks, in the order in which they are taken: an object's, the paging queues' (uvm_pageqlock), the free list's
(uvm_fpageqlock, a spin mutex). The free count changes under the last one only; uvm_pagefree wakes nobody, neither those
who wait for pages nor those who wait for this page: the one is the daemon's business, the other the caller's.

A busy page is somebody's alone, whose lock on the object may be dropped meanwhile. Whoever else wants it marks it wanted
and sleeps on the page, and the object's lock is given up in that very step; so the marks and the sleep are protected by
one lock, and no wakeup can come between.

Source: sys/uvm/uvm_page.c 1.181 (NetBSD 6.99.16). Per-CPU free lists, loans and free lists by priority are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.pages import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pages.page import ACTIVE, FREE, INACTIVE, NONE
from stressvm.vm.pages.uvm import Uvm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stressvm.vm.pages.page import Page, PageOwner, PageQueue


class UvmPage(Uvm):
    """The allocator without pageouts and daemon. Use `UvmPages`; planted defects override one of the small methods."""

    # ------------------------------------------------------------ uvm_pagealloc

    async def uvm_pagealloc(self, obj: PageOwner | None, off: int, flags: int = 0) -> Page | None:
        """Allocate a page frame, busy, and put it into an object.

        Fails, after telling the daemon if pages run low, when only reserved pages are left that the caller may not
        have. Without UVM_PGA_ZERO the page holds what it held. The caller puts it on a paging queue, or wires it, or
        keeps it loose, and makes it unbusy.

        Locks: the object's on entry and exit; takes uvm_fpageqlock. Sleeps: never, it spins; interrupt handlers may
        call it for no object. Wakes: the daemon, if pages run low.

        Args:
            obj: whose it shall be; None: nobody's.
            off: where in the object, bytes, page aligned; for nobody's page, its colour.
            flags: UVM_PGA_USERESERVE, UVM_PGA_ZERO, UVM_FLAG_COLORMATCH (try the offset's colour first).

        Returns:
            The page, or None.

        Source: sys/uvm/uvm_page.c, uvm_pagealloc_strat.
        """
        if off & (F.PAGE_SIZE - 1):
            raise self.panic(f"uvm_pagealloc: KASSERT: offset {off:#x} is not page aligned")
        if obj is not None and not obj.lock.owned():
            raise self.panic(f"uvm_pagealloc: KASSERT: the lock of {obj.name} is not held")
        await self.uvm_fpageqlock.lock()
        if self.needs_kick():
            await self.wake_pagedaemon()
        page = self.take(obj, off, flags)
        await self.release_fpageq()
        if page is not None and flags & F.UVM_PGA_ZERO:
            page.clean = False
            if page.content != F.ZEROS:
                page.zero()
        return page

    def take(self, obj: PageOwner | None, off: int, flags: int) -> Page | None:
        """A page off the free list and into its object, or None. Locks: uvm_fpageqlock and the object's."""
        kind = self.kind_of(flags)
        free = self.free.peek()
        page = None
        if self.allows(kind, free) and not self.struck():
            color = off >> F.PAGE_SHIFT if flags & F.UVM_FLAG_COLORMATCH else self.nextcolor
            page = self.pop_free(color & self.colormask, zeros=bool(flags & F.UVM_PGA_ZERO))
        if page is None:
            self.failed += 1
            return None
        self.note_taken(kind, free)
        self.free.poke(free - 1)
        self.loose += 1
        self.dress(page)
        if obj is not None:
            self.adopt(page, obj, off >> F.PAGE_SHIFT)
        return page

    def dress(self, page: Page) -> None:
        """What a page is when it is fresh: busy, clean, and nobody's."""
        page.set_busy(self.k.cur)
        page.clean = True
        page.zeroed = False
        page.md_modified = page.md_referenced = False

    def needs_kick(self) -> bool:
        """uvm_kick_pdaemon: do pages run low? Locks: uvm_fpageqlock."""
        soon = self.free.peek() + self.paging
        return soon < self.freemin or (soon < self.freetarg and self.needsscan())

    def needsscan(self) -> bool:
        """uvmpdpol_needsscan_p: are there fewer inactive pages than there should be?"""
        self.counts_field.read()
        return len(self.inactive) < self.inactarg

    async def wake_pagedaemon(self) -> None:
        """wakeup(&uvm.pagedaemon). Locks: uvm_fpageqlock. Sleeps: no."""
        await self.pagedaemon.wakeup()

    # ------------------------------------------------------------ uvm_pagefree

    async def uvm_pagefree(self, page: Page) -> None:
        """Free a page: take it from its object and its paging queue, unwire it, put it on the free list.

        Wakes nobody, not even those who wait for this page: the caller does, before. Panics if it is free already, is
        being paged out, is mapped, or is busy by another thread, and if a lock is missing.

        Locks: the owner's, and uvm_pageqlock if it is on a paging queue, on entry and exit; takes uvm_fpageqlock.
        Sleeps: no, it spins.

        Source: sys/uvm/uvm_page.c, uvm_pagefree. That nothing maps the page is what the source assumes and does not
        check; that it is not another thread's is what UVM_PAGE_TRKOWN is there to find.
        """
        page.used(write=True)
        self.check_freeable(page)
        if page.owner is not None:
            self.disown(page)
        self.dequeue(page)
        if page.wire_count:
            self.books_field.write()
            page.wire_count = 0
            self.wired -= 1
        page.set_unbusy()
        page.released = False
        await self.uvm_fpageqlock.lock()
        self.freed += 1
        self.loose -= 1
        self.push_free(page)
        self.free.poke(self.free.peek() + 1)
        await self.release_fpageq()

    def check_freeable(self, page: Page) -> None:
        """What uvm_pagefree asserts."""
        if page.queue is FREE:
            raise self.panic(f"uvm_pagefree: freeing free page {page!r}")
        if page.pageout:
            raise self.panic(f"uvm_pagefree: KASSERT: {page!r} is being paged out")
        if page.busy and page.busy_thread not in (self.k.cur, -1):
            raise self.panic(f"uvm_pagefree: {page!r} is busy by {self.k.threads[page.busy_thread].name}")
        if self.left_mapped(page):
            raise self.panic(f"uvm_pagefree: {page!r} is mapped")
        if page.owner is not None and not page.owner.lock.owned():
            raise self.panic(f"uvm_pagefree: KASSERT: the lock of {page.owner.name} is not held")
        if page.queue is not NONE and not self.uvm_pageqlock.owned():
            raise self.panic("uvm_pagefree: KASSERT: uvm_pageqlock is not held, and the page is on a paging queue")

    # ------------------------------------------------------------ busy pages

    def uvm_pagelookup(self, obj: PageOwner, off: int) -> Page | None:
        """The page at an offset in bytes, or None. Locks: the object's. Sleeps: no. Source: uvm_page.c."""
        if not obj.lock.owned():
            raise self.panic(f"uvm_pagelookup: KASSERT: the lock of {obj.name} is not held")
        return obj.pages.lookup(off >> F.PAGE_SHIFT)

    async def uvm_pagewait(self, page: Page, wmesg: str) -> None:
        """Wait for a busy page; look it up anew afterwards, for it may be gone.

        Locks: the owner's on entry, none on exit. Sleeps: until somebody makes it unbusy. Woken by: uvm_page_unbusy,
        and whoever frees a wanted page.

        Args:
            page: a busy page with an owner.
            wmesg: a word on what is awaited.

        Source: the marks and UVM_UNLOCK_AND_WAIT as in uvm_km_pgremove, uao_get and many others.
        """
        owner = page.owner
        if owner is None or not page.busy:
            raise self.panic(f"uvm_pagewait: KASSERT: {page!r} is nobody's, or not busy")
        self.mark_wanted(page)
        await self.sleep_on(page, owner, wmesg)

    def mark_wanted(self, page: Page) -> None:
        """PG_WANTED. Locks: the owner's."""
        page.used(write=True)
        if page.owner is not None:
            page.owner.pages.changed()
        page.wanted = True

    async def sleep_on(self, page: Page, owner: PageOwner, wmesg: str) -> None:
        """UVM_UNLOCK_AND_WAIT on the page. Locks: the owner's on entry, none on exit."""
        assert page.channel is not None, f"{page!r} has no channel to wait on"
        pindex = page.pindex
        await page.channel.sleep(
            owner.lock,
            wmesg,
            pdrop=True,
            until=lambda: not page.busy or page.owner is not owner or page.pindex != pindex,
            holder=lambda: page.busy_thread,
        )

    async def uvm_page_unbusy(self, pages: Iterable[Page]) -> None:
        """Make busy pages unbusy, and wake those who want them; a released page is freed instead.

        Locks: the owner's on entry and exit; uvm_pageqlock too, if a released page is on a paging queue. Sleeps: no.

        Source: sys/uvm/uvm_page.c, uvm_page_unbusy.
        """
        for page in pages:
            if page.owner is not None and not page.owner.lock.owned():
                raise self.panic(f"uvm_page_unbusy: KASSERT: the lock of {page.owner.name} is not held")
            if page.owner is not None:
                page.owner.pages.changed()
            page.used(write=False)
            if not page.busy or page.pageout:
                raise self.panic(f"uvm_page_unbusy: KASSERT: {page!r} is not busy, or being paged out")
            if page.wanted:
                await self.wake_wanting(page)
            if page.released:
                await self.uvm_pagefree(page)
            else:
                page.set_unbusy()

    async def wake_wanting(self, page: Page) -> None:
        """wakeup(pg). Locks: the owner's. Sleeps: no."""
        assert page.channel is not None, f"{page!r} has no channel to wait on"
        await page.channel.wakeup()

    # ------------------------------------------------------------ the paging queues, and wiring

    def uvm_pageactivate(self, page: Page) -> None:
        """To the young end of the active queue, unless wired. Locks: uvm_pageqlock. Sleeps: no. Source: uvm_page.c."""
        self._queue(page, ACTIVE)

    def uvm_pagedeactivate(self, page: Page) -> None:
        """To the young end of the inactive queue, unless wired; the reference is forgotten.

        Locks: uvm_pageqlock. Sleeps: no. Source: sys/uvm/uvm_pdpolicy_clock.c, uvmpdpol_pagedeactivate.
        """
        self._queue(page, INACTIVE)
        page.md_referenced = False

    def uvm_pagedequeue(self, page: Page) -> None:
        """Off its paging queue. Locks: uvm_pageqlock. Sleeps: no. Source: uvm_page.c."""
        self._pageq_held("uvm_pagedequeue")
        self.dequeue(page)

    def uvm_pagewire(self, page: Page) -> None:
        """Wire it once more; a wired page is on no paging queue. Locks: uvm_pageqlock. Sleeps: no. Source: uvm_page.c."""
        self._pageq_held("uvm_pagewire")
        self.books_field.write()
        if not page.wire_count:
            self.dequeue(page)
            self.wired += 1
        page.wire_count += 1

    def uvm_pageunwire(self, page: Page) -> None:
        """Wire it once less; then it is active. Locks: uvm_pageqlock. Sleeps: no. Source: uvm_page.c."""
        self._pageq_held("uvm_pageunwire")
        if not page.wire_count:
            raise self.panic(f"uvm_pageunwire: {page!r} is not wired")
        self.books_field.write()
        page.wire_count -= 1
        if not page.wire_count:
            self.wired -= 1
            self.enqueue(page, ACTIVE)

    def _queue(self, page: Page, queue: PageQueue) -> None:
        self._pageq_held(f"uvm_page, {queue.value}")
        if not page.wire_count:
            self.enqueue(page, queue)

    def _pageq_held(self, who: str) -> None:
        if not self.uvm_pageqlock.owned():
            raise self.panic(f"{who}: KASSERT: uvm_pageqlock is not held")

"""NetBSD's pageouts: what the daemon writes to swap, the thread that finishes it, and the pages of kernel objects.

A page that is being written is busy, marked PG_PAGEOUT, and on no queue. When the I/O is done the page is released, that
is freed, and only then is it counted out of uvmexp.paging; whoever that leaves room for is woken: those who wait for
pages if more than the kernel's reserve is free, else the daemon, which sleeps as long as pages are on their way.

Source: sys/uvm/uvm_pdaemon.c (uvm_pageout_start, uvm_pageout_done, swapcluster_*), uvm_pager.c (uvm_aio_aiodone_pages),
uvm_aobj.c (uao_get, uao_detach, uao_dropswap), uvm_km.c (uvm_km_pgremove) of NetBSD 6.99.16. Slots are allocated one by
one, not by the cluster; I/O never fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.pages import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pages.uvm_page import UvmPage

if TYPE_CHECKING:
    from stressvm.kernel.thread import Thread
    from stressvm.vm.pages.object import PageObject
    from stressvm.vm.pages.page import Page, PageOwner


class UvmPager(UvmPage):
    """The allocator with pageouts, without the daemon. Use `UvmPages`."""

    # ------------------------------------------------------------ a pageout, from its start to its end

    def start_aiodone(self) -> Thread:
        """While the world is built: the thread that finishes pageouts, "aiodoned"."""
        thread = self.k.spawn(self.uvm_aiodone_worker, name="aiodoned", priority=F.PRI_KTHREAD, daemon=True)
        self.aiodone_thread = thread.number
        return thread

    async def uvm_pageout_start(self, npages: int) -> None:
        """So many pages are on their way. Locks: none of uvm_fpageqlock on entry and exit. Sleeps: no, it spins."""
        await self.uvm_fpageqlock.lock()
        self.paging += npages
        await self.release_fpageq()

    async def uvm_pageout_done(self, npages: int) -> None:
        """So many pages have arrived: wake the daemon, or those who wait for pages.

        Locks: none of uvm_fpageqlock on entry and exit. Sleeps: no, it spins. Wakes: all who wait for pages if more
        than the kernel's reserve is free, else the daemon.
        """
        await self.uvm_fpageqlock.lock()
        if self.paging < npages:
            raise self.panic(f"uvm_pageout_done: KASSERT: {npages} pages are done, and {self.paging} were on their way")
        self.paging -= npages
        if self.free.peek() <= self.reserve_kernel:
            await self.wake_pagedaemon()
        else:
            await self.wake_waiters()
        await self.release_fpageq()

    async def wake_waiters(self) -> None:
        """wakeup(&uvmexp.free), and nobody is waited for any more. Locks: uvm_fpageqlock. Sleeps: no."""
        await self.wake_free_channel()
        self.waiters = 0

    async def wake_free_channel(self) -> None:
        """Wake all: each may want but one of several pages, and none knows how many there are."""
        await self.free_channel.wakeup()

    async def swapcluster_flush(self, cluster: list[tuple[Page, int]]) -> None:
        """Start writing these pages to their slots, and empty the list. Locks: none. Sleeps: for the work queue."""
        if not cluster:
            return
        await self.uvm_pageout_start(len(cluster))
        await self.aiodone_lock.lock()
        self.aiodone_work.append(cluster[:])
        await self.aiodone_queue.wakeup()
        await self.aiodone_lock.unlock()
        cluster.clear()

    async def uvm_aiodone_worker(self) -> None:
        """The thread that finishes pageouts, one cluster after the other, for ever. Sleeps: while there is nothing."""
        while True:
            await self.aiodone_lock.lock()
            while not self.aiodone_work:
                await self.aiodone_queue.sleep(self.aiodone_lock, "aiodone", until=lambda: bool(self.aiodone_work))
            cluster = self.aiodone_work.pop(0)
            await self.aiodone_lock.unlock()
            if self.pagermapout is not None:
                await self.pagermapout()
            await self.uvm_aio_aiodone_pages(cluster)
            self.k.progress()

    async def uvm_aio_aiodone_pages(self, cluster: list[tuple[Page, int]]) -> None:
        """The pages have been written: free them, then count them out.

        Locks: none; takes each owner's, uvm_pageqlock, uvm_swap_data_lock. Sleeps: for those.
        """
        swap = None
        for page, slot in cluster:
            owner = page.owner
            assert owner is not None, f"{page!r} lost its owner while it was written"
            assert owner.pager is not None, f"{owner.name} has no pager"
            await owner.lock.lock()
            await self.uvm_pageqlock.lock()
            swap = owner.pager.swap
            swap.contents[slot] = page.content
            page.pageout = False
            page.released = True
            self.reclaimed += 1
            await self.uvm_page_unbusy((page,))
            await self.uvm_pageqlock.unlock()
            await owner.lock.unlock()
        await self.uvm_pageout_done(len(cluster))
        assert swap is not None, "a cluster has at least one page"
        await swap.add_only(len(cluster))

    # ------------------------------------------------------------ kernel objects

    async def uao_dropswap(self, obj: PageOwner, pindex: int) -> int:
        """Free the slot of a page, if it has one; the slot, or 0. Locks: the object's. Sleeps: for swap's."""
        pager = obj.pager
        slot = pager.assign(pindex, 0) if pager is not None else 0
        if slot:
            assert pager is not None
            await pager.swap.free(slot)
        return slot

    async def uao_get(self, obj: PageOwner, off: int) -> Page:
        """Get a page of an object, busy: the resident one, or a new one with what is in swap, or with zeros.

        Locks: the object's on entry and exit, given up while asleep. Sleeps: for a busy page, for free pages, for swap.

        Args:
            obj: the object.
            off: bytes, page aligned.

        Source: sys/uvm/uvm_aobj.c, uao_get with PGO_SYNCIO.
        """
        while True:
            page = self.uvm_pagelookup(obj, off)
            if page is None:
                page = await self.uvm_pagealloc(obj, off)
                if page is not None:
                    await self.uao_fill(obj, page)
                    return page
                await obj.lock.unlock()
                await self.uvm_wait("uao_getpage")
            elif page.busy:
                await self.uvm_pagewait(page, "uao_get")
            else:
                page.set_busy(self.k.cur)
                return page
            await obj.lock.lock()

    async def uao_fill(self, obj: PageOwner, page: Page) -> None:
        """Read a fresh page from its slot; without one, fill it with zeros. Locks: the object's on entry and exit."""
        slot = obj.pager.find(page.pindex) if obj.pager is not None else 0
        if slot:
            assert obj.pager is not None
            await obj.lock.unlock()
            content = obj.pager.swap.contents[slot]
            assert content is not None, f"slot {slot} was never written"
            page.content = content
            await obj.pager.swap.add_only(-1)
            await obj.lock.lock()
        else:
            page.zero()

    async def uvm_km_pgremove(self, obj: PageOwner, start: int, end: int) -> None:
        """Free the pages of [start, end) of a kernel object, and their slots; for a busy one, wait and look again.

        Locks: none on entry and exit; takes the object's and uvm_pageqlock. Sleeps: for those and for busy pages.

        Args:
            obj: the object.
            start: bytes, page aligned.
            end: one past the last, bytes, page aligned.

        Source: sys/uvm/uvm_km.c, uvm_km_pgremove.
        """
        await obj.lock.lock()
        off = start
        while off < end:
            page = obj.pages.lookup(off >> F.PAGE_SHIFT)
            if page is not None and page.busy:
                await self.uvm_pagewait(page, "km_pgrm")
                await obj.lock.lock()
                off = self.after_wait(off)
                continue
            await self.remove_page(obj, off >> F.PAGE_SHIFT, page)
            off += F.PAGE_SIZE
        await obj.lock.unlock()

    def after_wait(self, off: int) -> int:
        """Where uvm_km_pgremove goes on after it has waited for a busy page: at the same offset."""
        return off

    async def remove_page(self, obj: PageOwner, pindex: int, page: Page | None) -> None:
        """Free a slot, and the page if it is resident; that is in swap only if it is not. Locks: the object's."""
        slot = await self.uao_dropswap(obj, pindex)
        if page is not None:
            await self.uvm_pageqlock.lock()
            await self.uvm_pagefree(page)
            await self.uvm_pageqlock.unlock()
        elif slot:
            assert obj.pager is not None
            await obj.pager.swap.add_only(-1)

    async def uao_detach(self, obj: PageObject) -> None:
        """Drop a reference; with the last one all pages and slots are freed, after waiting for busy pages.

        Locks: none on entry and exit; takes the object's and uvm_pageqlock. Sleeps: for those and for busy pages.

        Source: sys/uvm/uvm_aobj.c, uao_detach.
        """
        await obj.lock.lock()
        assert obj.ref_count > 0, f"uao_detach: {obj!r} is gone already"
        obj.ref_count -= 1
        while not obj.ref_count and (page := obj.pages.find_least(0)) is not None:
            if page.busy:
                await self.uvm_pagewait(page, "uao_det")
                await obj.lock.lock()
            else:
                await self.page_protect(page)
                await self.remove_page(obj, page.pindex, page)
        if not obj.ref_count and obj.pager is not None:
            for pindex in sorted(obj.pager.slots):
                await self.remove_page(obj, pindex, None)
        await obj.lock.unlock()

    # ------------------------------------------------------------ what the daemon has

    async def uvm_wait(self, wmesg: str) -> None:
        """See `UvmPages`."""
        raise NotImplementedError

    async def page_protect(self, page: Page) -> None:
        """See `UvmPages`."""
        raise NotImplementedError

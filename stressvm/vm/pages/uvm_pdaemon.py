"""NetBSD's page daemon, and how threads wait for it.

The protocol of waiting, all of it under uvm_fpageqlock. Whoever finds no page counts itself (waiters++), wakes the
daemon, and gives up the lock in the step in which it falls asleep; it does not look at the free count again. The daemon
does not sleep while anybody is counted and no page is on its way, so it runs at least once more; at the end of each
round, if more than the kernel's reserve is free or nothing is on its way, it wakes all and counts nobody. So they may be
woken in vain: then they fail again and count themselves anew. Where nothing can be reclaimed ever, that goes on for
ever, here as there: a search calls it a livelock.

A round looks at the inactive pages, oldest first. It takes their owner's lock with a try, as it comes from the wrong
side; skips busy pages; gives used ones back to the active queue; removes all mappings; frees clean pages; writes dirty
ones to swap, or gives them back if there is none. Then it refills the inactive queue from the active one. What caches
hold comes last, after the waiters have been woken.

Source: sys/uvm/uvm_pdaemon.c 1.108, sys/uvm/uvm_pdpolicy_clock.c (NetBSD 6.99). No files, no loans, no kernel modules;
pool_drain is taken together with buf_drain. That a page was used is looked at with its owner locked, once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.vm.pages import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pages.uvm_pager import UvmPager

if TYPE_CHECKING:
    from stressvm.kernel.thread import Thread
    from stressvm.vm.pages.page import Page, PageOwner

#: Dirty pages given back in a scan before it ends, and owners found locked before it pauses for a tick.
UVMPD_NUMDIRTYREACTS: Final = 16
UVMPD_NUMTRYLOCKOWNER: Final = 16

#: 33 percent, as the clock policy scales it.
_INACTIVEPCT: Final = 33 * 256 // 100

#: Pages that are 5 MB: with so many of files, uvm_reclaimable does not ask further.
_FIVE_MB: Final = 5 * 1024 * 1024 >> F.PAGE_SHIFT


class UvmPages(UvmPager):
    """NetBSD's physical memory: allocator, pageouts, daemon. For its arguments see `Uvm`.

    While the world is built, call `start_daemons`; without it uvm_wait sleeps for ever.
    """

    def start_daemons(self) -> Thread:
        """While the world is built: the threads "pgdaemon" and "aiodoned"; the former is returned."""
        thread = self.k.spawn(self.uvm_pageout, name="pgdaemon", priority=F.PRI_PGDAEMON, daemon=True)
        self.daemon_thread = thread.number
        self.start_aiodone()
        return thread

    # ------------------------------------------------------------ waiting for pages

    async def uvm_wait(self, wmesg: str) -> None:
        """Wait for the daemon to free some pages; try again afterwards, for it may have been in vain.

        Locks: none should be held, on entry and exit; takes uvm_fpageqlock. Sleeps: until the daemon, or the end of a
        pageout, wakes all who wait. The daemon itself sleeps for an eighth of a second, if it comes here at all.

        Args:
            wmesg: a word on who waits.

        Source: sys/uvm/uvm_pdaemon.c, uvm_wait.
        """
        await self.uvm_fpageqlock.lock()
        timo = 0
        if self.k.cur == self.daemon_thread and not self.paging:
            timo = self.k.hz >> 3
        self.count_waiter()
        await self.wake_pagedaemon()
        await self.sleep_for_pages(wmesg, timo)

    def count_waiter(self) -> None:
        """waiters++, so that the daemon goes round once more. Locks: uvm_fpageqlock."""
        self.waiters += 1

    async def sleep_for_pages(self, wmesg: str, timo: int) -> None:
        """UVM_UNLOCK_AND_WAIT(&uvmexp.free). Locks: uvm_fpageqlock on entry, none on exit."""
        kind = self.kind_of(0)
        await self.free_channel.sleep(
            self.uvm_fpageqlock,
            wmesg,
            timo=timo,
            pdrop=True,
            until=lambda: self.allows(kind, self.free.peek()),
            holder=lambda: self.aiodone_thread if self.paging else self.daemon_thread,
        )

    async def uvm_reclaimable(self) -> bool:
        """Is it worth while to wait for the daemon? Not if swap is full and there are few pages of files.

        Locks: takes uvm_swap_data_lock. Sleeps: for that.

        Source: sys/uvm/uvm_pdaemon.c, uvm_reclaimable.
        """
        if not await self.swap_is_full():
            return True
        self.counts_field.read()
        pageable = len(self.active) + len(self.inactive)
        return self.filepages - self.wired >= min(pageable >> 4, _FIVE_MB)

    async def swap_is_full(self) -> bool:
        """uvm_swapisfull, over all the swap that any object has; none at all is full."""
        seen = []
        for owner in self.owners:
            if owner.pager is not None and owner.pager.swap not in seen:
                seen.append(owner.pager.swap)
                if not await owner.pager.swap.is_full():
                    return False
        return True

    # ------------------------------------------------------------ the daemon

    async def uvm_pageout(self) -> None:
        """The page daemon: sleep if there is nothing to do, a round, and so on for ever. Source: uvm_pageout."""
        while True:
            await self.wait_for_work()
            await self.round()

    async def wait_for_work(self) -> None:
        """Sleep on &uvm.pagedaemon, unless somebody waits and nothing is on its way. Locks: none; uvm_fpageqlock."""
        await self.uvm_fpageqlock.lock()
        if self.may_sleep():
            await self.pagedaemon.sleep(self.uvm_fpageqlock, "pgdaemon", pdrop=True, until=lambda: not self.may_sleep())
            self.daemon_woken += 1
        else:
            await self.release_fpageq()

    def may_sleep(self) -> bool:
        """Nobody waits, or pages are on their way, whose arrival will wake the daemon. Locks: uvm_fpageqlock."""
        return not self.waiters or self.paging > 0

    async def round(self) -> None:
        """One round: scan, wake those who wait, drain the caches. Locks: none on entry and exit. Sleeps: for locks."""
        await self.uvm_pageqlock.lock()
        self.uvmpdpol_tune()
        await self.uvm_fpageqlock.lock()
        bufcnt = max(self.freetarg - self.free.peek(), 0)
        needsfree = self.free.peek() + self.paging < self.freetarg
        if needsfree or self.needsscan():
            await self.release_fpageq()
            await self.uvmpd_scan()
            await self.uvm_fpageqlock.lock()
        if self.may_wake():
            await self.wake_waiters()
        await self.release_fpageq()
        await self.uvm_pageqlock.unlock()
        if needsfree:
            await self.buf_drain(bufcnt)

    def may_wake(self) -> bool:
        """There are pages for all, or there will be none without trying again. Locks: uvm_fpageqlock."""
        return self.free.peek() > self.reserve_kernel or not self.paging

    def uvmpdpol_tune(self) -> None:
        """A third of the pageable pages should be inactive, and more than the target of free ones. Locks: pageqlock."""
        self.counts_field.write()
        pageable = len(self.active) + len(self.inactive)
        self.inactarg = max(pageable * _INACTIVEPCT >> 8, self.freetarg + 1)

    async def buf_drain(self, pages: int) -> int:
        """Free so many pages of the caches, or what there is of them; how many. Locks: none; takes bufcache_lock."""
        most = pages if self.cache_yield is None else min(pages, self.cache_yield)
        drained = 0
        await self.bufcache_lock.lock()
        while drained < most and self.cache:
            self.books_field.write()
            page = self.cache.pop()
            self.held -= 1
            self.loose += 1
            await self.uvm_pagefree(page)
            drained += 1
        await self.bufcache_lock.unlock()
        self.reclaimed += drained
        return drained

    # ------------------------------------------------------------ the scan

    async def uvmpd_scan(self) -> None:
        """Free or write out inactive pages, then refill the inactive queue.

        Locks: uvm_pageqlock on entry and exit, given up now and then. Sleeps: for locks. Source: uvmpd_scan.
        """
        await self.uvmpd_scan_queue()
        await self.uvmpdpol_balancequeue()

    async def uvmpd_scan_queue(self) -> None:
        """Every inactive page once, or until there are four times as many free ones as wanted. Locks: as uvmpd_scan."""
        dirtyreacts = 0
        lockownerfail = 0
        cluster: list[tuple[Page, int]] = []
        self.queues_field.read()
        for page in list(self.inactive.values()):
            self.queues_field.read()
            if self.inactive.get(page.number) is not page:
                continue
            if await self.met(len(cluster)) or dirtyreacts == UVMPD_NUMDIRTYREACTS:
                break
            owner = page.owner
            assert owner is not None, f"{page!r} is on a paging queue and nobody's"
            if not await owner.lock.trylock():
                lockownerfail += 1
                if lockownerfail > UVMPD_NUMTRYLOCKOWNER:
                    await self.uvm_pageqlock.unlock()
                    await self.k.delay(1)
                    await self.uvm_pageqlock.lock()
                    lockownerfail = 0
            elif self.in_use(page):
                await owner.lock.unlock()
            elif page.md_referenced:
                page.md_referenced = False
                self.uvm_pageactivate(page)
                await owner.lock.unlock()
            else:
                dirtyreacts += await self.reclaim(page, owner, cluster)
        await self.uvm_pageqlock.unlock()
        await self.swapcluster_flush(cluster)
        await self.uvm_pageqlock.lock()

    async def met(self, nused: int) -> bool:
        """Are four times as many pages free, or soon free, as wanted? The count is read without its lock."""
        return await self.free.load() + self.paging + nused >= self.freetarg << 2

    def in_use(self, page: Page) -> bool:
        """Is it busy, and so somebody's alone? Locks: the owner's and uvm_pageqlock."""
        return page.busy

    async def reclaim(self, page: Page, owner: PageOwner, cluster: list[tuple[Page, int]]) -> bool:
        """Free an inactive page, or write it out; True if it was dirty and there is no swap, and so is active again.

        Locks: the owner's and uvm_pageqlock on entry, the latter on exit. Sleeps: for locks.
        """
        await self.page_protect(page)
        if page.clean and page.md_modified:
            page.clean = False
        page.md_modified = False
        if page.clean:
            await self.free_clean(page, owner)
            return False
        if await self.free.load() + self.paging > self.freetarg << 2:
            await owner.lock.unlock()
            return False
        await self.uao_dropswap(owner, page.pindex)
        slot = await owner.pager.swap.alloc() if owner.pager is not None else 0
        if not slot:
            self.uvm_pageactivate(page)
            await owner.lock.unlock()
            return True
        assert owner.pager is not None
        page.set_busy(self.aiodone_thread)
        page.pageout = True
        self.uvm_pagedequeue(page)
        await self.uvm_pageqlock.unlock()
        owner.pager.assign(page.pindex, slot)
        cluster.append((page, slot))
        await owner.lock.unlock()
        if len(cluster) >= self.cluster:
            await self.swapcluster_flush(cluster)
        await self.uvm_pageqlock.lock()
        return False

    async def free_clean(self, page: Page, owner: PageOwner) -> None:
        """Free a clean page; what is in its slot is now nowhere else. Locks: as `reclaim`."""
        pindex = page.pindex
        await self.uvm_pagefree(page)
        self.reclaimed += 1
        slot = owner.pager.find(pindex) if owner.pager is not None else 0
        await owner.lock.unlock()
        if slot:
            assert owner.pager is not None
            await owner.pager.swap.add_only(1)

    async def page_protect(self, page: Page) -> None:
        """pmap_page_protect(page, VM_PROT_NONE): remove all mappings. Locks: the owner's. Sleeps: as the pmap does."""
        if self.remove_mappings is not None:
            await self.remove_mappings(page)
        if self.mapped(page):
            raise self.panic(f"pmap_page_protect: {page!r} is still mapped")

    async def uvmpdpol_balancequeue(self) -> None:
        """Make the oldest active pages inactive until there are enough of those. Locks: uvm_pageqlock.

        Source: sys/uvm/uvm_pdpolicy_clock.c, uvmpdpol_balancequeue.
        """
        self.queues_field.read()
        for page in list(self.active.values()):
            self.queues_field.read()
            if len(self.inactive) >= self.inactarg:
                break
            owner = page.owner
            assert owner is not None, f"{page!r} is on a paging queue and nobody's"
            if await owner.lock.trylock():
                if self.active.get(page.number) is page:
                    self.uvm_pagedeactivate(page)
                await owner.lock.unlock()

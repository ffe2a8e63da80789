"""FreeBSD's page daemon: its scan, which the two versions share here, and its loops, which they do not.

A scan looks at the inactive pages, oldest first, until enough are free. It skips pages whose object is locked, busy and
wired ones, gives used ones back to the active queue, removes all mappings, frees clean pages and writes dirty ones to
swap, which makes them clean for the next scan. Freeing a page is what wakes those who wait.

2013 sleeps while vm_pages_needed is down, or for half a second once two scans in a row have not helped. 13 sleeps while
the free count is not low; called meanwhile, it runs at once. Both run now and then without being called.

Source: sys/vm/vm_pageout.c of 10.4 and 13.0. The laundry thread's work is done by the daemon itself, and waited for; the
shortage that 13's controller computes is taken to be what lacks to v_free_target; activity counts are one bit; nobody is
killed when nothing helps.

10.4 has a race here that it lives with. pagedaemon_wakeup raises vm_pages_needed without the mutex. If that falls between
the daemon's look at the flag and its sleep, its wakeup is lost; who then waits finds the flag up, and so does not wake the
daemon either. The daemon's own timeout, a second later, ends it: a search calls that a rescued sleep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.kernel.thread import Wake
from stressvm.vm.pages.page import PageQueue
from stressvm.vm.pages.vm_page import VmPage
from stressvm.vm.pages.vm_page_13 import VmPage13
from stressvm.vm.pages.vm_page_2013 import VmPage2013

if TYPE_CHECKING:
    from stressvm.kernel.thread import Thread
    from stressvm.vm.pages.page import Page, PageOwner

#: 13's daemon looks so many times a second.
VM_INACT_SCAN_RATE: Final = 10


class VmPageout(VmPage):
    """The daemon. Use `VmPages2013` or `VmPages13`; planted defects override one of the small methods."""

    def start_daemon(self) -> Thread:
        """While the world is built: the thread "pagedaemon"."""
        thread = self.k.spawn(self.vm_pageout_worker, name="pagedaemon", daemon=True)
        self.daemon_thread = thread.number
        return thread

    async def vm_pageout_worker(self) -> None:
        """The daemon's loop. Sleeps: while there is nothing to do. Source: sys/vm/vm_pageout.c, vm_pageout_worker."""
        while True:
            await self.wait_for_work()
            await self.vm_pageout_scan()

    async def wait_for_work(self) -> None:
        """Sleep if there is nothing to do. Locks: none on entry and exit."""
        raise NotImplementedError

    async def shortage_now(self) -> int:
        """How many pages a scan should free. The free count is read without its lock."""
        raise NotImplementedError

    async def vm_pageout_scan(self) -> bool:
        """Free so many inactive pages as are short, then refill the inactive queue. Were there enough?

        Locks: none on entry and exit. Sleeps: for locks, and while pages are written to swap.
        """
        shortage = await self.shortage_now()
        if shortage > 0:
            shortage -= await self.drain_caches(shortage)
            for page in await self.candidates():
                if shortage <= 0:
                    break
                shortage -= await self.vm_pageout_page(page)
        await self.vm_pageout_scan_active(shortage)
        return shortage <= 0

    async def candidates(self) -> list[Page]:
        """The inactive pages, oldest first. Locks: takes the paging queues'. Sleeps: for it."""
        await self.pagequeue.lock()
        self.queues_field.read()
        found = list(self.inactive.values())
        await self.pagequeue.unlock()
        return found

    async def lock_owner(self, page: Page) -> PageOwner | None:
        """If a page is still inactive, and its object not locked, lock that. Locks: takes the paging queues'."""
        await self.pagequeue.lock()
        self.queues_field.read()
        owner = page.owner
        if owner is not None and (self.inactive.get(page.number) is not page or not await owner.lock.trylock()):
            owner = None
        await self.pagequeue.unlock()
        return owner

    async def vm_pageout_page(self, page: Page) -> bool:
        """Look at one inactive page; True if it was freed. Locks: none; tries the object's. Sleeps: as the scan."""
        owner = await self.lock_owner(page)
        if owner is None:
            return False
        freed = False
        if not page.wire_count and not await self.vm_page_busied(page):
            freed = await self.reclaim(page, owner)
        await owner.lock.unlock()
        return freed

    async def reclaim(self, page: Page, owner: PageOwner) -> bool:
        """Free a page that nobody has used, if it is clean; else write it out. True if it was freed.

        Locks: the object's on entry and exit, given up while the page is written.
        """
        if page.md_referenced:
            page.md_referenced = False
            await self.vm_page_activate(page)
            return False
        await self.pmap_remove_all(page)
        if page.md_modified:
            page.clean = False
            page.md_modified = False
        if not page.clean:
            await self.vm_pageout_clean(page, owner)
            return False
        slot = owner.pager.find(page.pindex) if owner.pager is not None else 0
        await self.vm_page_free(page)
        self.reclaimed += 1
        if slot:
            assert owner.pager is not None
            await owner.pager.swap.add_only(1)
        return True

    async def vm_pageout_clean(self, page: Page, owner: PageOwner) -> None:
        """Write a dirty page to swap, busy and with the object unlocked; without swap it becomes active again."""
        pager = owner.pager
        slot = (pager.find(page.pindex) or await pager.swap.alloc()) if pager is not None else 0
        if not slot or not await self.vm_page_tryxbusy(page):
            await self.vm_page_activate(page)
            return
        assert pager is not None
        pager.assign(page.pindex, slot)
        await owner.lock.unlock()
        await self.k.yield_()
        await owner.lock.lock()
        pager.swap.contents[slot] = page.content
        page.clean = True
        await self.vm_page_deactivate(page)
        await self.vm_page_xunbusy(page)

    async def pmap_remove_all(self, page: Page) -> None:
        """Remove all mappings. Locks: the object's. Sleeps: as the pmap does."""
        if self.remove_mappings is not None:
            await self.remove_mappings(page)
        if self.mapped(page):
            raise self.panic(f"pmap_remove_all: {page!r} is still mapped")

    async def vm_pageout_scan_active(self, shortage: int) -> None:
        """Make active pages inactive that nobody has used, until as many are inactive as are still short.

        Locks: takes the paging queues'. Sleeps: for it.
        """
        await self.pagequeue.lock()
        self.queues_field.read()
        for page in list(self.active.values()):
            if shortage <= len(self.inactive):
                break
            if page.md_referenced:
                page.md_referenced = False
                self.enqueue(page, PageQueue.ACTIVE)
            else:
                self.enqueue(page, PageQueue.INACTIVE)
        await self.pagequeue.unlock()

    async def drain_caches(self, pages: int) -> int:
        """The event vm_lowmem and uma_reclaim: free so many pages of the caches, or what there is; how many."""
        most = pages if self.cache_yield is None else min(pages, self.cache_yield)
        drained = 0
        while drained < most and self.cache:
            self.books_field.write()
            page = self.cache.pop()
            self.held -= 1
            self.loose += 1
            await self.vm_page_free(page)
            drained += 1
        self.reclaimed += drained
        return drained


class VmPages2013(VmPageout, VmPage2013):
    """FreeBSD 10.4's physical memory: allocator, busy pages, daemon. For its arguments see `VmMeter`.

    While the world is built, call `start_daemon`; without it only other threads free pages.
    """

    async def wait_for_work(self) -> None:
        """Wake those who wait if there are pages; then sleep, unless somebody still needs some.

        Source: sys/vm/vm_pageout.c of 10.4, vm_pageout_worker.
        """
        await self.free_mtx.lock()
        if self.vm_pages_needed.peek() and not self.vm_page_count_min():
            if not self.vm_paging_needed():
                self.vm_pages_needed.poke(False)
            await self.wake_waiters()
        if not self.vm_pages_needed.peek():
            woken = await self.needed_channel.sleep(
                self.free_mtx, "psleep", timo=self.k.hz, until=self.vm_pages_needed.peek
            )
            self.daemon_woken += woken is Wake.WOKEN
        elif self.vmd_pass > 1:
            await self.needed_channel.sleep(self.free_mtx, "psleep", timo=max(self.k.hz // 2, 1))
        self.vmd_pass = self.vmd_pass + 1 if self.vm_pages_needed.peek() else 0
        await self.release_free()

    async def shortage_now(self) -> int:
        """What lacks to the target, and what failed; nothing if nobody needs pages."""
        if not self.vmd_pass:
            return 0
        self.counts_field.write()
        deficit, self.vm_pageout_deficit = self.vm_pageout_deficit, 0
        return self.v_free_target - await self.free.load() + deficit


class VmPages13(VmPageout, VmPage13):
    """FreeBSD 13.0's physical memory: allocator, busy pages, daemon. For its arguments see `VmMeter`.

    While the world is built, call `start_daemon`; without it only other threads free pages.
    """

    #: Did the last scan free enough?
    target_met = True

    async def wait_for_work(self) -> None:
        """Sleep until called, or for a tenth of a second; not at all if pages are low.

        The counter of calls is cleared before the free count is looked at: a call after that finds it 0, and wakes.

        Source: sys/vm/vm_pageout.c of 13.0, vm_pageout_worker.
        """
        ticks = max(self.k.hz // VM_INACT_SCAN_RATE, 1)
        await self.pageout_lock.lock()
        await self.vmd_pageout_wanted.store(0)
        if await self.free.load() < self.wakeup_thresh:
            await self.pageout_lock.unlock()
            if not self.target_met:
                await self.k.delay(ticks)
        else:
            woken = await self.wanted_channel.sleep(
                self.pageout_lock, "psleep", timo=ticks, pdrop=True, until=lambda: self.free.peek() < self.wakeup_thresh
            )
            self.daemon_woken += woken is Wake.WOKEN
        await self.vmd_pageout_wanted.store(1)

    async def vm_pageout_scan(self) -> bool:
        """See `VmPageout`."""
        self.target_met = await super().vm_pageout_scan()
        return self.target_met

    async def shortage_now(self) -> int:
        """What lacks to the target, and what failed."""
        self.counts_field.write()
        deficit, self.vm_pageout_deficit = self.vm_pageout_deficit, 0
        return self.v_free_target - await self.free.load() + deficit

"""FreeBSD 13.0: an atomic count of free pages, a list with its own lock, and waiting for pages under a third lock.

A request first counts its page out, atomically, and then takes it off the list; a page that is freed goes on the list
first. The count crossing v_free_min is what matters: who takes it below says so in vm_min_domains (here: `vmd_minset`),
who takes it above unsays it and wakes all who wait, and each looks at the count again with vm_domainset_lock held, since
others may have crossed it meanwhile. Who waits does so only while it is said. The daemon is told through a counter,
vmd_pageout_wanted: the first to raise it from 0 wakes it.

Source: sys/vm/vm_page.c, vm_pagequeue.h, vm_pageout.c (pagedaemon_wakeup) of 13.0 and of a snapshot on the way to it. One
domain; no per-CPU cache.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, ClassVar

from stressvm.kernel.cell import Atomic
from stressvm.kernel.mutex import Mutex
from stressvm.kernel.sleepq import SleepQueue
from stressvm.vm.pages import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pages.page import PageQueue
from stressvm.vm.pages.vm_page import VmPage
from stressvm.vm.pages.vm_page_busy import VmBusy13

if TYPE_CHECKING:
    from stressvm.vm.pages.page import Page, PageOwner


class VmPage13(VmBusy13, VmPage):
    """Allocating, freeing and waiting as in FreeBSD 13.0. Use `VmPages13`; for its arguments see `VmMeter`.

    Attributes:
        vm_domainset_lock: protects the next three.
        vmd_minset: it is known that the system is short of pages.
        vm_min_waiters: who waits for that to end.
        vmd_pageout_pages_needed: the daemon waits for a page.
        vmd_pageout_wanted: how often the daemon was called since it last began to look.
        pageout_lock: the lock that the daemon sleeps with.
    """

    version: ClassVar[str] = "13"
    FREE_LOCK: ClassVar[str] = "vm page free queue"
    PAGE_LOCK: ClassVar[str] = "sleepq chain"

    def make_waiting(self) -> None:
        """See `VmMeter`."""
        k = self.k
        self.vm_domainset_lock = Mutex(k, "vm_domainset_lock")
        self.vmd_minset = self.vm_page_count_min()
        self.vm_min_waiters = 0
        self.vmd_pageout_pages_needed = False
        self.vmd_pageout_wanted = Atomic(k, 0, "vmd_pageout_wanted")
        self.pageout_lock = Mutex(k, "vm pageout lock")
        self.min_channel = SleepQueue(k, "vm_min_domains")
        self.wanted_channel = SleepQueue(k, "vmd_pageout_wanted.sleepers")
        self.pageout_channel = SleepQueue(k, "vmd_pageout_pages_needed")

    def fill(
        self,
        owner: PageOwner | None,
        pages: int,
        *,
        queue: PageQueue = PageQueue.NONE,
        clean: bool = False,
        content: str = "old",
    ) -> list[Page]:
        """See `PhysMem`. What is known of the free count afterwards agrees with it."""
        made = super().fill(owner, pages, queue=queue, clean=clean, content=content)
        self.vmd_minset = self.vm_page_count_min()
        return made

    async def vm_page_alloc(self, obj: PageOwner | None, pindex: int, req: int) -> Page | None:
        """See `VmPage`."""
        self.check_request(obj, req, pindex)
        kind = self.kind_of(req)
        if obj is not None and req & F.VM_ALLOC_WAITOK:
            raise self.panic("vm_page_alloc: Can't sleep and retry object insertion; VM_ALLOC_WAITFAIL and look again")
        while not await self.vm_domain_allocate(kind):
            if not await self.vm_domain_alloc_fail(obj, req):
                return None
        await self.free_mtx.lock()
        page = self.pop_free(self.nextcolor, zeros=bool(req & F.VM_ALLOC_ZERO))
        assert page is not None, "a page was counted out, and the free list is empty"
        self.claimed -= 1
        self.loose += 1
        await self.release_free()
        self.dress(page, obj, pindex, req)
        return page

    async def vm_domain_allocate(self, kind: str) -> bool:
        """Count a page out, if that leaves what the kind must leave; say so if pages run low. Locks: none. Sleeps: no.

        Source: sys/vm/vm_page.c, vm_domain_allocate.
        """
        struck = self.struck()
        old = -1 if struck else await self.free.reserve(self.limit(kind) + 1)
        if old < 0:
            self.failed += 1
            return False
        self.note_taken(kind, old)
        self.claimed += 1
        if old - 1 < self.wakeup_thresh <= old:
            await self.pagedaemon_wakeup()
        if old - 1 < self.v_free_min <= old:
            await self.vm_domain_set()
        return True

    async def vm_domain_alloc_fail(self, obj: PageOwner | None, req: int) -> bool:
        """There is no page: wait if the request says so; True if it is worth another try.

        Locks: the object's on entry and exit, given up while asleep. Source: sys/vm/vm_page.c, vm_domain_alloc_fail.
        """
        self.counts_field.write()
        self.vm_pageout_deficit += 1
        if not req & (F.VM_ALLOC_WAITOK | F.VM_ALLOC_WAITFAIL):
            return False
        if obj is not None:
            await obj.lock.unlock()
        await self.vm_wait()
        if obj is not None:
            await obj.lock.lock()
        return bool(req & F.VM_ALLOC_WAITOK)

    async def free_list_insert(self, page: Page) -> None:
        """On the list first, then counted in."""
        await self.free_mtx.lock()
        self.freed += 1
        self.loose -= 1
        self.push_free(page)
        self.claimed += 1
        await self.release_free()
        await self.vm_domain_freecnt_inc()

    async def vm_domain_freecnt_inc(self) -> None:
        """Count a page in, and say so if that ends a shortage. Locks: none. Sleeps: for vm_domainset_lock.

        Source: sys/vm/vm_pagequeue.h, vm_domain_freecnt_inc.
        """
        old = await self.free.fetchadd(1)
        self.claimed -= 1
        new = old + 1
        if old < self.v_free_min and (new >= self.v_free_min or old < self.v_pageout_free_min <= new):
            await self.vm_domain_clear()

    async def vm_domain_set(self) -> None:
        """The count went below v_free_min: if it still is, say so. Locks: takes vm_domainset_lock. Sleeps: for it."""
        await self.vm_domainset_lock.lock()
        if not self.vmd_minset and await self.vm_paging_min():
            self.vmd_minset = True
        await self.release_domainset()

    async def vm_paging_min(self) -> bool:
        """Is the system short of pages? The count is read without a lock that protects it."""
        return await self.free.load() < self.v_free_min

    async def vm_domain_clear(self) -> None:
        """The count went above a threshold: if it still is, unsay it, and wake whom that concerns.

        Locks: takes vm_domainset_lock. Sleeps: for it. Source: sys/vm/vm_page.c, vm_domain_clear.
        """
        await self.vm_domainset_lock.lock()
        if self.vmd_minset and not await self.vm_paging_min():
            self.vmd_minset = False
            if self.vm_min_waiters:
                self.vm_min_waiters = 0
                await self.wake_waiters()
        if self.vmd_pageout_pages_needed and await self.free.load() >= self.v_pageout_free_min:
            await self.pageout_channel.wakeup()
            self.vmd_pageout_pages_needed = False
        await self.release_domainset()

    async def wake_waiters(self) -> None:
        """wakeup(&vm_min_domains): all of them. Locks: vm_domainset_lock. Sleeps: no."""
        await self.min_channel.wakeup()

    async def release_domainset(self) -> None:
        """Release vm_domainset_lock, after checking the invariants."""
        if self.prove:
            self.check()
        await self.vm_domainset_lock.unlock()

    async def vm_wait(self, wmesg: str = "vmwait") -> None:
        """Sleep until the system is not short of pages; at once if it is not known to be. Try again afterwards.

        Locks: none on entry and exit; takes vm_domainset_lock. Sleeps: until somebody frees enough.

        Args:
            wmesg: a word on who waits: "pfault" for vm_waitpfault.

        Source: sys/vm/vm_page.c, vm_wait_domain and vm_wait_doms.
        """
        await self.vm_domainset_lock.lock()
        if self.k.cur == self.daemon_thread:
            if await self.free.load() >= self.v_pageout_free_min:
                await self.release_domainset()
                return
            self.vmd_pageout_pages_needed = True
            await self.pageout_channel.sleep(
                self.vm_domainset_lock, "VMWait", pdrop=True, until=lambda: self.free.peek() >= self.v_pageout_free_min
            )
        elif self.vmd_minset:
            self.count_waiter()
            await self.min_channel.sleep(
                self.vm_domainset_lock,
                wmesg,
                pdrop=True,
                until=lambda: not self.vm_page_count_min(),
                holder=lambda: self.daemon_thread,
            )
        else:
            await self.release_domainset()

    def count_waiter(self) -> None:
        """vm_min_waiters++. Locks: vm_domainset_lock."""
        self.vm_min_waiters += 1

    async def pagedaemon_wakeup(self) -> None:
        """Call the daemon; only the first call since it began to look wakes it. The daemon does not call itself.

        Locks: takes the daemon's. Sleeps: for it. Source: sys/vm/vm_pageout.c, pagedaemon_wakeup.
        """
        if self.k.cur == self.daemon_thread:
            return
        if not await self.vmd_pageout_wanted.fetchadd(1):
            await self.pageout_lock.lock()
            await self.vmd_pageout_wanted.store(1)
            await self.wanted_channel.wakeup()
            await self.pageout_lock.unlock()

    def waiting(self) -> list[int]:
        """Those asleep on &vm_min_domains."""
        self.k.touch(self.min_channel.ident.number, write=False)
        return self.min_channel.waiters

    def counted_waiters(self) -> int:
        """vm_min_waiters; unknown while another thread is changing it."""
        self.k.touch(self.vm_domainset_lock.ident.number, write=False)
        holders = self.vm_domainset_lock.holders()
        return self.vm_min_waiters if not holders or holders == [self.k.cur] else sys.maxsize

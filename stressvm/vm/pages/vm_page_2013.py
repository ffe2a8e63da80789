"""FreeBSD 10.4: the free list, and waiting for pages, all under vm_page_queue_free_mtx.

Whoever waits raises the flag vm_pages_needed, wakes the daemon if it was down, and sleeps on &v_free_count; the mutex
is given up in that step. Whoever frees a page lowers the flag and wakes all, once the system is not short of pages any
more. The daemon itself waits with another flag and another threshold. An allocation that fails raises the flag as well,
without the mutex; that is a hint to the daemon and nothing else.

Source: sys/vm/vm_page.c of release/10.4. Cached pages (PG_CACHED) are left out.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, ClassVar, Final

from stressvm.kernel.cell import Cell
from stressvm.kernel.sleepq import SleepQueue
from stressvm.vm.pages import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pages.vm_page import VmPage
from stressvm.vm.pages.vm_page_busy import VmBusy2013

if TYPE_CHECKING:
    from stressvm.vm.pages.page import Page, PageOwner


_NEEDED_BENIGN: Final = (
    "pagedaemon_wakeup looks at it and raises it without the mutex of the free pages: raised twice it is the same, and the "
    "daemon looks again at how many pages are free"
)


class VmPage2013(VmBusy2013, VmPage):
    """Allocating, freeing and waiting as in FreeBSD 10.4. Use `VmPages2013`; for its arguments see `VmMeter`.

    Attributes:
        vm_pages_needed: somebody waits for pages, or may soon.
        vm_pageout_pages_needed: the daemon does.
        free_channel, needed_channel, pageout_channel: what is slept on: &v_free_count, and those two flags' addresses.
    """

    version: ClassVar[str] = "2013"
    FREE_LOCK: ClassVar[str] = "vm_page_queue_free_mtx"
    PAGE_LOCK: ClassVar[str] = "vm page"

    def make_waiting(self) -> None:
        """See `VmMeter`."""
        k = self.k
        self.vm_pages_needed = Cell(k, False, "vm_pages_needed", benign=_NEEDED_BENIGN)
        self.vm_pageout_pages_needed = False
        self.free_channel = SleepQueue(k, "v_free_count.sleepers")
        self.needed_channel = SleepQueue(k, "vm_pages_needed.sleepers")
        self.pageout_channel = SleepQueue(k, "vm_pageout_pages_needed")

    async def vm_page_alloc(self, obj: PageOwner | None, pindex: int, req: int) -> Page | None:
        """See `VmPage`. Never sleeps; VM_ALLOC_WAITOK means nothing here."""
        self.check_request(obj, req, pindex)
        kind = self.kind_of(req)
        await self.free_mtx.lock()
        page = self.take(kind, req)
        await self.release_free()
        if page is None:
            self.counts_field.write()
            self.vm_pageout_deficit += 1
            await self.pagedaemon_wakeup()
            return None
        self.dress(page, obj, pindex, req)
        if self.vm_paging_needed():
            await self.pagedaemon_wakeup()
        return page

    def take(self, kind: str, req: int) -> Page | None:
        """A page off the free list, or None. Locks: the free list's."""
        free = self.free.peek()
        page = None
        if self.allows(kind, free) and not self.struck():
            page = self.pop_free(self.nextcolor, zeros=bool(req & F.VM_ALLOC_ZERO))
        if page is None:
            self.failed += 1
            return None
        self.note_taken(kind, free)
        self.free.poke(free - 1)
        self.loose += 1
        return page

    def allows(self, kind: str, free: int) -> bool:
        """May a request of that kind succeed at that free count?"""
        return free > self.limit(kind)

    async def free_list_insert(self, page: Page) -> None:
        """Insert, count, and wake, all with the mutex held."""
        await self.free_mtx.lock()
        self.freed += 1
        self.loose -= 1
        self.push_free(page)
        self.free.poke(self.free.peek() + 1)
        await self.vm_page_free_wakeup()
        await self.release_free()

    async def vm_page_free_wakeup(self) -> None:
        """Wake the daemon if it waits and has enough; wake all others if the system is not short any more.

        Locks: the free list's. Sleeps: no. Source: sys/vm/vm_page.c, vm_page_free_wakeup.
        """
        if self.vm_pageout_pages_needed and self.free.peek() >= self.v_pageout_free_min:
            await self.pageout_channel.wakeup()
            self.vm_pageout_pages_needed = False
        if self.vm_pages_needed.peek() and not self.vm_page_count_min():
            self.vm_pages_needed.poke(False)
            await self.wake_waiters()

    async def wake_waiters(self) -> None:
        """wakeup(&v_free_count): all of them. Locks: the free list's. Sleeps: no."""
        await self.free_channel.wakeup()

    async def vm_wait(self, wmesg: str = "vmwait") -> None:
        """Sleep until pages are free; try again afterwards. The free count is not looked at before.

        Locks: none on entry and exit; takes the free list's. Sleeps: until somebody frees enough. Wakes: the daemon, if
        nobody has needed pages so far.

        Args:
            wmesg: a word on who waits: "pfault" for vm_waitpfault.

        Source: sys/vm/vm_page.c, vm_wait.
        """
        await self.free_mtx.lock()
        if self.k.cur == self.daemon_thread:
            self.vm_pageout_pages_needed = True
            await self.pageout_channel.sleep(
                self.free_mtx, "VMWait", pdrop=True, until=lambda: self.free.peek() >= self.v_pageout_free_min
            )
            return
        if not self.vm_pages_needed.peek():
            await self.need_pages()
        await self.free_channel.sleep(
            self.free_mtx,
            wmesg,
            pdrop=True,
            until=lambda: not self.vm_page_count_min(),
            holder=lambda: self.daemon_thread,
        )

    async def need_pages(self) -> None:
        """Raise the flag and wake the daemon. Locks: the free list's."""
        self.vm_pages_needed.poke(True)
        await self.needed_channel.wakeup()

    async def pagedaemon_wakeup(self) -> None:
        """Raise the flag and wake the daemon, if it is down; without the mutex. The daemon does not wake itself.

        Source: sys/vm/vm_pageout.c, pagedaemon_wakeup.
        """
        if not await self.vm_pages_needed.load() and self.k.cur != self.daemon_thread:
            await self.vm_pages_needed.store(True)
            await self.needed_channel.wakeup()

    def waiting(self) -> list[int]:
        """Those asleep on &v_free_count."""
        self.k.touch(self.free_channel.ident.number, write=False)
        return self.free_channel.waiters

    def counted_waiters(self) -> int:
        """Any number, if the flag is up."""
        return sys.maxsize if self.vm_pages_needed.peek() else 0

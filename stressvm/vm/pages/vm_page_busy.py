"""FreeBSD's exclusively busy pages, and waiting for them.

The busy word is changed by atomic operations, with no lock. A sleeper notes in it that the page is wanted, while it
holds the lock that whoever then makes the page unbusy must take before waking anybody: in 2013 the page lock, in 13
the lock of the chain of sleep queues. The sleep gives that lock up, so the wakeup cannot come between.

What differs is when the object is unlocked and when the word is cleared. 2013 unlocks the object before it looks at
the word again, and clears the word of a wanted page with the page lock held; 13 the other way round, twice.

Source: sys/vm/vm_page.c of release/10.4 and releng/13.0: vm_page_busy_sleep, vm_page_sleep_if_busy, vm_page_xunbusy and
vm_page_xunbusy_hard. Shared busy is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.pages.vm_meter import VmMeter

if TYPE_CHECKING:
    from stressvm.vm.pages.page import Page, PageChannel, PageOwner


class VmBusy(VmMeter):
    """Busy pages. Use `VmPages2013` or `VmPages13`; planted defects override one of the small methods."""

    async def vm_page_busied(self, page: Page) -> bool:
        """Is it busy? Locks: the object's, or the answer is stale. Sleeps: no."""
        return await self.channel(page).busied(page)

    async def vm_page_tryxbusy(self, page: Page) -> bool:
        """Make it busy if it is not. Locks: the object's. Sleeps: no."""
        return await self.channel(page).tryxbusy(page)

    async def vm_page_sleep_if_busy(self, page: Page, wmesg: str) -> bool:
        """If it is busy, sleep until it may be so no more; True if it slept: look the page up anew then.

        Locks: the object's on entry and exit, given up while asleep. Sleeps: for the page, and for the lock.
        """
        owner = page.owner
        if owner is None or not owner.lock.owned():
            raise self.panic(f"vm_page_sleep_if_busy: {page!r} is nobody's, or its object is not locked")
        if not await self.vm_page_busied(page):
            return False
        await self.vm_page_busy_sleep(page, wmesg)
        await owner.lock.lock()
        return True

    async def vm_page_busy_sleep(self, page: Page, wmesg: str) -> None:
        """Sleep until the page is made unbusy; not at all if it is unbusy when it is looked at again.

        Locks: the object's on entry, none on exit; takes the page lock (2013) or the sleep queue's (13). Sleeps: for
        that, and for the page. Woken by: vm_page_xunbusy, and whoever frees the page.
        """
        raise NotImplementedError

    async def vm_page_xunbusy(self, page: Page) -> None:
        """Make it unbusy, and wake those who want it. Locks: none needed. Sleeps: for the lock of the sleepers."""
        raise NotImplementedError

    # ------------------------------------------------------------ the steps

    def channel(self, page: Page) -> PageChannel:
        """Where threads wait for it."""
        assert page.channel is not None, f"{page!r} has no channel to wait on"
        return page.channel

    async def want(self, page: Page) -> bool:
        """Note in the busy word that the page is wanted; False if it is not busy any more."""
        return await self.channel(page).want(page)

    async def sleep_on(self, page: Page, owner: PageOwner, pindex: int, wmesg: str) -> None:
        """The sleep on the page. Locks: `page_lock` on entry, none on exit."""
        await self.channel(page).sleep(
            self.page_lock,
            wmesg,
            pdrop=True,
            until=lambda: not page.busy or page.owner is not owner or page.pindex != pindex,
            holder=lambda: page.busy_thread,
        )

    async def wake_wanting(self, page: Page) -> None:
        """wakeup(m). Locks: `page_lock`. Sleeps: no."""
        await self.channel(page).wakeup()


class VmBusy2013(VmBusy):
    """As in FreeBSD 10.4."""

    async def vm_page_busy_sleep(self, page: Page, wmesg: str) -> None:
        """The object is unlocked first, under the page lock, and then the busy word looked at."""
        owner = page.owner
        assert owner is not None, f"{page!r} is nobody's"
        pindex = page.pindex
        await self.page_lock.lock()
        await owner.lock.unlock()
        if await self.want(page):
            await self.sleep_on(page, owner, pindex, wmesg)
        else:
            await self.page_lock.unlock()

    async def vm_page_xunbusy(self, page: Page) -> None:
        """One atomic operation if nobody wants it; else the hard way, with the page lock."""
        if await self.channel(page).unbusy(page, if_wanted=False):
            await self.vm_page_xunbusy_hard(page)

    async def vm_page_xunbusy_hard(self, page: Page) -> None:
        """It is wanted: clear the word and wake, with the page lock held."""
        await self.page_lock.lock()
        await self.channel(page).unbusy(page, if_wanted=True)
        await self.wake_wanting(page)
        await self.page_lock.unlock()


class VmBusy13(VmBusy):
    """As in FreeBSD 13.0."""

    async def vm_page_busy_sleep(self, page: Page, wmesg: str) -> None:
        """The word is looked at with the chain locked; a page that has moved meanwhile is not slept for."""
        owner = page.owner
        assert owner is not None, f"{page!r} is nobody's"
        pindex = page.pindex
        await self.page_lock.lock()
        if page.owner is owner and page.pindex == pindex and await self.want(page):
            await owner.lock.unlock()
            await self.sleep_on(page, owner, pindex, wmesg)
        else:
            await self.page_lock.unlock()
            await owner.lock.unlock()

    async def vm_page_xunbusy(self, page: Page) -> None:
        """The word is cleared at once; if it said wanted, all are woken."""
        if await self.channel(page).unbusy(page, if_wanted=True):
            await self.wake_all(page)

    async def wake_all(self, page: Page) -> None:
        """wakeup(m), which locks the chain."""
        await self.page_lock.lock()
        await self.wake_wanting(page)
        await self.page_lock.unlock()

"""DragonFly's page daemon, 2010: at the end of a pass it clears the flag that somebody needs pages, and wakes nobody.

Whoever found no page raised a flag, woke the daemon and slept. The daemon woke sleepers as it freed pages, and when a pass
was over it cleared the flag, thinking that everybody was served. But a request may be raised while a pass is under way, by
somebody who found no page and falls asleep only after the last one was freed. Its flag is cleared with the others; the
daemon sees that nobody needs pages, and sleeps; so does the other one, beside the pages that are free.

Source: DragonFly, sys/vm/vm_pageout.c, commit 12d8aca7e6 of February 2010. Here it is NetBSD's daemon, whose counter
of waiters is that flag.
"""

from __future__ import annotations

from stressvm import Kernel, Rw, RwLock, scenario
from stressvm.vm import pages

SOURCE = "DragonFly, sys/vm/vm_pageout.c, vm_pageout; repaired by 12d8aca7e6, February 2010"


class ErasesRequests(pages.UvmPages):
    """A daemon that wakes sleepers as it frees pages, and at the end of a round only forgets them."""

    async def free_clean(self, page: pages.Page, owner: pages.PageOwner) -> None:
        """Free a page, and wake who sleeps by now."""
        await super().free_clean(page, owner)
        await self.free_channel.wakeup()

    async def wake_waiters(self) -> None:
        """Nobody needs pages any more, it thinks."""
        self.waiters = 0


def one_request(k: Kernel, cls: type[pages.UvmPages]) -> None:
    """No page is free but those in reserve, one could be; a thread wants one for a page fault.

    The invariants of physical memory would see at once that a sleeper is not known of; they look away.
    """
    uvm = cls(k, 2, reserve_pagedaemon=0, reserve_kernel=1, prove=False)
    uvm.fill(pages.PageObject(k, "old"), 1, queue=pages.PageQueue.INACTIVE, clean=True)
    uvm.start_daemons()
    map_lock = RwLock(k, "map.lock")
    obj = pages.PageObject(k, "obj")

    async def faults() -> None:
        while True:
            await map_lock.enter(Rw.READER)
            await obj.lock.lock()
            page = await uvm.uvm_pagealloc(obj, 0)
            await obj.lock.unlock()
            await map_lock.exit()
            if page is not None:
                return
            await uvm.uvm_wait("pfault")

    k.spawn(faults, name="faults")


@scenario(expect="lost-wakeup", source=SOURCE)
def lw_02_request_erased(k: Kernel) -> None:
    """The request is raised while the daemon is at work, and erased when that is done."""
    one_request(k, ErasesRequests)


@scenario(source=SOURCE, executions=200)
def lw_02_request_erased_ok(k: Kernel) -> None:
    """Requests are forgotten in the step in which those who have made them are woken."""
    one_request(k, pages.UvmPages)

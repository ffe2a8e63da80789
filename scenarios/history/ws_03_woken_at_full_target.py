"""DragonFly's page allocator, 2013: those who wait for a page are woken when the daemon has all that it wants.

The daemon frees pages until there are as many as its target says, and then woke those who waited. Under load it may never
get there, since others take pages as it frees them, and then nobody is woken, though there were pages for those who sleep
many times over. It was repaired by waking them as soon as there are a few more than the minimum.

Source: DragonFly, sys/vm/vm_page.c and vm_pageout.c, commit 77d1fb91ca of June 2013. Here it is FreeBSD 13's allocator.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import pages

SOURCE = "DragonFly, sys/vm/vm_page.c, vm_page_free_wakeup; repaired by 77d1fb91ca, June 2013"
ANY = pages.VM_ALLOC_NORMAL | pages.VM_ALLOC_NOOBJ


class WaitsForTheTarget(pages.VmPages13):
    """The shortage is over when the daemon's target is reached."""

    async def vm_domain_freecnt_inc(self) -> None:
        """Count a page in; only the one that reaches the target counts."""
        old = await self.free.fetchadd(1)
        self.claimed -= 1
        if old < self.v_free_target <= old + 1:
            await self.vm_domain_clear()


def sleeper_and_load(k: Kernel, cls: type[pages.VmPages13]) -> None:
    """One thread waits for a page; an interrupt takes one and keeps it; the daemon can free just as many as it wants."""
    phys = cls(k, 8, v_free_target=5)
    phys.fill(pages.PageObject(k, "old", pages.Swap(k, 6)), 3, queue=pages.PageQueue.INACTIVE, clean=True)
    phys.fill(None, 3)
    phys.start_daemon()

    async def waits() -> None:
        while await phys.vm_page_alloc(None, 0, ANY) is None:
            await phys.vm_wait()

    async def takes() -> None:
        await phys.vm_page_alloc(None, 0, pages.VM_ALLOC_INTERRUPT | pages.VM_ALLOC_NOOBJ)

    k.spawn(waits, name="waits")
    k.spawn(takes, name="takes")


@scenario(expect="lost-wakeup", source=SOURCE)
def ws_03_woken_at_full_target(k: Kernel) -> None:
    """The other takes a page before the target is reached, and the sleeper is never woken."""
    sleeper_and_load(k, WaitsForTheTarget)


@scenario(source=SOURCE, executions=200)
def ws_03_woken_at_full_target_ok(k: Kernel) -> None:
    """The sleeper is woken as soon as the system is not short of pages."""
    sleeper_and_load(k, pages.VmPages13)

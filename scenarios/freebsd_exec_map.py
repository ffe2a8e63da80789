"""FreeBSD's exec_map: kmap_alloc_wait really sleeps beside free addresses, and why kmap_free_wakeup wakes all."""

from stressvm import Kernel, scenario
from stressvm.vm import freebsd

PAGE = freebsd.PAGE_SIZE
FINDSPACE = "FreeBSD 13.0, sys/vm/vm_map.c, vm_map_findspace: the gap after the last entry is not looked at"
WAIT = "FreeBSD, sys/vm/vm_kern.c, kmap_alloc_wait and kmap_free_wakeup"


class WakeOne(freebsd.VmMap13):
    """A map whose kmap_free_wakeup wakes one sleeper in place of all."""

    async def wake_sleepers(self) -> None:
        """wakeup_one in place of wakeup."""
        await self.lock.map_sleep_mtx.lock()
        await self.lock.map_sleep_mtx.unlock()
        await self.lock.root.wakeup_one()


def tail_gap(k: Kernel, version: str, search: freebsd.Search) -> None:
    """Six pages, all but the first in use; the last three are freed, and somebody wants two."""
    vm_map = freebsd.exec_map(k, pages=6, version=version, search=search)
    used = vm_map.fill(5, offset=1)

    async def take() -> None:
        k.record(va=await freebsd.kmap_alloc_wait(vm_map, 2 * PAGE))

    async def give() -> None:
        await freebsd.kmap_free_wakeup(vm_map, used + 2 * PAGE, 3 * PAGE)

    k.spawn(take, name="take")
    k.spawn(give, name="give")


def two_waiters(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """A full map of two pages, a waiter for both, a waiter for one, and one page freed."""
    vm_map = freebsd.exec_map(k, pages=2, cls=cls)
    full = vm_map.fill()

    async def take(pages: int) -> None:
        k.record(va=await freebsd.kmap_alloc_wait(vm_map, pages * PAGE))

    async def give() -> None:
        await freebsd.kmap_free_wakeup(vm_map, full, PAGE)

    k.spawn(take, 2, name="big")
    k.spawn(take, 1, name="small")
    k.spawn(give, name="give")


@scenario(expect="lost-wakeup", source=FINDSPACE)
def freebsd13_exec_map_tail_gap(k: Kernel) -> None:
    """A thread sleeps for two pages of exec_map, and three are free.

    The search begins at the map's lowest address, in a gap of one page. The entry after it becomes the root of the
    tree; it is the last one, so it has no right child, and the search ends there. The pages behind it stay unseen
    whichever thread comes first, and nobody is left to free anything more.
    """
    tail_gap(k, "13", freebsd.Search.SPLAY)


@scenario(source=FINDSPACE)
def freebsd13_exec_map_first_fit(k: Kernel) -> None:
    """The same with a search that does what vm_map_findspace(9) says: the sleeper is served."""
    tail_gap(k, "13", freebsd.Search.FIRST_FIT)


@scenario(source="FreeBSD 10.4, sys/vm/vm_map.c, vm_map_findspace")
def freebsd2013_exec_map_tail_gap(k: Kernel) -> None:
    """10.4 kept the gap after each entry with the entry, and does not miss the last."""
    tail_gap(k, "2013", freebsd.Search.FIRST_FIT)


@scenario(source=WAIT, tolerate=("exhausted",))
def freebsd13_exec_map_waiters(k: Kernel) -> None:
    """A page is freed that fits one of two sleepers: both are woken, and that one gets it."""
    two_waiters(k, freebsd.VmMap13)


@scenario(source=WAIT, expect="lost-wakeup")
def freebsd13_exec_map_wakeup_one(k: Kernel) -> None:
    """Were only one woken, it might be the big one, which still has no room, and the small one sleeps on."""
    two_waiters(k, WakeOne)

"""NetBSD 6's wait for addresses: the protocol as it is, and what each half of its condition is there for."""

from stressvm import Kernel, scenario
from stressvm.vm import netbsd

SOURCE = "NetBSD 6.99.16, sys/uvm/uvm_map.c 1.324, uvm_map_prepare and uvm_unmap_remove"
VAONLY = netbsd.UVM_KMF_VAONLY
WAIT = VAONLY | netbsd.UVM_KMF_WAITVA
NOWAIT = VAONLY | netbsd.UVM_KMF_NOWAIT
PAGE = netbsd.PAGE_SIZE


class NoRecheck(netbsd.VmMap):
    """The wait without its timeout of a second."""

    async def sleep_for_va(self, hint: int, size: int, align: int, flags: int) -> None:
        """cv_wait in place of cv_timedwait."""
        await self.lock.cv.wait(self.lock.misc_lock, until=lambda: self.findspace(hint, size, align, flags) is not None)


class FlagOnly(netbsd.VmMap):
    """The wait that looks at WANTVA and not at the timestamp."""

    async def unchanged_since(self, timestamp: int) -> bool:  # noqa: ARG002 - that is the defect
        """Only the flag."""
        return bool(await self.flags.load() & netbsd.VM_MAP_WANTVA)


class TimestampOnly(netbsd.VmMap):
    """The wait that looks at the timestamp and not at WANTVA."""

    async def unchanged_since(self, timestamp: int) -> bool:
        """Only the timestamp."""
        return await self.lock.timestamp.load() == timestamp


def two_waiters(k: Kernel, cls: type[netbsd.VmMap]) -> None:
    """A full map of two pages, a waiter for both, a waiter for one, and one page freed."""
    kmap = netbsd.submap(k, pages=2, cls=cls)
    full = kmap.fill()

    async def take(pages: int) -> None:
        k.record(va=await netbsd.uvm_km_alloc(kmap, pages * PAGE, 0, WAIT))

    async def give() -> None:
        await netbsd.uvm_km_free(kmap, full, PAGE, VAONLY)

    k.spawn(take, 2, name="big")
    k.spawn(take, 1, name="small")
    k.spawn(give, name="give")


@scenario(source=SOURCE, tolerate=("exhausted",))
def netbsd6_waiters(k: Kernel) -> None:
    """What 5.2's INTRSAFE maps lose, 6 does not: every write lock moves the timestamp.

    The same program as `netbsd5_intrsafe_waiters`. The big sleeper never gets its two pages, since nobody frees the
    second; the small one always gets the one that is freed.
    """
    two_waiters(k, netbsd.VmMap)


@scenario(source=SOURCE)
def netbsd6_nowait(k: Kernel) -> None:
    """A caller that does not wait sets the flag again, and still erases nobody's wakeup."""
    kmap = netbsd.submap(k, pages=2)
    full = kmap.fill()

    async def take() -> None:
        k.record(va=await netbsd.uvm_km_alloc(kmap, PAGE, 0, WAIT))

    async def hurry() -> None:
        k.record(va=await netbsd.uvm_km_alloc(kmap, 2 * PAGE, 0, NOWAIT))

    async def give() -> None:
        await netbsd.uvm_km_free(kmap, full, PAGE, VAONLY)

    k.spawn(take, name="take")
    k.spawn(hurry, name="hurry")
    k.spawn(give, name="give")


@scenario(source=SOURCE, tolerate=("exhausted",))
def netbsd6_without_recheck(k: Kernel) -> None:
    """Is the recheck every second needed? Not as long as addresses are freed by uvm_unmap alone.

    Every path that frees addresses here broadcasts. (uvm_map_replace and uvm_map_extract free some without a word, and
    there the recheck is what saves the sleeper: see netbsd6_extract_tells_nobody.)
    """
    two_waiters(k, NoRecheck)


@scenario(source=SOURCE, expect="lost-wakeup")
def netbsd6_flag_only(k: Kernel) -> None:
    """The flag alone is not enough: the sleeper that fails first sets it again under the nose of the other."""
    two_waiters(k, FlagOnly)


@scenario(source=SOURCE, tolerate=("exhausted",))
def netbsd6_timestamp_only(k: Kernel) -> None:
    """The timestamp alone would do on 6, as far as wakeups go."""
    two_waiters(k, TimestampOnly)


@scenario(source=SOURCE, expect="exhausted")
def netbsd6_big_waiter_starves(k: Kernel) -> None:
    """A small request takes the page in the middle, and the big sleeper never finds two neighbours again.

    The map's three pages are freed one after the other, the middle one first. Nobody hands over and nobody keeps an
    order: if the small one looks before the next page is free, it gets the middle and keeps it, and what is freed later
    is enough for the big one in sum, but not side by side.
    """
    kmap = netbsd.submap(k, pages=3)
    full = kmap.fill()

    async def take(pages: int) -> None:
        k.record(va=await netbsd.uvm_km_alloc(kmap, pages * PAGE, 0, WAIT))

    async def give() -> None:
        for page in (1, 0, 2):
            await netbsd.uvm_km_free(kmap, full + page * PAGE, PAGE, VAONLY)

    k.spawn(take, 2, name="big")
    k.spawn(take, 1, name="small")
    k.spawn(give, name="give")


@scenario(source="NetBSD 6.99.16, sys/uvm/uvm_map.c 1.324, vm_map_lock_try, vm_map_busy, vm_map_unbusy")
def netbsd6_trylock_busy(k: Kernel) -> None:
    """While a thread has marked the map busy and let go of the lock, a try fails and nobody gets in.

    The owner notes what is in the map when it marks it and finds the same before it removes the mark. One caller tries,
    and may be refused; another waits, and is served in the end.
    """
    kmap = netbsd.submap(k, pages=4)
    lock = kmap.lock
    assert isinstance(lock, netbsd.VmMapLock)

    async def owner() -> None:
        await lock.lock()
        await lock.busy()
        before = kmap.size
        await lock.unlock()
        await k.yield_()
        await lock.lock_read()
        assert kmap.size == before, "somebody changed a busy map"
        await lock.unlock_read()
        await lock.unbusy()

    async def alloc(flags: int) -> None:
        va = await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY | flags)
        assert va or flags & netbsd.UVM_KMF_TRYLOCK, "refused, although it was ready to wait for the lock"
        k.record(va=va)

    k.spawn(owner, name="owner")
    k.spawn(alloc, netbsd.UVM_KMF_TRYLOCK, name="try")
    k.spawn(alloc, netbsd.UVM_KMF_NOWAIT, name="wait")

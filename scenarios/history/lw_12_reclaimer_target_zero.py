"""OSv's reclaimer, 2014: memory was freed before it looked, so it has nothing to do, and wakes nobody.

Whoever finds no memory queues and kicks the reclaimer. That works out how much is missing, asks the shrinkers for as much,
and wakes those whose wishes can be met now; but all this only if anything is missing. If somebody has freed enough memory
meanwhile, nothing is, and those in the queue sleep on, beside it.

Source: OSv, core/mempool.cc, commit f888c39d of June 2014. Built here of a mutex, condition variables and a list.
"""

from __future__ import annotations

from stressvm import Cell, CondVar, Kernel, Mutex, scenario

SOURCE = "OSv, core/mempool.cc, reclaimer::_do_reclaim; repaired by f888c39d, June 2014"
PAGE = 1


class Mempool:
    """Free memory, those who wait for it, and the thread that brings more.

    Args:
        k: the kernel.
        free: pages that are free.
        cached: pages that the shrinkers can give back.
        watermark: with fewer free ones there is pressure.
    """

    def __init__(self, k: Kernel, free: int, cached: int, watermark: int) -> None:
        self.k = k
        self.lock = Mutex(k, "free_page_ranges_lock")
        self.free = Cell(k, free, "free_memory")
        self.cached = cached
        self.watermark = watermark
        self.blocked = CondVar(k, "reclaimer")
        #: Those who wait, each with a place to sleep on.
        self.waiters: list[CondVar] = []
        k.spawn(self.do_reclaim, name="reclaimer", daemon=True)

    async def alloc(self) -> None:
        """malloc_large: take a page. Locks: takes the pool's. Sleeps: until there is one."""
        await self.lock.lock()
        while not self.free.peek():
            await self.wait_for_memory()
        self.free.poke(self.free.peek() - PAGE)
        await self.lock.unlock()

    async def wait_for_memory(self) -> None:
        """reclaimer_waiters::wait: queue, kick the reclaimer, sleep until it says so. Locks: the pool's."""
        waiter = CondVar(self.k, f"waiter of {self.k.threads[self.k.cur].name}")
        self.waiters.append(waiter)
        await self.blocked.signal()
        while waiter in self.waiters:
            await waiter.wait(self.lock, until=lambda: bool(self.free.peek()))

    async def give(self) -> None:
        """free_page_range: a page is free. It wakes nobody. Locks: takes the pool's."""
        await self.lock.lock()
        self.free.poke(self.free.peek() + PAGE)
        await self.lock.unlock()

    async def do_reclaim(self) -> None:
        """The reclaimer's loop."""
        while True:
            await self.lock.lock()
            while not self.waiters:
                await self.blocked.wait(self.lock)
            target = max(self.watermark - self.free.peek(), 0)
            await self.lock.unlock()
            await self.shrinker_loop(target)
            await self.lock.lock()
            if self.may_serve(target):
                await self.wake_waiters()
            await self.blocked.wait(self.lock)
            await self.lock.unlock()

    async def shrinker_loop(self, target: int) -> None:
        """Ask the shrinkers for so many pages. Locks: none; takes the pool's for each page."""
        while target and self.cached:
            self.cached -= PAGE
            target -= PAGE
            await self.give()

    def may_serve(self, target: int) -> bool:  # noqa: ARG002 - for who looks at it
        """Is it worth while to look who can be served?"""
        return True

    async def wake_waiters(self) -> None:
        """reclaimer_waiters::wake_waiters: as many as there is memory for. Locks: the pool's."""
        for waiter in self.waiters[: self.free.peek()]:
            self.waiters.remove(waiter)
            await waiter.signal()


class OnlyUnderPressure(Mempool):
    """Nobody is woken unless something was missing."""

    def may_serve(self, target: int) -> bool:
        """Was there a target?"""
        return target > 0


def freed_meanwhile(k: Kernel, cls: type[Mempool]) -> None:
    """No memory is free; one thread wants some, another gives some back."""
    pool = cls(k, 0, 1, 1)
    k.spawn(pool.alloc, name="alloc")
    k.spawn(pool.give, name="free")


@scenario(expect="lost-wakeup", source=SOURCE)
def lw_12_target_zero(k: Kernel) -> None:
    """Memory is freed between the request and the reclaimer's look at it."""
    freed_meanwhile(k, OnlyUnderPressure)


@scenario(source=SOURCE, executions=200)
def lw_12_target_zero_ok(k: Kernel) -> None:
    """The reclaimer looks who can be served, whether it had anything to do or not."""
    freed_meanwhile(k, Mempool)

"""FreeBSD's sf_buf, about 2010: the one wakeup goes to a thread that leaves without what it was woken for.

Whoever frees a buffer woke one of those who wait for one. Some of them may be interrupted by a signal. If the signal comes
when such a thread has been woken, but does not run yet, it returns with EINTR all the same, and takes no buffer; nobody else
is woken in its place, and the buffer lies there.

Source: FreeBSD, sys/arm/arm/vm_machdep.c and its like, sf_buf_alloc and sf_buf_free: wakeup_one became wakeup about 2010. A
sleep that may be interrupted looks for signals once more when it is over.
"""

from __future__ import annotations

from stressvm import Kernel, Mutex, SleepQueue, Wake, scenario

SOURCE = "FreeBSD, sys/arm/arm/vm_machdep.c, sf_buf_free: wakeup_one, until about 2010"


class SfBufs:
    """A pool of buffers.

    Args:
        k: the kernel.
    """

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.lock = Mutex(k, "sf_buf_lock")
        self.freelist = SleepQueue(k, "sf_freelist")
        self.free = 0
        self.wanted = 0

    async def alloc(self, *, catch: bool) -> bool:
        """sf_buf_alloc: take a buffer; False: a signal came first. Locks: takes the pool's. Sleeps: until there is one."""
        await self.lock.lock()
        while not self.free:
            self.wanted += 1
            interrupted = await self.msleep(catch=catch)
            self.wanted -= 1
            if interrupted:
                await self.lock.unlock()
                return False
        self.free -= 1
        await self.lock.unlock()
        return True

    async def msleep(self, *, catch: bool) -> bool:
        """Sleep for a buffer; was there a signal? Locks: the pool's, given up while asleep."""
        how = await self.freelist.sleep(self.lock, "sfbufa", pcatch=catch, until=lambda: bool(self.free))
        return how is Wake.SIGNAL or (catch and self.k.take_signal())

    async def give(self) -> None:
        """sf_buf_free. Locks: takes the pool's."""
        await self.lock.lock()
        self.free += 1
        if self.wanted:
            await self.wake()
        await self.lock.unlock()

    async def wake(self) -> None:
        """A buffer is free: all look. Locks: the pool's."""
        await self.freelist.wakeup()


class WakesOne(SfBufs):
    """One buffer, one wakeup."""

    async def wake(self) -> None:
        """The first that sleeps."""
        await self.freelist.wakeup_one()


def interrupted(k: Kernel, cls: type[SfBufs]) -> None:
    """Two threads wait for a buffer, one is freed, and one of the two gets a signal."""
    bufs = cls(k)

    async def waits(*, catch: bool) -> None:
        if await bufs.alloc(catch=catch) and catch:
            await bufs.give()

    async def patient() -> None:
        await waits(catch=False)

    async def impatient() -> None:
        await waits(catch=True)

    async def kills() -> None:
        await k.yield_()
        k.psignal(victim)

    victim = k.spawn(impatient, name="impatient")
    k.spawn(patient, name="patient")
    k.spawn(bufs.give, name="gives")
    k.spawn(kills, name="kills")


@scenario(expect="lost-wakeup", source=SOURCE)
def ws_01_one_woken(k: Kernel) -> None:
    """The interrupted one has swallowed the wakeup."""
    interrupted(k, WakesOne)


@scenario(source=SOURCE, executions=200)
def ws_01_one_woken_ok(k: Kernel) -> None:
    """All are woken, and one of them takes it. If the impatient one has taken it before, it gives it back."""
    interrupted(k, SfBufs)

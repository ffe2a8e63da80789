"""DragonFly's lockmgr, 2012: a thread that has the lock exclusively asks for it shared, and has it shared from then on.

A function with the lock held exclusively calls another one, which takes it shared and lets go of it again, as it may. The lock
understood that as a downgrade. The caller goes on as if it were alone, and others read, or write, beside it.

Source: DragonFly, sys/kern/kern_lock.c, commit 87f32d7cb3 of August 2012. The lock of that time is built here of its spin lock,
its counts, and a sleep queue.
"""

from __future__ import annotations

from stressvm import Atomic, Kernel, SleepQueue, SpinMutex, scenario

SOURCE = "DragonFly, sys/kern/kern_lock.c, lockmgr (LK_SHARED); repaired by 87f32d7cb3, August 2012"


class Lockmgr:
    """A lock.

    Args:
        k: the kernel.
        name: as reports show it.
    """

    def __init__(self, k: Kernel, name: str) -> None:
        self.k = k
        self.spinlock = SpinMutex(k, f"{name}.lk_spinlock")
        self.sleepers = SleepQueue(k, name)
        self.lockholder = -1
        self.exclusivecount = 0
        self.sharecount = 0
        self.want_excl = 0

    async def shared(self) -> None:
        """LK_SHARED. Sleeps: while another thread has it, or wants to have it, exclusively."""
        await self.spinlock.lock()
        if self.lockholder == self.k.cur:
            await self.shared_by_owner()
        else:
            while self.exclusivecount or self.want_excl:
                await self.sleep("shared")
            self.sharecount += 1
        await self.spinlock.unlock()

    async def shared_by_owner(self) -> None:
        """The thread has it exclusively already: one hold more of the same kind. Locks: the spin lock."""
        self.exclusivecount += 1

    async def exclusive(self) -> None:
        """LK_EXCLUSIVE. Sleeps: while anybody has it."""
        await self.spinlock.lock()
        self.want_excl += 1
        while self.exclusivecount or self.sharecount:
            await self.sleep("exclusive")
        self.want_excl -= 1
        self.lockholder = self.k.cur
        self.exclusivecount = 1
        await self.spinlock.unlock()

    async def release(self) -> None:
        """LK_RELEASE: one hold less."""
        await self.spinlock.lock()
        if self.exclusivecount:
            self.exclusivecount -= 1
            if not self.exclusivecount:
                self.lockholder = -1
        else:
            assert self.sharecount, "nobody has it"
            self.sharecount -= 1
        await self.sleepers.wakeup()
        await self.spinlock.unlock()

    async def sleep(self, wmesg: str) -> None:
        """Sleep until somebody lets go of it. Locks: the spin lock, given up while asleep."""
        await self.sleepers.sleep(self.spinlock, wmesg, holder=lambda: self.lockholder)


class Downgrades(Lockmgr):
    """The owner that asks for a shared hold has shared ones only, from now on."""

    async def shared_by_owner(self) -> None:
        """As LK_DOWNGRADE, and one more."""
        self.sharecount += self.exclusivecount + 1
        self.exclusivecount = 0
        self.lockholder = -1
        await self.sleepers.wakeup()


def nested(k: Kernel, cls: type[Lockmgr]) -> None:
    """One thread changes two values under the lock, with a nested call in between; another reads both."""
    lock = cls(k, "lock")
    left, right = Atomic(k, 0, "left"), Atomic(k, 0, "right")

    async def changes() -> None:
        await lock.exclusive()
        await looks()
        await left.store(1)
        await right.store(1)
        await lock.release()

    async def looks() -> None:
        await lock.shared()
        await lock.release()

    async def reads() -> None:
        await lock.shared()
        assert await left.load() == await right.load(), "a reader sees half of a change"
        await lock.release()

    k.spawn(changes, name="changes")
    k.spawn(reads, name="reads")


@scenario(expect="assertion", source=SOURCE)
def uf_10_shared_by_its_owner(k: Kernel) -> None:
    """After the nested call the reader gets in, and sees half of the change."""
    nested(k, Downgrades)


@scenario(source=SOURCE, executions=200)
def uf_10_shared_by_its_owner_ok(k: Kernel) -> None:
    """The nested hold is one more exclusive hold."""
    nested(k, Lockmgr)

"""OSv's condition variables, 2013: who times out waits for a wakeup under way, and keeps others from waking.

A waker does not wake the waiter, but lets it queue for the mutex that the waiter gave up, so that it runs when it can have it
(wait morphing). A waiter whose time is up locks the condition variable's own mutex to take itself off the list. If it is not
there any more, a wakeup is under way and it must wait for that; now this means to wait until whoever has the user's mutex
lets go of it. It waited with the condition variable's mutex held, and whoever has the user's may want that, to wake somebody.

Source: OSv, core/condvar.cc, commit 15a32ac8 of November 2013. Mutex and condition variable are built here as they are
there, of wait records.
"""

from __future__ import annotations

from stressvm import Atomic, Kernel, Mutex, SleepQueue, SpinMutex, Timers, Wake, scenario

SOURCE = "OSv, core/condvar.cc, condvar::wait; repaired by 15a32ac8, November 2013"


class WaitRecord:
    """What a thread waits with: woken once, by whoever has it."""

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.thread = k.cur
        self.woken = False
        name = k.threads[k.cur].name
        self.lock = SpinMutex(k, f"wait record of {name}.lock")
        self.queue = SleepQueue(k, f"wait record of {name}")

    async def wait(self, mutex: UserMutex, *, timo: int = 0) -> bool:
        """Sleep until woken, for so many ticks at most; was it woken? Only the user's mutex can be handed over."""
        await self.lock.lock()
        while not self.woken:
            how = await self.queue.sleep(
                self.lock, "wake", timo=timo, until=lambda: self.woken, holder=lambda: mutex.owner
            )
            if how is Wake.TIMEOUT:
                break
        await self.lock.unlock()
        return self.woken

    async def wake(self) -> None:
        """Wake it."""
        await self.lock.lock()
        self.woken = True
        await self.queue.wakeup()
        await self.lock.unlock()


class UserMutex:
    """lockfree::mutex: handed over to the longest waiter; another thread may queue a waiter."""

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.guard = SpinMutex(k, "user mutex.guard")
        self.owner = -1
        self.waiters: list[WaitRecord] = []

    async def lock(self) -> None:
        """Acquire it. Sleeps: yes."""
        record = WaitRecord(self.k)
        await self.send_lock(record)
        await record.wait(self)

    async def send_lock(self, record: WaitRecord) -> None:
        """On behalf of a record's thread: get it and wake that thread, or queue."""
        await self.guard.lock()
        free = self.owner < 0
        if free:
            self.owner = record.thread
        else:
            self.waiters.append(record)
        await self.guard.unlock()
        if free:
            await record.wake()

    async def unlock(self) -> None:
        """Release it; the longest waiter has it then."""
        assert self.owner == self.k.cur, "released by a thread that does not have it"
        await self.guard.lock()
        heir = self.waiters.pop(0) if self.waiters else None
        self.owner = heir.thread if heir is not None else -1
        await self.guard.unlock()
        if heir is not None:
            await heir.wake()


class Condvar:
    """A condition variable.

    Args:
        k: the kernel.
    """

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.m = Mutex(k, "condvar.m")
        self.fifo: list[WaitRecord] = []
        #: How many are on the list; it is looked at without the mutex, too.
        self.queued = Atomic(k, 0, "condvar.fifo")

    async def wait(self, mutex: UserMutex, timo: int = 0) -> bool:
        """Give up the user's mutex and wait, for so many ticks at most; woken? Locks: the user's on entry and exit."""
        record = WaitRecord(self.k)
        await self.m.lock()
        self.fifo.append(record)
        self.queued.poke(len(self.fifo))
        await mutex.unlock()
        await self.m.unlock()
        if not await record.wait(mutex, timo=timo) and await self.give_up(mutex, record):
            await mutex.lock()
            return False
        return True

    async def give_up(self, mutex: UserMutex, record: WaitRecord) -> bool:
        """Time is up: off the list; False: a wakeup is under way, and has been waited for. Locks: takes m."""
        await self.m.lock()
        queued = self.unlink(record)
        await self.m.unlock()
        if not queued:
            await record.wait(mutex)
        return queued

    def unlink(self, record: WaitRecord) -> bool:
        """Off the list; was it on it? Locks: m."""
        queued = record in self.fifo
        if queued:
            self.fifo.remove(record)
            self.queued.poke(len(self.fifo))
        return queued

    async def wake_one(self, mutex: UserMutex) -> None:
        """Let the longest waiter queue for the user's mutex. Locks: takes m."""
        if not await self.queued.load():
            return
        await self.m.lock()
        if self.fifo:
            first = self.fifo[0]
            self.unlink(first)
            await mutex.send_lock(first)
        await self.m.unlock()


class KeepsItsMutex(Condvar):
    """Who has timed out waits for the wakeup under way with the condition variable's mutex held."""

    async def give_up(self, mutex: UserMutex, record: WaitRecord) -> bool:
        """The wait is before the unlock."""
        await self.m.lock()
        queued = self.unlink(record)
        if not queued:
            await record.wait(mutex)
        await self.m.unlock()
        return queued


def two_waiters(k: Kernel, cls: type[Condvar]) -> None:
    """Two threads wait, one of them not for long; a third one wakes both, one after the other, with the mutex held.

    The sleep of the impatient one may time out at any point.
    """
    mutex, changed = UserMutex(k), cls(k)

    async def impatient() -> None:
        await mutex.lock()
        k.spawn(patient, name="patient")
        await changed.wait(mutex, 1)
        await mutex.unlock()

    async def patient() -> None:
        await mutex.lock()
        k.spawn(wakes, name="wakes")
        await changed.wait(mutex)
        await mutex.unlock()

    async def wakes() -> None:
        await mutex.lock()
        await changed.wake_one(mutex)
        await changed.wake_one(mutex)
        await mutex.unlock()

    k.spawn(impatient, name="impatient")


@scenario(expect="deadlock", source=SOURCE, timers=Timers.ANYTIME)
def dl_14_condvar_timeout(k: Kernel) -> None:
    """The impatient one has the condition variable's mutex and waits for the user's; the waker the other way round."""
    two_waiters(k, KeepsItsMutex)


@scenario(source=SOURCE, timers=Timers.ANYTIME, executions=200)
def dl_14_condvar_timeout_ok(k: Kernel) -> None:
    """Whoever waits for a wakeup under way holds nothing."""
    two_waiters(k, Condvar)

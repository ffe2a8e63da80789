"""Linux's read-write semaphore since 2019: writers take it for themselves, and HANDOFF is the end of anybody's patience.

The count has a bit for a writer, a bit WAITERS for a queue that is not empty, and the number of readers. Who finds the queue
empty gets in by one atomic operation. Who does not may still try without queueing for as long as it is likely to succeed
soon (optimistic spinning); else it queues. Readers that wait are granted the semaphore by whoever wakes them; a writer is
only woken, and tries.

So those who wait can be overtaken. Whoever is first in the queue and has waited too long sets HANDOFF: then nobody but the
queue gets in. The bit is inherited by the next in the queue, if its owner leaves; it goes with the last one.

Source: kernel/locking/rwsem.c of Linux 5.16, rwsem_down_read_slowpath, rwsem_down_write_slowpath, rwsem_mark_wake,
rwsem_try_write_lock, rwsem_del_waiter; optimistic spinning of readers as in 5.9. Spinning is one try here. Everybody in the
queue has waited too long once it has slept: time is not modelled. wake_q is: see `_rwsem_xadd`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm import Atomic, Line, SpinMutex, Wake

if TYPE_CHECKING:
    from scenarios.history._rwsem_xadd import Task, WakeQ
    from stressvm import Kernel
else:
    from _rwsem_xadd import Task, WakeQ

WRITER_LOCKED: Final = 1
WAITERS: Final = 2
HANDOFF: Final = 4
READER_BIAS: Final = 0x100
READERS: Final = ~0xFF
LOCKED: Final = WRITER_LOCKED | READERS


class Waiter:
    """struct rwsem_waiter.

    `granted`: a reader's cleared `task`. `waited`: a writer has slept. `handoff`: it has set HANDOFF, or inherited it.
    """

    def __init__(self, k: Kernel, task: Task, name: str, *, write: bool) -> None:
        self.task = task
        self.write = write
        self.granted = Atomic(k, 0, f"{name}.waiter of {k.threads[k.cur].name}")
        self.waited = False
        self.handoff = False


class Rwsem:
    """A read-write semaphore.

    Args:
        k: the kernel.
        name: as reports show it.
        overtakes: how often readers may join others past a writer that queues, until there are none; None: as often as they
            like.

    Attributes:
        reading: how many readers have it; what the count says includes those that are just trying.
        line: the writers that queue.
    """

    def __init__(self, k: Kernel, name: str, overtakes: int | None = None) -> None:
        self.k = k
        self.name = name
        self.count = Atomic(k, 0, f"{name}.count")
        self.wait_lock = SpinMutex(k, f"{name}.wait_lock")
        self.wait_list: list[Waiter] = []
        self.reading = 0
        self.line = Line(k, f"{name}, for writing", overtakes)

    # ------------------------------------------------------------ readers

    async def down_read(self, task: Task, *, killable: bool = False) -> bool:
        """Acquire it for reading; False: killed. Sleeps: while a writer has it, or somebody queues."""
        count = await self.count.fetchadd(READER_BIAS)
        if not count & (WRITER_LOCKED | WAITERS | HANDOFF):
            self.reading += 1
            return True
        adjustment = -READER_BIAS
        if self.reader_spins(count):
            await self.count.fetchadd(-READER_BIAS)
            if await self.try_read_unqueued():
                return True
            adjustment = 0
        waiter = Waiter(self.k, task, self.name, write=False)
        woken = WakeQ()
        await self.wait_lock.lock()
        if not self.wait_list:
            if adjustment and not await self.count.load() & (WRITER_LOCKED | HANDOFF):
                self.reading += 1
                await self.wait_lock.unlock()
                return True
            adjustment += WAITERS
        self.wait_list.append(waiter)
        count = await self.count.fetchadd(adjustment) + adjustment
        if not count & LOCKED or (not count & WRITER_LOCKED and adjustment & WAITERS):
            await self.mark_wake(woken)
        await self.wait_lock.unlock()
        await woken.wake_up()
        return await self.wait_granted(waiter, killable=killable)

    def reader_spins(self, count: int) -> bool:
        """May a reader that was refused at that count try without queueing? Not past a queue if readers have the lock."""
        return not count & READERS

    async def try_read_unqueued(self) -> bool:
        """rwsem_try_read_lock_unqueued: past the queue, unless that has lost its patience. Sleeps: no."""
        if await self.count.load() & (WRITER_LOCKED | HANDOFF):
            return False
        old = await self.count.fetchadd(READER_BIAS)
        if not old & (WRITER_LOCKED | HANDOFF):
            if old & WAITERS and self.reading:
                self.line.got()
            self.reading += 1
            return True
        await self.count.fetchadd(-READER_BIAS)
        return False

    async def wait_granted(self, waiter: Waiter, *, killable: bool) -> bool:
        """Sleep until it is granted; False: killed first."""
        while True:
            token = waiter.task.channel.interlock()
            if await waiter.granted.load():
                return True
            how = await waiter.task.channel.sleep(
                token, self.name, pcatch=killable, until=lambda: bool(waiter.granted.peek())
            )
            if how is Wake.SIGNAL:
                return not await self.out_nolock(waiter)

    async def down_read_trylock(self) -> bool:
        """Acquire it for reading if that is possible at once. Sleeps: no."""
        while not (count := await self.count.load()) & (WRITER_LOCKED | WAITERS | HANDOFF):
            if await self.count.cas(count, count + READER_BIAS):
                self.reading += 1
                return True
        return False

    async def up_read(self) -> None:
        """Let go of a read hold. Sleeps: no."""
        count = await self.count.fetchadd(-READER_BIAS) - READER_BIAS
        self.reading -= 1
        if not self.reading:
            self.line.again()
        if count & (LOCKED | WAITERS) == WAITERS:
            await self.wake()

    # ------------------------------------------------------------ writers

    async def down_write(self, task: Task, *, killable: bool = False) -> bool:
        """Acquire it for writing; False: killed. Sleeps: while anybody has it."""
        if await self.count.cas(0, WRITER_LOCKED) or await self.try_write_unqueued():
            return True
        waiter = Waiter(self.k, task, self.name, write=True)
        woken = WakeQ()
        await self.wait_lock.lock()
        self.wait_list.append(waiter)
        self.line.wait()
        if len(self.wait_list) == 1:
            await self.change(WAITERS, 0)
        elif not await self.count.load() & WRITER_LOCKED:
            await self.mark_wake(woken)
        while True:
            token = task.channel.interlock()
            if await self.try_write_lock(waiter):
                self.wait_list.remove(waiter)
                self.line.leave()
                await self.wait_lock.unlock()
                await woken.wake_up()
                return True
            await self.wait_lock.unlock()
            await woken.wake_up()
            how = await task.channel.sleep(token, self.name, pcatch=killable, until=lambda: self.open_to(waiter))
            if how is Wake.SIGNAL:
                self.line.leave()
                await self.out_nolock(waiter)
                return False
            waiter.waited = True
            await self.wait_lock.lock()

    async def try_write_unqueued(self) -> bool:
        """rwsem_try_write_lock_unqueued: past the queue, unless that has lost its patience. Sleeps: no."""
        while not (count := await self.count.load()) & (LOCKED | HANDOFF):
            if await self.count.cas(count, count | WRITER_LOCKED):
                return True
        return False

    async def try_write_lock(self, waiter: Waiter) -> bool:
        """A writer in the queue tries; if it is the first, and has slept for it in vain, it sets HANDOFF. Locks: wait_lock."""
        while True:
            count = await self.count.load()
            first = self.wait_list[0]
            if count & HANDOFF:
                if first is not waiter:
                    return False
                waiter.handoff = True
            if count & LOCKED:
                if count & HANDOFF or first is not waiter or not waiter.waited:
                    return False
                if await self.count.cas(count, count | HANDOFF):
                    waiter.handoff = True
                    return False
            else:
                new = (count | WRITER_LOCKED) & ~HANDOFF
                if await self.count.cas(count, new & ~WAITERS if len(self.wait_list) == 1 else new):
                    return True

    async def up_write(self) -> None:
        """Let go of the write hold. Sleeps: no."""
        if await self.count.fetchadd(-WRITER_LOCKED) & WAITERS:
            await self.wake()

    # ------------------------------------------------------------ the queue

    async def wake(self) -> None:
        """rwsem_wake. Sleeps: no."""
        woken = WakeQ()
        await self.wait_lock.lock()
        if self.wait_list:
            await self.mark_wake(woken)
        await self.wait_lock.unlock()
        await woken.wake_up()

    async def mark_wake(self, woken: WakeQ) -> None:
        """Wake a writer that is first, or grant it to all readers. Locks: wait_lock. Sleeps: no."""
        if self.wait_list[0].write:
            await woken.add(self.wait_list[0].task)
            return
        if (old := await self.count.fetchadd(READER_BIAS)) & WRITER_LOCKED:
            # A writer was faster. The reader at the head has waited long enough.
            await self.count.fetchadd((0 if old & HANDOFF else HANDOFF) - READER_BIAS)
            return
        readers = [waiter for waiter in self.wait_list if not waiter.write]
        self.wait_list = [waiter for waiter in self.wait_list if waiter.write]
        gone = (HANDOFF if await self.count.load() & HANDOFF else 0) + (0 if self.wait_list else WAITERS)
        await self.count.fetchadd((len(readers) - 1) * READER_BIAS - gone)
        self.reading += len(readers)
        for reader in readers:
            await reader.granted.store(1)
            await woken.add(reader.task)

    async def out_nolock(self, waiter: Waiter) -> bool:
        """A killed waiter leaves the queue; False: it has been granted the semaphore meanwhile. Sleeps: no."""
        woken = WakeQ()
        await self.wait_lock.lock()
        left = waiter in self.wait_list
        if left:
            await self.del_waiter(waiter)
            if self.wait_list:
                await self.mark_wake(woken)
        await self.wait_lock.unlock()
        await woken.wake_up()
        return left

    async def del_waiter(self, waiter: Waiter) -> None:
        """rwsem_del_waiter: out of the queue; with the last one, both bits go. Locks: wait_lock. Sleeps: no."""
        self.wait_list.remove(waiter)
        if not self.wait_list:
            await self.change(0, WAITERS | HANDOFF)

    async def change(self, put: int, away: int) -> None:
        """Set bits of the count, and clear others. Sleeps: no."""
        while not await self.count.cas(count := await self.count.load(), (count | put) & ~away):
            pass

    def open_to(self, waiter: Waiter) -> bool:
        """For the reports: could this writer have it?"""
        count = self.count.peek()
        return not count & LOCKED and (not count & HANDOFF or self.wait_list[0] is waiter)

"""Linux's read-write semaphore before 2019: a count, and a queue of waiters; and tasks, which sleep until they are woken.

The count says how many are active, plus WAITING_BIAS while somebody queues, plus ACTIVE_WRITE_BIAS for a writer, or for one
that is just trying. Who tries adds what it would be; if that does not do, it takes that back under the lock of the queue and
queues. Who lets go of the last hold, while somebody queues, wakes the first in the queue: one writer, or all readers up to
the next writer. The waker grants: a waiter sleeps until its `task` is cleared.

Since 2016 those who are to be woken are put on a list of the waker's, and woken when the queue's lock has been let go of. A
task is on one such list at most: who finds it on another's leaves it there, as it is about to be woken anyhow.

Source: lib/rwsem.c of Linux 2.6.36 (kernel/locking/rwsem-xadd.c since), down_read, down_write, up_read, up_write,
rwsem_down_failed_common, __rwsem_do_wake; kernel/sched/core.c of 4.20, wake_q_add, wake_up_q. Spinning before queueing,
and stealing by writers, are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm import Atomic, SpinMutex

if TYPE_CHECKING:
    from scenarios.history._tsleep import Tsleep
    from stressvm import Kernel
else:
    from _tsleep import Tsleep

ACTIVE_BIAS: Final = 1
ACTIVE_MASK: Final = 0xFFFF
WAITING_BIAS: Final = -0x10000
ACTIVE_WRITE_BIAS: Final = WAITING_BIAS + ACTIVE_BIAS


class Task:
    """A thread as the scheduler sees it: what it sleeps on, and whether it is on somebody's list to be woken."""

    def __init__(self, k: Kernel, name: str) -> None:
        self.channel = Tsleep(k, name)
        #: wake_q.next: is it on a list?
        self.queued = Atomic(k, 0, f"{name}.wake_q")

    async def wake_up(self) -> None:
        """wake_up_process. Sleeps: no."""
        await self.channel.wakeup()


class WakeQ:
    """struct wake_q_head: the tasks that a thread will wake soon."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    async def add(self, task: Task) -> None:
        """wake_q_add: unless somebody else has it on his list. Sleeps: no."""
        if await task.queued.cas(0, 1):
            self.tasks.append(task)

    def take(self, task: Task) -> None:
        """While the world is built: the task is on this list already."""
        task.queued.poke(1)
        self.tasks.append(task)

    async def wake_up(self) -> None:
        """wake_up_q: wake them all. Sleeps: no."""
        while self.tasks:
            task = self.tasks.pop(0)
            await task.queued.store(0)
            await task.wake_up()


class Waiter:
    """struct rwsem_waiter. `granted` is cleared `task`."""

    def __init__(self, k: Kernel, task: Task, name: str, *, write: bool) -> None:
        self.task = task
        self.write = write
        self.granted = Atomic(k, 0, name)


class Rwsem:
    """A read-write semaphore.

    Args:
        k: the kernel.
        name: as reports show it.
    """

    def __init__(self, k: Kernel, name: str) -> None:
        self.k = k
        self.name = name
        self.count = Atomic(k, 0, f"{name}.count")
        self.wait_lock = SpinMutex(k, f"{name}.wait_lock")
        self.wait_list: list[Waiter] = []

    async def down_read(self, task: Task) -> None:
        """Acquire it for reading. Sleeps: while a writer has it, or queues."""
        if await self.count.fetchadd(ACTIVE_BIAS) + ACTIVE_BIAS < 0:
            await self.down_failed(task, -ACTIVE_BIAS, write=False)

    async def down_write(self, task: Task) -> None:
        """Acquire it for writing. Sleeps: while anybody has it, or queues."""
        if await self.count.fetchadd(ACTIVE_WRITE_BIAS):
            await self.down_failed(task, -ACTIVE_WRITE_BIAS, write=True)

    async def up_read(self) -> None:
        """Let go of a read hold. Sleeps: no."""
        count = await self.count.fetchadd(-ACTIVE_BIAS) - ACTIVE_BIAS
        if count < 0 and not count & ACTIVE_MASK:
            await self.wake()

    async def up_write(self) -> None:
        """Let go of the write hold. Sleeps: no."""
        if await self.count.fetchadd(-ACTIVE_WRITE_BIAS) - ACTIVE_WRITE_BIAS < 0:
            await self.wake()

    async def down_failed(self, task: Task, adjustment: int, *, write: bool) -> None:
        """rwsem_down_failed_common: queue, and sleep until it is granted."""
        waiter = Waiter(self.k, task, f"{self.name}.waiter of {self.k.threads[self.k.cur].name}", write=write)
        woken = WakeQ()
        await self.wait_lock.lock()
        if not self.wait_list:
            adjustment += WAITING_BIAS
        self.wait_list.append(waiter)
        count = await self.count.fetchadd(adjustment) + adjustment
        if count == WAITING_BIAS:
            await self.mark_wake(woken)
        elif count > WAITING_BIAS and write:
            await self.last_active_writer(woken)
        await self.wait_lock.unlock()
        await woken.wake_up()
        while True:
            token = task.channel.interlock()
            if await waiter.granted.load():
                return
            await task.channel.sleep(token, f"{self.name}", until=lambda: bool(waiter.granted.peek()))

    async def wake(self) -> None:
        """rwsem_wake: wake whom it concerns. Sleeps: no."""
        woken = WakeQ()
        await self.wait_lock.lock()
        if self.wait_list:
            await self.mark_wake(woken)
        await self.wait_lock.unlock()
        await woken.wake_up()

    async def last_active_writer(self, woken: WakeQ) -> None:
        """A writer queues, and others are active that can be readers only: readers at the head of the queue may go on.

        They have queued because of this very writer, before it was in the queue itself. Locks: wait_lock.
        """
        if not self.wait_list[0].write:
            await self.wake_readers(woken)

    async def mark_wake(self, woken: WakeQ) -> None:
        """__rwsem_do_wake: grant it to the first in the queue, if it can be. Locks: wait_lock. Sleeps: no."""
        first = self.wait_list[0]
        if not first.write:
            if await self.count.load() >= WAITING_BIAS:
                await self.wake_readers(woken)
            return
        adjustment = ACTIVE_WRITE_BIAS - (WAITING_BIAS if len(self.wait_list) == 1 else 0)
        while await self.count.fetchadd(adjustment) & ACTIVE_MASK:
            if await self.count.fetchadd(-adjustment) - adjustment & ACTIVE_MASK:
                return
        self.wait_list.pop(0)
        await self.grant(first, woken)

    async def wake_readers(self, woken: WakeQ) -> None:
        """Grant it to all readers up to the first writer in the queue. Locks: wait_lock. Sleeps: no."""
        readers = []
        while self.wait_list and not self.wait_list[0].write:
            readers.append(self.wait_list.pop(0))
        await self.count.fetchadd(len(readers) * ACTIVE_BIAS - (0 if self.wait_list else WAITING_BIAS))
        for reader in readers:
            await self.grant(reader, woken)

    async def grant(self, waiter: Waiter, woken: WakeQ) -> None:
        """The waiter has it. It may go on, and be gone, from the moment that it is told. Locks: wait_lock. Sleeps: no."""
        await waiter.granted.store(1)
        await woken.add(waiter.task)

"""Linux's rwsem, 2021: two that wait are killed, and the bit that keeps everybody out stays.

A reader at the head of the queue has waited too long, and has HANDOFF set for itself. It is killed, and the next in the
queue inherits the bit: a writer, which does not know, because it has not looked since. That is killed, too. A writer that
leaves clears the bit only if it has set it itself, by its own account, from the time when it last looked. The queue is
empty then, and the bit says that nobody may pass it.

Source: Linux, kernel/locking/rwsem.c, commit d257cc8cb8d5 of November 2021.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario

if TYPE_CHECKING:
    from scenarios.history._rwsem import HANDOFF, WAITERS, Rwsem, Waiter
    from scenarios.history._rwsem_xadd import Task
else:
    from _rwsem import HANDOFF, WAITERS, Rwsem, Waiter
    from _rwsem_xadd import Task

SOURCE = "Linux 5.15, kernel/locking/rwsem.c, rwsem_down_write_slowpath (out_nolock); repaired by d257cc8cb8d5, November 2021"


class OwnAccount(Rwsem):
    """A writer that leaves the queue clears HANDOFF if it remembers to have set it, and only then."""

    async def del_waiter(self, waiter: Waiter) -> None:
        """Readers and writers have it their own ways."""
        self.wait_list.remove(waiter)
        if waiter.write and waiter.handoff:
            await self.count.fetchadd(-HANDOFF)
        if not self.wait_list:
            await self.change(0, WAITERS if waiter.write else WAITERS | HANDOFF)


def both_killed(k: Kernel, cls: type[Rwsem]) -> None:
    """A reader and a writer wait, a second writer takes the lock past them, and they are killed."""
    sem = cls(k, "mmap_lock")

    async def holds() -> None:
        await sem.down_write(Task(k, "holder"))
        reader = k.spawn(reads, name="reader")
        await k.delay(1)
        waiting = k.spawn(writes, name="waiting")
        await k.delay(1)
        late = k.spawn(writes, name="late")
        await sem.up_write()
        k.psignal(reader)
        await k.yield_()
        k.psignal(waiting)
        for thread in (reader, waiting, late):
            await k.join(thread)
        assert await sem.down_read_trylock(), "nobody has it, nobody waits for it, and it cannot be had"
        await sem.up_read()

    async def reads() -> None:
        if await sem.down_read(Task(k, "reader"), killable=True):
            await sem.up_read()

    async def writes() -> None:
        if await sem.down_write(Task(k, k.threads[k.cur].name), killable=True):
            await sem.up_write()

    k.spawn(holds, name="holds")


@scenario(expect="assertion", source=SOURCE, executions=10_000)
def st_04_handoff_left_behind(k: Kernel) -> None:
    """The semaphore is free, and refuses everybody who will not queue."""
    both_killed(k, OwnAccount)


@scenario(source=SOURCE, executions=200)
def st_04_handoff_left_behind_ok(k: Kernel) -> None:
    """Whoever leaves the queue empty clears both bits, whatever it knows."""
    both_killed(k, Rwsem)

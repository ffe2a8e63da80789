"""Linux's rwsem, 2019: a reader is put on the list of those to be woken before it is told that it has the lock.

It is put there first, on the understanding that nobody wakes it before the queue's lock is let go of, and by then it will
have been told. But a task may be on another thread's list already, since it has waited for something else before. Then that
one wakes it, at once; it looks, has not been told, and sleeps again; and the thread that tells it then does not wake it,
because it was on somebody else's list.

Source: Linux, kernel/locking/rwsem-xadd.c, commit 50972fe78f24 of January 2019, which repairs an effect of e38513905eea.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario

if TYPE_CHECKING:
    from scenarios.history._rwsem_xadd import Rwsem, Task, Waiter, WakeQ
else:
    from _rwsem_xadd import Rwsem, Task, Waiter, WakeQ

SOURCE = "Linux 4.20, kernel/locking/rwsem-xadd.c, __rwsem_mark_wake; repaired by 50972fe78f24, January 2019"


class ListsFirst(Rwsem):
    """A waiter is listed to be woken, and told afterwards."""

    async def grant(self, waiter: Waiter, woken: WakeQ) -> None:
        """The wrong way round."""
        await woken.add(waiter.task)
        await waiter.granted.store(1)


def two_wakers(k: Kernel, cls: type[Rwsem]) -> None:
    """A reader waits for a writer; somebody else still has it on his list, for a wait that is over."""
    sem = cls(k, "mmap_sem")
    task = Task(k, "reader")
    woken = WakeQ()
    woken.take(task)

    async def writes() -> None:
        await sem.down_write(Task(k, "writer"))
        k.spawn(reads, name="reads")
        await k.delay(1)
        k.spawn(woken.wake_up, name="wakes")
        await sem.up_write()

    async def reads() -> None:
        await sem.down_read(task)
        await sem.up_read()

    k.spawn(writes, name="writes")


@scenario(expect="lost-wakeup", source=SOURCE)
def uf_08_wakes_too_early(k: Kernel) -> None:
    """The wakeup that counts comes before there is anything to be seen."""
    two_wakers(k, ListsFirst)


@scenario(source=SOURCE, executions=200)
def uf_08_wakes_too_early_ok(k: Kernel) -> None:
    """Told first: whoever wakes it, and whenever, it sees that it has the lock."""
    two_wakers(k, Rwsem)

"""Linux's rwsem, 2010: a reader queues because of a writer that queues behind it, and nobody sees that it could go on.

One thread reads. A writer tries, which shows in the count, and fails. Before it is in the queue a second reader comes, sees
the writer's mark in the count and queues first. Then the writer takes its mark back and queues behind. Now a reader is first
in the queue, readers have the lock, and it waits all the same, until the first reader leaves. If that waits for the second
one, for ever.

Source: Linux, lib/rwsem.c, commit 424acaaeb3a3 of August 2010.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario

if TYPE_CHECKING:
    from scenarios.history._rwsem_xadd import Rwsem, Task, WakeQ
else:
    from _rwsem_xadd import Rwsem, Task, WakeQ

SOURCE = "Linux, lib/rwsem.c, rwsem_down_failed_common; repaired by 424acaaeb3a3, August 2010"


class LooksAtNobody(Rwsem):
    """A writer that queues does not look who is at the head of the queue."""

    async def last_active_writer(self, woken: WakeQ) -> None:
        """Nothing."""


def two_readers(k: Kernel, cls: type[Rwsem]) -> None:
    """One reads until nothing else happens; a writer and another reader come meanwhile."""
    sem = cls(k, "mmap_sem")

    async def long() -> None:
        await sem.down_read(Task(k, "long"))
        k.spawn(writes, name="writes")
        k.spawn(reads, name="reads")
        await k.delay(1)
        await sem.wait_lock.lock()
        first = sem.wait_list[0] if sem.wait_list else None
        await sem.wait_lock.unlock()
        assert first is None or first.write, "readers have the semaphore, and the first in the queue is a reader"
        await sem.up_read()

    async def writes() -> None:
        await sem.down_write(Task(k, "writer"))
        await sem.up_write()

    async def reads() -> None:
        await sem.down_read(Task(k, "reader"))
        await sem.up_read()

    k.spawn(long, name="long")


@scenario(expect="assertion", source=SOURCE)
def ws_05_reader_passed_over(k: Kernel) -> None:
    """The second reader sleeps at the head of the queue, though the first one only reads."""
    two_readers(k, LooksAtNobody)


@scenario(source=SOURCE, executions=200)
def ws_05_reader_passed_over_ok(k: Kernel) -> None:
    """The writer, as it queues, wakes the readers that queue because of it."""
    two_readers(k, Rwsem)

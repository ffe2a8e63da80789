"""Linux's rwsem, 2020: readers that spin keep getting in past a writer that waits, and its patience is never asked.

A writer that has waited too long sets HANDOFF, and then nobody gets past it. But it does so when it is woken, and it is
woken when the last reader has left. Readers that spin in their turn get in while others still read; so there is never a
last one.

Source: Linux, kernel/locking/rwsem.c, commit 2f06f702925b of November 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario

if TYPE_CHECKING:
    from scenarios.history._rwsem import Rwsem
    from scenarios.history._rwsem_xadd import Task
else:
    from _rwsem import Rwsem
    from _rwsem_xadd import Task

SOURCE = "Linux, kernel/locking/rwsem.c, rwsem_down_read_slowpath; repaired by 2f06f702925b, November 2020"


class SpinsPastReaders(Rwsem):
    """A reader that was refused tries without queueing, whoever has the lock."""

    def reader_spins(self, count: int) -> bool:  # noqa: ARG002 - that is the defect
        """Always."""
        return True


def busy_readers(k: Kernel, cls: type[Rwsem], visits: int) -> None:
    """A writer waits for a reader; a second reader comes, and both come again and again.

    To join others that read, past the queue, is possible for those that were refused before the others came: once for each
    but the first. More than that is starvation, of which nothing but the number of visits is the end.
    """
    sem = cls(k, "mmap_lock", overtakes=1)

    async def first() -> None:
        task = Task(k, "first")
        await sem.down_read(task)
        k.spawn(writes, name="writer")
        await k.delay(1)
        k.spawn(reads, Task(k, "second"), name="second")
        await sem.up_read()
        await reads(task)

    async def reads(task: Task) -> None:
        for _ in range(visits):
            await sem.down_read(task)
            await sem.up_read()

    async def writes() -> None:
        await sem.down_write(Task(k, "writer"))
        await sem.up_write()

    k.spawn(first, name="first")


@scenario(expect="starvation", source=SOURCE, executions=10_000)
def st_02_readers_spin_past(k: Kernel, visits: int = 4) -> None:
    """Each joins the other before that one leaves, and the writer sleeps."""
    busy_readers(k, SpinsPastReaders, visits)


@scenario(source=SOURCE, executions=200)
def st_02_readers_spin_past_ok(k: Kernel, visits: int = 4) -> None:
    """While readers have the lock, readers that come later queue."""
    busy_readers(k, Rwsem, visits)

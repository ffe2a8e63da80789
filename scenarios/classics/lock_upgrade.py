"""Two readers who both want to become the writer, and keep what they have."""

from stressvm import Cell, CondVar, Kernel, Mutex, Rw, RwLock, Thread, scenario

SOURCE = "text-book: the upgrade deadlock; why rw_tryupgrade(9) may fail"


@scenario(expect="deadlock", source=SOURCE)
def upgrade_deadlock(k: Kernel) -> None:
    """Each waits until the other has let go of its read hold."""
    lock = Mutex(k, "lock")
    left = CondVar(k, "left")
    readers = Cell(k, 0, "readers")
    threads: list[Thread] = []

    async def update(me: int) -> None:
        await lock.lock()
        await readers.store(await readers.load() + 1)
        await lock.unlock()
        await lock.lock()
        while await readers.load() > 1:
            await left.wait(lock, until=lambda: readers.peek() == 1, holder=lambda: threads[1 - me].number)
        await readers.store(await readers.load() - 1)
        await left.signal()
        await lock.unlock()

    threads.extend(k.spawn(update, me) for me in range(2))


@scenario(source=SOURCE, executions=300)
def upgrade_deadlock_ok(k: Kernel) -> None:
    """Upgrading may be refused; whoever is refused lets go, waits as a writer, and reads again what may have changed."""
    lock = RwLock(k, "lock")
    value = Cell(k, 0, "value")

    async def update() -> None:
        await lock.enter(Rw.READER)
        seen = await value.load()
        if not await lock.tryupgrade():
            await lock.exit()
            await lock.enter(Rw.WRITER)
            seen = await value.load()
        await value.store(seen + 1)
        await lock.exit()

    async def main() -> None:
        for thread in [k.spawn(update) for _ in range(2)]:
            await k.join(thread)
        assert value.peek() == 2, "an update was lost"

    k.spawn(main)

"""A bounded buffer on which producers and consumers share one condition variable."""

from stressvm import Cell, CondVar, Kernel, Mutex, scenario

SOURCE = "text-book; told by T. Cargill for Java's notify, and demonstrated with Coyote"


def exchange(k: Kernel, producers: int, consumers: int, capacity: int, *, wake_all: bool) -> None:
    """Each producer puts, and each consumer takes, one item."""
    lock = Mutex(k, "lock")
    changed = CondVar(k, "changed")
    items = Cell(k, 0, "items")

    async def wake() -> None:
        await (changed.broadcast() if wake_all else changed.signal())

    async def put() -> None:
        await lock.lock()
        while await items.load() == capacity:
            await changed.wait(lock, wmesg="room", until=lambda: items.peek() < capacity)
        await items.store(await items.load() + 1)
        await wake()
        await lock.unlock()

    async def get() -> None:
        await lock.lock()
        while await items.load() == 0:
            await changed.wait(lock, wmesg="item", until=lambda: items.peek() > 0)
        await items.store(await items.load() - 1)
        await wake()
        await lock.unlock()

    for _ in range(producers):
        k.spawn(put)
    for _ in range(consumers):
        k.spawn(get)


@scenario(expect="lost-wakeup", source=SOURCE)
def one_condvar_buffer(k: Kernel, producers: int = 2, consumers: int = 2, capacity: int = 1) -> None:
    """One wakeup for one of many who wait for different things: it reaches one that has no use for it."""
    exchange(k, producers, consumers, capacity, wake_all=False)


@scenario(source=SOURCE, executions=200)
def one_condvar_buffer_ok(k: Kernel, producers: int = 2, consumers: int = 2, capacity: int = 1) -> None:
    """The same with a broadcast."""
    exchange(k, producers, consumers, capacity, wake_all=True)

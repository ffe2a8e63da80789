"""A barrier used a second time, while a thread has not yet left the first."""

from stressvm import Cell, CondVar, Kernel, Mutex, scenario

SOURCE = "text-book: the cyclic barrier, and why it has a generation"


def phases(k: Kernel, threads: int, rounds: int, *, by_generation: bool) -> None:
    """All threads meet `rounds` times; a waiter looks at the count of arrivals, or at the generation."""
    lock = Mutex(k, "lock")
    passed = CondVar(k, "passed")
    arrived = Cell(k, 0, "arrived")
    generation = Cell(k, 0, "generation")

    async def complete(mine: int) -> bool:
        if by_generation:
            return await generation.load() != mine
        return await arrived.load() == 0

    async def meet() -> None:
        await lock.lock()
        mine = await generation.load()
        count = await arrived.load() + 1
        if count == threads:
            await arrived.store(0)
            await generation.store(mine + 1)
            await passed.broadcast()
        else:
            await arrived.store(count)
            while not await complete(mine):
                await passed.wait(lock, until=lambda: generation.peek() != mine)
        await lock.unlock()

    async def thread() -> None:
        for _ in range(rounds):
            await meet()

    for _ in range(threads):
        k.spawn(thread)


@scenario(expect="lost-wakeup", source=SOURCE)
def barrier_reuse(k: Kernel, threads: int = 2, rounds: int = 2) -> None:
    """A quick thread arrives anew before a slow one has looked at the count, and the slow one sleeps on."""
    phases(k, threads, rounds, by_generation=False)


@scenario(source=SOURCE, executions=200)
def barrier_reuse_ok(k: Kernel, threads: int = 2, rounds: int = 2) -> None:
    """The same with a generation, which no arrival takes back."""
    phases(k, threads, rounds, by_generation=True)

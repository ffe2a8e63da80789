"""Inspect's boundedBuffer: a consumer that lets go of the lock between its wait and what it waited for."""

from __future__ import annotations

from stressvm import Cell, CondVar, Kernel, Mutex, scenario

SOURCE = "Inspect_benchmarks/boundedBuffer (Yang, Chen, Gopalakrishnan and Kirby), as in PERIOD's copy"


class BoundedBuffer:
    """A ring of `slots` places, one of which stays free; two condition variables, and counts of who waits on them."""

    def __init__(self, k: Kernel, slots: int) -> None:
        self.slots = slots
        self.mutex = Mutex(k, "mutex")
        self.not_full = CondVar(k, "not_full")
        self.not_empty = CondVar(k, "not_empty")
        self.head = Cell(k, 0, "head")
        self.rear = Cell(k, 0, "rear")
        self.p_wait = Cell(k, 0, "p_wait")
        self.c_wait = Cell(k, 0, "c_wait")

    def full(self) -> bool:
        """Is every place but one taken? Within the step of the caller."""
        return (self.rear.peek() + 1) % self.slots == self.head.peek()

    def empty(self) -> bool:
        """Is nothing there? Within the step of the caller."""
        return self.rear.peek() == self.head.peek()

    async def put(self) -> None:
        """Wait for room, put an item, wake a consumer if one waits."""
        await self.mutex.lock()
        if (await self.rear.load() + 1) % self.slots == await self.head.load():
            await self.p_wait.store(await self.p_wait.load() + 1)
            while (await self.rear.load() + 1) % self.slots == await self.head.load():
                await self.not_full.wait(self.mutex, until=lambda: not self.full())
            await self.p_wait.store(await self.p_wait.load() - 1)
        await self.rear.store((await self.rear.load() + 1) % self.slots)
        if await self.c_wait.load() > 0:
            await self.not_empty.signal()
        await self.mutex.unlock()

    async def get(self) -> None:
        """Wait for an item, take it, wake a producer if one waits."""
        await self.mutex.lock()
        if await self.head.load() == await self.rear.load():
            await self.c_wait.store(await self.c_wait.load() + 1)
            while await self.head.load() == await self.rear.load():
                await self.not_empty.wait(self.mutex, until=lambda: not self.empty())
            await self.c_wait.store(await self.c_wait.load() - 1)
        await self.between()
        assert await self.head.load() != await self.rear.load(), "the item waited for is gone"
        await self.head.store((await self.head.load() + 1) % self.slots)
        if await self.p_wait.load() > 0:
            await self.not_full.signal()
        await self.mutex.unlock()

    async def between(self) -> None:
        """The published fault: the lock is let go and taken again."""
        await self.mutex.unlock()
        await self.mutex.lock()


class Kept(BoundedBuffer):
    """The buffer mended: the lock is kept."""

    async def between(self) -> None:
        """Nothing."""


def exchange(k: Kernel, buffer: BoundedBuffer, pairs: int, items: int) -> None:
    """As many producers as consumers, each of `items`."""
    i = Cell(k, 0, "i")

    async def producer() -> None:
        for _ in range(items):
            await buffer.put()

    async def consumer() -> None:
        for _ in range(items):
            await buffer.get()

    async def main() -> None:
        for number in range(2 * pairs):
            await i.store(number)
            k.spawn(producer if number < pairs else consumer)

    k.spawn(main)


@scenario(expect="assertion", source=SOURCE)
def inspect_bounded_buffer(k: Kernel, pairs: int = 2, items: int = 4, slots: int = 3) -> None:
    """Two consumers have seen the same item; the second one finds the buffer empty.

    Published, mean executions to the bug (20 of 20 trials): SURW 9, URW 7, POS 5, PCT-3 20, PCT-10 6, random walk 7.
    """
    exchange(k, BoundedBuffer(k, slots), pairs, items)


@scenario(source=SOURCE, executions=50)
def inspect_bounded_buffer_ok(k: Kernel, pairs: int = 2, items: int = 4, slots: int = 3) -> None:
    """The same with the lock kept: every item is taken once, and nobody is left waiting."""
    exchange(k, Kept(k, slots), pairs, items)

"""SCTBench CS/queue: a queue that is filled and emptied by turns, and read where nothing was written."""

from stressvm import Cell, Kernel, Mutex, scenario

SOURCE = "SCTBench, CS/queue_bad and queue_ok"


class Fifo:
    """The published queue, with a slot beyond its end that wraps to 1 instead of 0. The caller holds the lock."""

    def __init__(self, k: Kernel, size: int) -> None:
        self.size = size
        self.element = [-1] * (size + 1)
        self.head = Cell(k, 0, "head")
        self.tail = Cell(k, 0, "tail")
        self.amount = Cell(k, 0, "amount")

    async def enqueue(self, value: int) -> None:
        """Write at the tail, whatever is there."""
        tail = await self.tail.load()
        self.element[tail] = value
        await self.amount.store(await self.amount.load() + 1)
        await self.tail.store(1 if tail == self.size else tail + 1)

    async def dequeue(self) -> int:
        """Read at the head, whatever is there."""
        head = await self.head.load()
        value = self.element[head]
        await self.amount.store(await self.amount.load() - 1)
        await self.head.store(1 if head == self.size else head + 1)
        return value


@scenario(expect="assertion", source=SOURCE)
def queue(k: Kernel, size: int = 20) -> None:
    """The reader compares with what was stored in its own round, and rounds that are skipped make them differ.

    Published, mean executions to the bug (20 of 20 trials): SURW 2, URW 2, POS 1, PCT-3 3, PCT-10 2, random walk 1.
    """
    m = Mutex(k, "m")
    fifo = Fifo(k, size)
    stored = [0] * size
    enqueue_flag = Cell(k, value=True, name="enqueue_flag")
    dequeue_flag = Cell(k, value=False, name="dequeue_flag")
    i = Cell(k, 0, "i")

    async def writer() -> None:
        await m.lock()
        await fifo.enqueue(0)
        assert await fifo.head.load() != await fifo.tail.load(), "an element was put, and the queue is empty"
        await m.unlock()
        value = 0
        for number in range(1, size):
            await m.lock()
            if await enqueue_flag.load():
                value += 1
                await fifo.enqueue(value)
                stored[number] = value
                await enqueue_flag.store(value=False)
                await dequeue_flag.store(value=True)
            await m.unlock()

    async def reader() -> None:
        for number in range(size):
            await m.lock()
            if await dequeue_flag.load():
                found = await fifo.dequeue()
                assert found == stored[number], f"round {number} gave {found}, stored was {stored[number]}"
                await dequeue_flag.store(value=False)
                await enqueue_flag.store(value=True)
            await m.unlock()

    async def main() -> None:
        for number, body in enumerate((writer, reader)):
            await i.store(number)
            k.spawn(body)

    k.spawn(main)


@scenario(source=SOURCE, executions=20)
def queue_ok(k: Kernel, size: int = 20) -> None:
    """All is written in one section and read in another, so there is nothing to skip."""
    m = Mutex(k, "m")
    fifo = Fifo(k, size)
    stored = [0] * size
    dequeue_flag = Cell(k, value=False, name="dequeue_flag")
    i = Cell(k, 0, "i")

    async def writer() -> None:
        await m.lock()
        for number in range(size):
            await fifo.enqueue(number + 1)
            stored[number] = number + 1
        await dequeue_flag.store(value=True)
        await m.unlock()

    async def reader() -> None:
        await m.lock()
        if await dequeue_flag.load():
            for number in range(size):
                assert await fifo.dequeue() == stored[number], "not what was stored"
        await m.unlock()

    async def main() -> None:
        for number, body in enumerate((writer, reader)):
            await i.store(number)
            k.spawn(body)

    k.spawn(main)

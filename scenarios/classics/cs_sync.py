"""SCTBench CS/sync01 and sync02: a producer that waits for room which nobody makes."""

from stressvm import Cell, CondVar, Kernel, Mutex, scenario

SOURCE = "SCTBench, CS/sync01_bad, sync01_ok, sync02_bad and sync02_ok"


def one_slot(k: Kernel, items: int, at_first: int, *, takes: bool) -> None:
    """A producer and a consumer of `items` each, `at_first` there at the start; the consumer takes them or only looks."""
    m = Mutex(k, "m")
    empty = CondVar(k, "empty")
    full = CondVar(k, "full")
    num = Cell(k, at_first, "num")
    i = Cell(k, 0, "i")

    async def producer() -> None:
        for _ in range(items):
            await m.lock()
            while await num.load() > 0:
                await empty.wait(m, until=lambda: num.peek() == 0)
            await num.store(await num.load() + 1)
            await m.unlock()
            await full.signal()

    async def consumer() -> None:
        for _ in range(items):
            await m.lock()
            while await num.load() == 0:
                await full.wait(m, until=lambda: num.peek() > 0)
            if takes:
                await num.store(await num.load() - 1)
            await m.unlock()
            await empty.signal()

    async def main() -> None:
        for number, body in enumerate((producer, consumer)):
            await i.store(number)
            k.spawn(body)

    k.spawn(main)


@scenario(expect="exhausted", source=SOURCE)
def sync01(k: Kernel) -> None:
    """The slot is taken from the start, and the consumer only looks: the producer waits for ever, in every schedule.

    Published: SCTBench lists 3 threads and 9 steps, and a deadlock in the first execution.
    """
    one_slot(k, items=1, at_first=1, takes=False)


@scenario(source=SOURCE, executions=200)
def sync01_ok(k: Kernel) -> None:
    """The same with an empty slot, and a consumer that empties it."""
    one_slot(k, items=1, at_first=0, takes=True)


@scenario(expect="exhausted", source=SOURCE)
def sync02(k: Kernel, items: int = 2) -> None:
    """As many as the consumer will ever take are there from the start: the producer's second one finds no room.

    Published: SCTBench lists 3 threads and 18 steps, and a deadlock in the first execution.
    """
    one_slot(k, items=items, at_first=items, takes=True)


@scenario(source=SOURCE, executions=100)
def sync02_ok(k: Kernel, items: int = 5) -> None:
    """The same with an empty slot at the start (the published program hands over 20)."""
    one_slot(k, items=items, at_first=0, takes=True)

"""SCTBench CS/arithmetic_prog: a producer and a consumer with one slot; the consumer sums up what it counted."""

from stressvm import Cell, CondVar, Kernel, Mutex, scenario

SOURCE = "SCTBench, CS/arithmetic_prog_bad and arithmetic_prog_ok"


def progression(k: Kernel, items: int, *, equal: bool) -> None:
    """Hand over `items` units one at a time; then main asserts that the sum is, or is not, that of the progression."""
    m = Mutex(k, "m")
    empty = CondVar(k, "empty")
    full = CondVar(k, "full")
    num = Cell(k, 0, "num")
    total = Cell(k, 0, "total")

    async def produce() -> None:
        for _ in range(items):
            await m.lock()
            while await num.load() > 0:
                await empty.wait(m, until=lambda: num.peek() == 0)
            await num.store(await num.load() + 1)
            await m.unlock()
            await full.signal()

    async def consume() -> None:
        for item in range(items):
            await m.lock()
            while await num.load() == 0:
                await full.wait(m, until=lambda: num.peek() > 0)
            await total.store(await total.load() + item)
            await num.store(await num.load() - 1)
            await m.unlock()
            await empty.signal()
        await total.store(await total.load() + items)

    async def main() -> None:
        i = Cell(k, 0, "i")
        threads = []
        for number, body in enumerate((produce, consume)):
            await i.store(number)
            threads.append(k.spawn(body))
        for thread in threads:
            await k.join(thread)
        found = await total.load()
        assert (found == items * (items + 1) // 2) is equal, f"the sum is {found}"

    k.spawn(main)


@scenario(expect="assertion", source=SOURCE)
def arithmetic_prog(k: Kernel, items: int = 3) -> None:
    """What main asserts is wrong in every schedule: a program on which any tool needs one execution.

    Published: SCTBench lists 3 threads and 20 steps; its bug shows in the first execution.
    """
    progression(k, items, equal=False)


@scenario(source=SOURCE, executions=200)
def arithmetic_prog_ok(k: Kernel, items: int = 4) -> None:
    """The same with the right assertion: every unit is handed over, and no wakeup is lost."""
    progression(k, items, equal=True)

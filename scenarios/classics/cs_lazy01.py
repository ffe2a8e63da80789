"""SCTBench CS/lazy01: a sum that reaches three when both summands are in before the observer looks."""

from stressvm import Cell, Kernel, Mutex, scenario


@scenario(expect="assertion", source="SCTBench, CS/lazy01_bad; order of creation as in PERIOD's copy")
def lazy01(k: Kernel) -> None:
    """One thread adds 1, one adds 2, all under one lock; the third asserts that the sum is below 3.

    Published, mean executions to the bug (20 of 20 trials): SURW 2, URW 4, POS 5, PCT-3 5, PCT-10 5, random walk 21.
    """
    mutex = Mutex(k, "mutex")
    data = Cell(k, 0, "data")
    i = Cell(k, 0, "i")

    async def add(by: int) -> None:
        await mutex.lock()
        await data.store(await data.load() + by)
        await mutex.unlock()

    async def thread1() -> None:
        await add(1)

    async def thread2() -> None:
        await add(2)

    async def thread3() -> None:
        await mutex.lock()
        assert await data.load() < 3, "both have added"
        await mutex.unlock()

    async def main() -> None:
        for number, body in enumerate((thread3, thread2, thread1)):
            await i.store(number)
            k.spawn(body)

    k.spawn(main)

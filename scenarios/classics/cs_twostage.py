"""SCTBench CS/twostage and twostage_20 to twostage_100: two values that belong together, each under its own lock."""

from stressvm import Cell, Kernel, Mutex, scenario

SOURCE = "SCTBench, CS/twostage_bad and twostage_100_bad (Farchi, Nir and Ur, 2003); sizes 20 and 50 from PERIOD"


@scenario(expect="assertion", source=SOURCE)
def twostage(k: Kernel, writers: int = 1, readers: int = 1) -> None:
    """A writer sets the first value, then the second from the first; a reader between the two sees a pair that is none.

    Main creates the writers first, so with many of them the reader must come while not one has done its second stage.

    Published sizes (writers + readers): twostage is 1 + 1, twostage_20 10 + 10, twostage_50 40 + 10, twostage_100
    99 + 1.

    Published, mean executions to the bug, for 2, 20, 50 and 100 threads: SURW 8, 6, 20 and 454, each in 20 of 20
    trials; URW 9, 24, 93 and 2,992 (18 of 20); POS 15, 156, 1,637 and 6,674 (3 of 20); PCT-3 13, 159, 1,676 and 7,466
    (3 of 20); random walk 464 and never.
    """
    lock1 = Mutex(k, "data1.lock")
    lock2 = Mutex(k, "data2.lock")
    data1 = Cell(k, 0, "data1")
    data2 = Cell(k, 0, "data2")
    i = Cell(k, 0, "i")

    async def writer() -> None:
        await lock1.lock()
        await data1.store(1)
        await lock1.unlock()
        await lock2.lock()
        await data2.store(await data1.load() + 1)
        await lock2.unlock()

    async def reader() -> None:
        await lock1.lock()
        if await data1.load() == 0:
            await lock1.unlock()
            return
        first = await data1.load()
        await lock1.unlock()
        await lock2.lock()
        second = await data2.load()
        await lock2.unlock()
        assert second == first + 1, f"{first} and {second} do not belong together"

    async def main() -> None:
        for number in range(writers + readers):
            await i.store(number)
            k.spawn(writer if number < writers else reader)

    k.spawn(main)


@scenario(source=SOURCE, executions=300)
def twostage_ok(k: Kernel, writers: int = 1, readers: int = 1) -> None:
    """The same with the first lock kept over both stages."""
    lock1 = Mutex(k, "data1.lock")
    lock2 = Mutex(k, "data2.lock")
    data1 = Cell(k, 0, "data1")
    data2 = Cell(k, 0, "data2")
    i = Cell(k, 0, "i")

    async def writer() -> None:
        await lock1.lock()
        await data1.store(1)
        await lock2.lock()
        await data2.store(await data1.load() + 1)
        await lock2.unlock()
        await lock1.unlock()

    async def reader() -> None:
        await lock1.lock()
        first = await data1.load()
        if first:
            await lock2.lock()
            assert await data2.load() == first + 1, "they do not belong together"
            await lock2.unlock()
        await lock1.unlock()

    async def main() -> None:
        for number in range(writers + readers):
            await i.store(number)
            k.spawn(writer if number < writers else reader)

    k.spawn(main)

"""SCTBench CS/token_ring: three stations copy from each other once; a fourth expects them to agree."""

from stressvm import Cell, Kernel, Mutex, scenario


@scenario(expect="assertion", source="SCTBench, CS/token_ring_bad")
def token_ring(k: Kernel) -> None:
    """Only one order of the three makes them equal; the observer fails after any other.

    Published, mean executions to the bug (20 of 20 trials): SURW 8, URW 9, POS 9, PCT-3 8, PCT-10 8, random walk 13.
    """
    atomic = Mutex(k, "atomic")
    station = [Cell(k, value, f"x{number}") for number, value in enumerate((1, 2, 1), 1)]
    flag = [Cell(k, value=False, name=f"flag{number}") for number in (1, 2, 3)]
    i = Cell(k, 0, "i")

    async def copy(to: int, plus: int) -> None:
        await atomic.lock()
        await station[to].store((await station[to - 1].load() + plus) % 4)
        await flag[to].store(value=True)
        await atomic.unlock()

    async def observe() -> None:
        await atomic.lock()
        if await flag[0].load() and await flag[1].load() and await flag[2].load():
            assert await station[0].load() == await station[1].load() == await station[2].load(), "they disagree"
        await atomic.unlock()

    async def main() -> None:
        for number in range(3):
            await i.store(number)
            k.spawn(copy, number, 1 if number == 0 else 0)
        await i.store(3)
        k.spawn(observe)

    k.spawn(main)

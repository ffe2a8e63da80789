"""SCTBench CS/deadlock01: two locks taken in opposite orders, the deadlock that every textbook has."""

from stressvm import Cell, Kernel, Mutex, scenario

SOURCE = "SCTBench, CS/deadlock01_bad"


def two_locks(k: Kernel, *, same_order: bool) -> None:
    """One thread takes a and b, the other b and a, or a and b as well."""
    a = Mutex(k, "a")
    b = Mutex(k, "b")
    counter = Cell(k, 1, "counter")
    i = Cell(k, 0, "i")

    async def change(outer: Mutex, inner: Mutex, by: int) -> None:
        await outer.lock()
        await inner.lock()
        await counter.store(await counter.load() + by)
        await inner.unlock()
        await outer.unlock()

    async def up() -> None:
        await change(a, b, 1)

    async def down() -> None:
        await (change(a, b, -1) if same_order else change(b, a, -1))

    async def main() -> None:
        for number, body in enumerate((up, down)):
            await i.store(number)
            k.spawn(body)

    k.spawn(main)


@scenario(expect="deadlock", source=SOURCE)
def deadlock01(k: Kernel) -> None:
    """Each holds what the other wants: ABBA.

    Published, mean executions to the bug (20 of 20 trials): SURW 2, URW 3, POS 4, PCT-3 13, PCT-10 7, random walk 3.
    """
    two_locks(k, same_order=False)


@scenario(source=SOURCE, executions=300)
def deadlock01_ok(k: Kernel) -> None:
    """The same with one order for both."""
    two_locks(k, same_order=True)

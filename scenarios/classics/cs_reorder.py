"""SCTBench CS/reorder_3 to reorder_100: two stores without a lock, and a checker that must come between them."""

from stressvm import Cell, Kernel, Mutex, scenario

SOURCE = "SCTBench, CS/reorder_bad; sizes 50 and 100 from PERIOD"


@scenario(expect="assertion", source=SOURCE)
def reorder(k: Kernel, setters: int = 2, checkers: int = 1) -> None:
    """A setter stores a, then b; a checker must see both or neither.

    The bug shows only if a checker runs after the first store of a and before the first store of b by *any* setter.
    Main creates the setters first and the checkers last: the more setters there are, the more of them must be held
    back until a checker exists.

    Published sizes (setters + checkers): reorder_3 is 2 + 1, reorder_4 3 + 1, reorder_5 4 + 1, reorder_10 9 + 1,
    reorder_20 10 + 10, reorder_50 40 + 10, reorder_100 99 + 1.

    Published, mean executions to the bug, for 3, 4, 5, 10, 20, 50 and 100: SURW 7, 7, 10, 17, 6, 13 and 194, each in
    20 of 20 trials; PCT-3 185, 554, 647, 3,225 (16 of 20), 3,005, 3,304 (6 of 20) and never; POS 86, 533, 2,169 and
    never from 10 on; random walk never.
    """
    a = Cell(k, 0, "a")
    b = Cell(k, 0, "b")
    i = Cell(k, 0, "i")

    async def setter() -> None:
        await a.store(1)
        await b.store(-1)

    async def checker() -> None:
        neither = await a.load() == 0 and await b.load() == 0
        both = neither or (await a.load() == 1 and await b.load() == -1)
        assert both, "a is set and b is not"

    async def main() -> None:
        for number in range(setters + checkers):
            await i.store(number)
            k.spawn(setter if number < setters else checker)

    k.spawn(main)


@scenario(source=SOURCE, executions=300)
def reorder_ok(k: Kernel, setters: int = 2, checkers: int = 1) -> None:
    """The same under a lock."""
    m = Mutex(k, "m")
    a = Cell(k, 0, "a")
    b = Cell(k, 0, "b")
    i = Cell(k, 0, "i")

    async def setter() -> None:
        await m.lock()
        await a.store(1)
        await b.store(-1)
        await m.unlock()

    async def checker() -> None:
        await m.lock()
        assert (await a.load(), await b.load()) in ((0, 0), (1, -1)), "a is set and b is not"
        await m.unlock()

    async def main() -> None:
        for number in range(setters + checkers):
            await i.store(number)
            k.spawn(setter if number < setters else checker)

    k.spawn(main)

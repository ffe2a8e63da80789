"""SCTBench CS/wronglock and wronglock_3: both sides lock, but not the same lock."""

from stressvm import Cell, Kernel, Mutex, scenario

SOURCE = "SCTBench, CS/wronglock_bad and wronglock_3_bad (Farchi, Nir and Ur, 2003)"


def two_sides(k: Kernel, right: int, wrong: int, *, one_lock: bool) -> None:
    """`right` threads check their increment under one lock; `wrong` ones increment under another, or the same."""
    data_lock = Mutex(k, "data.lock")
    this_lock = data_lock if one_lock else Mutex(k, "this.lock")
    value = Cell(k, 0, "data")
    i = Cell(k, 0, "i")

    async def checked() -> None:
        await data_lock.lock()
        before = await value.load()
        await value.store(await value.load() + 1)
        after = await value.load()
        assert after == before + 1, f"{before} plus one became {after}"
        await data_lock.unlock()

    async def unchecked() -> None:
        await this_lock.lock()
        await value.store(await value.load() + 1)
        await this_lock.unlock()

    async def main() -> None:
        for number in range(right + wrong):
            await i.store(number)
            k.spawn(checked if number < right else unchecked)

    k.spawn(main)


@scenario(expect="assertion", source=SOURCE)
def wronglock(k: Kernel, right: int = 1, wrong: int = 3) -> None:
    """An increment under the other lock comes between.

    Published sizes (right + wrong): wronglock is 1 + 7, wronglock_3 1 + 3.

    Published, mean executions to the bug (20 of 20 trials), for 7 and 3: SURW 7 and 9, URW 4 and 5, POS 10 and 11,
    PCT-3 51 and 58, PCT-10 20 and 14, random walk 36 and 36.
    """
    two_sides(k, right, wrong, one_lock=False)


@scenario(source=SOURCE, executions=200)
def wronglock_ok(k: Kernel, right: int = 1, wrong: int = 3) -> None:
    """The same with one lock."""
    two_sides(k, right, wrong, one_lock=True)

"""SCTBench CS/carter01: two classes of users share one lock for counting and one for the room."""

from stressvm import Cell, Kernel, Mutex, scenario

SOURCE = "SCTBench, CS/carter01_bad"


def two_classes(k: Kernel, counting_a: Mutex, counting_b: Mutex) -> None:
    """The first user of a class takes the room, the last one gives it back; two more threads do nothing."""
    room = Mutex(k, "l")
    users_a = Cell(k, 0, "A")
    users_b = Cell(k, 0, "B")
    i = Cell(k, 0, "i")

    async def use(counting: Mutex, users: Cell[int]) -> None:
        await counting.lock()
        await users.store(await users.load() + 1)
        if await users.load() == 1:
            await room.lock()
        await counting.unlock()
        await counting.lock()
        await users.store(await users.load() - 1)
        if await users.load() == 0:
            await room.unlock()
        await counting.unlock()

    async def class_a() -> None:
        await use(counting_a, users_a)

    async def class_b() -> None:
        await use(counting_b, users_b)

    async def idle() -> None:
        """One of the two threads that only make the choice wider."""

    async def main() -> None:
        for number, body in enumerate((class_a, class_b, idle, idle)):
            await i.store(number)
            k.spawn(body)

    k.spawn(main)


@scenario(expect="deadlock", source=SOURCE)
def carter01(k: Kernel) -> None:
    """One thread has the room and wants to count, the other is counting and wants the room.

    Published, mean executions to the bug (20 of 20 trials): POS 2, PCT-3 5, PCT-10 3, random walk 1.
    """
    m = Mutex(k, "m")
    two_classes(k, m, m)


@scenario(source=SOURCE, executions=300)
def carter01_ok(k: Kernel) -> None:
    """Each class counts under a lock of its own: whoever waits for the room keeps nobody from leaving it."""
    two_classes(k, Mutex(k, "ma"), Mutex(k, "mb"))

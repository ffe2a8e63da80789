"""SCTBench CS/stack: a flag says that the stack has been used, and is read as if it said that something is there."""

from stressvm import Cell, Kernel, Mutex, scenario

SOURCE = "SCTBench, CS/stack_bad and stack_ok"


def push_and_pop(k: Kernel, size: int, *, by_flag: bool) -> None:
    """One thread pushes `size` elements, the other pops as often when the flag is set, or when there is something."""
    m = Mutex(k, "m")
    top = Cell(k, 0, "top")
    flag = Cell(k, value=False, name="flag")
    elements = [0] * size
    i = Cell(k, 0, "i")

    async def pusher() -> None:
        for number in range(size):
            await m.lock()
            at = await top.load()
            assert at < size, "overflow"
            elements[at] = number
            await top.store(at + 1)
            await flag.store(value=True)
            await m.unlock()

    async def popper() -> None:
        for _ in range(size):
            await m.lock()
            if await flag.load() if by_flag else await top.load() > 0:
                at = await top.load()
                assert at > 0, "underflow"
                await top.store(at - 1)
            await m.unlock()

    async def main() -> None:
        for number, body in enumerate((pusher, popper)):
            await i.store(number)
            k.spawn(body)

    k.spawn(main)


@scenario(expect="assertion", source=SOURCE)
def stack(k: Kernel, size: int = 10) -> None:
    """The flag is never reset: once it is set, the popper pops whatever it finds, or nothing.

    Published, mean executions to the bug (20 of 20 trials unless said otherwise): SURW 5, URW 986 (19 of 20), POS 2,
    PCT-3 3, PCT-10 3, random walk 176.
    """
    push_and_pop(k, size, by_flag=True)


@scenario(source=SOURCE, executions=150)
def stack_ok(k: Kernel, size: int = 10) -> None:
    """The same with a popper that looks at the stack."""
    push_and_pop(k, size, by_flag=False)

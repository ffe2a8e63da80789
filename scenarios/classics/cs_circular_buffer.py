"""SCTBench CS/circular_buffer: sender and receiver take turns by flags, and skip a turn that is not theirs."""

from stressvm import Cell, Kernel, Mutex, scenario

SOURCE = "SCTBench, CS/circular_buffer_bad"


def turns(k: Kernel, rounds: int, *, by_round: bool) -> None:
    """The receiver expects its round number (as published), or the next of those sent."""
    m = Mutex(k, "m")
    send = Cell(k, value=True, name="send")
    receive = Cell(k, value=False, name="receive")
    first = Cell(k, 0, "first")
    following = Cell(k, 0, "next")
    buffer: list[int] = []
    sent: list[int] = []
    i = Cell(k, 0, "i")

    async def sender() -> None:
        for number in range(rounds):
            await m.lock()
            if await send.load():
                buffer.append(number)
                sent.append(number)
                await following.store(await following.load() + 1)
                await send.store(value=False)
                await receive.store(value=True)
            await m.unlock()

    async def receiver() -> None:
        for number in range(rounds):
            await m.lock()
            if await receive.load():
                at = await first.load()
                assert await following.load() > at, "nothing is in the buffer"
                await first.store(at + 1)
                expected = number if by_round else sent.pop(0)
                assert buffer[at] == expected, f"received {buffer[at]} where {expected} was expected"
                await receive.store(value=False)
                await send.store(value=True)
            await m.unlock()

    async def main() -> None:
        for number, body in enumerate((sender, receiver)):
            await i.store(number)
            k.spawn(body)

    k.spawn(main)


@scenario(expect="assertion", source=SOURCE)
def circular_buffer(k: Kernel, rounds: int = 7) -> None:
    """Whoever finds that it is not its turn has used up a round: numbers sent and rounds of the receiver drift apart.

    Published, mean executions to the bug (20 of 20 trials): SURW 3, URW 14, POS 2, PCT-3 9, PCT-10 5, random walk 4.
    """
    turns(k, rounds, by_round=True)


@scenario(source=SOURCE, executions=200)
def circular_buffer_ok(k: Kernel, rounds: int = 7) -> None:
    """The same with a receiver that expects what was sent next, in whichever round that is."""
    turns(k, rounds, by_round=False)

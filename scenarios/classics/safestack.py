"""SafeStack: a lock-free stack of three indices, the hardest of SCTBench's programs."""

from stressvm import Atomic, Cell, Kernel, scenario


@scenario(
    source="SCTBench, safestack (D. Vyukov: a bug with five preemptions); as in PERIOD's copy",
    max_steps=2_000,
    executions=300,
)
def safestack(k: Kernel, threads: int = 2, rounds: int = 2, slots: int = 3) -> None:
    """Threads take an index, write to its slot alone, and put it back; with three threads, two come to own one slot.

    A pop claims an element by taking its link away, and puts the link back if it came too late: by then the element may
    be somebody else's again. That takes three threads and at least seven preemptions until the assertion fails (a
    search through all states of the program finds no schedule with fewer). So the two threads of the default are
    clean, and nothing is declared; `--param threads=3` is the published program, and a hunt that finds its bug reports
    an assertion.

    Published, mean executions to the bug within 1,000,000: SURW 368,921 (19 of 20 trials); no other strategy in any
    trial. SCTBench lists 4 threads and 117 steps.
    """
    head = Atomic(k, 0, "head")
    count = Atomic(k, slots, "count")
    following = [Atomic(k, slot + 1 if slot + 1 < slots else -1, f"next{slot}") for slot in range(slots)]
    value = [Cell(k, -1, f"value{slot}") for slot in range(slots)]
    i = Cell(k, 0, "i")

    async def pop() -> int:
        while await count.load() > 1:
            first = await head.load()
            link = await following[first].swap(-1)
            if link < 0:
                await k.yield_()
            elif await head.cas(first, link):
                await count.fetchadd(-1)
                return first
            else:
                await following[first].swap(link)
        return -1

    async def push(index: int) -> None:
        first = await head.load()
        await following[index].store(first)
        while not await head.cas(first, index):
            # A failed compare-and-exchange gives the value found; nothing comes between.
            first = head.peek()
            await following[index].store(first)
        await count.fetchadd(1)

    async def thread(own: int) -> None:
        for _ in range(rounds):
            index = await pop()
            while index < 0:
                await k.yield_()
                index = await pop()
            await value[index].store(own)
            assert await value[index].load() == own, f"slot {index} has two owners"
            await push(index)

    async def main() -> None:
        for number in range(threads):
            await i.store(number)
            k.spawn(thread, number)

    k.spawn(main)

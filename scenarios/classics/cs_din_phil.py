"""SCTBench CS/din_phil2 to din_phil7: philosophers who eat one by one and then count themselves."""

from stressvm import Cell, Kernel, Mutex, scenario

SOURCE = "SCTBench, CS/din_phil2_sat to din_phil7_sat; for philosophers who can starve see dining_philosophers"


@scenario(expect="assertion", source=SOURCE)
def din_phil(k: Kernel, philosophers: int = 2) -> None:
    """The last one to count asserts that it is not there, so the bug shows in (nearly) every schedule.

    Both forks are taken inside one atomic section. Up to four philosophers count without a lock, as published, so that
    a lost count can hide the bug; more of them count inside another atomic section.

    Published: SCTBench lists, for 2 to 7 philosophers, 3 to 8 threads and 21, 32, 43, 39, 49 and 59 steps; the bug
    shows in the first execution.
    """
    atomic = Mutex(k, "atomic")
    forks = [Mutex(k, f"fork{number}") for number in range(philosophers)]
    phil = Cell(k, 0, "phil")
    i = Cell(k, 0, "i")

    async def count() -> None:
        await phil.store(await phil.load() + 1)
        assert await phil.load() != philosophers, "everybody has eaten"

    async def philosopher(left: int) -> None:
        right = (left + 1) % philosophers
        await atomic.lock()
        await forks[right].lock()
        await forks[left].lock()
        await forks[left].unlock()
        await forks[right].unlock()
        await atomic.unlock()
        if philosophers <= 4:
            await count()
            return
        await atomic.lock()
        await count()
        await atomic.unlock()

    async def main() -> None:
        for number in range(philosophers):
            await i.store(number)
            k.spawn(philosopher, number)

    k.spawn(main)

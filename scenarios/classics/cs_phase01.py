"""SCTBench CS/phase01: a lock that is never given back."""

from stressvm import Cell, Kernel, Mutex, scenario


@scenario(expect="lock-held-at-exit", source="SCTBench, CS/phase01_bad")
def phase01(k: Kernel) -> None:
    """Each of two threads takes x, gives it back, takes it again and ends; the other waits for ever.

    The published verdict is the deadlock of the second thread. Here its cause is told: the first one ended with the
    lock.

    Published: SCTBench lists 3 threads and 11 steps; the bug shows in the first execution.
    """
    x = Mutex(k, "x")
    y = Mutex(k, "y")
    i = Cell(k, 0, "i")

    async def thread() -> None:
        await x.lock()
        await x.unlock()
        await x.lock()
        for _ in range(2):
            await y.lock()
            await y.unlock()

    async def main() -> None:
        for number in range(2):
            await i.store(number)
            k.spawn(thread)

    k.spawn(main)

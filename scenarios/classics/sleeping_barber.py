"""Dijkstra's barber, who looks whether anybody waits and then goes to sleep."""

from stressvm import Cell, CondVar, Kernel, Mutex, scenario

SOURCE = "E. W. Dijkstra, 1965"


def shop(k: Kernel, *, customer_locks: bool) -> None:
    """One customer, one barber; the customer sits down and rings, under the lock or without it."""
    lock = Mutex(k, "lock")
    bell = CondVar(k, "bell")
    waiting = Cell(k, 0, "waiting")

    async def barber() -> None:
        await lock.lock()
        while await waiting.load() == 0:
            await bell.wait(lock, until=lambda: waiting.peek() > 0)
        await waiting.store(await waiting.load() - 1)
        await lock.unlock()

    async def customer() -> None:
        if customer_locks:
            await lock.lock()
        await waiting.store(await waiting.load() + 1)
        await bell.signal()
        if customer_locks:
            await lock.unlock()

    k.spawn(barber)
    k.spawn(customer)


@scenario(expect="lost-wakeup", source=SOURCE)
def sleeping_barber(k: Kernel) -> None:
    """The customer rings after the barber has looked and before he sleeps: nobody hears it."""
    shop(k, customer_locks=False)


@scenario(source=SOURCE, executions=300)
def sleeping_barber_ok(k: Kernel) -> None:
    """Under the lock there is nothing between the look and the sleep."""
    shop(k, customer_locks=True)

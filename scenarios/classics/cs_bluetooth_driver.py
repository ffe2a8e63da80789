"""SCTBench CS/bluetooth_driver: a driver is stopped between the look at its stopping flag and the count of its user."""

from stressvm import Atomic, Cell, Kernel, Mutex, scenario

SOURCE = "SCTBench, CS/bluetooth_driver_bad (Qadeer and Wu, PLDI 2004); threads as in PERIOD's copy"


class Driver:
    """The device extension: users and stoppers count themselves in `pending_io`; the last one out sets the event."""

    def __init__(self, k: Kernel) -> None:
        self.atomic = Mutex(k, "atomic")
        self.pending_io = Cell(k, 1, "pending_io")
        # Single words that the driver reads and sets without a lock, on purpose; the event is the kernel's.
        self.stopping_flag = Atomic(k, value=False, name="stopping_flag")
        self.stopping_event = Atomic(k, value=False, name="stopping_event")
        self.stopped = Atomic(k, value=False, name="stopped")

    async def increment(self) -> bool:
        """Look at the flag, then count, in two steps; False: the driver is being stopped."""
        if await self.stopping_flag.load():
            return False
        await self.atomic.lock()
        await self.pending_io.store(await self.pending_io.load() + 1)
        await self.atomic.unlock()
        return True

    async def decrement(self) -> None:
        """One user less; the last one sets the event."""
        await self.atomic.lock()
        left = await self.pending_io.load() - 1
        await self.pending_io.store(left)
        await self.atomic.unlock()
        if left == 0:
            await self.stopping_event.store(value=True)

    async def add(self) -> None:
        """A user: works with the driver, which must not be stopped meanwhile."""
        if await self.increment():
            assert not await self.stopped.load(), "the driver was stopped under its user"
        await self.decrement()

    async def stop(self) -> None:
        """Stop the driver, if nobody uses it."""
        await self.stopping_flag.store(value=True)
        await self.decrement()
        if await self.stopping_event.load():
            await self.stopped.store(value=True)


class CountedFirst(Driver):
    """The driver mended: the flag is looked at and the user counted in one step."""

    async def increment(self) -> bool:
        """Both under the lock."""
        await self.atomic.lock()
        stopping = await self.stopping_flag.load()
        if not stopping:
            await self.pending_io.store(await self.pending_io.load() + 1)
        await self.atomic.unlock()
        return not stopping


def one_user(k: Kernel, driver: Driver) -> None:
    """Main creates the stopper, then the user."""
    i = Cell(k, 0, "i")

    async def main() -> None:
        for number, body in enumerate((driver.stop, driver.add)):
            await i.store(number)
            k.spawn(body)

    k.spawn(main)


@scenario(expect="assertion", source=SOURCE)
def bluetooth_driver(k: Kernel) -> None:
    """The user passes the flag, the stopper sees no user and stops, and the user works with a stopped driver.

    Published, mean executions to the bug (20 of 20 trials unless said otherwise): SURW 70, URW 1,494 (19 of 20),
    POS 36, PCT-3 112, PCT-10 83, random walk 215.
    """
    one_user(k, Driver(k))


@scenario(source=SOURCE, executions=300)
def bluetooth_driver_ok(k: Kernel) -> None:
    """The same with a user that is counted in the step in which it looks at the flag."""
    one_user(k, CountedFirst(k))

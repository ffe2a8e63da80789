"""DragonFly's wakeup, 2017: it looks whether anybody sleeps before the reason to wake them can be seen.

To be quick when nobody sleeps, wakeup reads a mask of the processors that have sleepers on its channel. A processor may
perform that read while the store of the new state, which comes before it in the program, still waits in its store buffer.
A thread that is about to sleep puts itself into the mask, looks at the state, sees the old one, and sleeps: each has looked
at what the other had not yet shown. A fence between the store and the read is what was missing.

Source: DragonFly, sys/kern/kern_synch.c, commit e676ebdaf2 of August 2017. The store buffer is modelled here: a store may be
performed at once, or as late as the processor's next fence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Atomic, Kernel, SleepQueue, SpinMutex, scenario

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = "DragonFly, sys/kern/kern_synch.c, _wakeup; repaired by e676ebdaf2, August 2017"


class StoreBuffer:
    """What a processor has stored, and others do not see yet; as on x86, in order.

    Args:
        k: the kernel.
    """

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.pending: list[tuple[Atomic, int]] = []

    async def store(self, cell: Atomic, value: int) -> None:
        """A plain store: it may take effect now or later."""
        self.pending.append((cell, value))
        if self.k.choose(2):
            await self.fence()

    async def fence(self) -> None:
        """cpu_mfence: all stores take effect, as they do by themselves in the end."""
        while self.pending:
            cell, value = self.pending.pop(0)
            await cell.store(value)


class Channel:
    """A wait channel, and the mask of the processors that have sleepers on it."""

    def __init__(self, k: Kernel) -> None:
        self.mask = Atomic(k, 0, "slpque_cpumasks")
        self.lock = SpinMutex(k, "sleep queue lock")
        self.queue = SleepQueue(k, "channel")

    async def tsleep(self, awake: Callable[[], bool], look: Atomic) -> None:
        """Sleep unless the state has changed: into the mask first, by an atomic operation, which is a fence; then look."""
        await self.lock.lock()
        await self.mask.swap(1)
        if await look.load():
            await self.lock.unlock()
            return
        await self.queue.sleep(self.lock, "state", pdrop=True, until=awake)

    async def wakeup(self, buffer: StoreBuffer) -> None:
        """Wake all sleepers, if there may be any."""
        await self.before_the_mask(buffer)
        if await self.mask.load():
            await self.lock.lock()
            await self.mask.store(0)
            await self.queue.wakeup()
            await self.lock.unlock()

    async def before_the_mask(self, buffer: StoreBuffer) -> None:
        """What the caller has stored must be seen before the mask is read."""
        await buffer.fence()


class NoFence(Channel):
    """The mask is read as soon as the processor likes."""

    async def before_the_mask(self, buffer: StoreBuffer) -> None:
        """Nothing."""


def one_store(k: Kernel, cls: type[Channel]) -> None:
    """One thread waits for a state that another one stores."""
    state = Atomic(k, 0, "state")
    channel = cls(k)

    async def waits() -> None:
        while not await state.load():
            await channel.tsleep(lambda: bool(state.peek()), state)

    async def sets() -> None:
        buffer = StoreBuffer(k)
        await buffer.store(state, 1)
        await channel.wakeup(buffer)
        await buffer.fence()

    k.spawn(waits, name="waits")
    k.spawn(sets, name="sets")


@scenario(expect="lost-wakeup", source=SOURCE)
def lw_07_wakeup_before_the_store(k: Kernel) -> None:
    """Nobody sleeps yet, says the mask; nothing has changed yet, says the state."""
    one_store(k, NoFence)


@scenario(source=SOURCE, executions=200)
def lw_07_wakeup_before_the_store_ok(k: Kernel) -> None:
    """With the fence one of the two sees what the other has done."""
    one_store(k, Channel)

"""FreeBSD's map lock: a mutex for system maps, a shared/exclusive lock for user maps; timestamp, busy count, sleep.

Source: sys/vm/vm_map.c of releng/13.0 (vm_map_lock and its kin), the same in 9.3 and 10.4.

Both kinds have one interface, vm_map_lock(9) and vm_map_busy(9). The timestamp counts acquisitions for writing, upgrades
included; a thread that has let go of the lock compares it to learn whether anybody can have changed the map. To sleep
"on the map" is to sleep on its channel with one global mutex as interlock, taken before the lock is released; a waker
passes through that mutex first, so nothing is lost although it need not hold the lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.kernel.cell import Cell
from stressvm.kernel.mutex import Mutex
from stressvm.kernel.sleepq import SleepQueue
from stressvm.kernel.sx import Sx

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.object import Interlock
    from stressvm.kernel.thread import Wake

_TIMESTAMP_MASK: Final = 0xFFFFFFFF


def _nothing() -> None:
    """Nothing is left to do after a release."""


class _MapLock:
    """What both kinds share.

    Args:
        k: the kernel.
        name: the map's name.
        on_release: called within every release of a write hold (downgrades and sleeps, too), while it is still held:
            the map's invariants.
    """

    def __init__(self, k: Kernel, name: str, on_release: Callable[[], None]) -> None:
        self.k = k
        self.name = name
        self.on_release = on_release
        self.timestamp = Cell(k, 0, f"{name}.timestamp")
        #: The channel of vm_map_unlock_and_wait: the address of the map's root.
        self.root = SleepQueue(k, f"{name}.root")
        self.map_sleep_mtx = k.once("map_sleep_mtx", lambda: Mutex(k, "map_sleep_mtx"))
        #: The timestamp of the last write hold: the invariants' own.
        self.last_timestamp = -1
        self.busy_count = 0
        self.busy_wakeup = False
        self.busy_channel = SleepQueue(k, f"{name}.busy")
        #: Awaited after every release of a user map's lock by unlocking, if there is memory: pages of what was let go of
        #: are freed.
        self.settle: Callable[[], Awaitable[None]] | None = None

    async def _release(self) -> None:
        """Release a write hold."""
        raise NotImplementedError

    def locked(self) -> bool:
        """vm_map_locked: is it held for writing by the current thread?"""
        raise NotImplementedError

    def _interlock(self) -> Interlock:
        """The lock as msleep wants it."""
        raise NotImplementedError

    def leaving(self) -> None:
        """A write hold ends here, or may. The invariants, of which two are the lock's own.

        G11: the timestamp has moved since the hold before. G12: nobody waits for a map that is not busy.
        """
        self.on_release()
        timestamp = self.timestamp.value
        if timestamp == self.last_timestamp:
            raise self.k.panic(
                f"{self.name}: G11 timestamp: locked for writing, and it still is {timestamp}", "invariant"
            )
        self.last_timestamp = timestamp
        if self.busy_wakeup and not self.busy_count:
            raise self.k.panic(f"{self.name}: G12 busy: BUSY_WAKEUP is set, and the map is not busy", "invariant")

    async def lock(self) -> None:
        """vm_map_lock: acquire for writing."""
        raise NotImplementedError

    async def unlock(self) -> None:
        """vm_map_unlock: release a write hold. Locks: held for writing on entry. Sleeps: no."""
        self._must_be_locked("vm_map_unlock")
        self.leaving()
        await self._release()

    async def busy(self) -> None:
        """vm_map_busy: fork and protect must wait from now on. Locks: held for writing throughout. Sleeps: no."""
        self._must_be_locked("vm_map_busy")
        self.busy_count += 1

    async def unbusy(self) -> None:
        """vm_map_unbusy: one busy operation less; at zero those who wait for that are woken.

        Locks: held for writing throughout. Sleeps: no.
        """
        k = self.k
        self._must_be_locked("vm_map_unbusy")
        if not self.busy_count:
            raise k.panic(f"vm_map_unbusy: {self.name} is not busy")
        self.busy_count -= 1
        if not self.busy_count and self.busy_wakeup:
            self.busy_wakeup = False
            await self.busy_channel.wakeup()

    async def wait_busy(self) -> None:
        """vm_map_wait_busy: sleep until the map is not busy.

        Locks: held for writing on entry and exit, released meanwhile; the timestamp moves once, always. Sleeps: yes.
        """
        self._must_be_locked("vm_map_wait_busy")
        release = self.leaving
        while self.busy_count:
            self.busy_wakeup = True
            release()
            release = self.on_release
            await self.busy_channel.sleep(self._interlock(), "mbusy", until=lambda: not self.busy_count)
        self.moved()

    async def unlock_and_wait(self, timo: int = 0, *, until: Callable[[], bool] | None = None) -> Wake:
        """vm_map_unlock_and_wait: release the map and sleep until `wakeup`, as one.

        Locks: held for writing on entry, nothing on return; the caller locks the map anew and looks again. Sleeps: yes.

        Args:
            timo: ticks, 0 for no limit.
            until: pure; true when what the caller waits for is there.
        """
        self._must_be_locked("vm_map_unlock_and_wait")
        await self.map_sleep_mtx.lock()
        self.leaving()
        await self._release()
        return await self.root.sleep(self.map_sleep_mtx, "vmmaps", timo=timo, pdrop=True, until=until)

    async def wakeup(self) -> None:
        """vm_map_wakeup: wake all who sleep in `unlock_and_wait`. Locks: any or none. Sleeps: for map_sleep_mtx."""
        await self.map_sleep_mtx.lock()
        await self.map_sleep_mtx.unlock()
        await self.root.wakeup()

    def moved(self) -> None:
        """The map has been acquired for writing: the timestamp moves."""
        self.timestamp.poke((self.timestamp.value + 1) & _TIMESTAMP_MASK)

    def _must_be_locked(self, call: str) -> None:
        if not self.locked():
            k = self.k
            raise k.panic(f"{call}: {self.name} is not locked for writing by {k.threads[k.cur].name}")


class SystemMapLock(_MapLock):
    """The lock of a system map: a mutex, so there is no reading side by side, and no sleeping but on the map."""

    def __init__(self, k: Kernel, name: str, on_release: Callable[[], None]) -> None:
        super().__init__(k, name, on_release)
        self.system_mtx = Mutex(k, f"{name}.system_mtx")
        #: Was it acquired for writing? Only the invariants care: whoever has the mutex may write.
        self.writing = False

    async def lock(self) -> None:
        """vm_map_lock. Sleeps: on the mutex."""
        await self.system_mtx.lock()
        self.writing = True
        self.moved()

    async def trylock(self) -> bool:
        """vm_map_trylock: the timestamp moves only if it succeeds. Sleeps: no."""
        if not await self.system_mtx.trylock():
            return False
        self.writing = True
        self.moved()
        return True

    async def lock_read(self) -> None:
        """vm_map_lock_read: the same mutex; the timestamp stays. Sleeps: on the mutex."""
        await self.system_mtx.lock()

    async def trylock_read(self) -> bool:
        """vm_map_trylock_read. Sleeps: no."""
        return await self.system_mtx.trylock()

    async def unlock_read(self) -> None:
        """vm_map_unlock_read. Sleeps: no."""
        await self.system_mtx.unlock()

    async def lock_upgrade(self) -> bool:
        """vm_map_lock_upgrade: always succeeds, the holder is alone anyway. The timestamp moves. Sleeps: no."""
        self._must_be_locked("vm_map_lock_upgrade")
        self.writing = True
        self.moved()
        return True

    async def lock_downgrade(self) -> None:
        """vm_map_lock_downgrade: nothing changes but what the holder may do. Sleeps: no."""
        self._must_be_locked("vm_map_lock_downgrade")
        self.leaving()
        self.writing = False

    async def wait_busy(self) -> None:
        """vm_map_wait_busy. Sleeps: with the mutex as interlock."""
        await super().wait_busy()
        self.writing = True

    def leaving(self) -> None:
        """For a hold for reading there is nothing to prove."""
        if self.writing:
            super().leaving()

    def locked(self) -> bool:
        """vm_map_locked."""
        return self.system_mtx.owned()

    async def _release(self) -> None:
        self.writing = False
        await self.system_mtx.unlock()

    def _interlock(self) -> Interlock:
        return self.system_mtx


class UserMapLock(_MapLock):
    """The lock of a user map, and of a kernel submap: sleepable, shared or exclusive.

    Args:
        k: the kernel.
        name: the map's name.
        on_release: as for all.
        released: called after every release, when the thread holds the lock no more, but not before a sleep on the
            map: what the thread has unmapped is let go of then.
        sx: the class of lock, which is its grant policy.
    """

    def __init__(
        self,
        k: Kernel,
        name: str,
        on_release: Callable[[], None],
        released: Callable[[], None] = _nothing,
        sx: type[Sx] = Sx,
    ) -> None:
        super().__init__(k, name, on_release)
        self.released = released
        self.sx = sx(k, f"{name}.lock")

    async def lock(self) -> None:
        """vm_map_lock: acquire for writing; the timestamp moves. Sleeps: yes."""
        await self.sx.xlock()
        self.moved()

    async def unlock(self) -> None:
        """vm_map_unlock: release a write hold; then what the thread unmapped is let go of. Locks: held for writing."""
        await super().unlock()
        self.released()
        if self.settle is not None:
            await self.settle()

    async def trylock(self) -> bool:
        """vm_map_trylock: the timestamp moves only if it succeeds. Sleeps: no."""
        if not await self.sx.try_xlock():
            return False
        self.moved()
        return True

    async def lock_read(self) -> None:
        """vm_map_lock_read. Sleeps: yes."""
        await self.sx.slock()

    async def trylock_read(self) -> bool:
        """vm_map_trylock_read. Sleeps: no."""
        return await self.sx.try_slock()

    async def unlock_read(self) -> None:
        """vm_map_unlock_read: panics for a write hold. Sleeps: no."""
        if self.sx.xlocked():
            raise self.k.panic(f"vm_map_unlock_read: {self.name} is locked for writing")
        await self.sx.unlock()
        self.released()
        if self.settle is not None:
            await self.settle()

    async def lock_upgrade(self) -> bool:
        """vm_map_lock_upgrade: from reading to writing; False means that the caller holds *nothing* any more.

        If it is not the only reader, it lets go, waits for the write lock, and compares the timestamp: nobody may have
        locked the map for writing in between. Pointers to entries are dead after False.

        Locks: held for reading on entry; for writing on True, not at all on False. Sleeps: yes.
        """
        if not await self.sx.try_upgrade():
            timestamp = self.timestamp.peek()
            await self.sx.unlock()
            self.released()
            await self.sx.xlock()
            if self.changed_since(timestamp):
                await self.sx.unlock()
                return False
        self.moved()
        return True

    def changed_since(self, timestamp: int) -> bool:
        """Has anybody locked the map for writing?"""
        return self.timestamp.peek() != timestamp

    async def lock_downgrade(self) -> None:
        """vm_map_lock_downgrade: from writing to reading, atomically; the timestamp stays. Sleeps: no."""
        self._must_be_locked("vm_map_lock_downgrade")
        self.leaving()
        await self.sx.downgrade()

    def locked(self) -> bool:
        """vm_map_locked."""
        return self.sx.xlocked()

    async def _release(self) -> None:
        await self.sx.unlock()

    def _interlock(self) -> Interlock:
        return self.sx

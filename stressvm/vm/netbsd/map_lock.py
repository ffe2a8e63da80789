"""NetBSD's map lock: a reader-writer lock, a busy mark, a timestamp; and the mutex that 5.2's INTRSAFE maps use.

Source: sys/uvm/uvm_map.c 1.324 (vm_map_lock and its kin); for INTRSAFE maps that of NetBSD 5.2, 1.263.4.5.

A thread may mark a map busy and drop the lock: nobody else gets the write lock until the mark is gone, readers do.
A thread that finds the mark does not queue on the lock but on the map's condition variable, which those who wait for
addresses use too; hence every wakeup there is a broadcast. The timestamp counts successful write acquisitions, never
releases, and INTRSAFE maps never move it: that is the root of the wakeup that 5.2 loses.

The flags, the timestamp and the busy mark are written with the lock held. The wait for addresses reads flags and
timestamp with only `misc_lock` held, as the real code does, and those reads are visible operations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from stressvm.kernel.cell import Atomic, Cell
from stressvm.kernel.condvar import CondVar
from stressvm.kernel.mutex import Mutex, SpinMutex
from stressvm.kernel.rwlock import Rw, RwLock

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.kernel import Kernel

_TIMESTAMP_MASK = 0xFFFFFFFF

#: Why the timestamp may be read without the lock under which it moves.
TIMESTAMP_BENIGN: Final = (
    "uvm_map_prepare compares it with only misc_lock held: a sleeper that misses a change of it looks again after a second "
    "at most"
)
# An enum is slow to ask for its members.
_WRITER = Rw.WRITER


class MapLock(Protocol):
    """What a map needs of its lock.

    Attributes:
        misc_lock: covers the busy mark and the sleep on `cv`.
        cv: those who wait for addresses, and those who wait for the busy mark to go, sleep here.
        timestamp: counts write acquisitions.
        timestamp_mask: what it counts modulo, less one; 0 for a lock that does not count.
        busy_thread: the number of the thread that marked the map busy, or -1.
        busy_now: the same, for proofs.
        on_acquire: called right after every successful write acquisition.
    """

    misc_lock: Mutex
    cv: CondVar
    timestamp: Cell[int]
    timestamp_mask: int
    busy_thread: int
    on_acquire: Callable[[], None]

    @property
    def busy_now(self) -> int:
        """See above."""

    async def lock(self) -> None:
        """Acquire for writing."""

    async def lock_try(self) -> bool:
        """Acquire for writing if possible at once."""

    async def unlock(self) -> None:
        """Release a write hold, after checking the map's invariants."""

    async def lock_read(self) -> None:
        """Acquire for reading."""

    async def unlock_read(self) -> None:
        """Release a read hold."""

    async def busy(self) -> None:
        """Mark the map busy."""

    async def unbusy(self) -> None:
        """Remove the mark."""

    def write_held(self) -> bool:
        """Does the current thread hold it for writing?"""

    def held(self) -> bool:
        """Does the current thread hold it in any way?"""


def nothing() -> None:
    """What a lock without a map does when it is acquired."""


class VmMapLock:
    """The lock of an ordinary map.

    Args:
        k: the kernel.
        name: the map's name.
        on_release: called within every release of a write hold, while it is still held: the map's invariants.
        rwlock: the class of reader-writer lock, which is its grant policy (`NetBSDRwLock` for the kernel's own).
    """

    timestamp_mask = _TIMESTAMP_MASK
    on_acquire: Callable[[], None] = staticmethod(nothing)

    def __init__(
        self,
        k: Kernel,
        name: str,
        on_release: Callable[[], None],
        rwlock: type[RwLock] = RwLock,
    ) -> None:
        self.k = k
        self.on_release = on_release
        self.rw = rwlock(k, f"{name}.lock")
        self.misc_lock = Mutex(k, f"{name}.misc_lock")
        self.cv = CondVar(k, f"{name}.cv")
        self.timestamp = Cell(k, 0, f"{name}.timestamp", TIMESTAMP_BENIGN)
        #: The mark is a lock of its own: it is removed without the map's lock, and found to be so without misc_lock.
        self.busy_word = Atomic(k, -1, f"{name}.busy")

    @property
    def busy_thread(self) -> int:
        """Number of the thread that marked the map busy, or -1."""
        return self.busy_word.peek()

    @busy_thread.setter
    def busy_thread(self, number: int) -> None:
        self.busy_word.poke(number)

    @property
    def busy_now(self) -> int:
        """The same, for proofs, in a step that is said to look at it already."""
        return self.busy_word.value

    async def lock(self) -> None:
        """vm_map_lock: acquire for writing.

        Locks: none of this map on entry; the write lock on exit. Sleeps: yes, on the lock or for the busy mark.
        """
        while True:
            await self.rw.enter(_WRITER)
            if not self.busy_by_other():
                break
            await self.wait_while_busy()
        self.moved()
        self.on_acquire()

    async def lock_try(self) -> bool:
        """vm_map_lock_try: acquire for writing if that is possible at once.

        Fails for a busy map, even if the caller marked it. Locks: the write lock on exit if True. Sleeps: no.
        """
        if not await self.rw.tryenter(_WRITER):
            return False
        if self.refuses_try():
            await self.rw.exit()
            return False
        self.moved()
        self.on_acquire()
        return True

    async def unlock(self) -> None:
        """vm_map_unlock: release a write hold. Locks: the write lock on entry, none on exit. Sleeps: no."""
        k = self.k
        if not self.rw.write_held():
            raise k.panic(f"vm_map_unlock: {self.rw.ident.name} is not write-locked by {k.threads[k.cur].name}")
        if self.busy_by_other():
            raise k.panic(f"vm_map_unlock: {self.rw.ident.name} is busy by {k.threads[self.busy_thread].name}")
        self.on_release()
        await self.rw.exit()

    async def lock_read(self) -> None:
        """vm_map_lock_read: acquire for reading; the busy mark is no obstacle. Sleeps: yes."""
        await self.rw.enter(Rw.READER)

    async def unlock_read(self) -> None:
        """vm_map_unlock_read: release a read hold. Sleeps: no."""
        await self.rw.exit()

    async def busy(self) -> None:
        """vm_map_busy: mark the map. Locks: the write lock on entry and exit; it alone covers the mark. Sleeps: no."""
        k = self.k
        if not self.rw.write_held() or self.busy_thread >= 0:
            raise k.panic(f"vm_map_busy: {self.rw.ident.name} must be write-locked and not busy")
        self.busy_thread = k.cur

    async def unbusy(self) -> None:
        """vm_map_unbusy: remove the caller's mark and wake all who wait. Locks: any or none. Sleeps: misc_lock may."""
        k = self.k
        if self.busy_thread != k.cur:
            raise k.panic(f"vm_map_unbusy: {self.rw.ident.name} is not busy by {k.threads[k.cur].name}")
        await self.misc_lock.lock()
        self.busy_thread = -1
        await self.wake_busy_waiters()
        await self.misc_lock.unlock()

    def write_held(self) -> bool:
        """Does the current thread hold it for writing?"""
        return self.rw.write_held()

    def held(self) -> bool:
        """Does the current thread hold it for reading or writing?"""
        return self.rw.write_held() or self.rw.read_held()

    # ------------------------------------------------------------ the steps

    def busy_by_other(self) -> bool:
        """Is the map busy by another thread? Its owner may lock it again."""
        busy = self.busy_thread
        return busy >= 0 and busy != self.k.cur

    def refuses_try(self) -> bool:
        """Does a try fail although the lock was free?"""
        return self.busy_thread >= 0

    async def wait_while_busy(self) -> None:
        """Give up the write lock and wait once for the mark to go. Locks: the write lock on entry, none on exit."""
        await self.misc_lock.lock()
        await self.rw.exit()
        if self.busy_by_other():
            await self.cv.wait(
                self.misc_lock,
                wmesg="busy map",
                until=lambda: self.busy_thread < 0,
                holder=lambda: self.busy_thread,
            )
        await self.misc_lock.unlock()

    async def wake_busy_waiters(self) -> None:
        """All of them: those who wait for addresses sleep on the same condition variable."""
        await self.cv.broadcast()

    def moved(self) -> None:
        """The write lock has been acquired: the timestamp moves."""
        self.timestamp.poke((self.timestamp.value + 1) & self.timestamp_mask)


class IntrsafeMapLock:
    """The lock of a NetBSD 5.2 VM_MAP_INTRSAFE map: one spin mutex, usable from interrupt handlers.

    No reader mode, no busy mark; the timestamp never moves.

    Args:
        k: the kernel.
        name: the map's name.
        on_release: as for VmMapLock.
    """

    timestamp_mask = 0
    busy_thread = busy_now = -1
    on_acquire: Callable[[], None] = staticmethod(nothing)

    def __init__(self, k: Kernel, name: str, on_release: Callable[[], None]) -> None:
        self.k = k
        self.on_release = on_release
        self.mutex = SpinMutex(k, f"{name}.mutex")
        self.misc_lock: Mutex = SpinMutex(k, f"{name}.misc_lock")
        self.cv = CondVar(k, f"{name}.cv")
        self.timestamp = Cell(k, 0, f"{name}.timestamp", TIMESTAMP_BENIGN)

    async def lock(self) -> None:
        """vm_map_lock: spin until it is ours. Sleeps: no."""
        await self.mutex.lock()
        self.on_acquire()

    async def lock_try(self) -> bool:
        """vm_map_lock_try. Sleeps: no."""
        got = await self.mutex.trylock()
        if got:
            self.on_acquire()
        return got

    async def unlock(self) -> None:
        """vm_map_unlock. Sleeps: no."""
        if not self.mutex.owned():
            k = self.k
            raise k.panic(f"vm_map_unlock: {self.mutex.ident.name} is not owned by {k.threads[k.cur].name}")
        self.on_release()
        await self.mutex.unlock()

    async def lock_read(self) -> None:
        """vm_map_lock_read: there is no such thing; panics."""
        raise self._refused("vm_map_lock_read")

    async def unlock_read(self) -> None:
        """vm_map_unlock_read: panics."""
        raise self._refused("vm_map_unlock_read")

    async def busy(self) -> None:
        """vm_map_busy: panics, since the map has no reader-writer lock that could be held."""
        raise self._refused("vm_map_busy")

    async def unbusy(self) -> None:
        """vm_map_unbusy: panics."""
        raise self._refused("vm_map_unbusy")

    def write_held(self) -> bool:
        """Does the current thread own the mutex?"""
        return self.mutex.owned()

    def held(self) -> bool:
        """Does the current thread own the mutex?"""
        return self.mutex.owned()

    def _refused(self, call: str) -> Exception:
        return self.k.panic(f"{call}: KASSERT: {self.mutex.ident.name} is the lock of an INTRSAFE map")

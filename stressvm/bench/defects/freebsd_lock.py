"""FreeBSD's map lock: upgrades, the timestamp, the busy count, and sleeping on the map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stressvm.bench.defects.defect import Defect, Plant
from stressvm.bench.defects.freebsd_programs import (
    Present,
    faults_and_remove,
    fork_while_wiring,
    look_while_another_upgrades,
    try_while_another_upgrades,
    two_look,
    wire_and_remove,
)
from stressvm.bench.defects.freebsd_world import on_one_map
from stressvm.vm.freebsd import MapKind, Search, SystemMapLock, UserMapLock, VmMap13

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.vm.freebsd import VmMap, VmMapEntry


def with_lock(lock: type[UserMapLock]) -> type[VmMap]:
    """A map of version 13 with another lock."""

    class Planted(VmMap13):
        def make_lock(self) -> UserMapLock:
            return lock(self.k, self.name, self.check, self.process_deferred)

    return Planted


class UpgradesBlindly(UserMapLock):
    """The slow path of an upgrade does not compare the timestamp."""

    def changed_since(self, timestamp: int) -> bool:  # noqa: ARG002 - that is the defect
        return False


class SleepsLate(UserMapLock):
    """The map is unlocked before map_sleep_mtx is taken."""

    async def unlock_and_wait(self, timo: int = 0, *, until: Callable[[], bool] | None = None) -> Any:
        self.leaving()
        await self._release()
        await self.map_sleep_mtx.lock()
        return await self.root.sleep(self.map_sleep_mtx, "vmmaps", timo=timo, pdrop=True, until=until)


class WakesHastily(UserMapLock):
    """A waker does not pass through map_sleep_mtx."""

    async def wakeup(self) -> None:
        await self.root.wakeup()


class NeverBusy(UserMapLock):
    """The map is not busy while somebody wires. Two methods: the second undoes the first."""

    async def busy(self) -> None:
        """Nothing."""

    async def unbusy(self) -> None:
        """Nothing."""


class UnbusyWakesNobody(UserMapLock):
    """Those who wait for the map to be no longer busy are not woken."""

    async def unbusy(self) -> None:
        self.busy_count -= 1
        if not self.busy_count:
            self.busy_wakeup = False


class WaitsForBusyOnce(UserMapLock):
    """After sleeping it is not looked again whether the map is busy: `if` in place of `while`."""

    async def wait_busy(self) -> None:
        if self.busy_count:
            self.busy_wakeup = True
            self.on_release()
            await self.busy_channel.sleep(self._interlock(), "mbusy", until=lambda: not self.busy_count)
        self.moved()


class AsksToBeWokenOnce(UserMapLock):
    """BUSY_WAKEUP is set before the loop, not in it."""

    async def wait_busy(self) -> None:
        self.busy_wakeup = self.busy_wakeup or bool(self.busy_count)
        while self.busy_count:
            self.on_release()
            await self.busy_channel.sleep(self._interlock(), "mbusy", until=lambda: not self.busy_count)
        self.moved()


class WaitsUnnoticed(UserMapLock):
    """Waiting for a busy map does not move the timestamp."""

    async def wait_busy(self) -> None:
        while self.busy_count:
            self.busy_wakeup = True
            self.on_release()
            await self.busy_channel.sleep(self._interlock(), "mbusy", until=lambda: not self.busy_count)


class TryingMovesTheTimestamp(UserMapLock):
    """trylock moves the timestamp even if it fails."""

    async def trylock(self) -> bool:
        got = await self.sx.try_xlock()
        self.moved()
        return got


class UnlocksTwice(VmMap13):
    """After a failed upgrade it is thought that the read lock is held still."""

    async def make_object(self, entry: VmMapEntry) -> int | None:
        changed = await super().make_object(entry)
        if changed is None:
            await self.lock.unlock_read()
        return changed


class KeepsTheEntry(VmMap13):
    """After a failed upgrade the entry is used again, without another lookup."""

    async def make_object(self, entry: VmMapEntry) -> int | None:
        while (changed := await super().make_object(entry)) is None:
            await self.lock.lock_read()
        return changed


class LookingMovesTheTimestamp(VmMap13):
    """Rearranging the tree under a read lock counts as writing."""

    async def lookup_entry(self, addr: int) -> tuple[bool, VmMapEntry | None]:
        lock = self.lock
        assert isinstance(lock, UserMapLock)
        if not lock.locked() and not self.tree.at_root(addr) and await lock.sx.try_upgrade():
            lock.moved()
            await lock.sx.downgrade()
        return await super().lookup_entry(addr)


class TurnsAsReader(VmMap13):
    """A reader that is not alone rearranges the tree all the same."""

    async def lookup_entry(self, addr: int) -> tuple[bool, VmMapEntry | None]:
        if self.lock.locked() or self.tree.at_root(addr):
            return await super().lookup_entry(addr)
        opened = self.tree.open(addr)
        await self.k.yield_()
        if opened[0] is not None:
            self.tree.resized(opened)
        return self.entries.lookup(addr)


class SleepsWithTheMutex(SystemMapLock):
    """To wait for a system map it is slept as on a user map: the map's mutex is not the interlock, and stays locked."""

    async def unlock_and_wait(self, timo: int = 0, *, until: Callable[[], bool] | None = None) -> Any:
        await self.map_sleep_mtx.lock()
        self.leaving()
        return await self.root.sleep(self.map_sleep_mtx, "vmmaps", timo=timo, pdrop=True, until=until)


class SystemMapSleepsWithTheMutex(VmMap13):
    """A system map with that lock."""

    def make_lock(self) -> SystemMapLock:
        return SleepsWithTheMutex(self.k, self.name, self.check)


LOST: Final = "although what it waits for is there"
GONE: Final = "is not what map has at"
_PRESENT: Final = (("fault", Present),)


def _lock(lock: type[UserMapLock]) -> tuple[tuple[str, Any], ...]:
    return (("cls", with_lock(lock)),)


_FORK, _WIRE, _FAULT = on_one_map(fork_while_wiring), on_one_map(wire_and_remove), on_one_map(faults_and_remove)

DEFECTS: Final = (
    Defect(
        "F1",
        "An upgrade that is not the only reader lets go of the lock before it has it for writing; the timestamp tells whether "
        "anybody was in between.",
        (Plant("the timestamp is not compared", _FAULT, _lock(UpgradesBlindly), "invariant", GONE),),
    ),
    Defect(
        "F2",
        "An upgrade that fails leaves the caller with no lock at all.",
        (
            Plant(
                "the read lock is released once more",
                _FAULT,
                (("cls", UnlocksTwice),),
                "panic",
                "map.lock: not held by it",
            ),
        ),
    ),
    Defect(
        "F3",
        "After an upgrade that failed, the entry has to be looked up again.",
        (Plant("the entry is used as it is", _FAULT, (("cls", KeepsTheEntry),), "invariant", GONE),),
    ),
    Defect(
        "F4",
        "A lookup under the read lock rearranges the tree only as the one reader there is.",
        (
            Plant(
                "it does so beside other readers",
                on_one_map(two_look),
                (("cls", TurnsAsReader),),
                "invariant|exception|assertion",
                "G1-G4 structure|tree",
                given=(("search", Search.SPLAY),),
            ),
        ),
    ),
    Defect(
        "F5",
        "Rearranging the tree under a read lock leaves the timestamp alone.",
        (
            Plant(
                "it moves the timestamp, so that others start again for nothing",
                on_one_map(look_while_another_upgrades),
                (("cls", LookingMovesTheTimestamp),),
                "assertion",
                "nobody has written",
                given=(("search", Search.SPLAY),),
            ),
        ),
    ),
    Defect(
        "F6",
        "To sleep on a map, the global sleep mutex is taken before the map is unlocked.",
        (Plant("it is taken afterwards", _WIRE, _lock(SleepsLate), "lost-wakeup", LOST),),
    ),
    Defect(
        "F7",
        "Who wakes the sleepers of a map first passes through the global sleep mutex.",
        (Plant("it does not", _WIRE, _lock(WakesHastily), "lost-wakeup", LOST),),
    ),
    Defect(
        "F27",
        "While a thread faults in what it wires, the map is busy, and forks wait.",
        (Plant("it is not busy", _FORK, _lock(NeverBusy), "assertion", "is half wired", given=_PRESENT),),
    ),
    Defect(
        "F28",
        "Who waits until a map is not busy asks to be woken each time, is woken, and looks again.",
        (
            Plant("nobody is woken", _FORK, _lock(UnbusyWakesNobody), "lost-wakeup", LOST, given=_PRESENT),
            Plant("it asks before the loop only", _FORK, _lock(AsksToBeWokenOnce), "lost-wakeup", LOST, given=_PRESENT),
            Plant("it looks once only", _FORK, _lock(WaitsForBusyOnce), "assertion", "is half wired", given=_PRESENT),
        ),
    ),
    Defect(
        "F29",
        "Waiting until a map is not busy moves the timestamp, as the lock was released.",
        (Plant("it does not", _FORK, _lock(WaitsUnnoticed), "invariant", "G11 timestamp", given=_PRESENT),),
    ),
    Defect(
        "F45",
        "A system map is a mutex, and who waits for it must not sleep with it; a user map is a lock that may be slept with.",
        (
            Plant(
                "a system map is slept on as if it were a user map",
                _WIRE,
                (("cls", SystemMapSleepsWithTheMutex),),
                "exhausted|lock-order",
                "map",
                given=(("kind", MapKind.SYSTEM),),
            ),
        ),
    ),
    Defect(
        "F46",
        "Trying for the lock moves the timestamp only if it succeeds.",
        (
            Plant(
                "it moves in any case",
                on_one_map(try_while_another_upgrades),
                _lock(TryingMovesTheTimestamp),
                "assertion",
                "nobody has written",
            ),
        ),
    ),
)

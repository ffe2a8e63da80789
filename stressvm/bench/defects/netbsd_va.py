"""NetBSD's wait for addresses: WANTVA, the timestamp, misc_lock, and who is woken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stressvm.bench.defects.defect import Defect, Label, Plant
from stressvm.bench.defects.netbsd_va_worlds import (
    emptied,
    future,
    one_after_the_other,
    one_waiter,
    silent,
    two_waiters,
)
from stressvm.vm import netbsd

if TYPE_CHECKING:
    from stressvm.vm.netbsd import MapEntry

WANTVA: Final = netbsd.VM_MAP_WANTVA


class FlagOnly(netbsd.VmMap):
    """The wait that looks at WANTVA and not at the timestamp."""

    async def unchanged_since(self, timestamp: int) -> bool:  # noqa: ARG002 - that is the defect
        return bool(await self.flags.load() & WANTVA)


class TimestampOnly(netbsd.VmMap):
    """The wait that looks at the timestamp and not at WANTVA."""

    async def unchanged_since(self, timestamp: int) -> bool:
        return await self.lock.timestamp.load() == timestamp


class ReadsLate(netbsd.VmMap):
    """The timestamp is read when the map has been unlocked."""

    async def no_room(self) -> int:
        await super().no_room()
        return await self.lock.timestamp.load()


class SetsLate(netbsd.VmMap):
    """WANTVA is set when the map has been unlocked."""

    async def no_room(self) -> int:
        timestamp = self.lock.timestamp.peek()
        await self.lock.unlock()
        flags = await self.flags.load()
        await self.flags.store(flags | WANTVA)
        return timestamp


class BothLate(netbsd.VmMap):
    """The timestamp is read, and WANTVA set, when the map has been unlocked."""

    async def no_room(self) -> int:
        await self.lock.unlock()
        timestamp = await self.lock.timestamp.load()
        flags = await self.flags.load()
        await self.flags.store(flags | WANTVA)
        return timestamp


class LooksOutside(netbsd.VmMap):
    """Whether to sleep is decided before misc_lock is held."""

    async def wait_for_va(self, timestamp: int, hint: int, size: int, align: int, flags: int) -> bool:
        while await self.unchanged_since(timestamp):
            if not flags & netbsd.UVM_FLAG_WAITVA:
                return False
            await self.lock.misc_lock.lock()
            self.ghost.waits[self.k.cur] = (timestamp, self.lock.timestamp.peek())
            await self.sleep_for_va(hint, size, align, flags)
            await self.lock.misc_lock.unlock()
        return True


class NoRecheck(netbsd.VmMap):
    """The wait without its timeout of a second."""

    async def sleep_for_va(self, hint: int, size: int, align: int, flags: int) -> None:
        await self.lock.cv.wait(
            self.lock.misc_lock, wmesg="addresses", until=lambda: self.room_for(hint, size, align, flags)
        )


class WakesOne(netbsd.VmMap):
    """One waiter is woken in place of all."""

    async def wake_va_waiters(self) -> None:
        if self.flags.peek() & WANTVA:
            await self.lock.misc_lock.lock()
            self.flags.write(self.flags.peek() & ~WANTVA)
            await self.lock.cv.signal()
            await self.lock.misc_lock.unlock()


class NeverClears(netbsd.VmMap):
    """WANTVA stays set when the waiters are woken."""

    async def wake_va_waiters(self) -> None:
        if self.flags.peek() & WANTVA:
            await self.lock.misc_lock.lock()
            await self.lock.cv.broadcast()
            await self.lock.misc_lock.unlock()


class WakesAfterUnlock(netbsd.VmMap):
    """The waiters are woken, and the flag cleared, when the map has been unlocked. Two methods: it is moved."""

    async def wake_va_waiters(self) -> None:
        """Later."""

    async def finish_unmap(self, dead: list[MapEntry]) -> None:
        await super().finish_unmap(dead)
        flags = await self.flags.load()
        if flags & WANTVA:
            await self.lock.misc_lock.lock()
            await self.flags.store(flags & ~WANTVA)
            await self.lock.cv.broadcast()
            await self.lock.misc_lock.unlock()


class WakesForEntriesOnly(netbsd.VmMap):
    """Nobody is woken if nothing was mapped in the range."""

    async def remove(self, start: int, end: int, flags: int = 0) -> list[MapEntry]:
        self.size_before = self.size
        return await super().remove(start, end, flags)

    async def wake_va_waiters(self) -> None:
        if self.size != self.size_before:
            await super().wake_va_waiters()


LOST: Final = "although what it waits for is there"
SAVED: Final = "only its timeout ended that"
#: The big one of two waiters is never served.
_SCARCE: Final = ("exhausted",)
_OLD: Final = (("version", "5.2"),)


def _cls(cls: type[netbsd.VmMap]) -> tuple[tuple[str, Any], ...]:
    return (("cls", cls),)


DEFECTS: Final = (
    Defect(
        "N1",
        "Who waits for addresses sleeps while WANTVA is set and the timestamp has not moved: another waiter may set the flag "
        "again.",
        (
            Plant("the flag alone is looked at", two_waiters, _cls(FlagOnly), "lost-wakeup", LOST, tolerate=_SCARCE),
            Plant(
                "5.2, as shipped: an INTRSAFE map's timestamp never moves",
                two_waiters,
                _OLD,
                "lost-wakeup",
                LOST,
                label=Label.SHIPPED,
                tolerate=_SCARCE,
                note="The twin is 6.",
            ),
        ),
    ),
    Defect(
        "N2",
        "The same, of the flag.",
        (
            Plant(
                "5.2, INTRSAFE: the timestamp alone is looked at",
                one_waiter,
                _cls(TimestampOnly),
                "lost-wakeup",
                LOST,
                given=_OLD,
            ),
            Plant(
                "6: the timestamp alone is looked at",
                two_waiters,
                _cls(TimestampOnly),
                "",
                label=Label.EQUIVALENT,
                tolerate=_SCARCE,
                note="Who frees addresses has locked the map for writing after the waiter had unlocked it, and so has moved the "
                "timestamp before it clears the flag. Whenever the flag would end the wait, the timestamp does.",
            ),
        ),
    ),
    Defect(
        "N3",
        "The timestamp is read before the map is unlocked.",
        (
            Plant("afterwards", two_waiters, _cls(ReadsLate), "lost-wakeup", LOST, tolerate=_SCARCE),
            Plant(
                "afterwards, with one waiter",
                one_waiter,
                _cls(ReadsLate),
                "",
                label=Label.EQUIVALENT,
                note="With nobody else who sets it, the flag saves the only waiter: who frees addresses clears it, and the waiter "
                "looks at it after that or is woken. It takes a second one, above.",
            ),
        ),
    ),
    Defect(
        "N4",
        "WANTVA is set before the map is unlocked.",
        (
            Plant(
                "afterwards: another flag that is set meanwhile is lost",
                future,
                _cls(SetsLate),
                "assertion",
                "WIREFUTURE was set, and is lost",
            ),
        ),
    ),
    Defect(
        "N5",
        "The timestamp is read and WANTVA set before the map is unlocked.",
        (Plant("both afterwards, with one waiter", one_waiter, _cls(BothLate), "lost-wakeup", LOST),),
    ),
    Defect(
        "N6",
        "Who waits decides to sleep, and goes to sleep, with misc_lock held.",
        (
            Plant(
                "it decides before",
                one_waiter,
                _cls(LooksOutside),
                "rescued-sleep",
                SAVED,
                note="The second after which every waiter looks again heals it: what is found is a sleep that only that ended.",
            ),
        ),
    ),
    Defect(
        "N7",
        "Every waiter looks again after a second: two calls free addresses and tell nobody.",
        (
            Plant(
                "it does not",
                silent,
                _cls(NoRecheck),
                "lost-wakeup",
                LOST,
                tolerate=("rescued-sleep",),
                note="As it is the sleep is ended by the second alone, which the world tolerates.",
            ),
        ),
    ),
    Defect(
        "N8",
        "All waiters are woken: the first may want more than there is.",
        (
            Plant(
                "one is woken",
                one_after_the_other,
                _cls(WakesOne),
                "rescued-sleep",
                SAVED,
                note="Healed by the second, as N6.",
            ),
        ),
    ),
    Defect(
        "N9",
        "WANTVA is cleared when the waiters are woken.",
        (
            Plant(
                "it stays set",
                two_waiters,
                _cls(NeverClears),
                "",
                label=Label.EQUIVALENT,
                tolerate=_SCARCE,
                note="The timestamp ends every wait that the flag would have ended (see N2). What it costs is a broadcast for "
                "every unmapping, also with nobody there.",
            ),
        ),
    ),
    Defect(
        "N10",
        "Waiters are woken for every unmapping, empty or not, and before the map is unlocked.",
        (
            Plant(
                "afterwards: another flag that is set meanwhile is lost",
                future,
                _cls(WakesAfterUnlock),
                "assertion",
                "WIREFUTURE was set, and is lost",
            ),
            Plant(
                "not for an empty range, after addresses were freed and nobody told",
                emptied,
                _cls(WakesForEntriesOnly),
                "rescued-sleep",
                SAVED,
            ),
        ),
    ),
)

"""NetBSD's maps: the busy mark, what is unmapped and when it is let go of, two maps at once, and the record of gaps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stressvm.bench.defects.defect import Defect, Label, Plant
from stressvm.bench.defects.entry_lists import (
    DeleteForgetsTheGapUnderATower,
    DeleteForgetsTheLanes,
    ResizeForgetsTheGap,
    TowersLookAtOneGap,
)
from stressvm.bench.defects.netbsd_map_worlds import (
    fills_holes,
    frees,
    last_reference,
    many_holes,
    opposite,
    protects,
    tries,
    two_wire,
    wires_against,
    wires_beside_a_waiter,
)
from stressvm.kernel.kernel import Timers
from stressvm.kernel.rwlock import Rw
from stressvm.vm import netbsd

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.netbsd import MapEntry, VmMap
    from stressvm.vm.skiplist import EntryList


def locked_by(lock: type[netbsd.VmMapLock]) -> type[VmMap]:
    """A map with that lock."""

    class Map(netbsd.VmMap):
        def make_lock(self) -> netbsd.MapLock:
            return lock(self.k, self.name, self.check)

    return Map


class EntersBusy(netbsd.VmMapLock):
    """A try that does not look at the busy mark."""

    def refuses_try(self) -> bool:
        return False


class WaitsUnseeing(netbsd.VmMapLock):
    """Waits for the mark to go without looking again once misc_lock is held."""

    async def wait_while_busy(self) -> None:
        await self.rw.exit()
        await self.misc_lock.lock()
        await self.cv.wait(
            self.misc_lock,
            wmesg="busy map",
            until=lambda: self.busy_thread < 0,
            holder=lambda: self.busy_thread,
        )
        await self.misc_lock.unlock()


class WaitsOnce(netbsd.VmMapLock):
    """Takes it that the mark is gone once it has waited."""

    async def lock(self) -> None:
        await self.rw.enter(Rw.WRITER)
        if self.busy_by_other():
            await self.wait_while_busy()
            await self.rw.enter(Rw.WRITER)
        self.moved()
        self.on_acquire()


class StrangerToItself(netbsd.VmMapLock):
    """The one who marked the map waits for the mark to go, too."""

    async def lock(self) -> None:
        while True:
            await self.rw.enter(Rw.WRITER)
            if self.busy_thread < 0:
                break
            await self.misc_lock.lock()
            await self.rw.exit()
            if self.busy_thread >= 0:
                await self.cv.wait(self.misc_lock, wmesg="busy map", holder=lambda: self.busy_thread)
            await self.misc_lock.unlock()
        self.moved()
        self.on_acquire()


class CountsAttempts(netbsd.VmMapLock):
    """The timestamp moves before anybody has looked at the mark."""

    async def lock(self) -> None:
        while True:
            await self.rw.enter(Rw.WRITER)
            self.moved()
            if not self.busy_by_other():
                break
            await self.wait_while_busy()
        self.on_acquire()


class WakesOne(netbsd.VmMapLock):
    """Unbusy wakes one sleeper, which may be one that waits for addresses."""

    async def wake_busy_waiters(self) -> None:
        await self.cv.signal()


class Blocking(netbsd.VmMap):
    """An extraction that waits for its destination."""

    async def try_destination(self, dst: VmMap) -> bool:
        await dst.lock.lock()
        return True


class DropsEarly(netbsd.VmMap):
    """What was unmapped is let go of with the map still locked."""

    async def finish_unmap(self, dead: list[MapEntry]) -> None:
        for entry in dead:
            await self.detach(entry)
        await self.lock.unlock()


class StaleHint(netbsd.VmMap):
    """What leaves the map stays its hint."""

    def forget_hint(self, entry: MapEntry) -> None:
        """Nothing."""


class StaleFirstFree(netbsd.VmMap):
    """What leaves the map stays its first free entry."""

    def repair_first_free(self, entry: MapEntry | None) -> None:
        """Nothing."""


class HintOnTheDead(netbsd.VmMap):
    """When three entries become one, the hint is the one that leaves the map."""

    def merge_both(self, prev: MapEntry, after: MapEntry) -> None:
        self.hint = after
        super().merge_both(prev, after)


def with_entries(entries: type[EntryList[MapEntry]]) -> type[VmMap]:
    """A map that keeps such entries."""

    class Planted(netbsd.VmMap):
        def __init__(self, k: Kernel, min_offset: int, max_offset: int, flags: int = 0, **more: Any) -> None:
            super().__init__(k, min_offset, max_offset, flags, **more)
            self.entries = entries(min_offset, max_offset)

    return Planted


def _cls(cls: type[VmMap]) -> tuple[tuple[str, Any], ...]:
    return (("cls", cls),)


def _lock(lock: type[netbsd.VmMapLock]) -> tuple[tuple[str, Any], ...]:
    return _cls(locked_by(lock))


def _list(entries: type[EntryList[MapEntry]]) -> tuple[tuple[str, Any], ...]:
    return _cls(with_entries(entries))


LOST: Final = "although what it waits for is there"
LANES: Final = "says that the largest gap is|the gap after"
_TRIES, _PROTECTS = wires_against(tries), wires_against(protects)

DEFECTS: Final = (
    Defect(
        "N15",
        "Trying for the lock of a map that is busy fails.",
        (Plant("it succeeds", _TRIES, _lock(EntersBusy), "invariant", "G13 busy"),),
    ),
    Defect(
        "N16",
        "Who waits until a map is not busy looks once more with misc_lock held.",
        (Plant("it does not", _PROTECTS, _lock(WaitsUnseeing), "lost-wakeup", LOST),),
    ),
    Defect(
        "N17",
        "Who has waited until a map is not busy looks again.",
        (Plant("it does not", two_wire, _lock(WaitsOnce), "invariant", "G13 busy"),),
    ),
    Defect(
        "N18",
        "Who has marked a map busy may lock it again.",
        (Plant("he waits for himself", _TRIES, _lock(StrangerToItself), "deadlock", "wires"),),
    ),
    Defect(
        "N19",
        "The timestamp moves only when the lock was got for good.",
        (
            Plant(
                "it moves with every attempt",
                _PROTECTS,
                _lock(CountsAttempts),
                "panic|invariant",
                "stale map|G12 timestamp",
            ),
        ),
    ),
    Defect(
        "N20",
        "When a map is busy no more all are woken who wait: some of them wait for addresses.",
        (
            Plant(
                "one is woken",
                wires_beside_a_waiter,
                _lock(WakesOne),
                "lost-wakeup",
                LOST,
                tolerate=("exhausted",),
                timers=Timers.NEVER,
            ),
        ),
    ),
    Defect(
        "N26",
        "What was unmapped is let go of when the map is unlocked.",
        (Plant("before that", last_reference, _cls(DropsEarly), "deadlock", "vnode"),),
    ),
    Defect(
        "N27",
        "Who copies from one map to another has the first locked, and only tries for the second.",
        (Plant("he waits for it", opposite, _cls(Blocking), "deadlock", "left.lock"),),
    ),
    Defect(
        "N28",
        "Hint and first_free are moved before their entry leaves the map.",
        (
            Plant("the hint is not", frees, _cls(StaleHint), "invariant", "G7 hint"),
            Plant("first_free is not", frees, _cls(StaleFirstFree), "invariant", "G6 first_free"),
        ),
    ),
    Defect(
        "N29",
        "After a rotation the largest gap below a node is worked out anew, also for its sibling.",
        (
            Plant(
                "a link of a higher lane knows the first gap in its span only",
                many_holes,
                _list(TowersLookAtOneGap),
                "invariant|assertion",
                LANES,
                label=Label.ANALOGUE,
            ),
        ),
    ),
    Defect(
        "N30",
        "When an entry leaves, the largest gap is worked out anew on the old ways to its neighbours.",
        (
            Plant(
                "no lane is told of the gap that has grown",
                many_holes,
                _list(DeleteForgetsTheLanes),
                "invariant|assertion",
                LANES,
                label=Label.ANALOGUE,
            ),
            Plant(
                "the links that are joined know the gaps that they knew before",
                many_holes,
                _list(DeleteForgetsTheGapUnderATower),
                "invariant|assertion",
                LANES,
                label=Label.ANALOGUE,
            ),
        ),
    ),
    Defect(
        "N31",
        "An entry that grows takes that off the gap behind it.",
        (
            Plant(
                "the gap stays recorded as it was",
                fills_holes,
                _list(ResizeForgetsTheGap),
                "invariant|assertion",
                LANES,
                label=Label.ANALOGUE,
            ),
        ),
    ),
    Defect(
        "N32",
        "When three entries become one, the hint is the one that stays.",
        (Plant("it is the one that goes", fills_holes, _cls(HintOnTheDead), "invariant", "G7 hint"),),
    ),
)

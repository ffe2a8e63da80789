"""Addresses of FreeBSD's maps: finding them, waiting for them, and the entries' record of what is free."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from stressvm.bench.defects.defect import Defect, Label, Plant
from stressvm.bench.defects.entry_lists import ResizeForgetsTheGap
from stressvm.bench.defects.freebsd_finding import (
    bounded_find,
    exact_find,
    few_args,
    find_aligned,
    find_too_much,
    grow_neighbours,
    tail_gap,
    two_find,
    use_and_free,
)
from stressvm.bench.defects.freebsd_programs import map_over_what_is_wired, one_waiter, two_waiters
from stressvm.bench.defects.freebsd_world import PAGE, on_one_map
from stressvm.vm import freebsd
from stressvm.vm.freebsd import MapKind, Search, VmMap13

if TYPE_CHECKING:
    from stressvm.vm.freebsd import VmMapEntry
    from stressvm.vm.freebsd.vm_map_find import Request


class FlagsLate(VmMap13):
    """needs_wakeup is set when the map has been unlocked."""

    async def wait_for_space(self, size: int) -> None:
        lock = self.lock
        await lock.unlock()
        await self.k.yield_()
        self.needs_wakeup = True
        await lock.map_sleep_mtx.lock()
        await lock.root.sleep(lock.map_sleep_mtx, "vmmaps", pdrop=True, until=lambda: self.fits(size))


class WakesOne(VmMap13):
    """One sleeper is woken in place of all."""

    async def wake_sleepers(self) -> None:
        await self.lock.map_sleep_mtx.lock()
        await self.lock.map_sleep_mtx.unlock()
        await self.lock.root.wakeup_one()


class ClearsTheFlagOnly(VmMap13):
    """needs_wakeup is cleared, and nobody is woken."""

    async def wake_for_space(self) -> None:
        self.needs_wakeup = False


class InsertsUnchecked(VmMap13):
    """An insertion does not look at the next entry."""

    def next_overlaps(self, *_: Any) -> bool:
        return False


class TakesWhatItSlept(VmMap13):
    """Who has been woken does not look for room again, but takes the first addresses of the map."""

    async def try_alloc(self, size: int) -> int | None:
        addr = await super().try_alloc(size)
        if addr is not None:
            return addr
        await self.lock.lock()
        return self.min_offset


class ClearsTheFlagLast(VmMap13):
    """needs_wakeup is cleared after the sleepers are woken; the map is locked all the while."""

    async def wake_for_space(self) -> None:
        if self.needs_wakeup:
            await self.wake_sleepers()
            self.needs_wakeup = False


class ClearsTheFlagLate(VmMap13):
    """needs_wakeup is cleared after the sleepers are woken, when the map has been unlocked meanwhile."""

    async def wake_for_space(self) -> None:
        if not self.needs_wakeup:
            return
        await self.wake_sleepers()
        await self.lock.unlock()
        await self.lock.lock()
        self.needs_wakeup = False


class UnlocksInBetween(VmMap13):
    """The map is unlocked between the search and the insertion."""

    async def place(self, request: Request) -> tuple[int, int]:
        result, start = await super().place(request)
        await self.lock.unlock()
        await self.lock.lock()
        return result, start


class AlignspaceIsNotVerified(VmMap13):
    """The address found is aligned, and whether there is room is not looked at again."""

    def alignspace(self, request: Request, addr: int) -> int | None:
        return request.aligned(addr)


class BoundIsForgotten(VmMap13):
    """max_addr is compared before the address is aligned, and not after."""

    def alignspace(self, request: Request, addr: int) -> int | None:
        return super().alignspace(replace(request, max_addr=0), addr)


class RefusesExactGaps(VmMap13):
    """A gap has to be larger than what is asked for."""

    def findspace(self, start: int, length: int) -> int | None:
        return super().findspace(start, length + PAGE)


class SumsWrap(VmMap13):
    """Whether a range ends within the map is asked of a sum that may have wrapped."""

    def findspace(self, start: int, length: int) -> int | None:
        end = (start + length) & ((1 << 64) - 1)
        return None if end > self.max_offset else self.tree.findspace(start, length)


class TakesTheSentinel(VmMap13):
    """The address that stands for no room is taken for one."""

    def findspace(self, start: int, length: int) -> int | None:
        found = super().findspace(start, length)
        return self.max_offset - length + 1 if found is None else found


class RefusesNeighbours(VmMap13):
    """An entry that begins where the new one ends is in its way."""

    def next_overlaps(self, prev: VmMapEntry | None, end: int) -> bool:
        after = self.after(prev)
        return after is not None and after.start <= end


class ResizesUnnoticed(VmMap13):
    """An entry that gets another end: the tree is not told how large the gaps around it are now."""

    def resize(self, entry: VmMapEntry, end: int) -> None:
        self.changing.resize(entry, end=end)


class ForgetfulEntries(VmMap13):
    """A map with such entries."""

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._entries = ResizeForgetsTheGap(*self.bounds)
        self.tree = type(self.tree)(self._entries)


LOST: Final = "although what it waits for is there"
_SUBMAP: Final = (("kind", MapKind.SUBMAP),)
_ONE, _TWO = on_one_map(one_waiter), on_one_map(two_waiters)
_USE = on_one_map(use_and_free)


def _cls(cls: type[freebsd.VmMap]) -> tuple[tuple[str, Any], ...]:
    return (("cls", cls),)


DEFECTS: Final = (
    Defect(
        "F8",
        "Who finds no addresses says so in the map (needs_wakeup) before it unlocks it.",
        (Plant("it says so afterwards", _ONE, _cls(FlagsLate), "lost-wakeup", LOST, given=_SUBMAP),),
    ),
    Defect(
        "F9",
        "Who was woken looks for addresses anew, since another may have taken them; the insertion's result is not looked at.",
        (
            Plant(
                "it takes the map's first addresses",
                _USE,
                _cls(TakesWhatItSlept),
                "assertion|invariant",
                "in use by|G1-G4",
                given=_SUBMAP,
            ),
        ),
    ),
    Defect(
        "F10",
        "Freed addresses wake all sleepers of the map: they wait for different things.",
        (Plant("one is woken", _TWO, _cls(WakesOne), "lost-wakeup", LOST, given=_SUBMAP),),
    ),
    Defect(
        "F11",
        "needs_wakeup is cleared, and then the sleepers are woken, with the map locked.",
        (
            Plant("nobody is woken", _ONE, _cls(ClearsTheFlagOnly), "lost-wakeup", LOST, given=_SUBMAP),
            Plant(
                "it is cleared afterwards, when the map has been unlocked meanwhile",
                _TWO,
                _cls(ClearsTheFlagLate),
                "lost-wakeup",
                LOST,
                given=_SUBMAP,
            ),
            Plant(
                "it is cleared afterwards, with the map locked all the while",
                _TWO,
                _cls(ClearsTheFlagLast),
                "",
                label=Label.EQUIVALENT,
                given=_SUBMAP,
                note="The flag is set only by who has the map locked, and nobody else has between the wakeup and the clearing. "
                "Who was woken needs the lock to look again, and so sets the flag after it was cleared. The order matters only "
                "once the lock is given up in between, which is the one before.",
            ),
        ),
    ),
    Defect(
        "F12",
        "Addresses are found and inserted in one hold of the lock.",
        (
            Plant(
                "the lock is given up in between",
                on_one_map(two_find),
                _cls(UnlocksInBetween),
                "assertion",
                "there is room",
            ),
        ),
    ),
    Defect(
        "F13",
        "When an address has been aligned, whether there is room is looked at again.",
        (
            Plant(
                "it is not",
                on_one_map(find_aligned),
                _cls(AlignspaceIsNotVerified),
                "assertion",
                "there is room",
            ),
        ),
    ),
    Defect(
        "F14",
        "The upper bound of a search holds for the aligned address.",
        (
            Plant(
                "13: it is compared before aligning only",
                on_one_map(bounded_find),
                _cls(BoundIsForgotten),
                "assertion",
                "above the bound",
            ),
            Plant(
                "10.4, as shipped: the same",
                on_one_map(bounded_find),
                _cls(freebsd.VmMap2013),
                "assertion",
                "above the bound",
                label=Label.SHIPPED,
            ),
        ),
    ),
    Defect(
        "F15",
        "A gap is large enough if it is as large as what is asked for.",
        (
            Plant(
                "it has to be larger",
                on_one_map(exact_find),
                _cls(RefusesExactGaps),
                "assertion",
                "there is room",
            ),
            Plant(
                "the sum of address and length may wrap",
                on_one_map(find_too_much),
                _cls(SumsWrap),
                "assertion",
                "no room for so much",
                given=(("search", Search.SPLAY),),
                note="Only in an empty map does the search look at no gap at all; elsewhere none is so large. What is inserted "
                "is checked again, so it is a wrong error and no wrong mapping.",
            ),
        ),
    ),
    Defect(
        "F16",
        "What the search returns for no room is known by its end lying beyond the map, not by being one certain address.",
        (
            Plant(
                "it is taken for an address",
                _USE,
                _cls(TakesTheSentinel),
                "assertion|invariant",
                "in use by|outside|G1-G4",
                given=_SUBMAP,
            ),
        ),
    ),
    Defect(
        "F17",
        "An insertion looks whether the next entry is in its way: it is if it begins before the end, not at it.",
        (
            Plant(
                "it does not look",
                on_one_map(map_over_what_is_wired),
                _cls(InsertsUnchecked),
                "invariant",
                "G1-G4 structure",
            ),
            Plant(
                "an entry that begins at the end is in its way",
                on_one_map(exact_find),
                _cls(RefusesNeighbours),
                "assertion",
                "there is room",
            ),
        ),
    ),
    Defect(
        "F18",
        "When an entry grows or shrinks, what is recorded of the gaps around it follows.",
        (
            Plant(
                "the tree is not told",
                on_one_map(grow_neighbours),
                _cls(ResizesUnnoticed),
                "invariant",
                "says max_free is",
                given=(("search", Search.SPLAY),),
            ),
            Plant(
                "the gap behind the entry stays recorded as it was",
                on_one_map(grow_neighbours),
                _cls(ForgetfulEntries),
                "invariant",
                "says that the largest gap is|the gap after",
                label=Label.ANALOGUE,
            ),
        ),
    ),
    Defect(
        "F43",
        "A range for the arguments of execve that goes into a processor's slot wakes nobody; enough ranges make up for it.",
        (
            Plant(
                "13, as shipped, with no more ranges than processors",
                few_args,
                (("ranges", 1),),
                "lost-wakeup",
                "execkva",
                label=Label.SHIPPED,
                twin=(("ranges", 2),),
                note="The kernel has 2 * CPUs + 4 ranges, and then the sleeper waits only until the next one is released.",
            ),
        ),
    ),
    Defect(
        "F47",
        "A search that begins in too small a gap with one entry behind it must look behind that entry as well.",
        (
            Plant(
                "13, as shipped: it does not, and a sleeper is never served",
                tail_gap,
                (("search", Search.SPLAY), ("version", "13")),
                "lost-wakeup",
                LOST,
                label=Label.SHIPPED,
                twin=(("version", "2013"),),
                note="The twin is 10.4, which has another search.",
            ),
        ),
    ),
)

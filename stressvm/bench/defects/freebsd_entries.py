"""FreeBSD's entries in transition: deleting, wiring and protecting while others do, merging, and stacks that grow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stressvm.bench.defects.defect import Defect, Label, Plant
from stressvm.bench.defects.freebsd_programs import (
    cut_in_transition,
    faults_in_a_stack,
    fill_the_hole,
    map_over_what_is_wired,
    protect_and_remove_what_is_in_hand,
    protect_what_is_in_hand,
    remove_an_object,
    two_removers,
    wire_and_remove,
    wire_both_halves,
    wire_what_becomes_writable,
)
from stressvm.bench.defects.freebsd_space import InsertsUnchecked
from stressvm.bench.defects.freebsd_world import on_one_map, pages
from stressvm.vm import freebsd
from stressvm.vm.freebsd import Fault, LookupFault, MapKind, UserMapLock, VmMap13, VmMap2013

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.vm.freebsd import VmMapEntry


class DeletesInTransition(VmMap13):
    """An entry that somebody wires is deleted at once."""

    def must_wait(self, entry: VmMapEntry) -> bool:
        return self.kind is MapKind.USER and entry.system_wired_count > 1


class TrustsThePointer(VmMap13):
    """Whoever has slept goes on with the entry it had, whatever has become of that."""

    async def wait_for_entry(self, entry: VmMapEntry, until: Callable[[], bool]) -> bool:
        await super().wait_for_entry(entry, until)
        return True


class AlwaysLooksAgain(VmMap13):
    """The timestamp is compared with the wrong number, and never is the same."""

    def relocked(self, timestamp: int) -> bool:  # noqa: ARG002 - that is the defect
        return True


class AsksNobody(VmMap13):
    """It sleeps for an entry without NEEDS_WAKEUP."""

    async def wait_for_entry(self, _: VmMapEntry, until: Callable[[], bool]) -> bool:
        timestamp = self.lock.timestamp.peek()
        await self.lock.unlock_and_wait(until=until)
        await self.lock.lock()
        return not self.relocked(timestamp)


class FreesUnderTheLock(VmMap13):
    """What was unmapped is let go of at once."""

    def dispose_of(self, entry: VmMapEntry) -> None:
        self.deallocate(entry)


class FreesBeforeTheUnlock(VmMap13):
    """What was unmapped is let go of just before the lock is."""

    def make_lock(self) -> UserMapLock:
        def on_release() -> None:
            self.check()
            self.process_deferred()

        return UserMapLock(self.k, self.name, on_release)


class ReleasesSilently(VmMap13):
    """NEEDS_WAKEUP is cleared, and nobody is woken."""

    def release(self, entry: VmMapEntry) -> bool:
        super().release(entry)
        return False


class CountsLate(VmMap13):
    """An entry is counted as wired when its pages are there, not before the lock is let go of."""

    async def fault_pages(self, start: int, end: int, step: int) -> tuple[int, int]:
        self.count(start, end, -1)
        result = await super().fault_pages(start, end, step)
        self.count(start, end, 1)
        return result

    def count(self, start: int, end: int, by: int) -> None:
        for entry in self.entries:
            if start <= entry.start and entry.end <= end:
                entry.wired_count += by


class FindsOnePiece(VmMap13):
    """An entry that was cut while it was being wired is taken to be whole."""

    def last_piece(self, progress: Any, entry: VmMapEntry, start: int, *_: int) -> VmMapEntry:
        found, piece = self.lookup(start)
        assert found
        assert piece is not None
        progress.first = piece if entry is progress.first else None
        return piece


class TakesWhatIsNotItsOwn(VmMap13):
    """Whose an entry in transition is, is not asked."""

    def is_ours(self, _: VmMapEntry) -> bool:
        return True


class MergesInTransition(VmMap13):
    """Entries in transition are merged."""

    NOMERGE_MASK = VmMap13.NOMERGE_MASK & ~freebsd.MAP_ENTRY_IN_TRANSITION


class ProtectsInTransition(VmMap13):
    """The protection is set while an entry is in transition."""

    def moving(self, *_: Any) -> None:
        return None


class KeepsTheFirstEntry(VmMap13):
    """After a sleep it begins with the entry that was the first one before."""

    def first_to_protect(self, start: int) -> VmMapEntry | None:
        kept: dict[int, VmMapEntry | None] = self.k.once("kept", dict)
        return kept.setdefault(self.k.cur, super().first_to_protect(start))


def fails_at_once() -> Fault:
    """Faults that fail at the first page."""
    return Fault(pages(0))


class WakesTooSoon(VmMap13):
    """Sleepers are woken before the entries are out of transition, with the map unlocked; later nobody is."""

    async def wired(self, progress: Any, flags: int) -> bool:
        await self.lock.unlock()
        await self.wake_sleepers()
        await self.lock.lock()
        await super().wired(progress, flags)
        return False


class KeepsTheGap(VmMap13):
    """After an upgrade that failed, a fault in a stack's gap goes on with the gap that it knew."""

    def lost(self, gap_entry: VmMapEntry) -> VmMapEntry | None:
        return gap_entry


LOST: Final = "although what it waits for is there"
NEVER: Final = "for something that never came"
UNCOPIED: Final = "G6 rights: .* is wired and writable, but still needs to be copied"
_WIRE, _CUT, _OBJECT = on_one_map(wire_and_remove), on_one_map(cut_in_transition), on_one_map(remove_an_object)
_WRITABLE, _IN_HAND = on_one_map(wire_what_becomes_writable), on_one_map(protect_what_is_in_hand)
_LOOKUP: Final = (("fault", LookupFault),)


def _cls(cls: type[freebsd.VmMap]) -> tuple[tuple[str, Any], ...]:
    return (("cls", cls),)


DEFECTS: Final = (
    Defect(
        "F19",
        "An entry that somebody wires is not deleted; whoever wants that waits.",
        (Plant("it is deleted at once", _WIRE, _cls(DeletesInTransition), "panic", "lookup failed"),),
    ),
    Defect(
        "F20",
        "Who has slept while deleting looks its entry up again, unless the timestamp says that nobody had the map meanwhile.",
        (
            Plant(
                "it goes on with the entry that it had",
                on_one_map(two_removers),
                _cls(TrustsThePointer),
                "exhausted|exception|invariant|panic",
                f"{NEVER}|is in no list|G",
            ),
            Plant(
                "it always looks it up again",
                on_one_map(two_removers),
                _cls(AlwaysLooksAgain),
                "",
                label=Label.EQUIVALENT,
                note="A lookup at the same address, under the lock that it has, finds the same entry if nobody changed anything. "
                "Only the time for it is lost. All interleavings of two threads end alike with it and without.",
            ),
        ),
    ),
    Defect(
        "F21",
        "Who sleeps for an entry marks it so that its owner wakes him.",
        (Plant("it does not", _WIRE, _cls(AsksNobody), "lost-wakeup", LOST),),
    ),
    Defect(
        "F22",
        "Who is done with wiring clears the marks of his entries with the map locked, and wakes whoever has asked.",
        (
            Plant("nobody is woken", _WIRE, _cls(ReleasesSilently), "lost-wakeup", LOST),
            Plant("they are woken before the marks are gone", _WIRE, _cls(WakesTooSoon), "lost-wakeup", LOST),
        ),
    ),
    Defect(
        "F23",
        "An entry counts as wired before the lock is given up for its faults.",
        (
            Plant(
                "it counts afterwards",
                _WRITABLE,
                _cls(CountsLate),
                "invariant",
                UNCOPIED,
                given=_LOOKUP,
            ),
        ),
    ),
    Defect(
        "F24",
        "An entry that was cut while its pages were faulted in has several pieces, and all of them are seen to.",
        (
            Plant("the first piece only", _CUT, _cls(FindsOnePiece), "exhausted|invariant", f"{NEVER}|G7"),
            Plant(
                "the first piece only, after a fault that failed",
                _CUT,
                _cls(FindsOnePiece),
                "invariant|exhausted",
                f"G7|{NEVER}",
                given=(("fault", fails_at_once),),
            ),
        ),
    ),
    Defect(
        "F25",
        "Who is done with wiring leaves alone what others have in transition in the same range.",
        (
            Plant(
                "it takes theirs for its own",
                on_one_map(fill_the_hole),
                _cls(TakesWhatIsNotItsOwn),
                "invariant|panic",
                "G18|G7|KASSERT",
            ),
        ),
    ),
    Defect(
        "F26",
        "Entries in transition are merged with no other.",
        (
            Plant(
                "they are",
                on_one_map(wire_both_halves),
                _cls(MergesInTransition),
                "invariant|panic",
                "G18|G7|G9|KASSERT",
            ),
        ),
    ),
    Defect(
        "F30",
        "Before it changes protections, vm_map_protect waits until nobody wires in its range.",
        (
            Plant(
                "13: it does not ask of entries in transition",
                _IN_HAND,
                _cls(ProtectsInTransition),
                "invariant",
                UNCOPIED,
                given=_LOOKUP,
            ),
            Plant(
                "10.4, as shipped: it never waits",
                _WRITABLE,
                _cls(VmMap2013),
                "invariant",
                UNCOPIED,
                label=Label.SHIPPED,
                given=_LOOKUP,
            ),
        ),
    ),
    Defect(
        "F31",
        "After it has waited, vm_map_protect begins anew with a lookup.",
        (
            Plant(
                "it begins with the entry that was the first before",
                on_one_map(protect_and_remove_what_is_in_hand),
                _cls(KeepsTheFirstEntry),
                "exception",
                "is in no list",
                given=_LOOKUP,
            ),
        ),
    ),
    Defect(
        "F32",
        "Mapping at a fixed place deletes what is there, may sleep for that, and so looks at the place again when it inserts.",
        (
            Plant(
                "it does not look",
                on_one_map(map_over_what_is_wired),
                _cls(InsertsUnchecked),
                "invariant",
                "G1-G4 structure",
            ),
        ),
    ),
    Defect(
        "F33",
        "What was unmapped is let go of when the map is unlocked: the last reference to an object may sleep.",
        (
            Plant("it is let go of at once", _OBJECT, _cls(FreesUnderTheLock), "assertion", "with the map locked"),
            Plant(
                "it is let go of just before the lock is",
                _OBJECT,
                _cls(FreesBeforeTheUnlock),
                "invariant",
                "under the map lock",
            ),
        ),
    ),
    Defect(
        "F40",
        "Who loses the lock on the way to growing a stack looks its gap up again.",
        (
            Plant(
                "it goes on with the gap that it knew",
                faults_in_a_stack,
                _cls(KeepsTheGap),
                "assertion|invariant",
                "a fault in the stack's gap|is not in",
            ),
        ),
    ),
)

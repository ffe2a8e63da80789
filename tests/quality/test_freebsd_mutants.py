"""Is each step of FreeBSD's map protocols needed? One at a time is done wrongly, and a hunt must see it.

Each defect overrides one small method of the map or of its lock. The same program with the map as it is, is clean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from stressvm.explore.random_walk import RandomWalk
from stressvm.vm import freebsd
from stressvm.vm.freebsd import Fault, LookupFault, MapKind, Search, UserMapLock, VmMap13, VmMap2013
from tests.lone_map import pages
from tests.support import ending, every, explore, in_trio, kinds, opened, subject
from tests.wiring import World, build, said
from tests.wiring_programs import (
    Present,
    cut_in_transition,
    faults_and_remove,
    fill_the_hole,
    fork_while_wiring,
    look_while_another_upgrades,
    map_over_what_is_wired,
    one_waiter,
    protect_and_remove_what_is_in_hand,
    protect_what_is_in_hand,
    remove_an_object,
    try_while_another_upgrades,
    two_removers,
    two_waiters,
    wire_and_remove,
    wire_both_halves,
    wire_what_becomes_writable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.vm.freebsd import VmMap, VmMapEntry

# ---------------------------------------------------------------- defects of the lock


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


# ---------------------------------------------------------------- defects of faults


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


# ---------------------------------------------------------------- defects of waiting for addresses


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


# ---------------------------------------------------------------- defects of deletion


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


class InsertsUnchecked(VmMap13):
    """An insertion does not look at the next entry."""

    def next_overlaps(self, *_: Any) -> bool:
        return False


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


# ---------------------------------------------------------------- defects of wiring


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


# ---------------------------------------------------------------- defects of protection


class ProtectsInTransition(VmMap13):
    """The protection is set while an entry is in transition."""

    def moving(self, *_: Any) -> None:
        return None


class KeepsTheFirstEntry(VmMap13):
    """After a sleep it begins with the entry that was the first one before."""

    def first_to_protect(self, start: int) -> VmMapEntry | None:
        kept: dict[int, VmMapEntry | None] = self.k.once("kept", dict)
        return kept.setdefault(self.k.cur, super().first_to_protect(start))


# ---------------------------------------------------------------- the hunt


class Seen(NamedTuple):
    """What a hunt has seen: in which execution, from 1 on, what kind of finding, and what is said of it."""

    number: int
    kind: str
    text: str


def hunt(program: Callable[[World], None], cls: type[VmMap], n: int, seed: int = 1, **kw: Any) -> Seen | None:
    """The first execution of a random walk that is not clean; None for none in `n`."""
    what = subject(build(program, cls, **kw))
    walk = RandomWalk(seed)

    async def main() -> Seen | None:
        async with opened(what.kernel(), "stepped") as made:
            for number in range(1, n + 1):
                one = await ending(what, made, walk, number - 1)
                if one.kind is not None:
                    return Seen(number, one.kind, one.text)
        return None

    found: Seen | None = in_trio(main)
    return found


def fails_at_once() -> Fault:
    """Faults that fail at the first page."""
    return Fault(pages(0))


@dataclass(frozen=True)
class Planted:
    """A defect, the program that shows it, and how it shows.

    `text` is part of what is said of it; `kw` are the world's settings.
    """

    cls: type[VmMap]
    program: Callable[[World], None]
    kind: str
    text: str
    kw: tuple[tuple[str, Any], ...] = ()


#: So many executions must do; most defects need five.
WITHIN = 200
LOST = "although what it waits for is there"
GONE = "is not what map has at"
UNCOPIED = "G6 rights: .* is wired and writable, but still needs to be copied"
SUBMAP, PRESENT, LOOKUP = (("kind", MapKind.SUBMAP),), (("fault", Present),), (("fault", LookupFault),)
SPLAY, FAILS = (("search", Search.SPLAY),), (("fault", fails_at_once),)

PLANTED: dict[str, Planted] = {
    "an upgrade without comparison": Planted(with_lock(UpgradesBlindly), faults_and_remove, "invariant", GONE),
    "unlocked twice": Planted(UnlocksTwice, faults_and_remove, "panic", "map.lock: not held by it"),
    "the entry kept": Planted(KeepsTheEntry, faults_and_remove, "invariant", GONE),
    "a lookup moves the timestamp": Planted(
        LookingMovesTheTimestamp, look_while_another_upgrades, "assertion", "nobody has written", SPLAY
    ),
    "unlocked before map_sleep_mtx": Planted(with_lock(SleepsLate), wire_and_remove, "lost-wakeup", LOST),
    "no handshake": Planted(with_lock(WakesHastily), wire_and_remove, "lost-wakeup", LOST),
    "flagged late": Planted(FlagsLate, one_waiter, "lost-wakeup", LOST, SUBMAP),
    "one woken": Planted(WakesOne, two_waiters, "lost-wakeup", LOST, SUBMAP),
    "nobody woken": Planted(ClearsTheFlagOnly, one_waiter, "lost-wakeup", LOST, SUBMAP),
    "deleted in transition": Planted(DeletesInTransition, wire_and_remove, "panic", "lookup failed"),
    "a pointer kept": Planted(TrustsThePointer, two_removers, "exhausted", "for something that never came"),
    "no flag": Planted(AsksNobody, wire_and_remove, "lost-wakeup", LOST),
    "released silently": Planted(ReleasesSilently, wire_and_remove, "lost-wakeup", LOST),
    "counted late": Planted(CountsLate, wire_what_becomes_writable, "invariant", UNCOPIED, LOOKUP),
    "one piece": Planted(FindsOnePiece, cut_in_transition, "exhausted", "for something that never came"),
    "one piece, and a failure": Planted(FindsOnePiece, cut_in_transition, "invariant", "G7", FAILS),
    "another's entry": Planted(TakesWhatIsNotItsOwn, fill_the_hole, "invariant", "G18"),
    "merged in transition": Planted(MergesInTransition, wire_both_halves, "invariant", "G18"),
    "never busy": Planted(with_lock(NeverBusy), fork_while_wiring, "assertion", "is half wired", PRESENT),
    "busy no more, nobody woken": Planted(
        with_lock(UnbusyWakesNobody), fork_while_wiring, "lost-wakeup", LOST, PRESENT
    ),
    "looked once": Planted(with_lock(WaitsForBusyOnce), fork_while_wiring, "assertion", "is half wired", PRESENT),
    "asked once": Planted(with_lock(AsksToBeWokenOnce), fork_while_wiring, "lost-wakeup", LOST, PRESENT),
    "unnoticed": Planted(with_lock(WaitsUnnoticed), fork_while_wiring, "invariant", "G11 timestamp", PRESENT),
    "protected as in 2013": Planted(VmMap2013, wire_what_becomes_writable, "invariant", UNCOPIED, LOOKUP),
    "protected in transition": Planted(ProtectsInTransition, protect_what_is_in_hand, "invariant", UNCOPIED, LOOKUP),
    "the first entry kept": Planted(
        KeepsTheFirstEntry, protect_and_remove_what_is_in_hand, "exception", "is in no list"
    ),
    "inserted unchecked": Planted(InsertsUnchecked, map_over_what_is_wired, "invariant", "G1-G4 structure"),
    "freed under the lock": Planted(FreesUnderTheLock, remove_an_object, "assertion", "with the map locked"),
    "freed before the unlock": Planted(FreesBeforeTheUnlock, remove_an_object, "invariant", "under the map lock"),
    "trying moves the timestamp": Planted(
        with_lock(TryingMovesTheTimestamp), try_while_another_upgrades, "assertion", "nobody has written"
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name: str) -> None:
    planted = PLANTED[name]
    found = hunt(planted.program, planted.cls, WITHIN, **dict(planted.kw))
    assert found is not None
    assert found.kind == planted.kind, found.text
    assert re.search(planted.text, found.text)


CLEAN = list(dict.fromkeys((planted.program, planted.kw) for planted in PLANTED.values()))


@pytest.mark.parametrize(("program", "kw"), CLEAN, ids=[program.__name__ for program, _ in CLEAN])
def test_without_it_the_program_is_clean(program: Callable[[World], None], kw: tuple[tuple[str, Any], ...]) -> None:
    assert hunt(program, VmMap13, 2 * WITHIN, **dict(kw)) is None


@pytest.mark.parametrize("program", [wire_and_remove, cut_in_transition])
def test_to_look_again_each_time_is_harmless(program: Callable[[World], None]) -> None:
    """If the timestamp is compared with the wrong number; only work is lost."""
    careful, plain = every(build(program, AlwaysLooksAgain)), every(build(program, VmMap13))
    assert kinds(careful) == kinds(plain) == {None}
    assert said(careful) == said(plain)


def test_to_look_again_each_time_is_harmless_among_three() -> None:
    assert kinds(explore(build(two_removers, AlwaysLooksAgain), WITHIN)) == {None}

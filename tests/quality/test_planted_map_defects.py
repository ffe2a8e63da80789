"""Mistakes planted in maps and map locks, one method each: random programs under random schedules run into them.

What finds a mistake is an invariant of the map, an assertion of the kernel, a verdict about sleepers, or the model that
does the program once more on a flat list. Where the invariants see it first, the same is done with the map's
invariants looking away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, run_state_machine_as_test

from stressvm.bench.defects.freebsd_space import AlignspaceIsNotVerified, BoundIsForgotten
from stressvm.stateful import KernelMachine, ProgramFailed
from stressvm.vm import freebsd, netbsd
from stressvm.vm.entry import EntryError
from stressvm.vm.skiplist import EntryList
from tests.model.freebsd_machine import FreeBSDMachine
from tests.model.freebsd_rights_machine import FreeBSDRightsMachine
from tests.model.netbsd_machine import IntrsafeMachine, NetBSDMachine, ScarceMachine
from tests.model.netbsd_rights_machine import NetBSDRightsMachine, first_free_repaired

if TYPE_CHECKING:
    from stressvm import Kernel
    from stressvm.stateful import Execution
    from stressvm.vm.netbsd.findspace import Found

#: The same examples whatever the profile; what is found is not shrunk.
FIND = settings(
    max_examples=1_500,
    stateful_step_count=16,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def find(machine: type[KernelMachine[Any]]) -> BaseException:
    """What the machine runs into."""
    with pytest.raises((ProgramFailed, EntryError)) as caught:
        run_state_machine_as_test(machine, settings=FIND)
    return caught.value


def kind(exc: BaseException) -> str:
    """Of the finding; a list that refuses an operation counts as an exception."""
    return exc.verdict.kind if isinstance(exc, ProgramFailed) else "exception"


def only(machine: type[KernelMachine[Any]], *names: str, **more: Any) -> type[KernelMachine[Any]]:
    """The machine with these operations alone."""
    others = {name: None for name in machine.operations() if name not in names}
    return type(f"{machine.__name__}Only", (machine,), {**others, **more})


class Searching(FreeBSDMachine):
    """Searches of version 13, in a small map."""

    a_map = fixed = remap = free_elsewhere = unmap_part = look = busy = None  # type: ignore[assignment]

    @initialize(at=st.integers(0, 3))
    def a_small_map(self, at: int) -> None:
        self.describe_world(version="13", kind="user", pages=16, taken=1, at=at)


class Filling(NetBSDMachine):
    """Pages here and there in a small map, which is filled up in between."""

    a_map = map_hint = free_elsewhere = unmap_part = busy = suballoc = look = None  # type: ignore[assignment]

    @initialize(pages=st.integers(8, 12))
    def a_small_map(self, pages: int) -> None:
        self.describe_world(pages=pages)


class Wiring(FreeBSDRightsMachine):
    """Version 13: one mapping, and all that happens to it."""

    a_map = None  # type: ignore[assignment]

    @initialize(pages=st.integers(2, 4))
    def a_small_map(self, pages: int) -> None:
        self.describe_world(version="13", layout=[[0, pages, freebsd.VM_PROT_RW]])


# ---------------------------------------------------------------- gaps, in the entries of NetBSD's map


class ClipForgetsTheGap(EntryList[netbsd.MapEntry]):
    """What is split off says that nothing is free behind it."""

    def clip_end(self, entry: netbsd.MapEntry, addr: int) -> netbsd.MapEntry:
        back = super().clip_end(entry, addr)
        back.gap = 0
        return back


class MergeForgetsTheGap(EntryList[netbsd.MapEntry]):
    """The entry that survives says that nothing is free behind it."""

    def merge(self, left: netbsd.MapEntry, right: netbsd.MapEntry) -> None:
        super().merge(left, right)
        left.gap = 0


class ResizeForgetsTheGap(EntryList[netbsd.MapEntry]):
    """An entry that grows still has the gap that it has grown into."""

    def _set_gap(self, entry: netbsd.MapEntry, gap: int) -> None:
        """Nothing is recorded."""


GAPS = [ClipForgetsTheGap, MergeForgetsTheGap, ResizeForgetsTheGap]


def with_entries(entries: type[EntryList[netbsd.MapEntry]], *, checked: bool) -> type[netbsd.VmMap]:
    """A map that keeps such entries."""

    class Planted(netbsd.VmMap):
        def __init__(self, k: Kernel, min_offset: int, max_offset: int, flags: int = 0, **more: Any) -> None:
            super().__init__(k, min_offset, max_offset, flags, **more)
            self.entries = entries(min_offset, max_offset)

        def check(self) -> None:
            if checked:
                super().check()

    return Planted


@pytest.mark.parametrize("entries", GAPS)
def test_a_gap_that_is_not_updated_breaks_an_invariant(entries: type[EntryList[netbsd.MapEntry]]) -> None:
    class Machine(NetBSDMachine):
        map_class = with_entries(entries, checked=True)

    found = find(Machine)
    assert kind(found) == "invariant"
    assert "the gap after" in str(found)


@pytest.mark.parametrize("entries", [ClipForgetsTheGap, ResizeForgetsTheGap])
def test_a_gap_that_is_not_updated_gives_a_wrong_address(entries: type[EntryList[netbsd.MapEntry]]) -> None:
    """Room is missed, or handed out twice, which the list refuses. (What a merge forgets, the next change puts right.)"""

    class Machine(Filling):
        map_class = with_entries(entries, checked=False)

    assert kind(find(Machine)) in ("assertion", "exception", "invariant", "lost-wakeup")


# ---------------------------------------------------------------- searches


class AlignedIsNotVerified(netbsd.VmMap):
    """NetBSD: the first fit is rounded up, and whether there is room is not looked at again."""

    def look_for(self, hint: int, size: int, align: int, flags: int) -> Found:
        found = super().look_for(hint, size, 1, flags)
        if found.address is None:
            return found
        return found._replace(address=(found.address + align - 1) & -align)


def test_netbsd_an_aligned_address_that_is_not_verified() -> None:
    class Machine(NetBSDMachine):
        map_class = AlignedIsNotVerified

    assert kind(find(Machine)) in ("assertion", "exception", "invariant")


@pytest.mark.parametrize("planted", [AlignspaceIsNotVerified, BoundIsForgotten])
def test_freebsd_what_is_forgotten_after_aligning_shows_in_the_addresses(planted: type[freebsd.VmMap]) -> None:
    found = find(only(Searching, "alloc", "find", "free", map_classes={"13": planted}))
    assert kind(found) == "assertion"
    assert "find(" in str(found)


# ---------------------------------------------------------------- NetBSD's lock


class TriesBusyMaps(netbsd.VmMapLock):
    """vm_map_lock_try gets a map that is busy."""

    def refuses_try(self) -> bool:
        return False


class Unproven(netbsd.VmMap):
    """A map whose invariants nobody asks for."""

    def check(self) -> None:
        """Nothing."""


class NeverMoves(netbsd.VmMapLock):
    """The timestamp stays where it is."""

    def moved(self) -> None:
        """Nothing."""


def with_lock(lock: type[netbsd.VmMapLock], base: type[netbsd.VmMap] = netbsd.VmMap) -> type[netbsd.VmMap]:
    class Planted(base):  # type: ignore[valid-type,misc]
        def make_lock(self) -> netbsd.MapLock:
            return lock(self.k, self.name, self.check)

    return Planted


def test_netbsd_a_try_that_does_not_honour_the_busy_mark() -> None:
    class Machine(NetBSDMachine):
        map_class = with_lock(TriesBusyMaps)

    # Unlocking the map of another panics; the owner's own try is for the model to see.
    assert kind(find(Machine)) in ("assertion", "panic", "invariant")


def test_netbsd_a_timestamp_that_does_not_move_breaks_an_invariant() -> None:
    class Machine(ScarceMachine):
        map_class = with_lock(NeverMoves)

    assert kind(find(Machine)) == "invariant"


def test_netbsd_a_timestamp_that_does_not_move_loses_wakeups() -> None:
    class Machine(ScarceMachine):
        map_class = with_lock(NeverMoves, Unproven)

        def after(self, execution: Execution[Any]) -> None:
            """The model would see it at once: it counts."""

    assert kind(find(Machine)) == "lost-wakeup"


# ---------------------------------------------------------------- NetBSD's rights and wirings


class BusyKeepsNobodyOut(netbsd.VmMapLock):
    """A map may be marked busy, and anybody locks it all the same."""

    def busy_by_other(self) -> bool:
        return False


class Unwatched(Unproven):
    """A map whose invariants nobody asks for, not even when it is locked."""

    def acquired(self) -> None:
        """Nothing."""


class NeverClipsTheEnd(netbsd.VmMap):
    """What is done to a range is done to all of its last entry."""

    def clip_end(self, entry: netbsd.MapEntry, addr: int) -> None:
        """Nothing."""


class WiresAcrossHoles(netbsd.VmMap):
    """Nobody looks whether there is a hole between two entries."""

    def hole_after(self, entry: netbsd.MapEntry, end: int) -> bool:  # noqa: ARG002 - that is the defect
        return False


def test_netbsd_a_busy_mark_that_keeps_nobody_out_breaks_an_invariant() -> None:
    class Machine(NetBSDRightsMachine):
        map_class = with_lock(BusyKeepsNobodyOut, first_free_repaired(netbsd.VmMap))

    found = find(Machine)
    assert kind(found) == "invariant"
    assert "G13 busy" in str(found)


def test_netbsd_a_busy_mark_that_keeps_nobody_out_makes_wiring_go_wrong() -> None:
    class Machine(NetBSDRightsMachine):
        map_class = with_lock(BusyKeepsNobodyOut, first_free_repaired(Unwatched))

    # The map is stale, or an entry has gone, or its pages are wired and its count says otherwise.
    assert kind(find(Machine)) in ("assertion", "exception", "invariant", "panic")


@pytest.mark.parametrize(
    ("planted", "names", "what"),
    [
        (NeverClipsTheEnd, ("protect",), ""),
        (WiresAcrossHoles, ("unmap", "wire"), "wire("),
        (WiresAcrossHoles, ("extract",), "extract("),
    ],
)
def test_netbsd_what_a_call_does_to_its_range_is_seen_by_the_model(
    planted: type[netbsd.VmMap], names: tuple[str, ...], what: str
) -> None:
    found = find(only(NetBSDRightsMachine, *names, map_class=first_free_repaired(planted)))
    assert kind(found) == "assertion"
    assert what in str(found)


# ---------------------------------------------------------------- FreeBSD's lock, lookup and wiring


class UpgradesBlindly(freebsd.UserMapLock):
    """An upgrade that had to let go of the lock does not ask whether anybody had it meanwhile."""

    def changed_since(self, timestamp: int) -> bool:  # noqa: ARG002 - that is the defect
        return False


class TimestampStays(freebsd.UserMapLock):
    """The timestamp stays where it is, and the invariant about it looks away."""

    def moved(self) -> None:
        """Nothing."""

    def leaving(self) -> None:
        """Nothing is checked."""


def freebsd_with(lock: type[freebsd.UserMapLock]) -> type[freebsd.VmMap]:
    class Planted(freebsd.VmMap13):
        def make_lock(self) -> freebsd.UserMapLock:
            return lock(self.k, self.name, self.check, self.process_deferred)

    return Planted


def test_freebsd_an_upgrade_that_keeps_its_entry() -> None:
    found = find(only(Wiring, "fault", "remove", "insert", map_classes={"13": freebsd_with(UpgradesBlindly)}))
    assert kind(found) == "invariant"
    assert "vm_map_lookup: " in str(found)


def test_freebsd_a_timestamp_that_does_not_move() -> None:
    """Whoever has waited or faulted believes that nothing has changed, or that everything has."""
    found = find(only(Wiring, "fault", "remove", "insert", map_classes={"13": freebsd_with(TimestampStays)}))
    assert kind(found) == "invariant"
    assert "vm_map_lookup: " in str(found)


class MergesInTransition(freebsd.VmMap13):
    """Entries in transition are merged, too, if they are alike."""

    def may_merge(self, prev: freebsd.VmMapEntry, entry: freebsd.VmMapEntry) -> bool:
        mask = self.NOMERGE_MASK & ~freebsd.MAP_ENTRY_IN_TRANSITION
        return not entry.eflags & mask and prev.mergeable(entry)


class DeletesInTransition(freebsd.VmMap13):
    """vm_map_delete waits for nobody."""

    def must_wait(self, entry: freebsd.VmMapEntry) -> bool:  # noqa: ARG002 - that is the defect
        return False


class TrustsAnOldPointer(freebsd.VmMap13):
    """Who comes back from a sleep or a fault goes on with the entry that it had."""

    def relocked(self, timestamp: int) -> bool:  # noqa: ARG002 - that is the defect
        return False


class WakesNobody(freebsd.VmMap13):
    """An entry that is in transition no more: nobody is told."""

    def release(self, entry: freebsd.VmMapEntry) -> bool:
        super().release(entry)
        return False


@pytest.mark.parametrize(
    ("planted", "kinds"),
    [
        (MergesInTransition, ("assertion", "invariant", "panic")),
        (DeletesInTransition, ("assertion", "exception", "invariant", "panic")),
        (TrustsAnOldPointer, ("assertion", "exception", "invariant", "panic")),
        (WakesNobody, ("lost-wakeup",)),
    ],
)
def test_freebsd_a_broken_promise_about_entries_in_transition(
    planted: type[freebsd.VmMap], kinds: tuple[str, ...]
) -> None:
    assert kind(find(only(Wiring, "wire", "inherit", "remove", map_classes={"13": planted}))) in kinds


@pytest.mark.parametrize(
    "machine",
    [
        Searching,
        Filling,
        only(Wiring, "fault", "remove", "insert"),
        only(Wiring, "wire", "inherit", "remove"),
        only(FreeBSDMachine, "alloc", "free"),
        only(NetBSDRightsMachine, "protect", "unmap", "wire", "extract"),
    ],
)
def test_without_a_defect_the_same_programs_run_into_nothing(machine: type[KernelMachine[Any]]) -> None:
    run_state_machine_as_test(machine, settings=settings(FIND, max_examples=150))


# ---------------------------------------------------------------- as it was shipped


def test_netbsd_52_loses_wakeups_on_interrupt_safe_maps() -> None:
    """No defect of ours: see the scenario netbsd5_intrsafe_waiters."""
    assert kind(find(IntrsafeMachine)) == "lost-wakeup"


def test_netbsd_replaces_a_range_and_leaves_a_gap_before_first_free() -> None:
    """What the programs of NetBSDRightsMachine leave out."""

    class Machine(NetBSDRightsMachine):
        map_class = netbsd.VmMap

    found = find(Machine)
    assert kind(found) == "invariant"
    assert "G6 first_free" in str(found)


def test_freebsd_13_sleeps_beside_a_gap_that_its_search_does_not_see() -> None:
    class Machine(FreeBSDMachine):
        search = freebsd.Search.SPLAY

        def after(self, execution: Execution[Any]) -> None:
            """The model always finds the lowest place."""

    assert kind(find(only(Machine, "alloc", "free"))) == "lost-wakeup"

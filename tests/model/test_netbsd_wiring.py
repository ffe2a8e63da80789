"""Wiring, extraction and replacement among other threads: every interleaving of small programs, and defects in the steps.

A defect overrides one step; the table at the end says which verdict or invariant finds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Kernel, Mutex, NetBSDRwLock, RwLock, Timers
from stressvm.bench.defects.netbsd_map import (
    Blocking,
    CountsAttempts,
    DropsEarly,
    EntersBusy,
    StaleFirstFree,
    StaleHint,
    StrangerToItself,
    WaitsOnce,
    WaitsUnseeing,
    WakesOne,
    locked_by,
)
from stressvm.bench.defects.netbsd_map_worlds import opposite, protects, tries, wiring
from stressvm.bench.defects.netbsd_va import NoRecheck
from stressvm.vm import netbsd
from tests.support import Ending, every, explore, kinds, outcomes

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.vm.netbsd import VmMap

    Build = Callable[[Kernel], None]

PAGE = netbsd.PAGE_SIZE
VAONLY, WAITVA = netbsd.UVM_KMF_VAONLY, netbsd.UVM_KMF_WAITVA
PAGEABLE = netbsd.VM_MAP_PAGEABLE
REMOVE = netbsd.UVM_EXTRACT_REMOVE
READ = netbsd.VM_PROT_READ
LOW = 0xC000_0000
DIAGNOSTIC = netbsd.Options.DIAGNOSTIC


def texts(endings: list[Ending], kind: str) -> set[str]:
    return {ending.text.partition(" (in ")[0] for ending in endings if ending.kind == kind}


# ---------------------------------------------------------------- wiring against a writer


async def unmaps(kmap: VmMap) -> str:
    """Finds the pages wired, or not yet, or not any more, but never counted and not faulted in."""
    await kmap.lock.lock()
    first = kmap.entries.first
    assert first is not None
    counted = first.wired_count
    assert len(kmap.fault.wired) == 2 * counted, "between the two passes"
    dead = await kmap.remove(LOW, LOW + PAGE)
    await kmap.finish_unmap(dead)
    return "wired" if counted else "unwired"


def test_a_writer_waits_until_the_pages_are_in_or_all_is_undone() -> None:
    good = every(wiring(unmaps, fault=netbsd.UvmFault))
    assert kinds(good) == {None}
    said = {frozenset(ending.said) for ending in good}
    assert said == {
        frozenset({"wires 0", "writes wired"}),
        frozenset({f"wires {netbsd.EFAULT}", "writes unwired"}),
    }
    bad = every(wiring(unmaps))
    assert kinds(bad) == {None}
    said = {frozenset(ending.said) for ending in bad}
    assert said == {
        frozenset({f"wires {netbsd.ENOMEM}", "writes unwired"}),
        frozenset({f"wires {netbsd.EFAULT}", "writes unwired"}),
    }


@pytest.mark.parametrize("fault", [None, netbsd.UvmFault, netbsd.LockingFault])
def test_no_interleaving_with_a_change_of_protection_is_stale(fault: type[netbsd.UvmFault] | None) -> None:
    assert kinds(every(wiring(protects, fault=fault))) == {None}


def test_a_try_is_refused_while_the_map_is_busy() -> None:
    seen = outcomes(every(wiring(tries, fault=netbsd.UvmFault)))
    assert {"writes got", "writes refused"} <= {word for said in seen for word in said}


@pytest.mark.parametrize("rwlock", [RwLock, NetBSDRwLock])
def test_two_that_wire_the_same_pages_take_turns(rwlock: type[RwLock]) -> None:
    class Lock(netbsd.VmMapLock):
        def __init__(self, k: Kernel, name: str, on_release: Callable[[], None]) -> None:
            super().__init__(k, name, on_release, rwlock)

    def build(k: Kernel) -> None:
        fault = netbsd.LockingFault()
        kmap = netbsd.setup(k, 4, flags=PAGEABLE, options=DIAGNOSTIC, fault=fault, cls=locked_by(Lock))
        start = kmap.fill(1)

        async def wires() -> None:
            assert await netbsd.uvm_map_pageable(kmap, start, start + PAGE, new_pageable=False) == 0

        async def checks() -> None:
            for thread in threads:
                await k.join(thread)
            assert [entry.wired_count for entry in kmap.entries] == [2]
            assert await netbsd.uvm_map_pageable(kmap, start, start + PAGE, new_pageable=True) == 0
            assert not kmap.fault.wired

        threads = [k.spawn(wires) for _ in range(2)]
        k.spawn(checks)

    assert kinds(explore(build, 1_000)) == {None}


def test_wirefuture_wires_while_others_unmap_and_nothing_is_stale() -> None:
    """uvm_map_protect holds entries across a wiring that gives the lock up; the busy mark keeps them there."""

    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 4, flags=PAGEABLE | netbsd.VM_MAP_WIREFUTURE, options=DIAGNOSTIC)
        low = kmap.min_offset

        async def protects_() -> None:
            for page in (0, 1):
                flags = netbsd.UVM_FLAG_FIXED | netbsd.UVM_FLAG_NOMERGE
                await netbsd.uvm_map(kmap, low + page * PAGE, PAGE, flags=flags, prot=0)
            k.spawn(unmaps_, name="unmaps")
            assert await netbsd.uvm_map_protect(kmap, low, low + 2 * PAGE, READ) == 0

        async def unmaps_() -> None:
            await netbsd.uvm_unmap(kmap, low, low + 2 * PAGE)
            k.record(did=len(kmap.fault.wired))

        k.spawn(protects_, name="protects")

    endings = explore(build, 500)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("unmaps 0",)}


# ---------------------------------------------------------------- two maps


@pytest.mark.parametrize("flags", [0, REMOVE])
def test_extractions_in_opposite_directions_both_arrive(flags: int) -> None:
    endings = explore(opposite(netbsd.VmMap, flags), 2_000)
    assert kinds(endings) == {None}
    places = {word for ending in endings for word in ending.said}
    assert places <= {"to_right (0, 1)", "to_left (0, 1)", "to_right (0, 0)", "to_left (0, 0)"}


def test_an_extraction_that_waits_for_its_destination_deadlocks() -> None:
    endings = explore(opposite(Blocking), 500)
    assert kinds(endings) == {None, "deadlock"}
    assert {text for text in texts(endings, "deadlock") if "left.lock" in text and "right.lock" in text}


# ---------------------------------------------------------------- addresses freed without a word


def silent(how: str, cls: type[VmMap] = netbsd.VmMap) -> Build:
    """A map is full; one waits for a page, another frees one in a way that tells nobody, and never comes back."""

    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 1, cls=cls)
        other = netbsd.setup(k, 1, name="other", min_offset=0xD000_0000)
        if how == "extract":
            kmap.fill(1)

        async def waits() -> None:
            k.record(did=await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY | WAITVA) == kmap.min_offset)

        async def frees() -> None:
            if how == "extract":
                await netbsd.uvm_map_extract(kmap, kmap.min_offset, PAGE, other, flags=REMOVE)
                return
            await kmap.lock.lock()
            assert netbsd.uvm_map_replace(kmap, kmap.min_offset, kmap.max_offset, [])
            await kmap.lock.unlock()

        async def begins() -> None:
            if how == "replace":
                assert await netbsd.uvm_map_reserve(kmap, PAGE, 0) is not None
            k.spawn(waits, name="waits")
            k.spawn(frees, name="frees")

        k.spawn(begins, name="begins")

    return build


@pytest.mark.parametrize("how", ["replace", "extract"])
def test_who_waits_for_what_is_freed_silently_is_saved_by_his_second(how: str) -> None:
    healed = every(silent(how))
    assert kinds(healed) == {None, "rescued-sleep"}
    assert outcomes(healed) == {("waits True",)}
    for lost in (every(silent(how, NoRecheck)), every(silent(how), timers=Timers.NEVER)):
        assert kinds(lost) == {None, "lost-wakeup"}


# ---------------------------------------------------------------- defects


def test_15_a_try_that_ignores_the_busy_mark() -> None:
    endings = every(wiring(tries, cls=locked_by(EntersBusy)))
    assert texts(endings, "invariant") == {
        "kmap: G13 busy: writes has the write lock, and wires has marked the map busy"
    }


def test_16_not_looking_again_before_the_wait() -> None:
    endings = every(wiring(protects, cls=locked_by(WaitsUnseeing)))
    assert "lost-wakeup" in kinds(endings)


def test_17_not_looking_again_after_the_wait() -> None:
    """Woken by an unmap that freed addresses, or overtaken by a second one that wires."""

    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 4, flags=PAGEABLE, options=DIAGNOSTIC, cls=locked_by(WaitsOnce))
        start = kmap.fill(2)

        async def wires(page: int) -> None:
            va = start + page * PAGE
            assert await netbsd.uvm_map_pageable(kmap, va, va + PAGE, new_pageable=False) == 0

        async def writes() -> None:
            await kmap.lock.lock()
            await kmap.lock.unlock()

        for page in (0, 1):
            k.spawn(wires, page, name=f"wires{page}")
        k.spawn(writes, name="writes")

    assert "invariant" in kinds(explore(build, 3_000))


def test_18_waiting_for_ones_own_mark() -> None:
    """In the recovery of a fault that failed: it waits for itself."""
    endings = every(wiring(tries, cls=locked_by(StrangerToItself)))
    assert kinds(endings) == {"deadlock"}


def test_19_a_timestamp_that_counts_attempts() -> None:
    endings = every(wiring(protects, cls=locked_by(CountsAttempts)))
    assert "uvm_map_pageable: stale map" in texts(endings, "panic")


def test_20_unbusy_that_wakes_one() -> None:
    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 1, flags=PAGEABLE, cls=locked_by(WakesOne))
        start = kmap.fill()

        async def waits_for_addresses() -> None:
            await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY | WAITVA)

        async def wires() -> None:
            assert await netbsd.uvm_map_pageable(kmap, start, start + PAGE, new_pageable=False) == 0

        async def writes() -> None:
            assert await netbsd.uvm_map_protect(kmap, start, start + PAGE, READ) == 0

        k.spawn(waits_for_addresses, name="waits")
        k.spawn(wires, name="wires")
        k.spawn(writes, name="writes")

    found = {kind for ending in explore(build, 4_000, timers=Timers.NEVER) if (kind := ending.kind)}
    assert "lost-wakeup" in found


@pytest.mark.parametrize(("cls", "bad"), [(netbsd.VmMap, set()), (DropsEarly, {"deadlock"})])
def test_26_letting_go_with_the_map_locked(cls: type[VmMap], bad: set[str]) -> None:
    """The last reference wants a lock whose holder wants the map."""

    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 2, cls=cls)
        vnode = Mutex(k, "vnode")

        async def inactive() -> None:
            await vnode.lock()
            await vnode.unlock()

        uobj = netbsd.UvmObject("vnode", last=inactive)

        async def unmaps_() -> None:
            await netbsd.uvm_map(kmap, kmap.min_offset, PAGE, uobj=uobj, uoffset=0)
            k.spawn(reads, name="reads")
            await netbsd.uvm_unmap(kmap, kmap.min_offset, kmap.min_offset + PAGE)

        async def reads() -> None:
            await vnode.lock()
            await netbsd.uvm_map(kmap, kmap.min_offset, PAGE)
            await vnode.unlock()

        k.spawn(unmaps_, name="unmaps")

    assert kinds(every(build)) == {None} | bad


def test_27_is_the_extraction_that_waits() -> None:
    assert "deadlock" in kinds(explore(opposite(Blocking, REMOVE), 500))


@pytest.mark.parametrize(("cls", "name"), [(StaleHint, "G7 hint"), (StaleFirstFree, "G6 first_free")])
def test_28_what_points_to_an_entry_that_leaves(cls: type[VmMap], name: str) -> None:
    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 2, cls=cls)
        start = kmap.fill()

        async def frees() -> None:
            await netbsd.uvm_km_free(kmap, start, 2 * PAGE, VAONLY)

        k.spawn(frees)

    (ending,) = every(build)
    assert (ending.kind, name in ending.text) == ("invariant", True)

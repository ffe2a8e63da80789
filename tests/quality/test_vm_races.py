"""What the maps, the pages and the pmaps share is declared: uses without the lock are races, and searches know the order.

Each planted defect takes one lock away. The race is found, with the stacks of both uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from stressvm import Kernel, scenario
from stressvm.explore.execution import Subject
from stressvm.explore.hunt import Result, Settings, hunt_subject
from stressvm.explore.loading import by_name
from stressvm.vm import freebsd, netbsd, pages

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm import Scenario
    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry
    from stressvm.vm.netbsd import VmMap

    Build = Callable[[Kernel], None]

PAGE = netbsd.PAGE_SIZE
BASE = 0xC000_0000


def hunt(made: Scenario, **how: object) -> Result:
    subject = Subject(made, dict(made.params))
    return trio.run(hunt_subject, subject, Settings(**{"executions": 300, "strategy": "random", **how}))  # type: ignore[arg-type]


def races(build: Build, data: str, first: str, second: str) -> None:
    """A hunt finds a race on that, and says in which functions the two uses are, in whatever order."""
    result = hunt(scenario(expect="data-race", max_steps=2_000)(build))
    assert result.status == "found", result.error or [finding.verdict.text for finding in result.findings]
    finding = result.findings[0]
    assert finding.verdict.text.startswith(f"{data}: "), finding.verdict.text
    stacks = [{frame.function.rpartition(".")[2] for frame in place.stack} for place in finding.recording.places]
    assert len(stacks) == 2
    assert any(first in one and second in other for one, other in (stacks, stacks[::-1])), stacks


def clean(build: Build) -> None:
    result = hunt(scenario(max_steps=2_000)(build), executions=60)
    assert result.status == "clean", result.error or [finding.verdict.text for finding in result.findings]


# ---------------------------------------------------------------- NetBSD's map


class ReadersDoNotLock(netbsd.VmMapLock):
    """vm_map_lock_read and vm_map_unlock_read, left out."""

    async def lock_read(self) -> None:
        """Nothing."""

    async def unlock_read(self) -> None:
        """Nothing."""


class Glancing(netbsd.VmMap):
    """A map that somebody looks into without its lock, in passing."""

    def glance(self, addr: int) -> bool:
        """Is anything mapped there?"""
        return self.lookup(addr)[0]


def netbsd_map(k: Kernel, *, fault: netbsd.UvmFault | None = None, reading: bool = True) -> Glancing:
    class Map(Glancing):
        def make_lock(self) -> netbsd.VmMapLock:
            return (netbsd.VmMapLock if reading else ReadersDoNotLock)(self.k, self.name, self.check)

    return Map(k, BASE, BASE + 8 * PAGE, flags=netbsd.VM_MAP_PAGEABLE, fault=fault)


async def maps(vm_map: VmMap) -> None:
    for _ in range(2):
        error, addr = await netbsd.uvm_map(vm_map, vm_map.min_offset, PAGE)
        assert not error
        await netbsd.uvm_unmap(vm_map, addr, addr + PAGE)


@pytest.mark.parametrize("locked", [True, False])
def test_a_map_s_entries_are_looked_up_under_its_lock(locked: bool) -> None:  # noqa: FBT001 - pytest passes it so
    def build(k: Kernel) -> None:
        vm_map = netbsd_map(k)

        async def glances() -> None:
            if locked:
                await vm_map.lock.lock_read()
            vm_map.glance(BASE)
            if locked:
                await vm_map.lock.unlock_read()
            await k.yield_()

        k.spawn(maps, vm_map)
        k.spawn(glances)

    if locked:
        clean(build)
    else:
        races(build, "kmap.entries", "glances", "maps")


@pytest.mark.parametrize("reading", [True, False])
def test_a_fault_needs_the_read_lock(reading: bool) -> None:  # noqa: FBT001 - pytest passes it so
    def build(k: Kernel) -> None:
        fault = netbsd.LockingFault()
        vm_map = netbsd_map(k, fault=fault, reading=reading)

        async def faults() -> None:
            await k.yield_()
            await fault.fault(vm_map, BASE, netbsd.VM_PROT_READ)
            await k.yield_()

        k.spawn(maps, vm_map)
        k.spawn(faults)

    if reading:
        clean(build)
    else:
        races(build, "kmap.entries", "fault", "maps")


def test_who_wires_reads_entries_that_the_busy_mark_protects() -> None:
    def build(k: Kernel) -> None:
        vm_map = netbsd_map(k, fault=netbsd.LockingFault())

        async def wires() -> None:
            error, addr = await netbsd.uvm_map(vm_map, BASE, PAGE)
            assert not error
            assert not await netbsd.uvm_map_pageable(vm_map, addr, addr + PAGE, new_pageable=False)
            await netbsd.uvm_unmap(vm_map, addr, addr + PAGE)

        k.spawn(wires)
        k.spawn(maps, vm_map)

    clean(build)


# ---------------------------------------------------------------- FreeBSD's map


class NobodyLocksToRead(freebsd.UserMapLock):
    """vm_map_lock_read and vm_map_unlock_read, left out."""

    async def lock_read(self) -> None:
        """Nothing."""

    async def unlock_read(self) -> None:
        """Nothing."""


@pytest.mark.parametrize("reading", [True, False])
def test_a_lookup_needs_the_read_lock(reading: bool) -> None:  # noqa: FBT001 - pytest passes it so
    low = 0x1_0000_0000

    class Map(freebsd.VmMap13):
        def make_lock(self) -> freebsd.UserMapLock:
            kind = freebsd.UserMapLock if reading else NobodyLocksToRead
            return kind(self.k, self.name, self.check, self.process_deferred)

        async def lookup_entry(self, addr: int) -> tuple[bool, VmMapEntry | None]:
            """Without the attempt to get the write lock, for the sake of the tree, from who has none to upgrade."""
            return self.entries.lookup(addr)

    def build(k: Kernel) -> None:
        vm_map = Map(k, low, low + 8 * PAGE)
        vm_map.insert(freebsd.VmObject(1), 0, low, low + PAGE)

        async def looks_up() -> None:
            result, found = await freebsd.vm_map_lookup(vm_map, low, freebsd.VM_PROT_READ)
            assert not result
            assert found is not None
            await freebsd.vm_map_lookup_done(found)

        async def changes() -> None:
            await freebsd.vm_map_protect(
                vm_map, low, low + PAGE, freebsd.VM_PROT_READ, 0, freebsd.VM_MAP_PROTECT_SET_PROT
            )

        k.spawn(looks_up)
        k.spawn(changes)

    if reading:
        clean(build)
    else:
        races(build, "map.entries", "looks_up", "changes")


# ---------------------------------------------------------------- pages


class NobodyAsks(pages.UvmPages):
    """Without the assertion that the lock of the paging queues is held."""

    def _pageq_held(self, who: str) -> None:
        """Nothing."""


@pytest.mark.parametrize("locked", [True, False])
def test_the_paging_queues_need_their_lock(locked: bool) -> None:  # noqa: FBT001 - pytest passes it so
    def build(k: Kernel) -> None:
        uvm = NobodyAsks(k, 8)
        obj = pages.PageObject(k, "obj")
        first, second = uvm.fill(obj, 2, queue=pages.PageQueue.ACTIVE)

        async def deactivates() -> None:
            await uvm.uvm_pageqlock.lock()
            uvm.uvm_pagedeactivate(first)
            await uvm.uvm_pageqlock.unlock()

        async def forgets() -> None:
            await k.yield_()
            if locked:
                await uvm.uvm_pageqlock.lock()
            uvm.uvm_pagedeactivate(second)
            if locked:
                await uvm.uvm_pageqlock.unlock()
            await k.yield_()

        k.spawn(deactivates)
        k.spawn(forgets)

    if locked:
        clean(build)
    else:
        races(build, "paging queues", "deactivates", "forgets")


@pytest.mark.parametrize("locked", [True, False])
def test_an_object_s_pages_need_its_lock(locked: bool) -> None:  # noqa: FBT001 - pytest passes it so
    def build(k: Kernel) -> None:
        uvm = pages.UvmPages(k, 8)
        obj = pages.PageObject(k, "obj")

        async def allocates() -> None:
            await obj.lock.lock()
            assert await uvm.uvm_pagealloc(obj, PAGE) is not None
            await obj.lock.unlock()

        async def looks() -> None:
            await k.yield_()
            if locked:
                await obj.lock.lock()
            obj.pages.lookup(1)
            if locked:
                await obj.lock.unlock()
            await k.yield_()

        k.spawn(allocates)
        k.spawn(looks)

    if locked:
        clean(build)
    else:
        races(build, "obj.pages", "allocates", "looks")


# ---------------------------------------------------------------- what searches know


@pytest.mark.parametrize(
    "name",
    [
        "netbsd6_trylock_busy",
        "dl_02_mlock_reads_twice_ok",
        "lw_03_page_stays_busy_ok",
        "ws_01_one_woken_ok",
        "netbsd6_vmem_that_looks_again",
        "freebsd2013_vmem_periodic",
    ],
)
def test_partial_order_reduction_comes_to_its_end(name: str) -> None:
    result = hunt(by_name(name), strategy="dpor", executions=600)
    assert (result.error, result.status) == ("", "exhausted")


@pytest.mark.parametrize(
    "name",
    [
        "netbsd6_wired_memory",
        "netbsd6_pageable_memory",
        "freebsd13_fork_and_write",
        "lk_03_woken_before_there_are_more_ok",
    ],
)
def test_partial_order_reduction_refuses_nothing(name: str) -> None:
    # The first sixteen executions are all done again in another order.
    result = hunt(by_name(name), strategy="dpor", executions=20)
    assert result.error == ""
    assert result.status in ("clean", "exhausted")


def test_what_two_processors_see_of_a_page_depends_on_their_order() -> None:
    result = hunt(by_name("freebsd2013_copy_unseen"), strategy="dpor", executions=100)
    assert (result.error, result.status) == ("", "found")

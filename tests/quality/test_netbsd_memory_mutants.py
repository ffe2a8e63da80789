"""Every step of uvm_km_alloc and uvm_km_free over pages is there for a reason: without it, a hunt finds a bug.

Each mutant overrides one small step. It is found, as the kind of bug that it is; what the kernel does is clean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from stressvm import scenario
from stressvm.explore.execution import Subject
from stressvm.explore.hunt import Result, Settings, hunt_subject
from stressvm.vm import netbsd
from stressvm.vm.pages import PageObject, PageQueue, Swap, UvmPages

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm import Kernel
    from stressvm.vm.netbsd import MapEntry, Memory, VmMap

    Build = Callable[[Kernel], None]

PAGE = netbsd.PAGE_SIZE
WIRED = netbsd.UVM_KMF_WIRED
PAGEABLE = netbsd.UVM_KMF_PAGEABLE
VAONLY = netbsd.UVM_KMF_VAONLY
NOWAIT = netbsd.UVM_KMF_NOWAIT
CANFAIL = netbsd.UVM_KMF_CANFAIL
WAITVA = netbsd.UVM_KMF_WAITVA
STRATEGIES = pytest.mark.parametrize("strategy", ["random", "pct"])


def hunt(
    build: Build,
    expect: str | None,
    *,
    strategy: str = "pct",
    executions: int = 1_000,
    max_steps: int = 4_000,
) -> Result:
    made = scenario(expect=expect, max_steps=max_steps)(build)
    result: Result = trio.run(hunt_subject, Subject(made, {}), Settings(executions=executions, strategy=strategy))
    assert not result.error, result.error
    return result


def assert_found(build: Build, expect: str, words: str, **how: object) -> Result:
    result = hunt(build, expect, **how)  # type: ignore[arg-type]
    assert result.status == "found", f"{result.status}: {[finding.verdict.text for finding in result.findings]}"
    assert words in result.findings[0].verdict.text
    return result


def assert_clean(build: Build, **how: object) -> None:
    result = hunt(build, None, **how)  # type: ignore[arg-type]
    assert result.status == "clean", [finding.verdict.text for finding in result.findings]


# ---------------------------------------------------------------- worlds


def same_address(memory: type[Memory] = netbsd.Memory, cls: type[VmMap] = netbsd.VmMap, *, version: str = "6") -> Build:
    """Two threads on two processors want the map's only page, use it and give it back; the pages are enough for both."""

    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 6, reserve_pagedaemon=0, reserve_kernel=1)
        kmap = netbsd.setup(k, 1, version=version, memory=memory(uvm), cls=cls)

        async def uses() -> None:
            va = await netbsd.uvm_km_alloc(kmap, PAGE, 0, WIRED | WAITVA)
            page = await netbsd.kernel_access(kmap, va, netbsd.VM_PROT_WRITE)
            page.write(f"of {k.cur}")
            page = await netbsd.kernel_access(kmap, va, netbsd.VM_PROT_READ)
            assert page.content == f"of {k.cur}", "somebody else writes to wired memory"
            await netbsd.uvm_km_free(kmap, va, PAGE, WIRED)

        k.spawn(uses, name="uses0")
        k.spawn(uses, name="uses1")

    return build


def failing(memory: type[Memory] = netbsd.Memory, *, more: int = NOWAIT) -> Build:
    """Two threads that do not wait want two pages each of three; what can be reclaimed is never reclaimed."""

    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 3 + 1 + 2, reserve_pagedaemon=1, reserve_kernel=1)
        uvm.fill(PageObject(k, "old", Swap(k, 4)), 2, queue=PageQueue.ACTIVE)
        kmap = netbsd.setup(k, 8, memory=memory(uvm))

        async def uses() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 2 * PAGE, 0, WIRED | WAITVA * (not more & NOWAIT) | more)
            k.record(va=va)
            if va:
                await netbsd.uvm_km_free(kmap, va, 2 * PAGE, WIRED)

        k.spawn(uses, name="uses0")
        k.spawn(uses, name="uses1")

    return build


def must_free(
    memory: type[Memory] = netbsd.Memory, uvm_class: type[UvmPages] = UvmPages, *, prove: bool = True
) -> Build:
    """A thread waits for pages until another has freed some, which locks the map before that; the daemon runs."""

    def build(k: Kernel) -> None:
        uvm = uvm_class(k, 5, reserve_pagedaemon=0, reserve_kernel=1, prove=prove)
        kmap = netbsd.setup(k, 8, memory=memory(uvm))
        uvm.start_daemons()

        async def uses() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 3 * PAGE, 0, WIRED | WAITVA)
            await netbsd.uvm_km_free(kmap, va, 3 * PAGE, WIRED)

        async def one() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 2 * PAGE, 0, WIRED | NOWAIT)
            window = await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY | WAITVA)
            if va:
                await netbsd.uvm_km_free(kmap, va, 2 * PAGE, WIRED)
            await netbsd.uvm_km_free(kmap, window, PAGE, VAONLY)

        k.spawn(uses, name="uses")
        k.spawn(one, name="one")

    return build


def in_interrupt(memory: type[Memory] = netbsd.Memory) -> Build:
    """An interrupt handler of 5.2 allocates from an INTRSAFE map, beside a thread that does; nobody may sleep there."""

    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 2 + 1 + 3, reserve_pagedaemon=1, reserve_kernel=1)
        uvm.fill(PageObject(k, "old", Swap(k, 4)), 2, queue=PageQueue.ACTIVE)
        kmap = netbsd.setup(k, 8, version="5.2", flags=netbsd.VM_MAP_INTRSAFE, memory=memory(uvm))

        async def uses() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 2 * PAGE, 0, WIRED | NOWAIT | CANFAIL)
            if va:
                await netbsd.uvm_km_free(kmap, va, 2 * PAGE, WIRED)

        k.spawn(uses, name="thread")
        k.spawn(uses, name="intr", interrupt=True)

    return build


def paged_out(uvm_class: type[UvmPages] = UvmPages, *, version: str = "6") -> Build:
    """A range of pageable memory is freed while the daemon may be writing its pages to swap."""

    def build(k: Kernel) -> None:
        uvm = uvm_class(k, 7, reserve_pagedaemon=0, reserve_kernel=1)
        swap = Swap(k, 8)
        memory = netbsd.Memory(uvm, swap=swap)
        kmap = netbsd.setup(k, 8, flags=netbsd.VM_MAP_PAGEABLE, version=version, memory=memory)
        uvm.start_daemons()

        async def uses() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 4 * PAGE, 0, PAGEABLE | WAITVA)
            for n in range(4):
                page = await netbsd.kernel_access(kmap, va + n * PAGE, netbsd.VM_PROT_WRITE)
                page.write(f"page {n}")
            page = await netbsd.kernel_access(kmap, va, netbsd.VM_PROT_READ)
            assert page.content == "page 0", "what was written is not there any more"
            await netbsd.uvm_km_free(kmap, va, 4 * PAGE, PAGEABLE)
            assert not swap.contents, "slots are left"

        async def presses() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 3 * PAGE, 0, WIRED | WAITVA)
            await netbsd.uvm_km_free(kmap, va, 3 * PAGE, WIRED)

        k.spawn(uses, name="uses")
        k.spawn(presses, name="presses")

    return build


# ---------------------------------------------------------------- mutants


class AddressesFirst(netbsd.Memory):
    """The addresses are free before the pages are."""

    async def free(self, vm_map: VmMap, addr: int, size: int, kind: int) -> None:
        await self.free_addresses(vm_map, addr, addr + size)
        await self.free_contents(vm_map, addr, addr + size, kind)


class AddressesFirstUnseen(AddressesFirst):
    """The same, without the check where the addresses are given back: what comes of it is found all the same."""

    def given_back(self, vm_map: VmMap, start: int, end: int) -> None:  # type: ignore[override]
        """Not looked at."""


class UpdatesLate(netbsd.VmMap):
    """The processors are told when the map has been unlocked."""

    async def update_before_unlock(self) -> None:
        """Later."""

    async def finish_unmap(self, dead: list[MapEntry]) -> None:
        await super().finish_unmap(dead)
        assert self.memory is not None
        await self.memory.update()


class NeverUpdates(netbsd.VmMap):
    """The processors are not told."""

    async def update_before_unlock(self) -> None:
        """Never."""


class UnwindLeaksPages(netbsd.Memory):
    """A call that fails gives its addresses back, and keeps its pages."""

    async def unwind(self, vm_map: VmMap, va: int, size: int, kind: int) -> None:  # noqa: ARG002 - that is the defect
        await self.free_addresses(vm_map, va, va + size)


class UnwindLeaksAddresses(netbsd.Memory):
    """A call that fails frees its pages, and keeps its addresses."""

    async def unwind(self, vm_map: VmMap, va: int, size: int, kind: int) -> None:
        await self.free_contents(vm_map, va, va + size, kind)


class UnwindFreesAPart(netbsd.Memory):
    """A call that fails gives back those addresses that have pages."""

    async def unwind(self, vm_map: VmMap, va: int, size: int, kind: int) -> None:
        there = sum(va <= at < va + size for at in self.ledger.wired)
        await self.free(vm_map, va, there * PAGE, kind)


class AsksCanfailFirst(netbsd.Memory):
    """CANFAIL is looked at before NOWAIT."""

    async def gives_up(self, flags: int) -> bool:
        if flags & CANFAIL:
            return not await self.uvm.uvm_reclaimable()
        return bool(flags & NOWAIT)


class LockedWhileWaiting(netbsd.Memory):
    """The map is locked while the call gets its pages, and so while it waits for them."""

    async def back(self, vm_map: VmMap, va: int, size: int, flags: int) -> bool:
        if flags & NOWAIT:
            return await super().back(vm_map, va, size, flags)
        await vm_map.lock.lock()
        done = await super().back(vm_map, va, size, flags)
        await vm_map.lock.unlock()
        return done


class IgnoresWaiters(UvmPages):
    """The daemon sleeps whether anybody waits or not."""

    def may_sleep(self) -> bool:
        return True


class GoesOn(UvmPages):
    """uvm_km_pgremove goes on with the next page after it has waited for a busy one."""

    def after_wait(self, off: int) -> int:
        return off + PAGE


# ---------------------------------------------------------------- claims


@STRATEGIES
def test_what_the_kernel_does_is_clean(strategy: str) -> None:
    for version in netbsd.VERSIONS:
        assert_clean(same_address(version=version), strategy=strategy, executions=300)
    for more in (NOWAIT, NOWAIT | CANFAIL):
        assert_clean(failing(more=more), strategy=strategy, executions=300)
    assert_clean(must_free(), strategy=strategy, executions=300)
    assert_clean(paged_out(), strategy=strategy, executions=300)
    # Here pages are free, and in use again, while what they were taken from still maps them.
    assert_clean(paged_out(version="5.2"), strategy=strategy, executions=300)


def test_addresses_before_pages() -> None:
    assert_found(same_address(AddressesFirst), "invariant", "G17 pages")


@STRATEGIES
def test_addresses_before_pages_are_found_by_what_comes_of_it(strategy: str) -> None:
    assert_found(same_address(AddressesFirstUnseen), "invariant", "G15 vacated", strategy=strategy)


@STRATEGIES
@pytest.mark.parametrize("cls", [UpdatesLate, NeverUpdates])
def test_processors_told_too_late(cls: type[VmMap], strategy: str) -> None:
    assert_found(same_address(cls=cls), "invariant", "still translates it", strategy=strategy)


@pytest.mark.parametrize(
    ("memory", "words"),
    [(UnwindLeaksPages, "G17 pages"), (UnwindLeaksAddresses, "G17 undone"), (UnwindFreesAPart, "G17 undone")],
)
def test_a_failing_call_that_leaks(memory: type[Memory], words: str) -> None:
    assert_found(failing(memory), "invariant", words)


@STRATEGIES
def test_nowait_is_asked_before_canfail(strategy: str) -> None:
    assert_clean(in_interrupt(), strategy=strategy, executions=300)
    assert_found(in_interrupt(AsksCanfailFirst), "sleep-rule", "intr", strategy=strategy)


def test_the_map_must_not_be_locked_while_pages_are_awaited() -> None:
    """Who has the pages wants the lock before he gives them back: the daemon finds nothing meanwhile, round after round."""
    assert_found(must_free(LockedWhileWaiting), "livelock", "no progress", strategy="random", max_steps=400)


@STRATEGIES
def test_the_daemon_must_heed_those_who_wait(strategy: str) -> None:
    assert_found(must_free(uvm_class=IgnoresWaiters), "lost-wakeup", "km_getwait2", strategy=strategy)


def test_a_busy_page_is_looked_at_again() -> None:
    """The page was being written to swap, and is free when that is done: it is its slot that is forgotten.

    The write must last from the call on, which a random walk hardly ever does (never in 10,000 executions).
    """
    result = assert_found(paged_out(GoesOn), "invariant", "G17 pages", strategy="pct")
    assert "its slot in swap" in result.findings[0].verdict.text

"""Every step of wiring over pages, and of uvm_km_kmem_alloc, is there for a reason: without it, a hunt finds a bug.

What the kernel does is clean, but for one thing: vmem(9) loses a wakeup as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from scenarios.netbsd6_kmem import (
    LooksAgain,
    netbsd6_vmem_sleeps_beside_room,
    netbsd6_vmem_that_looks_again,
    netbsd6_wired_under_pressure,
)
from stressvm import scenario
from stressvm.explore.execution import Subject
from stressvm.explore.hunt import Result, Settings, hunt_subject
from stressvm.vm import netbsd
from stressvm.vm.pages import Swap, UvmPages

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm import Kernel, Scenario
    from stressvm.vm.netbsd import Memory, Vmem, VmMap
    from stressvm.vm.netbsd.km_fault import Fault
    from stressvm.vm.pages import Page

    Build = Callable[[Kernel], None]

PAGE = netbsd.PAGE_SIZE
WIRED, PAGEABLE, WAITVA = netbsd.UVM_KMF_WIRED, netbsd.UVM_KMF_PAGEABLE, netbsd.UVM_KMF_WAITVA
READ, WRITE = netbsd.VM_PROT_READ, netbsd.VM_PROT_WRITE
SLEEP, NOSLEEP = netbsd.VM_SLEEP | netbsd.VM_INSTANTFIT, netbsd.VM_NOSLEEP | netbsd.VM_INSTANTFIT
STRATEGIES = pytest.mark.parametrize("strategy", ["random", "pct"])


def hunt(made: Scenario, *, strategy: str = "pct", executions: int = 1_000) -> Result:
    result: Result = trio.run(hunt_subject, Subject(made, {}), Settings(executions=executions, strategy=strategy))
    assert not result.error, result.error
    return result


def found(build: Build, expect: str, words: str, **how: object) -> None:
    result = hunt(scenario(expect=expect, max_steps=4_000)(build), **how)  # type: ignore[arg-type]
    assert result.status == "found", f"{result.status}: {[finding.verdict.text for finding in result.findings]}"
    assert words in result.findings[0].verdict.text


def clean(build: Build, **how: object) -> None:
    result = hunt(scenario(max_steps=4_000)(build), executions=150, **how)  # type: ignore[arg-type]
    assert result.status == "clean", [finding.verdict.text for finding in result.findings]


# ---------------------------------------------------------------- vmem


@STRATEGIES
def test_vmem_loses_a_wakeup_and_would_not_if_it_looked_again(strategy: str) -> None:
    lost = hunt(netbsd6_vmem_sleeps_beside_room, strategy=strategy)
    assert (lost.status, lost.findings[0].verdict.kind) == ("found", "lost-wakeup")
    assert hunt(netbsd6_vmem_that_looks_again, strategy=strategy, executions=300).status == "clean"


class Silent(LooksAgain):
    """Who frees wakes nobody."""

    async def broadcast(self) -> None:
        """Nobody."""


def arena(memory: type[Memory] = netbsd.Memory, cls: type[Vmem] = LooksAgain, *, npages: int = 8) -> Build:
    """Two threads on two processors want the arena's only page, use it and give it back."""

    def build(k: Kernel) -> None:
        uvm = UvmPages(k, npages, reserve_pagedaemon=0, reserve_kernel=1)
        kernel_map = netbsd.setup(k, 4, kind=netbsd.MapKind.KERNEL, memory=memory(uvm))
        kmem = netbsd.kmem_arena(kernel_map, 1, cls=cls)

        async def uses() -> None:
            error, va = await netbsd.uvm_km_kmem_alloc(kmem, PAGE, SLEEP)
            assert not error
            page = await netbsd.kernel_access(kernel_map, va, WRITE)
            page.write(f"of {k.cur}")
            page = await netbsd.kernel_access(kernel_map, va, READ)
            assert page.content == f"of {k.cur}", "somebody else writes to this memory"
            await netbsd.uvm_km_kmem_free(kmem, va, PAGE)

        k.spawn(uses, name="uses0")
        k.spawn(uses, name="uses1")

    return build


class ToldLate(netbsd.Memory):
    """The processors are told when the addresses are free."""

    async def free_kmem(self, vm_map: VmMap, vm: Vmem, va: int, size: int) -> None:
        await self.pgremove_intrsafe(vm_map, va, va + size)
        await vm.free(va, size)
        await self.update()


class AddressesFirst(netbsd.Memory):
    """The addresses are free before the pages are."""

    async def free_kmem(self, vm_map: VmMap, vm: Vmem, va: int, size: int) -> None:
        await vm.free(va, size)
        await self.pgremove_intrsafe(vm_map, va, va + size)
        await self.update()


@STRATEGIES
def test_the_kernels_order_is_clean(strategy: str) -> None:
    clean(arena(), strategy=strategy)


@STRATEGIES
@pytest.mark.parametrize(("memory", "words"), [(ToldLate, "still translates it"), (AddressesFirst, "G15 vacated")])
def test_addresses_that_are_free_too_early(memory: type[Memory], words: str, strategy: str) -> None:
    found(arena(memory), "invariant", words, strategy=strategy)


@STRATEGIES
def test_who_frees_must_wake_those_who_wait(strategy: str) -> None:
    found(arena(cls=Silent), "lost-wakeup", "kmem", strategy=strategy)


def too_few(memory: type[Memory] = netbsd.Memory) -> Build:
    """Two threads that do not wait want two pages each, of three."""

    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 4, reserve_pagedaemon=1, reserve_kernel=1)
        kernel_map = netbsd.setup(k, 8, kind=netbsd.MapKind.KERNEL, memory=memory(uvm))
        kmem = netbsd.kmem_arena(kernel_map, 8)

        async def uses() -> None:
            error, va = await netbsd.uvm_km_kmem_alloc(kmem, 2 * PAGE, NOSLEEP)
            if not error:
                await netbsd.uvm_km_kmem_free(kmem, va, 2 * PAGE)

        k.spawn(uses, name="uses0")
        k.spawn(uses, name="uses1")

    return build


class UnwindLeaksPages(netbsd.Memory):
    """Who fails gives the addresses back, and keeps the pages."""

    async def unwind_kmem(self, vm_map: VmMap, vm: Vmem, va: int, size: int) -> None:  # noqa: ARG002 - the defect
        await vm.free(va, size)


class UnwindLeaksAddresses(netbsd.Memory):
    """Who fails gives the pages back, and keeps the addresses."""

    async def unwind_kmem(self, vm_map: VmMap, vm: Vmem, va: int, size: int) -> None:  # noqa: ARG002 - the defect
        await self.pgremove_intrsafe(vm_map, va, va + size)


@pytest.mark.parametrize("memory", [UnwindLeaksPages, UnwindLeaksAddresses])
def test_a_failing_call_that_leaks(memory: type[Memory]) -> None:
    clean(too_few())
    found(too_few(memory), "invariant", "G17 undone")


# ---------------------------------------------------------------- wiring over pages


def wiring(fault: type[netbsd.KmFault] = netbsd.KmFault, *, version: str = "6") -> Build:
    """Pageable memory is wired beside a thread that reads it and one that needs nearly all pages; the daemon runs."""

    def build(k: Kernel) -> None:
        swap = Swap(k, 8)
        uvm = UvmPages(k, 8, reserve_pagedaemon=0, reserve_kernel=1)
        memory = netbsd.Memory(uvm, swap=swap)
        memory.fault = fault(memory, wiredmax=8)
        options = netbsd.Options.DIAGNOSTIC
        flags = netbsd.VM_MAP_PAGEABLE
        kmap = netbsd.setup(k, 8, version=version, flags=flags, memory=memory, options=options)
        uvm.start_daemons()

        async def wires() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 2 * PAGE, 0, PAGEABLE | WAITVA)
            for n in range(2):
                (await netbsd.kernel_access(kmap, va + n * PAGE, WRITE)).write(f"page {n}")
            other = k.spawn(reads, va, name="reads")
            assert not await netbsd.uvm_map_pageable(kmap, va, va + 2 * PAGE, new_pageable=False)
            page = await netbsd.kernel_access(kmap, va + PAGE, READ)
            assert page.content == "page 1"
            assert page.wire_count == 1, "what is wired was paged out"
            assert not await netbsd.uvm_map_pageable(kmap, va, va + 2 * PAGE, new_pageable=True)
            await k.join(other)
            assert not uvm.wired, "a page is still wired"
            await netbsd.uvm_km_free(kmap, va, 2 * PAGE, PAGEABLE)
            assert not swap.contents, "a slot in swap is left"

        async def reads(va: int) -> None:
            assert (await netbsd.kernel_access(kmap, va, READ)).content == "page 0"

        async def presses() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 6 * PAGE, 0, WIRED | WAITVA)
            await netbsd.uvm_km_free(kmap, va, 6 * PAGE, WIRED)

        k.spawn(wires, name="wires")
        k.spawn(presses, name="presses")

    return build


def half_wired(fault: type[netbsd.KmFault] = netbsd.KmFault) -> Build:
    """A range of which the last page cannot be had, beside somebody who uses the first."""

    class Refusing(fault):  # type: ignore[misc, valid-type]
        async def fault_wired(self, vm_map: VmMap, va: int, access: int) -> int:
            if va == vm_map.min_offset + 2 * PAGE:
                return netbsd.EIO
            error: int = await super().fault_wired(vm_map, va, access)
            return error

    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 8)
        memory = netbsd.Memory(uvm)
        memory.fault = Refusing(memory, wiredmax=8)
        options = netbsd.Options.DIAGNOSTIC
        kmap = netbsd.setup(k, 8, flags=netbsd.VM_MAP_PAGEABLE, memory=memory, options=options)

        async def wires() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 3 * PAGE, 0, PAGEABLE)
            other = k.spawn(writes, va, name="writes")
            assert await netbsd.uvm_map_pageable(kmap, va, va + 3 * PAGE, new_pageable=False) == netbsd.EIO
            await k.join(other)
            assert not uvm.wired, "a page is still wired"
            await netbsd.uvm_km_free(kmap, va, 3 * PAGE, PAGEABLE)

        async def writes(va: int) -> None:
            (await netbsd.kernel_access(kmap, va, WRITE)).write("mine")
            assert (await netbsd.kernel_access(kmap, va, READ)).content == "mine"

        k.spawn(wires, name="wires")

    return build


class NotWired(netbsd.KmFault):
    """The page is faulted in and stays as it was."""

    def pagewire(self, page: Page) -> None:
        self.activate(page)


class MappedPlainly(netbsd.KmFault):
    """The page is wired, its mapping is not."""

    async def lower_enter(self, flt: Fault, page: Page) -> None:
        await super().lower_enter(flt._replace(wire_mapping=False), page)


class KeepsItsSlot(netbsd.KmFault):
    """The wired page's slot in swap is not given up, and then it is forgotten."""

    async def lower_done(self, flt: Fault, page: Page) -> None:
        pager = self.memory.kernel_object.pager
        if flt.wire and pager is not None:
            pager.assign(page.pindex, 0)
        await super().lower_done(flt, page)


class DoesNotRelock(netbsd.KmFault):
    """After a wait for a page the map is not looked at again."""

    async def relock(self, flt: Fault) -> bool:
        await flt.vm_map.lock.lock_read()
        return True


class UndoesNothing(netbsd.KmFault):
    """What was wired before the page that cannot be had stays wired."""

    async def undo(self, vm_map: VmMap, start: int, end: int) -> None:
        """Nothing."""


class KeepsMappings(netbsd.KmFault):
    """Unwiring forgets the pages."""

    async def unwire_page(self, entry: netbsd.MapEntry, va: int, pa: int) -> None:  # noqa: ARG002 - the defect
        await self.memory.pmap.unwire(va)


@STRATEGIES
def test_wiring_is_clean(strategy: str) -> None:
    for version in netbsd.VERSIONS:
        clean(wiring(version=version), strategy=strategy)
    clean(half_wired(), strategy=strategy)
    assert hunt(netbsd6_wired_under_pressure, strategy=strategy, executions=150).status == "clean"


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (NotWired, "invariant", "G15 wired down"),
        (MappedPlainly, "invariant", "G15 wired down"),
        (KeepsItsSlot, "assertion", "a slot in swap is left"),
        (KeepsMappings, "assertion", "a page is still wired"),
    ],
)
def test_a_step_of_wiring_that_is_left_out(fault: type[netbsd.KmFault], kind: str, words: str) -> None:
    found(wiring(fault), kind, words)


def test_an_undo_that_is_left_out() -> None:
    found(half_wired(UndoesNothing), "assertion", "a page is still wired")


def freed_meanwhile(fault: type[netbsd.KmFault] = netbsd.KmFault) -> Build:
    """A thread reads memory that another one frees: it panics for want of a page, or has read it, but maps nothing there."""

    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 5, reserve_pagedaemon=0, reserve_kernel=1)
        memory = netbsd.Memory(uvm)
        memory.fault = fault(memory, wiredmax=8)
        kmap = netbsd.setup(k, 4, flags=netbsd.VM_MAP_PAGEABLE, memory=memory)
        uvm.start_daemons()

        async def frees() -> None:
            va = await netbsd.uvm_km_alloc(kmap, PAGE, 0, PAGEABLE)
            held = await netbsd.uvm_km_alloc(kmap, 4 * PAGE - PAGE, 0, WIRED | netbsd.UVM_KMF_NOWAIT)
            k.spawn(reads, va, name="reads")
            await netbsd.uvm_km_free(kmap, va, PAGE, PAGEABLE)
            again = await netbsd.uvm_km_alloc(kmap, PAGE, 0, netbsd.UVM_KMF_VAONLY)
            if held:
                await netbsd.uvm_km_free(kmap, held, 3 * PAGE, WIRED)
            await netbsd.uvm_km_free(kmap, again, PAGE, netbsd.UVM_KMF_VAONLY)

        async def reads(va: int) -> None:
            await netbsd.uvm_fault(kmap, va, READ)

        k.spawn(frees, name="frees")

    return build


def test_after_a_wait_the_map_is_looked_at_again() -> None:
    found(freed_meanwhile(DoesNotRelock), "invariant", "G1", executions=3_000)
